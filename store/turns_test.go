package store_test

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/PlakarKorp/kloset/caching"
	"github.com/PlakarKorp/kloset/caching/sqlite"
	"github.com/PlakarKorp/kloset/objects"
	"github.com/PlakarKorp/kloset/repository/state"
	"github.com/PlakarKorp/kloset/resources"

	"github.com/snapgate/gateway/store"
	"github.com/snapgate/gateway/store/storetest"
)

// stateReads reads the states of a store as kloset does, in one order after the other.
type stateReads struct {
	t     *testing.T
	s     *store.Store
	db    *sqlite.SQLiteCache
	cache *caching.SQLState
	known []objects.MAC // in the order in which they were written, as far as that is known
}

func newStateReads(t *testing.T, s *store.Store) *stateReads {
	t.Helper()
	r := &stateReads{t: t, s: s}
	dir := filepath.Join(t.TempDir(), "cache")
	var err error
	if r.cache, err = caching.NewSQLState(dir, false); err != nil {
		t.Fatal(err)
	}
	if r.db, err = sqlite.New(dir, "state.db", &sqlite.Options{Shared: true}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.db.Close(); err != nil {
			t.Error(err)
		}
	})
	return r
}

// as reads states in an order.
func (r *stateReads) as(order []objects.MAC) *state.LocalState {
	r.t.Helper()
	if _, err := r.db.Exec("BEGIN; DELETE FROM states; DELETE FROM packfiles; DELETE FROM deltas; DELETE FROM deleteds; COMMIT"); err != nil {
		r.t.Fatal(err)
	}
	st, err := state.NewLocalState(r.cache)
	if err != nil {
		r.t.Fatal(err)
	}
	for _, id := range order {
		rd, version, err := r.s.Repository().GetState(id)
		if err != nil {
			r.t.Fatal(err)
		}
		if err := errors.Join(st.MergeState(id, rd, version), rd.Close()); err != nil {
			r.t.Fatal(err)
		}
	}
	return st
}

// added returns the states that have come since the last call.
func (r *stateReads) added() (ids []objects.MAC) {
	r.t.Helper()
	all, err := r.s.States(r.t.Context())
	if err != nil {
		r.t.Fatal(err)
	}
	for _, id := range all {
		if !slices.Contains(r.known, id) {
			ids = append(ids, id)
		}
	}
	r.known = append(r.known, ids...)
	return ids
}

func (r *stateReads) parent(id objects.MAC) objects.MAC {
	r.t.Helper()
	rd, version, err := r.s.Repository().GetState(id)
	if err != nil {
		r.t.Fatal(err)
	}
	h, err := state.ReadHeader(rd, version)
	if err := errors.Join(err, rd.Close()); err != nil {
		r.t.Fatal(err)
	}
	return h.Parent
}

// orders calls f with orders in which all states can be read, none before its parent: with some, or with all if they
// are fewer.
func (r *stateReads) orders(some int, f func([]objects.MAC)) {
	r.t.Helper()
	r.added()
	parents := make(map[objects.MAC]objects.MAC)
	for _, id := range r.known {
		if p := r.parent(id); slices.Contains(r.known, p) {
			parents[id] = p
		}
	}
	seen := make(map[string]bool)
	random := rand.New(rand.NewPCG(1, 2))
	for range 3 * some {
		left, order := slices.Clone(r.known), make([]objects.MAC, 0, len(r.known))
		for len(left) > 0 {
			ready := slices.DeleteFunc(slices.Clone(left), func(id objects.MAC) bool {
				p, ok := parents[id]
				return ok && !slices.Contains(order, p)
			})
			if len(ready) == 0 {
				r.t.Fatal("states are their own parents")
			}
			next := ready[random.IntN(len(ready))]
			order = append(order, next)
			left = slices.DeleteFunc(left, func(id objects.MAC) bool { return id == next })
		}
		if key := fmt.Sprint(order); len(seen) < some && !seen[key] {
			seen[key] = true
			f(order)
		}
	}
}

