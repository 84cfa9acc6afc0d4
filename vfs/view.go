package vfs

import (
	"cmp"
	"context"
	"io/fs"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/snapgate/gateway/snapshotter"
)

const (
	// historyDir is the reserved name that leads to the versions of the directory it is
	// looked up in.
	historyDir = ".snapshots"
	// latestName is the entry of historyDir that is the newest version.
	latestName = "latest"
	// gmtAlias in ShareConfig.Aliases switches on names of the form gmtLayout, as Samba's
	// clients use them.
	gmtAlias  = "@GMT"
	gmtLayout = "@GMT-2006.01.02-15.04.05"
)

// historyAlias says what an element means in a live directory: the history itself, the
// first half of a two-element alias (".zfs" of ".zfs/snapshot"; rest is "snapshot"), or
// one version by its time. Only historyDir is reserved in every share.
func historyAlias(cfg *ShareConfig, elem string) (kind placeKind, rest string) {
	if elem == historyDir {
		return placeHistory, ""
	}
	for _, alias := range cfg.Aliases {
		first, second, two := strings.Cut(strings.Trim(alias, "/"), "/")
		switch {
		case strings.HasPrefix(alias, gmtAlias):
			if _, err := time.Parse(gmtLayout, elem); err == nil {
				return placeView, ""
			}
		case elem != first:
		case two:
			return placeAlias, second
		default:
			return placeHistory, ""
		}
	}
	return 0, ""
}

// refuseWrite is the one place where it is decided that a place cannot be written: views,
// the directories that lead to them, the shares of sources, and the root above several
// mounts are read-only, whatever the principal may do elsewhere.
func (p *place) refuseWrite(op string) error {
	if p.kind == placeLive && p.mount.share.source == nil {
		return nil
	}
	return errKind(op, p.name, KindPermission)
}

// viewPath is where a snapshot holds the directory or file that a live tree has at name:
// foreign snapshots hold a share below their source directory.
func viewPath(s *snapshotter.Snapshot, name Name) string {
	if s.Root == "" || s.Root == "/" {
		return name.String()
	}
	return path.Join(s.Root, name.String())
}

// latestFirst orders a history, newest first, by what "latest" prefers: the share's own
// snapshots come before those of another gateway on the same store, and these before
// foreign ones (synced, restored): they may be newer by the clock without being newer in
// content. Of its own, the one with the highest number comes first, as for the head.
func (s *share) latestFirst(snaps []snapshotter.Snapshot) []snapshotter.Snapshot {
	rank := func(snap *snapshotter.Snapshot) int {
		switch {
		case snap.Of(s.lineage()):
			return 0
		case !snap.Foreign():
			return 1
		}
		return 2
	}
	out := slices.Clone(snaps)
	slices.SortStableFunc(out, func(a, b snapshotter.Snapshot) int {
		if r := rank(&a); r > 0 || rank(&b) > 0 {
			return r - rank(&b)
		}
		return cmp.Compare(b.Sequence, a.Sequence)
	})
	return out
}

// versions lists the snapshots in which dir, a directory of the share, exists, newest
// first.
func (v *views) versions(ctx context.Context, dir Name) ([]snapshotter.Snapshot, error) {
	all, err := v.snapshots(ctx)
	if err != nil {
		return nil, err
	}
	var out []snapshotter.Snapshot
	for i := range all {
		has, err := v.hasDir(ctx, all[i].ID, viewPath(&all[i], dir))
		switch {
		case err != nil && KindOf(err) == KindNotExist: // pruned since it was listed
		case err != nil:
			return nil, err
		case has:
			out = append(out, all[i])
		}
	}
	return out, nil
}

// version finds the version of dir called elem in its history.
func (s *share) version(ctx context.Context, dir Name, elem string) (snapshotter.Snapshot, error) {
	list := s.views.snapshots
	if elem == latestName { // which nobody knows while one is lacking that may be it
		list = s.views.allSnapshots
	}
	all, err := list(ctx)
	if err != nil {
		return snapshotter.Snapshot{}, err
	}
	at, gmtErr := time.Parse(gmtLayout, elem)
	if elem == latestName {
		all = s.latestFirst(all)
	}
	for i := range all {
		snap := &all[i]
		if elem != latestName && snap.ViewName(s.lineage()) != elem && (gmtErr != nil || !snap.Time.UTC().Truncate(time.Second).Equal(at)) {
			continue
		}
		has, err := s.views.hasDir(ctx, snap.ID, viewPath(snap, dir))
		if err != nil {
			return snapshotter.Snapshot{}, err
		}
		if has {
			return *snap, nil
		}
	}
	return snapshotter.Snapshot{}, errKind("lookup", Name{}, KindNotExist)
}

// historyNames lists what a directory's history shows, in byte order.
func historyNames(snaps []snapshotter.Snapshot, own snapshotter.Lineage) []string {
	if len(snaps) == 0 {
		return nil
	}
	names := make([]string, 0, len(snaps)+1)
	for i := range snaps {
		names = append(names, snaps[i].ViewName(own))
	}
	names = append(names, latestName)
	slices.Sort(names)
	return slices.Compact(names)
}

// readOnlyMode is a mode as a view shows it.
func readOnlyMode(mode fs.FileMode) fs.FileMode { return mode & modeBits &^ 0o222 }

// entryInfo describes an entry of a snapshot.
func entryInfo(e *snapshotter.Entry, name string) Info {
	i := Info{
		Name: name, Type: TypeFile, Mode: readOnlyMode(e.Attr.Mode), Size: e.Size,
		ModTime: e.Attr.ModTime, UID: e.Attr.UID, GID: e.Attr.GID,
		Owner: e.Owner, Group: e.Group, Links: 1,
	}
	switch e.Kind {
	case snapshotter.Dir:
		i.Type, i.Size = TypeDir, 0
	case snapshotter.Symlink:
		i.Type, i.Size = TypeSymlink, int64(len(e.Target))
	}
	return i
}

// syntheticDir describes a directory that is not stored anywhere.
func syntheticDir(name string, mod time.Time) Info {
	return Info{Name: name, Type: TypeDir, Mode: 0o555, ModTime: mod, Links: 1}
}
