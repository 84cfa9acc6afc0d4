package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/snapgate/gateway/cmd/gateway/internal/auth"
	"github.com/snapgate/gateway/cmd/gateway/internal/config"
)

// maxPassword bounds what is read as a password.
const maxPassword = 4096

func (p *program) hashPasswordCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "hash-password",
		Short: "Hash a password for password_hash",
		Long: `Reads a password, from the terminal without showing it or else the first line of
standard input, and prints its argon2id hash alone on the last line.`,
		Example: `  gateway user hash-password
  pass show fw01 | gateway user hash-password | tail -n 1`,
		Args: arguments(0, 0),
		RunE: func(*cobra.Command, []string) error { return p.hashPassword() },
	}
}

func (p *program) hashPassword() error {
	password, err := p.readPassword()
	if err != nil {
		return fmt.Errorf("read password: %w", err)
	}
	hash, err := auth.HashPassword(password)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(p.stdout, hash)
	return err
}

// readPassword asks twice on a terminal; elsewhere it takes the first line.
func (p *program) readPassword() ([]byte, error) {
	f, ok := p.stdin.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		line, err := bufio.NewReader(io.LimitReader(p.stdin, maxPassword+2)).ReadBytes('\n')
		if err != nil && !errors.Is(err, io.EOF) {
			return nil, err
		}
		line = bytes.TrimSuffix(bytes.TrimSuffix(line, []byte("\n")), []byte("\r"))
		switch {
		case len(line) == 0:
			return nil, &hintedError{err: errors.New("it is empty"), hint: "give the password as the first line of standard input"}
		case len(line) > maxPassword:
			return nil, fmt.Errorf("it is longer than %d bytes", maxPassword)
		}
		return line, nil
	}
	first, err := p.ask(f, "password: ")
	if err != nil {
		return nil, err
	}
	second, err := p.ask(f, "again: ")
	if err != nil {
		return nil, err
	}
	switch {
	case len(first) == 0:
		return nil, errors.New("it is empty")
	case !bytes.Equal(first, second):
		return nil, errors.New("the two are not the same")
	}
	return first, nil
}

// ask reads a line without echo. A signal ends the process; before that the terminal gets
// back the echo that it had.
func (p *program) ask(tty *os.File, prompt string) ([]byte, error) {
	state, err := term.GetState(int(tty.Fd()))
	if err != nil {
		return nil, err
	}
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	done := make(chan struct{})
	defer close(done)
	defer signal.Stop(signals)
	go func() {
		select {
		case <-done:
		case s := <-signals:
			_ = term.Restore(int(tty.Fd()), state) // it is all that can be done
			_, _ = fmt.Fprintln(p.stderr)
			signal.Reset(s)
			_ = syscall.Kill(os.Getpid(), s.(syscall.Signal))
		}
	}()
	_, _ = fmt.Fprint(p.stderr, prompt)
	b, err := term.ReadPassword(int(tty.Fd()))
	_, _ = fmt.Fprintln(p.stderr)
	if errors.Is(err, io.EOF) {
		err = errors.New("the terminal gave none")
	}
	return b, err
}

func (p *program) userListCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "List the users of the configuration",
		Long: `Lists the users of the configuration: what they see of which share, what they may do,
how they log in, and what keeps them out. A source can only be read, whatever a user may do.`,
		Example: "  gateway user list -c /etc/gateway.yaml",
		Args:    arguments(0, 0),
		RunE:    func(*cobra.Command, []string) error { return p.userList() },
	}
}

func (p *program) userList() error {
	cfg, err := p.load()
	if err != nil {
		return err
	}
	w := tabwriter.NewWriter(p.stdout, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(w, "USER\tSHARES\tPERMISSIONS\tLOGIN\tSTATE")
	for i := range cfg.Users {
		u := &cfg.Users[i]
		_, _ = fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", u.Name, userShares(cfg, u), u.Permissions, userLogin(u), userState(u))
	}
	return w.Flush() // keeps the errors of the lines
}

// userShares is "main", "main:/in" with a root, and "/mount=share" for several; a source is
// "web(read-only)".
func userShares(cfg *config.Config, u *config.User) string {
	var out []string
	for _, m := range u.Principal.Mounts {
		share := m.Share
		if _, ok := cfg.Source(share); ok {
			share += "(read-only)"
		}
		switch {
		case !m.At.IsRoot():
			out = append(out, m.At.String()+"="+share)
		case !m.Root.IsRoot():
			out = append(out, share+":"+m.Root.String())
		default:
			out = append(out, share)
		}
	}
	return strings.Join(out, ",")
}

func userLogin(u *config.User) string {
	var out []string
	if !u.Hash.IsZero() {
		out = append(out, "password")
	}
	if n := len(u.Keys); n > 0 {
		out = append(out, count(n, "key", "keys"))
	}
	return joinOr(out, "none")
}

func userState(u *config.User) string {
	var out []string
	if u.Disabled {
		out = append(out, "disabled")
	}
	if !u.Expires.IsZero() {
		word := "expires "
		if !time.Now().Before(u.Expires) {
			word = "expired "
		}
		out = append(out, word+u.Expires.UTC().Format(time.RFC3339))
	}
	if len(u.AllowFrom) > 0 {
		nets := make([]string, len(u.AllowFrom))
		for i, p := range u.AllowFrom {
			nets[i] = p.String()
		}
		out = append(out, "from "+strings.Join(nets, ","))
	}
	return joinOr(out, "active")
}
