package snapshotter

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/PlakarKorp/kloset/objects"
	"github.com/PlakarKorp/kloset/repository"
	"github.com/PlakarKorp/kloset/resources"

	"github.com/snapgate/gateway/store"
)

// Why Remove refuses; test with errors.Is.
var (
	// ErrPinned means that somebody has pinned a snapshot.
	ErrPinned = errors.New("the snapshot is pinned")
	// ErrNewest means that a snapshot is the newest of its lineage: the head of a share, and
	// what the next commit or pull is built upon.
	ErrNewest = errors.New("the snapshot is the newest of its line")
	// ErrNeeded means that changes which no snapshot holds yet take bytes from a snapshot.
	ErrNeeded = errors.New("changes that wait need the snapshot")
)

// removedCacheSize bounds the removed snapshots that can still be opened, of about 0.5 KiB.
const removedCacheSize = 1024

// Remove takes snapshots out of the store as kloset does: a state tells that they are deleted, so
// that nobody lists them any more, stock plakar neither. Their data stay until maintenance finds
// that nobody refers to them. It is all or nothing, and durable when it returns nil; what is not
// there any more does not count. Views that are open stay valid as long as the data are there.
//
// It reads the pins, and writes the state, under the exclusive lock of the store, so that a pin of
// another process either counts or fails. Beside somebody who holds a shared lock for long, as a copy
// does, it has a shared one: then a pin that another process makes in that moment may be lost.
//
// Errors: ErrPinned and ErrNewest, of any of them; ErrBusy, ErrUnavailable.
func (s *Snapshotter) Remove(ctx context.Context, ids ...ID) error {
	return s.RemoveUnneeded(ctx, nil, ids...)
}

// RemoveUnneeded is Remove that refuses, with ErrNeeded, what is needed when no commit is under way any more: what was known
// before may be long ago. needed must not wait for anything that uses the Snapshotter.
func (s *Snapshotter) RemoveUnneeded(ctx context.Context, needed func() map[ID]struct{}, ids ...ID) error {
	err := s.alter(ctx, s.lockAlone, func(rw *repository.RepositoryWriter) (bool, error) {
		var now map[ID]struct{}
		if needed != nil {
			now = needed()
		}
		gone, err := s.removable(ids, now)
		if err != nil {
			return false, err
		}
		for _, r := range gone {
			if err := rw.DeleteStateResource(resources.RT_SNAPSHOT, objects.MAC(r.snap.ID)); err != nil {
				return false, fmt.Errorf("state delta: %w", err)
			}
		}
		s.failpoint(FailRemoveBefore)
		return len(gone) > 0, nil
	}, func() {
		s.failpoint(FailRemoveAfter)
		s.forget(ids)
	})
	if err != nil {
		return fmt.Errorf("remove snapshots: %w", err)
	}
	return nil
}

// removable returns the records of those that are there, if all of them may go. It needs s.write
// and a lock on the store.
func (s *Snapshotter) removable(ids []ID, needed map[ID]struct{}) ([]*record, error) {
	pins, err := s.allPins()
	if err != nil {
		return nil, err
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	newest := make(map[Lineage]*record)
	for _, r := range s.records {
		line := Lineage{r.snap.GatewayID, r.snap.ShareID}
		if at := newest[line]; at == nil || newerInLine(r, at) {
			newest[line] = r
		}
	}
	var gone []*record
	seen := make(map[ID]bool, len(ids))
	for _, id := range ids {
		r := s.records[id]
		if r == nil || seen[id] {
			continue
		}
		seen[id] = true
		if pins[[pinBytes]byte(id[:pinBytes])].pinned() {
			return nil, fmt.Errorf("snapshot %s of %s: %w", id, r.snap.Share, ErrPinned)
		}
		if !r.snap.Foreign() && newest[Lineage{r.snap.GatewayID, r.snap.ShareID}] == r {
			return nil, fmt.Errorf("snapshot %s of %s: %w", id, r.snap.Share, ErrNewest)
		}
		for _, id := range r.snap.IDs() {
			if _, ok := needed[id]; ok {
				return nil, fmt.Errorf("snapshot %s of %s: %w", r.snap.ID, r.snap.Share, ErrNeeded)
			}
		}
		gone = append(gone, r)
	}
	return gone, nil
}

// newerInLine orders the snapshots of one lineage: by number, as only copies of a data directory
// make two of one.
func newerInLine(a, b *record) bool {
	switch {
	case a.snap.Sequence != b.snap.Sequence:
		return a.snap.Sequence > b.snap.Sequence
	case slices.Contains(a.snap.Replaces, b.snap.ID):
		return true
	case slices.Contains(b.snap.Replaces, a.snap.ID):
		return false
	}
	return newestFirst(a, b) < 0
}

// forget takes snapshots that were removed from the list. They can still be opened for a while:
// somebody may be about to read one that he has just seen.
func (s *Snapshotter) forget(ids []ID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, id := range ids {
		r := s.records[id]
		if r == nil {
			continue
		}
		s.removed.Add(id, r)
		delete(s.records, id)
		maps.DeleteFunc(s.standIns, func(_ ID, o *record) bool { return o == r })
		share := r.snap.Share
		list := slices.DeleteFunc(slices.Clone(s.byShare[share]), func(o *record) bool { return o == r })
		if s.byShare[share] = list; len(list) == 0 {
			delete(s.byShare, share)
		}
	}
}

// lockAlone is lockStore with the exclusive lock, or a shared one when others have some.
func (s *Snapshotter) lockAlone(ctx context.Context) (*store.Lock, func(), error) {
	return s.lockStoreBy(ctx, func(ctx context.Context) (*store.Lock, error) {
		lock, err := s.store.LockExclusively(ctx)
		if errors.Is(err, store.ErrLocked) {
			return s.store.Lock(ctx)
		}
		return lock, err
	})
}

// alter writes a state that has no blobs, under a lock: fill puts into it what it is to say, and
// reports whether that is anything; done is called when it is in the store.
func (s *Snapshotter) alter(ctx context.Context, take func(context.Context) (*store.Lock, func(), error), fill func(*repository.RepositoryWriter) (bool, error), done func()) error {
	s.enter()
	defer s.write.Unlock()
	lock, unlock, err := take(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	d, err := s.newDelta()
	if err != nil {
		return err
	}
	defer d.close()
	if any, err := fill(d.rw); err != nil || !any {
		return err
	}
	if err := d.put(ctx, lock); err != nil {
		return err
	}
	done()
	return nil
}
