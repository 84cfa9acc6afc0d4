//go:build peers

package peers

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/dustin/go-humanize"

	"github.com/snapgate/gateway/internal/proctest"
)

// plakarRow is an operation of stock plakar.
type plakarRow struct {
	text string
	do   func(*plakarEnv) error
}

// plakarEnv is a store with two snapshots of a small tree.
type plakarEnv struct {
	*env
	plakar     *proctest.Plakar
	older, new string // snapshots: with old and with new contents
	oldData    []byte
	newData    []byte
}

func plakarRows() []plakarRow {
	return []plakarRow{
		{"`ls` lists the gateway's snapshots and what is in them", plakarLs},
		{"`check` finds no fault in snapshots", func(e *plakarEnv) error { return e.plakar.Check(e.t.Context(), e.older, e.new) }},
		{"`cat` prints a file's bytes", plakarCat},
		{"`restore` brings back the tree", plakarRestore},
		{"`diff` tells two snapshots apart", plakarDiff},
		{"`ls`, `locate`, `diff` and `check` say what the gateway's `ls`, `find`, `diff` and `check` say", plakarViews},
		{"`check` of a damaged store finds the snapshots damaged that the gateway's `check` does", plakarDamage},
		{"`backup` into the same store: the gateway shows that snapshot, read-only, in a share that has its machine's name", plakarBackup},
	}
}

func runPlakar(t *testing.T, g *proctest.Gateway, see *proctest.SFTP) {
	base := &env{t: t, g: g, see: see, user: alice, local: t.TempDir(), port: g.Port, dir: "/plakar", rng: newRand(99)}
	e := &plakarEnv{env: base, plakar: proctest.NewPlakar(t, g.Store, g.PassFile)}
	if err := e.prepare(); err != nil {
		t.Fatal(err)
	}
	for _, row := range plakarRows() {
		t.Run(row.text, func(t *testing.T) {
			if err := row.do(e); err != nil {
				t.Error(err)
			}
		})
	}
}

// prepare makes two snapshots: /plakar/sub/f differs between them.
func (e *plakarEnv) prepare() error {
	if err := errors.Join(e.see.Mkdir(e.dir), e.see.Mkdir(path.Join(e.dir, "sub"))); err != nil {
		return err
	}
	for _, step := range []struct {
		data *[]byte
		id   *string
	}{{&e.oldData, &e.older}, {&e.newData, &e.new}} {
		_, *step.data = e.remote("sub/f", 200_000)
		id, err := e.commit()
		if err != nil {
			return err
		}
		*step.id = id[:8]
	}
	return nil
}

// commit makes a snapshot of main.
func (e *plakarEnv) commit() (id string, err error) {
	out, err := e.g.Command(e.t.Context(), "snapshot", "main")
	if err != nil {
		return "", err
	}
	lines := strings.Split(strings.TrimSpace(out), "\n")
	if id = lines[len(lines)-1]; len(id) != 64 {
		return "", fmt.Errorf("gateway snapshot prints %q, want an id alone on the last line", id)
	}
	return id, nil
}

func plakarLs(e *plakarEnv) error {
	ids, err := e.plakar.Snapshots(e.t.Context())
	if err != nil {
		return err
	}
	all := " " + strings.Join(ids, " ") + " "
	for _, id := range []string{e.older, e.new} {
		if !strings.Contains(all, " "+id+" ") {
			return fmt.Errorf("snapshot %s is not listed:%s", id, all)
		}
	}
	out, err := e.plakar.Run(e.t.Context(), "ls", e.new+":/plakar/sub")
	if err != nil {
		return err
	}
	if !strings.Contains(out, " f\n") {
		return fmt.Errorf("the file is not listed: %q", out)
	}
	return nil
}

func plakarCat(e *plakarEnv) error {
	for id, want := range map[string][]byte{e.older: e.oldData, e.new: e.newData} {
		out, err := e.plakar.Run(e.t.Context(), "cat", id+":/plakar/sub/f")
		if err != nil {
			return err
		}
		if out != string(want) {
			return fmt.Errorf("snapshot %s: %d bytes, want %d; not the same", id, len(out), len(want))
		}
	}
	return nil
}

func plakarRestore(e *plakarEnv) error {
	out := filepath.Join(e.local, "restored")
	if _, err := e.plakar.Run(e.t.Context(), "restore", "-to", out, e.older+":/plakar"); err != nil {
		return err
	}
	return same(filepath.Join(out, "sub", "f"), e.oldData)
}

func plakarDiff(e *plakarEnv) error {
	out, err := e.plakar.Run(e.t.Context(), "diff", e.older+":/plakar/sub/f", e.new+":/plakar/sub/f")
	if err != nil {
		return err
	}
	if out == "" {
		return errors.New("no difference between two versions")
	}
	return nil
}

