package snapshotter

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"github.com/PlakarKorp/kloset/objects"
	"github.com/PlakarKorp/kloset/packfile"
	"github.com/PlakarKorp/kloset/resources"

	"github.com/snapgate/gateway/store"
	"github.com/snapgate/gateway/store/storetest"
)

// TestPackerFillsPlaces has several goroutines put blobs at once, which they encrypt where these belong in packfiles
// that grow meanwhile, are given to writers when they are full, and whose memory is used again: kloset reads each blob where its
// packfile says, byte for byte.
func TestPackerFillsPlaces(t *testing.T) {
	for name, plaintext := range map[string]bool{"plaintext": true, "encrypted": false} {
		t.Run(name, func(t *testing.T) {
			fillPlaces(t, storetest.New(t, func(cfg *store.Config) { cfg.Plaintext = plaintext }))
		})
	}
}

func fillPlaces(t *testing.T, s *store.Store) {
	t.Helper()
	const putters, each = 8, 60
	snaps, err := New(t.Context(), Config{Store: s})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := snaps.Close(); err != nil {
			t.Error(err)
		}
	}()
	d, err := snaps.newDelta()
	if err != nil {
		t.Fatal(err)
	}
	defer d.close()
	var packs atomic.Int32
	p := newPacker(func(f func()) { f() }, s.Encode, s.Repository().GetMACHasher, func(pk packfile.Packfile) error {
		packs.Add(1)
		return d.rw.PutPackfile(pk)
	}, func(string) {})
	p.size = 256 << 10
	p.writer()
	var mu sync.Mutex // guards want
	want := make(map[objects.MAC][]byte)
	var wg sync.WaitGroup
	for g := range putters {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(g), 7))
			for i := range each {
				data := make([]byte, 8+rng.IntN(1<<rng.IntN(18)))
				for i := range data[:len(data)/2] { // the rest can be compressed
					data[i] = byte(rng.Uint32())
				}
				binary.LittleEndian.PutUint64(data, uint64(g*each+i)) // each is another one
				mac := s.Repository().ComputeMAC(data)
				mu.Lock()
				want[mac] = data
				mu.Unlock()
				if err := p.Put(0, resources.RT_CHUNK, mac, data, g == 0); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if err := p.finish(); err != nil {
		t.Fatal(err)
	}
	lock, err := s.Lock(t.Context())
	if err == nil {
		err = errors.Join(d.put(t.Context(), lock), lock.Unlock())
	}
	if err != nil {
		t.Fatal(err)
	}
	if n := packs.Load(); n < 3 || len(want) != putters*each {
		t.Errorf("%d blobs in %d packfiles, want %d in 3 or more", len(want), n, putters*each)
	}
	for mac, data := range want {
		got, err := s.Repository().GetBlobBytes(resources.RT_CHUNK, mac)
		if err != nil || !bytes.Equal(got, data) {
			t.Errorf("blob of %d bytes: got %d or others, %v", len(data), len(got), err)
		}
	}
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
