package control

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/snapgate/gateway/internal/acceptor/acceptortest"
)

// serve runs a server on dir until the test ends.
func serve(t *testing.T, dir string, handle Handler, change ...func(*Server)) {
	t.Helper()
	s, err := Listen(dir, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range change {
		f(s)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, handle) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Serve: %v", err)
		}
		if _, err := os.Lstat(filepath.Join(dir, SocketName)); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("the socket is still there: %v", err)
		}
		if left, err := filepath.Glob(filepath.Join(dir, ".control-*")); err != nil || len(left) > 0 {
			t.Errorf("left over: %v %v", left, err)
		}
	})
}

func echo(_ context.Context, req Request, send func(Reply) error) Reply {
	for i := range 3 {
		if err := send(Reply{Import: &Import{Files: i}}); err != nil {
			return Reply{Error: err.Error()}
		}
	}
	if req.Share == "bad" {
		return Reply{Error: "share bad: no", Hint: "try another"}
	}
	return Reply{ID: req.Op + " " + req.Share}
}

func TestCall(t *testing.T) {
	long := filepath.Join(t.TempDir(), strings.Repeat("long/", 30))
	if err := os.MkdirAll(long, 0o700); err != nil {
		t.Fatal(err)
	}
	for name, dir := range map[string]string{"short": t.TempDir(), "long path": long, "long TMPDIR": filepath.Join(long, "long")} {
		t.Run(name, func(t *testing.T) {
			if name == "long TMPDIR" {
				if err := os.Mkdir(dir, 0o700); err != nil {
					t.Fatal(err)
				}
				t.Setenv("TMPDIR", long)
			}
			serve(t, dir, echo)
			info, err := os.Lstat(filepath.Join(dir, SocketName))
			if err != nil {
				t.Fatal(err)
			}
			if got, want := info.Mode(), fs.ModeSocket|0o600; got != want {
				t.Errorf("mode %v, want %v", got, want)
			}
			lines := 0
			rep, err := Call(t.Context(), dir, Request{Op: OpSnapshot, Share: "main"}, func(Reply) error { lines++; return nil })
			if err != nil || rep.ID != "snapshot main" || lines != 3 {
				t.Errorf("got %+v after %d lines, error %v", rep, lines, err)
			}
			_, err = Call(t.Context(), dir, Request{Op: OpSnapshot, Share: "bad"}, nil)
			var remote *RemoteError
			if !errors.As(err, &remote) || remote.Hint != "try another" {
				t.Errorf("got %v, want the gateway's refusal", err)
			}
		})
	}
}

func TestNoServer(t *testing.T) {
	if _, err := Call(t.Context(), t.TempDir(), Request{Op: OpPing}, nil); !errors.Is(err, ErrNoServer) {
		t.Errorf("without a socket: got %v, want %v", err, ErrNoServer)
	}
	// What kill -9 leaves: a socket that nobody listens on.
	dir := t.TempDir()
	ln, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(dir, SocketName), Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	ln.SetUnlinkOnClose(false)
	if err := ln.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := Call(t.Context(), dir, Request{Op: OpPing}, nil); !errors.Is(err, ErrNoServer) {
		t.Errorf("with a stale socket: got %v, want %v", err, ErrNoServer)
	}
	serve(t, dir, echo)
	if _, err := Call(t.Context(), dir, Request{Op: OpPing}, nil); err != nil {
		t.Errorf("in the place of a stale socket: %v", err)
	}
}

// A process that has run out of descriptors goes on when it has some again: an end of this server
// would be the end of all.
func TestAcceptFails(t *testing.T) {
	dir := t.TempDir()
	serve(t, dir, echo, func(s *Server) { s.ln = &acceptortest.Failing{Listener: s.ln} })
	if rep, err := Call(t.Context(), dir, Request{Op: OpPing}, nil); err != nil || rep.ID != OpPing+" " {
		t.Errorf("got %+v, %v", rep, err)
	}
}

// A client that goes away takes its request back.
func TestClientLeaves(t *testing.T) {
	dir := t.TempDir()
	started, ended := make(chan struct{}), make(chan error, 1)
	serve(t, dir, func(ctx context.Context, _ Request, _ func(Reply) error) Reply {
		close(started)
		<-ctx.Done()
		ended <- ctx.Err()
		return Reply{}
	})
	ctx, cancel := context.WithCancel(t.Context())
	result := make(chan error, 1)
	go func() {
		_, err := Call(ctx, dir, Request{Op: OpImport}, nil)
		result <- err
	}()
	<-started
	cancel()
	if err := <-result; !errors.Is(err, context.Canceled) {
		t.Errorf("Call: got %v, want %v", err, context.Canceled)
	}
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("the handler: got %v, want %v", err, context.Canceled)
	}
}

func TestMalformedRequest(t *testing.T) {
	dir := t.TempDir()
	serve(t, dir, echo)
	for _, line := range []string{"hello", `{"op":`, `[]`} {
		c, err := net.Dial("unix", filepath.Join(dir, SocketName))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := fmt.Fprintln(c, line); err != nil {
			t.Fatal(err)
		}
		got, err := bufio.NewReader(c).ReadString('\n')
		if err != nil || !strings.Contains(got, "malformed request") {
			t.Errorf("%q: got %q, %v", line, got, err)
		}
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	}
}
