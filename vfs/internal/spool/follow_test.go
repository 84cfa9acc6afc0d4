package spool_test

import (
	"bytes"
	"testing"

	"github.com/snapgate/gateway/vfs/internal/spool"
)

// TestFollow reads a file behind what is being written: what is hashed can be read, but for
// the sector at the end, and stays the same.
func TestFollow(t *testing.T) {
	modes(t, func(t *testing.T, cfg spool.Config) {
		s := open(t, cfg)
		f := s.Create()
		data := pattern(700_000, 1)
		write(t, f, data[:1000], 0)
		if _, _, ok := f.Hashed(); ok {
			t.Error("a file in memory can be followed")
		}
		write(t, f, data[1000:300_000], 1000)
		write(t, f, data[400_000:], 400_000) // before its turn
		n, cuts, ok := f.Hashed()
		if !ok || n != 300_000 {
			t.Fatalf("%d bytes hashed, %v; want 300,000", n, ok)
		}
		r, err := s.Follow(f.ID())
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		follow := func(size int64) {
			t.Helper()
			got := make([]byte, size)
			if _, err := r.ReadAt(got, 0); err != nil || !bytes.Equal(got, data[:size]) {
				t.Errorf("the first %d bytes differ at %d, %v", size, differs(got, data[:size]), err)
			}
		}
		follow(n &^ (spool.SectorBytes - 1))
		write(t, f, data[300_000:400_000], 300_000)
		if n, again, ok := f.Hashed(); !ok || n != int64(len(data)) || again != cuts {
			t.Errorf("%d bytes hashed, %d cuts, %v; want %d, %d", n, again, ok, len(data), cuts)
		}
		follow(int64(len(data))) // nothing is written any more
		if err := f.Truncate(0); err != nil {
			t.Fatal(err)
		}
		write(t, f, data[:200_000], 0)
		if n, again, ok := f.Hashed(); !ok || n != 200_000 || again == cuts {
			t.Errorf("begun anew: %d bytes hashed, %d cuts as before, %v", n, again, ok)
		}
		write(t, f, data[5:10], 0)
		if _, _, ok := f.Hashed(); ok {
			t.Error("a file that was written again can be followed")
		}
		if err := f.Discard(); err != nil {
			t.Fatal(err)
		}
	})
}
