package pull

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/snapgate/gateway/internal/sshclient"
)

const (
	// breakAttempts is how often a call may lose its connection, while the server answers
	// elsewhere, before it is the call that breaks it.
	breakAttempts = 6
	// maxBreaks is how many calls may break their connections in a run. With more it is not
	// they, but the server.
	maxBreaks = 32
	// maxBusy is how many calls in a row may be refused for now to their last attempt. With more it is the server's
	// way of saying never. Half as many are under way at a time over FTP: that all of them were refused says that it is busy.
	maxBusy = 2 * farFTPConnections
	// maxTurn is how long a call has its connection for itself: one that breaks it does so sooner, and
	// the upload of a large file is not to hold up the others.
	maxTurn = 10 * time.Second
)

// breaks tells calls that break connections from connections that break: a directory that makes
// the server's process crash from a server that is away. Safe for concurrent use.
type breaks struct {
	r    Remote
	most time.Duration // maxTurn; tests have less

	turn  sync.Mutex // held, for a while, during a call that has lost a connection: those of others would go with it
	mu    sync.Mutex // guards what follows; a leaf
	count int        // of calls that were given up
	busy  int        // of calls in a row that were refused for now, to the end
}

// waits reports whether a call that is refused for now is made again. A nil breaks always does.
func (b *breaks) waits() bool {
	if b == nil {
		return true
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.busy < maxBusy
}

// waited notes what came of a call that was made again.
func (b *breaks) waited(err error) {
	if b == nil {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case err == nil:
		b.busy = 0
	case KindOf(err) == KindBusy:
		b.busy++
	}
}

// Watching returns a Retry that looks whether the server answers when a call loses its connection:
// see Do.
func (r Retry) Watching(remote Remote) Retry {
	if r.breaks == nil {
		r.breaks = &breaks{r: remote, most: maxTurn}
	}
	return r
}

// do calls op until it succeeds or fails in another way than by a lost connection, until the server
// does not answer any more, or until it is op that breaks the connection. A nil breaks calls it once.
func (b *breaks) do(ctx context.Context, op func() (progress bool, err error)) (bool, error) {
	progress, err := op()
	if b == nil {
		return progress, err
	}
	for n := 1; err != nil && lost(err) && !progress && reached(err) && b.answers(ctx); n++ {
		if n == breakAttempts {
			return false, b.given(err)
		}
		progress, err = b.alone(op)
	}
	return progress, err
}

// alone calls op while no other is called so, for maxTurn at most.
func (b *breaks) alone(op func() (progress bool, err error)) (bool, error) {
	b.turn.Lock()
	release := sync.OnceFunc(b.turn.Unlock)
	defer release()
	late := time.AfterFunc(b.most, release)
	defer late.Stop()
	return op()
}

// reached reports whether a call that has lost its connection had one.
func reached(err error) bool {
	var e *Error
	var ssh *sshclient.Error
	switch {
	case !errors.As(err, &e), e.Op == "connect", e.Op == "log in":
		return false
	case errors.As(err, &ssh):
		return ssh.Kind == sshclient.KindClosed || ssh.Kind == sshclient.KindOther
	}
	return true
}

// answers reports whether the server answers a question that has nothing to do with the call. No
// connection is kept for it: it may be another one that is still good, or a new one.
func (b *breaks) answers(ctx context.Context) bool {
	_, err := b.r.Lstat(ctx, "/")
	return ctx.Err() == nil && (err == nil || !lost(err))
}

// given is the error of a call that is given up.
func (b *breaks) given(err error) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	var e *Error
	if b.count++; b.count > maxBreaks || !errors.As(err, &e) {
		return err
	}
	return &Error{Op: e.Op, Path: e.Path, Kind: KindBreaks, Err: e.Err}
}
