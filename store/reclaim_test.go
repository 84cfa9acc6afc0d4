package store_test

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/PlakarKorp/kloset/objects"
	"github.com/PlakarKorp/kloset/packfile"
	"github.com/PlakarKorp/kloset/repository"
	"github.com/PlakarKorp/kloset/repository/state"
	"github.com/PlakarKorp/kloset/resources"
	"github.com/PlakarKorp/kloset/versioning"

	"github.com/snapgate/gateway/store"
	"github.com/snapgate/gateway/store/storetest"
)

// putBlob puts a blob in a packfile and a state of its own, as kloset does, and returns its name.
func putBlob(t *testing.T, s *store.Store, data []byte) (blob, state objects.MAC) {
	t.Helper()
	blobs, state := putBlobs(t, s, data)
	return blobs[0], state
}

// putBlobs is putBlob for several in one packfile.
func putBlobs(t *testing.T, s *store.Store, list ...[]byte) (blobs []objects.MAC, state objects.MAC) {
	t.Helper()
	return putTyped(t, s, resources.RT_CHUNK, list...)
}

// putTyped is putBlobs for blobs of any type.
func putTyped(t *testing.T, s *store.Store, typ resources.Type, list ...[]byte) (blobs []objects.MAC, state objects.MAC) {
	t.Helper()
	state = objects.RandomMAC()
	cache, err := s.Repository().AppContext().GetCache().Scan(state)
	if err != nil {
		t.Fatal(err)
	}
	rw := s.Repository().NewRepositoryWriter(cache, state, repository.DefaultType, "")
	rw.PackerManager.Wait()
	pack, err := packfile.NewPackfileInMemory(s.Repository().GetMACHasher)
	if err != nil {
		t.Fatal(err)
	}
	version := versioning.GetCurrentVersion(typ)
	for _, data := range list {
		encoded, err := s.AppendEncoded(nil, data)
		blob := s.Repository().ComputeMAC(data)
		if err := errors.Join(err, pack.AddBlob(typ, version, blob, encoded, 0)); err != nil {
			t.Fatal(err)
		}
		blobs = append(blobs, blob)
	}
	if err := errors.Join(rw.PutPackfile(pack), rw.CommitTransaction(state), s.Ingest(state)); err != nil {
		t.Fatal(err)
	}
	return blobs, state
}

// TestRemovalInAnyOrder reads the states of a store on which packfiles were marked and removed, in
// every order: kloset says of two states that neither is before the other, unless one is the
// parent. Nobody may take a blob for stored that is gone, and what is there must be found.
func TestRemovalInAnyOrder(t *testing.T) {
	s := storetest.New(t)
	gone, first := putBlob(t, s, bytes.Repeat([]byte("gone"), 1000))
	packs, err := s.IndexedPackfiles()
	if err != nil {
		t.Fatal(err)
	}
	old := slices.Collect(maps.Keys(packs))
	kept, second := putBlob(t, s, bytes.Repeat([]byte("kept"), 1000))
	mark, err := s.PutRemoval(store.Removal{Colour: old}, time.Now())
	if err != nil || s.Ingest(mark[0]) != nil {
		t.Fatal(err)
	}
	if s.Has(resources.RT_CHUNK, gone) {
		t.Error("what is marked counts as stored")
	}
	if data, err := s.Blob(resources.RT_CHUNK, gone); err != nil || len(data) != 4000 {
		t.Errorf("what is marked cannot be read until it is removed: %d bytes, %v", len(data), err)
	}
	again, third := putBlob(t, s, bytes.Repeat([]byte("gone"), 1000))
	sweep, err := s.PutRemoval(store.Removal{Bury: old}, time.Now())
	if err != nil || s.Ingest(sweep[0]) != nil {
		t.Fatal(err)
	}
	if err := s.RemovePackfiles(t.Context(), old); err != nil {
		t.Fatal(err)
	}
	if again != gone || !s.Has(resources.RT_CHUNK, gone) || !s.Has(resources.RT_CHUNK, kept) {
		t.Error("what is stored again, or was never removed, does not count as stored")
	}
	usable := func(st *state.LocalState) bool {
		for _, blob := range []objects.MAC{gone, kept} {
			loc, ok, err := st.GetSubpartForBlob(resources.RT_CHUNK, blob)
			if err != nil || !ok || slices.Contains(old, loc.Packfile) {
				return false
			}
		}
		return true
	}
	n, reads := 0, newStateReads(t, s)
	permute([]objects.MAC{first, second, mark[0], third, sweep[0]}, func(order []objects.MAC) {
		n++
		st := reads.as(order)
		if !usable(st) {
			t.Errorf("read as %v (%v): what is gone counts as stored, or what is stored does not", order, [5]objects.MAC{first, second, mark[0], third, sweep[0]})
		}
		for mac, when := range coloured(t, st) {
			if slices.Contains(old, mac) && when.Before(time.Now().AddDate(100, 0, 0)) && order[len(order)-1] == sweep[0] {
				t.Errorf("removed packfile is coloured since %s: plakar would remove it again", when)
			}
		}
	})
	if n != 120 {
		t.Errorf("%d orders", n)
	}
	// Ours, without a cache.
	cold := reopened(t, s)
	packs, err = cold.IndexedPackfiles()
	if err != nil || len(packs) != 2 || !cold.Has(resources.RT_CHUNK, gone) {
		t.Errorf("a cold index has %d packfiles, want 2; %v", len(packs), err)
	}
	loss, err := cold.Reconcile(t.Context())
	if err != nil || loss != nil {
		t.Errorf("what was removed counts as lost: %v, %v", loss, err)
	}
}

