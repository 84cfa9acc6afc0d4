package storetest

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"testing"
	"time"

	"github.com/pkg/sftp"

	"github.com/snapgate/gateway/internal/sftptest"
	"github.com/snapgate/gateway/store/internal/backend"
)

// OpenSSH starts OpenSSH's SFTP server, on pipes, for each connection.
type OpenSSH struct {
	dial func(context.Context) (io.ReadWriteCloser, error)
	// Renaming is called before a connection asks for a RENAME; with an error the connection ends, and the
	// server is not asked. Nil: nothing happens then. It must not change while there are connections.
	Renaming func(from, to string) error
}

// NewOpenSSH returns the server with arguments: "-P", "posix-rename" has it refuse what it could do.
func NewOpenSSH(tb testing.TB, args ...string) *OpenSSH {
	tb.Helper()
	return &OpenSSH{dial: sftptest.Dialer(tb, args...)}
}

// Dial implements backend.SFTPDialer.
func (d *OpenSSH) Dial(ctx context.Context) (*backend.SFTPLink, error) {
	conn, err := d.dial(ctx)
	if err != nil {
		return nil, err
	}
	client, err := sftp.NewClientPipe(conn, &renameWatch{conn, d.Renaming})
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return &backend.SFTPLink{Client: client, HangUp: conn.Close, Heard: func() time.Time { return time.Time{} }}, nil
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
