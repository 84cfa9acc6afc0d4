package snapshotter_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/PlakarKorp/kloset/resources"
	"github.com/google/go-cmp/cmp"

	"github.com/snapgate/gateway/snapshotter"
	"github.com/snapgate/gateway/store"
	"github.com/snapgate/gateway/store/storetest"
)

// repair repairs from another store, nil for none.
func (k *scrubRig) repair(from *snapshotter.Snapshotter) snapshotter.ScrubReport {
	k.t.Helper()
	cfg := k.config(snapshotter.ScrubDamaged)
	cfg.Repair, cfg.From = true, from
	rep, err := k.Scrub(k.t.Context(), cfg)
	if err != nil {
		k.t.Fatalf("repair: %v", err)
	}
	return rep
}

// whole checks the snapshots as another process does, which has the store and nothing else.
func (k *scrubRig) whole() {
	k.t.Helper()
	s := storetest.Open(k.t, otherConfig(k.store))
	other := &rig{Snapshotter: newSnapshotter(k.t, s), t: k.t, store: s}
	for _, id := range []snapshotter.ID{k.first, k.last} {
		if err := other.Check(k.t.Context(), id); err != nil {
			k.t.Errorf("%s: %v", id, err)
		}
	}
	other.expect(k.last, with(map[string]*item{"/large": ptr(file(20, noise(1, 1<<20)))}))
}

// fileCopy opens a copy of the files of the store, and says where it is.
func (k *scrubRig) fileCopy() (from *snapshotter.Snapshotter, root string) {
	k.t.Helper()
	dir := k.t.TempDir()
	if err := os.CopyFS(filepath.Join(dir, "store"), os.DirFS(k.root)); err != nil {
		k.t.Fatal(err)
	}
	cfg := storetest.Config(dir)
	return newSnapshotter(k.t, storetest.Open(k.t, cfg)), filepath.Join(dir, "store")
}

// synced is another store with copies of the snapshots.
func (k *scrubRig) synced() *snapshotter.Snapshotter {
	k.t.Helper()
	to := newSnapshotter(k.t, storetest.New(k.t))
	copier, err := snapshotter.NewCopier(snapshotter.CopierConfig{From: k.Snapshotter, To: to})
	if err != nil {
		k.t.Fatal(err)
	}
	for _, id := range []snapshotter.ID{k.first, k.last} {
		if err := errors.Join(copier.Copy(k.t.Context(), id), to.Refresh(k.t.Context())); err != nil {
			k.t.Fatal(err)
		}
	}
	return to
}

// forget drops the local copies of metadata.
func (k *scrubRig) forget() {
	k.t.Helper()
	copies, err := filepath.Glob(filepath.Join(k.CacheDir, "metadata", "*"))
	for _, p := range copies {
		err = errors.Join(err, os.Remove(p))
	}
	if err != nil {
		k.t.Fatal(err)
	}
}

