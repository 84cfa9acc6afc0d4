package backend_test

import (
	"context"
	"errors"
	"net"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/snapgate/gateway/store/internal/backend"
)

// downBackend cannot be reached while down is set; finding that out takes a minute.
type downBackend struct {
	backend.Backend // nil
	down            bool
	bad             string // a file that it does not give when it is not down
	calls           int
}

func (b *downBackend) Stat(_ context.Context, name string) (backend.Info, error) {
	b.calls++
	if !b.down && name != b.bad {
		return backend.Info{}, nil
	}
	time.Sleep(time.Minute)
	return backend.Info{}, &net.OpError{Op: "dial", Err: syscall.ETIMEDOUT}
}

func TestFailFast(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const pause = 5 * time.Second
		down := &downBackend{down: true}
		b := backend.NewFailFast(down, pause)
		stat := func() (time.Duration, error) {
			start := time.Now()
			_, err := b.Stat(t.Context(), "x")
			return time.Since(start), err
		}
		want := func(what string, took, wantTook time.Duration, err error, wantCalls int) {
			t.Helper()
			if took != wantTook || !errors.Is(err, syscall.ETIMEDOUT) || down.calls != wantCalls {
				t.Errorf("%s: %v after %v and %d calls, want %v, %d", what, err, took, down.calls, wantTook, wantCalls)
			}
		}
		took, err := stat()
		want("first", took, time.Minute, err, 1)
		for range 100 {
			took, err = stat()
			want("at once", took, 0, err, 1)
		}
		time.Sleep(pause)
		done := make(chan error)
		go func() {
			_, err := stat()
			done <- err
		}()
		synctest.Wait()
		took, err = stat()
		want("while somebody tries", took, 0, err, 2)
		want("the one that tries", 0, 0, <-done, 2)
		down.down = false
		time.Sleep(pause)
		for range 3 {
			if took, err := stat(); err != nil || took != 0 {
				t.Errorf("back: %v after %v", err, took)
			}
		}
		if down.calls != 5 {
			t.Errorf("%d calls, want 5", down.calls)
		}
	})
}

// TestFailFastInsist: whoever insists is not refused, nor are others as it has failed; and what it is given others are given again.
func TestFailFastInsist(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := backend.NewFailFast(&downBackend{bad: "bad"}, time.Hour)
		stat := func(ctx context.Context, name string) error {
			_, err := b.Stat(ctx, name)
			return err
		}
		insist := backend.Insist(t.Context())
		for range 2 {
			if err := stat(insist, "bad"); !errors.Is(err, syscall.ETIMEDOUT) || errors.Is(err, backend.ErrNotTried) {
				t.Errorf("insisting: got %v, want %v", err, syscall.ETIMEDOUT)
			}
		}
		if err := stat(t.Context(), "good"); err != nil {
			t.Errorf("after one has failed that insisted: %v", err)
		}
		if err := stat(t.Context(), "bad"); !errors.Is(err, syscall.ETIMEDOUT) {
			t.Errorf("got %v, want %v", err, syscall.ETIMEDOUT)
		}
		if err := stat(t.Context(), "good"); !errors.Is(err, backend.ErrNotTried) {
			t.Errorf("after one has failed: got %v, want %v", err, backend.ErrNotTried)
		}
		if err := errors.Join(stat(insist, "good"), stat(t.Context(), "good")); err != nil {
			t.Errorf("after one that insisted was answered: %v", err)
		}
	})
}
