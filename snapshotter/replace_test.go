package snapshotter_test

import (
	"encoding/hex"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/PlakarKorp/kloset/objects"
	"github.com/PlakarKorp/kloset/resources"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/snapgate/gateway/snapshotter"
	"github.com/snapgate/gateway/store"
	"github.com/snapgate/gateway/store/storetest"
)

// newReplaceRig is a scrubRig with three snapshots, of which the first is pinned, a store that has copies of
// them, and no local copies.
func newReplaceRig(t *testing.T) (k *scrubRig, from *snapshotter.Snapshotter, all []snapshotter.Snapshot) {
	t.Helper()
	k = newScrubRig(t)
	middle := k.last
	k.last = k.commit(middle, put("/later", file(30, noise(5, 300<<10))))
	if err := k.Pin(t.Context(), k.first); err != nil {
		t.Fatal(err)
	}
	from = newSnapshotter(t, storetest.New(t))
	copier := newCopier(t, k.Snapshotter, from)
	for _, id := range []snapshotter.ID{k.first, middle, k.last} {
		if err := copier.Copy(t.Context(), id); err != nil {
			t.Fatal(err)
		}
	}
	k.forget()
	list, err := k.Snapshots(t.Context(), "")
	if err != nil || len(list) != 3 {
		t.Fatalf("%d snapshots, %v", len(list), err)
	}
	k.sound(k.scrub(snapshotter.ScrubAll))
	return k, from, list
}

