package restore_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/snapgate/gateway/pull"
	"github.com/snapgate/gateway/pull/restore"
)

// forKinds runs a test for every kind of target on a directory that is not there yet.
func forKinds(t *testing.T, test func(t *testing.T, k kind, dir string)) {
	for _, k := range kinds() {
		t.Run(k.name, func(t *testing.T) { test(t, k, filepath.Join(t.TempDir(), "dest")) })
	}
}

// source is the house as a target can have it.
func (k kind) source() tree {
	tr := house()
	if !k.noLinks {
		tr.links()
	}
	return tr
}

// compare compares a directory with a tree, as far as the target can have it.
func (k kind) compare(t *testing.T, dir string, tr tree) {
	t.Helper()
	got, want := describe(t, dir), tr.describe()
	if k.noTimes {
		for _, list := range [][]string{got, want} {
			for i, line := range list {
				list[i] = line[:strings.LastIndexByte(line, ' ')]
			}
		}
	}
	differences(t, got, want)
}

func TestRestore(t *testing.T) {
	forKinds(t, func(t *testing.T, k kind, dir string) {
		tr := k.source()
		target := k.open(t, dir)
		report := run(t, target, tr)
		clean(t, report)
		k.compare(t, dir, tr)
		c := report.Counts()
		if c.Restored != c.Files+c.Symlinks || c.Files < 100 || c.Unchanged != 0 || c.RestoredBytes != c.Bytes || c.DoneBytes != c.Bytes {
			t.Errorf("counts %+v", c)
		}
		if k.noTimes {
			// Nobody can say whether it is the same file: it is restored anew, and that is said.
			again := run(t, target, tr)
			clean(t, again)
			if c := again.Counts(); c.Replaced != c.Files || len(again.Cannot()) != 1 || again.Cannot()[0] != "times" {
				t.Errorf("the second time: %+v, not set: %q", c, again.Cannot())
			}
			return
		}
		// Again: nothing is sent.
		again := run(t, target, tr)
		clean(t, again)
		if c := again.Counts(); c.Restored != 0 || c.SentBytes != 0 || c.Unchanged != c.Files+c.Symlinks || c.DoneBytes != c.Bytes {
			t.Errorf("the second time: %+v", c)
		}
		k.compare(t, dir, tr)
		verified := run(t, target, tr, func(c *restore.Config) { c.Verify = true })
		clean(t, verified)
		if c := verified.Counts(); c.Verified != c.Files+c.Symlinks {
			t.Errorf("verified %+v", c)
		}
	})
}

// What a pull has stored comes back: bytes, modes, times, links, empty directories, names that
// are no text.
func TestRoundTrip(t *testing.T) {
	from := t.TempDir()
	tr := house().links()
	first, err := pull.NewFSTarget(from)
	if err != nil {
		t.Fatal(err)
	}
	defer first.Close()
	clean(t, run(t, first, tr))
	v := snapshot(t, from)
	for _, k := range kinds() {
		if k.noLinks {
			continue
		}
		t.Run(k.name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "a", "b")
			clean(t, run(t, k.open(t, dir), restore.FromView(v)))
			differences(t, describe(t, dir), describe(t, from))
		})
	}
	t.Run("a part", func(t *testing.T) {
		dir := t.TempDir()
		clean(t, run(t, openLocal(t, dir), restore.FromView(v), func(c *restore.Config) { c.Path = "/deep" }))
		if got := describe(t, dir); len(got) != 2 || !strings.HasPrefix(got[0], `"/er" drwx------`) || !strings.HasPrefix(got[1], `"/er/est" drwx--x--x`) {
			t.Errorf("%q", got)
		}
	})
	t.Run("a file", func(t *testing.T) {
		dir := filepath.Join(t.TempDir(), "new")
		clean(t, run(t, openLocal(t, dir), restore.FromView(v), func(c *restore.Config) { c.Path = "/many/f001" }))
		if got := describe(t, dir); len(got) != 1 || !strings.HasPrefix(got[0], `"/f001" -rw-r-----`) {
			t.Errorf("%q", got)
		}
	})
}

