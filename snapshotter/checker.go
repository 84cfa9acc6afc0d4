package snapshotter

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"iter"
	"maps"
	"slices"
	"sort"

	"github.com/PlakarKorp/kloset/objects"
	"github.com/PlakarKorp/kloset/repository"
	"github.com/PlakarKorp/kloset/resources"

	"github.com/snapgate/gateway/store"
)

const (
	// sampledMost bounds what a Checker remembers to have read for samples, at about 50 bytes
	// each, or 100 with a name; what is beyond is read again.
	sampledMost = 1 << 20
	// damagedMost is how many damaged paths of a snapshot are named.
	damagedMost = 1000
)

// errNoDirs says that a snapshot has no index of directories. Other programs make such.
var errNoDirs = errors.New("it has no index of directories")

// Checker checks snapshots, one after the other: what they have in common is read once. It takes
// no lock, and is for one goroutine.
type Checker struct {
	v    *verification
	seed maphash.Seed
	good parts // what was read for samples, or to name what is damaged
}

// parts are directories, objects and leaves of indexes of paths, which other snapshots may have as well.
type parts struct {
	dirs    map[objects.MAC][]sampledName // with the files of them that were chosen
	names   int                           // of those
	objects map[objects.MAC]struct{}
	leaves  map[objects.MAC]struct{}
}

// sampledName is a file in its directory, wherever that is.
type sampledName struct {
	name  string
	entry objects.MAC
}

func newParts() parts {
	return parts{dirs: make(map[objects.MAC][]sampledName), objects: make(map[objects.MAC]struct{}), leaves: make(map[objects.MAC]struct{})}
}

func (p *parts) len() int { return len(p.dirs) + p.names + len(p.objects) + len(p.leaves) }

// NewChecker makes a Checker. Another one chooses other samples.
func (s *Snapshotter) NewChecker() (*Checker, error) {
	v, err := newVerification(s)
	if err != nil {
		return nil, err
	}
	v.patience = s.store.NewPatience()
	return &Checker{v: v, seed: maphash.MakeSeed(), good: newParts()}, nil
}

// Close releases what the Checker has in memory.
func (c *Checker) Close() error { return c.v.close() }

// Check is Snapshotter.Check. After an error of reading it may be called again for the same snapshot.
func (c *Checker) Check(ctx context.Context, id ID) error {
	c.v.patience.Begin()
	return c.v.check(ctx, id)
}

// CheckFiles is Check that names, after an error, the files that are damaged, and all whose entry in the index of paths is. Of those that it
// has found good the bytes are not read again. When there is damage beside an error with ErrUnread, that tells of it.
func (c *Checker) CheckFiles(ctx context.Context, id ID) (Sampled, error) {
	err := c.Check(ctx, id)
	if err == nil || errors.Is(err, ErrUnavailable) && !errors.Is(err, ErrUnread) {
		return Sampled{}, err
	}
	sampled, serr := c.sample(ctx, id, &sampling{part: 1, rest: true})
	if errors.Is(serr, errNoDirs) { // which is no damage
		return sampled, err
	}
	if errors.Is(err, ErrUnread) && serr != nil && (errors.Is(serr, ErrUnread) || !errors.Is(serr, ErrUnavailable)) && ctx.Err() == nil {
		err = serr // it names a file; or it is damaged so much that no file can be found
	}
	return sampled, err
}

// GaveUp returns why nothing is read any more, as the store has not given anything of what was asked for many times: ErrUnavailable,
// with ErrUnread. All that is checked from then on is unread. It returns nil as long as something is read.
func (c *Checker) GaveUp() error {
	if err := c.v.patience.Over(); err != nil {
		return fmt.Errorf("%w: %w", ErrUnread, err)
	}
	return nil
}

// Removed reports whether it is proven that a snapshot was removed, and that none was made in its place: a state in the store says so,
// which is read now. What maintenance takes away of such a one is no damage. That it is not listed proves nothing: its header
// may be missing. It waits for a commit that is running. Errors: ErrUnavailable; that of ctx.
func (c *Checker) Removed(ctx context.Context, id ID) (bool, error) {
	s := c.v.s
	if err := s.CatchUp(ctx, 0); err != nil {
		return false, err
	}
	if s.known(id) != nil {
		return false, nil
	}
	if deleted, err := s.store.Deleted(objects.MAC(id)); !deleted || err != nil { // as is mostly so, and found out without reading all states
		return false, err
	}
	return s.store.RemovalTold(ctx, objects.MAC(id))
}

