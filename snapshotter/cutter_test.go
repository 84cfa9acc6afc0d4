package snapshotter

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"testing/iotest"

	chunkers "github.com/PlakarKorp/go-cdc-chunkers"
	"github.com/PlakarKorp/kloset/chunking"
	"github.com/google/go-cmp/cmp"
)

// cuts are the chunks of a stream, each with its error where there is one.
func cuts(next func() ([]byte, error), taken func()) (all []string) {
	for range 1 << 20 {
		piece, err := next()
		all = append(all, fmt.Sprintf("%q %d %v", fmt.Sprintf("%x", sumOf(piece)), len(piece), err))
		if taken != nil && len(piece) > 0 {
			taken()
		}
		if err != nil {
			return all
		}
	}
	return append(all, "no end")
}

// sumOf tells pieces apart.
func sumOf(p []byte) (h uint64) {
	for _, b := range p {
		h = h*1099511628211 + uint64(b) + 1
	}
	return h
}

// TestCutter compares a cutter with kloset's chunker, for all that a store may be configured with, contents that are cut
// early, late and not at all, and readers that give little at a time. What is taken is not written to again.
func TestCutter(t *testing.T) {
	rng := rand.New(rand.NewPCG(4, 5))
	random := make([]byte, 400_000)
	for i := range random {
		random[i] = byte(rng.Uint32())
	}
	zeros := make([]byte, 150_000)
	mixed := append(append(bytes.Clone(random[:90_000]), zeros...), random...)
	text := []byte(strings.Repeat("a line of a log that is much like others\n", 5_000))
	readers := map[string]func(io.Reader) io.Reader{
		"whole":          func(r io.Reader) io.Reader { return r },
		"halves":         iotest.HalfReader,
		"end with data":  iotest.DataErrReader,
		"nothing at all": func(r io.Reader) io.Reader { return iotest.DataErrReader(iotest.HalfReader(r)) },
	}
	for _, cfg := range []chunking.Configuration{
		{Algorithm: "fastcdc-v1.0.0", MinSize: 512, NormalSize: 1 << 10, MaxSize: 8 << 10},
		{Algorithm: "FastCDC-v1.0.0", MinSize: 2 << 10, NormalSize: 8 << 10, MaxSize: 64 << 10},
		{Algorithm: "fastcdc-v1.0.0", MinSize: 1000, NormalSize: 5000, MaxSize: 20_001},
		{Algorithm: "fastcdc-v1.0.0", MinSize: 32 << 10, NormalSize: 256 << 10, MaxSize: 300 << 10},
		{Algorithm: "fastcdc-v1.0.0", MinSize: 4 << 10, NormalSize: 4 << 10, MaxSize: 64 << 10},
		{Algorithm: "fastcdc", MinSize: 512, NormalSize: 1 << 10, MaxSize: 8 << 10},
		{Algorithm: "kfastcdc", MinSize: 2 << 10, NormalSize: 16 << 10, MaxSize: 64 << 10},
		{Algorithm: "ultracdc", MinSize: 2 << 10, NormalSize: 10 << 10, MaxSize: 64 << 10},
	} {
		buffers := &sync.Pool{New: func() any { return new([]byte) }}
		c, err := newCutter(&cfg, buffers)
		if err != nil {
			t.Fatal(err)
		}
		if native := cfg.Algorithm != "ultracdc" && cfg.MinSize != cfg.NormalSize; native != (c.library == nil) {
			t.Fatalf("%+v: cut here: %v, want %v", cfg, !native, native)
		}
		for name, data := range map[string][]byte{
			"nothing": nil, "a byte": random[:1], "least": random[:cfg.MinSize], "more": random[:cfg.MinSize+1], "most": zeros[:min(len(zeros), int(cfg.MaxSize))],
			"random": random, "zeros": zeros, "mixed": mixed, "text": text,
		} {
			for how, reader := range readers {
				opts := &chunkers.ChunkerOpts{MinSize: int(cfg.MinSize), NormalSize: int(cfg.NormalSize), MaxSize: int(cfg.MaxSize)}
				library, err := chunkers.NewChunker(strings.ToLower(cfg.Algorithm), bytes.NewReader(data), opts)
				if err != nil {
					t.Fatal(err)
				}
				want := cuts(library.Next, nil)
				c.reset(reader(bytes.NewReader(data)))
				if diff := cmp.Diff(want, cuts(c.next, nil)); diff != "" {
					t.Errorf("%+v: %s, %s: kloset's and ours:\n%s", cfg, name, how, diff)
				}
				// The same with each buffer taken away, and spoiled.
				c.reset(reader(bytes.NewReader(data)))
				got := cuts(c.next, func() {
					if buf := c.take(); buf != nil {
						rubbish := (*buf)[:cap(*buf)]
						for i := range rubbish {
							rubbish[i] = 0xaa
						}
						buffers.Put(buf)
					}
				})
				if diff := cmp.Diff(want, got); diff != "" {
					t.Errorf("%+v: %s, %s, taken: kloset's and ours:\n%s", cfg, name, how, diff)
				}
				c.release()
			}
		}
	}
}

// TestCutterFails has a reader fail, and one that never gives anything.
func TestCutterFails(t *testing.T) {
	cfg := chunking.Configuration{Algorithm: "fastcdc-v1.0.0", MinSize: 512, NormalSize: 1 << 10, MaxSize: 8 << 10}
	c, err := newCutter(&cfg, &sync.Pool{New: func() any { return new([]byte) }})
	if err != nil {
		t.Fatal(err)
	}
	broken := errors.New("broken")
	for name, r := range map[string]struct {
		rd   io.Reader
		want error
	}{
		"at once":      {iotest.ErrReader(broken), broken},
		"in the midst": {io.MultiReader(bytes.NewReader(make([]byte, 300)), iotest.ErrReader(broken)), broken},
		"no progress":  {idle{}, io.ErrNoProgress},
	} {
		c.reset(r.rd)
		if piece, err := c.next(); !errors.Is(err, r.want) || len(piece) > 0 {
			t.Errorf("%s: %d bytes, %v, want %v", name, len(piece), err, r.want)
		}
		if piece, err := c.next(); !errors.Is(err, r.want) || len(piece) > 0 {
			t.Errorf("%s, again: %d bytes, %v, want %v", name, len(piece), err, r.want)
		}
	}
}

// idle is a reader that gives nothing.
type idle struct{}

func (idle) Read([]byte) (int, error) { return 0, nil }

// BenchmarkCutter cuts 16 MiB as stores do by default, and beside it with kloset's chunker.
func BenchmarkCutter(b *testing.B) {
	data := make([]byte, 16<<20)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(data)
	cfg := chunking.NewDefaultConfiguration()
	c, err := newCutter(cfg, &sync.Pool{New: func() any { return new([]byte) }})
	if err != nil {
		b.Fatal(err)
	}
	library, err := chunkers.NewChunker(cfg.Algorithm, nil, &chunkers.ChunkerOpts{MinSize: int(cfg.MinSize), NormalSize: int(cfg.NormalSize), MaxSize: int(cfg.MaxSize)})
	if err != nil {
		b.Fatal(err)
	}
	for name, f := range map[string]struct {
		reset func(io.Reader)
		next  func() ([]byte, error)
	}{"ours": {c.reset, c.next}, "kloset": {library.Reset, library.Next}} {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(data)))
			for b.Loop() {
				f.reset(bytes.NewReader(data))
				for err := error(nil); err == nil; {
					_, err = f.next()
				}
			}
		})
	}
}
