package vfs

import (
	"context"
	"errors"
	"slices"

	"github.com/snapgate/gateway/vfs/internal/spool"
)

const (
	// partsMost is how many partials a principal may have in a share: each costs memory, and a trim of the
	// journal writes it again.
	partsMost = 1000
	// partExtent is what a range of a partial counts, in bytes, besides those in it: as in the spool, where it may
	// touch a block at each end that it does not fill.
	partExtent = 8 << 10
)

// parts are partials by name, by spool file, of which each has one, and by what their principals have.
type parts struct {
	at    map[partKey]partial
	of    map[spool.ID]partKey
	users map[string]partSum
	bytes int64
}

type partSum struct {
	n     int
	bytes int64
}

func newParts() parts {
	return parts{at: map[partKey]partial{}, of: map[spool.ID]partKey{}, users: map[string]partSum{}}
}

// put replaces what has the name or the spool file of a partial.
func (t *parts) put(p partial) {
	k := partKey{p.user, p.name}
	t.drop(k)
	if p.spool != 0 {
		if other, ok := t.of[p.spool]; ok {
			t.drop(other)
		}
		t.of[p.spool] = k
	}
	t.at[k] = p
	t.count(p, 1)
}

func (t *parts) drop(k partKey) {
	p, ok := t.at[k]
	if !ok {
		return
	}
	delete(t.at, k)
	if t.of[p.spool] == k {
		delete(t.of, p.spool)
	}
	t.count(p, -1)
}

func (t *parts) count(p partial, by int) {
	sum := t.users[p.user]
	sum.n += by
	sum.bytes += int64(by) * p.bytes()
	t.bytes += int64(by) * p.bytes()
	if t.users[p.user] = sum; sum.n == 0 {
		delete(t.users, p.user)
	}
}

// bytes is what a partial takes of the spool, about.
func (p partial) bytes() int64 { return covered(p.extents) + int64(len(p.extents))*partExtent }

// spooled returns the partial of a spool file, whether or not an upload goes on with it.
func (t *uploads) spooled(id spool.ID) (partial, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	k, ok := t.parts.of[id]
	return t.parts.at[k], ok
}

// partialUsers lists the principals that have partials.
func (t *uploads) partialUsers() (users []string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for user := range t.parts.users {
		users = append(users, user)
	}
	return users
}

// partialBytesBeside is what the partials of all but a principal take of the spool; "" is nobody.
func (t *uploads) partialBytesBeside(user string) int64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.parts.bytes - t.parts.users[user].bytes
}

// left is how many partials no open upload goes on with, and what they take of the spool.
func (t *uploads) left() (n int, bytes int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	used := t.used()
	for _, p := range t.parts.at {
		if !used[p.spool] {
			n++
			bytes += p.bytes()
		}
	}
	return n, bytes
}

// used are the spool files that open uploads write to; mu is held.
func (t *uploads) used() map[spool.ID]bool {
	used := map[spool.ID]bool{}
	for _, list := range t.open {
		for _, u := range list {
			used[u.spoolID()] = true
		}
	}
	return used
}

// beyond lists the partials of a principal, the newest first, that are more than it may have, by number or as those
// up to it have more than limit bytes. What an open upload goes on with does not count: its handle does. The newest is
// never among them: it may be all that there is of an upload that takes days.
func (t *uploads) beyond(user string, limit int64) []partial {
	t.mu.Lock()
	defer t.mu.Unlock()
	if sum := t.parts.users[user]; sum.n <= t.most && sum.bytes <= limit {
		return nil
	}
	used := t.used()
	var mine []partial
	for k, p := range t.parts.at {
		if k.user == user && !used[p.spool] {
			mine = append(mine, p)
		}
	}
	slices.SortFunc(mine, func(a, b partial) int { return b.time.Compare(a.time) })
	var bytes int64
	for i, p := range mine {
		if bytes += p.bytes(); i > 0 && (i >= t.most || bytes > limit) {
			return mine[i:]
		}
	}
	return nil
}

// partialLimit is how many bytes of partials a principal may have in a share: half of what all others, and its own in
// other shares, leave of the spool. So however many have them, there is room for uploads.
func (s *share) partialLimit(user string) int64 {
	others := s.uploads.partialBytesBeside(user)
	for _, sh := range s.system.allShares() {
		if sh.source == nil && sh != s {
			others += sh.uploads.partialBytesBeside("")
		}
	}
	return max(0, s.system.cfg.Limits.SpoolBytes-others) / 2
}

// errResumed says that a partial is not what it was any more.
var errResumed = errors.New("the partial was resumed or replaced")

// dropPartial gives up a partial as it was listed; errResumed when it is another one by now. When a complete file has its name by then, or may have,
// the journal notes that its principal's upload was cut off, as the partial has said so far: see uploads.torn. Its bytes go with the next sweep.
func (s *share) dropPartial(ctx context.Context, p partial) error {
	check := func() error {
		// A resumed one goes on in the same spool file.
		if now, ok := s.uploads.partial(p.user, p.name); !ok || now.spool != p.spool || !now.time.Equal(p.time) {
			return errResumed
		}
		return nil
	}
	if p.torn() {
		torn := &op{kind: opTorn, name: p.name, user: p.user}
		torn.check = func(t *tree) error {
			if has, err := t.hasFile(ctx, p.name); !has && err == nil {
				return errNotTorn
			}
			return check()
		}
		if err := s.do(ctx, torn); err != nil && !errors.Is(err, errNotTorn) {
			return err
		}
	}
	gone := &op{kind: opPartialGone, user: p.user, partial: &partial{name: p.name, user: p.user}}
	gone.check = func(*tree) error { return check() }
	return s.do(ctx, gone)
}

// torn reports whether a complete file that somebody else has put at the name of a partial counts as torn for its principal: it has
// sent a beginning, and goes by the size of what is there.
func (p partial) torn() bool { return len(p.extents) > 0 && p.extents[0].Off == 0 }

// boundPartials gives up the oldest partials of a principal when it has too many.
func (s *share) boundPartials(ctx context.Context, user string) error {
	list := s.uploads.beyond(user, s.partialLimit(user))
	if len(list) == 0 {
		return nil
	}
	gone := 0
	var failed error
	for _, p := range slices.Backward(list) {
		err := s.dropPartial(ctx, p)
		if err == nil {
			gone++
		} else if !errors.Is(err, errResumed) {
			failed = err // the journal does not work: the rest waits for another time
			break
		}
	}
	if gone > 0 {
		s.log.Info("the oldest of what is left of uploads that were cut off is given up, as there is too much", "share", s.name,
			"principal", user, "partials", gone)
	}
	return errors.Join(failed, s.sweep())
}
