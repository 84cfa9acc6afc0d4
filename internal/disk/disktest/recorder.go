package disktest

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"

	"github.com/snapgate/gateway/internal/disk"
)

// Recorder is an FS that passes everything on to the machine's file system and notes
// every change and every sync below its root, so that Materialize can build what a disk
// would hold after a power loss at any moment. It does not sync for real: a test is as
// fast as the page cache. Safe for concurrent use.
//
// The model is the weakest that POSIX allows: contents are durable by File.Sync, names by
// SyncDir of their directory, and neither makes the other durable. A rename is atomic and
// belongs to the new name's directory.
//
// What was below the root when the recorder was made is durable. Files that others put
// there behind its back are durable, with the bytes they have then, from the first
// operation on them through the recorder on.
type Recorder struct {
	root string

	mu     sync.Mutex // guards the rest, and orders changes of names with their events
	first  int        // events that only describe what was there
	log    []event
	inodes []*inode
	names  map[string]*inode // what is below root now, by relative path
	ignore func(op Op, path string) bool
}

// inode is a file or directory, whatever its name.
type inode struct {
	dir   bool
	name  string // the current relative path
	start []byte // the content it began with, durable
	born  int    // events up to and with the one that made it
}

// opAdopt is the event that makes known what the recorder did not make.
const opAdopt Op = 1 << 15

// event is one change or sync.
type event struct {
	op   Op
	node *inode // the file; OpSyncDir: the directory
	dir  *inode // OpCreate, OpMkdir, OpRemove, OpRename: the directory of the (new) name
	from *inode // OpRename: the directory of the old name
	name string // last element in dir
	old  string // OpRename: last element in from
	off  int64  // OpWrite; OpTruncate: the size
	data []byte
	path string // for people
}

func (e event) String() string {
	switch e.op {
	case OpWrite:
		return fmt.Sprintf("write %s %d+%d", e.path, e.off, len(e.data))
	case OpTruncate:
		return fmt.Sprintf("truncate %s %d", e.path, e.off)
	case OpSync:
		return "sync " + e.path
	case OpSyncDir:
		return "syncdir " + e.path
	case OpCreate:
		return "create " + e.path
	case OpMkdir:
		return "mkdir " + e.path
	case opAdopt:
		return "found " + e.path
	case OpRemove:
		return "remove " + e.path
	case OpRename:
		return fmt.Sprintf("rename %s to %s", filepath.Join(e.from.name, e.old), e.path)
	default:
		return "?"
	}
}

var _ disk.FS = (*Recorder)(nil)

// NewRecorder records what happens below the directory root, which must exist.
func NewRecorder(root string) (*Recorder, error) {
	r := &Recorder{root: filepath.Clean(root), names: make(map[string]*inode)}
	err := filepath.WalkDir(r.root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(r.root, path)
		if err != nil {
			return err
		}
		_, err = r.adopt(rel)
		return err
	})
	if err != nil {
		return nil, err
	}
	r.first = len(r.log)
	return r, nil
}

// IgnoreSyncs makes the recorder report success for every OpSync and OpSyncDir of which
// ignore says true, without taking note: as if the call were missing in the code. Paths
// are relative to the root; nil ignores none.
func (r *Recorder) IgnoreSyncs(ignore func(op Op, path string) bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ignore = ignore
}

// Point is the current moment, a number for Materialize: what has returned before is
// part of it.
func (r *Recorder) Point() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.log)
}

// SyncPoints are the moments just before and just after every sync so far.
func (r *Recorder) SyncPoints() []int {
	r.mu.Lock()
	defer r.mu.Unlock()
	points := []int{r.first}
	for i, e := range r.log {
		if e.op&(OpSync|OpSyncDir) != 0 {
			points = append(points, i, i+1)
		}
	}
	points = append(points, len(r.log))
	slices.Sort(points)
	return slices.Compact(points)
}

// Log describes the events up to a point, for a failing test to show.
func (r *Recorder) Log(point int) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var b strings.Builder
	for i, e := range r.log[:point] {
		fmt.Fprintf(&b, "%4d %v\n", i, e)
	}
	return b.String()
}

