package snapshotter_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/PlakarKorp/kloset/objects"
	"github.com/PlakarKorp/kloset/repository"
	"github.com/PlakarKorp/kloset/snapshot"
	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/snapgate/gateway/snapshotter"
	"github.com/snapgate/gateway/store"
	"github.com/snapgate/gateway/store/storetest"
)

// otherPassphrase is an option of New: the store has a passphrase of its own.
func otherPassphrase(cfg *store.Config) {
	cfg.Passphrase = func(context.Context) ([]byte, error) { return []byte("another one"), nil }
}

// reopen opens the store of a rig in what stands for another process.
func reopen(t *testing.T, r *rig) *store.Store {
	t.Helper()
	cfg := otherConfig(r.store)
	if !r.store.Encrypted() {
		storetest.Plaintext(&cfg)
	} else if s, err := store.Open(t.Context(), cfg); err != nil {
		otherPassphrase(&cfg)
	} else if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	return storetest.Open(t, cfg)
}

// plakarSync does what plakar sync does.
func plakarSync(t *testing.T, from, to *rig, id snapshotter.ID) {
	t.Helper()
	src, err := snapshot.Load(reopen(t, from).Repository(), objects.MAC(id))
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	dst, err := snapshot.Create(reopen(t, to).Repository(), repository.DefaultType, "", objects.MAC(id), &snapshot.BuilderOptions{NoCheckpoint: true})
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(src.Synchronize(dst), dst.Close()); err != nil {
		t.Fatal(err)
	}
}

// copier makes a Copier between two rigs.
func copier(t *testing.T, from, to *rig, verify bool) *snapshotter.Copier {
	t.Helper()
	c, err := snapshotter.NewCopier(snapshotter.CopierConfig{From: from.Snapshotter, To: to.Snapshotter, Verify: verify})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return c
}

// copyAll copies what is missing and returns how much of it there was.
func copyAll(t *testing.T, c *snapshotter.Copier) int {
	t.Helper()
	plan, err := c.Plan(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range plan.Missing {
		if err := c.Copy(t.Context(), s.ID); err != nil {
			t.Fatalf("copy of %s: %v", s.ID, err)
		}
	}
	return len(plan.Missing)
}

// same compares a snapshot in two stores: its header, its tree and all that kloset keeps; and has
// kloset check the copy, in what stands for another process.
func same(t *testing.T, from, to *rig, id snapshotter.ID) {
	t.Helper()
	other := newSnapshotter(t, reopen(t, to))
	if err := other.Check(t.Context(), id); err != nil {
		t.Errorf("check of the copy: %v", err)
	}
	want, werr := from.Header(id)
	got, gerr := other.Header(id)
	if diff := cmp.Diff(want, got); diff != "" || werr != nil || gerr != nil {
		t.Errorf("header (-want +got):\n%s\n%v %v", diff, werr, gerr)
	}
	whole, werr := from.Whole(id)
	copied, gerr := other.Whole(id)
	if diff := cmp.Diff(whole, copied); diff != "" || werr != nil || gerr != nil {
		t.Errorf("snapshot (-want +got):\n%s\n%v %v", diff, werr, gerr)
	}
	a, err := from.Snapshot(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	b, err := to.Snapshot(t.Context(), id)
	if diff := cmp.Diff(a, b); diff != "" || err != nil {
		t.Errorf("as listed (-want +got):\n%s\n%v", diff, err)
	}
	if diff := cmp.Diff(from.read(id), to.read(id)); diff != "" {
		t.Errorf("as viewed (-want +got):\n%s", diff)
	}
}

// copyHistory commits snapshots of which each changes something else, and returns them.
func copyHistory(r *rig) []snapshotter.ID {
	big := strings.Repeat("0123456789abcdef", 200_000)
	first := baseTree()
	first["/big"] = file(50, big)
	ids := []snapshotter.ID{r.commit(snapshotter.ID{}, first.all()...)}
	next := func(changes ...snapshotter.Change) {
		ids = append(ids, r.commit(ids[len(ids)-1], changes...))
	}
	next(put("/new", file(60, "new")))
	next(put("/big", file(61, big+"and more")))
	next(from("/big", put("/moved", file(62, ""))), remove("/new"))
	next(remove("/big"))
	next(put("/new", dir(9)), put("/new/a", link(63, "b")), put("/new/b", file(64, "")))
	next(put("/new", file(65, "a file again")))
	return ids
}

func TestCopy(t *testing.T) {
	for name, stores := range map[string][2][]func(*store.Config){
		"encrypted":                {nil, {otherPassphrase}},
		"encrypted from plaintext": {{storetest.Plaintext}, nil},
		"plaintext from encrypted": {nil, {storetest.Plaintext}},
		"plaintext":                {{storetest.Plaintext}, {storetest.Plaintext}},
	} {
		t.Run(name, func(t *testing.T) {
			from, to := newRig(t, stores[0]...), newRig(t, stores[1]...)
			ids := copyHistory(from)
			c := copier(t, from, to, true)
			if n := copyAll(t, c); n != len(ids) {
				t.Errorf("%d snapshots copied, want %d", n, len(ids))
			}
			for _, id := range ids {
				same(t, from, to, id)
			}
			if n := copyAll(t, c); n != 0 {
				t.Errorf("%d snapshots copied again", n)
			}
			before := c.Progress()
			if err := c.Copy(t.Context(), ids[0]); err != nil || c.Progress() != before {
				t.Errorf("a snapshot that is there was copied again: %v", err)
			}
		})
	}
}

// TestCopyCostsTheDifference: of a snapshot that differs little from one that is there, what does
// not differ is neither read nor sent.
func TestCopyCostsTheDifference(t *testing.T) {
	from, to := newRig(t), newRig(t)
	tr := tree{"/": dir(0), "/d": dir(1)}
	for i := range 300 {
		tr[fmt.Sprintf("/d/%03d", i)] = file(uint64(100+i), strings.Repeat(fmt.Sprint(i, " "), 1000))
	}
	tr["/big"] = file(1000, string(randomBytes(t, 3<<20)))
	first := from.commit(snapshotter.ID{}, tr.all()...)
	copyAll(t, copier(t, from, to, false))
	second := from.commit(first, remove("/big"), put("/d/007", file(1001, "changed")), remove("/d/008"),
		snapshotter.Change{Path: "/renamed", Kind: snapshotter.File, From: "/big", Attr: attr(0o644, 0), Version: 1002})
	third := from.commit(second, remove("/renamed"))

	fresh := newSnapshotter(t, reopen(t, to))
	to = &rig{Snapshotter: fresh, t: t, store: to.store}
	c := copier(t, from, to, false)
	if err := c.Copy(t.Context(), second); err != nil {
		t.Fatal(err)
	}
	if p := c.Progress(); p.Read != uint64(len("changed")) || p.Sent != p.Read || p.Entries != 2 {
		t.Errorf("copied %+v, want 2 entries and 7 bytes", p)
	}
	if err := c.Copy(t.Context(), third); err != nil {
		t.Fatal(err)
	}
	if p := c.Progress(); p.Read != uint64(len("changed")) {
		t.Errorf("removing a file read %d bytes", p.Read)
	}
	same(t, from, to, second)
	same(t, from, to, third)
}

// TestCopyReadsWhatChanged: of a file that a snapshot before has had, what is where it was is not read,
// and the copy is what it would be.
func TestCopyReadsWhatChanged(t *testing.T) {
	from, to := newRig(t), newRig(t, otherPassphrase)
	// Chunks are of about 1 MiB. One change concerns two, and takes two more at the edges.
	const size, most = 16 << 20, 12 << 20
	first := randomBytes(t, size)
	patched := slices.Concat(first[:size/2], []byte("other"), first[size/2+5:])
	versions := []struct {
		name string
		data []byte
		most uint64
	}{
		{"new", first, size},
		{"appended to", slices.Concat(first, []byte("more")), most},
		{"changed in the middle", patched, most},
		{"with something in front", slices.Concat([]byte("front"), patched), size + 5},
		{"cut", slices.Concat([]byte("front"), patched[:size*3/4]), most},
	}
	var ids []snapshotter.ID
	last := snapshotter.ID{}
	for i, v := range versions {
		last = from.commit(last, tree{"/": dir(0), "/log": file(uint64(50+i), string(v.data))}.all()...)
		ids = append(ids, last)
	}
	c := copier(t, from, to, false)
	for i, v := range versions {
		before := c.Progress().Read
		if err := c.Copy(t.Context(), ids[i]); err != nil {
			t.Fatal(err)
		}
		if got := c.Progress().Read - before; got > v.most || got == 0 {
			t.Errorf("%s: %d bytes of %d were read, want %d at most", v.name, got, len(v.data), v.most)
		}
	}
	other := newSnapshotter(t, reopen(t, to))
	for i, id := range ids {
		if err := other.Check(t.Context(), id); err != nil {
			t.Errorf("%s: %v", versions[i].name, err)
		}
	}
}

func setXattr(t *testing.T, path, name, value string) {
	t.Helper()
	if err := unix.Setxattr(path, name, []byte(value), 0); err != nil {
		t.Fatal(err)
	}
}

// TestCopyForeign: snapshots of plakar are copied with everything that kloset keeps, and what
// differs between two of them is found as well.
func TestCopyForeign(t *testing.T) {
	from, to := newRig(t), newRig(t, otherPassphrase)
	dir := t.TempDir()
	write := func(name, data string) {
		t.Helper()
		p := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(p), 0o700), os.WriteFile(p, []byte(data), 0o640)); err != nil {
			t.Fatal(err)
		}
	}
	write("etc/passwd", "root:x")
	write("big", string(randomBytes(t, 3<<20)))
	write("empty", "")
	if err := os.Symlink("etc/passwd", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	setXattr(t, filepath.Join(dir, "big"), "user.one", "an attribute")
	setXattr(t, filepath.Join(dir, "etc"), "user.two", "another one")
	first := backup(t, from.store, dir, "")
	write("etc/group", "root")
	if err := os.Remove(filepath.Join(dir, "empty")); err != nil {
		t.Fatal(err)
	}
	second := backup(t, from.store, dir, "")

	c := copier(t, from, to, true)
	if err := from.Refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := copyAll(t, c); n != 2 {
		t.Fatalf("%d snapshots copied, want 2", n)
	}
	same(t, from, to, first)
	same(t, from, to, second)
	whole, err := to.Whole(first)
	if err != nil {
		t.Fatal(err)
	}
	xattrs := 0
	for key := range whole {
		if strings.HasPrefix(key, "xattr ") {
			xattrs++
		}
	}
	if xattrs != 2 {
		t.Errorf("%d extended attributes in the copy, want 2", xattrs)
	}
}

// TestCopyOntoPlakars: what plakar sync has copied is known as there, and is built upon.
func TestCopyOntoPlakars(t *testing.T) {
	from, to := newRig(t), newRig(t, otherPassphrase)
	first := from.commit(snapshotter.ID{}, baseTree().all()...)
	plakarSync(t, from, to, first)
	second := from.commit(first, put("/new", file(60, "new")))
	c := copier(t, from, to, true)
	plan, err := c.Plan(t.Context(), nil)
	if err != nil || len(plan.There) != 1 || len(plan.Missing) != 1 || plan.Missing[0].ID != second {
		t.Fatalf("plan %+v, %v", plan, err)
	}
	copyAll(t, c)
	same(t, from, to, second)
	if p := c.Progress(); p.Read != 3 {
		t.Errorf("%d bytes read, want 3: the base is there", p.Read)
	}
}

func TestCopyRefusals(t *testing.T) {
	from, to := newRig(t), newRig(t)
	id := from.commit(snapshotter.ID{}, baseTree().all()...)
	if _, err := snapshotter.NewCopier(snapshotter.CopierConfig{From: from.Snapshotter, To: from.Snapshotter}); !errors.Is(err, snapshotter.ErrSameStore) {
		t.Errorf("copying to itself: %v", err)
	}
	c := copier(t, from, to, false)
	if err := c.Copy(t.Context(), snapshotter.ID{1}); !errors.Is(err, snapshotter.ErrNoSnapshot) {
		t.Errorf("copying nothing: %v", err)
	}
	copyAll(t, c)
	removeSnapshot(t, to, id)
	plan, err := c.Plan(t.Context(), nil)
	if err != nil || len(plan.Missing) != 0 || len(plan.Removed) != 1 || plan.Removed[0].ID != id {
		t.Errorf("plan after the copy was removed: %+v, %v", plan, err)
	}
	if err := c.Copy(t.Context(), id); !errors.Is(err, snapshotter.ErrRemoved) {
		t.Errorf("copying what was removed: %v", err)
	}
}

// TestCopyWithoutIndex has the target's index fail, as it does when the disk of its cache is full: that says
// nothing of the snapshot.
func TestCopyWithoutIndex(t *testing.T) {
	var cache string
	from, to := newRig(t), newRig(t, func(cfg *store.Config) { cache = cfg.CacheDir })
	id := from.commit(snapshotter.ID{}, baseTree().all()...)
	c := copier(t, from, to, false)
	found, err := filepath.Glob(filepath.Join(cache, "*", "store", "*", "state.db"))
	if err != nil || len(found) != 1 {
		t.Fatalf("the index is %q, %v", found, err)
	}
	index := found[0]
	if err := errors.Join(os.Rename(index, index+".aside"), os.Mkdir(index, 0o700)); err != nil {
		t.Fatal(err)
	}
	err = c.Copy(t.Context(), id)
	if errors.Is(err, snapshotter.ErrRemoved) || !errors.Is(err, store.ErrUnavailable) || !strings.Contains(err.Error(), "target: ") {
		t.Errorf("got %v, want that the target's index cannot be read", err)
	}
	if err := errors.Join(os.Remove(index), os.Rename(index+".aside", index)); err != nil {
		t.Fatal(err)
	}
	copyAll(t, c)
	same(t, from, to, id)
}

func TestCopySubset(t *testing.T) {
	from, to := newRig(t), newRig(t)
	ids := copyHistory(from)
	c := copier(t, from, to, false)
	plan, err := c.Plan(t.Context(), func(s snapshotter.Snapshot) bool { return s.ID == ids[3] })
	if err != nil || len(plan.Missing) != 1 || plan.Missing[0].ID != ids[3] {
		t.Fatalf("plan %+v, %v", plan, err)
	}
	if err := c.Copy(t.Context(), ids[3]); err != nil {
		t.Fatal(err)
	}
	same(t, from, to, ids[3])
	// One before it, with one after it as the base.
	if err := c.Copy(t.Context(), ids[0]); err != nil {
		t.Fatal(err)
	}
	same(t, from, to, ids[0])
}

// TestCopyResumes: a copy is cut off before and after a checkpoint. Nothing is there of it as a
// snapshot, and what the checkpoint tells of is not sent again.
func TestCopyResumes(t *testing.T) {
	from := newRig(t)
	tr := tree{"/": dir(0)}
	for i := range 6 {
		tr[fmt.Sprintf("/%d", i)] = file(uint64(100+i), string(randomBytes(t, 8<<20)))
	}
	id := from.commit(snapshotter.ID{}, tr.all()...)
	disk := storetest.NewFaultFS()
	cfg := storetest.Config(t.TempDir())
	cfg.Disk = disk
	cutOff := func(op storetest.Op, path string) error {
		if op == storetest.OpRename && !strings.Contains(path, "locks") {
			return errors.New("cut off")
		}
		return nil
	}
	attempt := func(prepare, checkpoint func()) (sent uint64, err error) {
		st, err := store.Open(t.Context(), cfg)
		if err != nil {
			t.Fatal(err)
		}
		defer st.Close()
		to, err := snapshotter.New(t.Context(), snapshotter.Config{Store: st, Failpoint: func(name string) {
			if name == snapshotter.CheckpointDone {
				checkpoint()
			}
		}})
		if err != nil {
			t.Fatal(err)
		}
		defer to.Close()
		c := copier(t, from, &rig{Snapshotter: to, t: t, store: st}, false)
		snapshotter.SetCheckpoints(c, 1)
		prepare()
		err = c.Copy(t.Context(), id)
		disk.Fail(nil)
		if err == nil {
			same(t, from, &rig{Snapshotter: to, t: t, store: st}, id)
		} else if _, serr := to.Snapshot(t.Context(), id); !errors.Is(serr, snapshotter.ErrNoSnapshot) {
			t.Errorf("a copy that was cut off is there: %v", serr)
		}
		return c.Progress().Sent, err
	}
	cut := func() { disk.Fail(cutOff) }
	if _, err := attempt(cut, func() {}); !errors.Is(err, snapshotter.ErrUnavailable) {
		t.Errorf("cut off from the beginning: %v", err)
	}
	if _, err := attempt(func() {}, cut); !errors.Is(err, snapshotter.ErrUnavailable) {
		t.Errorf("cut off after a checkpoint: %v", err)
	}
	const whole = 6 * 8 << 20
	if sent, err := attempt(func() {}, func() {}); err != nil || sent == 0 || sent >= whole {
		t.Errorf("the last attempt sent %d bytes of %d, %v", sent, whole, err)
	}
}

// TestCopyLosesContents: contents are written behind the calls that put them, and none of those fails. There is no
// snapshot then, although what is written after them is.
func TestCopyLosesContents(t *testing.T) {
	for _, tt := range []struct {
		name                string
		size                int
		checkpoint, removed bool
	}{
		{name: "the disk is full for a moment at the end", size: 4 << 20},
		{name: "the disk is full for a moment at a checkpoint", size: 64 << 10, checkpoint: true},
		{name: "somebody removes a packfile", size: 8 << 20, removed: true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			from := newRig(t)
			id := from.commit(snapshotter.ID{}, tree{"/": dir(0), "/f": file(1, string(randomBytes(t, tt.size)))}.all()...)
			disk := storetest.NewFaultFS()
			cfg := storetest.Config(t.TempDir())
			cfg.Disk = disk
			var wrong atomic.Bool         // has gone
			there := make(chan string, 1) // a packfile of contents
			disk.Fail(func(op storetest.Op, path string) error {
				if op == storetest.OpSyncDir && strings.Contains(path, "packfiles") {
					for name, size := range packfilesIn(t, path) { // of one blob each
						if size > 64<<10 {
							select {
							case there <- name:
							default:
							}
						}
					}
				}
				if !tt.removed && op == storetest.OpRename && strings.Contains(path, "packfiles") && wrong.CompareAndSwap(false, true) {
					return syscall.ENOSPC
				}
				return nil
			})
			attempt := func() error {
				st, err := store.Open(t.Context(), cfg)
				if err != nil {
					t.Fatal(err)
				}
				defer st.Close()
				to := &rig{t: t, store: st}
				to.Snapshotter, err = snapshotter.New(t.Context(), snapshotter.Config{Store: st, Failpoint: func(name string) {
					if !tt.removed || name != snapshotter.FailCommitEntries || wrong.Load() {
						return
					}
					wrong.Store(os.Remove(<-there) == nil)
				}})
				if err != nil {
					t.Fatal(err)
				}
				defer to.Close()
				c := copier(t, from, to, false)
				if tt.checkpoint {
					snapshotter.SetCheckpoints(c, 1)
				}
				if tt.removed {
					snapshotter.SetRotateBlobs(to.Snapshotter, 1<<20, 1)
				}
				err = c.Copy(t.Context(), id)
				if err == nil {
					same(t, from, to, id)
				} else if _, serr := to.Snapshot(t.Context(), id); !errors.Is(serr, snapshotter.ErrNoSnapshot) {
					t.Errorf("a copy that lacks contents is there: %v", serr)
				}
				return err
			}
			if err := attempt(); !wrong.Load() || !errors.Is(err, snapshotter.ErrUnavailable) || errors.Is(err, syscall.ENOSPC) == tt.removed {
				t.Errorf("contents were lost: %v, and the copy: %v", wrong.Load(), err)
			}
			if err := attempt(); err != nil {
				t.Errorf("the next copy: %v", err)
			}
		})
	}
}

