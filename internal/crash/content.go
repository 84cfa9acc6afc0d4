package crash

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"math/rand/v2"
)

// Layer is a step in the making of a file: bytes sent to an offset, or a new size.
type Layer struct {
	Seed uint64 `json:"seed,omitempty"` // of the bytes; 0 for a new size
	Off  int64  `json:"off,omitempty"`
	Size int64  `json:"size"`
}

// Bytes are the size bytes that stand for seed. They cannot be compressed, and no two
// seeds agree in any block.
func Bytes(seed uint64, size int64) []byte {
	var key [32]byte
	binary.LittleEndian.PutUint64(key[:], seed)
	data := make([]byte, size)
	_, _ = rand.NewChaCha8(key).Read(data) // never fails
	return data
}

// Content is what a file holds after its layers.
func Content(layers []Layer) []byte {
	var data []byte
	for _, l := range layers {
		if l.Seed == 0 {
			data = resize(data, l.Size)
			continue
		}
		if end := l.Off + l.Size; end > int64(len(data)) {
			data = resize(data, end)
		}
		copy(data[l.Off:], Bytes(l.Seed, l.Size))
	}
	return data
}

func resize(data []byte, size int64) []byte {
	if size <= int64(len(data)) {
		return data[:size]
	}
	return append(data, make([]byte, size-int64(len(data)))...)
}

// Sum identifies contents: SHA-256 in hexadecimal digits.
func Sum(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}
