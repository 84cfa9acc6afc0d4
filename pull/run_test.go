package pull

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/snapgate/gateway/internal/disk"
	"github.com/snapgate/gateway/snapshotter"
	"github.com/snapgate/gateway/store/storetest"
)

// runs makes runs of one source.
type runs struct {
	*rig
	cfg RunConfig
}

func newRuns(t *testing.T) *runs {
	t.Helper()
	r := &runs{rig: newRig(t)}
	return r.fresh(t)
}

// fresh is another source in the same store.
func (r *runs) fresh(t *testing.T) *runs {
	r.rig.t, r.head = t, snapshotter.ID{}
	r.n++
	r.cfg = RunConfig{
		Snapshots: r.Snapshotter, Name: "web1", Dir: t.TempDir(), Retry: quick,
		Lineage: snapshotter.Lineage{GatewayID: "g", ShareID: fmt.Sprint("source ", r.n)},
		Source:  snapshotter.Source{Type: "sftp", Origin: "web1.example.com", Location: "sftp://web1.example.com/srv"},
	}
	return r
}

func (r *runs) tryRun(remote Remote) (Result, *Report, error) {
	r.t.Helper()
	report := &Report{}
	r.cfg.Report = report
	res, err := Run(r.t.Context(), remote, r.cfg)
	if err == nil {
		r.head = res.ID
	}
	return res, report, err
}

// run must make a snapshot, or must not.
func (r *runs) run(remote Remote, isNew bool) (snapshotter.Snapshot, *Report) {
	r.t.Helper()
	res, report, err := r.tryRun(remote)
	if err != nil {
		r.t.Fatal(err)
	}
	if res.New != isNew {
		r.t.Fatalf("a new snapshot: %v, want %v", res.New, isNew)
	}
	v, err := r.View(r.t.Context(), res.ID)
	if err != nil {
		r.t.Fatal(err)
	}
	return v.Snapshot(), report
}

// content is what the head has at a path.
func (r *runs) content(path string) string {
	r.t.Helper()
	v, err := r.View(r.t.Context(), r.head)
	if err != nil {
		r.t.Fatal(err)
	}
	e, err := v.Lstat(r.t.Context(), path)
	if err != nil {
		r.t.Fatal(err)
	}
	rd, err := v.Open(r.t.Context(), path)
	if err != nil {
		r.t.Fatal(err)
	}
	defer rd.Close()
	data := make([]byte, e.Size)
	if _, err := rd.ReadAt(data, 0); err != nil && !errors.Is(err, io.EOF) {
		r.t.Fatal(err)
	}
	return string(data)
}

// noLeftovers checks that a source's directory has nothing but what is meant to be there.
func (r *runs) noLeftovers() {
	r.t.Helper()
	list, err := os.ReadDir(r.cfg.Dir)
	if err != nil {
		r.t.Fatal(err)
	}
	for _, e := range list {
		if e.Name() != disk.LockName && e.Name() != stateName {
			r.t.Errorf("left over: %s", e.Name())
		}
	}
}

func TestRun(t *testing.T) {
	r := newRuns(t)
	f := newFake()
	f.dir("/a")
	f.file("/a/one", "first")
	f.file("/two", strings.Repeat("large ", 1<<17))
	f.link("/link", "a/one")
	first, report := r.run(f, true)
	if first.Sequence != 1 || first.Share != "web1" || !first.Of(r.cfg.Lineage) || !slices.Contains(first.Tags, "reason=pull") || first.Errors != 0 {
		t.Errorf("the first snapshot: %+v", first)
	}
	if c := report.Counts(); c.New != 5 || c.Read != 2 {
		t.Errorf("first: %+v", c)
	}
	tree := r.tree()

	// Nothing has changed: nothing is read, and there is no other snapshot.
	opens := f.opens.Load()
	again, report := r.run(f, false)
	if again.ID != first.ID || f.opens.Load() != opens || report.Counts().Unchanged != 5 {
		t.Errorf("unchanged: %+v, %d files opened", report.Counts(), f.opens.Load()-opens)
	}
	r.cfg.Unchanged = true
	if same, _ := r.run(f, true); same.Sequence != 2 || same.Parent != first.ID || !slices.Equal(r.tree(), tree) {
		t.Errorf("a snapshot of what has not changed: %+v", same)
	}
	r.cfg.Unchanged = false

	f.file("/a/one", "other")
	f.put("/a/one", fakeNode{Entry: Entry{Type: File, Size: 5, Mode: 0o644, HasMode: true, ModTime: then.Add(time.Hour), Precision: time.Second}, data: "other"})
	f.file("/a/new", "new")
	f.remove("/link")
	third, report := r.run(f, true)
	if c := report.Counts(); third.Sequence != 3 || c.New != 1 || c.Changed != 1 || c.Removed != 1 || c.Read != 2 {
		t.Errorf("changed: %+v, %+v", third, c)
	}
	if r.content("/a/one") != "other" || r.content("/a/new") != "new" || r.content("/two") != strings.Repeat("large ", 1<<17) {
		t.Error("the contents are not those of the remote")
	}
	if err := r.Check(t.Context(), third.ID); err != nil {
		t.Error(err)
	}
	r.noLeftovers()
}

