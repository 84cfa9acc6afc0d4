package main

import (
	"context"
	"sync"
	"time"

	"github.com/snapgate/gateway/snapshotter"
)

// How the store is asked: what is younger than probeAge is believed; whoever asks waits for
// probePatience and takes what was known before then; a question ends after probeTimeout.
const (
	probeAge      = 10 * time.Second
	probePatience = 2 * time.Second
	probeTimeout  = 30 * time.Second
)

// probe knows whether the store can be reached and what is in it, without keeping anybody
// waiting who asks: metrics, readiness, status. Safe for concurrent use.
type probe struct {
	available func(ctx context.Context) error
	list      func(ctx context.Context) ([]snapshotter.Snapshot, error)
	// commits counts the snapshots that this gateway has made: another one makes what is known old.
	commits func() uint64

	mu      sync.Mutex // guards the rest
	last    probed
	looking chan struct{} // closed when the look under way has ended; nil: none is
	stop    context.CancelFunc
	closed  bool
	looks   sync.WaitGroup
}

// probed is what was found.
type probed struct {
	at     time.Time // zero: nothing is known yet
	commit uint64    // what commits said then
	store  error     // why the store cannot be used, nil when it can
	since  time.Time // when that was noticed
	listed bool      // shares is known
	list   error     // why it is not
	shares map[string]listed
}

// listed is what the store has of a share.
type listed struct {
	count  int
	newest snapshotter.Snapshot
}

// look returns what is known, at most probeAge old, or older when the store takes its time.
func (p *probe) look(ctx context.Context) probed {
	p.mu.Lock()
	fresh := !p.last.at.IsZero() && time.Since(p.last.at) < probeAge && p.last.commit == p.commits()
	if p.closed || fresh {
		defer p.mu.Unlock()
		return p.last
	}
	if p.looking == nil {
		p.looking = make(chan struct{})
		var lookCtx context.Context
		lookCtx, p.stop = context.WithTimeout(context.Background(), probeTimeout)
		p.looks.Add(1)
		go p.ask(lookCtx)
	}
	looking := p.looking
	p.mu.Unlock()
	patience := time.NewTimer(probePatience)
	defer patience.Stop()
	select {
	case <-looking:
	case <-ctx.Done():
	case <-patience.C:
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.last
}

func (p *probe) ask(ctx context.Context) {
	defer p.looks.Done()
	found := probed{commit: p.commits(), store: p.available(ctx), shares: map[string]listed{}}
	list, err := p.list(ctx)
	found.listed, found.list = err == nil, err
	for _, s := range list { // the newest first
		l := found.shares[s.Share]
		if l.count == 0 {
			l.newest = s
		}
		l.count++
		found.shares[s.Share] = l
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.stop()
	found.at = time.Now()
	if found.store != nil {
		found.since = found.at
		if p.last.store != nil {
			found.since = p.last.since
		}
	}
	p.last = found
	close(p.looking)
	p.looking = nil
}

// close waits for the look under way; what is known stays.
func (p *probe) close() {
	p.mu.Lock()
	p.closed = true
	if p.looking != nil {
		p.stop()
	}
	p.mu.Unlock()
	p.looks.Wait()
}
