package main

import (
	"cmp"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/snapgate/gateway/internal/disk"
	"github.com/snapgate/gateway/snapshotter"
)

// unread notes the copies of a sync that were not read back: the next run finds them in the target, and
// would take them for good. There is a file for each in a directory. It is for the holder of the sync's
// lock; nil notes nothing.
type unread struct{ dir string }

// note notes a copy, durably, before it is made.
func (u *unread) note(id snapshotter.ID) error {
	if u == nil {
		return nil
	}
	if err := disk.MkdirDurable(disk.OS{}, u.dir, 0o700); err != nil {
		return err
	}
	return disk.WriteFile(disk.OS{}, filepath.Join(u.dir, id.String()), nil, 0o600)
}

// drop takes a note away. One that comes back with a loss of power has a copy read once more.
func (u *unread) drop(id snapshotter.ID) error {
	if u == nil {
		return nil
	}
	if err := os.Remove(filepath.Join(u.dir, id.String())); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// list returns what is noted.
func (u *unread) list() (ids []snapshotter.ID, err error) {
	if u == nil {
		return nil, nil
	}
	entries, err := os.ReadDir(u.dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	for _, e := range entries {
		if id, err := snapshotter.ParseID(e.Name()); err == nil { // else a note was cut off: nothing was copied
			ids = append(ids, id)
		}
	}
	return ids, nil
}

// check reads back copies that are noted. Those that cannot be read stay noted, so that every run says so
// until they are repaired or removed. The error is ErrUnread when that is so because the store did not give them.
func (u *unread) check(ctx context.Context, ids []snapshotter.ID, copier *snapshotter.Copier, target *snapshotter.Snapshotter, out syncReporter) (first error) {
	for _, id := range ids {
		snap, err := target.Snapshot(ctx, id)
		if err == nil {
			err = copier.Check(ctx, id)
		}
		gone := errors.Is(err, snapshotter.ErrNoSnapshot) // never copied, or removed since
		switch {
		case errors.Is(err, snapshotter.ErrUnread):
			first = cmp.Or(first, err)
		case err != nil && !gone && !errors.Is(err, snapshotter.ErrNotRead):
			return err
		}
		if !gone {
			out.checked(snap, err)
		}
		if err == nil || gone {
			if err := u.drop(id); err != nil {
				return err
			}
		}
	}
	return first
}
