package snapshotter_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"iter"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/PlakarKorp/kloset/resources"
	"github.com/pierrec/lz4/v4"

	"github.com/snapgate/gateway/snapshotter"
	"github.com/snapgate/gateway/store"
	"github.com/snapgate/gateway/store/storetest"
)

// frameHeader is how many bytes a packfile has before its contents.
const frameHeader = 16

// scrubRig is a store with some snapshots of a share, and what scrubs of it keep.
type scrubRig struct {
	*rig
	store.Config
	root  string // of the store
	dir   string // of what scrubs keep
	now   time.Time
	first snapshotter.ID
	last  snapshotter.ID
}

func newScrubRig(t testing.TB, options ...func(*store.Config)) *scrubRig {
	t.Helper()
	dir := t.TempDir()
	cfg := storetest.Config(dir)
	for _, option := range options {
		option(&cfg)
	}
	s := storetest.Open(t, cfg)
	k := &scrubRig{
		rig: &rig{Snapshotter: newSnapshotter(t, s), t: t, store: s}, Config: cfg,
		root: filepath.Join(dir, "store"), dir: filepath.Join(dir, "scrub"), now: time.Now(),
	}
	k.first = k.commit(snapshotter.ID{}, baseTree().all()...)
	k.n++
	m := meta(k.n)
	m.Parent = k.first
	m.Errors = func() iter.Seq[snapshotter.Failure] {
		return slices.Values([]snapshotter.Failure{{Path: "/a/lost", Text: "permission denied"}})
	}
	var err error
	k.last, err = k.Commit(t.Context(), k.first, seq([]snapshotter.Change{put("/large", file(20, noise(1, 1<<20)))}), m)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func (k *scrubRig) config(scope snapshotter.ScrubScope) snapshotter.ScrubConfig {
	k.now = k.now.Add(time.Second)
	return snapshotter.ScrubConfig{Dir: k.dir, Scope: scope, Now: func() time.Time { return k.now }}
}

func (k *scrubRig) scrub(scope snapshotter.ScrubScope) snapshotter.ScrubReport {
	k.t.Helper()
	rep, err := k.Scrub(k.t.Context(), k.config(scope))
	if err != nil {
		k.t.Fatalf("scrub: %v", err)
	}
	return rep
}

// sound fails the test unless nothing is known to be damaged.
func (k *scrubRig) sound(rep snapshotter.ScrubReport) {
	k.t.Helper()
	if !rep.State.Sound() {
		k.t.Errorf("damage: %+v and %d more", rep.State.Damage, rep.State.More)
	}
}

func (k *scrubRig) files(kind string) []string {
	k.t.Helper()
	list, err := filepath.Glob(filepath.Join(k.root, kind, "*", "*"))
	if err != nil || len(list) == 0 {
		k.t.Fatalf("%s: %q, %v", kind, list, err)
	}
	return list
}

// change makes something else of a file of the store, and returns what undoes it.
func change(t testing.TB, path string, f func([]byte) []byte) (undo func()) {
	t.Helper()
	was, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	is := f(slices.Clone(was))
	if is == nil {
		err = os.Remove(path)
	} else {
		err = os.WriteFile(path, is, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	return func() {
		t.Helper()
		if err := os.WriteFile(path, was, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func flip(bit int) func([]byte) []byte {
	return func(data []byte) []byte {
		data[bit/8] ^= 1 << (bit % 8)
		return data
	}
}

// region is a part of a packfile.
type region struct {
	path     string
	what     string
	from, to int // bytes
	padding  bool
	part     bool // around the blobs
}

// regions takes the packfiles of a store apart, as their format is defined.
func (k *scrubRig) regions() (all []region) {
	k.t.Helper()
	for _, path := range k.files("packfiles") {
		data, err := os.ReadFile(path)
		if err != nil {
			k.t.Fatal(err)
		}
		places, err := k.store.PlacesIn(packfileAt(k.t, path))
		if err != nil || len(places) == 0 {
			k.t.Fatalf("places: %d, %v", len(places), err)
		}
		end := frameHeader
		for _, p := range places {
			from := frameHeader + int(p.Offset)
			end = max(end, from+int(p.Length))
			all = append(all, region{path, p.Type.String(), from, from + int(p.Length), p.Type == resources.RT_RANDOM, false})
		}
		size := len(data)
		footer := size - 36 - int(binary.LittleEndian.Uint32(data[size-36:]))
		all = append(all, region{path, "header", 0, frameHeader, false, true}, region{path, "index", end, footer, false, true},
			region{path, "footer", footer, size - 32, false, true}, region{path, "trailer", size - 32, size, false, true})
	}
	return all
}

// TestScrubFindsFlippedBits flips one bit in each kind of region of each packfile, in all blobs but
// those of which there are many: each is found, and what it concerns is named. What is only padding
// does not count.
func TestScrubFindsFlippedBits(t *testing.T) {
	for _, mode := range []string{"encrypted", "plaintext"} {
		t.Run(mode, func(t *testing.T) {
			var options []func(*store.Config)
			if mode == "plaintext" {
				options = append(options, storetest.Plaintext)
			}
			k := newScrubRig(t, options...)
			k.sound(k.scrub(snapshotter.ScrubAll))
			rng := rand.New(rand.NewPCG(uint64(time.Now().UnixNano()), 1))
			tried := make(map[string]int)
			for _, x := range k.regions() {
				if tried[x.what]++; tried[x.what] > 2 {
					continue
				}
				bit := 8*x.from + rng.IntN(8*(x.to-x.from))
				for !k.matters(x, bit) {
					bit = 8*x.from + rng.IntN(8*(x.to-x.from))
				}
				undo := change(t, x.path, flip(bit))
				rep := k.scrub(snapshotter.ScrubAll)
				k.checkNamed(rep, x, fmt.Sprintf("%s, bit %d of [%d, %d) of %s", x.what, bit, 8*x.from, 8*x.to, filepath.Base(x.path)))
				undo()
				rep = k.scrub(snapshotter.ScrubDamaged)
				k.sound(rep)
				if want := 1; !x.padding && rep.Mended != want {
					t.Errorf("%s: %d mended, want %d", x.what, rep.Mended, want)
				}
			}
			for _, what := range []string{
				"chunk", "object", "vfs-entry", "vfs-node", "vfs-btree", "vfs-summary", "btree-node", "btree-root", "error-entry", "error-node",
				"error-btree", "xattr-node", "xattr-btree", "snapshot", "random", "header", "index", "footer", "trailer",
			} {
				if tried[what] == 0 {
					t.Errorf("no %s among %v", what, tried)
				}
			}
		})
	}
}

// matters reports whether a flipped bit changes what a blob holds: LZ4 has several ways to say the same.
func (k *scrubRig) matters(x region, bit int) bool {
	k.t.Helper()
	if x.part || x.padding {
		return true
	}
	data, err := os.ReadFile(x.path)
	if err != nil {
		k.t.Fatal(err)
	}
	was, err := io.ReadAll(lz4.NewReader(bytes.NewReader(data[x.from:x.to])))
	if err != nil {
		return true // it is encrypted
	}
	is, err := io.ReadAll(lz4.NewReader(bytes.NewReader(flip(bit)(data)[x.from:x.to])))
	return err != nil || !bytes.Equal(is, was)
}

// checkNamed makes sure that a scrub has found one bad region.
func (k *scrubRig) checkNamed(rep snapshotter.ScrubReport, x region, name string) {
	k.t.Helper()
	if x.padding {
		k.sound(rep)
		return
	}
	if len(rep.State.Damage) != 1 {
		k.t.Errorf("%s: damage %+v", name, rep.State.Damage)
		return
	}
	d := rep.State.Damage[0]
	if d.Kind != snapshotter.DamagedPackfile || d.File != filepath.Base(x.path) || d.Text == "" {
		k.t.Errorf("%s: %+v", name, d)
	}
	if x.part {
		return
	}
	if d.Blobs != 1 || len(d.Uses) == 0 {
		k.t.Errorf("%s: %d blobs, uses %+v", name, d.Blobs, d.Uses)
	}
	for _, use := range d.Uses {
		if use.Share != "main" || use.First != k.first && use.First != k.last || use.Snapshots < 1 || use.What == "" {
			k.t.Errorf("%s: use %+v", name, use)
		}
	}
}

// TestScrubNamesVersions damages the content of a file that two snapshots have, and then of one of
// which there are two versions.
func TestScrubNamesVersions(t *testing.T) {
	k := newScrubRig(t)
	third := k.commit(k.last, put("/other", file(30, "x")))
	changed := k.commit(third, put("/large", file(31, noise(2, 600<<10))))
	undo := k.spoilContent("/large", 1<<20)
	rep := k.scrub(snapshotter.ScrubAll)
	if len(rep.State.Damage) != 1 || len(rep.State.Damage[0].Uses) != 1 {
		t.Fatalf("damage %+v", rep.State.Damage)
	}
	use := rep.State.Damage[0].Uses[0]
	if use.Path != "/large" || use.What != "content" || use.Snapshots != 2 || use.First != k.last || use.Last != third || use.Size != 1<<20 {
		t.Errorf("use %+v; want /large of %s and %s, not of %s", use, k.last, third, changed)
	}
	st, err := snapshotter.ReadScrubState(k.dir)
	if err != nil || len(st.Damage) != 1 || st.Damage[0].Uses[0] != use {
		t.Errorf("kept: %+v, %v", st.Damage, err)
	}
	undo()
	k.sound(k.scrub(snapshotter.ScrubDue)) // what is damaged is looked at by each run
}

// TestScrubContentOfDamagedObject damages the content of a file, and an object in another packfile:
// the content is known to be damaged, also when it cannot be told any more whose it is.
func TestScrubContentOfDamagedObject(t *testing.T) {
	k := newScrubRig(t)
	k.spoilContent("/large", 1<<20)
	rep := k.scrub(snapshotter.ScrubAll)
	if len(rep.State.Damage) != 1 {
		t.Fatalf("damage %+v", rep.State.Damage)
	}
	content, blind := rep.State.Damage[0].File, 0
	for _, x := range k.regions() {
		if x.what != "object" {
			continue
		}
		undo := change(t, x.path, flip(8*x.from+rand.IntN(8*(x.to-x.from))))
		rep := k.scrub(snapshotter.ScrubAll)
		i := slices.IndexFunc(rep.State.Damage, func(d snapshotter.Damage) bool { return d.File == content })
		if len(rep.State.Damage) != 2 || i < 0 || rep.State.Damage[i].Blobs != 1 {
			t.Errorf("damage %+v", rep.State.Damage)
		} else if len(rep.State.Damage[i].Uses) == 0 {
			blind++
		}
		undo()
	}
	if blind == 0 {
		t.Error("no object is the content's")
	}
}

// spoilContent flips a bit in the middle of a packfile of about a size.
func (k *scrubRig) spoilContent(_ string, size int64) (undo func()) {
	k.t.Helper()
	return change(k.t, k.content(size), middle)
}

// middle flips a bit in the middle.
func middle(data []byte) []byte { return flip(4 * len(data))(data) }

// content is the first packfile of about a size.
func (k *scrubRig) content(size int64) string {
	k.t.Helper()
	for _, path := range k.files("packfiles") {
		fi, err := os.Stat(path)
		if err != nil {
			k.t.Fatal(err)
		}
		if fi.Size() > size && fi.Size() < size+size/4 {
			return path
		}
	}
	k.t.Fatalf("no packfile of about %d bytes", size)
	return ""
}

// TestScrubFindsFiles takes files of the store away, cuts them off and changes them.
func TestScrubFindsFiles(t *testing.T) {
	nothing := func([]byte) []byte { return nil }
	half := func(data []byte) []byte { return data[:len(data)/2] }
	empty := func(data []byte) []byte { return data[:0] }
	longer := func(data []byte) []byte { return append(data, 0) }
	last := func(data []byte) []byte { return data[:len(data)-1] }
	bit := func(data []byte) []byte { return flip(rand.IntN(8 * len(data)))(data) }
	tests := []struct {
		name string
		kind string // of file
		do   func([]byte) []byte
	}{
		{"missing packfile", "packfiles", nothing},
		{"half a packfile", "packfiles", half},
		{"empty packfile", "packfiles", empty},
		{"packfile that is too long", "packfiles", longer},
		{"packfile without its last byte", "packfiles", last},
		{"missing state", "states", nothing},
		{"half a state", "states", half},
		{"empty state", "states", empty},
		{"state that is too long", "states", longer},
		{"state without its last byte", "states", last},
		{"state with another bit", "states", bit},
	}
	k := newScrubRig(t)
	k.sound(k.scrub(snapshotter.ScrubAll))
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			k.t = t
			for _, path := range k.files(tt.kind) {
				undo := change(t, path, tt.do)
				rep := k.scrub(snapshotter.ScrubAll)
				if len(rep.State.Damage) != 1 || rep.State.Damage[0].File != filepath.Base(path) || rep.State.Damage[0].Kind+"s" != tt.kind {
					t.Errorf("%s: damage %+v", filepath.Base(path), rep.State.Damage)
				} else if d := rep.State.Damage[0]; len(d.Uses) == 0 && (tt.kind == "packfiles" && !strings.HasPrefix(d.Text, "footer") || tt.name == "half a state") {
					t.Errorf("%s: nothing is named: %+v", filepath.Base(path), d)
				}
				undo()
				k.sound(k.scrub(snapshotter.ScrubDue))
			}
		})
	}
}

// TestScrubConfig changes the configuration of the store, bit by bit of a part of them.
func TestScrubConfig(t *testing.T) {
	k := newScrubRig(t)
	path := filepath.Join(k.root, "CONFIG")
	fi, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	for range 20 {
		bit := rand.IntN(int(fi.Size()) * 8)
		undo := change(t, path, flip(bit))
		rep, err := k.Scrub(t.Context(), k.config(snapshotter.ScrubNew))
		if err != nil || len(rep.State.Damage) != 1 || rep.State.Damage[0].Kind != snapshotter.DamagedConfig {
			t.Errorf("bit %d: %+v, %v", bit, rep.State.Damage, err)
		}
		undo()
		k.sound(k.scrub(snapshotter.ScrubNew))
	}
}

// TestScrubCoverage: what is new is read by the next run, all is read within the time, by runs of a
// day, and no run reads all at once.
func TestScrubCoverage(t *testing.T) {
	k := newScrubRig(t)
	id := k.last
	for i := range 8 {
		id = k.commit(id, put(fmt.Sprintf("/f%d", i), file(uint64(40+i), noise(uint64(40+i), 100<<10))))
	}
	rep := k.scrub(snapshotter.ScrubDue)
	all := rep.Packfiles + rep.States
	if rep.State.Files != all || rep.State.Fresh != all {
		t.Errorf("first run: %d files of %+v", all, rep.State)
	}
	k.commit(id, put("/g", file(60, "g")))
	if rep := k.scrub(snapshotter.ScrubNew); rep.Packfiles != 1 || rep.States != 1 {
		t.Errorf("a new snapshot: %d packfiles, %d states", rep.Packfiles, rep.States)
	}
	all += 2
	sum, most := 0, 0
	for day := 1; day <= 30; day++ {
		k.now = k.now.Add(24 * time.Hour)
		rep := k.scrub(snapshotter.ScrubDue)
		n := rep.Packfiles + rep.States
		sum, most = sum+n, max(most, n)
		if rep.State.Fresh != all {
			t.Errorf("day %d: %d of %d were read within 30 days", day, rep.State.Fresh, all)
		}
	}
	if sum < all || most > all*2/3 {
		t.Errorf("%d reads of %d files, %d in one run", sum, all, most)
	}
	k.now = k.now.Add(90 * 24 * time.Hour)
	if rep := k.scrub(snapshotter.ScrubDue); rep.Packfiles+rep.States != all {
		t.Errorf("after a long time: %d of %d", rep.Packfiles+rep.States, all)
	}
	k.now = k.now.Add(-300 * 24 * time.Hour) // a clock that was set back
	if rep := k.scrub(snapshotter.ScrubDue); rep.Packfiles+rep.States != all {
		t.Errorf("after the clock was set back: %d of %d", rep.Packfiles+rep.States, all)
	}
}

// TestScrubGoesOn ends runs in the middle: the next one reads what is left.
func TestScrubGoesOn(t *testing.T) {
	k := newScrubRig(t)
	read := 0
	for i := 0; ; i++ {
		ctx, cancel := context.WithCancel(t.Context())
		cfg := k.config(snapshotter.ScrubAll)
		cfg.Progress = func(snapshotter.ScrubReport) { cancel() }
		rep, err := k.Scrub(ctx, cfg)
		cancel()
		read += rep.Packfiles + rep.States
		if err == nil {
			st := &rep.State
			if !st.All.IsZero() || st.Whole.IsZero() || st.Began.IsZero() || st.Files != read || st.Unread != 0 {
				t.Errorf("read %d: %+v", read, rep.State)
			}
			return
		}
		if rep.State.Unread != rep.State.Files-read {
			t.Errorf("read %d of %d files, and %d were not", read, rep.State.Files, rep.State.Unread)
		}
		if !errors.Is(err, context.Canceled) || i > 100 {
			t.Fatal(err)
		}
	}
}

// TestScrubBesideCommits: commits go on while the store is scrubbed, and what they have made is
// read by the run.
func TestScrubBesideCommits(t *testing.T) {
	k := newScrubRig(t)
	cfg := k.config(snapshotter.ScrubAll)
	last, commits := k.last, 0
	cfg.Progress = func(snapshotter.ScrubReport) {
		if commits < 5 {
			commits++
			last = k.commit(last, put(fmt.Sprintf("/c%d", commits), file(uint64(70+commits), noise(uint64(commits), 10<<10))))
		}
	}
	rep, err := k.Scrub(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	k.sound(rep)
	if want := len(k.files("packfiles")) + len(k.files("states")); rep.Packfiles+rep.States != want || commits != 5 {
		t.Errorf("read %d files of %d", rep.Packfiles+rep.States, want)
	}
}

// TestScrubAlone: one run at a time.
func TestScrubAlone(t *testing.T) {
	k := newScrubRig(t)
	cfg := k.config(snapshotter.ScrubAll)
	var once sync.Once
	cfg.Progress = func(snapshotter.ScrubReport) {
		once.Do(func() {
			if _, err := k.Scrub(t.Context(), k.config(snapshotter.ScrubNew)); !errors.Is(err, snapshotter.ErrScrubbing) {
				t.Errorf("got %v, want ErrScrubbing", err)
			}
		})
	}
	if _, err := k.Scrub(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
}

// TestScrubUnused: what no snapshot uses any more may be as it likes.
func TestScrubUnused(t *testing.T) {
	k := newScrubRig(t)
	next := k.commit(k.last, remove("/large"))
	if err := k.Remove(t.Context(), k.last); err != nil {
		t.Fatal(err)
	}
	k.spoilContent("/large", 1<<20)
	rep := k.scrub(snapshotter.ScrubAll)
	k.sound(rep)
	if rep.Unused != 1 {
		t.Errorf("%d damaged blobs that are not used, want 1", rep.Unused)
	}
	if err := k.Check(t.Context(), next); err != nil {
		t.Error(err)
	}
}

// TestScrubForgotten: when what scrubs have left cannot be read, a store of any size is not called sound before all of it was read
// back, by several runs if need be, nor does maintenance remove anything.
func TestScrubForgotten(t *testing.T) {
	k := newScrubRig(t)
	k.sound(k.scrub(snapshotter.ScrubAll))
	undo := k.spoilContent("/large", 1<<20)
	files := k.scrub(snapshotter.ScrubAll).State.Files
	if err := os.WriteFile(filepath.Join(k.dir, "scrub.json"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	run := func(ctx context.Context, scope snapshotter.ScrubScope, progress func(snapshotter.ScrubReport)) (snapshotter.ScrubReport, error) {
		t.Helper()
		cfg := k.config(scope)
		cfg.AtOnce, cfg.Progress = 1, progress // it is a large one
		return k.Scrub(ctx, cfg)
	}
	maintain := snapshotter.MaintainConfig{Dir: t.TempDir(), Grace: snapshotter.DefaultGrace}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	rep, err := run(ctx, snapshotter.ScrubNew, func(snapshotter.ScrubReport) { cancel() })
	if read := rep.Packfiles + rep.States; !errors.Is(err, context.Canceled) || read == 0 || read == files {
		t.Fatalf("%d of %d files were read: %v", read, files, err)
	}
	if rep.State.Sound() || len(k.store.Distrusted()) != 1 {
		t.Errorf("cut off: sound %v, %d packfiles are distrusted", rep.State.Sound(), len(k.store.Distrusted()))
	}
	if st, err := snapshotter.ReadScrubState(k.dir); err != nil || st.Sound() || !errors.Is(st.Known(), snapshotter.ErrForgotten) {
		t.Errorf("a process that begins: sound %v, %v, %v", st.Sound(), st.Known(), err)
	}
	if _, err := k.Maintain(t.Context(), maintain); !errors.Is(err, snapshotter.ErrDoubt) || !errors.Is(err, snapshotter.ErrForgotten) {
		t.Errorf("maintenance: %v", err)
	}
	if rep, err := run(t.Context(), snapshotter.ScrubDamaged, nil); err != nil || rep.State.Sound() {
		t.Errorf("nothing more is read: sound %v, %v", rep.State.Sound(), err)
	}
	rest, err := run(t.Context(), snapshotter.ScrubNew, nil)
	if read := rep.Packfiles + rep.States + rest.Packfiles + rest.States; err != nil || read != files {
		t.Errorf("%d of %d files were read: %v", read, files, err)
	}
	if len(rest.State.Damage) != 1 || rest.State.Known() != nil {
		t.Errorf("at the end: %v, damage %+v", rest.State.Known(), rest.State.Damage)
	}
	undo()
	k.sound(k.scrub(snapshotter.ScrubDamaged))
	if _, err := k.Maintain(t.Context(), maintain); err != nil {
		t.Errorf("maintenance at the end: %v", err)
	}
}

// TestScrubMuchDamage: what is written of much damage can be read again, and each file has a use.
func TestScrubMuchDamage(t *testing.T) {
	const most = 1000
	uses := make([]snapshotter.Use, most)
	for i := range uses {
		uses[i] = snapshotter.Use{Share: "main", Path: fmt.Sprintf("/dir/%060d", i), What: "content", Size: 1, Snapshots: 1, FirstTime: time.Now(), LastTime: time.Now()}
	}
	st := snapshotter.ScrubState{Store: "id"}
	for i := range most {
		st.Damage = append(st.Damage, snapshotter.Damage{Kind: snapshotter.DamagedPackfile, File: fmt.Sprintf("%064x", i), Blobs: most, Uses: uses})
	}
	dir := t.TempDir()
	if err := snapshotter.WriteScrubState(dir, &st); err != nil {
		t.Fatal(err)
	}
	got, err := snapshotter.ReadScrubState(dir)
	if err != nil || len(got.Damage) != most {
		t.Fatalf("%d files, %v", len(got.Damage), err)
	}
	for i := range got.Damage {
		if d := &got.Damage[i]; len(d.Uses) == 0 || len(d.Uses)+d.More != most {
			t.Fatalf("file %d: %d uses and %d more", i, len(d.Uses), d.More)
		}
	}
	if len(got.Damage[0].Uses) != most || len(got.Damage[most-1].Uses) != 1 {
		t.Errorf("%d uses of the first file, %d of the last", len(got.Damage[0].Uses), len(got.Damage[most-1].Uses))
	}
}

// TestScrubOlderCopy puts an older copy of the store back: its states are missed until somebody says
// that this is so.
func TestScrubOlderCopy(t *testing.T) {
	k := newScrubRig(t)
	k.scrub(snapshotter.ScrubAll)
	states, packs := k.files("states"), k.files("packfiles")
	k.commit(k.last, put("/new", file(80, "new")))
	k.scrub(snapshotter.ScrubNew)
	for _, path := range append(k.files("states"), k.files("packfiles")...) {
		if !slices.Contains(states, path) && !slices.Contains(packs, path) {
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
		}
	}
	rep := k.scrub(snapshotter.ScrubDue)
	if len(rep.State.Damage) != 1 || !strings.Contains(rep.State.Damage[0].Text, "missing") {
		t.Errorf("damage %+v", rep.State.Damage)
	}
	cfg := k.config(snapshotter.ScrubDue)
	cfg.Accept = true
	rep, err := k.Scrub(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	k.sound(rep)
}
