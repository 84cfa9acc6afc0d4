package snapshotter_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/PlakarKorp/kloset/caching/sqlite"
)

// indexDB opens kloset's index beside the gateway.
func indexDB(t *testing.T, dir string) (*sqlite.SQLiteCache, string) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "cache", "*", "store", "*", "state.db"))
	if err != nil || len(files) != 1 {
		t.Fatalf("index %v, %v", files, err)
	}
	db, err := sqlite.New(filepath.Dir(files[0]), "state.db", &sqlite.Options{Shared: true})
	if err != nil {
		t.Fatal(err)
	}
	return db, files[0]
}

func execIndex(t *testing.T, dir, query string) {
	t.Helper()
	db, _ := indexDB(t, dir)
	if _, err := db.Exec(query); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
}

// spoilIndex overwrites the page of the index that lists blobs, snapshots among them.
func spoilIndex(t *testing.T, dir string) {
	t.Helper()
	execIndex(t, dir, "PRAGMA wal_checkpoint(TRUNCATE)")
	db, path := indexDB(t, dir)
	var page, size int64
	err := errors.Join(
		db.QueryRow("SELECT rootpage FROM sqlite_master WHERE name = 'deltas'").Scan(&page),
		db.QueryRow("PRAGMA page_size").Scan(&size), db.Close())
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt(randomBytes(t, int(size)), (page-1)*size); err != nil {
		t.Fatal(err)
	}
}

// TestIndexDamagedAtStart: kloset takes an error of its index for the end of a list, and the
// head would seem to be removed.
func TestIndexDamagedAtStart(t *testing.T) {
	l := newLossRig(t)
	l.stop(t)
	spoilIndex(t, l.dir)
	l.start(t)
	defer func() { l.stop(t) }()
	want := with(map[string]*item{"/large": &l.large})
	l.expect(l.second, want)
	want["/x"] = file(30, "x")
	l.checkedElsewhere(t, l.commit(l.second, put("/x", want["/x"])), want)
}

// TestIndexDamagedRunning: a list that cannot be read is an error, not an empty one.
func TestIndexDamagedRunning(t *testing.T) {
	l := newLossRig(t)
	defer func() { l.stop(t) }()
	backup(t, l.store, t.TempDir(), "main") // something to refresh for
	spoilIndex(t, l.dir)
	if err := l.Refresh(t.Context()); err == nil {
		t.Error("a damaged index is not noticed")
	}
	list, err := l.Snapshots(t.Context(), "main")
	if err != nil || len(list) < 2 {
		t.Errorf("%d snapshots, %v; want those that were there", len(list), err)
	}
}

// TestIndexLosesSnapshot: a snapshot that nobody has removed is in the store.
func TestIndexLosesSnapshot(t *testing.T) {
	l := newLossRig(t)
	defer func() { l.stop(t) }()
	removed := l.commit(l.second, put("/x", file(30, "x")))
	removeSnapshot(t, l.rig, removed) // and one that somebody has
	execIndex(t, l.dir, "DELETE FROM deltas")
	if err := l.Refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	list, err := l.Snapshots(t.Context(), "main")
	if err != nil || len(list) != 2 || list[0].ID != l.second {
		t.Fatalf("%d snapshots, %v; want 2", len(list), err)
	}
	want := with(map[string]*item{"/large": &l.large, "/y": ptr(file(31, "y"))})
	l.checkedElsewhere(t, l.commit(l.second, put("/y", want["/y"])), want)
	if _, err := l.Snapshot(t.Context(), removed); err == nil {
		t.Error("the removed snapshot is back")
	}
}
