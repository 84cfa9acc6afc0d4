package store

import (
	"context"
	"errors"
	"io/fs"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pkg/sftp"

	"github.com/snapgate/gateway/store/internal/backend"
)

// busyServer is an SFTP server without files in this process, of which something is heard all the time.
type busyServer struct {
	tasks sync.WaitGroup
	hold  atomic.Pointer[chan struct{}] // requests wait until it is closed; nil: for nothing
}

// Dial implements backend.SFTPDialer.
func (s *busyServer) Dial(context.Context) (*backend.SFTPLink, error) {
	near, far := net.Pipe()
	server := sftp.NewRequestServer(heldConn{far, s}, sftp.InMemHandler())
	s.tasks.Go(func() {
		_ = server.Serve() // it ends with the connection
		_ = far.Close()
	})
	client, err := sftp.NewClientPipe(near, near)
	if err != nil {
		return nil, errors.Join(err, near.Close())
	}
	return &backend.SFTPLink{Client: client, HangUp: near.Close, Heard: time.Now}, nil
}

type heldConn struct {
	net.Conn
	s *busyServer
}

// Read implements net.Conn.
func (c heldConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if hold := c.s.hold.Load(); hold != nil {
		<-*hold
	}
	return n, err
}

// TestLeaveWhen: a call that is under way when a store is left may go on for the patience, then calls that clean up can be made for a
// while, and after that none.
func TestLeaveWhen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := &busyServer{}
		files := backend.NewSFTP(backend.SFTPConfig{Dialer: server, Root: "/store", Connections: 1, Timeout: time.Hour})
		s := &Store{server: files}
		defer server.tasks.Wait()
		defer files.Close()
		ctx, interrupt := context.WithCancel(t.Context())
		defer interrupt()
		defer s.LeaveWhen(ctx, LeavePatience)()
		asked := func() error {
			_, err := files.Stat(t.Context(), "file")
			if errors.Is(err, fs.ErrNotExist) { // an answer
				return nil
			}
			return err
		}
		if err := asked(); err != nil {
			t.Fatal(err)
		}
		hold, result := make(chan struct{}), make(chan error, 1)
		defer close(hold)
		server.hold.Store(&hold)
		go func() { result <- asked() }()
		synctest.Wait()
		server.hold.Store(nil)
		interrupt()
		began := time.Now()
		if err := <-result; err == nil || time.Since(began) != LeavePatience {
			t.Errorf("a call ends after %s with %v, want it cut off after %s", time.Since(began), err, LeavePatience)
		}
		if err := asked(); err != nil {
			t.Errorf("what cleans up: %v", err)
		}
		time.Sleep(leaveGrace + time.Millisecond)
		if err := asked(); err == nil {
			t.Error("a server that was left is asked")
		}
	})
}
