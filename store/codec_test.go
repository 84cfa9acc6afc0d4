package store

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	mrand "math/rand/v2"
	"strings"
	"testing"

	"github.com/PlakarKorp/kloset/compression"
	"github.com/PlakarKorp/kloset/encryption"
	"github.com/pierrec/lz4/v4"
)

// codecs are all that a store may be configured with.
func codecs(tb testing.TB) map[string]*codec {
	tb.Helper()
	key := bytes.Repeat([]byte{7}, 32)
	out := map[string]*codec{}
	for _, packing := range []string{"", "LZ4", "GZIP"} {
		for _, encrypted := range []bool{false, true} {
			var comp *compression.Configuration
			if packing != "" {
				var err error
				if comp, err = compression.LookupDefaultConfiguration(packing); err != nil {
					tb.Fatal(err)
				}
			}
			var enc *encryption.Configuration
			var k []byte
			if encrypted {
				enc, k = encryption.NewDefaultConfiguration(), key
			}
			c, err := newCodec(k, enc, comp)
			if err != nil {
				tb.Fatal(err)
			}
			out[fmt.Sprintf("%s encrypted=%v", packing, encrypted)] = c
		}
	}
	return out
}

// klosetDecode is what kloset's readers do.
func klosetDecode(c *codec, data []byte) ([]byte, error) {
	rd := io.NopCloser(bytes.NewBuffer(data))
	var err error
	if c.key != nil {
		if rd, err = encryption.DecryptStream(c.encryption, c.key, rd); err != nil {
			return nil, err
		}
	}
	if c.compression != nil {
		if rd, err = compression.InflateStream(c.compression.Algorithm, rd); err != nil {
			return nil, err
		}
	}
	return io.ReadAll(rd)
}

// TestCodecAgainstKloset has each side read what the other one has written, for many
// lengths: around the pieces of the encryption, the blocks of the compression, and at random.
func TestCodecAgainstKloset(t *testing.T) {
	lengths := []int{0, 1, 15, 16, 17, 255, 4096, 64<<10 - 1, 64 << 10, 64<<10 + 1, 128 << 10, 256 << 10, 256<<10 + 1, 1 << 20, 1<<20 + 1, 5 << 20}
	rng := mrand.New(mrand.NewPCG(1, 2))
	for range 60 {
		lengths = append(lengths, rng.IntN(300<<10))
	}
	for name, c := range codecs(t) {
		t.Run(name, func(t *testing.T) {
			for i, n := range lengths {
				plain := bytes.Repeat([]byte("text that can be compressed "), n/28+1)[:n]
				if i%2 == 0 {
					_, _ = rand.Read(plain)
				}
				ours, err := c.encode([]byte("before"), plain)
				if err != nil {
					t.Fatal(err)
				}
				ours = bytes.TrimPrefix(ours, []byte("before"))
				got, err := klosetDecode(c, ours)
				if err != nil || !bytes.Equal(got, plain) {
					t.Fatalf("%d bytes, encoded here: kloset reads %d, %v", n, len(got), err)
				}
				rd, err := c.stream(bytes.NewReader(plain))
				if err != nil {
					t.Fatal(err)
				}
				theirs, err := io.ReadAll(rd)
				if err != nil {
					t.Fatal(err)
				}
				for what, data := range map[string][]byte{"here": ours, "by kloset": theirs} {
					got, err := c.decode(data)
					if !c.fast && err == errNotFast { //nolint:errorlint // exactly this one
						continue
					}
					if err != nil || !bytes.Equal(got, plain) {
						t.Fatalf("%d bytes, encoded %s: got %d, %v", n, what, len(got), err)
					}
				}
			}
		})
	}
}

