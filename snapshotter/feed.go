package snapshotter

import (
	"context"
	"fmt"
	"iter"
	"sync"
	"sync/atomic"
)

// feedBatch is how many changes are taken at a time, at about 400 bytes each: their contents
// are made objects beside each other, and their entries afterwards.
const feedBatch = 8192

// feed takes the changes of a commit, in their order and with the objects of their contents.
// It is for one goroutine.
type feed struct {
	c    *increment
	next func() (Change, error, bool)
	stop func()

	batch []change
	at    int    // of batch: the next one
	last  string // path of the last one in batch
	n     int    // taken
	end   bool   // there are no more
}

func newFeed(c *increment, changes iter.Seq2[Change, error]) *feed {
	f := &feed{c: c}
	f.next, f.stop = iter.Pull2(changes)
	return f
}

// peek returns the next change, nil at the end.
func (f *feed) peek(ctx context.Context) (*change, error) {
	if f.at == len(f.batch) {
		if err := f.fill(ctx); err != nil {
			return nil, err
		}
	}
	if len(f.batch) == 0 {
		return nil, nil
	}
	return &f.batch[f.at], nil
}

// take goes on to the change after the one that peek has returned.
func (f *feed) take() { f.at++ }

// fill takes the next changes. When contents are missing it goes on to the end, so that all
// of them are known.
func (f *feed) fill(ctx context.Context) error {
	for !f.end {
		if err := f.collect(); err != nil {
			return err
		}
		if err := f.c.ingest(ctx, f.batch); err != nil {
			return err
		}
		if !f.c.missing.any() {
			return nil
		}
	}
	f.at, f.batch = 0, nil
	return f.c.missing.err()
}

func (f *feed) collect() error {
	f.at, f.batch = 0, make([]change, 0, min(feedBatch, max(16, f.n)))
	for len(f.batch) < feedBatch {
		next, err, ok := f.next()
		if err != nil {
			return fmt.Errorf("changes: %w", err)
		}
		if !ok {
			f.end = true
			return nil
		}
		if err := checkOrder(f.last, next.Path); err != nil {
			return err
		}
		f.last = next.Path
		if f.n++; f.n > maxEdits {
			return errTooMuch
		}
		f.batch = append(f.batch, change{Change: next})
	}
	return nil
}

// ingest makes the objects of changed files, on all cores.
func (c *increment) ingest(ctx context.Context, changes []change) error {
	var files []*change
	for i := range changes {
		if changes[i].hasContent() {
			files = append(files, &changes[i])
		}
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var next atomic.Int64
	var wg sync.WaitGroup
	for range min(cores(), len(files)) {
		in := c.s.ingester(c.w)
		work := func() {
			for n := next.Add(1); n <= int64(len(files)) && ctx.Err() == nil; n = next.Add(1) {
				ch := files[n-1]
				if err := c.content(ctx, in, ch); err != nil {
					cancel(fmt.Errorf("content of %q: %w", ch.Path, err))
				}
			}
		}
		wg.Go(func() {
			defer in.release()
			c.w.packer.run(work)
		})
	}
	wg.Wait()
	return context.Cause(ctx)
}
