package watch_test

import (
	"context"
	"fmt"
	"iter"
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/snapgate/gateway/cmd/gateway/internal/watch"
	"github.com/snapgate/gateway/snapshotter"
)

// tree is what a snapshot has: paths to files.
type tree map[string]snapshotter.Entry

// file is a file of a type and entropy; files of one name and version have the same bytes.
func file(object string, size int64, contentType string, entropy float64) snapshotter.Entry {
	e := snapshotter.Entry{Kind: snapshotter.File, Size: size, ContentType: contentType, Entropy: entropy}
	copy(e.Object[:], object)
	return e
}

func text(object string) snapshotter.Entry {
	return file(object, 5000, "text/plain; charset=utf-8", 4.5)
}
func picture(object string) snapshotter.Entry {
	return file(object, 1<<20, "image/jpeg", 7.97)
}
func random(object string) snapshotter.Entry {
	return file(object, 5000, "application/octet-stream", 7.96)
}
func archive(object string) snapshotter.Entry { return file(object, 5000, "application/gzip", 7.96) }

// many makes n files of names and objects with their numbers.
func many(n int, name string, of func(string) snapshotter.Entry, object string) tree {
	t := tree{}
	for i := range n {
		t[fmt.Sprintf(name, i)] = of(fmt.Sprintf(object, i))
	}
	return t
}

func join(trees ...tree) tree {
	all := tree{}
	for _, t := range trees {
		maps.Copy(all, t)
	}
	return all
}

// diff is the difference between trees as a store tells it.
func diff(was, now tree) iter.Seq2[snapshotter.Difference, error] {
	return func(yield func(snapshotter.Difference, error) bool) {
		for _, p := range slices.Sorted(maps.Keys(join(was, now))) {
			d := snapshotter.Difference{Path: p}
			if e, ok := was[p]; ok {
				d.Was = &e
			}
			if e, ok := now[p]; ok {
				d.Now = &e
			}
			if d.Was != nil && d.Now != nil && *d.Was == *d.Now {
				continue
			}
			if !yield(d, nil) {
				return
			}
		}
	}
}

func TestCompare(t *testing.T) {
	texts := many(30, "/doc-%d/report.doc", text, "doc %d")
	for name, tt := range map[string]struct {
		was, now tree
		want     watch.Changes
	}{
		"nothing":             {texts, texts, watch.Changes{}},
		"removed":             {texts, tree{}, watch.Changes{Removed: 30}},
		"added":               {tree{}, texts, watch.Changes{}},
		"renamed":             {texts, many(30, "/elsewhere/%d", text, "doc %d"), watch.Changes{}},
		"edited":              {texts, many(30, "/doc-%d/report.doc", text, "edited %d"), watch.Changes{Overwritten: 30}},
		"encrypted":           {texts, many(30, "/doc-%d/report.doc", random, "enc %d"), watch.Changes{Overwritten: 30, Scrambled: 30}},
		"given an ending":     {texts, many(30, "/doc-%d/report.doc.locked", random, "enc %d"), watch.Changes{Overwritten: 30, Scrambled: 30, Extension: ".locked"}},
		"given another":       {texts, many(30, "/doc-%d/report.enc", random, "enc %d"), watch.Changes{Overwritten: 30, Scrambled: 30, Extension: ".enc"}},
		"compressed":          {texts, many(30, "/doc-%d/report.doc.gz", archive, "gz %d"), watch.Changes{Overwritten: 30}},
		"pictures":            {many(30, "/%d.jpg", picture, "p %d"), many(30, "/%d.jpg", picture, "q %d"), watch.Changes{Overwritten: 30}},
		"pictures, encrypted": {many(30, "/%d.jpg", picture, "p %d"), many(30, "/%d.jpg", random, "q %d"), watch.Changes{Overwritten: 30, Scrambled: 30}},
		"encrypted before":    {many(30, "/%d.vault", random, "p %d"), many(30, "/%d.vault", random, "q %d"), watch.Changes{Overwritten: 30}},
		"rotated":             {many(30, "/backup-2026-11-25-%d.tar", text, "a %d"), many(30, "/backup-2026-12-01-%d.tar", text, "b %d"), watch.Changes{Overwritten: 30}},
		"rotated, and gone":   {many(30, "/backup-25-%d.tar", text, "a %d"), many(10, "/backup-26-%d.tar", text, "b %d"), watch.Changes{Removed: 20, Overwritten: 10}},
		"small": {
			many(30, "/%d", func(o string) snapshotter.Entry { return file(o, 900, "text/plain", 4) }, "a %d"),
			many(30, "/%d", func(o string) snapshotter.Entry { return file(o, 900, "application/octet-stream", 7.8) }, "b %d"), watch.Changes{Overwritten: 30},
		},
		"directories and links": {
			tree{"/d": {Kind: snapshotter.Dir}, "/l": {Kind: snapshotter.Symlink}}, tree{"/l": text("x")}, watch.Changes{},
		},
	} {
		got, err := watch.Compare(diff(tt.was, tt.now))
		if d := cmp.Diff(tt.want, got); d != "" || err != nil {
			t.Errorf("%s: %v (-want +got):\n%s", name, err, d)
		}
	}
}

