package snapshotter

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"runtime/debug"

	"golang.org/x/sync/errgroup"

	"github.com/snapgate/gateway/internal/background"
)

// ordered calls work for each item, several at a time, and each for what comes of them, in the
// order of the items. At most parallel items are begun and not yet taken. Work is done in the background
// if ctx says so. A panic of it is an error.
func ordered[In, Out any](ctx context.Context, parallel int, items iter.Seq2[In, error], work func(context.Context, In) (Out, error), each func(Out) error) error {
	type result struct {
		out Out
		err error
	}
	parent := ctx
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	group, ctx := errgroup.WithContext(ctx)
	type task struct {
		item In
		done chan result
	}
	queue := make(chan chan result, parallel)
	tasks := make(chan task, parallel)
	slots := make(chan struct{}, parallel)
	group.Go(func() error {
		defer close(queue)
		defer close(tasks)
		for item, err := range items {
			if err != nil {
				return err
			}
			select {
			case slots <- struct{}{}:
			case <-ctx.Done():
				return ctx.Err()
			}
			t := task{item, make(chan result, 1)}
			queue <- t.done // these have room for all that have a slot
			tasks <- t
		}
		return nil
	})
	do := func(item In) (r result) {
		defer func() {
			if p := recover(); p != nil { // whoever looks into a damaged store must not end a gateway
				r.err = fmt.Errorf("internal error: %v\n%s", p, debug.Stack())
			}
		}()
		r.out, r.err = work(ctx, item)
		return r
	}
	for range parallel {
		group.Go(func() error {
			background.Within(ctx, func() {
				for t := range tasks {
					t.done <- do(t.item)
				}
			})
			return nil
		})
	}
	err := func() error {
		for done := range queue {
			r := <-done
			<-slots
			if r.err != nil {
				return r.err
			}
			if err := each(r.out); err != nil {
				return err
			}
		}
		return nil
	}()
	cancel()
	// What ended the items is the cause of what it cancelled.
	if gerr := group.Wait(); gerr != nil && (err == nil || parent.Err() == nil && errors.Is(err, context.Canceled)) {
		return gerr
	}
	return err
}
