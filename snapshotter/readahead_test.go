package snapshotter

import (
	"io"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/PlakarKorp/kloset/objects"
)

const (
	testChunk = 1 << 20
	// farAway is a round trip to a store that is elsewhere.
	farAway = 50 * time.Millisecond
)

// farStore is a cache in front of chunks that take a while, and a file of them.
type farStore struct {
	cache         *chunkCache
	loads         atomic.Int64
	loading, most atomic.Int64
}

func newFarStore(limit int64, takes time.Duration) *farStore {
	s := &farStore{}
	data := make([]byte, testChunk)
	s.cache = newChunkCache(limit, func(objects.MAC) ([]byte, error) {
		s.loads.Add(1)
		s.most.Store(max(s.most.Load(), s.loading.Add(1)))
		defer s.loading.Add(-1)
		time.Sleep(takes)
		return data, nil
	})
	return s
}

// file is a file of n chunks.
func (s *farStore) file(id byte, n int) *Reader {
	obj := &objects.Object{Chunks: make([]objects.Chunk, n)}
	for i := range obj.Chunks {
		obj.Chunks[i] = objects.Chunk{ContentMAC: objects.MAC{id, byte(i), byte(i >> 8)}, Length: testChunk}
	}
	return newReader(s.cache, obj)
}

// Reading in order waits for few round trips of a store that is far away, and a store that is near
// is read ahead by little.
func TestReadAhead(t *testing.T) {
	for _, tt := range []struct {
		name    string
		takes   time.Duration
		limit   int64
		within  time.Duration // of 128 chunks
		loading int64
	}{
		{"near", time.Millisecond, 256 << 20, 128 * time.Millisecond, max(readAhead, 2*int64(cores())) + 1},
		{"far", farAway, 256 << 20, 16 * farAway, maxReadAhead + 1},
		{"three round trips", 3 * farAway, 256 << 20, 16 * 3 * farAway, maxReadAhead + 1},
		{"far, with little memory", farAway, 16 << 20, 24 * farAway, 9},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newFarStore(tt.limit, tt.takes)
				defer s.cache.close()
				began := time.Now()
				n, err := io.Copy(io.Discard, io.NewSectionReader(s.file(1, 128), 0, 128*testChunk))
				if n != 128*testChunk || err != nil {
					t.Fatalf("%d bytes, %v", n, err)
				}
				if took := time.Since(began); took > tt.within {
					t.Errorf("it took %v, want %v", took, tt.within)
				}
				if got := s.most.Load(); got > tt.loading {
					t.Errorf("%d chunks were loaded at a time, want %d", got, tt.loading)
				}
				if got := s.loads.Load(); got != 128 {
					t.Errorf("%d loads of 128 chunks", got)
				}
			})
		})
	}
}

// Many files that are read side by side do not push each other's chunks out of the cache before
// they are read.
func TestReadAheadOfMany(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newFarStore(32<<20, farAway)
		defer s.cache.close()
		const files, chunks = 16, 20
		done := make(chan error, files)
		for id := range files {
			go func() {
				_, err := io.Copy(io.Discard, io.NewSectionReader(s.file(byte(id), chunks), 0, chunks*testChunk))
				done <- err
			}()
		}
		for range files {
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
		if got := s.loads.Load(); got > files*chunks*6/5 { // some are, by chance
			t.Errorf("%d loads of %d chunks", got, files*chunks)
		}
		synctest.Wait()
		if s.cache.unread != 0 || s.cache.ahead != 0 {
			t.Errorf("%d bytes count as unread, %d chunks as being read", s.cache.unread, s.cache.ahead)
		}
	})
}

// BenchmarkReadFar reads a file of 64 MiB from a store that is 50 ms away.
func BenchmarkReadFar(b *testing.B) {
	b.SetBytes(64 * testChunk)
	for b.Loop() {
		s := newFarStore(256<<20, farAway)
		if _, err := io.Copy(io.Discard, io.NewSectionReader(s.file(1, 64), 0, 64*testChunk)); err != nil {
			b.Fatal(err)
		}
		s.cache.close()
	}
}