// A run that cannot finish leaves nothing, and the next one does all of it.
func TestRunLost(t *testing.T) {
	r := newRuns(t)
	f := newFake()
	for i := range 20 {
		f.file(fmt.Sprintf("/f%02d", i), "some text")
	}
	var away atomic.Bool
	f.away = func(string) bool { return away.Load() }
	f.reader = func(path string, _ int64, in io.Reader) io.Reader {
		if path == "/f10" {
			away.Store(true)
			return lostReader{}
		}
		return in
	}
	if _, _, err := r.tryRun(f); KindOf(err) != KindConnection {
		t.Fatalf("got %v", err)
	}
	list, err := r.Snapshots(t.Context(), "")
	if err != nil || len(list) != 0 {
		t.Fatalf("%d snapshots, %v", len(list), err)
	}
	r.noLeftovers()

	// A single file that breaks the connection, whenever it is read, does not hold up the rest.
	away.Store(false)
	f.reader = func(path string, _ int64, in io.Reader) io.Reader {
		if path == "/f10" {
			return lostReader{}
		}
		return in
	}
	for _, partial := range []bool{false, true} {
		r.fresh(t)
		r.cfg.Partial = partial
		s, report := r.run(f, true)
		if s.Files != 19 || s.Errors != 1 || report.Failed() != 1 || slices.Contains(s.Tags, PartialTag) {
			t.Errorf("a file that cannot be read: %+v, %d problems", s, report.Failed())
		}
		if list, _ := report.Problems(); len(list) != 1 || list[0].Path != "/f10" || list[0].Kind != KindBreaks {
			t.Errorf("a file that cannot be read: %v", list)
		}
	}

	// With Partial there is a snapshot, and it says so; what was not reached is a problem.
	r.fresh(t)
	r.cfg.Partial = true
	f.reader = func(path string, _ int64, in io.Reader) io.Reader {
		away.Store(path == "/f10" || away.Load())
		if path == "/f10" {
			return lostReader{}
		}
		return in
	}
	f.away = func(path string) bool { return away.Load() && (path == "/" || path == "/f10") }
	partial, report := r.run(f, true)
	failed := report.Failed()
	if !slices.Contains(partial.Tags, PartialTag) || failed == 0 || partial.Files+uint64(failed) != 20 {
		t.Errorf("partial: %+v, %d problems", partial, failed)
	}
	f.reader = nil
	away.Store(false)
	whole, report := r.run(f, true)
	if slices.Contains(whole.Tags, PartialTag) || whole.Files != 20 || report.Failed() != 0 || report.Counts().Read != failed {
		t.Errorf("whole: %+v, %+v", whole, report.Counts())
	}
}

