package restore_test

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/snapgate/gateway/pull"
	"github.com/snapgate/gateway/pull/restore"
)

// faulty is a target that loses the connection at a step: before it is done, or after, when the
// answer is lost.
type faulty struct {
	pull.Target
	step  atomic.Int64 // counts down
	only  string       // of these steps; "" for all
	after bool
	once  bool // and works again then

	mu   sync.Mutex // guards hits
	hits []string   // the steps that were cut
}

func (f *faulty) do(name string, fn func() error) error {
	n := f.step.Load()
	if n <= 0 || f.only == "" || f.only == name {
		n = f.step.Add(-1)
	}
	cut := n == 0 || n < 0 && !f.once
	if cut {
		f.mu.Lock()
		f.hits = append(f.hits, name)
		f.mu.Unlock()
	}
	lost := &pull.Error{Op: name, Kind: pull.KindConnection, Err: errors.New("cut")}
	if cut && !(f.after && n == 0) {
		return lost
	}
	if err := fn(); err != nil || !cut {
		return err
	}
	return lost
}

// Lstat fails while the connection is away for good.
func (f *faulty) Lstat(ctx context.Context, p string) (pull.Entry, error) {
	if !f.once && f.step.Load() <= 0 {
		return pull.Entry{}, &pull.Error{Op: "stat", Kind: pull.KindConnection, Err: errors.New("cut")}
	}
	return f.Target.Lstat(ctx, p)
}

func (f *faulty) Mkdir(ctx context.Context, p string) error {
	return f.do("mkdir", func() error { return f.Target.Mkdir(ctx, p) })
}

func (f *faulty) Rename(ctx context.Context, from, to string) error {
	return f.do("rename", func() error { return f.Target.Rename(ctx, from, to) })
}

func (f *faulty) Symlink(ctx context.Context, target, p string) error {
	return f.do("symlink", func() error { return f.Target.Symlink(ctx, target, p) })
}

func (f *faulty) SetAttributes(ctx context.Context, p string, typ pull.Type, a pull.Attributes) error {
	return f.do("set attributes", func() error { return f.Target.SetAttributes(ctx, p, typ, a) })
}

func (f *faulty) Remove(ctx context.Context, p string, typ pull.Type) error {
	return f.do("remove", func() error { return f.Target.Remove(ctx, p, typ) })
}

func (f *faulty) Create(ctx context.Context, p string, offset int64) (pull.Writer, error) {
	var w pull.Writer
	err := f.do("create", func() (err error) {
		w, err = f.Target.Create(ctx, p, offset)
		return err
	})
	if err != nil {
		if w != nil {
			w.Abort()
		}
		return nil, err
	}
	return &faultyWriter{w, f}, nil
}

type faultyWriter struct {
	pull.Writer
	f *faulty
}

func (w *faultyWriter) Write(ctx context.Context, p []byte) error {
	return w.f.do("write", func() error { return w.Writer.Write(ctx, p) })
}

func (w *faultyWriter) Finish(ctx context.Context, a pull.Attributes) error {
	return w.f.do("finish", func() error { return w.Writer.Finish(ctx, a) })
}

// small is a tree whose restore has every kind of step, with things to replace.
func smallHouse(links bool) tree {
	tr := tree{}.dir("/", 0o755).file("/a", "small").file("/big", string(randomBytes(2<<20+300<<10))).dir("/d", 0o750).file("/d/old", "new").dir("/d/e", 0o700)
	if links {
		tr.link("/l", "a").link("/d/m", "new")
	}
	return tr
}

func (k kind) prepare(t *testing.T, dir string) {
	t.Helper()
	write(t, filepath.Join(dir, "d", "old"), "an older one")
	if !k.noLinks {
		if err := os.Symlink("old", filepath.Join(dir, "d", "m")); err != nil {
			t.Fatal(err)
		}
	}
}

// However a restore is cut off, the next run finishes it, and leaves nothing of its own.
func TestCutAtEveryStep(t *testing.T) {
	for _, k := range kinds() {
		if k.noTimes || k.name == "openssh" {
			continue
		}
		t.Run(k.name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "dest")
			one := k.open(t, dir)
			for _, op := range []string{"mkdir", "create", "write", "finish", "rename", "set attributes", "symlink"} {
				for step := int64(1); ; step++ {
					before, after := cutAt(t, k, one, dir, op, step, false), cutAt(t, k, one, dir, op, step, true)
					if step == 1 && !(before && after) && !(k.noLinks && op == "symlink") {
						t.Errorf("no cut at %s", op)
					}
					if !before && !after {
						break
					}
				}
			}
		})
	}
}

// cutAt cuts a restore at a step, and has the next run finish it; false when it has no such step.
func cutAt(t *testing.T, k kind, target pull.Target, dir, op string, step int64, after bool) bool {
	t.Helper()
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	k.prepare(t, dir)
	if k.name == "local" {
		target = k.open(t, dir)
	}
	f := &faulty{Target: target, only: op, after: after}
	f.step.Store(step)
	tr := smallHouse(!k.noLinks)
	if k.noLinks && op == "symlink" {
		return false
	}
	_, err := try(t, f, tr, func(c *restore.Config) { c.Retry.Attempts = 1; c.Workers = 1 })
	if len(f.hits) == 0 {
		if err != nil {
			t.Fatal(err)
		}
		return false
	}
	if err == nil || pull.KindOf(err) != pull.KindConnection {
		t.Fatalf("%s %d: %v", op, step, err)
	}
	clean(t, run(t, target, tr))
	k.compare(t, dir, tr)
	if t.Failed() {
		t.Fatalf("after a cut at %s %d", op, step)
	}
	return true
}

