package store_test

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/PlakarKorp/kloset/objects"
	"github.com/PlakarKorp/kloset/resources"

	"github.com/snapgate/gateway/store"
	"github.com/snapgate/gateway/store/storetest"
)

// onePackfile is a store with one packfile of three blobs.
func onePackfile(t *testing.T) (s *store.Store, mac objects.MAC, path string, data map[objects.MAC][]byte) {
	t.Helper()
	dir := t.TempDir()
	s = storetest.Open(t, storetest.Config(dir))
	list := make([][]byte, 3)
	for i := range list {
		list[i] = make([]byte, 300_000)
		_, _ = rand.Read(list[i]) // never fails
	}
	blobs, _ := putBlobs(t, s, list...)
	data = make(map[objects.MAC][]byte)
	for i, blob := range blobs {
		data[blob] = list[i]
	}
	packs, err := s.ListPackfiles(t.Context())
	if err != nil || len(packs) != 1 {
		t.Fatalf("%d packfiles, %v", len(packs), err)
	}
	mac = slices.Collect(maps.Keys(packs))[0]
	paths, err := filepath.Glob(filepath.Join(dir, "store", "packfiles", "*", fmt.Sprintf("%x", mac[:])))
	if err != nil || len(paths) != 1 {
		t.Fatalf("%q, %v", paths, err)
	}
	return s, mac, paths[0], data
}

func mend(t *testing.T, s *store.Store, mac objects.MAC, find func(store.Place) ([]byte, error)) ([]store.Place, error) {
	t.Helper()
	m, err := s.MendPackfile(t.Context(), mac)
	if err != nil {
		return nil, err
	}
	left, err := m.Fill(t.Context(), find)
	if err != nil {
		return nil, err
	}
	return left, m.Write(t.Context())
}

// TestMendUnreadable has a packfile that cannot be read to its end: what is behind that is there, so
// nothing is written in its place unless it is known.
func TestMendUnreadable(t *testing.T) {
	for _, cause := range []error{syscall.EIO, syscall.ESTALE, io.ErrUnexpectedEOF, fmt.Errorf("a line: %w", io.EOF)} {
		s, mac, path, data := onePackfile(t)
		was, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		store.BadSector{At: 450_000, Err: cause}.Use(s, false)
		check, err := s.VerifyPackfile(t.Context(), mac, nil)
		if err != nil || !errors.Is(check.Err, cause) || check.Bytes != 450_000 {
			t.Errorf("%v: %d bytes, %v, %v", cause, check.Bytes, check.Err, err)
		}
		var asked []store.Place
		nowhere := func(p store.Place) ([]byte, error) {
			asked = append(asked, p)
			return nil, store.ErrNoCopy
		}
		left, err := mend(t, s, mac, nowhere)
		if err != nil || len(left) != 1 || len(asked) != 1 || asked[0] != left[0] {
			t.Errorf("%v: %d blobs left, %d asked for, %v", cause, len(left), len(asked), err)
		}
		if is, err := os.ReadFile(path); err != nil || !bytes.Equal(is, was) {
			t.Errorf("%v: what could not be read was written over: %v", cause, err)
		}
		left, err = mend(t, s, mac, func(p store.Place) ([]byte, error) { return data[p.Blob], nil })
		if err != nil || len(left) > 0 {
			t.Errorf("%v: %d blobs left, %v", cause, len(left), err)
		}
		if is, err := os.ReadFile(path); err != nil || len(is) != len(was) {
			t.Errorf("%v: %d bytes where there were %d, %v", cause, len(is), len(was), err)
		}
		again := reopened(t, s)
		if check, err = again.VerifyPackfile(t.Context(), mac, nil); err != nil || !check.Sound() || check.Blobs != 3 {
			t.Errorf("%v: afterwards: %+v, %v", cause, check, err)
		}
	}
}

// TestVerifyElsewhere tells a line that is bad from a state that is.
func TestVerifyElsewhere(t *testing.T) {
	s := storetest.New(t)
	_, id := putBlob(t, s, []byte("blob"))
	store.BadSector{At: 100, Err: io.ErrUnexpectedEOF}.Use(s, true)
	if _, err := s.VerifyState(t.Context(), id, nil); !errors.Is(err, store.ErrUnavailable) || errors.Is(err, store.ErrDamaged) {
		t.Errorf("a line that is cut: %v", err)
	}
	store.BadSector{At: 100, Err: io.EOF}.Use(s, true)
	if _, err := s.VerifyState(t.Context(), id, nil); !errors.Is(err, store.ErrDamaged) || errors.Is(err, store.ErrUnavailable) {
		t.Errorf("a state that is cut off: %v", err)
	}
}

