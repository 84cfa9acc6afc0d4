package pull

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/snapgate/gateway/snapshotter"
	"github.com/snapgate/gateway/store/storetest"
)

// rig pulls into a store.
type rig struct {
	*snapshotter.Snapshotter
	t    *testing.T
	head snapshotter.ID
	n    uint64

	plan    PlanConfig
	scan    ScanConfig
	changes []snapshotter.Change // of the last pull
}

func newRig(t *testing.T) *rig {
	t.Helper()
	s, err := snapshotter.New(t.Context(), snapshotter.Config{Store: storetest.New(t)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return &rig{Snapshotter: s, t: t}
}

// fresh is the rig for a subtest, without a head: opening a store takes time.
func (r *rig) fresh(t *testing.T) *rig {
	r.t, r.head, r.plan, r.scan = t, snapshotter.ID{}, PlanConfig{}, ScanConfig{}
	return r
}

// readContent is an Ingest that reads everything.
func readContent(ctx context.Context, c snapshotter.Change) (snapshotter.Change, error) {
	rd, err := c.Content.Open(ctx)
	if err != nil {
		return c, err
	}
	defer rd.Close()
	data, err := io.ReadAll(rd)
	if err != nil {
		return c, fmt.Errorf("ingest: %w", err)
	}
	if int64(len(data)) != c.Content.Size() {
		return c, fmt.Errorf("ingest: %d bytes of %d", len(data), c.Content.Size())
	}
	c.Content = inMemory(data)
	return c, nil
}

// pull makes a snapshot of a remote, on the head, and makes it the head.
func (r *rig) pull(remote Remote) *Report {
	r.t.Helper()
	report, err := r.try(remote)
	if err != nil {
		r.t.Fatal(err)
	}
	return report
}

func (r *rig) try(remote Remote) (*Report, error) {
	r.t.Helper()
	ctx := r.t.Context()
	report := &Report{}
	scan, plan := r.scan, r.plan
	scan.Report, scan.Retry, scan.TempDir = report, quick, r.t.TempDir()
	plan.Report, plan.Retry, plan.FirstVersion = report, quick, (r.n+1)<<32
	if !r.head.IsZero() {
		v, err := r.View(ctx, r.head)
		if err != nil {
			r.t.Fatal(err)
		}
		defer v.Close()
		plan.Base = v
	}
	changes := Fetch(ctx, Plan(ctx, remote, Scan(ctx, remote, scan), plan), FetchConfig{
		Ingest: readContent, Report: report, Partial: plan.Partial,
	})
	r.changes = nil
	var kept iter.Seq2[snapshotter.Change, error] = func(yield func(snapshotter.Change, error) bool) {
		for c, err := range changes {
			r.changes = append(r.changes, c)
			if !yield(c, err) {
				return
			}
		}
	}
	r.n++
	id, err := r.Commit(ctx, r.head, kept, snapshotter.Meta{
		Share: "pulled", ShareID: "s", GatewayID: "g", Sequence: r.n, Parent: r.head, Time: then.Add(time.Duration(r.n) * time.Hour), Reason: "pull",
	})
	if err == nil {
		r.head = id
	}
	return report, err
}

// tree describes the head, one line a path.
func (r *rig) tree() []string {
	r.t.Helper()
	v, err := r.View(r.t.Context(), r.head)
	if err != nil {
		r.t.Fatal(err)
	}
	defer v.Close()
	var out []string
	var walk func(p string, e snapshotter.Entry)
	walk = func(p string, e snapshotter.Entry) {
		switch e.Kind {
		case snapshotter.Dir:
			out = append(out, line(p, Dir, e.Attr.Mode, e.Attr.ModTime, ""))
			page, err := v.ReadDir(r.t.Context(), p, "", 1<<20)
			if err != nil {
				r.t.Fatal(err)
			}
			for _, c := range page {
				walk(child(p, c.Name), c)
			}
		case snapshotter.Symlink:
			out = append(out, line(p, Symlink, e.Attr.Mode, e.Attr.ModTime, e.Target))
		default:
			rd, err := v.Open(r.t.Context(), p)
			if err != nil {
				r.t.Fatal(err)
			}
			data, err := io.ReadAll(io.NewSectionReader(rd, 0, e.Size))
			if err != nil {
				r.t.Fatal(err)
			}
			rd.Close()
			out = append(out, line(p, File, e.Attr.Mode, e.Attr.ModTime, string(data)))
		}
	}
	root, err := v.Lstat(r.t.Context(), "/")
	if err != nil {
		r.t.Fatal(err)
	}
	walk("/", root)
	return out
}

func line(p string, t Type, mode fs.FileMode, when time.Time, data string) string {
	if len(data) > 100 {
		data = fmt.Sprintf("%d bytes %x", len(data), data[len(data)-20:])
	}
	return fmt.Sprintf("%q %d %v %s %q", p, t, mode, when.UTC().Format(time.RFC3339), data)
}

// tree describes what a fake remote has, as rig.tree does.
func (f *fakeRemote) tree() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	var all []string
	for p := range f.nodes {
		all = append(all, p)
	}
	slices.SortFunc(all, comparePaths)
	var out []string
	for _, p := range all {
		n := f.nodes[p]
		data := n.data
		if n.Type == Symlink {
			data = n.Target
		}
		out = append(out, line(p, n.Type, n.Mode, n.ModTime, data))
	}
	return out
}

func (r *rig) same(f *fakeRemote) {
	r.t.Helper()
	if diff := cmp.Diff(f.tree(), r.tree()); diff != "" {
		r.t.Fatalf("(-remote +snapshot)\n%s", diff)
	}
}

// A pull takes over everything, the next one only what has changed, and reads only what has
// other contents.
func TestPull(t *testing.T) {
	f := newFake()
	for i := range 20 {
		f.file(fmt.Sprintf("/d/%02d", i), fmt.Sprint("data ", i))
	}
	for _, d := range []string{"/d", "/d/sub", "/d/sub/sub", "/gone", "/swap1", "/e"} {
		f.dir(d)
	}
	f.file("/d/sub/sub/x", "x")
	f.file("/gone/a/b", "b")
	f.dir("/gone/a")
	f.file("/swap1/x", "was a directory")
	f.file("/swap2", "was a file")
	f.file("/swap3", "was a file too")
	f.link("/link", "d/00")
	f.file("/\xff", "cannot be kept")
	f.file("/d/\xff\xfe", "latin")
	f.file("/empty", "")
	r := newRig(t)
	report := r.pull(f)
	if report.Failed() != 1 || kinds(report)[KindName] != 1 {
		t.Errorf("problems %v", kinds(report))
	}
	f.remove("/\xff")
	r.same(f)

	opens := f.opens.Load()
	report = r.pull(f)
	if c := report.Counts(); len(r.changes) > 0 || f.opens.Load() != opens || c.Unchanged != c.Files+c.Directories+c.Symlinks || c.New+c.Changed+c.Removed+c.Attributes > 0 {
		t.Errorf("nothing changed: %d changes, %d opens, %+v", len(r.changes), f.opens.Load()-opens, c)
	}
	r.same(f)

	f.file("/d/03", "other") // another size
	f.put("/d/04", fakeNode{Entry: Entry{Type: File, Size: 6, Mode: 0o644, HasMode: true, ModTime: then.Add(time.Hour), Precision: time.Second}, data: "DATA 4"})
	f.put("/d/05", fakeNode{Entry: Entry{Type: File, Size: 6, Mode: 0o600, HasMode: true}, data: "data 5"}) // another mode
	f.put("/e", fakeNode{Entry: Entry{Type: Dir, Mode: 0o700, HasMode: true}})
	f.file("/d/sub/new", "new")
	f.remove("/gone")
	f.remove("/d/07")
	f.remove("/swap1")
	f.file("/swap1", "is a file")
	f.dir("/swap2")
	f.file("/swap2/y", "y")
	f.link("/swap3", "elsewhere")
	f.link("/link", "d/01")
	report = r.pull(f)
	want := Counts{New: 2, Changed: 6, Attributes: 2, Removed: 2, Read: 5}
	c := report.Counts()
	got := Counts{New: c.New, Changed: c.Changed, Attributes: c.Attributes, Removed: c.Removed, Read: c.Read}
	if got != want || f.opens.Load()-opens != 5 || report.Failed() != 0 {
		t.Errorf("counts %+v, want %+v; %d opens, %v", got, want, f.opens.Load()-opens, kinds(report))
	}
	r.same(f)

	r.plan.Checksum = true
	if report = r.pull(f); report.Counts().Read != report.Counts().Files {
		t.Errorf("checksum: %+v", report.Counts())
	}
	r.same(f)
	if err := r.Check(t.Context(), r.head); err != nil {
		t.Error(err)
	}
}

// Over every protocol the snapshot has what the disk has.
func TestPullEverywhere(t *testing.T) {
	dir := house(t)
	local, err := NewFS(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer local.Close()
	_, overSFTP := newSFTPHouse(t, dir, 2)
	r := newRig(t)
	one := func(c *FTPConfig) { c.Connections = 1 }
	var want []string
	for _, tt := range []struct {
		name string
		r    Remote
	}{
		{"fs", local}, {"sftp", overSFTP},
		{"MLSD", (&ftpHouse{dir: dir, mlsd: true}).start(t).remote(t)},
		{"LIST", (&ftpHouse{dir: dir}).start(t).remote(t)},
		{"one connection", (&ftpHouse{dir: dir}).start(t).remote(t, one)},
	} {
		r := r.fresh(t)
		if report := r.pull(tt.r); report.Failed() != 0 {
			list, _ := report.Problems()
			t.Errorf("%s: %v", tt.name, list)
		}
		got := r.tree()
		for i := range got { // FTP has times of directories and links to the minute, at best
			if parts := strings.SplitN(got[i], "Z ", 2); strings.Contains(got[i], `" 2 `) || strings.Contains(got[i], `" 3 `) {
				got[i] = parts[0][:strings.LastIndexByte(parts[0], ' ')] + parts[1]
			}
		}
		if want == nil {
			want = got
		} else if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-fs +it)\n%s", tt.name, diff)
		}
		report := r.pull(tt.r)
		if c := report.Counts(); c.Read != 0 || c.Changed+c.New+c.Removed > 0 {
			t.Errorf("%s: again: %+v", tt.name, c)
		}
	}
}

