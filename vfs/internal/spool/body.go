package spool

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"sync"

	"github.com/snapgate/gateway/internal/disk"
)

// A spool file begins with a header of headerBytes, so that sectors stay aligned to the
// disk's. All numbers are little-endian.
//
//	 0  magic "snapgsp" and a format version, 8 bytes
//	 8  flags, 4 bytes: 1 = encrypted
//	12  zero, 4 bytes
//	16  number of the file, 8 bytes
//	24  when encrypted: nonce (12), the file's two AES-256 keys for XTS sealed with
//	    AES-256-GCM under Config.Key (64+16), bytes 0 to 24 as additional data
//	124 CRC-32C of bytes 0 to 124
//
// The content follows. When encrypted, it is a row of sectors of sectorBytes, each
// encrypted with AES-256-XTS (IEEE 1619), its index being the tweak; the last one is
// padded. XTS has no nonce, so a sector may be written again; it does not authenticate:
// the content's hash in the journal does.
const (
	headerBytes = 4096
	headerUsed  = 128
	headerMagic = "snapgsp"
	version     = 1
	flagSealed  = 1
	wrapOffset  = 24
	nonceBytes  = 12
	keyBytes    = 32
	xtsKeyBytes = 64
	tagBytes    = 16
	sectorBytes = SectorBytes
	// chunkBytes bounds the buffers for encryption: OpenSSH's largest request is 255 KiB.
	chunkBytes = 256 << 10
)

// SectorBytes is the unit in which a spool file is encrypted.
const SectorBytes = 4096

// The errors of opening a spool file.
var (
	ErrKey     = errors.New("spool key does not fit")
	ErrVersion = errors.New("spool file was written by a newer version")
	ErrDamaged = errors.New("spool file is damaged")
)

// newHeader encodes a header and makes the file's key; the cipher is nil without wrapKey.
func newHeader(id ID, wrapKey []byte) ([]byte, *xts, error) {
	b := make([]byte, headerBytes)
	copy(b, headerMagic)
	b[7] = version
	binary.LittleEndian.PutUint64(b[16:], uint64(id))
	var c *xts
	if wrapKey != nil {
		binary.LittleEndian.PutUint32(b[8:], flagSealed)
		key := make([]byte, xtsKeyBytes)
		rand.Read(key) // never fails
		nonce := b[wrapOffset : wrapOffset+nonceBytes]
		rand.Read(nonce)
		a, err := newGCM(wrapKey)
		if err != nil {
			return nil, nil, err
		}
		copy(b[wrapOffset+nonceBytes:], a.Seal(nil, nonce, key, b[:wrapOffset]))
		if c, err = newXTS(key); err != nil {
			return nil, nil, err
		}
	}
	crc := crc32.Checksum(b[:headerUsed-4], crc32.MakeTable(crc32.Castagnoli))
	binary.LittleEndian.PutUint32(b[headerUsed-4:], crc)
	return b, c, nil
}

func newGCM(key []byte) (cipher.AEAD, error) {
	b, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(b)
}

// parseHeader decodes a header and unwraps the key.
func parseHeader(b []byte, id ID, wrapKey []byte) (*xts, error) {
	if len(b) < headerUsed || string(b[:7]) != headerMagic {
		return nil, ErrDamaged
	}
	if b[7] > version {
		return nil, ErrVersion
	}
	crc := crc32.Checksum(b[:headerUsed-4], crc32.MakeTable(crc32.Castagnoli))
	if binary.LittleEndian.Uint32(b[headerUsed-4:]) != crc || ID(binary.LittleEndian.Uint64(b[16:])) != id {
		return nil, ErrDamaged
	}
	sealed := binary.LittleEndian.Uint32(b[8:]) == flagSealed
	switch {
	case sealed && wrapKey == nil:
		return nil, fmt.Errorf("%w: the file is encrypted, no key is given", ErrKey)
	case !sealed && wrapKey != nil:
		return nil, fmt.Errorf("%w: the file is not encrypted", ErrKey)
	case !sealed:
		return nil, nil
	}
	a, err := newGCM(wrapKey)
	if err != nil {
		return nil, err
	}
	nonce, wrapped := b[wrapOffset:wrapOffset+nonceBytes], b[wrapOffset+nonceBytes:][:xtsKeyBytes+tagBytes]
	key, err := a.Open(nil, nonce, wrapped, b[:wrapOffset])
	if err != nil {
		return nil, fmt.Errorf("%w: wrong key", ErrKey)
	}
	return newXTS(key)
}

// body reads and writes the content of an open spool file. Safe for concurrent use; who
// needs order among overlapping ranges provides it.
type body struct {
	id   ID
	file disk.File
	c    *xts       // nil: plain
	bufs *sync.Pool // of *[chunkBytes]byte
}

