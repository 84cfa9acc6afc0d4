package argon2id

import (
	"bytes"
	"math/rand/v2"
	"testing"

	"golang.org/x/crypto/argon2"
)

// The keys are those of x/crypto: a store made with one opens with the other.
func TestKeyIsThatOfOthers(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 60 {
		passphrase, salt := make([]byte, r.IntN(80)), make([]byte, r.IntN(40))
		for _, b := range [][]byte{passphrase, salt} {
			for i := range b {
				b[i] = byte(r.Uint32())
			}
		}
		passes, memory, size := 1+r.Uint32N(4), r.Uint32N(3000), 1+r.Uint32N(200)
		got, err := Key(passphrase, salt, passes, memory, size)
		if err != nil {
			t.Fatal(err)
		}
		if want := argon2.IDKey(passphrase, salt, passes, memory, 1, size); !bytes.Equal(got, want) {
			t.Fatalf("%d passes over %d KiB, %d bytes: got %x, want %x", passes, memory, size, got, want)
		}
	}
}

// BenchmarkKey derives a key as a store's is, both ways.
func BenchmarkKey(b *testing.B) {
	const passes, memory, size = 4, 256 << 10, 32
	salt := make([]byte, 16)
	b.Run("own", func(b *testing.B) {
		for b.Loop() {
			if _, err := Key(salt, salt, passes, memory, size); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("x-crypto", func(b *testing.B) {
		for b.Loop() {
			argon2.IDKey(salt, salt, passes, memory, 1, size)
		}
	})
}
