package snapshotter

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/PlakarKorp/kloset/caching"
	"github.com/PlakarKorp/kloset/iterator"
	"github.com/PlakarKorp/kloset/objects"
	"github.com/PlakarKorp/kloset/repository"
	"github.com/PlakarKorp/kloset/repository/state"
	"github.com/PlakarKorp/kloset/resources"

	"github.com/snapgate/gateway/store"
)

// errIncomplete says that the Builder has left something out and said nothing.
var errIncomplete = errors.New("kloset's builder has left entries out of a directory")

// verifyDirs compares the dirpacks of a snapshot that is about to be published with its
// index of paths. The Builder makes both from a database of its own, by listings that take
// an error of the database (too many open files, a disk that cannot be read) for the end.
// The index of paths cannot suffer from that: it is listed from the end, and without the
// root, which is the last, the Builder gives up. A dirpack can, and the next commit would
// take what it lacks for removed. Directories that are in the base as they are have been
// compared when that was made.
func (a *attempt) verifyDirs(r *record) error {
	t, err := a.s.newTree(r)
	if err != nil {
		return err
	}
	if t.dirpack == nil {
		return fmt.Errorf("build: %w: there are none", errIncomplete)
	}
	same, err := newFollower(a.base)
	if err != nil {
		return err
	}
	it, err := t.dirpack.ScanAll()
	if err != nil {
		return readError("directory index", err)
	}
	dirs := uint64(0)
	for it.Next() {
		dir, mac := it.Current()
		dirs++
		known, err := same.has(dir, mac)
		if err != nil {
			return err
		}
		if known {
			continue
		}
		if err := t.verifyDir(dir, mac); err != nil {
			return fmt.Errorf("build: %w", err)
		}
	}
	if err := it.Err(); err != nil {
		return readError("directory index", err)
	}
	if sent := a.source.dirs.Load(); dirs != sent {
		return store.Unavailable("build", fmt.Errorf("%w: %d directories of %d", errIncomplete, dirs, sent))
	}
	return nil
}

// verifyDir compares a dirpack with the index of paths.
func (t *snapTree) verifyDir(dir string, mac objects.MAC) error {
	r, err := t.s.openObject(mac)
	if err != nil {
		return err
	}
	rd := bufio.NewReaderSize(io.NewSectionReader(r, 0, r.Size()), dirBufSize)
	paths, err := t.paths.ScanFrom(below(dir))
	if err != nil {
		return readError("index", err)
	}
	for {
		name, want, err := nextBelow(paths, below(dir))
		if err != nil {
			return err
		}
		e, _, err := readFrame(rd)
		switch {
		case errors.Is(err, io.EOF) && name == "":
			return nil
		case err != nil && !errors.Is(err, io.EOF):
			return readError("directory", err)
		case err != nil || e.Name() != name || e.MAC != want:
			return store.Unavailable("directory", fmt.Errorf("%w: %q of %q", errIncomplete, name, dir))
		}
	}
}

// nextBelow returns the next name directly below a directory, "" at the end.
func nextBelow(it iterator.Iterator[string, objects.MAC], prefix string) (string, objects.MAC, error) {
	for it.Next() {
		p, mac := it.Current()
		name, ok := strings.CutPrefix(p, prefix)
		if !ok || strings.Contains(name, "/") {
			break
		}
		if name != "" { // the root itself
			return name, mac, nil
		}
	}
	if err := it.Err(); err != nil {
		return "", objects.MAC{}, readError("index", err)
	}
	return "", objects.MAC{}, nil
}

// follower looks up keys of an index that are asked for in their order.
type follower struct {
	it   iterator.Iterator[string, objects.MAC] // nil: nothing is left
	key  string
	mac  objects.MAC
	read bool // key and mac are the next ones
}

// newFollower follows the dirpack index of a base; nil for none.
func newFollower(base *snapTree) (*follower, error) {
	if base == nil || base.dirpack == nil {
		return &follower{}, nil
	}
	it, err := base.dirpack.ScanAll()
	if err != nil {
		return nil, readError("directory index", err)
	}
	return &follower{it: it}, nil
}

// has reports whether the index has mac at key.
func (f *follower) has(key string, mac objects.MAC) (bool, error) {
	for f.it != nil {
		if !f.read {
			if !f.it.Next() {
				if err := f.it.Err(); err != nil {
					return false, readError("directory index", err)
				}
				f.it = nil
				return false, nil
			}
			f.key, f.mac = f.it.Current()
			f.read = true
		}
		if f.key > key {
			return false, nil
		}
		f.read = false
		if f.key == key {
			return f.mac == mac, nil
		}
	}
	return false, nil
}

// uncommitted finds blobs that a commit has written to the store and not yet published.
type uncommitted struct {
	repo   *repository.Repository
	deltas []*caching.ScanCache
}

// committed reports whether a blob is in the store, or in a packfile that the commit that is
// running has written or taken over.
func (s *Snapshotter) committed(typ resources.Type, mac objects.MAC) bool {
	u := s.uncommitted.Load()
	return u != nil && u.has(typ, mac) || s.store.Has(typ, mac)
}

// has reports whether a blob is in a packfile that the commit has written.
func (u *uncommitted) has(typ resources.Type, mac objects.MAC) bool {
	for _, delta := range u.deltas {
		for range delta.GetDelta(typ, mac) {
			return true
		}
	}
	return false
}

// blob reads and decodes a blob; repository.ErrBlobNotFound when it is not the commit's.
func (u *uncommitted) blob(typ resources.Type, mac objects.MAC) ([]byte, error) {
	for _, delta := range u.deltas {
		for _, buf := range delta.GetDelta(typ, mac) {
			entry, err := state.DeltaEntryFromBytes(buf)
			if err != nil {
				return nil, err
			}
			rd, err := u.repo.GetPackfileBlob(entry.Location)
			if err != nil {
				return nil, err
			}
			return io.ReadAll(rd)
		}
	}
	return nil, repository.ErrBlobNotFound
}
