package spool_test

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/snapgate/gateway/internal/disk"
	"github.com/snapgate/gateway/internal/disk/disktest"
	"github.com/snapgate/gateway/vfs/internal/spool"
)

// unsynced is a disk that does not take the time to sync.
type unsynced struct{ disk.FS }

func (u unsynced) OpenFile(path string, flag int, perm fs.FileMode) (disk.File, error) {
	f, err := disk.OS{}.OpenFile(path, flag, perm)
	if err != nil {
		return nil, err
	}
	return unsyncedFile{f}, nil
}
func (unsynced) SyncDir(string) error                         { return nil }
func (unsynced) Remove(path string) error                     { return os.Remove(path) }
func (unsynced) Rename(from, to string) error                 { return os.Rename(from, to) }
func (unsynced) ReadDir(path string) ([]fs.DirEntry, error)   { return os.ReadDir(path) }
func (unsynced) MkdirAll(path string, perm fs.FileMode) error { return os.MkdirAll(path, perm) }

type unsyncedFile struct{ disk.File }

func (unsyncedFile) Sync() error { return nil }

// syncedBy is a disk whose flushes are done by a function.
type syncedBy struct {
	disk.FS
	sync func() error
}

func (s syncedBy) OpenFile(path string, flag int, perm fs.FileMode) (disk.File, error) {
	f, err := s.FS.OpenFile(path, flag, perm)
	if err != nil {
		return nil, err
	}
	return syncedByFile{f, s.sync}, nil
}

type syncedByFile struct {
	disk.File
	sync func() error
}

func (f syncedByFile) Sync() error { return f.sync() }

