package audit

import (
	"bufio"
	"encoding/base64"
	"encoding/json"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/snapgate/gateway/internal/logtest"
)

// open opens a log in a directory of the test.
func open(t *testing.T) (l *Log, file string, log *logtest.Buffer) {
	t.Helper()
	file, log = filepath.Join(t.TempDir(), "audit.log"), &logtest.Buffer{}
	return openAt(t, file, log), file, log
}

func openAt(t *testing.T, file string, log *logtest.Buffer) *Log {
	t.Helper()
	l, err := Open(Config{
		File: file, Logger: slog.New(slog.NewTextHandler(log, nil)),
		Now: func() time.Time { return time.Date(2026, 11, 21, 19, 4, 29, 123456789, time.UTC) },
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

// events reads the lines of a log; each must be an event.
func events(t *testing.T, file string) []Event {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var list []Event
	for lines := bufio.NewScanner(f); lines.Scan(); {
		var e Event
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			t.Fatalf("line %q: %v", lines.Text(), err)
		}
		list = append(list, e)
	}
	return list
}

func TestLine(t *testing.T) {
	l, file, _ := open(t)
	n := int64(0)
	l.Write(Event{Event: "upload", Result: OK, User: "alice", Share: "main", Path: "/a & <b>", Bytes: &n})
	got, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	want := `{"time":"2026-11-21T19:04:29.123456Z","event":"upload","result":"ok","user":"alice","share":"main","path":"/a & <b>","bytes":0}` + "\n"
	if string(got) != want {
		t.Errorf("got  %swant %s", got, want)
	}
	info, err := os.Stat(file)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v; want 0600", info.Mode(), err)
	}
}

// What a client puts into a name makes no second line and does nothing to a terminal, and
// can be had exactly.
func TestNames(t *testing.T) {
	l, file, _ := open(t)
	names := []string{
		"/plain", "/line\nbreak\r", "/\x1b[31mred", "/\u009b31m", "/\u202etxt.exe", "/\u2028", "/\x7f",
		"/é漢😀", "/\U000e0041tag", `/quote"\`, "/not\xffutf8", "/\x00",
	}
	for _, name := range names {
		l.Write(Event{Event: "remove", Path: name, To: name})
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for _, bad := range []string{"\x1b", "\u009b", "\u202e", "\x7f", "\r", "\U000e0041", "\xff"} {
		if strings.Contains(string(text), bad) {
			t.Errorf("the file has %q", bad)
		}
	}
	if !strings.Contains(string(text), "/é漢😀") {
		t.Errorf("readable names are not readable:\n%s", text)
	}
	list := events(t, file)
	if len(list) != len(names) {
		t.Fatalf("%d lines, want %d", len(list), len(names))
	}
	for i, name := range names {
		for _, f := range []struct{ text, raw string }{{list[i].Path, list[i].PathRaw}, {list[i].To, list[i].ToRaw}} {
			got := f.text
			if f.raw != "" {
				b, err := base64.StdEncoding.DecodeString(f.raw)
				if err != nil {
					t.Fatal(err)
				}
				got = string(b)
			}
			if got != name {
				t.Errorf("got %q, want %q", got, name)
			}
		}
	}
}

// A file that was moved away is left alone after Reopen, and nothing is lost in between.
func TestReopen(t *testing.T) {
	l, file, _ := open(t)
	l.Write(Event{Event: "one"})
	if err := os.Rename(file, file+".1"); err != nil {
		t.Fatal(err)
	}
	l.Write(Event{Event: "two"})
	if err := l.Reopen(file); err != nil {
		t.Fatal(err)
	}
	l.Write(Event{Event: "three"})
	if got := events(t, file+".1"); len(got) != 2 || got[1].Event != "two" {
		t.Errorf("the old file has %v", got)
	}
	if got := events(t, file); len(got) != 1 || got[0].Event != "three" {
		t.Errorf("the new file has %v", got)
	}
	// What cannot be opened leaves the old file in use.
	if err := l.Reopen(filepath.Join(t.TempDir(), "missing", "audit.log")); err == nil {
		t.Error("Reopen in a directory that is not there: no error")
	}
	l.Write(Event{Event: "four"})
	if got := events(t, file); len(got) != 2 || got[1].Event != "four" {
		t.Errorf("the file has %v", got)
	}
}

// A line that a power loss has cut is ended, so that the next one can be read.
func TestTornLine(t *testing.T) {
	file := filepath.Join(t.TempDir(), "audit.log")
	if err := os.WriteFile(file, []byte("{\"event\":\"one\"}\n{\"eve"), 0o644); err != nil {
		t.Fatal(err)
	}
	l := openAt(t, file, &logtest.Buffer{})
	l.Write(Event{Event: "two"})
	got, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSuffix(string(got), "\n"), "\n")
	if len(lines) != 3 || lines[1] != `{"eve` || !strings.Contains(lines[2], `"event":"two"`) {
		t.Errorf("got %q", lines)
	}
	// Others could read it before.
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v; want 0600", info.Mode(), err)
	}
}

// Lines of many writers do not mix.
func TestConcurrent(t *testing.T) {
	l, file, _ := open(t)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 200 {
				l.Write(Event{Event: "upload", Path: "/" + strings.Repeat("x", 300)})
			}
		})
	}
	wg.Go(func() {
		for range 20 {
			if err := l.Reopen(file); err != nil {
				t.Error(err)
			}
		}
	})
	wg.Wait()
	if got := events(t, file); len(got) != 1600 {
		t.Errorf("%d lines, want 1600", len(got))
	}
}

func TestOpen(t *testing.T) {
	dir := t.TempDir()
	for name, file := range map[string]string{"a directory": dir, "below nothing": filepath.Join(dir, "no", "audit.log"), "no name": ""} {
		if _, err := Open(Config{File: file, Logger: slog.New(slog.DiscardHandler)}); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}
