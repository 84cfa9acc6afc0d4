package snapshotter

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"iter"
	"math/rand/v2"
	"time"

	"github.com/PlakarKorp/kloset/objects"
	"github.com/PlakarKorp/kloset/repository"
	"github.com/PlakarKorp/kloset/snapshot"

	"github.com/snapgate/gateway/store"
)

// Rebuild is Commit through kloset's Builder, whatever the changes are.
func (s *Snapshotter) Rebuild(ctx context.Context, base ID, changes iter.Seq2[Change, error], meta Meta) (ID, error) {
	s.write.Lock()
	defer s.write.Unlock()
	lock, err := s.store.Lock(ctx)
	if err != nil {
		return ID{}, err
	}
	defer lock.Unlock()
	r, err := s.rebuild(ctx, base, changes, meta, newFailures(meta.Errors, s.failuresMax), lock, nil)
	if err != nil {
		return ID{}, err
	}
	s.published(ctx, r)
	return r.snap.ID, nil
}

// Stock is Commit on an empty base as kloset does it by itself: its Builder, its packer and its
// encryption. What is under them, the flushes to the disk included, is ours in both.
func (s *Snapshotter) Stock(ctx context.Context, changes iter.Seq2[Change, error], meta Meta) (err error) {
	s.write.Lock()
	defer s.write.Unlock()
	a := &attempt{s: s, id: objects.RandomMAC(), meta: meta, failures: new(failures), began: time.Now()}
	delta, err := s.repo.AppContext().GetCache().Scan(objects.RandomMAC())
	if err != nil {
		return err
	}
	defer delta.Close()
	a.rw = s.repo.NewRepositoryWriter(delta, a.id, repository.DefaultType, "")
	b, err := snapshot.CreateWithRepositoryWriter(a.rw, a.options(), a.id)
	if err != nil {
		return err
	}
	defer b.Close()
	a.source = &merge{ctx: ctx, s: s, importer: meta.importer(), failures: a.failures, now: a.time(), changes: changes, failed: func() error { return nil }}
	src, err := snapshot.NewSource(ctx, a.source)
	if err != nil {
		return err
	}
	if err := errors.Join(b.Backup(src), a.source.contentError(), a.verify(b.Header)); err != nil {
		return err
	}
	a.fillHeader(b.Header)
	if _, err := b.PutSnapshot(); err != nil {
		return err
	}
	a.rw.PackerManager.Wait()
	if err := a.rw.CommitTransaction(a.id); err != nil {
		return err
	}
	return s.store.Ingest(a.id)
}

// MakeDue has the next one who asks for the list look into the store.
func (s *Snapshotter) MakeDue() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.looked, s.mended, s.recalled = time.Time{}, time.Time{}, time.Time{}
}

// TakeStock takes note of what is missing from the store, as a commit does before it begins.
func (s *Snapshotter) TakeStock(ctx context.Context) error {
	s.write.Lock()
	defer s.write.Unlock()
	lock, err := s.store.Lock(ctx)
	if err != nil {
		return err
	}
	return errors.Join(s.takeStock(ctx), lock.Unlock())
}

// Contents describes all that a snapshot holds, so that two that hold the same are equal:
// what each of its indexes has under each key, and the summary of its root.
func (s *Snapshotter) Contents(id ID) (map[string]string, error) {
	r := s.known(id)
	if r == nil {
		return nil, ErrNoSnapshot
	}
	t, err := s.newTree(r)
	if err != nil {
		return nil, err
	}
	h, err := s.head(r)
	if err != nil {
		return nil, err
	}
	out := map[string]string{}
	for name, x := range map[string]*leafIndex{"path": h.paths, "type": h.types, "dir": h.dirs, "summary": h.summaries} {
		last := ""
		for _, l := range x.leaves {
			n, err := x.decode(s, l)
			if err != nil {
				return nil, err
			}
			for i, key := range n.Keys {
				if last != "" && x.cmp(last, key) >= 0 {
					return nil, fmt.Errorf("index %s: %q after %q", name, key, last)
				}
				last = key
				out[name+" "+key] = fmt.Sprintf("%x", n.Values[i][:8])
			}
		}
	}
	// By the links of the leaves, as kloset's own readers go.
	it, err := t.paths.ScanAll()
	if err != nil {
		return nil, err
	}
	n := 0
	for it.Next() {
		key, mac := it.Current()
		if out["path "+key] != fmt.Sprintf("%x", mac[:8]) {
			return nil, fmt.Errorf("index of paths, by its links: %q is %x", key, mac[:8])
		}
		n++
	}
	if err := it.Err(); err != nil {
		return nil, err
	}
	out["paths by links"] = fmt.Sprint(n)
	out["xattrs"] = emptyIndex(s, r.vfs.Xattrs)
	out["errors"] = fmt.Sprintf("%d %x", r.snap.Errors, r.vfs.Errors[:8])
	return out, nil
}

