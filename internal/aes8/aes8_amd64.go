//go:build gc && !purego

package aes8

import (
	"encoding/binary"
	"math/bits"

	"golang.org/x/sys/cpu"
)

// Usable reports whether there is a kernel: nothing else of a Schedule may be used otherwise.
func Usable() bool { return cpu.X86.HasAES }

// Schedule is the key schedule of AES-256 (FIPS 197 section 5.2).
type Schedule [60]uint32

// Expand makes the schedule of a key of KeySize bytes.
func (s *Schedule) Expand(key []byte) {
	for i := range KeySize / 4 {
		s[i] = binary.LittleEndian.Uint32(key[4*i:])
	}
	rcon := uint32(1)
	for i := KeySize / 4; i < len(s); i++ {
		w := s[i-1]
		switch i % 8 {
		case 0:
			w = bits.RotateLeft32(subWord(w), -8) ^ rcon
			rcon <<= 1
		case 4:
			w = subWord(w)
		}
		s[i] = s[i-8] ^ w
	}
}

// XORStream XORs src with the key stream of counter mode into dst: the counter is the first 32
// bits of counter, little-endian, without a carry into the others (RFC 8452 section 4), and is
// counted on. The length is a multiple of Lanes blocks. dst and src are the same or do not
// overlap.
func (s *Schedule) XORStream(counter *[BlockSize]byte, dst, src []byte) {
	if n := len(src) / BlockSize; n > 0 {
		_ = dst[len(src)-1]
		xorBlocks(s, counter, &dst[0], &src[0], n)
	}
}

// xorBlocks is XORStream.
//
//go:noescape
func xorBlocks(keys *Schedule, counter *[BlockSize]byte, dst, src *byte, blocks int)

//go:noescape
func encryptMasked(keys *Schedule, dst, src, masks *byte, blocks int)

//go:noescape
func decryptMasked(keys *Schedule, dst, src, masks *byte, blocks int)

// inverse makes the schedule of the equivalent inverse cipher (FIPS 197 section 5.3.5).
//
//go:noescape
func inverse(dst, src *Schedule)

// subWord is SubWord of FIPS 197 section 5.2, without a table that would leave traces of the
// key in the cache.
//
//go:noescape
func subWord(w uint32) uint32

// kernel has the schedules of a key.
type kernel struct{ enc, dec Schedule }

func newKernel(key []byte) *kernel {
	if !Usable() {
		return nil
	}
	k := new(kernel)
	k.enc.Expand(key)
	inverse(&k.dec, &k.enc)
	return k
}

func (k *kernel) encrypt(dst, src, masks []byte) {
	if n := len(src) / BlockSize; n > 0 {
		_, _ = dst[len(src)-1], masks[len(src)-1]
		encryptMasked(&k.enc, &dst[0], &src[0], &masks[0], n)
	}
}

func (k *kernel) decrypt(dst, src, masks []byte) {
	if n := len(src) / BlockSize; n > 0 {
		_, _ = dst[len(src)-1], masks[len(src)-1]
		decryptMasked(&k.dec, &dst[0], &src[0], &masks[0], n)
	}
}