// views are two snapshots of a tree of their own.
func (e *plakarEnv) views() (was, now string, err error) {
	for _, dir := range []string{"views", "views/sub", "views/empty"} {
		err = errors.Join(err, e.see.Mkdir(path.Join(e.dir, dir)))
	}
	for _, name := range []string{"views/same", "views/with space.txt", "views/sub/gone.txt", "views/sub/other"} {
		e.remote(name, 1000)
	}
	err = errors.Join(err, e.see.Symlink("same", path.Join(e.dir, "views/link")),
		e.see.Chmod(path.Join(e.dir, "views/same"), 0o600), e.see.Chmod(path.Join(e.dir, "views/empty"), 0o711))
	if err != nil {
		return "", "", err
	}
	if was, err = e.commit(); err != nil {
		return "", "", err
	}
	gone, _ := e.remote("views/sub/gone.txt", 0)
	e.remote("views/sub/other", 2000)
	e.remote("views/new.txt", 10)
	if err := e.see.Remove(gone); err != nil {
		return "", "", err
	}
	now, err = e.commit()
	return was, now, err
}

// named lists the paths that the text of a command names, sorted.
func named(out string, of *regexp.Regexp) []string {
	var list []string
	for _, m := range of.FindAllStringSubmatch(out, -1) {
		list = append(list, path.Join(m[1:]...))
	}
	slices.Sort(list)
	return list
}

// plakarLine is what plakar's ls tells of each entry: its time, mode, size, path and target.
var plakarLine = regexp.MustCompile(`(?m)^(\S+Z) (\S+) +\S+ +\S+ +(\S+ \S+) (/plakar/views.*)$`)

// listed has, sorted, what plakar's ls tells of the entries, and what the gateway's tells in plakar's form.
func listed(theirs, ours string) (want, got []string, err error) {
	for _, m := range plakarLine.FindAllStringSubmatch(theirs, -1) {
		want = append(want, strings.Join(m[1:], " "))
	}
	for dec := json.NewDecoder(strings.NewReader(ours)); ; {
		var f struct {
			Path, Kind, Mode, Target string
			Size                     uint64
			MTime                    time.Time
		}
		switch err := dec.Decode(&f); {
		case errors.Is(err, io.EOF):
			slices.Sort(want)
			slices.Sort(got)
			return want, got, nil
		case err != nil:
			return nil, nil, err
		}
		bits, err := strconv.ParseUint(f.Mode, 8, 32)
		if err != nil {
			return nil, nil, err
		}
		mode := fs.FileMode(bits)
		switch f.Kind {
		case "directory":
			mode |= fs.ModeDir
		case "link":
			mode |= fs.ModeSymlink
			f.Path += " -> " + f.Target
		}
		got = append(got, fmt.Sprintf("%s %s %s %s", f.MTime.UTC().Format(time.RFC3339), mode, humanize.IBytes(f.Size), f.Path))
	}
}

// plakarViews compares what plakar says of two snapshots with what the gateway says.
func plakarViews(e *plakarEnv) error {
	was, now, err := e.views()
	if err != nil {
		return err
	}
	for _, x := range []struct {
		plakar, ours []string
		theirs, own  string // how paths stand in what they print
		least        int
	}{
		{
			[]string{"ls", "-recursive", was[:8] + ":/plakar/views"}, []string{"ls", "-R", "--json", was + ":/plakar/views"},
			`(?m)(/plakar/views/.*?)(?: -> .*)?$`, `"path":"(.*?)"`, 7,
		},
		{
			[]string{"locate", "-snapshot", was[:8], "*.txt"}, []string{"find", was, "*.txt"},
			`(?m)^[0-9a-f]+:(/plakar/views/.*)$`, `(?m)^(/plakar/views/.*)$`, 2,
		},
		{ // plakar does not compare symbolic links
			[]string{"diff", "-recursive", was[:8] + ":/plakar/views", now[:8] + ":/plakar/views"}, []string{"diff", was, now, "/plakar/views"},
			`(?m)^(?:Only in (.*): (.*)|Binary files (/.*) and .* differ)$`, `(?m)^[-+M] (.*?)  \(`, 3,
		},
	} {
		theirs, err := e.plakar.Run(e.t.Context(), x.plakar...)
		if err != nil {
			return err
		}
		ours, err := e.g.Command(e.t.Context(), x.ours[0], x.ours[1:]...)
		if err != nil {
			return err
		}
		want, got := named(theirs, regexp.MustCompile(x.theirs)), named(ours, regexp.MustCompile(x.own))
		if !slices.Equal(want, got) || len(got) < x.least {
			return fmt.Errorf("%s: plakar %q, gateway %q\n%s\n%s", x.ours[0], want, got, theirs, ours)
		}
		if x.ours[0] != "ls" {
			continue
		}
		if want, got, err = listed(theirs, ours); err != nil || !slices.Equal(want, got) || len(got) < x.least {
			return fmt.Errorf("ls: plakar %q, gateway %q, %w\n%s\n%s", want, got, err, theirs, ours)
		}
	}
	if _, err := e.g.Command(e.t.Context(), "check", was, now); err != nil {
		return err
	}
	return e.plakar.Check(e.t.Context(), was[:8], now[:8])
}