// Sampled is what Sample has read.
type Sampled struct {
	Files   uint64 // whose bytes were read; those that another snapshot has as well count once
	Bytes   uint64
	Damaged []Damaged // up to 1,000
	More    uint64    // how many more are damaged
}

// Damaged is a path that cannot be read as it was written.
type Damaged struct {
	Path string
	Err  error
}

// Sample reads all directories of a snapshot, and of a part of its files, from 0 to 1, chosen at random, the bytes, the entry and what leads
// to it in the index of paths, and compares them with their MACs. To chosen files that the Checker has read before, for another snapshot,
// lead other leaves of this index, as a commit writes many of them again: of these it reads that part. It goes on after what is damaged, and after what a store
// that can be reached does not give. Of a snapshot without an index of directories, as other programs make them, all is read, and
// not counted. With an error, Sampled has what was found until then. Errors: ErrUnavailable, with ErrUnread, the
// first, for what was not given; ErrNoSnapshot; and what makes it impossible to find the files at all.
func (c *Checker) Sample(ctx context.Context, id ID, part float64) (Sampled, error) {
	c.v.patience.Begin()
	s, err := c.sample(ctx, id, &sampling{part: part})
	if !errors.Is(err, errNoDirs) {
		return s, err
	}
	return c.CheckFiles(ctx, id)
}

func (c *Checker) sample(ctx context.Context, id ID, x *sampling) (Sampled, error) {
	s := c.v.s
	var v *View
	err := s.tried(ctx, func() (err error) {
		v, err = s.View(ctx, id)
		return err
	})
	if err != nil {
		if packfile, far := s.store.FarPackfile(resources.RT_SNAPSHOT, objects.MAC(id)); far && errors.Is(ungiven(err), ErrUnavailable) {
			c.v.patience.Note(packfile, err)
		}
		return Sampled{}, s.asUnread(ctx, err)
	}
	x.c, x.v, x.seen, x.bad = c, v, newParts(), make(map[objects.MAC]struct{})
	x.nodes = make(map[objects.MAC]sampledNode)
	err = ordered(ctx, searchParallel(), x.files(ctx), x.check, func(f sampledFile) error {
		if f.err != nil {
			return x.failed(ctx, f)
		}
		return nil
	})
	if err == nil {
		x.keep()
		if err = x.unread; x.more > 0 {
			err = fmt.Errorf("%w; and %d more files or directories", err, x.more)
		}
	} else {
		err = s.asUnread(ctx, err)
	}
	if err != nil {
		err = fmt.Errorf("check snapshot %s: %w", id, err)
	}
	return x.out, err
}

// asUnread is asDamage, with ErrUnread for what a store that can be reached does not give.
func (s *Snapshotter) asUnread(ctx context.Context, err error) error {
	if err = s.asDamage(ctx, err); errors.Is(err, ErrUnavailable) && ctx.Err() == nil {
		err = s.unread(ctx, err)
	}
	return err
}

// sampling is a sample that is being read.
type sampling struct {
	c      *Checker
	v      *View
	part   float64
	rest   bool // what a Check has found good is left out
	out    Sampled
	unread error                    // ErrUnread: the first
	more   uint64                   // that are unread, too
	seen   parts                    // what is read, or about to be
	bad    map[objects.MAC]struct{} // objects of it that are not proven to be good; zero stands for directories
	// The index of paths; nil until it is needed, or when it cannot be opened: noPaths tells why.
	paths   *rawIndex
	noPaths error
	nodes   map[objects.MAC]sampledNode // of it
	leaves  []rawLeaf                   // of it; nil until they are needed, or when they cannot be listed
	listed  bool                        // that was tried
}

// sampledFile is a file that is to be read; or a directory that could not be.
type sampledFile struct {
	path string
	e    *storedEntry // nil for a directory
	err  error
}

func (f *sampledFile) object() (mac objects.MAC) {
	if f.e != nil {
		mac = f.e.Object
	}
	return mac
}

// failed takes note of what could not be read. The error says that there is no point in reading on.
func (x *sampling) failed(ctx context.Context, f sampledFile) error {
	err := f.err
	if errors.Is(err, errNotProven) {
		x.bad[f.object()] = struct{}{}
		return nil
	}
	if x.unread == nil || !errors.Is(err, store.ErrNotAsked) { // of which all is known
		err = x.c.v.s.asUnread(ctx, err)
	}
	switch {
	case errors.Is(err, store.ErrNotAsked) && x.unread != nil:
		x.more++
	case errors.Is(err, ErrUnread):
		if x.unread == nil {
			x.unread = fmt.Errorf("%s: %w", f.path, err)
		} else {
			x.more++
		}
	case errors.Is(err, ErrUnavailable):
		return err
	case slices.ContainsFunc(x.out.Damaged, func(d Damaged) bool { return d.Path == f.path }): // its entry was
	case len(x.out.Damaged) == damagedMost:
		x.out.More++
	default:
		x.out.Damaged = append(x.out.Damaged, Damaged{f.path, err})
	}
	x.bad[f.object()] = struct{}{}
	return nil
}

