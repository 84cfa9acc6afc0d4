// Package gcmsiv is AES-256-GCM-SIV (RFC 8452), which kloset encrypts blobs with. On amd64
// it encrypts eight counters at a time (package aes8); github.com/ericlagergren/siv, which is used elsewhere,
// does that on arm64 alone, and takes six times as long here. POLYVAL is from
// github.com/ericlagergren/polyval on all of them. The tests compare it with Tink, which is
// what kloset uses.
package gcmsiv

import (
	"crypto/aes"
	"crypto/cipher"

	"github.com/ericlagergren/siv"
)

const (
	// KeySize is the size of a key in bytes.
	KeySize = 32
	// NonceSize is the size of a nonce in bytes.
	NonceSize = 12
	// TagSize is how many bytes longer than the plaintext a ciphertext is.
	TagSize = 16
)

// New makes the cipher of a key of KeySize bytes. It is safe for concurrent use.
func New(key []byte) (cipher.AEAD, error) {
	if len(key) != KeySize {
		return nil, aes.KeySizeError(len(key))
	}
	if fast, err := newFast(key); fast != nil || err != nil {
		return fast, err
	}
	return siv.NewGCM(key)
}