// What a run has stored that failed is not stored again, also by another process.
func TestRunLostKeepsWhatIsStored(t *testing.T) {
	cfg := storetest.Config(t.TempDir())
	r := newRuns(t)
	size := func() (bytes int64) {
		err := filepath.WalkDir(strings.TrimPrefix(cfg.Location, "fs://")+"/packfiles", func(_ string, e fs.DirEntry, err error) error {
			if err != nil || e.IsDir() {
				return err
			}
			info, err := e.Info()
			bytes += info.Size()
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		return bytes
	}
	open := func() {
		t.Helper()
		s, err := snapshotter.New(t.Context(), snapshotter.Config{Store: storetest.Open(t, cfg)})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = s.Close() })
		r.Snapshotter, r.cfg.Snapshots = s, s
	}
	f := newFake()
	var lost, gone atomic.Bool
	lost.Store(true)
	f.away = func(path string) bool { return (path == "/z" || path == "/") && gone.Load() }
	f.file("/large", string(randomBytes(4<<20)))
	f.file("/z", "text")
	f.reader = func(path string, _ int64, in io.Reader) io.Reader {
		if path == "/z" && lost.Load() {
			gone.Store(true)
			return lostReader{}
		}
		return in
	}
	open()
	if _, _, err := r.tryRun(f); KindOf(err) != KindConnection {
		t.Fatalf("got %v", err)
	}
	lost.Store(false)
	gone.Store(false)
	first := size()
	cfg.CacheDir, cfg.KeepDir = "", ""
	open()
	if s, _ := r.run(f, true); s.Files != 2 {
		t.Errorf("%d files", s.Files)
	}
	if first < 4<<20 || size() > first+1<<20 {
		t.Errorf("%d bytes of packfiles after the failed run, %d after the next", first, size())
	}
}

// The problems of a run are part of the snapshot; the same ones are no reason for another.
func TestRunProblems(t *testing.T) {
	r := newRuns(t)
	f := newFake()
	f.file("/good", "text")
	f.file("/bad", "secret")
	f.opened = func(path string, _ int64) error {
		if path == "/bad" {
			return fail("open", path, KindPermission, nil)
		}
		return nil
	}
	first, report := r.run(f, true)
	if report.Failed() != 1 || first.Errors != 1 || first.Files != 1 || report.Counts().New != 2 {
		t.Fatalf("%d problems, %+v, %+v", report.Failed(), first, report.Counts())
	}
	if got := slices.Collect(report.failures()); len(got) != 1 || got[0].Path != "/bad" || !strings.Contains(got[0].Text, "permission denied") {
		t.Errorf("failures: %+v", got)
	}
	if _, report = r.run(f, false); report.Failed() != 1 {
		t.Errorf("the problem is not told again: %d", report.Failed())
	}
	// Without what the last run has left, the snapshot tells.
	if err := os.Remove(filepath.Join(r.cfg.Dir, stateName)); err != nil {
		t.Fatal(err)
	}
	f.opened = nil
	if s, report := r.run(f, true); s.Files != 2 || s.Errors != 0 || report.Failed() != 0 {
		t.Errorf("%d files, %d errors, %d problems", s.Files, s.Errors, report.Failed())
	}
	f.opened = func(path string, _ int64) error { return fail("open", path, KindPermission, nil) }
	f.put("/good", fakeNode{Entry: Entry{Type: File, Size: 3, Mode: 0o644, HasMode: true, ModTime: then.Add(time.Hour), Precision: time.Second}, data: "new"})
	_, report = r.run(f, true)
	if r.content("/good") != "text" || report.Counts().Changed != 0 {
		t.Errorf("what could not be read does not stay as it was: %+v", report.Counts())
	}
}

// A root that cannot be listed makes no snapshot: neither an empty one nor one that says again what the last had.
func TestRunRootUnseen(t *testing.T) {
	r := newRuns(t)
	f := newFake()
	f.file("/a", "text")
	f.list = func(_ context.Context, path string, _ func(Entry) error) (bool, error) {
		return true, fail("list", path, KindPermission, nil)
	}
	listing := f.list
	for n := range 2 { // snapshots that there are
		for _, r.cfg.Partial = range []bool{false, true} {
			f.list = listing
			if _, _, err := r.tryRun(f); err == nil || KindOf(err) != KindPermission {
				t.Errorf("with %d snapshots: %v", n, err)
			}
			if list, err := r.Snapshots(t.Context(), ""); err != nil || len(list) != n {
				t.Errorf("%d snapshots, want %d, %v", len(list), n, err)
			}
		}
		if f.list = nil; n == 0 {
			r.run(f, true)
		}
	}
	if s, report := r.run(f, false); s.Files != 1 || report.Failed() != 0 {
		t.Errorf("%d files, %d problems", s.Files, report.Failed())
	}
}

