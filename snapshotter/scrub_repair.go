package snapshotter

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"slices"
	"strings"

	"github.com/PlakarKorp/kloset/objects"
	"github.com/PlakarKorp/kloset/resources"
	"github.com/PlakarKorp/kloset/snapshot/vfs"

	"github.com/snapgate/gateway/internal/background"
	"github.com/snapgate/gateway/store"
)

// The names that Config.Failpoint is called with by repairs.
const (
	RepairBefore = "repair-before" // what is to be written is about to be looked for
	RepairAfter  = "repair-after"  // a file was written, and that is not noted
)

// repair mends what is damaged as far as it can: each file is written again under its name, so that
// whoever knows of it, a state or somebody's cache, need not learn of anything. With metadata that are
// mended, it is known where to look for more. Snapshots that cannot be mended are made anew.
func (r *scrubbing) repair(ctx context.Context) error {
	for {
		before := len(r.damage)
		if err := r.repairOnce(ctx); err != nil || len(r.damage) == 0 {
			return err
		}
		if len(r.damage) < before {
			continue
		}
		if any, err := r.replace(ctx); err != nil || !any {
			return err
		}
	}
}

func (r *scrubbing) repairOnce(ctx context.Context) error {
	keys := slices.SortedFunc(maps.Keys(r.damage), func(a, b ledgerKey) int {
		// The configuration first, then states: without them nothing can be looked up.
		rank := map[byte]int{0: 0, ledgerState: 1, ledgerPackfile: 2}
		if d := rank[a.kind] - rank[b.kind]; d != 0 {
			return d
		}
		return slices.Compare(a.mac[:], b.mac[:])
	})
	packfiles := false // were repaired
	for _, k := range keys {
		r.s.failpoint(RepairBefore)
		err := r.repairFile(ctx, k)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case (errors.Is(err, ErrUnavailable) || errors.Is(err, ErrBusy)) && !isUnreadCopy(err):
			return err
		case err != nil:
			r.s.log.Warn("a damaged file of the store is not repaired", "kind", r.damage[k].Kind, "file", r.damage[k].File, "err", err)
			if err := r.verifyAgain(ctx, k); err != nil { // it may be in part
				return err
			}
			if d := r.damage[k]; d != nil {
				d.Repair = err.Error()
			}
			continue
		}
		r.s.failpoint(RepairAfter)
		r.report.Repaired++
		packfiles = packfiles || k.kind == ledgerPackfile
		r.s.log.Warn("a damaged file of the store was repaired", "kind", r.damage[k].Kind, "file", r.damage[k].File)
		if err := r.verifyAgain(ctx, k); err != nil {
			return err
		}
	}
	if packfiles {
		if err := r.relist(ctx); err != nil {
			return err
		}
	}
	return r.concerns(ctx)
}

// relist takes over snapshots whose headers could not be read before.
func (r *scrubbing) relist(ctx context.Context) error {
	ids, err := r.s.store.Snapshots()
	if err != nil || !slices.ContainsFunc(ids, func(mac objects.MAC) bool { return !r.s.readable(ID(mac)) }) {
		return err
	}
	return r.listAnew(ctx)
}

// listAnew lists the snapshots anew, as far as their packfiles are there.
func (r *scrubbing) listAnew(ctx context.Context) error {
	if err := r.s.relist(ctx); !isUnlisted(err) {
		return err
	}
	return ctx.Err()
}

// verifyAgain reads a file back that was repaired.
func (r *scrubbing) verifyAgain(ctx context.Context, k ledgerKey) error {
	if k.kind == 0 {
		return errors.Join(r.config(ctx), r.refresh(ctx))
	}
	if err := r.verify(ctx, k); err != nil {
		return err
	}
	if k.kind == ledgerState {
		return r.refresh(ctx)
	}
	return nil
}

// locked calls f with a lock on the store, while no commit of this process runs.
func (r *scrubbing) locked(ctx context.Context, f func() error) error {
	s := r.s
	s.enter()
	defer s.write.Unlock()
	lock, err := s.store.Lock(ctx)
	if err != nil {
		return err
	}
	defer func() {
		if uerr := lock.Unlock(); uerr != nil {
			s.log.Warn("store lock not removed", "err", uerr)
		}
	}()
	return f()
}

func (r *scrubbing) from() *store.Store {
	if r.cfg.From == nil {
		return nil
	}
	return r.cfg.From.store
}

func (r *scrubbing) repairFile(ctx context.Context, k ledgerKey) error {
	st := r.s.store
	switch k.kind {
	case 0:
		return st.RestoreConfig(ctx)
	case ledgerState:
		return r.repairState(ctx, k.mac)
	}
	// What is read comes before the lock: it may come from far away, and commits go on meanwhile.
	raw, err := st.CopyOfPackfile(ctx, k.mac, r.from())
	if err == nil {
		return r.locked(ctx, func() error {
			if err := r.told(ctx, k.mac); err != nil {
				return err
			}
			return r.restocked(ctx, st.RestorePackfile(ctx, k.mac, raw))
		})
	}
	if !errors.Is(err, store.ErrNoCopy) && !errors.Is(err, ErrUnavailable) {
		return err
	}
	unread := err // with ErrUnavailable: what there is here may do
	m, err := st.MendPackfile(ctx, k.mac)
	if err != nil {
		return err
	}
	f := r.newFinder(ctx, k.mac, m.Lacks)
	f.note(unread)
	left, err := m.Fill(ctx, f.find)
	missing := r.damage[k].Text == missingText
	if err == nil {
		err = r.locked(ctx, func() error {
			if missing {
				if err := r.told(ctx, k.mac); err != nil {
					return err
				}
			}
			return r.restocked(ctx, m.Write(ctx))
		})
	}
	switch {
	case err != nil || len(left) == 0:
		return err
	case missing:
		return r.restow(ctx, k.mac, f.unread)
	}
	return f.lacks(left)
}

func (r *scrubbing) repairState(ctx context.Context, id objects.MAC) error {
	st := r.s.store
	raw, err := st.CopyOfState(ctx, id, r.from())
	if err != nil && !errors.Is(err, store.ErrNoCopy) {
		return err
	}
	return r.locked(ctx, func() error {
		// What is made anew is made of what is known, and others may have repaired it better since it was read.
		if err := r.s.refresh(ctx); err != nil && !errors.Is(err, store.ErrDamaged) && !isUnlisted(err) {
			return err
		}
		_, err := st.VerifyState(ctx, id, nil)
		if err == nil || !errors.Is(err, store.ErrDamaged) && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return st.RestoreState(ctx, id, raw)
	})
}

// told makes sure that a packfile is not removed meanwhile. It needs s.write and a lock on the store.
func (r *scrubbing) told(ctx context.Context, mac objects.MAC) error {
	if err := r.s.refresh(ctx); err != nil && !errors.Is(err, store.ErrDamaged) && !isUnlisted(err) {
		return err
	}
	packs, err := r.s.store.PackfilesAdded()
	if _, ok := packs[mac]; err == nil && !ok {
		err = errors.New("it was removed while it was repaired")
	}
	return err
}

// blindText says why what snapshots use of a packfile is not stored again.
const blindText = "what snapshots need of it cannot be told while parts of them cannot be read"

// restow stores what snapshots use of a packfile that is missing in another one. The rest of it is
// gone, so it is not put back under its name: commits would count on what it does not have. unread is why a place could not
// be read where blobs may be, nil when all could: it matters only if something is not found that snapshots use.
func (r *scrubbing) restow(ctx context.Context, mac objects.MAC, unread error) error {
	places, err := r.s.store.PlacesIn(mac)
	if err != nil {
		return err
	}
	f := r.newFinder(ctx, mac, places)
	f.note(unread)
	found := make(map[store.BlobID][]byte)
	var left []store.Place
	for _, p := range places {
		b := store.BlobID{Type: p.Type, MAC: p.Blob}
		if _, used := f.used[b]; !used || p.Type == resources.RT_RANDOM {
			continue
		}
		if found[b], err = f.find(p); err != nil {
			left = append(left, p)
		}
	}
	switch {
	case len(left) > 0:
		return f.lacks(left)
	case f.blind && f.unread != nil:
		return fmt.Errorf("%s: %s", blindText, f.unread.Error()) // not wrapped: other files can be repaired
	case f.blind:
		return errors.New(blindText)
	}
	s := r.s
	s.enter()
	defer s.write.Unlock()
	s.store.LookAgain(mac) // it was read since the packfiles were listed
	lock, unlock, err := s.lockStore(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	err = s.takeStock(ctx)
	if e, ok := errors.AsType[*store.UnreadCopiesError](err); ok && !slices.Contains(e.Packfiles, mac) {
		err = nil // others may come back as they were
	}
	if err != nil || len(found) == 0 {
		return err
	}
	d, err := s.newDelta()
	if err != nil {
		return err
	}
	defer d.close()
	p := newPacker(background.Do, s.store.Encode, s.repo.GetMACHasher, d.rw.PutPackfile, func(string) {})
	defer p.Wait()
	for b, data := range found {
		if err := p.Put(-1, b.Type, b.MAC, data, b.Type != resources.RT_CHUNK); err != nil {
			return err
		}
	}
	if err := p.finish(); err != nil {
		return err
	}
	return d.put(ctx, lock)
}

// restocked takes note of what was missing and is there again, and first of what others have removed meanwhile: that is
// not missing. It needs s.write and a lock on the store.
func (r *scrubbing) restocked(ctx context.Context, err error) error {
	if err != nil {
		return err
	}
	err = r.s.refresh(ctx)
	switch {
	case err == nil, errors.Is(err, store.ErrDamaged), isUnlisted(err):
	case r.damage[configKey()] != nil && !errors.Is(err, ErrUnavailable):
	default:
		return err
	}
	err = r.s.takeStock(ctx)
	if isUnreadCopy(err) { // what was written does not depend on it
		r.s.log.Warn("whether something is lost that is missing from the store is not known", "err", err)
		return nil
	}
	return err
}

// finder finds what damaged blobs of a packfile hold.
type finder struct {
	r    *scrubbing
	ctx  context.Context //nolint:containedctx // it lives as long as one repair
	pack objects.MAC
	at   map[store.BlobID][]located
	// used are the blobs that snapshots use; blind says that there may be others.
	used  map[store.BlobID]struct{}
	blind bool
	// only are the blobs that are looked for and were not found yet; got has those that were found
	// along the way, until they are asked for.
	only map[store.BlobID]struct{}
	got  map[store.BlobID][]byte
	seen map[seenAt]error
	// unread is why a place could not be read where blobs may be; nil when all could.
	unread error
}

// seenAt is a part of a snapshot that a finder has looked at.
type seenAt struct {
	id   ID
	path string
	what resources.Type
}

// newFinder returns what finds blobs that a packfile lacks. It finds each of them once.
func (r *scrubbing) newFinder(ctx context.Context, pack objects.MAC, lacks []store.Place) *finder {
	f := &finder{r: r, ctx: ctx, pack: pack, only: make(map[store.BlobID]struct{}, len(lacks)), got: make(map[store.BlobID][]byte), seen: make(map[seenAt]error)}
	for _, p := range lacks {
		f.only[store.BlobID{Type: p.Type, MAC: p.Blob}] = struct{}{}
	}
	if r.uses != nil {
		f.at, f.used, f.blind = r.uses.at, r.uses.used, r.uses.blind
	}
	return f
}

// lacks says of what a repair was not possible, and why.
func (f *finder) lacks(left []store.Place) error {
	kinds := make(map[string]bool)
	for _, p := range left {
		kinds[p.Type.String()] = true
	}
	text := strings.Join(slices.Sorted(maps.Keys(kinds)), ", ")
	switch {
	case f.unread != nil: // not wrapped: other files can be repaired
		return fmt.Errorf("%d of its blobs were not found: %s; where they may be could not be read, and the next repair looks there again: %s", len(left), text, f.unread.Error())
	case f.r.cfg.From == nil:
		text += "; no store to repair from is named"
	}
	return fmt.Errorf("%d of its blobs are nowhere else: %s", len(left), text)
}

// note takes note of an error of looking for a blob.
func (f *finder) note(err error) {
	if errors.Is(err, ErrUnavailable) {
		f.unread = err
	}
}

// find returns what a blob holds: from another packfile, from another copy of the store, or from a
// store that has the same snapshots.
func (f *finder) find(p store.Place) ([]byte, error) {
	if err := f.ctx.Err(); err != nil {
		return nil, err
	}
	s, b := f.r.s, store.BlobID{Type: p.Type, MAC: p.Blob}
	data, err := s.store.BlobElsewhere(p.Type, p.Blob, f.pack)
	if err == nil {
		delete(f.only, b)
		return data, nil
	}
	f.note(err)
	from := f.r.cfg.From
	if from == nil {
		return nil, store.ErrNoCopy
	}
	if from.store.ID() == s.store.ID() {
		data, err := from.blob(p.Type, p.Blob)
		if err == nil && !store.Named(p.Type) && s.repo.ComputeMAC(data) != p.Blob {
			err = store.ErrDamaged
		}
		if err != nil {
			f.note(from.asDamage(f.ctx, err))
		}
		return data, err
	}
	if data, ok := f.take(b); ok {
		return data, nil
	}
	var errs []error
	for _, l := range f.at[b] {
		if err := f.look(l, p.Type); err != nil {
			errs = append(errs, err)
			f.note(from.asDamage(f.ctx, err))
		}
		if data, ok := f.take(b); ok {
			return data, nil
		}
	}
	return nil, errors.Join(append(errs, store.ErrNoCopy)...)
}

func (f *finder) take(b store.BlobID) (data []byte, ok bool) {
	data, ok = f.got[b]
	delete(f.got, b)
	return data, ok
}

// look is translate, once for what there is at a path.
func (f *finder) look(l located, typ resources.Type) error {
	at := seenAt{l.r.snap.ID, l.path, typ}
	switch typ {
	case resources.RT_VFS_SUMMARY, resources.RT_ERROR_ENTRY, resources.RT_VFS_ENTRY:
	default:
		at.what = resources.RT_OBJECT
	}
	err, seen := f.seen[at]
	if !seen {
		err = f.translate(l, typ)
		f.seen[at] = err
	}
	return err
}

// keep notes what a blob holds, if it is one that is looked for.
func (f *finder) keep(typ resources.Type, data []byte) objects.MAC {
	mac := f.r.s.repo.ComputeMAC(data)
	b := store.BlobID{Type: typ, MAC: mac}
	if _, ok := f.only[b]; ok {
		delete(f.only, b)
		f.got[b] = bytes.Clone(data)
	}
	return mac
}

// translate makes anew, for this store, what a snapshot in the other one has at a path: MACs are
// keyed, so what names others has other bytes there.
func (f *finder) translate(l located, typ resources.Type) error {
	from := f.r.cfg.From
	there, err := from.record(f.ctx, l.r.snap.ID)
	if err != nil {
		return err
	}
	switch typ {
	case resources.RT_VFS_SUMMARY:
		return f.value(there.summary, resources.RT_BTREE_ROOT, resources.RT_BTREE_NODE, typ, l.path)
	case resources.RT_ERROR_ENTRY:
		return f.value(there.vfs.Errors, resources.RT_ERROR_BTREE, resources.RT_ERROR_NODE, typ, l.path)
	}
	tree, err := from.newTree(there)
	if err != nil {
		return err
	}
	e, err := tree.lookup(l.path)
	if err != nil {
		return err
	}
	if e.FileInfo.Lmode.IsDir() {
		return f.directory(l, e, typ)
	}
	made := *e
	if e.HasObject() {
		made.Object, err = f.object(e.Object, f.ours(l))
		if made.Object == (objects.MAC{}) {
			return err
		}
	}
	return errors.Join(err, f.entry(&made))
}

// entry makes an entry anew.
func (f *finder) entry(e *storedEntry) error {
	data, err := e.ToBytes()
	if err == nil {
		f.keep(resources.RT_VFS_ENTRY, data)
	}
	return err
}

// value takes what an index has at a path, and that names nothing else.
func (f *finder) value(root objects.MAC, typ, nodes, value resources.Type, path string) error {
	from := f.r.cfg.From
	x, err := from.openIndex(root, typ, nodes, strings.Compare)
	if err != nil {
		return err
	}
	mac, ok, err := x.Find(path)
	if err != nil || !ok {
		return errors.Join(err, store.ErrNoCopy)
	}
	data, err := from.blob(value, mac)
	if err == nil {
		f.keep(value, data)
	}
	return err
}

// ours is the object of a file as this store has it; nil when that cannot be read.
func (f *finder) ours(l located) *objects.Object {
	obj, err := f.r.s.fileObject(f.ctx, l.r.snap.ID, l.path)
	if err != nil {
		return nil
	}
	return obj
}

// object makes an object of the other store anew, with its chunks. When it is known what it is like
// here, only the chunks are read that are looked for.
func (f *finder) object(mac objects.MAC, ours *objects.Object) (objects.MAC, error) {
	from := f.r.cfg.From
	obj, err := from.object(mac)
	if err != nil {
		return objects.MAC{}, err
	}
	var errs []error // of chunks: others may be there
	if ours != nil && len(ours.Chunks) == len(obj.Chunks) {
		for i := range obj.Chunks {
			if _, ok := f.only[store.BlobID{Type: resources.RT_CHUNK, MAC: ours.Chunks[i].ContentMAC}]; !ok {
				continue
			}
			data, err := from.blob(resources.RT_CHUNK, obj.Chunks[i].ContentMAC)
			if err != nil {
				errs = append(errs, err)
				continue
			}
			f.keep(resources.RT_CHUNK, data)
		}
		data, err := ours.Serialize()
		if err != nil {
			return objects.MAC{}, err
		}
		return f.keep(resources.RT_OBJECT, data), errors.Join(errs...)
	}
	made := *obj
	made.Chunks = slices.Clone(obj.Chunks)
	sum := f.r.s.repo.GetMACHasher()
	for i := range made.Chunks {
		data, err := from.blob(resources.RT_CHUNK, obj.Chunks[i].ContentMAC)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		sum.Write(data)
		made.Chunks[i].ContentMAC = f.keep(resources.RT_CHUNK, data)
	}
	if err := errors.Join(errs...); err != nil {
		return objects.MAC{}, err
	}
	made.ContentMAC = objects.MAC(sum.Sum(nil))
	data, err := made.Serialize()
	if err != nil {
		return objects.MAC{}, err
	}
	return f.keep(resources.RT_OBJECT, data), nil
}

// directory makes what a directory has anew: its entry, and the list of what is in it, of the entries
// that this store has in the index of paths.
func (f *finder) directory(l located, e *storedEntry, typ resources.Type) error {
	made := *e
	if err := f.entry(&made); err != nil || typ == resources.RT_VFS_ENTRY {
		return err
	}
	t, err := f.r.s.newTree(l.r)
	if err != nil {
		return err
	}
	it, err := t.paths.ScanFrom(below(l.path))
	if err != nil {
		return readError("index", err)
	}
	var raw []byte
	for {
		name, mac, err := nextBelow(it, below(l.path))
		if err != nil {
			return err
		}
		if name == "" {
			break
		}
		data, err := f.r.s.blob(resources.RT_VFS_ENTRY, mac)
		if err != nil {
			return err
		}
		below, err := vfs.EntryFromBytes(data)
		if err != nil {
			return err
		}
		kind := byte(frameFile)
		if below.FileInfo.Lmode.IsDir() {
			kind = frameDir
		}
		raw = binary.LittleEndian.AppendUint32(append(raw, kind), uint32(len(data)+len(mac)))
		raw = append(append(raw, data...), mac[:]...)
	}
	return f.dirpack(raw)
}

// dirpack makes the object of a list of entries anew, with its chunks.
func (f *finder) dirpack(raw []byte) error {
	s := f.r.s
	obj := objects.NewObject()
	add := func(piece []byte) {
		c := objects.NewChunk()
		c.ContentMAC, c.Length = f.keep(resources.RT_CHUNK, piece), uint32(len(piece))
		obj.Chunks = append(obj.Chunks, *c)
	}
	if int64(len(raw)) <= s.oneChunk {
		add(raw)
	} else {
		cutter, err := newCutter(&s.chunking, &s.buffers)
		if err != nil {
			return err
		}
		defer cutter.release()
		cutter.reset(bytes.NewReader(raw))
		for err == nil {
			var piece []byte
			if piece, err = cutter.next(); len(piece) > 0 {
				add(piece)
			}
		}
		if !errors.Is(err, io.EOF) {
			return err
		}
	}
	obj.ContentMAC, obj.ContentType = s.repo.ComputeMAC(raw), "application/octet-stream"
	data, err := obj.Serialize()
	if err == nil {
		f.keep(resources.RT_OBJECT, data)
	}
	return err
}
