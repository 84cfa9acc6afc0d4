//go:build stores

package backend_test

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"

	"github.com/snapgate/gateway/internal/proctest"
	"github.com/snapgate/gateway/store/internal/backend"
	"github.com/snapgate/gateway/store/storetest"
)

func s3Config(server *proctest.S3, bucket string) backend.S3Config {
	return backend.S3Config{
		Endpoint: server.Addr, Bucket: bucket, AccessKey: server.AccessKey, SecretKey: server.SecretKey, NoTLS: true,
	}
}

func newS3(t *testing.T, cfg backend.S3Config) *backend.S3 {
	t.Helper()
	b, err := backend.NewS3(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestS3(t *testing.T) {
	server := proctest.StartS3(t)
	var n atomic.Int32
	storetest.TestBackend(t, func(t *testing.T) backend.Backend {
		cfg := s3Config(server, fmt.Sprintf("bucket%d", n.Add(1)))
		if n.Load()%2 == 0 {
			cfg.Prefix = "some/where"
		}
		return newS3(t, cfg)
	})
}

// TestS3Faults has connections break and be reset, and the server complain.
func TestS3Faults(t *testing.T) {
	server := proctest.StartS3(t)
	proxy := proctest.StartProxy(t, server.Addr)
	storetest.TestBackendFaults(t, func(t *testing.T) (backend.Backend, []storetest.Fault) {
		cfg := s3Config(server, "bucket")
		cfg.Endpoint = proxy.Addr
		cfg.Retries = 1
		var faults []storetest.Fault
		for name, trouble := range map[string]proctest.Trouble{
			"reset":            {Reset: true},
			"slow":             {Delay: time.Millisecond},
			"slow down":        {Answer: s3Answer("503 Service Unavailable", "SlowDown")},
			"internal error":   {Answer: s3Answer("500 Internal Server Error", "InternalError")},
			"forbidden":        {Answer: s3Answer("403 Forbidden", "AccessDenied")},
			"nonsense":         {Answer: "HTTP/1.1 502 Bad Gateway\r\nContent-Length: 6\r\n\r\n<html>"},
			"cut off at once":  {Up: 10},
			"request cut off":  {Up: 1500},
			"upload cut off":   {Up: 9 << 20},
			"answer cut off":   {Down: 10},
			"download cut off": {Down: 8 << 20},
		} {
			faults = append(faults, storetest.Fault{Name: name, Start: func() func() {
				proxy.Set(trouble)
				return func() { proxy.Set(proctest.Trouble{}) }
			}})
		}
		return newS3(t, cfg), faults
	})
}

func s3Answer(status, code string) string {
	body := "<?xml version=\"1.0\" encoding=\"UTF-8\"?><Error><Code>" + code + "</Code><Message>no</Message></Error>"
	return fmt.Sprintf("HTTP/1.1 %s\r\nContent-Type: application/xml\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s", status, len(body), body)
}

// TestS3ReadGoesOn has a connection break again and again while a file is read.
func TestS3ReadGoesOn(t *testing.T) {
	server := proctest.StartS3(t)
	proxy := proctest.StartProxy(t, server.Addr)
	cfg := s3Config(server, "bucket")
	cfg.Endpoint = proxy.Addr
	b := newS3(t, cfg)
	if err := b.Create(t.Context()); err != nil {
		t.Fatal(err)
	}
	name, data := storetest.FileName(backend.PackfilesDir, 1), bytes.Repeat([]byte("0123456789abcde"), 1<<20)
	if err := backend.PutBytes(t.Context(), b, name, data); err != nil {
		t.Fatal(err)
	}
	proxy.Set(proctest.Trouble{Down: 1 << 20})
	got, err := backend.GetBytes(t.Context(), b, name, 1<<30)
	if err != nil || !bytes.Equal(got, data) {
		t.Errorf("%d bytes of %d, %v", len(got), len(data), err)
	}
}

// TestS3UploadsAreGivenUp has uploads in parts fail, and none of their parts stay.
func TestS3UploadsAreGivenUp(t *testing.T) {
	server := proctest.StartS3(t)
	proxy := proctest.StartProxy(t, server.Addr)
	cfg := s3Config(server, "bucket")
	cfg.Endpoint = proxy.Addr
	cfg.Retries = 1
	b := newS3(t, cfg)
	if err := b.Create(t.Context()); err != nil {
		t.Fatal(err)
	}
	proxy.Set(proctest.Trouble{Up: 9 << 20})
	name := storetest.FileName(backend.PackfilesDir, 1)
	if err := backend.PutBytes(t.Context(), b, name, make([]byte, 40<<20)); err == nil {
		t.Fatal("Put works")
	}
	if left := parts(t, server); len(left) > 0 {
		t.Errorf("after a failed Put: %v", left)
	}

	// With nobody there to give it up to, it waits for Sweep.
	proxy.Set(proctest.Trouble{})
	rd := &resetting{proxy: proxy, left: 40 << 20, at: 30 << 20}
	if _, err := b.Put(t.Context(), name, rd); err == nil {
		t.Fatal("Put works")
	}
	proxy.Set(proctest.Trouble{})
	if left := parts(t, server); len(left) == 0 {
		t.Fatal("nothing is left to sweep")
	}
	if err := b.Sweep(t.Context(), time.Now()); err != nil || len(parts(t, server)) == 0 {
		t.Errorf("swept what may still be written: %v", err)
	}
	if err := b.Sweep(t.Context(), time.Now().Add(2*time.Hour)); err != nil || len(parts(t, server)) > 0 {
		t.Errorf("after Sweep: %v, %v", parts(t, server), err)
	}
}

// resetting is a source that cuts the network when some bytes were read.
type resetting struct {
	proxy    *proctest.Proxy
	left, at int
}

func (r *resetting) Read(p []byte) (int, error) {
	if r.left -= len(p); r.left < 40<<20-r.at {
		r.proxy.Set(proctest.Trouble{Reset: true})
	}
	return len(p), nil
}

// parts lists the uploads in parts that the server has not seen the end of.
func parts(t *testing.T, server *proctest.S3) []string {
	t.Helper()
	core, err := minio.NewCore(server.Addr, &minio.Options{Creds: credentials.NewStaticV4(server.AccessKey, server.SecretKey, "")})
	if err != nil {
		t.Fatal(err)
	}
	result, err := core.ListMultipartUploads(t.Context(), "bucket", "", "", "", "", 100)
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for _, upload := range result.Uploads {
		found = append(found, upload.Key)
	}
	return found
}

// TestS3Hang has a server that takes connections and then does nothing: all ends in time.
func TestS3Hang(t *testing.T) {
	server := proctest.StartS3(t)
	proxy := proctest.StartProxy(t, server.Addr)
	cfg := s3Config(server, "bucket")
	cfg.Endpoint = proxy.Addr
	cfg.Retries, cfg.Timeout = 1, time.Second/4
	b := newS3(t, cfg)
	proxy.Set(proctest.Trouble{Hang: true})
	name := storetest.FileName(backend.PackfilesDir, 1)
	for what, call := range map[string]func() error{
		"put":       func() error { return backend.PutBytes(t.Context(), b, name, []byte("x")) },
		"put parts": func() error { return backend.PutBytes(t.Context(), b, name, make([]byte, 40<<20)) },
		"get":       func() error { _, err := b.Get(t.Context(), name, 0, -1); return err },
		"stat":      func() error { _, err := b.Stat(t.Context(), name); return err },
		"list":      func() error { return b.List(t.Context(), "", func(string) error { return nil }) },
		"remove":    func() error { return b.Remove(t.Context(), name) },
		"create":    func() error { return b.Create(t.Context()) },
	} {
		var timeout net.Error
		if err := call(); !errors.As(err, &timeout) || !timeout.Timeout() {
			t.Errorf("%s: %v", what, err)
		}
	}
}

func TestS3Errors(t *testing.T) {
	server := proctest.StartS3(t)
	if err := newS3(t, s3Config(server, "bucket")).Create(t.Context()); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name   string
		change func(*backend.S3Config)
		want   error
		text   string
	}{
		{name: "wrong secret", change: func(c *backend.S3Config) { c.SecretKey = "wrong-and-secret" }, want: fs.ErrPermission},
		{name: "unknown access key", change: func(c *backend.S3Config) { c.AccessKey = "somebody" }, text: "access key"},
		{name: "no bucket", change: func(c *backend.S3Config) { c.Bucket = "elsewhere" }, want: fs.ErrNotExist},
		{name: "TLS with a server without", change: func(c *backend.S3Config) { c.NoTLS = false }, text: "HTTP response to HTTPS client"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			cfg := s3Config(server, "bucket")
			cfg.Retries = 1
			tt.change(&cfg)
			_, err := newS3(t, cfg).Stat(t.Context(), backend.ConfigName)
			if tt.want != nil && !errors.Is(tt.want, fs.ErrNotExist) && errors.Is(err, fs.ErrNotExist) {
				t.Errorf("Stat: %v looks as if it were not there", err)
			}
			_, err = backend.GetBytes(t.Context(), newS3(t, cfg), backend.ConfigName, 100)
			if tt.want != nil && !errors.Is(err, tt.want) || err == nil || !strings.Contains(err.Error(), tt.text) {
				t.Errorf("Get: %v, want %v", err, tt.want)
			}
			for _, secret := range []string{cfg.SecretKey, server.SecretKey} {
				if strings.Contains(fmt.Sprintf("%v %+v %#v", err, err, err), secret) {
					t.Errorf("the error shows the secret: %v", err)
				}
			}
		})
	}
}

