package pull

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/semaphore"

	"github.com/snapgate/gateway/snapshotter"
)

const (
	// rangedSize is from where on a file is read at several places at once, where that is
	// cheap: one connection of SSH moves 2 MiB a round trip.
	rangedSize = 16 << 20
	// rangeSize is what the window of a connection of SSH takes, so that all of a range is asked for
	// at once.
	rangeSize = 2 << 20
	// rangesFirst is how many ranges of a file are read at a time at first, and rangesAhead at most:
	// 32 MiB, which is 300 MiB a second at 100 ms. There is one more for each that took less than
	// rangeQuick, and one less for each that took more than rangeSlow: the line has its fill.
	rangesFirst = 4
	rangesAhead = 16
	rangeQuick  = time.Second
	rangeSlow   = 5 * time.Second
	// rangesMemory bounds what is read ahead of all files but for rangesAlways of each, which the
	// first of them never waits for.
	rangesMemory = 64 << 20
	rangesAlways = 2
)

// file is where the bytes of a file come from: a snapshotter.Content. Its readers try again
// when the connection is lost, where they were, and end in an error of KindShort or
// KindChanged in place of io.EOF when what was read cannot be the file as it was listed: the
// number of bytes, the size and the time afterwards have to be the same. Safe for concurrent
// use.
type file struct {
	r     Remote
	caps  Capabilities
	retry Retry
	path  string
	seen  Entry               // as it was listed
	base  *snapshotter.Entry  // what the base has at the path, when that is a file
	ahead *semaphore.Weighted // of bytes read ahead, of all files; nil for any number
	count *atomic.Int64       // of the report, that has it; nil for none
}

// Size is the size that was listed.
func (f *file) Size() int64 { return f.seen.Size }

// Open begins to read. A file that says it is empty is read like others: the size of what a kernel makes up, or of
// what is behind FUSE, tells nothing.
func (f *file) Open(ctx context.Context) (io.ReadCloser, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if f.caps.Ranges && f.seen.Size >= rangedSize {
		return newRanges(ctx, f), nil
	}
	return &piecewise{ctx: ctx, f: f, end: f.seen.Size, verify: true}, nil
}

// same returns nil when a file that was listed as seen, and is now as given, has not changed.
func (f *file) same(now Entry) error {
	switch {
	case now.Type != File:
		return fail("read", f.path, KindChanged, errors.New("it is no file any more"))
	case now.Size != f.seen.Size:
		return failf("read", f.path, KindChanged, "it has %d bytes now, %d before", now.Size, f.seen.Size)
	case !sameTime(f.seen, now.ModTime, now.Precision):
		return failf("read", f.path, KindChanged, "it was written at %s", now.ModTime.Format(time.RFC3339))
	}
	return nil
}

// sameTime reports whether a time, known within a precision, may be the one of a listing. Two
// coarse times are one when their intervals meet.
func sameTime(seen Entry, t time.Time, precision time.Duration) bool {
	if seen.Precision == 0 || precision == 0 {
		return true // nobody knows
	}
	return t.Before(seen.ModTime.Add(seen.Precision)) && seen.ModTime.Before(t.Add(precision))
}

// check compares the file with what was listed, after it was read by rd.
func (f *file) check(ctx context.Context, rd io.Reader) error {
	return f.retry.Do(ctx, func() (bool, error) {
		err := f.compare(ctx, rd)
		rd = nil // after a lost connection by its path
		return false, err
	})
}

// compare is check, once: by the reader where it can tell, else by the path.
func (f *file) compare(ctx context.Context, rd io.Reader) error {
	var now Entry
	var err error
	if st, ok := rd.(Stater); ok {
		now, err = st.Stat(ctx)
	} else {
		now, err = f.r.Lstat(ctx, f.path)
	}
	if err != nil {
		return err
	}
	return f.same(now)
}

// piecewise reads a part of a file, and goes on where it was when the connection is lost. It
// is for a goroutine at a time.
type piecewise struct {
	ctx      context.Context
	f        *file
	off, end int64
	verify   bool // compare with the listing at the end
	early    bool // or what the file was like when its bytes were asked for
	rd       io.ReadCloser
	err      error
}