// rel returns the path below the root, ok is false for one outside.
func (r *Recorder) rel(path string) (string, bool) {
	rel, err := filepath.Rel(r.root, filepath.Clean(path))
	if err != nil || rel == ".." || strings.HasPrefix(rel, ".."+string(filepath.Separator)) {
		return "", false
	}
	return rel, true
}

// adopt returns what is at rel, and takes note of it when it is new to the recorder. The
// caller holds mu (or is the constructor).
func (r *Recorder) adopt(rel string) (*inode, error) {
	if n := r.names[rel]; n != nil {
		return n, nil
	}
	path := filepath.Join(r.root, rel)
	fi, err := os.Lstat(path)
	if err != nil {
		return nil, err
	}
	var content []byte
	if !fi.IsDir() {
		if content, err = os.ReadFile(path); err != nil {
			return nil, err
		}
	}
	if rel == "." {
		return r.newInode(rel, true), nil
	}
	dir, err := r.adopt(filepath.Dir(rel))
	if err != nil {
		return nil, err
	}
	n := r.newInode(rel, fi.IsDir())
	n.start = content
	r.log = append(r.log, event{op: opAdopt, node: n, dir: dir, name: filepath.Base(rel), path: rel})
	return n, nil
}

func (r *Recorder) newInode(rel string, dir bool) *inode {
	n := &inode{dir: dir, name: rel, born: len(r.log) + 1}
	if rel == "." {
		n.born = 0
	}
	r.inodes = append(r.inodes, n)
	r.names[rel] = n
	return n
}

