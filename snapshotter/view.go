package snapshotter

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"

	"github.com/PlakarKorp/kloset/objects"
)

// View is a snapshot as a read-only tree. Paths are canonical ("/", "/a/b"); symbolic
// links are not followed. A foreign snapshot is shown from its source directory. Safe for
// concurrent use.
type View struct {
	tree    *snapTree
	snap    Snapshot
	errors  objects.MAC // root of the index of errors; zero when there is none
	summary objects.MAC // root of the index of summaries; likewise
	origin  origin      // tells why parts of it may be gone
}

// unlisted says of a snapshot that is read whether it is in no list any more, and why.
type unlisted struct {
	is      bool
	removed bool // a state says so: nothing repairs what is damaged of it
	told    bool // states tell of it, and none that it was removed: what is missing of it is lost
}

// whyUnlisted looks why a snapshot is in no list.
func (s *Snapshotter) whyUnlisted(id ID) (unlisted, error) {
	u := unlisted{is: true}
	var err error
	if u.removed, err = s.store.Deleted(objects.MAC(id)); err != nil || u.removed {
		return u, err
	}
	for _, list := range []func() ([]objects.MAC, error){s.store.Snapshots, s.store.LostSnapshots} {
		ids, err := list()
		if err != nil {
			return u, err
		}
		u.told = u.told || slices.Contains(ids, objects.MAC(id))
	}
	return u, nil
}

// View opens a snapshot for reading, also one that was removed, until maintenance has taken a part of it: that is
// ErrNoSnapshot then, here or of what is read of the view, also when it was removed since, and so it is when that is damaged. What the store has
// lost of one that is listed is ErrLost. Errors: ErrNoSnapshot, with ErrDamaged when it was not removed and its header is there and
// cannot be read; ErrUnavailable.
func (s *Snapshotter) View(ctx context.Context, id ID) (*View, error) {
	var u unlisted
	r, err := s.record(ctx, id)
	listed := err == nil && s.known(id) != nil
	if errors.Is(err, ErrNoSnapshot) {
		if r, err = s.left(id); err == nil {
			u, err = s.whyUnlisted(id)
		}
	}
	if err != nil {
		return nil, err
	}
	t, err := s.tree(r)
	if err != nil {
		return nil, fmt.Errorf("snapshot %s: %w", id, u.error(err))
	}
	v := &View{tree: t, snap: r.snap, errors: r.vfs.Errors, summary: r.summary, origin: origin{s, r.snap.ID, listed, u}}
	s.open.add(v)
	return v, nil
}

// error says of an error of reading what an unlisted snapshot has that it is gone, if it is.
func (u unlisted) error(err error) error {
	switch {
	case u.told && isLost(err):
		return fmt.Errorf("%w that is whole: %w: %w", ErrNoSnapshot, ErrLost, err)
	case u.is && isLost(err):
		return fmt.Errorf("%w any more: %w", ErrNoSnapshot, err)
	case u.removed && errors.Is(err, ErrDamaged):
		return fmt.Errorf("%w any more: %s", ErrNoSnapshot, err.Error())
	}
	return err
}

// origin is the snapshot that something is read from, none by its zero value. It tells what of that is gone from what cannot be
// read now. Safe for concurrent use.
type origin struct {
	s        *Snapshotter
	id       ID
	listed   bool // when it was opened
	unlisted unlisted
}

// error says of an error of reading what the snapshot has that it is gone, if it is.
func (o origin) error(err error) error {
	if !o.listed || !isLost(err) {
		return o.unlisted.error(err)
	}
	if o.s.known(o.id) == nil { // since it was opened
		// That no state tells of it any more is so, too, while another disk is in the place of the store's.
		u, uerr := o.s.whyUnlisted(o.id)
		if uerr != nil || !u.removed {
			return err
		}
		return u.error(err)
	}
	if b, ok := errors.AsType[*blobError](err); ok && o.s.lost(b) {
		return fmt.Errorf("%w: %w", ErrLost, err)
	}
	return err
}

// lost reports whether it is known that the store has lost a blob that cannot be read, as of the last commit, which has looked for it. That the
// index does not have it proves nothing: it may be about to be made anew.
func (s *Snapshotter) lost(b *blobError) bool {
	there, err := s.store.PlacesOf(b.typ, b.mac)
	if len(there) > 0 || err != nil {
		return false
	}
	missing, err := s.store.MissingPlacesOf(b.typ, b.mac)
	return len(missing) > 0 && err == nil
}

