package pull

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"
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

const (
	// busyCalls is how many calls a connection has before another one is made: one connection
	// of SSH moves little over a long way, whatever the number of its calls.
	busyCalls = 2
	// dialsAtOnce is pool.atOnce unless it is set. A login over SSH costs a dozen round trips;
	// OpenSSH's MaxStartups begins to refuse at ten that have not logged in yet.
	dialsAtOnce = 4
	// farAway is the round trip from which on more connections are made, as far as nobody has set
	// how many: within a country it takes less.
	farAway = 20 * time.Millisecond
)

// connections is how many are made to a server: as many as are set, or the default for its distance.
func connections(set, near, far int, roundTrip time.Duration) int {
	switch {
	case set > 0:
		return set
	case roundTrip >= farAway:
		return far
	}
	return near
}

// pool keeps the connections of a remote: new ones are made beside when all are busy, as long as
// there are fewer than the limit and the server lets us. A server that refuses another one
// sets the limit to what there is. Safe for concurrent use.
type pool[S session] struct {
	dial  func(ctx context.Context) (S, error)
	share func(S) int // how many calls a connection takes at a time
	most  func(S) int // how many connections there may be, by one of them
	// atOnce is how many connections are being made at a time, once the server has let us in.
	atOnce int
	// eager reports, by the first connection, whether others are made before they are needed; nil
	// for never.
	eager func(S) bool

	over  context.Context // ends with close, and dials with it
	stop  context.CancelFunc
	dials sync.WaitGroup

	mu      sync.Mutex // guards what follows; never held while a connection is made or closed
	limit   int        // most, or less when the server has refused; 1 while there is none
	conns   []*pooled[S]
	dialing int
	waiting []chan grant[S] // first come, first served
	resting []*lease        // empty while anybody waits
	closed  bool
}

// lease is a call of a connection that is kept only as long as nobody waits for one.
type lease struct {
	release func() // puts it back; never called under pool.mu
}

// pooled is a connection with the number of calls that it takes at a time.
type pooled[S session] struct {
	s           S
	used, share int
}

// grant is what a waiting call gets: a connection or an error.
type grant[S session] struct {
	conn *pooled[S]
	err  error
}

func newPool[S session](most, share func(S) int, dial func(ctx context.Context) (S, error)) *pool[S] {
	p := &pool[S]{dial: dial, share: share, most: most, atOnce: dialsAtOnce, limit: 1}
	p.over, p.stop = context.WithCancel(context.Background())
	return p
}

// get waits for a connection; put gives it back. Errors are those of dial, when there is no
// connection at all.
func (p *pool[S]) get(ctx context.Context) (*pooled[S], error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		return nil, errPoolClosed
	}
	dead := p.dropDead()
	c := p.free()
	if c == nil || c.used >= busyCalls {
		p.grow()
	}
	if c != nil {
		c.used++
		p.mu.Unlock()
		closeAll(dead)
		return c, nil
	}
	wait := make(chan grant[S], 1)
	p.waiting = append(p.waiting, wait)
	resting := p.resting
	p.resting = nil
	p.mu.Unlock()
	closeAll(dead)
	for _, l := range resting {
		l.release()
	}
	select {
	case g := <-wait:
		return g.conn, g.err
	case <-ctx.Done():
	}
	p.mu.Lock()
	p.waiting = slices.DeleteFunc(p.waiting, func(w chan grant[S]) bool { return w == wait })
	p.mu.Unlock()
	select {
	case g := <-wait: // it came meanwhile
		if g.conn != nil {
			p.put(g.conn)
		}
	default:
	}
	return nil, ctx.Err()
}

// beside returns the least busy other connection than c, to be put back. It does not wait: when there is
// none that takes a call, making says that one is being made.
func (p *pool[S]) beside(c *pooled[S]) (other *pooled[S], making bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.waiting) > 0 || p.closed {
		return nil, false
	}
	for _, o := range p.conns {
		if o != c && o.s.Err() == nil && o.used < o.share && (other == nil || o.used < other.used) {
			other = o
		}
	}
	if other == nil {
		p.grow()
		return nil, p.dialing > 0
	}
	other.used++
	return other, false
}

// size is how many connections there may be; 1 before the first.
func (p *pool[S]) size() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.limit
}

// crowded reports whether a connection has more calls than another one would have with one of
// them.
func (p *pool[S]) crowded(c *pooled[S]) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, other := range p.conns {
		if other.used+1 < c.used && other.used < other.share {
			return true
		}
	}
	return false
}

// rest keeps a call of a connection, which has nothing to do for now, until resume, or until somebody
// waits for a connection: release is called then, by another goroutine, and puts it back. It returns
// nil, and keeps nothing, when somebody waits already.
func (p *pool[S]) rest(release func()) *lease {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed || len(p.waiting) > 0 {
		return nil
	}
	l := &lease{release: release}
	p.resting = append(p.resting, l)
	return l
}

// resume takes back what rests. It reports false when that was released, or is about to be.
func (p *pool[S]) resume(l *lease) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	i := slices.Index(p.resting, l)
	if i < 0 {
		return false
	}
	p.resting = slices.Delete(p.resting, i, i+1)
	return true
}

// wanted reports whether somebody waits for a connection.
func (p *pool[S]) wanted() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.waiting) > 0
}

// ready waits for the first connection.
func (p *pool[S]) ready(ctx context.Context) error {
	c, err := p.get(ctx)
	if err == nil {
		p.put(c)
	}
	return err
}

// grow makes another connection beside, where that is allowed. The first is made alone: it shows
// whether the server lets us in. The caller holds p.mu.
func (p *pool[S]) grow() {
	most := p.atOnce
	if len(p.conns) == 0 {
		most = 1
	}
	if p.closed || p.dialing >= most || len(p.conns)+p.dialing >= p.limit {
		return
	}
	p.dialing++
	p.dials.Go(func() {
		s, err := p.dial(p.over)
		if !p.dialed(s, err) {
			_ = s.Close()
		}
	})
}

// dialed takes a connection that was made, or why it was not. It reports whether the connection,
// if it is one, is wanted.
func (p *pool[S]) dialed(s S, err error) (wanted bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.dialing--
	switch {
	case p.closed:
		return err != nil
	case err == nil:
		if len(p.conns) == 0 {
			p.limit = p.most(s) // what was refused before the others were lost need not be refused now
		}
		p.conns = append(p.conns, &pooled[S]{s: s, share: max(p.share(s), 1)})
		if len(p.conns) == 1 && p.eager != nil && p.eager(s) {
			for range p.atOnce {
				p.grow()
			}
		}
		p.wake()
	case len(p.conns) > 0:
		p.limit = len(p.conns) + p.dialing
		p.wake()
	case p.dialing == 0:
		for _, w := range p.waiting {
			w <- grant[S]{err: err}
		}
		p.waiting = nil
	}
	return true
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
			break
		}
		c.used++
		p.waiting[0] <- grant[S]{conn: c}
		p.waiting = p.waiting[1:]
	}
	for range p.waiting {
		p.grow()
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

// close ends all connections, those that are being made, too. Those that are in use fail.
func (p *pool[S]) close() {
	p.stop()
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
	p.dials.Wait()
}

func closeAll[S session](list []S) {
	for _, s := range list {
		_ = s.Close()
	}
}
