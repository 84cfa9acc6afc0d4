package sshclient

import (
	"fmt"
	"os"
	"testing"

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

// What is typed is not shown, however soon.
func TestAskOn(t *testing.T) {
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer master.Close()
	if err := unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	tty, err := os.OpenFile(fmt.Sprint("/dev/pts/", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer tty.Close()
	a := &answerer{t: t, tty: tty, master: master}
	got, err := AskOn(tty, a)(t.Context(), "passphrase of key")
	if err != nil || string(got) != "open sesame" || a.question != "passphrase of key: " {
		t.Errorf("%q to %q, %v", got, a.question, err)
	}
	if a.echo {
		t.Error("the answer is shown")
	}
	attr, err := unix.IoctlGetTermios(int(tty.Fd()), unix.TCGETS)
	if err != nil || attr.Lflag&unix.ECHO == 0 {
		t.Errorf("the terminal stays silent: %v", err)
	}
	if f, err := os.Open(os.DevNull); err != nil || AskOn(f, a) != nil {
		t.Errorf("somebody is asked who is not there: %v", err)
	}
}
