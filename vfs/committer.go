package vfs

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/snapgate/gateway/snapshotter"
)

// Bounds of the pause after a failed commit, which doubles from failure to failure. The
// pause itself is drawn from its upper half, so that many shares that lost the same store
// do not come back in step: 1 s to 2 s after the first failure, 30 s to 60 s at last.
const (
	retryFirst = 2 * time.Second
	retryMax   = time.Minute
)

// committerConfig is what a committer needs of its share.
type committerConfig struct {
	share  ShareConfig
	logger *slog.Logger
	// state summarises the share as of now. It is called often and must not block for I/O.
	state func() policyState
	// notify is pulsed (capacity 1, sent without blocking) after every change of state.
	notify <-chan struct{}
	// seal closes the current change set when it has changes.
	seal func(ctx context.Context, reason string) error
	// commitNext commits the oldest sealed set and reports whether there was one.
	commitNext func(ctx context.Context) (bool, error)
	// told learns how an attempt has ended, with the failures in a row; nil: nobody.
	told func(failures int, err error)
}

// committer decides when a share commits, and does it: one goroutine, run, in which all
// commits of the share happen one after the other. The other methods are safe for
// concurrent use.
type committer struct {
	committerConfig

	wake  chan struct{} // pulsed for requests and reloads; capacity 1
	ended chan struct{} // closed when run returns

	mu      sync.Mutex // guards what follows and cfg; a leaf
	cfg     ShareConfig
	waiting []commitRequest
	calls   []commitCall
	closed  bool

	// The rest belongs to run's goroutine once that runs.
	failures int         // in a row
	retryAt  time.Time   // when to try again after a failure, zero when there was none
	spent    policyState // a state in which a commit changed nothing: not to be tried again
}

// commitRequest waits for everything accepted before it to be in a snapshot.
type commitRequest struct {
	reason string
	done   chan error // capacity 1
}

// commitCall is something else that may not happen during a commit.
type commitCall struct {
	run  func(ctx context.Context) error
	done chan error // capacity 1
}

// newCommitter returns a committer that does nothing until run is called. Sets that are
// sealed by now are of an earlier process: run begins with them.
func newCommitter(c committerConfig) *committer {
	com := &committer{
		committerConfig: c,
		cfg:             c.share.withDefaults(),
		wake:            make(chan struct{}, 1),
		ended:           make(chan struct{}),
	}
	if c.state().sealed > 0 {
		com.retryAt = time.Now() // the commit of one may have failed then
	}
	return com
}

// reload takes over new settings; a decision under way still uses the old ones.
func (c *committer) reload(cfg ShareConfig) {
	c.mu.Lock()
	c.cfg = cfg.withDefaults()
	c.mu.Unlock()
	c.pulse()
}

// request returns nil when everything that was accepted before the call is in a snapshot,
// at once when it is already. While commits fail it makes one fresh attempt and returns
// that attempt's error, an *Error; the changes stay, and commits go on by themselves.
// Requests at the same time share a commit. When ctx ends first, the error is of
// KindTimeout, or KindClosed when it was cancelled, and the commit is made all the same.
func (c *committer) request(ctx context.Context, reason string) error {
	r := commitRequest{reason: reason, done: make(chan error, 1)}
	if err := c.enqueue(func() { c.waiting = append(c.waiting, r) }); err != nil {
		return err
	}
	select {
	case err := <-r.done:
		return err
	case <-ctx.Done():
		return errCause("commit", Name{}, errorKind(ctx.Err()), ctx.Err())
	}
}

// enqueue has add note something for run's goroutine, and wakes that; mu is held while add runs.
func (c *committer) enqueue(add func()) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return errKind("commit", Name{}, KindClosed)
	}
	add()
	c.pulse()
	return nil
}

