// Package memstore is a snapshot store in memory for tests. It takes the contract of
// snapshotter.Change literally: a commit whose changes are out of order, name a missing
// base path or lie below something that is no directory fails, so that a test of the code
// that makes the changes fails as well. Commits and reads can be made to fail or to wait.
//
// It knows nothing of package vfs, so that the tests inside that package can use it too.
package memstore

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"iter"
	"maps"
	"slices"
	"sync"
	"testing/fstest"
	"time"

	"github.com/snapgate/gateway/snapshotter"
)

// Repository is a store in memory. Safe for concurrent use.
type Repository struct {
	mu         sync.Mutex // guards everything below
	snapshots  map[snapshotter.ID]*stored
	made       []snapshotter.ID    // in order of their making
	contents   map[uint64][32]byte // hash of the content that carries a version number
	serial     uint64
	committing bool
	gate       *Gate
	faults     faults
	lost       []string // paths
	reclaimed  map[snapshotter.ID]bool
	counts     Counts
}

// stored is a snapshot; immutable.
type stored struct {
	snap    snapshotter.Snapshot
	meta    snapshotter.Meta
	root    *node
	lossy   bool // it, or one that it continues, lacks what was lost
	changes []snapshotter.Change
}

type faults struct {
	commit, afterCommit, index, read error
	name                             error // of unread and what is below it
	unread                           string
	lacking                          snapshotter.ID
}

// errLacking is what a store says that lacks a header.
var errLacking = fmt.Errorf("memstore: the header of a snapshot is not there: %w", snapshotter.ErrUnavailable)

// Counts says how often a Repository was used, and what is open now.
type Counts struct {
	Commits     int // successful ones
	Failed      int // commits that returned an error
	Views       int // opened so far
	Opens       int // files opened so far
	Reads       int // calls of ReadAt
	OpenViews   int // not closed yet
	OpenReaders int // not closed yet
}

// New returns an empty Repository.
func New() *Repository {
	return &Repository{snapshots: map[snapshotter.ID]*stored{}, contents: map[uint64][32]byte{}}
}

