package store

import (
	"encoding/hex"
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/PlakarKorp/kloset/connectors/storage"
	"github.com/PlakarKorp/kloset/objects"

	"github.com/snapgate/gateway/internal/disk"
	"github.com/snapgate/gateway/store/internal/backend"
)

// listingRig is a directory of buckets whose changes have the time stamps that a test wants.
type listingRig struct {
	t     *testing.T
	dir   string // of the store
	l     *listing
	reads []string // the buckets that the last update has read
	// refuse is the bucket that cannot be read, "" for none.
	refuse string
}

func newListingRig(t *testing.T) *listingRig {
	t.Helper()
	r := &listingRig{t: t, dir: t.TempDir()}
	r.l = newListing(r, backend.StatesDir)
	for _, bucket := range []string{"00", "01", "ff"} {
		if err := os.MkdirAll(filepath.Join(r.dir, backend.StatesDir, bucket), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	return r
}

func (r *listingRig) path(mac objects.MAC) string {
	name := hex.EncodeToString(mac[:])
	return filepath.Join(r.dir, backend.StatesDir, name[:2], name)
}

// change adds or removes a file, at a moment that the file system calls stamp.
func (r *listingRig) change(mac objects.MAC, stamp time.Time) {
	r.t.Helper()
	path := r.path(mac)
	err := os.Remove(path)
	if errors.Is(err, fs.ErrNotExist) {
		err = os.WriteFile(path, nil, 0o600)
	}
	if err := errors.Join(err, os.Chtimes(filepath.Dir(path), stamp, stamp)); err != nil {
		r.t.Fatal(err)
	}
}

// ReadDir implements directories.
func (r *listingRig) ReadDir(dir string) ([]fs.DirEntry, error) {
	r.reads = append(r.reads, filepath.Base(dir))
	if filepath.Base(dir) == r.refuse {
		return nil, fs.ErrPermission
	}
	return os.ReadDir(filepath.Join(r.dir, dir))
}

// StatDir implements directories.
func (r *listingRig) StatDir(dir string) (fs.FileInfo, error) {
	return os.Stat(filepath.Join(r.dir, dir))
}

func (r *listingRig) update(now time.Time, want ...objects.MAC) {
	r.t.Helper()
	r.reads = nil
	if err := r.l.updateAt(now); err != nil {
		r.t.Fatal(err)
	}
	if got := r.l.all(); len(got) != len(want) || !maps.Equal(got, set(want)) {
		r.t.Errorf("listed %d files, want %d", len(got), len(want))
	}
}

func set(macs []objects.MAC) map[objects.MAC]struct{} {
	s := make(map[objects.MAC]struct{})
	for _, mac := range macs {
		s[mac] = struct{}{}
	}
	return s
}

// TestListingSeesOthers has somebody else add and remove files, in the same tick of a coarse
// clock as a look, and with a clock that is far from ours.
func TestListingSeesOthers(t *testing.T) {
	for name, test := range map[string]struct {
		skew, tick, settle time.Duration
	}{
		"same clock": {0, 2 * time.Second, settleTime},
		"behind":     {-time.Hour, 2 * time.Second, settleTime},
		"ahead":      {time.Hour, time.Second, settleTime},
		"10 ms":      {0, fineTick, settleTime},
		"fine":       {time.Hour, 4 * time.Millisecond, fineSettleTime},
	} {
		t.Run(name, func(t *testing.T) {
			r := newListingRig(t)
			now := time.Date(2026, 1, 2, 3, 4, 5, int(7*time.Millisecond), time.UTC)
			stamp := func() time.Time { return now.Add(test.skew).Truncate(test.tick) }
			a, b, c := objects.MAC{0: 0x01, 1: 1}, objects.MAC{0: 0x01, 1: 2}, objects.MAC{0: 0xff}
			r.update(now)
			r.change(a, stamp())
			r.update(now, a)
			r.change(b, stamp()) // the same stamp, after it was read
			r.update(now, a, b)
			r.change(a, stamp())
			r.update(now, b)
			now = now.Add(settleTime) // those that have not changed have the test's own stamps
			r.update(now, b)
			now = now.Add(test.settle + fineTick)
			r.update(now, b)
			r.update(now, b)
			if len(r.reads) > 0 {
				t.Errorf("nothing has changed, and %q are read", r.reads)
			}
			r.change(c, stamp())
			r.update(now, b, c)
			if !slices.Equal(r.reads, []string{"ff"}) {
				t.Errorf("ff has changed, and %q are read", r.reads)
			}
			r.change(b, stamp())
			r.update(now, c)
			now = now.Add(settleTime + time.Second)
			r.update(now, c)
			if err := os.RemoveAll(filepath.Join(r.dir, backend.StatesDir, "ff")); err != nil {
				t.Fatal(err)
			}
			r.update(now)
		})
	}
}

// TestListingAfterAnError has an update that fails half-way: what it has taken over counts
// the next time.
func TestListingAfterAnError(t *testing.T) {
	r := newListingRig(t)
	now := time.Now()
	r.update(now)
	a := objects.MAC{0: 0x00, 1: 7}
	r.change(a, now)
	r.refuse = "01"
	err := r.l.updateAt(now)
	r.refuse = ""
	if !errors.Is(err, fs.ErrPermission) {
		t.Fatalf("got %v, want the error of reading", err)
	}
	now = now.Add(settleTime + time.Second)
	r.update(now, a)
}

// TestListStates lists what is in the store whoever has written it, as kloset's connector does.
func TestListStates(t *testing.T) {
	root := t.TempDir()
	for _, dir := range []string{backend.PackfilesDir, backend.StatesDir, backend.LocksDir} {
		if err := os.Mkdir(filepath.Join(root, dir), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	c := newConn(&connector{files: backend.NewLocal(disk.OS{}, root, "token")})
	check := func(want int) {
		t.Helper()
		got, err := c.List(t.Context(), storage.StorageResourceState)
		if err != nil {
			t.Fatal(err)
		}
		theirs, err := c.connector.List(t.Context(), storage.StorageResourceState)
		if err != nil {
			t.Fatal(err)
		}
		if len(got) != want || !maps.Equal(set(got), set(theirs)) || !maps.Equal(set(got), c.listedStates()) {
			t.Errorf("listed %d states, kloset %d; want %d", len(got), len(theirs), want)
		}
	}
	check(0) // no buckets: what copying an empty store may leave
	var paths []string
	for i := range 20 {
		mac := objects.MAC{0: byte(i / 2), 1: byte(i)}
		name := hex.EncodeToString(mac[:])
		path := filepath.Join(root, backend.StatesDir, name[:2], name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, nil, 0o600)); err != nil {
			t.Fatal(err)
		}
		paths = append(paths, path)
		check(i + 1)
	}
	for i, path := range paths {
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		check(len(paths) - i - 1)
	}
	if err := os.RemoveAll(filepath.Join(root, backend.StatesDir)); err != nil {
		t.Fatal(err)
	}
	if _, err := c.List(t.Context(), storage.StorageResourceState); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the directory is gone: %v", err)
	}
}

// TestRemoteListingDoubt: a packfile that may be gone is not there because it was listed before.
func TestRemoteListingDoubt(t *testing.T) {
	root, mac := t.TempDir(), objects.MAC{0: 1}
	path := filepath.Join(root, filepath.FromSlash(packfileName(mac)))
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	l := &remoteListing{files: backend.NewLocal(disk.OS{}, root, "token")}
	l.doubt(mac) // nothing is listed yet
	has := func(want bool) {
		t.Helper()
		if err := l.update(t.Context()); err != nil || l.has(mac) != want {
			t.Errorf("has %v, %v; want %v", l.has(mac), err, want)
		}
	}
	has(true)
	l.next = time.Now().Add(time.Hour)
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	has(true) // it is not listed again
	l.doubt(mac)
	has(false)
	l.found(mac)
	has(true)
}
