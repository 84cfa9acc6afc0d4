package snapshotter_test

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/PlakarKorp/kloset/caching/sqlite"
	"github.com/PlakarKorp/kloset/objects"
	"github.com/PlakarKorp/kloset/repository"
	"github.com/PlakarKorp/kloset/repository/state"

	"github.com/snapgate/gateway/snapshotter"
	"github.com/snapgate/gateway/store"
	"github.com/snapgate/gateway/store/storetest"
)

// keeper is a rig whose store is maintained, at times of its own.
type keeper struct {
	*rig
	dir string // of what maintenance keeps
	now time.Time
}

func newKeeper(tb testing.TB, options ...func(*store.Config)) *keeper {
	tb.Helper()
	return &keeper{rig: newRig(tb, options...), dir: tb.TempDir(), now: time.Now()}
}

const testGrace = 7 * 24 * time.Hour

func (k *keeper) config() snapshotter.MaintainConfig {
	return snapshotter.MaintainConfig{Dir: k.dir, Grace: testGrace, Patience: time.Minute, Now: func() time.Time { return k.now }}
}

func (k *keeper) maintain() snapshotter.MaintainReport {
	k.t.Helper()
	rep, err := k.Maintain(k.t.Context(), k.config())
	if err != nil {
		k.t.Fatalf("maintain: %v", err)
	}
	return rep
}

// later lets time go by, for maintenance.
func (k *keeper) later() { k.now = k.now.Add(testGrace + time.Hour) }

// drop removes a snapshot as kloset does.
func (k *keeper) drop(ids ...snapshotter.ID) {
	k.t.Helper()
	for _, id := range ids {
		if err := k.store.Repository().DeleteSnapshot(objects.MAC(id)); err != nil {
			k.t.Fatal(err)
		}
	}
	if err := k.Refresh(k.t.Context()); err != nil {
		k.t.Fatal(err)
	}
}

// packed is how much the packfiles in a store take.
func (r *rig) packed() (bytes int64) {
	r.t.Helper()
	root := strings.TrimPrefix(r.store.Location(), "fs://")
	err := filepath.WalkDir(filepath.Join(root, "packfiles"), func(_ string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || len(d.Name()) != 2*len(objects.MAC{}) { // not what is still being written
			return err
		}
		fi, err := d.Info()
		bytes += fi.Size()
		return err
	})
	if err != nil {
		r.t.Fatal(err)
	}
	return bytes
}

// spoil changes the index of the store, as a disk might.
func (k *keeper) spoil(query string) error {
	k.t.Helper()
	dirs, err := filepath.Glob(filepath.Join(filepath.Dir(strings.TrimPrefix(k.store.Location(), "fs://")), "cache", "*", "store", k.store.ID()))
	if err != nil || len(dirs) != 1 {
		k.t.Fatalf("index: %q, %v", dirs, err)
	}
	db, err := sqlite.New(dirs[0], "state.db", &sqlite.Options{Shared: true})
	if err != nil {
		k.t.Fatal(err)
	}
	_, err = db.Exec(query)
	return errors.Join(err, db.Close())
}

// noise is n bytes that nothing makes smaller.
func noise(seed uint64, n int) string {
	data := make([]byte, n)
	rng := rand.New(rand.NewPCG(seed, 7))
	for i := range data {
		data[i] = byte(rng.Uint32())
	}
	return string(data)
}

// sound checks all snapshots, through a store that was opened without any cache.
func (k *keeper) sound(want ...snapshotter.ID) {
	k.t.Helper()
	cfg := storetest.Config(filepath.Dir(strings.TrimPrefix(k.store.Location(), "fs://")))
	cfg.CacheDir, cfg.KeepDir, cfg.Create = k.t.TempDir(), "", false
	cold := &rig{t: k.t, store: storetest.Open(k.t, cfg)}
	cold.Snapshotter = newSnapshotter(k.t, cold.store)
	for _, r := range []*rig{k.rig, cold} {
		list, err := r.Snapshots(k.t.Context(), "")
		if err != nil {
			k.t.Fatal(err)
		}
		if len(list) != len(want) {
			k.t.Errorf("%d snapshots, want %d", len(list), len(want))
		}
		for _, id := range want {
			if err := r.Check(k.t.Context(), id); err != nil {
				k.t.Errorf("check: %v", err)
			}
		}
	}
}

