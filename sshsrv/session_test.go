package sshsrv

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/pkg/sftp"
	"golang.org/x/crypto/ssh"

	"github.com/snapgate/gateway/vfs"
)

// A connection that is lost leaves a partial, which only its principal sees, and only by
// its exact name; opening it without truncation goes on where it ended.
func TestLostUploadIsResumed(t *testing.T) {
	cut := map[string]func(t *testing.T, c *remoteClient){
		"connection dropped": func(t *testing.T, c *remoteClient) {
			t.Helper()
			if err := c.Drop(); err != nil {
				t.Fatal(err)
			}
		},
		"channel closed": func(t *testing.T, c *remoteClient) {
			t.Helper()
			c.Close() // its channel ends with the handle open
			if err := c.Drop(); err != nil {
				t.Fatal(err)
			}
		},
	}
	for name, cut := range cut {
		t.Run(name, func(t *testing.T) {
			r := startRemote(t, newKey(t, "ed25519"))
			c := r.Client(t, "alice").(*remoteClient)
			w, err := c.OpenFile("/up", os.O_WRONLY|os.O_CREATE|os.O_TRUNC)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := w.Write(bytes.Repeat([]byte("a"), 100_000)); err != nil {
				t.Fatal(err)
			}
			cut(t, c)
			again := r.Client(t, "alice").(*remoteClient)
			other := r.Client(t, "bob").(*remoteClient)
			if infos, err := again.List("/"); err != nil || len(infos) != 0 {
				t.Errorf("list = %v, %v, want nothing", infos, err)
			}
			if _, err := other.Stat("/up"); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("another principal's stat = %v", err)
			}
			info, err := again.Stat("/up")
			if err != nil || info.Size != 100_000 {
				t.Fatalf("stat of the partial = %d, %v", info.Size, err)
			}
			w, err = again.OpenFile("/up", os.O_WRONLY|os.O_CREATE)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := w.WriteAt([]byte("b"), info.Size); err != nil {
				t.Fatal(err)
			}
			if err := w.Close(); err != nil {
				t.Fatal(err)
			}
			if info, err := other.Stat("/up"); err != nil || info.Size != 100_001 {
				t.Errorf("stat of the whole = %d, %v", info.Size, err)
			}
		})
	}
}

// The exec word snapshot commits and prints the head alone on the last line.
func TestSnapshotCommand(t *testing.T) {
	r := startRemote(t, newKey(t, "ed25519"))
	c := r.Client(t, "alice").(*remoteClient)
	run := func(line string) (string, string, error) {
		s, err := c.conn.NewSession()
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		var out, stderr bytes.Buffer
		s.Stdout, s.Stderr = &out, &stderr
		err = s.Run(line)
		return out.String(), stderr.String(), err
	}
	if _, stderr, err := run("snapshot"); err == nil || !strings.Contains(stderr, "nothing has been stored") {
		t.Errorf("snapshot of nothing: %v, %q", err, stderr)
	}
	put(t, c.Client, "/a file", "x")
	out, stderr, err := run("snapshot /")
	if err != nil {
		t.Fatalf("%v: %s", err, stderr)
	}
	head, err := r.local.Head(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if out != head.String()+"\n" {
		t.Errorf("printed %q, want %s", out, head)
	}
	if again, _, err := run("snapshot"); err != nil || again != out {
		t.Errorf("with nothing to commit: %q, %v", again, err)
	}
}

func put(tb testing.TB, c *sftp.Client, path, data string) {
	tb.Helper()
	w, err := c.Create(path)
	if err != nil {
		tb.Fatal(err)
	}
	if _, err := io.WriteString(w, data); err != nil {
		tb.Fatal(err)
	}
	if err := w.Close(); err != nil {
		tb.Fatal(err)
	}
}

// A transfer that is under way when the server shuts down is finished; others end.
func TestShutdownDrains(t *testing.T) {
	r := startRemote(t, newKey(t, "ed25519"))
	busy := r.Client(t, "alice").(*remoteClient)
	idle := r.Client(t, "bob").(*remoteClient)
	w, err := busy.Create("/up")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		done <- r.server.Shutdown(ctx)
	}()
	if err := idle.conn.Wait(); err == nil {
		t.Log("idle connection ended in order")
	}
	if _, err := io.WriteString(w, "the rest"); err != nil {
		t.Errorf("write while draining: %v", err)
	}
	for start := time.Now(); ; { // the idle connection may have been told first
		another, err := busy.Create("/another")
		if err != nil {
			break
		}
		if err := another.Close(); err != nil {
			t.Fatal(err)
		}
		if time.Since(start) > patience {
			t.Fatal("another file can be opened while draining")
		}
	}
	if err := w.Close(); err != nil {
		t.Errorf("close while draining: %v", err)
	}
	if err := <-done; err != nil {
		t.Errorf("shutdown: %v", err)
	}
}