func TestFailures(t *testing.T) {
	var report Report
	for _, p := range []string{"/b", "/a", "/b", "/b"} {
		report.note(p, fail("list", p, KindListing, nil))
	}
	report.note("/sock", fail("list", "/sock", KindSpecial, nil))
	got := slices.Collect(report.failures())
	want := []snapshotter.Failure{
		{Path: "/a", Text: "list /a: listing not understood"},
		{Path: "/b", Text: "list /b: listing not understood (and 2 more problems here)"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("failures (-want +got):\n%s", diff)
	}
	for range report.failures() {
		break
	}
}

// What was written in the tick of the clock in which it was read has the size and the time of
// what was read: the next run reads it again, and the one after trusts it.
func TestRunReadsYoungFilesAgain(t *testing.T) {
	r := newRuns(t)
	f := newFake()
	young := func(data string) {
		f.put("/young", fakeNode{Entry: Entry{
			Type: File, Size: int64(len(data)), Mode: 0o644, HasMode: true, ModTime: time.Now().UTC().Truncate(time.Hour).Add(time.Hour), Precision: time.Second,
		}, data: data})
	}
	young("first")
	f.file("/old", "text")
	r.run(f, true)
	young("other")
	_, report := r.run(f, true)
	if r.content("/young") != "other" || report.Counts().Read != 1 {
		t.Errorf("%q, %+v", r.content("/young"), report.Counts())
	}
	// The same bytes are no change.
	if _, report := r.run(f, false); report.Counts().Read != 1 || report.Counts().Changed != 0 || report.Counts().Unchanged != 3 {
		t.Errorf("%+v", report.Counts())
	}
}

// What has the size and the time of a file of another location need not be that file.
func TestRunElsewhere(t *testing.T) {
	r := newRuns(t)
	here, there := newFake(), newFake()
	here.file("/f", "here")
	here.file("/same", "text")
	there.file("/f", "over")
	there.file("/same", "text")
	r.run(here, true)
	home := r.cfg.Source.Location
	r.cfg.Source.Location = "sftp://web2.example.com/srv"
	away := true
	there.reader = func(path string, _ int64, in io.Reader) io.Reader {
		if away && path == "/f" {
			return iotest.ErrReader(fail("read", path, KindPermission, nil))
		}
		return in
	}
	r.run(there, true)
	if r.content("/f") != "here" {
		t.Fatalf("what could not be read: %q", r.content("/f"))
	}
	// Neither is it when the first look at it has failed, whether or not the run before has left something.
	if err := os.Remove(filepath.Join(r.cfg.Dir, stateName)); err != nil {
		t.Fatal(err)
	}
	away = false
	_, report := r.run(there, true)
	if c := report.Counts(); r.content("/f") != "over" || c.Changed != 1 || c.Unchanged != 2 {
		t.Errorf("%q, %+v", r.content("/f"), c)
	}
	if _, report := r.run(there, false); report.Counts().Read != 0 {
		t.Errorf("it is read again: %+v", report.Counts())
	}
	// Back to a tree that is the same: all is read, once.
	r.cfg.Source.Location = home
	for _, want := range []int64{2, 0} {
		if _, report := r.run(there, false); report.Counts().Read != want {
			t.Errorf("%d files are read, want %d", report.Counts().Read, want)
		}
	}
}

// What was understood of a listing is not read again because a line of it was not.
func TestRunUnderstandsALineLess(t *testing.T) {
	r := newRuns(t)
	f := newFake()
	f.file("/good", "text")
	f.file("/other", "text")
	f.list = func(_ context.Context, path string, each func(Entry) error) (bool, error) {
		return false, errors.Join(each(Entry{Name: "?", Err: errLine(path, "?")}), each(Entry{Name: "a/b", Type: File}))
	}
	r.run(f, true)
	if _, report := r.run(f, false); report.Counts().Read != 0 || report.Failed() != 2 {
		t.Errorf("nothing has changed: %+v", report.Counts())
	}
	f.remove("/good")
	if _, report := r.run(f, false); report.Counts().Kept != 1 || report.Counts().Read != 0 {
		t.Errorf("a file is gone, or is what the line says: %+v", report.Counts())
	}
}

func TestSettled(t *testing.T) {
	began := then.Add(time.Hour)
	var clean, dirty, special Report
	dirty.note("/d", fail("list", "/d", KindPermission, nil))
	special.note("/s", fail("list", "/s", KindSpecial, nil))
	before := settled{at: then}
	now := began.Add(-clockAllowance)
	if s := before.after(began, &clean); !s.of("/d/f").Equal(now) {
		t.Errorf("after a clean run: %v", s)
	}
	s := before.after(began, &dirty)
	for path, want := range map[string]time.Time{"/d": then, "/d/e/f": then, "/dd": now, "/": now} {
		if got := s.of(path); !got.Equal(want) {
			t.Errorf("%s is settled at %v, want %v", path, got, want)
		}
	}
	if again := s.after(began.Add(time.Hour), &dirty); !again.of("/d/f").Equal(then) || !again.of("/x").Equal(now.Add(time.Hour)) {
		t.Errorf("still not looked at: %v", again)
	}
	if again := s.after(began.Add(time.Hour), &clean); !again.of("/d/f").Equal(now.Add(time.Hour)) {
		t.Errorf("looked at: %v", again)
	}
	if s := before.after(began, &special); !s.of("/s").Equal(now) {
		t.Errorf("a socket: %v", s)
	}
	var named, line, lines Report
	named.noteLine("/d", fail("list", "/d", KindName, nil))
	if s := before.after(began, &named); !s.of("/d/f").Equal(now) {
		t.Errorf("a name that no snapshot can have: %v", s)
	}
	line.noteLine("/d", fail("list", "/d", KindListing, nil))
	line.keep("/d/hidden")
	s = before.after(began, &line)
	for path, want := range map[string]time.Time{"/d": now, "/d/f": now, "/d/hidden": then, "/d/hidden/f": then} {
		if got := s.of(path); !got.Equal(want) {
			t.Errorf("%s beside a line that is not understood is settled at %v, want %v", path, got, want)
		}
	}
	lines.noteLine("/d", fail("list", "/d", KindListing, nil))
	for i := range maxUnsettled + 1 {
		lines.keep(fmt.Sprint("/d/", i))
	}
	if s := before.after(began, &lines); !s.of("/d/x").Equal(then) || !s.of("/x").Equal(now) {
		t.Errorf("more stay than are known: %v", s.at)
	}
	for _, kind := range []Kind{KindListing, KindName} {
		var facts Report
		facts.note("/d/f", fail("stat", "/d/f", kind, nil))
		if s := before.after(began, &facts); !s.of("/d/f").Equal(then) || !s.of("/d/g").Equal(now) {
			t.Errorf("a file whose facts are not known (%v): %v", kind, s)
		}
	}
	// What was settled up to an earlier time than all above it is so while it is not looked at.
	first := then.Add(-time.Hour)
	early := settled{at: then, paths: map[string]time.Time{"/d/x": first, "/d/e/x": first, "/k/x": first, "/seen": first}}
	var below Report
	below.note("/d", fail("list", "/d", KindPermission, nil))
	below.keep("/d/x")
	below.keep("/d/e")
	below.keep("/k")
	s = early.after(began, &below)
	for path, want := range map[string]time.Time{
		"/d/x": first, "/d/e/x": first, "/k/x": first, "/d": then, "/d/e": then, "/k": then, "/k/y": then, "/seen": now, "/": now,
	} {
		if got := s.of(path); !got.Equal(want) {
			t.Errorf("%s is settled at %v, want %v", path, got, want)
		}
	}
	// A clock that was put back changes nothing of it.
	early.at = began.Add(time.Hour)
	if s := early.after(began, &below); !s.of("/k/x").Equal(first) || !s.of("/k/y").Equal(now) {
		t.Errorf("after the clock was put back: %v", s)
	}
	var some, many Report
	for i := range maxProblems + 1 {
		if i < 2000 {
			some.note(fmt.Sprint("/", i), fail("read", "", KindPermission, nil))
		}
		many.note(fmt.Sprint("/", i), fail("read", "", KindPermission, nil))
	}
	if s := before.after(began, &some); !s.of("/x").Equal(now) || !s.of("/7").Equal(then) {
		t.Errorf("some problems: %v", s.at)
	}
	if s := before.after(began, &many); !s.of("/x").Equal(then) {
		t.Errorf("many problems: %v", s.at)
	}
	id := snapshotter.ID{1}
	dir := t.TempDir()
	s = settled{at: now, paths: map[string]time.Time{"/\xff": then}}
	if err := newState(id, s, "p").save(dir); err != nil {
		t.Fatal(err)
	}
	loaded, ok := loadState(dir, id)
	if got := loaded.settled(); !ok || loaded.Problems != "p" || !got.of("/\xff/x").Equal(then) || !got.of("/y").Equal(now) {
		t.Errorf("loaded: %+v, %v", loaded, ok)
	}
	if _, ok := loadState(dir, snapshotter.ID{2}); ok {
		t.Error("the state of another base is taken")
	}
	if err := os.WriteFile(filepath.Join(dir, stateName), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, ok := loadState(dir, id); ok {
		t.Error("half a state is taken")
	}
}

func TestSettledBySnapshots(t *testing.T) {
	snap := func(n byte, errors uint64, tags ...string) snapshotter.Snapshot {
		return snapshotter.Snapshot{
			ID: snapshotter.ID{n}, Parent: snapshotter.ID{n - 1}, Sequence: uint64(n), Time: then.Add(time.Duration(n) * time.Hour), Errors: errors, Tags: tags,
		}
	}
	list := []snapshotter.Snapshot{snap(1, 0), snap(2, 3), snap(3, 0, PartialTag), snap(4, 1)}
	if s := settledBy(list, list[3]); !s.at.Equal(list[0].Time.Add(-clockAllowance)) {
		t.Errorf("after errors: %v", s.at)
	}
	if s := settledBy(list, list[0]); !s.at.Equal(list[0].Time.Add(-clockAllowance)) {
		t.Errorf("after a clean one: %v", s.at)
	}
	if s := settledBy(list[1:], list[3]); !s.at.IsZero() {
		t.Errorf("without a clean one: %v", s.at)
	}
}

// Checksum finds what size and time do not show, and nothing else.
func TestRunChecksum(t *testing.T) {
	r := newRuns(t)
	f := newFake()
	f.file("/a", "text")
	f.file("/b", "text")
	large := strings.Repeat("0123456789abcdef", 1<<16)
	f.file("/large", large)
	f.file("/empty", "")
	r.run(f, true)
	r.cfg.Checksum = true
	if _, report := r.run(f, false); report.Counts().Read != 4 || report.Counts().Unchanged != 5 {
		t.Errorf("%+v", report.Counts())
	}
	f.file("/a", "TEXT")
	f.put("/b", fakeNode{Entry: Entry{Type: File, Size: 4, Mode: 0o644, HasMode: true, ModTime: then.Add(time.Hour), Precision: time.Second}, data: "text"})
	_, report := r.run(f, true)
	if c := report.Counts(); c.Changed != 1 || c.Attributes != 1 || c.Unchanged != 3 || r.content("/a") != "TEXT" || r.content("/b") != "text" || r.content("/large") != large {
		t.Errorf("%+v", c)
	}
}

func TestRunIsAlone(t *testing.T) {
	r := newRuns(t)
	lock, err := disk.Lock(r.cfg.Dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := r.tryRun(newFake()); !errors.Is(err, ErrRunning) {
		t.Errorf("got %v, want %v", err, ErrRunning)
	}
	if err := lock.Unlock(); err != nil {
		t.Fatal(err)
	}
	r.run(newFake(), true)
}

func TestDryRun(t *testing.T) {
	r := newRuns(t)
	f := newFake()
	f.file("/a", "text")
	f.file("/b", "text")
	f.dir("/d")
	r.run(f, true)
	before := r.head
	f.remove("/a")
	f.put("/b", fakeNode{Entry: Entry{Type: File, Size: 9, Mode: 0o644, HasMode: true, ModTime: then.Add(time.Hour), Precision: time.Second}, data: "more text"})
	f.put("/d", fakeNode{Entry: Entry{Type: Dir, Mode: 0o700, HasMode: true}})
	f.link("/l", "b")
	f.file("/new", "x")
	opens := f.opens.Load()
	var got []Planned
	r.cfg.DryRun = func(p Planned) error {
		got = append(got, p)
		return nil
	}
	if res, _, err := r.tryRun(f); err != nil || res.New || res.ID != before || f.opens.Load() != opens {
		t.Errorf("%+v, %v, %d files opened", res, err, f.opens.Load()-opens)
	}
	want := []Planned{
		{Path: "/a", Kind: snapshotter.Removed},
		{Path: "/b", Kind: snapshotter.File, Content: true, Size: 9},
		{Path: "/d", Kind: snapshotter.Dir},
		{Path: "/l", Kind: snapshotter.Symlink, New: true},
		{Path: "/new", Kind: snapshotter.File, New: true, Content: true, Size: 1},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("planned (-want +got):\n%s", diff)
	}
	stop := errors.New("stop")
	r.cfg.DryRun = func(Planned) error { return stop }
	if _, _, err := r.tryRun(f); !errors.Is(err, stop) {
		t.Errorf("got %v", err)
	}
}

// Changes that are many wait in a file, and come back as they were.
func TestChangeList(t *testing.T) {
	f := newFake()
	dir := t.TempDir()
	for _, memory := range []int{1, 300, 1 << 20} {
		var want []snapshotter.Change
		seen := map[string]Entry{}
		l := &changeList{dir: dir, memory: memory, content: func(path string, e Entry) snapshotter.Content {
			return &file{r: f, path: path, seen: e}
		}}
		for i := range 100 {
			c := snapshotter.Change{
				Path: fmt.Sprintf("/f%03d\xff", i), Kind: snapshotter.File, Version: uint64(i) << 40,
				Attr: snapshotter.Attr{Mode: 0o640, ModTime: then.Add(time.Duration(i)), UID: 1 << 31, GID: 7}, Stored: bytes.Repeat([]byte{byte(i)}, i),
			}
			switch {
			case i == 0:
				c = snapshotter.Change{Path: "/", Kind: snapshotter.Dir, From: "/", Attr: c.Attr}
			case i%7 == 1:
				c = snapshotter.Change{Path: c.Path, Kind: snapshotter.Symlink, Target: "x", Attr: c.Attr}
			case i%7 == 2:
				c = snapshotter.Change{Path: c.Path, Kind: snapshotter.Removed, Attr: snapshotter.Attr{ModTime: time.Unix(0, 0).UTC()}}
			default:
				seen[c.Path] = Entry{Name: c.Path[1:], Type: File, Size: int64(i), ModTime: then, Precision: time.Second, Mode: 0o640, HasMode: true}
				c.Content = &file{r: f, path: c.Path, seen: seen[c.Path]}
			}
			want = append(want, c)
			if err := l.add(c); err != nil {
				t.Fatal(err)
			}
		}
		for range 2 {
			var got []snapshotter.Change
			for c, err := range l.all() {
				if err != nil {
					t.Fatal(err)
				}
				got = append(got, c)
			}
			same := cmp.Comparer(func(a, b snapshotter.Content) bool {
				x, xok := a.(*file)
				y, yok := b.(*file)
				return xok == yok && (!xok || x.path == y.path && cmp.Equal(x.seen, y.seen))
			})
			if diff := cmp.Diff(want, got, same); diff != "" {
				t.Fatalf("with %d bytes of memory (-want +got):\n%s", memory, diff)
			}
		}
		l.close()
	}
	if list, err := os.ReadDir(dir); err != nil || len(list) != 0 {
		t.Errorf("left over: %v, %v", list, err)
	}
}

// All that is read through a meter keeps to its limit together.
func TestBandwidth(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		f.file("/a", strings.Repeat("x", 1<<20))
		report := &Report{}
		m := newMeter(f, 1<<20, report)
		began := time.Now()
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				rd, err := m.Open(t.Context(), "/a", 0, 1<<20)
				if err != nil {
					t.Error(err)
					return
				}
				defer rd.Close()
				if n, err := io.Copy(io.Discard, rd); n != 1<<20 || err != nil {
					t.Errorf("%d bytes, %v", n, err)
				}
			})
		}
		wg.Wait()
		if took := time.Since(began); took < 3900*time.Millisecond || took > 4100*time.Millisecond {
			t.Errorf("4 MiB took %v at 1 MiB/s", took)
		}
		if p := report.Progress(); p.Moved != 4<<20 || p.Path != "/a" {
			t.Errorf("%+v", p)
		}
	})
}
