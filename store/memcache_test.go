package store

import (
	"bytes"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/PlakarKorp/kloset/objects"
	"github.com/PlakarKorp/kloset/repository/state"
	"github.com/PlakarKorp/kloset/resources"
	"github.com/google/go-cmp/cmp"
)

// TestMemCache does with a memCache and with a map what kloset does with a cache, at random:
// they hold the same.
func TestMemCache(t *testing.T) {
	for seed := range uint64(5) {
		compareMemCache(t, rand.New(rand.NewPCG(seed, 2)))
	}
}

func compareMemCache(t *testing.T, rng *rand.Rand) {
	t.Helper()
	mac := func(n int) (m objects.MAC) {
		m[0], m[31] = byte(n), byte(n)
		return m
	}
	// delta is an entry as kloset has it, now and then not quite.
	delta := func() (string, []byte) {
		e := state.DeltaEntry{
			Type: resources.Type(rng.IntN(12)), Version: 7, Blob: mac(rng.IntN(6)), Flags: uint32(rng.IntN(2)),
			Location: state.Location{Packfile: mac(rng.IntN(3)), Offset: rng.Uint64N(1 << 34), Length: rng.Uint32()},
		}
		key := fmt.Sprintf("__delta__:%d:%x:%x", e.Type, e.Blob, e.Location.Packfile)
		data := e.ToBytes()
		switch rng.IntN(20) {
		case 0:
			data = data[:rng.IntN(len(data))]
		case 1:
			data[rng.IntN(len(data))] ^= 1
		}
		return key, data
	}
	c, want := newMemCache(), map[string][]byte{}
	for range 1500 {
		key, data := delta()
		if rng.IntN(5) == 0 {
			key, data = fmt.Sprintf("__packfile__:%x", mac(rng.IntN(9))), []byte{byte(rng.IntN(256))}
		}
		switch rng.IntN(4) {
		case 0:
			if err := c.Delete([]byte(key)); err != nil {
				t.Fatal(err)
			}
			delete(want, key)
		default:
			if err := c.Put([]byte(key), data); err != nil {
				t.Fatal(err)
			}
			want[key] = data
		}
		key, _ = delta()
		got, err := c.Get([]byte(key))
		has, herr := c.Has([]byte(key))
		if err != nil || herr != nil || has != (want[key] != nil) || !bytes.Equal(got, want[key]) {
			t.Fatalf("%s: %x %v %v %v, want %x", key, got, has, err, herr, want[key])
		}
		prefix := key[:rng.IntN(len(key)+1)]
		if rng.IntN(2) == 0 {
			prefix = group(key)
		}
		reverse := rng.IntN(2) == 0
		var keys []string
		for _, k := range slices.Sorted(maps.Keys(want)) {
			if strings.HasPrefix(k, prefix) {
				keys = append(keys, k)
			}
		}
		if reverse {
			slices.Reverse(keys)
		}
		var listed []string
		for k, v := range c.Scan([]byte(prefix), reverse) {
			listed = append(listed, string(k))
			if !bytes.Equal(v, want[string(k)]) {
				t.Fatalf("%s: %x, want %x", k, v, want[string(k)])
			}
		}
		if d := cmp.Diff(keys, listed); d != "" {
			t.Fatalf("scan of %q, reverse %v (-want +got):\n%s", prefix, reverse, d)
		}
	}
}
