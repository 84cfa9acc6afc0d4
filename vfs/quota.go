package vfs

import "sync"

// claims is what the open uploads of a share will add to its live tree, so that one that does not fit
// into the quota fails when its bytes come, not at its end. What decides is the tree, in the sequencer.
type claims struct {
	// mu guards bytes, and claimed and replaced of uploads; it is held while a batch of operations becomes
	// visible, so that nothing counts twice.
	mu    sync.Mutex
	bytes int64
}

// fits refuses a tree that has more bytes than the one before and than the quota. What does not
// grow is always accepted: it may be what makes room.
func (s *share) fits(o *op, before, after *tree) error {
	if quota := s.config().Quota; quota > 0 && after.grown > before.grown && after.bytes() > quota {
		return errKind(o.kind.String(), o.name, KindQuota)
	}
	return nil
}

// claim makes room for an upload of size bytes, and for what it has claimed already.
func (u *upload) claim(size int64) error { return u.claimExactly(size, false) }

// claimExactly is claim; exact gives back what was claimed beyond size.
func (u *upload) claimExactly(size int64, exact bool) error {
	s := u.share
	s.claims.mu.Lock()
	defer s.claims.mu.Unlock()
	more := max(0, size-u.replaced) - u.claimed
	switch {
	case more < 0 && !exact:
		return nil
	case more > 0:
		if quota := s.config().Quota; quota > 0 && s.current().bytes()+s.claims.bytes+more > quota {
			return errKind("write", Name{}, KindQuota)
		}
	}
	u.claimed += more
	s.claims.bytes += more
	return nil
}

// unclaim gives back what an upload has claimed; claims.mu is held.
func (u *upload) unclaim() {
	u.share.claims.bytes -= u.claimed
	u.claimed = 0
}

// give gives back what an upload has claimed.
func (u *upload) give() {
	u.share.claims.mu.Lock()
	defer u.share.claims.mu.Unlock()
	u.unclaim()
}

// quotaLeft is what may be uploaded within the quota, and the quota, 0 for none.
func (s *share) quotaLeft() (left, quota int64) {
	quota = s.config().Quota
	s.claims.mu.Lock()
	defer s.claims.mu.Unlock()
	return max(0, quota-s.current().bytes()-s.claims.bytes), quota
}