// Snapshot describes the snapshot that the view shows.
func (v *View) Snapshot() Snapshot { return v.snap }

// Lossy reports whether the snapshot, or of a share one that it continues, lacks what the store had lost
// when it was made.
func (v *View) Lossy() bool { return v.snap.Lost > 0 }

// Bytes is the sum of the sizes of the files in the snapshot.
func (v *View) Bytes() int64 { return int64(min(v.snap.Size, 1<<62)) }

// abs returns the path in the snapshot of a path in the view.
func (v *View) abs(p string) (string, error) {
	if !strings.HasPrefix(p, "/") || path.Clean(p) != p {
		return "", fmt.Errorf("%w: path %q", fs.ErrInvalid, p)
	}
	if v.snap.Root == "/" {
		return p, nil
	}
	if p == "/" {
		return v.snap.Root, nil
	}
	return v.snap.Root + p, nil
}

// Lstat describes the entry at path. Errors: fs.ErrNotExist, ErrUnavailable.
func (v *View) Lstat(ctx context.Context, path string) (Entry, error) {
	e, err := v.stored(ctx, path)
	if err != nil {
		return Entry{}, v.fail("lstat", path, err)
	}
	entry := entryOf(e)
	if path == "/" {
		entry.Name = "/"
	}
	return entry, nil
}

func (v *View) stored(ctx context.Context, path string) (*storedEntry, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	p, err := v.abs(path)
	if err != nil {
		return nil, err
	}
	return v.tree.lookup(p)
}

// ReadDir returns up to n entries of a directory, in byte order of their names, that come
// after the name after ("" starts). Fewer than n mean the end. Errors: fs.ErrNotExist,
// fs.ErrInvalid when path is not a directory, ErrUnavailable.
func (v *View) ReadDir(ctx context.Context, path, after string, n int) ([]Entry, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	p, err := v.abs(path)
	if err != nil {
		return nil, v.fail("read directory", path, err)
	}
	stored, err := v.tree.readDir(p, after, n)
	if err != nil {
		return nil, v.fail("read directory", path, err)
	}
	entries := make([]Entry, len(stored))
	for i, e := range stored {
		entries[i] = entryOf(e)
	}
	return entries, nil
}

// Open opens a regular file. Errors: fs.ErrNotExist, fs.ErrInvalid for anything but a
// regular file, ErrUnavailable.
func (v *View) Open(ctx context.Context, path string) (*Reader, error) {
	e, err := v.stored(ctx, path)
	if err == nil && (e.IsDir() || e.FileInfo.Mode()&fs.ModeSymlink != 0) {
		err = fmt.Errorf("%w: not a file", fs.ErrInvalid)
	}
	if err != nil {
		return nil, v.fail("open", path, err)
	}
	r, err := v.tree.open(e)
	if err != nil {
		return nil, v.fail("open", path, err)
	}
	r.origin = v.origin
	return r, nil
}

// Close releases the view; open Readers stay valid.
func (v *View) Close() error { return nil }

func (v *View) fail(op, path string, err error) error {
	if errors.Is(err, errNotDir) {
		err = fmt.Errorf("%w: %w", fs.ErrInvalid, err)
	}
	return fmt.Errorf("snapshot %s: %w", v.snap.ID.String()[:8], &fs.PathError{Op: op, Path: path, Err: v.origin.error(err)})
}

// permBits are the mode bits that an Attr holds.
const permBits = fs.ModePerm | fs.ModeSetuid | fs.ModeSetgid | fs.ModeSticky

func entryOf(e *storedEntry) Entry {
	fi := &e.FileInfo
	entry := Entry{
		Name: fi.Lname,
		Kind: File,
		Attr: Attr{
			Mode:    fi.Lmode & permBits,
			ModTime: fi.LmodTime.UTC(),
			UID:     uint32(fi.Luid),
			GID:     uint32(fi.Lgid),
		},
		Version: fi.Lino,
		Owner:   fi.Lusername,
		Group:   fi.Lgroupname,
	}
	switch {
	case fi.Lmode.IsDir():
		entry.Kind = Dir
	case fi.Lmode&fs.ModeSymlink != 0:
		entry.Kind = Symlink
		entry.Target = e.SymlinkTarget
		entry.Size = int64(len(e.SymlinkTarget))
	case fi.Lmode.IsRegular():
		entry.Size = fi.Lsize
		entry.ContentType, entry.Object, entry.Entropy = e.ContentType, ObjectID(e.Object), e.Entropy
	}
	return entry
}