// Users and groups come back as they were captured, when that is asked for: of files, directories and links,
// of those that are there already, too, and of a program that runs as its owner.
func TestOwner(t *testing.T) {
	if os.Getuid() != 0 {
		if os.Getenv("CI") != "" {
			t.Fatal("only root can give files away")
		}
		t.Skip("only root can give files away")
	}
	from := t.TempDir()
	tr := tree{}.dir("/", 0o755).file("/small", "s").file("/su", "x").dir("/dir", 0o750).file("/dir/mine", "m").link("/link", "small").link("/dir/dangling", "../no where")
	clean(t, run(t, openLocal(t, from), tr))
	for p := range tr {
		if p != "/" && p != "/dir/mine" {
			if err := os.Lchown(filepath.Join(from, p), 65534, 7); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := os.Chmod(filepath.Join(from, "su"), 0o755|fs.ModeSetuid|fs.ModeSetgid); err != nil {
		t.Fatal(err)
	}
	v, want := restore.FromView(snapshot(t, from)), owners(t, from)
	if !slices.Contains(want, "/su ugrwxr-xr-x 65534:7") {
		t.Fatalf("the tree is %q", want)
	}
	owner := func(c *restore.Config) { c.Owner = true }
	for _, k := range kinds() {
		if k.name != "local" && k.name != "openssh" {
			continue
		}
		t.Run(k.name, func(t *testing.T) {
			fresh := filepath.Join(t.TempDir(), "fresh")
			clean(t, run(t, k.open(t, fresh), v, owner))
			differences(t, owners(t, fresh), want)
			differences(t, describe(t, fresh), describe(t, from))

			dir := filepath.Join(t.TempDir(), "there")
			target := k.open(t, dir)
			clean(t, run(t, target, v))
			for _, line := range owners(t, dir) {
				if !strings.HasSuffix(line, " 0:0") || strings.HasPrefix(line, "/su u") {
					t.Errorf("without --owner: %s", line)
				}
			}
			again := run(t, target, v, owner)
			clean(t, again)
			if c := again.Counts(); c.Restored != 0 {
				t.Errorf("what is there is restored again: %+v", c)
			}
			differences(t, owners(t, dir), want)
			differences(t, describe(t, dir), describe(t, from))
		})
	}
}

// Times that SFTP cannot carry become the nearest: the report says so, and nothing is written again because of it.
func TestTimesOutOfRange(t *testing.T) {
	forKinds(t, func(t *testing.T, k kind, dir string) {
		if k.noLinks {
			return // times are text
		}
		tr := tree{}
		tr.dir("/", 0o755).file("/now", "x").file("/old", "x").file("/far", "x").dir("/d", 0o755)
		set := func(p string, when time.Time) {
			it := tr[p]
			it.when = when
			tr[p] = it
		}
		old, far := time.Date(1950, 1, 2, 3, 4, 5, 0, time.UTC), time.Date(2200, 1, 2, 3, 4, 5, 0, time.UTC)
		set("/old", old)
		set("/d", old)
		set("/far", far)
		var want []string
		if k.name != "local" {
			old, far = time.Unix(0, 0), time.Unix(math.MaxUint32, 0)
			want = []string{"times after 2106-02-07", "times before 1970-01-01"}
		}
		target := k.open(t, dir)
		for _, restored := range []int64{3, 0} {
			report := run(t, target, tr)
			clean(t, report)
			if c := report.Counts(); c.Restored != restored {
				t.Errorf("%d restored, want %d", c.Restored, restored)
			}
			if got := slices.Sorted(slices.Values(report.Cannot())); !slices.Equal(got, want) {
				t.Errorf("what it cannot have: %q, want %q", got, want)
			}
		}
		// Another version whose time becomes the same is another version.
		tr.file("/old", "y")
		set("/old", time.Date(1960, 1, 2, 3, 4, 5, 0, time.UTC))
		if k.name == "local" {
			old = tr["/old"].when
			set("/d", old)
		}
		for _, restored := range []int64{1, 0} {
			report := run(t, target, tr)
			clean(t, report)
			if c := report.Counts(); c.Restored != restored {
				t.Errorf("%d restored of another version, want %d", c.Restored, restored)
			}
			if got, err := os.ReadFile(filepath.Join(dir, "old")); err != nil || string(got) != "y" {
				t.Errorf("%q, %v", got, err)
			}
		}
		for name, when := range map[string]time.Time{"old": old, "d": old, "far": far} {
			if fi, err := os.Stat(filepath.Join(dir, name)); err != nil || !fi.ModTime().Equal(when) {
				t.Errorf("%s: %v, %v, want %v", name, fi.ModTime(), err, when)
			}
		}
	})
}

// unreadable is a target that carries times from 1970 on and does not let files be read.
type unreadable struct{ pull.Target }

func (u unreadable) Capabilities(ctx context.Context) (pull.Capabilities, error) {
	caps, err := u.Target.Capabilities(ctx)
	caps.Earliest, caps.Latest = time.Unix(0, 0), time.Unix(math.MaxUint32, 0)
	return caps, err
}

func (u unreadable) Open(_ context.Context, p string, _, _ int64) (io.ReadCloser, error) {
	return nil, &pull.Error{Op: "open", Path: p, Kind: pull.KindPermission}
}

// What has a time that may stand for others, and cannot be read, is what any file is that may differ.
func TestTimesOutOfRangeUnreadable(t *testing.T) {
	dir := t.TempDir()
	tr := tree{}.dir("/", 0o755).file("/a", "a")
	it := tr["/a"]
	it.when = time.Unix(0, 0)
	tr["/a"] = it
	target := unreadable{openLocal(t, dir)}
	clean(t, run(t, target, tr))
	for mode, replaced := range map[restore.Overwrite]int64{restore.Always: 1, restore.Never: 0} {
		report := run(t, target, tr, func(c *restore.Config) { c.Overwrite = mode })
		clean(t, report)
		if c := report.Counts(); c.Replaced != replaced || c.Kept != 1-replaced {
			t.Errorf("%s: %+v", mode, c)
		}
	}
	report := run(t, target, tr, func(c *restore.Config) { c.Verify = true })
	if list, _ := report.Problems(); len(list) != 1 || list[0].Kind != pull.KindPermission {
		t.Errorf("what is to be verified: problems %+v", list)
	}
}

// A link that a run has made before it was killed gets its time from the next one.
func TestLinkTimes(t *testing.T) {
	for _, k := range kinds() {
		if k.name != "local" && k.name != "openssh" {
			continue
		}
		t.Run(k.name, func(t *testing.T) {
			dir := t.TempDir()
			tr := tree{}.dir("/", 0o755).link("/link", "to")
			for _, mode := range []restore.Overwrite{restore.Never, restore.Always} {
				link := filepath.Join(dir, "link")
				if err := os.Remove(link); err != nil && !errors.Is(err, fs.ErrNotExist) {
					t.Fatal(err)
				}
				if err := os.Symlink("to", link); err != nil {
					t.Fatal(err)
				}
				report := run(t, k.open(t, dir), tr, func(c *restore.Config) { c.Overwrite = mode })
				clean(t, report)
				fi, err := os.Lstat(link)
				if err != nil || fi.ModTime().Equal(then) != (mode == restore.Always) || report.Counts().Unchanged != 1 {
					t.Errorf("%s: %v, %v, %+v", mode, fi.ModTime(), err, report.Counts())
				}
			}
		})
	}
}

// owners lists what is below a local directory, with modes, users and groups.
func owners(t *testing.T, dir string) (lines []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || path == dir {
			return err
		}
		fi, err := d.Info()
		if err != nil {
			return err
		}
		st := fi.Sys().(*syscall.Stat_t)
		lines = append(lines, fmt.Sprintf("%s %v %d:%d", path[len(dir):], fi.Mode(), st.Uid, st.Gid))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return lines
}

func TestDryRun(t *testing.T) {
	forKinds(t, func(t *testing.T, k kind, dir string) {
		tr := k.source()
		var ops []string
		dry := func(c *restore.Config) {
			c.DryRun = true
			c.Note = func(a restore.Action) { ops = append(ops, a.Op+" "+a.Path) }
		}
		clean(t, run(t, k.open(t, dir), tr, dry))
		if _, err := os.Lstat(dir); err == nil {
			t.Error("a dry run has made the destination")
		}
		if all := strings.Join(ops, "\n"); !strings.Contains(all, "restore /large") || !strings.Contains(all, "make /deep/er") {
			t.Errorf("it would do %.300s", all)
		}
		write(t, filepath.Join(dir, "small"), "other")
		for _, name := range []string{"extra", "old/x", "old/deep/y"} {
			write(t, filepath.Join(dir, name), "x")
		}
		before := describe(t, dir)
		ops = nil
		report := run(t, k.open(t, dir), tr, dry, func(c *restore.Config) { c.Delete, c.Confirm = true, nobodyAsks(t) })
		clean(t, report)
		differences(t, describe(t, dir), before)
		if all := strings.Join(ops, "\n"); !strings.Contains(all, "replace /small") || !strings.Contains(all, "delete /extra") {
			t.Errorf("it would do %s", all)
		}
		if c := report.Counts(); c.SentBytes != 0 || c.Deleted != 5 || c.Replaced != 1 {
			t.Errorf("counts %+v", c)
		}
		report = run(t, k.open(t, dir), tr, func(c *restore.Config) {
			c.Delete, c.Confirm = true, func(context.Context, restore.Extras) (bool, error) { return true, nil }
		})
		clean(t, report)
		if c := report.Counts(); c.Deleted != 5 || c.Replaced != 1 {
			t.Errorf("counts without a dry run %+v", c)
		}
	})
}

// That the destination was not there is told, once.
func TestDestinationMade(t *testing.T) {
	forKinds(t, func(t *testing.T, k kind, dir string) {
		tr := tree{}.dir("/", 0o755).file("/a", "a")
		for _, step := range []struct {
			dry, made bool
		}{{true, true}, {false, true}, {false, false}, {true, false}} {
			var ops []string
			report := run(t, k.open(t, dir), tr, func(c *restore.Config) {
				c.DryRun, c.Note = step.dry, func(a restore.Action) { ops = append(ops, a.Op+" "+a.Path) }
			})
			clean(t, report)
			text, err := report.MarshalJSON()
			if err != nil {
				t.Fatal(err)
			}
			if report.Made() != step.made || slices.Contains(ops, "make /") != step.made || strings.Contains(string(text), `"destination_made":true`) != step.made {
				t.Errorf("%+v: made %v, %q, %s", step, report.Made(), ops, text)
			}
		}
	})
}

func write(t *testing.T, path, data string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(data), 0o644); err != nil {
		t.Fatal(err)
	}
}

func at(t *testing.T, path string, when time.Time) {
	t.Helper()
	if err := os.Chtimes(path, when, when); err != nil {
		t.Fatal(err)
	}
}

// A dry run with Verify tells what only its contents show to be another file, and leaves it.
func TestDryRunVerifies(t *testing.T) {
	forKinds(t, func(t *testing.T, k kind, dir string) {
		tr := tree{}.dir("/", 0o755).file("/a", "good").file("/b", "same")
		target := k.open(t, dir)
		clean(t, run(t, target, tr))
		write(t, filepath.Join(dir, "a"), "evil")
		at(t, filepath.Join(dir, "a"), then)
		var replaced []string
		report := run(t, target, tr, func(c *restore.Config) {
			c.DryRun, c.Verify = true, true
			c.Note = func(a restore.Action) {
				if a.Op == "replace" {
					replaced = append(replaced, a.Path)
				}
			}
		})
		clean(t, report)
		if !slices.Contains(replaced, "/a") {
			t.Errorf("would replace %q, %+v", replaced, report.Counts())
		}
		if c := report.Counts(); !k.noTimes && (len(replaced) != 1 || c.Verified != 1 || c.Unchanged != 1) {
			t.Errorf("would replace %q, %+v", replaced, c)
		}
		if data, err := os.ReadFile(filepath.Join(dir, "a")); err != nil || string(data) != "evil" {
			t.Errorf("%q, %v", data, err)
		}
	})
}

func TestOverwrite(t *testing.T) {
	forKinds(t, func(t *testing.T, k kind, dir string) {
		tr := tree{}.dir("/", 0o755).file("/older", "new").file("/newer", "new").file("/same", "new").file("/size", "new!").dir("/d", 0o755).file("/d/x", "new")
		for _, mode := range []restore.Overwrite{restore.Never, restore.Older, restore.Always} {
			if err := os.RemoveAll(dir); err != nil {
				t.Fatal(err)
			}
			for name, when := range map[string]time.Time{"older": then.Add(-time.Minute), "newer": then.Add(time.Minute), "same": then, "size": then, "d/x": then.Add(-time.Hour)} {
				write(t, filepath.Join(dir, name), "old")
				at(t, filepath.Join(dir, name), when)
			}
			report := run(t, k.open(t, dir), tr, func(c *restore.Config) { c.Overwrite = mode })
			clean(t, report)
			got := ""
			for _, name := range []string{"older", "newer", "same", "size", "d/x"} {
				data, err := os.ReadFile(filepath.Join(dir, name))
				if err != nil {
					t.Fatal(err)
				}
				got += string(data) + " "
			}
			want := map[restore.Overwrite]string{
				restore.Never:  "old old old old old ",
				restore.Older:  "new old old old new ",
				restore.Always: "new new old new! new ", // what has size and time is taken for it
			}[mode]
			if got != want {
				t.Errorf("%s: %q, want %q", mode, got, want)
			}
			if c := report.Counts(); c.Kept+c.Restored+c.Unchanged != 5 || c.Unchanged != 1 {
				t.Errorf("%s: %+v", mode, c)
			}
		}
	})
	if _, err := restore.ParseOverwrite("sometimes"); err == nil {
		t.Error("an unknown word was taken")
	}
}

// zoned is a local target whose listings have times to the minute, of a zone that is eight hours behind.
type zoned struct {
	pull.Target
	exact bool // asked by name it tells the right time, as with MDTM
}

func (zoned) listed(e pull.Entry) pull.Entry {
	e.ModTime, e.Precision = e.ModTime.Add(-8*time.Hour).Truncate(time.Minute), time.Minute
	return e
}

func (z zoned) ReadDir(ctx context.Context, p string, each func(pull.Entry) error) error {
	return z.Target.ReadDir(ctx, p, func(e pull.Entry) error { return each(z.listed(e)) })
}

func (z zoned) Lstat(ctx context.Context, p string) (pull.Entry, error) {
	e, err := z.Target.Lstat(ctx, p)
	if z.exact {
		e.Precision = time.Second
		return e, err
	}
	return z.listed(e), err
}

func (z zoned) Capabilities(ctx context.Context) (pull.Capabilities, error) {
	caps, err := z.Target.Capabilities(ctx)
	caps.Exact = z.exact
	return caps, err
}

// A file is not older because the server lists it in its own zone.
func TestOverwriteOlderInAnotherZone(t *testing.T) {
	for _, exact := range []bool{true, false} {
		dir := t.TempDir()
		tr := tree{}.dir("/", 0o755).file("/newer", "new!").file("/older", "new!").file("/oldest", "new!")
		for name, when := range map[string]time.Time{"newer": then.Add(3 * time.Hour), "older": then.Add(-time.Hour), "oldest": then.Add(-5 * time.Hour)} {
			write(t, filepath.Join(dir, name), "old")
			at(t, filepath.Join(dir, name), when)
		}
		report := run(t, zoned{openLocal(t, dir), exact}, tr, func(c *restore.Config) { c.Overwrite = restore.Older })
		clean(t, report)
		got := ""
		for _, name := range []string{"newer", "older", "oldest"} {
			data, err := os.ReadFile(filepath.Join(dir, name))
			if err != nil {
				t.Fatal(err)
			}
			got += string(data) + " "
		}
		want := "old new! new! "
		if !exact {
			want = "old old new! " // the second may be newer, too
		}
		if got != want {
			t.Errorf("exact %v: %q, want %q", exact, got, want)
		}
	}
}

// What is something else stays, is named, and the rest is restored.
func TestConflicts(t *testing.T) {
	forKinds(t, func(t *testing.T, k kind, dir string) {
		tr := tree{}.dir("/", 0o755).file("/file", "new").dir("/dir", 0o755).file("/dir/in", "x").file("/rest", "r")
		write(t, filepath.Join(dir, "file", "in"), "stays")
		write(t, filepath.Join(dir, "dir"), "stays")
		report := run(t, k.open(t, dir), tr)
		list, _ := report.Problems()
		if len(list) != 2 || list[0].Path != "/dir" || list[1].Path != "/file" || list[0].Kind != pull.KindConflict || list[1].Kind != pull.KindConflict {
			t.Errorf("problems %+v", list)
		}
		for name, want := range map[string]string{"file/in": "stays", "dir": "stays", "rest": "r"} {
			if data, err := os.ReadFile(filepath.Join(dir, name)); err != nil || string(data) != want {
				t.Errorf("%s: %q, %v", name, data, err)
			}
		}
		var text bytes.Buffer
		if err := report.WriteText(&text, 1); err != nil || !strings.Contains(text.String(), "2 problems:\n  /dir: restore /dir: something else is there: a file is") ||
			!strings.Contains(text.String(), "and 1 more") {
			t.Errorf("%s, %v", text.String(), err)
		}
	})
}

// Names that a disk refuses are problems, however many there are.
func TestRefusedByDisk(t *testing.T) {
	tr := tree{}.dir("/", 0o755).file("/good", "x")
	const bad = 40
	for i := range bad {
		tr.file(fmt.Sprintf("/%s%02d", strings.Repeat("n", 255), i), "x")
	}
	dir := t.TempDir()
	report := run(t, openLocal(t, dir), tr)
	list, _ := report.Problems()
	if c := report.Counts(); c.Restored != 1 || len(list) != bad || list[0].Kind != pull.KindOther {
		t.Errorf("%+v, problems %+v", c, list[:min(len(list), 1)])
	}
}

// nowhere is a target that cannot be connected to.
type nowhere struct {
	pull.Target
	calls int
}

func (n *nowhere) Lstat(context.Context, string) (pull.Entry, error) { return pull.Entry{}, n.refuse() }
func (n *nowhere) MakeRoot(context.Context) (bool, error)            { return false, n.refuse() }

func (n *nowhere) refuse() error {
	n.calls++
	return &pull.Error{Op: "connect", Kind: pull.KindConnection, Err: errors.New("refused")}
}

// Whoever has mistyped the name of a server is told soon.
func TestNobodyAnswers(t *testing.T) {
	for _, dry := range []bool{false, true} {
		n := &nowhere{Target: openLocal(t, t.TempDir())}
		_, err := try(t, n, tree{}.dir("/", 0o755), func(c *restore.Config) { c.DryRun = dry })
		if err == nil || pull.KindOf(err) != pull.KindConnection || n.calls != 3 {
			t.Errorf("dry run %v: %d attempts, %v; want 3", dry, n.calls, err)
		}
	}
}

// Symbolic links in the destination lead nowhere: one in the place of a directory is not
// followed, one in the place of a file, or of the temporary file, is replaced itself.
func TestLinksAreNotFollowed(t *testing.T) {
	forKinds(t, func(t *testing.T, k kind, dir string) {
		outside := t.TempDir()
		write(t, filepath.Join(outside, "victim"), "stays")
		tr := tree{}.dir("/", 0o755).dir("/dir", 0o755).file("/dir/new", "x").file("/file", "new").file("/ok", "fine")
		write(t, filepath.Join(dir, "keep"), "")
		for link, to := range map[string]string{"dir": outside, "file": filepath.Join(outside, "victim")} {
			if err := os.Symlink(to, filepath.Join(dir, link)); err != nil {
				t.Fatal(err)
			}
		}
		report := run(t, k.open(t, dir), tr)
		list, _ := report.Problems()
		if len(list) != 1 || list[0].Path != "/dir" || list[0].Kind != pull.KindConflict && !k.noLinks {
			t.Errorf("problems %+v", list)
		}
		if got := describe(t, outside); len(got) != 1 {
			t.Errorf("outside is %q", got)
		}
		if data, err := os.ReadFile(filepath.Join(outside, "victim")); err != nil || string(data) != "stays" {
			t.Errorf("the victim is %q, %v", data, err)
		}
		if fi, err := os.Lstat(filepath.Join(dir, "file")); err != nil || !fi.Mode().IsRegular() {
			t.Errorf("the link is %v, %v", fi, err)
		}
	})
}

func TestHostileNames(t *testing.T) {
	forKinds(t, func(t *testing.T, k kind, dir string) {
		tr := tree{}.dir("/", 0o755).file("/ok", "fine")
		src := hostile{tr, []string{"..", ".", "", "a/b", "../x", "a\x00b"}}
		report := run(t, k.open(t, dir), src)
		list, _ := report.Problems()
		if len(list) != len(src.names) {
			t.Errorf("problems %+v", list)
		}
		for _, p := range list {
			if p.Kind != pull.KindName {
				t.Errorf("%+v", p)
			}
		}
		if got := describe(t, filepath.Dir(dir)); len(got) != 2 {
			t.Errorf("there is %q", got)
		}
	})
}

func TestFTPRefusesNames(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "dest")
	tr := tree{}.dir("/", 0o755).file("/ok", "fine").file("/a\nDELE ok", "x").link("/link", "ok")
	report := run(t, openFTP(t, dir, &ftpDriver{}), tr)
	list, _ := report.Problems()
	if len(list) != 1 || list[0].Kind != pull.KindName || report.Counts().LeftOut != 1 {
		t.Errorf("problems %+v, %+v", list, report.Counts())
	}
	if got := describe(t, dir); len(got) != 1 {
		t.Errorf("there is %q", got)
	}
}

