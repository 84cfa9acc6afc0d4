package snapshotter

import (
	"errors"
	"fmt"

	"github.com/PlakarKorp/kloset/caching"
	"github.com/PlakarKorp/kloset/objects"
	"github.com/PlakarKorp/kloset/packfile"

	"github.com/snapgate/gateway/store"
)

// rotateBlobs is after how many blobs a commit puts a state that tells of those that it has
// written, and forgets where they are: until then that takes about 80 bytes of memory each.
// Such a state makes no snapshot. If the commit fails, what it tells of is garbage that
// maintenance knows of, and of use to the next commit.
const rotateBlobs = 250_000

// putPackfile puts a packfile, and counts what is in it.
func (a *attempt) putPackfile(p packfile.Packfile) error {
	a.turn.RLock()
	err := a.rw.PutPackfile(p)
	a.turn.RUnlock()
	if err == nil {
		a.blobs.Add(int64(len(p.Entries())))
	}
	return err
}

// take takes over what was put ahead of the commit.
func (a *attempt) take(b *batch, live map[objects.MAC]struct{}) (done bool, err error) {
	n, err := b.copyTo(a.state, a.delta, live)
	if err != nil {
		return false, fmt.Errorf("state delta: %w", err)
	}
	a.blobs.Add(n)
	return a.relieve()
}

// relieve puts a state when a commit has written much since the last one. It is for the
// goroutine of the commit.
func (a *attempt) relieve() (done bool, err error) {
	if a.blobs.Load() < a.s.rotateBlobs {
		return false, nil
	}
	next, err := a.s.repo.AppContext().GetCache().Scan(objects.RandomMAC())
	if err != nil {
		return false, fmt.Errorf("state delta: %w", err)
	}
	old, id := a.delta, a.state
	a.s.uncommitted.Store(&uncommitted{repo: a.s.repo, deltas: []*caching.ScanCache{next, old}})
	a.delta, a.state = next, objects.RandomMAC()
	a.blobs.Store(0)
	err = a.lock.Valid()
	if err == nil {
		a.s.failpoint(FailStatePutBefore)
		a.turn.Lock()
		err = a.rw.RotateTransaction(next, id, a.state)
		a.turn.Unlock()
		if err != nil {
			err = store.Unavailable("state", err)
		}
		a.s.failpoint(FailStatePutAfter)
	}
	if err == nil {
		err = a.s.store.Ingest(id)
	}
	if err != nil {
		_ = old.Close() // in memory
		return false, errors.Join(err, a.s.store.DropState(id))
	}
	a.rw.RemoveTransaction(id)
	a.s.uncommitted.Store(&uncommitted{repo: a.s.repo, deltas: []*caching.ScanCache{next}})
	a.s.mu.Lock()
	if a.s.states != nil {
		a.s.states[id] = struct{}{}
	}
	a.s.mu.Unlock()
	return true, old.Close()
}
