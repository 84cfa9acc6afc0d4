package vfs

import (
	"context"
	"io"
	"slices"
	"strings"
	"sync"
)

// dirPage is how many entries are fetched at a time: a listing costs memory for one page,
// however large the directory is.
const dirPage = 1000

// Dir lists a directory, as it was when it was opened: a live directory in one version of
// the tree, whatever changes meanwhile. Open uploads and partials are never listed. Safe
// for concurrent use.
type Dir struct {
	session *Session
	at      *place

	mu    sync.Mutex // guards the rest; held across reads of a page, which come one by one
	fixed []Info     // the entries of a directory that is not stored; extra ones of one that is
	page  []Info
	after string
	last  bool
	done  func() error
}

// Next returns up to n entries in name order, without "." and "..", and io.EOF at the end.
func (d *Dir) Next(ctx context.Context, n int) ([]Info, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.done == nil {
		return nil, errKind("readdir", d.at.name, KindClosed)
	}
	if n <= 0 {
		return nil, errKind("readdir", d.at.name, KindInvalid)
	}
	var out []Info
	for len(out) < n {
		if len(d.page) == 0 {
			if err := d.fetch(ctx, min(n, dirPage)); err != nil {
				return nil, clientError("readdir", d.at.name, err)
			}
			if len(d.page) == 0 {
				break
			}
		}
		m := min(n-len(out), len(d.page))
		out = append(out, d.page[:m]...)
		d.page = d.page[m:]
	}
	if len(out) == 0 {
		return nil, io.EOF
	}
	return out, nil
}

// Skip begins behind a name, in place of the first entry. It comes before Next.
func (d *Dir) Skip(name string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.after = name
	d.fixed = slices.DeleteFunc(d.fixed, func(i Info) bool { return i.Name <= name })
}

// fetch reads entries until there is one that is shown, or the end.
func (d *Dir) fetch(ctx context.Context, n int) error {
	for len(d.page) == 0 && !d.last {
		page, err := d.read(ctx, n)
		if err != nil {
			return err
		}
		d.page = page
	}
	if d.last {
		d.page = append(d.page, d.fixed...)
		d.fixed = nil
	}
	return nil
}

// read reads the next page of what is stored, merges the entries of fixed into it, and
// leaves out names that no client could use.
func (d *Dir) read(ctx context.Context, n int) ([]Info, error) {
	var page []Info
	var got int
	switch {
	case d.at.kind == placeView:
		entries, err := d.at.view.ReadDir(ctx, d.at.path, d.after, n)
		if err != nil {
			return nil, viewError(err)
		}
		for i := range entries {
			page = append(page, entryInfo(&entries[i], entries[i].Name))
		}
		got = len(entries)
	case d.at.kind == placeLive && d.at.node != nil:
		entries, err := d.at.tree.listNode(ctx, d.at.node, d.at.dir, d.after, n)
		if err != nil {
			return nil, err
		}
		for _, e := range entries {
			page = append(page, d.at.nodeInfo(e.node, e.name))
		}
		got = len(entries)
	}
	if got < n {
		d.last = true
	}
	if got > 0 {
		d.after = page[got-1].Name
	}
	page = slices.DeleteFunc(page, func(i Info) bool {
		return !validElem(i.Name) || d.at.kind == placeLive && i.Name == historyDir
	})
	return d.merge(page), nil
}

// merge puts the extra entries in their places.
func (d *Dir) merge(page []Info) []Info {
	for len(d.fixed) > 0 && len(page) > 0 && d.fixed[0].Name < page[len(page)-1].Name {
		at, _ := slices.BinarySearchFunc(page, d.fixed[0].Name, func(i Info, name string) int {
			return strings.Compare(i.Name, name)
		})
		page = slices.Insert(page, at, d.fixed[0])
		d.fixed = d.fixed[1:]
	}
	return page
}

// Close ends the listing.
func (d *Dir) Close() error {
	d.mu.Lock()
	done := d.done
	d.done = nil
	d.mu.Unlock()
	if done == nil {
		return nil
	}
	d.session.forgetDir(d)
	return done()
}

// newDir opens the directory at p, which w has found; the Dir takes w over.
func (s *Session) newDir(ctx context.Context, w *walker, p *place) (*Dir, error) {
	d := &Dir{session: s, at: p, done: func() error { w.release(); return nil }}
	switch p.kind {
	case placeRoot:
		for i := range s.mounts {
			m, err := w.mounted(ctx, &s.mounts[i])
			if err != nil {
				continue // a mount that is in the way of itself is not there
			}
			d.fixed = append(d.fixed, m.info(m.name.Base(), s.started))
		}
	case placeAlias:
		d.fixed = []Info{syntheticDir(p.rest, s.started)}
	case placeHistory:
		snaps, err := p.mount.share.views.versions(ctx, p.dir)
		if err != nil {
			return nil, err
		}
		own := p.mount.share.lineage()
		byName := map[string]int{}
		for i := range snaps {
			byName[snaps[i].ViewName(own)] = i
		}
		names := historyNames(snaps, own)
		if len(snaps) > 0 {
			// Not while it cannot be opened: there may be a newer one than those that can be listed.
			if _, err := p.mount.share.views.allSnapshots(ctx); err == nil {
				byName[latestName] = byName[p.mount.share.latestFirst(snaps)[0].ViewName(own)]
			} else {
				names = slices.DeleteFunc(names, func(name string) bool { return name == latestName })
			}
		}
		for _, name := range names {
			d.fixed = append(d.fixed, syntheticDir(name, snaps[byName[name]].Time))
		}
	case placeLive:
		if p.isMount() && p.mount.share.config().VisibleHistory && s.principal.Perms.allows(actHistory, false) {
			d.fixed = []Info{syntheticDir(historyDir, s.started)}
		}
	}
	return d, nil
}