// A connection that comes back is gone on with in the same run.
func TestRetriesEveryStep(t *testing.T) {
	for _, k := range kinds() {
		if k.noTimes || k.name == "openssh" {
			continue
		}
		t.Run(k.name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "dest")
			one := k.open(t, dir)
			for step := int64(1); ; step++ {
				hit := false
				for _, after := range []bool{false, true} {
					if err := os.RemoveAll(dir); err != nil {
						t.Fatal(err)
					}
					k.prepare(t, dir)
					target := one
					if k.name == "local" {
						target = k.open(t, dir)
					}
					f := &faulty{Target: target, after: after, once: true}
					f.step.Store(step)
					tr := smallHouse(!k.noLinks)
					clean(t, run(t, f, tr))
					k.compare(t, dir, tr)
					if t.Failed() {
						t.Fatalf("after a cut at step %d, %v", step, f.hits)
					}
					hit = hit || len(f.hits) > 0
				}
				if !hit {
					break
				}
			}
		})
	}
}

// What an earlier run has written is gone on with behind the bytes that are right.
func TestResume(t *testing.T) {
	tr := tree{}.dir("/", 0o755).file("/big", string(randomBytes(5<<20)))
	for _, k := range kinds() {
		if k.noTimes {
			continue
		}
		for _, tt := range []struct {
			name   string
			change func(data []byte) []byte
			least  int64 // bytes that are not sent again
			most   int64
		}{
			{"as it was", func(b []byte) []byte { return b }, 3 << 20, 3 << 20},
			{"a wrong byte", func(b []byte) []byte { b[1<<20+5] ^= 1; return b }, 0, 1<<20 + 5},
			{"zeros at the end", func(b []byte) []byte { return append(b, make([]byte, 1<<20)...) }, 0, 3<<20 + 2},
			{"all and more", func(b []byte) []byte { return append(bytes.Clone(tr["/big"].data), "more"...) }, 0, 5 << 20},
			{"nothing", func([]byte) []byte { return nil }, 0, 0},
			{"other bytes", func([]byte) []byte { return randomBytes(3 << 19) }, 0, 2},
		} {
			t.Run(k.name+" "+tt.name, func(t *testing.T) {
				dir := filepath.Join(t.TempDir(), "dest")
				target := k.open(t, dir)
				f := &faulty{Target: target}
				f.step.Store(5) // create, three times write
				if _, err := try(t, f, tr, func(c *restore.Config) { c.Retry.Attempts = 1 }); err == nil {
					t.Fatal("it was not cut")
				}
				names, err := filepath.Glob(filepath.Join(dir, ".big.snapgate-????????.part"))
				if err != nil || len(names) != 1 {
					t.Fatalf("temporary files: %q, %v", names, err)
				}
				if _, err := os.Lstat(filepath.Join(dir, "big")); err == nil {
					t.Fatal("half a file has its name")
				}
				// Exactly three buffers, in a file that nothing which is still under way is for.
				if err := os.Remove(names[0]); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(names[0], tt.change(bytes.Clone(tr["/big"].data[:3<<20])), 0o600); err != nil {
					t.Fatal(err)
				}
				report := run(t, target, tr)
				clean(t, report)
				k.compare(t, dir, tr)
				c := report.Counts()
				if kept := c.Bytes - c.SentBytes; kept < tt.least || kept > tt.most {
					t.Errorf("%d bytes were sent again, %d were not", c.SentBytes, kept)
				}
				if tt.least > 0 && c.Resumed != 1 {
					t.Errorf("counts %+v", c)
				}
			})
		}
	}
}

// A connection that is cut in the middle of a large file is made again.
func TestSFTPCutInTheMiddle(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "dest")
	s := &sftpServer{}
	target := openSFTP(t, dir, s.dial)
	tr := tree{}.dir("/", 0o755).file("/big", string(randomBytes(9<<20)))
	s.budget.Store(6 << 20)
	report := run(t, target, tr)
	clean(t, report)
	differences(t, describe(t, dir), tr.describe())
	if c := report.Counts(); s.dials.Load() != 2 || c.SentBytes <= c.Bytes || c.SentBytes > c.Bytes+4<<20 || c.DoneBytes != c.Bytes {
		t.Errorf("%d connections, %+v", s.dials.Load(), c)
	}
}

// flipping writes one byte wrong.
type flipping struct{ pull.Target }

type flippingWriter struct{ pull.Writer }

func (f flipping) Create(ctx context.Context, p string, offset int64) (pull.Writer, error) {
	w, err := f.Target.Create(ctx, p, offset)
	if err != nil || !strings.Contains(p, "bad") {
		return w, err
	}
	return flippingWriter{w}, nil
}

func (w flippingWriter) Write(ctx context.Context, p []byte) error {
	wrong := bytes.Clone(p)
	wrong[len(wrong)/2] ^= 0x20
	return w.Writer.Write(ctx, wrong)
}

// hashing is flipping on a server that hashes.
type hashing struct {
	flipping
	pull.Hasher
}