// first reports whether something is to be read: neither this snapshot nor another one has had it.
func (x *sampling) first(good, seen map[objects.MAC]struct{}, mac objects.MAC) bool {
	if _, ok := good[mac]; ok {
		return false
	}
	if _, ok := seen[mac]; ok {
		return false
	}
	if x.room() {
		seen[mac] = struct{}{}
	}
	return true
}

// room reports whether more can be remembered.
func (x *sampling) room() bool { return x.c.good.len()+x.seen.len() < sampledMost }

// chosenOf returns the files that were chosen of a directory that was read; false when it is to be read.
func (x *sampling) chosenOf(dir objects.MAC) ([]sampledName, bool) {
	names, ok := x.c.good.dirs[dir]
	if !ok {
		names, ok = x.seen.dirs[dir]
	}
	return names, ok
}

// keep notes for other snapshots what was read. What is bad in one is bad in all that have it, and a directory of this
// snapshot may have a file that is: they are read again.
func (x *sampling) keep() {
	for mac := range x.seen.objects {
		if _, bad := x.bad[mac]; !bad {
			x.c.good.objects[mac] = struct{}{}
		}
	}
	if len(x.bad) == 0 {
		maps.Copy(x.c.good.dirs, x.seen.dirs)
		x.c.good.names += x.seen.names
	}
}

// chosen reports whether an object is part of the sample: always the same ones of a Checker.
func (x *sampling) chosen(mac objects.MAC) bool {
	return float64(maphash.Bytes(x.c.seed, mac[:])) < x.part*(1<<64)
}

// files lists what is to be read.
func (x *sampling) files(ctx context.Context) iter.Seq2[sampledFile, error] {
	return func(yield func(sampledFile, error) bool) {
		if err := x.directories(ctx, func(f sampledFile) error {
			if !yield(f, nil) {
				return errStop
			}
			return nil
		}); err != nil && !errors.Is(err, errStop) {
			yield(sampledFile{}, err)
		}
	}
}

func (x *sampling) directories(ctx context.Context, yield func(sampledFile) error) error {
	s := x.c.v.s
	r, err := s.record(ctx, x.v.snap.ID)
	if err != nil {
		return err
	}
	var dirs *rawIndex
	err = x.patiently(ctx, resources.RT_BTREE_ROOT, r.dirpack, func() (err error) {
		dirs, err = s.rawOther(r.dirpack)
		return err
	})
	if err != nil {
		return err
	}
	if dirs == nil {
		return errNoDirs
	}
	dirs.read = x.blobs(ctx)
	cur, err := newRawCursor(ctx, dirs, "/")
	for ; err == nil && cur.ok; err = cur.next(ctx) {
		if names, ok := x.chosenOf(cur.mac); ok {
			err = x.again(ctx, cur.key, names, yield)
		} else {
			err = x.directory(ctx, cur.key, cur.mac, yield)
		}
		if err != nil {
			return err
		}
	}
	return err
}

// again yields those of the chosen files of a directory, which were read, that the index of paths of this snapshot does not lead to.
func (x *sampling) again(ctx context.Context, key string, names []sampledName, yield func(sampledFile) error) error {
	for _, f := range names {
		if err := x.indexedAgain(ctx, below(key)+f.name, f.entry); err != nil {
			if err := yield(sampledFile{path: below(x.v.rel(key)) + f.name, err: err}); err != nil {
				return err
			}
		}
	}
	return nil
}

