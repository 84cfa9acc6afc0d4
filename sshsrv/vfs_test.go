package sshsrv

import (
	"context"
	"log/slog"
	"net"
	"testing"
	"time"

	"github.com/snapgate/gateway/vfs"
	"github.com/snapgate/gateway/vfs/vfstest"
)

// newSystem opens a system with one share, "main".
func newSystem(tb testing.TB) *vfs.System {
	tb.Helper()
	sys, err := vfs.Open(context.Background(), vfs.Config{
		DataDir:    tb.TempDir(),
		Repository: vfstest.NewRepository(),
		Shares:     []vfs.ShareConfig{{Name: "main", When: vfs.WhenManual}},
		Logger:     slog.New(slog.DiscardHandler),
	})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := sys.Close(ctx); err != nil {
			tb.Errorf("close system: %v", err)
		}
	})
	return sys
}

func principal(user string, perms vfs.Perm) *vfs.Principal {
	return &vfs.Principal{
		User: user, Perms: perms,
		Mounts: []vfs.Mount{{At: vfs.Root(), Share: "main", Root: vfs.Root()}},
	}
}

// serveSession serves a session of sys over a pipe and returns the client's end.
func serveSession(tb testing.TB, sys *vfs.System, user string, perms vfs.Perm) net.Conn {
	tb.Helper()
	sess, err := sys.Session(context.Background(), principal(user, perms), vfs.ConnInfo{Protocol: "sftp", Conn: "test"})
	if err != nil {
		tb.Fatal(err)
	}
	client, server := net.Pipe()
	h := newHandler(context.Background(), sess, slog.New(slog.DiscardHandler), &counters{})
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer server.Close()
		_ = h.serve(server) // the test sees what the client sees
	}()
	tb.Cleanup(func() {
		client.Close()
		select {
		case <-done:
		case <-time.After(patience):
			tb.Error("handler does not end")
		}
		if err := sess.Close(); err != nil {
			tb.Errorf("close session: %v", err)
		}
	})
	return client
}