// readHeader opens the header of a file.
func readHeader(f disk.File, id ID, wrapKey []byte) (*xts, error) {
	b := make([]byte, headerUsed)
	if n, err := f.ReadAt(b, 0); n < len(b) {
		if err == nil || errors.Is(err, io.EOF) {
			err = ErrDamaged
		}
		return nil, err
	}
	return parseHeader(b, id, wrapKey)
}

// holds reports whether the file is long enough for ranges that are said to be in it.
func (b *body) holds(x extents) error {
	if len(x) == 0 {
		return nil
	}
	want := x[len(x)-1].End()
	if b.c != nil {
		want = (want + sectorBytes - 1) &^ (sectorBytes - 1)
	}
	have, err := b.file.Size()
	if err != nil {
		return err
	}
	if have < headerBytes+want {
		return fmt.Errorf("%w: %d bytes are missing", ErrDamaged, headerBytes+want-have)
	}
	return nil
}

// writeHeader writes the header of a new file.
func (b *body) writeHeader(head []byte) error { return b.write(head, -headerBytes) }

// writeSectors writes whole sectors (plain: any range) at off.
func (b *body) writeSectors(p []byte, off int64) error {
	if b.c == nil {
		return b.write(p, off)
	}
	buf := b.bufs.Get().(*[chunkBytes]byte)
	defer b.bufs.Put(buf)
	for len(p) > 0 {
		n := min(len(p), chunkBytes)
		for i := 0; i < n; i += sectorBytes {
			b.c.encrypt(buf[i:i+sectorBytes], p[i:i+sectorBytes], uint64(off+int64(i))/sectorBytes)
		}
		if err := b.write(buf[:n], off); err != nil {
			return err
		}
		p, off = p[n:], off+int64(n)
	}
	return nil
}

func (b *body) write(p []byte, off int64) error {
	n, err := b.file.WriteAt(p, headerBytes+off)
	if err == nil && n < len(p) {
		err = io.ErrShortWrite
	}
	return err
}

// modifySector writes p within one sector whose other bytes are kept where valid covers
// them, and zero elsewhere. The caller excludes other writers of the sector.
func (b *body) modifySector(p []byte, off int64, valid extents) error {
	buf := b.bufs.Get().(*[chunkBytes]byte)
	defer b.bufs.Put(buf)
	start := off &^ (sectorBytes - 1)
	sector := buf[:sectorBytes]
	clear(sector)
	if keep := valid.within(start, sectorBytes); len(keep) > 0 {
		old := buf[sectorBytes : 2*sectorBytes]
		if err := b.readSectors(old, start); err != nil {
			return err
		}
		for _, e := range keep {
			copy(sector[e.Off-start:e.End()-start], old[e.Off-start:])
		}
	}
	copy(sector[off-start:], p)
	b.c.encrypt(sector, sector, uint64(start)/sectorBytes)
	return b.write(sector, start)
}

// readSectors fills p with whole sectors from off; what lies beyond the file's end is
// zero.
func (b *body) readSectors(p []byte, off int64) error {
	n, err := b.file.ReadAt(p, headerBytes+off)
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	whole := n &^ (sectorBytes - 1)
	for i := 0; i < whole; i += sectorBytes {
		b.c.decrypt(p[i:i+sectorBytes], p[i:i+sectorBytes], uint64(off+int64(i))/sectorBytes)
	}
	clear(p[whole:])
	return nil
}

// readAt fills p from off; what lies beyond the file's end is zero.
func (b *body) readAt(p []byte, off int64) error {
	if b.c == nil {
		n, err := b.file.ReadAt(p, headerBytes+off)
		if err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		clear(p[n:])
		return nil
	}
	buf := b.bufs.Get().(*[chunkBytes]byte)
	defer b.bufs.Put(buf)
	for len(p) > 0 {
		start := off &^ (sectorBytes - 1)
		skip := int(off - start)
		want := min(chunkBytes, (skip+len(p)+sectorBytes-1)&^(sectorBytes-1))
		if err := b.readSectors(buf[:want], start); err != nil {
			return err
		}
		n := copy(p, buf[skip:want])
		p, off = p[n:], off+int64(n)
	}
	return nil
}

// readMasked fills p from off: the valid ranges from the file, the rest with zeros.
func (b *body) readMasked(p []byte, off int64, valid extents) error {
	at := off
	for _, e := range valid {
		clear(p[at-off : e.Off-off])
		if err := b.readAt(p[e.Off-off:e.End()-off], e.Off); err != nil {
			return err
		}
		at = e.End()
	}
	clear(p[at-off:])
	return nil
}
