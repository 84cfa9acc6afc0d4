package vfs

import (
	"fmt"
	"io/fs"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/snapgate/gateway/snapshotter"
)

// witness remembers what it is told, a line each.
type witness struct {
	mu    sync.Mutex // guards lines
	lines []string
}

func (w *witness) note(format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.lines = append(w.lines, fmt.Sprintf(format, args...))
}

// take returns what was noted since the last call.
func (w *witness) take() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	lines := w.lines
	w.lines = nil
	return strings.Join(lines, "\n")
}

func (w *witness) Done(e Event) {
	result := "ok"
	if e.Err != nil {
		result = KindOf(e.Err).String()
	}
	text := fmt.Sprintf("%s %s %s:%s", e.User, e.Op, e.Share, e.Path)
	if e.To != "" {
		text += " to " + e.To
	}
	if e.Bytes > 0 {
		text += fmt.Sprintf(" %d bytes", e.Bytes)
	}
	if e.Hash != nil {
		text += fmt.Sprintf(" %x", e.Hash[:2])
	}
	if e.Snapshot != "" {
		text += " of a snapshot"
	}
	if e.Set.Mode != nil {
		text += fmt.Sprintf(" mode %o", *e.Set.Mode)
	}
	w.note("%s: %s", text, result)
}

func (w *witness) Committed(c Commit) {
	result := "ok"
	if c.Err != nil {
		result = "failed"
	}
	w.note("commit %s: %d changes by %v, reason %q, new %v: %s", c.Share, c.Changes, c.Users, c.Reason, c.New, result)
}

func watched(c *witness) func(*Config) { return func(cfg *Config) { cfg.Observer = c } }

// An observer is told of everything that changes a share, and of transfers, with names in the
// share and symbolic links resolved.
func TestObserver(t *testing.T) { synctest.Test(t, testObserver) }

func testObserver(t *testing.T) {
	w := &witness{}
	sys, _ := fullTestSystem(t, watched(w))
	v := visit(t, sys, "u", PermFull, "/home")
	reader := visit(t, sys, "r", PermReadOnly, "/")
	mode := fs.FileMode(0o600)
	for _, tt := range []struct {
		name string
		do   func()
		want string
	}{
		{"mkdir", func() { v.mkdir("/d/") }, "u mkdir s:/home/d: ok"},
		{"upload", func() { v.put("d/../d/f", "hello") }, "u upload s:/home/d/f 5 bytes ea8f: ok"},
		{"read", func() { v.get("/d/f") }, "u download s:/home/d/f 5 bytes: ok"},
		{"nothing", func() { v.close(v.open("/d/f", OpenWrite)) }, ""},
		{"link", func() { v.symlink("d", "/l") }, "u symlink s:/home/l: ok"},
		{"through a link", func() { _ = v.Remove(t.Context(), "/l/f") }, "u remove s:/home/d/f: ok"},
		{"missing", func() { _ = v.Rmdir(t.Context(), "/x") }, "u rmdir s:/home/x: no such file or directory"},
		{"rename", func() { _ = v.Rename(t.Context(), "/d", "/e", false) }, "u rename s:/home/d to /home/e: ok"},
		{"setattr", func() { _ = v.SetAttr(t.Context(), "/e", AttrSet{Mode: &mode}, true) }, "u setattr s:/home/e mode 600: ok"},
		{"bad name", func() { _ = v.Mkdir(t.Context(), "a\x00b", AttrSet{}) }, "u mkdir :a\x00b: name not allowed"},
		{"refused", func() { _ = reader.Remove(t.Context(), "/home/e") }, "r remove s:/home/e: permission denied"},
		{"refused upload", func() {
			_, _ = reader.Open(t.Context(), "/new", OpenWrite|OpenCreate, AttrSet{})
		}, "r upload s:/new: permission denied"},
		{"cut off", func() {
			f := v.open("/half", OpenWrite|OpenCreate)
			v.write(f, 0, "abc")
			wantNil(t, "abort", f.Abort())
		}, "u upload cut off s:/home/half 3 bytes: ok"},
		{"snapshot", func() {
			_, err := v.Session.Snapshot(t.Context(), "/")
			wantNil(t, "snapshot", err)
		}, `commit s: 7 changes by [u], reason "manual", new true: ok` + "\nu snapshot s:/home of a snapshot: ok"},
		{"view", func() { reader.get("/.snapshots/latest/home/none") }, "r download s:/.snapshots/latest/home/none: no such file or directory"},
	} {
		w.take()
		tt.do()
		if diff := cmp.Diff(tt.want, w.take()); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tt.name, diff)
		}
	}
}