// TestCopyUnread tells a copy that cannot be read now from one that there is not.
func TestCopyUnread(t *testing.T) {
	s, mac, path, data := onePackfile(t)
	copied := t.TempDir()
	if err := os.CopyFS(filepath.Join(copied, "store"), os.DirFS(filepath.Dir(filepath.Dir(filepath.Dir(path))))); err != nil {
		t.Fatal(err)
	}
	from := storetest.Open(t, storetest.Config(copied))
	store.BadSector{At: 100, Err: io.ErrUnexpectedEOF}.Use(from, true)
	if _, err := s.CopyOfPackfile(t.Context(), mac, from); !errors.Is(err, store.ErrUnavailable) || errors.Is(err, store.ErrNoCopy) {
		t.Errorf("a line that is cut: got %v, want %v", err, store.ErrUnavailable)
	}
	from = storetest.Open(t, storetest.Config(copied))
	if err := os.Remove(filepath.Join(copied, "store", "packfiles", filepath.Base(filepath.Dir(path)), filepath.Base(path))); err != nil {
		t.Fatal(err)
	}
	if _, err := s.CopyOfPackfile(t.Context(), mac, from); !errors.Is(err, store.ErrNoCopy) || errors.Is(err, store.ErrUnavailable) {
		t.Errorf("a copy that is missing: got %v, want %v", err, store.ErrNoCopy)
	}

	// The same blob in another packfile of the same store.
	for blob, content := range data {
		putBlobs(t, s, content)
		if got, err := s.BlobElsewhere(resources.RT_CHUNK, blob, mac); err != nil || !bytes.Equal(got, content) {
			t.Errorf("elsewhere: %d bytes, %v", len(got), err)
		}
		store.BadSector{At: 100, Err: io.ErrUnexpectedEOF}.Use(s, true)
		if _, err := s.BlobElsewhere(resources.RT_CHUNK, blob, mac); !errors.Is(err, store.ErrUnavailable) {
			t.Errorf("elsewhere, and the line is cut: got %v, want %v", err, store.ErrUnavailable)
		}
		break
	}
}

// TestBlobOfOthers has a blob of metadata in a packfile where other bytes are, encoded as they should be: they are not taken
// for it, and it is found where it is sound.
func TestBlobOfOthers(t *testing.T) {
	dir := t.TempDir()
	cfg := storetest.Config(dir)
	storetest.Plaintext(&cfg)
	s := storetest.Open(t, cfg)
	data, other := make([]byte, 1000), make([]byte, 1000)
	_, _ = rand.Read(data)
	_, _ = rand.Read(other)
	blobs, _ := putTyped(t, s, resources.RT_OBJECT, data)
	paths, err := filepath.Glob(filepath.Join(dir, "store", "packfiles", "*", "*"))
	if err != nil || len(paths) != 1 {
		t.Fatalf("%q, %v", paths, err)
	}
	was, err := s.AppendEncoded(nil, data)
	if err != nil {
		t.Fatal(err)
	}
	is, err := s.AppendEncoded(nil, other)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(paths[0])
	if err != nil || bytes.Count(raw, was) != 1 {
		t.Fatalf("the blob is there %d times, %v", bytes.Count(raw, was), err)
	}
	if err := os.WriteFile(paths[0], bytes.Replace(raw, was, is, 1), 0o600); err != nil {
		t.Fatal(err)
	}
	if got, err := s.Blob(resources.RT_OBJECT, blobs[0]); !errors.Is(err, store.ErrDamaged) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	putTyped(t, s, resources.RT_OBJECT, []byte("beside"), data)
	if got, err := s.Blob(resources.RT_OBJECT, blobs[0]); err != nil || !bytes.Equal(got, data) {
		t.Errorf("stored again: %d bytes, %v", len(got), err)
	}
}

