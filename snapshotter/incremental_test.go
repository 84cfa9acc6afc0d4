package snapshotter_test

import (
	"bytes"
	"fmt"
	"iter"
	"log/slog"
	"maps"
	"math/rand/v2"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/snapgate/gateway/snapshotter"
	"github.com/snapgate/gateway/store/storetest"
)

// history makes random trees, one after the other, and the changes between them.
type history struct {
	rng     *rand.Rand
	version uint64
	now     tree
	failed  map[string]string // what could not be captured
}

func newHistory(seed uint64) *history {
	return &history{rng: rand.New(rand.NewPCG(seed, 1)), now: tree{"/": dir(0)}, failed: map[string]string{}}
}

// dirs lists the directories, / first.
func (h *history) dirs() []string {
	var out []string
	for _, p := range h.now.paths() {
		if h.now[p].Kind == snapshotter.Dir {
			out = append(out, p)
		}
	}
	return out
}

func (h *history) pick(list []string) string { return list[h.rng.IntN(len(list))] }

// name is a new or an old name in a directory.
func (h *history) name(dir string) string {
	const letters = "abcdefgh"
	names := []string{
		letters[h.rng.IntN(8):][:1], "file.txt", "picture.png", "ümlaut", "with space", "\xfe\xff", "x!", "x", "x.y", "x-",
		fmt.Sprintf("n%02d", h.rng.IntN(60)),
	}
	return path.Join(dir, h.pick(names))
}

func (h *history) item() item {
	h.version++
	it := item{Attr: attr(0o644, int(h.version)), Version: 5000 + h.version}
	switch h.rng.IntN(10) {
	case 0:
		it.Kind, it.Target = snapshotter.Symlink, fmt.Sprint("to/", h.version)
		it.Attr.Mode = 0o777
	case 1:
		it.Kind, it.Attr.Mode = snapshotter.Dir, 0o750
	default:
		it.Kind = snapshotter.File
		it.Data = strings.Repeat(fmt.Sprint("line ", h.rng.IntN(20), "\n"), h.rng.IntN(40))
		if h.rng.IntN(4) == 0 {
			it.Data = "\x89PNG\r\n\x1a\n" + it.Data
		}
	}
	return it
}

// next makes the next tree and returns the changes that lead to it.
func (h *history) next() []snapshotter.Change {
	base := h.now
	h.now = maps.Clone(base)
	origin := map[string]string{} // of paths in now that continue a base path elsewhere
	for range 1 + h.rng.IntN(12) {
		switch h.rng.IntN(8) {
		case 0:
			h.remove(origin)
		case 1:
			h.rename(base, origin)
		case 2: // attributes
			p := h.pick(h.now.paths())
			it := h.now[p]
			h.version++
			it.Attr.ModTime = it.Attr.ModTime.Add(1e9)
			it.Attr.Mode ^= 0o001
			it.Version = 5000 + h.version
			h.now[p] = it
		default:
			h.put(origin)
		}
	}
	return h.diff(base, origin)
}

// fail makes other things impossible to capture than before, now and then.
func (h *history) fail() {
	switch h.rng.IntN(6) {
	case 0:
		clear(h.failed)
	case 1, 2:
	default:
		for range 1 + h.rng.IntN(6) {
			p := h.pick(h.now.paths())
			switch h.rng.IntN(4) {
			case 0: // there is no such entry
				p = h.name(h.pick(h.dirs()))
			case 1: // nor such a directory
				p = path.Join(h.name(h.pick(h.dirs())), "x", "y")
			}
			h.failed[p] = fmt.Sprint("reason ", h.rng.IntN(9))
		}
		for _, p := range slices.Sorted(maps.Keys(h.failed)) {
			if h.rng.IntN(3) == 0 {
				delete(h.failed, p)
			}
		}
	}
}

// failures lists them in any order, some of them in two parts.
func (h *history) failures() func() iter.Seq[snapshotter.Failure] {
	var list []snapshotter.Failure
	for _, p := range slices.Sorted(maps.Keys(h.failed)) {
		text := h.failed[p]
		if h.rng.IntN(8) == 0 {
			list = append(list, snapshotter.Failure{Path: p, Text: text[:3]})
			h.failed[p] = text[:3] + "; " + text[3:]
			text = text[3:]
		}
		list = append(list, snapshotter.Failure{Path: p, Text: text})
	}
	return failed(list...)
}

// failed makes Meta.Errors.
func failed(list ...snapshotter.Failure) func() iter.Seq[snapshotter.Failure] {
	return func() iter.Seq[snapshotter.Failure] { return slices.Values(list) }
}

func (h *history) put(origin map[string]string) {
	p := h.name(h.pick(h.dirs()))
	if p == "/\xfe\xff" {
		return
	}
	it := h.item()
	if old, ok := h.now[p]; ok && old.Kind == snapshotter.Dir {
		return
	}
	h.now[p] = it
	delete(origin, p)
}

func (h *history) remove(origin map[string]string) {
	p := h.pick(h.now.paths())
	if p == "/" {
		return
	}
	for q := range h.now {
		if q == p || strings.HasPrefix(q, p+"/") {
			delete(h.now, q)
			delete(origin, q)
		}
	}
}

// rename moves what is at a path to a free one.
func (h *history) rename(base tree, origin map[string]string) {
	from, to := h.pick(h.now.paths()), h.name(h.pick(h.dirs()))
	if _, taken := h.now[to]; taken || from == "/" || to == from || strings.HasPrefix(to, from+"/") {
		return
	}
	for _, q := range h.now.paths() {
		if q != from && !strings.HasPrefix(q, from+"/") {
			continue
		}
		dst := to + q[len(from):]
		h.now[dst] = h.now[q]
		src := q
		if o, ok := origin[q]; ok {
			src = o
		}
		if b, ok := base[src]; ok && b.Kind == h.now[q].Kind {
			origin[dst] = src
		}
		delete(h.now, q)
		delete(origin, q)
	}
}