// TestFrame compares compressed blobs with those of the library's writer, byte for byte.
func TestFrame(t *testing.T) {
	c := codecs(t)["LZ4 encrypted=false"]
	for _, n := range []int{0, 1, 4096, 64 << 10, 64<<10 + 1, 256 << 10, 256<<10 + 1, 1 << 20, 1<<20 + 1, 3 << 20} {
		for _, what := range []string{"text", "random", "both"} {
			plain := bytes.Repeat([]byte("text that can be compressed "), n/28+1)[:n]
			switch what {
			case "random":
				_, _ = rand.Read(plain)
			case "both":
				_, _ = rand.Read(plain[n/2:])
			}
			got, err := c.encode(nil, plain)
			if err != nil {
				t.Fatal(err)
			}
			var want bytes.Buffer
			w := lz4.NewWriter(&want)
			err = w.Apply(lz4.BlockSizeOption(blockSize(plain)))
			if err == nil {
				_, err = w.Write(plain)
			}
			if err = errors.Join(err, w.Close()); err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got, want.Bytes()) {
				t.Errorf("%d bytes of %s: %d bytes differ from the %d of the library", n, what, len(got), want.Len())
			}
		}
	}
}

// TestPiecesInOrder has two pieces of an encrypted blob change places: each of them is authentic. What they make is not
// taken for the blob, by kloset either, which compares nothing with a MAC when it restores.
func TestPiecesInOrder(t *testing.T) {
	c := codecs(t)["LZ4 encrypted=true"]
	plain := make([]byte, 1<<20)
	_, _ = rand.Read(plain)
	encoded, err := c.encode(nil, plain)
	if err != nil {
		t.Fatal(err)
	}
	n := nonceSize + c.encryption.ChunkSize + tagSize
	a, b := encoded[wrappedKeySize+3*n:][:n], encoded[wrappedKeySize+4*n:][:n]
	was := bytes.Clone(a)
	copy(a, b)
	copy(b, was)
	if got, err := klosetDecode(c, encoded); err == nil {
		t.Errorf("kloset reads %d bytes", len(got))
	}
}

// TestEncodeInto fills the places of blobs that were encoded here, and by kloset: each with as many bytes as there were, that
// can be read.
func TestEncodeInto(t *testing.T) {
	for name, c := range codecs(t) {
		if !c.fast {
			continue // there is one form
		}
		s := &Store{codec: c}
		for _, n := range []int{0, 1, 4096, 300_000, 1<<20 + 1} {
			for _, what := range []string{"text", "random"} {
				plain := bytes.Repeat([]byte("text that can be compressed "), n/28+1)[:n]
				if what == "random" {
					_, _ = rand.Read(plain)
				}
				for by, begin := range map[string]func([]byte) (*Encoding, error){"here": c.begin, "kloset": c.foreign} {
					was, err := appendEncoding(begin, nil, plain)
					if err != nil {
						t.Fatal(err)
					}
					is := make([]byte, len(was))
					if err := s.encodeInto(is, plain); err != nil {
						t.Errorf("%s, %d bytes of %s, encoded by %s: %v", name, n, what, by, err)
						continue
					}
					if got, err := klosetDecode(c, is); err != nil || !bytes.Equal(got, plain) {
						t.Errorf("%s, %d bytes of %s, encoded by %s: kloset reads %d, %v", name, n, what, by, len(got), err)
					}
				}
				if err := s.encodeInto(make([]byte, n+n/8+1000), plain); err == nil {
					t.Errorf("%s, %d bytes of %s: a place of another size is filled", name, n, what)
				}
			}
		}
	}
}

// TestDecodeDamaged changes and cuts encrypted blobs: nothing but an error comes back.
func TestDecodeDamaged(t *testing.T) {
	c := codecs(t)["LZ4 encrypted=true"]
	plain := bytes.Repeat([]byte("some content "), 20_000)
	good, err := c.encode(nil, plain)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(good); i += 1 + len(good)/200 {
		bad := bytes.Clone(good)
		bad[i] ^= 1
		if got, err := c.decode(bad); err == nil {
			t.Fatalf("byte %d changed: got %d bytes", i, len(got))
		}
		if got, err := c.decode(good[:i]); err == nil && !bytes.Equal(got, plain[:len(got)]) {
			t.Fatalf("cut at %d: got %d other bytes", i, len(got))
		}
	}
}