// Commit makes a snapshot of base (zero: the empty tree) and changes. Besides the rules of
// snapshotter.Change it checks meta: the sequence number is above the parent's, the
// parent is base, the journal position does not go back, and the view name is unique.
func (r *Repository) Commit(ctx context.Context, base snapshotter.ID, changes iter.Seq2[snapshotter.Change, error], meta snapshotter.Meta) (snapshotter.ID, error) {
	from, gate, err := r.begin(base, meta)
	if err == nil {
		defer r.end()
		var s *stored
		if s, err = r.build(ctx, from, changes, meta, r.losses()); err == nil && gate != nil {
			err = gate.wait(ctx)
		}
		if err == nil {
			return r.publish(s)
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.counts.Failed++
	return snapshotter.ID{}, err
}

// NewIngest makes none: a Repository in memory reads contents when they are committed.
func (r *Repository) NewIngest(io.Writer) *snapshotter.Ingest { return nil }

// begin checks what can be checked before the changes are read.
func (r *Repository) begin(base snapshotter.ID, meta snapshotter.Meta) (*stored, *Gate, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.committing {
		return nil, nil, fmt.Errorf("memstore: commit during a commit")
	}
	if r.faults.commit != nil {
		return nil, nil, r.faults.commit
	}
	if !r.faults.lacking.IsZero() {
		return nil, nil, errLacking
	}
	parent := &stored{root: emptyRoot()}
	if !base.IsZero() {
		if parent = r.snapshots[base]; parent == nil {
			return nil, nil, fmt.Errorf("memstore: base %s: %w", base, snapshotter.ErrNoSnapshot)
		}
	}
	if err := r.checkMeta(parent, base, meta); err != nil {
		return nil, nil, err
	}
	gate := r.gate
	r.gate = nil
	r.committing = true
	return parent, gate, nil
}

func (r *Repository) checkMeta(parent *stored, base snapshotter.ID, meta snapshotter.Meta) error {
	switch {
	case meta.Share == "":
		return fmt.Errorf("memstore: a commit without a share")
	case meta.Parent != base:
		return fmt.Errorf("memstore: parent %s is not the base %s", meta.Parent, base)
	case !parent.snap.Foreign() || base.IsZero():
		if meta.Sequence <= parent.meta.Sequence { // a gap is left by a head that was removed
			return fmt.Errorf("memstore: sequence %d after %d", meta.Sequence, parent.meta.Sequence)
		}
		if meta.Journal < parent.meta.Journal {
			return fmt.Errorf("memstore: journal position %d after %d", meta.Journal, parent.meta.Journal)
		}
	}
	own := snapshotter.Lineage{GatewayID: gatewayOf(meta), ShareID: meta.ShareID}
	name := snapshotOf(snapshotter.ID{}, meta, emptyRoot()).ViewName(own)
	for _, s := range r.snapshots {
		if s.snap.Share == meta.Share && s.snap.ViewName(own) == name {
			return fmt.Errorf("memstore: view name %s is taken", name)
		}
	}
	return nil
}

func (r *Repository) end() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.committing = false
}

// build reads the changes and their contents without holding the mutex.
func (r *Repository) build(ctx context.Context, parent *stored, changes iter.Seq2[snapshotter.Change, error], meta snapshotter.Meta, lost []string) (*stored, error) {
	left := &applier{base: parent.root, root: parent.root, owned: map[*node]bool{}}
	for _, path := range lost {
		if err := left.apply(ctx, snapshotter.Change{Path: path, Kind: snapshotter.Removed}); err != nil {
			return nil, fmt.Errorf("memstore: lost %q: %w", path, err)
		}
	}
	a := &applier{base: left.root, root: left.root, owned: map[*node]bool{}}
	s := &stored{meta: meta, lossy: parent.lossy || len(lost) > 0 || meta.LeftOut > 0}
	for c, err := range changes {
		if err != nil {
			return nil, err
		}
		if err := a.apply(ctx, c); err != nil {
			return nil, fmt.Errorf("memstore: change %q: %w", c.Path, err)
		}
		if p, ok := c.Content.(snapshotter.Patched); ok {
			if err := r.checkPatch(ctx, p, a.root.find(c.Path).data); err != nil {
				return nil, fmt.Errorf("memstore: change %q: %w", c.Path, err)
			}
		}
		c.Content = nil
		s.changes = append(s.changes, c)
	}
	s.root = a.root
	return s, nil
}

// checkPatch compares what a content that continues a stored file says of itself with the
// file and with its bytes.
func (r *Repository) checkPatch(ctx context.Context, c snapshotter.Patched, data []byte) (err error) {
	p, ok := c.Patch()
	if !ok {
		return nil
	}
	r.mu.Lock()
	base := r.snapshots[p.Base]
	r.mu.Unlock()
	if base == nil {
		return fmt.Errorf("patch of %s: %w", p.Base, snapshotter.ErrNoSnapshot)
	}
	n := base.root.find(p.Path)
	if n == nil || p.Size < 0 || p.Size > min(int64(len(n.data)), c.Size()) {
		return fmt.Errorf("patch %+v has no such base", p)
	}
	want := append(slices.Clone(n.data[:p.Size]), data[p.Size:]...)
	end := int64(0)
	for _, w := range p.Written {
		if w.Len <= 0 || w.Off < end || w.Off+w.Len > c.Size() {
			return fmt.Errorf("patch %+v: ranges out of order", p)
		}
		end = w.Off + w.Len
		copy(want[w.Off:end], data[w.Off:end])
	}
	if !bytes.Equal(want, data) {
		return fmt.Errorf("patch %+v: what is said to be unchanged is not", p)
	}
	rd, err := c.OpenAt(ctx)
	if err != nil {
		return fmt.Errorf("open content: %w", err)
	}
	defer func() { err = errors.Join(err, rd.Close()) }()
	got, err := io.ReadAll(io.NewSectionReader(rd, 0, c.Size()))
	if err == nil && !bytes.Equal(got, data) {
		err = errors.New("read in places, the content is another")
	}
	return err
}

// publish makes s a snapshot.
func (r *Repository) publish(s *stored) (snapshotter.ID, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.checkVersions(s); err != nil {
		r.counts.Failed++
		return snapshotter.ID{}, err
	}
	id := r.newID()
	s.snap = snapshotOf(id, s.meta, s.root)
	r.snapshots[id] = s
	r.made = append(r.made, id)
	r.counts.Commits++
	if err := r.faults.afterCommit; err != nil {
		r.counts.Failed++
		return snapshotter.ID{}, err
	}
	return id, nil
}

// checkVersions verifies that a version number stands for one content for ever.
func (r *Repository) checkVersions(s *stored) error {
	seen := map[uint64][32]byte{}
	for _, c := range s.changes {
		if c.Kind != snapshotter.File {
			continue
		}
		if c.Version == 0 {
			return fmt.Errorf("memstore: change %q: no version number", c.Path)
		}
		sum := sha256.Sum256(s.root.find(c.Path).data)
		old, ok := r.contents[c.Version]
		if !ok {
			old, ok = seen[c.Version]
		}
		if ok && old != sum {
			return fmt.Errorf("memstore: change %q: version %d had another content", c.Path, c.Version)
		}
		seen[c.Version] = sum
	}
	maps.Copy(r.contents, seen)
	return nil
}

func (r *Repository) newID() snapshotter.ID {
	r.serial++
	return sha256.Sum256(binary.BigEndian.AppendUint64([]byte("snapshot"), r.serial))
}

// gatewayOf is the gateway of a snapshot; an empty one would make it foreign.
func gatewayOf(m snapshotter.Meta) string { return cmp.Or(m.GatewayID, "memstore") }

func snapshotOf(id snapshotter.ID, m snapshotter.Meta, root *node) snapshotter.Snapshot {
	files, size := root.usage()
	tags := []string{"reason=" + m.Reason}
	for _, u := range m.Users {
		tags = append(tags, "user="+u)
	}
	for _, p := range m.Protocols {
		tags = append(tags, "protocol="+p)
	}
	tags = append(tags, m.Tags...)
	return snapshotter.Snapshot{
		ID: id, Time: m.Time.UTC(), Share: m.Share, Suffix: m.Suffix, ShareID: m.ShareID, GatewayID: gatewayOf(m),
		Sequence: m.Sequence, Parent: m.Parent, Journal: m.Journal, Files: files, Size: size, Tags: tags, Root: "/",
	}
}

// Add puts a foreign snapshot into the store: one that no gateway made. Its tree is files,
// whose names are relative to "/" and include root, the source directory that a view shows.
func (r *Repository) Add(share, root string, when time.Time, files fstest.MapFS) (snapshotter.ID, error) {
	tree, err := fromMap(files)
	if err != nil {
		return snapshotter.ID{}, err
	}
	n, size := tree.usage()
	r.mu.Lock()
	defer r.mu.Unlock()
	id := r.newID()
	r.snapshots[id] = &stored{root: tree, snap: snapshotter.Snapshot{
		ID: id, Time: when.UTC(), Share: share, Files: n, Size: size, Root: root,
	}}
	r.made = append(r.made, id)
	return id, nil
}

// Copy makes a snapshot with the tree of another one, as a process beside this one might: it
// checks nothing of meta.
func (r *Repository) Copy(id snapshotter.ID, meta snapshotter.Meta) (snapshotter.ID, error) {
	r.mu.Lock()
	from := r.snapshots[id]
	r.mu.Unlock()
	if from == nil {
		return snapshotter.ID{}, fmt.Errorf("memstore: copy of %s: %w", id, snapshotter.ErrNoSnapshot)
	}
	return r.publish(&stored{meta: meta, root: from.root})
}

// Remove takes a snapshot away, as a prune does. Open views keep working.
func (r *Repository) Remove(id snapshotter.ID) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.snapshots, id)
	r.made = slices.DeleteFunc(r.made, func(other snapshotter.ID) bool { return other == id })
}

