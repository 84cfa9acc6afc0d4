package pull

import (
	"context"
	"iter"
	"sync"
)

// ordered applies fn to what in yields, workers at a time, and yields the results in the
// order of in; at most window of them are under way or waiting for their turn. admit, when it
// is not nil, is called in order before fn, and may wait for what earlier calls of fn give
// back. The first error, of in, admit or fn, is yielded and is the last. All that was started
// has ended when the iterator returns.
func ordered[In, Out any](ctx context.Context, in iter.Seq2[In, error], workers, window int,
	admit func(context.Context, In) error, fn func(context.Context, In) (Out, error),
) iter.Seq2[Out, error] {
	type slot struct {
		in   In
		out  Out
		err  error
		done chan struct{}
	}
	return func(yield func(Out, error) bool) {
		ctx, cancel := context.WithCancel(ctx)
		var wg sync.WaitGroup
		defer wg.Wait()
		defer cancel()
		order, work := make(chan *slot, window), make(chan *slot)
		wg.Go(func() {
			defer close(order)
			defer close(work)
			for v, err := range in {
				s := &slot{in: v, err: err, done: make(chan struct{})}
				if err == nil && admit != nil {
					s.err = admit(ctx, v)
				}
				failed := s.err != nil
				if failed {
					close(s.done)
				}
				select {
				case order <- s:
				case <-ctx.Done():
					return
				}
				if failed {
					return
				}
				select {
				case work <- s:
				case <-ctx.Done():
					return
				}
			}
		})
		for range workers {
			wg.Go(func() {
				for s := range work {
					s.out, s.err = fn(ctx, s.in)
					close(s.done)
				}
			})
		}
		var none Out
		for s := range order {
			select {
			case <-s.done:
			case <-ctx.Done():
				yield(none, ctx.Err())
				return
			}
			if s.err != nil {
				yield(none, s.err)
				return
			}
			if !yield(s.out, nil) {
				return
			}
		}
		// What in was given to may have ended before its last slot was taken.
		if err := ctx.Err(); err != nil {
			yield(none, err)
		}
	}
}