func TestVerify(t *testing.T) {
	forKinds(t, func(t *testing.T, k kind, dir string) {
		verify := func(c *restore.Config) { c.Verify = true }
		tr := tree{}.dir("/", 0o755).file("/good", "good").file("/bad", string(randomBytes(400<<10))).file("/bad2", "x")
		if !k.noLinks {
			tr.link("/link", "good")
		}
		var target pull.Target = flipping{k.open(t, dir)}
		if h, ok := target.(flipping).Target.(pull.Hasher); ok {
			target = hashing{flipping{target.(flipping).Target}, h}
		}
		report := run(t, target, tr, verify)
		list, _ := report.Problems()
		if len(list) != 2 || list[0].Path != "/bad" || list[0].Kind != pull.KindDiffers || list[1].Path != "/bad2" {
			t.Errorf("problems %+v", list)
		}
		if c := report.Counts(); c.Verified != 1+c.Symlinks {
			t.Errorf("counts %+v", c)
		}
		if k.noTimes {
			return
		}
		// The file that is there has the size and the time, and is wrong: it is replaced.
		again := run(t, target.(interface{ plain() pull.Target }).plain(), tr, verify)
		clean(t, again)
		if c := again.Counts(); c.Verified != c.Files+c.Symlinks || c.Replaced != 2 {
			t.Errorf("the second time: %+v", c)
		}
		k.compare(t, dir, tr)
	})
}

// A damaged file that is there is replaced also when the connection was lost before anything was
// written: only after a rename it can be the restored one.
func TestVerifyAfterLostConnection(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "dest")
	tr := tree{}.dir("/", 0o755).file("/a", "good")
	write(t, filepath.Join(dir, "a"), "evil")
	at(t, filepath.Join(dir, "a"), then)
	f := &faulty{Target: openLocal(t, dir), only: "create", once: true}
	f.step.Store(1)
	clean(t, run(t, f, tr, func(c *restore.Config) { c.Verify = true }))
	if data, err := os.ReadFile(filepath.Join(dir, "a")); err != nil || string(data) != "good" || len(f.hits) != 1 {
		t.Errorf("%q, %v after %q", data, err, f.hits)
	}
}

func (f flipping) plain() pull.Target { return f.Target }

func TestDelete(t *testing.T) {
	forKinds(t, func(t *testing.T, k kind, dir string) {
		tr := tree{}.dir("/", 0o755).file("/a", "a").dir("/d", 0o755).file("/d/b", "b")
		outside := t.TempDir()
		write(t, filepath.Join(outside, "stays"), "x")
		prepare := func() {
			write(t, filepath.Join(dir, "extra"), "x")
			write(t, filepath.Join(dir, "tree", "deep", "file"), "x")
			write(t, filepath.Join(dir, "d", "more"), "x")
			write(t, filepath.Join(dir, "a"), "other")
			if k.noTimes {
				return // its LIST shows links in a way that is not understood, so the tree would stay
			}
			if err := os.Symlink(outside, filepath.Join(dir, "tree", "link")); err != nil {
				t.Fatal(err)
			}
		}
		prepare()
		target := k.open(t, dir)
		// Without being asked for.
		clean(t, run(t, target, tr))
		if _, err := os.Stat(filepath.Join(dir, "extra")); err != nil {
			t.Fatal(err)
		}
		var asked []string
		answer := false
		remove := func(c *restore.Config) {
			c.Delete = true
			c.Confirm = func(_ context.Context, e restore.Extras) (bool, error) { asked = e.Paths; return answer, nil }
		}
		// With no for an answer.
		before := describe(t, dir)
		if _, err := try(t, target, tr, remove); !errors.Is(err, restore.ErrNotDeleted) {
			t.Errorf("refused: %v", err)
		}
		if !k.noTimes {
			differences(t, describe(t, dir), before)
		}
		if want := []string{"/d/more", "/extra", "/tree"}; strings.Join(asked, " ") != strings.Join(want, " ") {
			t.Errorf("asked for %q", asked)
		}
		// With a problem nothing is deleted, and nobody is asked.
		asked, answer = nil, true
		report, err := try(t, target, hostile{tr, []string{".."}}, remove)
		if n := report.Counts(); !errors.Is(err, restore.ErrNotDeleted) || asked != nil || n.Problems == 0 || n.Deleting != 0 {
			t.Errorf("with a problem: %v, asked for %q, %+v", err, asked, n)
		}
		dry := func(c *restore.Config) {
			c.DryRun = true
			c.Note = func(a restore.Action) {
				if a.Op == "delete" {
					t.Errorf("with a problem, %s is said to be deleted", a.Path)
				}
			}
		}
		report, err = try(t, target, hostile{tr, []string{".."}}, remove, dry)
		if !errors.Is(err, restore.ErrNotDeleted) || report.Counts().Deleted != 0 {
			t.Errorf("a dry run with a problem: %v, %+v", err, report.Counts())
		}
		report = run(t, target, tr, remove)
		clean(t, report)
		k.compare(t, dir, tr)
		if got := describe(t, outside); len(got) != 1 {
			t.Errorf("outside is %q", got)
		}
		if report.Counts().Deleted < 3 {
			t.Errorf("counts %+v", report.Counts())
		}
	})
	t.Run("of a file", func(t *testing.T) {
		tr := tree{}.dir("/", 0o755).file("/a", "a")
		dir := t.TempDir()
		write(t, filepath.Join(dir, "b"), "b")
		_, err := try(t, openLocal(t, dir), tr, func(c *restore.Config) { c.Path, c.Delete, c.Confirm = "/a", true, nobodyAsks(t) })
		if err == nil || len(describe(t, dir)) != 1 {
			t.Errorf("%v, %q", err, describe(t, dir))
		}
	})
}

// linkless is a target whose protocol has no symbolic links.
type linkless struct{ pull.Target }

