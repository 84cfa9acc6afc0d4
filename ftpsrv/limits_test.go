package ftpsrv

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/snapgate/gateway/internal/proctest"
)

// short is a timeout that a test waits for. What comes before it is repeated until it was in time, or done
// on a server beside: see inTime.
const short = 250 * time.Millisecond

// inTime calls try, which is over before a short timeout on a machine with time, until it is.
func inTime(tb testing.TB, try func() error) {
	tb.Helper()
	var err error
	for start := time.Now(); time.Since(start) < patience; {
		if err = try(); err == nil {
			return
		}
	}
	tb.Fatalf("never in time: %v", err)
}

func TestConnectionLimits(t *testing.T) {
	for _, tt := range []struct {
		name   string
		change func(*Config)
		want   string
	}{
		{"in all", func(c *Config) { c.Limits.Connections = 2 }, "too many connections"},
		{"of an address", func(c *Config) { c.Limits.PerAddress = 2 }, "too many connections from this address"},
		{"of a user", func(c *Config) { c.Limits.PerUser = 2 }, "too many connections of this user"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			ts := startServer(t, tt.change)
			// enter connects and logs in, and returns the first refusal, or the last reply.
			enter := func() (*client, reply) {
				c := ts.connect(t)
				r, err := c.receive()
				if err == nil && r.code == codeReady {
					c.do("USER alice", codeNeedPassword)
					r, err = c.exchange("PASS " + password)
				}
				if err != nil {
					t.Fatal(err)
				}
				return c, r
			}
			first, _ := enter()
			if _, r := enter(); r.code >= 400 {
				t.Fatalf("the second one is refused: %v", r)
			}
			c, r := enter()
			if r.code != codeUnavailable || !strings.Contains(r.text(), tt.want) {
				t.Errorf("the third one is told %v, want %d %q", r, codeUnavailable, tt.want)
			}
			c.wantEnd()
			first.do("QUIT", codeGoodbye)
			first.wantEnd()
			for deadline := time.Now().Add(patience); ; {
				if _, r := enter(); r.code < 400 {
					return
				}
				if time.Now().After(deadline) {
					t.Fatal("a closed connection is counted for ever")
				}
			}
		})
	}
}

// Of connections that have not logged in the oldest makes room for a new one: refusing the
// newcomer would let anybody lock everybody out.
func TestHandshakesMakeRoom(t *testing.T) {
	for name, change := range map[string]func(*Config){
		"in all":        func(c *Config) { c.Limits.Handshakes = 2 },
		"of an address": func(c *Config) { c.Limits.HandshakesPerAddress = 2 },
	} {
		t.Run(name, func(t *testing.T) {
			ts := startServer(t, change)
			first, second, third := ts.dial(t), ts.dial(t), ts.dial(t)
			first.wantEnd()
			for _, c := range []*client{second, third} {
				c.do("USER alice", codeNeedPassword)
				c.do("PASS "+password, codeLoggedIn)
			}
		})
	}
}

// One user's connections do not count for another.
func TestUsersAreCountedApart(t *testing.T) {
	ts := startServer(t, func(c *Config) { c.Limits.PerUser = 1 })
	ts.login(t, "alice")
	ts.login(t, "bob")
}

func TestLoginTries(t *testing.T) {
	ts := startServer(t, func(c *Config) { c.Limits.LoginTries = 3 })
	c := ts.dial(t)
	for range 2 {
		c.dialogue(step{"USER alice", codeNeedPassword}, step{"PASS wrong", codeNotLoggedIn})
	}
	c.dialogue(step{"PASS " + password, codeSequence}) // each try needs its own USER
	c.dialogue(step{"USER alice", codeNeedPassword}, step{"PASS wrong", codeUnavailable})
	c.wantEnd()
	ts.log.Wait(t, `msg="login failed"`, "attempts=3")
	if n := len(ts.auth.calls); n != 3 {
		t.Errorf("%d passwords were checked, want 3", n)
	}

	c = ts.dial(t)
	c.dialogue(step{"USER alice", codeNeedPassword}, step{"PASS wrong", codeNotLoggedIn})
	c.login("alice")
}

