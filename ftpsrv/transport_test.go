package ftpsrv

import (
	"bytes"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/snapgate/gateway/internal/acceptor/acceptortest"
)

// A passive port waits for its client while the process has no descriptors for the connection, and no
// longer than it should.
func TestPassiveAcceptFails(t *testing.T) {
	for name, timeout := range map[string]time.Duration{"client comes": time.Hour, "no client": time.Microsecond} {
		t.Run(name, func(t *testing.T) {
			ln, err := listenPassive(t.Context(), netip.MustParseAddr("127.0.0.1"), PortRange{})
			if err != nil {
				t.Fatal(err)
			}
			p := &passivePort{ln: &failingPassive{acceptortest.Failing{Listener: ln}, ln}, timeout: timeout, log: slog.New(slog.DiscardHandler)}
			if timeout == time.Hour {
				c, err := net.Dial("tcp", ln.Addr().String())
				if err != nil {
					t.Fatal(err)
				}
				defer c.Close()
			}
			nc, err := p.open(t.Context())
			if err == nil {
				_ = nc.Close()
			}
			if timeout == time.Hour && err != nil || timeout != time.Hour && !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("open: %v", err)
			}
		})
	}
}

type failingPassive struct {
	acceptortest.Failing
	tcp *net.TCPListener
}

func (f *failingPassive) SetDeadline(at time.Time) error { return f.tcp.SetDeadline(at) }

// Every way to make the two connections carries a file there and back.
func TestTransfers(t *testing.T) {
	ways := []struct {
		name string
		tls  bool
		dial func(*testServer, testing.TB) *client
	}{
		{"plain", false, (*testServer).dial},
		{"explicit TLS", true, (*testServer).dialTLS},
		{"implicit TLS", true, (*testServer).dialImplicit},
		{"plain, of a server with TLS", true, (*testServer).dial},
	}
	for _, way := range ways {
		t.Run(way.name, func(t *testing.T) {
			var changes []func(*Config)
			if way.tls {
				changes = append(changes, withTLS(t))
			}
			ts := startServer(t, changes...)
			for _, mode := range []string{"EPSV", "PASV", "PORT", "EPRT"} {
				c := way.dial(ts, t).login("alice")
				c.mode = mode
				for _, body := range []string{"", "x", string(bytes.Repeat([]byte("0123456789"), 50_000))} {
					c.mustPut("/f", []byte(body))
					if got := c.mustGet("RETR /f"); got != body {
						t.Errorf("%s: %d bytes came back of %d", mode, len(got), len(body))
					}
				}
				c.do("QUIT", codeGoodbye)
				c.wantEnd()
			}
		})
	}
}

// Clients that insist on it find the data connection's session to be that of the control
// connection, also after many transfers.
func TestDataConnectionsResume(t *testing.T) {
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		t.Run(tls.VersionName(version), func(t *testing.T) {
			ts := startServer(t, withTLS(t))
			ts.client.MaxVersion = version
			c := ts.login(t, "alice")
			c.mustPut("/f", []byte("data"))
			for i := range 5 {
				d, err := c.begin("RETR /f")
				if err != nil {
					t.Fatal(err)
				}
				var body [10]byte
				if n, err := d.Read(body[:]); n != 4 {
					t.Errorf("read: %d, %v", n, err)
				}
				if !d.Conn.(*tls.Conn).ConnectionState().DidResume {
					t.Errorf("transfer %d: a session of its own", i)
				}
				d.Close()
				c.want(codeClosingData)
			}
		})
	}
}

// MLSD lists directories only (RFC 3659 section 7.1); a link to nowhere is none.
func TestMLSDWantsADirectory(t *testing.T) {
	c := startServer(t).login(t, "alice")
	c.mustPut("/f", nil)
	c.do("MKD /d", codePath)
	for target, link := range map[string]string{"none": "/dangling", "loop": "/loop", "f": "/file", "d": "/dir"} {
		c.do("SITE SYMLINK "+target+" "+link, codeOK)
	}
	for _, name := range []string{"/f", "/dangling", "/loop", "/file", "/none"} {
		_, err := c.get("MLSD " + name)
		wantRefused(t, "MLSD "+name, err, codeFailed)
	}
	c.mustGet("MLSD /d")
	c.mustGet("MLSD /dir")
}

// REST is where the next transfer begins (RFC 3659 section 5): an upload keeps what is
// before it and nothing of what is behind, and it counts for one transfer only.
func TestRest(t *testing.T) {
	const old = "0123456789"
	uploads := []struct {
		name   string
		before []string
		line   string
		want   string
		code   int // of a refusal
	}{
		{name: "from the start", before: []string{"REST 0"}, line: "STOR /f", want: "new"},
		{name: "in the middle", before: []string{"REST 4"}, line: "STOR /f", want: "0123new"},
		{name: "near the end", before: []string{"REST 8"}, line: "STOR /f", want: "01234567new"},
		{name: "at the end", before: []string{"REST 10"}, line: "STOR /f", want: old + "new"},
		{name: "beyond the end", before: []string{"REST 11"}, line: "STOR /f", want: old, code: codeBadRestart},
		{name: "the last one counts", before: []string{"REST 4", "REST 2"}, line: "STOR /f", want: "01new"},
		{name: "type and space come between", before: []string{"REST 4", "TYPE I", "ALLO 3"}, line: "STOR /f", want: "0123new"},
		{name: "appending takes no offset", before: []string{"REST 4"}, line: "APPE /f", want: old + "new"},
		{name: "of a file that is not there", before: []string{"REST 4"}, line: "STOR /none", want: old, code: codeBadRestart},
	}
	c := startServer(t).login(t, "alice")
	for _, tt := range uploads {
		t.Run(tt.name, func(t *testing.T) {
			c.mustPut("/f", []byte(old))
			switch err := c.put([]byte("new"), append(tt.before, tt.line)...); {
			case tt.code != 0:
				wantRefused(t, tt.line, err, tt.code)
			case err != nil:
				t.Fatal(err)
			}
			if got := c.mustGet("RETR /f"); got != tt.want {
				t.Errorf("the file has %q, want %q", got, tt.want)
			}
		})
	}
	c.mustPut("/f", []byte(old))
	for offset, want := range map[string]string{"0": old, "7": "789", "10": ""} {
		if got, err := c.get("REST "+offset, "RETR /f"); string(got) != want || err != nil {
			t.Errorf("from %s: %q, %v, want %q", offset, got, err, want)
		}
		if got := c.mustGet("RETR /f"); got != old {
			t.Errorf("after it: %q", got)
		}
	}
	_, err := c.get("REST 11", "RETR /f")
	wantRefused(t, "beyond the end", err, codeBadRestart)
	c.dialogue(step{"REST 3", codePending}, step{"PWD", codePath})
	if got := c.mustGet("RETR /f"); got != old {
		t.Errorf("another command does not end REST: %q", got)
	}
	for _, bad := range []string{"REST", "REST -1", "REST x", "REST 99999999999999999999"} {
		c.do(bad, codeSyntax)
	}
}
