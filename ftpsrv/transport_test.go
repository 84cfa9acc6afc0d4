package ftpsrv

import (
	"bytes"
	"crypto/tls"
	"testing"
)

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