func (l linkless) Writes(ctx context.Context) (pull.Writes, error) {
	w, err := l.Target.Writes(ctx)
	w.Symlinks = false
	return w, err
}

// unlinking is a target whose server does not let us make symbolic links.
type unlinking struct{ pull.Target }

func (unlinking) Symlink(_ context.Context, _, path string) error {
	return &pull.Error{Op: "link", Path: path, Kind: pull.KindUnsupported}
}

// asides are the names that files get which make room for links.
type asides struct {
	pull.Target
	names *[]string
}

func (a asides) Symlink(ctx context.Context, target, path string) error {
	*a.names = append(*a.names, pull.AsideName(path))
	return a.Target.Symlink(ctx, target, path)
}

// Symbolic links that FTP has not are no reason not to delete, and what lies in their places stays, whatever that is.
func TestDeleteWithoutLinks(t *testing.T) {
	tr := tree{}.dir("/", 0o755).file("/a", "a").link("/file", "a").link("/dir", "d").link("/none", "a").dir("/d", 0o755).file("/d/b", "b").link("/d/none", "b")
	remove := func(c *restore.Config) {
		c.Delete, c.Workers = true, 1
		c.Confirm = func(context.Context, restore.Extras) (bool, error) { return true, nil }
	}
	prepare := func(t *testing.T, dir string) []string {
		for _, name := range []string{"file", "dir/deep/stays"} {
			write(t, filepath.Join(dir, name), "in the place of a link")
		}
		stay := describe(t, dir)
		for _, name := range []string{"extra", "d/more"} {
			write(t, filepath.Join(dir, name), "x")
		}
		return stay
	}
	// What makes room for a link has a name that is known.
	var aside []string
	local := filepath.Join(t.TempDir(), "dest")
	write(t, filepath.Join(local, "file"), "old")
	run(t, asides{openLocal(t, local), &aside}, tr, func(c *restore.Config) { c.Path = "/file" })
	if len(aside) != 1 {
		t.Fatalf("asides %q", aside)
	}
	for _, k := range kinds() {
		if !k.noLinks {
			continue
		}
		t.Run(k.name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "dest")
			write(t, filepath.Join(dir, aside[0]), "it may be the only one")
			stay := prepare(t, dir)
			target := k.open(t, dir)
			dry := func(c *restore.Config) { c.DryRun = true }
			for _, change := range []func(*restore.Config){dry, func(*restore.Config) {}} {
				report := run(t, target, tr, remove, change)
				clean(t, report)
				list, _ := report.LeftOut()
				var paths []string
				for _, p := range list {
					paths = append(paths, p.Path)
					if p.Kind != pull.KindUnsupported {
						t.Errorf("left out %+v", p)
					}
				}
				if got, want := strings.Join(paths, " "), "/d/none /dir /file /none"; got != want {
					t.Errorf("left out %s, want %s", got, want)
				}
				if c := report.Counts(); c.Deleted != 2 || c.LeftOut != 4 || c.Restored != 2 {
					t.Errorf("counts %+v", c)
				}
			}
			got := describe(t, dir)
			for _, line := range stay {
				if !slices.Contains(got, line) && !strings.Contains(line, " d") {
					t.Errorf("gone: %s", line)
				}
			}
			for _, name := range []string{"extra", "d/more"} {
				if _, err := os.Lstat(filepath.Join(dir, name)); !errors.Is(err, fs.ErrNotExist) {
					t.Errorf("%s is there: %v", name, err)
				}
			}
			// What is kept is no link less, and a problem is one.
			report := run(t, target, tr, remove, func(c *restore.Config) { c.Overwrite = restore.Never })
			if c := report.Counts(); c.Kept != 1 && !k.noTimes || c.LeftOut != 3 {
				t.Errorf("never overwritten: %+v", c)
			}
			write(t, filepath.Join(dir, "extra"), "x")
			report, err := try(t, target, hostile{tr, []string{".."}}, remove)
			if c := report.Counts(); !errors.Is(err, restore.ErrNotDeleted) || c.Problems != 1 || c.LeftOut != 4 || c.Deleted != 0 {
				t.Errorf("with a problem: %v, %+v", err, c)
			}
		})
	}
	t.Run("a server that makes none", func(t *testing.T) {
		dir := t.TempDir()
		prepare(t, dir)
		if err := os.RemoveAll(filepath.Join(dir, "dir")); err != nil {
			t.Fatal(err)
		}
		report, err := try(t, unlinking{openLocal(t, dir)}, tr, remove)
		if c := report.Counts(); !errors.Is(err, restore.ErrNotDeleted) || c.LeftOut != 0 || c.Problems != 4 || c.Deleted != 0 {
			t.Errorf("%v, %+v", err, c)
		}
	})
	t.Run("where names fold", func(t *testing.T) {
		dir := t.TempDir()
		write(t, filepath.Join(dir, "NONE"), "in the place of a link")
		prepare(t, dir)
		report := run(t, folding{linkless{openLocal(t, dir)}, dir, true}, tr, remove)
		list, _ := report.Problems()
		if len(list) != 1 || list[0].Path != "/" || list[0].Kind != pull.KindConflict || report.Counts().Deleted != 1 {
			t.Errorf("%+v, %+v", list, report.Counts())
		}
		if _, err := os.Lstat(filepath.Join(dir, "NONE")); err != nil {
			t.Error(err)
		}
	})
}

