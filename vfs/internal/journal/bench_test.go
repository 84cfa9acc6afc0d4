package journal_test

import (
	"bytes"
	"fmt"
	"testing"

	"github.com/snapgate/gateway/internal/disk"
	"github.com/snapgate/gateway/vfs/internal/journal"
)

// BenchmarkAppend writes synced batches of small records and of inline files.
func BenchmarkAppend(b *testing.B) {
	for name, key := range map[string][]byte{"plain": nil, "encrypted": bytes.Repeat([]byte{7}, 32)} {
		for _, n := range []int{1, 50} {
			for _, size := range []int{200, 64 << 10} {
				b.Run(fmt.Sprintf("%s/%dx%d", name, n, size), func(b *testing.B) {
					j, err := journal.Open(journal.Config{Disk: disk.OS{}, Dir: b.TempDir(), Key: key})
					if err != nil {
						b.Fatal(err)
					}
					batch := make([][]byte, n)
					for i := range batch {
						batch[i] = make([]byte, size)
					}
					b.SetBytes(int64(n * size))
					for b.Loop() {
						if _, err := j.Append(batch, true); err != nil {
							b.Fatal(err)
						}
						if err := j.Trim(j.Last() - 1); err != nil {
							b.Fatal(err)
						}
					}
					if err := j.Close(); err != nil {
						b.Fatal(err)
					}
				})
			}
		}
	}
}