// comesAndGoes is a packfile that is taken away and put back.
type comesAndGoes struct {
	*stateReads
	dir        string
	blob, mac  objects.MAC
	path, away string
	buried     bool
	some       int                           // orders that are tried
	freed      map[objects.MAC][]objects.MAC // by state, what it said when it was read first
}

func newComesAndGoes(t *testing.T) *comesAndGoes {
	t.Helper()
	dir := t.TempDir()
	s := storetest.Open(t, storetest.Config(dir))
	c := &comesAndGoes{stateReads: newStateReads(t, s), dir: dir, away: filepath.Join(dir, "away"), some: 12, freed: make(map[objects.MAC][]objects.MAC)}
	c.blob, _ = putBlob(t, s, bytes.Repeat([]byte("blob"), 1000))
	packs, err := s.IndexedPackfiles()
	if err != nil || len(packs) != 1 {
		t.Fatalf("%d packfiles, %v", len(packs), err)
	}
	c.mac = slices.Collect(maps.Keys(packs))[0]
	putBlob(t, s, []byte("another")) // so that there is a store when it is gone
	paths, err := filepath.Glob(filepath.Join(dir, "store", "packfiles", "*", fmt.Sprintf("%x", c.mac[:])))
	if err != nil || len(paths) != 1 {
		t.Fatalf("%q, %v", paths, err)
	}
	c.path = paths[0]
	c.added()
	return c
}

func (c *comesAndGoes) move(from, to string) {
	c.t.Helper()
	if err := os.Rename(from, to); err != nil {
		c.t.Fatal(err)
	}
}

// reconcile has a store take note, and returns the states that it writes.
func (c *comesAndGoes) reconcile(s *store.Store, missing bool) []objects.MAC {
	c.t.Helper()
	if err := s.Refresh(c.t.Context()); err != nil {
		c.t.Fatal(err)
	}
	loss, err := s.Reconcile(c.t.Context())
	if err != nil || (loss != nil) != missing {
		c.t.Fatalf("loss %v, %v; want %t", loss, err, missing)
	}
	if s.Has(resources.RT_CHUNK, c.blob) == missing {
		c.t.Errorf("counts as stored: %t", !missing)
	}
	return c.added()
}

// reconcileMoved moves the packfile first.
func (c *comesAndGoes) reconcileMoved(from, to string, missing bool) []objects.MAC {
	c.t.Helper()
	c.move(from, to)
	c.added()
	return c.reconcile(c.s, missing)
}

// everybody reads the states in many orders, and compares what counts.
func (c *comesAndGoes) everybody(step string, counts bool) {
	c.t.Helper()
	c.orders(c.some, func(order []objects.MAC) {
		st := c.as(order)
		if got := st.BlobExists(resources.RT_CHUNK, c.blob); got != counts {
			c.t.Errorf("%s: read as %x, it counts: %t, want %t", step, order, got, counts)
		}
		if when := coloured(c.t, st)[c.mac]; store.Buried(when) != c.buried {
			c.t.Errorf("%s: read as %x, it is coloured at %s", step, order, when)
		}
	})
}

