package main

import (
	"bytes"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// TestPullOnATerminal: a line of progress is drawn, is gone at the end, and comes neither into
// the output nor onto anything but a terminal.
func TestPullOnATerminal(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	config := "version: 1\ndata_dir: ./data\nstore: { plaintext: true, create: true }\nsources: { web1: { location: ./tree, bandwidth: 1MiB } }\n"
	if err := os.Mkdir(filepath.Join(dir, "tree"), 0o755); err != nil {
		t.Fatal(err)
	}
	for name, data := range map[string]string{"config.yaml": config, "tree/file": strings.Repeat("0123456789", 120_000)} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(data), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	pull := func(stderr io.Writer) (stdout string) {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), self, "pull", "web1")
		cmd.Args[0] = "gateway" // TestMain's command of that name
		var out bytes.Buffer
		cmd.Dir, cmd.Stdout, cmd.Stderr = dir, &out, stderr
		if err := cmd.Run(); err != nil {
			t.Fatal(err)
		}
		if !regexp.MustCompile(`^[0-9a-f]{64}\n$`).MatchString(out.String()) {
			t.Errorf("the output is %q", out.String())
		}
		return out.String()
	}

	tty, master := openTerminals(t)
	seen := make(chan string)
	go func() {
		var b bytes.Buffer
		_, err := io.Copy(&b, master)
		if err != nil && !errors.Is(err, syscall.EIO) { // the other side is closed
			b.WriteString(err.Error())
		}
		seen <- b.String()
	}()
	if err := unix.IoctlSetWinsize(int(tty.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: 24, Col: 60}); err != nil {
		t.Fatal(err)
	}
	pull(tty)
	_ = tty.Close()
	text := <-seen
	lines := strings.Split(text, clearLine)
	drawn := 0
	for _, line := range lines[1:] {
		line, _, _ = strings.Cut(line, "\r\n")
		if len([]rune(line)) > 59 {
			t.Errorf("a line is too long for the terminal: %q", line)
		}
		if strings.Contains(line, "1 of 1 file, ") && strings.Contains(line, " of 1.1 MiB") || strings.Contains(line, "0 of 1 file, ") {
			drawn++
		}
	}
	if drawn < 2 {
		t.Errorf("no progress is shown: %q", text)
	}
	if last := lines[len(lines)-1]; !strings.HasPrefix(last, "web1: a new snapshot\r\n") {
		t.Errorf("the line of progress stays: %q", last)
	}

	if err := os.RemoveAll(filepath.Join(dir, "data")); err != nil {
		t.Fatal(err)
	}
	var plain bytes.Buffer
	pull(&plain)
	if text := plain.String(); !strings.HasPrefix(text, "web1: a new snapshot\n") || strings.ContainsAny(text, "\r\x1b") {
		t.Errorf("without a terminal: %q", text)
	}
}