// What the snapshot says could not be captured is no extra where it may have been, nor is what no snapshot can have.
func TestDeleteSparesWhatIsLacking(t *testing.T) {
	tr := tree{}.dir("/", 0o755).dir("/d", 0o755).dir("/d.d", 0o755)
	for _, c := range []struct {
		lacks         []string
		asked, noted  string
		refused, none bool
		no            bool // is the answer
	}{
		{asked: "/d.d/x /d/x /e /y"},
		{lacks: []string{"/d"}, asked: "/d.d/x /e /y", noted: "/d: 1 name is not deleted, since the snapshot lacks what could not be captured here"},
		{lacks: []string{"/d/x/deep", "/e/f/g"}, asked: "/d.d/x /y", noted: "/d/x/deep: 1 name is not deleted, since the snapshot lacks what could not be captured here\n" +
			"/e/f/g: 1 name is not deleted, since the snapshot lacks what could not be captured here"},
		{lacks: []string{"/d", "/d.d", "/e", "/y"}, none: true, noted: "/d: 1 name is not deleted, since the snapshot lacks what could not be captured here\n" +
			"/d.d: 1 name is not deleted, since the snapshot lacks what could not be captured here\n/e: 1 name is not deleted, since the snapshot lacks what could not be captured here\n" +
			"/y: 1 name is not deleted, since the snapshot lacks what could not be captured here"},
		{lacks: []string{"/"}, refused: true},
		{lacks: []string{"/d"}, asked: "/d.d/x /e /y", no: true, noted: "/d: 1 name is not deleted, since the snapshot lacks what could not be captured here"},
	} {
		for _, dry := range []bool{true, false} {
			dir := t.TempDir()
			for _, name := range []string{"d/x", "d.d/x", "e/f/h", "y"} {
				write(t, filepath.Join(dir, name), "x")
			}
			if err := syscall.Mkfifo(filepath.Join(dir, "pipe"), 0o600); err != nil {
				t.Fatal(err)
			}
			var gone []string
			report, err := try(t, openLocal(t, dir), tr, func(cfg *restore.Config) {
				cfg.Delete, cfg.DryRun, cfg.Lacks = true, dry, c.lacks
				cfg.Confirm = func(_ context.Context, e restore.Extras) (bool, error) {
					if c.refused || c.none || dry {
						t.Errorf("lacks %q: it asks for %q", c.lacks, e.Paths)
					}
					return !c.no, nil
				}
				cfg.Note = func(a restore.Action) {
					if a.Op == "delete" {
						gone = append(gone, a.Path)
					}
				}
			})
			refused := c.refused || c.no && !dry
			if errors.Is(err, restore.ErrNotDeleted) != refused || err != nil && !refused {
				t.Errorf("lacks %q, dry %v: %v", c.lacks, dry, err)
			}
			if n := report.Counts(); n.Deleting != n.Problems { // all was restored
				t.Errorf("lacks %q, dry %v: %+v", c.lacks, dry, n)
			}
			if c.no && !dry {
				c.asked = ""
			}
			if got := strings.Join(gone, " "); got != c.asked {
				t.Errorf("lacks %q, dry %v: deleted %q, want %q", c.lacks, dry, got, c.asked)
			}
			var noted []string
			list, _ := report.Problems()
			for _, p := range list {
				noted = append(noted, p.Path+": "+p.Text)
			}
			if got := strings.Join(noted, "\n"); got != c.noted {
				t.Errorf("lacks %q, dry %v: noted %q, want %q", c.lacks, dry, got, c.noted)
			}
			for _, name := range []string{"pipe", "d/x", "d.d/x", "e/f/h", "y"} {
				top := "/" + name
				if name == "e/f/h" {
					top = "/e"
				}
				_, err := os.Lstat(filepath.Join(dir, name))
				if want := dry || !slices.Contains(strings.Fields(c.asked), top); want != (err == nil) {
					t.Errorf("lacks %q, dry %v: %s is there: %v", c.lacks, dry, name, err)
				}
			}
		}
	}
}

// folding is a local target that takes names which differ in case for the same.
type folding struct {
	pull.Target
	dir   string
	takes bool // a file that is replaced gets the case of the new name
}

// name is the path of what is there under a name.
func (f folding) name(p string) string {
	des, _ := os.ReadDir(filepath.Join(f.dir, path.Dir(p)))
	for _, de := range des {
		if strings.EqualFold(de.Name(), path.Base(p)) {
			return path.Join(path.Dir(p), de.Name())
		}
	}
	return p
}

func (f folding) Rename(ctx context.Context, from, to string) error {
	if old := f.name(to); !f.takes {
		to = old
	} else if err := f.Target.Remove(ctx, old, pull.File); err != nil && pull.KindOf(err) != pull.KindNotFound {
		return err
	}
	return f.Target.Rename(ctx, from, to)
}

func (f folding) Lstat(ctx context.Context, p string) (pull.Entry, error) {
	return f.Target.Lstat(ctx, f.name(p))
}

func (f folding) Remove(ctx context.Context, p string, t pull.Type) error {
	return f.Target.Remove(ctx, f.name(p), t)
}

// denying refuses what a system refuses whoever is not root: to remove from a directory that may not be written to.
type denying struct{ pull.Target }

func (d denying) Remove(ctx context.Context, p string, t pull.Type) error {
	parent, err := d.Lstat(ctx, path.Dir(p))
	if err != nil {
		return err
	}
	if parent.Mode&0o200 == 0 {
		return &pull.Error{Op: "remove", Path: p, Kind: pull.KindPermission, Err: errors.New("the directory is read-only")}
	}
	return d.Target.Remove(ctx, p, t)
}

