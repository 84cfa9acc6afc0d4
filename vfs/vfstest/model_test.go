package vfstest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"path"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/snapgate/gateway/vfs"
)

// The model test does random operations on a share and on a map of byte slices, and
// compares. Which operation comes next, and with which arguments, is read from a string of
// bytes: random ones in TestModel, the fuzzer's in FuzzModel.

// modelSessions are the sessions that write; one more only looks.
const modelSessions = 3

// modelEntry is a name in the model.
type modelEntry struct {
	typ    vfs.FileType
	data   []byte
	target string
	mtime  time.Time // when it was set and has not changed by itself since
	mode   fs.FileMode

	// For versions: all, when data is a version that no snapshot holds.
	unsaved bool
	session int // who made it
}

// modelUpload is an open upload in the model.
type modelUpload struct {
	id      int
	file    File
	session int
	path    string
	onto    bool // opened on an existing file, which it follows
	changed bool
	data    []byte
	mode    fs.FileMode
	mtime   time.Time
}

// modelReader is an open reader, which keeps its version.
type modelReader struct {
	file File
	data []byte
}

type model struct {
	*testing.T
	sys     *Local
	input   []byte
	log     []string
	clients []Client
	look    Client
	names   map[string]*modelEntry
	uploads []*modelUpload
	readers []modelReader
	owed    map[string]string // versions that were destroyed and must be in a snapshot: data to what destroyed it
	release func() error      // of a commit that is held
	serial  int
	cutOff  [2]bool // whether an upload of either principal was
}

func TestModel(t *testing.T) {
	for seed := range uint64(20) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			rng := rand.New(rand.NewPCG(seed, 7))
			input := make([]byte, 1500)
			for i := range input {
				input[i] = byte(rng.Uint32())
			}
			runModel(t, input)
		})
	}
}

func FuzzModel(f *testing.F) {
	for seed := range uint64(4) {
		rng := rand.New(rand.NewPCG(seed, 8))
		input := make([]byte, 200)
		for i := range input {
			input[i] = byte(rng.Uint32())
		}
		f.Add(input)
	}
	f.Fuzz(func(t *testing.T, input []byte) {
		if len(input) > 4000 {
			t.Skip("more of the same")
		}
		runModel(t, input)
	})
}

func runModel(t *testing.T, input []byte) {
	m := &model{
		T: t, sys: StartLocal(t, nil), input: input,
		names: map[string]*modelEntry{"/": {typ: vfs.TypeDir}}, owed: map[string]string{},
	}
	defer func() {
		if m.release != nil {
			_ = m.release()
		}
		if t.Failed() {
			t.Logf("operations:\n%s", strings.Join(m.log, "\n"))
		}
	}()
	m.connect()
	for len(m.input) > 0 && !t.Failed() {
		m.step()
	}
	if t.Failed() {
		return
	}
	m.unhold()
	m.compare()
	m.commit()
	m.compare()
	m.compareSnapshot()
	m.restart()
	m.compare()
}

// pick reads a number below n from the input.
func (m *model) pick(n int) int {
	if len(m.input) == 0 {
		return 0
	}
	b := m.input[0]
	m.input = m.input[1:]
	return int(b) % n
}

func (m *model) connect() {
	m.clients = nil
	for i := range modelSessions {
		m.clients = append(m.clients, m.sys.Client(m.T, []string{"alice", "bob"}[i%2]))
	}
	m.look = m.sys.Client(m.T, "carol")
}

// modelSteps are the operations, each as often as it should come.
func modelSteps() []func(*model) {
	return []func(*model){
		(*model).open, (*model).open, (*model).open, (*model).write, (*model).write, (*model).write, (*model).write,
		(*model).truncateOpen, (*model).attrOpen, (*model).closeUpload, (*model).closeUpload, (*model).closeUpload,
		(*model).put, (*model).put, (*model).put, (*model).drop,
		(*model).mkdir, (*model).mkdir, (*model).rmdir, (*model).remove, (*model).remove,
		(*model).rename, (*model).rename, (*model).rename, (*model).link, (*model).symlink,
		(*model).setAttr, (*model).setSize, (*model).openReader, (*model).closeReader,
		(*model).commit, (*model).hold, (*model).unhold, (*model).failing, (*model).restartSometimes, (*model).compareSometimes,
	}
}

func (m *model) step() {
	steps := modelSteps()
	steps[m.pick(len(steps))](m)
}