func emptyIndex(s *Snapshotter, mac objects.MAC) string {
	if mac == (objects.MAC{}) {
		return "none"
	}
	return "there"
}

// ForgetHeads makes the next commit read the indexes of its base again.
func (s *Snapshotter) ForgetHeads() {
	s.heads.Purge()
	s.nodes.Purge()
	s.summaries.Purge()
	s.dirDatas.lru.Purge()
}

// SetLeafSize makes the leaves of indexes small, so that small trees have many.
func SetLeafSize(s *Snapshotter, most int) {
	s.shape = indexShape{max: most, fill: most * 3 / 4, min: most / 4, fanout: most}
}

// SetEdits sets how many edits, and entries of new leaves, an index has in memory.
func SetEdits(s *Snapshotter, run, entries int) { s.editRun, s.weaveEntries = run, entries }

// SetEditsDir sets where temporary files go.
func SetEditsDir(s *Snapshotter, dir string) { s.editDir = dir }

// LeafSizes returns how many entries the leaves of the index of paths have.
func (s *Snapshotter) LeafSizes(id ID) (sizes []int, err error) {
	h, err := s.head(s.known(id))
	if err != nil {
		return nil, err
	}
	for _, l := range h.paths.leaves {
		n, err := h.paths.decode(s, l)
		if err != nil {
			return nil, err
		}
		sizes = append(sizes, len(n.Keys))
	}
	return sizes, nil
}

// KeptLeaves returns how many bytes of encoded leaves of a head are in memory.
func (s *Snapshotter) KeptLeaves(id ID) int64 {
	h, ok := s.heads.Peek(id)
	if !ok {
		return 0
	}
	return h.rawBytes()
}

// WithoutDirs makes a snapshot in memory one that has no index of directories.
func (s *Snapshotter) WithoutDirs(id ID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := *s.records[id]
	r.dirpack = objects.MAC{}
	s.records[id] = &r
	s.trees.Purge()
}

// FlushEarly has written what was put ahead of commits.
func (s *Snapshotter) FlushEarly() {
	s.early.turn.Lock()
	defer s.early.turn.Unlock()
	s.early.seal(nil)
}

// SetChunkSizes makes chunks small, so that small files have many.
func SetChunkSizes(s *Snapshotter, least, normal, most int) {
	s.oneChunk = int64(least)
	s.chunking.MinSize, s.chunking.NormalSize, s.chunking.MaxSize = uint32(least), uint32(normal), uint32(most)
}

// ForgetSums makes the next commit hash the whole of what it writes to.
func (s *Snapshotter) ForgetSums() { s.sums.lru.Purge() }

// SpoilSums makes what is kept of contents wrong, and with it the MAC of what is made of one by a change.
func (s *Snapshotter) SpoilSums() {
	s.sums.mu.Lock()
	defer s.sums.mu.Unlock()
	for _, sums := range s.sums.lru.Values() {
		for i := range sums {
			sums[i][0]++
		}
	}
}

// SetSumGroup makes the groups small whose sums are kept, so that small files have many.
func SetSumGroup(s *Snapshotter, bytes int64) { s.sums.group = bytes }

// WatchChunks calls read with every chunk that is read from the store, and its length. It is
// to be called before there are readers.
func (s *Snapshotter) WatchChunks(read func(mac objects.MAC, n int)) {
	load := s.chunks.load
	s.chunks.load = func(mac objects.MAC) ([]byte, error) {
		data, err := load(mac)
		read(mac, len(data))
		return data, err
	}
}

// ForgetChunks empties the cache of decoded chunks.
func (s *Snapshotter) ForgetChunks() {
	s.chunks.mu.Lock()
	defer s.chunks.mu.Unlock()
	s.chunks.lru.Init()
	clear(s.chunks.byMAC)
	s.chunks.size = 0
}

// Object returns the object of a file and its MAC.
func (s *Snapshotter) Object(ctx context.Context, id ID, path string) (*objects.Object, objects.MAC, error) {
	obj, err := s.fileObject(ctx, id, path)
	if err != nil {
		return nil, objects.MAC{}, err
	}
	data, err := obj.Serialize()
	return obj, s.repo.ComputeMAC(data), err
}

