package spool

import (
	"crypto/aes"
	"crypto/cipher"
	"encoding/binary"

	"github.com/snapgate/gateway/internal/aes8"
)

// xts is AES-256-XTS (IEEE 1619) for sectors of sectorBytes. golang.org/x/crypto/xts does
// the same byte by byte, at a tenth of the speed (300 MB/s on one core), a wall for encrypted
// uploads; a test compares them. Safe for concurrent use.
type xts struct {
	data  *aes8.Masked
	tweak cipher.Block
}

// newXTS takes the two AES-256 keys, for the data and for the tweak, in one.
func newXTS(key []byte) (*xts, error) {
	d, err := aes8.NewMasked(key[:len(key)/2])
	if err != nil {
		return nil, err
	}
	t, err := aes.NewCipher(key[len(key)/2:])
	if err != nil {
		return nil, err
	}
	return &xts{data: d, tweak: t}, nil
}

// encrypt encrypts a sector. dst and src are the same or do not overlap.
func (x *xts) encrypt(dst, src []byte, sector uint64) {
	var t [sectorBytes]byte
	x.tweaks(&t, sector)
	x.data.Encrypt(dst[:sectorBytes], src[:sectorBytes], t[:])
}

// decrypt is the inverse of encrypt.
func (x *xts) decrypt(dst, src []byte, sector uint64) {
	var t [sectorBytes]byte
	x.tweaks(&t, sector)
	x.data.Decrypt(dst[:sectorBytes], src[:sectorBytes], t[:])
}

// tweaks computes what a sector's blocks are masked with: the encrypted index, then each
// the double of the one before in GF(2^128), modulo x^128 + x^7 + x^2 + x + 1.
func (x *xts) tweaks(t *[sectorBytes]byte, sector uint64) {
	var first [aes.BlockSize]byte
	binary.LittleEndian.PutUint64(first[:], sector)
	x.tweak.Encrypt(first[:], first[:])
	lo, hi := binary.LittleEndian.Uint64(first[:]), binary.LittleEndian.Uint64(first[8:])
	for i := 0; i < sectorBytes; i += aes.BlockSize {
		binary.LittleEndian.PutUint64(t[i:], lo)
		binary.LittleEndian.PutUint64(t[i+8:], hi)
		lo, hi = lo<<1^(hi>>63)*0x87, hi<<1|lo>>63
	}
}