// TestComesAndGoes: a packfile is missing, back, missing and back again, and is removed at last. Whoever reads
// the states, in whatever order, knows what was said last. Who takes note of a change knows of the one before,
// or has only read it in the states; it may have happened while nobody looked.
func TestComesAndGoes(t *testing.T) {
	for _, restart := range []bool{false, true} {
		t.Run(fmt.Sprintf("restart=%t", restart), func(t *testing.T) {
			c := newComesAndGoes(t)
			s := func() *store.Store {
				if !restart {
					return c.s
				}
				return reopened(t, c.s)
			}
			for i := range 2 {
				c.move(c.path, c.away)
				if ids := c.reconcile(s(), true); i == 0 && len(ids) != 1 {
					t.Errorf("missing: %d states", len(ids))
				}
				c.everybody("missing", false)
				if ids := c.reconcile(s(), true); len(ids) != 0 {
					t.Errorf("still missing: %d states", len(ids))
				}
				last := s() // knows that it is missing
				c.move(c.away, c.path)
				if ids := c.reconcile(last, false); i == 0 && len(ids) != 1 {
					t.Errorf("back: %d states", len(ids))
				}
				c.everybody("back", true)
				if ids := c.reconcile(s(), false); len(ids) != 0 {
					t.Errorf("still there: %d states", len(ids))
				}
				if i == 0 && restart {
					// Two have seen the same, and neither what the other one has said.
					c.move(c.path, c.away)
					a, b := s(), s()
					for _, s := range []*store.Store{a, b} {
						if _, err := s.Reconcile(t.Context()); err != nil {
							t.Fatal(err)
						}
					}
					c.everybody("missing for two", false)
					c.move(c.away, c.path)
					for _, s := range []*store.Store{a, b} {
						if _, err := s.Reconcile(t.Context()); err != nil {
							t.Fatal(err)
						}
					}
					c.everybody("back for two", true)
				}
			}
			c.remove()
		})
	}
}

// TestStaleListing: who has listed the packfiles before one was lost learns of that from the states, and does not
// take it for back.
func TestStaleListing(t *testing.T) {
	c := newComesAndGoes(t)
	late := reopened(t, c.s)
	store.StaleListing(late)
	c.reconcile(late, false)
	c.move(c.path, c.away)
	if ids := c.reconcile(c.s, true); len(ids) != 1 {
		t.Errorf("missing: %d states", len(ids))
	}
	for range 2 {
		if ids := c.reconcile(late, true); len(ids) != 0 {
			t.Errorf("with a listing of before: %d states", len(ids))
		}
	}
	c.everybody("missing", false)
	c.move(c.away, c.path)
	if ids := c.reconcile(late, false); len(ids) != 1 {
		t.Errorf("back: %d states", len(ids))
	}
	c.everybody("back", true)
}

// onFaultyDisk returns what opens the store by a disk that can be made to fail, each time with the same cache.
func (c *comesAndGoes) onFaultyDisk() (*storetest.FaultFS, func() *store.Store) {
	faults := storetest.NewFaultFS()
	cfg := storetest.Config(c.dir)
	cfg.CacheDir, cfg.KeepDir, cfg.Create, cfg.Disk = c.t.TempDir(), "", false, faults
	return faults, func() *store.Store {
		c.t.Helper()
		s, err := store.Open(c.t.Context(), cfg)
		if err != nil {
			c.t.Fatal(err)
		}
		return s
	}
}

// TestAnswersCutOff: two states are to be answered, and the second answer cannot be written. It is, by the next attempt or
// by the next process, although the first one says all that the index needs to know.
func TestAnswersCutOff(t *testing.T) {
	for _, restart := range []bool{false, true} {
		t.Run(fmt.Sprintf("restart=%t", restart), func(t *testing.T) {
			c := newComesAndGoes(t)
			c.some = 6
			faults, open := c.onFaultyDisk()
			s := open()
			defer func() {
				if err := s.Close(); err != nil {
					t.Error(err)
				}
			}()
			both := func() []*store.Store { return []*store.Store{reopened(t, c.s), reopened(t, c.s)} }
			for i, missing := range []bool{false, true} {
				from, to, step := c.away, c.path, "back"
				if missing {
					from, to, step = c.path, c.away, "missing again"
				}
				if i == 0 {
					c.move(c.path, c.away)
				}
				if !missing {
					for _, s := range both() { // say that it is missing, neither after the other
						if _, err := s.Reconcile(t.Context()); err != nil {
							t.Fatal(err)
						}
					}
					c.added()
				}
				c.move(from, to)
				if err := s.Refresh(t.Context()); err != nil {
					t.Fatal(err)
				}
				written := 0
				faults.Fail(func(op storetest.Op, path string) error {
					if op != storetest.OpRename || !strings.Contains(path, "/states/") {
						return nil
					}
					if written++; written > 1 {
						return syscall.EIO
					}
					return nil
				})
				if _, err := s.Reconcile(t.Context()); !errors.Is(err, store.ErrUnavailable) {
					t.Fatalf("%s: a state that cannot be written: %v", step, err)
				}
				faults.Fail(nil)
				if ids := c.added(); len(ids) != 1 {
					t.Fatalf("%s: %d states, then an error", step, len(ids))
				}
				if restart {
					if err := s.Close(); err != nil {
						t.Fatal(err)
					}
					s = open()
				}
				if ids := c.reconcile(s, missing); len(ids) != 1 {
					t.Errorf("%s: %d states after the error", step, len(ids))
				}
				if ids := c.reconcile(s, missing); len(ids) != 0 {
					t.Errorf("%s: %d more states", step, len(ids))
				}
				c.everybody(step, !missing)
			}
		})
	}
}