func TestDeleteInReadOnlyDirectories(t *testing.T) {
	dir := t.TempDir()
	tr := tree{}.dir("/", 0o755).dir("/closed", 0o555).file("/closed/a", "a").dir("/closed/in", 0o555)
	target := denying{openLocal(t, dir)}
	clean(t, run(t, target, tr))
	closed := filepath.Join(dir, "closed")
	open := func(name string, mode fs.FileMode) {
		if err := os.Chmod(name, mode); err != nil {
			t.Fatal(err)
		}
	}
	open(closed, 0o755)
	write(t, filepath.Join(closed, "extra"), "x")
	write(t, filepath.Join(closed, "tree", "deep", "file"), "x")
	open(filepath.Join(closed, "tree", "deep"), 0o555)
	open(filepath.Join(closed, "tree"), 0o555)
	open(closed, 0o555)
	remove := func(overwrite restore.Overwrite) func(*restore.Config) {
		return func(c *restore.Config) {
			c.Overwrite, c.Delete = overwrite, true
			c.Confirm = func(context.Context, restore.Extras) (bool, error) { return true, nil }
		}
	}
	// What is there is not to be touched: neither are its directories.
	before := describe(t, dir)
	kept := run(t, target, tr, remove(restore.Never))
	if got := kept.Failed(); got != 2 {
		t.Errorf("%d problems where directories are kept as they are", got)
	}
	differences(t, describe(t, dir), before)
	report := run(t, target, tr, remove(restore.Always))
	clean(t, report)
	if got := report.Counts().Deleted; got != 4 {
		t.Errorf("%d deleted", got)
	}
	differences(t, describe(t, dir), tr.describe())
}

// An interrupt leaves no directory writable that is not.
func TestDeleteInterrupted(t *testing.T) {
	dir := t.TempDir()
	tr := tree{}.dir("/", 0o755).dir("/closed", 0o555).file("/closed/a", "a")
	target := denying{openLocal(t, dir)}
	clean(t, run(t, target, tr))
	closed := filepath.Join(dir, "closed")
	if err := os.Chmod(closed, 0o755); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(closed, "extra"), "x")
	write(t, filepath.Join(closed, "more"), "x")
	if err := os.Chmod(closed, 0o555); err != nil {
		t.Fatal(err)
	}
	ctx, interrupt := context.WithCancel(t.Context())
	defer interrupt()
	cfg := restore.Config{Source: tr, Path: "/", Target: target, Report: &restore.Report{}, Retry: quick, Delete: true}
	cfg.Confirm = func(context.Context, restore.Extras) (bool, error) { return true, nil }
	cfg.Failpoint = func(name string) {
		if name == restore.FailpointDeleted {
			interrupt()
		}
	}
	if err := restore.Run(ctx, cfg); !errors.Is(err, context.Canceled) || cfg.Report.Counts().Deleted != 1 {
		t.Errorf("%v, %+v", err, cfg.Report.Counts())
	}
	if fi, err := os.Stat(closed); err != nil || fi.Mode().Perm() != 0o555 {
		t.Errorf("%v, %v", fi.Mode(), err)
	}
}

// staying is a target that does not let files be removed that are called stays.
type staying struct {
	pull.Target
	refused func() error
}

func (s staying) Remove(ctx context.Context, p string, t pull.Type) error {
	if path.Base(p) == "stays" {
		return s.refused()
	}
	return s.Target.Remove(ctx, p, t)
}

// An extra directory of which something stays has the mode that it had, also when the run is interrupted there.
func TestDeleteLeavesModes(t *testing.T) {
	for _, interrupted := range []bool{false, true} {
		dir := t.TempDir()
		in := []string{filepath.Join(dir, "extra"), filepath.Join(dir, "extra", "deep")}
		write(t, filepath.Join(in[1], "stays"), "x")
		write(t, filepath.Join(in[1], "goes"), "x")
		for _, d := range in {
			if err := os.Chmod(d, 0o555); err != nil {
				t.Fatal(err)
			}
		}
		ctx, interrupt := context.WithCancel(t.Context())
		defer interrupt()
		target := staying{denying{openLocal(t, dir)}, func() error {
			if interrupted {
				interrupt()
				return ctx.Err()
			}
			return &pull.Error{Op: "remove", Kind: pull.KindPermission}
		}}
		cfg := restore.Config{Source: tree{}.dir("/", 0o755), Path: "/", Target: target, Report: &restore.Report{}, Retry: quick, Delete: true}
		cfg.Confirm = func(context.Context, restore.Extras) (bool, error) { return true, nil }
		if err := restore.Run(ctx, cfg); errors.Is(err, context.Canceled) != interrupted {
			t.Error(err)
		}
		if n := cfg.Report.Failed(); !interrupted && n != 1 {
			t.Errorf("%d problems", n)
		}
		for _, d := range in {
			if fi, err := os.Stat(d); err != nil || fi.Mode().Perm() != 0o555 {
				t.Errorf("interrupted %v: %v, %v", interrupted, fi.Mode(), err)
			}
		}
	}
}

