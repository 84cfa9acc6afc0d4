package snapshotter

import (
	"container/list"
	"errors"
	"fmt"
	"sync"

	"github.com/PlakarKorp/kloset/objects"
	"github.com/PlakarKorp/kloset/repository"
	"github.com/PlakarKorp/kloset/resources"

	"github.com/snapgate/gateway/store"
)

// chunkCache keeps decoded chunks, the last used ones up to a number of bytes, and reads
// every chunk once however many ask for it at the same time. Safe for concurrent use.
type chunkCache struct {
	load  func(objects.MAC) ([]byte, error)
	limit int64 // of bytes
	// ahead bounds the chunks that are being read ahead, in all.
	ahead chan struct{}
	wg    sync.WaitGroup // read-ahead

	mu      sync.Mutex
	closed  bool                          // guarded by mu: no more read-ahead
	size    int64                         // guarded by mu: bytes of decoded chunks
	lru     *list.List                    // guarded by mu: of *chunk, last used first
	byMAC   map[objects.MAC]*list.Element // guarded by mu
	loading map[objects.MAC]*chunkLoad    // guarded by mu
}

type chunk struct {
	mac  objects.MAC
	data []byte
}

type chunkLoad struct {
	done chan struct{}
	data []byte
	err  error
}

func newChunkCache(limit int64, load func(objects.MAC) ([]byte, error)) *chunkCache {
	return &chunkCache{
		load:    load,
		limit:   limit,
		ahead:   make(chan struct{}, 2*cores()),
		lru:     list.New(),
		byMAC:   make(map[objects.MAC]*list.Element),
		loading: make(map[objects.MAC]*chunkLoad),
	}
}

// get returns a decoded chunk, which must not be changed.
func (c *chunkCache) get(mac objects.MAC) ([]byte, error) {
	c.mu.Lock()
	if e, ok := c.byMAC[mac]; ok {
		c.lru.MoveToFront(e)
		data := e.Value.(*chunk).data
		c.mu.Unlock()
		return data, nil
	}
	if l, ok := c.loading[mac]; ok {
		c.mu.Unlock()
		<-l.done
		return l.data, l.err
	}
	l := &chunkLoad{done: make(chan struct{})}
	c.loading[mac] = l
	c.mu.Unlock()
	c.fill(mac, l)
	return l.data, l.err
}

// prefetch starts to read a chunk unless that is needless or there is enough going on.
func (c *chunkCache) prefetch(mac objects.MAC) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed || c.byMAC[mac] != nil || c.loading[mac] != nil {
		return
	}
	select {
	case c.ahead <- struct{}{}:
	default:
		return
	}
	l := &chunkLoad{done: make(chan struct{})}
	c.loading[mac] = l
	c.wg.Add(1)
	go func() {
		defer c.wg.Done()
		defer func() { <-c.ahead }()
		c.fill(mac, l)
	}()
}

// fill reads the chunk that l announces.
func (c *chunkCache) fill(mac objects.MAC, l *chunkLoad) {
	l.data, l.err = c.load(mac)
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.loading, mac)
	close(l.done)
	if l.err != nil {
		return
	}
	c.byMAC[mac] = c.lru.PushFront(&chunk{mac, l.data})
	c.size += int64(len(l.data))
	for c.size > c.limit && c.lru.Len() > 1 {
		last := c.lru.Remove(c.lru.Back()).(*chunk)
		delete(c.byMAC, last.mac)
		c.size -= int64(len(last.data))
	}
}

// close ends read-ahead and waits for what is under way.
func (c *chunkCache) close() {
	c.mu.Lock()
	c.closed = true
	c.mu.Unlock()
	c.wg.Wait()
}

// loadChunk reads a chunk from the store, which compares it with its MAC.
func (s *Snapshotter) loadChunk(mac objects.MAC) ([]byte, error) {
	data, err := s.blob(resources.RT_CHUNK, mac)
	if err != nil {
		return nil, readError(fmt.Sprintf("chunk %x", mac[:4]), err)
	}
	return data, nil
}

// readError sorts an error of reading a blob: a store that cannot be read, or one that
// holds the wrong thing.
func readError(what string, err error) error {
	if store.IsIO(err) || errors.Is(err, repository.ErrBlobNotFound) {
		return store.Unavailable("read "+what, err)
	}
	return fmt.Errorf("read %s: %w: %w", what, store.ErrDamaged, err)
}
