package snapshotter

import (
	"encoding/binary"
	"fmt"
	"hash"
	"math/bits"
	"sync"

	"github.com/PlakarKorp/kloset/objects"
	"github.com/hashicorp/golang-lru/v2/simplelru"
	"lukechampine.com/blake3/guts"
)

const (
	// sumGroup is of how many bytes of a content the hash is kept: around a change so much
	// is hashed again.
	sumGroup = 256 << 10
	// sumCacheBytes bounds what is kept of contents: the hashes of 128 GiB.
	sumCacheBytes = 16 << 20
	// simdBytes is what BLAKE3's vector code takes at once.
	simdBytes = guts.MaxSIMD * guts.ChunkSize
)

// groupSum is a chaining value of BLAKE3: all that the hash of a content needs of a group.
type groupSum = [8]uint32

// contentSum is the MAC of a content, as kloset makes it, from its bytes in their order.
// BLAKE3 is a tree: of a group of bytes that is where it was in another content, whose groups
// are known, the bytes are not needed.
type contentSum struct {
	key   *[8]uint32                            // nil: h does it
	group int64                                 // bytes of a group, a power of two of KiB
	known func(i int64) (sum groupSum, ok bool) // nil knows none

	at   int64      // so far
	buf  []byte     // the beginning of the next group
	sums []groupSum // of complete groups
	node guts.Node  // of the first group, for contents that have no other

	h hash.Hash // where the store does not hash with BLAKE3, and for a plainSum
}

// newSum begins the MAC of a content.
func (s *Snapshotter) newSum(known func(i int64) (groupSum, bool)) *contentSum {
	t := &contentSum{key: s.sums.key, group: s.sums.group, known: known}
	if t.key == nil {
		t.known, t.h = nil, s.repo.GetMACHasher()
	}
	return t
}

// plainSum is newSum for a content whose sums of groups nobody will ask for: kloset's hasher is quicker.
func (s *Snapshotter) plainSum() *contentSum { return &contentSum{h: s.repo.GetMACHasher()} }

// wants reports whether any of the bytes from begin to end are needed.
func (t *contentSum) wants(begin, end int64) bool {
	if t.known == nil {
		return true
	}
	for i := begin / t.group; i*t.group < end; i++ {
		if _, ok := t.known(i); !ok {
			return true
		}
	}
	return false
}

// write takes the bytes at off; what is left out before them must not be wanted.
func (t *contentSum) write(data []byte, off int64) {
	if t.key == nil {
		t.h.Write(data)
		t.at += int64(len(data))
		return
	}
	for end := off + int64(len(data)); t.at < end; {
		if t.skip() {
			continue
		}
		if t.at < off {
			return // finish tells
		}
		rest := data[t.at-off:]
		if len(t.buf) == 0 && int64(len(rest)) >= t.group {
			t.add(rest[:t.group])
			t.at += t.group
			continue
		}
		n := min(int64(len(rest)), t.group-int64(len(t.buf)))
		t.buf = append(t.buf, rest[:n]...)
		t.at += n
		if int64(len(t.buf)) == t.group {
			t.at -= t.group // where the group begins
			t.add(t.buf)
			t.at += t.group
			t.buf = t.buf[:0]
		}
	}
}

// skip goes over the next group when it is known.
func (t *contentSum) skip() bool {
	if t.known == nil || t.at%t.group != 0 {
		return false
	}
	sum, ok := t.known(t.at / t.group)
	if ok {
		t.sums = append(t.sums, sum)
		t.at += t.group
	}
	return ok
}

// add adds the group at t.at.
func (t *contentSum) add(p []byte) {
	n := t.subtree(p, uint64(t.at)/guts.ChunkSize)
	if len(t.sums) == 0 {
		t.node = n
	}
	t.sums = append(t.sums, guts.ChainingValue(n))
}