// diff is the net difference, in the terms of Change.
func (h *history) diff(base tree, origin map[string]string) []snapshotter.Change {
	var out []snapshotter.Change
	// continued is the base path that a directory of now continues.
	continued := func(p string) string {
		if o, ok := origin[p]; ok {
			return o
		}
		if b, ok := base[p]; ok && b.Kind == snapshotter.Dir && h.now[p].Kind == snapshotter.Dir && !h.recreated(base, p, origin) {
			return p
		}
		return ""
	}
	var walk func(p string)
	walk = func(p string) {
		src := continued(p)
		if it := h.now[p]; src != p || !cmp.Equal(it, base[p]) {
			c := put(p, it)
			c.From = src
			out = append(out, c)
		}
		names := map[string]bool{}
		for q := range h.now {
			if q != "/" && path.Dir(q) == p {
				names[path.Base(q)] = true
			}
		}
		if src != "" {
			for q := range base {
				if q != "/" && path.Dir(q) == src {
					names[path.Base(q)] = true
				}
			}
		}
		for _, name := range slices.Sorted(maps.Keys(names)) {
			q := path.Join(p, name)
			it, ok := h.now[q]
			was, had := base[path.Join(src, name)]
			had = had && src != ""
			switch {
			case !ok:
				out = append(out, remove(q))
			case it.Kind == snapshotter.Dir:
				walk(q)
			case had && cmp.Equal(it, was) && origin[q] == originOf(p, src, name):
			default:
				c := put(q, it)
				if o := origin[q]; o != "" && base[o].Data == it.Data && it.Kind == snapshotter.File && base[o].Kind == snapshotter.File {
					c = from(o, c)
				}
				out = append(out, c)
			}
		}
	}
	walk("/")
	return out
}

func originOf(p, from, name string) string {
	if p == from {
		return ""
	}
	return path.Join(from, name)
}

// recreated reports whether the directory at p is another one than the base had there.
func (h *history) recreated(base tree, p string, origin map[string]string) bool {
	if base[p].Version != h.now[p].Version {
		for _, o := range origin {
			if o == p {
				return true
			}
		}
	}
	return false
}

// TestIncrementalEqualsBuilder commits random histories twice, incrementally and through
// kloset's Builder: everything in both snapshots is the same.
func TestIncrementalEqualsBuilder(t *testing.T) {
	seeds, commits := 50, 4
	if testing.Short() {
		seeds = 5
	}
	if more := os.Getenv("SEEDS"); more != "" { // make soak
		var err error
		if seeds, err = strconv.Atoi(more); err != nil {
			t.Fatal(err)
		}
	}
	var log bytes.Buffer
	st := storetest.New(t)
	r := &rig{t: t, store: st, Snapshotter: newSnapshotter(t, st, func(c *snapshotter.Config) {
		c.Logger = slog.New(slog.NewTextHandler(&log, nil))
	})}
	for seed := range seeds {
		snapshotter.SetLeafSize(r.Snapshotter, 4+seed%3*20)
		if seed%4 > 0 { // edits come to lie in a file
			snapshotter.SetEdits(r.Snapshotter, 1+seed%7*3, 2+seed%3*9)
		} else {
			snapshotter.SetEdits(r.Snapshotter, 1<<16, 1<<16)
		}
		snapshotter.SetRotateBlobs(r.Snapshotter, int64(1+seed%2*1_000_000), 2<<10<<(seed%2*12))
		h := newHistory(uint64(seed))
		var a, b snapshotter.ID
		for n := range commits {
			changes := h.next()
			if n == 0 {
				changes = h.now.all()
			}
			if seed%5 == 4 {
				r.ForgetHeads()
			}
			r.n++
			m := meta(r.n)
			m.Parent = a
			if seed%3 > 0 {
				h.fail()
				m.Errors = h.failures()
			}
			var err error
			if a, err = r.Commit(t.Context(), a, seq(changes), m); err != nil {
				t.Fatalf("seed %d, commit %d: %v", seed, n, err)
			}
			r.n++
			m.Parent, m.Sequence = b, r.n
			if b, err = r.Rebuild(t.Context(), b, seq(changes), m); err != nil {
				t.Fatalf("seed %d, commit %d: Builder: %v", seed, n, err)
			}
			got, err := r.Contents(a)
			if err != nil {
				t.Fatalf("seed %d, commit %d: %v", seed, n, err)
			}
			want, err := r.Contents(b)
			if err != nil {
				t.Fatalf("seed %d, commit %d: Builder: %v", seed, n, err)
			}
			if d := cmp.Diff(want, got); d != "" {
				t.Fatalf("seed %d, commit %d (-Builder +incremental):\n%s\nchanges: %v", seed, n, d, changes)
			}
			if d := cmp.Diff(h.now, r.read(a)); d != "" {
				t.Fatalf("seed %d, commit %d (-want +got):\n%s", seed, n, d)
			}
			if d := cmp.Diff(h.failed, r.failures(a), cmpopts.EquateEmpty()); d != "" {
				t.Fatalf("seed %d, commit %d, errors (-want +got):\n%s", seed, n, d)
			}
		}
		if seed%10 == 0 {
			if err := r.Check(t.Context(), a); err != nil {
				t.Errorf("seed %d: check: %v", seed, err)
			}
		}
	}
	if strings.Contains(log.String(), "not possible") {
		t.Errorf("not all commits were incremental:\n%s", log.String())
	}
}