func read(t testing.TB, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// damages are what is done to a file.
func damages() map[string]func([]byte) []byte {
	return map[string]func([]byte) []byte{
		"a bit":   func(data []byte) []byte { return flip(rand.IntN(8 * len(data)))(data) },
		"cut off": func(data []byte) []byte { return data[:rand.IntN(len(data))] },
		"missing": func([]byte) []byte { return nil },
	}
}

// TestRepairFromFileCopy damages each file of a store, one after the other: a copy of the files gives
// back the very bytes.
func TestRepairFromFileCopy(t *testing.T) {
	k := newScrubRig(t)
	k.scrub(snapshotter.ScrubAll)
	from, _ := k.fileCopy()
	k.forget()
	for name, do := range damages() {
		for _, path := range slices.Concat(k.files("packfiles"), k.files("states"), []string{filepath.Join(k.root, "CONFIG")}) {
			if name == "missing" && filepath.Base(path) == "CONFIG" {
				continue // then it looks like no store at all
			}
			was := read(t, path)
			change(t, path, do)
			k.scrub(snapshotter.ScrubAll)
			k.sound(k.repair(from))
			switch same := read(t, path) == was; {
			case same:
			case name == "a bit": // of padding: that is no damage
				change(t, path, func([]byte) []byte { return []byte(was) })
			default:
				t.Errorf("%s of %s: other bytes than before", name, filepath.Base(path))
			}
		}
	}
	k.whole()
	k.sound(k.scrub(snapshotter.ScrubAll))
}

// TestRepairOfStateWhileCopyIsAway: a copy that cannot be reached may be sound, so nothing else is made of a state.
func TestRepairOfStateWhileCopyIsAway(t *testing.T) {
	k := newScrubRig(t)
	k.scrub(snapshotter.ScrubAll)
	from, root := k.fileCopy()
	path := k.files("states")[0]
	was := read(t, path)
	change(t, path, flip(4*len(was)))
	damaged := read(t, path)
	k.scrub(snapshotter.ScrubAll)
	if err := os.Rename(root, root+".away"); err != nil {
		t.Fatal(err)
	}
	cfg := k.config(snapshotter.ScrubDamaged)
	cfg.Repair, cfg.From = true, from
	if _, err := k.Scrub(t.Context(), cfg); !errors.Is(err, snapshotter.ErrUnavailable) {
		t.Errorf("from a copy that is away: %v", err)
	}
	if read(t, path) != damaged {
		t.Error("the state was written anew")
	}
	if err := os.Rename(root+".away", root); err != nil {
		t.Fatal(err)
	}
	k.sound(k.repair(from))
	if read(t, path) != was {
		t.Error("the state is not as the copy has it")
	}
	k.whole()
}

// TestRepairWhileCopyIsAway: a copy of the files that cannot be read may have what is damaged or missing, so a repair does not
// say that nobody has it, and the next one does the rest.
func TestRepairWhileCopyIsAway(t *testing.T) {
	for name, spoil := range map[string]func([]byte) []byte{"damaged": middle, "missing": func([]byte) []byte { return nil }} {
		t.Run(name, func(t *testing.T) {
			k := newScrubRig(t)
			from, root := k.fileCopy()
			k.forget()
			change(t, k.content(1<<20), spoil)
			if rep := k.scrub(snapshotter.ScrubAll); len(rep.State.Damage) != 1 {
				t.Fatalf("%+v", rep.State.Damage)
			}
			if err := os.Rename(root, root+".away"); err != nil {
				t.Fatal(err)
			}
			rep := k.repair(from)
			if d := rep.State.Damage; len(d) != 1 || !strings.Contains(d[0].Repair, "could not be read, and the next repair looks there again: ") {
				t.Errorf("from a copy that is away: %+v", d)
			}
			if err := os.Rename(root+".away", root); err != nil {
				t.Fatal(err)
			}
			k.sound(k.repair(from))
			k.whole()
		})
	}
}

// TestDamagedIsStoredAgain: content that is damaged in the store is not taken for stored when it is
// uploaded again. From then on earlier snapshots have it as well, and a repair takes it from there.
func TestDamagedIsStoredAgain(t *testing.T) {
	for _, early := range []bool{false, true} {
		t.Run(fmt.Sprintf("early=%v", early), func(t *testing.T) {
			k := newScrubRig(t)
			k.spoilContent("/large", 1<<20)
			if rep := k.scrub(snapshotter.ScrubAll); len(rep.State.Damage) != 1 {
				t.Fatalf("damage %+v", rep.State.Damage)
			}
			st, err := snapshotter.ReadScrubState(k.dir)
			if err != nil {
				t.Fatal(err)
			}
			k.Distrust(&snapshotter.ScrubState{}) // what a process knows that begins
			k.Distrust(&st)
			again := put("/again", file(30, noise(1, 1<<20)))
			if early {
				again.Ingested = k.ingest([]byte(noise(1, 1<<20)))
			}
			next := k.commit(k.last, again)
			// Checks say what is damaged until it is repaired, and readers have it already.
			other := &rig{Snapshotter: newSnapshotter(t, storetest.Open(t, otherConfig(k.store))), t: t, store: k.store}
			large := with(map[string]*item{"/large": ptr(file(20, noise(1, 1<<20)))})
			if d := cmp.Diff(large, other.read(k.last)); d != "" {
				t.Errorf("before (-want +got):\n%s", d)
			}
			large["/again"] = file(30, noise(1, 1<<20))
			if d := cmp.Diff(large, other.read(next)); d != "" {
				t.Errorf("after (-want +got):\n%s", d)
			}
			k.sound(k.repair(nil))
			k.whole()
			packfiles := len(k.files("packfiles"))
			third := k.commit(next, put("/third", file(31, noise(1, 1<<20))))
			if n := len(k.files("packfiles")); n != packfiles+1 { // of metadata
				t.Errorf("%d packfiles after %d: what is mended was stored once more", n, packfiles)
			}
			large["/third"] = file(31, noise(1, 1<<20))
			k.expect(third, large)
		})
	}
}

// TestManyDamaged damages more packfiles than are kept with what is known of them: none is forgotten, by no run and no
// process, until all are repaired.
func TestManyDamaged(t *testing.T) {
	const most, damaged = 2, 5
	k := newScrubRig(t)
	for len(k.files("packfiles")) < damaged {
		k.last = k.commit(k.last, put("/more", file(30, fmt.Sprint(len(k.files("packfiles"))))))
	}
	k.scrub(snapshotter.ScrubAll)
	from, _ := k.fileCopy()
	k.forget()
	for _, path := range k.files("packfiles")[:damaged] {
		change(t, path, func(data []byte) []byte { return data[:len(data)/2] })
	}
	run := func(scope snapshotter.ScrubScope, repair bool) snapshotter.ScrubReport {
		t.Helper()
		cfg := k.config(scope)
		snapshotter.SetDamageMost(&cfg, most)
		cfg.Progress = func(rep snapshotter.ScrubReport) {
			if scope != snapshotter.ScrubAll && rep.State.Sound() {
				t.Errorf("scope %s: nothing is damaged with %d files left", scope, rep.Left)
			}
		}
		if cfg.Repair = repair; repair {
			cfg.From = from
		}
		rep, err := k.Scrub(t.Context(), cfg)
		if err != nil {
			t.Fatalf("scope %s: %v", scope, err)
		}
		return rep
	}
	for _, scope := range []snapshotter.ScrubScope{snapshotter.ScrubAll, snapshotter.ScrubNew, snapshotter.ScrubDamaged} {
		rep := run(scope, false)
		if len(rep.State.Damage) != most || rep.State.More != damaged-most || rep.Mended != 0 {
			t.Errorf("scope %s: %d damaged and %d more, %d mended", scope, len(rep.State.Damage), rep.State.More, rep.Mended)
		}
		if n := len(k.store.Distrusted()); n != damaged {
			t.Errorf("scope %s: %d packfiles are distrusted, want %d", scope, n, damaged)
		}
		st, err := snapshotter.ReadScrubState(k.dir)
		if err != nil {
			t.Fatal(err)
		}
		k.Distrust(&st) // what a process knows that begins
		if n := len(k.store.Distrusted()); n != damaged {
			t.Errorf("scope %s: %d packfiles are distrusted after a start, want %d", scope, n, damaged)
		}
	}
	rep := run(snapshotter.ScrubDamaged, true)
	k.sound(rep)
	if rep.Repaired != damaged || rep.Mended != damaged || len(k.store.Distrusted()) != 0 {
		t.Errorf("%d repaired, %d mended, %d distrusted", rep.Repaired, rep.Mended, len(k.store.Distrusted()))
	}
	k.sound(run(snapshotter.ScrubAll, false))
}

// TestRepairFromLocalCopies: metadata come back from what the gateway keeps of them.
func TestRepairFromLocalCopies(t *testing.T) {
	for name, do := range damages() {
		t.Run(name, func(t *testing.T) {
			k := newScrubRig(t) // of its own: a bit of padding stays flipped until something else is damaged
			k.scrub(snapshotter.ScrubAll)
			for _, path := range k.files("packfiles") {
				was := read(t, path)
				if len(was) > 1<<20 {
					continue // contents
				}
				change(t, path, do)
				k.scrub(snapshotter.ScrubAll)
				k.sound(k.repair(nil))
				if read(t, path) != was && name != "a bit" {
					t.Errorf("%s: other bytes than before", filepath.Base(path))
				}
			}
			k.whole()
		})
	}
}

// TestRepairFromCopies flips bits in packfiles, region by region, and has them repaired from a store
// with copies of the snapshots, whose MACs have another key. What is around the blobs is made anew;
func TestRepairFromCopies(t *testing.T) {
	k := newScrubRig(t)
	k.scrub(snapshotter.ScrubAll)
	from := k.synced()
	k.forget()
	tried := make(map[string]int)
	for _, x := range k.regions() {
		if tried[x.what]++; tried[x.what] > 1 || x.padding || strings.Contains(x.what, "btree") || strings.Contains(x.what, "node") || x.what == "snapshot" {
			continue // what snapshots consist of is for TestReplace
		}
		change(t, x.path, flip(8*x.from+rand.IntN(8*(x.to-x.from))))
		k.scrub(snapshotter.ScrubAll)
		rep := k.repair(from)
		k.sound(rep)
		if rep.Repaired != 1 || len(rep.Replaced) > 0 || rep.State.RepairedFiles != 1 || !rep.State.Repaired.Equal(k.now) {
			t.Errorf("%s: %d repaired, replaced %v", x.what, rep.Repaired, rep.Replaced)
		}
	}
	k.whole()
	k.sound(k.scrub(snapshotter.ScrubAll))
}

// TestRepairMissingContents takes the packfile of contents away and has it made anew from copies.
func TestRepairMissingContents(t *testing.T) {
	for name, do := range damages() {
		t.Run(name, func(t *testing.T) {
			k := newScrubRig(t)
			from := k.synced()
			k.forget()
			for _, path := range k.files("packfiles") {
				if fi, err := os.Stat(path); err != nil || fi.Size() < 1<<20 {
					continue
				}
				change(t, path, do)
			}
			k.scrub(snapshotter.ScrubAll)
			k.sound(k.repair(from))
			k.whole()
			id := k.commit(k.last, put("/again", file(40, noise(1, 1<<20))))
			k.expect(id, with(map[string]*item{"/large": ptr(file(20, noise(1, 1<<20))), "/again": ptr(file(40, noise(1, 1<<20)))}))
		})
	}
}

// TestRepairMissingInPart takes a packfile away that has, beside what snapshots use, something that nobody has any
// more: what they use is stored again in another one, and that is all there is to do.
func TestRepairMissingInPart(t *testing.T) {
	k := newScrubRig(t)
	kept := file(60, noise(5, 800<<10))
	gone := k.commit(k.last, put("/gone", file(61, noise(6, 700<<10))), put("/kept", kept))
	k.first, k.last = k.last, k.commit(gone, remove("/gone"))
	if err := k.Remove(t.Context(), gone); err != nil {
		t.Fatal(err)
	}
	from := k.synced()
	k.forget()
	missing := 0
	for _, path := range k.files("packfiles") {
		if fi, err := os.Stat(path); err != nil || fi.Size() > 1400<<10 {
			change(t, path, func([]byte) []byte { return nil })
			missing++
		}
	}
	if n := len(k.scrub(snapshotter.ScrubAll).State.Damage); missing != 1 || n != 1 {
		t.Fatalf("%d packfiles are missing, %d damaged, want 1", missing, n)
	}
	k.sound(k.repair(from))
	want := with(map[string]*item{"/large": ptr(file(20, noise(1, 1<<20))), "/kept": &kept})
	other := &rig{Snapshotter: newSnapshotter(t, storetest.Open(t, otherConfig(k.store))), t: t, store: k.store}
	other.expect(k.last, want)
	states := len(k.files("states"))
	k.sound(k.scrub(snapshotter.ScrubAll))
	if rep := k.repair(from); rep.Repaired != 0 || len(k.files("states")) != states {
		t.Errorf("%d repaired once more, %d states after %d", rep.Repaired, len(k.files("states")), states)
	}
}

// TestRepairMissingUnread takes such a packfile away while another one, with that which no snapshot uses, cannot be read: that
// does not keep what they use from being stored again.
func TestRepairMissingUnread(t *testing.T) {
	srv := storetest.ServeSFTP(t)
	srv.SlowLists(500 * time.Millisecond) // so for 5 s it relies on what it has listed, which is for longer than this takes as a rule
	k := newScrubRig(t, srv.Use)
	contents := func() []string { // more than 1 MiB have packfiles of their own
		return slices.DeleteFunc(srv.Files("packfiles"), func(name string) bool { return srv.Size(name) < 1<<20 })
	}
	added := func(commit func()) string {
		t.Helper()
		was := contents()
		commit()
		is := slices.DeleteFunc(contents(), func(name string) bool { return slices.Contains(was, name) })
		if len(is) != 1 {
			t.Fatalf("%d packfiles of contents, want 1", len(is))
		}
		return is[0]
	}
	gone, kept := noise(6, 1100<<10), file(61, noise(5, 800<<10))
	var removed [2]snapshotter.ID
	unread := added(func() { removed[0] = k.commit(k.last, put("/gone", file(60, gone))) })
	k.Distrust(&snapshotter.ScrubState{Damage: []snapshotter.Damage{{Kind: snapshotter.DamagedPackfile, File: filepath.Base(unread)}}})
	missing := added(func() { removed[1] = k.commit(removed[0], put("/gone", file(62, gone)), put("/kept", kept)) })
	k.Distrust(&snapshotter.ScrubState{})
	k.first, k.last = k.last, k.commit(removed[1], remove("/gone"))
	for _, id := range removed {
		if err := k.Remove(t.Context(), id); err != nil {
			t.Fatal(err)
		}
	}
	from := k.synced()
	srv.Remove(missing)
	if n := len(k.scrub(snapshotter.ScrubAll).State.Damage); n != 1 {
		t.Fatalf("%d damaged, want 1", n)
	}
	srv.FailReads(func(name string) error {
		if name == unread {
			return errors.New("the disk does not answer")
		}
		return nil
	})
	k.sound(k.repair(from))
	srv.SlowLists(0)
	cfg := otherConfig(k.store)
	srv.Use(&cfg)
	other := &rig{Snapshotter: newSnapshotter(t, storetest.Open(t, cfg)), t: t, store: k.store}
	other.expect(k.last, with(map[string]*item{"/large": ptr(file(20, noise(1, 1<<20))), "/kept": &kept}))
}

// TestRepairShowsSnapshot repairs the header of a snapshot that could not be read when the process began: it is
// there again, and was not taken for one to make anew.
func TestRepairShowsSnapshot(t *testing.T) {
	k := newScrubRig(t)
	from, _ := k.fileCopy()
	k.forget()
	for _, x := range k.regions() {
		if x.what == "snapshot" {
			change(t, x.path, flip(8*x.from+100))
		}
	}
	k.Snapshotter = newSnapshotter(t, k.store)
	if _, err := k.Snapshot(t.Context(), k.last); !errors.Is(err, snapshotter.ErrNoSnapshot) {
		t.Fatalf("a snapshot whose header is damaged: %v", err)
	}
	k.scrub(snapshotter.ScrubAll)
	k.sound(k.repair(from))
	for _, id := range []snapshotter.ID{k.first, k.last} {
		if _, err := k.Snapshot(t.Context(), id); err != nil {
			t.Errorf("%s: %v", id, err)
		}
	}
	k.whole()
}

// TestRepairStates: a state is made anew of what the index knows of it, and when that is nothing, of
// the packfiles.
func TestRepairStates(t *testing.T) {
	for name, do := range damages() {
		t.Run(name, func(t *testing.T) {
			k := newScrubRig(t)
			if err := k.Pin(t.Context(), k.first); err != nil {
				t.Fatal(err)
			}
			gone := k.commit(k.last, put("/gone", file(50, "gone")))
			next := k.commit(gone, remove("/gone"))
			if err := k.Remove(t.Context(), gone); err != nil {
				t.Fatal(err)
			}
			k.scrub(snapshotter.ScrubAll)
			for _, path := range k.files("states") {
				change(t, path, do)
				k.scrub(snapshotter.ScrubAll)
				k.sound(k.repair(nil))
			}
			k.whole()
			s := storetest.Open(t, otherConfig(k.store))
			other := newSnapshotter(t, s)
			if err := other.Check(t.Context(), next); err != nil {
				t.Error(err)
			}
			if name != "missing" { // then only the packfiles tell
				pins, err := other.Pins(t.Context())
				if _, ok := pins[k.first]; !ok || err != nil {
					t.Errorf("the pin is lost: %v, %v", pins, err)
				}
				if _, err := other.Snapshot(t.Context(), gone); !errors.Is(err, snapshotter.ErrNoSnapshot) {
					t.Errorf("what was removed is back: %v", err)
				}
			}
		})
	}
}

// TestRepairStatesOfMissingPackfiles: a state that is made anew while a packfile is missing still tells of
// it, for when that is back.
func TestRepairStatesOfMissingPackfiles(t *testing.T) {
	k := newScrubRig(t)
	var back []func()
	for _, path := range k.files("packfiles") {
		if fi, err := os.Stat(path); err != nil || fi.Size() > 1<<20 {
			back = append(back, change(t, path, func([]byte) []byte { return nil }))
		}
	}
	if len(back) != 1 {
		t.Fatalf("%d packfiles are large", len(back))
	}
	states := k.files("states")
	k.commit(k.last, put("/meanwhile", file(50, "meanwhile"))) // which takes note of it
	for _, path := range states {
		change(t, path, flip(100))
	}
	k.scrub(snapshotter.ScrubAll)
	if rep := k.repair(nil); len(rep.State.Damage) != 1 || rep.State.Damage[0].Kind != "packfile" {
		t.Errorf("damage %+v", rep.State.Damage)
	}
	back[0]()
	k.sound(k.repair(nil))
	k.whole()
}

// TestRepairOfSeveralPackfiles damages two packfiles that have a part each of one file, and one that
// nobody else has. Commits go on while the parts are looked for.
func TestRepairOfSeveralPackfiles(t *testing.T) {
	log := &onMessage{Handler: slog.DiscardHandler, text: "a blob cannot be repaired"}
	k := newScrubRig(t, func(cfg *store.Config) { cfg.Logger = slog.New(log) })
	content := noise(1, 1<<20) + noise(3, 800<<10)
	next := k.commit(k.last, put("/large", file(21, content)))
	k.first, k.last = k.last, next
	from := k.synced()
	k.commit(k.last, put("/only", file(50, noise(4, 600<<10))))
	k.forget()
	for _, path := range k.files("packfiles") {
		if fi, err := os.Stat(path); err != nil || fi.Size() > 500<<10 {
			change(t, path, flip(int(fi.Size())*4))
		}
	}
	if n := len(k.scrub(snapshotter.ScrubAll).State.Damage); n != 3 {
		t.Fatalf("%d packfiles are damaged, want 3", n)
	}
	called := 0
	log.do = func() {
		called++
		done := make(chan struct{})
		go func() {
			defer close(done)
			k.commit(k.last, put("/meanwhile", file(uint64(60+called), "meanwhile")))
		}()
		select {
		case <-done:
		case <-time.After(2 * time.Minute):
			t.Error("no commit while what is lacking is looked for")
		}
	}
	rep := k.repair(from)
	if called == 0 {
		t.Error("nothing was looked for in vain")
	}
	if len(rep.State.Damage) != 1 || !slices.ContainsFunc(rep.State.Damage[0].Uses, func(u snapshotter.Use) bool { return u.Path == "/only" }) {
		t.Errorf("damage %+v", rep.State.Damage)
	}
	k.expect(k.last, with(map[string]*item{"/large": ptr(file(21, content))}))
}

// TestRepairKeepsWhatItWrites: of a file that is damaged in many places, a repair of a packfile takes
// what is to be in that one.
func TestRepairKeepsWhatItWrites(t *testing.T) {
	k := newScrubRig(t)
	k.first, k.last = k.last, k.commit(k.last, put("/grown", file(21, noise(3, 6<<20))))
	from := k.synced()
	var chunks []store.Place
	for _, path := range k.files("packfiles") {
		if fi, err := os.Stat(path); err != nil || fi.Size() < 6<<20 {
			continue
		}
		var err error
		if chunks, err = k.store.PlacesIn(packfileAt(t, path)); err != nil {
			t.Fatal(err)
		}
	}
	chunks = slices.DeleteFunc(chunks, func(p store.Place) bool { return p.Type != resources.RT_CHUNK })
	if len(chunks) < 3 {
		t.Fatalf("%d chunks", len(chunks))
	}
	lacks := chunks[:2]
	found, left, err := snapshotter.Find(t.Context(), k.Snapshotter, from, chunks, lacks)
	if err != nil || left != 0 {
		t.Errorf("%d blobs are kept, %v", left, err)
	}
	for _, p := range lacks {
		want, err := k.store.Blob(p.Type, p.Blob)
		if got := found[store.BlobID{Type: p.Type, MAC: p.Blob}]; err != nil || !bytes.Equal(got, want) {
			t.Errorf("%d bytes of %d, %v", len(got), len(want), err)
		}
	}
}

// errorsIn is a handler of logs that keeps errors.
type errorsIn struct {
	slog.Handler
	mu   sync.Mutex
	list []string // guarded by mu
}

func (h *errorsIn) Enabled(_ context.Context, level slog.Level) bool { return level >= slog.LevelError }

func (h *errorsIn) Handle(_ context.Context, r slog.Record) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.list = append(h.list, r.Message)
	return nil
}

