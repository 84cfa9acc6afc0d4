package aes8

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/subtle"
)

// Masked is the core of a tweakable mode such as XTS: each block is XORed with a mask of its
// own before AES and after it. Safe for concurrent use. It is no interface, so that what is
// passed to it need not be on the heap.
type Masked struct {
	kernel *kernel // nil where there is none
	block  cipher.Block
}

// NewMasked makes one of a key of KeySize bytes.
func NewMasked(key []byte) (*Masked, error) {
	if len(key) != KeySize {
		return nil, aes.KeySizeError(len(key))
	}
	block, err := aes.NewCipher(key)
	return &Masked{newKernel(key), block}, err
}

// Encrypt encrypts the blocks of src under masks into dst. All have the same length, a multiple
// of Lanes blocks. dst and src are the same or do not overlap.
func (m *Masked) Encrypt(dst, src, masks []byte) {
	if m.kernel != nil {
		m.kernel.encrypt(dst, src, masks)
		return
	}
	masked(m.block.Encrypt, dst, src, masks)
}

// Decrypt is the inverse of Encrypt.
func (m *Masked) Decrypt(dst, src, masks []byte) {
	if m.kernel != nil {
		m.kernel.decrypt(dst, src, masks)
		return
	}
	masked(m.block.Decrypt, dst, src, masks)
}

// masked does one block after the other with crypt.
func masked(crypt func(dst, src []byte), dst, src, masks []byte) {
	// All words before all blocks: a block read right after its two halves were written
	// would wait for the processor's store buffer each time.
	subtle.XORBytes(dst, src, masks)
	for i := 0; i < len(src); i += BlockSize {
		b := dst[i : i+BlockSize]
		crypt(b, b)
	}
	subtle.XORBytes(dst, dst[:len(src)], masks)
}
