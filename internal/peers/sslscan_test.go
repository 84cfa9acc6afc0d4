//go:build peers

package peers

import (
	"crypto/tls"
	"encoding/xml"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/snapgate/gateway/internal/proctest"
)

// scan is what sslscan writes with --xml.
type scan struct {
	Protocols []struct {
		Type    string `xml:"type,attr"`
		Version string `xml:"version,attr"`
		Enabled int    `xml:"enabled,attr"`
	} `xml:"ssltest>protocol"`
	Renegotiation struct {
		Supported int `xml:"supported,attr"`
		Secure    int `xml:"secure,attr"`
	} `xml:"ssltest>renegotiation"`
	Compression struct {
		Supported int `xml:"supported,attr"`
	} `xml:"ssltest>compression"`
	Heartbleed []struct {
		Version    string `xml:"sslversion,attr"`
		Vulnerable int    `xml:"vulnerable,attr"`
	} `xml:"ssltest>heartbleed"`
	Ciphers []struct {
		Version  string `xml:"sslversion,attr"`
		Name     string `xml:"cipher,attr"`
		Strength string `xml:"strength,attr"`
		Bits     int    `xml:"bits,attr"`
	} `xml:"ssltest>cipher"`
	Groups []struct {
		Name string `xml:"name,attr"`
		Bits int    `xml:"bits,attr"`
	} `xml:"ssltest>group"`
	Certificates []struct {
		Signature string `xml:"signature-algorithm"`
		Expired   bool   `xml:"expired"`
		Key       struct {
			Error bool `xml:"error,attr"`
		} `xml:"pk"`
	} `xml:"ssltest>certificates>certificate"`
}

// enabled lists the versions of TLS and SSL that a server speaks.
func (s *scan) enabled() []string {
	var out []string
	for _, p := range s.Protocols {
		if p.Enabled != 0 {
			out = append(out, p.Type+p.Version)
		}
	}
	return out
}

// findings lists what is wrong with a server.
func (s *scan) findings() []string {
	var out []string
	for _, v := range s.enabled() {
		if v != "tls1.2" && v != "tls1.3" {
			out = append(out, v+" is enabled")
		}
	}
	if s.Renegotiation.Supported != 0 {
		out = append(out, fmt.Sprintf("renegotiation, secure: %d", s.Renegotiation.Secure))
	}
	if s.Compression.Supported != 0 {
		out = append(out, "compression")
	}
	for _, h := range s.Heartbleed {
		if h.Vulnerable != 0 {
			out = append(out, "heartbleed with "+h.Version)
		}
	}
	for _, c := range s.Ciphers {
		if c.Strength != "strong" && c.Strength != "acceptable" || c.Bits < 128 {
			out = append(out, fmt.Sprintf("%s cipher %s, %d bits", c.Strength, c.Name, c.Bits))
		}
		if c.Version == "TLSv1.2" && !strings.HasPrefix(c.Name, "ECDHE-") {
			out = append(out, "no forward secrecy: "+c.Name)
		}
	}
	for _, g := range s.Groups {
		if g.Bits < 112 {
			out = append(out, "weak group "+g.Name)
		}
	}
	for _, c := range s.Certificates {
		if c.Expired || c.Key.Error || strings.HasPrefix(strings.ToLower(c.Signature), "sha1") {
			out = append(out, fmt.Sprintf("certificate: %+v", c))
		}
	}
	return out
}

func scanTLS(t *testing.T, port int, more ...string) *scan {
	t.Helper()
	args := append([]string{"--no-colour", "--ipv4", "--xml=-"}, more...)
	res, err := proctest.Run(t.Context(), commandLimit, "", nil, "sslscan", append(args, fmt.Sprintf("127.0.0.1:%d", port))...)
	if err != nil || res.Status != 0 {
		t.Fatalf("sslscan: status %d, %v\n%s", res.Status, err, res.Tail())
	}
	s := &scan{}
	if err := xml.Unmarshal([]byte(res.Stdout), s); err != nil {
		t.Fatalf("sslscan: %v\n%s", err, res.Stdout)
	}
	return s
}

func TestTLSScan(t *testing.T) {
	if !installed(t, "sslscan") {
		t.SkipNow()
	}
	g := proctest.NewGateway(t, proctest.Options{FTP: true})
	if _, err := g.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	for name, s := range map[string]*scan{
		"explicit": scanTLS(t, g.FTP.Port, "--starttls-ftp"),
		"implicit": scanTLS(t, g.FTP.ImplicitPort),
	} {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff([]string{"tls1.2", "tls1.3"}, s.enabled()); diff != "" {
				t.Errorf("versions: %s", diff)
			}
			if diff := cmp.Diff([]string(nil), s.findings()); diff != "" {
				t.Errorf("findings: %s", diff)
			}
			if len(s.Ciphers) == 0 || len(s.Heartbleed) == 0 || len(s.Groups) == 0 || len(s.Certificates) == 0 || len(s.Protocols) < 6 {
				t.Errorf("the scan is not complete: %+v", s)
			}
		})
	}
	if err := g.Stop(); err != nil {
		t.Error(err)
	}
}

// TestTLSScanFinds scans a server that is wrong on purpose: without findings here, there
// being none elsewhere would mean nothing.
func TestTLSScanFinds(t *testing.T) {
	if !installed(t, "sslscan") {
		t.SkipNow()
	}
	g := proctest.NewGateway(t, proctest.Options{FTP: true}) // for its certificate
	cert, err := tls.LoadX509KeyPair(g.FTP.Certificate, g.FTP.Key)
	if err != nil {
		t.Fatal(err)
	}
	ln, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{
		Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS10,
		CipherSuites: []uint16{tls.TLS_RSA_WITH_3DES_EDE_CBC_SHA, tls.TLS_RSA_WITH_AES_128_CBC_SHA, tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256},
	})
	if err != nil {
		t.Fatal(err)
	}
	var wait sync.WaitGroup
	wait.Go(func() { handshakes(ln, &wait) })
	t.Cleanup(func() {
		_ = ln.Close()
		wait.Wait()
	})
	findings := scanTLS(t, ln.Addr().(*net.TCPAddr).Port).findings()
	for _, want := range []string{"tls1.0 is enabled", "tls1.1 is enabled", "no forward secrecy: AES128-SHA"} {
		if !slices.Contains(findings, want) {
			t.Errorf("not found: %s; found: %q", want, findings)
		}
	}
}

// handshakes makes TLS handshakes, and nothing more.
func handshakes(ln net.Listener, wait *sync.WaitGroup) {
	for {
		conn, err := ln.Accept()
		if err != nil {
			return
		}
		wait.Go(func() {
			defer conn.Close()
			_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
			_ = conn.(*tls.Conn).Handshake() // fails for what the server does not speak
			_, _ = conn.Read(make([]byte, 1))
		})
	}
}
