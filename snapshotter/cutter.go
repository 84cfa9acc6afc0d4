package snapshotter

import (
	"fmt"
	"io"
	"math"
	"strings"
	"sync"

	chunkers "github.com/PlakarKorp/go-cdc-chunkers"
	"github.com/PlakarKorp/go-cdc-chunkers/chunkers/fastcdc"
	"github.com/PlakarKorp/kloset/chunking"
)

const (
	// cutStep is how many bytes are read at a time where a chunk may end. Those behind the end, half of
	// them on average, are moved.
	cutStep = 128 << 10
	// emptyReads is how many reads without a byte are taken for a reader that makes no progress.
	emptyReads = 100
)

// cutter cuts a stream into chunks, at the same places as kloset's chunker. That has a buffer of twice the
// longest chunk, which is 16 MiB, and moves all that it reads once more; this has one that is little longer than its
// chunks, and lets go of it for whoever takes the chunk. It is for a goroutine at a time.
type cutter struct {
	min, normal, max int
	before, behind   uint64            // the masks of FastCDC, up to normal and from there on
	library          *chunkers.Chunker // does all of it for other algorithms; nil for FastCDC

	buffers *sync.Pool // of *[]byte
	rd      io.Reader
	err     error   // of rd
	buf     *[]byte // nil for none
	have    int     // bytes in buf
	cut     int     // of these, that are the last chunk
	begun   bool    // next was called
}

// newCutter makes a cutter, which is to be reset before it is used.
func newCutter(cfg *chunking.Configuration, buffers *sync.Pool) (*cutter, error) {
	c := &cutter{min: int(cfg.MinSize), normal: int(cfg.NormalSize), max: int(cfg.MaxSize), buffers: buffers}
	algorithm := strings.ToLower(cfg.Algorithm)
	switch fast := 0 < c.min && c.min < c.normal && c.normal < c.max; {
	case fast && algorithm == "fastcdc-v1.0.0" && (c.min != 2<<10 || c.normal != 8<<10 || c.max != 64<<10):
		c.before, c.behind = spacedMask(bitsOf(c.normal)+cutLevel), spacedMask(bitsOf(c.normal)-cutLevel)
	case fast && (algorithm == "fastcdc-v1.0.0" || algorithm == "fastcdc" || algorithm == "kfastcdc"): // which kloset gives no key
		c.before, c.behind = 0x0003590703530000, 0x0000d90003530000
	default:
		var err error
		c.library, err = chunkers.NewChunker(algorithm, nil, &chunkers.ChunkerOpts{MinSize: c.min, NormalSize: c.normal, MaxSize: c.max})
		if err != nil {
			return nil, fmt.Errorf("chunker: %w", err)
		}
		c.min, c.max = c.library.MinSize(), c.library.MaxSize()
	}
	return c, nil
}

// cutLevel is FastCDC's normalisation: how many bits more are looked at before the normal size, and fewer behind.
const cutLevel = 2

func bitsOf(size int) int { return int(math.Log2(float64(size))) }

// spacedMask has n bits, from the highest on, as far apart as they can be.
func spacedMask(n int) (mask uint64) {
	switch {
	case n >= 64:
		return math.MaxUint64
	case n <= 0:
		return 0
	}
	step := 64 / n
	for i := range n {
		mask |= 1 << (63 - i*step)
	}
	return mask
}

// reset begins to cut what rd gives.
func (c *cutter) reset(rd io.Reader) {
	c.rd, c.err, c.have, c.cut, c.begun = rd, nil, 0, 0, false
	if c.library != nil {
		c.library.Reset(rd)
	}
}

