package store

import (
	"bytes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"io"
	"slices"

	aeskw "github.com/nickball/go-aes-key-wrap"
	"github.com/pierrec/lz4/v4"
	"github.com/pierrec/xxHash/xxHash32"

	"github.com/snapgate/gateway/store/internal/gcmsiv"
)

// Encoding is a blob as it will stand in a packfile: compressed, and about to be encrypted. How long it is is
// known, so that it can be encrypted where it belongs. It refers to the blob, and ends with one call of Write or
// Drop; it is for a goroutine at a time.
type Encoding struct {
	c    *codec
	size int
	// parts are what is encrypted, or all there is: parts of the blob, and of what was compressed.
	parts   [][]byte
	scratch *[]byte // that parts are in, to be used again; nil for none

	wrapped []byte // the key of the blob; nil when it is not to be encrypted
	aead    cipher.AEAD
}

// Size is how many bytes Write writes.
func (e *Encoding) Size() int { return e.size }

// Drop ends it.
func (e *Encoding) Drop() {
	if e.scratch != nil {
		e.c.scratch.Put(e.scratch)
		e.scratch = nil
	}
}

// Write fills dst, of Size bytes, and ends it.
func (e *Encoding) Write(dst []byte) {
	defer e.Drop()
	if e.wrapped == nil {
		for _, part := range e.parts {
			dst = dst[copy(dst, part):]
		}
		return
	}
	dst = dst[copy(dst, e.wrapped):]
	buf := e.c.pieces.Get().(*[]byte)
	defer e.c.pieces.Put(buf)
	for {
		piece := e.piece(buf)
		if len(piece) == 0 {
			return
		}
		nonce := dst[:nonceSize]
		_, _ = rand.Read(nonce) // never fails: it ends the process instead (Go 1.24)
		end := nonceSize + len(piece) + tagSize
		e.aead.Seal(dst[nonceSize:nonceSize:end], nonce, piece, nil)
		dst = dst[end:]
	}
}

// piece takes what is encrypted next, from where it is if that is in one place.
func (e *Encoding) piece(buf *[]byte) []byte {
	n := e.c.encryption.ChunkSize
	if len(e.parts) > 0 && len(e.parts[0]) >= n {
		piece := e.parts[0][:n]
		e.parts[0] = e.parts[0][n:]
		return piece
	}
	piece := (*buf)[:0]
	for len(e.parts) > 0 && len(piece) < n {
		part := e.parts[0][:min(len(e.parts[0]), n-len(piece))]
		piece = append(piece, part...)
		if e.parts[0] = e.parts[0][len(part):]; len(e.parts[0]) == 0 {
			e.parts = e.parts[1:]
		}
	}
	*buf = piece
	return piece
}

// begin compresses a blob, and makes a key for it.
func (c *codec) begin(plain []byte) (*Encoding, error) {
	e := &Encoding{c: c}
	switch {
	case !c.fast:
		return c.foreign(plain)
	case c.compression == nil:
		e.parts = [][]byte{plain}
	default:
		e.frame(plain)
	}
	if err := e.seal(); err != nil {
		e.Drop()
		return nil, err
	}
	return e, nil
}

// foreign is begin as other programs do it.
func (c *codec) foreign(plain []byte) (*Encoding, error) {
	e := &Encoding{c: c}
	return e, e.slow(plain)
}

// slow is what kloset does, in any form.
func (e *Encoding) slow(plain []byte) error {
	rd, err := e.c.stream(bytes.NewReader(plain))
	if err != nil {
		return err
	}
	encoded, err := io.ReadAll(rd)
	e.parts, e.size = [][]byte{encoded}, len(encoded)
	return err
}

// seal makes a key, where the store has one, and tells the size.
func (e *Encoding) seal() error {
	n := 0
	for _, part := range e.parts {
		n += len(part)
	}
	e.size = n
	if e.c.key == nil {
		return nil
	}
	subkey := make([]byte, subkeySize)
	_, _ = rand.Read(subkey)
	var err error
	if e.wrapped, err = aeskw.Wrap(e.c.block, subkey); err != nil {
		return fmt.Errorf("encrypt: %w", err)
	}
	if e.aead, err = gcmsiv.New(subkey); err != nil {
		return fmt.Errorf("encrypt: %w", err)
	}
	most := e.c.encryption.ChunkSize
	e.size += wrappedKeySize + (n+most-1)/most*(nonceSize+tagSize)
	return nil
}

// blockSize is that of the blocks of a compressed blob. They are as small as the blob allows: whoever reads it needs
// memory for one.
func blockSize(plain []byte) lz4.BlockSize {
	switch {
	case len(plain) <= 64<<10:
		return lz4.Block64Kb
	case len(plain) <= 256<<10:
		return lz4.Block256Kb
	}
	return lz4.Block1Mb
}

// frame compresses as lz4.Writer does, to the same bytes. Blocks that do not get smaller stay where they are. The
// checksum of the content is there for what is encrypted, too: that authenticates pieces of 64 KiB, but not
// their order, and plakar compares nothing with its MAC when it restores.
func (e *Encoding) frame(plain []byte) {
	sum := xxHash32.Checksum(plain, 0)
	size := blockSize(plain)
	blocks := (len(plain) + int(size) - 1) / int(size)
	e.scratch = e.c.scratch.Get().(*[]byte)
	*e.scratch = slices.Grow((*e.scratch)[:0], frameHead+len(plain)+frameMark*(blocks+1)+frameSumSize)
	out := appendFrameHead((*e.scratch)[:0], size) // never more than there is room for: parts refer to it
	e.parts = append(make([][]byte, 0, 2*blocks+2), out)
	compressor := e.c.compressors.Get().(*lz4.Compressor)
	defer e.c.compressors.Put(compressor)
	for len(plain) > 0 {
		block := plain[:min(len(plain), int(size))]
		plain = plain[len(block):]
		at := len(out)
		out = out[:at+frameMark+len(block)]
		mark, packed := out[at:at+frameMark], out[at+frameMark:]
		n, err := compressor.CompressBlock(block, packed)
		if err != nil || n == 0 {
			binary.LittleEndian.PutUint32(mark, uint32(len(block))|blockRaw)
			e.parts = append(e.parts, mark, block)
			out = out[:at+frameMark]
			continue
		}
		binary.LittleEndian.PutUint32(mark, uint32(n))
		out = out[:at+frameMark+n]
		e.parts = append(e.parts, out[at:])
	}
	at := len(out)
	out = append(out, 0, 0, 0, 0) // no block: the end
	out = binary.LittleEndian.AppendUint32(out, sum)
	e.parts = append(e.parts, out[at:])
}