// A wrong password is answered after a delay; it does not hold up the others.
func TestFailureDelay(t *testing.T) {
	const delay = 50 * time.Millisecond
	ts := startServer(t, func(c *Config) { c.FailureDelay = delay })
	c := ts.dial(t)
	c.do("USER alice", codeNeedPassword)
	start := time.Now()
	c.do("PASS wrong", codeNotLoggedIn)
	if d := time.Since(start); d < delay {
		t.Errorf("answered after %v, want at least %v", d, delay)
	}
}

func TestLoginTimeout(t *testing.T) {
	change := func(c *Config) { c.LoginTimeout = short }
	t.Run("silence", func(t *testing.T) {
		startServer(t, change).connect(t).wantEnd()
	})
	t.Run("no TLS handshake", func(t *testing.T) {
		ts := startServer(t, change, withTLS(t))
		newClient(t, ts, ts.implicit).wantEnd()
		var c *client
		inTime(t, func() error {
			c = ts.connect(t)
			return c.try(step{"", codeReady}, step{"AUTH TLS", codeAuthAccepted})
		})
		c.wantEnd()
	})
	t.Run("slow authenticator", func(t *testing.T) {
		ts := startServer(t, change)
		ts.auth.delay = make(chan struct{})
		var c *client
		inTime(t, func() error {
			c = ts.connect(t)
			return c.try(step{"", codeReady}, step{"USER alice", codeNeedPassword}, step{"PASS " + password, codeUnavailable})
		})
		c.wantEnd()
	})
	// Commands that trickle in do not move the deadline.
	t.Run("chatter", func(t *testing.T) {
		c := startServer(t, change).connect(t)
		start := time.Now()
		for {
			if _, err := c.exchange("NOOP"); err != nil {
				return
			}
			if time.Since(start) > patience {
				t.Fatal("the server still listens")
			}
		}
	})
	t.Run("a login ends it", func(t *testing.T) {
		ts := startServer(t, change)
		var c *client
		inTime(t, func() error {
			c = ts.connect(t)
			return c.try(step{"", codeReady}, step{"USER alice", codeNeedPassword}, step{"PASS " + password, codeLoggedIn})
		})
		for start := time.Now(); time.Since(start) < 2*short; {
			c.do("NOOP", codeOK)
		}
	})
}

func TestIdleTimeout(t *testing.T) {
	ts := startServer(t, func(c *Config) { c.IdleTimeout = short })
	c := ts.login(t, "alice")
	c.want(codeUnavailable)
	c.wantEnd()
	ts.wantSessionEnd(t, c)
}

// A transfer that goes on for longer than the idle timeout is not idle.
func TestIdleTimeoutSparesTransfers(t *testing.T) {
	ts := startServer(t, func(c *Config) { c.IdleTimeout = short })
	var c *client
	var d *data
	inTime(t, func() (err error) {
		c = ts.login(t, "alice")
		d, err = c.begin("STOR /f")
		return err
	})
	tick := time.NewTicker(short / 5)
	defer tick.Stop()
	for range 10 {
		<-tick.C
		if _, err := io.WriteString(d, "x"); err != nil {
			t.Fatal(err)
		}
	}
	d.Close()
	c.want(codeClosingData)
}

// A data connection on which nothing moves is given up: an upload is not complete, and the
// session goes on.
func TestDataTimeout(t *testing.T) {
	for _, way := range []string{"plain", "TLS"} {
		t.Run(way, func(t *testing.T) {
			var changes []func(*Config)
			if way == "TLS" {
				changes = append(changes, withTLS(t))
			}
			patient := startServer(t, changes...)
			ts := patient.beside(t, append(changes, func(c *Config) { c.DataTimeout = short })...)
			judge := patient.login(t, "judge")
			judge.mustPut("/big", make([]byte, 16<<20)) // more than buffers hold
			// begin does the handshake, too.
			begin := func(t *testing.T, line, text string) (c *client, d *data) {
				inTime(t, func() (err error) {
					c = ts.login(t, "alice")
					if d, err = c.begin(line); err == nil && text != "" {
						_, err = d.Write([]byte(text))
					}
					return err
				})
				t.Cleanup(func() { _ = d.Close() })
				return c, d
			}
			t.Run("upload", func(t *testing.T) {
				c, _ := begin(t, "STOR /f", "half")
				c.want(codeAborted)
				if got := judge.mustGet("NLST"); got != "big\r\n" {
					t.Errorf("the directory has %q", got)
				}
				c.do("NOOP", codeOK)
			})
			t.Run("download", func(t *testing.T) {
				c, _ := begin(t, "RETR /big", "")
				c.want(codeAborted)
				c.do("NOOP", codeOK)
			})
			if way == "TLS" {
				t.Run("no handshake", func(t *testing.T) {
					c := ts.login(t, "alice")
					s, err := c.socket()
					if err != nil {
						t.Fatal(err)
					}
					defer s.close()
					c.do("STOR /f", codeOpening)
					c.want(codeAborted)
					c.do("NOOP", codeOK)
				})
			}
		})
	}
}

