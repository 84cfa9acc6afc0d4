package spool

import (
	"bytes"
	"crypto/aes"
	"math/rand/v2"
	"testing"

	refxts "golang.org/x/crypto/xts"
)

// TestXTSAgainstReference compares with golang.org/x/crypto/xts.
func TestXTSAgainstReference(t *testing.T) {
	r := rand.NewChaCha8([32]byte{1})
	for range 500 {
		key := make([]byte, xtsKeyBytes)
		_, _ = r.Read(key)
		plain := make([]byte, sectorBytes)
		_, _ = r.Read(plain)
		sector := r.Uint64()
		ref, err := refxts.NewCipher(aes.NewCipher, key)
		if err != nil {
			t.Fatal(err)
		}
		x, err := newXTS(key)
		if err != nil {
			t.Fatal(err)
		}
		want, got := make([]byte, len(plain)), make([]byte, len(plain))
		ref.Encrypt(want, plain, sector)
		x.encrypt(got, plain, sector)
		if !bytes.Equal(got, want) {
			t.Fatalf("sector %d: the ciphertexts differ", sector)
		}
		x.decrypt(got, got, sector)
		if !bytes.Equal(got, plain) {
			t.Fatalf("sector %d: decryption differs", sector)
		}
	}
}

func BenchmarkXTS(b *testing.B) {
	x, err := newXTS(make([]byte, xtsKeyBytes))
	if err != nil {
		b.Fatal(err)
	}
	buf := make([]byte, sectorBytes)
	for name, f := range map[string]func(dst, src []byte, sector uint64){"encrypt": x.encrypt, "decrypt": x.decrypt} {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(sectorBytes)
			for b.Loop() {
				f(buf, buf, 1)
			}
		})
	}
}