// An upload that is not finished by the deadline of Shutdown becomes a partial.
func TestShutdownDeadline(t *testing.T) {
	r := startRemote(t, newKey(t, "ed25519"))
	c := r.Client(t, "alice").(*remoteClient)
	w, err := c.Create("/up")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(w, "half"); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	if err := r.server.Shutdown(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("shutdown = %v", err)
	}
	sess, err := r.local.System().Session(t.Context(), r.local.Principal("bob"), vfs.ConnInfo{Protocol: "test"})
	if err != nil {
		t.Fatal(err)
	}
	defer sess.Close()
	if _, err := sess.Stat(t.Context(), "/up"); vfs.KindOf(err) != vfs.KindNotExist {
		t.Errorf("half an upload is shown: %v", err)
	}
}

// With acknowledge: stored, a CLOSE waits for its snapshot, but not for ever: it ends with
// its connection, and Shutdown does not wait for a store that is away. The file stays.
func TestWaitForSnapshotEndsWithConnection(t *testing.T) {
	end := map[string]func(t *testing.T, r *remote, c *remoteClient){
		"shutdown": func(t *testing.T, r *remote, _ *remoteClient) {
			t.Helper()
			ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
			defer cancel()
			if err := r.server.Shutdown(ctx); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("shutdown = %v", err)
			}
		},
		"connection lost": func(t *testing.T, _ *remote, c *remoteClient) {
			t.Helper()
			if err := c.Drop(); err != nil {
				t.Error(err)
			}
		},
	}
	for name, end := range end {
		t.Run(name, func(t *testing.T) {
			r := startRemoteShare(t, newKey(t, "ed25519"), func(c *vfs.ShareConfig) {
				c.When, c.AckStored, c.AckTimeout = vfs.WhenClose, true, time.Hour
			})
			away := r.local.Repo.Block()
			defer away.Release()
			c := r.Client(t, "alice").(*remoteClient)
			w, err := c.Create("/up")
			if err != nil {
				t.Fatal(err)
			}
			if _, err := io.WriteString(w, "whole"); err != nil {
				t.Fatal(err)
			}
			closed := make(chan error, 1)
			go func() { closed <- w.Close() }()
			<-away.Entered()
			start := time.Now()
			end(t, r, c)
			if took := time.Since(start); took > patience {
				t.Errorf("took %v", took)
			}
			if err := <-closed; err == nil {
				t.Error("the client was told that the file is in a snapshot")
			}
			if info, err := r.local.Client(t, "bob").Stat("/up"); err != nil || info.Size != 5 {
				t.Errorf("the file: %d bytes, %v", info.Size, err)
			}
		})
	}
}

// Two channels of a connection share one session.
func TestTwoChannels(t *testing.T) {
	r := startRemote(t, newKey(t, "ed25519"))
	c := r.Client(t, "alice").(*remoteClient)
	second, err := sftp.NewClient(c.conn)
	if err != nil {
		t.Fatal(err)
	}
	defer second.Close()
	w, err := c.Create("/up")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(w, "four"); err != nil {
		t.Fatal(err)
	}
	if info, err := second.Stat("/up"); err != nil || info.Size() != 4 {
		t.Errorf("stat on the other channel: %v", err)
	}
	second.Close()
	if err := w.Close(); err != nil {
		t.Errorf("the end of one channel harmed the other: %v", err)
	}
}

// A directory that takes several replies is listed once each, in order, with longnames.
func TestListing(t *testing.T) {
	r := startRemote(t, newKey(t, "ed25519"))
	sess, err := r.local.System().Session(t.Context(), r.local.Principal("alice"), vfs.ConnInfo{Protocol: "test"})
	if err != nil {
		t.Fatal(err)
	}
	defer sess.Close()
	const n = readdirEntries + readdirChunk + 1
	var want []string
	for i := range n {
		name := fmt.Sprintf("d%05d%s", i, strings.Repeat("x", 200)) // readdirBytes comes first
		if err := sess.Mkdir(t.Context(), name, vfs.AttrSet{}); err != nil {
			t.Fatal(err)
		}
		want = append(want, name)
	}
	c := newRaw(t, serveSession(t, r.local.System(), "alice", vfs.PermFull))
	a := c.ask(fxpOpendir, func(e *encoder) { e.string("/") })
	var got []string
	replies := 0
	for {
		page := c.ask(fxpReaddir, func(e *encoder) { e.string(a.handle) })
		if page.typ != fxpName {
			c.wantStatus(page, statusEOF)
			break
		}
		replies++
		got = append(got, page.names...)
		if !strings.HasPrefix(page.long[len(page.long)-1], "drwxr-xr-x   1 ") {
			t.Errorf("longname %q", page.long[len(page.long)-1])
		}
	}
	if diff := cmp.Diff(append([]string{".", ".."}, want...), got); diff != "" {
		t.Errorf("names (-want +got):\n%s", diff)
	}
	if replies < 2 || replies > 5 {
		t.Errorf("%d replies", replies)
	}
}

