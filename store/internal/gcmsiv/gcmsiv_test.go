package gcmsiv

import (
	"bytes"
	"encoding/hex"
	"math/rand/v2"
	"testing"

	"github.com/ericlagergren/siv"
	"github.com/tink-crypto/tink-go/v2/aead/subtle"
)

// tink is what kloset encrypts with; its ciphertexts begin with the nonce.
func tink(tb testing.TB, key []byte) *subtle.AESGCMSIV {
	tb.Helper()
	t, err := subtle.NewAESGCMSIV(key)
	if err != nil {
		tb.Fatal(err)
	}
	return t
}

// compare has Tink and the other implementation read what is sealed here, and the other way round.
func compare(t *testing.T, key, nonce, plain, data []byte) {
	t.Helper()
	ours, err := New(key)
	if err != nil {
		t.Fatal(err)
	}
	sealed := ours.Seal([]byte("before"), nonce, plain, data)
	if !bytes.HasPrefix(sealed, []byte("before")) {
		t.Fatal("what was before is gone")
	}
	sealed = sealed[len("before"):]
	if got, err := tink(t, key).Decrypt(append(bytes.Clone(nonce), sealed...), data); err != nil || !bytes.Equal(got, plain) {
		t.Fatalf("%d bytes: Tink reads %d bytes, %v", len(plain), len(got), err)
	}
	other, err := siv.NewGCM(key)
	if err != nil {
		t.Fatal(err)
	}
	if want := other.Seal(nil, nonce, plain, data); !bytes.Equal(sealed, want) {
		t.Fatalf("%d bytes: sealed otherwise than by siv", len(plain))
	}
	theirs, err := tink(t, key).Encrypt(plain, data)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := ours.Open(nil, theirs[:NonceSize], theirs[NonceSize:], data); err != nil || !bytes.Equal(got, plain) {
		t.Fatalf("%d bytes: of Tink's, %d bytes are read, %v", len(plain), len(got), err)
	}
	place := bytes.Clone(sealed)
	if got, err := ours.Open(place[:0], nonce, place, data); err != nil || !bytes.Equal(got, plain) {
		t.Fatalf("%d bytes: in place, %d bytes are read, %v", len(plain), len(got), err)
	}
	for _, at := range []int{0, len(sealed) / 2, len(sealed) - 1} {
		bad := bytes.Clone(sealed)
		bad[at] ^= 0x10
		if got, err := ours.Open(nil, nonce, bad, data); err == nil {
			t.Fatalf("%d bytes: byte %d changed, %d bytes are read", len(plain), at, len(got))
		}
	}
}

// TestLengths has all lengths around the eight blocks that are done at a time, at all
// alignments.
func TestLengths(t *testing.T) {
	rng := rand.NewChaCha8([32]byte{1})
	buf := make([]byte, 70_000)
	_, _ = rng.Read(buf)
	for n := range 700 {
		key, nonce := make([]byte, KeySize), make([]byte, NonceSize)
		_, _ = rng.Read(key)
		_, _ = rng.Read(nonce)
		compare(t, key, nonce, buf[n%16:n%16+n], buf[:n%40])
	}
	for _, n := range []int{4095, 4096, 65535, 65536, 65537} {
		compare(t, buf[1:1+KeySize], buf[:NonceSize], buf[3:3+n], nil)
	}
}

// TestCounterWraps is section C.3 of RFC 8452: the counter is 32 bits without a carry.
func TestCounterWraps(t *testing.T) {
	const key = "0000000000000000000000000000000000000000000000000000000000000000"
	for name, c := range map[string]struct{ plain, want string }{
		"first": {
			"000000000000000000000000000000004db923dc793ee6497c76dcc03a98e108",
			"f3f80f2cf0cb2dd9c5984fcda908456cc537703b5ba70324a6793a7bf218d3eaffffffff000000000000000000000000",
		},
		"second": {
			"eb3640277c7ffd1303c7a542d02d3e4c0000000000000000000000000000000000000000000000000000000000000000"[:64],
			"18ce4f0b8cb4d0cac65fea8f79257b20888e53e72299e56dffffffff000000000000000000000000",
		},
	} {
		t.Run(name, func(t *testing.T) {
			a, err := New(unhex(t, key))
			if err != nil {
				t.Fatal(err)
			}
			plain := unhex(t, c.plain)[:len(c.want)/2-TagSize]
			if got := a.Seal(nil, make([]byte, NonceSize), plain, nil); hex.EncodeToString(got) != c.want {
				t.Errorf("got %x, want %s", got, c.want)
			}
		})
	}
}

func unhex(t *testing.T, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestNewRefusesOtherKeys(t *testing.T) {
	for _, n := range []int{0, 16, 31, 33} {
		if _, err := New(make([]byte, n)); err == nil {
			t.Errorf("a key of %d bytes is taken", n)
		}
	}
}

func FuzzAgainstTink(f *testing.F) {
	f.Add(make([]byte, KeySize), make([]byte, NonceSize), []byte("plaintext"), []byte("data"))
	f.Add(bytes.Repeat([]byte{0xff}, KeySize), make([]byte, NonceSize), make([]byte, 129), []byte(nil))
	f.Fuzz(func(t *testing.T, key, nonce, plain, data []byte) {
		if len(key) != KeySize || len(nonce) != NonceSize {
			t.Skip()
		}
		compare(t, key, nonce, plain, data)
	})
}

// BenchmarkOpen is kloset's pieces of 64 KiB.
func BenchmarkOpen(b *testing.B) {
	key, nonce, plain := make([]byte, KeySize), make([]byte, NonceSize), make([]byte, 64<<10)
	ours, err := New(key)
	if err != nil {
		b.Fatal(err)
	}
	other, err := siv.NewGCM(key)
	if err != nil {
		b.Fatal(err)
	}
	sealed, dst := ours.Seal(nil, nonce, plain, nil), make([]byte, 0, 64<<10)
	for name, a := range map[string]interface {
		Open(dst, nonce, ciphertext, data []byte) ([]byte, error)
	}{"here": ours, "siv": other} {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(plain)))
			for b.Loop() {
				if _, err := a.Open(dst, nonce, sealed, nil); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