// TestDoubtful has a blob in a damaged packfile, and beside it in one that is sound: that counts until
// it is to be removed.
func TestDoubtful(t *testing.T) {
	s := storetest.New(t)
	data := []byte("blob")
	blob, _ := putBlob(t, s, data)
	bad, err := s.ListPackfiles(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if s.Doubtful(resources.RT_CHUNK, blob) {
		t.Error("nothing is known to be damaged, and a blob is doubtful")
	}
	s.Distrust(map[objects.MAC]struct{}{slices.Collect(maps.Keys(bad))[0]: {}})
	if !s.Doubtful(resources.RT_CHUNK, blob) {
		t.Error("a blob in a damaged packfile is not doubtful")
	}
	putBlob(t, s, data)
	if s.Doubtful(resources.RT_CHUNK, blob) {
		t.Error("a blob that was stored again is doubtful")
	}
	all, err := s.ListPackfiles(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	maps.DeleteFunc(all, func(mac objects.MAC, _ struct{}) bool { _, ok := bad[mac]; return ok })
	mark, err := s.PutRemoval(store.Removal{Colour: slices.Collect(maps.Keys(all))}, time.Now())
	if err := errors.Join(err, s.Ingest(mark[0])); err != nil {
		t.Fatal(err)
	}
	if !s.Doubtful(resources.RT_CHUNK, blob) {
		t.Error("a blob is not doubtful that is sound only where it is to be removed")
	}
}

// TestMendForged has an index with places behind the end of everything, of a packfile that is missing.
func TestMendForged(t *testing.T) {
	s, mac, path, data := onePackfile(t)
	forged := store.Place{Type: resources.RT_CHUNK, Blob: objects.MAC{1}, Packfile: mac, Offset: 1<<64 - 10, Length: 5}
	if err := errors.Join(store.AddPlaces(s, forged), os.Remove(path)); err != nil {
		t.Fatal(err)
	}
	if left, err := mend(t, s, mac, func(p store.Place) ([]byte, error) { return data[p.Blob], nil }); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("%d blobs left, %v", len(left), err)
	}
}

// TestRemakeStateOfPackfiles makes a state anew of which nothing is known, of a packfile that was marked since it went: that
// is told of again, so that maintenance stores again what is needed of it. One that was removed is not.
func TestRemakeStateOfPackfiles(t *testing.T) {
	for name, tc := range map[string]struct {
		removal func(*store.Removal, objects.MAC)
		told    bool
	}{
		"left alone": {func(*store.Removal, objects.MAC) {}, true},
		"marked":     {func(r *store.Removal, mac objects.MAC) { r.Colour = []objects.MAC{mac} }, true},
		"removed":    {func(r *store.Removal, mac objects.MAC) { r.Bury = []objects.MAC{mac} }, false},
	} {
		t.Run(name, func(t *testing.T) {
			s, mac, path, data := onePackfile(t)
			id := onlyState(t, s, path)
			var r store.Removal
			tc.removal(&r, mac)
			if _, err := s.PutRemoval(r, time.Now()); err != nil {
				t.Fatal(err)
			}
			other := reopened(t, s)
			if err := other.RestoreState(t.Context(), id, nil); err != nil {
				t.Fatal(err)
			}
			again := reopened(t, s)
			packs, err := again.IndexedPackfiles()
			if _, told := packs[mac]; err != nil || told != tc.told {
				t.Errorf("it is told of: %v, %v, want %v", told, err, tc.told)
			}
			for blob, content := range data {
				if got, err := again.Blob(resources.RT_CHUNK, blob); tc.told && (err != nil || !bytes.Equal(got, content)) {
					t.Errorf("%d bytes, %v", len(got), err)
				}
			}
		})
	}
}

// TestRemakeStateOfDamaged makes a state anew while a packfile that no state tells of does not say what is in it: the state
// stays missing, as it may have told of that one.
func TestRemakeStateOfDamaged(t *testing.T) {
	s, _, path, _ := onePackfile(t)
	id := onlyState(t, s, path)
	fi, err := os.Stat(path)
	if err == nil {
		err = os.Truncate(path, fi.Size()-100)
	}
	if err != nil {
		t.Fatal(err)
	}
	other := reopened(t, s)
	if err := other.RestoreState(t.Context(), id, nil); !errors.Is(err, store.ErrDamaged) {
		t.Errorf("got %v, want %v", err, store.ErrDamaged)
	}
	if _, err := other.VerifyState(t.Context(), id, nil); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the state: got %v, want %v", err, fs.ErrNotExist)
	}
}

// onlyState removes the file of the only state of a store, which has a packfile at path, and returns its name.
func onlyState(t *testing.T, s *store.Store, path string) objects.MAC {
	t.Helper()
	ids, err := s.States(t.Context())
	if err != nil || len(ids) != 1 {
		t.Fatalf("%d states, %v", len(ids), err)
	}
	states, err := filepath.Glob(filepath.Join(filepath.Dir(path), "..", "..", "states", "*", fmt.Sprintf("%x", ids[0][:])))
	if err != nil || len(states) != 1 {
		t.Fatalf("%q, %v", states, err)
	}
	if err := os.Remove(states[0]); err != nil {
		t.Fatal(err)
	}
	return ids[0]
}
