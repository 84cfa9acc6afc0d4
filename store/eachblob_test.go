package store_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/PlakarKorp/kloset/objects"
	"github.com/PlakarKorp/kloset/repository"
	"github.com/PlakarKorp/kloset/resources"

	"github.com/snapgate/gateway/store"
	"github.com/snapgate/gateway/store/storetest"
)

// TestEachBlob reads the blobs of several packfiles, small ones and some that are too long to be read with others,
// of which two are damaged, and one of these is in another packfile as well.
func TestEachBlob(t *testing.T) {
	dir := t.TempDir()
	s := storetest.Open(t, storetest.Config(dir))
	held := make(map[objects.MAC][]byte)
	put := func(list ...[]byte) []objects.MAC {
		blobs, _ := putBlobs(t, s, list...)
		for i, blob := range blobs {
			held[blob] = list[i]
		}
		return blobs
	}
	large := func(n int) []byte { return bytes.Repeat([]byte{byte(n)}, 3<<20) }
	twice := []byte("in two packfiles")
	put([]byte("alone"))
	put(large(1), []byte("between"), large(2), large(3))
	before, err := filepath.Glob(filepath.Join(dir, "store", "packfiles", "*", "*"))
	if err != nil {
		t.Fatal(err)
	}
	lost := put(twice, []byte("in one"))[1]
	after, err := filepath.Glob(filepath.Join(dir, "store", "packfiles", "*", "*"))
	if err != nil || len(after) != len(before)+1 {
		t.Fatalf("packfiles: %q before, %q after, %v", before, after, err)
	}
	for _, path := range after {
		if !slices.Contains(before, path) {
			if err := os.Truncate(path, 40); err != nil {
				t.Fatal(err)
			}
		}
	}
	put([]byte("beside"), twice)
	delete(held, lost)

	for _, parts := range []uint64{1, 3} {
		t.Run(fmt.Sprintf("%d parts", parts), func(t *testing.T) {
			s := reopened(t, s)
			seen := make(map[objects.MAC]bool)
			err := s.EachBlobInParts(t.Context(), resources.RT_CHUNK, parts, func(blob objects.MAC, data []byte, err error) error {
				seen[blob] = true
				if want := held[blob]; (err != nil) != (blob == lost) || err == nil && !bytes.Equal(data, want) {
					t.Errorf("%x: %d bytes, want %d, %v", blob[:4], len(data), len(want), err)
				}
				return nil
			})
			if err != nil || len(seen) != len(held)+1 {
				t.Errorf("%d blobs, want %d, %v", len(seen), len(held)+1, err)
			}
		})
	}
	stop := errors.New("stop")
	if err := s.EachBlob(t.Context(), resources.RT_CHUNK, func(objects.MAC, []byte, error) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("stopped by its caller: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.EachBlob(ctx, resources.RT_CHUNK, func(objects.MAC, []byte, error) error { return nil }); !errors.Is(err, context.Canceled) {
		t.Errorf("stopped by its context: %v", err)
	}
}

// TestEachBlobOf reads some blobs as they are in the store: each is told of once; what is damaged in one packfile and sound in another is sound,
// and what the index does not know is missing.
func TestEachBlobOf(t *testing.T) {
	dir := t.TempDir()
	s := storetest.Open(t, storetest.Config(dir))
	packfiles := func() []string {
		t.Helper()
		list, err := filepath.Glob(filepath.Join(dir, "store", "packfiles", "*", "*"))
		if err != nil {
			t.Fatal(err)
		}
		return list
	}
	held := make(map[objects.MAC][]byte)
	put := func(list ...[]byte) []objects.MAC {
		blobs, _ := putBlobs(t, s, list...)
		for i, blob := range blobs {
			held[blob] = list[i]
		}
		return blobs
	}
	twice := []byte("in two packfiles")
	lost := put(twice, []byte("in one"))[1]
	for _, path := range packfiles() {
		if err := os.Truncate(path, 40); err != nil {
			t.Fatal(err)
		}
	}
	before := packfiles()
	other := put([]byte("in a third"))[0]
	put([]byte("beside"), twice, bytes.Repeat([]byte{1}, 3<<20), bytes.Repeat([]byte{2}, 3<<20))
	unknown := objects.MAC{1}
	s = reopened(t, s)
	if len(packfiles()) < len(before)+2 {
		t.Fatalf("packfiles: %q", packfiles())
	}
	fresh, done, err := s.Afresh(t.Context(), 1, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer done()
	all := append(slices.Collect(maps.Keys(held)), unknown)
	all = slices.DeleteFunc(all, func(mac objects.MAC) bool { return mac == other })
	told := make(map[objects.MAC]int)
	each := func(blob objects.MAC, data []byte, err error) error {
		told[blob]++
		bad := blob == lost || blob == unknown
		if (err != nil) != bad || errors.Is(err, store.ErrUnavailable) || !bad && !bytes.Equal(data, held[blob]) {
			t.Errorf("%q: %d bytes, %v", held[blob][:min(len(held[blob]), 20)], len(data), err)
		}
		if blob == unknown && !errors.Is(err, repository.ErrBlobNotFound) {
			t.Errorf("unknown: got %v, want %v", err, repository.ErrBlobNotFound)
		}
		return nil
	}
	if err := s.EachBlobOf(t.Context(), fresh, resources.RT_CHUNK, all, each); err != nil {
		t.Error(err)
	}
	for _, mac := range all {
		if told[mac] != 1 || len(told) != len(all) {
			t.Errorf("%x: told %d times; of %d blobs, want %d", mac[:4], told[mac], len(told), len(all))
		}
	}
	stop := errors.New("stop")
	if err := s.EachBlobOf(t.Context(), fresh, resources.RT_CHUNK, all, func(objects.MAC, []byte, error) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("stopped by its caller: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.EachBlobOf(ctx, fresh, resources.RT_CHUNK, all, each); !errors.Is(err, context.Canceled) {
		t.Errorf("stopped by its context: %v", err)
	}
}

// TestEachBlobForged has an index with places behind the end of everything.
func TestEachBlobForged(t *testing.T) {
	s, mac, _, data := onePackfile(t)
	forged := []store.Place{
		{Type: resources.RT_CHUNK, Blob: objects.MAC{1}, Packfile: mac, Offset: 1<<64 - 10, Length: 5},
		{Type: resources.RT_CHUNK, Blob: objects.MAC{2}, Packfile: mac, Offset: 1<<64 - 8, Length: 100 << 20},
	}
	if err := store.AddPlaces(s, forged...); err != nil {
		t.Fatal(err)
	}
	sound, bad := 0, 0
	err := s.EachBlob(t.Context(), resources.RT_CHUNK, func(blob objects.MAC, is []byte, err error) error {
		switch {
		case err != nil:
			bad++
		case bytes.Equal(is, data[blob]):
			sound++
		}
		return nil
	})
	if err != nil || sound != len(data) || bad != len(forged) {
		t.Errorf("%d sound, %d cannot be read, %v; want %d and %d", sound, bad, err, len(data), len(forged))
	}
}