func newCopier(t testing.TB, from, to *snapshotter.Snapshotter) *snapshotter.Copier {
	t.Helper()
	c, err := snapshotter.NewCopier(snapshotter.CopierConfig{From: from, To: to})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// replaced checks what a repair has left: another process, which has the store and nothing else, finds each of
// was as it was, by its old id too, some of them made anew.
func (k *scrubRig) replaced(from *snapshotter.Snapshotter, was []snapshotter.Snapshot, rep snapshotter.ScrubReport) {
	t := k.t
	t.Helper()
	k.sound(rep)
	now := make(map[snapshotter.ID]snapshotter.ID)
	for _, r := range rep.Replaced {
		now[r.Old] = r.New
	}
	other := &rig{Snapshotter: newSnapshotter(t, storetest.Open(t, otherConfig(k.store))), t: t, store: k.store}
	list, err := other.Snapshots(t.Context(), "")
	if err != nil || len(list) != len(was) {
		t.Fatalf("%d snapshots, %v; want %d", len(list), err, len(was))
	}
	for i, w := range was {
		if id, ok := now[w.ID]; ok {
			if !slices.Contains(list[i].Replaces, w.ID) {
				t.Errorf("%s does not say that it stands for %s", id, w.ID)
			}
			w.ID = id
		}
		if d := cmp.Diff(w, list[i], cmpopts.IgnoreFields(snapshotter.Snapshot{}, "Replaces")); d != "" {
			t.Errorf("(-want +got):\n%s", d)
		}
		if err := other.Check(t.Context(), was[i].ID); err != nil {
			t.Errorf("check: %v", err)
		}
		if d := cmp.Diff(k.read(was[i].ID), other.read(w.ID)); d != "" {
			t.Errorf("tree (-want +got):\n%s", d)
		}
	}
	other.expect(k.last, with(map[string]*item{"/large": ptr(file(20, noise(1, 1<<20))), "/later": ptr(file(30, noise(5, 300<<10)))}))
	if f := other.failures(was[1].ID); len(f) != 1 {
		t.Errorf("failures %v", f)
	}
	pins, err := other.Pins(t.Context())
	if _, ok := pins[list[2].ID]; !ok || len(pins) != 1 || err != nil {
		t.Errorf("pins %v, %v; want that of %s", pins, err, list[2].ID)
	}
	for name, c := range map[string]*snapshotter.Copier{"to": newCopier(t, k.Snapshotter, from), "back": newCopier(t, from, k.Snapshotter)} {
		plan, err := c.Plan(t.Context(), nil)
		if err != nil || len(plan.Missing)+len(plan.Removed) > 0 || len(plan.There) != len(was) {
			t.Errorf("a copy %s: %d are missing, %d removed, %d there, %v", name, len(plan.Missing), len(plan.Removed), len(plan.There), err)
		}
	}
	// The newest is what the next commit is made on, by the id that whoever commits knows.
	latest, ok, err := other.Latest(t.Context(), "gateway-1", "share-1")
	if err != nil || !ok || latest.ID != list[0].ID {
		t.Errorf("the newest is %s, %v, want %s", latest.ID, err, list[0].ID)
	}
	k.n = 10
	next := k.commit(k.last, put("/next", file(50, "next")))
	k.expect(next, with(map[string]*item{
		"/large": ptr(file(20, noise(1, 1<<20))), "/later": ptr(file(30, noise(5, 300<<10))), "/next": ptr(file(50, "next")),
	}))
	if err := newCopier(t, k.Snapshotter, from).Copy(t.Context(), next); err != nil {
		t.Errorf("copy of the next: %v", err)
	}
	k.sound(k.scrub(snapshotter.ScrubAll))
}

// headerOf is where the header of a snapshot is.
func (k *scrubRig) headerOf(id snapshotter.ID) store.Place {
	k.t.Helper()
	places, err := k.store.PlacesOf(resources.RT_SNAPSHOT, objects.MAC(id))
	if err != nil || len(places) != 1 {
		k.t.Fatalf("the header of %s is in %v, %v", id, places, err)
	}
	return places[0]
}

// packfileOf is the packfile with the header of a snapshot.
func (k *scrubRig) packfileOf(id snapshotter.ID) string {
	k.t.Helper()
	packfile := k.headerOf(id).Packfile
	name := hex.EncodeToString(packfile[:])
	return filepath.Join(k.root, "packfiles", name[:2], name)
}

// copyOf is the local copy of the packfile with the header of a snapshot.
func (k *scrubRig) copyOf(id snapshotter.ID) string {
	k.t.Helper()
	return filepath.Join(k.CacheDir, "metadata", filepath.Base(k.packfileOf(id)))
}

// lose takes away the packfiles with the metadata of snapshots.
func (k *scrubRig) lose(ids ...snapshotter.ID) {
	k.t.Helper()
	for _, id := range ids {
		change(k.t, k.packfileOf(id), func([]byte) []byte { return nil })
	}
}

// noteLoss has this process take note of what is missing, as whoever commits does.
func (k *scrubRig) noteLoss() {
	k.t.Helper()
	if err := k.TakeStock(k.t.Context()); err != nil {
		k.t.Fatal(err)
	}
}

// TestReplace damages the headers of snapshots, cuts packfiles of metadata off and takes them away: the
// snapshots are made anew of their copies, the newest too, and nobody who knows them by their old ids is worse off.
func TestReplace(t *testing.T) {
	for name, spoil := range map[string]func(k *scrubRig, all []snapshotter.ID){
		"headers": func(k *scrubRig, _ []snapshotter.ID) {
			for _, x := range k.regions() {
				if x.what == "snapshot" {
					change(t, x.path, flip(8*x.from+100))
				}
			}
		},
		"nodes": func(k *scrubRig, _ []snapshotter.ID) {
			for _, x := range k.regions() {
				if strings.Contains(x.what, "node") || strings.Contains(x.what, "btree") {
					change(t, x.path, flip(8*x.from+100))
				}
			}
		},
		"cut off": func(k *scrubRig, _ []snapshotter.ID) {
			for _, x := range k.regions() {
				if x.what == "snapshot" {
					change(t, x.path, func(data []byte) []byte { return data[:len(data)/3] })
				}
			}
		},
		"missing":       func(k *scrubRig, all []snapshotter.ID) { k.lose(all...) },
		"first missing": func(k *scrubRig, all []snapshotter.ID) { k.lose(all[2]) },
		// From then on no list has them.
		"missing and noted": func(k *scrubRig, all []snapshotter.ID) {
			k.lose(all...)
			k.noteLoss()
		},
		"newest missing and noted": func(k *scrubRig, all []snapshotter.ID) {
			k.lose(all[0])
			k.noteLoss()
		},
		"missing at the start": func(k *scrubRig, all []snapshotter.ID) {
			k.lose(all...)
			k.Snapshotter = newSnapshotter(k.t, k.store)
		},
	} {
		t.Run(name, func(t *testing.T) {
			k, from, was := newReplaceRig(t)
			all := make([]snapshotter.ID, len(was))
			for i := range was {
				all[i] = was[i].ID
			}
			spoil(k, all)
			if rep := k.scrub(snapshotter.ScrubAll); len(rep.State.Damage) == 0 {
				t.Fatal("there is no damage")
			}
			rep := k.repair(from)
			// Nodes that are made anew may be the very bytes that are damaged: then nothing else is needed.
			if n := len(rep.Replaced); n == 0 && name != "nodes" || n != 3 && (name == "headers" || strings.HasPrefix(name, "missing")) {
				t.Errorf("replaced %v", rep.Replaced)
			}
			k.replaced(from, was, rep)
			if name != "headers" {
				return
			}
			// What the other store's retention has removed by its old id does not come back.
			if err := from.Remove(t.Context(), was[1].ID); err != nil {
				t.Fatal(err)
			}
			copier := newCopier(t, k.Snapshotter, from)
			plan, err := copier.Plan(t.Context(), nil)
			if err != nil || len(plan.Missing) != 0 || len(plan.Removed) != 1 || !slices.Contains(plan.Removed[0].Replaces, was[1].ID) {
				t.Errorf("missing %v, removed %v, %v", plan.Missing, plan.Removed, err)
			}
			if err := copier.Copy(t.Context(), was[1].ID); !errors.Is(err, snapshotter.ErrRemoved) {
				t.Errorf("a copy of it: %v", err)
			}
		})
	}
}

// headers damages the headers of the snapshots, each time in another way.
func (k *scrubRig) headers(bit int) {
	k.t.Helper()
	k.forget()
	for _, x := range k.regions() {
		if x.what == "snapshot" {
			change(k.t, x.path, flip(8*x.from+bit))
		}
	}
}

// TestReplaceAgain: what was made in place of a snapshot is made anew of its own copy.
func TestReplaceAgain(t *testing.T) {
	k, from, was := newReplaceRig(t)
	k.headers(100)
	k.scrub(snapshotter.ScrubAll)
	if rep := k.repair(from); len(rep.Replaced) != len(was) {
		t.Fatalf("replaced %v", rep.Replaced)
	}
	third := newSnapshotter(t, storetest.New(t))
	copier := newCopier(t, k.Snapshotter, third)
	for _, w := range slices.Backward(was) {
		if err := copier.Copy(t.Context(), w.ID); err != nil {
			t.Fatal(err)
		}
	}
	k.headers(101)
	k.scrub(snapshotter.ScrubAll)
	rep := k.repair(third)
	if len(rep.Replaced) != len(was) {
		t.Errorf("replaced %v", rep.Replaced)
	}
	for _, r := range rep.Replaced {
		made, err := k.Snapshot(t.Context(), r.New)
		if err != nil || made.ID != r.New || !slices.Contains(made.Replaces, r.Old) || len(made.Replaces) != 2 {
			t.Errorf("%s replaces %v, %v; want %s and the first", made.ID, made.Replaces, err, r.Old)
		}
	}
	k.replaced(third, was, snapshotter.ScrubReport{State: rep.State, Replaced: firstToLast(t, k, was)})
}

// firstToLast has what each of was is now.
func firstToLast(t *testing.T, k *scrubRig, was []snapshotter.Snapshot) (list []snapshotter.Replaced) {
	t.Helper()
	for _, w := range was {
		now, err := k.Snapshot(t.Context(), w.ID)
		if err != nil || now.ID == w.ID {
			t.Errorf("%s is %s, %v", w.ID, now.ID, err)
		}
		list = append(list, snapshotter.Replaced{Old: w.ID, New: now.ID})
	}
	return list
}

// TestReplaceBeside: what others do meanwhile leaves one of the two, and no removed one comes back.
func TestReplaceBeside(t *testing.T) {
	k, from, was := newReplaceRig(t)
	old := was[1].ID
	made := func(want int) (id snapshotter.ID) {
		t.Helper()
		if err := k.Replace(t.Context(), from, old); err != nil {
			t.Fatal(err)
		}
		list, err := k.Snapshots(t.Context(), "")
		if err != nil || len(list) != want {
			t.Fatalf("%d snapshots, %v; want %d", len(list), err, want)
		}
		for i := range list {
			if slices.Contains(list[i].Replaces, old) {
				id = list[i].ID
			}
		}
		return id
	}
	do := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	if k.Doubled() {
		t.Error("there are two of one, and should not be")
	}
	id := made(4)
	if again := made(4); again != id || !k.Doubled() {
		t.Errorf("another one is made: %s beside %s", again, id)
	}
	do(k.Drop(t.Context(), id, old))
	id = made(4)
	do(k.Remove(t.Context(), old))
	do(k.Drop(t.Context(), id, old))
	if again := made(3); again != id {
		t.Errorf("the one that is left is %s, want %s", again, id)
	}
	do(k.Remove(t.Context(), id))
	if id := made(2); !id.IsZero() {
		t.Errorf("%s was removed, and %s is there", old, id)
	}
}

// TestReplaceWithoutCopy: what the other store has no copy of stays, and it is told why.
func TestReplaceWithoutCopy(t *testing.T) {
	k, from, was := newReplaceRig(t)
	if err := from.Remove(t.Context(), was[1].ID); err != nil {
		t.Fatal(err)
	}
	for _, x := range k.regions() {
		if x.what == "snapshot" {
			change(t, x.path, flip(8*x.from+100))
		}
	}
	k.scrub(snapshotter.ScrubAll)
	rep := k.repair(from)
	if len(rep.Replaced) != 2 || len(rep.State.Damage) != 1 || !strings.Contains(rep.State.Damage[0].Repair, was[1].ID.String()+": the store to repair from has no copy of it") {
		t.Errorf("replaced %v, damage %+v", rep.Replaced, rep.State.Damage)
	}
}

// TestReplaceCutOff has a repair killed at the moments of a replacement: what is on the disk then has one of
// the two snapshots, and the next run leaves one.
func TestReplaceCutOff(t *testing.T) {
	for _, point := range []string{snapshotter.ReplaceMade, snapshotter.FailStatePutAfter, snapshotter.ReplaceDone} {
		t.Run(point, func(t *testing.T) {
			k, from, was := newReplaceRig(t)
			for _, x := range k.regions() {
				if x.what == "snapshot" {
					change(t, x.path, flip(8*x.from+100))
				}
			}
			k.scrub(snapshotter.ScrubAll)
			dir, n := t.TempDir(), 0
			k.Snapshotter = newSnapshotter(t, k.store, func(c *snapshotter.Config) {
				c.Failpoint = func(name string) {
					if name != point {
						return
					}
					if n++; n == 2 {
						if err := errors.Join(os.CopyFS(filepath.Join(dir, "store"), os.DirFS(k.root)), os.CopyFS(filepath.Join(dir, "scrub"), os.DirFS(k.dir))); err != nil {
							t.Error(err)
						}
					}
				}
			})
			k.repair(from)
			locks, err := filepath.Glob(filepath.Join(dir, "store", "locks", "*"))
			for _, path := range locks { // which would expire
				err = errors.Join(err, os.Remove(path))
			}
			if err != nil {
				t.Fatal(err)
			}

			cfg := storetest.Config(dir)
			cfg.Create, cfg.Tolerant = false, true
			s := storetest.Open(t, cfg)
			left := *k
			left.rig = &rig{t: t, store: s, Snapshotter: newSnapshotter(t, s, func(c *snapshotter.Config) { c.Tolerant = true })}
			left.Config, left.root, left.dir = cfg, filepath.Join(dir, "store"), filepath.Join(dir, "scrub")
			rep := left.repair(from)
			rep.Replaced = firstToLast(t, &left, was) // by both runs
			left.replaced(from, was, rep)
		})
	}
}