func BenchmarkCodec(b *testing.B) {
	c := codecs(b)["LZ4 encrypted=true"]
	random := make([]byte, 1<<20)
	_, _ = rand.Read(random)
	text := bytes.Repeat([]byte("a line of a log that is much like others\n"), 1<<20/41)
	for name, plain := range map[string][]byte{"random": random, "text": text} {
		encoded, err := c.encode(nil, plain)
		if err != nil {
			b.Fatal(err)
		}
		b.Run("encode/"+name, func(b *testing.B) {
			b.SetBytes(int64(len(plain)))
			var dst []byte
			for b.Loop() {
				if dst, err = c.encode(dst[:0], plain); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run("encode-kloset/"+name, func(b *testing.B) {
			b.SetBytes(int64(len(plain)))
			for b.Loop() {
				rd, err := c.stream(bytes.NewReader(plain))
				if err != nil {
					b.Fatal(err)
				}
				if _, err := io.ReadAll(rd); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run("decode/"+name, func(b *testing.B) {
			b.SetBytes(int64(len(plain)))
			for b.Loop() {
				if _, err := c.decode(encoded); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run("decode-kloset/"+name, func(b *testing.B) {
			b.SetBytes(int64(len(plain)))
			for b.Loop() {
				if _, err := klosetDecode(c, encoded); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// TestUnframe reads frames of all shapes, of what can be compressed and what cannot.
func TestUnframe(t *testing.T) {
	c := codecs(t)["LZ4 encrypted=true"]
	text := bytes.Repeat([]byte("a line of a log that is much like others\n"), 10_000)
	random := make([]byte, 300_000)
	_, _ = rand.Read(random)
	mixed := append(append(bytes.Clone(random[:100_000]), text[:200_000]...), random...)
	for name, options := range map[string][]lz4.Option{
		"as kloset":       nil,
		"small blocks":    {lz4.BlockSizeOption(lz4.Block64Kb)},
		"block checksums": {lz4.BlockSizeOption(lz4.Block256Kb), lz4.BlockChecksumOption(true)},
		"no checksum":     {lz4.ChecksumOption(false)},
		"size":            {lz4.SizeOption(1), lz4.BlockSizeOption(lz4.Block1Mb)},
	} {
		for _, plain := range [][]byte{nil, text[:1], random[:1], text, random, random[:64<<10], random[:64<<10+1], mixed} {
			var buf bytes.Buffer
			w := lz4.NewWriter(&buf)
			if err := w.Apply(options...); err != nil {
				t.Fatal(err)
			}
			if _, err := w.Write(plain); err != nil {
				t.Fatal(err)
			}
			if err := w.Close(); err != nil {
				t.Fatal(err)
			}
			got, ok := c.unframe(buf.Bytes())
			if !ok || !bytes.Equal(got, plain) {
				t.Errorf("%s: %d bytes: got %d, %v", name, len(plain), len(got), ok)
			}
			joined, ok := joinRaw(bytes.Clone(buf.Bytes()))
			if ok && !bytes.Equal(joined, plain) {
				t.Errorf("%s: %d bytes joined: got %d", name, len(plain), len(joined))
			}
			// What comes behind a frame is another one.
			if got, ok := c.unframe(append(buf.Bytes(), buf.Bytes()...)); ok {
				t.Errorf("%s: two frames: got %d bytes", name, len(got))
			}
		}
	}
}

// FuzzUnframe has frames read here and by the library.
func FuzzUnframe(f *testing.F) {
	c := codecs(f)["LZ4 encrypted=true"]
	for _, plain := range []string{"", "short", strings.Repeat("much of the same ", 10_000)} {
		e := &Encoding{c: c}
		e.frame([]byte(plain))
		f.Add(bytes.Join(e.parts, nil))
		e.Drop()
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		got, ok := c.unframe(data)
		if !ok {
			return
		}
		// The library compares checksums, which are not looked at here.
		if want, err := c.unpack(data); err == nil && !bytes.Equal(got, want) {
			t.Fatalf("got %d bytes, want %d", len(got), len(want))
		}
		before := bytes.Clone(data)
		switch joined, ok := joinRaw(data); {
		case ok && !bytes.Equal(joined, got):
			t.Fatalf("joined: got %d bytes, want %d", len(joined), len(got))
		case !ok && !bytes.Equal(data, before):
			t.Fatal("not joined, but changed")
		}
	})
}
