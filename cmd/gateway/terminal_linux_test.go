package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/snapgate/gateway/internal/proctest"
)

// TestPasswordPromptInterrupted checks that whoever ends the prompt with Ctrl-C gets a
// terminal back that shows what is typed.
func TestPasswordPromptInterrupted(t *testing.T) {
	t.Parallel()
	tty := openTerminal(t)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for _, sig := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM} {
		cmd := exec.CommandContext(t.Context(), self, "user", "hash-password")
		cmd.Args[0] = "gateway" // TestMain's command of that name
		cmd.Stdin = tty
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		if _, err := proctest.Wait(t.Context(), readyLimit, func() bool { return !echoes(t, tty) }); err != nil {
			t.Fatalf("the prompt did not turn the echo off: %v", err)
		}
		if err := cmd.Process.Signal(sig); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait() // the state tells
		if got := cmd.ProcessState.Sys().(syscall.WaitStatus); !got.Signaled() || got.Signal() != sig {
			t.Errorf("%v: the command ended with %v", sig, cmd.ProcessState)
		}
		if !echoes(t, tty) {
			t.Errorf("%v: the terminal does not echo any more", sig)
		}
	}
}

// TestPullQuestionInterrupted: a signal ends a question for a password, too, and whoever sits there gets a terminal back that shows
// what is typed.
func TestPullQuestionInterrupted(t *testing.T) {
	t.Parallel()
	_, gateway := importedShare(t, map[string]string{"tree/a": "a"})
	tty := openTerminal(t)
	cmd := gateway("pull", "ftp://alice@127.0.0.1:1/", "--name", "x", "--tls", "off")
	cmd.Stdin, cmd.Stderr = tty, tty
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	kill := time.AfterFunc(readyLimit, func() { _ = cmd.Process.Kill() }) // one that goes on
	defer kill.Stop()
	_, err := proctest.Wait(t.Context(), readyLimit, func() bool { return !echoes(t, tty) })
	if err != nil {
		t.Errorf("it does not ask: %v", err)
	}
	if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Error(err)
	}
	_ = cmd.Wait() // the state tells
	if got := cmd.ProcessState.ExitCode(); got != statusFailure {
		t.Errorf("it ends with %v", cmd.ProcessState)
	}
	if !echoes(t, tty) {
		t.Error("the terminal does not echo any more")
	}
}

// TestRestoreAsks checks that a restore deletes what a person at the terminal agrees to, and
// nothing else.
func TestRestoreAsks(t *testing.T) {
	t.Parallel()
	dir, gateway := importedShare(t, map[string]string{"tree/a": "a", "out/a": "a", "out/extra": "x", "out/more/b": "b"})
	for _, tt := range []struct {
		answer string
		status int
		left   bool
	}{{"n", 1, true}, {"", 1, true}, {"y", 0, false}} {
		tty, person := openTerminals(t)
		cmd := gateway("restore", "main", "--to", "./out", "--delete")
		cmd.Stdin, cmd.Stdout, cmd.Stderr = tty, tty, tty
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		var seen strings.Builder
		buf := make([]byte, 4096)
		for !strings.Contains(seen.String(), "[y/N]") {
			n, err := person.Read(buf)
			if err != nil {
				t.Fatalf("%v after %q", err, seen.String())
			}
			seen.Write(buf[:n])
		}
		if text := seen.String(); !strings.Contains(text, "  /extra\r\n  /more\r\n") || !strings.Contains(text, "delete 2 names, which the snapshot does not have, with all that is below?") {
			t.Errorf("it asks %q", text)
		}
		if _, err := person.WriteString(tt.answer + "\n"); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait() // the state tells
		if got := cmd.ProcessState.ExitCode(); got != tt.status {
			t.Errorf("%q: status %d, want %d", tt.answer, got, tt.status)
		}
		_, ferr := os.Stat(filepath.Join(dir, "out", "extra"))
		_, derr := os.Stat(filepath.Join(dir, "out", "more"))
		if left := ferr == nil && derr == nil; left != tt.left {
			t.Errorf("%q: %v, %v", tt.answer, ferr, derr)
		}
	}
}

// importedShare makes a directory with files and a configuration, imports tree into its share
// main, and returns a function that runs commands there.
func importedShare(t *testing.T, files map[string]string) (dir string, gateway func(args ...string) *exec.Cmd) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir = t.TempDir()
	files["config.yaml"] = "version: 1\ndata_dir: ./data\nverify: { every: never }\nstore: { plaintext: true, create: true }\nshares: { main: {} }\n"
	for name, text := range files {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	gateway = func(args ...string) *exec.Cmd {
		cmd := exec.CommandContext(t.Context(), self, args...)
		cmd.Args[0], cmd.Dir = "gateway", dir
		return cmd
	}
	if out, err := gateway("import", "tree", "main").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return dir, gateway
}

// openTerminal returns a new terminal.
func openTerminal(t *testing.T) *os.File {
	t.Helper()
	tty, _ := openTerminals(t)
	return tty
}

// openTerminals returns a new terminal, and where a person would sit.
func openTerminals(t *testing.T) (tty, person *os.File) {
	t.Helper()
	other, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = other.Close() })
	if err := unix.IoctlSetPointerInt(int(other.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(int(other.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	tty, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = tty.Close() })
	return tty, other
}

func echoes(t *testing.T, tty *os.File) bool {
	t.Helper()
	state, err := unix.IoctlGetTermios(int(tty.Fd()), unix.TCGETS)
	if err != nil {
		t.Fatal(err)
	}
	return state.Lflag&unix.ECHO != 0
}