// A data connection that is never made: the client is told, and the session goes on.
func TestConnectTimeout(t *testing.T) {
	patient := startServer(t)
	ts := patient.beside(t, func(c *Config) { c.ConnectTimeout = short / 4 })
	c, judge := ts.login(t, "alice"), patient.login(t, "judge")
	judge.mustPut("/f", []byte("old"))
	for _, line := range []string{"APPE /f", "STOR /f", "RETR /f", "LIST", "MLSD", "STOU"} {
		c.do("EPSV", codeExtPassive)
		if r := c.do(line, codeOpening, codeNoData); r.code == codeOpening {
			c.want(codeNoData)
		}
	}
	if got := judge.mustGet("RETR /f"); got != "old" {
		t.Errorf("the file has %q", got)
	}

	// An active one that the client refuses.
	ln := listenLocal(t)
	addr := ln.Addr().(*net.TCPAddr)
	ln.Close()
	c.do(activeCommand("PORT", addr), codeOK)
	if r := c.do("STOR /f", codeOpening, codeNoData); r.code == codeOpening {
		c.want(codeNoData)
	}
	if got := judge.mustGet("NLST"); got != "f\r\n" {
		t.Errorf("the directory has %q", got)
	}
}

// freePort finds a port that is free now.
func freePort(tb testing.TB) uint16 {
	tb.Helper()
	return uint16(proctest.FreePort(tb))
}

func TestPassivePortsExhausted(t *testing.T) {
	port := freePort(t)
	ts := startServer(t, func(c *Config) { c.PassivePorts = PortRange{port, port} })
	a, b := ts.login(t, "alice"), ts.login(t, "bob")
	a.do("EPSV", codeExtPassive)
	b.do("EPSV", codeNoData)
	b.do("PASV", codeNoData)
	b.do("NOOP", codeOK)
	// One's own port is given up for a new one.
	a.do("PASV", codePassive)
	a.mustPut("/f", []byte("data"))
	if got := b.mustGet("RETR /f"); got != "data" {
		t.Errorf("got %q", got)
	}
	// A connection that ends gives it up, too.
	a.do("EPSV", codeExtPassive)
	b.do("EPSV", codeNoData)
	a.do("QUIT", codeGoodbye)
	a.wantEnd()
	ts.wantSessionEnd(t, a)
	b.mustGet("RETR /f")
}

// A passive port that no transfer follows is free for others after a while, however lively its client is.
func TestPassivePortUnused(t *testing.T) {
	port := freePort(t)
	ts := startServer(t, func(c *Config) {
		c.PassivePorts = PortRange{port, port}
		c.ConnectTimeout = time.Millisecond
	})
	a, b := ts.login(t, "alice"), ts.login(t, "bob")
	a.do("EPSV", codeExtPassive)
	ts.log.Wait(t, "no transfer follows")
	a.do("NOOP", codeOK)
	b.do("EPSV", codeExtPassive)
	a.asks(ask{"LIST", codeNoData, "too long ago"})
}

// A data connection is given up in time when no transfer follows, and not when one does.
func TestPreparedIsGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &conn{server: &Server{cfg: Config{ConnectTimeout: time.Second}}, ctx: t.Context(), log: slog.New(slog.DiscardHandler)}
		idle, used := make(fakePort), make(fakePort)
		c.prepare(idle)
		<-time.After(preparedFor*time.Second - 1)
		synctest.Wait()
		if idle.closed() {
			t.Error("given up too early")
		}
		<-time.After(1)
		synctest.Wait()
		if !idle.closed() {
			t.Error("not given up")
		}
		c.prepare(used)
		c.newJob("RETR", "/f", nil)
		<-time.After(time.Hour) // while the file is opened
		synctest.Wait()
		if used.closed() {
			t.Error("given up under a transfer")
		}
	})
}

// fakePort is a data connection that is never made.
type fakePort chan struct{}

