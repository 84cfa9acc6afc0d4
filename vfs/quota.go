package vfs

import (
	"context"
	"sync"
	"time"
)

// claims is what the open uploads of a share will add to its live tree, so that one that does not fit
// into the quota fails when its bytes come, not at its end. What decides is the tree, in the sequencer.
type claims struct {
	// mu guards bytes, and claimed and replaced of uploads; it is held while a batch of operations becomes
	// visible, so that nothing counts twice.
	mu    sync.Mutex
	bytes int64
}

// fits refuses an operation that makes of the batch's tree one that has more bytes and more than the quota, and one
// that there is no room for. What does not grow is always accepted: it may be what makes room.
func (s *share) fits(st *stage, o *op, after *tree) error {
	if quota := s.config().Quota; quota > 0 && after.grown > st.tree.grown && after.bytes() > quota {
		return errKind(o.kind.String(), o.name, KindQuota)
	}
	return s.fitsHole(st, o)
}

// claim makes room for an upload of size bytes, and for what it has claimed already. When there is
// none, the principal's dead uploads of the same name give theirs back: their client is about to send
// the file again. One that lives after all claims the whole anew with its next write.
func (u *upload) claim(size int64) error {
	err := u.tryClaim(size)
	if err == nil {
		return nil
	}
	// The name may have been taken since the upload was opened, and does not count twice.
	n, lerr := u.share.current().lookup(context.Background(), u.name())
	if lerr != nil || !u.replaces(n.bytes()) {
		return err
	}
	return u.tryClaim(size)
}

// replaces notes that an upload will replace a file of size bytes. It is false when that is no more
// than was known.
func (u *upload) replaces(size int64) bool {
	u.share.claims.mu.Lock()
	defer u.share.claims.mu.Unlock()
	if size <= u.replaced {
		return false
	}
	u.replaced = size
	return true
}

func (u *upload) tryClaim(size int64) error {
	s := u.share
	s.claims.mu.Lock()
	defer s.claims.mu.Unlock()
	more := max(0, size-u.replaced) - u.claimed
	if more <= 0 {
		return nil
	}
	now := time.Now()
	dead := func(o *upload) bool { return o != u && o.user == u.user && o.claimed > 0 && o.dead(now) }
	for quota := s.config().Quota; quota > 0 && more > quota-s.current().bytes()-s.claims.bytes; {
		o := s.uploads.find(u.name(), dead)
		if o == nil {
			return errKind("write", Name{}, KindQuota)
		}
		o.unclaim()
	}
	u.claimed += more
	s.claims.bytes += more
	return nil
}

// claimAtMost gives back what an upload has claimed beyond size bytes.
func (u *upload) claimAtMost(size int64) {
	s := u.share
	s.claims.mu.Lock()
	defer s.claims.mu.Unlock()
	if beyond := u.claimed - max(0, size-u.replaced); beyond > 0 {
		u.claimed -= beyond
		s.claims.bytes -= beyond
	}
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
