package pull

import (
	"context"
	"errors"
	"io"
	"iter"
	"runtime"
	"sync/atomic"

	"golang.org/x/sync/semaphore"

	"github.com/snapgate/gateway/snapshotter"
)

const (
	// smallFile is what is read whole into memory before it is stored, so that many are under
	// way while few are stored.
	smallFile = 256 << 10
	// defaultFetchMemory is for small files that are being read or wait to be stored.
	defaultFetchMemory = 64 << 20
	// maxFetchers is how many files are read at a time, as far as the connections take so many
	// calls: see farSFTPConnections.
	maxFetchers = 1024
	// fetchWindow is how many changes are under way, or wait for one before them.
	fetchWindow = 4096
	// readAttempts is how often a file that changes while it is read is read.
	readAttempts = 2
)

// FetchConfig says how Fetch works. Ingest and Report are needed.
type FetchConfig struct {
	// Ingest stores the Content of a change and returns the change to commit in its place:
	// the same with a Content that needs no reading. It is called by several goroutines.
	// Errors of the Content are to be in the chain of its own.
	Ingest func(ctx context.Context, c snapshotter.Change) (snapshotter.Change, error)
	// Same reports whether the base has the content of a change that Ingest has returned, at
	// its path, where it has a file of that size; then no new content is committed. Nil for
	// never.
	Same   func(ctx context.Context, c snapshotter.Change) (bool, error)
	Report *Report
	// Ingests is how many calls of Ingest there are at a time; 0 for twice the cores. A
	// large file is one of them while it is transferred.
	Ingests int
	// Memory bounds the bytes of small files in memory; 0 for 64 MiB.
	Memory int64
	// Partial goes on when the connection is lost for good: what was not read by then is a Problem, and nothing more is
	// tried.
	Partial bool
}

// Fetch reads the contents of changes, many at a time, gives them to cfg.Ingest, and yields
// the changes in their order. A file that cannot be read as it was listed is read a second
// time, as it is now; then it is a Problem, and its change is left out, so that the snapshot
// has what the base has. So is one that breaks each connection, while others can be made. It
// ends with the errors of changes and of Ingest, and, unless cfg.Partial, when the connection
// is lost for good.
func Fetch(ctx context.Context, changes iter.Seq2[snapshotter.Change, error], cfg FetchConfig) iter.Seq2[snapshotter.Change, error] {
	if cfg.Ingests <= 0 {
		cfg.Ingests = 2 * runtime.GOMAXPROCS(0)
	}
	if cfg.Memory <= 0 {
		cfg.Memory = defaultFetchMemory
	}
	f := &fetcher{
		cfg: cfg, ingests: semaphore.NewWeighted(int64(cfg.Ingests)), memory: semaphore.NewWeighted(max(cfg.Memory, smallFile)),
	}
	fetched := ordered(ctx, changes, maxFetchers, fetchWindow, f.admit, f.fetch)
	return func(yield func(snapshotter.Change, error) bool) {
		for c, err := range fetched {
			if err != nil {
				yield(snapshotter.Change{}, err)
				return
			}
			if c != nil && !yield(*c, nil) {
				return
			}
		}
	}
}

type fetcher struct {
	cfg     FetchConfig
	ingests *semaphore.Weighted
	memory  *semaphore.Weighted // of bytes; taken in the order of the changes, so that the first never waits for the later ones

	gone atomic.Pointer[error] // with Partial: why the connection is lost for good
}

func small(c snapshotter.Change) (*file, bool) {
	f, ok := c.Content.(*file)
	return f, ok && f.seen.Size <= smallFile
}

func (f *fetcher) admit(ctx context.Context, c snapshotter.Change) error {
	if s, ok := small(c); ok {
		return f.memory.Acquire(ctx, s.seen.Size)
	}
	return nil
}

