package journal_test

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/snapgate/gateway/internal/disk"
	"github.com/snapgate/gateway/internal/disk/disktest"
	"github.com/snapgate/gateway/vfs/internal/journal"
)

// unsynced is a disk that does not take the time to sync.
type unsynced struct{ disk.FS }

func (u unsynced) SyncDir(string) error { return nil }

func (u unsynced) OpenFile(path string, flag int, perm fs.FileMode) (disk.File, error) {
	f, err := u.FS.OpenFile(path, flag, perm)
	if err != nil {
		return nil, err
	}
	return unsyncedFile{f}, nil
}

type unsyncedFile struct{ disk.File }

func (unsyncedFile) Sync() error { return nil }

func TestFaults(t *testing.T) {
	for _, tt := range []struct {
		name  string
		fault disktest.Fault
		sync  bool
	}{
		{"write", disktest.Fault{Ops: disktest.OpWrite, Err: syscall.EIO}, false},
		{"short write", disktest.Fault{Ops: disktest.OpWrite, Err: syscall.ENOSPC, Short: 45}, true},
		{"sync", disktest.Fault{Ops: disktest.OpSync, Err: syscall.EIO}, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			modes(t, func(t *testing.T, cfg journal.Config) {
				faulty := disktest.NewFaulty(disk.OS{})
				cfg.Disk = faulty
				j := open(t, cfg)
				appendOK(t, j, true, "safe")
				appendOK(t, j, false, "lost")
				tt.fault.Path, tt.fault.Times = "*.wal*", 1
				faulty.Add(tt.fault)
				if _, err := j.Append([][]byte{[]byte("failed")}, tt.sync); !errors.Is(err, tt.fault.Err) {
					t.Fatalf("got %v, want %v", err, tt.fault.Err)
				}
				if got := j.Lost(); !slices.Equal(got, []journal.Position{2}) {
					t.Errorf("lost: got %v, want [2]", got)
				}
				if got := j.Lost(); got != nil {
					t.Errorf("lost, asked again: got %v", got)
				}
				wantRecords(t, j, "1 safe")
				if got := appendOK(t, j, true, "on"); got != 4 {
					t.Errorf("next position: got %d, want 4: 2 and 3 are used up", got)
				}
				// Killed: what failed does not come back although its bytes may be there.
				j = open(t, cfg)
				wantRecords(t, j, "1 safe", "4 on")
				if err := j.Close(); err != nil {
					t.Fatal(err)
				}
			})
		})
	}
}