// TestCopyOfDamaged: what the source has lost is named, and no half of it is in the target.
func TestCopyOfDamaged(t *testing.T) {
	dir := t.TempDir()
	st := storetest.Open(t, storetest.Config(dir))
	from := &rig{Snapshotter: newSnapshotter(t, st), t: t, store: st}
	to := newRig(t)
	good := from.commit(snapshotter.ID{}, baseTree().all()...)
	known := packfiles(t, dir)
	bad := from.commit(good, put("/new", file(60, string(randomBytes(t, 4<<20)))))
	for name := range packfiles(t, dir) {
		if _, ok := known[name]; ok {
			continue
		}
		spoil(t, name)
	}
	c := copier(t, from, to, false)
	if err := c.Copy(t.Context(), good); err != nil {
		t.Fatal(err)
	}
	err := c.Copy(t.Context(), bad)
	if !errors.Is(err, snapshotter.ErrSourceDamaged) || errors.Is(err, snapshotter.ErrUnavailable) || !strings.Contains(err.Error(), "/new") {
		t.Errorf("copy of a damaged snapshot: %v", err)
	}
	plan, err := c.Plan(t.Context(), nil)
	if err != nil || len(plan.Missing) != 1 || plan.Missing[0].ID != bad {
		t.Errorf("plan %+v, %v", plan, err)
	}
	same(t, from, to, good)
}