// shannon is the entropy of data in bits a byte.
func shannon(data []byte) (e float64) {
	var counts [256]int
	for _, b := range data {
		counts[b]++
	}
	for _, n := range counts {
		if p := float64(n) / float64(len(data)); n > 0 {
			e -= p * math.Log2(p)
		}
	}
	return e
}

// What random bytes hold, of whatever length, is what is taken for random; text and half of it is not.
func TestEntropyOfRandomBytes(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for _, size := range []int{1024, 1500, 4096, 65536} {
		for range 20 {
			data := make([]byte, size)
			for i := range data {
				data[i] = byte(rng.Uint32())
			}
			for want := range 2 {
				if want = 1 - want; want == 0 {
					copy(data, strings.Repeat("a", size/2))
				}
				now := file("b", int64(size), "application/octet-stream", shannon(data))
				got, err := watch.Compare(diff(tree{"/x": text("a")}, tree{"/x": now}))
				if err != nil || got.Scrambled != want {
					t.Errorf("%d bytes: %d scrambled, want %d (%v bits)", size, got.Scrambled, want, now.Entropy)
				}
			}
		}
	}
}

// world is a share with its snapshots, and who watches it.
type world struct {
	*rig
	trees    map[snapshotter.ID]tree
	expect   watch.Expect
	found    []string
	compared int // files that were looked at
	now      time.Time
}

func newWorld(t *testing.T) *world {
	w := &world{
		rig: newRig(t), trees: map[snapshotter.ID]tree{}, now: time.Now().Add(-1000 * 24 * time.Hour),
		expect: watch.Expect{MaxShrink: 0.5, MaxDeletion: 0.5, MaxOverwrite: 0.5},
	}
	w.cfg.Inspect = func(_ context.Context, n *watch.New) error {
		found, err := n.Judge(w.expect, func(was, now snapshotter.ID) (watch.Changes, error) {
			for range diff(w.trees[was], w.trees[now]) {
				w.compared++
			}
			return watch.Compare(diff(w.trees[was], w.trees[now]))
		})
		for _, f := range found {
			w.found = append(w.found, fmt.Sprintf("%s: %s; good is %d", f.Kind, f.Text, f.Good.Sequence))
		}
		return err
	}
	w.open(t)
	w.want(t, "the first look", []string{"a"})
	return w
}

// commit makes a snapshot after a while, which is not looked at yet.
func (w *world) commit(files tree, after time.Duration) {
	w.now = w.now.Add(after)
	n := uint64(len(w.list) + 1)
	w.made("a", n, w.now)
	s := &w.list[0]
	s.ID = snapshotter.ID{byte(n >> 8), byte(n), 'a'}
	for _, e := range files {
		s.Files++
		s.Size += uint64(e.Size)
	}
	w.trees[s.ID] = maps.Clone(files)
}

// see makes a snapshot and has it looked at; it returns what was found.
func (w *world) see(t *testing.T, files tree, after time.Duration) []string {
	t.Helper()
	w.commit(files, after)
	w.found = nil
	if _, err := w.look("a"); err != nil {
		t.Fatal(err)
	}
	return w.found
}

