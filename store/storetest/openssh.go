package storetest

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"os/exec"
	"testing"
	"time"

	"github.com/pkg/sftp"

	"github.com/snapgate/gateway/internal/sftptest"
	"github.com/snapgate/gateway/store/internal/backend"
)

// OpenSSH starts OpenSSH's SFTP server, on pipes, for each connection.
type OpenSSH struct {
	server string
	args   []string
	// Log gets what the server says with "-e"; until the connections are closed. Nil: nobody does.
	Log io.Writer
	// Renaming is called before a connection asks for a RENAME; with an error the connection ends, and the
	// server is not asked. Nil: nothing happens then. It must not change while there are connections.
	Renaming func(from, to string) error
	// Syncing is called before a connection asks for fsync@openssh.com, as Renaming is.
	Syncing func() error
}

// NewOpenSSH returns the server with arguments: "-P", "posix-rename" has it refuse what it could do.
func NewOpenSSH(tb testing.TB, args ...string) *OpenSSH {
	tb.Helper()
	return &OpenSSH{server: sftptest.Server(tb), args: args}
}

// Dial implements backend.SFTPDialer.
func (d *OpenSSH) Dial(context.Context) (*backend.SFTPLink, error) {
	cmd := exec.Command(d.server, d.args...)
	cmd.Stderr = d.Log
	conn, err := sftptest.Start(cmd)
	if err != nil {
		return nil, err
	}
	client, err := sftp.NewClientPipe(conn, &requestWatch{conn, d})
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return &backend.SFTPLink{Client: client, HangUp: conn.Close, Heard: func() time.Time { return time.Time{} }}, nil
}

// requestWatch sees what a client sends. Requests without data come in one piece.
type requestWatch struct {
	io.WriteCloser
	d *OpenSSH
}

func (w *requestWatch) Write(p []byte) (int, error) {
	if err := w.d.asked(p); err != nil {
		return 0, errors.Join(err, w.Close())
	}
	return w.WriteCloser.Write(p)
}

// asked tells of a request, if it is one of those.
func (d *OpenSSH) asked(p []byte) error {
	const fxpRename, fxpExtended, head = 18, 200, 9 // head: the length, the type and the request's id
	if len(p) < head+4 || int(binary.BigEndian.Uint32(p)) != len(p)-4 || p[4] != fxpRename && p[4] != fxpExtended {
		return nil // data comes by itself
	}
	n := int(binary.BigEndian.Uint32(p[head:]))
	if n > len(p)-head-4 {
		return nil
	}
	first, rest := string(p[head+4:head+4+n]), p[head+4+n:]
	switch {
	case p[4] == fxpRename && d.Renaming != nil:
		return d.Renaming(first, string(rest[4:]))
	case p[4] == fxpExtended && first == "fsync@openssh.com" && d.Syncing != nil:
		return d.Syncing()
	}
	return nil
}