// Reclaim is Remove with all that the snapshot has, as by maintenance: what of it is read through views that are open is gone, too.
func (r *Repository) Reclaim(id snapshotter.ID) {
	r.Remove(id)
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.reclaimed == nil {
		r.reclaimed = map[snapshotter.ID]bool{}
	}
	r.reclaimed[id] = true
}

// TakeAway is Remove until back is called: as of a disk that is not there for a while.
func (r *Repository) TakeAway(id snapshotter.ID) (back func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	was, i := r.snapshots[id], slices.Index(r.made, id)
	delete(r.snapshots, id)
	r.made = slices.Delete(r.made, i, i+1)
	return func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.snapshots[id] = was
		r.made = slices.Insert(r.made, min(i, len(r.made)), id)
	}
}

// Lose has the next commit leave paths of its base out, as a store does that has lost their
// contents. None of its changes may be about them.
func (r *Repository) Lose(paths ...string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.lost = paths
}

// losses takes what the commit that begins is to leave out.
func (r *Repository) losses() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	lost := r.lost
	r.lost = nil
	return lost
}

// Snapshots lists the snapshots of a share, newest first.
func (r *Repository) Snapshots(_ context.Context, share string) ([]snapshotter.Snapshot, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.faults.index != nil {
		return nil, r.faults.index
	}
	var list []snapshotter.Snapshot
	for _, id := range slices.Backward(r.made) {
		if s := r.snapshots[id].snap; s.Share == share && id != r.faults.lacking {
			list = append(list, s)
		}
	}
	slices.SortStableFunc(list, func(a, b snapshotter.Snapshot) int { return b.Time.Compare(a.Time) })
	return list, nil
}

// AllSnapshots is Snapshots that fails while a snapshot is lacking.
func (r *Repository) AllSnapshots(ctx context.Context, share string, _ bool) ([]snapshotter.Snapshot, error) {
	if !r.lacking().IsZero() {
		return nil, errLacking
	}
	return r.Snapshots(ctx, share)
}

// Gone reports whether there is no such snapshot.
func (r *Repository) Gone(_ context.Context, id snapshotter.ID) (bool, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.faults.index != nil {
		return false, r.faults.index
	}
	return r.snapshots[id] == nil, nil
}

// Meta returns what a commit was given besides its changes.
func (r *Repository) Meta(id snapshotter.ID) (snapshotter.Meta, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.snapshots[id]
	if s == nil {
		return snapshotter.Meta{}, false
	}
	return s.meta, true
}

// Changes returns the changes that a commit was given, without their contents.
func (r *Repository) Changes(id snapshotter.ID) []snapshotter.Change {
	r.mu.Lock()
	defer r.mu.Unlock()
	if s := r.snapshots[id]; s != nil {
		return slices.Clone(s.changes)
	}
	return nil
}

// Tree returns a snapshot as text for comparisons: a directory is its path with a slash
// at the end (the root "/"), a file its path and content, a symbolic link its path and
// "-> target".
func (r *Repository) Tree(id snapshotter.ID) map[string]string {
	r.mu.Lock()
	s := r.snapshots[id]
	r.mu.Unlock()
	if s == nil {
		return nil
	}
	out := map[string]string{}
	s.root.dump("/", out)
	return out
}
