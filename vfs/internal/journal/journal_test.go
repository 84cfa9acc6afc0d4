package journal_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/snapgate/gateway/internal/disk"
	"github.com/snapgate/gateway/vfs/internal/journal"
)

// modes runs a test with a plain and with an encrypted journal.
func modes(t *testing.T, f func(t *testing.T, cfg journal.Config)) {
	t.Helper()
	for name, key := range map[string][]byte{"plain": nil, "encrypted": bytes.Repeat([]byte{7}, 32)} {
		t.Run(name, func(t *testing.T) {
			f(t, journal.Config{Disk: disk.OS{}, Dir: filepath.Join(t.TempDir(), "j"), Key: key})
		})
	}
}

func open(t testing.TB, cfg journal.Config) *journal.Journal {
	t.Helper()
	j, err := journal.Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return j
}

func appendOK(t testing.TB, j *journal.Journal, sync bool, payloads ...string) journal.Position {
	t.Helper()
	var batch [][]byte
	for _, p := range payloads {
		batch = append(batch, []byte(p))
	}
	pos, err := j.Append(batch, sync)
	if err != nil {
		t.Fatal(err)
	}
	return pos
}

// records returns what the journal yields as "position payload".
func records(t testing.TB, j *journal.Journal) []string {
	t.Helper()
	var got []string
	for r, err := range j.Records() {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, fmt.Sprintf("%d %s", r.Pos, r.Payload))
	}
	return got
}

func wantRecords(t testing.TB, j *journal.Journal, want ...string) {
	t.Helper()
	got := records(t, j)
	if fmt.Sprintf("%q", got) != fmt.Sprintf("%q", want) {
		t.Fatalf("records: got %q, want %q", got, want)
	}
}

func segments(t testing.TB, cfg journal.Config) []string {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(cfg.Dir, "*.wal"))
	if err != nil {
		t.Fatal(err)
	}
	return names
}

func TestAppendReadReopen(t *testing.T) {
	modes(t, func(t *testing.T, cfg journal.Config) {
		j := open(t, cfg)
		if got := j.Last(); got != 0 {
			t.Fatalf("last of an empty journal: got %d", got)
		}
		if got := appendOK(t, j, true, "a", "", "c"); got != 1 {
			t.Fatalf("first position: got %d", got)
		}
		if got := appendOK(t, j, false, "d"); got != 4 {
			t.Fatalf("second batch: got %d", got)
		}
		if err := j.Sync(); err != nil {
			t.Fatal(err)
		}
		if got, err := j.Read(3); err != nil || string(got) != "c" {
			t.Fatalf("read: got %q, %v", got, err)
		}
		if _, err := j.Read(5); !errors.Is(err, journal.ErrTrimmed) {
			t.Fatalf("read past the end: got %v", err)
		}
		if err := j.Close(); err != nil {
			t.Fatal(err)
		}
		for range 3 { // a restart appends to a new segment; numbers go on
			j = open(t, cfg)
			last := j.Last()
			if got := appendOK(t, j, true, "x"); got != last+1 {
				t.Fatalf("after reopening: got %d, want %d", got, last+1)
			}
			if err := j.Close(); err != nil {
				t.Fatal(err)
			}
		}
		j = open(t, cfg)
		wantRecords(t, j, "1 a", "2 ", "3 c", "4 d", "5 x", "6 x", "7 x")
		for pos, want := range map[journal.Position]string{1: "a", 4: "d", 5: "x", 7: "x"} {
			if got, err := j.Read(pos); err != nil || string(got) != want {
				t.Errorf("read %d: got %q, %v", pos, got, err)
			}
		}
		if err := j.Close(); err != nil {
			t.Fatal(err)
		}
		if _, err := j.Append(nil, true); !errors.Is(err, journal.ErrClosed) {
			t.Errorf("append after close: got %v", err)
		}
	})
}

func TestTrim(t *testing.T) {
	modes(t, func(t *testing.T, cfg journal.Config) {
		cfg.SegmentBytes = 4 << 10
		j := open(t, cfg)
		big := string(bytes.Repeat([]byte("x"), 3<<10))
		for range 6 {
			appendOK(t, j, true, big)
		}
		if got := len(segments(t, cfg)); got != 3 {
			t.Fatalf("segments: got %d, want 3", got)
		}
		if err := j.Trim(3); err != nil {
			t.Fatal(err)
		}
		if _, err := j.Read(2); !errors.Is(err, journal.ErrTrimmed) {
			t.Errorf("trimmed record: got %v", err)
		}
		if got, err := j.Read(4); err != nil || string(got) != big {
			t.Errorf("kept record: %d bytes, %v", len(got), err)
		}
		if err := j.Trim(6); err != nil {
			t.Fatal(err)
		}
		if got := len(segments(t, cfg)); got != 1 {
			t.Fatalf("small newest segment: got %d segments, want it kept alone", got)
		}
		if err := j.Close(); err != nil {
			t.Fatal(err)
		}
		cfg.SegmentBytes = 0
		j = open(t, cfg)
		appendOK(t, j, true, string(make([]byte, 2<<20)))
		if err := j.Trim(7); err != nil {
			t.Fatal(err)
		}
		if got := j.Bytes(); got > 1<<10 {
			t.Errorf("bytes after all is trimmed: got %d", got)
		}
		if err := j.Close(); err != nil {
			t.Fatal(err)
		}
		j = open(t, cfg)
		wantRecords(t, j)
		if got := appendOK(t, j, true, "on"); got != 8 {
			t.Errorf("position after all was trimmed: got %d, want 8", got)
		}
		if err := j.Close(); err != nil {
			t.Fatal(err)
		}
	})
}