func (p *piecewise) Read(b []byte) (int, error) {
	if p.err != nil || len(b) == 0 {
		return 0, p.err
	}
	n := 0
	err := p.f.retry.Do(p.ctx, func() (bool, error) {
		if p.rd == nil && p.off == p.end && p.end > 0 {
			return false, io.EOF // lost after the last byte
		}
		if err := p.open(); err != nil {
			return false, err
		}
		var err error
		n, err = p.rd.Read(b)
		if n > 0 {
			return true, nil // an error comes again
		}
		if p.end == 0 && atEOF(err) {
			// Only who has it open can tell that it is empty: its path would say again what was listed.
			if cerr := p.f.compare(p.ctx, p.rd); cerr != nil {
				err = cerr
			}
		}
		if err != nil && lost(err) {
			_ = p.rd.Close()
			p.rd = nil
		}
		return false, err
	})
	p.off += int64(n)
	switch {
	case p.off > p.end:
		err = failf("read", p.f.path, KindProtocol, "the remote sends more than was asked for")
	case !atEOF(err):
	case p.off < p.end:
		if err = p.f.check(p.ctx, p.rd); err == nil {
			err = failf("read", p.f.path, KindShort, "%d bytes of %d", p.off, p.end)
		}
	case p.verify && p.end > 0:
		if cerr := p.f.check(p.ctx, p.rd); cerr != nil {
			err = cerr
		}
	}
	if err != nil {
		p.err = err
		n = max(n, 0)
	}
	return n, err
}

// open opens the file, unless it is.
func (p *piecewise) open() (err error) {
	if p.rd != nil {
		return nil
	}
	if p.rd, err = p.f.r.Open(p.ctx, p.f.path, p.off, p.end-p.off); err != nil {
		p.rd = nil
		return err
	}
	return p.ask()
}

// ask asks what the file is like, where that is to be known early.
func (p *piecewise) ask() error {
	rd, ok := p.rd.(Ranger)
	if !ok || !p.early {
		return nil
	}
	err := rd.AskStat(p.ctx)
	if err != nil {
		_ = p.rd.Close()
		p.rd = nil
	}
	return err
}

// goOn takes over a reader of another range, nil for none, if that can go on with this one.
func (p *piecewise) goOn(rd io.ReadCloser) {
	if rd == nil {
		return
	}
	if again, ok := rd.(Ranger); !ok || !again.Again(p.off, p.end-p.off) {
		_ = rd.Close()
		return
	}
	p.rd = rd
	_ = p.ask() // or the file is opened anew
}

func (p *piecewise) Close() error {
	p.err = fail("read", p.f.path, KindOther, errPoolClosed)
	if p.rd == nil {
		return nil
	}
	rd := p.rd
	p.rd = nil
	return rd.Close()
}

// ranges reads a large file at several places at once, over as many connections as the remote
// has, in order. Each range makes sure that it was read of the file as it was listed: one that is
// replaced meanwhile is not the file that the next range is opened of. It is for a goroutine at a
// time.
type ranges struct {
	f      *file
	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup
	most   int // ranges at a time

	mu   sync.Mutex      // guards idle
	idle []io.ReadCloser // Rangers that rest

	next  int64    // where the next range begins
	parts []*part  // under way, in order
	spare [][]byte // for ranges to come: rangesAlways at most, as nothing else bounds them
	now   *part
	left  []byte // of now
	err   error
}

// part is a range that is read.
type part struct {
	taken int64 // of file.ahead
	done  chan struct{}
	data  []byte // valid, as what follows, once done is closed
	took  time.Duration
	err   error
}

func newRanges(ctx context.Context, f *file) *ranges {
	r := &ranges{f: f, most: rangesFirst}
	r.ctx, r.cancel = context.WithCancel(ctx)
	return r
}

func (r *ranges) Read(b []byte) (int, error) {
	for len(r.left) == 0 {
		r.drop(r.now)
		r.now = nil
		if r.err != nil {
			return 0, r.err
		}
		for r.begin() {
		}
		if len(r.parts) == 0 {
			r.closeIdle()
			if r.err = r.f.check(r.ctx, nil); r.err == nil {
				r.err = io.EOF
			}
			continue
		}
		r.now = r.parts[0]
		r.parts = r.parts[1:]
		<-r.now.done
		r.left, r.err = r.now.data, r.now.err
		switch took := r.now.took; {
		case took < rangeQuick:
			r.most = min(r.most+1, rangesAhead)
		case took > rangeSlow:
			r.most = max(r.most-1, rangesAlways)
		}
	}
	n := copy(b, r.left)
	r.left = r.left[n:]
	return n, nil
}

