package backend_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pkg/sftp"

	"github.com/snapgate/gateway/store/internal/backend"
)

const (
	slowPiece = 64 << 10
	slowPause = 10 * time.Second
)

// slowLine connects to SFTP servers in this process, over lines that bring slowPiece at a time.
type slowLine struct {
	wg    sync.WaitGroup
	dials atomic.Int32
}

func (d *slowLine) Dial(context.Context) (*backend.SFTPLink, error) {
	d.dials.Add(1)
	near, far := net.Pipe()
	server, err := sftp.NewServer(far)
	if err != nil {
		return nil, err
	}
	d.wg.Go(func() {
		_ = server.Serve() // it ends with the connection
		_ = server.Close()
		_ = far.Close()
	})
	line := &slowReader{sent: make(chan []byte, 1<<16), room: slowPiece}
	line.heard.Store(time.Now().UnixNano())
	d.wg.Go(func() {
		defer close(line.sent)
		for {
			p := make([]byte, slowPiece)
			n, err := near.Read(p)
			if err != nil {
				return
			}
			line.sent <- p[:n] // the server does not wait: a line has buffers
		}
	})
	client, err := sftp.NewClientPipe(line, near)
	if err != nil {
		return nil, errors.Join(err, near.Close())
	}
	return &backend.SFTPLink{Client: client, HangUp: near.Close, Heard: func() time.Time { return time.Unix(0, line.heard.Load()) }}, nil
}

type slowReader struct {
	sent  chan []byte
	rest  []byte
	room  int
	heard atomic.Int64 // nanoseconds
}

func (r *slowReader) Read(p []byte) (int, error) {
	for len(r.rest) == 0 {
		var ok bool
		if r.rest, ok = <-r.sent; !ok {
			return 0, io.EOF
		}
	}
	if r.room == 0 {
		time.Sleep(slowPause) //nolint:forbidigo // in a synctest bubble
		r.room = slowPiece
	}
	n := copy(p[:min(len(p), r.room)], r.rest)
	r.rest, r.room = r.rest[n:], r.room-n
	r.heard.Store(time.Now().UnixNano())
	return n, nil
}

// TestSFTPSlowLine: what is read over a slow line takes longer than a connection may stand still, which it does not. Whoever
// waits for others, whose answers come first, does not give it up.
func TestSFTPSlowLine(t *testing.T) {
	root := t.TempDir()
	content := bytes.Repeat([]byte("slow and steady "), 1<<16)
	if err := os.WriteFile(filepath.Join(root, "file"), content, 0o600); err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		d := &slowLine{}
		b := backend.NewSFTP(backend.SFTPConfig{Dialer: d, Root: root, Connections: 1, Retries: 1, Timeout: 3 * slowPause})
		began := time.Now()
		var readers sync.WaitGroup
		for range 4 {
			readers.Go(func() {
				rd, err := b.Get(t.Context(), "file", 0, int64(len(content)))
				if err != nil {
					t.Error(err)
					return
				}
				data, err := io.ReadAll(rd)
				if err := errors.Join(err, rd.Close()); err != nil || !bytes.Equal(data, content) {
					t.Errorf("%d bytes, %v", len(data), err)
				}
			})
		}
		readers.Wait()
		if took := time.Since(began); took < 10*time.Minute {
			t.Errorf("it took %s: the line is not slow", took)
		}
		if n := d.dials.Load(); n != 1 {
			t.Errorf("%d connections were made, want 1", n)
		}
		if err := b.Close(); err != nil {
			t.Error(err)
		}
		d.wg.Wait()
	})
}