// Where names fold, what was just restored under the case of another name is not deleted under that.
func TestDeleteWhereNamesFold(t *testing.T) {
	for _, takes := range []bool{false, true} {
		dir := t.TempDir()
		tr := tree{}.dir("/", 0o755).file("/Readme", "new").dir("/d", 0o755).file("/d/a", "a")
		for _, name := range []string{"README", "extra", "d/more"} {
			write(t, filepath.Join(dir, name), "old")
		}
		var asked []string
		report := run(t, folding{openLocal(t, dir), dir, takes}, tr, func(c *restore.Config) {
			c.Delete = true
			c.Confirm = func(_ context.Context, e restore.Extras) (bool, error) { asked = e.Paths; return true, nil }
		})
		want, name, problems := "/d/more", "README", 1
		if takes {
			want, name, problems = "/d/more /extra", "Readme", 0
		}
		if list, _ := report.Problems(); len(list) != problems || problems > 0 && (list[0].Kind != pull.KindConflict || list[0].Path != "/") {
			t.Errorf("takes %v: problems %+v", takes, list)
		}
		if got := strings.Join(asked, " "); got != want || report.Counts().Deleted != int64(len(asked)) {
			t.Errorf("takes %v: asked for %q, want %q; %+v", takes, got, want, report.Counts())
		}
		if data, err := os.ReadFile(filepath.Join(dir, name)); err != nil || string(data) != "new" {
			t.Errorf("takes %v: %q, %v", takes, data, err)
		}
	}
}

// Setuid and setgid of files are set with their owner only.
func TestSetuid(t *testing.T) {
	forKinds(t, func(t *testing.T, k kind, dir string) {
		tr := tree{}.dir("/", 0o755).file("/su", "x")
		it := tr["/su"]
		it.mode = 0o755 | os.ModeSetuid
		tr["/su"] = it
		target := k.open(t, dir)
		clean(t, run(t, target, tr))
		fi, err := os.Stat(filepath.Join(dir, "su"))
		if err != nil || fi.Mode() != 0o755 {
			t.Errorf("%v, %v", fi, err)
		}
		if k.noLinks {
			return // FTP has no owners
		}
		clean(t, run(t, target, tr, func(c *restore.Config) { c.Owner = true }))
		if fi, err = os.Stat(filepath.Join(dir, "su")); err != nil || fi.Mode() != 0o755|os.ModeSetuid {
			t.Errorf("with its owner: %v, %v", fi, err)
		}
	})
}

// refusing is a target that refuses to give some files their names.
type refusing struct{ pull.Target }

func (r refusing) Rename(ctx context.Context, from, to string) error {
	if strings.Contains(to, "refused") {
		return &pull.Error{Op: "rename", Path: to, Kind: pull.KindPermission}
	}
	return r.Target.Rename(ctx, from, to)
}

// A file that is refused leaves nothing behind, and the others are restored.
func TestRefusedNames(t *testing.T) {
	forKinds(t, func(t *testing.T, k kind, dir string) {
		tr := tree{}.dir("/", 0o755).file("/a", "a").file("/refused", "b").file("/refused too", string(randomBytes(300<<10)))
		report := run(t, refusing{k.open(t, dir)}, tr)
		list, _ := report.Problems()
		if len(list) != 2 || list[0].Path != "/refused" || list[0].Kind != pull.KindPermission {
			t.Errorf("problems %+v", list)
		}
		if got := describe(t, dir); len(got) != 1 || !strings.HasPrefix(got[0], `"/a"`) {
			t.Errorf("there is %q", got)
		}
	})
}

// breakingEnd is a target that loses the connection at the end of each file that is called bad.
type breakingEnd struct{ pull.Target }

type breakingWriter struct{ pull.Writer }

func (b breakingEnd) Create(ctx context.Context, p string, offset int64) (pull.Writer, error) {
	w, err := b.Target.Create(ctx, p, offset)
	if err != nil || !strings.Contains(p, "bad") {
		return w, err
	}
	return breakingWriter{w}, nil
}

func (breakingWriter) Finish(context.Context, pull.Attributes) error {
	return &pull.Error{Op: "write", Kind: pull.KindConnection, Err: errors.New("cut")}
}

// A file that breaks each connection, which a server may do that looks into what it gets, is a problem,
// and the others are restored. What there is of a large one stays for the next run.
func TestBreakingFile(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "dest")
	tr := tree{}.dir("/", 0o755).file("/a", "a").file("/bad", "b").file("/bad and large", string(randomBytes(3<<20))).file("/z", "z")
	report := run(t, breakingEnd{openLocal(t, dir)}, tr)
	list, _ := report.Problems()
	if len(list) != 2 || list[0].Path != "/bad" || list[0].Kind != pull.KindBreaks || list[1].Kind != pull.KindBreaks {
		t.Errorf("problems %+v", list)
	}
	got := describe(t, dir)
	if len(got) != 3 || !strings.HasPrefix(got[0], `"/.bad and large.snapgate-`) || !strings.HasPrefix(got[1], `"/a"`) || !strings.HasPrefix(got[2], `"/z"`) {
		t.Errorf("there is %q", got)
	}
	report = run(t, openLocal(t, dir), tr)
	clean(t, report)
	differences(t, describe(t, dir), tr.describe())
	if c := report.Counts(); c.Resumed != 1 {
		t.Errorf("%+v", c)
	}
}

// losing is a target whose server loses a file when another one is to take its place.
type losing struct{ pull.Target }

func (l losing) Rename(ctx context.Context, _, to string) error {
	return errors.Join(l.Remove(ctx, to, pull.File), &pull.Error{Op: "rename", Path: to, Kind: pull.KindOther})
}

// blind is one whose server does not say whether it has.
type blind struct{ losing }

func (b blind) Lstat(ctx context.Context, p string) (pull.Entry, error) {
	if p == "/a" {
		return pull.Entry{}, &pull.Error{Op: "stat", Path: p, Kind: pull.KindOther}
	}
	return b.losing.Lstat(ctx, p)
}