// TestFailedSyncBesideAnother: the system tells one flush of a file that it has failed, and the next one nothing.
func TestFailedSyncBesideAnother(t *testing.T) {
	modes(t, func(t *testing.T, cfg spool.Config) {
		for range 50 {
			var f *spool.File
			var told atomic.Bool
			other := make(chan error, 1)
			cfg.Disk, cfg.InlineBytes = syncedBy{disk.OS{}, func() error {
				if told.Swap(true) {
					return nil
				}
				go func() { other <- f.Sync(true) }()
				runtime.Gosched() // it may wait for this one, or not
				return syscall.EIO
			}}, 0
			cfg.Dir = t.TempDir()
			s := open(t, cfg)
			f = s.Create()
			write(t, f, pattern(10000, 1), 0)
			if err, other := f.Sync(true), <-other; !errors.Is(err, syscall.EIO) || !errors.Is(other, syscall.EIO) {
				t.Fatalf("got %v and %v, want EIO for both", err, other)
			}
			if err := f.Discard(); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// TestPoisoned: after a failed write or sync no later sync may claim success.
func TestPoisoned(t *testing.T) {
	for _, op := range []disktest.Op{disktest.OpWrite, disktest.OpSync} {
		modes(t, func(t *testing.T, cfg spool.Config) {
			faulty := disktest.NewFaulty(disk.OS{})
			cfg.Disk, cfg.InlineBytes = faulty, 0
			s := open(t, cfg)
			f := s.Create()
			write(t, f, pattern(10000, 1), 0)
			faulty.Add(disktest.Fault{Ops: op, Path: fmt.Sprintf("%016x.spool", f.ID()), Times: 1, Err: syscall.EIO, Short: 100})
			_, werr := f.WriteAt(pattern(10000, 2), 10000)
			serr := f.Sync(false)
			if !errors.Is(errors.Join(werr, serr), syscall.EIO) {
				t.Fatalf("op %d: got %v, %v; want EIO", op, werr, serr)
			}
			faulty.Clear()
			if err := f.Sync(true); !errors.Is(err, syscall.EIO) {
				t.Errorf("op %d: sync after the failure: got %v, want EIO again", op, err)
			}
			if _, err := f.WriteAt([]byte("x"), 0); !errors.Is(err, syscall.EIO) {
				t.Errorf("op %d: write after the failure: got %v, want EIO again", op, err)
			}
			if op == disktest.OpWrite {
				if got := f.Extents(); len(got) != 1 || got[0].Len < 10000 || got[0].Len >= 20000 {
					t.Errorf("extents after a failed write: got %v", got)
				}
			}
			if err := f.Discard(); err != nil {
				t.Fatal(err)
			}
			g := s.Create()
			write(t, g, []byte("another upload"), 0)
			if err := g.Sync(true); err != nil {
				t.Errorf("op %d: another file after the failure: %v", op, err)
			}
			if err := g.Discard(); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// TestNoSpaceForAFile fails the creation of spool files: the upload in question fails,
// the next one works when there is space again, and nothing leaks.
func TestNoSpaceForAFile(t *testing.T) {
	for _, op := range []disktest.Op{disktest.OpCreate, disktest.OpWrite, disktest.OpSync, disktest.OpSyncDir} {
		dir := t.TempDir()
		faulty := disktest.NewFaulty(disk.OS{})
		s := open(t, spool.Config{Disk: faulty, Dir: dir, InlineBytes: 100})
		faulty.Add(disktest.Fault{Ops: op, Err: syscall.ENOSPC})
		f := s.Create()
		write(t, f, make([]byte, 100), 0)
		if _, err := f.WriteAt(make([]byte, 100), 100); op != disktest.OpSync && !errors.Is(err, syscall.ENOSPC) {
			t.Fatalf("op %d: got %v, want no space", op, err)
		}
		if err := f.Sync(true); !errors.Is(err, syscall.ENOSPC) {
			t.Errorf("op %d: sync: got %v, want no space", op, err)
		}
		if err := f.Discard(); err != nil {
			t.Fatal(err)
		}
		faulty.Clear()
		g := s.Create()
		write(t, g, make([]byte, 200), 0)
		if err := g.Sync(true); err != nil {
			t.Errorf("op %d: %v", op, err)
		}
		if err := g.Discard(); err != nil {
			t.Fatal(err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		if left, _ := filepath.Glob(filepath.Join(dir, "*")); len(left) != 0 || s.Bytes() != 0 {
			t.Errorf("op %d: left behind %v, %d bytes", op, left, s.Bytes())
		}
	}
}

// TestRemoveFails has the disk refuse to remove files for a while: they go when it works
// again.
func TestRemoveFails(t *testing.T) {
	dir := t.TempDir()
	faulty := disktest.NewFaulty(disk.OS{})
	s := open(t, spool.Config{Disk: faulty, Dir: dir})
	spooled := func() *spool.File {
		f := s.Create()
		write(t, f, make([]byte, 5000), 0)
		if err := f.Sync(true); err != nil {
			t.Fatal(err)
		}
		return f
	}
	a, b, c := spooled(), spooled(), spooled()
	faulty.Add(disktest.Fault{Ops: disktest.OpRemove, Err: syscall.EROFS})
	for _, f := range []*spool.File{a, b} {
		if err := f.Discard(); !errors.Is(err, syscall.EROFS) {
			t.Errorf("got %v, want EROFS", err)
		}
	}
	if got := s.Bytes(); got < 15000 {
		t.Errorf("%d bytes are counted, three files of 5000 are there", got)
	}
	faulty.Clear()
	if err := c.Discard(); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "*")); len(left) != 0 || s.Bytes() != 0 {
		t.Errorf("left behind %v, %d bytes", left, s.Bytes())
	}
}

func TestFragmentedIsRefused(t *testing.T) {
	s := open(t, spool.Config{Disk: unsynced{}, Dir: t.TempDir()})
	f := s.Create()
	var err error
	n := 0
	for ; err == nil && n < 1<<17; n++ {
		_, err = f.WriteAt([]byte{1}, int64(n)*2)
	}
	if !errors.Is(err, spool.ErrFragmented) || n < 1<<16 {
		t.Fatalf("after %d ranges: got %v, want ErrFragmented", n, err)
	}
	write(t, f, make([]byte, 1<<18), 0) // fills the gaps: allowed
	if got := f.Extents(); len(got) != 1 {
		t.Errorf("extents: got %d, want 1", len(got))
	}
	if err := f.Sync(true); err != nil {
		t.Error(err)
	}
	if err := f.Discard(); err != nil {
		t.Fatal(err)
	}
}

func TestOpeningDamagedFiles(t *testing.T) {
	key, other := bytes.Repeat([]byte{1}, 32), bytes.Repeat([]byte{2}, 32)
	for _, tt := range []struct {
		name   string
		key    []byte
		change func(b []byte) []byte
		want   error
	}{
		{"another key", other, nil, spool.ErrKey},
		{"no key", nil, nil, spool.ErrKey},
		{"header changed", key, func(b []byte) []byte { b[50] ^= 1; return b }, spool.ErrDamaged},
		{"no header", key, func(b []byte) []byte { return b[:60] }, spool.ErrDamaged},
		{"shorter than its extents", key, func(b []byte) []byte { return b[:len(b)-4096] }, spool.ErrDamaged},
		{"newer version", key, func(b []byte) []byte { b[7]++; return b }, spool.ErrVersion},
	} {
		t.Run(tt.name, func(t *testing.T) {
			cfg := spool.Config{Disk: disk.OS{}, Dir: t.TempDir(), Key: key}
			s := open(t, cfg)
			f := s.Create()
			write(t, f, make([]byte, 10000), 0)
			if err := f.Sync(true); err != nil {
				t.Fatal(err)
			}
			id, ext := f.ID(), f.Extents()
			if err := errors.Join(f.Close(), s.Close()); err != nil {
				t.Fatal(err)
			}
			if tt.change != nil {
				name := filepath.Join(cfg.Dir, fmt.Sprintf("%016x.spool", id))
				b, err := os.ReadFile(name)
				if err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(name, tt.change(b), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			cfg.Key = tt.key
			s = open(t, cfg)
			if _, err := s.Reopen(id, 10000, ext); !errors.Is(err, tt.want) {
				t.Errorf("reopen: got %v, want %v", err, tt.want)
			}
			if _, err := s.Reader(id, 10000, ext...); !errors.Is(err, tt.want) {
				t.Errorf("reader: got %v, want %v", err, tt.want)
			}
			if _, err := s.Reader(id+100, 0); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("missing file: got %v", err)
			}
		})
	}
}

// TestSecretsStaySecret looks for plain text on the disk, also after a sector was
// written again.
func TestSecretsStaySecret(t *testing.T) {
	cfg := spool.Config{Disk: disk.OS{}, Dir: t.TempDir(), Key: bytes.Repeat([]byte{1}, 32)}
	s := open(t, cfg)
	text := bytes.Repeat([]byte("secret text. "), 1000)
	raw := make([][]byte, 2)
	for i := range raw {
		f := s.Create()
		write(t, f, text, 0)
		write(t, f, []byte("SECRET"), 5000)
		if err := f.Sync(true); err != nil {
			t.Fatal(err)
		}
		name := filepath.Join(cfg.Dir, fmt.Sprintf("%016x.spool", f.ID()))
		var err error
		if raw[i], err = os.ReadFile(name); err != nil {
			t.Fatal(err)
		}
		if fi, err := os.Stat(name); err != nil || fi.Mode().Perm() != 0o600 {
			t.Errorf("mode: got %v, %v", fi.Mode(), err)
		}
		if bytes.Contains(bytes.ToLower(raw[i]), []byte("secret")) {
			t.Error("the content is readable on the disk")
		}
		if err := f.Discard(); err != nil {
			t.Fatal(err)
		}
	}
	for off := 4096; off < len(raw[0]); off += 16 {
		if bytes.Equal(raw[0][off:off+16], raw[1][off:off+16]) {
			t.Fatalf("two files of the same content have the same bytes at %d", off)
		}
	}
}