// between calls f in run's goroutine, between two commits, and returns what it returns.
func (c *committer) between(ctx context.Context, f func(context.Context) error) error {
	call := commitCall{run: f, done: make(chan error, 1)}
	if err := c.enqueue(func() { c.calls = append(c.calls, call) }); err != nil {
		return err
	}
	select {
	case err := <-call.done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (c *committer) pulse() {
	select {
	case c.wake <- struct{}{}:
	default: // one is pending
	}
}

// run commits until ctx ends, which also ends a commit that is under way; what it has
// not committed stays. Requests that are waiting then fail with KindClosed. It must be
// called once.
func (c *committer) run(ctx context.Context) {
	defer c.end()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for ctx.Err() == nil {
		next := c.step(ctx)
		timer.Reset(max(next, 0))
		select {
		case <-ctx.Done():
		case <-c.notify:
		case <-c.wake:
		case <-timer.C:
		}
	}
}

// maxNap bounds the time between two decisions: schedules and recovered times follow the
// wall clock, which can be set while a timer runs.
const maxNap = time.Minute

// step does what is to be done now and returns how long nothing is to be done.
func (c *committer) step(ctx context.Context) time.Duration {
	c.mu.Lock()
	cfg, requests, calls := c.cfg, c.waiting, c.calls
	c.waiting, c.calls = nil, nil
	c.mu.Unlock()
	for _, call := range calls {
		call.done <- call.run(ctx)
	}
	if len(requests) > 0 {
		err := c.attempt(ctx, requests[0].reason)
		if err != nil {
			err = commitError(err)
		}
		for _, r := range requests {
			r.done <- err
		}
		return 0
	}

	now := time.Now()
	st := c.state()
	d := decide(cfg, st, now)
	switch {
	case !c.retryAt.IsZero():
		if now.Before(c.retryAt) {
			return min(c.retryAt.Sub(now), maxNap)
		}
		d.commit = true
	case st.headless:
		d.commit = true // after a failure it has its time
	case d.commit && st == c.spent:
		return maxNap
	}
	if !d.commit {
		if d.wake.IsZero() {
			return maxNap
		}
		return min(d.wake.Sub(now), maxNap)
	}
	if c.attempt(ctx, d.reason) == nil && c.state() == st {
		c.spent = st
	}
	return 0
}

// attempt seals the current set, when reason is not empty, and commits what is sealed. It
// keeps the account of failures, and logs them: whoever asked for the commit may be gone,
// and the policy's own commits have nobody to tell.
func (c *committer) attempt(ctx context.Context, reason string) error {
	err := c.commitAll(ctx, reason)
	switch {
	case err == nil:
		if c.failures > 0 {
			c.logger.LogAttrs(ctx, slog.LevelInfo, "commits work again",
				slog.String("share", c.share.Name), slog.Int("failures", c.failures))
		}
		c.failures, c.retryAt = 0, time.Time{}
		c.tell(nil)
	case ctx.Err() != nil: // the end, not a failure
	default:
		c.failures++
		pause := retryPause(c.failures)
		c.retryAt = time.Now().Add(pause)
		c.logger.LogAttrs(ctx, slog.LevelWarn, "commit failed, the changes are kept",
			slog.String("share", c.share.Name), slog.Int("attempt", c.failures),
			slog.Duration("retry_in", pause), slog.Any("err", err))
		c.tell(err)
	}
	return err
}

func (c *committer) tell(err error) {
	if c.told != nil {
		c.told(c.failures, err)
	}
}

// commitAll commits the sets that are sealed after sealing the current one. It stops at
// the first failure. Sets that are sealed meanwhile are taken along unless somebody waits.
// A head that is to be looked for is, without any set, too: that nothing was tried is no success.
func (c *committer) commitAll(ctx context.Context, reason string) error {
	if reason != "" {
		if err := c.seal(ctx, reason); err != nil {
			return err
		}
	}
	st := c.state()
	owed := st.sealed
	if st.headless {
		owed = max(owed, 1)
	}
	for done := 0; ; done++ {
		if err := ctx.Err(); err != nil {
			return err
		}
		if done >= owed && c.wanted() {
			return nil
		}
		more, err := c.commitNext(ctx)
		if err != nil || !more {
			return err
		}
	}
}

// wanted reports whether somebody waits.
func (c *committer) wanted() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.waiting)+len(c.calls) > 0
}

// end answers the requests that nobody will serve.
func (c *committer) end() {
	c.mu.Lock()
	c.closed = true
	waiting, calls := c.waiting, c.calls
	c.waiting, c.calls = nil, nil
	c.mu.Unlock()
	for _, call := range calls {
		call.done <- errKind("commit", Name{}, KindClosed)
	}
	for _, r := range waiting {
		r.done <- errKind("commit", Name{}, KindClosed)
	}
	close(c.ended)
}

// retryPause is how long to wait after so many failures in a row.
func retryPause(failures int) time.Duration {
	pause := retryMax
	if shift := failures - 1; shift < 5 { // 2 s << 5 is beyond a minute
		pause = retryFirst << shift
	}
	return pause/2 + rand.N(pause/2)
}

// commitError gives a failed commit the Kind that a client is told.
func commitError(err error) error {
	var known *Error
	switch {
	case errors.As(err, &known):
		return err
	case errors.Is(err, snapshotter.ErrUnavailable), errors.Is(err, snapshotter.ErrBusy):
		return errCause("commit", Name{}, KindUnavailable, err)
	case errors.Is(err, context.Canceled):
		return errCause("commit", Name{}, KindClosed, err)
	}
	return errCause("commit", Name{}, KindOther, err)
}