// directory reads a directory, by its path in the snapshot, and yields the files of it that are chosen.
func (x *sampling) directory(ctx context.Context, key string, mac objects.MAC, yield func(sampledFile) error) error {
	var names []sampledName
	defer func() {
		if x.room() {
			x.seen.dirs[mac] = names
			x.seen.names += len(names)
		}
	}()
	dir := x.v.rel(key)
	var fr *frames
	err := x.patiently(ctx, resources.RT_OBJECT, mac, func() (err error) {
		fr, err = x.c.v.s.frames(mac)
		return err
	})
	if err != nil {
		return yield(sampledFile{path: dir, err: err})
	}
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		frame, err := fr.next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		var e *storedEntry
		if err == nil {
			e, err = decodeEntry(frame)
		}
		if err != nil {
			return yield(sampledFile{path: dir, err: err})
		}
		if err := x.c.v.index.damaged(e.MAC); err != nil {
			if err := yield(sampledFile{path: below(dir) + e.Name(), err: err}); err != nil {
				return err
			}
			continue
		}
		if !e.FileInfo.Lmode.IsRegular() || !e.HasObject() || !x.chosen(e.Object) || x.rest && isGood(x.c.v.cache.GetObjectStatus(e.Object)) {
			continue
		}
		if !x.rest {
			names = append(names, sampledName{e.Name(), e.MAC})
		}
		first := x.first(x.c.good.objects, x.seen.objects, e.Object)
		if first {
			x.out.Files++
			x.out.Bytes += uint64(e.FileInfo.Lsize)
			err = x.indexed(ctx, below(key)+e.Name(), e.MAC)
		} else {
			err = x.indexedAgain(ctx, below(key)+e.Name(), e.MAC)
		}
		if first || err != nil {
			if err := yield(sampledFile{path: below(dir) + e.Name(), e: e, err: err}); err != nil {
				return err
			}
		}
	}
}

// sampledNodes is how many nodes of an index of paths a sample has in memory, of 40 KiB or so. One directory after the other has
// its files in few leaves, some for each depth.
const sampledNodes = 64

// sampledNode is a node that was read, or why it could not be.
type sampledNode struct {
	data []byte
	err  error
}

// indexed looks a file up in the index of paths, by its path in the snapshot, as whoever opens it does.
func (x *sampling) indexed(ctx context.Context, path string, entry objects.MAC) error {
	if x.rest { // of which a Check has read it
		return nil
	}
	if err := x.opened(ctx); err != nil {
		return err
	}
	mac, leaf, ok, err := x.paths.findIn(path)
	if err == nil && (!ok || mac != entry) {
		err = fmt.Errorf("%w: the index of paths does not have it", store.ErrDamaged)
	}
	if err == nil {
		x.first(nil, x.c.good.leaves, leaf)
	}
	return err
}

// indexedAgain is indexed for a file that was read before, if its leaf is chosen, and was not read: a small sample has some files of almost
// every leaf, and would read the whole index of each snapshot.
func (x *sampling) indexedAgain(ctx context.Context, path string, entry objects.MAC) error {
	if x.rest {
		return nil
	}
	if leaf, ok := x.leafOf(ctx, path); ok {
		if _, good := x.c.good.leaves[leaf]; good || !x.chosen(leaf) {
			return nil
		}
	}
	return x.indexed(ctx, path, entry)
}

// leafOf returns the leaf of the index of paths that has a path or would have it; false when its leaves cannot be listed.
func (x *sampling) leafOf(ctx context.Context, path string) (leaf objects.MAC, ok bool) {
	if !x.listed {
		x.listed = true
		if x.opened(ctx) == nil {
			x.leaves, _ = x.paths.leaves(ctx) // else each file is looked up, and that says why
		}
	}
	if len(x.leaves) == 0 {
		return leaf, false
	}
	i := sort.Search(len(x.leaves)-1, func(i int) bool { return x.paths.cmp(x.leaves[i+1].first, path) > 0 })
	return x.leaves[i].mac, true
}

// opened returns why the index of paths cannot be opened, nil when it is open.
func (x *sampling) opened(ctx context.Context) error {
	if x.paths == nil && x.noPaths == nil {
		x.noPaths = x.openPaths(ctx)
	}
	return x.noPaths
}

func (x *sampling) openPaths(ctx context.Context) error {
	s := x.c.v.s
	r, err := s.record(ctx, x.v.snap.ID)
	if err != nil {
		return err
	}
	err = x.patiently(ctx, resources.RT_VFS_BTREE, r.vfs.Root, func() (err error) {
		x.paths, err = s.rawPaths(r)
		return err
	})
	if err == nil {
		x.paths.read = x.node(ctx)
	}
	return err
}

// node is blobs for the nodes of the index of paths.
func (x *sampling) node(ctx context.Context) func(resources.Type, objects.MAC) ([]byte, error) {
	return func(typ resources.Type, mac objects.MAC) ([]byte, error) {
		if n, ok := x.nodes[mac]; ok {
			return n.data, n.err
		}
		data, err := x.blob(ctx, typ, mac)
		if errors.Is(err, ErrUnavailable) || ctx.Err() != nil {
			return nil, err
		}
		if len(x.nodes) == sampledNodes {
			clear(x.nodes)
		}
		x.nodes[mac] = sampledNode{data, err}
		return data, err
	}
}

