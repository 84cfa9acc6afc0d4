package snapshotter_test

import (
	"encoding/hex"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/PlakarKorp/kloset/objects"
	"github.com/google/go-cmp/cmp"

	"github.com/snapgate/gateway/snapshotter"
	"github.com/snapgate/gateway/store"
	"github.com/snapgate/gateway/store/storetest"
)

// packfiles lists the packfiles of the store in dir with their sizes.
func packfiles(t testing.TB, dir string) map[string]int64 {
	t.Helper()
	return packfilesIn(t, filepath.Join(dir, "store", "packfiles", "*"))
}

// packfilesIn lists those of one of its directories, or of a pattern of them, that are whole.
func packfilesIn(t testing.TB, dir string) map[string]int64 {
	t.Helper()
	list, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil {
		t.Fatal(err)
	}
	sizes := make(map[string]int64)
	for _, p := range list {
		if strings.HasPrefix(filepath.Base(p), "tmp.") {
			continue // it is being written
		}
		fi, err := os.Stat(p)
		if err != nil {
			t.Fatal(err)
		}
		sizes[p] = fi.Size()
	}
	return sizes
}

// packfileAt is the packfile that is at a path of a local store.
func packfileAt(t testing.TB, path string) objects.MAC {
	t.Helper()
	raw, err := hex.DecodeString(filepath.Base(path))
	if err != nil {
		t.Fatal(err)
	}
	return objects.MAC(raw)
}

// lossRig is a store of two snapshots: the base tree, and with /large, whose content has
// packfiles of its own.
type lossRig struct {
	*rig
	dir           string
	cfg           store.Config
	first, second snapshotter.ID
	large         item
	meta1, meta2  []string // packfiles with the metadata, and the small contents, of the two
	contents      []string // packfiles with the content of /large
	log           *slog.Logger
}

func newLossRig(t *testing.T) *lossRig {
	t.Helper()
	dir := t.TempDir()
	l := &lossRig{dir: dir, cfg: storetest.Config(dir), large: file(20, string(randomBytes(t, 3<<20)))}
	l.start(t)
	l.first = l.commit(snapshotter.ID{}, baseTree().all()...)
	for p := range packfiles(t, dir) {
		l.meta1 = append(l.meta1, p)
	}
	l.second = l.commit(l.first, put("/large", l.large))
	for p, size := range packfiles(t, dir) {
		switch {
		case slices.Contains(l.meta1, p):
		case size > 1<<20:
			l.contents = append(l.contents, p)
		default:
			l.meta2 = append(l.meta2, p)
		}
	}
	if len(l.meta1) == 0 || len(l.meta2) == 0 || len(l.contents) == 0 {
		t.Fatalf("packfiles: %v %v %v", l.meta1, l.meta2, l.contents)
	}
	return l
}

// start opens the store, as a process does that starts.
func (l *lossRig) start(t *testing.T) {
	t.Helper()
	s, err := store.Open(t.Context(), l.cfg)
	if err != nil {
		t.Fatal(err)
	}
	snap, err := snapshotter.New(t.Context(), snapshotter.Config{Store: s, Logger: l.log})
	if err != nil {
		t.Fatal(err)
	}
	n := uint64(0)
	if l.rig != nil {
		n = l.n
	}
	l.rig = &rig{Snapshotter: snap, t: t, store: s, n: n}
}

func (l *lossRig) stop(t *testing.T) {
	t.Helper()
	if err := errors.Join(l.Close(), l.store.Close()); err != nil {
		t.Error(err)
	}
}

// dropMirror forgets the local copies of metadata.
func (l *lossRig) dropMirror() error {
	copies, err := filepath.Glob(filepath.Join(l.dir, "cache", "metadata", "*"))
	for _, p := range copies {
		err = errors.Join(err, os.Remove(p))
	}
	return err
}

// checkedElsewhere reads and checks a snapshot as another process does, which has the store
// and nothing else.
func (l *lossRig) checkedElsewhere(t *testing.T, id snapshotter.ID, want tree) {
	t.Helper()
	s := storetest.Open(t, otherConfig(l.store))
	other := &rig{Snapshotter: newSnapshotter(t, s), t: t, store: s}
	other.expect(id, want)
}

func removeAll(t *testing.T, paths ...[]string) {
	t.Helper()
	for _, p := range slices.Concat(paths...) {
		if err := os.Remove(p); err != nil {
			t.Fatal(err)
		}
	}
}

