package argon2id

import (
	"encoding/binary"
	"fmt"
	"hash"

	"golang.org/x/crypto/argon2"
	"golang.org/x/crypto/blake2b"
)

const (
	blockSize = 1024 // bytes
	words     = 128  // of 8 bytes, in a block
	slices    = 4    // of a pass
	typeID    = 2    // Argon2id
)

// Key derives a key of keyLen bytes from a passphrase: with passes over memory KiB, in one lane.
// passes and keyLen are not 0.
func Key(passphrase, salt []byte, passes, memory, keyLen uint32) ([]byte, error) {
	if !usable() {
		return argon2.IDKey(passphrase, salt, passes, memory, 1, keyLen), nil
	}
	n := max(memory/slices*slices, 2*slices)
	mem, free, err := allocate(int(n) * blockSize)
	if err != nil {
		return nil, fmt.Errorf("memory for the key: %w", err)
	}
	defer free()
	l := &lane{mem: mem, n: n, passes: passes}
	if err := l.begin(passphrase, salt, memory, keyLen); err != nil {
		return nil, err
	}
	for pass := range passes {
		for slice := range uint32(slices) {
			l.segment(pass, slice)
		}
	}
	return long(keyLen, l.block(n-1))
}

// lane is the memory while it is filled.
type lane struct {
	mem       []byte
	n, passes uint32
}

func (l *lane) block(i uint32) []byte { return l.mem[int(i)*blockSize:][:blockSize] }

// begin makes the first two blocks (section 3.2, steps 1 to 4).
func (l *lane) begin(passphrase, salt []byte, memory, keyLen uint32) error {
	h, err := blake2b.New512(nil)
	if err != nil {
		return fmt.Errorf("blake2b: %w", err)
	}
	for _, v := range []uint32{1, keyLen, memory, l.passes, argon2.Version, typeID} {
		number(h, v)
	}
	for _, b := range [][]byte{passphrase, salt, nil, nil} { // neither a secret nor data
		number(h, uint32(len(b)))
		_, _ = h.Write(b)
	}
	first := h.Sum(nil)
	for i := range uint32(2) {
		seed := binary.LittleEndian.AppendUint32(first[:blake2b.Size:blake2b.Size], i)
		b, err := long(blockSize, binary.LittleEndian.AppendUint32(seed, 0))
		if err != nil {
			return err
		}
		copy(l.block(i), b)
	}
	return nil
}

func number(h hash.Hash, v uint32) { _, _ = h.Write(binary.LittleEndian.AppendUint32(nil, v)) }

// long is H', a hash of any length (section 3.3).
func long(size uint32, data []byte) ([]byte, error) {
	const half = blake2b.Size / 2
	left, next := int(size), append(binary.LittleEndian.AppendUint32(nil, size), data...)
	var out []byte
	for left > 0 {
		n := min(left, blake2b.Size)
		h, err := blake2b.New(n, nil)
		if err != nil {
			return nil, fmt.Errorf("blake2b: %w", err)
		}
		_, _ = h.Write(next)
		next = h.Sum(nil)
		if left > blake2b.Size {
			n = half
		}
		out = append(out, next[:n]...)
		left -= n
	}
	return out, nil
}

// segment fills a quarter of the memory (section 3.4).
func (l *lane) segment(pass, slice uint32) {
	size := l.n / slices
	addresses := newAddresses(l, pass, slice)
	at := uint32(0)
	if pass == 0 && slice == 0 {
		at = 2
	}
	for ; at < size; at++ {
		now := slice*size + at
		before := now - 1
		if now == 0 {
			before = l.n - 1
		}
		random := binary.LittleEndian.Uint64(l.block(before))
		if addresses != nil {
			random = addresses.at(at)
		}
		// What may be referred to: what this pass has filled, and of the last pass what it has not.
		area, start := slice*size+at-1, uint32(0)
		if pass > 0 {
			area, start = (slices-1)*size+at-1, (slice+1)%slices*size
		}
		x := random & 0xffffffff
		x = x * x >> 32
		ref := (uint64(start) + uint64(area) - 1 - uint64(area)*x>>32) % uint64(l.n)
		dst, prev, other := l.block(now), l.block(before), l.block(uint32(ref))
		if pass == 0 {
			fill(&dst[0], &prev[0], &other[0])
		} else {
			fillXOR(&dst[0], &prev[0], &other[0])
		}
	}
}

// addresses are the pseudo-random numbers of the half pass that does not depend on the
// passphrase (section 3.4.1.2).
type addresses struct{ in, half, out, zero [blockSize]byte }

// newAddresses returns nil where numbers are of the blocks themselves.
func newAddresses(l *lane, pass, slice uint32) *addresses {
	if pass > 0 || slice >= slices/2 {
		return nil
	}
	a := &addresses{}
	for i, v := range []uint32{pass, 0, slice, l.n, l.passes, typeID, 0} {
		binary.LittleEndian.PutUint64(a.in[8*i:], uint64(v))
	}
	a.next() // the first segment begins behind the first number
	return a
}

// counter is where the number of the block is in the input.
const counter = 8 * 6

func (a *addresses) next() {
	binary.LittleEndian.PutUint64(a.in[counter:], binary.LittleEndian.Uint64(a.in[counter:])+1)
	fill(&a.half[0], &a.zero[0], &a.in[0])
	fill(&a.out[0], &a.zero[0], &a.half[0])
}

// at is asked for one number after the other.
func (a *addresses) at(i uint32) uint64 {
	if i > 0 && i%words == 0 {
		a.next()
	}
	return binary.LittleEndian.Uint64(a.out[8*(i%words):])
}
