package store

import (
	"encoding/binary"

	"github.com/pierrec/lz4/v4"
	"github.com/pierrec/xxHash/xxHash32"
)

// The LZ4 frame (lz4_Frame_format.md, version 1.6.1): a descriptor, blocks, and a mark behind
// them.
const (
	frameMagic = 0x184D2204
	// The flags of the descriptor.
	frameVersion     = 0b11 << 6
	frameVersion1    = 0b01 << 6
	frameIndependent = 1 << 5
	frameBlockSums   = 1 << 4
	frameSize        = 1 << 3
	frameSum         = 1 << 2
	frameReserved    = 1 << 1
	frameDict        = 1 << 0
	// frameHead is how long a descriptor without the size of the content is, frameMark the length before a block.
	frameHead = 7
	frameMark = 4
	// frameSumSize is how long the checksum of the content is.
	frameSumSize = 4
	// blockRaw marks a block that is not compressed.
	blockRaw = 1 << 31
)

// frame reads the blocks of an LZ4 frame in memory. Checksums are skipped.
type frame struct {
	data      []byte // what has not been read yet
	blockSize int    // the most that a block holds
	sums      bool   // blocks have checksums
	trailer   int    // bytes behind the end mark
}

// parseFrame reads a descriptor. ok is false for what is not to be read here: several frames,
// blocks that refer to what is before them, and damage.
func parseFrame(data []byte) (f frame, ok bool) {
	if len(data) < 7 || binary.LittleEndian.Uint32(data) != frameMagic {
		return frame{}, false
	}
	flags, block := data[4], data[5]
	if flags&frameVersion != frameVersion1 || flags&frameIndependent == 0 || flags&(frameReserved|frameDict) != 0 {
		return frame{}, false
	}
	switch block >> 4 {
	case 4:
		f.blockSize = int(lz4.Block64Kb)
	case 5:
		f.blockSize = int(lz4.Block256Kb)
	case 6:
		f.blockSize = int(lz4.Block1Mb)
	case 7:
		f.blockSize = int(lz4.Block4Mb)
	default:
		return frame{}, false
	}
	head := frameHead
	if flags&frameSize != 0 {
		head += 8
	}
	if len(data) < head {
		return frame{}, false
	}
	f.data, f.sums = data[head:], flags&frameBlockSums != 0
	if flags&frameSum != 0 {
		f.trailer = frameSumSize
	}
	return f, true
}

// appendFrameHead appends a descriptor of independent blocks of a size, 64 KiB to 1 MiB, no checksums of them, and one of
// the content.
func appendFrameHead(dst []byte, size lz4.BlockSize) []byte {
	block := byte(4 << 4)
	switch size {
	case lz4.Block256Kb:
		block = 5 << 4
	case lz4.Block1Mb:
		block = 6 << 4
	}
	dst = binary.LittleEndian.AppendUint32(dst, frameMagic)
	dst = append(dst, frameVersion1|frameIndependent|frameSum, block)
	return append(dst, byte(xxHash32.Checksum(dst[len(dst)-2:], 0)>>8)) // of the descriptor
}

// next returns the next block, and whether it is not compressed; nil at the end. ok is false
// when the frame is not in order.
func (f *frame) next() (block []byte, raw, ok bool) {
	if len(f.data) < 4 {
		return nil, false, false
	}
	head := binary.LittleEndian.Uint32(f.data)
	f.data = f.data[4:]
	if head == 0 {
		return nil, false, len(f.data) == f.trailer
	}
	raw = head&blockRaw != 0
	n, sum := int(head&^blockRaw), 0
	if f.sums {
		sum = 4
	}
	if n > f.blockSize || n+sum > len(f.data) {
		return nil, false, false
	}
	block, f.data = f.data[:n:n], f.data[n+sum:]
	return block, raw, n > 0
}

// beginsRaw reports whether the beginning of a frame has a first block that is not compressed. Such a one is most
// often the only one, or all are.
func beginsRaw(data []byte) bool {
	f, ok := parseFrame(data)
	return ok && len(f.data) >= frameMark && binary.LittleEndian.Uint32(f.data)&blockRaw != 0
}

// joinRaw returns what a frame holds within the frame's memory, the first block where it is. ok is false, and nothing
// changed, when something in it is compressed or not in order.
func joinRaw(data []byte) (plain []byte, ok bool) {
	f, ok := parseFrame(data)
	if !ok {
		return nil, false
	}
	start := min(len(data)-len(f.data)+frameMark, len(data))
	var blocks [][]byte
	for {
		block, raw, ok := f.next()
		switch {
		case !ok, block != nil && !raw:
			return nil, false
		case block != nil:
			blocks = append(blocks, block)
			continue
		}
		end := start
		for _, block := range blocks {
			end += copy(data[end:], block)
		}
		return data[start:end:end], true
	}
}