// TestLostPackfiles removes packfiles from the store behind the gateway's back. Whatever is
// published after that refers to nothing that is missing, and uploads go on.
func TestLostPackfiles(t *testing.T) {
	tests := []struct {
		name     string
		lose     func(t *testing.T, l *lossRig)
		gone     bool // the snapshots, and with them the base
		lost     uint64
		want     func(large item) tree // but for what is new
		mended   bool                  // the older snapshot is whole afterwards
		sameAs   string                // "/large": what is new has its bytes
		checksOK bool                  // the base is whole before the commit: it was mended at the start
	}{
		{
			name:   "metadata, with local copies",
			lose:   func(t *testing.T, l *lossRig) { removeAll(t, l.meta1, l.meta2) },
			want:   func(large item) tree { return with(map[string]*item{"/large": ptr(large)}) },
			mended: true,
		},
		{
			name: "a content",
			lose: func(t *testing.T, l *lossRig) { removeAll(t, l.contents) },
			want: func(item) tree { return baseTree() },
			lost: 1,
		},
		{
			name:   "a content that is uploaded again",
			lose:   func(t *testing.T, l *lossRig) { removeAll(t, l.contents) },
			want:   func(item) tree { return baseTree() },
			lost:   1,
			sameAs: "/large",
			mended: true,
		},
		{
			name: "everything",
			lose: func(t *testing.T, l *lossRig) {
				removeAll(t, l.meta1, l.meta2, l.contents)
				if err := l.dropMirror(); err != nil {
					t.Fatal(err)
				}
			},
			gone: true,
			want: func(item) tree { return tree{} },
		},
	}
	for _, tt := range tests {
		for _, restart := range []bool{false, true} {
			name := tt.name + ", running"
			if restart {
				name = tt.name + ", at start"
			}
			t.Run(name, func(t *testing.T) {
				l := newLossRig(t)
				if restart {
					l.stop(t)
				}
				tt.lose(t, l)
				if restart {
					l.start(t)
				}
				defer func() { l.stop(t) }()
				if restart && tt.mended && tt.sameAs == "" {
					l.checkedElsewhere(t, l.second, tt.want(l.large)) // put back at the start
				} else if err := l.Check(t.Context(), l.second); err == nil {
					t.Error("a check passes although packfiles are missing")
				}

				data := "new"
				if tt.sameAs != "" {
					data = l.large.Data
				}
				fresh := file(30, data)
				changes := []snapshotter.Change{put("/new", fresh)}
				base := l.second
				if tt.gone {
					if _, err := l.Commit(t.Context(), base, seq(changes), meta(9)); !errors.Is(err, snapshotter.ErrNoSnapshot) {
						t.Fatalf("commit on a base that is lost: got %v, want ErrNoSnapshot", err)
					}
					base = snapshotter.ID{}
					changes = append([]snapshotter.Change{put("/", dir(1))}, changes...)
				}
				id := l.commit(base, changes...)
				want := tt.want(l.large)
				want["/new"] = fresh
				if tt.gone {
					want["/"] = dir(1)
				}
				l.expect(id, want)
				l.checkedElsewhere(t, id, want)
				if tt.mended {
					l.checkedElsewhere(t, l.second, with(map[string]*item{"/large": ptr(l.large)}))
				}
				snap, err := l.Snapshot(t.Context(), id)
				if err != nil || snap.Lost != tt.lost || slices.Contains(snap.Tags, "lost=1") != (tt.lost > 0) {
					t.Errorf("lost %d, tags %v, %v; want %d", snap.Lost, snap.Tags, err, tt.lost)
				}

				// The next one has nothing to leave out.
				id = l.commit(id, put("/next", fresh))
				want["/next"] = fresh
				l.checkedElsewhere(t, id, want)
				snap, err = l.Snapshot(t.Context(), id)
				if err != nil || snap.Lost != tt.lost || slices.ContainsFunc(snap.Tags, func(s string) bool { return strings.HasPrefix(s, "lost") }) {
					t.Errorf("next: lost %d, tags %v, %v; want %d", snap.Lost, snap.Tags, err, tt.lost)
				}
			})
		}
	}
}

