package main

import (
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// TestPager checks that a pager shows what is printed on a terminal, as PAGER says, and nowhere
// else.
func TestPager(t *testing.T) {
	t.Parallel()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for name, text := range map[string]string{
		"config.yaml": "version: 1\ndata_dir: ./data\nstore: { plaintext: true, create: true }\nshares: { main: {} }\n",
		"tree/a":      "a",
	} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	gateway := func(pager string, args ...string) *exec.Cmd {
		cmd := exec.CommandContext(t.Context(), self, args...)
		cmd.Args[0], cmd.Dir = "gateway", dir
		cmd.Env = append(os.Environ(), "PAGER="+pager)
		return cmd
	}
	if out, err := gateway("", "import", "tree", "main").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for _, tt := range []struct {
		name, pager, flag string
		want              string
	}{
		{"a command", "sed 's/^/paged: /'", "", "paged: a\r\n"},
		{"with what less is told", "sed \"s/^/$LESS $LV /\"", "", "FRX -c a\r\n"},
		{"none", "", "", "a\r\n"},
		{"cat", "cat", "", "a\r\n"},
		{"not wanted", "sed 's/^/paged: /'", "--no-pager", "a\r\n"},
		{"left before the end", "exit 3", "", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tty, person := openTerminals(t)
			args := []string{"ls", "main"}
			if tt.flag != "" {
				args = append(args, tt.flag)
			}
			cmd := gateway(tt.pager, args...)
			cmd.Stdin, cmd.Stdout, cmd.Stderr = tty, tty, tty
			err := cmd.Run()
			if err != nil {
				t.Error(err)
			}
			if err := tty.Close(); err != nil {
				t.Fatal(err)
			}
			got, err := io.ReadAll(person)
			if err != nil && !errors.Is(err, syscall.EIO) { // nobody has the other side any more
				t.Fatal(err)
			}
			if string(got) != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
	cmd := gateway("sed 's/^/paged: /'", "ls", "main")
	out, err := cmd.Output()
	if err != nil || strings.Contains(string(out), "paged") {
		t.Errorf("to a pipe: %q, %v", out, err)
	}
}
