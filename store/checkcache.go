package store

import (
	"bytes"
	"encoding/hex"
	"sync"

	"github.com/PlakarKorp/kloset/caching"
	"github.com/PlakarKorp/kloset/objects"
)

// NewCheckCache makes what kloset's checks of several snapshots share: what one has found out about an entry, an object or a
// chunk, the others take from it. forget forgets what was found to be bad, and with it what could not be read, which kloset
// takes for the same; what was found to be good stays. Each of that takes 50 to 100 bytes of memory until the cache is
// closed. Safe for concurrent use.
func NewCheckCache() (cache *caching.CheckCache, forget func(), err error) {
	c := newCheckCache()
	cache, err = caching.NewManager(func(_, _, _ string, _ caching.Option) (caching.Cache, error) { return c, nil }).Check()
	return cache, c.forget, err
}

// checkCache is the caching.Cache of a CheckCache, of which kloset asks for no more than Put and Get. Keys are
// "kind:MAC"; values are empty for what is good, and an error's text for what is not.
type checkCache struct {
	nullCache

	mu   sync.RWMutex
	good map[string]map[objects.MAC]struct{} // guarded by mu: by kind
	bad  map[string][]byte                   // guarded by mu: by key
}

func newCheckCache() *checkCache {
	c := &checkCache{}
	c.reset()
	return c
}

func (c *checkCache) reset() {
	c.good, c.bad = make(map[string]map[objects.MAC]struct{}), make(map[string][]byte)
}

// splitCheckKey takes a key apart. One that it does not know is not kept: what it is of is checked once more.
func splitCheckKey(key []byte) (kind []byte, mac objects.MAC, ok bool) {
	kind, text, _ := bytes.Cut(key, []byte(":"))
	if hex.DecodedLen(len(text)) != len(mac) {
		return nil, mac, false
	}
	_, err := hex.Decode(mac[:], text)
	return kind, mac, err == nil
}

// Put implements caching.Cache.
func (c *checkCache) Put(key, value []byte) error {
	kind, mac, ok := splitCheckKey(key)
	if !ok {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(value) > 0 {
		delete(c.good[string(kind)], mac)
		c.bad[string(key)] = bytes.Clone(value)
		return nil
	}
	delete(c.bad, string(key))
	if c.good[string(kind)] == nil {
		c.good[string(kind)] = make(map[objects.MAC]struct{})
	}
	c.good[string(kind)][mac] = struct{}{}
	return nil
}

// Get implements caching.Cache; a missing key is nil without an error, and what is good is not nil.
func (c *checkCache) Get(key []byte) ([]byte, error) {
	kind, mac, ok := splitCheckKey(key)
	if !ok {
		return nil, nil
	}
	c.mu.RLock()
	defer c.mu.RUnlock()
	if _, ok := c.good[string(kind)][mac]; ok {
		return []byte{}, nil
	}
	return c.bad[string(key)], nil
}

// forget forgets what is bad.
func (c *checkCache) forget() {
	c.mu.Lock()
	defer c.mu.Unlock()
	clear(c.bad)
}

// Close implements caching.Cache.
func (c *checkCache) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.reset()
	return nil
}
