package store

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"strings"
	"testing"

	"github.com/PlakarKorp/kloset/connectors/storage"
	"github.com/PlakarKorp/kloset/objects"
	"github.com/PlakarKorp/kloset/resources"
	"github.com/PlakarKorp/kloset/versioning"

	"github.com/snapgate/gateway/internal/logtest"
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

// TestMirrorOfOthers: the copies of another process are found as they come, and are not removed. One that is damaged is read once.
func TestMirrorOfOthers(t *testing.T) {
	var out logtest.Buffer
	dir, log, mac := t.TempDir(), slog.New(slog.NewTextHandler(&out, nil)), objects.RandomMAC()
	m, err := openMirror(dir, 1000, log)
	if err != nil {
		t.Fatal(err)
	}
	o := mirrorOfOthers(dir, log)
	o.hasher = sha256.New
	if o.has(mac) {
		t.Error("a copy that was not made")
	}
	packfile, err := storage.Serialize(sha256.New(), resources.RT_PACKFILE, versioning.GetCurrentVersion(resources.RT_PACKFILE), strings.NewReader("a copy"))
	if err != nil {
		t.Fatal(err)
	}
	rd, done := m.copy(mac, packfile)
	raw, err := io.ReadAll(rd)
	if err != nil {
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

	spoilt := bytes.Clone(raw)
	spoilt[len(spoilt)-1] ^= 1
	if err := os.WriteFile(m.path(mac), spoilt, 0o600); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if _, err := o.open(mac, nil); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("open a damaged copy: %v, want %v", err, fs.ErrNotExist)
		}
	}
	if n := strings.Count(out.String(), "of no use"); n != 1 || o.has(mac) {
		t.Errorf("%d warnings, has: %t; want one, and that there is no copy:\n%s", n, o.has(mac), out.String())
	}
	if err := os.WriteFile(m.path(mac), raw, 0o600); err != nil {
		t.Fatal(err)
	}
	back, err := o.reopen(mac)
	if err != nil || !o.has(mac) {
		t.Fatalf("open what was put in its place: %v", err)
	}
	if err := back.Close(); err != nil {
		t.Error(err)
	}
}
