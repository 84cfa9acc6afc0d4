package pull

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
)

// scanAll collects a scan.
func scanAll(t *testing.T, r Remote, cfg ScanConfig) ([]Item, *Report, error) {
	t.Helper()
	if cfg.Report == nil {
		cfg.Report = &Report{}
	}
	cfg.Retry = quick
	cfg.TempDir = t.TempDir()
	var items []Item
	var failed error
	for i, err := range Scan(t.Context(), r, cfg) {
		if err != nil {
			failed = err
			break
		}
		items = append(items, i)
	}
	for i := 1; i < len(items); i++ {
		if comparePaths(items[i-1].Path, items[i].Path) >= 0 {
			t.Fatalf("%q comes after %q", items[i].Path, items[i-1].Path)
		}
	}
	return items, cfg.Report, failed
}

func paths(items []Item) []string {
	var out []string
	for _, i := range items {
		out = append(out, i.Path)
	}
	return out
}

// kinds counts the problems of a report.
func kinds(r *Report) map[Kind]int {
	out := map[Kind]int{}
	list, _ := r.Problems()
	for _, p := range list {
		out[p.Kind]++
	}
	return out
}

// A scan yields what is on the remote, over every protocol, in the order of a commit.
func TestScan(t *testing.T) {
	dir := house(t)
	var want []string
	err := filepath.WalkDir(dir, func(p string, _ fs.DirEntry, err error) error {
		want = append(want, "/"+strings.TrimPrefix(strings.TrimPrefix(p, dir), "/"))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.SortFunc(want, comparePaths)
	local, err := NewFS(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer local.Close()
	_, overSFTP := newSFTPHouse(t, dir, 2)
	for name, r := range map[string]Remote{
		"fs": local, "sftp": overSFTP,
		"MLSD": (&ftpHouse{dir: dir, mlsd: true}).start(t).remote(t),
		"LIST": (&ftpHouse{dir: dir}).start(t).remote(t),
	} {
		t.Run(name, func(t *testing.T) {
			items, report, err := scanAll(t, r, ScanConfig{})
			if err != nil {
				t.Fatal(err)
			}
			if got := paths(items); !slices.Equal(got, want) {
				t.Errorf("got %d paths, want %d:\n%q\n%q", len(got), len(want), got, want)
			}
			if n := report.Failed(); n != 0 {
				t.Errorf("%d problems: %v", n, kinds(report))
			}
			for _, i := range items {
				if i.Entry.Type == Dir && !i.Whole {
					t.Errorf("%s is not whole", i.Path)
				}
			}
		})
	}
}

// Directories that are longer than what is held in memory are sorted on disk, and a tree that
// is larger is listed as it is walked.
func TestScanBounded(t *testing.T) {
	r := newFake()
	want := []string{"/"}
	put := func(path string, dir bool) {
		want = append(want, path)
		if dir {
			r.dir(path)
		} else {
			r.file(path, "")
		}
	}
	for i := range 40 {
		top := fmt.Sprintf("/d%02d", i)
		put(top, true)
		for j := range 60 {
			put(fmt.Sprintf("%s/%d", top, j), j%7 == 0)
			if j%7 == 0 {
				put(fmt.Sprintf("%s/%d/x", top, j), false)
			}
		}
	}
	slices.SortFunc(want, comparePaths)
	for _, memory := range []int{1, 10, 100, 0} {
		items, report, err := scanAll(t, r, ScanConfig{Memory: memory})
		if err != nil || report.Failed() != 0 {
			t.Fatalf("memory %d: %v, %d problems", memory, err, report.Failed())
		}
		if got := paths(items); !slices.Equal(got, want) {
			t.Errorf("memory %d: %d paths, want %d", memory, len(got), len(want))
		}
	}
}

// Large directories, ahead of a walk that does not go on: no more is listed than fits, and of those
// that are sorted on disk, each of which has an open file, no more than some.
func TestScanStaysInMemory(t *testing.T) {
	const memory = 2000
	t.Run("in memory", func(t *testing.T) { scanDirectories(t, memory, 1000, memory/1000, Entry{Type: File}) })
	t.Run("on disk", func(t *testing.T) { scanDirectories(t, memory, 3*memory, 8, Entry{Type: File}) })
	t.Run("long targets", func(t *testing.T) {
		// Each takes the memory of 21 entries.
		scanDirectories(t, memory, 90, 2, Entry{Type: Symlink, Target: strings.Repeat("t", 20*entryBytes)})
	})
}

// scanDirectories scans directories of so many entries, of which so many are to be listed ahead.
func scanDirectories(t *testing.T, memory, names, ahead int, e Entry) {
	const dirs = 50
	var listed atomic.Int64
	r := newFake()
	for i := range dirs {
		r.dir(fmt.Sprintf("/d%02d", i))
	}
	r.list = func(_ context.Context, path string, each func(Entry) error) (bool, error) {
		if path == "/" {
			return false, nil
		}
		listed.Add(1)
		for i := range names {
			e := e
			e.Name = fmt.Sprint(i)
			if err := each(e); err != nil {
				return true, err
			}
		}
		return true, nil
	}
	n := 0
	for _, err := range Scan(t.Context(), r, ScanConfig{Report: &Report{}, Memory: memory, Retry: quick, TempDir: t.TempDir()}) {
		if err != nil {
			t.Fatal(err)
		}
		n++
		// What is held, what eight workers had begun, and what was yielded.
		if most := int64(ahead + 8 + n/names + 2); listed.Load() > most {
			t.Fatalf("%d directories listed after %d entries, want at most %d", listed.Load(), n, most)
		}
	}
	if want := dirs*names + dirs + 1; n != want {
		t.Errorf("%d entries, want %d", n, want)
	}
}

// Links with long targets make many runs of few entries; their number stays small beside that of the entries.
func TestSorterRuns(t *testing.T) {
	const links = 100_000
	s := &sorter{dir: t.TempDir(), run: 4}
	defer s.discard()
	target := strings.Repeat("t", 1000)
	for i := range links {
		if err := s.add(Entry{Name: fmt.Sprintf("%05d", i*7919%links), Type: Symlink, Target: target}); err != nil {
			t.Fatal(err)
		}
	}
	if len(s.runs) > 8*runsOfSize {
		t.Fatalf("%d runs", len(s.runs))
	}
	src, err := s.finish()
	if err != nil {
		t.Fatal(err)
	}
	for i := range links {
		if e, err := src.next(); err != nil || e.Name != fmt.Sprintf("%05d", i) || e.Target != target {
			t.Fatalf("entry %d is %q, %v", i, e.Name, err)
		}
	}
	if _, err := src.next(); !errors.Is(err, io.EOF) {
		t.Errorf("at the end: %v", err)
	}
}

func TestSpill(t *testing.T) {
	s := &sorter{dir: t.TempDir(), run: 100}
	var want []Entry
	for i := range 1234 {
		e := Entry{
			Name: fmt.Sprintf("%x\xff%d", i*7919%1234, i), Type: Type(1 + i%3), Size: int64(i) << 33, Mode: 0o755 | fs.ModeSticky,
			ModTime: then.AddDate(-i, 0, i), Precision: day, UID: 1 << 31, GID: uint32(i), HasMode: i%2 == 0, HasOwner: i%3 == 0,
		}
		if i%3 == 2 {
			e.Target = strings.Repeat("t", i)
		}
		want = append(want, e)
		if err := s.add(e); err != nil {
			t.Fatal(err)
		}
	}
	slices.SortFunc(want, func(a, b Entry) int { return strings.Compare(a.Name, b.Name) })
	src, err := s.finish()
	if err != nil {
		t.Fatal(err)
	}
	defer s.discard()
	for i, w := range want {
		got, err := src.next()
		if err != nil || got != w {
			t.Fatalf("entry %d: %+v, %v; want %+v", i, got, err, w)
		}
	}
	if _, err := src.next(); err == nil {
		t.Error("there is more")
	}
}

// What a hostile server lists is a problem each, the directory is not whole where something
// may be hidden, and the rest is there.
func TestScanHostile(t *testing.T) {
	r := newFake()
	for _, d := range []string{"/names", "/twice", "/endless", "/loop", "/lines", "/forbidden"} {
		r.dir(d)
	}
	r.list = func(_ context.Context, path string, each func(Entry) error) (bool, error) {
		give := func(entries ...Entry) (bool, error) {
			for _, e := range entries {
				if err := each(e); err != nil {
					return true, err
				}
			}
			return true, nil
		}
		switch {
		case path == "/names":
			return give(Entry{Name: "../x", Type: File}, Entry{Name: "..", Type: Dir}, Entry{Name: "", Type: Dir}, Entry{Name: "a\x00", Type: File}, Entry{Name: "ok", Type: File})
		case path == "/twice":
			return give(Entry{Name: "a", Type: File}, Entry{Name: "a", Type: Dir}, Entry{Name: "b", Type: Special}, Entry{Name: "c"})
		case path == "/endless":
			for i := 0; ; i++ {
				if err := each(Entry{Name: fmt.Sprint(i), Type: File}); err != nil {
					return true, err
				}
			}
		case strings.HasPrefix(path, "/loop"):
			return give(Entry{Name: "loop", Type: Dir})
		case path == "/lines":
			return give(Entry{Name: "?", Err: errLine(path, "what")}, Entry{Name: "ok", Type: File})
		case path == "/forbidden":
			return true, fail("list", path, KindPermission, nil)
		}
		return false, nil
	}
	items, report, err := scanAll(t, r, ScanConfig{Names: 500, Depth: 20})
	if err != nil {
		t.Fatal(err)
	}
	whole := map[string]bool{}
	for _, i := range items {
		whole[i.Path] = i.Whole
		if strings.Contains(i.Path, "..") || strings.Contains(i.Path, "//") {
			t.Errorf("path %q", i.Path)
		}
	}
	for path, want := range map[string]bool{"/": true, "/names": true, "/endless": false, "/lines": false, "/forbidden": false, "/loop": true} {
		if got, ok := whole[path]; !ok || got != want {
			t.Errorf("%s: whole is %v (%v), want %v", path, got, ok, want)
		}
	}
	want := map[Kind]int{KindName: 4, KindProtocol: 2, KindSpecial: 1, KindLimit: 2, KindListing: 1, KindPermission: 1}
	if got := kinds(report); fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("problems %v, want %v", got, want)
	}
	if n := report.Failed(); n != 10 {
		t.Errorf("%d failed", n)
	}
}

// A connection that is lost is made again; one that is lost for good ends the scan, or, with
// Partial, leaves what was not listed as problems.
func TestScanReconnects(t *testing.T) {
	r := newFake()
	for i := range 20 {
		r.file(fmt.Sprintf("/d/%d", i), "x")
	}
	r.dir("/d")
	r.dir("/e")
	var left atomic.Int64
	r.list = func(_ context.Context, path string, each func(Entry) error) (bool, error) {
		if path == "/d" && left.Add(-1) >= 0 {
			_ = each(Entry{Name: "ghost", Type: File}) // it came before the end, and is not taken
			return true, fail("list", path, KindConnection, nil)
		}
		return false, nil
	}
	left.Store(2)
	items, report, err := scanAll(t, r, ScanConfig{})
	if err != nil || len(items) != 23 || report.Failed() > 0 {
		t.Errorf("%d items, %v, %v", len(items), err, kinds(report))
	}
	// One that breaks each connection is a problem, and the rest is listed.
	left.Store(1000)
	items, report, err = scanAll(t, r, ScanConfig{})
	if list, _ := report.Problems(); err != nil || len(items) != 4 || len(list) != 1 || list[0].Path != "/d" || list[0].Kind != KindBreaks {
		t.Errorf("a directory that breaks connections: %d items, %v, %v", len(items), err, list)
	}
	if tries := 1000 - left.Load(); tries != breakAttempts {
		t.Errorf("it is listed %d times, want %d", tries, breakAttempts)
	}
	var away atomic.Bool
	r.away = func(string) bool { return away.Load() }
	listing := r.list
	r.list = func(ctx context.Context, path string, each func(Entry) error) (bool, error) {
		away.Store(path == "/d")
		return listing(ctx, path, each)
	}
	if _, _, err := scanAll(t, r, ScanConfig{}); err == nil || KindOf(err) != KindConnection {
		t.Errorf("given up: %v", err)
	}
	away.Store(false)
	items, report, err = scanAll(t, r, ScanConfig{Partial: true})
	if err != nil || report.Failed() == 0 {
		t.Errorf("partial: %d items, %v", len(items), err)
	}
	for _, i := range items {
		if i.Path == "/d" && i.Whole {
			t.Error("/d is whole")
		}
	}

	// The root is all there is; many directories are not the ones that are to blame.
	r.away = nil
	r.list = func(_ context.Context, path string, _ func(Entry) error) (bool, error) {
		return true, fail("list", path, KindConnection, nil)
	}
	if _, _, err := scanAll(t, r, ScanConfig{}); err == nil || KindOf(err) != KindBreaks {
		t.Errorf("the root breaks connections: %v", err)
	}
	r.list = func(_ context.Context, path string, _ func(Entry) error) (bool, error) {
		if path == "/" {
			return false, nil
		}
		return true, fail("list", path, KindConnection, nil)
	}
	for i := range 2 * maxBreaks {
		r.dir(fmt.Sprintf("/many%d", i))
	}
	_, report, err = scanAll(t, r, ScanConfig{})
	if err == nil || KindOf(err) != KindConnection || report.Failed() > maxBreaks {
		t.Errorf("all directories break connections: %v, %d problems", err, report.Failed())
	}
}

// Leaving the loop, and cancelling, end everything (goleak looks at the end).
func TestScanEnds(t *testing.T) {
	r := newFake()
	for i := range 100 {
		r.dir(fmt.Sprintf("/%d", i))
	}
	for range Scan(t.Context(), r, ScanConfig{Report: &Report{}, TempDir: t.TempDir()}) {
		break
	}
	ctx, cancel := context.WithCancel(t.Context())
	r.list = func(ctx context.Context, path string, _ func(Entry) error) (bool, error) {
		if path == "/" {
			return false, nil
		}
		cancel()
		<-ctx.Done()
		return true, ctx.Err()
	}
	var last error
	for _, err := range Scan(ctx, r, ScanConfig{Report: &Report{}, TempDir: t.TempDir()}) {
		last = err
	}
	if !errors.Is(last, context.Canceled) {
		t.Errorf("cancelled: %v", last)
	}
}

func TestScanRoot(t *testing.T) {
	r := newFake()
	r.file("/", "x")
	if _, _, err := scanAll(t, r, ScanConfig{}); !errors.Is(err, ErrNotDirectory) {
		t.Errorf("a root that is a file: %v", err)
	}
}

// A server that refuses many directories for now, whenever it is asked, means never; one that lists another one
// in the end does not.
func TestScanBusy(t *testing.T) {
	const dirs = maxBusy + 8
	for _, listed := range []int{-1, maxBusy / 2} { // the directory that is listed when it is asked again
		r := newFake()
		r.caps.Parallel = 1
		for i := range dirs {
			r.dir(fmt.Sprintf("/%03d", i))
		}
		again := false
		r.list = func(_ context.Context, path string, _ func(Entry) error) (bool, error) {
			if path == "/" {
				return false, nil
			}
			if path == fmt.Sprintf("/%03d", listed) {
				if again {
					return false, nil
				}
				again = true
			}
			return true, fail("list", path, KindBusy, nil)
		}
		_, report, err := scanAll(t, r, ScanConfig{})
		want := int64(1 + busyAttempts*maxBusy + dirs - maxBusy)
		if listed >= 0 {
			want = 1 + busyAttempts*(dirs-1) + 2
		}
		if n := r.lists.Load(); err != nil || n != want || kinds(report)[KindBusy] == 0 {
			t.Errorf("%d listings, want %d: %v, %v", n, want, err, kinds(report))
		}
	}
}

// A root that shows nothing for an error of it is no tree, with Partial neither.
func TestScanRootUnseen(t *testing.T) {
	forbidden := fail("list", "/", KindPermission, nil)
	for _, tt := range []struct {
		name  string
		names []Entry
		err   error
		want  Kind // KindOther: it is listed
	}{
		{"refused", nil, forbidden, KindPermission},
		{"refused after a line that says nothing", []Entry{{Err: fail("list", "/", KindListing, nil)}}, forbidden, KindPermission},
		{"refused after a name", []Entry{{Name: "a", Type: File}}, forbidden, KindOther},
		{"lost", nil, fail("list", "/", KindConnection, nil), KindConnection},
		{"names alone", []Entry{{Err: fail("stat", "/a", KindPermission, nil)}, {Err: fail("stat", "/b", KindPermission, nil)}}, nil, KindPermission},
		{"a name that may be looked at", []Entry{{Err: fail("stat", "/a", KindPermission, nil)}, {Name: "b", Type: File}}, nil, KindOther},
		{"a name that cannot be", []Entry{{Name: "..", Type: File}}, nil, KindOther},
		{"empty", nil, nil, KindOther},
	} {
		for _, partial := range []bool{false, true} {
			t.Run(fmt.Sprint(tt.name, " ", partial), func(t *testing.T) {
				r := newFake()
				r.list = func(_ context.Context, _ string, each func(Entry) error) (bool, error) {
					for _, e := range tt.names {
						if err := each(e); err != nil {
							return true, err
						}
					}
					return true, tt.err
				}
				var asked atomic.Int64 // "/" is there at first
				r.away = func(string) bool { return tt.want == KindConnection && asked.Add(1) > 1 }
				items, _, err := scanAll(t, r, ScanConfig{Partial: partial})
				if (err == nil) != (tt.want == KindOther) || err != nil && KindOf(err) != tt.want || (err == nil) != (len(items) > 0) {
					t.Errorf("%d items, %v, want %v", len(items), err, tt.want)
				}
			})
		}
	}
}

func TestExclude(t *testing.T) {
	x, err := ParseExclude([]string{
		"# comment", "", "*.tmp", "!keep.tmp", "/top", "cache/", "a/b", "doc/**/x", "in/**", "**/deep", "trail\\ ", "{a,b}", "[!0-9]z", "\\#hash", "blank   ",
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		path      string
		dir, want bool
	}{
		{"/x.tmp", false, true}, {"/d/x.tmp", false, true}, {"/d/keep.tmp", false, false}, {"/x.tmpl", false, false},
		{"/top", false, true}, {"/d/top", false, false}, {"/cache", true, true}, {"/d/cache", true, true}, {"/cache", false, false},
		{"/a/b", false, true}, {"/d/a/b", false, false}, {"/doc/x", false, true}, {"/doc/1/2/x", false, true}, {"/doc/1/x/3", false, false},
		{"/in", true, false}, {"/in/1", true, true}, {"/1/2/deep", false, true}, {"/deep", true, true}, {"/trail ", false, true},
		{"/{a,b}", false, true}, {"/a", false, false}, {"/xz", false, true}, {"/5z", false, false}, {"/#hash", false, true}, {"/blank", false, true},
		{"/\xff\xfe.tmp", false, true},
	} {
		if got := x.Match(tt.path, tt.dir); got != tt.want {
			t.Errorf("%q (dir %v) excluded: %v, want %v", tt.path, tt.dir, got, tt.want)
		}
	}
	for _, bad := range []string{"[", "a[", "/", "!", "\\"} {
		if _, err := ParseExclude([]string{bad}); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
	if (*Exclude)(nil).Match("/a", false) {
		t.Error("nothing excludes")
	}
	r := newFake()
	for _, p := range []string{"/cache", "/d"} {
		r.dir(p)
	}
	r.file("/cache/x", "")
	r.file("/d/x.tmp", "")
	items, report, err := scanAll(t, r, ScanConfig{Exclude: x})
	if err != nil || !slices.Equal(paths(items), []string{"/", "/d"}) || report.Counts().Excluded != 2 || r.lists.Load() != 2 {
		t.Errorf("%q, %v, %+v, %d lists", paths(items), err, report.Counts(), r.lists.Load())
	}
}

// Classes of characters have what git check-ignore finds in them.
func TestExcludeClasses(t *testing.T) {
	for _, tt := range []struct{ pattern, in, out string }{
		{"[[:alnum:]]", "09AZaz", "@[`{:\x7f \t"},
		{"[[:alpha:]]", "AZaz", "09@[`{"},
		{"[[:blank:]]", " \t", "\n\r\va"},
		{"[[:cntrl:]]", "\x01\t\n\x1f\x7f", " a\u0080"},
		{"[[:digit:]]", "0123456789", ":dgit[]a"},
		{"[[:graph:]]", "!-09:~", " \x1f\x7fä"},
		{"[[:lower:]]", "az", "AZ`{0"},
		{"[[:print:]]", " !-09:~", "\x1f\x7f\tä"},
		{"[[:punct:]]", "!-:@[\\]^_`{|}~", "09AZaz \x7f"},
		{"[[:space:]]", " \t\n\r", "\v\fa"},
		{"[[:upper:]]", "AZ", "az@[0"},
		{"[[:xdigit:]]", "09AFaf", "GgZz@"},
		{"[a[:digit:]_-]", "a5_-", "b[:]"},
		{"[^[:alpha:]]", "5_-", "aZ"},
		{"[![:digit:]a]", "b-", "5a"},
		{"[[:digit:]-a]", "5-a", "b;"},
		{"[]a]", "]a", "[b"},
		{"[!]a]", "b[", "]a"},
		{"[a-c\\]x]", "abc]x", "\\d-"},
		{"[\\a-c]", "abc", "\\-d"},
		{"[a\\-c]", "a-c", "b\\"},
		{"[[:]", "[:", "x]"},
		{"[[:digit]", "[:digt", "0x"},
		{"[+--]", "+,-", "*0"},
		{"[--0]", "-0", "1,"},
		{"[z-a]", "z", "a-m"},
		{"[!-~]", "a!", "~-"},
		{"[{}]", "{}", "a"},
		{"[ä-ü]", "äü", "aß"},
	} {
		x, err := ParseExclude([]string{tt.pattern})
		if err != nil {
			t.Errorf("%s: %v", tt.pattern, err)
			continue
		}
		for names, want := range map[string]bool{tt.in: true, tt.out: false} {
			for _, name := range names {
				if x.Match("/d/"+string(name), false) != want {
					t.Errorf("%s: %q is excluded: %v", tt.pattern, name, !want)
				}
			}
		}
	}
	// A slash is in none of them.
	for _, pattern := range []string{"/a[!x]b", "/a[+-0]b", "/a[/]b", "/a[[:punct:]]b"} {
		if x, err := ParseExclude([]string{pattern}); err != nil || x.Match("/a/b", false) {
			t.Errorf("%s excludes a/b, %v", pattern, err)
		}
	}
	for pattern, says := range map[string]string{
		"[[:foo:]]": "[:foo:]", "x[a[:DIGIT:]]": "[:DIGIT:]", "[[::]]": "[::]", "[[:digit:]": "no end", "[": "no end", "[]": "no end", "[!]": "no end", "[a\\": "no end", "[a-": "no end", "[a-\\": "no end",
	} {
		if _, err := ParseExclude([]string{pattern}); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v, want %q", pattern, err, says)
		}
	}
}

// TestEscapePattern: an escaped name stands for itself, and for no other.
func TestEscapePattern(t *testing.T) {
	names := []string{
		"a", "a[1]", "a1", "b*", "bb", "c?", "cc", `d\e`, "de", `\`, "f ", "f \t ", "f", `g\ `, "{h,i}", "h", "!j", "#k", "]", "**", "l^", "\xff\xfe*",
	}
	for _, name := range names {
		x, err := ParseExclude([]string{"/*", "!/" + EscapePattern(name)})
		if err != nil {
			t.Errorf("%q: %v", name, err)
			continue
		}
		for _, other := range names {
			if got := x.Match("/"+other, false); got != (other != name) {
				t.Errorf("for %q: %q is excluded: %v", name, other, got)
			}
		}
	}
}

// FuzzExclude gives patterns and paths: what is valid does not fail later.
func FuzzExclude(f *testing.F) {
	f.Add("*.tmp", "a/b.tmp")
	f.Add("!/a/**/[!x]{", "a/y")
	f.Add("[a-[:digit:]-z]", "5")
	f.Fuzz(func(t *testing.T, pattern, path string) {
		x, err := ParseExclude([]string{pattern})
		if err != nil {
			return
		}
		x.Match("/"+path, true)
	})
}

// A tree of more entries than it may have ends the scan, however it is spread out.
func TestScanEndless(t *testing.T) {
	for _, names := range []int{1, 20, 10_000} {
		r := newFake()
		r.list = func(_ context.Context, _ string, each func(Entry) error) (bool, error) {
			for i := range names {
				if err := each(Entry{Name: fmt.Sprint(i), Type: Dir}); err != nil {
					return true, err
				}
			}
			return true, nil
		}
		items, report, err := scanAll(t, r, ScanConfig{Entries: 5000, Depth: 1 << 20})
		switch {
		case names > 1 && (!errors.Is(err, ErrEndless) || KindOf(err) != KindLimit || len(items) > 5000):
			t.Errorf("%d names a directory: %d entries, %v", names, len(items), err)
		case names == 1 && (err != nil || len(items) > maxScanPath/2+2 || kinds(report)[KindLimit] != 1):
			t.Errorf("ever deeper: %d entries, %v, %v", len(items), err, kinds(report))
		}
	}
}

// What cannot be looked at is excluded when a pattern matches its name, as a file or as a directory, and says nothing of
// what else its directory has.
func TestScanExcludesUnseen(t *testing.T) {
	unseen := func(path string) error { return failOS("stat", path, syscall.EACCES) }
	for name, tt := range map[string]struct {
		patterns string
		entry    Entry
		excluded bool
	}{
		"by its name":                 {"mnt", Entry{Name: "mnt", Err: unseen("/d/mnt")}, true},
		"by its path":                 {"/d/mnt", Entry{Name: "mnt", Err: unseen("/d/mnt")}, true},
		"as a directory":              {"mnt/", Entry{Name: "mnt", Err: unseen("/d/mnt")}, true},
		"of no known type":            {"mnt", Entry{Name: "mnt"}, true},
		"with a target too long":      {"l", Entry{Name: "l", Type: Symlink, Target: strings.Repeat("t", maxPath+1)}, true},
		"another one":                 {"other", Entry{Name: "mnt", Err: unseen("/d/mnt")}, false},
		"if it were a file":           {"* !*/", Entry{Name: "mnt", Err: unseen("/d/mnt")}, false},
		"of somewhere else":           {"mnt", Entry{Name: "mnt", Err: unseen("/mnt")}, false},
		"a line":                      {"/d/*", Entry{Name: "mnt", Err: errLine("/d", "mnt")}, false},
		"a name that is not possible": {"/d/*", Entry{Name: "a/b", Err: checkName("/d", "a/b")}, false},
	} {
		t.Run(name, func(t *testing.T) {
			x, err := ParseExclude(strings.Fields(tt.patterns))
			if err != nil {
				t.Fatal(err)
			}
			r := newFake()
			r.dir("/d")
			r.list = func(_ context.Context, path string, each func(Entry) error) (bool, error) {
				if path != "/d" {
					return false, nil
				}
				return true, each(tt.entry)
			}
			items, report, err := scanAll(t, r, ScanConfig{Exclude: x})
			if err != nil || !slices.Equal(paths(items), []string{"/", "/d"}) {
				t.Fatalf("%q, %v", paths(items), err)
			}
			want, failed := int64(0), int64(1)
			if tt.excluded {
				want, failed = 1, 0
			}
			if report.Counts().Excluded != want || report.Failed() != failed || tt.excluded && !items[1].Whole {
				t.Errorf("%+v, %d failed; whole is %v", report.Counts(), report.Failed(), items[1].Whole)
			}
		})
	}
}