// next returns the next chunk, which is valid until next or reset is called. The last one may come with io.EOF; of
// nothing there is one without a byte.
func (c *cutter) next() ([]byte, error) {
	if c.library != nil {
		return c.library.Next()
	}
	if c.cut > 0 {
		c.have = copy(*c.buf, (*c.buf)[c.cut:c.have])
		c.cut = 0
	}
	begun := c.begun
	c.begun = true
	for at, sum := c.min, uint64(0); ; {
		var found bool
		if at, sum, found = c.scan(at, sum); found {
			c.cut = at
			return (*c.buf)[:at], nil
		}
		if c.err == nil {
			c.fill()
			continue
		}
		switch {
		case c.err != io.EOF: //nolint:errorlint // as io.Reader has it
			return nil, c.err
		case c.have == 0 && begun:
			return nil, io.EOF
		case c.have == 0:
			return []byte{}, io.EOF
		}
		c.cut = c.have
		if c.cut < c.min {
			return (*c.buf)[:c.cut], io.EOF
		}
		return (*c.buf)[:c.cut], nil
	}
}

// scan looks for the end of the chunk from at on, with the hash of what was scanned before, as far as there are bytes.
func (c *cutter) scan(at int, sum uint64) (int, uint64, bool) {
	for end := min(c.have, c.max); at < end; {
		to, mask := end, c.behind
		if at < c.normal {
			to, mask = min(end, c.normal), c.before
		}
		n, s, found := gear((*c.buf)[at:to], sum, mask)
		at, sum = at+n, s
		if found {
			return at, sum, true
		}
	}
	return at, sum, at == c.max
}

// gear goes on with FastCDC's rolling hash over data. It returns where it has no bit of mask, or that it always has one.
func gear(data []byte, sum, mask uint64) (n int, _ uint64, found bool) {
	table := &fastcdc.G
	for ; len(data)-n >= 8; n += 8 {
		x := (*[8]byte)(data[n:])
		if sum = sum<<1 + table[x[0]]; sum&mask == 0 {
			return n, sum, true
		}
		if sum = sum<<1 + table[x[1]]; sum&mask == 0 {
			return n + 1, sum, true
		}
		if sum = sum<<1 + table[x[2]]; sum&mask == 0 {
			return n + 2, sum, true
		}
		if sum = sum<<1 + table[x[3]]; sum&mask == 0 {
			return n + 3, sum, true
		}
		if sum = sum<<1 + table[x[4]]; sum&mask == 0 {
			return n + 4, sum, true
		}
		if sum = sum<<1 + table[x[5]]; sum&mask == 0 {
			return n + 5, sum, true
		}
		if sum = sum<<1 + table[x[6]]; sum&mask == 0 {
			return n + 6, sum, true
		}
		if sum = sum<<1 + table[x[7]]; sum&mask == 0 {
			return n + 7, sum, true
		}
	}
	for ; n < len(data); n++ {
		if sum = sum<<1 + table[data[n]]; sum&mask == 0 {
			return n, sum, true
		}
	}
	return n, sum, false
}

// fill reads once, up to where a chunk may end and a little further.
func (c *cutter) fill() {
	want := min(max(c.have, c.min)+cutStep, c.max)
	c.room(want)
	for range emptyReads {
		n, err := c.rd.Read((*c.buf)[c.have:want])
		c.have += n
		c.err = err
		if n > 0 || err != nil {
			return
		}
	}
	c.err = io.ErrNoProgress
}

// room makes room for n bytes of a chunk.
func (c *cutter) room(n int) {
	if c.buf == nil {
		c.buf = c.buffers.Get().(*[]byte)
	}
	if old := *c.buf; len(old) < n {
		*c.buf = make([]byte, min(max(n, 2*len(old), 2*c.normal), max(n, c.max)))
		copy(*c.buf, old[:c.have])
	}
}

// take gives the buffer that the last chunk is in to the caller, who may put it into buffers when it is not needed any
// more; nil when the chunk has to be copied. next may be called then, or reset.
func (c *cutter) take() *[]byte {
	if c.library != nil {
		return nil
	}
	old, rest := c.buf, (*c.buf)[c.cut:c.have]
	c.buf, c.have, c.cut = nil, 0, 0
	if len(rest) > 0 {
		c.room(len(rest))
		c.have = copy(*c.buf, rest)
	}
	return old
}

// release gives back what the cutter holds. It may be reset afterwards.
func (c *cutter) release() {
	c.reset(strings.NewReader("")) // lets go of what it has read
	if c.buf != nil {
		c.buffers.Put(c.buf)
		c.buf = nil
	}
}
