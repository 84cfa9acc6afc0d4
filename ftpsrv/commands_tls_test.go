package ftpsrv

import (
	"crypto/tls"
	"errors"
	"io"
	"sync/atomic"
	"testing"
)

// Where TLS is required, nothing that matters goes in plain text.
func TestTLSRequired(t *testing.T) {
	ts := startServer(t, hasty, withTLS(t), func(c *Config) { c.TLSRequired = true })
	c := ts.dial(t)
	c.asks(
		ask{"USER alice", codeNotLoggedIn, "AUTH TLS"}, ask{"PASS " + password, codeNotLoggedIn, "AUTH TLS"}, ask{"STOR x", codeNotLoggedIn, ""}, ask{"FEAT", codeSystem, "AUTH TLS"},
		ask{"PBSZ 0", codeSequence, ""}, ask{"PROT P", codeSequence, ""}, ask{"AUTH KERBEROS", codeParameter, ""}, ask{"AUTH TLS", codeAuthAccepted, ""},
	)
	c.startTLS()
	c.asks(
		ask{"AUTH TLS", codeSequence, "already"}, ask{"CCC", codeNotLoggedIn, ""}, ask{"PASS " + password, codeSequence, ""},
		ask{"USER alice", codeNeedPassword, ""}, ask{"PASS " + password, codeLoggedIn, ""}, ask{"AUTH TLS", codeSequence, ""}, ask{"CCC", codeDenied, "encrypted"},
	)
	for _, line := range []string{"STOR f", "RETR f", "LIST", "NLST", "MLSD", "APPE f", "STOU"} {
		_, err := c.begin(line) // without PROT P
		wantRefused(t, line, err, codeNoNetProtocol)
	}
	c.asks(ask{"PBSZ 0", codeOK, "PBSZ=0"}, ask{"PROT C", codeDenied, "required"}, ask{"PROT S", codeProtLevel, ""}, ask{"PROT E", codeProtLevel, ""}, ask{"PROT X", codeParameter, ""}, ask{"PROT P", codeOK, ""})
	c.protected = true
	c.mustPut("f", []byte("x"))
	c.asks(ask{"PROT C", codeDenied, ""})
	c.wantFile("f", "x")

	i := ts.dialImplicit(t).login("alice")
	i.wantFile("f", "x")
	i.asks(ask{"PROT C", codeDenied, ""})
}

// Where it is not, PROT C and PROT P may change, and AUTH SSL means PROT P.
func TestProtection(t *testing.T) {
	ts := startServer(t, hasty, withTLS(t))
	c := ts.dial(t)
	c.do("AUTH SSL", codeAuthAccepted)
	c.startTLS()
	c.login("alice")
	c.protected = true
	c.mustPut("f", []byte("x"))
	for _, p := range []bool{false, true, false} {
		c.protected = p
		c.do("PROT "+map[bool]string{false: "C", true: "P"}[p], codeOK)
		c.mustPut("f", []byte("y"))
		c.wantFile("f", "y")
	}
}

// What was sent in plain text behind AUTH TLS is not run when the connection is encrypted:
// somebody in between may have put it there.
func TestCommandInjection(t *testing.T) {
	ts := startServer(t, withTLS(t))
	for _, behind := range []string{"USER alice\r\nPASS " + password + "\r\nDELE /f\r\n", "NOOP\r\n", "\r\n", "N"} {
		c := ts.dial(t)
		if _, err := c.conn.Write([]byte("AUTH TLS\r\n" + behind)); err != nil {
			t.Fatal(err)
		}
		if all := c.wantEnd(); len(all) != 0 {
			t.Errorf("behind AUTH %q: %v", behind, all)
		}
	}
	ts.log.Wait(t, "no TLS", "plain text after AUTH")
	if n := len(ts.auth.calls); n != 0 {
		t.Errorf("%d passwords were looked at", n)
	}
	// A user who was named in plain text is forgotten.
	c := ts.dial(t)
	c.do("USER mallory", codeNeedPassword)
	c.do("AUTH TLS", codeAuthAccepted)
	c.startTLS()
	c.asks(ask{"PASS " + password, codeSequence, "USER first"})
}

// A new certificate is for new connections; those that are there go on with the old one.
func TestNewCertificate(t *testing.T) {
	var serving atomic.Pointer[tls.Config]
	swap := func() {
		serving.Store(&tls.Config{Certificates: []tls.Certificate{newCertificate(t)}, MinVersion: tls.VersionTLS12})
	}
	swap()
	ts := startServer(t, hasty, func(c *Config) { c.TLS = serving.Load })
	before := ts.login(t, "alice")
	before.mustPut("f", []byte("x"))
	swap()
	before.wantFile("f", "x")
	d := before.begins(t, "RETR f")
	if !d.Conn.(*tls.Conn).ConnectionState().DidResume {
		t.Error("the session does not resume after the certificate has changed")
	}
	d.Close()
	before.want(codeClosingData, codeAborted)

	old := ts.dial(t)
	old.do("AUTH TLS", codeAuthAccepted)
	nc := tls.Client(old.raw, old.tls)
	var unknown *tls.CertificateVerificationError
	if err := nc.Handshake(); !errors.As(err, &unknown) {
		t.Errorf("handshake with the old certificate's trust: %v", err)
	}
	ts.client = ts.clientTLS(t)
	after := ts.login(t, "alice")
	after.wantFile("f", "x")
	before.wantFile("f", "x")
}

func TestOldTLSIsRefused(t *testing.T) {
	ts := startServer(t, withTLS(t))
	for _, version := range []uint16{tls.VersionTLS10, tls.VersionTLS11} {
		cfg := ts.client.Clone()
		cfg.MinVersion, cfg.MaxVersion = version, version //nolint:gosec // what is to be refused
		c := ts.dial(t)
		c.do("AUTH TLS", codeAuthAccepted)
		if err := tls.Client(c.raw, cfg).Handshake(); err == nil {
			t.Errorf("%s is accepted", tls.VersionName(version))
		}
		i := newClient(t, ts, ts.implicit)
		if err := tls.Client(i.raw, cfg).Handshake(); err == nil {
			t.Errorf("implicit %s is accepted", tls.VersionName(version))
		}
		ts.log.Wait(t, "unsupported versions")
	}
}

// Data in plain text where TLS was agreed is no upload.
func TestPlainDataWithProtP(t *testing.T) {
	ts := startServer(t, withTLS(t))
	c := ts.login(t, "alice")
	c.mustPut("f", []byte("old"))
	for _, body := range []string{"no handshake, but text that is long enough to be a record", ""} {
		c.protected = false
		d := c.begins(t, "STOR f")
		if _, err := io.WriteString(d, body); err != nil {
			t.Fatal(err)
		}
		d.Close()
		c.want(codeAborted)
		c.protected = true
		c.wantFile("f", "old")
	}
}