// TestS3TLS has a server whose certificate no authority has signed.
func TestS3TLS(t *testing.T) {
	cert, key := proctest.Certificate(t, filepath.Join(t.TempDir(), "s3"), "127.0.0.1")
	server := proctest.StartS3(t, "--cert", cert, "--key", key)
	ca, err := os.ReadFile(cert)
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name   string
		change func(*backend.S3Config)
		want   string
	}{
		{"unknown", func(*backend.S3Config) {}, "certificate signed by unknown authority"},
		{"known", func(c *backend.S3Config) { c.CA = ca }, ""},
		{"not looked at", func(c *backend.S3Config) { c.Insecure = true }, ""},
		{"without TLS", func(c *backend.S3Config) { c.NoTLS = true }, "look for bucket"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			cfg := s3Config(server, "bucket")
			cfg.NoTLS, cfg.Retries = false, 1
			tt.change(&cfg)
			b := newS3(t, cfg)
			err := b.Create(t.Context())
			if tt.want != "" {
				if err == nil || !strings.Contains(err.Error(), tt.want) {
					t.Errorf("got %v, want %s", err, tt.want)
				}
				return
			}
			name, data := storetest.FileName(backend.PackfilesDir, 1), bytes.Repeat([]byte("x"), 20<<20)
			if err := errors.Join(err, backend.PutBytes(t.Context(), b, name, data)); err != nil {
				t.Fatal(err)
			}
			got, err := backend.GetBytes(t.Context(), b, name, 1<<30)
			if err != nil || !bytes.Equal(got, data) {
				t.Errorf("%d bytes, %v", len(got), err)
			}
			if err := b.Remove(t.Context(), name); err != nil {
				t.Error(err)
			}
		})
	}
	if _, err := backend.NewS3(backend.S3Config{Endpoint: "h", Bucket: "bucket", AccessKey: "a", SecretKey: "s", CA: []byte("no PEM")}); err == nil {
		t.Error("CA without a certificate is taken")
	}
}