func TestJudge(t *testing.T) {
	docs, hour := many(100, "/%d.doc", text, "doc %d"), time.Hour
	for name, tt := range map[string]struct {
		expect *watch.Expect
		days   []tree
		want   []string
	}{
		"mass deletion": {days: []tree{docs, many(40, "/%d.doc", text, "doc %d")}, want: []string{
			"mass-deletion: 60 of 100 files were removed; good is 1", "shrink: it has shrunk from 488 KiB to 195 KiB; good is 1",
		}},
		"mass overwrite": {days: []tree{docs, join(docs, many(30, "/%d.doc", random, "enc %d"))}, want: []string{
			"mass-overwrite: 30 of 30 files that were overwritten look encrypted, and did not before; good is 1",
		}},
		"renamed by ransomware": {days: []tree{docs, many(100, "/%d.doc.crypt", random, "enc %d")}, want: []string{
			"mass-overwrite: 100 of 100 files that were overwritten look encrypted, and did not before; most are called *.crypt now; good is 1",
		}},
		"a few encrypted among many": {days: []tree{docs, join(many(100, "/%d.doc", text, "new %d"), many(30, "/%d.doc", random, "enc %d"))}},
		"half deleted":               {days: []tree{docs, many(50, "/%d.doc", text, "doc %d")}},
		"few files":                  {days: []tree{many(19, "/%d", text, "%d"), {}}},
		"deleted bit by bit": {days: []tree{docs, many(75, "/%d.doc", text, "doc %d"), many(60, "/%d.doc", text, "doc %d"), many(49, "/%d.doc", text, "doc %d")}, want: []string{
			"mass-deletion: 51 of 100 files were removed; good is 1",
		}},
		"what came the same day": {days: []tree{{}, docs, many(100, "/%d.doc", random, "enc %d")}, want: []string{
			"mass-overwrite: 100 of 100 files that were overwritten look encrypted, and did not before; good is 2",
		}},
		"not expected": {expect: &watch.Expect{}, days: []tree{docs, {}}},
	} {
		w := newWorld(t)
		if tt.expect != nil {
			w.expect = *tt.expect
		}
		if name == "mass deletion" {
			tt.days = []tree{join(docs, tree{"/large": picture("large")}), many(40, "/%d.doc", text, "doc %d")}
			tt.want = []string{
				"mass-deletion: 61 of 101 files were removed; good is 1", "shrink: it has shrunk from 1.5 MiB to 195 KiB; good is 1",
			}
		}
		var got []string
		for _, day := range tt.days {
			got = append(got, w.see(t, day, hour)...)
		}
		if d := cmp.Diff(tt.want, got); d != "" {
			t.Errorf("%s (-want +got):\n%s", name, d)
		}
		// It is told once.
		if again := w.see(t, tt.days[len(tt.days)-1], hour); again != nil {
			t.Errorf("%s: found again: %v", name, again)
		}
	}
}

// Who makes a snapshot of each file is found as well, and several snapshots at a time are looked at as one;
// looking costs what has changed a few times.
func TestOneByOne(t *testing.T) {
	for _, together := range []bool{false, true} {
		w := newWorld(t)
		files := many(200, "/%d.doc", text, "doc %d")
		if got := w.see(t, files, time.Hour); got != nil {
			t.Fatal(got)
		}
		found := []string{}
		for i := range 150 {
			files[fmt.Sprintf("/%d.doc", i)] = random(fmt.Sprintf("enc %d", i))
			if together && i%50 != 49 {
				w.commit(files, time.Minute)
				continue
			}
			found = append(found, w.see(t, files, time.Minute)...)
		}
		if len(found) == 0 || !strings.HasPrefix(found[0], "mass-overwrite: 20 of 20 files") || !strings.HasSuffix(found[0], "good is 1") {
			t.Errorf("found %v, want a mass overwrite from the first on", found)
		}
		if limit := 150 * 10; w.compared > limit {
			t.Errorf("%d files were compared for 150 changes, want %d at most", w.compared, limit)
		}
	}
}