// TestUnreadableTurn: a state cannot be read, of a store that is elsewhere and can be reached. What is missing is told of
// all the same, and that state is answered when it can be read.
func TestUnreadableTurn(t *testing.T) {
	c := newComesAndGoes(t)
	c.move(c.path, c.away)
	c.reconcile(c.s, true)
	c.move(c.away, c.path)
	freed := c.reconcile(c.s, false)
	if len(freed) != 1 {
		t.Fatalf("back: %d states", len(freed))
	}
	cfg := storetest.Config(c.dir)
	cfg.CacheDir, cfg.KeepDir, cfg.Create = t.TempDir(), "", false
	s, err := store.Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	store.BadSector{In: fmt.Sprintf("%x", freed[0][:]), At: 100, Err: fs.ErrPermission}.Use(s, true)
	c.move(c.path, c.away)
	if ids := c.reconcile(s, true); len(ids) != 1 {
		t.Errorf("missing: %d states", len(ids))
	}
	if ids := c.reconcile(s, true); len(ids) != 0 {
		t.Errorf("missing: %d more states", len(ids))
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = storetest.Open(t, cfg)
	if ids := c.reconcile(s, true); len(ids) != 1 || c.parent(ids[0]) != freed[0] {
		t.Errorf("the state can be read: %d states", len(ids))
	}
	if ids := c.reconcile(s, true); len(ids) != 0 {
		t.Errorf("the state was answered: %d states", len(ids))
	}
	c.everybody("missing", false)
}

// TestRemovedStaysRemoved: who has not heard yet that a packfile was removed which was missing, and finds it there
// once more, does not say that it is back.
func TestRemovedStaysRemoved(t *testing.T) {
	c := newComesAndGoes(t)
	c.move(c.path, c.away)
	c.reconcile(c.s, true)
	late := reopened(t, c.s)
	c.move(c.away, c.path)
	if _, err := c.s.PutRemoval(store.Removal{Bury: []objects.MAC{c.mac}}, time.Now()); err != nil {
		t.Fatal(err)
	}
	c.added()
	if _, err := late.Reconcile(t.Context()); err != nil {
		t.Fatal(err)
	}
	if ids := c.added(); len(ids) > 0 {
		t.Errorf("%d states say that what was removed is back", len(ids))
	}
	c.buried = true
	c.everybody("removed", false)
}

// note reads what states have freed, each once, as maintenance does.
func (c *comesAndGoes) note() {
	c.t.Helper()
	c.added()
	for _, id := range c.known {
		if _, ok := c.freed[id]; ok {
			continue
		}
		facts, err := c.s.ReadState(c.t.Context(), id)
		if err != nil {
			c.t.Fatal(err)
		}
		c.freed[id] = facts.Freed
	}
}

// remove marks and removes the packfile as maintenance does.
func (c *comesAndGoes) remove() {
	c.t.Helper()
	macs := []objects.MAC{c.mac}
	for i, r := range []store.Removal{{Colour: macs}, {Bury: macs}} {
		r.Freed = make(map[objects.MAC][]objects.MAC)
		c.note()
		for id, macs := range c.freed {
			for _, mac := range macs {
				r.Freed[mac] = append(r.Freed[mac], id)
			}
		}
		if _, err := c.s.PutRemoval(r, time.Now()); err != nil {
			c.t.Fatal(err)
		}
		c.buried = i == 1
		c.everybody("removal", false)
	}
	if err := os.Remove(c.path); err != nil {
		c.t.Fatal(err)
	}
	cold := reopened(c.t, c.s)
	if loss, err := cold.Reconcile(c.t.Context()); err != nil || loss != nil {
		c.t.Errorf("what was removed counts as lost: %v, %v", loss, err)
	}
	if ids := c.added(); len(ids) > 0 {
		c.t.Errorf("%d states say that what was removed is missing", len(ids))
	}
}

// TestAnswersLate: a state is damaged when it is to be answered, and put back from a copy afterwards.
func TestAnswersLate(t *testing.T) {
	c := newComesAndGoes(t)
	said := c.reconcileMoved(c.path, c.away, true)
	for _, missing := range []bool{false, true} {
		from, to, step := c.away, c.path, "back"
		if missing {
			from, to, step = c.path, c.away, "missing"
		}
		was := c.spoil(said[0])
		c.reconcileMoved(from, to, missing)
		if err := c.s.RestoreState(t.Context(), said[0], was); err != nil {
			t.Fatal(err)
		}
		said = slices.DeleteFunc(c.added(), func(id objects.MAC) bool { return c.parent(id) != said[0] })
		if len(said) != 1 {
			t.Fatalf("%s: %d states answer what was put back", step, len(said))
		}
		c.everybody(step, !missing)
	}
}

// TestLateAnswerCutOff: a state is put back from a copy, and the answer to it cannot be written, or not even be begun. It
// is, by the next attempt or by the next process.
func TestLateAnswerCutOff(t *testing.T) {
	for i := range 4 {
		restart, begun := i%2 == 1, i/2 == 1
		t.Run(fmt.Sprintf("restart=%t,begun=%t", restart, begun), func(t *testing.T) {
			c := newComesAndGoes(t)
			c.some = 6
			faults, open := c.onFaultyDisk()
			s := open()
			defer func() {
				if err := s.Close(); err != nil {
					t.Error(err)
				}
			}()
			c.move(c.path, c.away)
			said := c.reconcile(s, true)
			for _, missing := range []bool{false, true} {
				from, to, step := c.away, c.path, "back"
				if missing {
					from, to, step = c.path, c.away, "missing again"
				}
				was, asked := c.spoil(said[0]), said[0]
				c.move(from, to)
				c.reconcile(s, missing)
				written := 0
				faults.Fail(func(op storetest.Op, path string) error {
					if !strings.Contains(path, "/states/") {
						return nil
					}
					if op == storetest.OpRename {
						written++
					}
					if begun && written > 1 || !begun && op == storetest.OpSyncDir {
						return syscall.EIO
					}
					return nil
				})
				if err := s.RestoreState(t.Context(), asked, was); !errors.Is(err, store.ErrUnavailable) || begun != (written > 1) {
					t.Fatalf("%s: an answer that cannot be written: %v, after %d states", step, err, written)
				}
				faults.Fail(nil)
				if _, err := s.VerifyState(t.Context(), asked, nil); err != nil {
					t.Fatal(err)
				}
				if restart {
					if err := s.Close(); err != nil {
						t.Fatal(err)
					}
					s = open()
				}
				if said = c.reconcile(s, missing); len(said) != 1 || c.parent(said[0]) != asked {
					t.Fatalf("%s: %d states after the error", step, len(said))
				}
				if ids := c.reconcile(s, missing); len(ids) != 0 {
					t.Errorf("%s: %d more states", step, len(ids))
				}
				c.everybody(step, !missing)
			}
		})
	}
}

// spoil cuts a state off, and returns it as it was.
func (c *comesAndGoes) spoil(id objects.MAC) (was []byte) {
	c.t.Helper()
	paths, err := filepath.Glob(filepath.Join(c.dir, "store", "states", "*", fmt.Sprintf("%x", id[:])))
	if err != nil || len(paths) != 1 {
		c.t.Fatalf("%q, %v", paths, err)
	}
	was, err = os.ReadFile(paths[0])
	if err := errors.Join(err, os.Truncate(paths[0], 50)); err != nil {
		c.t.Fatal(err)
	}
	return was
}

// remake makes a state anew that is damaged, and returns it as it was.
func (c *comesAndGoes) remake(id objects.MAC) (was []byte) {
	c.t.Helper()
	was = c.spoil(id)
	if err := c.s.RestoreState(c.t.Context(), id, nil); err != nil {
		c.t.Fatal(err)
	}
	return was
}

// TestRemadeAnswer: a state is made anew that said that a packfile is back, or that may have said so. Maintenance, which
// has read it before, removes the packfile: nobody takes it for there.
func TestRemadeAnswer(t *testing.T) {
	for _, which := range []string{"answer", "another"} {
		t.Run(which, func(t *testing.T) {
			c := newComesAndGoes(t)
			lost := c.reconcileMoved(c.path, c.away, true)
			another, err := store.PutEmptyState(c.s, lost[0]) // as of a commit
			if err != nil {
				t.Fatal(err)
			}
			back := c.reconcileMoved(c.away, c.path, false)
			c.note()
			if which == "answer" {
				c.remake(back[len(back)-1])
			} else {
				c.remake(another)
			}
			c.everybody("made anew", true)
			c.remove()
		})
	}
}

// TestRemadeStates makes each state anew, of what is known when a packfile was lost, when it came back, and when it
// was removed: everybody knows afterwards what they did before, whether another one was made anew as well or not.
func TestRemadeStates(t *testing.T) {
	c := newComesAndGoes(t)
	c.some = 4
	remake := func(step string, counts bool) {
		t.Helper()
		if err := c.s.Refresh(t.Context()); err != nil {
			t.Fatal(err)
		}
		c.note()
		before := len(c.known)
		for _, alone := range []bool{true, false} {
			for _, id := range slices.Clone(c.known) {
				was := c.remake(id)
				if !alone {
					continue
				}
				c.everybody(step, counts)
				if err := c.s.RestoreState(t.Context(), id, was); err != nil {
					t.Fatal(err)
				}
			}
		}
		c.everybody(step, counts)
		if n := len(c.known) - before; n > 0 && !counts {
			t.Errorf("%s: %d new states", step, n)
		}
	}
	c.move(c.path, c.away)
	c.reconcile(c.s, true)
	remake("missing", false)
	c.move(c.away, c.path)
	c.reconcile(c.s, false)
	c.everybody("back", true)
	remake("back", true)
	c.remove()
	remake("removed", false)
}

// TestUnreadableTurnMarked: an answer cannot be completed, since a state cannot be read, and maintenance marks the
// packfile meanwhile: the next process leaves the mark.
func TestUnreadableTurnMarked(t *testing.T) {
	c := newComesAndGoes(t)
	bad := store.BadSector{In: fmt.Sprintf("%x", c.known[0][:]), At: 100, Err: fs.ErrPermission}
	c.move(c.path, c.away)
	c.reconcile(c.s, true)
	cfg := storetest.Config(c.dir)
	cfg.CacheDir, cfg.KeepDir, cfg.Create = t.TempDir(), "", false
	s, err := store.Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	bad.Use(s, true)
	c.move(c.away, c.path)
	back := c.reconcile(s, false)
	if len(back) != 1 {
		t.Fatalf("back: %d states", len(back))
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	r := store.Removal{Colour: []objects.MAC{c.mac}, Freed: map[objects.MAC][]objects.MAC{c.mac: back}}
	if _, err := c.s.PutRemoval(r, time.Now()); err != nil {
		t.Fatal(err)
	}
	c.added()
	s = storetest.Open(t, cfg)
	bad.Use(s, true)
	if err := s.Refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Reconcile(t.Context()); err != nil {
		t.Fatal(err)
	}
	if ids := c.added(); len(ids) != 0 {
		t.Errorf("%d states take away what maintenance has marked", len(ids))
	}
}