func (m *model) note(format string, args ...any) {
	m.log = append(m.log, fmt.Sprintf(format, args...))
}

// check compares whether an operation worked with whether it should.
func (m *model) check(err error, should bool, format string, args ...any) bool {
	m.Helper()
	what := fmt.Sprintf(format, args...)
	m.note("%s: %v", what, err)
	if (err == nil) != should {
		m.Errorf("%s: %v, in the model it works: %v", what, err, should)
	}
	return err == nil && should
}

// somePath makes a path: one that is there, one in a directory that is there, or any of up
// to three elements.
func (m *model) somePath() string {
	names := []string{"a", "b", "c", "a.b", "t.part", "d"}
	there := slices.Sorted(maps.Keys(m.names))
	switch m.pick(8) {
	case 0, 1, 2, 3:
		if len(there) > 1 {
			return there[1+m.pick(len(there)-1)]
		}
	case 4, 5, 6:
		dirs := slices.DeleteFunc(there, func(p string) bool { return !m.isDir(p) })
		return path.Join(dirs[m.pick(len(dirs))], names[m.pick(len(names))])
	}
	p := ""
	for range 1 + m.pick(3) {
		p += "/" + names[m.pick(len(names))]
	}
	return p
}

// someData makes bytes that no other call makes; sometimes more than the journal takes.
func (m *model) someData() []byte {
	m.serial++
	sizes := []int{0, 10, 500, 5000, 70_000, 140_000}
	data := pattern(m.serial, sizes[m.pick(len(sizes))])
	copy(data, fmt.Sprintf("%d:", m.serial))
	return data
}

func (m *model) isDir(p string) bool {
	e := m.names[p]
	return e != nil && e.typ == vfs.TypeDir
}

func (m *model) isLink(p string) bool {
	e := m.names[p]
	return e != nil && e.typ == vfs.TypeSymlink
}

func (m *model) empty(dir string) bool {
	for p := range m.names {
		if p != "/" && path.Dir(p) == dir {
			return false
		}
	}
	return true
}

func (m *model) openBelow(dir string) bool {
	return slices.ContainsFunc(m.uploads, func(u *modelUpload) bool { return strings.HasPrefix(u.path, dir+"/") })
}

// touch notes that a directory's time is no longer what was set.
func (m *model) touch(p string) { m.names[path.Dir(p)].mtime = time.Time{} }

// destroy notes that the version at p goes away.
func (m *model) destroy(p, by string, session int, deleted bool) {
	e := m.names[p]
	if e == nil || e.typ != vfs.TypeFile || !e.unsaved || len(e.data) == 0 || strings.HasSuffix(p, ".part") {
		return
	}
	if deleted && e.session == session {
		return // a probe: all of them are younger than the limit here
	}
	m.owed[string(e.data)] = by + " " + p
}

// publish puts a completed version into the model.
func (m *model) publish(p string, data []byte, mode fs.FileMode, mtime time.Time, session int) {
	m.destroy(p, "put", session, false)
	if m.names[p] == nil {
		m.touch(p)
	}
	m.names[p] = &modelEntry{typ: vfs.TypeFile, data: data, mode: mode, mtime: mtime, unsaved: true, session: session}
}

func (m *model) commit() {
	m.unhold()
	m.note("commit")
	if err := m.sys.Commit(); err != nil {
		m.Errorf("commit: %v", err)
		return
	}
	m.settle()
}

// settle checks what a commit owes, and that nothing is owed any more.
func (m *model) settle() {
	for p, e := range m.names {
		// A file that waits for its rename is in no snapshot yet.
		e.unsaved = e.unsaved && strings.HasSuffix(p, ".part")
	}
	if len(m.owed) == 0 {
		return
	}
	held := map[string]bool{}
	snaps, err := m.sys.Repo.Snapshots(context.Background(), shareName)
	if err != nil {
		m.Errorf("snapshots: %v", err)
	}
	for _, s := range snaps {
		for _, data := range m.sys.Repo.Tree(s.ID) {
			held[data] = true
		}
	}
	for data, what := range m.owed {
		if !held[data] {
			m.Errorf("a version of %d bytes that was destroyed by %q is in no snapshot", len(data), what)
		}
	}
	clear(m.owed)
}

func (m *model) hold() {
	if m.release == nil {
		m.note("a commit begins")
		m.release = m.sys.Hold()
	}
}