func TestMaintainReclaims(t *testing.T) {
	k := newKeeper(t)
	big := noise(1, 3<<20)
	first := k.commit(snapshotter.ID{}, tree{"/": dir(0), "/small": file(2, "small")}.all()...)
	a := k.commit(first, put("/big", file(1, big)))
	b := k.commit(a, remove("/big"), put("/more", file(3, noise(2, 200_000))))
	k.drop(first, a)
	full := k.packed()

	if rep := k.maintain(); rep.Marked.Packfiles != 0 || rep.Young.Packfiles == 0 || rep.Before.Bytes != full {
		t.Errorf("what is young: %+v, want nothing marked, %d bytes", rep, full)
	}
	k.later()
	cfg := k.config()
	cfg.DryRun = true
	plan, err := k.Maintain(t.Context(), cfg)
	if err != nil || plan.Marked.Bytes < int64(len(big)) || plan.Grace != plan.Marked {
		t.Errorf("dry run: %+v, %v", plan, err)
	}
	rep := k.maintain()
	if rep.Marked != plan.Marked || rep.Grace != plan.Marked || rep.Removed.Packfiles != 0 || k.packed() != full {
		t.Errorf("marking: %+v, planned %+v", rep, plan)
	}
	if until := k.now.Add(testGrace); !rep.Until.Equal(until) {
		t.Errorf("in grace until %s, want %s", rep.Until, until)
	}
	k.sound(b)
	k.now = k.now.Add(testGrace - time.Hour)
	if rep := k.maintain(); rep.Removed.Packfiles != 0 || rep.Grace != plan.Marked {
		t.Errorf("in the grace period: %+v", rep)
	}
	k.later()
	rep = k.maintain()
	if rep.Removed != plan.Marked || rep.Grace.Packfiles != 0 || rep.After.Bytes != full-rep.Removed.Bytes || rep.After.Bytes != k.packed() {
		t.Errorf("removing: %+v, %d bytes are there of %d", rep, k.packed(), full)
	}
	k.sound(b)
	k.expect(b, tree{"/": dir(0), "/small": file(2, "small"), "/more": file(3, noise(2, 200_000))})
	k.later()
	states, err := k.store.States(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if rep := k.maintain(); rep.Removed.Packfiles+rep.Marked.Packfiles+rep.Grace.Packfiles != 0 || rep.Before != rep.After {
		t.Errorf("with nothing to do: %+v", rep)
	}
	if after, err := k.store.States(t.Context()); err != nil || len(after) != len(states) {
		t.Errorf("with nothing to do, it writes states: %d, %d before, %v", len(after), len(states), err)
	}
}

// TestMaintainUsedAgain stores again what is marked: it must be stored once more.
func TestMaintainUsedAgain(t *testing.T) {
	k := newKeeper(t)
	big := noise(1, 2<<20)
	a := k.commit(snapshotter.ID{}, tree{"/": dir(0), "/big": file(1, big)}.all()...)
	b := k.commit(a, remove("/big"))
	k.drop(a)
	k.later()
	if rep := k.maintain(); rep.Marked.Packfiles == 0 {
		t.Fatalf("nothing was marked: %+v", rep)
	}
	c := k.commit(b, put("/again", file(9, big)))
	k.later()
	if rep := k.maintain(); rep.Removed.Packfiles == 0 {
		t.Errorf("nothing was removed: %+v", rep)
	}
	k.sound(b, c)
	k.expect(c, tree{"/": dir(0), "/again": file(9, big)})
}

// TestMaintainView reads a snapshot that was removed, in this process and in another one.
func TestMaintainView(t *testing.T) {
	k := newKeeper(t)
	big := noise(1, 2<<20)
	a := k.commit(snapshotter.ID{}, tree{"/": dir(0), "/big": file(1, big)}.all()...)
	b := k.commit(a, remove("/big"))
	other := k.beside()
	theirs, err := other.View(t.Context(), a)
	if err != nil {
		t.Fatal(err)
	}
	read := func(v *snapshotter.View) {
		t.Helper()
		f, err := v.Open(t.Context(), "/big")
		if err != nil {
			t.Fatal(err)
		}
		data, err := io.ReadAll(io.NewSectionReader(f, 0, f.Size()))
		if err != nil || string(data) != big {
			t.Errorf("%d bytes read, %v", len(data), err)
		}
	}
	ours, err := k.View(t.Context(), a)
	if err != nil {
		t.Fatal(err)
	}
	k.drop(a)
	k.later()
	if rep := k.maintain(); rep.Marked.Packfiles != 0 {
		t.Errorf("what a view needs is marked: %+v", rep)
	}
	read(ours)
	if err := ours.Close(); err != nil {
		t.Fatal(err)
	}
	// One who does not know of the other process's view.
	k.rig.Snapshotter = newSnapshotter(t, k.store)
	if rep := k.maintain(); rep.Marked.Packfiles == 0 {
		t.Errorf("nothing is marked: %+v", rep)
	}
	if err := other.Refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	read(theirs)
	k.sound(b)
}

// TestMaintainElsewhere reclaims a removed snapshot that another process has open: what is read there says that the snapshot is gone, as soon as
// that process knows, and not that the store is away.
func TestMaintainElsewhere(t *testing.T) {
	k := newKeeper(t)
	a := k.commit(snapshotter.ID{}, tree{"/": dir(0), "/big": file(1, noise(1, 2<<20))}.all()...)
	k.commit(a, remove("/big"))
	other := k.beside()
	f := other.hold(a, "/big")
	k.drop(a)
	for removed := 0; removed == 0; {
		k.later()
		rep := k.maintain()
		if removed = rep.Removed.Packfiles; removed+rep.Marked.Packfiles == 0 {
			t.Fatalf("nothing is reclaimed: %+v", rep)
		}
	}
	for _, knows := range []bool{false, true} {
		if knows {
			if err := other.Refresh(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		_, err := f.ReadAt(make([]byte, 1), 0)
		if !errors.Is(err, snapshotter.ErrUnavailable) || errors.Is(err, snapshotter.ErrNoSnapshot) != knows || errors.Is(err, snapshotter.ErrLost) {
			t.Errorf("read when it knows of the removal (%v): %v", knows, err)
		}
	}
}

// TestViewOfOlderCopy has an open snapshot be in no state for a while, as another disk is in the place of the store's: what is not found of it
// was not removed.
func TestViewOfOlderCopy(t *testing.T) {
	k := newKeeper(t)
	a := k.commit(snapshotter.ID{}, tree{"/": dir(0)}.all()...)
	files := func() []string {
		list, err := filepath.Glob(filepath.Join(strings.TrimPrefix(k.store.Location(), "fs://"), "*", "*", "*"))
		if err != nil {
			t.Fatal(err)
		}
		return list
	}
	older := files()
	b := k.commit(a, put("/big", file(1, noise(1, 2<<20))))
	other := k.beside()
	f := other.hold(b, "/big")
	newer := slices.DeleteFunc(files(), func(p string) bool { return slices.Contains(older, p) })
	aside := t.TempDir()
	move := func(away bool) {
		for _, p := range newer {
			from, to := p, filepath.Join(aside, filepath.Base(p))
			if !away {
				from, to = to, from
			}
			if err := os.Rename(from, to); err != nil {
				t.Fatal(err)
			}
		}
		if err := other.Refresh(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	move(true)
	if list, err := other.Snapshots(t.Context(), ""); err != nil || len(list) != 1 {
		t.Fatalf("snapshots of the older copy: %v, %v", list, err)
	}
	if _, err := f.ReadAt(make([]byte, 1), 0); !errors.Is(err, snapshotter.ErrUnavailable) || errors.Is(err, snapshotter.ErrNoSnapshot) {
		t.Errorf("while it is away: %v", err)
	}
	move(false)
	if _, err := f.ReadAt(make([]byte, 1), 0); err != nil {
		t.Errorf("when it is back: %v", err)
	}
}

// hold opens a file of a snapshot, of which it keeps a view, until the end of the test.
func (r *rig) hold(id snapshotter.ID, path string) *snapshotter.Reader {
	r.t.Helper()
	v, err := r.View(r.t.Context(), id)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { _ = v.Close() })
	f, err := v.Open(r.t.Context(), path)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { _ = f.Close() })
	return f
}

// beside is the same store in another process.
func (r *rig) beside(options ...func(*snapshotter.Config)) *rig {
	r.t.Helper()
	cfg := storetest.Config(filepath.Dir(strings.TrimPrefix(r.store.Location(), "fs://")))
	cfg.CacheDir, cfg.KeepDir, cfg.Create = r.t.TempDir(), "", false
	st := storetest.Open(r.t, cfg)
	return &rig{Snapshotter: newSnapshotter(r.t, st, options...), t: r.t, store: st}
}

// TestMaintainEarly removes what was put ahead of a commit: the commit must notice.
func TestMaintainEarly(t *testing.T) {
	k := newKeeper(t)
	a := k.commit(snapshotter.ID{}, tree{"/": dir(0)}.all()...)
	other := k.beside()
	data := noise(3, 20<<20)
	stored, err := other.Store(t.Context(), bytesContent(data))
	if err != nil {
		t.Fatal(err)
	}
	for k.packed() < 16<<20 { // the first of two packfiles is written while nobody waits
		runtime.Gosched()
	}
	cfg := k.config()
	cfg.Grace = 0
	cfg.Now = func() time.Time { return time.Now().Add(time.Hour) }
	for i := range 2 {
		rep, err := k.Maintain(t.Context(), cfg)
		if err != nil {
			t.Fatal(err)
		}
		if i == 0 && rep.Orphans == 0 {
			t.Errorf("no orphan: %+v", rep)
		}
		if i == 1 && rep.Removed.Packfiles == 0 {
			t.Errorf("nothing removed: %+v", rep)
		}
	}
	c := put("/file", file(5, data))
	c.Stored = stored
	m := meta(1)
	m.Parent = a
	id, err := other.Commit(t.Context(), a, seq([]snapshotter.Change{c}), m)
	if err != nil {
		t.Fatal(err)
	}
	if err := k.Refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	k.sound(a, id)
	// Its own are safe from it.
	if stored, err = k.Store(t.Context(), bytesContent(noise(4, 20<<20))); err != nil {
		t.Fatal(err)
	}
	if rep, err := k.Maintain(t.Context(), cfg); err != nil || rep.Orphans != 0 {
		t.Errorf("own packfiles: %+v, %v", rep, err)
	}
	c = snapshotter.Change{Path: "/own", Kind: snapshotter.File, Attr: attr(0o644, 0), Version: 6, Stored: stored}
	own := k.commit(a, c)
	k.sound(a, id, own)
}

// comesBack commits and drops a content, whose packfile is then missing and back again several times.
func (k *keeper) comesBack(times int) (left snapshotter.ID, path string) {
	k.t.Helper()
	a := k.commit(snapshotter.ID{}, tree{"/": dir(0), "/big": file(1, noise(1, 2<<20))}.all()...)
	left = k.commit(a, remove("/big"))
	k.drop(a)
	for name, size := range packfiles(k.t, filepath.Dir(strings.TrimPrefix(k.store.Location(), "fs://"))) {
		if size > 1<<20 {
			path = name
		}
	}
	away := filepath.Join(k.t.TempDir(), "away")
	for range times {
		for _, move := range [][2]string{{path, away}, {away, path}} {
			if err := os.Rename(move[0], move[1]); err != nil {
				k.t.Fatal(err)
			}
			k.maintain()
		}
	}
	return left, path
}

// turns returns the states that take the colour of a packfile away, and how many come after each state.
func (k *keeper) turns() (back []objects.MAC, answers map[objects.MAC]int) {
	k.t.Helper()
	ids, err := k.store.States(k.t.Context())
	if err != nil {
		k.t.Fatal(err)
	}
	answers = make(map[objects.MAC]int)
	for _, id := range ids {
		facts, err := k.store.ReadState(k.t.Context(), id)
		if err != nil {
			k.t.Fatal(err)
		}
		if len(facts.Freed) > 0 {
			back = append(back, id)
		}
		rd, version, err := k.store.Repository().GetState(id)
		if err != nil {
			k.t.Fatal(err)
		}
		h, err := state.ReadHeader(rd, version)
		if err := errors.Join(err, rd.Close()); err != nil {
			k.t.Fatal(err)
		}
		answers[h.Parent]++
	}
	return back, answers
}

// TestMaintainAnswers marks and removes a packfile that was missing once: whoever reads that after the state which has
// said that it is back, and does not read it before.
func TestMaintainAnswers(t *testing.T) {
	k := newKeeper(t)
	b, big := k.comesBack(1)
	for range 2 {
		k.later()
		k.maintain()
	}
	if _, err := os.Stat(big); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("it is still there: %v", err)
	}
	back, answers := k.turns()
	if len(back) != 1 || answers[back[0]] != 2 {
		t.Errorf("%d states say that it is back, want 1; %d say that it was marked and removed, want 2", len(back), answers[back[0]])
	}
	k.sound(b)
}

// answersOne has a marked packfile of which two states, back, say that it is back, and says after the first of them that it was
// removed, as maintenance does that is ended then. before is how many states came after each before that; the rest is of
// comesBack.
func (k *keeper) answersOne() (left snapshotter.ID, path string, back []objects.MAC, before map[objects.MAC]int) {
	k.t.Helper()
	left, path = k.comesBack(2)
	k.later()
	k.maintain()
	back, before = k.turns()
	if len(back) != 2 {
		k.t.Fatalf("%d states say that it is back, want 2", len(back))
	}
	mac := packfileAt(k.t, path)
	if _, err := k.store.PutRemoval(store.Removal{Bury: []objects.MAC{mac}, Freed: map[objects.MAC][]objects.MAC{mac: back[:1]}}, k.now); err != nil {
		k.t.Fatal(err)
	}
	return left, path, back, before
}

// TestMaintainAnswersCutOff ends maintenance when it has written one of two states that say that a packfile was removed:
// the next run writes the other one before it removes it.
func TestMaintainAnswersCutOff(t *testing.T) {
	k := newKeeper(t)
	b, big, back, before := k.answersOne()
	if err := k.Refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	if rep := k.maintain(); rep.Removed.Packfiles != 1 {
		t.Errorf("%+v, want one packfile removed", rep)
	}
	if _, err := os.Stat(big); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("it is still there: %v", err)
	}
	_, answers := k.turns()
	for _, id := range back {
		if answers[id] == before[id] {
			t.Errorf("nobody says after state %x, by which it is back, that it was removed", id[:4])
		}
	}
	k.maintain()
	if _, again := k.turns(); !maps.Equal(again, answers) {
		t.Error("it is said once more when it is gone")
	}
	k.sound(b)
}

// TestMaintainBuriesMissing: a packfile is missing and was to be removed, and maintenance was ended when it had written one of two
// states that say so: the next run writes the other one, whatever it knows from before, unless the packfile is there and needed.
func TestMaintainBuriesMissing(t *testing.T) {
	for _, tt := range []struct {
		name       string
		cold, back bool
	}{{name: "known"}, {name: "cold", cold: true}, {name: "back", back: true}} {
		t.Run(tt.name, func(t *testing.T) {
			k := newKeeper(t)
			b, big, back, before := k.answersOne()
			data, err := os.ReadFile(big)
			if err := errors.Join(err, os.Remove(big)); err != nil {
				t.Fatal(err)
			}
			if err := k.Refresh(t.Context()); err != nil {
				t.Fatal(err)
			}
			by := k
			if tt.cold {
				s := storetest.Open(t, otherConfig(k.store))
				by = &keeper{rig: &rig{Snapshotter: newSnapshotter(t, s), t: t, store: s}, dir: t.TempDir(), now: k.now}
			}
			if tt.back { // after the survey, so that it may be there for any reason
				by.Snapshotter = newSnapshotter(t, k.store, func(cfg *snapshotter.Config) {
					cfg.Failpoint = func(name string) {
						if name == snapshotter.MaintainLocked {
							if err := os.WriteFile(big, data, 0o600); err != nil {
								t.Error(err)
							}
						}
					}
				})
			}
			by.maintain()
			_, answers := k.turns()
			for i, id := range back {
				if want := i == 0 || !tt.back; (answers[id] > before[id]) != want {
					t.Errorf("%d states come after state %x, by which it is back, %d before; want that one says that it was removed: %t", answers[id], id[:4], before[id], want)
				}
			}
			if _, err := os.Stat(big); (err == nil) != tt.back {
				t.Errorf("the packfile: %v, want it: %t", err, tt.back)
			}
			if !tt.back {
				by.maintain()
				if _, again := k.turns(); !maps.Equal(again, answers) {
					t.Error("it is said once more")
				}
			}
			if err := k.Refresh(t.Context()); err != nil {
				t.Fatal(err)
			}
			k.sound(b)
		})
	}
}

// TestMaintainWritesInPart: of two states that say that a packfile is marked the store takes one. That is known here at
// once, and the next run goes on.
func TestMaintainWritesInPart(t *testing.T) {
	disk := storetest.NewFaultFS()
	k := newKeeper(t, func(cfg *store.Config) { cfg.Disk = disk })
	b, big := k.comesBack(2)
	k.later()
	pattern := filepath.Join(filepath.Dir(strings.TrimPrefix(k.store.Location(), "fs://")), "cache", "*", "store", "*", "*.state")
	before, err := filepath.Glob(pattern) // kloset leaves one when it removes a snapshot
	if err != nil {
		t.Fatal(err)
	}
	var written []string
	disk.Fail(func(op storetest.Op, path string) error {
		if op != storetest.OpRename || !strings.Contains(path, "/states/") {
			return nil
		}
		if written = append(written, filepath.Base(path)); len(written) == 2 {
			return syscall.ENOSPC
		}
		return nil
	})
	_, err = k.Maintain(t.Context(), k.config())
	disk.Fail(nil)
	if !errors.Is(err, snapshotter.ErrUnavailable) || !errors.Is(err, syscall.ENOSPC) || len(written) != 2 {
		t.Fatalf("%v, states %q", err, written)
	}
	raw, err := hex.DecodeString(written[0])
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := k.store.Indexed()[objects.MAC(raw)]; !ok {
		t.Error("the state that is in the store is not known")
	}
	left, err := filepath.Glob(pattern)
	if err != nil || !slices.Equal(left, before) {
		t.Errorf("left in the cache: %q after %q, %v", left, before, err)
	}
	for range 2 {
		k.maintain()
		k.later()
	}
	if _, err := os.Stat(big); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("it is still there: %v", err)
	}
	k.sound(b)
}

