package ftpsrv

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"math/big"
	"net"
	"testing"
	"time"
)

// TestDataConnEnd: rclone, killed in the middle of an upload with TLS, left a half file that
// was taken for a whole one, since its connection ended between two TLS records.
func TestDataConnEnd(t *testing.T) {
	plain := func(c net.Conn) net.Conn { return c }
	encrypted := func(version uint16) func(net.Conn) net.Conn {
		return func(c net.Conn) net.Conn {
			return tls.Client(c, &tls.Config{InsecureSkipVerify: true, MinVersion: version, MaxVersion: version})
		}
	}
	tests := []struct {
		name  string
		wrap  func(net.Conn) net.Conn
		alert bool // close_notify is sent
		want  error
	}{
		{"plain", plain, false, nil},
		{"TLS 1.2 with close_notify", encrypted(tls.VersionTLS12), true, nil},
		{"TLS 1.3 with close_notify", encrypted(tls.VersionTLS13), true, nil},
		{"TLS 1.2 without", encrypted(tls.VersionTLS12), false, io.ErrUnexpectedEOF},
		{"TLS 1.3 without", encrypted(tls.VersionTLS13), false, io.ErrUnexpectedEOF},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			server, client := tcpPair(t)
			var cfg *tls.Config
			if _, ok := tt.wrap(client).(*tls.Conn); ok {
				cfg = &tls.Config{Certificates: []tls.Certificate{testCertificate(t)}}
			}
			sent := bytes.Repeat([]byte("half"), 10_000)
			done := make(chan error, 1)
			go func() {
				w := tt.wrap(client)
				_, err := w.Write(sent)
				if c, ok := w.(*tls.Conn); ok && tt.alert {
					err = errors.Join(err, c.CloseWrite())
				}
				done <- errors.Join(err, client.CloseWrite())
			}()
			got, err := io.ReadAll(newDataConn(server, cfg, 20*time.Second))
			if !errors.Is(err, tt.want) {
				t.Errorf("got error %v, want %v", err, tt.want)
			}
			if !bytes.Equal(got, sent) {
				t.Errorf("got %d bytes, want %d", len(got), len(sent))
			}
			if err := <-done; err != nil {
				t.Errorf("client: %v", err)
			}
		})
	}
}

// tcpPair is the two ends of a TCP connection.
func tcpPair(t *testing.T) (server, client *net.TCPConn) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	dialed, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = dialed.Close() })
	accepted, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = accepted.Close() })
	return accepted.(*net.TCPConn), dialed.(*net.TCPConn)
}

func testCertificate(t *testing.T) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}