// Random histories: every snapshot is what the remote was.
func TestPullHistories(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	f := newFake()
	r := newRig(t)
	dirs := []string{"", "/a", "/a/b", "/a.b", "/a b", "/c"}
	clock := then
	for range 25 {
		for range 12 {
			d := dirs[rnd.IntN(len(dirs))]
			for at := range len(d) + 1 {
				p := d[:at]
				if at < 2 || at < len(d) && d[at] != '/' {
					continue
				}
				if n, err := f.node("", p); err != nil || n.Type != Dir {
					f.remove(p)
					f.dir(p)
				}
			}
			p := fmt.Sprintf("%s/%c", d, 'a'+rune(rnd.IntN(6)))
			clock = clock.Add(time.Second)
			f.remove(p)
			switch rnd.IntN(5) {
			case 0:
			case 1:
				f.dir(p)
			case 2:
				f.link(p, fmt.Sprint(rnd.IntN(3)))
			default:
				data := strings.Repeat("x", rnd.IntN(4)) + fmt.Sprint(clock.Unix())
				f.put(p, fakeNode{Entry: Entry{Type: File, Size: int64(len(data)), Mode: 0o600 + fs.FileMode(rnd.IntN(3)), HasMode: true, ModTime: clock, Precision: time.Second}, data: data})
			}
		}
		if report := r.pull(f); report.Failed() != 0 {
			t.Fatalf("%v", kinds(report))
		}
		r.same(f)
	}
}

