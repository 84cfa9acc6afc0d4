package sshsrv

import (
	"context"
	"io"
	"log/slog"
	"net"
	"os"
	"testing"
	"time"

	"github.com/pkg/sftp"
	"golang.org/x/crypto/ssh"

	"github.com/snapgate/gateway/vfs"
)

// nothing is a file that takes everything and gives zeros.
type nothing struct{ size int64 }

func (nothing) WriteAt(p []byte, _ int64) (int, error)     { return len(p), nil }
func (nothing) SetAttr(context.Context, vfs.AttrSet) error { return nil }
func (nothing) Sync(context.Context) error                 { return nil }
func (nothing) CloseContext(context.Context) error         { return nil }
func (nothing) Abort() error                               { return nil }
func (n nothing) Stat(context.Context) (vfs.Info, error) {
	return vfs.Info{Type: vfs.TypeFile, Size: n.size, ModTime: time.Unix(0, 0)}, nil
}

func (n nothing) ReadAt(p []byte, off int64) (int, error) {
	if off >= n.size {
		return 0, io.EOF
	}
	m := int(min(int64(len(p)), n.size-off))
	clear(p[:m])
	return m, nil
}

// benchClient is a client of a server whose files are nothing, with requests of a length.
func benchClient(b *testing.B, packet int, size int64) *sftp.Client {
	b.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	key := newKey(b, "ed25519")
	cfg, err := algorithms(false, false).serverConfig([]ssh.Signer{key})
	if err != nil {
		b.Fatal(err)
	}
	cfg.NoClientAuth = true
	served := make(chan struct{})
	go func() {
		defer close(served)
		nc, err := ln.Accept()
		if err != nil {
			return
		}
		sc, chans, reqs, err := ssh.NewServerConn(newTimedConn(nc, time.Minute), cfg)
		if err != nil {
			b.Error(err)
			return
		}
		go ssh.DiscardRequests(reqs)
		for nc := range chans {
			ch, reqs, err := nc.Accept()
			if err != nil {
				b.Error(err)
				return
			}
			go func() {
				for req := range reqs {
					_ = req.Reply(req.Type == "subsystem", nil)
				}
			}()
			h := &handler{
				ctx: context.Background(), log: slog.New(slog.DiscardHandler), count: &counters{},
				open: func(context.Context, string, vfs.OpenFlag, vfs.AttrSet) (file, error) { return nothing{size}, nil },
			}
			_ = h.serve(ch)
		}
		_ = sc.Wait()
	}()
	ccfg := clientConfig("bench")
	ccfg.Ciphers = []string{ssh.CipherAES128GCM}
	conn, err := ssh.Dial("tcp", ln.Addr().String(), ccfg)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		conn.Close()
		ln.Close()
		<-served
	})
	c, err := sftp.NewClient(conn, sftp.MaxPacketUnchecked(packet), sftp.UseConcurrentWrites(true), sftp.UseFstat(true))
	if err != nil {
		b.Fatal(err)
	}
	return c
}

const benchBytes = 256 << 20

func BenchmarkUpload(b *testing.B) {
	for name, packet := range map[string]int{"32KiB": 32 << 10, "255KiB": maxTransfer} {
		b.Run(name, func(b *testing.B) {
			c := benchClient(b, packet, 0)
			b.SetBytes(benchBytes)
			for b.Loop() {
				w, err := c.Create("/f")
				if err != nil {
					b.Fatal(err)
				}
				if _, err := w.ReadFromWithConcurrency(io.LimitReader(zeros{}, benchBytes), 64); err != nil {
					b.Fatal(err)
				}
				if err := w.Close(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkDownload(b *testing.B) {
	for name, packet := range map[string]int{"32KiB": 32 << 10, "255KiB": maxTransfer} {
		b.Run(name, func(b *testing.B) {
			c := benchClient(b, packet, benchBytes)
			b.SetBytes(benchBytes)
			for b.Loop() {
				r, err := c.OpenFile("/f", os.O_RDONLY)
				if err != nil {
					b.Fatal(err)
				}
				if n, err := r.WriteTo(io.Discard); err != nil || n != benchBytes {
					b.Fatal(n, err)
				}
				r.Close()
			}
		})
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }
