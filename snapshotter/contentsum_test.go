package snapshotter_test

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/snapgate/gateway/snapshotter"
	"github.com/snapgate/gateway/store"
)

// TestContentSum compares our MAC of contents of all sizes around the borders of BLAKE3's
// chunks and of groups, written in pieces of any size, with kloset's. Then bytes change, and
// what was there before is known.
func TestContentSum(t *testing.T) {
	for _, plaintext := range []bool{true, false} {
		t.Run(fmt.Sprint("plaintext=", plaintext), func(t *testing.T) {
			r := newRig(t, func(cfg *store.Config) { cfg.Plaintext = plaintext })
			repo := r.store.Repository()
			rng := rand.New(rand.NewPCG(2, 2))
			data := make([]byte, 300<<10)
			for i := range data {
				data[i] = byte(rng.Uint32())
			}
			sizes := []int{0, 1, 63, 64, 65, 2048, 3072, 100_000, 200_001, len(data)}
			for _, border := range []int{1 << 10, 8 << 10, 16 << 10, 32 << 10, 48 << 10, 64 << 10, 128 << 10, 256 << 10} {
				sizes = append(sizes, border-1, border, border+1)
			}
			for _, group := range []int64{1 << 10, 16 << 10, 64 << 10} {
				snapshotter.SetSumGroup(r.Snapshotter, group)
				for _, size := range sizes {
					content := data[:size]
					if got, want := r.ContentMAC(content, nil, rng), repo.ComputeMAC(content); got != want {
						t.Fatalf("%d bytes in groups of %d: %x, want %x", size, group, got, want)
					}
					if size == 0 {
						continue
					}
					changed := append([]byte(nil), content...)
					changed[rng.IntN(size)] ^= 1
					changed = append(changed, data[:rng.IntN(3000)]...)
					if got, want := r.ContentMAC(changed, content, rng), repo.ComputeMAC(changed); got != want {
						t.Fatalf("%d bytes in groups of %d, changed: %x, want %x", size, group, got, want)
					}
				}
			}
		})
	}
}

// BenchmarkContentSum hashes a chunk of 1 MiB, and beside it with kloset's hasher.
func BenchmarkContentSum(b *testing.B) {
	r := newRig(b)
	repo := r.store.Repository()
	p := make([]byte, 1<<20)
	for name, sum := range map[string]func(){
		"ours": func() { r.ContentMAC(p, nil, nil) }, "kloset": func() { repo.ComputeMAC(p) },
	} {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(p)))
			for b.Loop() {
				sum()
			}
		})
	}
}
