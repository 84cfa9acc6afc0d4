//go:build peers

package peers

import (
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

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
		out, err := e.g.Command(e.t.Context(), "snapshot", "main")
		if err != nil {
			return err
		}
		lines := strings.Split(strings.TrimSpace(out), "\n")
		if id := lines[len(lines)-1]; len(id) == 64 {
			*step.id = id[:8]
		} else {
			return fmt.Errorf("gateway snapshot prints %q, want an id alone on the last line", lines[len(lines)-1])
		}
	}
	return nil
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
	commit := func() string {
		out, cerr := e.g.Command(e.t.Context(), "snapshot", "main")
		err = errors.Join(err, cerr)
		lines := strings.Split(strings.TrimSpace(out), "\n")
		return lines[len(lines)-1]
	}
	for _, dir := range []string{"views", "views/sub", "views/empty"} {
		err = errors.Join(err, e.see.Mkdir(path.Join(e.dir, dir)))
	}
	for _, name := range []string{"views/same", "views/with space.txt", "views/sub/gone.txt", "views/sub/other"} {
		e.remote(name, 1000)
	}
	err = errors.Join(err, e.see.Symlink("same", path.Join(e.dir, "views/link")))
	was = commit()
	gone, _ := e.remote("views/sub/gone.txt", 0)
	e.remote("views/sub/other", 2000)
	e.remote("views/new.txt", 10)
	err = errors.Join(err, e.see.Remove(gone))
	return was, commit(), err
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
	}
	if _, err := e.g.Command(e.t.Context(), "check", was, now); err != nil {
		return err
	}
	return e.plakar.Check(e.t.Context(), was[:8], now[:8])
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
