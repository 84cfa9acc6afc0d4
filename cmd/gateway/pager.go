package main

import (
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/term"
)

// page returns where a command prints to: standard output, or a pager when that is a terminal.
// What is printed may be what somebody has uploaded, so a terminal and a pager get it from an escaper;
// whatever else standard output is gets the bytes. end waits until the pager was left.
func (p *program) page(never bool) (w io.Writer, end func() error, err error) {
	f, ok := p.stdout.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		return p.stdout, func() error { return nil }, nil
	}
	in, left, err := p.startPager(f, never)
	if err != nil {
		return nil, nil, err
	}
	e := &escaper{w: in}
	return e, func() error {
		err := e.flush()
		if errors.Is(err, syscall.EPIPE) { // the pager was left
			err = nil
		}
		return errors.Join(err, left())
	}, nil
}

// startPager starts a pager that shows what is written to it on a terminal, unless never; without one the terminal
// itself is written to. The pager is $PAGER, which a shell runs, or else less; "" and "cat" stand for none. As git
// does, it is told by LESS to leave at once what fits on a screen. left waits until it was left.
func (p *program) startPager(f *os.File, never bool) (in io.Writer, left func() error, err error) {
	none := func() error { return nil }
	if never {
		return f, none, nil
	}
	pager, set := os.LookupEnv("PAGER")
	if _, err := exec.LookPath("less"); !set && err == nil {
		pager = "less"
	}
	if pager = strings.TrimSpace(pager); pager == "" || pager == "cat" {
		return f, none, nil
	}
	// Without a context: whoever presses Ctrl-C ends what is shown, and leaves the pager himself.
	cmd := exec.CommandContext(context.Background(), "sh", "-c", pager)
	cmd.Stdout, cmd.Stderr, cmd.Env = f, p.stderr, pagerEnv(os.Environ())
	pipe, err := cmd.StdinPipe()
	if err != nil {
		return nil, nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, nil, err
	}
	return pipe, func() error {
		cerr := pipe.Close()
		if errors.Is(cerr, os.ErrClosed) {
			cerr = nil
		}
		var exit *exec.ExitError
		if err := cmd.Wait(); err != nil && !errors.As(err, &exit) { // its status is nobody's matter
			return err
		}
		return cerr
	}, nil
}

// pagerEnv adds what less and lv need, where nobody has said anything else.
func pagerEnv(env []string) []string {
	env = slices.Clone(env)
	for _, v := range []string{"LESS=FRX", "LV=-c"} {
		name, _, _ := strings.Cut(v, "=")
		if _, ok := os.LookupEnv(name); !ok {
			env = append(env, v)
		}
	}
	return env
}