// TestMaintainRescues saves what a snapshot needs and only a marked packfile has: plakar may make
// one while maintenance runs, as it looks for what there is before it locks the store.
func TestMaintainRescues(t *testing.T) {
	k := newKeeper(t)
	want := tree{"/": dir(0), "/file": file(1, noise(1, 300_000))}
	a := k.commit(snapshotter.ID{}, want.all()...)
	packs, err := k.store.IndexedPackfiles()
	if err != nil {
		t.Fatal(err)
	}
	var all store.Removal
	for mac := range packs {
		all.Colour = append(all.Colour, mac)
	}
	if _, err := k.store.PutRemoval(all, k.now); err != nil {
		t.Fatal(err)
	}
	if err := k.Refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := k.Check(t.Context(), a); err == nil {
		t.Fatal("kloset reads what is marked")
	}
	rep := k.maintain()
	if rep.Rescued == 0 {
		t.Errorf("nothing was rescued: %+v", rep)
	}
	k.sound(a)
	k.later()
	if rep := k.maintain(); rep.Removed.Packfiles != len(packs) {
		t.Errorf("%+v, want %d packfiles removed", rep, len(packs))
	}
	k.sound(a)
	k.expect(a, want)
}

// TestMaintainRescueCutOff kills maintenance when it has written such blobs again and no state tells of
// it: by then nothing is lost, and the next run, when the lock of the dead one is too old, does it once more.
func TestMaintainRescueCutOff(t *testing.T) {
	killed := filepath.Join(t.TempDir(), "store")
	k := newKeeper(t)
	at := strings.TrimPrefix(k.store.Location(), "fs://")
	cut := k.beside(func(c *snapshotter.Config) {
		c.Failpoint = func(name string) {
			if name == snapshotter.MaintainCopied {
				if err := os.CopyFS(killed, os.DirFS(at)); err != nil {
					t.Error(err)
				}
			}
		}
	})
	want := tree{"/": dir(0), "/file": file(1, noise(1, 300_000))}
	a := k.commit(snapshotter.ID{}, want.all()...)
	packs, err := k.store.IndexedPackfiles()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := k.store.PutRemoval(store.Removal{Colour: slices.Collect(maps.Keys(packs))}, k.now); err != nil {
		t.Fatal(err)
	}
	if err := cut.Refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := cut.Maintain(t.Context(), k.config()); err != nil {
		t.Fatal(err)
	}
	locks, err := filepath.Glob(filepath.Join(killed, "locks", "*"))
	if err != nil || len(locks) != 1 {
		t.Fatalf("%d locks were left behind, %v; want 1", len(locks), err)
	}
	if err := os.Remove(locks[0]); err != nil { // as whoever comes after ten minutes does
		t.Fatal(err)
	}

	st := storetest.Open(t, storetest.Config(filepath.Dir(killed)))
	next := &keeper{rig: &rig{Snapshotter: newSnapshotter(t, st), t: t, store: st}, dir: t.TempDir(), now: k.now}
	if rep := next.maintain(); rep.Rescued == 0 {
		t.Errorf("nothing was rescued: %+v", rep)
	}
	next.sound(a)
	next.expect(a, want)
	for range 2 { // marks what was written before the kill, and removes it
		next.later()
		next.maintain()
	}
	next.sound(a)
	left, err := st.ListPackfiles(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for mac := range packs {
		if _, ok := left[mac]; ok {
			t.Errorf("packfile %x is still there", mac[:4])
		}
	}
	next.expect(a, want)
}

// TestMaintainKeepsSoundCopy damages a packfile when an earlier one with the same content is about to be
// removed: it stays until the damage is repaired, from there.
func TestMaintainKeepsSoundCopy(t *testing.T) {
	k := newScrubRig(t)
	m := &keeper{rig: k.rig, dir: t.TempDir(), now: time.Now()}
	big := noise(5, 2<<20)
	// added commits the content, and returns the packfile that has it.
	added := func(path string) (snapshotter.ID, string) {
		t.Helper()
		before := k.files("packfiles")
		id := k.commit(k.last, put(path, file(40, big)))
		for _, name := range k.files("packfiles") {
			if !slices.Contains(before, name) && len(read(t, name)) > 1<<20 {
				return id, name
			}
		}
		t.Fatal("it was not stored")
		return id, ""
	}
	there := func(name string) bool {
		t.Helper()
		_, err := os.Stat(name)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Fatal(err)
		}
		return err == nil
	}
	id, early := added("/big")
	m.drop(id)
	m.later()
	m.maintain()
	id, late := added("/again")
	m.later() // the next run removes it, unless it knows of the damage
	plan := m.config()
	plan.DryRun = true
	if rep, err := m.Maintain(t.Context(), plan); err != nil || rep.Removed.Bytes < int64(len(big)) || rep.Kept.Packfiles != 0 {
		t.Fatalf("without damage: %+v, %v; want it removed", rep, err)
	}
	change(t, late, flip(8<<20))
	damage := k.scrub(snapshotter.ScrubAll).State
	if len(damage.Damage) != 1 {
		t.Fatalf("damage %+v", damage.Damage)
	}
	k.Distrust(&snapshotter.ScrubState{})
	surprised := newSnapshotter(t, k.store, func(c *snapshotter.Config) {
		c.Failpoint = func(name string) {
			if name == snapshotter.MaintainLocked {
				k.Distrust(&damage)
			}
		}
	})
	if rep, err := surprised.Maintain(t.Context(), m.config()); err != nil || !there(early) {
		t.Errorf("damage is found meanwhile: %+v, %v, the sound copy is there: %v", rep, err, there(early))
	}
	if rep := m.maintain(); !there(early) || rep.Kept.Packfiles != 1 || rep.Rescued+rep.Lost != 0 {
		t.Errorf("with damage: %+v, the sound copy is there: %v", rep, there(early))
	}
	k.sound(k.repair(nil))
	want := with(map[string]*item{"/large": ptr(file(20, noise(1, 1<<20))), "/again": ptr(file(40, big))})
	k.expect(id, want)
	if m.maintain(); there(early) {
		t.Error("it is kept when the damage is repaired")
	}
	k.expect(id, want)
	m.sound(k.first, k.last, id)
}