// What a server has lost of an upload that it has acknowledged is noticed, and never gets the
// file's name.
func TestFTPLosesBytes(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "dest")
	tr := tree{}.dir("/", 0o755).file("/large", string(randomBytes(300<<10)))
	report := run(t, openFTP(t, dir, &ftpDriver{lossy: true}), tr)
	list, _ := report.Problems()
	if len(list) != 1 || list[0].Path != "/large" || list[0].Kind != pull.KindShort {
		t.Errorf("problems %+v", list)
	}
	if _, err := os.Stat(filepath.Join(dir, "large")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("half a file has its name: %v", err)
	}
}

// A limit is kept: what is more than the first second's takes its time.
func TestBandwidth(t *testing.T) {
	tr := tree{}.dir("/", 0o755).file("/a", string(randomBytes(100<<10))).file("/b", string(randomBytes(100<<10)))
	dir := t.TempDir()
	began := time.Now()
	clean(t, run(t, openLocal(t, dir), tr, func(c *restore.Config) { c.Bandwidth = 150 << 10 }))
	if took := time.Since(began); took < 300*time.Millisecond {
		t.Errorf("200 KiB at 150 KiB/s took %v", took)
	}
	differences(t, describe(t, dir), tr.describe())
}

// swapping does something after it has listed a directory.
type swapping struct {
	*pull.FS
	after string
	do    func()
}

func (s *swapping) ReadDir(ctx context.Context, path string, each func(pull.Entry) error) error {
	err := s.FS.ReadDir(ctx, path, each)
	if path == s.after {
		s.do()
	}
	return err
}

// Whoever owns a directory of the destination puts a link to another user's in its place, after it was listed: what is
// his is not written there, and nothing there becomes his.
func TestLinkInPlaceOfListedDir(t *testing.T) {
	tr := tree{}
	tr.dir("/", 0o755).dir("/alice", 0o755).dir("/alice/d", 0o755).file("/alice/d/new", "alice's").file("/alice/d/old", "alice's")
	tr.dir("/alice/d/mail", 0o777).file("/alice/d/mail/in", "alice's")
	dir := t.TempDir()
	for _, p := range []string{"alice/d/mail", "bob/mail"} {
		if err := os.MkdirAll(filepath.Join(dir, p), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	for _, p := range []string{"alice/d/old", "bob/old", "bob/mail/in"} {
		if err := os.WriteFile(filepath.Join(dir, p), []byte("secret"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	target, err := pull.NewFSTarget(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer target.Close()
	before := describe(t, filepath.Join(dir, "bob"))
	d := filepath.Join(dir, "alice/d")
	report := run(t, &swapping{target, "/alice/d", func() {
		if err := errors.Join(os.Rename(d, d+".away"), os.Symlink("../bob", d)); err != nil {
			t.Error(err)
		}
	}}, tr)
	differences(t, describe(t, filepath.Join(dir, "bob")), before)
	list, _ := report.Problems()
	told := map[string]bool{}
	for _, p := range list {
		told[p.Path] = p.Kind == pull.KindConflict && strings.Contains(p.Text, "/alice/d is a symbolic link, which is not followed")
	}
	for _, p := range []string{"/alice/d/new", "/alice/d/old", "/alice/d/mail"} {
		if !told[p] {
			t.Errorf("no problem at %s: %+v", p, list)
		}
	}
}
