package pull

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// A call that succeeds while its context ends does not leave a connection to the next one that is about to be broken.
func TestFTPEndsWithContext(t *testing.T) {
	h := linksHouse(t, nil)
	r := h.remote(t, impatient(h))
	for range 50 {
		ctx, cancel := context.WithCancel(t.Context())
		var conn *ftpConn
		if err := r.with(ctx, "stat", "/", func(c *ftpConn, _ string) error { conn = c; cancel(); return nil }); err != nil {
			t.Fatal(err)
		}
		if conn.Err() == nil {
			t.Fatal("a call: the connection is still good")
		}
		ctx, cancel = context.WithCancel(t.Context())
		rd, err := r.Open(ctx, "/payroll.db", 0, 1)
		if err != nil {
			cancel()
			t.Fatal(err)
		}
		conn = rd.(*ftpReader).conn.s
		_, err = io.ReadAll(rd)
		cancel()
		if rd.Close(); err != nil || conn.Err() == nil {
			t.Fatalf("a transfer: %v; the connection is still good: %v", err, conn.Err() == nil)
		}
	}
}

// MakeRoot says that the connection was lost, so that it is tried again, and not what somebody else has ended it with.
func TestFTPMakeRootLost(t *testing.T) {
	asked := make(chan struct{})
	h := (&ftpHouse{dir: t.TempDir(), hook: func(_ *ftpPeer, cmd, _ string) bool {
		if cmd == "CWD" {
			close(asked)
		}
		return cmd == "CWD"
	}}).start(t)
	r := h.remote(t, func(c *FTPConfig) { c.Root = "/new" })
	go func() {
		<-asked
		r.pool.mu.Lock()
		defer r.pool.mu.Unlock()
		_ = r.pool.conns[0].s.broken(context.Canceled)
	}()
	if _, err := r.MakeRoot(t.Context()); err == nil || KindOf(err) != KindConnection {
		t.Errorf("%v", err)
	}
}

// What stands still is said to be that, whatever waits for it.
func TestFTPSilent(t *testing.T) {
	const timeout = 50 * time.Millisecond
	for _, at := range []string{"USER", "CWD", "EPSV", "LIST", "RETR"} {
		t.Run(at, func(t *testing.T) {
			dir := t.TempDir()
			if err := errors.Join(os.WriteFile(filepath.Join(dir, "f"), []byte("x"), 0o600), os.Mkdir(filepath.Join(dir, "d"), 0o700)); err != nil {
				t.Fatal(err)
			}
			h := (&ftpHouse{dir: dir, hook: func(p *ftpPeer, cmd, _ string) bool {
				if cmd == at && p.data != nil {
					if nc, err := p.connectData(); err == nil {
						t.Cleanup(func() { nc.Close() }) // no byte comes
					}
				}
				return cmd == at
			}}).start(t)
			r := h.remote(t, func(c *FTPConfig) { c.Timeout, c.Connections = timeout, 1 })
			err := r.ReadDir(t.Context(), "/d", func(Entry) error { return nil })
			if at == "RETR" {
				var rd io.ReadCloser
				if rd, err = r.Open(t.Context(), "/f", 0, 1); err == nil {
					_, err = io.ReadAll(rd)
					rd.Close()
				}
			}
			if !errors.Is(err, ErrSilent) || KindOf(err) != KindConnection || !strings.HasSuffix(err.Error(), "no answer for "+timeout.String()) {
				t.Errorf("%v", err)
			}
		})
	}
}

// That something was done is 200 to some servers and 250 to others; 202 says that nothing was.
func TestFTPOtherCodes(t *testing.T) {
	for code, done := range map[int]bool{200: true, 226: true, 250: true, 202: false, 350: false} {
		t.Run(strconv.Itoa(code), func(t *testing.T) {
			var asked atomic.Int32
			dir := t.TempDir()
			if err := os.Mkdir(filepath.Join(dir, "d"), 0o700); err != nil {
				t.Fatal(err)
			}
			h := (&ftpHouse{dir: dir, hook: func(p *ftpPeer, cmd, arg string) bool {
				switch cmd {
				case "CWD":
					p.cwd = p.abs(arg)
				case "MKD", "DELE", "RMD":
				default:
					return false
				}
				asked.Add(1)
				p.say("%d ok", code)
				return true
			}}).start(t)
			r := h.remote(t, func(c *FTPConfig) { c.Connections = 1 })
			for what, err := range map[string]error{
				"list": r.ReadDir(t.Context(), "/d", func(Entry) error { return nil }), "make": r.Mkdir(t.Context(), "/new"),
				"remove": r.Remove(t.Context(), "/new", File), "remove a directory": r.Remove(t.Context(), "/new", Dir),
			} {
				if done != (err == nil) {
					t.Errorf("%s: %v", what, err)
				}
			}
			if asked.Load() < 4 {
				t.Errorf("%d commands", asked.Load())
			}
		})
	}
}

// What a server says of a root that it does not go to is sorted: vsftpd says the same of what is not there, of a file and
// of what it may not enter.
func TestFTPNoRoot(t *testing.T) {
	for name, tt := range map[string]struct {
		cwd, size string
		kind      Kind
		file      bool
	}{
		"vsftpd, missing":    {"550 Failed to change directory.", "550 Could not get file size.", KindNotFound, false},
		"vsftpd, a file":     {"550 Failed to change directory.", "213 12", KindConflict, true},
		"without SIZE":       {"550 Failed to change directory.", "502 Unknown", KindNotFound, false},
		"ProFTPD, missing":   {"550 /x: No such file or directory", "", KindNotFound, false},
		"ProFTPD, a file":    {"550 /x: Not a directory", "", KindConflict, true},
		"forbidden":          {"550 Permission denied", "", KindPermission, false},
		"not now":            {"450 Not now", "", KindOther, false},
		"a wrong path":       {"553 Not a name", "", KindOther, false},
		"lost while it asks": {"550 Failed to change directory.", "421 Bye", KindConnection, false},
	} {
		t.Run(name, func(t *testing.T) {
			h := (&ftpHouse{dir: t.TempDir(), hook: func(p *ftpPeer, cmd, _ string) bool {
				switch cmd {
				case "CWD":
					p.say("%s", tt.cwd)
				case "SIZE":
					p.say("%s", tt.size)
				default:
					return false
				}
				return true
			}}).start(t)
			r := h.remote(t, func(c *FTPConfig) { c.Root = "/x" })
			_, err := r.Lstat(t.Context(), "/")
			if err == nil || KindOf(err) != tt.kind || errors.Is(err, ErrNotDirectory) != tt.file {
				t.Errorf("%v, want %v, no directory: %v", err, tt.kind, tt.file)
			}
			if asked := h.count("SIZE") > 0; asked != (tt.size != "") {
				t.Errorf("asked for a size: %v", asked)
			}
		})
	}
}