// ContentMAC is the MAC of a content that is written in pieces of random sizes, in one when rng
// is nil. Of groups that are as in before, the bytes are left out.
func (s *Snapshotter) ContentMAC(content, before []byte, rng *rand.Rand) objects.MAC {
	whole := s.newSum(nil)
	whole.write(before, 0)
	group := s.sums.group
	t := s.newSum(func(i int64) (groupSum, bool) {
		begin, end := i*group, (i+1)*group
		if end > int64(len(before)) || int64(len(content)) <= group || !bytes.Equal(before[begin:end], content[begin:end]) {
			return groupSum{}, false
		}
		return whole.sums[i], true
	})
	for off := 0; off < len(content); {
		n := len(content) - off
		if rng != nil {
			n = min(n, 1+rng.IntN(90_000)>>rng.IntN(16))
		}
		if t.wants(int64(off), int64(off+n)) {
			t.write(content[off:off+n], int64(off))
		}
		off += n
	}
	mac, err := t.finish(int64(len(content)))
	if err != nil {
		panic(err)
	}
	return mac
}

// Reseal gives a sealed file that was changed the check that belongs to it.
func (s *Snapshotter) Reseal(data []byte) []byte {
	if len(data) < sealCheck {
		return data
	}
	data = data[:len(data)-sealCheck]
	mac := s.repo.ComputeMAC(data)
	return append(bytes.Clone(data), mac[:sealCheck]...)
}

// Unseals reports whether data is a sealed file.
func (s *Snapshotter) Unseals(data []byte) bool {
	_, err := s.unseal(data)
	return err == nil
}

// ErrorCounts returns how many errors the summary of a directory has in it and below it, for
// directories that have some.
func (s *Snapshotter) ErrorCounts(ctx context.Context, id ID) (map[string]uint64, error) {
	r, err := s.record(ctx, id)
	if err != nil {
		return nil, err
	}
	h, err := s.head(r)
	if err != nil {
		return nil, err
	}
	out := map[string]uint64{}
	for _, l := range h.summaries.leaves {
		n, err := h.summaries.decode(s, l)
		if err != nil {
			return nil, err
		}
		for _, dir := range n.Keys {
			sum, err := h.summary(s, dir)
			if err != nil {
				return nil, err
			}
			if k := sum.Directory.Errors + sum.Below.Errors; k > 0 {
				out[dir] = k
			}
		}
	}
	return out, nil
}

// SetRotateBlobs makes commits put a state after so many blobs, and packfiles small.
func SetRotateBlobs(s *Snapshotter, n int64, packSize int) { s.rotateBlobs, s.packSize = n, packSize }

// SetFailuresMax sets how many failures a snapshot lists.
func SetFailuresMax(s *Snapshotter, n int) { s.failuresMax = n }

// ListFailures is what a snapshot lists of failures, and how many it counts.
func ListFailures(s *Snapshotter, all func() iter.Seq[Failure]) (list []Failure, total uint64) {
	f := newFailures(all, s.failuresMax)
	return f.list, f.total
}

// SetDamageMost sets how many damaged files are kept with what is known of them.
func SetDamageMost(cfg *ScrubConfig, n int) { cfg.damageMost = n }

// WriteScrubState writes what scrubs leave in a directory.
func WriteScrubState(dir string, st *ScrubState) error { return writeScrubState(dir, st) }

// Find looks for what a packfile lacks as a repair from another store does, where all of damaged is
// damaged. left is how many blobs are kept when all have been found.
func Find(ctx context.Context, s, from *Snapshotter, damaged, lacks []store.Place) (found map[store.BlobID][]byte, left int, err error) {
	want := make(map[store.BlobID]int)
	for _, p := range damaged {
		want[store.BlobID{Type: p.Type, MAC: p.Blob}] = 0
	}
	r := &scrubbing{s: s, cfg: ScrubConfig{From: from}, uses: newUseSearch(s, want)}
	if err := r.uses.run(ctx); err != nil {
		return nil, 0, err
	}
	f := r.newFinder(ctx, lacks[0].Packfile, lacks)
	found = make(map[store.BlobID][]byte)
	for _, p := range lacks {
		data, ferr := f.find(p)
		found[store.BlobID{Type: p.Type, MAC: p.Blob}], err = data, errors.Join(err, ferr)
	}
	return found, len(f.got) + len(f.only), err
}
