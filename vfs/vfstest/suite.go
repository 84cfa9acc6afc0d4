package vfstest

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/snapgate/gateway/vfs"
)

// Target is what the conformance suite runs against: vfs.Session itself, or a server of
// sessions seen through a client library.
type Target struct {
	// Start gives a new, empty share. What it starts ends with t.
	Start func(t testing.TB) System
	// Kind classifies an error of a Client or File as exactly as the protocol allows.
	Kind func(err error) vfs.Kind
	// Coarse is the kind that Kind returns when the live tree says kind, for protocols
	// that know fewer of them; nil when they all come through.
	Coarse func(kind vfs.Kind) vfs.Kind
	// Lacks are the features that the protocol has no words for: steps that need one are
	// left out.
	Lacks Feature
	// LeftOut are the cases of which nothing is left then, each with the reason. They are
	// not run; every one must be a case of the suite.
	LeftOut map[string]string
	// Costly says that every file that is read or written needs a connection of its own:
	// the large directory has few of them.
	Costly bool
	// Remote says that the target's systems are no Holders: the cases are not run with a
	// commit under way.
	Remote bool
}

// Feature is something that the clients of some protocols cannot ask for.
type Feature uint8

// The features that may be missing.
const (
	Update    Feature = 1 << iota // write anywhere in a file, whose other bytes stay
	Handles                       // attributes of an open file, and its size while it is written
	Resize                        // set the size of a file
	Exclusive                     // create a file only if there is none
	HardLinks                     // make hard links
	NoReplace                     // rename, but not over another file
	LineBreak                     // line breaks in names
)

// System is a share under test. Its policy is manual: it commits when Commit is called,
// and of its own only what versions: all seals.
type System interface {
	// Client opens a connection of a user who may do everything in the share. The users
	// are "alice" and "bob"; both have the share's root as "/".
	Client(t testing.TB, user string) Client
	// Commit returns when everything accepted so far is in a snapshot.
	Commit() error
	// Pull makes what was committed last the newest snapshot of the source that Reader sees.
	Pull() error
	// Limit sets the share's quota, in bytes; 0 for none.
	Limit(quota int64) error
}

// Holder is a System in which a commit can be stopped half-way.
type Holder interface {
	// Hold begins a commit and returns when it is about to make its snapshot, or when it
	// has ended because there was nothing to commit. release lets it go on and returns its
	// result.
	Hold() (release func() error)
}

// Restarter is a System that can be stopped in order and started again; clients that were
// open before are dead after it.
type Restarter interface{ Restart() error }

// Client is a connection. Its methods may be called concurrently.
type Client interface {
	FileClient
	DirClient
	LinkClient
	// Drop ends the connection as a broken network does: open uploads are not completed.
	Drop() error
}

// FileClient are the operations on files; rename also moves directories.
type FileClient interface {
	Open(path string, flag vfs.OpenFlag) (File, error)
	Remove(path string) error
	Rename(from, to string, replace bool) error
	SetAttr(path string, set vfs.AttrSet) error
}

// DirClient are the operations on directories and names.
type DirClient interface {
	Mkdir(path string) error
	Rmdir(path string) error
	List(path string) ([]vfs.Info, error) // in the server's order
	Stat(path string) (vfs.Info, error)
	Lstat(path string) (vfs.Info, error)
}

// LinkClient are the operations on links.
type LinkClient interface {
	Symlink(target, path string) error
	Readlink(path string) (string, error)
	Link(from, to string) error
	RealPath(path string) (string, error)
}

// File is an open file.
type File interface {
	io.ReaderAt
	io.WriterAt
	Stat() (vfs.Info, error)
	SetAttr(set vfs.AttrSet) error
	Close() error
}

// testCase is one promise to a client.
type testCase struct {
	name string
	run  func(c *suite)
}

// mode says where commits happen in a case.
type mode uint8

const (
	asItStands mode = iota // where the case says
	after                  // also after every operation
	during                 // also around every operation: it begins before and ends after
)

func (m mode) String() string {
	switch m {
	case after:
		return ", commits between"
	case during:
		return ", commits under way"
	}
	return ""
}