// lostStateRig is a store in which the state file of a snapshot has vanished, whose contents no other snapshot has.
type lostStateRig struct {
	*scrubRig
	m     *keeper
	lost  snapshotter.ID
	packs []string // of that snapshot
	state string   // that told of it
	was   []byte
}

func newLostStateRig(t *testing.T) *lostStateRig {
	t.Helper()
	k := &lostStateRig{scrubRig: newScrubRig(t)}
	k.m = &keeper{rig: k.rig, dir: t.TempDir(), now: time.Now()}
	states, packs := k.files("states"), k.files("packfiles")
	k.lost = k.commit(snapshotter.ID{}, tree{"/": dir(0), "/big": file(1, noise(9, 2<<20))}.all()...)
	k.scrub(snapshotter.ScrubAll)
	isNew := func(old []string) func(string) bool {
		return func(name string) bool { return !slices.Contains(old, name) }
	}
	k.packs = slices.DeleteFunc(k.files("packfiles"), func(name string) bool { return !isNew(packs)(name) })
	gone := slices.DeleteFunc(k.files("states"), func(name string) bool { return !isNew(states)(name) })
	if len(gone) != 1 || len(k.packs) < 2 {
		t.Fatalf("states %q, packfiles %q", gone, k.packs)
	}
	k.state, k.was = gone[0], []byte(read(t, gone[0]))
	k.vanish()
	return k
}

