package sshclient

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"time"

	"golang.org/x/sys/unix"
	"golang.org/x/term"
)

// Secret says where a password or passphrase comes from; the first of Bytes, File, Env and
// Ask that is set is used. It prints as "[secret]" whatever the verb.
type Secret struct {
	Bytes []byte
	File  string // its first line
	Env   string // name of an environment variable
	// Ask asks a person. It must be nil when nobody is there, and must end when ctx does.
	Ask func(ctx context.Context, question string) ([]byte, error)
}

// maxSecret is the longest secret that is read from a file, in bytes.
const maxSecret = 64 << 10

// IsZero reports whether there is no source.
func (s Secret) IsZero() bool { return s.Bytes == nil && s.File == "" && s.Env == "" && s.Ask == nil }

// Format prints no secret.
func (s Secret) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, "[secret]") }

// LogValue logs no secret.
func (s Secret) LogValue() slog.Value { return slog.StringValue("[secret]") }

// PEM is the text of a private key. It prints as "[private key]".
type PEM []byte

// Format prints no key.
func (p PEM) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, "[private key]") }

// LogValue logs no key.
func (p PEM) LogValue() slog.Value { return slog.StringValue("[private key]") }

// Get gets the secret, from a person with a question. The caller must not change it.
func (s Secret) Get(ctx context.Context, question string) ([]byte, error) {
	return s.read(ctx, os.Getenv, question)
}

// read gets the secret. The caller must not change it.
func (s Secret) read(ctx context.Context, getenv func(string) string, question string) ([]byte, error) {
	switch {
	case s.Bytes != nil:
		return s.Bytes, nil
	case s.File != "":
		return readSecret(s.File)
	case s.Env != "":
		if v := getenv(s.Env); v != "" {
			return []byte(v), nil
		}
		return nil, configError("environment variable %s is empty", s.Env)
	case s.Ask != nil:
		return s.Ask(ctx, question)
	}
	return nil, configError("no password or passphrase")
}

func readSecret(file string) ([]byte, error) {
	data, err := readLimited(file, maxSecret)
	if err != nil {
		return nil, configError("reading a secret: %w", err)
	}
	line, _, _ := bytes.Cut(data, []byte("\n"))
	if line = bytes.TrimSuffix(line, []byte("\r")); len(line) == 0 {
		return nil, configError("reading a secret: %s: its first line is empty", file)
	}
	return line, nil
}

// AskOn returns a function for Secret.Ask that asks on a terminal without echo, or nil when
// in is no terminal. The question goes to out. When ctx ends the function returns its error, soon: what was typed by then is
// dropped, and the terminal is as it was, for whoever uses it next.
func AskOn(in *os.File, out io.Writer) func(ctx context.Context, question string) ([]byte, error) {
	if in == nil || !term.IsTerminal(int(in.Fd())) {
		return nil
	}
	return func(ctx context.Context, question string) ([]byte, error) {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		// Before the question is shown: a program that waits for it answers at once.
		restore, err := noEcho(int(in.Fd()))
		if err != nil {
			return nil, err
		}
		fmt.Fprintf(out, "%s: ", question)
		defer fmt.Fprintln(out)
		if err := awaitLine(ctx, int(in.Fd())); err != nil {
			restore(setTerminalAfresh)
			return nil, err
		}
		defer restore(setTerminal)
		return term.ReadPassword(int(in.Fd()))
	}
}

// answerPoll is between two looks whether an answer is still wanted.
const answerPoll = 50 * time.Millisecond

// awaitLine waits until a terminal has a line to read, or the end of ctx, whose error it returns. A read itself cannot be ended,
// and one that is left behind would take the answer to the next question.
func awaitLine(ctx context.Context, fd int) error {
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		var lines unix.FdSet // not poll: that knows no terminals on macOS
		lines.Set(fd)
		wait := unix.NsecToTimeval(int64(answerPoll))
		n, err := unix.Select(fd+1, &lines, nil, nil, &wait)
		switch {
		case n > 0:
			return ctx.Err()
		case err != nil && !errors.Is(err, unix.EINTR):
			return err
		}
	}
}

// noEcho has a terminal not show what is typed, and give whole lines, until restore is called with setTerminal, or with
// setTerminalAfresh to have it forget what was typed and not read.
func noEcho(fd int) (restore func(how uint), err error) {
	before, err := unix.IoctlGetTermios(fd, getTerminal)
	if err != nil {
		return nil, err
	}
	quiet := *before
	quiet.Lflag &^= unix.ECHO
	quiet.Lflag |= unix.ICANON | unix.ISIG
	quiet.Iflag |= unix.ICRNL
	if err := unix.IoctlSetTermios(fd, setTerminal, &quiet); err != nil {
		return nil, err
	}
	return func(how uint) { _ = unix.IoctlSetTermios(fd, how, before) }, nil
}

// readLimited reads a file of at most limit bytes.
func readLimited(file string, limit int64) ([]byte, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(data)) > limit {
		return nil, fmt.Errorf("%s: %w", file, errTooLarge)
	}
	return data, nil
}