func (fakePort) open(context.Context) (net.Conn, error) { return nil, errNoPort }
func (p fakePort) close() {
	if !p.closed() {
		close(p)
	}
}

func (p fakePort) closed() bool {
	select {
	case <-p:
		return true
	default:
		return false
	}
}

// More commands than a client has reason to send ahead end the connection; as many as it
// may have are answered in order.
func TestPipelining(t *testing.T) {
	ts := startServer(t)
	c := ts.login(t, "alice")
	if err := c.send(strings.Repeat("NOOP\r\n", 30) + "PWD"); err != nil {
		t.Fatal(err)
	}
	for range 30 {
		c.want(codeOK)
	}
	c.want(codePath)

	// Clients keep the control connection of a long transfer alive.
	const noops = 3 * readAheadLines
	d, err := c.begin("STOR /kept")
	if err != nil {
		t.Fatal(err)
	}
	if err := c.send(strings.Repeat("NOOP\r\n", noops) + "PWD\r\nNOOP"); err != nil {
		t.Fatal(err)
	}
	_, err = d.Write([]byte("x"))
	if err := errors.Join(err, d.Close(), c.finish()); err != nil {
		t.Fatal(err)
	}
	for range noops {
		c.want(codeOK)
	}
	c.want(codePath)
	c.want(codeOK)

	d, err = c.begin("STOR /f")
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if err := c.send(strings.Repeat("PWD\r\n", 2*readAheadLines)); err != nil {
		t.Fatal(err)
	}
	ts.log.Wait(t, "too many commands at once")
	c.wantEnd()
	ts.wantSessionEnd(t, c)
	if got := ts.login(t, "bob").mustGet("NLST"); got != "kept\r\n" {
		t.Errorf("an upload that was cut off shows: %q", got)
	}
}

func TestLongLines(t *testing.T) {
	ts := startServer(t)
	before, after := ts.dial(t), ts.login(t, "alice")
	for _, c := range []*client{before, after} {
		for _, n := range []int{maxLine - 10, maxLine, maxLine + 1, 5 * maxLine, 1 << 20} {
			r, err := c.exchange("XYZ " + strings.Repeat("x", n))
			if err != nil || r.code < 500 || r.code > 559 || len(r.text()) > 200 {
				t.Errorf("a line of %d bytes: %.200v, %v", n, r, err)
			}
			c.do("NOOP", codeOK)
		}
	}
	for _, n := range []int{maxArg, maxArg + 1} {
		after.do("CWD "+strings.Repeat("x", n), codeBadName)
		after.do("NOOP", codeOK)
	}
}

// Connections that never log in, and never read, are bounded in number and in what they
// cost: the oldest are dropped. A client that is logged in works on.
func TestFloodOfHalfOpenConnections(t *testing.T) {
	const flood, admitted = 600, 100
	ts := startServer(t, func(c *Config) {
		c.Limits.HandshakesPerAddress, c.Limits.Handshakes = admitted, admitted
	})
	c := ts.login(t, "alice")
	before := heapBytes()
	var flooding []net.Conn
	for i := range flood {
		nc, err := net.Dial("tcp", ts.addr)
		if err != nil {
			t.Fatal(err)
		}
		defer nc.Close()
		greeting := make([]byte, 3)
		if err := errors.Join(nc.SetDeadline(time.Now().Add(patience)), readFull(nc, greeting)); err != nil {
			t.Fatalf("connection %d: %v", i, err)
		}
		flooding = append(flooding, nc)
		if i%50 == 0 {
			c.mustPut("/f", []byte(strings.Repeat("x", i)))
			c.do("NOOP", codeOK)
		}
	}
	for i, nc := range flooding[:flood-2*admitted] { // as many again may be about to end
		if _, err := io.Copy(io.Discard, nc); errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatalf("connection %d of %d stays", i, flood)
		}
	}
	// A control connection has a buffer for a line, and one of the library.
	if grown := heapBytes() - before; grown > admitted*64<<10 {
		t.Errorf("%d idle connections hold %d bytes", admitted, grown)
	}
	if got := c.mustGet("RETR /f"); len(got) != flood-50 {
		t.Errorf("%d bytes came back", len(got))
	}
}

func readFull(r io.Reader, p []byte) error {
	_, err := io.ReadFull(r, p)
	return err
}

