package store

import (
	"io"
	"log/slog"
	"strings"
	"testing"

	"github.com/PlakarKorp/kloset/objects"
)

// TestMirrorTrim fills a mirror: it removes a tenth at a time, since finding what was used
// longest ago takes as long as there are files.
func TestMirrorTrim(t *testing.T) {
	const limit, each = 1000, 10
	m, err := openMirror(t.TempDir(), limit, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	trims, last := 0, int64(0)
	for range 2 * limit / each {
		rd, done := m.copy(objects.RandomMAC(), strings.NewReader(strings.Repeat("x", each)))
		if _, err := io.Copy(io.Discard, rd); err != nil {
			t.Fatal(err)
		}
		done(true)
		if m.size > limit {
			t.Fatalf("%d bytes, want at most %d", m.size, limit)
		}
		if m.size < last {
			trims++
		}
		last = m.size
	}
	if trims == 0 || trims > 11 {
		t.Errorf("trimmed %d times, want about 10", trims)
	}
}

// TestMirrorOfOthers: the copies of another process are found as they come, and are not removed.
func TestMirrorOfOthers(t *testing.T) {
	dir, log, mac := t.TempDir(), slog.New(slog.DiscardHandler), objects.RandomMAC()
	m, err := openMirror(dir, 1000, log)
	if err != nil {
		t.Fatal(err)
	}
	o := mirrorOfOthers(dir, log)
	if o.has(mac) {
		t.Error("a copy that was not made")
	}
	rd, done := m.copy(mac, strings.NewReader("a copy"))
	if _, err := io.Copy(io.Discard, rd); err != nil {
		t.Fatal(err)
	}
	done(true)
	if !o.has(mac) {
		t.Error("a copy that was made is not there")
	}
	o.drop(mac)
	if !o.has(mac) || !m.has(mac) {
		t.Error("a copy was removed")
	}
}
