package main

import (
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"testing"

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

// openTerminal returns a new terminal.
func openTerminal(t *testing.T) *os.File {
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
	tty, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = tty.Close() })
	return tty
}

func echoes(t *testing.T, tty *os.File) bool {
	t.Helper()
	state, err := unix.IoctlGetTermios(int(tty.Fd()), unix.TCGETS)
	if err != nil {
		t.Fatal(err)
	}
	return state.Lflag&unix.ECHO != 0
}
