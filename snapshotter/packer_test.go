package snapshotter

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/PlakarKorp/kloset/compression"
	"github.com/PlakarKorp/kloset/objects"
	"github.com/PlakarKorp/kloset/packfile"
	"github.com/PlakarKorp/kloset/resources"

	"github.com/snapgate/gateway/store"
	"github.com/snapgate/gateway/store/storetest"
)

// TestPackerFillsPlaces has several goroutines put blobs at once, which they encrypt where these belong in packfiles
// that grow meanwhile, are given to writers when they are full, and whose memory is used again: each blob is where its
// packfile says.
func TestPackerFillsPlaces(t *testing.T) {
	const putters, each = 8, 150
	s := storetest.New(t, func(cfg *store.Config) { cfg.Plaintext = true })
	repo := s.Repository()
	var mu sync.Mutex
	found := map[objects.MAC]int{}
	p := newPacker(func(f func()) { f() }, s.Encode, repo.GetMACHasher, func(pk packfile.Packfile) error {
		for _, b := range pk.Entries() {
			if b.Type == resources.RT_RANDOM {
				continue
			}
			data, err := unpack(pk.(*pack).blobs[b.Offset : b.Offset+uint64(b.Length)])
			if err == nil && repo.ComputeMAC(data) != b.MAC {
				err = fmt.Errorf("%d bytes of something else", len(data))
			}
			if err != nil {
				t.Errorf("blob at %d of %d bytes: %v", b.Offset, b.Length, err)
			}
			mu.Lock()
			found[b.MAC]++
			mu.Unlock()
		}
		return nil
	}, func(string) {})
	p.size = 1 << 20
	p.writer()
	var wg sync.WaitGroup
	for g := range putters {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(g), 7))
			for range each {
				data := make([]byte, rng.IntN(1<<rng.IntN(18)+1))
				for i := range data[:len(data)/2] { // the rest can be compressed
					data[i] = byte(rng.Uint32())
				}
				if err := p.Put(0, resources.RT_CHUNK, repo.ComputeMAC(data), data, g == 0); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if err := p.finish(); err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, times := range found {
		n += times
	}
	if n != putters*each {
		t.Errorf("%d blobs in packfiles, want %d", n, putters*each)
	}
}

// unpack decompresses a blob of a plaintext store.
func unpack(encoded []byte) ([]byte, error) {
	rd, err := compression.InflateStream("LZ4", io.NopCloser(bytes.NewReader(encoded)))
	if err != nil {
		return nil, err
	}
	return io.ReadAll(rd)
}

// TestPackerFails has a blob that cannot be encoded: nothing is left waiting, and the error is told.
func TestPackerFails(t *testing.T) {
	broken := errors.New("broken")
	s := storetest.New(t)
	p := newPacker(func(f func()) { f() }, func([]byte) (*store.Encoding, error) { return nil, broken }, s.Repository().GetMACHasher,
		func(packfile.Packfile) error { t.Error("a packfile is put"); return nil }, func(string) {})
	if err := p.Put(0, resources.RT_CHUNK, objects.RandomMAC(), []byte("data"), false); err != nil {
		t.Error(err)
	}
	if err := p.finish(); err != broken { //nolint:errorlint // exactly this one
		t.Errorf("got %v, want %v", err, broken)
	}
}

// TestPackerWaitsForPlaces has a packfile that is full while a place in it is not filled: it is not written until then.
func TestPackerWaitsForPlaces(t *testing.T) {
	hasher := storetest.New(t).Repository().GetMACHasher
	synctest.Test(t, func(t *testing.T) {
		var written []byte
		p := newPacker(func(f func()) { f() }, nil, hasher, func(pk packfile.Packfile) error {
			b := pk.Entries()[0]
			written = bytes.Clone(pk.(*pack).blobs[b.Offset : b.Offset+uint64(b.Length)])
			return nil
		}, func(string) {})
		p.size = 100
		pk, place := p.place(resources.RT_CHUNK, objects.RandomMAC(), p.size, false)
		synctest.Wait()
		if written != nil {
			t.Error("it was written before")
		}
		want := bytes.Repeat([]byte{7}, copy(place, bytes.Repeat([]byte{7}, p.size)))
		pk.filling.Done()
		synctest.Wait()
		if !bytes.Equal(written, want) {
			t.Errorf("%d bytes were written of %d, or others", len(written), len(want))
		}
		if err := p.finish(); err != nil {
			t.Error(err)
		}
	})
}
