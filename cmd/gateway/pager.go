package main

import (
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"

	"golang.org/x/term"
)

// page returns where a command prints to: standard output, or a pager when that is a terminal.
// The pager is $PAGER, which a shell runs, or else less; "" and "cat" stand for none. As git
// does, it is told by LESS to leave at once what fits on a screen. end waits until it was left.
func (p *program) page(never bool) (w io.Writer, end func() error, err error) {
	none := func() error { return nil }
	f, ok := p.stdout.(*os.File)
	if never || !ok || !term.IsTerminal(int(f.Fd())) {
		return p.stdout, none, nil
	}
	pager, set := os.LookupEnv("PAGER")
	if _, err := exec.LookPath("less"); !set && err == nil {
		pager = "less"
	}
	if pager = strings.TrimSpace(pager); pager == "" || pager == "cat" {
		return p.stdout, none, nil
	}
	// Without a context: whoever presses Ctrl-C ends what is shown, and leaves the pager himself.
	cmd := exec.CommandContext(context.Background(), "sh", "-c", pager)
	cmd.Stdout, cmd.Stderr, cmd.Env = f, p.stderr, pagerEnv(os.Environ())
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, nil, err
	}
	return in, func() error {
		cerr := in.Close()
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
