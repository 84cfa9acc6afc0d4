package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/snapgate/gateway/cmd/gateway/internal/config"
)

// certificateFiles makes a self-signed certificate and its key in a new directory.
func certificateFiles(t *testing.T) (cert, key string) {
	t.Helper()
	dir := t.TempDir()
	cert, key = filepath.Join(dir, "a.crt"), filepath.Join(dir, "a.key")
	if err := makeCertificate(cert, key); err != nil {
		t.Fatal(err)
	}
	return cert, key
}

// clientCertificate makes a client's certificate, signed by itself, and a file of it.
func clientCertificate(t *testing.T) (tls.Certificate, string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "device"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "client.crt")
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, file
}

// TestClientCA lets in whoever has a certificate of the configured kind, and nobody else.
func TestClientCA(t *testing.T) {
	cert, key := certificateFiles(t)
	device, ca := clientCertificate(t)
	stranger, _ := clientCertificate(t)
	server, err := tlsConfig(&config.TLS{Certificate: cert, Key: key, ClientCA: ca})
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name   string
		shown  []tls.Certificate
		wanted string
	}{
		{"none", nil, "certificate"},
		{"a stranger's", []tls.Certificate{stranger}, "certificate"},
		{"one of the kind", []tls.Certificate{device}, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			a, b := net.Pipe()
			defer a.Close()
			defer b.Close()
			deadline := time.Now().Add(20 * time.Second)
			_, _ = a.SetDeadline(deadline), b.SetDeadline(deadline)
			client := tls.Client(a, &tls.Config{InsecureSkipVerify: true, Certificates: tt.shown, MinVersion: tls.VersionTLS12}) //nolint:gosec // who the server is, is not the matter here
			done := make(chan error, 1)
			go func() {
				err := client.Handshake()
				if err == nil {
					_, err = client.Read(make([]byte, 1)) // TLS 1.3 tells of a refusal then
				}
				done <- err
			}()
			err := tls.Server(b, server).Handshake()
			_ = b.Close()
			<-done
			if tt.wanted == "" && err != nil || tt.wanted != "" && (err == nil || !strings.Contains(err.Error(), tt.wanted)) {
				t.Errorf("handshake: %v, want %q", err, tt.wanted)
			}
		})
	}
}

func TestBadCertificates(t *testing.T) {
	cert, key := certificateFiles(t)
	_, otherKey := certificateFiles(t)
	text := filepath.Join(t.TempDir(), "text")
	if err := os.WriteFile(text, []byte("no certificate\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name string
		tls  config.TLS
		hint string
	}{
		{"missing", config.TLS{Certificate: "/nowhere", Key: key}, "check the paths"},
		{"no PEM", config.TLS{Certificate: text, Key: key}, "name PEM files"},
		{"another key", config.TLS{Certificate: cert, Key: otherKey}, "name PEM files"},
		{"no client CA", config.TLS{Certificate: cert, Key: key, ClientCA: text}, "name a PEM file"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := tlsConfig(&tt.tls)
			var h *hintedError
			if !errors.As(err, &h) || !strings.Contains(h.hint, tt.hint) {
				t.Errorf("got %v, want one with the hint %q", err, tt.hint)
			}
		})
	}
}

func TestCertificateWarning(t *testing.T) {
	cert, key := certificateFiles(t)
	cfg, err := tlsConfig(&config.TLS{Certificate: cert, Key: key})
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(cfg.Certificates[0].Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name string
		now  time.Time
		want string
	}{
		{"new", time.Now(), ""},
		{"soon", leaf.NotAfter.Add(-time.Hour), "expires on"},
		{"over", leaf.NotAfter.Add(time.Hour), "has expired"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := certificateWarning(cfg, tt.now)
			if (got == "") != (tt.want == "") || !strings.Contains(got, tt.want) {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}
