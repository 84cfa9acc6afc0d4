package vfs

import (
	"context"

	"github.com/snapgate/gateway/snapshotter"
)

// FromSnapshotter makes a Repository of a Snapshotter.
func FromSnapshotter(s *snapshotter.Snapshotter) Repository { return fromSnapshotter{s} }

// fromSnapshotter differs from the Snapshotter in the types of what is opened.
type fromSnapshotter struct{ *snapshotter.Snapshotter }

func (r fromSnapshotter) View(ctx context.Context, id snapshotter.ID) (View, error) {
	v, err := r.Snapshotter.View(ctx, id)
	if err != nil {
		return nil, err
	}
	return fromView{v}, nil
}

// Snapshots lists snapshots whose views begin at their root: a Snapshotter's view is
// rooted at the snapshot's source directory already.
func (r fromSnapshotter) Snapshots(ctx context.Context, share string) ([]snapshotter.Snapshot, error) {
	list, err := r.Snapshotter.Snapshots(ctx, share)
	return atRoot(list), err
}

// AllSnapshots is Snapshots of all.
func (r fromSnapshotter) AllSnapshots(ctx context.Context, share string, now bool) ([]snapshotter.Snapshot, error) {
	if now {
		if err := r.CatchUpToCommit(ctx); err != nil {
			return nil, err
		}
	}
	list, err := r.Snapshotter.AllSnapshots(ctx, share)
	return atRoot(list), err
}

func atRoot(list []snapshotter.Snapshot) []snapshotter.Snapshot {
	for i := range list {
		list[i].Root = "/"
	}
	return list
}

type fromView struct{ *snapshotter.View }

func (v fromView) Open(ctx context.Context, path string) (Reader, error) {
	r, err := v.View.Open(ctx, path)
	if err != nil {
		return nil, err
	}
	return r, nil
}