// vanish removes the file of the state.
func (k *lostStateRig) vanish() {
	k.t.Helper()
	if err := os.Remove(k.state); err != nil {
		k.t.Fatal(err)
	}
}

// kept is how many of the packfiles are there.
func (k *lostStateRig) kept() (n int) {
	k.t.Helper()
	for _, name := range k.packs {
		switch _, err := os.Stat(name); {
		case err == nil:
			n++
		case !errors.Is(err, fs.ErrNotExist):
			k.t.Fatal(err)
		}
	}
	return n
}

// back repairs the state, and looks whether the snapshot is as it was.
func (k *lostStateRig) back() {
	k.t.Helper()
	k.scrub(snapshotter.ScrubNew)
	k.sound(k.repair(nil))
	k.m.maintain()
	k.whole()
	k.m.sound(k.first, k.last, k.lost)
	k.expect(k.lost, tree{"/": dir(0), "/big": file(1, noise(9, 2<<20))})
	k.m.later()
	if rep := k.m.maintain(); rep.Spared.Packfiles > 0 {
		k.t.Errorf("with the state: %+v", rep)
	}
}

// TestMaintainSparesLostSnapshots: a state file vanishes, and with it all that tells of a snapshot. Its packfiles are not those of a
// backup that was cut off, whether the index knew of it or a scrub does; somebody may say that they are.
func TestMaintainSparesLostSnapshots(t *testing.T) {
	t.Run("index", func(t *testing.T) {
		k := newLostStateRig(t)
		for range 3 {
			k.m.later()
			if rep := k.m.maintain(); rep.Spared.Packfiles != len(k.packs) || rep.Marked.Packfiles > 0 {
				t.Errorf("%+v, want %d spared", rep, len(k.packs))
			}
		}
		if n := k.kept(); n != len(k.packs) {
			t.Errorf("%d packfiles are left of %d", n, len(k.packs))
		}
		k.back()
	})
	t.Run("scrub", func(t *testing.T) {
		k := newLostStateRig(t)
		rep := k.scrub(snapshotter.ScrubNew)
		if len(rep.State.Damage) != 1 || !rep.State.Damage[0].Missing() {
			t.Fatalf("damage %+v", rep.State.Damage)
		}
		cold := &keeper{rig: &rig{Snapshotter: newSnapshotter(t, storetest.Open(t, otherConfig(k.store))), t: t}, dir: t.TempDir(), now: k.m.now}
		cold.Distrust(&rep.State)
		for range 3 {
			cold.later()
			if rep := cold.maintain(); rep.Spared.Packfiles != len(k.packs) || rep.Marked.Packfiles > 0 {
				t.Errorf("%+v, want %d spared", rep, len(k.packs))
			}
		}
		k.back()
		if _, err := os.Stat(k.packs[0]); err != nil {
			t.Error(err)
		}
	})
	t.Run("marks", func(t *testing.T) {
		k := newLostStateRig(t)
		if err := os.WriteFile(k.state, k.was, 0o600); err != nil {
			t.Fatal(err)
		}
		if rep := k.m.maintain(); rep.Spared.Packfiles > 0 { // and reads the state
			t.Errorf("the state is there: %+v", rep)
		}
		k.vanish()
		cold := &keeper{rig: &rig{Snapshotter: newSnapshotter(t, storetest.Open(t, otherConfig(k.store))), t: t}, dir: k.m.dir, now: k.m.now}
		for range 3 {
			cold.later()
			if rep := cold.maintain(); rep.Spared.Packfiles != len(k.packs) || rep.Marked.Packfiles > 0 {
				t.Errorf("%+v, want %d spared", rep, len(k.packs))
			}
		}
		cold.Distrust(&snapshotter.ScrubState{Accepted: k.now})
		for range 3 {
			if rep := cold.maintain(); rep.Spared.Packfiles > 0 {
				t.Errorf("accepted: %+v", rep)
			}
			cold.later()
		}
		if n := k.kept(); n > 0 {
			t.Errorf("accepted, and %d packfiles are left", n)
		}
	})
	t.Run("accepted", func(t *testing.T) {
		k := newLostStateRig(t)
		k.m.later()
		if rep := k.m.maintain(); rep.Spared.Packfiles != len(k.packs) {
			t.Errorf("%+v, want %d spared", rep, len(k.packs))
		}
		cfg := k.config(snapshotter.ScrubNew)
		cfg.Accept = true
		if rep, err := k.Scrub(t.Context(), cfg); err != nil || !rep.State.Sound() {
			t.Fatalf("damage %+v, %v", rep.State.Damage, err)
		}
		for range 2 {
			if rep := k.m.maintain(); rep.Spared.Packfiles > 0 {
				t.Errorf("accepted: %+v", rep)
			}
			k.m.later()
		}
		if n := k.kept(); n > 0 {
			t.Errorf("accepted, and %d packfiles are left", n)
		}
		k.m.sound(k.first, k.last)
	})
	t.Run("accepted again", func(t *testing.T) { // after the clock was ahead
		k := newLostStateRig(t)
		spared := func(what string, want int) {
			t.Helper()
			if rep := k.m.maintain(); rep.Spared.Packfiles != want {
				t.Errorf("%s: %+v, want %d spared", what, rep, want)
			}
		}
		accept := func(now time.Time) {
			t.Helper()
			cfg := k.config(snapshotter.ScrubNew)
			cfg.Accept, cfg.Now = true, func() time.Time { return now }
			if rep, err := k.Scrub(t.Context(), cfg); err != nil || !rep.State.Sound() {
				t.Fatalf("damage %+v, %v", rep.State.Damage, err)
			}
		}
		spared("missing", len(k.packs))
		accept(k.now.AddDate(1, 0, 0))
		spared("accepted", 0)
		if err := os.WriteFile(k.state, k.was, 0o600); err != nil {
			t.Fatal(err)
		}
		spared("back", 0)
		k.vanish()
		spared("missing again", len(k.packs))
		accept(k.now)
		spared("accepted again", 0)
	})
	t.Run("removed", func(t *testing.T) { // another one says that it is to go
		k := newLostStateRig(t)
		k.m.later()
		k.m.maintain()
		k.scrub(snapshotter.ScrubNew)
		k.sound(k.repair(nil))
		k.m.drop(k.lost)
		for range 3 {
			if rep := k.m.maintain(); rep.Spared.Packfiles > 0 {
				t.Errorf("removed: %+v", rep)
			}
			k.m.later()
		}
		if n := k.kept(); n > 0 {
			t.Errorf("removed, and %d packfiles are left", n)
		}
	})
}