// Run runs every case several times, each time on a new share: as it stands, with a commit
// after every operation, so that every step also happens on a tree that was just rebased,
// and, when the target is a Holder, with a commit under way during every operation. Every
// case ends with a comparison of the live tree to the snapshot of it, and to itself after a
// restart when the target can do that.
func Run(t *testing.T, target Target) {
	t.Helper()
	modes := []mode{asItStands, after, during}
	if target.Remote {
		modes = []mode{asItStands, after}
	}
	cases := slices.Concat(fileCases(), uploadCases(), treeCases(), nameCases(), linkCases(), historyCases(), quotaCases())
	ofSources := sourceCases()
	for _, problem := range checkLeftOut(slices.Concat(cases, ofSources), target.LeftOut) {
		t.Error(problem)
	}
	runCases(t, target, cases, modes...)
	runCases(t, target, ofSources, asItStands) // what is only read has no commits
}

func runCases(t *testing.T, target Target, cases []testCase, modes ...mode) {
	t.Helper()
	for _, tc := range cases {
		if _, ok := target.LeftOut[tc.name]; ok {
			continue
		}
		for _, m := range modes {
			t.Run(tc.name+m.String(), func(t *testing.T) {
				c := &suite{T: t, target: target, sys: target.Start(t), mode: m}
				if _, ok := c.sys.(Holder); !ok && m == during {
					t.Fatal("the target cannot hold a commit: is it Remote?")
				}
				tc.run(c)
				if !t.Failed() {
					c.checkEnd()
				}
			})
		}
	}
}

// checkLeftOut finds what is wrong with a table of cases that are left out.
func checkLeftOut(cases []testCase, leftOut map[string]string) (problems []string) {
	for name, why := range leftOut {
		if !slices.ContainsFunc(cases, func(tc testCase) bool { return tc.name == name }) {
			problems = append(problems, fmt.Sprintf("left out, but no case: %q", name))
		}
		if why == "" {
			problems = append(problems, fmt.Sprintf("left out without a reason: %q", name))
		}
	}
	return problems
}

// suite is a running case.
type suite struct {
	*testing.T
	target Target
	sys    System
	mode   mode
}

// has reports whether the target's clients can ask for a feature.
func (c *suite) has(f Feature) bool { return c.target.Lacks&f == 0 }

// client opens a connection whose operations bring commits with them as the mode says.
func (c *suite) client(user string) Client {
	c.Helper()
	cl := c.sys.Client(c.T, user)
	if c.mode == asItStands {
		return cl
	}
	return committing{cl, c}
}

// alice opens a connection of the usual user.
func (c *suite) alice() Client {
	c.Helper()
	return c.client("alice")
}

// together runs f with no commits between its operations: for what is many operations
// and one step.
func (c *suite) together(f func()) {
	c.Helper()
	end := c.begin()
	before := c.mode
	c.mode = asItStands
	f()
	c.mode = before
	end()
}

// begin is called before a step, and what it returns after it.
func (c *suite) begin() (end func()) {
	switch c.mode {
	case after:
		return c.commit
	case during:
		release := c.sys.(Holder).Hold()
		return func() {
			c.Helper()
			if err := release(); err != nil {
				c.Errorf("commit: %v", err)
			}
		}
	}
	return func() {}
}

// commit commits in every mode.
func (c *suite) commit() {
	c.Helper()
	if err := c.sys.Commit(); err != nil {
		c.Errorf("commit: %v", err)
	}
}

// checkEnd compares the live tree to its snapshot and to itself after a restart.
func (c *suite) checkEnd() {
	c.Helper()
	c.mode = asItStands
	cl := c.alice()
	live := c.dump(cl, "/")
	c.commit()
	if diff := cmp.Diff(live, c.dump(cl, "/")); diff != "" {
		c.Errorf("the commit changed the live tree (-before +after):\n%s", diff)
	}
	if len(live) > 0 {
		if diff := cmp.Diff(live, c.dump(cl, "/.snapshots/latest")); diff != "" {
			c.Errorf("the snapshot is not the live tree (-live +snapshot):\n%s", diff)
		}
	}
	if r, ok := c.sys.(Restarter); ok {
		if err := r.Restart(); err != nil {
			c.Fatalf("restart: %v", err)
		}
		if diff := cmp.Diff(live, c.dump(c.alice(), "/")); diff != "" {
			c.Errorf("the restart changed the live tree (-before +after):\n%s", diff)
		}
	}
}