func (m *model) unhold() {
	if m.release == nil {
		return
	}
	m.note("the commit ends")
	if err := m.release(); err != nil {
		m.Errorf("commit: %v", err)
	}
	m.release = nil
}

// failing lets a commit fail; the changes stay.
func (m *model) failing() {
	m.unhold()
	full := errors.New("store full")
	m.sys.Repo.FailCommits(full)
	err := m.sys.Commit()
	m.sys.Repo.FailCommits(nil)
	m.note("commit that fails: %v", err)
	if err != nil && !errors.Is(err, full) {
		m.Errorf("commit with a full store: %v", err)
	}
}

func (m *model) restartSometimes() {
	if m.pick(4) == 0 {
		m.restart()
	}
}

func (m *model) restart() {
	m.unhold()
	m.note("restart")
	m.lose(func(*modelUpload) bool { return true })
	m.readers = nil
	if err := m.sys.Restart(); err != nil {
		m.Fatalf("restart: %v", err)
	}
	m.connect()
	m.settle() // the end of a System commits
}

func (m *model) compareSometimes() {
	if m.pick(4) == 0 {
		m.compare()
	}
}

// compare walks the whole share.
func (m *model) compare() {
	m.Helper()
	seen := map[string]bool{"/": true}
	var walk func(dir string)
	walk = func(dir string) {
		infos, err := m.look.List(dir)
		if err != nil {
			m.Errorf("list %s: %v", dir, err)
		}
		if !slices.IsSortedFunc(infos, func(a, b vfs.Info) int { return strings.Compare(a.Name, b.Name) }) {
			m.Errorf("list %s is not in order", dir)
		}
		for _, info := range infos {
			p := path.Join(dir, info.Name)
			seen[p] = true
			e := m.names[p]
			if e == nil || e.typ != info.Type {
				m.Errorf("%s is there as type %d; model: %+v", p, info.Type, e)
				continue
			}
			m.compareOne(p, e, info)
			if e.typ == vfs.TypeDir {
				walk(p)
			}
		}
	}
	walk("/")
	for p := range m.names {
		if !seen[p] {
			m.Errorf("%s is missing", p)
		}
	}
}

func (m *model) compareOne(p string, e *modelEntry, info vfs.Info) {
	m.Helper()
	switch e.typ {
	case vfs.TypeFile:
		f, err := m.look.Open(p, vfs.OpenRead)
		if err != nil {
			m.Errorf("open %s: %v", p, err)
			return
		}
		got, err := readAll(f)
		if err = errors.Join(err, f.Close()); err != nil || !bytes.Equal(got, e.data) || info.Size != int64(len(e.data)) {
			m.Errorf("%s (size %d): %s, %v", p, info.Size, firstDifference(got, e.data), err)
		}
	case vfs.TypeSymlink:
		if got, err := m.look.Readlink(p); err != nil || got != e.target {
			m.Errorf("readlink %s: %q, %v", p, got, err)
		}
		return
	}
	if info.Mode.Perm() != e.mode {
		m.Errorf("%s has mode %v, want %v", p, info.Mode, e.mode)
	}
	if !e.mtime.IsZero() && !info.ModTime.Equal(e.mtime) {
		m.Errorf("%s has time %v, want %v", p, info.ModTime, e.mtime)
	}
}

// compareSnapshot compares the head's tree; names that wait for their rename may be
// missing in it.
func (m *model) compareSnapshot() {
	m.Helper()
	id, err := m.sys.Head(context.Background())
	if err != nil {
		m.Errorf("head: %v", err)
	}
	want := map[string]string{}
	for p, e := range m.names {
		switch e.typ {
		case vfs.TypeDir:
			want[strings.TrimSuffix(p, "/")+"/"] = ""
		case vfs.TypeSymlink:
			want[p] = "-> " + e.target
		default:
			want[p] = string(e.data)
		}
	}
	got := m.sys.Repo.Tree(id)
	if id.IsZero() {
		got = map[string]string{"/": ""}
	}
	for p, data := range want {
		if other, ok := got[p]; (!ok || other != data) && !strings.HasSuffix(p, ".part") {
			m.Errorf("snapshot: %s has %d bytes (there: %v), want %d", p, len(other), ok, len(data))
		}
	}
	for p := range got {
		if _, ok := want[p]; !ok {
			m.Errorf("snapshot: %s should not be there", p)
		}
	}
}