// stateOf is the file of the state that tells of a snapshot.
func (k *scrubRig) stateOf(id snapshotter.ID) string {
	k.t.Helper()
	for _, name := range k.files("states") {
		facts, err := k.store.ReadState(k.t.Context(), packfileAt(k.t, name))
		if err != nil {
			k.t.Fatal(err)
		}
		if slices.Contains(facts.Snapshots, objects.MAC(id)) {
			return name
		}
	}
	k.t.Fatalf("no state tells of snapshot %s", id)
	return ""
}

// TestMaintainSparesToldContents: the state vanishes that tells of a snapshot, and others that tell of what it has are there: that of another
// snapshot, which was removed, or earlier ones of the same commit. Nothing of it is removed.
func TestMaintainSparesToldContents(t *testing.T) {
	big := tree{"/": dir(0), "/big": file(1, noise(9, 2<<20))}
	ofAnother := func(k *scrubRig, m *keeper) (snapshotter.ID, tree) {
		first := k.commit(snapshotter.ID{}, big.all()...)
		want := maps.Clone(big)
		want["/x"] = file(2, "x")
		id := k.commit(first, put("/x", want["/x"]))
		m.drop(first)
		return id, want
	}
	ofLarge := func(k *scrubRig, _ *keeper) (snapshotter.ID, tree) {
		snapshotter.SetRotateBlobs(k.Snapshotter, 50, 8<<10)
		before, want := len(k.files("states")), manyFiles(80)
		id := k.commit(snapshotter.ID{}, want.all()...)
		if n := len(k.files("states")) - before; n < 3 {
			k.t.Fatalf("the commit has written %d states, want several", n)
		}
		return id, want
	}
	for _, tt := range []struct {
		name   string
		commit func(*scrubRig, *keeper) (snapshotter.ID, tree)
		marked bool // by somebody who does not know that a state is missing
		away   bool // a packfile with contents, until the last run
	}{
		{name: "of another snapshot", commit: ofAnother},
		{name: "of a large commit", commit: ofLarge},
		{name: "marked", commit: ofAnother, marked: true},
		{name: "missing", commit: ofAnother, away: true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			k := newScrubRig(t)
			m := &keeper{rig: k.rig, dir: t.TempDir(), now: time.Now()}
			before := k.files("packfiles")
			id, want := tt.commit(k, m)
			k.scrub(snapshotter.ScrubAll)
			if err := os.Remove(k.stateOf(id)); err != nil {
				t.Fatal(err)
			}
			if tt.marked {
				other := &keeper{rig: &rig{Snapshotter: newSnapshotter(t, storetest.Open(t, otherConfig(k.store))), t: t}, dir: t.TempDir(), now: m.now}
				other.later()
				if rep := other.maintain(); rep.Marked.Packfiles <= rep.Orphans || rep.Orphans == 0 {
					t.Fatalf("%+v, want some marked of either kind", rep)
				}
				m.now = other.now
			}
			var back func()
			for _, name := range k.files("packfiles") {
				if tt.away && !slices.Contains(before, name) && len(read(t, name)) > 1<<20 {
					back = change(t, name, func([]byte) []byte { return nil })
				}
			}
			for i := range 3 {
				if tt.away && i == 2 {
					back()
				}
				m.later()
				if rep := m.maintain(); rep.Spared.Packfiles == 0 || rep.Marked.Packfiles+rep.Grace.Packfiles+rep.Removed.Packfiles > 0 {
					t.Errorf("run %d: %+v, want all spared", i+1, rep)
				}
			}
			k.scrub(snapshotter.ScrubNew)
			k.sound(k.repair(nil))
			m.maintain()
			m.sound(k.first, k.last, id)
			k.expect(id, want)
			m.later()
			if rep := m.maintain(); rep.Spared.Packfiles > 0 {
				t.Errorf("with the state: %+v", rep)
			}
		})
	}
}

