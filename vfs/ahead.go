package vfs

import (
	"bytes"
	"context"
	"errors"
	"math"
	"sync"
	"sync/atomic"

	"github.com/zeebo/blake3"

	"github.com/snapgate/gateway/internal/background"
	"github.com/snapgate/gateway/snapshotter"
	"github.com/snapgate/gateway/vfs/internal/spool"
)

const (
	// aheadMin is from which size on an upload goes into the store ahead of its commit. The
	// contents of smaller ones are better off in the packfiles of the commit, beside each
	// other.
	aheadMin = 8 << 20
	// aheadStep is how much must have arrived for an upload to be gone on with. Each time up
	// to 8 MiB are read again, as long as a chunk may be: that is a quarter at most.
	aheadStep = 32 << 20
	// aheadTurn is after how many bytes an upload lets others have their turn.
	aheadTurn = 32 << 20
)

// The reasons for which an upload is left to its commit, besides failures.
var (
	errAheadChanged = errors.New("bytes that were put into the store were written again")
	errAheadOther   = errors.New("what was put into the store is not what was published")
	errAheadDropped = errors.New("the upload was not published")
)

// ahead has the bytes of an upload put into the store while they arrive, so that its commit
// finds them there. It reads the spool file behind the bytes that were hashed in order, in a
// goroutine of its own, which runs only while there is something to read: an upload never
// waits for the store. When anything goes wrong, the commit reads the spool file as it would
// have without. Safe for concurrent use; a nil ahead does nothing.
type ahead struct {
	share *share
	file  *spool.File // what is followed until the upload is published
	// next is the size of the upload from which there is enough to read.
	next atomic.Int64
	over chan struct{} // closed when nothing more will be done

	mu      sync.Mutex // guards the rest; a leaf but for file
	running bool       // the goroutine
	dropped bool       // it is to end
	ended   bool       // over is closed
	whole   *content   // what is being published, once it is

	// These belong to the goroutine while it runs.
	hash *blake3.Hasher      // of what in has
	in   *snapshotter.Ingest // nil until something is read, and when it is of no use
	from *spool.Reader       // nil while resting
	cuts int64               // of file, when the first bytes were read
}

// newAhead begins to follow a spool file.
func (s *share) newAhead(file *spool.File) *ahead {
	a := &ahead{share: s, file: file, over: make(chan struct{})}
	a.next.Store(aheadStep)
	return a
}

