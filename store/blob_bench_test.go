package store_test

import (
	"math/rand/v2"
	"os"
	"strconv"
	"testing"

	"github.com/PlakarKorp/kloset/objects"
	"github.com/PlakarKorp/kloset/resources"

	"github.com/snapgate/gateway/store"
	"github.com/snapgate/gateway/store/storetest"
)

// BenchmarkHas looks up blobs in an index of BLOBS (100,000), by one and by several who ask at the same time.
func BenchmarkHas(b *testing.B) {
	n := 100_000
	if text := os.Getenv("BLOBS"); text != "" {
		var err error
		if n, err = strconv.Atoi(text); err != nil {
			b.Fatal(err)
		}
	}
	s := storetest.New(b)
	rng := rand.NewChaCha8([32]byte{})
	blobs := make([]objects.MAC, n)
	for i := range blobs {
		_, _ = rng.Read(blobs[i][:])
	}
	if err := store.FillIndex(s, resources.RT_CHUNK, blobs); err != nil {
		b.Fatal(err)
	}
	has := func(b *testing.B) {
		if !s.Has(resources.RT_CHUNK, blobs[rand.IntN(n)]) {
			b.Error("a blob is not in the index")
		}
	}
	for range 2 * n / 10 {
		has(b)
	}
	b.Run("one", func(b *testing.B) {
		for b.Loop() {
			has(b)
		}
	})
	b.Run("several", func(b *testing.B) {
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				has(b)
			}
		})
	})
}