// OpenFile implements disk.FS.
func (r *Recorder) OpenFile(path string, flag int, perm fs.FileMode) (disk.File, error) {
	rel, ok := r.rel(path)
	if !ok {
		return disk.OS{}.OpenFile(path, flag, perm)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	_, err := os.Lstat(path)
	existed := err == nil
	var node *inode
	if existed {
		// Before it is truncated.
		if node, err = r.adopt(rel); err != nil {
			return nil, err
		}
	}
	f, err := disk.OS{}.OpenFile(path, flag, perm)
	if err != nil {
		return nil, err
	}
	if !existed {
		dir, err := r.adopt(filepath.Dir(rel))
		if err != nil {
			return nil, err
		}
		node = r.newInode(rel, false)
		r.log = append(r.log, event{op: OpCreate, node: node, dir: dir, name: filepath.Base(rel), path: rel})
	} else if flag&os.O_TRUNC != 0 {
		r.log = append(r.log, event{op: OpTruncate, node: node, path: rel})
	}
	return &recordedFile{File: f, rec: r, node: node}, nil
}

// Rename implements disk.FS.
func (r *Recorder) Rename(oldpath, newpath string) error {
	from, ok1 := r.rel(oldpath)
	to, ok2 := r.rel(newpath)
	if !ok1 && !ok2 {
		return os.Rename(oldpath, newpath)
	}
	if !ok1 || !ok2 {
		return fmt.Errorf("disktest: rename across the recorder's root: %s to %s", oldpath, newpath)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	node, err := r.adopt(from)
	if err != nil {
		return err
	}
	fromDir, err := r.adopt(filepath.Dir(from))
	if err != nil {
		return err
	}
	if err := os.Rename(oldpath, newpath); err != nil {
		return err
	}
	toDir, err := r.adopt(filepath.Dir(to))
	if err != nil {
		return err
	}
	r.move(from, to)
	r.log = append(r.log, event{
		op: OpRename, node: node, dir: toDir, from: fromDir,
		name: filepath.Base(to), old: filepath.Base(from), path: to,
	})
	return nil
}

// move gives new names to what is at or below a path.
func (r *Recorder) move(from, to string) {
	moved := make(map[string]*inode)
	for name, n := range r.names {
		if name == from || strings.HasPrefix(name, from+string(filepath.Separator)) {
			delete(r.names, name)
			moved[to+name[len(from):]] = n
		}
	}
	for name, n := range moved {
		n.name = name
		r.names[name] = n
	}
}

// Remove implements disk.FS.
func (r *Recorder) Remove(path string) error {
	rel, ok := r.rel(path)
	if !ok {
		return os.Remove(path)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	node, err := r.adopt(rel)
	if err != nil {
		return err
	}
	dir, err := r.adopt(filepath.Dir(rel))
	if err != nil {
		return err
	}
	if err := os.Remove(path); err != nil {
		return err
	}
	delete(r.names, rel)
	r.log = append(r.log, event{op: OpRemove, node: node, dir: dir, name: filepath.Base(rel), path: rel})
	return nil
}

// MkdirAll implements disk.FS.
func (r *Recorder) MkdirAll(path string, perm fs.FileMode) error {
	rel, ok := r.rel(path)
	if !ok {
		return os.MkdirAll(path, perm)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	var missing []string
	for p := rel; p != "."; p = filepath.Dir(p) {
		if _, err := os.Lstat(filepath.Join(r.root, p)); err == nil {
			break
		}
		missing = append(missing, p)
	}
	if err := os.MkdirAll(path, perm); err != nil {
		return err
	}
	for _, p := range slices.Backward(missing) {
		dir, err := r.adopt(filepath.Dir(p))
		if err != nil {
			return err
		}
		node := r.newInode(p, true)
		r.log = append(r.log, event{op: OpMkdir, node: node, dir: dir, name: filepath.Base(p), path: p})
	}
	return nil
}

// SyncDir implements disk.FS.
func (r *Recorder) SyncDir(path string) error {
	rel, ok := r.rel(path)
	if !ok {
		return nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	node, err := r.adopt(rel)
	if err != nil {
		return err
	}
	if !node.dir {
		return fmt.Errorf("disktest: sync %s as a directory", path)
	}
	r.sync(OpSyncDir, node)
	return nil
}

// sync notes a sync. The caller holds mu.
func (r *Recorder) sync(op Op, node *inode) {
	if r.ignore == nil || !r.ignore(op, node.name) {
		r.log = append(r.log, event{op: op, node: node, path: node.name})
	}
}

// ReadDir implements disk.FS.
func (r *Recorder) ReadDir(path string) ([]fs.DirEntry, error) { return os.ReadDir(path) }

// recordedFile is a file below a Recorder's root.
type recordedFile struct {
	disk.File
	rec  *Recorder
	node *inode
}

func (f *recordedFile) WriteAt(p []byte, off int64) (int, error) {
	// Noted after it was done: a sync that begins when this has returned finds it.
	n, err := f.File.WriteAt(p, off)
	if n > 0 {
		f.rec.mu.Lock()
		defer f.rec.mu.Unlock()
		f.rec.log = append(f.rec.log, event{
			op: OpWrite, node: f.node, off: off, data: slices.Clone(p[:n]), path: f.node.name,
		})
	}
	return n, err
}

func (f *recordedFile) Truncate(size int64) error {
	f.rec.mu.Lock()
	defer f.rec.mu.Unlock()
	if err := f.File.Truncate(size); err != nil {
		return err
	}
	f.rec.log = append(f.rec.log, event{op: OpTruncate, node: f.node, off: size, path: f.node.name})
	return nil
}

func (f *recordedFile) Sync() error {
	f.rec.mu.Lock()
	defer f.rec.mu.Unlock()
	f.rec.sync(OpSync, f.node)
	return nil
}

// CalledFrom is for IgnoreSyncs: it matches the syncs made while all the named functions
// are running, as in CalledFrom("(*Journal).roll", "(*Journal).syncRest"). So a test can
// take one call out of the code and see whether it is missed.
func CalledFrom(functions ...string) func(Op, string) bool {
	return func(Op, string) bool {
		pcs := make([]uintptr, 64)
		frames := runtime.CallersFrames(pcs[:runtime.Callers(1, pcs)])
		found := make(map[string]bool)
		for {
			f, more := frames.Next()
			for _, name := range functions {
				if strings.HasSuffix(f.Function, "."+name) {
					found[name] = true
				}
			}
			if !more {
				return len(found) == len(functions)
			}
		}
	}
}