func (h *errorsIn) WithAttrs([]slog.Attr) slog.Handler { return h }
func (h *errorsIn) WithGroup(string) slog.Handler      { return h }

// TestRepairBesideMaintenance: another process removes packfiles after a repair has looked at them. They are not missing,
// and are not put back.
func TestRepairBesideMaintenance(t *testing.T) {
	var errs errorsIn
	k := newScrubRig(t, func(cfg *store.Config) { cfg.Logger = slog.New(&errs) })
	unused := k.commit(snapshotter.ID{}, tree{"/": dir(0), "/big": file(1, noise(9, 2<<20))}.all()...)
	s := storetest.Open(t, otherConfig(k.store))
	other := &keeper{rig: &rig{Snapshotter: newSnapshotter(t, s), t: t, store: s}, dir: t.TempDir(), now: time.Now()}
	other.drop(unused)
	other.later()
	other.maintain()
	var kept []string
	cfg := k.config(snapshotter.ScrubAll)
	cfg.Repair = true
	cfg.Progress = func(rep snapshotter.ScrubReport) {
		if rep.Left > 0 || kept != nil {
			return
		}
		other.later()
		if n := other.maintain().Removed.Packfiles; n < 2 { // of contents, and of metadata, which there are copies of
			t.Errorf("%d packfiles were removed", n)
		}
		kept = k.files("packfiles")
	}
	rep, err := k.Scrub(t.Context(), cfg)
	if err != nil || rep.Repaired > 0 {
		t.Errorf("%d files were repaired, %v", rep.Repaired, err)
	}
	k.sound(rep)
	if is := k.files("packfiles"); !slices.Equal(is, kept) {
		t.Errorf("%d packfiles, want %d", len(is), len(kept))
	}
	if len(errs.list) > 0 {
		t.Errorf("logged: %q", errs.list)
	}
	k.whole()
}

