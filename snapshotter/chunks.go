package snapshotter

import (
	"container/list"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/PlakarKorp/kloset/objects"
	"github.com/PlakarKorp/kloset/repository"
	"github.com/PlakarKorp/kloset/resources"

	"github.com/snapgate/gateway/store"
)

// chunkCache keeps decoded chunks, the last used ones up to a number of bytes, and reads
// every chunk once however many ask for it at the same time. Safe for concurrent use.
type chunkCache struct {
	load  func(objects.MAC) ([]byte, error)
	limit int64          // of bytes
	wg    sync.WaitGroup // read-ahead
	// fastest is how long a chunk takes to load when nothing is in its way, in nanoseconds; it
	// forgets slowly.
	fastest atomic.Int64

	mu      sync.Mutex
	closed  bool                          // guarded by mu: no more read-ahead
	size    int64                         // guarded by mu: bytes of decoded chunks
	lru     *list.List                    // guarded by mu: of *chunk, last used first
	byMAC   map[objects.MAC]*list.Element // guarded by mu
	loading map[objects.MAC]*chunkLoad    // guarded by mu
	ahead   int                           // guarded by mu: chunks that are being read ahead, in all
	unread  int64                         // guarded by mu: bytes of those that were, and that nobody has asked for yet
}

type chunk struct {
	mac    objects.MAC
	data   []byte
	unread bool
}

type chunkLoad struct {
	done   chan struct{}
	data   []byte
	err    error
	wanted bool // guarded by mu of the cache: somebody waits for it
}

func newChunkCache(limit int64, load func(objects.MAC) ([]byte, error)) *chunkCache {
	return &chunkCache{
		load:    load,
		limit:   limit,
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
		data := c.read(e.Value.(*chunk))
		c.mu.Unlock()
		return data, nil
	}
	if l, ok := c.loading[mac]; ok {
		l.wanted = true
		c.mu.Unlock()
		<-l.done
		return l.data, l.err
	}
	l := &chunkLoad{done: make(chan struct{}), wanted: true}
	c.loading[mac] = l
	c.mu.Unlock()
	c.fill(mac, l)
	return l.data, l.err
}

// read is the data of a chunk that somebody wants. It needs c.mu.
func (c *chunkCache) read(ch *chunk) []byte {
	if ch.unread {
		ch.unread = false
		c.unread -= int64(len(ch.data))
	}
	return ch.data
}

// depth is how many chunks a sequential reader is to be ahead: more, the longer one takes.
func (c *chunkCache) depth() int {
	far := time.Duration(c.fastest.Load()) / nearChunk
	return int(min(max(far, 1)*readAhead, maxReadAhead))
}

// room reports whether another chunk may be read ahead: what is kept and was not read yet takes half
// of the cache at most, or it would be gone before anybody asks for it. It needs c.mu.
func (c *chunkCache) room() bool {
	return c.ahead < max(2*cores(), c.depth()) && c.unread+int64(c.ahead)<<20 < c.limit/2
}

// prefetch starts to read a chunk unless that is needless or there is enough going on.
func (c *chunkCache) prefetch(mac objects.MAC) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed || c.byMAC[mac] != nil || c.loading[mac] != nil || !c.room() {
		return
	}
	c.ahead++
	l := &chunkLoad{done: make(chan struct{})}
	c.loading[mac] = l
	c.wg.Add(1)
	go func() {
		defer c.wg.Done()
		c.fill(mac, l)
		c.mu.Lock()
		defer c.mu.Unlock()
		c.ahead--
	}()
}

// fill reads the chunk that l announces.
func (c *chunkCache) fill(mac objects.MAC, l *chunkLoad) {
	began := time.Now()
	l.data, l.err = c.load(mac)
	if l.err == nil {
		took, last := int64(time.Since(began)), c.fastest.Load()
		if last > 0 {
			took = min(took, last+last/8)
		}
		c.fastest.Store(took)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.loading, mac)
	close(l.done)
	if l.err != nil {
		return
	}
	c.byMAC[mac] = c.lru.PushFront(&chunk{mac, l.data, !l.wanted})
	c.size += int64(len(l.data))
	if !l.wanted {
		c.unread += int64(len(l.data))
	}
	for c.size > c.limit && c.lru.Len() > 1 {
		last := c.lru.Remove(c.lru.Back()).(*chunk)
		c.read(last)
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
