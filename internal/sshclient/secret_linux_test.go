package sshclient

import (
	"context"
	"errors"
	"fmt"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// answerer answers as soon as it sees a question, on the other side of a terminal.
type answerer struct {
	t           *testing.T
	tty, master *os.File
	question    string
	echo        bool // when the question came
}

func (a *answerer) Write(p []byte) (int, error) {
	if a.question != "" {
		return len(p), nil // the end of the line
	}
	a.question = string(p)
	attr, err := unix.IoctlGetTermios(int(a.tty.Fd()), unix.TCGETS)
	if err != nil {
		a.t.Error(err)
		return len(p), nil
	}
	a.echo = attr.Lflag&unix.ECHO != 0
	_, err = a.master.WriteString("open sesame\n")
	return len(p), err
}

// openTerminals returns a new terminal, and where a person would sit.
func openTerminals(t *testing.T) (tty, master *os.File) {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = master.Close() })
	if err := unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	tty, err = os.OpenFile(fmt.Sprint("/dev/pts/", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = tty.Close() })
	return tty, master
}

// echoes reports whether a terminal shows what is typed.
func echoes(t *testing.T, tty *os.File) bool {
	t.Helper()
	attr, err := unix.IoctlGetTermios(int(tty.Fd()), unix.TCGETS)
	if err != nil {
		t.Fatal(err)
	}
	return attr.Lflag&unix.ECHO != 0
}

// What is typed is not shown, however soon.
func TestAskOn(t *testing.T) {
	tty, master := openTerminals(t)
	a := &answerer{t: t, tty: tty, master: master}
	got, err := AskOn(tty, a)(t.Context(), "passphrase of key")
	if err != nil || string(got) != "open sesame" || a.question != "passphrase of key: " {
		t.Errorf("%q to %q, %v", got, a.question, err)
	}
	if a.echo {
		t.Error("the answer is shown")
	}
	if !echoes(t, tty) {
		t.Error("the terminal stays silent")
	}
	if f, err := os.Open(os.DevNull); err != nil || AskOn(f, a) != nil {
		t.Errorf("somebody is asked who is not there: %v", err)
	}
}

// writerFunc is called with what is written.
type writerFunc func(text string)

func (f writerFunc) Write(p []byte) (int, error) {
	f(string(p))
	return len(p), nil
}

// A question that is not to be answered any more ends by itself. What was typed by then is neither the answer to the next one
// nor left to be seen, and the terminal shows again what is typed.
func TestAskOnEnds(t *testing.T) {
	tty, master := openTerminals(t)
	// A question that does not end is answered after a while, or the test would not end either.
	late := time.AfterFunc(30*time.Second, func() { _, _ = master.WriteString("\n") })
	defer late.Stop()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ask := AskOn(tty, writerFunc(func(text string) {
		if text == "\n" { // after the question
			return
		}
		_, err := master.WriteString("too late\n")
		if err == nil { // it must have come
			_, err = unix.Poll([]unix.PollFd{{Fd: int32(tty.Fd()), Events: unix.POLLIN}}, -1)
		}
		if err != nil {
			t.Error(err)
		}
		cancel()
	}))
	if got, err := ask(ctx, "passphrase of key"); got != nil || !errors.Is(err, context.Canceled) {
		t.Errorf("%q, %v, want %v", got, err, context.Canceled)
	}
	if !late.Stop() {
		t.Error("it waits for an answer all the same")
	}
	if !echoes(t, tty) {
		t.Error("the terminal stays silent")
	}
	a := &answerer{t: t, tty: tty, master: master}
	if got, err := AskOn(tty, a)(t.Context(), "again"); err != nil || string(got) != "open sesame" {
		t.Errorf("the next answer is %q, %v", got, err)
	}
}