// onMessage is a handler of logs that does something at a message.
type onMessage struct {
	slog.Handler
	text string
	do   func()
}

func (h *onMessage) Enabled(context.Context, slog.Level) bool { return true }

func (h *onMessage) Handle(_ context.Context, r slog.Record) error {
	if r.Message == h.text && h.do != nil {
		h.do()
	}
	return nil
}

func (h *onMessage) WithAttrs([]slog.Attr) slog.Handler { return h }
func (h *onMessage) WithGroup(string) slog.Handler      { return h }

// TestRepairFromSlowCopy: while a copy of the files of the store is read that is slow, for packfiles and
// for states, commits go on.
func TestRepairFromSlowCopy(t *testing.T) {
	k := newScrubRig(t)
	k.scrub(snapshotter.ScrubAll)
	from, root := k.fileCopy()
	k.forget()
	damaged := []string{k.files("states")[0]}
	for _, path := range k.files("packfiles") {
		if fi, err := os.Stat(path); err != nil || fi.Size() > 1<<20 { // of contents: commits need no others
			damaged = append(damaged, path)
		}
	}
	if len(damaged) != 2 {
		t.Fatalf("%d packfiles of contents, want 1", len(damaged)-1)
	}
	for _, path := range damaged {
		change(t, path, damages()["cut off"])
	}
	if n := len(k.scrub(snapshotter.ScrubAll).State.Damage); n != len(damaged) {
		t.Fatalf("%d files are damaged, want %d", n, len(damaged))
	}
	var wg sync.WaitGroup
	var one sync.Mutex // at a time commits
	for i, path := range damaged {
		// Whoever opens it waits for what is written into it, which comes after a commit.
		rel, err := filepath.Rel(k.root, path)
		if err != nil {
			t.Fatal(err)
		}
		slow := filepath.Join(root, rel)
		content := read(t, slow)
		if err := errors.Join(os.Remove(slow), syscall.Mkfifo(slow, 0o600)); err != nil {
			t.Fatal(err)
		}
		wg.Go(func() {
			w, err := os.OpenFile(slow, os.O_WRONLY, 0)
			if err != nil {
				t.Error(err)
				return
			}
			done := make(chan struct{})
			go func() {
				defer close(done)
				one.Lock()
				defer one.Unlock()
				k.commit(k.last, put("/meanwhile", file(uint64(60+i), "meanwhile")))
			}()
			select {
			case <-done:
			case <-time.After(2 * time.Minute):
				t.Error("no commit while the copy is read")
			}
			_, err = w.WriteString(content)
			if err := errors.Join(err, w.Close()); err != nil {
				t.Error(err)
			}
		})
	}
	k.sound(k.repair(from))
	wg.Wait()
	k.whole()
}