// dump describes everything below dir, one line a name.
func (c *suite) dump(cl Client, dir string) map[string]string {
	c.Helper()
	out := map[string]string{}
	var walk func(at, rel string)
	walk = func(at, rel string) {
		infos, err := cl.List(at)
		if err != nil {
			c.Errorf("list %q: %v", at, err)
		}
		for _, info := range infos {
			path, key := at+"/"+info.Name, rel+"/"+info.Name
			line := fmt.Sprintf("%v %v ", info.ModTime.Unix(), info.Mode&0o555)
			switch info.Type {
			case vfs.TypeDir:
				out[key] = line + "dir"
				walk(path, key)
			case vfs.TypeSymlink:
				target, err := cl.Readlink(path)
				out[key] = fmt.Sprint("-> ", target, err)
			default:
				data := c.get(cl, path)
				if int64(len(data)) != info.Size {
					c.Errorf("%q lists %d bytes and has %d", path, info.Size, len(data))
				}
				out[key] = line + fmt.Sprintf("%d %x", len(data), data[:min(len(data), 64)])
			}
		}
	}
	walk(strings.TrimSuffix(dir, "/"), "")
	return out
}

// The ways to open a file that clients use.
const (
	create = vfs.OpenWrite | vfs.OpenCreate | vfs.OpenTruncate
	update = vfs.OpenWrite | vfs.OpenCreate
	resume = vfs.OpenWrite | vfs.OpenCreate | vfs.OpenResume
)

// flags are those of all that the target's clients can ask for.
func (c *suite) flags(all ...vfs.OpenFlag) []vfs.OpenFlag {
	return slices.DeleteFunc(all, func(f vfs.OpenFlag) bool {
		both := f&vfs.OpenRead != 0 && f&vfs.OpenWrite != 0
		return both && !c.has(Update) || f&vfs.OpenExclusive != 0 && !c.has(Exclusive)
	})
}

// open opens a file or ends the case.
func (c *suite) open(cl Client, path string, flag vfs.OpenFlag) File {
	c.Helper()
	f, err := cl.Open(path, flag)
	if err != nil {
		c.Fatalf("open %q: %v", path, err)
	}
	return f
}

// ok reports an error of a step that must work.
func (c *suite) ok(what string, err error) {
	c.Helper()
	if err != nil {
		c.Fatalf("%s: %v", what, err)
	}
}

// write writes at an offset or ends the case.
func (c *suite) write(f File, off int64, data []byte) {
	c.Helper()
	if n, err := f.WriteAt(data, off); err != nil || n != len(data) {
		c.Fatalf("write %d bytes at %d: %d, %v", len(data), off, n, err)
	}
}

// put uploads a whole file.
func (c *suite) put(cl Client, path string, data []byte) {
	c.Helper()
	f := c.open(cl, path, create)
	for off := 0; off < len(data); off += packet {
		c.write(f, int64(off), data[off:min(off+packet, len(data))])
	}
	c.ok("close "+path, f.Close())
}

// packet is the usual payload of an SFTP request.
const packet = 32 << 10

// get downloads a whole file.
func (c *suite) get(cl Client, path string) []byte {
	c.Helper()
	f := c.open(cl, path, vfs.OpenRead)
	data, err := readAll(f)
	if err != nil {
		c.Fatalf("read %q: %v", path, err)
	}
	c.ok("close "+path, f.Close())
	return data
}

func readAll(f io.ReaderAt) ([]byte, error) {
	return io.ReadAll(io.NewSectionReader(f, 0, 1<<40))
}

// wantFile checks a file's bytes and its size in every place that tells it.
func (c *suite) wantFile(cl Client, path string, want []byte) {
	c.Helper()
	if got := c.get(cl, path); !bytes.Equal(got, want) {
		c.Errorf("%q: %s", path, firstDifference(got, want))
	}
	info, err := cl.Stat(path)
	if err != nil || info.Type != vfs.TypeFile || info.Size != int64(len(want)) {
		c.Errorf("stat %q: %+v, %v, want a file of %d bytes", path, info, err, len(want))
	}
}

