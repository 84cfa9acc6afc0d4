package vfs

import "github.com/snapgate/gateway/snapshotter"

// Needed returns the snapshots that something refers to which no snapshot holds yet: heads that live
// trees are above, and those that files of live trees, pending changes, open uploads and partials take bytes from. Who
// removes snapshots must leave them alone, or these changes could not be committed any more. Open views
// do not count. It waits for nothing: a removal asks under the lock that commits have.
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

// needed calls add for the snapshots that a share needs. What waits goes from uploads to partials, to sets and to the live
// tree, so it is looked at in this order.
func (s *share) needed(add func(snapshotter.ID)) {
	if s.source != nil {
		if now := s.source.shown.Load(); now != nil {
			add(now.tree.head)
		}
		return
	}
	contents := map[*content]bool{}
	for _, u := range s.uploads.all() {
		ref, c := u.base.needs()
		add(ref.id)
		if c != nil {
			contents[c] = true
		}
	}
	for _, p := range s.uploads.partials() {
		add(p.base.id)
	}
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
	// While sets wait the live tree stays above an older head, with files that are committed: who opens one of them
	// to write takes bytes from the snapshot that it is in.
	live := s.current()
	add(live.head)
	live.root.contents(func(c *content) { contents[c] = true })
	for c := range contents {
		_, _, stored := c.where()
		add(stored.id)
		add(c.base.id)
	}
}

// contents calls f for those of the changed files in and below n.
func (n *node) contents(f func(*content)) {
	if n.content != nil {
		f(n.content)
	}
	next := n.kids.after("")
	for kid, ok := next(); ok; kid, ok = next() {
		kid.node.contents(f)
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
