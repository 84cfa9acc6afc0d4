package ftpsrv

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/snapgate/gateway/internal/disk"
	"github.com/snapgate/gateway/snapshotter"
	"github.com/snapgate/gateway/vfs"
	"github.com/snapgate/gateway/vfs/vfstest"
)

// indiscreetWords is what no client may see in any case of letters, beside names of this machine:
// words of what is inside.
const indiscreetWords = "driver|afero|ftpserver|spool|journal|kloset|snapgate/gateway|goroutine|panic|runtime error|syscall|errno|" +
	"internal error|secret detail|use of closed|i/o timeout|broken pipe|dial tcp|accept tcp|read tcp|write tcp|%!"

// indiscreetParts are those that no plain search finds.
var indiscreetParts = regexp.MustCompile(`(?i:\bvfs|\.go:\d)`)

// indiscreet returns what is in a text that no client may see. There are plain searches for nearly
// all of it: one expression for everything took a quarter of the time of this package's tests.
func indiscreet(text string) []string {
	found := indiscreetParts.FindAllString(text, -1)
	for _, place := range []string{os.TempDir() + "/", "/shares/"} {
		if strings.Contains(text, place) {
			found = append(found, place)
		}
	}
	lower := strings.ToLower(text)
	for word := range strings.SplitSeq(indiscreetWords, "|") {
		if strings.Contains(lower, word) {
			found = append(found, word)
		}
	}
	return found
}

// wantDiscreet checks a reply to a client that has said something. Every reply that a test
// of this package reads comes here. There is no Helper: fuzzing does not allow it.
func wantDiscreet(tb testing.TB, r reply, said []byte) {
	text := strings.Join(r.lines, "\n")
	for _, bad := range indiscreet(text) {
		if !bytes.Contains(bytes.ToLower(said), bytes.ToLower([]byte(bad))) {
			tb.Errorf("reply %v tells of %q", r, bad)
		}
	}
}

// hasty is for tests in which no client is killed.
func hasty(c *Config) { c.CloseGrace = time.Millisecond }

// watchful is for tests in which clients are killed or abort, however late that is noticed. Uploads that are
// to arrive announce their size: see announce.
func watchful(c *Config) { c.CloseGrace, c.abortGrace = patience, patience }

// begins is begin, and ends the test when it fails.
func (c *client) begins(tb testing.TB, lines ...string) *data {
	tb.Helper()
	d, err := c.begin(lines...)
	if err != nil {
		tb.Fatalf("%q: %v", lines, err)
	}
	return d
}

// ask is a line and its reply: the code, and a text that must be in it.
type ask struct {
	line string
	code int
	text string
}

// asks sends lines and checks their replies. All lines of a reply are joined by "|".
func (c *client) asks(all ...ask) {
	c.tb.Helper()
	for _, a := range all {
		r, err := c.exchange(a.line)
		if err != nil {
			c.tb.Fatalf("%q: %v", a.line, err)
		}
		if text := strings.Join(r.lines, "|"); r.code != a.code || !strings.Contains(text, a.text) {
			c.tb.Errorf("%q: %d %q, want %d %q", a.line, r.code, text, a.code, a.text)
		}
	}
}

// names lists a directory by MLSD, in order.
func (c *client) names(path string) []string {
	c.tb.Helper()
	var names []string
	for line := range strings.Lines(c.mustGet("MLSD " + path)) {
		_, name, _ := strings.Cut(strings.TrimSuffix(line, "\r\n"), "; ")
		names = append(names, name)
	}
	return names
}

func (c *client) wantNames(path string, want ...string) {
	c.tb.Helper()
	if got := c.names(path); strings.Join(got, "|") != strings.Join(want, "|") {
		c.tb.Errorf("names in %s: %q, want %q", path, got, want)
	}
}

func (c *client) wantFile(path, want string) {
	c.tb.Helper()
	got, err := c.get("RETR " + path)
	if err != nil || string(got) != want {
		c.tb.Errorf("%s: %d bytes, %v; want %d bytes", path, len(got), err, len(want))
	}
}

// house is a system with shares of its own, for servers whose users differ.
type house struct {
	dir  string
	sys  *vfs.System
	repo *vfstest.Repository
}

// resident is a user of a house.
type resident struct {
	perms  vfs.Perm
	mounts []vfs.Mount // nil: the share main
}

// withHouse opens a system, which ends before the server's leaks are looked for, and lets
// its residents in.
func withHouse(tb testing.TB, h *house, cfg vfs.Config, residents map[string]resident) func(*Config) {
	tb.Helper()
	return func(c *Config) {
		h.dir, h.repo = tb.TempDir(), vfstest.NewRepository()
		cfg.DataDir, cfg.Disk, cfg.Repository = h.dir, unsynced{disk.OS{}}, h.repo
		if cfg.Shares == nil {
			cfg.Shares = []vfs.ShareConfig{{Name: "main", When: vfs.WhenManual}}
		}
		var err error
		if h.sys, err = vfs.Open(context.Background(), cfg); err != nil {
			tb.Fatal(err)
		}
		tb.Cleanup(func() {
			ctx, cancel := context.WithTimeout(context.Background(), patience)
			defer cancel()
			if err := h.sys.Close(ctx); err != nil {
				tb.Errorf("close: %v", err)
			}
		})
		c.Sessions = h.sys.Session
		c.Auth = residentAuth(residents)
	}
}

type residentAuth map[string]resident

func (a residentAuth) Password(_ context.Context, m ConnMeta, given []byte) (*vfs.Principal, error) {
	r, ok := a[m.User]
	if !ok || string(given) != password {
		return nil, errors.New("wrong password")
	}
	p := &vfs.Principal{User: m.User, Perms: r.perms, Mounts: r.mounts}
	if p.Mounts == nil {
		p.Mounts = []vfs.Mount{{At: vfs.Root(), Share: "main", Root: vfs.Root()}}
	}
	return p, nil
}

// unsynced is a disk that is never flushed: fast, and enough for tests that end before the
// machine does.
type unsynced struct{ disk.FS }

func (d unsynced) SyncDir(string) error { return nil }

func (d unsynced) OpenFile(path string, flag int, perm fs.FileMode) (disk.File, error) {
	f, err := d.FS.OpenFile(path, flag, perm)
	if err != nil {
		return nil, err
	}
	return unsyncedFile{f}, nil
}

type unsyncedFile struct{ disk.File }

func (unsyncedFile) Sync() error { return nil }

// history lists the snapshots of a share, newest first.
func (h *house) history(tb testing.TB, share string) []snapshotter.Snapshot {
	tb.Helper()
	all, err := h.repo.Snapshots(tb.Context(), share)
	if err != nil {
		tb.Fatal(err)
	}
	return all
}
