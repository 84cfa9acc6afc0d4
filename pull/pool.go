package pull

import (
	"context"
	"errors"
	"slices"
	"sync"
)

// errPoolClosed is the error of calls after Close of a remote.
var errPoolClosed = errors.New("remote is closed")

// session is a connection of a pool.
type session interface {
	comparable
	// Err is not nil when the connection cannot be used any more.
	Err() error
	Close() error
}

// busyCalls is how many calls a connection has before another one is made: one connection of
// SSH moves little over a long way, whatever the number of its calls.
const busyCalls = 2

// pool keeps the connections of a remote: a new one is made when all are busy, as long as
// there are fewer than the limit and the server lets us. A server that refuses another one
// sets the limit to what there is. Safe for concurrent use.
type pool[S session] struct {
	dial func(ctx context.Context) (S, error)

	mu      sync.Mutex // guards what follows; never held while a connection is made or closed
	limit   int
	conns   []*pooled[S]
	dialing bool
	waiting []chan grant[S] // first come, first served
	closed  bool
}

// pooled is a connection with the number of calls that it takes at a time.
type pooled[S session] struct {
	s           S
	used, share int
}

// grant is what a waiting call gets: a connection, an error, or neither, to try again.
type grant[S session] struct {
	conn *pooled[S]
	err  error
}

func newPool[S session](limit int, dial func(ctx context.Context) (S, error)) *pool[S] {
	return &pool[S]{dial: dial, limit: limit}
}

// get waits for a connection; put gives it back. share is how many calls a new connection
// takes at a time. Errors are those of dial, when there is no connection at all.
func (p *pool[S]) get(ctx context.Context, share func(S) int) (*pooled[S], error) {
	for {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		p.mu.Lock()
		if p.closed {
			p.mu.Unlock()
			return nil, errPoolClosed
		}
		dead := p.dropDead()
		if c := p.free(); c != nil && (c.used < busyCalls || p.dialing || len(p.conns) >= p.limit) {
			c.used++
			p.mu.Unlock()
			closeAll(dead)
			return c, nil
		}
		if !p.dialing && len(p.conns) < p.limit {
			p.dialing = true
			p.mu.Unlock()
			closeAll(dead)
			c, err := p.grow(ctx, share)
			if c != nil || err != nil {
				return c, err
			}
			continue
		}
		wait := make(chan grant[S], 1)
		p.waiting = append(p.waiting, wait)
		p.mu.Unlock()
		closeAll(dead)
		select {
		case g := <-wait:
			if g.conn != nil || g.err != nil {
				return g.conn, g.err
			}
		case <-ctx.Done():
			p.mu.Lock()
			p.waiting = slices.DeleteFunc(p.waiting, func(w chan grant[S]) bool { return w == wait })
			p.mu.Unlock()
			select {
			case g := <-wait: // it came meanwhile
				if g.conn != nil {
					p.put(g.conn)
				} else {
					p.mu.Lock()
					p.wake()
					p.mu.Unlock()
				}
			default:
			}
			return nil, ctx.Err()
		}
	}
}

// grow makes a connection. It returns neither a connection nor an error when the caller has
// to wait for one of those that there are.
func (p *pool[S]) grow(ctx context.Context, share func(S) int) (*pooled[S], error) {
	s, err := p.dial(ctx)
	p.mu.Lock()
	p.dialing = false
	if err == nil && p.closed {
		p.mu.Unlock()
		_ = s.Close()
		return nil, errPoolClosed
	}
	defer p.mu.Unlock()
	if err == nil {
		c := &pooled[S]{s: s, used: 1, share: max(share(s), 1)}
		p.conns = append(p.conns, c)
		p.wake()
		return c, nil
	}
	if cause := ctx.Err(); cause != nil {
		p.wake() // another one may dial
		return nil, cause
	}
	if len(p.conns) > 0 {
		p.limit = len(p.conns)
		p.wake()
		return nil, nil
	}
	for _, w := range p.waiting {
		w <- grant[S]{err: err}
	}
	p.waiting = nil
	return nil, err
}

// free returns the least busy connection that takes another call, nil when there is none.
// The caller holds p.mu.
func (p *pool[S]) free() *pooled[S] {
	var best *pooled[S]
	for _, c := range p.conns {
		if c.used < c.share && (best == nil || c.used < best.used) {
			best = c
		}
	}
	return best
}

// dropDead forgets the connections that have ended. The caller holds p.mu, and closes them
// without it.
func (p *pool[S]) dropDead() []S {
	var dead []S
	p.conns = slices.DeleteFunc(p.conns, func(c *pooled[S]) bool {
		if c.s.Err() == nil {
			return false
		}
		dead = append(dead, c.s)
		return true
	})
	return dead
}

// wake serves those who wait. The caller holds p.mu.
func (p *pool[S]) wake() {
	for len(p.waiting) > 0 {
		c := p.free()
		if c == nil {
			// The first may make a connection where that is allowed.
			if !p.dialing && len(p.conns) < p.limit {
				p.waiting[0] <- grant[S]{}
				p.waiting = p.waiting[1:]
			}
			return
		}
		c.used++
		p.waiting[0] <- grant[S]{conn: c}
		p.waiting = p.waiting[1:]
	}
}

// put gives a connection back. One that has ended is closed.
func (p *pool[S]) put(c *pooled[S]) {
	p.mu.Lock()
	c.used--
	dead := p.dropDead()
	p.wake()
	p.mu.Unlock()
	closeAll(dead)
}

// close ends all connections. Those that are in use fail.
func (p *pool[S]) close() {
	p.mu.Lock()
	p.closed = true
	conns := p.conns
	p.conns = nil
	for _, w := range p.waiting {
		w <- grant[S]{err: errPoolClosed}
	}
	p.waiting = nil
	p.mu.Unlock()
	for _, c := range conns {
		_ = c.s.Close()
	}
}

func closeAll[S session](list []S) {
	for _, s := range list {
		_ = s.Close()
	}
}