func firstDifference(got, want []byte) string {
	for i := range min(len(got), len(want)) {
		if got[i] != want[i] {
			return fmt.Sprintf("%d bytes, want %d; byte %d is %#x, want %#x", len(got), len(want), i, got[i], want[i])
		}
	}
	return fmt.Sprintf("%d bytes, want %d", len(got), len(want))
}

// wantMissing checks that nothing is at path.
func (c *suite) wantMissing(cl Client, path string) {
	c.Helper()
	_, err := cl.Lstat(path)
	c.wantKind("lstat "+path, err, vfs.KindNotExist)
	_, err = cl.Open(path, vfs.OpenRead)
	c.wantKind("open "+path, err, vfs.KindNotExist)
}

// wantDir checks that a directory has exactly these names.
func (c *suite) wantDir(cl Client, path string, want ...string) {
	c.Helper()
	infos, err := cl.List(path)
	if err != nil {
		c.Errorf("list %q: %v", path, err)
		return
	}
	got := []string{}
	for _, info := range infos {
		got = append(got, info.Name)
	}
	if diff := cmp.Diff(append([]string{}, want...), got); diff != "" {
		c.Errorf("%q lists (-want +got):\n%s", path, diff)
	}
}

// wantKind checks that err is of one of kinds, as far as the target can tell.
func (c *suite) wantKind(what string, err error, kinds ...vfs.Kind) {
	c.Helper()
	if err == nil {
		c.Errorf("%s: no error, want %q", what, kinds)
		return
	}
	got := c.target.Kind(err)
	for _, kind := range kinds {
		if c.target.Coarse != nil {
			kind = c.target.Coarse(kind)
		}
		if got == kind {
			return
		}
	}
	c.Errorf("%s: %v (%q), want %q", what, err, got, kinds)
}

// wantError checks that there is an error, whatever its kind.
func (c *suite) wantError(what string, err error) {
	c.Helper()
	if err == nil {
		c.Errorf("%s: no error", what)
	}
}

// pattern makes n bytes that differ from place to place and from seed to seed.
func pattern(seed, n int) []byte {
	b := make([]byte, n)
	x := uint32(seed)*2654435761 + 1
	for i := range b {
		x ^= x << 13
		x ^= x >> 17
		x ^= x << 5
		b[i] = byte(x)
	}
	return b
}

// committing is a Client whose operations, and those of its files, are steps.
type committing struct {
	Client
	c *suite
}

func (cl committing) Open(path string, flag vfs.OpenFlag) (File, error) {
	end := cl.c.begin()
	f, err := cl.Client.Open(path, flag)
	end()
	if err != nil {
		return nil, err
	}
	return committingFile{f, cl.c}, nil
}

func (cl committing) Remove(path string) error {
	defer cl.c.begin()()
	return cl.Client.Remove(path)
}

func (cl committing) Rename(from, to string, replace bool) error {
	defer cl.c.begin()()
	return cl.Client.Rename(from, to, replace)
}

func (cl committing) SetAttr(path string, set vfs.AttrSet) error {
	defer cl.c.begin()()
	return cl.Client.SetAttr(path, set)
}

func (cl committing) Mkdir(path string) error {
	defer cl.c.begin()()
	return cl.Client.Mkdir(path)
}

func (cl committing) Rmdir(path string) error {
	defer cl.c.begin()()
	return cl.Client.Rmdir(path)
}

func (cl committing) Symlink(target, path string) error {
	defer cl.c.begin()()
	return cl.Client.Symlink(target, path)
}

func (cl committing) Link(from, to string) error {
	defer cl.c.begin()()
	return cl.Client.Link(from, to)
}

func (cl committing) Drop() error {
	defer cl.c.begin()()
	return cl.Client.Drop()
}

type committingFile struct {
	File
	c *suite
}

func (f committingFile) WriteAt(p []byte, off int64) (int, error) {
	defer f.c.begin()()
	return f.File.WriteAt(p, off)
}

func (f committingFile) SetAttr(set vfs.AttrSet) error {
	defer f.c.begin()()
	return f.File.SetAttr(set)
}

func (f committingFile) Close() error {
	defer f.c.begin()()
	return f.File.Close()
}

// isEOF reports whether err is what a read at or beyond the end gives.
func isEOF(err error) bool { return errors.Is(err, io.EOF) }
