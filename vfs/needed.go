package vfs

import "github.com/snapgate/gateway/snapshotter"

// Needed returns the snapshots that something refers to which no snapshot holds yet: heads that live
// trees are above, and those that pending changes, open uploads and partials take bytes from. Who
// removes snapshots must leave them alone, or these changes could not be committed any more. Open views
// do not count.
func (s *System) Needed() map[snapshotter.ID]struct{} {
	needed := map[snapshotter.ID]struct{}{}
	for _, sh := range s.allShares() {
		sh.needed(func(id snapshotter.ID) {
			if !id.IsZero() {
				needed[id] = struct{}{}
			}
		})
	}
	return needed
}

// needed calls add for the snapshots that a share needs.
func (s *share) needed(add func(snapshotter.ID)) {
	if s.source != nil {
		if now := s.source.shown.Load(); now != nil {
			add(now.tree.head)
		}
		return
	}
	add(s.current().head)
	contents := map[*content]bool{}
	s.mu.Lock()
	add(s.ledger.last.id)
	for _, set := range append(s.ledger.sealed[:len(s.ledger.sealed):len(s.ledger.sealed)], s.ledger.open) {
		if set.tree != nil {
			add(set.tree.head)
		}
		for _, o := range set.ops {
			if o.content != nil {
				contents[o.content] = true
			}
		}
	}
	s.mu.Unlock()
	for _, u := range s.uploads.all() {
		u.mu.RLock()
		ref, c := u.base.ref, u.base.content
		u.mu.RUnlock()
		add(ref.id)
		if c != nil {
			contents[c] = true
		}
	}
	for _, p := range s.uploads.partials() {
		add(p.base.id)
	}
	for c := range contents {
		_, _, stored := c.where()
		add(stored.id)
		add(c.base.id)
	}
}

// all lists the open uploads.
func (t *uploads) all() []*upload {
	t.mu.Lock()
	defer t.mu.Unlock()
	var list []*upload
	for _, at := range t.open {
		list = append(list, at...)
	}
	return list
}