func heapBytes() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// Who has not the control connection's address gets no data connection, and does not take
// the client's place.
func TestPortTheft(t *testing.T) {
	for _, foreign := range []bool{false, true} {
		t.Run(fmt.Sprintf("foreign data %v", foreign), func(t *testing.T) {
			ts := startServer(t, func(c *Config) { c.ForeignData = foreign })
			c := ts.login(t, "alice")
			c.mustPut("/f", []byte("data"))
			addr, err := c.passive()
			if err != nil {
				t.Fatal(err)
			}
			thief, err := (&net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 2)}}).Dial("tcp", addr)
			if err != nil {
				t.Fatal(err)
			}
			defer thief.Close()
			if err := c.send("RETR /f"); err != nil {
				t.Fatal(err)
			}
			if foreign {
				c.want(codeOpening)
				if body, err := io.ReadAll(thief); string(body) != "data" {
					t.Errorf("got %q, %v", body, err)
				}
				c.want(codeClosingData)
				return
			}
			if body, _ := io.ReadAll(thief); len(body) > 0 {
				t.Errorf("somebody else gets %q", body)
			}
			ts.log.Wait(t, "data connection from another address", "from=127.0.0.2:")
			own, err := net.Dial("tcp", addr)
			if err != nil {
				t.Fatal(err)
			}
			defer own.Close()
			c.want(codeOpening)
			if body, err := io.ReadAll(own); string(body) != "data" {
				t.Errorf("got %q, %v", body, err)
			}
			c.want(codeClosingData)
		})
	}
}

func TestBounce(t *testing.T) {
	tests := []struct {
		line          string
		code, foreign int // without and with ForeignData
	}{
		{"PORT 127,0,0,1,16,0", codeOK, codeOK},
		{"PORT 127,0,0,2,16,0", codeSyntax, codeOK},
		{"PORT 192,0,2,1,16,0", codeSyntax, codeOK},
		{"PORT 0,0,0,0,16,0", codeSyntax, codeOK},
		{"PORT 127,0,0,1,0,25", codeSyntax, codeSyntax},
		{"PORT 127,0,0,1,3,255", codeSyntax, codeSyntax},
		{"PORT 127,0,0,1,4,0", codeOK, codeOK},
		{"PORT 127,0,0,1,0,0", codeSyntax, codeSyntax},
		{"PORT 127,0,0,1,256,0", codeSyntax, codeSyntax},
		{"PORT 127,0,0,1,16", codeSyntax, codeSyntax},
		{"EPRT |1|127.0.0.1|4096|", codeOK, codeOK},
		{"EPRT |1|127.0.0.2|4096|", codeSyntax, codeOK},
		{"EPRT |1|127.0.0.1|1023|", codeSyntax, codeSyntax},
		{"EPRT |2|::1|4096|", codeSyntax, codeOK},
		{"EPRT |2|::ffff:127.0.0.1|4096|", codeOK, codeOK},
		{"EPRT |3|127.0.0.1|4096|", codeNoNetProtocol, codeNoNetProtocol},
		{"EPRT |1|localhost|4096|", codeSyntax, codeSyntax},
		{"EPRT |1|127.0.0.1|65536|", codeSyntax, codeSyntax},
	}
	for _, foreign := range []bool{false, true} {
		t.Run(fmt.Sprintf("foreign data %v", foreign), func(t *testing.T) {
			c := startServer(t, func(c *Config) { c.ForeignData = foreign }).login(t, "alice")
			for _, tt := range tests {
				want := tt.code
				if foreign {
					want = tt.foreign
				}
				c.do(tt.line, want)
			}
		})
	}
	t.Run("disabled", func(t *testing.T) {
		c := startServer(t, func(c *Config) { c.DisableActive = true }).login(t, "alice")
		c.dialogue(step{"PORT 127,0,0,1,16,0", codeNotHere}, step{"EPRT |1|127.0.0.1|4096|", codeNotHere}, step{"LIST", codeNoData})
	})
	t.Run("EPSV ALL", func(t *testing.T) {
		c := startServer(t).login(t, "alice")
		c.dialogue(step{"EPSV ALL", codeOK}, step{"PORT 127,0,0,1,16,0", codeSequence},
			step{"EPRT |1|127.0.0.1|4096|", codeSequence}, step{"PASV", codeSequence}, step{"EPSV", codeExtPassive})
	})
}
