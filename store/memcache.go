package store

import (
	"bytes"
	"iter"
	"slices"
	"strings"
	"sync"

	"github.com/PlakarKorp/kloset/caching"
)

// newCache makes the caches that kloset asks for: in memory while a commit or a check
// runs, none for snapshot headers, which snapshotter keeps itself. Memory has another
// merit than speed: kloset ignores errors of the cache that holds what a commit has
// written, and memory has none.
func newCache(_, name, _ string, _ caching.Option) (caching.Cache, error) {
	switch name {
	case "scan":
		return newMemCache(), nil
	case "check":
		return newCheckCache(), nil
	}
	return nullCache{}, nil
}

// memCache is a caching.Cache in memory. Keys are grouped by all up to the last colon:
// kloset asks for the locations of a blob by exactly that prefix, once a blob or more.
type memCache struct {
	mu     sync.RWMutex
	groups map[string][]pair // guarded by mu
	deltas deltas            // guarded by mu: the places of blobs
}

func newMemCache() *memCache {
	return &memCache{groups: make(map[string][]pair), deltas: newDeltas()}
}

type pair struct {
	key   string // the whole key
	value []byte
}

// deltaKey begins the keys of blob locations, "__delta__:type:blob:packfile".
const deltaKey = "__delta__:"

func group(key string) string { return key[:strings.LastIndexByte(key, ':')+1] }

func (c *memCache) Put(key, data []byte) error {
	k := string(key)
	g := group(k)
	c.mu.Lock()
	defer c.mu.Unlock()
	if (len(c.groups[g]) == 0 || c.deltas.get(k) != nil) && c.deltas.put(k, data) {
		return nil
	}
	c.deltas.remove(k)
	v := bytes.Clone(data)
	for i, p := range c.groups[g] {
		if p.key == k {
			c.groups[g][i].value = v
			return nil
		}
	}
	c.groups[g] = append(c.groups[g], pair{k, v})
	return nil
}

// Get implements caching.Cache; a missing key is nil without an error.
func (c *memCache) Get(key []byte) ([]byte, error) {
	k := string(key)
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.get(k), nil
}

func (c *memCache) get(k string) []byte {
	if v := c.deltas.get(k); v != nil {
		return v
	}
	for _, p := range c.groups[group(k)] {
		if p.key == k {
			return bytes.Clone(p.value)
		}
	}
	return nil
}

func (c *memCache) Has(key []byte) (bool, error) {
	k := string(key)
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.deltas.get(k) != nil || slices.ContainsFunc(c.groups[group(k)], func(p pair) bool { return p.key == k }), nil
}

func (c *memCache) Delete(key []byte) error {
	k := string(key)
	g := group(k)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.deltas.remove(k) {
		return nil
	}
	// A new slice: a scan may be reading the old one.
	left := slices.DeleteFunc(slices.Clone(c.groups[g]), func(p pair) bool { return p.key == k })
	if len(left) == 0 {
		delete(c.groups, g)
	} else {
		c.groups[g] = left
	}
	return nil
}

// Scan implements caching.Cache; it yields what was there when it began, in key order.
func (c *memCache) Scan(prefix []byte, reverse bool) iter.Seq2[[]byte, []byte] {
	return func(yield func([]byte, []byte) bool) {
		pairs, refs := c.matching(string(prefix))
		slices.SortFunc(pairs, func(a, b pair) int { return strings.Compare(a.key, b.key) })
		if reverse {
			slices.Reverse(pairs)
			slices.Reverse(refs)
		}
		before := func(a, b string) bool { return (a < b) != reverse }
		for _, r := range refs {
			key, value := c.delta(r)
			if value == nil {
				continue // removed since
			}
			for len(pairs) > 0 && before(pairs[0].key, key) {
				if !yield([]byte(pairs[0].key), pairs[0].value) {
					return
				}
				pairs = pairs[1:]
			}
			if !yield([]byte(key), value) {
				return
			}
		}
		for _, p := range pairs {
			if !yield([]byte(p.key), p.value) {
				return
			}
		}
	}
}

// delta returns the key and the value of a delta, nil when it is gone.
func (c *memCache) delta(r deltaRef) (key string, value []byte) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	p, ok := c.deltas.types[r.typ][r.blob]
	if !ok {
		return "", nil
	}
	return c.deltas.key(r.typ, r.blob, p), c.deltas.entry(r.typ, r.blob, p)
}

func (c *memCache) matching(prefix string) ([]pair, []deltaRef) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	refs := c.deltas.matching(prefix)
	if strings.HasPrefix(prefix, deltaKey) && strings.Count(prefix, ":") == 3 && strings.HasSuffix(prefix, ":") {
		return slices.Clone(c.groups[prefix]), refs
	}
	var pairs []pair
	for _, g := range c.groups {
		for _, p := range g {
			if strings.HasPrefix(p.key, prefix) {
				pairs = append(pairs, p)
			}
		}
	}
	return pairs, refs
}

func (c *memCache) NewBatch() caching.Batch { return &memBatch{cache: c} }

func (c *memCache) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.groups, c.deltas = make(map[string][]pair), newDeltas()
	return nil
}

// memBatch writes through: nobody looks before Commit.
type memBatch struct {
	cache *memCache
	n     uint32
}

func (b *memBatch) Put(key, data []byte) error { b.n++; return b.cache.Put(key, data) }
func (b *memBatch) Count() uint32              { return b.n }
func (b *memBatch) Commit() error              { return nil }

// nullCache is a caching.Cache that forgets.
type nullCache struct{}

func (nullCache) Put(_, _ []byte) error      { return nil }
func (nullCache) Has([]byte) (bool, error)   { return false, nil }
func (nullCache) Get([]byte) ([]byte, error) { return nil, nil }
func (nullCache) Delete([]byte) error        { return nil }
func (nullCache) NewBatch() caching.Batch    { return nullBatch{} }
func (nullCache) Close() error               { return nil }
func (nullCache) Scan([]byte, bool) iter.Seq2[[]byte, []byte] {
	return func(func([]byte, []byte) bool) {}
}

type nullBatch struct{}

func (nullBatch) Put(_, _ []byte) error { return nil }
func (nullBatch) Count() uint32         { return 0 }
func (nullBatch) Commit() error         { return nil }
