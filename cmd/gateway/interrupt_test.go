package main

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A command that is interrupted while it opens the store says so, and not what of the store was cut off by that.
func TestInterrupted(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "config.yaml")
	text := `version: 1
data_dir: ` + dir + `/data
store: { location: ` + dir + `/store, plaintext: true }
stores: { other: { location: ` + dir + `/other, plaintext: true } }
sources: { tree: { location: ` + dir + ` } }
shares: { main: {} }
`
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"store", "create"}, {"store", "create", "other"}} {
		var stderr bytes.Buffer
		p := &program{stdin: strings.NewReader(""), stdout: &stderr, stderr: &stderr, cheapKDF: true}
		if status := p.run(t.Context(), append(args, "-c", file)); status != statusOK {
			t.Fatalf("%q: %d: %s", args, status, stderr.String())
		}
	}
	ended, end := context.WithCancel(t.Context())
	end()
	for _, args := range [][]string{
		{"pull", "tree"},
		{"pull", "tree", "--dry-run"},
		{"restore", "tree", "--to", filepath.Join(dir, "to")},
		{"sync", "--to", "other"},
		{"scrub"},
		{"maintain"},
		{"maintain", "other"},
		{"prune"},
		{"prune", "--dry-run"},
		{"ls", "tree"},
		{"find", "tree", "x"},
		{"check"},
		{"check", "tree"},
		{"store", "check"},
		{"store", "check", "other"},
		{"store", "info"},
		{"store", "list"},
		{"snapshots"},
		{"snapshots", "--store", "other"},
		{"import", dir, "main"},
		{"pin", "tree"},
		{"unpin", "tree"},
		{"pins"},
	} {
		t.Run(strings.Join(args, " "), func(t *testing.T) {
			var stdout, stderr bytes.Buffer
			p := &program{stdin: strings.NewReader(""), stdout: &stdout, stderr: &stderr}
			if got := p.run(ended, append(args, "-c", file)); got != statusFailure {
				t.Errorf("status %d, want %d", got, statusFailure)
			}
			first, _, _ := strings.Cut(stderr.String(), "\n")
			name := args[0]
			if name == "store" {
				name += " " + args[1]
			}
			if want := "gateway: " + name + ": interrupted"; first != want {
				t.Errorf("it says %q, want %q", first, want)
			}
		})
	}
}

// endingWriter ends a context with the nth thing that is written.
type endingWriter struct {
	bytes.Buffer
	nth int
	end func()
}

func (w *endingWriter) Write(p []byte) (int, error) {
	if w.nth--; w.nth == 0 {
		w.end()
	}
	return w.Buffer.Write(p)
}

// A pull of several sources that is interrupted when one of them is done says that others are not; when that was the last one,
// nothing is left out.
func TestPullInterruptedBetweenSources(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "config.yaml")
	text := `version: 1
data_dir: ./data
store: { plaintext: true, create: true }
sources:
  a: { location: ./tree }
  b: { location: ./tree }
  odd: { location: ./odd } # cannot be captured whole
`
	for name, text := range map[string]string{"config.yaml": text, "tree/file": "text", "odd/\xffname": "text"} {
		name = filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(name), 0o755), os.WriteFile(name, []byte(text), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	const oddText = "odd: 1 path could not be captured as it is"
	for _, tt := range []struct {
		args   []string
		done   int // sources, when the signal comes
		status int
		stderr []string
	}{
		{[]string{"--all"}, 1, statusFailure, []string{"gateway: pull: interrupted\nhint: not pulled: b, odd\n"}},
		{[]string{"odd", "a"}, 1, statusFailure, []string{oddText, "gateway: pull: interrupted\nhint: not pulled: a\n"}},
		{[]string{"a", "b"}, 2, statusOK, nil},
		{[]string{"a", "odd"}, 2, statusPartial, []string{oddText, "gateway: pull: 1 of 2 sources could not be captured whole\n"}},
		{[]string{"odd"}, 1, statusPartial, []string{oddText}},
	} {
		t.Run(strings.Join(tt.args, " "), func(t *testing.T) {
			ctx, interrupt := context.WithCancel(t.Context())
			defer interrupt()
			stdout := &endingWriter{nth: tt.done, end: interrupt}
			var stderr bytes.Buffer
			p := &program{stdin: strings.NewReader(""), stdout: stdout, stderr: &stderr, cheapKDF: true}
			if got := p.run(ctx, append([]string{"pull", "-c", file}, tt.args...)); got != tt.status {
				t.Errorf("status %d, want %d\n%s", got, tt.status, &stderr)
			}
			if got := strings.Count(stdout.String(), "\n"); got != tt.done {
				t.Errorf("%d sources were pulled, want %d: %q", got, tt.done, stdout)
			}
			for _, want := range tt.stderr {
				if !strings.Contains(stderr.String(), want) {
					t.Errorf("it does not say %q: %q", want, &stderr)
				}
			}
			if tt.stderr == nil && strings.Contains(stderr.String(), "gateway: ") {
				t.Errorf("it says %q", &stderr)
			}
		})
	}
}
