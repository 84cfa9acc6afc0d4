package spool_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"testing"

	"github.com/zeebo/blake3"

	"github.com/snapgate/gateway/internal/disk"
	"github.com/snapgate/gateway/vfs/internal/spool"
)

const inlineBytes = 64 << 10

// modes runs a test with a plain and with an encrypted spool.
func modes(t *testing.T, f func(t *testing.T, cfg spool.Config)) {
	t.Helper()
	for name, key := range map[string][]byte{"plain": nil, "encrypted": bytes.Repeat([]byte{7}, 32)} {
		t.Run(name, func(t *testing.T) {
			f(t, spool.Config{
				Disk: disk.OS{}, Dir: filepath.Join(t.TempDir(), "s"), Key: key, InlineBytes: inlineBytes,
			})
		})
	}
}

func open(t testing.TB, cfg spool.Config) *spool.Spool {
	t.Helper()
	s, err := spool.Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func write(t testing.TB, f *spool.File, p []byte, off int64) {
	t.Helper()
	if n, err := f.WriteAt(p, off); n != len(p) || err != nil {
		t.Fatalf("write %d at %d: got %d, %v", len(p), off, n, err)
	}
}

func pattern(n int, seed uint64) []byte {
	p := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8), byte(seed >> 16)}).Read(p) // never fails
	return p
}

func TestInlineStaysInMemory(t *testing.T) {
	modes(t, func(t *testing.T, cfg spool.Config) {
		s := open(t, cfg)
		f := s.Create()
		data := pattern(inlineBytes, 1)
		write(t, f, data[100:], 100)
		write(t, f, data[:100], 0)
		if err := f.Sync(false); err != nil {
			t.Fatal(err)
		}
		got, ok := f.Inline()
		if !ok || !bytes.Equal(got, data) || f.ID() != 0 {
			t.Fatalf("inline: got %d bytes, %v, id %d", len(got), ok, f.ID())
		}
		if sum, ok := f.Hash(); !ok || sum != blake3.Sum256(data) {
			t.Error("hash of inline content is missing or wrong")
		}
		if names, _ := filepath.Glob(filepath.Join(cfg.Dir, "*")); len(names) != 0 {
			t.Errorf("files on disk: %v", names)
		}
		if err := f.Sync(true); err != nil {
			t.Fatal(err)
		}
		if _, ok := f.Inline(); ok || f.ID() == 0 {
			t.Error("a forced sync left the content in memory")
		}
		r, err := s.Reader(f.ID(), f.Size())
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		back := make([]byte, len(data))
		if _, err := r.ReadAt(back, 0); err != nil || !bytes.Equal(back, data) {
			t.Errorf("read back: %v", err)
		}
		if sum, ok := f.Hash(); !ok || sum != blake3.Sum256(data) {
			t.Error("hash is missing or wrong after the move to disk")
		}
		if err := f.Discard(); err != nil {
			t.Fatal(err)
		}
	})
}

func TestLargeInOrder(t *testing.T) {
	modes(t, func(t *testing.T, cfg spool.Config) {
		s := open(t, cfg)
		f := s.Create()
		data := pattern(3<<20+777, 2)
		const packet = 261120 // OpenSSH's request with limits@openssh.com; no multiple of a sector
		var order []int
		for off := 0; off < len(data); off += packet {
			order = append(order, off)
		}
		for i := 0; i+1 < len(order); i += 2 { // every second pair out of order
			order[i], order[i+1] = order[i+1], order[i]
		}
		for _, off := range order {
			write(t, f, data[off:min(len(data), off+packet)], int64(off))
		}
		if got := f.Extents(); len(got) != 1 || got[0].Len != int64(len(data)) || f.Prefix() != int64(len(data)) {
			t.Errorf("extents: got %v, prefix %d", got, f.Prefix())
		}
		if sum, ok := f.Hash(); !ok || sum != blake3.Sum256(data) {
			t.Errorf("hash: ok %v", ok)
		}
		if err := f.Sync(false); err != nil {
			t.Fatal(err)
		}
		id, size, ext := f.ID(), f.Size(), f.Extents()
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteAt([]byte("x"), 0); err == nil {
			t.Error("write after close: no error")
		}
		g, err := s.Reopen(id, size, ext)
		if err != nil {
			t.Fatal(err)
		}
		write(t, g, []byte("resumed"), size)
		if _, ok := g.Hash(); ok {
			t.Error("the hash of a resumed file is not known")
		}
		back := make([]byte, g.Size())
		if _, err := g.ReadAt(back, 0); err != nil || !bytes.Equal(back, append(data, "resumed"...)) {
			t.Errorf("read back after resuming: %v", err)
		}
		if err := g.Discard(); err != nil {
			t.Fatal(err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		if got := s.Bytes(); got != 0 {
			t.Errorf("bytes after everything was removed: got %d", got)
		}
		if names, _ := filepath.Glob(filepath.Join(cfg.Dir, "*")); len(names) != 0 {
			t.Errorf("left behind: %v", names)
		}
	})
}

func TestKeepAndNumbers(t *testing.T) {
	modes(t, func(t *testing.T, cfg spool.Config) {
		cfg.InlineBytes = 0
		cfg.After = 40
		s := open(t, cfg)
		var ids []spool.ID
		for i := range 3 {
			f := s.Create()
			write(t, f, fmt.Appendf(nil, "file %d", i), 0)
			if err := f.Sync(true); err != nil {
				t.Fatal(err)
			}
			ids = append(ids, f.ID())
			if f.ID() <= 40 {
				t.Errorf("id %d is not above After", f.ID())
			}
			if err := f.Close(); err != nil {
				t.Fatal(err)
			}
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		cfg.After = 0
		s = open(t, cfg)
		if n, err := s.Keep(map[spool.ID]bool{ids[1]: true}); n != 2 || err != nil {
			t.Fatalf("keep: removed %d, %v; want 2", n, err)
		}
		r, err := s.Reader(ids[1], 6)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Remove(ids[1]); err != nil {
			t.Fatal(err)
		}
		got := make([]byte, 6)
		if _, err := r.ReadAt(got, 0); err != nil || string(got) != "file 1" {
			t.Errorf("an open reader lost its file: %q, %v", got, err)
		}
		if err := r.Close(); err != nil {
			t.Fatal(err)
		}
		f := s.Create()
		write(t, f, []byte("x"), 0)
		for _, id := range ids {
			if f.ID() <= id {
				t.Errorf("number %d was given again or is below %d", f.ID(), id)
			}
		}
		if err := f.Discard(); err != nil {
			t.Fatal(err)
		}
	})
}