// What a principal may not do is SSH_FX_PERMISSION_DENIED, and an upload-only one can do
// what clients do around an upload.
func TestPermissions(t *testing.T) {
	sys := newSystem(t)
	full := newRaw(t, serveSession(t, sys, "alice", vfs.PermFull))
	full.upload("/file", "x")
	up := newRaw(t, serveSession(t, sys, "uploader", vfs.PermUploadOnly))
	attr := func(path string) func(*encoder) {
		return func(e *encoder) { e.string(path).uint32(attrPermissions).uint32(0o600) }
	}
	two := func(a, b string) func(*encoder) { return func(e *encoder) { e.string(a).string(b) } }
	tests := []struct {
		name string
		c    *raw
		typ  byte
		body func(*encoder)
		want uint32
	}{
		{"read", up, fxpOpen, func(e *encoder) { e.string("/file").uint32(fxfRead).uint32(0) }, statusPermissionDenied},
		{"overwrite", up, fxpOpen, func(e *encoder) { e.string("/file").uint32(fxfWrite | fxfCreate | fxfTrunc).uint32(0) }, statusPermissionDenied},
		{"remove", up, fxpRemove, closeBody("/file"), statusPermissionDenied},
		{"rename", up, fxpRename, two("/file", "/other"), statusPermissionDenied},
		{"setstat", up, fxpSetstat, attr("/file"), statusPermissionDenied},
		{"symlink", up, fxpSymlink, two("/file", "/link"), statusPermissionDenied},
		{"history", up, fxpOpendir, closeBody("/.snapshots"), statusPermissionDenied},
		{"mkdir", up, fxpMkdir, attr("/dir"), statusOK},
		{"write into history", full, fxpOpen, func(e *encoder) { e.string("/.snapshots/x").uint32(fxfWrite | fxfCreate).uint32(0) }, statusPermissionDenied},
		{"mkdir in history", full, fxpMkdir, attr("/.snapshots/x"), statusPermissionDenied},
		{"missing in history", full, fxpStat, closeBody("/.snapshots/none"), statusNoSuchFile},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			tt.c.wantStatus(tt.c.ask(tt.typ, tt.body), tt.want)
		})
	}
	up.upload("/mine.part", "data")
	up.wantStatus(up.ask(fxpSetstat, attr("/mine.part")), statusOK)
	up.wantStatus(up.ask(fxpRename, two("/mine.part", "/mine")), statusOK)
	if a := up.ask(fxpStat, closeBody("/mine")); a.attrs.size != 4 {
		t.Errorf("stat of the own upload: status %d, size %d", a.status, a.attrs.size)
	}
}

func (c *raw) upload(path, data string) {
	c.t.Helper()
	handle := c.open(path, fxfWrite|fxfCreate|fxfTrunc)
	c.wantStatus(c.ask(fxpWrite, writeBody(handle, 0, data)), statusOK)
	c.wantStatus(c.ask(fxpClose, closeBody(handle)), statusOK)
}

// Keys are renewed in the middle of a transfer.
func TestRekey(t *testing.T) {
	r := startRemote(t, newKey(t, "ed25519"))
	cfg := clientConfig("alice", ssh.Password("x"))
	cfg.RekeyThreshold = 1 << 20
	conn, err := r.server.dial(t, cfg)
	if err != nil {
		t.Fatal(err)
	}
	c, err := sftp.NewClient(conn)
	if err != nil {
		t.Fatal(err)
	}
	want := strings.Repeat("0123456789", 1<<20)
	put(t, c, "/f", want)
	f, err := c.Open("/f")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	got, err := io.ReadAll(f)
	if err != nil || string(got) != want {
		t.Errorf("%d bytes, %v", len(got), err)
	}
}
