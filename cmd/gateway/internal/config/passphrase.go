package config

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"time"
)

// passphraseTimeout is how long a passphrase_command may take: long enough for a
// password manager to ask its server, short enough that a start does not hang.
const passphraseTimeout = 30 * time.Second

// maxPassphraseBytes bounds what is read; it is far above any passphrase.
const maxPassphraseBytes = 64 << 10

// ErrPassphrase means that the passphrase could not be had, or is empty.
var ErrPassphrase = errors.New("no passphrase")

// Passphrase gets the passphrase from where the configuration says. One trailing newline
// of a file, or of a command's output, is not part of it; a variable is taken as it is.
// It returns nil for a plaintext store. A command runs in the directory of the
// configuration file, with the gateway's environment and standard error, without a shell.
func (s *Store) Passphrase(ctx context.Context) ([]byte, error) {
	var secret []byte
	var err error
	switch {
	case s.Plaintext:
		return nil, nil
	case s.PassphraseFile != "":
		secret, err = passphraseFile(s.PassphraseFile)
	case s.PassphraseEnv != "":
		value, ok := os.LookupEnv(s.PassphraseEnv)
		if !ok {
			return nil, fmt.Errorf("%w: environment variable %s is not set", ErrPassphrase, s.PassphraseEnv)
		}
		secret = []byte(value)
	default:
		secret, err = s.passphraseCommand(ctx)
	}
	if err != nil {
		return nil, err
	}
	if len(secret) == 0 {
		return nil, fmt.Errorf("%w: %s is empty", ErrPassphrase, s.passphraseSource())
	}
	return secret, nil
}

// passphraseSource names where the passphrase comes from, for messages.
func (s *Store) passphraseSource() string {
	switch {
	case s.PassphraseFile != "":
		return s.PassphraseFile
	case s.PassphraseEnv != "":
		return "environment variable " + s.PassphraseEnv
	}
	return "the output of " + s.PassphraseCommand[0]
}

func passphraseFile(name string) ([]byte, error) {
	data, err := readSecret(name)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrPassphrase, err)
	}
	return bytes.TrimSuffix(data, []byte("\n")), nil
}

// readSecret reads a small file.
func readSecret(name string) ([]byte, error) {
	info, err := os.Stat(name)
	if err != nil {
		return nil, err
	}
	if info.Size() > maxPassphraseBytes {
		return nil, fmt.Errorf("%s is too large", name)
	}
	return os.ReadFile(name)
}

func (s *Store) passphraseCommand(ctx context.Context) ([]byte, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, passphraseTimeout,
		fmt.Errorf("no answer within %v", passphraseTimeout))
	defer cancel()
	cmd := exec.CommandContext(ctx, s.PassphraseCommand[0], s.PassphraseCommand[1:]...)
	cmd.Dir = s.dir
	cmd.Stderr = os.Stderr
	cmd.WaitDelay = time.Second // its children may hold the pipe open
	out, err := cmd.Output()
	if err != nil {
		if cause := context.Cause(ctx); cause != nil {
			err = cause
		}
		return nil, fmt.Errorf("%w: passphrase_command %s: %w", ErrPassphrase, s.PassphraseCommand[0], err)
	}
	return bytes.TrimSuffix(out, []byte("\n")), nil
}