// arrived is told the size of the upload after a write.
func (a *ahead) arrived(size int64) {
	if a == nil || size < a.next.Load() {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.ended {
		a.start()
	}
}

// start starts the goroutine unless it runs; mu is held.
func (a *ahead) start() {
	if a.running {
		return
	}
	a.running = a.share.aheads.start(a.run)
	if !a.running {
		a.end()
	}
}

// publish is told what the upload is published as; the rest is read without the client. It
// reports whether there will be.
func (a *ahead) publish(c *content) bool {
	if a == nil {
		return false
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.ended {
		a.whole = c
		a.start()
	}
	return !a.ended
}

// drop gives the upload up: it ends without publication.
func (a *ahead) drop() {
	if a == nil {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.dropped = true
	if !a.running {
		a.end()
	}
}

// end notes that nothing more will be done; mu is held.
func (a *ahead) end() {
	if a.ended {
		return
	}
	a.ended = true
	a.next.Store(math.MaxInt64)
	a.rest()
	close(a.over)
}

// rest lets go of what is needed only while bytes are read.
func (a *ahead) rest() {
	if a.in != nil {
		a.in.Rest()
	}
	if a.from != nil {
		_ = a.from.Close() // it was only read
		a.from = nil
	}
}

// offset is how much has been read.
func (a *ahead) offset() int64 {
	if a.in == nil {
		return 0
	}
	return a.in.Offset()
}

// run reads until there is nothing left to read for now.
func (a *ahead) run(ctx context.Context) {
	more, err := true, error(nil)
	for more && err == nil {
		more, err = a.read(ctx)
	}
	if err == nil {
		return
	}
	if ctx.Err() == nil && !errors.Is(err, errAheadDropped) {
		a.share.log.Debug("an upload is left to its commit", "share", a.share.name, "err", err)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.rest()
	a.in, a.running = nil, false
	a.end()
}

// read reads one turn's bytes, and reports whether there may be more to read. When there is
// not, running is false.
func (a *ahead) read(ctx context.Context) (more bool, err error) {
	size, whole, err := a.ready()
	if size == 0 || err != nil {
		return false, err
	}
	end, err := a.turn(ctx)
	if err != nil {
		return false, err
	}
	defer end()
	if err := a.feed(ctx, size, whole); err != nil || !whole {
		return err == nil, err
	}
	if !bytes.Equal(a.hash.Sum(nil), a.whole.hash[:]) {
		return false, errAheadOther
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.running = false
	a.end()
	return false, nil
}

// ready returns up to where to read, and whether that is all; 0 when the goroutine is to end
// because there is too little to read.
func (a *ahead) ready() (size int64, whole bool, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	at := a.offset()
	switch {
	case a.dropped:
		return 0, false, errAheadDropped
	case a.whole != nil:
		size = min(a.whole.size, at+aheadTurn)
		return size, size == a.whole.size, nil
	}
	done, cuts, ok := a.file.Hashed()
	if at == 0 {
		a.cuts = cuts
	}
	if !ok || cuts != a.cuts || done < at {
		return 0, false, errAheadChanged
	}
	done &^= spool.SectorBytes - 1 // the one at the end is written again by what comes next
	if done-at < aheadStep {
		a.rest()
		// What is late may hold up what is hashed: not every write is to ask again.
		a.next.Store(max(at+aheadStep+spool.SectorBytes, a.file.Size()+aheadStep/32))
		a.running = false
		return 0, false, nil
	}
	return min(done, at+aheadTurn), false, nil
}

// turn waits until it is this upload's turn to use a processor, one of as many as there are.
// Those that wait have no memory for it.
func (a *ahead) turn(ctx context.Context) (end func(), err error) {
	turns := a.share.system.turns
	end = func() { <-turns }
	select {
	case turns <- struct{}{}:
		return end, nil
	default:
		a.rest()
	}
	select {
	case turns <- struct{}{}:
		return end, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (a *ahead) feed(ctx context.Context, size int64, whole bool) (err error) {
	if a.in == nil {
		a.hash = blake3.New()
		if a.in = a.share.system.cfg.Repository.NewIngest(a.hash); a.in == nil {
			return errors.ErrUnsupported
		}
	}
	if a.from == nil {
		if a.from, err = a.share.spool.Follow(a.file.ID()); err != nil {
			return err
		}
	}
	return a.in.Feed(ctx, a.from, size, whole)
}

// wait waits until nothing more will be done.
func (a *ahead) wait(ctx context.Context) error {
	if a == nil {
		return nil
	}
	select {
	case <-a.over:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// ingest is what the commit may use instead of the bytes, nil for nothing.
func (a *ahead) ingest() *snapshotter.Ingest {
	if a == nil {
		return nil
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.ended {
		return nil
	}
	return a.in
}

// putAhead has the rest of an upload put into the store ahead of its commit, or all of it;
// mu is held for writing, and c is what is about to be published.
func (u *upload) putAhead(c *content) {
	if c.spool == 0 || !c.hasHash || c.size < aheadMin {
		return
	}
	if u.ahead.publish(c) {
		c.ahead = u.ahead
		return
	}
	// Given up, or the file was cut: from the start, now that nothing changes any more.
	if a := u.share.newAhead(u.file); a.publish(c) {
		u.ahead, c.ahead = a, a
	}
}

// newTurns makes the turns that the uploads of all shares take: one a core.
func newTurns() chan struct{} {
	return make(chan struct{}, background.Cores())
}

// aheads starts the goroutines of a share that put uploads into the store, so that they have
// its context and somebody waits for them. Safe for concurrent use.
type aheads struct {
	wake chan struct{} // pulsed; capacity 1

	mu     sync.Mutex // guards the rest; a leaf
	queue  []func(ctx context.Context)
	closed bool
}

func newAheads() *aheads { return &aheads{wake: make(chan struct{}, 1)} }

// start has run started in a goroutine; false when the share is about to end.
func (g *aheads) start(run func(ctx context.Context)) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		return false
	}
	g.queue = append(g.queue, run)
	select {
	case g.wake <- struct{}{}:
	default: // one is pending
	}
	return true
}

// take returns what is to be started, and lets nothing more come with last.
func (g *aheads) take(last bool) []func(ctx context.Context) {
	g.mu.Lock()
	defer g.mu.Unlock()
	runs := g.queue
	g.queue, g.closed = nil, last
	return runs
}

// serve starts goroutines until ctx ends, and waits for them.
func (g *aheads) serve(ctx context.Context) {
	var running sync.WaitGroup
	defer running.Wait()
	for {
		select {
		case <-g.wake:
		case <-ctx.Done():
		}
		last := ctx.Err() != nil
		for _, run := range g.take(last) {
			running.Go(func() { background.Do(func() { run(ctx) }) })
		}
		if last {
			return
		}
	}
}

// awaitAhead waits for those contents of a set that are on their way into the store.
func (s *share) awaitAhead(ctx context.Context, set *changeSet) (err error) {
	set.tree.diff(func(c snapshotter.Change, n *node, _ bool) bool {
		if c.Kind == snapshotter.File && c.From == "" {
			err = n.content.early().wait(ctx)
		}
		return err == nil
	})
	return err
}