// TestDiskFull fails everything that needs space, for a while.
func TestDiskFull(t *testing.T) {
	faulty := disktest.NewFaulty(disk.OS{})
	cfg := journal.Config{Disk: faulty, Dir: t.TempDir()}
	j := open(t, cfg)
	appendOK(t, j, true, "before")
	faulty.Add(disktest.Fault{Ops: disktest.OpChange, Err: syscall.ENOSPC})
	for range 3 {
		if _, err := j.Append([][]byte{[]byte("x")}, true); !errors.Is(err, syscall.ENOSPC) {
			t.Fatalf("got %v, want no space", err)
		}
	}
	if got, err := j.Read(1); err != nil || string(got) != "before" {
		t.Errorf("reading on a full disk: got %q, %v", got, err)
	}
	faulty.Clear()
	pos := appendOK(t, j, true, "after")
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	j = open(t, cfg)
	wantRecords(t, j, "1 before", fmt.Sprintf("%d after", pos))
	if left, _ := filepath.Glob(filepath.Join(cfg.Dir, "*.tmp")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestSegmentCreationFails fails each step of making a segment in turn.
func TestSegmentCreationFails(t *testing.T) {
	for _, op := range []disktest.Op{
		disktest.OpCreate, disktest.OpWrite, disktest.OpSync, disktest.OpRename, disktest.OpSyncDir,
	} {
		faulty := disktest.NewFaulty(disk.OS{})
		cfg := journal.Config{Disk: faulty, Dir: t.TempDir(), SegmentBytes: 300}
		j := open(t, cfg)
		appendOK(t, j, true, string(make([]byte, 400))) // full
		appended := []journal.Position{1}
		faulty.Add(disktest.Fault{Ops: op, Err: syscall.EIO})
		if _, err := j.Append([][]byte{[]byte("x")}, true); !errors.Is(err, syscall.EIO) {
			t.Fatalf("op %d: got %v", op, err)
		}
		faulty.Clear()
		for range 3 {
			appended = append(appended, appendOK(t, j, true, string(make([]byte, 400))))
		}
		j = open(t, cfg)
		var got []journal.Position
		for r := range j.Records() {
			got = append(got, r.Pos)
		}
		if !slices.Equal(got, appended) {
			t.Errorf("op %d: got records %v, want %v", op, got, appended)
		}
		if err := j.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// onceWritten is a disk that notes when a byte is written twice, and differently.
type onceWritten struct {
	disk.FS
	mu      sync.Mutex
	content map[string][]byte
	twice   []string
}

func (o *onceWritten) OpenFile(path string, flag int, perm fs.FileMode) (disk.File, error) {
	f, err := o.FS.OpenFile(path, flag, perm)
	if err != nil {
		return nil, err
	}
	name, _, _ := strings.Cut(filepath.Base(path), ".") // the same before and after the rename
	return onceFile{f, o, name}, nil
}

type onceFile struct {
	disk.File
	o    *onceWritten
	path string
}

func (f onceFile) WriteAt(p []byte, off int64) (int, error) {
	f.o.mu.Lock()
	defer f.o.mu.Unlock()
	have := f.o.content[f.path]
	if n := min(int64(len(have)), off+int64(len(p))); n > off && !bytes.Equal(have[off:n], p[:n-off]) {
		f.o.twice = append(f.o.twice, fmt.Sprintf("%s at %d", f.path, off))
	}
	if grow := off + int64(len(p)) - int64(len(have)); grow > 0 {
		have = append(have, make([]byte, grow)...)
	}
	copy(have[off:], p)
	f.o.content[f.path] = have
	return f.File.WriteAt(p, off)
}

// TestNoNonceTwice kills and recovers a journal again and again, with torn tails: under
// one segment key no position may be sealed twice, so no place in a segment may ever be
// written with two contents.
func TestNoNonceTwice(t *testing.T) {
	once := &onceWritten{FS: unsynced{disk.OS{}}, content: make(map[string][]byte)}
	faulty := disktest.NewFaulty(once)
	cfg := journal.Config{Disk: faulty, Dir: t.TempDir(), Key: bytes.Repeat([]byte{3}, 32), SegmentBytes: 2000}
	for round := range 30 {
		j := open(t, cfg)
		for i := range 5 {
			appendOK(t, j, i%2 == 0, fmt.Sprintf("round %d record %d", round, i))
		}
		if round%3 == 0 {
			faulty.Add(disktest.Fault{Ops: disktest.OpWrite, Times: 1, Err: syscall.EIO, Short: 60})
			if _, err := j.Append([][]byte{[]byte("torn")}, false); err == nil {
				t.Fatal("no error")
			}
			appendOK(t, j, true, "behind the torn one")
		}
		if round%4 == 1 { // the tail is torn by a loss of power
			names := segments(t, cfg)
			path := names[len(names)-1]
			fi, err := os.Stat(path)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.Truncate(path, fi.Size()-20); err != nil {
				t.Fatal(err)
			}
		}
	}
	if len(once.twice) > 0 {
		t.Errorf("written twice: %v", once.twice)
	}
	keys := make(map[string]bool)
	for _, b := range once.content {
		keys[string(b[56:116])] = true // where the header has it
	}
	if len(keys) != len(once.content) {
		t.Errorf("%d segments, %d different wrapped keys", len(once.content), len(keys))
	}
}

// TestReadWhileTrimming reads a record at the moments around the removal of its segment:
// the answer is "trimmed", never that of a disk that lost a file.
func TestReadWhileTrimming(t *testing.T) {
	cfg := journal.Config{Disk: disk.OS{}, Dir: t.TempDir(), SegmentBytes: 1}
	var j *journal.Journal
	var moments []string
	cfg.Failpoint = func(name string) {
		if name != journal.FailBeforeTrim && name != journal.FailAfterTrim {
			return
		}
		moments = append(moments, name)
		if _, err := j.Read(1); !errors.Is(err, journal.ErrTrimmed) {
			t.Errorf("at %s: got %v, want %v", name, err, journal.ErrTrimmed)
		}
	}
	j = open(t, cfg)
	appendOK(t, j, true, "old")
	appendOK(t, j, true, "new")
	if err := j.Trim(1); err != nil {
		t.Fatal(err)
	}
	if want := []string{journal.FailBeforeTrim, journal.FailAfterTrim}; !slices.Equal(moments, want) {
		t.Errorf("moments: got %v, want %v", moments, want)
	}
	wantRecords(t, j, "2 new")
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestReadDuringEverything reads while records are appended and trimmed (for the race
// detector, too).
func TestReadDuringEverything(t *testing.T) {
	cfg := journal.Config{Disk: unsynced{disk.OS{}}, Dir: t.TempDir(), SegmentBytes: 4 << 10}
	j := open(t, cfg)
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			for pos := journal.Position(1); ; pos++ {
				select {
				case <-stop:
					return
				default:
				}
				if pos > j.Last() {
					pos = 1
				}
				got, err := j.Read(pos)
				if errors.Is(err, journal.ErrTrimmed) {
					continue
				}
				if want := fmt.Sprint("payload ", pos); err != nil || string(got) != want {
					t.Errorf("read %d: got %q, %v", pos, got, err)
					return
				}
			}
		})
	}
	for range 2000 {
		pos := j.Last() + 1
		appendOK(t, j, pos%7 == 0, fmt.Sprint("payload ", pos))
		if pos%500 == 0 {
			if err := j.Trim(pos - 100); err != nil {
				t.Fatal(err)
			}
		}
	}
	close(stop)
	wg.Wait()
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
}
