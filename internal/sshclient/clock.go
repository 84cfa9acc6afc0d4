package sshclient

import (
	"context"
	"sync"
	"time"
)

// clock bounds how long dials take, and stands still while a person is asked. It is safe for
// concurrent use; the zero clock is ready.
type clock struct {
	mu     sync.Mutex // guards what follows
	asking int
	bounds map[*bound]struct{}
}

// bound is a dial under way.
type bound struct {
	timer *time.Timer
	left  time.Duration // when the timer was started last
	since time.Time     // of that start
}

// bound ends a context after limit, with a stageTimeout; 0 is no limit.
func (c *clock) bound(ctx context.Context, limit time.Duration) (context.Context, context.CancelFunc) {
	if limit <= 0 {
		return ctx, func() {}
	}
	ctx, cancel := context.WithCancelCause(ctx)
	b := &bound{left: limit, since: time.Now()}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.bounds == nil {
		c.bounds = map[*bound]struct{}{}
	}
	c.bounds[b] = struct{}{}
	b.timer = time.AfterFunc(limit, func() { cancel(&stageTimeout{stage: "login", limit: limit}) })
	if c.asking > 0 {
		b.timer.Stop()
	}
	return ctx, func() {
		c.mu.Lock()
		delete(c.bounds, b)
		b.timer.Stop()
		c.mu.Unlock()
		cancel(nil)
	}
}

// asks returns a function that asks a person as ask does, while the clock stands still; nil for nil.
func (c *clock) asks(ask func(context.Context, string) ([]byte, error)) func(context.Context, string) ([]byte, error) {
	if ask == nil {
		return nil
	}
	return func(ctx context.Context, question string) ([]byte, error) {
		c.stop()
		defer c.goOn()
		return ask(ctx, question)
	}
}

func (c *clock) stop() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.asking++; c.asking > 1 {
		return
	}
	for b := range c.bounds {
		if b.timer.Stop() {
			b.left -= time.Since(b.since)
		} else {
			b.left = 0 // it has ended
		}
	}
}

func (c *clock) goOn() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.asking--; c.asking > 0 {
		return
	}
	for b := range c.bounds {
		if b.left > 0 {
			b.since = time.Now()
			b.timer.Reset(b.left)
		}
	}
}