func coloured(t *testing.T, st *state.LocalState) map[objects.MAC]time.Time {
	t.Helper()
	all := make(map[objects.MAC]time.Time)
	for e, err := range st.ListColouredResources(resources.RT_PACKFILE) {
		if err != nil {
			t.Fatal(err)
		}
		all[e.Blob] = e.When
	}
	return all
}

// permute calls f with every order.
func permute(list []objects.MAC, f func([]objects.MAC)) {
	var at func(n int)
	at = func(n int) {
		if n == len(list) {
			f(list)
			return
		}
		for i := n; i < len(list); i++ {
			list[n], list[i] = list[i], list[n]
			at(n + 1)
			list[n], list[i] = list[i], list[n]
		}
	}
	at(0)
}

// reopened is the same store, without what was kept of it here.
func reopened(t *testing.T, s *store.Store) *store.Store {
	t.Helper()
	cfg := storetest.Config(filepath.Dir(s.Location()[len("fs://"):]))
	cfg.CacheDir, cfg.KeepDir, cfg.Create = t.TempDir(), "", false
	return storetest.Open(t, cfg)
}

// TestBuriedIsForgotten has the index learn that a packfile is there after it was removed.
func TestBuriedIsForgotten(t *testing.T) {
	s := storetest.New(t)
	blob, _ := putBlob(t, s, []byte("gone"))
	packs, err := s.IndexedPackfiles()
	if err != nil {
		t.Fatal(err)
	}
	old := slices.Collect(maps.Keys(packs))
	sweep, err := s.PutRemoval(store.Removal{Bury: old}, time.Now())
	if err != nil || s.RemovePackfiles(t.Context(), old) != nil {
		t.Fatal(err)
	}
	if err := s.DropState(sweep[0]); err != nil {
		t.Fatal(err)
	}
	// Whatever order Reindex takes, many times.
	for range 8 {
		if err := s.Reindex(t.Context()); err != nil {
			t.Fatal(err)
		}
		if s.Has(resources.RT_CHUNK, blob) {
			t.Fatal("a blob that is gone counts as stored")
		}
		if loss, err := s.Reconcile(t.Context()); err != nil || loss != nil {
			t.Fatalf("what was removed counts as lost: %v, %v", loss, err)
		}
	}
}

