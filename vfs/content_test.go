package vfs

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/snapgate/gateway/internal/disk"
)

// hookDisk calls a function, once, before a file whose name has a suffix is opened for reading.
type hookDisk struct {
	disk.OS
	hook atomic.Pointer[readHook]
}

type readHook struct {
	suffix string
	run    func()
}

func (d *hookDisk) OpenFile(path string, flag int, perm fs.FileMode) (disk.File, error) {
	if h := d.hook.Load(); h != nil && flag == os.O_RDONLY && strings.HasSuffix(path, h.suffix) && d.hook.CompareAndSwap(h, nil) {
		h.run()
	}
	return d.OS.OpenFile(path, flag, perm)
}

// Whatever moves a file's bytes between the moment at which somebody looks for them and that
// at which they are opened, they are found.
func TestReadWhileBytesMove(t *testing.T) {
	for _, tt := range []struct{ name, path, data, suffix string }{
		{"carried to another record", "/f.tmp", "small", ".wal"},
		{"from the journal to a snapshot", "/f", "small", ".wal"},
		{"from the spool to a snapshot", "/f", big("x"), ".spool"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			hooked := &hookDisk{}
			sys, _ := fullTestSystem(t, func(c *Config) {
				c.Disk, c.Limits.SpoolBytes = hooked, 32<<20 // so that 2 MiB of journal are trimmed
			})
			s := testShare(t, sys)
			v := visit(t, sys, "u", PermFull, "/")
			v.put(tt.path, tt.data)
			for i := range 50 {
				v.put(fmt.Sprintf("/filler%d", i), big("y")[:60_000])
			}
			hooked.hook.Store(&readHook{suffix: tt.suffix, run: func() {
				for range 2 { // the second one trims what the first one has carried from
					v.mkdir(fmt.Sprintf("/d%d", s.head().sequence))
					commitShare(t, s)
				}
				if n := s.journal.Bytes(); n > 1<<20 {
					t.Errorf("the journal was not trimmed: %d bytes", n)
				}
			}})
			want(t, "bytes", v.get(tt.path) == tt.data, true)
			want(t, "the hook is used", hooked.hook.Load() == nil, true)
		})
	}
}

// A disk that forgets what was spooled must not get it into a snapshot, where it would pass
// for what was uploaded.
func TestRottenSpoolIsNotCommitted(t *testing.T) {
	sys, repo := fullTestSystem(t)
	s := testShare(t, sys)
	v := visit(t, sys, "u", PermFull, "/")
	v.put("/d.bin", big("a"))
	n, err := s.current().lookup(t.Context(), mustName(t, "/d.bin"))
	wantNil(t, "lookup", err)
	f, err := os.OpenFile(s.dir(fmt.Sprintf("spool/%016x.spool", uint64(n.content.spool))), os.O_RDWR, 0)
	wantNil(t, "open", err)
	defer f.Close()
	const at = 4096 + 50_000
	good := make([]byte, 100)
	_, err = f.ReadAt(good, at)
	wantNil(t, "read", err)
	_, err = f.WriteAt([]byte("rotten"), at)
	wantNil(t, "write", err)

	_, err = sys.Commit(t.Context(), "s")
	if !errors.Is(err, errRotten) || !strings.Contains(err.Error(), "/d.bin") {
		t.Errorf("commit: got %v, want errRotten with the name", err)
	}
	list, err := repo.Snapshots(t.Context(), "s")
	wantNil(t, "list", err)
	want(t, "snapshots", len(list), 0)

	_, err = f.WriteAt(good, at)
	wantNil(t, "write", err)
	want(t, "snapshot", viewContents(t, repo, commitShare(t, s))["/d.bin"] == big("a"), true)
}

// With versions: last, the bytes of a version that is replaced go with the next commit. Who
// was about to open it gets the new one.
func TestReadWhileReplaced(t *testing.T) {
	hooked := &hookDisk{}
	sys, _ := fullTestSystem(t, func(c *Config) { c.Disk, c.Shares[0].Versions = hooked, VersionsLast })
	v := visit(t, sys, "u", PermFull, "/")
	v.put("/f", big("a"))
	hooked.hook.Store(&readHook{suffix: ".spool", run: func() {
		v.put("/f", "new")
		commitShare(t, testShare(t, sys))
	}})
	want(t, "bytes", v.get("/f"), "new")
	want(t, "the hook is used", hooked.hook.Load() == nil, true)
}