// check reads a file.
func (x *sampling) check(ctx context.Context, f sampledFile) (sampledFile, error) {
	switch {
	case f.err != nil:
	case x.rest:
		f.err = x.readRest(ctx, f.e)
	default:
		f.err = x.read(ctx, f.e)
	}
	return f, ctx.Err()
}

// isGood reports whether the status of something in kloset's cache of checks is that it is good.
func isGood(status []byte, err error) bool { return err == nil && status != nil && len(status) == 0 }

// errNotProven says that a file was not read as a whole, and that nothing of it is known to be bad.
var errNotProven = errors.New("not read as a whole")

// readRest finds out why a Check has not found a file good, without reading again what it has. With errNotProven all chunks are good,
// and were not when they were checked.
func (x *sampling) readRest(ctx context.Context, e *storedEntry) error {
	cache := x.c.v.cache
	obj, err := objectBy(x.blobs(ctx), e.Object)
	if err != nil {
		return err
	}
	good := 0
	for i := range obj.Chunks {
		if isGood(cache.GetChunkStatus(obj.Chunks[i].ContentMAC)) {
			good++
		}
	}
	if good == 0 || good == len(obj.Chunks) { // nothing would be read again, or no chunk is why
		return x.read(ctx, e)
	}
	for i := range obj.Chunks {
		if err := ctx.Err(); err != nil {
			return err
		}
		mac := obj.Chunks[i].ContentMAC
		if isGood(cache.GetChunkStatus(mac)) {
			continue
		}
		if _, err := x.blob(ctx, resources.RT_CHUNK, mac); err != nil {
			return readError("chunk", err)
		}
	}
	if status, err := cache.GetObjectStatus(e.Object); err != nil || len(status) > 0 { // and each chunk is
		return x.read(ctx, e)
	}
	return errNotProven // it was unread
}

// patiently reads something that begins with a blob, unless there is no patience any more for the packfile that has it.
func (x *sampling) patiently(ctx context.Context, typ resources.Type, mac objects.MAC, read func() error) error {
	patience := x.c.v.patience
	packfile, far := x.c.v.s.store.FarPackfile(typ, mac)
	if !far {
		patience.NoteCopy(packfile)
		return read()
	}
	if err := patience.Refuse(packfile); err != nil {
		return err
	}
	err := x.c.v.s.tried(ctx, read)
	patience.Note(packfile, ungiven(err))
	return err
}

// ungiven returns an error of reading as a Patience notes it: one that says that something is missing, which is an answer, without
// ErrUnavailable.
func ungiven(err error) error {
	if isLost(err) || errors.Is(err, repository.ErrPackfileNotFound) {
		return repository.ErrPackfileNotFound
	}
	return err
}

// blobs is blob with a context.
func (x *sampling) blobs(ctx context.Context) func(resources.Type, objects.MAC) ([]byte, error) {
	return func(typ resources.Type, mac objects.MAC) ([]byte, error) { return x.blob(ctx, typ, mac) }
}

// blob is Snapshotter.blob, patiently.
func (x *sampling) blob(ctx context.Context, typ resources.Type, mac objects.MAC) (data []byte, err error) {
	err = x.patiently(ctx, typ, mac, func() (err error) {
		data, err = x.c.v.s.blob(typ, mac)
		return err
	})
	return data, err
}

// read reads the bytes of a file, and compares them with their MACs.
func (x *sampling) read(ctx context.Context, e *storedEntry) error {
	s := x.c.v.s
	if !x.rest { // of which a Check has read it
		if _, err := x.blob(ctx, resources.RT_VFS_ENTRY, e.MAC); err != nil {
			return readError("entry", err)
		}
	}
	obj, err := objectBy(x.blobs(ctx), e.Object)
	if err != nil {
		return err
	}
	sum, size := s.repo.GetMACHasher(), int64(0)
	for i := range obj.Chunks {
		if err := ctx.Err(); err != nil {
			return err
		}
		data, err := x.blob(ctx, resources.RT_CHUNK, obj.Chunks[i].ContentMAC)
		if err != nil {
			return readError("chunk", err)
		}
		sum.Write(data)
		size += int64(len(data))
	}
	if objects.MAC(sum.Sum(nil)) != obj.ContentMAC || size != e.FileInfo.Lsize {
		return fmt.Errorf("%w: its bytes are not those that were written", store.ErrDamaged)
	}
	return nil
}
