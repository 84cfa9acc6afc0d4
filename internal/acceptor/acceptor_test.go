package acceptor

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// pipes is a listener whose connections exist in memory alone.
type pipes struct {
	conns  chan net.Conn
	fail   chan error
	closed chan struct{}
	once   sync.Once
}

func newPipes() *pipes {
	return &pipes{conns: make(chan net.Conn), fail: make(chan error), closed: make(chan struct{})}
}

func (l *pipes) dial() net.Conn {
	client, server := net.Pipe()
	l.conns <- server
	return client
}

func (l *pipes) Accept() (net.Conn, error) {
	select {
	case nc := <-l.conns:
		return nc, nil
	case err := <-l.fail:
		return nil, err
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *pipes) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

func (l *pipes) Addr() net.Addr { return nil }

// echo is a connection that ends when its peer does, or its context, or Close is called.
type echo struct {
	Accepted
	busy    bool // Drain leaves it alone
	stalled bool // Drain waits for Close
	closed  chan struct{}
	once    sync.Once
}

func (e *echo) Serve(ctx context.Context) {
	stop := context.AfterFunc(ctx, e.Close)
	defer stop()
	defer e.Close()
	_, _ = io.Copy(e.Conn, e.Conn)
}

func (e *echo) Drain() {
	if e.stalled {
		<-e.closed
	}
	if !e.busy {
		e.Close()
	}
}

func (e *echo) Close() {
	e.once.Do(func() { close(e.closed); _ = e.Conn.Close() })
}

// rig is an acceptor of echos.
type rig struct {
	*Acceptor
	ln     *pipes
	log    bytes.Buffer // to be read when Serve has returned
	served chan error
	cancel context.CancelFunc
}

func newRig(t *testing.T, limits Limits, change func(n int, e *echo)) *rig {
	t.Helper()
	limits, err := limits.WithDefaults()
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{ln: newPipes(), served: make(chan error, 1)}
	r.Acceptor = New(Config{
		Name: "echo server", Limits: limits, Logger: slog.New(slog.NewTextHandler(&r.log, nil)),
		Refusal: func(why error) string { return "no: " + why.Error() + "\n" },
	})
	ctx, cancel := context.WithCancel(t.Context())
	r.cancel = cancel
	n := 0
	go func() {
		r.served <- r.Serve(ctx, r.ln, func(a Accepted) Conn {
			e := &echo{Accepted: a, closed: make(chan struct{})}
			if change != nil {
				change(n, e)
			}
			n++
			return e
		})
	}()
	return r
}

func wantEcho(t *testing.T, nc net.Conn) {
	t.Helper()
	if _, err := io.WriteString(nc, "x"); err != nil {
		t.Errorf("write: %v", err)
	}
	if _, err := io.ReadFull(nc, make([]byte, 1)); err != nil {
		t.Errorf("read: %v", err)
	}
}

func wantEnd(t *testing.T, nc net.Conn) {
	t.Helper()
	if b, err := io.ReadAll(nc); err != nil || len(b) > 0 {
		t.Errorf("read %q, %v, want the end", b, err)
	}
}

func TestServeEndsWithContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, Limits{}, nil)
		c := r.ln.dial()
		wantEcho(t, c)
		r.cancel()
		wantEnd(t, c)
		if err := <-r.served; err != nil {
			t.Errorf("Serve = %v", err)
		}
	})
}

func TestServeOfClosedListener(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, Limits{}, nil)
		c := r.ln.dial()
		_ = r.ln.Close()
		wantEnd(t, c)
		if err := <-r.served; !errors.Is(err, net.ErrClosed) {
			t.Errorf("Serve = %v", err)
		}
	})
}

// Errors that pass are waited out, with growing pauses.
func TestAcceptError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, Limits{}, nil)
		start := time.Now()
		for range 12 {
			r.ln.fail <- errors.New("no descriptors left")
		}
		c := r.ln.dial()
		wantEcho(t, c)
		if took := time.Since(start); took < 4*time.Second || took > 6*time.Second {
			t.Errorf("12 errors took %v, want pauses up to a second", took)
		}
		r.cancel()
		<-r.served
	})
}

func TestRefusal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, Limits{Connections: 1}, nil)
		c := r.ln.dial()
		wantEcho(t, c)
		r.only(t).Ticket.mustLogIn(t, "x")
		for range 3 {
			line, _ := io.ReadAll(r.ln.dial())
			if got := string(line); got != "no: too many connections\n" {
				t.Errorf("refused with %q", got)
			}
		}
		r.cancel()
		<-r.served
		if n := strings.Count(r.log.String(), "connection refused"); n != 1 {
			t.Errorf("logged %d times in a second:\n%s", n, &r.log)
		}
	})
}

func (t *Ticket) mustLogIn(tb testing.TB, user string) {
	tb.Helper()
	if err := t.LoggedIn(user); err != nil {
		tb.Error(err)
	}
}

// only returns the one connection there is.
func (r *rig) only(t *testing.T) *echo {
	t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	for c := range r.conns {
		return c.(*echo)
	}
	t.Fatal("no connection")
	return nil
}

// A newcomer gets the place of the oldest connection that has not logged in.
func TestDropped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, Limits{Handshakes: 2}, nil)
		first, second := r.ln.dial(), r.ln.dial()
		wantEcho(t, first)
		wantEcho(t, second)
		third := r.ln.dial()
		wantEcho(t, third)
		wantEnd(t, first)
		wantEcho(t, second)
		r.cancel()
		<-r.served
		if !strings.Contains(r.log.String(), "connection dropped for a newer one") {
			t.Errorf("log:\n%s", &r.log)
		}
	})
}

func TestShutdown(t *testing.T) {
	tests := []struct {
		name   string
		change func(n int, e *echo)
		want   error
		took   time.Duration
	}{
		{"idle", nil, nil, 0},
		{"busy", func(n int, e *echo) { e.busy = n == 1 }, context.DeadlineExceeded, time.Minute},
		{"stalled", func(n int, e *echo) { e.stalled = n == 0 }, context.DeadlineExceeded, time.Minute},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t, Limits{}, tt.change)
				for range 3 {
					wantEcho(t, r.ln.dial())
				}
				last := r.ln.dial()
				wantEcho(t, last)
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				start := time.Now()
				ended := make(chan error, 1)
				go func() { ended <- r.Shutdown(ctx) }()
				wantEnd(t, last)
				if took := time.Since(start); took != 0 {
					t.Errorf("an idle connection ended after %v: it waits for others", took)
				}
				if err := <-ended; !errors.Is(err, tt.want) {
					t.Errorf("Shutdown = %v, want %v", err, tt.want)
				}
				if took := time.Since(start); took != tt.took {
					t.Errorf("took %v, want %v", took, tt.took)
				}
				if err := <-r.served; err != nil {
					t.Errorf("Serve = %v", err)
				}
				late := newPipes()
				if err := r.Serve(t.Context(), late, nil); err != nil {
					t.Errorf("Serve after Shutdown = %v", err)
				}
				<-late.closed
			})
		})
	}
}
