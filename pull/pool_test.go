package pull

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
)

// phone is a connection of a pool under test.
type phone struct{ dead, closed atomic.Bool }

func (l *phone) Err() error {
	if l.dead.Load() {
		return errors.New("lost")
	}
	return nil
}

func (l *phone) Close() error {
	l.closed.Store(true)
	return nil
}

// exchange makes connections when it is told to.
type exchange struct {
	begun  atomic.Int32
	answer chan error // one for each dial
}

func (x *exchange) dial(ctx context.Context) (*phone, error) {
	x.begun.Add(1)
	select {
	case err := <-x.answer:
		if err != nil {
			return nil, err
		}
		return &phone{}, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// newExchange makes a pool whose connections take so many calls at a time.
func newExchange(most, share int) (*exchange, *pool[*phone]) {
	x := &exchange{answer: make(chan error)}
	return x, newPool(func(*phone) int { return most }, func(*phone) int { return share }, x.dial)
}

// taken gets connections and remembers what came.
type taken struct {
	wg    sync.WaitGroup
	mu    sync.Mutex // guards what follows
	conns []*pooled[*phone]
	errs  []error
}

func (k *taken) get(ctx context.Context, p *pool[*phone]) {
	k.wg.Go(func() {
		c, err := p.get(ctx)
		k.mu.Lock()
		defer k.mu.Unlock()
		if err != nil {
			k.errs = append(k.errs, err)
		} else {
			k.conns = append(k.conns, c)
		}
	})
}

// The first connection is made alone, the others at the same time, and no more than may be.
func TestPoolDials(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x, p := newExchange(8, 1)
		defer p.close()
		var k taken
		for range 10 {
			k.get(t.Context(), p)
		}
		synctest.Wait()
		if n := x.begun.Load(); n != 1 {
			t.Errorf("%d connections are being made before the first is there", n)
		}
		for made := int32(1); made <= 8; made++ {
			x.answer <- nil
			synctest.Wait()
			if n, want := x.begun.Load(), min(made+dialsAtOnce, 8); n != want {
				t.Errorf("%d made, %d begun, want %d", made, n, want)
			}
		}
		first, second := k.conns[0], k.conns[1]
		p.put(first) // two still wait, and get them at once
		p.put(second)
		k.wg.Wait()
		if len(k.conns) != 10 || len(k.errs) > 0 {
			t.Errorf("%d calls have a connection, errors %v", len(k.conns), k.errs)
		}
	})
}

// A call does not wait for another connection while one takes it.
func TestPoolDialsBeside(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x, p := newExchange(4, 10)
		var k taken
		k.get(t.Context(), p)
		x.answer <- nil
		k.wg.Wait()
		for range 9 {
			if _, err := p.get(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		synctest.Wait()
		if n := x.begun.Load(); n != 4 {
			t.Errorf("%d connections begun, want 4", n)
		}
		p.close() // ends those that are being made
		if !k.conns[0].s.closed.Load() {
			t.Error("a connection is open after close")
		}
		if _, err := p.get(t.Context()); !errors.Is(err, errPoolClosed) {
			t.Errorf("after close: %v", err)
		}
	})
}

// All that wait for the first connection are told why there is none; the next call tries again.
func TestPoolFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x, p := newExchange(4, 1)
		defer p.close()
		var k taken
		for range 5 {
			k.get(t.Context(), p)
		}
		ctx, cancel := context.WithCancel(t.Context())
		k.get(ctx, p)
		synctest.Wait()
		cancel()
		synctest.Wait()
		refused := errors.New("refused")
		x.answer <- refused
		k.wg.Wait()
		other := 0
		for _, err := range k.errs {
			if !errors.Is(err, refused) {
				other++
			}
		}
		if len(k.errs) != 6 || other != 1 || x.begun.Load() != 1 {
			t.Errorf("%d dials, errors %v", x.begun.Load(), k.errs)
		}
		k.get(t.Context(), p)
		x.answer <- nil
		k.wg.Wait()
		if len(k.conns) != 1 {
			t.Errorf("the next call: %v", k.errs)
		}
	})
}

// A server that refuses another connection is not asked again, until all that there were are lost.
func TestPoolRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x, p := newExchange(3, 100)
		defer p.close()
		first := func() *pooled[*phone] {
			var k taken
			k.get(t.Context(), p)
			x.answer <- nil
			k.wg.Wait()
			return k.conns[0]
		}
		more := func() {
			for range 10 {
				if _, err := p.get(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			synctest.Wait()
		}
		c := first()
		more()
		for range 2 {
			x.answer <- errors.New("too many")
		}
		synctest.Wait()
		more()
		if n := x.begun.Load(); n != 3 {
			t.Errorf("%d connections begun, want 3: two were refused", n)
		}
		c.s.dead.Store(true)
		first()
		more()
		if n := x.begun.Load(); n != 6 || !c.s.closed.Load() {
			t.Errorf("%d connections begun, want 6 after all were lost", n)
		}
	})
}

// Where it takes long to log in, others are made with the first; and a connection says when another
// one has less to do.
func TestPoolEager(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x, p := newExchange(3, 10)
		p.eager = func(*phone) bool { return true }
		defer p.close()
		var k taken
		for range 3 {
			k.get(t.Context(), p)
		}
		x.answer <- nil
		k.wg.Wait()
		synctest.Wait()
		if n := x.begun.Load(); n != 3 {
			t.Errorf("%d connections begun, want 3", n)
		}
		if p.crowded(k.conns[0]) {
			t.Error("the only connection is crowded")
		}
		x.answer <- nil
		synctest.Wait()
		if !p.crowded(k.conns[0]) {
			t.Error("one of two connections has three calls, and is not crowded")
		}
		p.put(k.conns[0])
		p.put(k.conns[0])
		if p.crowded(k.conns[0]) {
			t.Error("a connection with one call is crowded")
		}
	})
}

// Calls that rest are there for whoever waits, and none rests while anybody does.
func TestPoolRest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x, p := newExchange(1, 2)
		defer p.close()
		var k taken
		k.get(t.Context(), p)
		x.answer <- nil
		k.wg.Wait()
		c := k.conns[0]
		k.get(t.Context(), p)
		k.wg.Wait()
		released := 0
		release := func() {
			released++
			p.put(c)
		}
		first, second := p.rest(release), p.rest(release)
		if first == nil || second == nil {
			t.Fatal("nobody waits, and nothing may rest")
		}
		if !p.resume(first) || p.resume(first) {
			t.Error("what rests is not taken back once")
		}
		k.get(t.Context(), p)
		k.wg.Wait()
		if released != 1 || len(k.conns) != 3 || p.resume(second) {
			t.Errorf("%d released, %d calls have a connection", released, len(k.conns))
		}
		k.get(t.Context(), p)
		synctest.Wait()
		if p.rest(release) != nil {
			t.Error("a call rests while another one waits")
		}
		p.put(c)
		k.wg.Wait()
		if p.rest(release) == nil {
			t.Error("nobody waits any more, and nothing may rest")
		}
	})
}
