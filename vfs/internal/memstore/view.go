package memstore

import (
	"context"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"sort"
	"strings"
	"sync/atomic"

	"github.com/snapgate/gateway/snapshotter"
)

// View is a snapshot as a read-only tree; safe for concurrent use.
type View struct {
	repo   *Repository
	id     snapshotter.ID
	root   *node
	lossy  bool
	bytes  int64
	closed atomic.Bool
}

// View opens a snapshot.
func (r *Repository) View(_ context.Context, id snapshotter.ID) (*View, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.faults.index != nil {
		return nil, r.faults.index
	}
	s := r.snapshots[id]
	if s != nil && id == r.faults.lacking {
		return nil, errLacking
	}
	if s == nil {
		return nil, fmt.Errorf("memstore: view %s: %w", id, snapshotter.ErrNoSnapshot)
	}
	r.counts.Views++
	r.counts.OpenViews++
	return &View{repo: r, id: id, root: s.root, lossy: s.lossy, bytes: s.root.bytes()}, nil
}

// Bytes is the sum of the sizes of the files.
func (v *View) Bytes() int64 { return v.bytes }

func (n *node) bytes() int64 {
	if n.kind == snapshotter.File {
		return int64(len(n.data))
	}
	sum := int64(0)
	for _, kid := range n.kids {
		sum += kid.bytes()
	}
	return sum
}

// Lossy reports whether the snapshot lacks what was lost: see Repository.Lose.
func (v *View) Lossy() bool { return v.lossy }

func (v *View) find(p string) (*node, error) {
	if v.closed.Load() {
		return nil, fmt.Errorf("memstore: view: %w", fs.ErrClosed)
	}
	if err := v.repo.fault(func(f faults) error { return f.index }); err != nil {
		return nil, err
	}
	if v.reclaimed() {
		return nil, fmt.Errorf("memstore: view of %s, any more: %w", v.id, snapshotter.ErrNoSnapshot)
	}
	err := v.repo.fault(func(f faults) error {
		if p != f.unread && f.unread != "/" && !strings.HasPrefix(p, f.unread+"/") {
			return nil
		}
		return f.name
	})
	if err != nil {
		return nil, err
	}
	if !isCanonical(p) {
		return nil, fmt.Errorf("memstore: view: path %q is not canonical", p)
	}
	n := v.root.find(p)
	if n == nil {
		return nil, fmt.Errorf("memstore: view %q: %w", p, fs.ErrNotExist)
	}
	return n, nil
}

func (v *View) reclaimed() bool {
	v.repo.mu.Lock()
	defer v.repo.mu.Unlock()
	return v.repo.reclaimed[v.id]
}

// Lstat describes the entry at a canonical path.
func (v *View) Lstat(_ context.Context, p string) (snapshotter.Entry, error) {
	n, err := v.find(p)
	if err != nil {
		return snapshotter.Entry{}, err
	}
	return n.entry(path.Base(p)), nil
}

// ReadDir returns up to n entries after a name, in byte order.
func (v *View) ReadDir(_ context.Context, p, after string, n int) ([]snapshotter.Entry, error) {
	dir, err := v.find(p)
	if err != nil {
		return nil, err
	}
	if dir.kind != snapshotter.Dir {
		return nil, fmt.Errorf("memstore: view %q is not a directory", p)
	}
	names := dir.names
	if after != "" {
		names = names[sort.Search(len(names), func(i int) bool { return names[i] > after }):]
	}
	names = slices.Clone(names[:min(max(n, 0), len(names))])
	entries := make([]snapshotter.Entry, len(names))
	for i, name := range names {
		entries[i] = dir.kids[name].entry(name)
	}
	return entries, nil
}

// Open opens a regular file.
func (v *View) Open(_ context.Context, p string) (*Reader, error) {
	n, err := v.find(p)
	if err != nil {
		return nil, err
	}
	if n.kind != snapshotter.File {
		return nil, fmt.Errorf("memstore: view %q is not a regular file", p)
	}
	if err := v.repo.fault(func(f faults) error { return f.read }); err != nil {
		return nil, err
	}
	v.repo.count(func(c *Counts) { c.Opens++; c.OpenReaders++ })
	return &Reader{repo: v.repo, data: n.data}, nil
}

// Close ends the view; Readers keep working.
func (v *View) Close() error {
	if v.closed.Swap(true) {
		return fmt.Errorf("memstore: view: %w", fs.ErrClosed)
	}
	v.repo.count(func(c *Counts) { c.OpenViews-- })
	return nil
}

// Reader reads a stored file; safe for concurrent use.
type Reader struct {
	repo   *Repository
	data   []byte
	closed atomic.Bool
}

// Size is the file's size in bytes.
func (r *Reader) Size() int64 { return int64(len(r.data)) }

// ReadAt implements io.ReaderAt.
func (r *Reader) ReadAt(p []byte, off int64) (int, error) {
	if r.closed.Load() {
		return 0, fmt.Errorf("memstore: read: %w", fs.ErrClosed)
	}
	if err := r.repo.fault(func(f faults) error { return f.read }); err != nil {
		return 0, err
	}
	r.repo.count(func(c *Counts) { c.Reads++ })
	if off < 0 {
		return 0, fmt.Errorf("memstore: read at %d: %w", off, fs.ErrInvalid)
	}
	if off >= int64(len(r.data)) {
		return 0, io.EOF
	}
	n := copy(p, r.data[off:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// Close ends reading.
func (r *Reader) Close() error {
	if r.closed.Swap(true) {
		return fmt.Errorf("memstore: close: %w", fs.ErrClosed)
	}
	r.repo.count(func(c *Counts) { c.OpenReaders-- })
	return nil
}
