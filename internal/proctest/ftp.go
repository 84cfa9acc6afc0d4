package proctest

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"path/filepath"
	"strconv"
	"testing"
	"time"
)

// rsaBits is the size of the certificate's key. RSA brings the most cipher suites with it.
const rsaBits = 2048

// FTP is what programs need to reach a test gateway over FTP. Plain text is allowed.
type FTP struct {
	Port         int    // plain, and encrypted after AUTH TLS
	ImplicitPort int    // encrypted from the first byte
	Certificate  string // PEM file: the gateway's own, of 127.0.0.1 and localhost
	Key          string // PEM file
}

// Addr is the address of Port, host:port.
func (f *FTP) Addr() string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(f.Port)) }

func newFTP(tb testing.TB, dir string) *FTP {
	tb.Helper()
	f := &FTP{Port: FreePort(tb), ImplicitPort: FreePort(tb),
		Certificate: filepath.Join(dir, "ftp.crt"), Key: filepath.Join(dir, "ftp.key")}
	key, err := rsa.GenerateKey(rand.Reader, rsaBits)
	if err != nil {
		tb.Fatal(err)
	}
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(now.UnixNano()), Subject: pkix.Name{CommonName: "localhost"},
		NotBefore: now.Add(-time.Hour), NotAfter: now.Add(30 * 24 * time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment | x509.KeyUsageCertSign, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		BasicConstraintsValid: true, IsCA: true, // some clients trust only what may sign
		DNSNames: []string{"localhost"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		tb.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		tb.Fatal(err)
	}
	write(tb, f.Certificate, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert})))
	write(tb, f.Key, string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})))
	return f
}

// config is the configuration's section.
func (f *FTP) config(passive string) string {
	s := fmt.Sprintf("ftp:\n  listen: \"127.0.0.1:%d\"\n  implicit_listen: \"127.0.0.1:%d\"\n"+
		"  tls: { mode: both, required: false, certificate: %q, key: %q }\n", f.Port, f.ImplicitPort, f.Certificate, f.Key)
	if passive != "" {
		s += fmt.Sprintf("  passive_ports: %q\n", passive)
	}
	return s
}

// answers reports whether a port of 127.0.0.1 greets with these bytes.
func answers(ctx context.Context, port int, greeting string) bool {
	dialer := net.Dialer{Timeout: time.Second}
	conn, err := dialer.DialContext(ctx, "tcp", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		return false
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(time.Second))
	buf := make([]byte, len(greeting))
	_, err = conn.Read(buf)
	return err == nil && string(buf) == greeting
}
