package main

import (
	"errors"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
)

// TestPager checks that a pager shows what is printed on a terminal, as PAGER says, and nowhere
// else.
func TestPager(t *testing.T) {
	t.Parallel()
	_, gateway := importedShare(t, map[string]string{"tree/a": "a"})
	list := func(pager, command string) *exec.Cmd {
		cmd := gateway(strings.Fields(command)...)
		cmd.Env = append(os.Environ(), "PAGER="+pager, "LESS=FRX", "LV=-c")
		return cmd
	}
	for _, tt := range []struct {
		name, pager, command string
		want                 string
	}{
		{"a command", "sed 's/^/paged: /'", "ls main", "paged: a\r\n"},
		{"with what less is told", "sed \"s/^/$LESS $LV /\"", "ls main", "FRX -c a\r\n"},
		{"none", "", "ls main", "a\r\n"},
		{"cat", "cat", "ls main", "a\r\n"},
		{"not wanted", "sed 's/^/paged: /'", "ls main --no-pager", "a\r\n"},
		{"left before the end", "exit 3", "ls main", ""},
		{"snapshots", "sed 's/ .*/ paged/'", "snapshots", "SHARE paged\r\nmain paged\r\n"},
		{"snapshots, left before the end", "exit 3", "snapshots", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tty, person := openTerminals(t)
			cmd := list(tt.pager, tt.command)
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
	out, err := list("sed 's/^/paged: /'", "ls main").Output()
	if err != nil || strings.Contains(string(out), "paged") {
		t.Errorf("to a pipe: %q, %v", out, err)
	}
}
