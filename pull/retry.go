package pull

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"
)

// Retry says how often a call is made again after its connection was lost, or the server has refused it for now. The zero Retry
// takes the defaults. It is a value and safe for concurrent use.
type Retry struct {
	// Attempts is how often a call is made altogether before the connection is given up;
	// 0 for 6: with the pauses below, half a minute.
	Attempts int
	// First is the pause before the second attempt, doubled for each one after, up to Max:
	// 0 for 1 s and 30 s. Half of each is random, so that many do not come back at once.
	First, Max time.Duration

	breaks *breaks // nil: a call that fails while others do not is as any
}

const (
	// connectAttempts is how often a run tries to connect at first: whoever has mistyped a name
	// is not to wait long.
	connectAttempts = 3
	defaultAttempts = 6
	// busyAttempts is how often a call is made that the server refuses for now: what is not over after these
	// pauses, seven seconds at most, is the server's way of saying never, as a rule.
	busyAttempts = 4
	defaultFirst = time.Second
	defaultMax   = 30 * time.Second
)

// Connecting returns the Retry of the first calls of a run, which makes fewer attempts. Once the server has
// answered, r is to be used.
func (r Retry) Connecting() Retry {
	if r.Attempts <= 0 || r.Attempts > connectAttempts {
		r.Attempts = connectAttempts
	}
	return r
}

// Do calls op until it returns something else than KindConnection, at most Attempts times, or KindBusy, four times.
// Progress, where op reports it, makes the count begin anew. With Watching, an op that loses each of
// its connections while the server answers ends in KindBreaks, and a server that refuses many ops to the end is not waited for.
func (r Retry) Do(ctx context.Context, op func() (progress bool, err error)) error {
	attempts, pause, most := r.Attempts, r.First, r.Max
	if attempts <= 0 {
		attempts = defaultAttempts
	}
	if pause <= 0 {
		pause = defaultFirst
	}
	if most <= 0 {
		most = defaultMax
	}
	first := pause
	for n := 1; ; n++ {
		progress, err := r.breaks.do(ctx, op)
		limit := attempts
		switch {
		case err != nil && lost(err):
		case err != nil && KindOf(err) == KindBusy && r.breaks.waits():
			limit = min(attempts, busyAttempts)
		default:
			if n > 1 {
				r.breaks.waited(err)
			}
			return err
		}
		if cause := ctx.Err(); cause != nil {
			return cause
		}
		if progress {
			n, pause = 1, first
		}
		if n >= limit {
			r.breaks.waited(err)
			return err
		}
		t := time.NewTimer(pause/2 + rand.N(pause/2+1))
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return ctx.Err()
		}
		pause = min(2*pause, most)
	}
}

// lost reports whether err says that a connection was lost.
func lost(err error) bool {
	var e *Error
	return errors.As(err, &e) && e.Kind == KindConnection
}
