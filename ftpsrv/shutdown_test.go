package ftpsrv

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/snapgate/gateway/vfs"
)

// shutdown begins one and gives its result.
func (ts *testServer) shutdown(ctx context.Context) <-chan error {
	done := make(chan error, 1)
	go func() { done <- ts.Shutdown(ctx) }()
	return done
}

// wantDone waits for a result.
func wantDone(tb testing.TB, what string, done <-chan error, want error) {
	tb.Helper()
	select {
	case err := <-done:
		if !errors.Is(err, want) {
			tb.Errorf("%s: %v, want %v", what, err, want)
		}
	case <-time.After(patience):
		tb.Fatalf("%s does not return", what)
	}
}

func TestShutdownWhenIdle(t *testing.T) {
	for _, way := range []string{"plain", "TLS"} {
		t.Run(way, func(t *testing.T) {
			var changes []func(*Config)
			if way == "TLS" {
				changes = append(changes, withTLS(t))
			}
			ts := startServer(t, changes...)
			c, stranger := ts.login(t, "alice"), ts.dial(t)
			c.do("EPSV", codeExtPassive)
			done := ts.shutdown(t.Context())
			for _, c := range []*client{c, stranger} {
				c.want(codeUnavailable)
				c.wantEnd()
			}
			wantDone(t, "shutdown", done, nil)
			ts.wantClosed(t)
			if nc, err := net.Dial("tcp", ts.addr); err == nil {
				nc.Close()
				t.Error("connections are accepted after a shutdown")
			}
		})
	}
}

// A transfer that is under way is finished, and acknowledged, before the connection ends.
func TestShutdownDuringTransfers(t *testing.T) {
	ts := startServer(t)
	up, down := ts.login(t, "alice"), ts.login(t, "alice")
	body := strings.Repeat("0123456789", 1<<20) // more than buffers hold
	up.mustPut("/down", []byte(body))
	u, err := up.begin("STOR /up")
	if err != nil {
		t.Fatal(err)
	}
	d, err := down.begin("RETR /down")
	if err != nil {
		t.Fatal(err)
	}
	idle := ts.login(t, "alice")
	done := ts.shutdown(t.Context())
	idle.want(codeUnavailable)
	if _, err := io.WriteString(u, "whole"); err != nil {
		t.Fatal(err)
	}
	u.Close()
	up.want(codeClosingData)
	up.want(codeUnavailable)
	if got, err := io.ReadAll(d); string(got) != body {
		t.Errorf("%d bytes came, %v", len(got), err)
	}
	down.want(codeClosingData)
	down.want(codeUnavailable)
	wantDone(t, "shutdown", done, nil)
	ts.wantClosed(t)
	wantContent(t, ts, "/up", "whole")
}

// A shutdown whose time is over cuts transfers off, and so does the end of Serve's
// context: the old file stays.
func TestTransfersAreCutOff(t *testing.T) {
	ends := []struct {
		name string
		end  func(*testing.T, *testServer)
	}{
		{"shutdown", func(t *testing.T, ts *testServer) {
			ctx, cancel := context.WithCancel(t.Context())
			done := ts.shutdown(ctx)
			cancel()
			wantDone(t, "shutdown", done, context.Canceled)
		}},
		{"context", func(_ *testing.T, ts *testServer) { ts.stop() }},
	}
	for _, end := range ends {
		t.Run(end.name, func(t *testing.T) {
			ts := startServer(t)
			up, waiting := ts.login(t, "alice"), ts.login(t, "alice")
			up.mustPut("/f", []byte("old"))
			d, err := up.begin("STOR /f")
			if err != nil {
				t.Fatal(err)
			}
			defer d.Close()
			if _, err := io.WriteString(d, "half"); err != nil {
				t.Fatal(err)
			}
			waiting.do("EPSV", codeExtPassive)
			if err := waiting.send("RETR /f"); err != nil { // to which the client never connects
				t.Fatal(err)
			}
			end.end(t, ts)
			up.wantEnd()
			waiting.wantEnd()
			ts.wantClosed(t)
			wantContent(t, ts, "/f", "old")
		})
	}
}

// wantContent checks a file past the server.
func wantContent(tb testing.TB, ts *testServer, name, want string) {
	tb.Helper()
	cl := ts.local.Client(tb, "alice")
	info, err := cl.Stat(name)
	if err != nil {
		tb.Fatal(err)
	}
	f, err := cl.Open(name, vfs.OpenRead)
	if err != nil {
		tb.Fatal(err)
	}
	got, err := io.ReadAll(io.NewSectionReader(f, 0, info.Size))
	if err := errors.Join(err, f.Close(), cl.Drop()); err != nil || string(got) != want {
		tb.Errorf("%s has %q, %v, want %q", name, got, err, want)
	}
}
