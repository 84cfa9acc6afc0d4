package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/snapgate/gateway/cmd/gateway/internal/control"
	"github.com/snapgate/gateway/internal/proctest"
)

// TestPager checks that a pager shows what is printed on a terminal, as PAGER says, and nowhere
// else; what the running gateway prints, too.
func TestPager(t *testing.T) {
	t.Parallel()
	dir, gateway := importedShare(t, map[string]string{"tree/a": "a"})
	testPager(t, gateway)

	server := gateway("serve")
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { // before t.Context ends, which kills it
		if err := errors.Join(server.Process.Signal(syscall.SIGTERM), server.Wait()); err != nil {
			t.Error(err)
		}
	}()
	if _, err := proctest.Wait(t.Context(), readyLimit, func() bool {
		_, err := control.Call(t.Context(), filepath.Join(dir, "data"), control.Request{Op: control.OpPing}, nil)
		return err == nil
	}); err != nil {
		t.Fatal(err)
	}
	testPager(t, gateway)
}

// onTerminal runs a command on a terminal, and returns what a person would see.
func onTerminal(t *testing.T, cmd *exec.Cmd) string {
	t.Helper()
	tty, person := openTerminals(t)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = tty, tty, tty
	if err := cmd.Run(); err != nil {
		t.Error(err)
	}
	if err := tty.Close(); err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(person)
	if err != nil && !errors.Is(err, syscall.EIO) { // nobody has the other side any more
		t.Fatal(err)
	}
	return string(got)
}

func testPager(t *testing.T, gateway func(args ...string) *exec.Cmd) {
	t.Helper()
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
			if got := onTerminal(t, list(tt.pager, tt.command)); got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
	out, err := list("sed 's/^/paged: /'", "ls main").Output()
	if err != nil || strings.Contains(string(out), "paged") {
		t.Errorf("to a pipe: %q, %v", out, err)
	}
}

// TestFilesOnTerminal checks that what files hold reaches neither a terminal nor its pager as it is; what is no
// terminal gets the bytes.
func TestFilesOnTerminal(t *testing.T) {
	t.Parallel()
	dir, gateway := importedShare(t, map[string]string{"tree/a": "plain\n"})
	if err := os.WriteFile(filepath.Join(dir, "tree/a"), []byte("\x1b[8mhidden\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := gateway("import", "tree", "main").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	list, err := gateway("snapshots", "main", "--json").Output()
	if err != nil {
		t.Fatal(err)
	}
	var ids []string
	for d := json.NewDecoder(bytes.NewReader(list)); d.More(); {
		var s struct {
			ID string `json:"id"`
		}
		if err := d.Decode(&s); err != nil {
			t.Fatal(err)
		}
		ids = append(ids, s.ID)
	}
	for command, want := range map[string]string{
		"diff --text " + ids[1] + " " + ids[0]: "paged: +\\x1b[8mhidden\r\n", // the newest is listed first
		"cat main:/a":                          "\\x1b[8mhidden\r\n",         // it has no pager
	} {
		cmd := gateway(strings.Fields(command)...)
		cmd.Env = append(os.Environ(), "PAGER=sed 's/^/paged: /'")
		if got := onTerminal(t, cmd); strings.Contains(got, "\x1b") || !strings.HasSuffix(got, want) {
			t.Errorf("%s: got %q, want %q at the end", command, got, want)
		}
	}
	if got, err := gateway("cat", "main:/a").Output(); err != nil || string(got) != "\x1b[8mhidden\n" {
		t.Errorf("to a pipe: got %q, %v", got, err)
	}
}
