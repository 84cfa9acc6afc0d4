package snapshotter

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/PlakarKorp/kloset/objects"
	"github.com/PlakarKorp/kloset/resources"
	"github.com/PlakarKorp/kloset/snapshot"
	"github.com/PlakarKorp/kloset/snapshot/header"
	kvfs "github.com/PlakarKorp/kloset/snapshot/vfs"
	"github.com/zeebo/blake3"
)

// SetCheckpoints makes a Copier write a state after so many bytes.
func SetCheckpoints(c *Copier, bytes int64) { c.checkpointBytes = bytes }

// Replace makes a snapshot in place of one of s, of the copy that another store has.
func (s *Snapshotter) Replace(ctx context.Context, from *Snapshotter, id ID) error {
	src, err := from.record(ctx, id)
	if err != nil {
		return err
	}
	c, err := NewCopier(CopierConfig{From: from, To: s})
	if err != nil {
		return err
	}
	return errors.Join(c.replace(ctx, src, id, nil), c.Close())
}

// Drop removes what was made in place of old.
func (s *Snapshotter) Drop(ctx context.Context, made, old ID) error { return s.drop(ctx, made, old) }

// Header returns what a snapshot's header says, without what is of its store.
func (s *Snapshotter) Header(id ID) (string, error) {
	data, err := s.blob(resources.RT_SNAPSHOT, objects.MAC(id))
	if err != nil {
		return "", err
	}
	h, err := header.NewFromBytes(data)
	if err != nil {
		return "", err
	}
	for i := range h.Sources {
		h.Sources[i].VFS = header.VFS{}
		for k := range h.Sources[i].Indexes {
			h.Sources[i].Indexes[k].Value = objects.MAC{}
		}
	}
	return fmt.Sprintf("%+v", *h), nil
}

// Whole describes all that a snapshot holds, independent of its store's MACs: every entry, its
// content, its extended attributes, and errors.
func (s *Snapshotter) Whole(id ID) (map[string]string, error) {
	snap, err := snapshot.Load(s.repo, objects.MAC(id))
	if err != nil {
		return nil, err
	}
	defer snap.Close()
	fsys, err := snap.Filesystem()
	if err != nil {
		return nil, err
	}
	out := map[string]string{}
	err = fsys.WalkDir("/", func(path string, e *kvfs.Entry, err error) error {
		if err != nil {
			return err
		}
		own := *e
		own.MAC, own.Object, own.ResolvedObject = objects.MAC{}, objects.MAC{}, nil
		out["entry "+path] = fmt.Sprintf("%+v", own)
		if !e.FileInfo.Lmode.IsRegular() {
			return nil
		}
		f, err := fsys.Open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		data, err := io.ReadAll(f)
		out["content "+path] = fmt.Sprintf("%x", blake3.Sum256(data))
		return err
	})
	if err != nil {
		return nil, err
	}
	for e, err := range fsys.Errors("/") {
		if err != nil {
			return nil, err
		}
		out["error "+e.Name] = e.Error
	}
	_, _, xattrs := fsys.BTrees()
	it, err := xattrs.ScanAll()
	if err != nil {
		return nil, err
	}
	for it.Next() {
		key, mac := it.Current()
		x, err := fsys.ResolveXattr(mac)
		if err != nil {
			return nil, err
		}
		data, err := io.ReadAll(kvfs.NewObjectReader(s.repo, x.ResolvedObject, x.Size, -1))
		if err != nil {
			return nil, err
		}
		out["xattr "+key] = fmt.Sprintf("%s %d %x", x.Name, x.Type, data)
	}
	return out, it.Err()
}
