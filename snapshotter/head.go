package snapshotter

import (
	"fmt"
	"strings"

	"github.com/PlakarKorp/kloset/objects"
	"github.com/PlakarKorp/kloset/resources"
	"github.com/PlakarKorp/kloset/snapshot/header"
	"github.com/PlakarKorp/kloset/snapshot/vfs"
	"github.com/hashicorp/golang-lru/v2/simplelru"
)

const (
	// headCacheSize is of how many snapshots the indexes are kept ready to be changed: the
	// heads of so many shares.
	headCacheSize = 16
	// defaultIndexBytes bounds the encoded leaves that are kept of them, in all; a tree of
	// a million files with names of usual length has 150 MiB of them.
	defaultIndexBytes = 192 << 20
	// summaryCacheSize bounds the summaries of directories that are kept, of about 0.5 KiB.
	summaryCacheSize = 16384
	// dirDataBytes bounds the directories that are kept, of about 0.5 KiB an entry.
	dirDataBytes = 64 << 20
)

// head is what a commit on top of a snapshot needs of it: its indexes, ready to be changed.
// Only commits use it, one at a time. The zero head is the empty tree.
type head struct {
	paths, types, dirs, summaries *leafIndex
	vfs                           header.VFS // xattrs and errors, which are taken over
	// converted is false for indexes that somebody else has written: the next commit
	// writes all of them anew.
	converted bool
}

// indexes lists the indexes of a head.
func (h *head) indexes() []*leafIndex { return []*leafIndex{h.paths, h.types, h.dirs, h.summaries} }

// rawBytes is what the leaves of a head keep in memory.
func (h *head) rawBytes() int64 {
	var n int64
	for _, x := range h.indexes() {
		for _, l := range x.leaves {
			n += int64(len(l.raw))
		}
	}
	return n
}

// dropRaw lets the memory of the leaves go; they are read again when they are needed.
func (h *head) dropRaw() {
	for _, x := range h.indexes() {
		for _, l := range x.leaves {
			l.raw = nil
		}
	}
}

// emptyHead is the head of a share without a snapshot.
func (s *Snapshotter) emptyHead() *head {
	index := func(root, node resources.Type, cmp func(a, b string) int) *leafIndex {
		return &leafIndex{root: root, node: node, cmp: cmp, shape: s.shape}
	}
	return &head{
		paths:     index(resources.RT_VFS_BTREE, resources.RT_VFS_NODE, vfs.PathCmp),
		types:     index(resources.RT_BTREE_ROOT, resources.RT_BTREE_NODE, strings.Compare),
		dirs:      index(resources.RT_BTREE_ROOT, resources.RT_BTREE_NODE, strings.Compare),
		summaries: index(resources.RT_BTREE_ROOT, resources.RT_BTREE_NODE, strings.Compare),
		converted: true,
	}
}

// head opens the indexes of a snapshot of ours.
func (s *Snapshotter) head(r *record) (*head, error) {
	if h, ok := s.heads.Get(r.snap.ID); ok {
		return h, nil
	}
	h := s.emptyHead()
	h.vfs = r.vfs
	for _, x := range []struct {
		index **leafIndex
		mac   objects.MAC
	}{
		{&h.paths, r.vfs.Root}, {&h.types, r.types}, {&h.dirs, r.dirpack}, {&h.summaries, r.summary},
	} {
		if x.mac == (objects.MAC{}) {
			return nil, fmt.Errorf("%w: snapshot %s lacks one", errInconsistent, r.snap.ID)
		}
		loaded, ours, err := s.loadIndex(x.mac, (*x.index).root, (*x.index).node, (*x.index).cmp)
		if err != nil {
			return nil, err
		}
		*x.index = loaded
		h.converted = h.converted && ours
	}
	s.heads.Add(r.snap.ID, h)
	return h, nil
}

// keepHead remembers the indexes of a snapshot that was made, and bounds what all of them
// keep in memory.
func (s *Snapshotter) keepHead(id, parent ID, h *head) {
	s.heads.Remove(parent) // nothing is built upon it any more, but after a failure
	s.heads.Add(id, h)
	var sum int64
	for _, key := range s.heads.Keys() {
		if k, ok := s.heads.Peek(key); ok {
			sum += k.rawBytes()
		}
	}
	for _, key := range s.heads.Keys() { // the one used longest ago first
		if sum <= s.indexBytes {
			return
		}
		if k, ok := s.heads.Peek(key); ok {
			sum -= k.rawBytes()
			k.dropRaw()
		}
	}
}