// TestMaintainRescuesLostSnapshots: who does not know that a state is missing marks what it told of. A repair tells of it again, and
// the next run stores it again.
func TestMaintainRescuesLostSnapshots(t *testing.T) {
	k := newLostStateRig(t)
	other := &keeper{rig: &rig{Snapshotter: newSnapshotter(t, storetest.Open(t, otherConfig(k.store))), t: t}, dir: t.TempDir(), now: k.m.now}
	other.later()
	if rep := other.maintain(); rep.Orphans != len(k.packs) {
		t.Fatalf("%+v, want %d marked that no state tells of", rep, len(k.packs))
	}
	// Known by now, so that it goes no further here.
	k.m.now = other.now
	k.m.later()
	if rep := k.m.maintain(); rep.Spared.Packfiles != len(k.packs) || rep.Removed.Packfiles > 0 {
		t.Errorf("%+v, want %d spared", rep, len(k.packs))
	}
	k.back()
}

// TestMaintainLostStateComesBack: the state is there again when what it told of is about to be removed, by somebody who has marked it
// and does not know that it was missing.
func TestMaintainLostStateComesBack(t *testing.T) {
	k := newLostStateRig(t)
	back := func(string) {}
	s := newSnapshotter(t, storetest.Open(t, otherConfig(k.store)), func(cfg *snapshotter.Config) {
		cfg.Failpoint = func(name string) { back(name) }
	})
	other := &keeper{rig: &rig{Snapshotter: s, t: t}, dir: t.TempDir(), now: k.m.now}
	other.later()
	if rep := other.maintain(); rep.Orphans != len(k.packs) {
		t.Fatalf("%+v, want %d marked that no state tells of", rep, len(k.packs))
	}
	other.later()
	back = func(name string) {
		if name == snapshotter.MaintainLocked {
			if err := os.WriteFile(k.state, k.was, 0o600); err != nil {
				t.Error(err)
			}
		}
	}
	if rep := other.maintain(); rep.Removed.Packfiles > 0 {
		t.Errorf("%+v, want nothing removed", rep)
	}
	if n := k.kept(); n != len(k.packs) {
		t.Fatalf("%d packfiles are left of %d", n, len(k.packs))
	}
	if rep := other.maintain(); rep.Rescued == 0 {
		t.Errorf("%+v, want what the snapshot needs stored again", rep)
	}
	k.m.now = other.now
	k.back()
}

// TestMaintainDoubt gives up when something does not fit together.
func TestMaintainDoubt(t *testing.T) {
	k := newKeeper(t)
	a := k.commit(snapshotter.ID{}, tree{"/": dir(0), "/big": file(1, noise(1, 2<<20)), "/dir": dir(1), "/dir/f": file(2, "small")}.all()...)
	b := k.commit(a, remove("/big"))
	k.drop(a)
	k.later()
	full := k.packed()
	if err := k.spoil("DELETE FROM deltas WHERE rowid IN (SELECT rowid FROM deltas WHERE type = 9 LIMIT 1)"); err != nil {
		t.Fatal(err)
	}
	lost := 0
	for range 3 { // the row may be that of a blob that nobody needs
		if _, err := k.Maintain(t.Context(), k.config()); errors.Is(err, snapshotter.ErrDoubt) {
			lost++
			break
		} else if err != nil {
			t.Fatal(err)
		}
		if err := k.spoil("DELETE FROM deltas WHERE type = 9"); err != nil {
			t.Fatal(err)
		}
		k.later()
	}
	if lost == 0 || k.packed() != full {
		t.Errorf("an index that lacks something: %d refusals, %d bytes of %d", lost, k.packed(), full)
	}
	if err := k.store.Reindex(t.Context()); err != nil {
		t.Fatal(err)
	}
	k.maintain()
	k.sound(b)
}

