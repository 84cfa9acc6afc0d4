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

// busyServer is an SFTP server without files in this process, of which something is heard all the time, or never.
type busyServer struct {
	never bool
	tasks sync.WaitGroup
	hold  atomic.Pointer[chan struct{}] // requests wait until it is closed; nil: for nothing
	last  atomic.Pointer[net.Conn]      // its end of the connection that was made last
}

// held makes a call whose request waits on the server until release is called, and returns when it waits.
func (s *busyServer) held(call func() error) (release func(), result <-chan error) {
	hold, done := make(chan struct{}), make(chan error, 1)
	s.hold.Store(&hold)
	go func() { done <- call() }()
	synctest.Wait()
	s.hold.Store(nil)
	return func() { close(hold) }, done
}

// Dial implements backend.SFTPDialer.
func (s *busyServer) Dial(context.Context) (*backend.SFTPLink, error) {
	near, far := net.Pipe()
	s.last.Store(&far)
	server := sftp.NewRequestServer(heldConn{far, s}, sftp.InMemHandler())
	s.tasks.Go(func() {
		_ = server.Serve() // it ends with the connection
		_ = far.Close()
	})
	client, err := sftp.NewClientPipe(near, near)
	if err != nil {
		return nil, errors.Join(err, near.Close())
	}
	heard := time.Now
	if s.never {
		heard = func() time.Time { return time.Time{} }
	}
	return &backend.SFTPLink{Client: client, HangUp: near.Close, Heard: heard}, nil
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

// leftWith opens a store on the server, of which asked asks something, and which is left with patience on interrupt. To be called in a bubble,
// as end is.
func (s *busyServer) leftWith(t *testing.T, patience time.Duration) (asked func() error, interrupt, end func()) {
	t.Helper()
	files := backend.NewSFTP(backend.SFTPConfig{Dialer: s, Root: "/store", Connections: 1, Timeout: time.Hour})
	ctx, interrupt := context.WithCancel(t.Context())
	stop := (&Store{server: files}).LeaveWhen(ctx, patience)
	asked = func() error { return ask(t, files) }
	if err := asked(); err != nil {
		t.Error(err)
	}
	return asked, interrupt, func() {
		stop()
		interrupt()
		_ = files.Close()
		s.tasks.Wait()
	}
}

// ask asks for what is not there, which is an answer.
func ask(t *testing.T, files *backend.SFTP) error {
	_, err := files.Stat(t.Context(), "file")
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// TestLeaveWhen: a call that is under way when a store is left may go on for the patience, then calls that clean up can be made for a
// while, and after that none.
func TestLeaveWhen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := &busyServer{}
		asked, interrupt, end := server.leftWith(t, LeavePatience)
		defer end()
		release, result := server.held(asked)
		defer release()
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

// TestLeavePatiently: who leaves a store with much patience, as there is something to write still, gets over a server that
// thinks, a connection that has ended and one on which nothing comes any more.
func TestLeavePatiently(t *testing.T) {
	const patience = time.Minute
	synctest.Test(t, func(t *testing.T) {
		server := &busyServer{never: true}
		asked, interrupt, end := server.leftWith(t, patience)
		defer end()
		interrupt()
		began := time.Now()

		release, result := server.held(asked)
		time.Sleep(patience / 5)
		if len(result) > 0 {
			t.Errorf("a call was cut off within %s", patience/5)
		}
		release()
		if err := <-result; err != nil {
			t.Errorf("a call that takes %s: %v", patience/5, err)
		}
		if err := (*server.last.Load()).Close(); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if err := asked(); err != nil {
			t.Errorf("when the connection has ended: %v", err)
		}
		release, result = server.held(asked)
		defer release()
		if err := <-result; err != nil || time.Since(began) < patience/4 || time.Since(began) > patience*3/4 {
			t.Errorf("a call of which nothing is heard ends after %s with %v, want it made again", time.Since(began), err)
		}
		time.Sleep(patience*3/4 - time.Since(began))
		release, result = server.held(asked)
		defer release()
		if err := <-result; err == nil || time.Since(began) != patience {
			t.Errorf("a call ends after %s with %v, want it cut off after %s", time.Since(began), err, patience)
		}
	})
}
