// Package sftptest runs OpenSSH's SFTP server on pipes, for tests of clients.
package sftptest

import (
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"testing"
)

// Server returns where OpenSSH's SFTP server is. Without it the test fails.
func Server(tb testing.TB) string {
	tb.Helper()
	for _, p := range []string{"/usr/lib/openssh/sftp-server", "/usr/libexec/openssh/sftp-server", "/usr/libexec/sftp-server"} {
		if _, err := os.Stat(p); err == nil {
			return p
		}
	}
	tb.Fatal("OpenSSH's sftp-server is missing: see .ci/packages")
	return ""
}

// Dialer returns what starts OpenSSH's SFTP server, with arguments, for each connection; see Start.
func Dialer(tb testing.TB, args ...string) func(context.Context) (io.ReadWriteCloser, error) {
	tb.Helper()
	server := Server(tb)
	return func(context.Context) (io.ReadWriteCloser, error) { return Start(exec.Command(server, args...)) }
}

// Start starts a server on pipes, and returns the connection to it. When the server ends by itself, reading ends with
// io.ErrUnexpectedEOF. Close kills it and waits for its end; it may be called again, and beside Read and Write.
func Start(cmd *exec.Cmd) (io.ReadWriteCloser, error) {
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	rd, w := io.Pipe()
	p := &process{Reader: rd, WriteCloser: in, unread: rd, cmd: cmd, done: make(chan struct{})}
	go func() {
		defer close(p.done)
		_, err := io.Copy(w, out)
		_ = w.CloseWithError(errors.Join(err, io.ErrUnexpectedEOF))
		_ = cmd.Wait() // it was killed, mostly
	}()
	return p, nil
}

type process struct {
	io.Reader
	io.WriteCloser
	unread io.Closer // Reader
	cmd    *exec.Cmd
	done   chan struct{} // closed at its end
}

func (p *process) Close() error {
	err := p.cmd.Process.Kill()
	if errors.Is(err, os.ErrProcessDone) {
		err = nil
	}
	_ = p.WriteCloser.Close() // its end does so, too
	err = errors.Join(err, p.unread.Close())
	<-p.done
	return err
}
