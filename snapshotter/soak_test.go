//go:build soak

package snapshotter_test

import (
	"bufio"
	"fmt"
	"iter"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"runtime/pprof"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/snapgate/gateway/snapshotter"
	"github.com/snapgate/gateway/store"
	"github.com/snapgate/gateway/store/storetest"
)

// fromEnv is a number from the environment.
func fromEnv(tb testing.TB, name string, otherwise int) int {
	tb.Helper()
	s := os.Getenv(name)
	if s == "" {
		return otherwise
	}
	n, err := strconv.Atoi(s)
	if err != nil {
		tb.Fatalf("%s: %v", name, err)
	}
	return n
}

// tell prints a line for docs/BENCHMARKS.md.
func tell(t *testing.T, format string, args ...any) {
	t.Helper()
	load, _ := os.ReadFile("/proc/loadavg")
	t.Logf("%s (load %.4s)", fmt.Sprintf(format, args...), load)
}

// rss reads VmRSS or VmHWM of this process, in MiB.
func rss(tb testing.TB, field string) int {
	tb.Helper()
	data, err := os.ReadFile("/proc/self/status")
	if err != nil {
		tb.Fatal(err)
	}
	for line := range strings.Lines(string(data)) {
		if f := strings.Fields(line); len(f) == 3 && f[0] == field+":" {
			kib, err := strconv.Atoi(f[1])
			if err != nil {
				tb.Fatal(err)
			}
			return kib / 1024
		}
	}
	tb.Fatalf("no %s", field)
	return 0
}

// resetPeak gives memory back and lets the peak begin anew.
func resetPeak(tb testing.TB) {
	tb.Helper()
	debug.FreeOSMemory()
	if err := os.WriteFile("/proc/self/clear_refs", []byte("5"), 0); err != nil {
		tb.Fatal(err)
	}
}

// site is a store that can be closed and opened again.
type site struct {
	*rig
	cfg store.Config
	at  func(failpoint string) // nil for nothing
}

func newSite(t *testing.T) *site {
	t.Helper()
	s := &site{cfg: storetest.Config(t.TempDir())}
	s.cfg.Disk = new(meterFS)
	s.open(t)
	return s
}

// open opens the store; what was open before must have been closed.
func (s *site) open(t *testing.T) {
	t.Helper()
	st, err := store.Open(t.Context(), s.cfg)
	if err != nil {
		t.Fatal(err)
	}
	snap, err := snapshotter.New(t.Context(), snapshotter.Config{Store: st, Failpoint: func(name string) {
		if s.at != nil {
			s.at(name)
		}
	}})
	if err != nil {
		t.Fatal(err)
	}
	n := uint64(0)
	if s.rig != nil {
		n = s.n
	}
	s.rig = &rig{Snapshotter: snap, t: t, store: st, n: n}
}

func (s *site) close(t *testing.T) {
	t.Helper()
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if err := s.store.Close(); err != nil {
		t.Error(err)
	}
}