func TestMaintainLocks(t *testing.T) {
	k := newKeeper(t)
	a := k.commit(snapshotter.ID{}, tree{"/": dir(0), "/big": file(1, noise(1, 2<<20))}.all()...)
	b := k.commit(a, remove("/big"))
	k.drop(a)
	k.later()
	root := strings.TrimPrefix(k.store.Location(), "fs://")
	locks := func() int {
		t.Helper()
		entries, err := os.ReadDir(filepath.Join(root, "locks"))
		if err != nil {
			t.Fatal(err)
		}
		return len(entries)
	}
	shared := repository.NewSharedLock("elsewhere")
	remove := storetest.PutLock(t, k.store, shared)
	cfg := k.config()
	cfg.Patience = time.Nanosecond
	var locked *store.LockedError
	if _, err := k.Maintain(t.Context(), cfg); !errors.Is(err, snapshotter.ErrBusy) || !errors.As(err, &locked) || locked.Host != "elsewhere" || !locked.Shared {
		t.Errorf("beside somebody's lock: %v", err)
	}
	remove()
	if n := locks(); n != 0 {
		t.Errorf("%d locks are left", n)
	}
	// Whoever's clock is behind has a lock that looks old, and is at work.
	shared.Timestamp = time.Now().Add(-2 * repository.LOCK_TTL)
	storetest.PutLock(t, k.store, shared)
	if _, err := k.Maintain(t.Context(), cfg); !errors.Is(err, snapshotter.ErrBusy) {
		t.Errorf("beside a lock whose owner has a wrong clock: %v", err)
	}
	entries, err := os.ReadDir(filepath.Join(root, "locks"))
	if err != nil || len(entries) != 1 {
		t.Fatalf("%d locks, %v", len(entries), err)
	}
	name := filepath.Join(root, "locks", entries[0].Name())
	if err := os.Chtimes(name, shared.Timestamp, shared.Timestamp); err != nil {
		t.Fatal(err)
	}
	if rep := k.maintain(); rep.Locks != 1 || rep.Marked.Packfiles == 0 {
		t.Errorf("with a stale lock: %+v", rep)
	}
	if n := locks(); n != 0 {
		t.Errorf("%d locks are left", n)
	}
	k.sound(b)
}

// TestMaintainLooksOnce makes sure that a run reads what is new, and nothing else.
func TestMaintainLooksOnce(t *testing.T) {
	k := newKeeper(t)
	want := tree{"/": dir(0), "/d": dir(0)}
	for i := range 3000 {
		want[fmt.Sprintf("/d/f%04d", i)] = file(uint64(i+1), fmt.Sprint("content ", i))
	}
	id := k.commit(snapshotter.ID{}, want.all()...)
	size := func() int64 {
		t.Helper()
		k.maintain()
		fi, err := os.Stat(filepath.Join(k.dir, k.store.ID()+".marks"))
		if err != nil {
			t.Fatal(err)
		}
		return fi.Size()
	}
	first := size()
	if again := size(); again != first {
		t.Errorf("the marks grow from %d to %d bytes when nothing has happened", first, again)
	}
	k.commit(id, put("/d/f0000", file(9001, "changed")))
	if next := size(); next <= first || next > first+first/2 {
		t.Errorf("the marks grow from %d to %d bytes by a small change", first, next)
	}
}

// TestMaintainBesideCommits removes and stores the same contents again and again, by two processes
// beside maintenance without any grace period.
func TestMaintainBesideCommits(t *testing.T) {
	k := newKeeper(t)
	base := k.commit(snapshotter.ID{}, tree{"/": dir(0)}.all()...)
	rigs := []*rig{{Snapshotter: k.Snapshotter, t: t, store: k.store}, k.beside()}
	commits := 25
	if testing.Short() {
		commits = 10
	}
	var mu sync.Mutex
	kept := map[snapshotter.ID]tree{base: {"/": dir(0)}}
	var removed atomic.Int64
	var wg sync.WaitGroup
	ctx, stop := context.WithCancel(t.Context())
	for n, r := range rigs {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(n), 1))
			for i := 0; i < commits || removed.Load() == 0 && i < 1000; i++ {
				f := file(uint64(1000*n+i+1), noise(uint64(rng.IntN(8)), 1_100_000))
				m := meta(uint64(1000*n + i + 1))
				m.ShareID = fmt.Sprint("share-", n)
				m.Parent = base
				id, err := r.commitBeside(base, put("/f", f), m)
				if err != nil {
					t.Errorf("process %d: %v", n, err)
					return
				}
				if i%8 == 7 {
					mu.Lock()
					kept[id] = tree{"/": dir(0), "/f": f}
					mu.Unlock()
				} else if err := r.store.Repository().DeleteSnapshot(objects.MAC(id)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	done := make(chan snapshotter.MaintainReport)
	go func() {
		var sum snapshotter.MaintainReport
		cfg := k.config()
		cfg.Grace, cfg.Now = 0, nil
		for ctx.Err() == nil {
			rep, err := k.Maintain(ctx, cfg)
			// The other process may have the store for longer than maintenance waits: it is tried again.
			if err != nil && ctx.Err() == nil && !errors.Is(err, snapshotter.ErrBusy) {
				t.Errorf("maintain: %v", err)
			}
			removed.Add(int64(rep.Removed.Packfiles))
			sum.Locked = max(sum.Locked, rep.Locked)
		}
		done <- sum
	}()
	wg.Wait()
	stop()
	sum := <-done
	if removed.Load() == 0 {
		t.Error("nothing was removed beside the commits")
	}
	if sum.Locked > time.Minute { // a few milliseconds of work, on a machine that may be busy
		t.Errorf("the store was locked for %s", sum.Locked)
	}
	t.Logf("%d packfiles removed, locked for %s at most", removed.Load(), sum.Locked)
	cfg := k.config()
	cfg.Grace, cfg.Now = 0, nil
	if _, err := k.Maintain(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	ids := make([]snapshotter.ID, 0, len(kept))
	for id, want := range kept {
		ids = append(ids, id)
		k.expect(id, want)
	}
	k.sound(ids...)
}

// commitBeside commits until the store is not locked.
func (r *rig) commitBeside(base snapshotter.ID, c snapshotter.Change, m snapshotter.Meta) (snapshotter.ID, error) {
	for {
		id, err := r.Commit(r.t.Context(), base, seq([]snapshotter.Change{c}), m)
		if !errors.Is(err, snapshotter.ErrBusy) {
			return id, err
		}
	}
}
