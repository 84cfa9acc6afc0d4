//go:build gc && !purego

package gcmsiv

import (
	"crypto/aes"
	"crypto/cipher"
	stdsubtle "crypto/subtle"
	"encoding/binary"
	"errors"

	"github.com/ericlagergren/polyval"
	"github.com/ericlagergren/subtle"

	"github.com/snapgate/gateway/internal/aes8"
)

const (
	blockSize = aes.BlockSize
	lanes     = aes8.Lanes
	// maxBytes bounds plaintext and additional data (section 6).
	maxBytes = 1 << 36
)

var errOpen = errors.New("message authentication failed")

// fast is AES-256-GCM-SIV with the kernel of package aes8.
type fast struct {
	block cipher.Block // of the key that the keys of messages are derived from
}

func newFast(key []byte) (cipher.AEAD, error) {
	if !aes8.Usable() {
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
	keys aes8.Schedule
}

// message derives the keys of a message (section 4).
func (f *fast) message(nonce []byte) *message {
	var block, out [blockSize]byte
	copy(block[4:], nonce)
	var keys [blockSize + KeySize]byte // of the hash, of the cipher
	for i := range len(keys) / 8 {
		block[0] = byte(i)
		f.block.Encrypt(out[:], block[:])
		copy(keys[8*i:], out[:8])
	}
	m := new(message)
	copy(m.hash[:], keys[:])
	m.keys.Expand(keys[blockSize:])
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
	m.keys.XORStream(&counter, stream[:], stream[:])
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
	n := len(src) &^ (lanes*blockSize - 1)
	m.keys.XORStream(&counter, dst, src[:n])
	dst, src = dst[n:], src[n:]
	if len(src) > 0 {
		var stream [lanes * blockSize]byte
		m.keys.XORStream(&counter, stream[:], stream[:])
		stdsubtle.XORBytes(dst, src, stream[:])
	}
}
