package spool_test

import (
	"bytes"
	"testing"

	"github.com/snapgate/gateway/internal/disk"
	"github.com/snapgate/gateway/vfs/internal/spool"
)

// BenchmarkSequential writes 64 MiB as an OpenSSH client sends it, hashing included.
func BenchmarkSequential(b *testing.B) {
	for name, key := range map[string][]byte{"plain": nil, "encrypted": bytes.Repeat([]byte{7}, 32)} {
		for packet, label := range map[int]string{32 << 10: "32KiB", 261120: "255KiB"} {
			b.Run(name+"/"+label, func(b *testing.B) {
				s, err := spool.Open(spool.Config{Disk: disk.OS{}, Dir: b.TempDir(), Key: key, InlineBytes: inlineBytes})
				if err != nil {
					b.Fatal(err)
				}
				defer s.Close()
				const total = 64 << 20
				p := pattern(packet, 1)
				b.SetBytes(total)
				for b.Loop() {
					f := s.Create()
					for off := int64(0); off < total; off += int64(packet) {
						if _, err := f.WriteAt(p, off); err != nil {
							b.Fatal(err)
						}
					}
					if err := f.Discard(); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}
