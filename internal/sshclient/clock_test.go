package sshclient

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

// A dial takes no longer than its limit, and what a person takes to answer does not count.
func TestClock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var c clock
		ask := c.asks(func(context.Context, string) ([]byte, error) {
			time.Sleep(time.Minute)
			return []byte("secret"), nil
		})
		ctx, cancel := c.bound(t.Context(), 10*time.Second)
		defer cancel()
		time.Sleep(4 * time.Second)
		if got, err := ask(ctx, "?"); string(got) != "secret" || err != nil {
			t.Fatal(string(got), err)
		}
		// One that begins while somebody is asked waits, too.
		go func() { _, _ = ask(ctx, "?") }()
		synctest.Wait()
		late, cancelLate := c.bound(t.Context(), 10*time.Second)
		defer cancelLate()
		time.Sleep(time.Minute + 5*time.Second)
		if ctx.Err() != nil || late.Err() != nil {
			t.Fatalf("ended early: %v, %v", context.Cause(ctx), context.Cause(late))
		}
		time.Sleep(time.Second + time.Millisecond)
		var limit *stageTimeout
		if !errors.As(context.Cause(ctx), &limit) || limit.Error() != "no login within 10s" || late.Err() != nil {
			t.Errorf("the first ends with %v, the second with %v", context.Cause(ctx), context.Cause(late))
		}
		time.Sleep(4 * time.Second)
		if late.Err() == nil {
			t.Error("the second goes on")
		}
		if free, end := c.bound(t.Context(), 0); free != t.Context() {
			t.Error("no limit is one")
		} else {
			end()
		}
	})
}