// restart closes and opens the store, and lists the root of the newest snapshot.
func (s *site) restart(t *testing.T, id snapshotter.ID) time.Duration {
	t.Helper()
	s.close(t)
	start := time.Now()
	s.open(t)
	latest, ok, err := s.Latest(t.Context(), "gateway-1", "share-1")
	if err != nil || !ok || latest.ID != id {
		t.Fatalf("latest snapshot after a restart: %v, %v, %v; want %v", latest.ID, ok, err, id)
	}
	v, err := s.View(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	defer v.Close()
	if _, err := v.ReadDir(t.Context(), "/", "", 1000); err != nil {
		t.Fatal(err)
	}
	return time.Since(start)
}

func dirBytes(tb testing.TB, dir string) (n int64) {
	tb.Helper()
	err := filepath.WalkDir(dir, func(_ string, e os.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		fi, err := e.Info()
		n += fi.Size()
		return err
	})
	if err != nil {
		tb.Fatal(err)
	}
	return n
}

// TestSoak makes COMMITS (10,000) snapshots in one process, in which memory, goroutines
// and descriptors stay what they are, and restarts on them.
func TestSoak(t *testing.T) {
	commits := fromEnv(t, "COMMITS", 10_000)
	// What a snapshot adds to the list in memory, and for the collector's whims.
	const perSnapshot, slack = 4 << 10, 48 << 20
	s := newSite(t)
	id := s.commitSeq(t, snapshotter.ID{}, benchTree(1000, 100))
	var before struct{ rss, goroutines, fds int }
	start, part := time.Now(), time.Now()
	for n := range commits {
		i := n * 7919 % 1000
		id = s.commit(id, put(benchName(i, 100), file(uint64(100_000_000+n), strings.Repeat(fmt.Sprintf("%08d", n), 512))))
		done := n + 1
		if done%(commits/10) != 0 {
			continue
		}
		debug.FreeOSMemory()
		r, g, f := rss(t, "VmRSS"), settled(), descriptors(t)
		tell(t, "%d commits: %.1f ms each, RSS %d MiB, %d goroutines, %d descriptors", done,
			ms(time.Since(part))/float64(commits/10), r, g, f)
		part = time.Now()
		if before.rss == 0 {
			before.rss, before.goroutines, before.fds = r, g, f
			continue
		}
		if limit := before.rss + (slack+done*perSnapshot)>>20; r > limit || g > before.goroutines || f > before.fds {
			t.Errorf("after %d commits: RSS %d MiB, %d goroutines, %d descriptors; want at most %d, %d, %d",
				done, r, g, f, limit, before.goroutines, before.fds)
		}
	}
	tell(t, "%d commits in %.0f s, peak RSS %d MiB, store %d MiB", commits, time.Since(start).Seconds(), rss(t, "VmHWM"),
		dirBytes(t, strings.TrimPrefix(s.cfg.Location, "fs://"))>>20)

	resetPeak(t)
	tell(t, "restart with a warm cache: %.2f s, peak RSS %d MiB", s.restart(t, id).Seconds(), rss(t, "VmHWM"))
	s.close(t)
	if err := os.RemoveAll(s.cfg.CacheDir); err != nil {
		t.Fatal(err)
	}
	resetPeak(t)
	start = time.Now()
	s.open(t)
	tell(t, "restart with a cold cache: %.2f s, peak RSS %d MiB", time.Since(start).Seconds(), rss(t, "VmHWM"))
	if err := s.Check(t.Context(), id); err != nil {
		t.Error(err)
	}
	s.close(t)
}

// TestScale has FILES (a million) files in one share: the first commit, small commits,
// listing, a restart.
func TestScale(t *testing.T) {
	n := fromEnv(t, "FILES", 1_000_000)
	const perDir, rounds = 100, 5
	s := newSite(t)
	resetPeak(t)
	start := time.Now()
	id := s.commitSeq(t, snapshotter.ID{}, benchTree(n, perDir))
	tell(t, "first commit of %d files: %.0f s, %.0f files/s, peak RSS %d MiB, store %d MiB", n, time.Since(start).Seconds(),
		float64(n)/time.Since(start).Seconds(), rss(t, "VmHWM"), dirBytes(t, strings.TrimPrefix(s.cfg.Location, "fs://"))>>20)

	c := &benchCommits{rig: s.rig, b: t, disk: s.cfg.Disk.(*meterFS), n: n, perDir: perDir, version: 90_000_000}
	id = scaleCommits(t, c, id, rounds, "same process")
	resetPeak(t)
	tell(t, "restart: %.2f s, peak RSS %d MiB", s.restart(t, id).Seconds(), rss(t, "VmHWM"))
	c.rig = s.rig
	resetPeak(t)
	start = time.Now()
	id = s.commit(id, c.change(n/2))
	tell(t, "first commit after it: %.2f s, peak RSS %d MiB", time.Since(start).Seconds(), rss(t, "VmHWM"))
	id = scaleCommits(t, c, id, rounds, "after the restart")
	scaleList(t, s, id, n/perDir)
	s.close(t)
}

func scaleCommits(t *testing.T, c *benchCommits, id snapshotter.ID, rounds int, when string) snapshotter.ID {
	t.Helper()
	resetPeak(t)
	all := map[string]*costs{"first": {}, "middle": {}, "last": {}}
	for range rounds {
		for name, i := range c.places() {
			change := c.change(i)
			id = c.measure(all[name], func() snapshotter.ID { return c.commit(id, change) })
		}
	}
	for _, name := range []string{"first", "middle", "last"} {
		x := all[name]
		tell(t, "one-file commit, %s, %s: %.0f ms, %.0f ms without %.0f flushes, store grows by %.1f MiB", when, name,
			x.wall.median(), x.own.median(), x.flushes.median(), x.kib.median()/1024)
	}
	tell(t, "one-file commits, %s: peak RSS %d MiB", when, rss(t, "VmHWM"))
	return id
}

// scaleList lists all directories of a snapshot.
func scaleList(t *testing.T, s *site, id snapshotter.ID, dirs int) {
	t.Helper()
	resetPeak(t)
	v, err := s.View(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	defer v.Close()
	start := time.Now()
	root, err := v.ReadDir(t.Context(), "/", "", dirs+1)
	if err != nil || len(root) != dirs {
		t.Fatalf("%d directories, %v; want %d", len(root), err, dirs)
	}
	took, names := time.Since(start), 0
	start = time.Now()
	for _, e := range root {
		list, err := v.ReadDir(t.Context(), "/"+e.Name, "", 1000)
		if err != nil {
			t.Fatal(err)
		}
		names += len(list)
	}
	tell(t, "listing %d directories: %.2f s; the %d names below them: %.1f s, peak RSS %d MiB", dirs, took.Seconds(), names,
		time.Since(start).Seconds(), rss(t, "VmHWM"))
}

// spilled are changes whose contents were stored, as they are kept in a file.
type spilled struct {
	t    *testing.T
	path string
}

// spill stores the contents of changes, and keeps what their commit needs in a file.
func (s *site) spill(t *testing.T, changes iter.Seq2[snapshotter.Change, error]) spilled {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "stored"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	w := bufio.NewWriter(f)
	for c, err := range changes {
		if err != nil {
			t.Fatal(err)
		}
		if c.Content != nil {
			c = s.store1(c)
		}
		if _, err := fmt.Fprintf(w, "%s\t%d\t%d\t%x\n", c.Path, c.Kind, c.Version, c.Stored); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Flush(); err != nil {
		t.Fatal(err)
	}
	return spilled{t, f.Name()}
}

func (x spilled) all() iter.Seq2[snapshotter.Change, error] {
	return func(yield func(snapshotter.Change, error) bool) {
		f, err := os.Open(x.path)
		if err != nil {
			x.t.Fatal(err)
		}
		defer f.Close()
		for lines := bufio.NewScanner(f); lines.Scan(); {
			c := snapshotter.Change{Attr: attr(0o644, 0)}
			if _, err := fmt.Sscanf(lines.Text(), "%s\t%d\t%d\t%x", &c.Path, &c.Kind, &c.Version, &c.Stored); err != nil && c.Kind == snapshotter.File {
				x.t.Fatal(err)
			}
			if !yield(c, nil) {
				return
			}
		}
	}
}

// TestScaleStored stores FILES (200,000) small files one by one, as a pull does, and commits
// them all at once.
func TestScaleStored(t *testing.T) {
	n := fromEnv(t, "FILES", 200_000)
	s := newSite(t)
	resetPeak(t)
	start := time.Now()
	changes := s.spill(t, benchTree(n, 100))
	tell(t, "%d files stored: %.0f s, %.0f files/s, RSS %d MiB, peak %d MiB", n, time.Since(start).Seconds(),
		float64(n)/time.Since(start).Seconds(), rss(t, "VmRSS"), rss(t, "VmHWM"))
	heapProfile(t, "stored")
	resetPeak(t)
	start = time.Now()
	s.at = func(name string) {
		if name == snapshotter.FailCommitEntries || name == snapshotter.FailCommitIndexes || name == snapshotter.FailStatePutBefore {
			heapProfile(t, name)
		}
	}
	m := meta(1)
	m.Source = snapshotter.Source{Type: "sftp", Origin: "host"}
	id, err := s.Commit(t.Context(), snapshotter.ID{}, changes.all(), m)
	if err != nil {
		t.Fatal(err)
	}
	tell(t, "their commit: %.0f s, %.0f files/s, peak RSS %d MiB", time.Since(start).Seconds(),
		float64(n)/time.Since(start).Seconds(), rss(t, "VmHWM"))
	snap, err := s.Snapshot(t.Context(), id)
	if err != nil || snap.Files != uint64(n) {
		t.Errorf("%d files in the snapshot, %v; want %d", snap.Files, err, n)
	}
	resetPeak(t)
	tell(t, "afterwards: RSS %d MiB", rss(t, "VmRSS"))
	s.close(t)
}

// heapProfile writes a profile of the heap to PROFILES, a directory.
func heapProfile(t *testing.T, name string) {
	t.Helper()
	dir := os.Getenv("PROFILES")
	if dir == "" {
		return
	}
	f, err := os.Create(filepath.Join(dir, name+".pprof"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	runtime.GC()
	if err := pprof.WriteHeapProfile(f); err != nil {
		t.Fatal(err)
	}
}