// spoil writes into the middle of a packfile of more than 2 MiB.
func spoil(t *testing.T, name string) {
	t.Helper()
	f, err := os.OpenFile(name, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, err = f.WriteAt([]byte("spoilt"), 2<<20)
	if err = errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
}

// TestCopyNotReadBack: a copy that cannot be read is there, and stays one that cannot be read. A target
// that is away says nothing of it.
func TestCopyNotReadBack(t *testing.T) {
	from := newRig(t)
	dir := t.TempDir()
	st := storetest.Open(t, storetest.Config(dir))
	to := &rig{Snapshotter: newSnapshotter(t, st), t: t, store: st}
	good := from.commit(snapshotter.ID{}, baseTree().all()...)
	big := from.commit(good, put("/new", file(60, string(randomBytes(t, 4<<20)))))
	copyAll(t, copier(t, from, to, false))
	for name, size := range packfiles(t, dir) {
		if size < 3<<20 {
			continue
		}
		spoil(t, name)
	}
	next := from.commit(big, put("/other", file(61, "other")))
	for range 2 { // runs
		c := copier(t, from, to, true)
		if err := c.Check(t.Context(), good); err != nil {
			t.Errorf("check of a good copy: %v", err)
		}
		plan, err := c.Plan(t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range plan.Missing {
			if err := c.Copy(t.Context(), s.ID); !errors.Is(err, snapshotter.ErrNotRead) || s.ID != next {
				t.Errorf("copy of %s: %v", s.ID, err)
			}
		}
		for _, id := range []snapshotter.ID{big, next} {
			if err := c.Check(t.Context(), id); !errors.Is(err, snapshotter.ErrNotRead) {
				t.Errorf("check of %s: %v", id, err)
			}
		}
		if err := c.Check(t.Context(), snapshotter.ID{1}); !errors.Is(err, snapshotter.ErrNoSnapshot) {
			t.Errorf("check of nothing: %v", err)
		}
	}
	if err := copier(t, from, to, false).Check(t.Context(), good); err == nil {
		t.Error("checked by a copier that does not verify")
	}
	c := copier(t, from, to, true)
	if err := os.Rename(filepath.Join(dir, "store"), filepath.Join(dir, "away")); err != nil {
		t.Fatal(err)
	}
	if err := c.Check(t.Context(), big); errors.Is(err, snapshotter.ErrNotRead) || !errors.Is(err, snapshotter.ErrUnavailable) {
		t.Errorf("check in a store that is away: %v", err)
	}
}

// TestCopyToFaultyStore: what cannot be written is an error of the target, wherever in a copy it is noticed, and none of the
// snapshot.
func TestCopyToFaultyStore(t *testing.T) {
	bare := tree{"/": dir(0), "/a": dir(1), "/a/b": dir(2), "/l": link(1, "a")}
	full := tree{"/": dir(0), "/f": file(1, "text")}
	for name, tt := range map[string]struct {
		tree  tree
		fails string
		pack  int   // bytes of a packfile
		blobs int64 // of a state
	}{
		"a packfile during the walk": {bare, "packfiles", 1, 1 << 20},
		"a packfile at the end":      {bare, "packfiles", 1 << 20, 1 << 20},
		"a state ahead of the last":  {full, "states", 1 << 20, 1},
		"the state":                  {full, "states", 1 << 20, 1 << 20},
	} {
		t.Run(name, func(t *testing.T) {
			from := newRig(t)
			id := from.commit(snapshotter.ID{}, tt.tree.all()...)
			disk := storetest.NewFaultFS()
			cfg := storetest.Config(t.TempDir())
			cfg.Disk = disk
			st := storetest.Open(t, cfg)
			to := &rig{Snapshotter: newSnapshotter(t, st), t: t, store: st}
			snapshotter.SetRotateBlobs(to.Snapshotter, tt.blobs, tt.pack)
			disk.Fail(func(op storetest.Op, path string) error {
				if op == storetest.OpRename && strings.Contains(path, "/"+tt.fails+"/") {
					return syscall.ENOSPC
				}
				return nil
			})
			c := copier(t, from, to, false)
			err := c.Copy(t.Context(), id)
			var target *snapshotter.TargetError
			if !errors.As(err, &target) || !errors.Is(err, syscall.ENOSPC) || errors.Is(err, snapshotter.ErrSourceDamaged) {
				t.Errorf("got %v, want an error of the target", err)
			}
			disk.Fail(nil)
			if err := c.Copy(t.Context(), id); err != nil {
				t.Fatal(err)
			}
			same(t, from, to, id)
		})
	}
}

func TestCopyToBusyOrMissing(t *testing.T) {
	from := newRig(t)
	id := from.commit(snapshotter.ID{}, baseTree().all()...)
	dir := t.TempDir()
	st := storetest.Open(t, storetest.Config(dir))
	to := &rig{Snapshotter: newSnapshotter(t, st), t: t, store: st}
	c := copier(t, from, to, false)
	release := storetest.LockExclusively(t, st, "vault")
	var locked *store.LockedError
	if err := c.Copy(t.Context(), id); !errors.As(err, &locked) || locked.Host != "vault" {
		t.Errorf("copy to a store that is maintained: %v", err)
	}
	release()
	if err := os.Rename(filepath.Join(dir, "store"), filepath.Join(dir, "away")); err != nil {
		t.Fatal(err)
	}
	if err := c.Copy(t.Context(), id); !errors.Is(err, snapshotter.ErrUnavailable) {
		t.Errorf("copy to a store that is away: %v", err)
	}
	var target *snapshotter.TargetError
	if _, err := c.Plan(t.Context(), nil); !errors.Is(err, snapshotter.ErrUnavailable) || !errors.As(err, &target) {
		t.Errorf("plan for a store that is away: %v", err)
	}
	if err := os.Rename(filepath.Join(dir, "away"), filepath.Join(dir, "store")); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := c.Copy(ctx, id); !errors.Is(err, context.Canceled) {
		t.Errorf("copy that was cancelled: %v", err)
	}
	if err := c.Copy(t.Context(), id); err != nil {
		t.Error(err)
	}
	same(t, from, to, id)
}
