//go:build gc && !purego

package gcmsiv

import (
	"crypto/aes"
	"crypto/cipher"
	stdsubtle "crypto/subtle"
	"encoding/binary"
	"errors"
	"math/bits"

	"github.com/ericlagergren/polyval"
	"github.com/ericlagergren/subtle"
	"golang.org/x/sys/cpu"
)

const (
	blockSize = aes.BlockSize
	// lanes is how many blocks xorBlocks encrypts at a time: AES instructions have a latency
	// of four cycles, and two start in one.
	lanes = 8
	// maxBytes bounds plaintext and additional data (section 6).
	maxBytes = 1 << 36
)

var errOpen = errors.New("message authentication failed")

// roundKeys is the key schedule of AES-256 (FIPS 197 section 5.2).
type roundKeys [60]uint32

// xorBlocks XORs blocks with the key stream that begins at counter, which it advances;
// blocks is a multiple of lanes. dst may be src.
//
//go:noescape
func xorBlocks(keys *roundKeys, counter *[blockSize]byte, dst, src *byte, blocks int)

// subWord is SubWord of FIPS 197 section 5.2, without a table that would leave traces of the
// key in the cache.
//
//go:noescape
func subWord(w uint32) uint32

// fast is AES-256-GCM-SIV with xorBlocks.
type fast struct {
	block cipher.Block // of the key that the keys of messages are derived from
}

func newFast(key []byte) (cipher.AEAD, error) {
	if !cpu.X86.HasAES {
		return nil, nil
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return &fast{block}, nil
}

func (*fast) NonceSize() int { return NonceSize }
func (*fast) Overhead() int  { return TagSize }

// Seal implements cipher.AEAD.
func (f *fast) Seal(dst, nonce, plaintext, additionalData []byte) []byte {
	check(nonce, plaintext, additionalData)
	ret, out := subtle.SliceForAppend(dst, len(plaintext)+TagSize)
	if subtle.InexactOverlap(out, plaintext) {
		panic("gcmsiv: buffers overlap") //nolint:forbidigo // the contract of cipher.AEAD
	}
	m := f.message(nonce)
	tag := m.tag(nonce, plaintext, additionalData)
	m.xor(&tag, out, plaintext)
	copy(out[len(plaintext):], tag[:])
	return ret
}

// Open implements cipher.AEAD.
func (f *fast) Open(dst, nonce, ciphertext, additionalData []byte) ([]byte, error) {
	if len(ciphertext) < TagSize {
		return nil, errOpen
	}
	n := len(ciphertext) - TagSize
	check(nonce, ciphertext[:n], additionalData)
	ret, out := subtle.SliceForAppend(dst, n)
	if subtle.InexactOverlap(out, ciphertext[:n]) {
		panic("gcmsiv: buffers overlap") //nolint:forbidigo // the contract of cipher.AEAD
	}
	m := f.message(nonce)
	got := [TagSize]byte(ciphertext[n:])
	m.xor(&got, out, ciphertext[:n])
	want := m.tag(nonce, out, additionalData)
	if stdsubtle.ConstantTimeCompare(got[:], want[:]) != 1 {
		clear(out)
		return nil, errOpen
	}
	return ret, nil
}

func check(nonce, text, additionalData []byte) {
	if len(nonce) != NonceSize || uint64(len(text)) > maxBytes || uint64(len(additionalData)) > maxBytes {
		panic("gcmsiv: length of the nonce or of the message") //nolint:forbidigo // the contract of cipher.AEAD
	}
}

// message has the keys of one message.
type message struct {
	hash [blockSize]byte
	keys roundKeys
}

// message derives the keys of a message (section 4).
func (f *fast) message(nonce []byte) *message {
	var block, out [blockSize]byte
	copy(block[4:], nonce)
	var half [6]uint64
	for i := range half {
		block[0] = byte(i)
		f.block.Encrypt(out[:], block[:])
		half[i] = binary.LittleEndian.Uint64(out[:])
	}
	m := new(message)
	binary.LittleEndian.PutUint64(m.hash[:], half[0])
	binary.LittleEndian.PutUint64(m.hash[8:], half[1])
	for i, h := range half[2:] {
		m.keys[2*i], m.keys[2*i+1] = uint32(h), uint32(h>>32)
	}
	rcon := uint32(1)
	for i := KeySize / 4; i < len(m.keys); i++ {
		w := m.keys[i-1]
		switch i % 8 {
		case 0:
			w = bits.RotateLeft32(subWord(w), -8) ^ rcon
			rcon <<= 1
		case 4:
			w = subWord(w)
		}
		m.keys[i] = m.keys[i-8] ^ w
	}
	return m
}

// tag authenticates a message (section 4).
func (m *message) tag(nonce, plaintext, additionalData []byte) (tag [TagSize]byte) {
	var p polyval.Polyval
	if err := p.Init(m.hash[:]); err != nil {
		// A key of zeros, one in 2^128: the hash of everything is zero then.
		p = polyval.Polyval{}
	}
	update(&p, additionalData)
	update(&p, plaintext)
	var lengths [blockSize]byte
	binary.LittleEndian.PutUint64(lengths[:], 8*uint64(len(additionalData)))
	binary.LittleEndian.PutUint64(lengths[8:], 8*uint64(len(plaintext)))
	p.Update(lengths[:])
	copy(tag[:], p.Sum(nil))
	stdsubtle.XORBytes(tag[:], tag[:NonceSize], nonce)
	tag[15] &= 0x7f
	// The tag is one block encrypted: the key stream at a counter of its value.
	counter := tag
	var stream [lanes * blockSize]byte
	xorBlocks(&m.keys, &counter, &stream[0], &stream[0], lanes)
	return [TagSize]byte(stream[:TagSize])
}

// update hashes what is padded with zeros to whole blocks.
func update(p *polyval.Polyval, data []byte) {
	whole := len(data) &^ (blockSize - 1)
	p.Update(data[:whole])
	if rest := data[whole:]; len(rest) > 0 {
		var block [blockSize]byte
		copy(block[:], rest)
		p.Update(block[:])
	}
}

// xor encrypts or decrypts under the counter that a tag makes.
func (m *message) xor(tag *[TagSize]byte, dst, src []byte) {
	counter := *tag
	counter[15] |= 0x80
	if n := len(src) / (lanes * blockSize) * lanes; n > 0 {
		xorBlocks(&m.keys, &counter, &dst[0], &src[0], n)
		dst, src = dst[n*blockSize:], src[n*blockSize:]
	}
	if len(src) > 0 {
		var stream [lanes * blockSize]byte
		xorBlocks(&m.keys, &counter, &stream[0], &stream[0], lanes)
		stdsubtle.XORBytes(dst, src, stream[:])
	}
}
