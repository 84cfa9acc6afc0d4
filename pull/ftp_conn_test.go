package pull

import (
	"context"
	"io"
	"testing"
)

// A call that succeeds while its context ends does not leave a connection to the next one that is about to be broken.
func TestFTPEndsWithContext(t *testing.T) {
	h := linksHouse(t, nil)
	r := h.remote(t, impatient(h))
	for range 50 {
		ctx, cancel := context.WithCancel(t.Context())
		var conn *ftpConn
		if err := r.with(ctx, "stat", "/", func(c *ftpConn, _ string) error { conn = c; cancel(); return nil }); err != nil {
			t.Fatal(err)
		}
		if conn.Err() == nil {
			t.Fatal("a call: the connection is still good")
		}
		ctx, cancel = context.WithCancel(t.Context())
		rd, err := r.Open(ctx, "/payroll.db", 0, 1)
		if err != nil {
			cancel()
			t.Fatal(err)
		}
		conn = rd.(*ftpReader).conn.s
		_, err = io.ReadAll(rd)
		cancel()
		if rd.Close(); err != nil || conn.Err() == nil {
			t.Fatalf("a transfer: %v; the connection is still good: %v", err, conn.Err() == nil)
		}
	}
}

// MakeRoot says that the connection was lost, so that it is tried again, and not what somebody else has ended it with.
func TestFTPMakeRootLost(t *testing.T) {
	asked := make(chan struct{})
	h := (&ftpHouse{dir: t.TempDir(), hook: func(_ *ftpPeer, cmd, _ string) bool {
		if cmd == "CWD" {
			close(asked)
		}
		return cmd == "CWD"
	}}).start(t)
	r := h.remote(t, func(c *FTPConfig) { c.Root = "/new" })
	go func() {
		<-asked
		r.pool.mu.Lock()
		defer r.pool.mu.Unlock()
		_ = r.pool.conns[0].s.broken(context.Canceled)
	}()
	if _, err := r.MakeRoot(t.Context()); err == nil || KindOf(err) != KindConnection {
		t.Errorf("%v", err)
	}
}