// TestLostDirectories takes away the metadata of the older snapshot and their copies: of the
// newer one, what it has written itself can be read.
func TestLostDirectories(t *testing.T) {
	l := newLossRig(t)
	defer func() { l.stop(t) }()
	// The root's own entry is not among what is lost: without it there is nothing to go on from.
	second := l.commit(l.second, from("/", put("/", dir(8))))
	removeAll(t, l.meta1)
	l.stop(t)
	if err := l.dropMirror(); err != nil {
		t.Fatal(err)
	}
	l.start(t)
	new1, new2, new3 := file(30, "one"), file(31, "two"), file(32, "three")
	id := l.commit(second, put("/a/new", new1), from("/a/sub", put("/moved", dir(7))), put("/new", new2))
	s := storetest.Open(t, otherConfig(l.store))
	other := &rig{Snapshotter: newSnapshotter(t, s), t: t, store: s}
	if err := other.Check(t.Context(), id); err != nil {
		t.Error(err)
	}
	got := other.read(id)
	for p, want := range (tree{"/a/new": new1, "/new": new2, "/large": l.large}) {
		if d := cmp.Diff(want, got[p]); d != "" {
			t.Errorf("%s: %s", p, d)
		}
	}
	snap, err := l.Snapshot(t.Context(), id)
	if err != nil || snap.Lost == 0 {
		t.Errorf("lost %d, %v", snap.Lost, err)
	}
	id = l.commit(id, put("/a/new3", new3))
	got["/a/new3"] = new3
	l.checkedElsewhere(t, id, got)
	if next, err := l.Snapshot(t.Context(), id); err != nil || next.Lost != snap.Lost || next.Pulled() {
		t.Errorf("next: lost %d, %v; want %d", next.Lost, err, snap.Lost)
	}

	// A pull has looked at all of its source again.
	m := meta(9)
	m.Source = snapshotter.Source{Type: "fs", Location: "fs:///srv"}
	if id, err = l.Commit(t.Context(), id, seq([]snapshotter.Change{put("/a/new4", new3)}), m); err != nil {
		t.Fatal(err)
	}
	if snap, err = l.Snapshot(t.Context(), id); err != nil || snap.Lost != 0 || !snap.Pulled() {
		t.Errorf("pulled: lost %d, %v", snap.Lost, err)
	}
}

// TestLostPackfileComesBack puts back by hand what was lost.
func TestLostPackfileComesBack(t *testing.T) {
	l := newLossRig(t)
	defer func() { l.stop(t) }()
	away := filepath.Join(l.dir, "away")
	move := func(from, to string) {
		t.Helper()
		if err := os.Rename(from, to); err != nil {
			t.Fatal(err)
		}
	}
	move(l.contents[0], away)
	x := file(30, "x")
	id := l.commit(l.second, put("/x", x))
	l.checkedElsewhere(t, id, with(map[string]*item{"/x": &x}))
	move(away, l.contents[0])
	// The file can be taken from the older snapshot again.
	id = l.commit(id, put("/large", l.large))
	l.checkedElsewhere(t, id, with(map[string]*item{"/x": &x, "/large": &l.large}))
	l.checkedElsewhere(t, l.second, with(map[string]*item{"/large": &l.large}))
	if size := packfiles(t, l.dir); len(size) != len(l.meta1)+len(l.meta2)+len(l.contents)+2 {
		t.Errorf("%d packfiles: bytes that are there were stored again", len(size))
	}
}

// TestUnreadablePackfiles: what cannot be looked at is not lost.
func TestUnreadablePackfiles(t *testing.T) {
	tests := []struct {
		name string
		hide func(packfiles string) error
	}{
		{"directory gone", func(p string) error { return os.Rename(p, p+".away") }},
		{"directory empty", func(p string) error { return errors.Join(os.Rename(p, p+".away"), os.Mkdir(p, 0o700)) }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			l := newLossRig(t)
			defer func() { l.stop(t) }()
			path := filepath.Join(l.dir, "store", "packfiles")
			if err := tt.hide(path); err != nil {
				t.Fatal(err)
			}
			x := put("/x", file(30, "x"))
			if _, err := l.Commit(t.Context(), l.second, seq([]snapshotter.Change{x}), meta(9)); !errors.Is(err, snapshotter.ErrUnavailable) {
				t.Errorf("got %v, want ErrUnavailable", err)
			}
			if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
				t.Fatal(err)
			}
			if err := os.Rename(path+".away", path); err != nil {
				t.Fatal(err)
			}
			l.expect(l.commit(l.second, x), with(map[string]*item{"/x": ptr(file(30, "x")), "/large": &l.large}))
		})
	}
}
