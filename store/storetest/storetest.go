// Package storetest makes stores for tests: on the local disk, with a key derivation that
// costs nothing, and with faults on demand.
package storetest

import (
	"context"
	"io/fs"
	"log/slog"
	"path/filepath"
	"sync"
	"testing"

	"github.com/snapgate/gateway/internal/disk"
	"github.com/snapgate/gateway/store"
)

// Passphrase opens every store that this package makes.
const Passphrase = "correct horse battery staple"

// Config returns the configuration of an encrypted store below dir that is created when
// it is missing: dir/store, dir/cache and dir/keep.
func Config(dir string) store.Config {
	return store.Config{
		Location:   "fs://" + filepath.Join(dir, "store"),
		Passphrase: func(context.Context) ([]byte, error) { return []byte(Passphrase), nil },
		Create:     true,
		Disk:       noSync{disk.OS{}},
		CacheDir:   filepath.Join(dir, "cache"),
		KeepDir:    filepath.Join(dir, "keep"),
		Logger:     slog.New(slog.DiscardHandler),
		CheapKDF:   true,
	}
}

// New makes an encrypted store in a temporary directory. The options may change its
// configuration. It is closed when the test ends.
func New(tb testing.TB, options ...func(*store.Config)) *store.Store {
	tb.Helper()
	cfg := Config(tb.TempDir())
	for _, option := range options {
		option(&cfg)
	}
	return Open(tb, cfg)
}

// Open opens a store and closes it when the test ends.
func Open(tb testing.TB, cfg store.Config) *store.Store {
	tb.Helper()
	s, err := store.Open(tb.Context(), cfg)
	if err != nil {
		tb.Fatalf("open store: %v", err)
	}
	tb.Cleanup(func() {
		if err := s.Close(); err != nil {
			tb.Errorf("close store: %v", err)
		}
	})
	return s
}

// Plaintext is an option of New: the store is not encrypted.
func Plaintext(cfg *store.Config) {
	cfg.Plaintext = true
	cfg.Passphrase = nil
}

// Op names an operation of a disk.FS that a Fault may refuse.
type Op string

// The operations that are asked about.
const (
	OpOpen    Op = "open"
	OpWrite   Op = "write"
	OpSync    Op = "sync"
	OpRename  Op = "rename"
	OpRemove  Op = "remove"
	OpMkdir   Op = "mkdir"
	OpSyncDir Op = "syncdir"
	OpReadDir Op = "readdir"
)

// FaultFS is a disk.FS whose operations fail on demand.
type FaultFS struct {
	disk.FS // what does the work

	mu   sync.Mutex
	fail func(op Op, path string) error // guarded by mu
	ops  []string                       // guarded by mu: "op path"
}

// NewFaultFS returns a FaultFS over the machine's file system, which it does not sync.
func NewFaultFS() *FaultFS { return &FaultFS{FS: noSync{disk.OS{}}} }

// noSync is the machine's file system without waiting for the disk: what is durable is
// tested with disktest.Recorder.
type noSync struct{ disk.OS }

func (n noSync) OpenFile(path string, flag int, perm fs.FileMode) (disk.File, error) {
	f, err := n.OS.OpenFile(path, flag, perm)
	if err != nil {
		return nil, err
	}
	return noSyncFile{f}, nil
}

func (noSync) SyncDir(string) error { return nil }

type noSyncFile struct{ disk.File }

func (noSyncFile) Sync() error { return nil }

// Fail sets what decides whether an operation fails; nil lets everything work. For
// OpRename path is the new name.
func (f *FaultFS) Fail(fail func(op Op, path string) error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.fail = fail
}

// Ops returns the operations so far, as "op path", and forgets them.
func (f *FaultFS) Ops() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	ops := f.ops
	f.ops = nil
	return ops
}

func (f *FaultFS) check(op Op, path string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.ops = append(f.ops, string(op)+" "+path)
	if f.fail == nil {
		return nil
	}
	return f.fail(op, path)
}

// OpenFile implements disk.FS.
func (f *FaultFS) OpenFile(path string, flag int, perm fs.FileMode) (disk.File, error) {
	if err := f.check(OpOpen, path); err != nil {
		return nil, err
	}
	file, err := f.FS.OpenFile(path, flag, perm)
	if err != nil {
		return nil, err
	}
	return &faultFile{File: file, fs: f, path: path}, nil
}

// Rename implements disk.FS.
func (f *FaultFS) Rename(oldpath, newpath string) error {
	if err := f.check(OpRename, newpath); err != nil {
		return err
	}
	return f.FS.Rename(oldpath, newpath)
}

// Remove implements disk.FS.
func (f *FaultFS) Remove(path string) error {
	if err := f.check(OpRemove, path); err != nil {
		return err
	}
	return f.FS.Remove(path)
}

// MkdirAll implements disk.FS.
func (f *FaultFS) MkdirAll(path string, perm fs.FileMode) error {
	if err := f.check(OpMkdir, path); err != nil {
		return err
	}
	return f.FS.MkdirAll(path, perm)
}

// SyncDir implements disk.FS.
func (f *FaultFS) SyncDir(path string) error {
	if err := f.check(OpSyncDir, path); err != nil {
		return err
	}
	return f.FS.SyncDir(path)
}

// ReadDir implements disk.FS.
func (f *FaultFS) ReadDir(path string) ([]fs.DirEntry, error) {
	if err := f.check(OpReadDir, path); err != nil {
		return nil, err
	}
	return f.FS.ReadDir(path)
}

type faultFile struct {
	disk.File
	fs   *FaultFS
	path string
}

func (f *faultFile) WriteAt(p []byte, off int64) (int, error) {
	if err := f.fs.check(OpWrite, f.path); err != nil {
		return 0, err
	}
	return f.File.WriteAt(p, off)
}

func (f *faultFile) Sync() error {
	if err := f.fs.check(OpSync, f.path); err != nil {
		return err
	}
	return f.File.Sync()
}