// Nothing is taken for removed that could not be looked at: below a directory that cannot be
// listed, in a listing that is cut, and beside a line that is not understood.
func TestPullKeeps(t *testing.T) {
	rig := newRig(t)
	for name, broken := range map[string]func(path string, each func(Entry) error) error{
		"forbidden": func(path string, _ func(Entry) error) error { return fail("list", path, KindPermission, nil) },
		"cut": func(path string, each func(Entry) error) error {
			return errors.Join(each(Entry{Name: "a", Type: File, Size: 1, ModTime: then, Precision: time.Second, Mode: 0o644, HasMode: true}),
				fail("list", path, KindListing, nil))
		},
		"a line": func(path string, each func(Entry) error) error {
			return each(Entry{Name: "?", Err: errLine(path, "?")})
		},
		"too many": func(path string, each func(Entry) error) error {
			for i := range 200 {
				if err := each(Entry{Name: fmt.Sprintf("excluded-%d", i), Type: File}); err != nil {
					return err
				}
			}
			return nil
		},
		"no type": func(_ string, each func(Entry) error) error { return each(Entry{Name: "b"}) },
	} {
		t.Run(name, func(t *testing.T) {
			f := newFake()
			for _, d := range []string{"/d", "/d/sub", "/other"} {
				f.dir(d)
			}
			for _, p := range []string{"/d/a", "/d/b", "/d/sub/x", "/other/y"} {
				f.file(p, "1")
			}
			r := rig.fresh(t)
			var err error
			if r.scan.Exclude, err = ParseExclude([]string{"excluded-*"}); err != nil {
				t.Fatal(err)
			}
			r.scan.Names = 100
			r.pull(f)
			before := r.tree()
			f.remove("/other/y")
			f.list = func(_ context.Context, path string, each func(Entry) error) (bool, error) {
				if path != "/d" {
					return false, nil
				}
				return true, broken(path, each)
			}
			report := r.pull(f)
			want := slices.DeleteFunc(before, func(s string) bool { return strings.Contains(s, `"/other/y"`) })
			if diff := cmp.Diff(want, r.tree()); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
			if report.Failed() != 1 || report.Counts().Removed != 1 || report.Counts().Kept < 2 {
				t.Errorf("%+v, %v", report.Counts(), kinds(report))
			}
		})
	}
}