// TestTrimOfTheNewestSegment is how a share trims: the note of a commit follows the
// records that the commit took, so the newest segment never goes as a whole at once.
func TestTrimOfTheNewestSegment(t *testing.T) {
	cfg := journal.Config{Disk: unsynced{disk.OS{}}, Dir: t.TempDir()}
	j := open(t, cfg)
	for range 10 {
		done := appendOK(t, j, true, string(make([]byte, 2<<20)))
		note := appendOK(t, j, true, "note")
		if err := j.Trim(done); err != nil {
			t.Fatal(err)
		}
		if _, err := j.Read(note); err != nil {
			t.Fatal(err)
		}
		if got := j.Bytes(); got > 5<<20 {
			t.Fatalf("bytes after a trim: got %d, want two rounds at most", got)
		}
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestSkip(t *testing.T) {
	modes(t, func(t *testing.T, cfg journal.Config) {
		j := open(t, cfg)
		appendOK(t, j, true, "a")
		j.Skip(10)
		if got := appendOK(t, j, true, "b"); got != 11 {
			t.Fatalf("got %d, want 11", got)
		}
		if _, err := j.Read(5); !errors.Is(err, journal.ErrTrimmed) {
			t.Errorf("skipped position: got %v", err)
		}
		if err := j.Close(); err != nil {
			t.Fatal(err)
		}
		j = open(t, cfg)
		wantRecords(t, j, "1 a", "11 b")
		if err := j.Close(); err != nil {
			t.Fatal(err)
		}
	})
}

func TestLimits(t *testing.T) {
	modes(t, func(t *testing.T, cfg journal.Config) {
		cfg.SegmentBytes = 1 << 20
		j := open(t, cfg)
		huge := make([]byte, journal.MaxRecord)
		// A batch may be larger than a segment.
		if _, err := j.Append([][]byte{huge, []byte("x"), huge}, true); err != nil {
			t.Fatal(err)
		}
		if _, err := j.Append([][]byte{append(huge, 0)}, true); !errors.Is(err, journal.ErrTooLarge) {
			t.Errorf("too large: got %v", err)
		}
		if got := appendOK(t, j, true, "y"); got != 4 {
			t.Errorf("after a refused record: got position %d, want 4", got)
		}
		if err := j.Close(); err != nil {
			t.Fatal(err)
		}
		j = open(t, cfg)
		if got, err := j.Read(3); err != nil || !bytes.Equal(got, huge) {
			t.Errorf("huge record: %d bytes, %v", len(got), err)
		}
		if err := j.Close(); err != nil {
			t.Fatal(err)
		}
	})
}

func TestKey(t *testing.T) {
	key, other := bytes.Repeat([]byte{1}, 32), bytes.Repeat([]byte{2}, 32)
	for _, tt := range []struct {
		name        string
		write, read []byte
	}{
		{"another key", key, other},
		{"no key", key, nil},
		{"not encrypted", nil, key},
	} {
		t.Run(tt.name, func(t *testing.T) {
			cfg := journal.Config{Disk: disk.OS{}, Dir: t.TempDir(), Key: tt.write}
			j := open(t, cfg)
			appendOK(t, j, true, "a")
			if err := j.Close(); err != nil {
				t.Fatal(err)
			}
			cfg.Key = tt.read
			if _, err := journal.Open(cfg); !errors.Is(err, journal.ErrKey) {
				t.Errorf("got %v, want ErrKey", err)
			}
		})
	}
}

func TestSecretsStaySecret(t *testing.T) {
	cfg := journal.Config{Disk: disk.OS{}, Dir: t.TempDir(), Key: bytes.Repeat([]byte{1}, 32)}
	j := open(t, cfg)
	appendOK(t, j, true, "the plain text")
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(segments(t, cfg)[0])
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(raw, []byte("plain")) {
		t.Error("payload is readable in the segment")
	}
	fi, err := os.Stat(segments(t, cfg)[0])
	if err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("mode: got %v, %v", fi.Mode(), err)
	}
}
