//go:build faults && linux

package faults

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/snapgate/gateway/internal/proctest"
)

// The data directory, with the store in it, becomes read-only under way.
func TestReadOnly(t *testing.T) {
	r := newRig(t, proctest.Options{Shares: map[string]string{"main": "{ snapshot: { when: close, quiet: 100ms } }"}})
	r.plain()
	r.start()
	r.mustPut("/stored", mib)
	r.snapshot()

	r.cover(r.data)
	// Files that are open can still be written, so some uploads go through.
	_, err := r.fill("f", 200_000, 30)
	says(t, "upload to a read-only spool", err, "disk of the server does not work, try again later")
	r.refuseSnapshot("read-only file system", "hint: the file system is read-only")
	r.verify(r.see)
	r.verify(r.login())

	mark := len(r.log())
	r.uncover(r.data)
	r.mustPut("/again", mib)
	r.awaitLog(mark, "commits work again")
	r.snapshot()
	r.restart()
}

// The journal cannot start a new segment, in the middle of a commit.
func TestJournalReadOnly(t *testing.T) {
	r := newRig(t, proctest.Options{Shares: map[string]string{"main": "{ snapshot: { when: manual } }"}})
	r.plain()
	r.start()
	for i := range 150 { // the journal is trimmed beyond 8 MiB
		r.mustPut(fmt.Sprintf("/j%d", i), 60_000)
	}
	r.mustPut("/spooled", mib)
	r.cover(filepath.Join(r.data, "shares"))
	r.snapshot()
	r.verify(r.see)
	says(t, "upload without a journal", r.put(r.see, "/x", 100), "disk of the server does not work, try again later")
	says(t, "mkdir without a journal", r.see.Mkdir("/d"), "disk of the server does not work, try again later")

	mark := len(r.log())
	r.uncover(filepath.Join(r.data, "shares"))
	r.mustPut("/x", 100)
	r.mustPut("/y", mib)
	r.awaitLog(mark, "journal can be written again")
	r.snapshot()
	r.spoolIsEmpty()
	r.restart()
}

// spoolIsEmpty checks that nothing of what was committed is left in the spool, except the
// empty files that it keeps ready.
func (r *rig) spoolIsEmpty() {
	r.t.Helper()
	files, err := filepath.Glob(filepath.Join(r.data, "shares/main/spool/*.spool"))
	r.must(err)
	for _, name := range files {
		info, err := os.Stat(name)
		r.must(err)
		if info.Size() > 8192 {
			r.t.Errorf("%s is left with %d bytes", filepath.Base(name), info.Size())
		}
	}
}

// A data directory that is gone, with all that is in it, comes back.
func TestDataDirRemoved(t *testing.T) {
	r := newRig(t, proctest.Options{Shares: map[string]string{"main": "{ snapshot: { when: manual } }"}})
	r.plain()
	r.start()
	r.mustPut("/a", mib)
	r.mustPut("/b", 100)
	away := filepath.Join(r.Dir, "away")
	r.must(os.Rename(r.data, away))
	_, err := r.fill("f", 200_000, 30)
	says(t, "upload without a spool", err, "disk of the server does not work, try again later")
	r.verifyNames(r.see)
	r.must(os.Rename(away, r.data))
	r.mustPut("/again", mib)
	r.snapshot()
	r.restart()
}
