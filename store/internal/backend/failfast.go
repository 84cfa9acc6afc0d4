package backend

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"time"
)

// ErrNotTried says of an error that it is of an earlier call, which has found a server out of reach.
var ErrNotTried = errors.New("not tried again yet")

// FailFast is a Backend that cannot be reached for a while: after a call that has found that
// out, which may have taken its time, others fail at once with the same error, and only one
// at a time tries again. Names are looked up in local copies then, many of them, and each
// would wait.
type FailFast struct {
	Backend
	pause time.Duration

	mu     sync.Mutex
	last   error     // guarded by mu: nil while all is well
	until  time.Time // guarded by mu: nobody tries before
	trying bool      // guarded by mu: somebody tries whether it is back
}

// NewFailFast returns b, which is not tried again for a pause after it could not be reached.
func NewFailFast(b Backend, pause time.Duration) *FailFast {
	return &FailFast{Backend: b, pause: pause}
}

// insistKey marks the contexts that Insist returns.
type insistKey struct{}

// Insist returns a context whose calls a FailFast makes whatever earlier ones have found, which may have been of one file: it is for
// whoever has to say what can be read. When they fail, that keeps no others from being tried.
func Insist(ctx context.Context) context.Context { return context.WithValue(ctx, insistKey{}, true) }

// do makes a call, or returns the error of an earlier one.
func (f *FailFast) do(ctx context.Context, call func() error) error {
	if ctx.Value(insistKey{}) != nil {
		err := call()
		if !unreachable(err) {
			f.end(false, err)
		}
		return err
	}
	tries, err := f.begin()
	if err != nil {
		return err
	}
	err = call()
	f.end(tries, err)
	return err
}

func (f *FailFast) begin() (tries bool, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.last == nil {
		return false, nil
	}
	if f.trying || time.Now().Before(f.until) {
		return false, fmt.Errorf("%w (%w)", f.last, ErrNotTried)
	}
	f.trying = true
	return true, nil
}

func (f *FailFast) end(tried bool, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if tried {
		f.trying = false
	}
	switch {
	case errors.Is(err, errLeaving), errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded): // it says nothing
	case unreachable(err):
		f.last, f.until = err, time.Now().Add(f.pause)
	default:
		f.last = nil
	}
}

// unreachable reports whether an error says that a server cannot be reached, or does not work
// at all, rather than something of one request.
func unreachable(err error) bool {
	var answer *S3Error
	if errors.As(err, &answer) {
		return answer.Status >= http.StatusInternalServerError || answer.Status == http.StatusTooManyRequests
	}
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return false
	}
	if errors.Is(err, errBroken) {
		return true
	}
	var netErr net.Error // every error of net/http is one
	return errors.As(err, &netErr)
}

// Put implements Files.
func (f *FailFast) Put(ctx context.Context, name string, rd io.Reader) (n int64, err error) {
	err = f.do(ctx, func() error {
		n, err = f.Backend.Put(ctx, name, rd)
		return err
	})
	return n, err
}

// Get implements Files.
func (f *FailFast) Get(ctx context.Context, name string, offset, length int64) (rd io.ReadCloser, err error) {
	err = f.do(ctx, func() error {
		rd, err = f.Backend.Get(ctx, name, offset, length)
		return err
	})
	return rd, err
}

// Stat implements Files.
func (f *FailFast) Stat(ctx context.Context, name string) (info Info, err error) {
	err = f.do(ctx, func() error {
		info, err = f.Backend.Stat(ctx, name)
		return err
	})
	return info, err
}

// List implements Files.
func (f *FailFast) List(ctx context.Context, dir string, each func(string) error) error {
	return f.do(ctx, func() error { return f.Backend.List(ctx, dir, each) })
}

// Remove implements Files.
func (f *FailFast) Remove(ctx context.Context, name string) error {
	return f.do(ctx, func() error { return f.Backend.Remove(ctx, name) })
}

// Create implements Backend.
func (f *FailFast) Create(ctx context.Context) error {
	return f.do(ctx, func() error { return f.Backend.Create(ctx) })
}

// Sweep implements Backend.
func (f *FailFast) Sweep(ctx context.Context, now time.Time) error {
	return f.do(ctx, func() error { return f.Backend.Sweep(ctx, now) })
}
