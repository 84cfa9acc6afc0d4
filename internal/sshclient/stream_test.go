package sshclient

import (
	"context"
	"errors"
	"io"
	"testing"
	"time"

	"github.com/pkg/sftp"
	"golang.org/x/crypto/ssh"
)

// openStream opens a Stream and begins to speak SFTP on it.
func openStream(tb testing.TB, cfg Config) (*sftp.Client, io.Closer, error) {
	tb.Helper()
	d, err := New(cfg)
	if err != nil {
		return nil, nil, err
	}
	rw, err := d.Stream(tb.Context())
	if err != nil {
		return nil, nil, err
	}
	client, err := sftp.NewClientPipe(rw, rw)
	if err != nil {
		return nil, nil, errors.Join(err, rw.Close())
	}
	return client, rw, nil
}

// streamFailure is failure, for a Stream.
func streamFailure(t *testing.T, cfg Config, kind Kind, parts ...string) {
	t.Helper()
	client, _, err := openStream(t, cfg)
	if err == nil {
		_ = client.Close()
		t.Fatal("the stream works")
	}
	checkError(t, err, kind, parts...)
}

func TestStream(t *testing.T) {
	s := newServer(t, nil)
	for name, cfg := range map[string]Config{"native": s.client(), "openssh": s.viaSSH()} {
		t.Run(name, func(t *testing.T) {
			client, stream, err := openStream(t, cfg)
			if err != nil {
				t.Fatal(err)
			}
			f, err := client.Create("/" + name)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := f.Write(make([]byte, 1<<20)); err != nil {
				t.Error(err)
			}
			if err := f.Close(); err != nil {
				t.Error(err)
			}
			if err := stream.Close(); err != nil {
				t.Error(err)
			}
			if _, err := stream.(io.Reader).Read(make([]byte, 1)); err == nil {
				t.Error("a Read after Close")
			}
			_ = client.Close()
		})
	}
}

func TestStreamErrors(t *testing.T) {
	cfg := newServer(t, nil).client()
	cfg.IdentityFiles = []string{keyFile(t, otherKey, "")}
	streamFailure(t, cfg, KindAuth, "authorized_keys")

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for _, cfg := range []Config{newServer(t, nil).client(), newServer(t, nil).viaSSH()} {
		d, err := New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := d.Stream(ctx); !errors.Is(err, context.Canceled) {
			t.Errorf("after the context's end: %v", err)
		}
	}
}

// TestStreamLost checks what a reader is told about a connection that ends.
func TestStreamLost(t *testing.T) {
	s := newServer(t, nil)
	client, stream, err := openStream(t, s.client())
	if err != nil {
		t.Fatal(err)
	}
	s.cut()
	if err := client.Wait(); err == nil {
		t.Error("Reads go on")
	}
	if err := stream.Close(); err != nil {
		t.Error(err)
	}
	frozen := newServer(t, func(s *server) {
		s.session = func(ch ssh.Channel) { _, _ = io.Copy(io.Discard, ch) }
	})
	cfg := frozen.client()
	cfg.LoginTimeout = time.Minute
	d, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	rw, err := d.Stream(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() {
		_, err := rw.Read(make([]byte, 1))
		done <- err
	}()
	if err := rw.Close(); err != nil {
		t.Error(err)
	}
	if err := <-done; err == nil {
		t.Error("Close has not ended Read")
	}
}
