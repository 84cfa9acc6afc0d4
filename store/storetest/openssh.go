package storetest

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/pkg/sftp"

	"github.com/snapgate/gateway/store/internal/backend"
)

// OpenSSH starts OpenSSH's SFTP server, on pipes, for each connection.
type OpenSSH struct {
	server string
	args   []string
	// Renaming is called before a connection asks for a RENAME; with an error the connection ends, and the
	// server is not asked. Nil: nothing happens then. It must not change while there are connections.
	Renaming func(from, to string) error
}

// NewOpenSSH returns the server with arguments: "-P", "posix-rename" has it refuse what it could do.
func NewOpenSSH(tb testing.TB, args ...string) *OpenSSH {
	tb.Helper()
	for _, p := range []string{"/usr/lib/openssh/sftp-server", "/usr/libexec/openssh/sftp-server", "/usr/libexec/sftp-server"} {
		if _, err := os.Stat(p); err == nil {
			return &OpenSSH{server: p, args: args}
		}
	}
	tb.Fatal("OpenSSH's sftp-server is missing: see .ci/packages")
	return nil
}

// Dial implements backend.SFTPDialer.
func (d *OpenSSH) Dial(context.Context) (*backend.SFTPLink, error) {
	cmd := exec.Command(d.server, d.args...)
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
	hangUp := func() error {
		err := cmd.Process.Kill()
		_ = cmd.Wait() // it was killed
		return err
	}
	client, err := sftp.NewClientPipe(out, &renameWatch{in, d.Renaming})
	if err != nil {
		return nil, errors.Join(err, hangUp())
	}
	return &backend.SFTPLink{Client: client, HangUp: hangUp, Heard: func() time.Time { return time.Time{} }}, nil
}

// renameWatch sees what a client sends. Requests without data come in one piece.
type renameWatch struct {
	io.WriteCloser
	renaming func(from, to string) error
}

func (w *renameWatch) Write(p []byte) (int, error) {
	const fxpRename, head = 18, 9 // the length, the type and the request's id
	if w.renaming == nil || len(p) < head || p[4] != fxpRename {
		return w.WriteCloser.Write(p)
	}
	n := int(binary.BigEndian.Uint32(p[head:]))
	if err := w.renaming(string(p[head+4:head+4+n]), string(p[head+4+n+4:])); err != nil {
		return 0, errors.Join(err, w.Close())
	}
	return w.WriteCloser.Write(p)
}
