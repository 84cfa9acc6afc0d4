//go:build faults && linux

package faults

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/snapgate/gateway/internal/proctest"
)

// Everything on one small disk. A full spool drains into the store on that disk, thanks to
// the reserve; a disk that is full to the last byte refuses changes and shows what it has.
func TestDiskFull(t *testing.T) {
	r := newRig(t, proctest.Options{
		Shares: map[string]string{"main": "{ snapshot: { when: manual } }"},
		Extra:  "limits: { reserve: 6MiB }\n",
	})
	r.mount(r.data, "48m")
	r.start()

	rounds := 0
	for ; rounds < 10; rounds++ {
		n, err := r.fill(fmt.Sprintf("%c", 'a'+rounds), mib, 60)
		says(t, "upload to a full spool", err, "no space left")
		if rounds == 0 && n < 8 {
			t.Errorf("%d MiB fit, want 8 or more of 48: %v", n, err)
		}
		r.verifyNames(r.see)
		if n == 0 {
			break
		}
		r.snapshot()
	}
	if rounds < 2 || rounds == 10 {
		t.Errorf("the disk was full after %d rounds, want 2 to 9", rounds)
	}
	r.verify(r.see)
	r.mustRename("/a000", "/renamed") // within the reserve

	r.lastByte(r.data)
	other := r.login()
	r.verify(other)
	says(t, "upload to a full disk", r.put(other, "/x", 100), "no space left")
	says(t, "mkdir on a full disk", r.untilFull(other), "no space left")
	r.refuseSnapshot("no space left", "hint: the disk is full")
	r.restart()
	other = r.login()
	r.refuseSnapshot("no space left", "hint: the disk is full")

	mark := len(r.log())
	r.must(os.Remove(filepath.Join(r.data, "ballast")))
	r.resize(r.data, "160m")
	r.again(func() error { return r.put(r.see, "/again", 3*mib) })
	r.must(r.put(other, "/x", 100))
	r.awaitLog(mark, "commits work again") // though this share commits on demand only
	r.snapshot()
	r.verify(other)
	r.check()
}

// untilFull makes directories until the journal cannot take any more: what it has of its
// last block is still there.
func (r *rig) untilFull(s *proctest.SFTP) (err error) {
	for i := 0; err == nil && i < 500; i++ {
		err = s.Mkdir(fmt.Sprintf("/d%d", i))
	}
	return err
}

// mustRename renames a file that the test holds.
func (r *rig) mustRename(from, to string) {
	r.t.Helper()
	r.must(r.see.Rename(from, to))
	r.held[to] = r.held[from]
	delete(r.held, from)
}

// lastByte fills the disk of a directory with something that is not the gateway's.
func (r *rig) lastByte(dir string) {
	r.t.Helper()
	f, err := os.Create(filepath.Join(dir, "ballast"))
	r.must(err)
	defer f.Close()
	buf := make([]byte, 4096)
	for err == nil {
		_, err = f.Write(buf)
	}
	if !errors.Is(err, syscall.ENOSPC) {
		r.t.Fatal(err)
	}
}

// The disk has space but no inodes: the spool leaves some for the commit.
func TestNoInodes(t *testing.T) {
	r := newRig(t, proctest.Options{
		Shares: map[string]string{"main": "{ snapshot: { when: manual } }"},
		Extra:  "limits: { reserve: 1MiB }\n",
	})
	r.mount(r.data, "200m,nr_inodes=1000") // a store alone has more than 500
	r.plain()
	r.start()
	n, err := r.fill("f", 70_000, 600)
	says(t, "upload without inodes", err, "no space left")
	if n < 50 {
		t.Errorf("%d files fit, want 50 or more", n)
	}
	r.snapshot()
	r.again(func() error { return r.put(r.see, "/again", 70_000) })
	r.snapshot()
	r.restart()
}

// The store's disk alone is full. Uploads that the store has no room for are refused, though the spool has
// some; what was accepted is committed when there is room, also when somebody else has taken it.
func TestStoreFull(t *testing.T) {
	r := newRig(t, proctest.Options{
		Shares: map[string]string{"main": "{ snapshot: { when: manual } }"},
		Extra:  "limits: { reserve: 1MiB }\n",
	})
	r.mount(r.Store, "16m")
	r.start()
	r.mustPut("/first", mib)
	r.snapshot()
	r.mustPut("/late", mib)
	r.lastByte(r.Store)
	r.refuseSnapshot("no space left", "hint: the disk is full")
	r.verify(r.see)
	r.oneLineAnAttempt()

	mark := len(r.log())
	r.must(os.Remove(filepath.Join(r.Store, "ballast")))
	r.awaitLog(mark, "commits work again")
	r.snapshot()
	n, err := r.fill("f", mib, 24)
	says(t, "upload to a full store", err, "no space left")
	if n < 4 {
		t.Errorf("%d MiB fit, want 4 or more of 16", n)
	}
	r.snapshot()
	r.verify(r.see)
	r.resize(r.Store, "96m")
	r.again(func() error { return r.put(r.see, "/again", 3*mib) })
	r.snapshot()
	r.restart()
}

var attemptLine = regexp.MustCompile(`level=WARN msg="commit failed, the changes are kept" share=main attempt=(\d+) .*err=(.*)`)

// oneLineAnAttempt checks that the log has one line for each attempt to commit, and no
// other warnings.
func (r *rig) oneLineAnAttempt() {
	r.t.Helper()
	attempts := 0
	for line := range strings.Lines(r.log()) {
		if !strings.Contains(line, "level=WARN") && !strings.Contains(line, "level=ERROR") {
			continue
		}
		m := attemptLine.FindStringSubmatch(line)
		if m == nil {
			r.t.Errorf("unexpected in the log: %s", line)
			continue
		}
		attempts++
		if m[1] != strconv.Itoa(attempts) || !strings.Contains(m[2], "no space left on device") {
			r.t.Errorf("attempt %d is logged as: %s", attempts, line)
		}
	}
	if attempts == 0 {
		r.t.Error("the log says nothing of a commit that failed")
	}
}
