package journal

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
)

const (
	suffix    = ".wal"
	tmpSuffix = ".wal.tmp"

	headerBytes = 128
	saltBytes   = 16
	keyBytes    = 32
	gcmNonce    = 12
	gcmTag      = 16
	flagSealed  = 1
	version     = 1
	wrapOffset  = 56
	headerCRC   = headerBytes - 4
	frameAlign  = 8
	frameHeader = 40
	frameMagic  = 0x4c4a4753 // "SGJL"
	kindRecord  = 1
	kindEnd     = 2
	headerMagic = "snapgjl"
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// errFrame says that there is no intact frame at an offset.
var errFrame = errors.New("bad checksum or length")

// header is a segment's header.
type header struct {
	num     uint64
	prevEnd Position
	base    Position
	salt    [saltBytes]byte
}

// sealer checks, seals and opens the frames of one segment. Safe for concurrent use.
type sealer struct {
	aead cipher.AEAD // nil: plain
	seed uint32      // CRC of salt and number
}

func newSealer(h header, key []byte) (*sealer, error) {
	s := &sealer{seed: crc32.Update(crc32.Checksum(h.salt[:], castagnoli), castagnoli,
		binary.LittleEndian.AppendUint64(nil, h.num))}
	if key == nil {
		return s, nil
	}
	a, err := newGCM(key)
	if err != nil {
		return nil, err
	}
	s.aead = a
	return s, nil
}

func newGCM(key []byte) (cipher.AEAD, error) {
	b, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(b)
}

// newHeader encodes a header and makes the segment's key.
func newHeader(h *header, wrapKey []byte) ([]byte, *sealer, error) {
	rand.Read(h.salt[:]) // never fails
	b := make([]byte, headerBytes)
	copy(b, headerMagic)
	b[7] = version
	if wrapKey != nil {
		binary.LittleEndian.PutUint32(b[8:], flagSealed)
	}
	binary.LittleEndian.PutUint64(b[16:], h.num)
	binary.LittleEndian.PutUint64(b[24:], uint64(h.prevEnd))
	binary.LittleEndian.PutUint64(b[32:], uint64(h.base))
	copy(b[40:], h.salt[:])
	var key []byte
	if wrapKey != nil {
		key = make([]byte, keyBytes)
		rand.Read(key)
		nonce := b[wrapOffset : wrapOffset+gcmNonce]
		rand.Read(nonce)
		a, err := newGCM(wrapKey)
		if err != nil {
			return nil, nil, err
		}
		copy(b[wrapOffset+gcmNonce:], a.Seal(nil, nonce, key, b[:wrapOffset]))
	}
	binary.LittleEndian.PutUint32(b[headerCRC:], crc32.Checksum(b[:headerCRC], castagnoli))
	s, err := newSealer(*h, key)
	return b, s, err
}

// parseHeader decodes a header. The error is ErrVersion, ErrKey or damage.
func parseHeader(b, wrapKey []byte) (header, *sealer, error) {
	if len(b) < headerBytes || string(b[:7]) != headerMagic {
		return header{}, nil, errors.New("no segment header")
	}
	if b[7] > version {
		return header{}, nil, ErrVersion
	}
	if binary.LittleEndian.Uint32(b[headerCRC:]) != crc32.Checksum(b[:headerCRC], castagnoli) {
		return header{}, nil, errors.New("bad checksum of the segment header")
	}
	h := header{
		num:     binary.LittleEndian.Uint64(b[16:]),
		prevEnd: Position(binary.LittleEndian.Uint64(b[24:])),
		base:    Position(binary.LittleEndian.Uint64(b[32:])),
	}
	copy(h.salt[:], b[40:])
	if h.base <= h.prevEnd {
		return header{}, nil, errors.New("positions overlap those of earlier segments")
	}
	sealed := binary.LittleEndian.Uint32(b[8:]) == flagSealed
	switch {
	case sealed && wrapKey == nil:
		return header{}, nil, fmt.Errorf("%w: the segment is encrypted, no key is given", ErrKey)
	case !sealed && wrapKey != nil:
		return header{}, nil, fmt.Errorf("%w: the segment is not encrypted", ErrKey)
	case !sealed:
		s, err := newSealer(h, nil)
		return h, s, err
	}
	a, err := newGCM(wrapKey)
	if err != nil {
		return header{}, nil, err
	}
	nonce, wrapped := b[wrapOffset:wrapOffset+gcmNonce], b[wrapOffset+gcmNonce:][:keyBytes+gcmTag]
	key, err := a.Open(nil, nonce, wrapped, b[:wrapOffset])
	if err != nil {
		return header{}, nil, fmt.Errorf("%w: wrong key", ErrKey)
	}
	s, err := newSealer(h, key)
	return h, s, err
}

// frame is a decoded frame.
type frame struct {
	kind    byte
	rest    uint32 // records of the batch that follow
	pos     Position
	synced  int64
	payload []byte
	size    int64 // bytes on disk, padding included
}

// frameSize is what a frame with n bytes of payload occupies.
func (s *sealer) frameSize(n int) int64 {
	n += frameHeader
	if s.aead != nil {
		n += gcmTag
	}
	return int64(n+frameAlign-1) &^ (frameAlign - 1)
}

// append encodes a frame to the end of b, whose length is a multiple of frameAlign.
func (s *sealer) append(b []byte, f frame) []byte {
	start := len(b)
	b = binary.LittleEndian.AppendUint32(b, frameMagic)
	b = append(b, f.kind, 0, 0, 0)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(f.payload)))
	b = binary.LittleEndian.AppendUint32(b, f.rest)
	b = binary.LittleEndian.AppendUint64(b, uint64(f.pos))
	b = binary.LittleEndian.AppendUint64(b, uint64(f.synced))
	b = binary.LittleEndian.AppendUint32(b, crc32.Update(s.seed, castagnoli, b[start:]))
	if s.aead == nil {
		sum := crc32.Update(s.seed, castagnoli, b[start:])
		b = binary.LittleEndian.AppendUint32(b, crc32.Update(sum, castagnoli, f.payload))
		b = append(b, f.payload...)
	} else {
		b = append(b, 0, 0, 0, 0)
		b = s.aead.Seal(b, nonce(f.kind, f.pos), f.payload, b[start:])
	}
	for len(b)%frameAlign != 0 {
		b = append(b, 0)
	}
	return b
}