// A file that cannot be read as it was listed is read again as it is; then the older version
// stays, and it is a problem.
func TestPullUnreadable(t *testing.T) {
	rig := newRig(t)
	for _, size := range []int{100, smallFile + 100} {
		for _, tt := range []struct {
			name string
			do   func(f *fakeRemote, n int64) // when the file is opened for the nth time
			fail error
			cut  bool
			want Kind // KindOther: it is read in the end
		}{
			{name: "written once", do: func(f *fakeRemote, n int64) {
				if n == 1 {
					f.put("/f", fakeNode{Entry: Entry{Type: File, Size: int64(size), Mode: 0o644, HasMode: true, ModTime: then.AddDate(1, 0, 0), Precision: time.Second}, data: strings.Repeat("n", size)})
				}
			}},
			{name: "always written", do: func(f *fakeRemote, n int64) {
				f.put("/f", fakeNode{Entry: Entry{Type: File, Size: int64(size), Mode: 0o644, HasMode: true, ModTime: then.AddDate(1, 0, int(n)), Precision: time.Second}, data: strings.Repeat("n", size)})
			}, want: KindChanged},
			{name: "always shorter", do: func(f *fakeRemote, n int64) { f.file("/f", strings.Repeat("s", size-int(n))) }, want: KindChanged},
			{name: "cut", cut: true, want: KindShort},
			{name: "gone", do: func(f *fakeRemote, _ int64) { f.remove("/f") }, want: KindNotFound},
			{name: "forbidden", fail: fail("open", "/f", KindPermission, nil), want: KindPermission},
		} {
			t.Run(fmt.Sprint(tt.name, size), func(t *testing.T) {
				f := newFake()
				f.file("/f", strings.Repeat("1", size))
				f.file("/a", "a")
				r := rig.fresh(t)
				r.pull(f)
				f.put("/f", fakeNode{Entry: Entry{Type: File, Size: int64(size), Mode: 0o644, HasMode: true, ModTime: then.Add(time.Hour), Precision: time.Second}, data: strings.Repeat("2", size)})
				f.file("/z", "after it")
				var n atomic.Int64
				f.opened = func(path string, _ int64) error {
					if path != "/f" {
						return nil
					}
					if k := n.Add(1); tt.do != nil {
						tt.do(f, k)
					}
					return tt.fail
				}
				f.reader = func(path string, _ int64, rd io.Reader) io.Reader {
					if path == "/f" && tt.cut {
						return io.LimitReader(rd, 50)
					}
					return rd
				}
				report := r.pull(f)
				tree := strings.Join(r.tree(), "\n")
				if !strings.Contains(tree, "after it") || strings.Contains(tree, "222") {
					t.Errorf("the tree is\n%s", tree)
				}
				if tt.want == KindOther {
					if report.Failed() != 0 {
						t.Errorf("problems %v", kinds(report))
					}
					r.same(f)
					return
				}
				if kinds(report)[tt.want] != 1 || report.Failed() != 1 || !strings.Contains(tree, line("/f", File, 0o644, then, strings.Repeat("1", size))) {
					t.Errorf("problems %v, want %v\n%s", kinds(report), tt.want, tree)
				}
				if list, _ := report.Problems(); len(list) != 1 || list[0].Path != "/f" {
					t.Errorf("problems %v", list)
				}
			})
		}
	}
	t.Run("grows, and only the listing has times", func(t *testing.T) {
		f := newFake()
		f.file("/f", "1")
		f.opened = func(string, int64) error {
			f.file("/f", "longer")
			return nil
		}
		r := rig.fresh(t)
		report := r.pull(timeless{f})
		if tree := r.tree(); report.Failed() != 0 || !slices.Contains(tree, line("/f", File, 0o644, then, "longer")) {
			t.Errorf("problems %v\n%s", kinds(report), strings.Join(tree, "\n"))
		}
	})
}