// finish returns the MAC of a content of size bytes. The sums of complete groups are in sums
// then.
func (t *contentSum) finish(size int64) (mac objects.MAC, err error) {
	for more := t.key != nil; more && t.at < size; {
		more = t.skip()
	}
	if t.at != size {
		return mac, fmt.Errorf("%w: %d bytes were hashed of %d", errInconsistent, t.at, size)
	}
	if t.key == nil {
		copy(mac[:], t.h.Sum(nil))
		return mac, nil
	}
	root, leaves := t.node, t.sums
	if len(t.buf) > 0 || size == 0 {
		root = t.subtree(t.buf, uint64(size-int64(len(t.buf)))/guts.ChunkSize)
		leaves = append(t.sums[:len(t.sums):len(t.sums)], guts.ChainingValue(root))
	}
	if len(leaves) > 1 {
		root = t.parent(leaves)
	}
	root.Flags |= guts.FlagRoot
	for i, w := range guts.ChainingValue(root) {
		binary.LittleEndian.PutUint32(mac[4*i:], w)
	}
	return mac, nil
}

// subtree is the node of bytes that begin with a chunk of BLAKE3 (1 KiB) of that number.
func (t *contentSum) subtree(p []byte, chunk uint64) guts.Node {
	switch {
	case len(p) == simdBytes:
		return guts.CompressBuffer((*[simdBytes]byte)(p), len(p), t.key, chunk, guts.FlagKeyedHash)
	case len(p) < simdBytes:
		var b [simdBytes]byte
		copy(b[:], p)
		return guts.CompressBuffer(&b, len(p), t.key, chunk, guts.FlagKeyedHash)
	}
	left := leftOf((len(p) + guts.ChunkSize - 1) / guts.ChunkSize)
	l := guts.ChainingValue(t.subtree(p[:left*guts.ChunkSize], chunk))
	r := guts.ChainingValue(t.subtree(p[left*guts.ChunkSize:], chunk+uint64(left)))
	return guts.ParentNode(l, r, t.key, guts.FlagKeyedHash)
}

// parent is the node above several groups.
func (t *contentSum) parent(sums []groupSum) guts.Node {
	left := leftOf(len(sums))
	return guts.ParentNode(t.join(sums[:left]), t.join(sums[left:]), t.key, guts.FlagKeyedHash)
}

func (t *contentSum) join(sums []groupSum) groupSum {
	if len(sums) == 1 {
		return sums[0]
	}
	return guts.ChainingValue(t.parent(sums))
}

// leftOf is how many of n leaves are on the left: the largest power of two below n.
func leftOf(n int) int { return 1 << (bits.Len(uint(n-1)) - 1) }

// sumCache keeps the group sums of contents that were hashed lately, by their MAC. Safe for
// concurrent use.
type sumCache struct {
	key   *[8]uint32 // of the store; nil when it does not hash with BLAKE3
	group int64
	limit int

	mu   sync.Mutex
	size int                                     // guarded by mu: bytes
	lru  *simplelru.LRU[objects.MAC, []groupSum] // guarded by mu; what is in it is never changed
}

// groupSumBytes is what a group sum takes.
const groupSumBytes = 32

// newSumCache makes one; key is that of the store's MACs, nil when they are not keyed BLAKE3.
func newSumCache(key []byte) (*sumCache, error) {
	c := &sumCache{group: sumGroup, limit: sumCacheBytes}
	if key != nil {
		c.key = new([8]uint32)
		for i := range c.key {
			c.key[i] = binary.LittleEndian.Uint32(key[4*i:])
		}
	}
	var err error
	c.lru, err = simplelru.NewLRU(sumCacheBytes/groupSumBytes, func(_ objects.MAC, sums []groupSum) { c.size -= groupSumBytes * len(sums) })
	if err != nil {
		return nil, fmt.Errorf("sum cache: %w", err)
	}
	return c, nil
}

// keep keeps the sums of the content with the MAC mac. A file that grows all the time would
// drive out all others, so those of the content that it was before go; when this commit
// fails, the next one reads the whole file.
func (c *sumCache) keep(mac objects.MAC, sums []groupSum, before objects.MAC) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if before != mac {
		c.lru.Remove(before)
	}
	if len(sums) == 0 || groupSumBytes*len(sums) > c.limit || c.lru.Contains(mac) {
		return
	}
	c.lru.Add(mac, sums)
	c.size += groupSumBytes * len(sums)
	for c.size > c.limit {
		c.lru.RemoveOldest()
	}
}

// get returns the sums of the complete groups of a content, nil when they are not known.
func (c *sumCache) get(mac objects.MAC) []groupSum {
	c.mu.Lock()
	defer c.mu.Unlock()
	sums, _ := c.lru.Get(mac)
	return sums
}