// drop gives back what a part holds, nil for none.
func (r *ranges) drop(p *part) {
	if p == nil {
		return
	}
	if p.data != nil && len(r.spare) < rangesAlways {
		r.spare = append(r.spare, p.data[:0])
	}
	if p.taken > 0 {
		r.f.ahead.Release(p.taken)
	}
}

// begin begins to read another range, unless that is the end or there is enough under way.
func (r *ranges) begin() bool {
	if len(r.parts) >= r.most || r.next == r.f.seen.Size {
		return false
	}
	p := &piecewise{ctx: r.ctx, f: r.f, off: r.next, end: min(r.next+rangeSize, r.f.seen.Size), verify: true}
	p.early = p.end < r.f.seen.Size
	out := &part{done: make(chan struct{})}
	if r.f.ahead != nil && len(r.parts) >= rangesAlways {
		if out.taken = p.end - p.off; !r.f.ahead.TryAcquire(out.taken) {
			return false
		}
	}
	r.next = p.end
	r.parts = append(r.parts, out)
	if n := len(r.spare); n > 0 {
		out.data, r.spare = r.spare[n-1], r.spare[:n-1]
	}
	r.wg.Go(func() {
		began := time.Now()
		defer func() {
			out.took = time.Since(began)
			close(out.done)
		}()
		out.data = slices.Grow(out.data, int(p.end-p.off))[:p.end-p.off]
		if err := r.read(p, out.data); err != nil {
			out.data, out.err = nil, err
		}
	})
	return true
}

// read reads a range, with a reader that has read another one where there is one.
func (r *ranges) read(p *piecewise, data []byte) error {
	r.mu.Lock()
	var rd io.ReadCloser
	if n := len(r.idle); n > 0 {
		rd, r.idle = r.idle[n-1], r.idle[:n-1]
	}
	r.mu.Unlock()
	p.goOn(rd)
	_, err := io.ReadFull(p, data)
	if err == nil {
		err = atEnd(p, p.f.path)
	}
	if err == nil {
		r.keep(p)
	}
	_ = p.Close()
	return err
}

// keep leaves the reader of a range that was read to another range, as long as nobody waits for its
// connection: what a file holds must never be what it waits for, or what others do.
func (r *ranges) keep(p *piecewise) {
	if rd, ok := p.rd.(Ranger); !ok || !rd.Rest() {
		return
	}
	r.mu.Lock()
	r.idle = append(r.idle, p.rd)
	r.mu.Unlock()
	p.rd = nil
}

// closeIdle closes the readers that have no other range to read.
func (r *ranges) closeIdle() {
	r.mu.Lock()
	idle := r.idle
	r.idle = nil
	r.mu.Unlock()
	for _, rd := range idle {
		_ = rd.Close()
	}
}

func (r *ranges) Close() error {
	r.cancel()
	r.wg.Wait()
	r.closeIdle()
	for _, p := range append(r.parts, r.now) {
		r.drop(p)
	}
	r.parts, r.now, r.left, r.spare = nil, nil, nil, nil
	r.err = fail("read", r.f.path, KindOther, errPoolClosed)
	return nil
}

// whole reads all of a file that fits into memory.
func (f *file) whole(ctx context.Context) (_ []byte, err error) {
	rd, err := f.Open(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, rd.Close()) }()
	data := make([]byte, f.seen.Size)
	if _, err := io.ReadFull(rd, data); err != nil {
		return nil, fmt.Errorf("%w", err)
	}
	if err := atEnd(rd, f.path); err != nil {
		return nil, err
	}
	return data, nil
}

// atEOF reports whether a reader is at its end: a lost connection, too, may have an io.EOF for a cause.
func atEOF(err error) bool { return err == io.EOF } //nolint:errorlint // see above

// atEnd returns nil when rd, from which everything was read that there should be, is at its end.
func atEnd(rd io.Reader, path string) error {
	_, err := rd.Read(make([]byte, 1))
	switch {
	case atEOF(err):
		return nil
	case err == nil:
		return failf("read", path, KindProtocol, "the remote sends more than was asked for")
	}
	return err
}

// inMemory is a snapshotter.Content.
type inMemory []byte

func (m inMemory) Size() int64 { return int64(len(m)) }

func (m inMemory) Open(context.Context) (io.ReadCloser, error) {
	return io.NopCloser(bytes.NewReader(m)), nil
}
