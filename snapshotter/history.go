package snapshotter

import (
	"context"
	"errors"
	"io/fs"

	"github.com/PlakarKorp/kloset/objects"
	"golang.org/x/sync/errgroup"
)

// Version is what a path was in one snapshot and in those after it, until it changed.
type Version struct {
	Entry     Entry    // as the first of the snapshots has it
	Hash      string   // of the bytes of a file; see Hash
	First     Snapshot // the oldest that has it
	Last      Snapshot // the youngest
	Snapshots int      // how many have it
	Gone      Snapshot // the one behind Last, when that has nothing at the path; zero otherwise
}

// Unread is a snapshot that could not be read.
type Unread struct {
	Snapshot Snapshot
	Err      error
}

// seen is what a snapshot has at a path.
type seen struct {
	mac objects.MAC // of the entry; zero for nothing
	err error
}

// History lists the versions of a path in a line of snapshots, the oldest first: what differs in
// its kind, its bytes or its target. Other attributes make no version. Snapshots in which it
// cannot be read are left out and named. Each snapshot costs a few nodes of its index, whatever
// its size. Errors: ErrUnavailable.
func (s *Snapshotter) History(ctx context.Context, line []Snapshot, path string) ([]Version, []Unread, error) {
	all := make([]seen, len(line))
	group, gctx := errgroup.WithContext(ctx)
	group.SetLimit(cores())
	for i, snap := range line {
		group.Go(func() error {
			mac, err := s.entryAt(gctx, snap.ID, path)
			if errors.Is(err, ErrUnavailable) || gctx.Err() != nil {
				return err
			}
			all[i] = seen{mac, err}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return nil, nil, err
	}
	h := &history{s: s}
	for i, snap := range line {
		if err := h.add(ctx, snap, path, all[i]); err != nil {
			return nil, nil, err
		}
	}
	return h.versions, h.unread, nil
}

// entryAt finds the entry that a snapshot has at a path in its view; zero for none.
func (s *Snapshotter) entryAt(ctx context.Context, id ID, path string) (objects.MAC, error) {
	r, err := s.record(ctx, id)
	if err != nil {
		return objects.MAC{}, err
	}
	p, err := (&View{snap: r.snap}).abs(path)
	if err != nil {
		return objects.MAC{}, err
	}
	paths, err := s.rawPaths(r)
	if err != nil {
		return objects.MAC{}, err
	}
	mac, _, err := paths.find(p)
	return mac, err
}

// history is a history that is being made.
type history struct {
	s        *Snapshotter
	versions []Version
	unread   []Unread
	mac      objects.MAC // of the entry in the last snapshot; zero for none
}

func (h *history) add(ctx context.Context, snap Snapshot, path string, at seen) error {
	last := len(h.versions) - 1
	switch {
	case at.err != nil:
		return h.skip(snap, at.err)
	case at.mac == (objects.MAC{}):
		if h.mac != (objects.MAC{}) {
			h.versions[last].Gone = snap
		}
		h.mac = at.mac
		return nil
	}
	before := h.mac
	if at.mac == before {
		h.versions[last].Last = snap
		h.versions[last].Snapshots++
		return nil
	}
	v, err := h.version(ctx, snap, at.mac)
	if errors.Is(err, ErrUnavailable) || ctx.Err() != nil {
		return errors.Join(err, ctx.Err())
	}
	if err != nil {
		return h.skip(snap, &fs.PathError{Op: "read", Path: path, Err: err})
	}
	h.mac = at.mac
	if before != (objects.MAC{}) {
		if l := &h.versions[last]; l.Entry.Kind == v.Entry.Kind && l.Hash == v.Hash && l.Entry.Target == v.Entry.Target {
			l.Last = snap
			l.Snapshots++
			return nil
		}
	}
	h.versions = append(h.versions, v)
	return nil
}

// skip notes that a snapshot could not be read.
func (h *history) skip(snap Snapshot, err error) error {
	h.unread = append(h.unread, Unread{snap, err})
	return nil
}

func (h *history) version(ctx context.Context, snap Snapshot, mac objects.MAC) (Version, error) {
	e, err := (&snapTree{s: h.s}).entry(mac)
	if err != nil {
		return Version{}, err
	}
	v := Version{Entry: entryOf(e), First: snap, Last: snap, Snapshots: 1}
	v.Hash, err = h.s.Hash(ctx, v.Entry.Object)
	return v, err
}
