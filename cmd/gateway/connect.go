package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/snapgate/gateway/cmd/gateway/internal/config"
	"github.com/snapgate/gateway/cmd/gateway/internal/remote"
	"github.com/snapgate/gateway/pull"
)

// connecting is a remote that is connected to while the store is opened: deriving its key takes as
// long as a login does.
type connecting struct {
	r      pull.Remote // nil when it could not be opened
	cancel context.CancelFunc
	done   chan struct{}
	err    error // when done is closed
}

// connect begins to connect to a remote, which it owns. What is not on a server has nothing to do.
func connect(ctx context.Context, r pull.Remote, err error) *connecting {
	ctx, cancel := context.WithCancel(ctx)
	c := &connecting{cancel: cancel, done: make(chan struct{}), err: err}
	if err == nil {
		c.r = r
	}
	server, ok := c.r.(pull.Connecter)
	if !ok {
		close(c.done)
		return c
	}
	go func() {
		defer close(c.done)
		c.err = server.Connect(ctx)
	}()
	return c
}

// connectSource begins to connect to a source.
func connectSource(ctx context.Context, src *config.Source, log *slog.Logger) *connecting {
	r, err := remote.Open(ctx, &src.Remote, remote.Options{Log: log})
	return connect(ctx, r, err)
}

// remote waits for the connection, and returns the remote, or why there is none if the reason
// stays. What may be over at the next attempt is for whoever makes that. It waits no longer than limit, unless that is
// 0, and says pull.ErrTooLong then.
func (c *connecting) remote(limit time.Duration) (pull.Remote, error) {
	var over <-chan time.Time
	if limit > 0 {
		over = time.After(limit)
	}
	select {
	case <-c.done:
	case <-over:
		return nil, fmt.Errorf("%w: more than %v", pull.ErrTooLong, limit)
	}
	if c.err != nil && !errors.Is(c.err, context.Canceled) && pull.KindOf(c.err) != pull.KindConnection {
		return nil, c.err
	}
	return c.r, nil
}

// close gives up what is not done yet, and closes the remote.
func (c *connecting) close() error {
	c.cancel()
	<-c.done
	if c.r == nil {
		return nil
	}
	return c.r.Close()
}