// How a System is doing: what pends, what fails, since when, and what is under way.
func TestStatus(t *testing.T) {
	w := &witness{}
	sys, repo := fullTestSystem(t, watched(w))
	v := visit(t, sys, "u", PermFull, "/")
	v.put("/f", "hello")
	v.get("/f")
	f := v.open("/open", OpenWrite|OpenCreate)
	v.write(f, 0, "12345678")
	defer func() { wantNil(t, "abort", f.Abort()) }()

	st := sys.Status()
	sh := st.Shares[0]
	want(t, "changes", sh.Changes, 1)
	want(t, "bytes", sh.ChangedBytes, 5)
	want(t, "uploads", sh.Uploads, 1)
	want(t, "sessions", st.Sessions["test"], 1)
	want(t, "handles", st.Handles, 1)
	want(t, "received", st.Received["test"], 13)
	want(t, "sent", st.Sent["test"], 5)
	if sh.Oldest.IsZero() || time.Since(sh.Oldest) > time.Hour || sh.Head != (snapshotter.ID{}) {
		t.Errorf("oldest %v, head %v", sh.Oldest, sh.Head)
	}
	ups := sys.Uploads()
	if len(ups) != 1 || ups[0].Path != "/open" || ups[0].User != "u" || ups[0].Bytes != 8 || ups[0].From.Protocol != "test" {
		t.Errorf("uploads: %+v", ups)
	}

	repo.FailCommits(snapshotter.ErrUnavailable)
	for range 2 {
		if _, err := sys.Commit(t.Context(), "s"); err == nil {
			t.Fatal("the commit went well")
		}
	}
	sh = sys.Status().Shares[0]
	if sh.CommitFailures < 2 || sh.CommitError == nil || sh.FailingSince.IsZero() || sh.Changes != 1 || sh.Sets != 1 {
		t.Errorf("after failures: %+v", sh)
	}
	if text := w.take(); !strings.Contains(text, "commit s: 0 changes by [], reason \"\", new false: failed") {
		t.Errorf("the observer was told:\n%s", text)
	}
	repo.FailCommits(nil)
	id, err := sys.Commit(t.Context(), "s")
	wantNil(t, "commit", err)
	sh = sys.Status().Shares[0]
	if sh.CommitFailures != 0 || sh.CommitError != nil || !sh.FailingSince.IsZero() || sh.Changes != 0 || sh.Head != id ||
		sh.CommitSuccess.Before(sh.HeadTime) || sh.HeadTime.IsZero() || !sh.Oldest.IsZero() {
		t.Errorf("after a commit: %+v", sh)
	}
}

// A full spool is told of before anybody has to fail.
func TestAccepting(t *testing.T) {
	sys, _ := fullTestSystem(t, func(c *Config) { c.Limits.SpoolBytes = 1 << 20 })
	wantNil(t, "accepting", sys.Accepting())
	sys.cfg.Limits.SpoolBytes = 1
	wantKind(t, "accepting", sys.Accepting(), KindNoSpace)
	sys.cfg.Limits.SpoolBytes = 1 << 20
	s := testShare(t, sys)
	wantNil(t, "exec", s.exec(t.Context(), func() error { s.noteJournal(fs.ErrInvalid); return nil }))
	wantKind(t, "accepting without a journal", sys.Accepting(), KindDisk)
	wantNil(t, "exec", s.exec(t.Context(), func() error { s.noteJournal(nil); return nil }))
	wantNil(t, "accepting again", sys.Accepting())
}