// plakarDamage flips a bit of a content that the newest snapshot alone has, in a copy of the store, and compares what
// both find damaged in that.
func plakarDamage(e *plakarEnv) error {
	packfiles := func(store string) []string {
		list, err := filepath.Glob(filepath.Join(store, "packfiles", "*", "*"))
		if err != nil || len(list) == 0 {
			e.t.Errorf("packfiles: %q, %v", list, err)
		}
		return list
	}
	before := packfiles(e.g.Store)
	e.remote("large", 3<<20)
	last, err := e.commit()
	if err != nil {
		return err
	}
	dir := filepath.Join(e.local, "damaged")
	if err := os.CopyFS(dir, os.DirFS(e.g.Store)); err != nil {
		return err
	}
	fresh := slices.DeleteFunc(packfiles(dir), func(path string) bool {
		return slices.ContainsFunc(before, func(old string) bool { return filepath.Base(old) == filepath.Base(path) })
	})
	if err := proctest.FlipLargest(fresh); err != nil {
		return err
	}
	text, err := os.ReadFile(e.g.Config)
	if err != nil {
		return err
	}
	g := *e.g
	g.Config = filepath.Join(e.g.Dir, "copy.yaml")
	config := strings.NewReplacer("data_dir: ./data", "data_dir: ./copy", "fs://./data/store", "fs://"+dir).Replace(string(text))
	if err := os.WriteFile(g.Config, []byte(config), 0o600); err != nil {
		return err
	}
	ours, err := g.Command(e.t.Context(), "check", "--json", e.older, e.new, last)
	if err == nil {
		return fmt.Errorf("gateway check finds no damage\n%s", ours)
	}
	found := regexp.MustCompile(`(?m)^{"snapshot":"([0-9a-f]{8}).*?"result":"(.*?)"`).FindAllStringSubmatch(ours, -1)
	got := make(map[string]string)
	for _, m := range found {
		got[m[1]] = m[2]
	}
	if want := map[string]string{e.older: "good", e.new: "good", last[:8]: "damaged"}; !maps.Equal(got, want) {
		return fmt.Errorf("gateway check: got %v, want %v\n%s, %w", got, want, ours, err)
	}
	plakar := e.plakar.At(dir)
	if err := plakar.Check(e.t.Context(), e.older, e.new); err != nil {
		return err
	}
	if _, err := plakar.Run(e.t.Context(), "check", last[:8]); err == nil || !strings.Contains(err.Error(), "check failed for 1 snapshot") {
		return fmt.Errorf("plakar check of %s: %w, want damage", last[:8], err)
	}
	return nil
}

// showLimit is how long the gateway may take to notice what others did in its store.
const showLimit = 30 * time.Second

// plakarBackup has plakar write a snapshot and reads it through the gateway.
func plakarBackup(e *plakarEnv) error {
	source := filepath.Join(e.local, "source")
	if err := os.Mkdir(source, 0o755); err != nil {
		return err
	}
	_, data := e.file("source/f", 123_456)
	if _, err := e.plakar.Run(e.t.Context(), "backup", source); err != nil {
		return err
	}
	see, err := e.g.Client.Login(e.t.Context(), carol)
	if err != nil {
		return err
	}
	defer see.Close()
	e.see = see
	var names []os.FileInfo
	shown := func() bool {
		names, err = see.ReadDirContext(e.t.Context(), "/.snapshots")
		return err == nil && len(names) > 0
	}
	if _, wait := proctest.Wait(e.t.Context(), showLimit, shown); wait != nil {
		return fmt.Errorf("plakar's snapshot is not shown: %w, %w", wait, err)
	}
	name := path.Join("/.snapshots", names[0].Name(), "f")
	if err := e.holds(name, data); err != nil {
		return err
	}
	if err := see.Remove(name); !errors.Is(err, os.ErrPermission) {
		return fmt.Errorf("removing from a snapshot: %w, want permission denied", err)
	}
	return nil
}