// What was written is not removed when the server has lost, or may have, the file that it was to replace:
// in this run, or in one before that has left it aside.
func TestLosesWhatIsReplaced(t *testing.T) {
	for _, tt := range []struct {
		is   string
		open func(pull.Target) pull.Target
		left bool // it is aside
	}{
		{"is gone", func(l pull.Target) pull.Target { return losing{l} }, false},
		{"may be gone", func(l pull.Target) pull.Target { return blind{losing{l}} }, false},
		{"is gone", func(l pull.Target) pull.Target { return losing{l} }, true},
	} {
		dir := t.TempDir()
		write(t, filepath.Join(dir, "a"), "old")
		temp := func() string {
			report := run(t, tt.open(openLocal(t, dir)), tree{}.dir("/", 0o755).file("/a", "new one"))
			list, _ := report.Problems()
			names, err := filepath.Glob(filepath.Join(dir, ".a.snapgate-????????.part"))
			if err != nil || len(names) != 1 || len(list) != 1 || !strings.Contains(list[0].Text, tt.is+", what") || !strings.Contains(list[0].Text, filepath.Base(names[0])) {
				t.Fatalf("%q, %v, problems %+v", names, err, list)
			}
			return names[0]
		}
		name := temp()
		if tt.left {
			write(t, pull.AsideName(name), "old")
			name = temp()
		}
		if data, err := os.ReadFile(name); err != nil || string(data) != "new one" {
			t.Errorf("%q, %v", data, err)
		}
	}
}

// secret is a target that does not say what it has: a drop box.
type secret struct{ pull.Target }

func (s secret) ReadDir(_ context.Context, dir string, _ func(pull.Entry) error) error {
	return &pull.Error{Op: "list", Path: dir, Kind: pull.KindListing}
}

func (s secret) Lstat(ctx context.Context, p string) (pull.Entry, error) {
	if p == "/" {
		return s.Target.Lstat(ctx, p)
	}
	return pull.Entry{}, s.ReadDir(ctx, path.Dir(p), nil)
}

// What cannot be listed is written to, when all that is there is to be replaced.
func TestDropBox(t *testing.T) {
	for _, mode := range []restore.Overwrite{restore.Always, restore.Older, restore.Never} {
		dir := t.TempDir()
		write(t, filepath.Join(dir, "a"), "old")
		tr := tree{}.dir("/", 0o755).file("/a", "new").dir("/d", 0o755).file("/d/b", "b")
		report := run(t, secret{openLocal(t, dir)}, tr, func(c *restore.Config) { c.Overwrite = mode })
		if mode == restore.Always {
			clean(t, report)
			differences(t, describe(t, dir), tr.describe())
		} else if data, err := os.ReadFile(filepath.Join(dir, "a")); err != nil || string(data) != "old" || report.Failed() != 2 {
			t.Errorf("%s: %q, %v, %d problems", mode, data, err, report.Failed())
		}
	}
}

// syncing notes what makes names durable.
type syncing struct {
	pull.Target
	mu    sync.Mutex // guards dirty
	dirty map[string]bool
}

func (s *syncing) mark(path string, dirty bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.dirty[path] = dirty
}

func (s *syncing) Rename(ctx context.Context, from, to string) error {
	defer s.mark(path.Dir(to), true)
	return s.Target.Rename(ctx, from, to)
}

func (s *syncing) Mkdir(ctx context.Context, p string) error {
	defer s.mark(path.Dir(p), true)
	return s.Target.Mkdir(ctx, p)
}

func (s *syncing) Symlink(ctx context.Context, target, p string) error {
	defer s.mark(path.Dir(p), true)
	return s.Target.Symlink(ctx, target, p)
}

func (s *syncing) Remove(ctx context.Context, p string, typ pull.Type) error {
	defer s.mark(path.Dir(p), true)
	return s.Target.Remove(ctx, p, typ)
}

// SetAttributes of a directory is SyncDir as well: see pull.FS.
func (s *syncing) SetAttributes(ctx context.Context, p string, typ pull.Type, a pull.Attributes) error {
	if typ == pull.Dir {
		s.mark(p, false)
	}
	return s.Target.SetAttributes(ctx, p, typ, a)
}

func (s *syncing) SyncDir(ctx context.Context, p string) error {
	s.mark(p, false)
	return s.Target.(pull.DirSyncer).SyncDir(ctx, p)
}

// When Run returns, every directory was synced after the last thing that was done in it.
func TestNamesAreDurable(t *testing.T) {
	for _, mode := range []restore.Overwrite{restore.Always, restore.Never} {
		dir := filepath.Join(t.TempDir(), "dest")
		write(t, filepath.Join(dir, "many", "f001"), "another")
		write(t, filepath.Join(dir, "many", "extra"), "another")
		s := &syncing{Target: openLocal(t, dir), dirty: map[string]bool{}}
		clean(t, run(t, s, house().links(), func(c *restore.Config) {
			c.Overwrite, c.Delete = mode, true
			c.Confirm = func(context.Context, restore.Extras) (bool, error) { return true, nil }
		}))
		for p, dirty := range s.dirty {
			if dirty {
				t.Errorf("%s: the names in %s may be lost", mode, p)
			}
		}
		if _, ok := s.dirty["/many"]; !ok || len(s.dirty) < 5 {
			t.Errorf("%s: directories %v", mode, s.dirty)
		}
	}
}