// nonce is unique in a segment: there is one record a position, and one end mark.
func nonce(kind byte, pos Position) []byte {
	n := make([]byte, gcmNonce)
	n[0] = kind
	binary.BigEndian.PutUint64(n[4:], uint64(pos))
	return n
}

// parse decodes a frame header; size is set, payload is not.
func (s *sealer) parse(b []byte) (f frame, payload int, ok bool) {
	if len(b) < frameHeader || binary.LittleEndian.Uint32(b) != frameMagic {
		return frame{}, 0, false
	}
	if crc32.Update(s.seed, castagnoli, b[:32]) != binary.LittleEndian.Uint32(b[32:]) {
		return frame{}, 0, false
	}
	n := binary.LittleEndian.Uint32(b[8:])
	if n > MaxRecord {
		return frame{}, 0, false
	}
	f = frame{
		kind:   b[4],
		rest:   binary.LittleEndian.Uint32(b[12:]),
		pos:    Position(binary.LittleEndian.Uint64(b[16:])),
		synced: int64(binary.LittleEndian.Uint64(b[24:])),
		size:   s.frameSize(int(n)),
	}
	return f, int(n), true
}

// open verifies the body that follows a frame header and returns the payload, which may
// share body's memory.
func (s *sealer) open(head, body []byte, f frame) ([]byte, bool) {
	if s.aead == nil {
		sum := crc32.Update(s.seed, castagnoli, head[:36])
		return body, crc32.Update(sum, castagnoli, body) == binary.LittleEndian.Uint32(head[36:])
	}
	p, err := s.aead.Open(body[:0], nonce(f.kind, f.pos), body, head[:frameHeader])
	return p, err == nil
}

// readFrameAt reads the frame at off of a segment that ends at end. The error is errFrame
// or that of the read.
func readFrameAt(r io.ReaderAt, s *sealer, off, end int64) (frame, error) {
	if off < headerBytes || end-off < frameHeader {
		return frame{}, errFrame
	}
	var head [frameHeader]byte
	if err := readFull(r, head[:], off); err != nil {
		return frame{}, err
	}
	f, n, ok := s.parse(head[:])
	if !ok || f.size > end-off {
		return frame{}, errFrame
	}
	if s.aead != nil {
		n += gcmTag
	}
	// Not more than the file has: a bad length cannot make it allocate.
	body := make([]byte, n)
	if err := readFull(r, body, off+frameHeader); err != nil {
		return frame{}, err
	}
	if f.payload, ok = s.open(head[:], body, f); !ok {
		return frame{}, errFrame
	}
	return f, nil
}

// readFull reads all of p; a file that ends before is errFrame.
func readFull(r io.ReaderAt, p []byte, off int64) error {
	n, err := r.ReadAt(p, off)
	switch {
	case n == len(p):
		return nil
	case err == nil || errors.Is(err, io.EOF):
		return errFrame
	default:
		return err
	}
}
