package snapshotter

import (
	"cmp"
	"context"
	"errors"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/PlakarKorp/kloset/btree"
	"github.com/PlakarKorp/kloset/iterator"
	"github.com/PlakarKorp/kloset/objects"
	"github.com/PlakarKorp/kloset/resources"
	"github.com/PlakarKorp/kloset/snapshot/vfs"
	"github.com/vmihailenco/msgpack/v5"

	"github.com/snapgate/gateway/store"
)

const (
	// usesMost is how many uses of a damaged file are named.
	usesMost = 1000
	// locateMost is how many places of a damaged blob in snapshots are remembered for a repair.
	locateMost = 8
)

// Use is what a snapshot has in a damaged file: one version of a path, or a part of the snapshot
// itself.
type Use struct {
	Share     string    `json:"share"`
	Path      string    `json:"path,omitempty"` // "" for the snapshot itself
	What      string    `json:"what"`           // content, directory, attributes, summary, error, header, an index
	Size      int64     `json:"size,omitempty"`
	ModTime   time.Time `json:"mtime,omitzero"`
	Snapshots int       `json:"snapshots"` // how many have it
	First     ID        `json:"first"`     // the oldest of them
	FirstTime time.Time `json:"first_time"`
	Last      ID        `json:"last"` // the newest of them
	LastTime  time.Time `json:"last_time"`
}

