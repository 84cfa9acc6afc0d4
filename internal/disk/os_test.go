package disk_test

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/snapgate/gateway/internal/disk"
)

func TestOSRoundTrip(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", "b")
	fsys := disk.OS{}
	if err := disk.MkdirDurable(fsys, dir, 0o700); err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(dir, "x")
	f, err := fsys.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	if err := disk.Preallocate(f, 1<<20); err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte("hello"), 3); err != nil {
		t.Fatal(err)
	}
	if err := f.Sync(); err != nil {
		t.Fatal(err)
	}
	if got, err := f.Size(); err != nil || got != 8 {
		t.Fatalf("size: got %d, %v; want 8 (preallocation must not change it)", got, err)
	}
	if err := f.Truncate(5); err != nil {
		t.Fatal(err)
	}
	if err := fsys.Rename(name, name+"2"); err != nil {
		t.Fatal(err)
	}
	if err := fsys.SyncDir(dir); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 9)
	n, err := f.ReadAt(buf, 0)
	if !errors.Is(err, io.EOF) || !bytes.Equal(buf[:n], []byte("\x00\x00\x00he")) {
		t.Fatalf("read: got %q, %v", buf[:n], err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	ents, err := fsys.ReadDir(dir)
	if err != nil || len(ents) != 1 || ents[0].Name() != "x2" {
		t.Fatalf("list: got %v, %v", ents, err)
	}
	if err := fsys.Remove(name + "2"); err != nil {
		t.Fatal(err)
	}
	if _, err := fsys.OpenFile(name, os.O_RDONLY, 0); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("open removed: got %v", err)
	}
	if err := fsys.SyncDir(filepath.Join(dir, "missing")); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("sync a missing directory: got %v", err)
	}
}

func TestUsage(t *testing.T) {
	got, err := disk.Usage(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if got.BlockSize == 0 || got.Total == 0 || got.Avail > got.Free || got.Free > got.Total || got.ReadOnly {
		t.Errorf("implausible: %+v", got)
	}
	if _, err := disk.Usage(filepath.Join(t.TempDir(), "missing")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("missing path: got %v", err)
	}
}

// lockHelperEnv makes the test binary hold a lock in place of running tests.
const lockHelperEnv = "DISK_TEST_LOCK_DIR"

func TestMain(m *testing.M) {
	if dir := os.Getenv(lockHelperEnv); dir != "" {
		if _, err := disk.Lock(dir); err != nil {
			os.Exit(3)
		}
		os.Stdout.WriteString("locked\n")
		io.Copy(io.Discard, os.Stdin)
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func TestLock(t *testing.T) {
	dir := t.TempDir()
	l, err := disk.Lock(dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := disk.Lock(dir); !errors.Is(err, disk.ErrLocked) {
		t.Fatalf("second lock: got %v, want ErrLocked", err)
	}
	if err := l.Unlock(); err != nil {
		t.Fatal(err)
	}

	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), lockHelperEnv+"="+dir)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(out, make([]byte, len("locked\n"))); err != nil {
		t.Fatal(err)
	}
	if _, err := disk.Lock(dir); !errors.Is(err, disk.ErrLocked) {
		t.Errorf("held by another process: got %v, want ErrLocked", err)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // killed
	l, err = disk.Lock(dir)
	if err != nil {
		t.Fatalf("after kill -9 of the holder: %v", err)
	}
	if err := l.Unlock(); err != nil {
		t.Fatal(err)
	}
}
