package snapshotter

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/PlakarKorp/kloset/objects"
	"golang.org/x/sync/errgroup"
)

// How often headers that could not be read are tried again, unless somebody asks for one of them: at most, and so that it takes
// no more than a part of the time, as there may be many on a store that is far.
const (
	recallPause = time.Minute
	recallPart  = 16
)

// Gone reports whether a snapshot is not there and will not be: a state in the store says that it was removed, which is read now, its header or
// root is lost, or no state tells of it, as in an older copy of the store. It is not gone while its header is there and damaged, or when
// it was put back: then View has it, or says why not. It waits for a commit that is running. Errors: ErrUnavailable, also when
// some states could not be read and no other one says that it was removed; that of ctx.
func (s *Snapshotter) Gone(ctx context.Context, id ID) (bool, error) {
	deleted, gone, err := s.goneByIndex(ctx, id)
	if err != nil || !deleted {
		return gone, err
	}
	return s.store.RemovalTold(ctx, objects.MAC(id)) // the index proves nothing
}

// goneByIndex is Gone, by the local index; deleted reports whether it has a removal.
func (s *Snapshotter) goneByIndex(ctx context.Context, id ID) (deleted, gone bool, err error) {
	s.write.Lock() // the index is empty for a moment while it is made anew
	defer s.write.Unlock()
	if err := s.refresh(ctx); err != nil {
		return false, false, err
	}
	s.recall(id)
	if s.known(id) != nil {
		return false, false, nil
	}
	if deleted, err = s.store.Deleted(objects.MAC(id)); deleted || err != nil {
		return deleted, false, err
	}
	told, err := s.store.Snapshots()
	if err != nil {
		return false, false, err
	}
	if !slices.Contains(told, objects.MAC(id)) {
		return false, true, nil
	}
	_, err = s.loadUsable(id)
	return false, isLost(err), nil
}

// loadUsable reads the record of a snapshot, which must have its root as well when something is missing from the store. It needs s.write.
func (s *Snapshotter) loadUsable(id ID) (*record, error) {
	r, err := s.loadRecord(id)
	if err == nil && s.loss != nil {
		err = s.usable(r)
	}
	return r, err
}

// recall lists a snapshot that is not listed because its header could not be read, if it can be now: it was put back by hand. So may
// others have been, which then are listed as well. It needs s.write.
func (s *Snapshotter) recall(id ID) {
	if id.IsZero() || !s.isShort() || s.known(id) != nil {
		return
	}
	if _, err := s.loadUsable(id); err == nil {
		s.recallAll()
	}
}

// recallDue is recall of all, when it is time for that.
func (s *Snapshotter) recallDue() {
	s.mu.RLock()
	due := s.short && time.Since(s.recalled) >= max(recallPause, recallPart*s.recalling)
	s.mu.RUnlock()
	if due {
		s.recallAll()
	}
}

// isShort reports whether there are snapshots that are not listed because they could not be read.
func (s *Snapshotter) isShort() bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.short
}

// recallAll is recall of all. It needs s.write.
func (s *Snapshotter) recallAll() {
	began := time.Now()
	told, err := s.store.Snapshots()
	if err != nil {
		s.log.Warn("snapshot list not refreshed", "err", err)
		return
	}
	var mu sync.Mutex // guards back and left
	var back []*record
	left := false
	var group errgroup.Group
	group.SetLimit(cores())
	for _, mac := range told {
		if s.readable(ID(mac)) {
			continue
		}
		group.Go(func() error {
			r, err := s.loadUsable(ID(mac))
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				left = true
			} else {
				back = append(back, r)
			}
			return nil
		})
	}
	_ = group.Wait() // what cannot be read stays as it is
	s.mu.Lock()
	defer s.mu.Unlock()
	s.short, s.recalled, s.recalling = left, time.Now(), time.Since(began)
	for _, r := range back {
		s.records[r.snap.ID] = r
		s.standIn(r)
		s.insert(r)
		s.removed.Remove(r.snap.ID)
		s.log.Info("a snapshot can be read again", "snapshot", r.snap.ID.String())
	}
}
