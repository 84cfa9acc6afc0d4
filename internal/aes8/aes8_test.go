package aes8

import (
	"bytes"
	"math/rand/v2"
	"testing"
)

// TestMasked compares what NewMasked gives with one block after the other by crypto/aes.
func TestMasked(t *testing.T) {
	r := rand.NewChaCha8([32]byte{8})
	random := func(n int) []byte {
		b := make([]byte, n)
		_, _ = r.Read(b)
		return b
	}
	for range 300 {
		key := random(KeySize)
		got, err := NewMasked(key)
		if err != nil {
			t.Fatal(err)
		}
		want := &Masked{block: got.block}
		n := Lanes * BlockSize * (1 + int(r.Uint64()%5))
		plain, masks := random(n), random(n)
		// Not aligned, and with something behind that must not be touched.
		a, b := random(n + 3)[1:], make([]byte, n)
		behind := bytes.Clone(a[n:])
		got.Encrypt(a[:n], plain, masks)
		want.Encrypt(b, plain, masks)
		if !bytes.Equal(a[:n], b) || !bytes.Equal(a[n:], behind) {
			t.Fatalf("%d bytes are encrypted otherwise", n)
		}
		got.Decrypt(a[:n], a[:n], masks)
		want.Decrypt(b, b, masks)
		if !bytes.Equal(a[:n], plain) || !bytes.Equal(b, plain) {
			t.Fatalf("%d bytes are decrypted otherwise", n)
		}
	}
}

func TestMaskedKeySize(t *testing.T) {
	for _, n := range []int{0, 16, 31, 33} {
		if _, err := NewMasked(make([]byte, n)); err == nil {
			t.Errorf("a key of %d bytes is taken", n)
		}
	}
}