// Whatever a share does that is used as backups use one, nothing is suspicious.
func TestOrdinary(t *testing.T) {
	activities := map[string]func(rng *rand.Rand, day int, t tree){
		"the same again every night": func(_ *rand.Rand, day int, t tree) {
			for p := range t {
				e := t[p]
				e.Version, e.Attr.ModTime = uint64(day), time.Unix(int64(day), 0)
				t[p] = e
			}
		},
		"growth": func(rng *rand.Rand, day int, t tree) {
			for i := range rng.IntN(50) {
				t[fmt.Sprintf("/new/%d-%d", day, i)] = text(fmt.Sprint(day, i))
			}
		},
		"encrypted and compressed backups arrive": func(_ *rand.Rand, day int, t tree) {
			for i := range 30 {
				t[fmt.Sprintf("/dump-%d-%d.age", day, i)] = random(fmt.Sprint("age", day, i))
				t[fmt.Sprintf("/dump-%d-%d.gz", day, i)] = archive(fmt.Sprint("gz", day, i))
			}
		},
		"logs are appended to": func(_ *rand.Rand, day int, t tree) {
			for i := range 40 {
				t[fmt.Sprintf("/log/%d.log", i)] = file(fmt.Sprint(day, i), int64(5000*(day+1)), "text/plain; charset=utf-8", 5)
			}
		},
		"logs are rotated": func(_ *rand.Rand, day int, t tree) {
			for i := range 30 {
				t[fmt.Sprintf("/log/app-%d.log.1", i)] = archive(fmt.Sprint("old", day, i))
				t[fmt.Sprintf("/log/app-%d.log", i)] = text(fmt.Sprint("fresh", day, i))
			}
		},
		"backups of the last 3 days are kept": func(_ *rand.Rand, day int, t tree) {
			for i := range 40 {
				t[fmt.Sprintf("/db/%03d/base-%d.sql", day, i)] = text(fmt.Sprint("sql", day, i))
				delete(t, fmt.Sprintf("/db/%03d/base-%d.sql", day-3, i))
			}
		},
		"temporary files come and go": func(rng *rand.Rand, day int, t tree) {
			for p := range t {
				if strings.HasPrefix(p, "/tmp/") {
					delete(t, p)
				}
			}
			for i := range rng.IntN(60) {
				t[fmt.Sprintf("/tmp/%x", day*100+i)] = text(fmt.Sprint("tmp", day, i))
			}
		},
		"directories are renamed": func(_ *rand.Rand, day int, t tree) {
			for _, p := range slices.Sorted(maps.Keys(t)) {
				if rest, ok := strings.CutPrefix(p, fmt.Sprintf("/project-%c/", 'a'+day%20)); ok {
					t[fmt.Sprintf("/project-%c/", 'a'+(day+1)%20)+rest] = t[p]
					delete(t, p)
				}
			}
		},
		"some files are deleted": func(rng *rand.Rand, _ int, t tree) {
			for p := range t {
				if strings.HasPrefix(p, "/home/") && rng.IntN(50) == 0 {
					delete(t, p)
				}
			}
		},
	}
	names := slices.Sorted(maps.Keys(activities))
	for seed := range uint64(6) {
		rng := rand.New(rand.NewPCG(seed, 1))
		w := newWorld(t)
		files := join(many(300, "/home/%d.doc", text, "doc %d"), many(100, "/project-a/%d.jpg", picture, "p %d"))
		for day := range 15 {
			var did []string
			for range 1 + rng.IntN(3) {
				name := names[rng.IntN(len(names))]
				did = append(did, name)
				activities[name](rng, day, files)
			}
			for i := range 40 { // a nightly job that all of them have
				files[fmt.Sprintf("/nightly/%d", i)] = text(fmt.Sprint("nightly", day, i))
			}
			if got := w.see(t, files, time.Duration(1+rng.IntN(30))*time.Hour); got != nil {
				t.Fatalf("seed %d, day %d, %v: %v", seed, day, did, got)
			}
		}
	}
}

func TestTooSmall(t *testing.T) {
	e := watch.Expect{MinSize: 1 << 20}
	if got, want := e.TooSmall(&snapshotter.Snapshot{Size: 1000}), "the newest snapshot has 1000 B; at least 1.0 MiB are expected"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if got := e.TooSmall(&snapshotter.Snapshot{Size: 1 << 20}) + (&watch.Expect{}).TooSmall(&snapshotter.Snapshot{}); got != "" {
		t.Errorf("got %q, want nothing", got)
	}
}
