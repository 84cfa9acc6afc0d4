// Package disktest tests what is written through a disk.FS: Faulty makes operations fail,
// Recorder shows what a power loss would leave of them.
package disktest

import (
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	"github.com/snapgate/gateway/internal/disk"
)

// Op is a kind of operation on a disk. Kinds can be combined with |.
type Op uint16

// The kinds of operations.
const (
	OpOpen     Op = 1 << iota // OpenFile without os.O_CREATE
	OpCreate                  // OpenFile with os.O_CREATE
	OpRead                    // File.ReadAt
	OpWrite                   // File.WriteAt
	OpTruncate                // File.Truncate
	OpSync                    // File.Sync
	OpSize                    // File.Size
	OpClose                   // File.Close; the file is closed all the same
	OpRename
	OpRemove
	OpMkdir
	OpSyncDir
	OpReadDir

	// OpAll is every kind.
	OpAll Op = 1<<iota - 1
	// OpChange is every kind that a full or read-only disk refuses.
	OpChange = OpCreate | OpWrite | OpTruncate | OpRename | OpRemove | OpMkdir
)

// Fault says which operations fail, and how.
type Fault struct {
	Ops   Op
	Path  string // path.Match pattern for the last element; "" is every path. Rename: either path.
	After int    // so many matching operations still succeed
	Times int    // then so many fail; 0: all
	Err   error
	Short int // OpWrite: so many bytes are written nevertheless, if there are more
}

// Faulty is an FS whose operations can be made to fail. Safe for concurrent use.
type Faulty struct {
	fsys disk.FS

	mu     sync.Mutex // guards the rest
	faults []*armed
	hits   int
}

type armed struct {
	Fault
	seen int
}

// NewFaulty wraps fsys; without faults it behaves as fsys does.
func NewFaulty(fsys disk.FS) *Faulty { return &Faulty{fsys: fsys} }

var _ disk.FS = (*Faulty)(nil)

// Add switches a fault on, and returns what switches it off.
func (f *Faulty) Add(fault Fault) (remove func()) {
	a := &armed{Fault: fault}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.faults = append(f.faults, a)
	return func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		for i, b := range f.faults {
			if a == b {
				f.faults = append(f.faults[:i:i], f.faults[i+1:]...)
				return
			}
		}
	}
}

// Clear switches all faults off.
func (f *Faulty) Clear() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.faults = nil
}

// Hits is how many operations failed so far.
func (f *Faulty) Hits() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.hits
}

// hit returns the fault that an operation runs into, nil for none.
func (f *Faulty) hit(op Op, paths ...string) *Fault {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, a := range f.faults {
		if a.Ops&op == 0 || !a.match(paths) {
			continue
		}
		a.seen++
		if a.seen <= a.After || a.Times > 0 && a.seen > a.After+a.Times {
			continue
		}
		f.hits++
		return &a.Fault
	}
	return nil
}

func (a *armed) match(paths []string) bool {
	if a.Path == "" {
		return true
	}
	for _, p := range paths {
		if ok, err := filepath.Match(a.Path, filepath.Base(p)); ok && err == nil {
			return true
		}
	}
	return false
}

// fail returns the error for an operation on a path, nil to go on.
func (f *Faulty) fail(op Op, name, path string) error {
	if h := f.hit(op, path); h != nil {
		return &fs.PathError{Op: name, Path: path, Err: h.Err}
	}
	return nil
}

func openOp(flag int) Op {
	if flag&os.O_CREATE != 0 {
		return OpCreate
	}
	return OpOpen
}

// OpenFile implements disk.FS.
func (f *Faulty) OpenFile(path string, flag int, perm fs.FileMode) (disk.File, error) {
	if err := f.fail(openOp(flag), "open", path); err != nil {
		return nil, err
	}
	file, err := f.fsys.OpenFile(path, flag, perm)
	if err != nil {
		return nil, err
	}
	return &faultyFile{File: file, fsys: f, path: path}, nil
}

// Rename implements disk.FS.
func (f *Faulty) Rename(oldpath, newpath string) error {
	if h := f.hit(OpRename, oldpath, newpath); h != nil {
		return &fs.PathError{Op: "rename", Path: oldpath, Err: h.Err}
	}
	return f.fsys.Rename(oldpath, newpath)
}

// Remove implements disk.FS.
func (f *Faulty) Remove(path string) error {
	if err := f.fail(OpRemove, "remove", path); err != nil {
		return err
	}
	return f.fsys.Remove(path)
}

// MkdirAll implements disk.FS.
func (f *Faulty) MkdirAll(path string, perm fs.FileMode) error {
	if err := f.fail(OpMkdir, "mkdir", path); err != nil {
		return err
	}
	return f.fsys.MkdirAll(path, perm)
}

// SyncDir implements disk.FS.
func (f *Faulty) SyncDir(path string) error {
	if err := f.fail(OpSyncDir, "sync", path); err != nil {
		return err
	}
	return f.fsys.SyncDir(path)
}

// ReadDir implements disk.FS.
func (f *Faulty) ReadDir(path string) ([]fs.DirEntry, error) {
	if err := f.fail(OpReadDir, "readdir", path); err != nil {
		return nil, err
	}
	return f.fsys.ReadDir(path)
}

// faultyFile is a file of a Faulty; its faults match the path it was opened by.
type faultyFile struct {
	disk.File
	fsys *Faulty
	path string
}

func (f *faultyFile) ReadAt(p []byte, off int64) (int, error) {
	if err := f.fsys.fail(OpRead, "read", f.path); err != nil {
		return 0, err
	}
	return f.File.ReadAt(p, off)
}

func (f *faultyFile) WriteAt(p []byte, off int64) (int, error) {
	h := f.fsys.hit(OpWrite, f.path)
	if h == nil {
		return f.File.WriteAt(p, off)
	}
	n, err := f.File.WriteAt(p[:min(h.Short, len(p))], off)
	if err != nil {
		return n, err
	}
	return n, &fs.PathError{Op: "write", Path: f.path, Err: h.Err}
}

func (f *faultyFile) Truncate(size int64) error {
	if err := f.fsys.fail(OpTruncate, "truncate", f.path); err != nil {
		return err
	}
	return f.File.Truncate(size)
}

func (f *faultyFile) Sync() error {
	if err := f.fsys.fail(OpSync, "sync", f.path); err != nil {
		return err
	}
	return f.File.Sync()
}

func (f *faultyFile) Size() (int64, error) {
	if err := f.fsys.fail(OpSize, "stat", f.path); err != nil {
		return 0, err
	}
	return f.File.Size()
}

func (f *faultyFile) Close() error {
	err := f.File.Close()
	if ferr := f.fsys.fail(OpClose, "close", f.path); ferr != nil {
		return ferr
	}
	return err
}