// fetch stores the content of a change. It returns nil for a change that is left out.
func (f *fetcher) fetch(ctx context.Context, c snapshotter.Change) (*snapshotter.Change, error) {
	if s, ok := small(c); ok {
		defer f.memory.Release(s.seen.Size)
	}
	content, ok := c.Content.(*file)
	if !ok {
		return &c, nil
	}
	var err error
	for n := 1; ; n++ {
		var out snapshotter.Change
		if out, err = f.ingest(ctx, c, content); err == nil {
			f.cfg.Report.read.Add(1)
			f.cfg.Report.readBytes.Add(content.seen.Size)
			return f.settle(ctx, out, content)
		}
		if lost(err) && n < readAttempts && !f.cfg.Partial && content.answers(ctx) {
			continue // it was away for longer than a call waits
		}
		if k := KindOf(err); n == readAttempts || k != KindChanged && k != KindShort {
			break
		}
		again, aerr := content.again(ctx)
		if aerr != nil {
			err = aerr
			break
		}
		if again.seen.Size > smallFile && content.seen.Size <= smallFile {
			break // it would be more than was admitted
		}
		content = again
		c.Attr.ModTime, c.Content = again.seen.ModTime, again
	}
	var e *Error
	if cause := ctx.Err(); cause != nil {
		return nil, cause
	}
	switch {
	case !errors.As(err, &e):
		return nil, err
	case lost(err) && !f.cfg.Partial && !content.answers(ctx):
		return nil, err
	case lost(err) && f.cfg.Partial && f.gone.Load() == nil:
		if content.away(ctx) {
			f.gone.CompareAndSwap(nil, &err)
		}
		if cause := ctx.Err(); cause != nil {
			return nil, cause
		}
	}
	f.cfg.Report.note(c.Path, e)
	if content.count != nil {
		content.count.Add(-1) // it is not in the snapshot, or is as it was
	}
	return nil, nil
}

// settle looks whether the base has the very content, nil when nothing else has changed.
func (f *fetcher) settle(ctx context.Context, c snapshotter.Change, content *file) (*snapshotter.Change, error) {
	if f.cfg.Same == nil || content.base == nil || content.base.Size != content.seen.Size {
		return &c, nil
	}
	same, err := f.cfg.Same(ctx, c)
	if err != nil || !same {
		return &c, err
	}
	f.cfg.Report.changed.Add(-1)
	if sameAttr(c.Attr, content.base.Attr) {
		f.cfg.Report.unchanged.Add(1)
		return nil, nil
	}
	f.cfg.Report.attributes.Add(1)
	c.From, c.Version, c.Content, c.Stored = c.Path, content.base.Version, nil, nil
	return &c, nil
}

func (f *fetcher) ingest(ctx context.Context, c snapshotter.Change, content *file) (snapshotter.Change, error) {
	if gone := f.gone.Load(); gone != nil {
		return c, fail("read", content.path, KindConnection, *gone)
	}
	if content.seen.Size <= smallFile {
		data, err := content.whole(ctx)
		if err != nil {
			return c, err
		}
		c.Content = inMemory(data)
	}
	if err := f.ingests.Acquire(ctx, 1); err != nil {
		return c, err
	}
	defer f.ingests.Release(1)
	if gone := f.gone.Load(); gone != nil && content.seen.Size > smallFile { // while it waited
		return c, fail("read", content.path, KindConnection, *gone)
	}
	return f.cfg.Ingest(ctx, c)
}

// answers reports whether the connection is not lost for good after all: then it is this file
// that breaks it.
func (f *file) answers(ctx context.Context) bool {
	_, err := f.r.Lstat(ctx, f.path)
	return err == nil || !lost(err)
}

// away reports whether the server does not answer for as long as a first call waits, whatever it is asked.
func (f *file) away(ctx context.Context) bool {
	err := f.retry.Connecting().Do(ctx, func() (bool, error) {
		_, err := f.r.Lstat(ctx, "/")
		return false, err
	})
	return err != nil && lost(err)
}

// again is the file as it is now.
func (f *file) again(ctx context.Context) (*file, error) {
	next := *f
	err := f.retry.Do(ctx, func() (bool, error) {
		now, err := f.r.Lstat(ctx, f.path)
		if err != nil {
			return false, err
		}
		if now.Type != File {
			return false, failf("read", f.path, KindChanged, "it is no file any more")
		}
		if next.seen.Size = now.Size; now.Precision > 0 { // else the listing's time is what there is
			next.seen.ModTime, next.seen.Precision = now.ModTime, now.Precision
		}
		return false, nil
	})
	return &next, err
}

var (
	_ snapshotter.Content = (*file)(nil)
	_ io.ReadCloser       = (*piecewise)(nil)
	_ io.ReadCloser       = (*ranges)(nil)
	_ Base                = (*snapshotter.View)(nil)
)
