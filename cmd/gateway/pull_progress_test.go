package main

import (
	"bytes"
	"context"
	"testing"
	"time"

	"github.com/snapgate/gateway/pull"
)

func TestFit(t *testing.T) {
	for _, tt := range []struct {
		text    string
		columns int
		want    string
	}{
		{"short", 10, "short"},
		{"web1: 3 files, /a/very/long/path/to/a/file.txt", 30, "web1: 3 files, /a/v…a/file.txt"},
		{"web1: 3 files, /ä/very/long/päth/to/a/file.txt", 30, "web1: 3 files, /ä/v…a/file.txt"},
		{"nothing fits here, /path", 10, "nothing fi"},
		{"x", 0, ""},
	} {
		if got := fit(tt.text, tt.columns); got != tt.want {
			t.Errorf("%q in %d columns: %q, want %q", tt.text, tt.columns, got, tt.want)
		}
	}
}

// What is written while a line of progress is drawn comes above it, and nothing of it stays.
func TestLiveLine(t *testing.T) {
	var out bytes.Buffer
	l := &liveLine{out: &out, columns: func() int { return 23 }}
	l.draw("half of it, /some/long/path")
	l.draw("half of it, /some/long/path") // nothing new
	if _, err := l.Write([]byte("a warning\n")); err != nil {
		t.Fatal(err)
	}
	ask := l.asking(func(context.Context, string) ([]byte, error) {
		l.draw("while somebody types")
		return []byte("secret"), nil
	})
	if answer, err := ask(t.Context(), "?"); string(answer) != "secret" || err != nil {
		t.Errorf("%q, %v", answer, err)
	}
	l.draw("all of it")
	l.draw("")
	const line = "half of it, /so…g/path"
	want := clearLine + line + clearLine + "a warning\n" + line + clearLine + clearLine + "all of it" + clearLine
	if out.String() != want {
		t.Errorf("got %q, want %q", out.String(), want)
	}
	if (&liveLine{}).asking(nil) != nil {
		t.Error("a question for nobody")
	}
}

func TestRemaining(t *testing.T) {
	minute := pace{elapsed: time.Minute, bytes: 1 << 20, files: 10}
	for _, tt := range []struct {
		name string
		p    pull.Progress
		at   pace
		want time.Duration // 0: nothing is known
	}{
		{"too early", pull.Progress{Listed: true, WantedBytes: 1 << 30}, pace{elapsed: time.Second, bytes: 1 << 20}, 0},
		{"large files", pull.Progress{Listed: true, Moved: 40 << 20, WantedBytes: 100 << 20, Wanted: 10}, minute, time.Minute},
		{"small files", pull.Progress{Listed: true, Moved: 1 << 20, WantedBytes: 2 << 20, Wanted: 1200}, minute, 2 * time.Minute},
		{"nothing moves", pull.Progress{Listed: true, WantedBytes: 1}, pace{elapsed: time.Minute}, 0},
		{"first listing", pull.Progress{Counts: pull.Counts{Files: 1000}}, minute, 0},
		{"half listed", pull.Progress{Counts: pull.Counts{Files: 1000}, Expected: 2000}, minute, time.Minute},
		{"more than expected", pull.Progress{Counts: pull.Counts{Files: 3000}, Expected: 2000}, minute, 0},
		{"for ever", pull.Progress{Listed: true, WantedBytes: 1 << 60}, minute, 0},
	} {
		if got, ok := remaining(tt.p, tt.at); got != tt.want || ok != (tt.want > 0) {
			t.Errorf("%s: %v, %v; want %v", tt.name, got, ok, tt.want)
		}
	}
}

func TestProgressText(t *testing.T) {
	p := pull.Progress{
		Counts: pull.Counts{Files: 1200, Read: 3, Problems: 2}, Moved: 3 << 20, Wanted: 10, WantedBytes: 63 << 20, Path: "/a\nb",
	}
	at := pace{elapsed: time.Minute, bytes: 1 << 20}
	if got, want := progressText(p, at), `1200 files found, 3 read, 3.0 MiB, 2 problems, 1.0 MiB/s, "/a\nb"`; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	p.Listed = true
	if got, want := progressText(p, at), `3 of 10 files, 3.0 MiB of 63 MiB, 2 problems, 1.0 MiB/s, 60 s left, "/a\nb"`; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestRateMeter(t *testing.T) {
	var m rateMeter
	now := time.Date(2026, 7, 1, 0, 0, 0, 0, time.UTC)
	if got := m.add(now, 100); got != 0 {
		t.Errorf("at first: %v", got)
	}
	for i := range 100 {
		m.add(now.Add(time.Duration(i)*time.Second), int64(100+10*i))
	}
	if got := m.add(now.Add(100*time.Second), 1100); got != 10 {
		t.Errorf("got %v a second, want 10", got)
	}
	for i := range 20 { // it stands still
		m.add(now.Add(time.Duration(101+i)*time.Second), 1100)
	}
	if got := m.add(now.Add(121*time.Second), 1100); got != 0 || len(m.times) > 15 {
		t.Errorf("got %v a second, of %d values", got, len(m.times))
	}
}

func TestRoughly(t *testing.T) {
	for d, want := range map[time.Duration]string{
		1400 * time.Millisecond: "1 s", 80 * time.Second: "80 s", 150 * time.Second: "3 min", 100 * time.Minute: "1.7 h",
	} {
		if got := roughly(d); got != want {
			t.Errorf("%v: %q, want %q", d, got, want)
		}
	}
}