// timeless is a remote that tells times in listings only.
type timeless struct{ *fakeRemote }

func (r timeless) Lstat(ctx context.Context, path string) (Entry, error) {
	e, err := r.fakeRemote.Lstat(ctx, path)
	e.ModTime, e.Precision = time.Time{}, 0
	return e, err
}

// A transfer goes on where the connection was lost, also of a file that is read at several
// places; one that never comes back ends the pull, and no snapshot is made.
func TestPullReconnects(t *testing.T) {
	dir := t.TempDir()
	want := randomBytes(rangedSize + 2*rangeSize + 1)
	if err := os.WriteFile(filepath.Join(dir, "huge"), want, 0o644); err != nil {
		t.Fatal(err)
	}
	h, overSFTP := newSFTPHouse(t, dir, 3)
	done := make(chan struct{})
	t.Cleanup(func() { close(done) })
	h.budget.Store(1 << 20)
	c := &file{r: overSFTP, caps: Capabilities{Ranges: true}, retry: quick, path: "/huge", seen: Entry{Type: File, Size: int64(len(want))}}
	rd, err := c.Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var got []byte
	buf := make([]byte, 1<<20)
	for {
		n, err := rd.Read(buf)
		got = append(got, buf[:n]...)
		if len(got) > 10<<20 && len(got) < 11<<20 {
			h.budget.CompareAndSwap(0, 1<<20)
		}
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	rd.Close()
	if !bytes.Equal(got, want) || h.dials.Load() < 2 {
		t.Errorf("%d bytes of %d, %d connections", len(got), len(want), h.dials.Load())
	}

	f := newFake()
	f.file("/f", strings.Repeat("0123456789", 1000))
	var offsets []int64
	f.opened = func(_ string, offset int64) error { offsets = append(offsets, offset); return nil }
	f.reader = func(_ string, _ int64, rd io.Reader) io.Reader {
		return io.MultiReader(io.LimitReader(rd, 3000), lostReader{})
	}
	r := newRig(t)
	r.pull(f)
	r.same(f)
	if !slices.Equal(offsets, []int64{0, 3000, 6000, 9000}) {
		t.Errorf("opened at %v", offsets)
	}

	head := r.head
	f.file("/f", strings.Repeat("x", 20000))
	var away atomic.Bool
	f.away = func(string) bool { return away.Load() }
	f.opened = func(string, int64) error {
		away.Store(true)
		return fail("open", "/f", KindConnection, nil)
	}
	if _, err := r.try(f); err == nil || KindOf(err) != KindConnection || r.head != head {
		t.Errorf("a server that is away: %v", err)
	}
	away.Store(false)
	r.plan.Partial, r.scan.Partial = true, true
	if report := r.pull(f); kinds(report)[KindConnection] != 1 {
		t.Errorf("partial: %v", kinds(report))
	}
}

// TestFetchGoneForGood: with Partial the files that were not read when the server went away are told at once, and not each of them
// waited for.
func TestFetchGoneForGood(t *testing.T) {
	const files = 40
	for _, size := range []int{100, smallFile + 1} {
		f := newFake()
		for i := range files {
			f.file(fmt.Sprintf("/f%02d", i), strings.Repeat("x", size))
		}
		var away atomic.Bool
		f.away = func(string) bool { return away.Load() }
		f.opened = func(path string, _ int64) error {
			if path < "/f05" {
				return nil
			}
			away.Store(true)
			return fail("open", path, KindConnection, nil)
		}
		report := &Report{}
		scan := Scan(t.Context(), f, ScanConfig{Report: report, Retry: quick, TempDir: t.TempDir()})
		plan := Plan(t.Context(), f, scan, PlanConfig{Report: report, Retry: quick, Partial: true})
		for _, err := range Fetch(t.Context(), plan, FetchConfig{Ingest: readContent, Report: report, Partial: true, Ingests: 1, Memory: smallFile}) {
			if err != nil {
				t.Fatal(err)
			}
		}
		if n := kinds(report)[KindConnection]; n == 0 || int(report.Counts().Read)+n != files {
			t.Errorf("%d bytes: %d read, %d problems of the connection, of %d", size, report.Counts().Read, n, files)
		}
		if n := f.opens.Load(); size > smallFile && n > 5+10*int64(quick.Attempts) {
			t.Errorf("%d bytes: files were opened %d times", size, n)
		}
	}
}

// TestFetchGoesOn: a file that loses its connection each time is left out alone, when the server does not answer another question: it
// is gone for good with Partial only, and when that question gets no answer for a while.
func TestFetchGoesOn(t *testing.T) {
	const files = 40
	for _, tt := range []struct {
		name    string
		partial bool
		lost    int64 // questions after the last attempt: its own, and the first one of whether all is gone, which is asked twice
	}{{"without partial", false, math.MaxInt64}, {"with partial", true, 3}} {
		t.Run(tt.name, func(t *testing.T) {
			f := newFake()
			data := strings.Repeat("x", smallFile) // each takes all of the memory: one at a time
			for i := range files {
				f.file(fmt.Sprintf("/f%02d", i), data)
			}
			var left atomic.Int64
			f.away = func(path string) bool { return path == "/" && left.Add(-1) >= 0 }
			f.opened = func(path string, _ int64) error {
				if path != "/f05" {
					return nil
				}
				left.Store(tt.lost)
				return fail("open", path, KindConnection, nil)
			}
			report := &Report{}
			scan := Scan(t.Context(), f, ScanConfig{Report: report, Retry: quick, TempDir: t.TempDir()})
			plan := Plan(t.Context(), f, scan, PlanConfig{Report: report, Retry: quick, Partial: tt.partial})
			cfg := FetchConfig{Ingest: readContent, Report: report, Partial: tt.partial, Ingests: 1, Memory: smallFile}
			for _, err := range Fetch(t.Context(), plan, cfg) {
				if err != nil {
					t.Fatal(err)
				}
			}
			list, _ := report.Problems()
			if len(list) != 1 || list[0].Path != "/f05" || list[0].Kind != KindConnection || report.Counts().Read != files-1 {
				t.Errorf("%d of %d read, problems %+v", report.Counts().Read, files, list)
			}
		})
	}
}

type lostReader struct{}

func (lostReader) Read([]byte) (int, error) { return 0, fail("read", "/f", KindConnection, nil) }

// Times of LIST are coarse and of no known zone: MDTM decides where there is one, and a time
// that may be the same is the same where not.
func TestPlanCoarseTimes(t *testing.T) {
	base := &snapshotter.Entry{Kind: snapshotter.File, Size: 5, Attr: snapshotter.Attr{Mode: 0o644, ModTime: then}}
	for _, tt := range []struct {
		name      string
		e         Entry
		settled   time.Time
		unchanged bool
	}{
		{"exact", Entry{Size: 5, ModTime: then, Precision: time.Second}, time.Time{}, true},
		{"a second later", Entry{Size: 5, ModTime: then.Add(time.Second), Precision: time.Second}, time.Time{}, false},
		{"in the minute", Entry{Size: 5, ModTime: then.Truncate(time.Minute), Precision: time.Minute}, time.Time{}, true},
		{"in another minute", Entry{Size: 5, ModTime: then.Truncate(time.Minute).Add(time.Minute), Precision: time.Minute}, time.Time{}, false},
		{"on the day", Entry{Size: 5, ModTime: then.Truncate(day), Precision: day}, time.Time{}, true},
		{"no time", Entry{Size: 5}, time.Time{}, false},
		{"another size", Entry{Size: 6, ModTime: then, Precision: time.Second}, time.Time{}, false},
		{"settled", Entry{Size: 5, ModTime: then, Precision: time.Second}, then.Add(2 * time.Second), true},
		{"settled, in whatever zone", Entry{Size: 5, ModTime: then.Truncate(time.Minute), Precision: time.Minute}, then.Add(13 * time.Hour), true},
		{"in the same tick of a zone in the west", Entry{Size: 5, ModTime: then.Truncate(time.Minute), Precision: time.Minute}, then.Add(5 * time.Hour), false},
		{"in the same tick", Entry{Size: 5, ModTime: then, Precision: time.Second}, then.Add(time.Second), false},
	} {
		tt.e.Type, tt.e.Mode, tt.e.HasMode = File, 0o644, true
		p := &planner{cfg: PlanConfig{Report: &Report{}}}
		if !tt.settled.IsZero() {
			p.cfg.Settled = func(string) time.Time { return tt.settled }
		}
		c := p.compare(candidate{path: "/f", base: base}, tt.e)
		if (c == nil) != tt.unchanged {
			t.Errorf("%s: %+v", tt.name, c)
		}
		if c != nil && c.Content == nil {
			t.Errorf("%s: it is not read", tt.name)
		}
	}
}

func TestOrdered(t *testing.T) {
	bad := errors.New("bad")
	in := func(fail int) iter.Seq2[int, error] {
		return func(yield func(int, error) bool) {
			for i := range 100 {
				if i == fail {
					yield(0, bad)
					return
				}
				if !yield(i, nil) {
					return
				}
			}
		}
	}
	release := make(chan struct{})
	double := func(_ context.Context, i int) (int, error) {
		switch i {
		case 3:
			<-release // the later ones go on
		case 20:
			close(release)
		case 77:
			return 0, bad
		}
		return 2 * i, nil
	}
	next := 0
	for v, err := range ordered(t.Context(), in(-1), 4, 50, nil, double) {
		if err != nil {
			if next != 77 || !errors.Is(err, bad) {
				t.Errorf("%v after %d", err, next)
			}
			break
		}
		if v != 2*next {
			t.Fatalf("%d in the place of %d", v, 2*next)
		}
		next++
	}
	n := 0
	same := func(_ context.Context, i int) (int, error) { return i, nil }
	for _, err := range ordered(t.Context(), in(5), 4, 50, nil, same) {
		if err == nil {
			n++
		} else if !errors.Is(err, bad) {
			t.Error(err)
		}
	}
	if n != 5 {
		t.Errorf("%d before the error", n)
	}
	for range ordered(t.Context(), in(-1), 4, 2, nil, same) {
		break
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var last error
	for v, err := range ordered(ctx, in(-1), 2, 2, func(context.Context, int) error { return nil }, same) {
		if v == 10 {
			cancel()
		}
		last = err
	}
	if !errors.Is(last, context.Canceled) {
		t.Errorf("cancelled: %v", last)
	}
}