// MarshalText implements encoding.TextMarshaler.
func (id ID) MarshalText() ([]byte, error) { return []byte(id.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (id *ID) UnmarshalText(text []byte) (err error) {
	*id, err = ParseID(string(text))
	return err
}

// located is where a snapshot has what is damaged.
type located struct {
	r    *record
	path string
}

// search for what snapshots have of damaged blobs.
type useSearch struct {
	s     *Snapshotter
	want  map[store.BlobID]int      // which damage it belongs to
	types map[resources.Type]bool   // that are among want
	used  map[store.BlobID]struct{} // what was found
	at    map[store.BlobID][]located
	objs  map[objects.MAC][]store.BlobID // objects that cannot be read whole; see object
	dark  map[objects.MAC]struct{}       // objects of which it is not known what chunks they have
	clean map[objects.MAC]struct{}       // directories without anything of interest
	dirs  map[objects.MAC][]useHit       // others
	uses  map[useKey]*Use
	more  map[int]int // uses of a damage beyond usesMost
	count map[int]int
	// blind is set when something could not be searched, so that what was not found may be used all
	// the same.
	blind bool
	// broken are the snapshots whose header or indexes are damaged; of the former only the id is known.
	broken map[ID]*record
}

type useKey struct {
	damage int
	share  string
	path   string
	what   string
	mac    objects.MAC
}

// useHit is an entry of a directory that is damaged.
type useHit struct {
	name  string
	what  string
	mac   objects.MAC
	blobs []store.BlobID
	size  int64
	mtime time.Time
}

// The parts of a snapshot that a Use names.
const (
	useContent    = "content"
	useDirectory  = "directory"
	useAttributes = "attributes"
	useSummary    = "summary"
	useError      = "error"
	useXattr      = "extended attribute"
	useHeader     = "header"
	usePaths      = "index of paths"
)

func newUseSearch(s *Snapshotter, want map[store.BlobID]int) *useSearch {
	u := &useSearch{
		s: s, want: want, types: make(map[resources.Type]bool), used: make(map[store.BlobID]struct{}),
		at: make(map[store.BlobID][]located), objs: make(map[objects.MAC][]store.BlobID),
		dark: make(map[objects.MAC]struct{}), clean: make(map[objects.MAC]struct{}), dirs: make(map[objects.MAC][]useHit),
		broken: make(map[ID]*record),
		uses:   make(map[useKey]*Use), more: make(map[int]int), count: make(map[int]int),
	}
	for b := range want {
		u.types[b.Type] = true
	}
	return u
}

func (u *useSearch) wants(typ resources.Type, mac objects.MAC) (store.BlobID, bool) {
	b := store.BlobID{Type: typ, MAC: mac}
	_, ok := u.want[b]
	return b, ok
}

// run searches all snapshots.
func (u *useSearch) run(ctx context.Context) error {
	u.s.mu.RLock()
	u.blind = !u.s.loaded
	u.s.mu.RUnlock()
	if err := u.unreadable(); err != nil || len(u.want) == 0 {
		return err
	}
	if err := u.objects(ctx); err != nil {
		return err
	}
	all := u.s.all()
	slices.SortFunc(all, func(a, b *record) int {
		return cmp.Or(a.snap.Time.Compare(b.snap.Time), slices.Compare(a.snap.ID[:], b.snap.ID[:]))
	})
	for _, r := range all {
		if err := u.snapshot(ctx, r); err != nil {
			return err
		}
	}
	return nil
}

// unreadable finds the snapshots of which nothing can be read.
func (u *useSearch) unreadable() error {
	if u.blind {
		return nil // nothing was read yet
	}
	ids, err := u.s.due()
	if err != nil {
		return err
	}
	known := make(map[ID]bool)
	for _, r := range u.s.all() {
		known[r.snap.ID] = true
	}
	for _, mac := range ids {
		if known[ID(mac)] {
			continue
		}
		u.blind = true
		r := &record{snap: Snapshot{ID: ID(mac)}}
		u.broken[r.snap.ID] = r
		if b, ok := u.wants(resources.RT_SNAPSHOT, mac); ok {
			u.found(r, "", useHeader, mac, []store.BlobID{b}, nil)
		}
	}
	return nil
}

// objects finds the objects that cannot be read whole.
func (u *useSearch) objects(ctx context.Context) error {
	for b := range u.want {
		if b.Type == resources.RT_OBJECT {
			u.objs[b.MAC] = append(u.objs[b.MAC], b)
		}
	}
	if !u.types[resources.RT_CHUNK] {
		return nil
	}
	return u.s.store.EachBlob(ctx, resources.RT_OBJECT, func(mac objects.MAC, data []byte, err error) error {
		return u.chunks(ctx, mac, data, err)
	})
}

// chunks finds out which chunks of an object are damaged; err is why it cannot be read.
func (u *useSearch) chunks(ctx context.Context, mac objects.MAC, data []byte, err error) error {
	if blobs := u.objs[mac]; len(blobs) > 0 && blobs[len(blobs)-1].Type == resources.RT_CHUNK {
		return nil // it is in several places
	}
	if err != nil && errors.Is(readError("object", err), store.ErrUnavailable) {
		if err := u.s.away(ctx); err != nil {
			return err
		}
	}
	var obj *objects.Object
	if err == nil {
		obj, err = objects.NewObjectFromBytes(data)
	}
	if err != nil {
		u.dark[mac] = struct{}{}
		return nil //nolint:nilerr // it is of interest only if a snapshot uses it
	}
	seen := make(map[objects.MAC]struct{})
	for i := range obj.Chunks {
		chunk := obj.Chunks[i].ContentMAC
		if _, dup := seen[chunk]; dup {
			continue
		}
		if b, ok := u.wants(resources.RT_CHUNK, chunk); ok {
			seen[chunk] = struct{}{}
			u.objs[mac] = append(u.objs[mac], b)
		}
	}
	return nil
}

// object returns what of an object that a snapshot uses is damaged.
func (u *useSearch) object(mac objects.MAC) []store.BlobID {
	if _, ok := u.dark[mac]; ok {
		u.blind = true
	}
	return u.objs[mac]
}

// found notes what a snapshot has.
func (u *useSearch) found(r *record, path, what string, mac objects.MAC, blobs []store.BlobID, hit *useHit) {
	if path == "" {
		u.broken[r.snap.ID] = r
	}
	noted := make(map[int]bool)
	for _, b := range blobs {
		u.used[b] = struct{}{}
		if len(u.at[b]) < locateMost && path != "" {
			u.at[b] = append(u.at[b], located{r, path})
		}
		n := u.want[b]
		if noted[n] {
			continue
		}
		noted[n] = true
		k := useKey{n, r.snap.Share, path, what, mac}
		use := u.uses[k]
		if use == nil {
			if u.count[n] == usesMost {
				u.more[n]++
				continue
			}
			u.count[n]++
			use = &Use{Share: r.snap.Share, Path: path, What: what, First: r.snap.ID, FirstTime: r.snap.Time}
			if hit != nil {
				use.Size, use.ModTime = hit.size, hit.mtime
			}
			u.uses[k] = use
		}
		use.Snapshots++
		use.Last, use.LastTime = r.snap.ID, r.snap.Time
	}
}

// snapshot searches a snapshot. What of it cannot be read because it is damaged is found by its
// name before that.
func (u *useSearch) snapshot(ctx context.Context, r *record) error {
	mac := objects.MAC(r.snap.ID)
	for _, typ := range []resources.Type{resources.RT_SNAPSHOT, resources.RT_SIGNATURE} {
		if b, ok := u.wants(typ, mac); ok {
			u.found(r, "", useHeader, mac, []store.BlobID{b}, nil)
		}
	}
	for _, x := range []struct {
		root       objects.MAC
		typ, nodes resources.Type
		what       string
	}{
		{r.vfs.Root, resources.RT_VFS_BTREE, resources.RT_VFS_NODE, usePaths},
		{r.vfs.Errors, resources.RT_ERROR_BTREE, resources.RT_ERROR_NODE, "index of errors"},
		{r.vfs.Xattrs, resources.RT_XATTR_BTREE, resources.RT_XATTR_NODE, "index of extended attributes"},
		{r.dirpack, resources.RT_BTREE_ROOT, resources.RT_BTREE_NODE, "index of directories"},
		{r.types, resources.RT_BTREE_ROOT, resources.RT_BTREE_NODE, "index of types"},
		{r.summary, resources.RT_BTREE_ROOT, resources.RT_BTREE_NODE, "index of summaries"},
	} {
		if x.root == (objects.MAC{}) {
			continue
		}
		if err := u.index(ctx, r, x.root, x.typ, x.nodes, x.what); err != nil {
			return err
		}
	}
	for _, f := range []func(context.Context, *record) error{u.directories, u.summaries, u.entries} {
		if err := f(ctx, r); err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			if err := u.s.away(ctx); err != nil {
				return err
			}
			u.blind = true
		}
	}
	return nil
}

// index looks for damaged nodes of an index. It reads the inner ones.
func (u *useSearch) index(ctx context.Context, r *record, root objects.MAC, typ, nodes resources.Type, what string) error {
	if b, ok := u.wants(typ, root); ok {
		u.found(r, "", what, root, []store.BlobID{b}, nil)
		u.blind = true
		return nil
	}
	if !u.types[nodes] {
		return nil
	}
	data, err := u.s.blob(typ, root)
	var tree btree.BTree[string, objects.MAC, objects.MAC]
	if err == nil {
		err = msgpack.Unmarshal(data, &tree)
	}
	if err != nil {
		u.blind = true
		return nil //nolint:nilerr // it is damaged, and found by what is in it
	}
	x := &rawIndex{s: u.s, typ: nodes}
	inner := []objects.MAC{tree.Root}
	for depth := 0; len(inner) > 0 && depth < maxIndexDepth; depth++ {
		var next []objects.MAC
		leaves := false
		for _, mac := range inner {
			if err := ctx.Err(); err != nil {
				return err
			}
			if b, ok := u.wants(nodes, mac); ok {
				u.found(r, "", what, mac, []store.BlobID{b}, nil)
				u.blind = true
				continue
			}
			if leaves {
				continue // all at this depth are
			}
			n, err := x.node(mac)
			if err != nil {
				u.blind = true
				continue
			}
			if leaves = len(n.pointers) == 0; leaves {
				continue
			}
			for i := range len(n.keys) + 1 {
				next = append(next, n.pointer(i))
			}
		}
		inner = next
	}
	return nil
}

// directories looks for files and directories.
func (u *useSearch) directories(ctx context.Context, r *record) error {
	if len(u.objs)+len(u.dark) == 0 && !u.types[resources.RT_VFS_ENTRY] {
		return nil
	}
	dirs, err := u.s.rawOther(r.dirpack)
	if err != nil {
		return err
	}
	if dirs == nil {
		return u.paths(ctx, r)
	}
	if u.types[resources.RT_VFS_ENTRY] { // of the root, which is in no directory
		paths, err := u.s.rawPaths(r)
		if err != nil {
			return err
		}
		mac, ok, err := paths.find("/")
		if err != nil {
			return err
		}
		if b, wanted := u.wants(resources.RT_VFS_ENTRY, mac); ok && wanted {
			u.found(r, "/", useAttributes, mac, []store.BlobID{b}, nil)
		}
	}
	cur, err := newRawCursor(ctx, dirs, "/")
	for ; err == nil && cur.ok; err = cur.next(ctx) {
		if blobs := u.object(cur.mac); blobs != nil {
			u.found(r, cur.key, useDirectory, cur.mac, blobs, nil)
		}
		hits, err := u.directory(ctx, cur.mac)
		if err != nil {
			return err
		}
		for i := range hits {
			h := &hits[i]
			u.found(r, below(cur.key)+h.name, h.what, h.mac, h.blobs, h)
		}
	}
	return err
}

// directory looks for files in a directory, once for all snapshots that have it as it is. What of a
// directory cannot be read it lacks.
func (u *useSearch) directory(ctx context.Context, mac objects.MAC) (hits []useHit, err error) {
	if _, ok := u.clean[mac]; ok {
		return nil, nil
	}
	if hits, ok := u.dirs[mac]; ok {
		return hits, nil
	}
	fr, err := u.s.frames(mac)
	for err == nil {
		var frame []byte
		if frame, err = fr.next(); err != nil {
			break
		}
		var e *storedEntry
		if e, err = decodeEntry(frame); err == nil {
			hits = append(hits, u.entry(e, frameMAC(frame))...)
		}
	}
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	if !errors.Is(err, io.EOF) {
		u.blind = true
	}
	if len(hits) == 0 {
		u.clean[mac] = struct{}{}
	} else {
		u.dirs[mac] = hits
	}
	return hits, nil
}

// entry says what of an entry is damaged.
func (u *useSearch) entry(e *storedEntry, mac objects.MAC) (hits []useHit) {
	h := useHit{name: strings.Clone(e.Name()), size: e.FileInfo.Lsize, mtime: e.FileInfo.LmodTime.UTC()}
	if b, ok := u.wants(resources.RT_VFS_ENTRY, mac); ok {
		h.what, h.mac, h.blobs = useAttributes, mac, []store.BlobID{b}
		hits = append(hits, h)
	}
	if !e.HasObject() {
		return hits
	}
	if blobs := u.object(e.Object); blobs != nil {
		h.what, h.mac, h.blobs = useContent, e.Object, blobs
		hits = append(hits, h)
	}
	return hits
}

// paths is directories for a snapshot that has no index of them.
func (u *useSearch) paths(ctx context.Context, r *record) error {
	return u.each(ctx, r.vfs.Root, resources.RT_VFS_BTREE, resources.RT_VFS_NODE, vfs.PathCmp, func(path string, mac objects.MAC) error {
		data, err := u.s.blob(resources.RT_VFS_ENTRY, mac)
		if b, ok := u.wants(resources.RT_VFS_ENTRY, mac); ok {
			u.found(r, path, useAttributes, mac, []store.BlobID{b}, nil)
			return nil
		}
		if err != nil {
			return err
		}
		e, err := vfs.EntryFromBytes(data)
		if err != nil {
			return err
		}
		for _, h := range u.entry(e, mac) {
			u.found(r, path, h.what, h.mac, h.blobs, &h)
		}
		return nil
	})
}

// each calls f for the keys of an index.
func (u *useSearch) each(ctx context.Context, root objects.MAC, typ, nodes resources.Type, order func(a, b string) int, f func(string, objects.MAC) error) error {
	if root == (objects.MAC{}) {
		return nil
	}
	x, err := u.s.openIndex(root, typ, nodes, order)
	if err != nil {
		return err
	}
	var it iterator.Iterator[string, objects.MAC]
	if it, err = x.ScanAll(); err != nil {
		return err
	}
	for it.Next() {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := f(it.Current()); err != nil {
			return err
		}
	}
	return it.Err()
}

func (u *useSearch) summaries(ctx context.Context, r *record) error {
	if !u.types[resources.RT_VFS_SUMMARY] {
		return nil
	}
	sums, err := u.s.rawOther(r.summary)
	if err != nil {
		return err
	}
	cur, err := newRawCursor(ctx, sums, "/")
	for ; err == nil && cur.ok; err = cur.next(ctx) {
		if b, ok := u.wants(resources.RT_VFS_SUMMARY, cur.mac); ok {
			u.found(r, cur.key, useSummary, cur.mac, []store.BlobID{b}, nil)
		}
	}
	return err
}

// entries looks for errors and extended attributes.
func (u *useSearch) entries(ctx context.Context, r *record) error {
	if u.types[resources.RT_ERROR_ENTRY] {
		err := u.each(ctx, r.vfs.Errors, resources.RT_ERROR_BTREE, resources.RT_ERROR_NODE, strings.Compare, func(path string, mac objects.MAC) error {
			if b, ok := u.wants(resources.RT_ERROR_ENTRY, mac); ok {
				u.found(r, path, useError, mac, []store.BlobID{b}, nil)
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	if !u.types[resources.RT_XATTR_ENTRY] && len(u.objs)+len(u.dark) == 0 {
		return nil
	}
	return u.each(ctx, r.vfs.Xattrs, resources.RT_XATTR_BTREE, resources.RT_XATTR_NODE, strings.Compare, func(path string, mac objects.MAC) error {
		if b, ok := u.wants(resources.RT_XATTR_ENTRY, mac); ok {
			u.found(r, path, useXattr, mac, []store.BlobID{b}, nil)
			return nil
		}
		data, err := u.s.blob(resources.RT_XATTR_ENTRY, mac)
		if err != nil {
			return err
		}
		x, err := vfs.XattrFromBytes(data)
		if err != nil {
			return err
		}
		if blobs := u.object(x.Object); blobs != nil {
			u.found(r, path, useXattr, mac, blobs, nil)
		}
		return nil
	})
}

// of lists the uses of a damage: by share and path.
func (u *useSearch) of(damage int) (uses []Use) {
	for k, use := range u.uses {
		if k.damage == damage {
			uses = append(uses, *use)
		}
	}
	slices.SortFunc(uses, func(a, b Use) int {
		return cmp.Or(cmp.Compare(a.Share, b.Share), cmp.Compare(a.Path, b.Path), cmp.Compare(a.What, b.What), a.FirstTime.Compare(b.FirstTime), slices.Compare(a.First[:], b.First[:]))
	})
	return uses
}