func TestLockExclusively(t *testing.T) {
	dir := t.TempDir()
	s := storetest.Open(t, storetest.Config(dir))
	beside := reopened(t, s)
	lock, err := s.LockExclusively(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := beside.Lock(t.Context()); !errors.Is(err, store.ErrLocked) {
		t.Errorf("another process gets a lock: %v", err)
	}
	if _, err := beside.LockExclusively(t.Context()); !errors.Is(err, store.ErrLocked) {
		t.Errorf("another process gets an exclusive lock: %v", err)
	}
	// Those of this process wait.
	got := make(chan error, 1)
	go func() {
		l, err := s.Lock(context.WithoutCancel(t.Context()))
		if err == nil {
			err = l.Unlock()
		}
		got <- err
	}()
	select {
	case err := <-got:
		t.Errorf("a lock beside the exclusive one: %v", err)
	default:
	}
	if err := errors.Join(lock.Valid(), lock.Unlock(), <-got); err != nil {
		t.Error(err)
	}
	shared, err := s.Lock(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.LockExclusively(t.Context()); !errors.Is(err, store.ErrLocked) {
		t.Errorf("an exclusive lock beside a shared one of this process: %v", err)
	}
	if _, err := beside.LockExclusively(t.Context()); !errors.Is(err, store.ErrLocked) {
		t.Errorf("an exclusive lock beside a shared one of another process: %v", err)
	}
	if err := shared.Unlock(); err != nil {
		t.Fatal(err)
	}
	if left, err := filepath.Glob(filepath.Join(dir, "store", "locks", "*")); err != nil || len(left) > 0 {
		t.Errorf("locks left: %v, %v", left, err)
	}
}

// TestExclusiveLockLeftBehind kills the holder of the exclusive lock, as far as others can tell.
func TestExclusiveLockLeftBehind(t *testing.T) {
	dir := t.TempDir()
	s := storetest.Open(t, storetest.Config(dir))
	lock, err := s.LockExclusively(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	cfg := storetest.Config(dir)
	cfg.CacheDir = t.TempDir()
	next := storetest.Open(t, cfg) // with the same KeepDir
	if _, err := next.Lock(t.Context()); !errors.Is(err, store.ErrLocked) {
		t.Fatalf("beside the holder: %v", err)
	}
	// The kernel takes the lock on the file away from one that is killed.
	if err := store.ForgetHolder(lock); err != nil {
		t.Fatal(err)
	}
	shared, err := next.Lock(t.Context())
	if err != nil {
		t.Fatalf("after it: %v", err)
	}
	if err := shared.Unlock(); err != nil || next.DroppedLocks() != 1 {
		t.Errorf("%d locks dropped, %v", next.DroppedLocks(), err)
	}
	if err := lock.Valid(); !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("the lock that was taken away: %v", err)
	}
	if err := lock.Unlock(); err != nil {
		t.Error(err)
	}
}

// TestLockUnreadable has a lock in the store that says nothing, and cannot be looked at: a store that does not answer is
// unavailable, and one that has the lock no more is not.
func TestLockUnreadable(t *testing.T) {
	lost := errors.New("connection lost")
	for name, tt := range map[string]struct{ look, want error }{
		"looking fails": {lost, store.ErrUnavailable},
		"it is gone":    {&fs.PathError{Op: "stat", Path: "lock", Err: fs.ErrNotExist}, nil},
	} {
		for kind, take := range map[string]func(*store.Store, context.Context) (*store.Lock, error){
			"shared": (*store.Store).Lock, "exclusive": (*store.Store).LockExclusively,
		} {
			t.Run(name+", "+kind, func(t *testing.T) {
				dir := t.TempDir()
				s := storetest.Open(t, storetest.Config(dir))
				id := objects.RandomMAC()
				if err := os.WriteFile(filepath.Join(dir, "store", "locks", hex.EncodeToString(id[:])), []byte("torn"), 0o600); err != nil {
					t.Fatal(err)
				}
				store.FailLookAtLocks(s, tt.look)
				lock, err := take(s, t.Context())
				if !errors.Is(err, tt.want) || tt.want != nil && !errors.Is(err, tt.look) {
					t.Errorf("got %v, want %v", err, tt.want)
				}
				if err == nil {
					err = lock.Unlock()
				}
				if err != nil && tt.want == nil {
					t.Error(err)
				}
			})
		}
	}
}

// TestLockStays has a store fail for a moment while a lock is taken or released: what stays of the lock in the store
// keeps nobody out, also after another store on the same KeepDir was locked.
func TestLockStays(t *testing.T) {
	for _, tt := range []struct {
		name          string
		shared        bool
		put, remove   error // of the first lock that is written, and of removing it, once
		locked, stays bool
		dropped       int
	}{
		{name: "removing fails", remove: syscall.EIO, locked: true, stays: true, dropped: 1},
		{name: "writing only seems to fail", put: syscall.ETIMEDOUT},
		{name: "writing seems to fail, and removing fails", put: syscall.ETIMEDOUT, remove: syscall.EIO, stays: true, dropped: 1},
		{name: "writing a shared one only seems to fail", shared: true, put: syscall.ETIMEDOUT},
		{name: "writing a shared one seems to fail, and removing fails", shared: true, put: syscall.ETIMEDOUT, remove: syscall.EIO, stays: true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			disk := storetest.NewFaultFS()
			cfg := storetest.Config(dir)
			cfg.Disk = disk
			s := storetest.Open(t, cfg)
			elsewhere := storetest.Config(t.TempDir())
			elsewhere.KeepDir = cfg.KeepDir
			other := storetest.Open(t, elsewhere)
			locks := func() []string {
				t.Helper()
				left, err := filepath.Glob(filepath.Join(dir, "store", "locks", "*"))
				if err != nil {
					t.Fatal(err)
				}
				return left
			}
			remove := tt.remove
			disk.Fail(func(op storetest.Op, path string) (err error) {
				if op == storetest.OpRemove && filepath.Base(filepath.Dir(path)) == "locks" {
					err, remove = remove, nil
				}
				return err
			})
			if tt.put != nil {
				store.FailNextLock(s, tt.put)
			}
			take := s.LockExclusively
			if tt.shared {
				take = s.Lock
			}
			lock, err := take(t.Context())
			if tt.locked {
				if err != nil {
					t.Fatal(err)
				}
				err = lock.Unlock()
			}
			if want := cmp.Or(tt.put, tt.remove); !errors.Is(err, store.ErrUnavailable) || !errors.Is(err, want) {
				t.Errorf("got %v, want %v", err, want)
			}
			if left := locks(); (len(left) > 0) != tt.stays {
				t.Errorf("locks left: %v", left)
			}
			lock, err = other.LockExclusively(t.Context())
			if err == nil {
				err = lock.Unlock()
			}
			if err != nil {
				t.Errorf("the other store: %v", err)
			}
			if tt.shared && tt.stays { // it is in nobody's way here
				if lock, err = s.LockExclusively(t.Context()); err == nil {
					err = lock.Unlock()
				}
				if err != nil {
					t.Errorf("alone: %v", err)
				}
				for _, left := range locks() {
					if err := os.Remove(left); err != nil {
						t.Fatal(err)
					}
				}
			}
			lock, err = s.Lock(t.Context())
			if err != nil {
				t.Fatalf("after it: %v", err)
			}
			if err := lock.Unlock(); err != nil || s.DroppedLocks() != tt.dropped {
				t.Errorf("%d locks dropped, %v", s.DroppedLocks(), err)
			}
			if left := locks(); len(left) > 0 {
				t.Errorf("locks left at the end: %v", left)
			}
		})
	}
}

// TestSize adds up packfiles that come and go.
func TestSize(t *testing.T) {
	s := storetest.New(t)
	size := func() int64 {
		t.Helper()
		n, err := s.Size(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	if n := size(); n != 0 {
		t.Errorf("an empty store has %d bytes", n)
	}
	random := func(n int) []byte {
		data := make([]byte, n)
		_, _ = rand.Read(data) // never fails
		return data
	}
	putBlob(t, s, random(100_000))
	first, err := s.ListPackfiles(t.Context())
	if err != nil || len(first) != 1 {
		t.Fatalf("%d packfiles, %v", len(first), err)
	}
	one := size()
	if one < 100_000 || one > 110_000 {
		t.Errorf("%d bytes after 100,000", one)
	}
	putBlob(t, s, random(200_000))
	if n := size() - one; n < 200_000 || n > 210_000 {
		t.Errorf("%d bytes more after 200,000", n)
	}
	if err := s.RemovePackfiles(t.Context(), slices.Collect(maps.Keys(first))); err != nil {
		t.Fatal(err)
	}
	if n := size(); n < 200_000 || n > 210_000 {
		t.Errorf("%d bytes when the first is gone", n)
	}
}