// dirData is a directory of a base: its entries as they stand in its dirpack.
type dirData struct {
	raw     []byte
	entries []dirEntry
}

// dirEntry is an entry of a directory: what its summary needs of it. The rest is decoded
// when it is asked for: directories may be large.
type dirEntry struct {
	frame []byte // a part of raw
	name  string
	file  vfs.FileSummary // of a directory, the mode alone
}

func (e *dirEntry) isDir() bool { return e.file.Mode.IsDir() }

// stored decodes the entry.
func (e *dirEntry) stored() (*storedEntry, error) {
	s, err := decodeEntry(e.frame[frameHead:])
	if err != nil {
		return nil, readError("directory", err)
	}
	return s, nil
}

// newDirEntry takes from an entry what a directory keeps of it.
func newDirEntry(frame []byte, e *storedEntry, types map[string]string) dirEntry {
	d := dirEntry{frame: frame, name: e.Name()}
	if e.IsDir() {
		d.file.Mode = e.FileInfo.Lmode
		return d
	}
	d.file = *fileSummary(e)
	if known, ok := types[d.file.ContentType]; ok {
		d.file.ContentType = known
	} else if types != nil {
		types[d.file.ContentType] = d.file.ContentType
	}
	return d
}

// dirEntryBytes is about what an entry takes besides its frame.
const dirEntryBytes = 160

func (d *dirData) bytes() int { return len(d.raw) + dirEntryBytes*len(d.entries) }

// dirDataCache keeps directories that were used lately, up to a number of bytes.
type dirDataCache struct {
	limit int
	size  int
	lru   *simplelru.LRU[objects.MAC, *dirData]
}

func newDirDataCache(limit int) (*dirDataCache, error) {
	c := &dirDataCache{limit: limit}
	var err error
	c.lru, err = simplelru.NewLRU(limit/dirEntryBytes, func(_ objects.MAC, d *dirData) { c.size -= d.bytes() })
	if err != nil {
		return nil, fmt.Errorf("directory cache: %w", err)
	}
	return c, nil
}

func (c *dirDataCache) add(mac objects.MAC, d *dirData) {
	if d.bytes() > c.limit {
		return
	}
	if c.lru.Contains(mac) {
		return
	}
	c.lru.Add(mac, d)
	c.size += d.bytes()
	for c.size > c.limit {
		c.lru.RemoveOldest()
	}
}

// dirData returns a directory of the base.
func (s *Snapshotter) dirData(h *head, dir string) (*dirData, error) {
	mac, ok, err := h.dirs.find(s, dir)
	if err != nil {
		return nil, err
	}
	if !ok {
		return nil, fmt.Errorf("%w: no entries of directory %q", errInconsistent, dir)
	}
	if d, ok := s.dirDatas.lru.Get(mac); ok {
		return d, nil
	}
	d, err := s.readDirpack(mac)
	if err != nil {
		return nil, err
	}
	s.dirDatas.add(mac, d)
	return d, nil
}

// readDirpack reads the entries of a directory.
func (s *Snapshotter) readDirpack(mac objects.MAC) (*dirData, error) {
	r, err := s.openObject(mac)
	if err != nil {
		return nil, err
	}
	raw := make([]byte, r.Size())
	if len(raw) > 0 {
		if _, err := r.ReadAt(raw, 0); err != nil {
			return nil, readError("directory", err)
		}
	}
	return parseDir(raw)
}

// parseDir takes a dirpack apart.
func parseDir(raw []byte) (*dirData, error) {
	d := &dirData{raw: raw}
	types := map[string]string{} // each content type once
	for rest := raw; len(rest) > 0; {
		e, size, err := decodeFrame(rest)
		if err != nil {
			return nil, readError("directory", err)
		}
		if n := len(d.entries); n > 0 && d.entries[n-1].name >= e.Name() {
			return nil, fmt.Errorf("%w: %q after %q in a directory", errInconsistent, e.Name(), d.entries[n-1].name)
		}
		d.entries = append(d.entries, newDirEntry(rest[:size:size], e, types))
		rest = rest[size:]
	}
	return d, nil
}

// newDir puts the entries of a directory that is being made behind each other. Their frames
// become parts of the whole, so that nothing else is kept.
func newDir(entries []dirEntry) *dirData {
	n := 0
	for i := range entries {
		n += len(entries[i].frame)
	}
	d := &dirData{raw: make([]byte, 0, n), entries: entries}
	for i := range entries {
		at := len(d.raw)
		d.raw = append(d.raw, entries[i].frame...)
		entries[i].frame = d.raw[at:len(d.raw):len(d.raw)]
	}
	return d
}
