package main

import (
	"bytes"
	"context"
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
	} {
		t.Run(strings.Join(args, " "), func(t *testing.T) {
			var stdout, stderr bytes.Buffer
			p := &program{stdin: strings.NewReader(""), stdout: &stdout, stderr: &stderr}
			if got := p.run(ended, append(args, "-c", file)); got != statusFailure {
				t.Errorf("status %d, want %d", got, statusFailure)
			}
			first, _, _ := strings.Cut(stderr.String(), "\n")
			if want := "gateway: " + args[0] + ": interrupted"; first != want {
				t.Errorf("it says %q, want %q", first, want)
			}
		})
	}
}
