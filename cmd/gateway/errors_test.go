package main

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// evilNames is a server whose certificate names what would set the title of a terminal. It returns its port.
func evilNames(t *testing.T) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), DNSNames: []string{"a\x1b]0;x\x07"}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	ln, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}})
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				_, _ = io.Copy(io.Discard, c) // until the client has seen the certificate
				_ = c.Close()
			})
		}
	})
	t.Cleanup(func() { _ = ln.Close(); wg.Wait() })
	_, port, _ := net.SplitHostPort(ln.Addr().String())
	return port
}

// wantTame wants a text of a server in what is said, and nothing that a terminal would do.
func wantTame(t *testing.T, said, text string) {
	t.Helper()
	if !strings.Contains(said, text) || strings.ContainsAny(said, "\x1b\x07") {
		t.Errorf("%q, want %q", said, text)
	}
}

// What a certificate says of itself, before anybody has signed it, does nothing to a terminal.
func TestErrorsOfCertificates(t *testing.T) {
	v := newVictim(t, "ftps://me@localhost:"+evilNames(t)+"/")
	status, said := v.pull(t.Context())
	if status != statusFailure {
		t.Errorf("status %d", status)
	}
	wantTame(t, said, `valid for a\x1b]0;x\a`)
}

// What a server answers that speaks no S3 does nothing to a terminal.
func TestErrorsOfS3(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusBadRequest)
		_, _ = io.WriteString(w, "\x1b[2Jgone")
	}))
	t.Cleanup(server.Close)
	dir := t.TempDir()
	for name, data := range map[string]string{
		"secret": "secret\n",
		"config.yaml": "version: 1\ndata_dir: ./data\nstore: { plaintext: true, location: \"s3://" + strings.TrimPrefix(server.URL, "http://") +
			"/bucket\", access_key: me, secret_key_file: ./secret, region: r, use_tls: false, retries: 1 }\nsources: { s: { location: fs:///nowhere } }\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(data), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var stdout, stderr bytes.Buffer
	p := &program{stdin: strings.NewReader(""), stdout: &stdout, stderr: &stderr, cheapKDF: true}
	if status := p.run(t.Context(), []string{"store", "info", "-c", filepath.Join(dir, "config.yaml")}); status != statusFailure {
		t.Errorf("status %d", status)
	}
	wantTame(t, stderr.String()+stdout.String(), `\x1b[2Jgone`)
}
