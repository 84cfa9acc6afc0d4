//go:build faults && linux

package faults

import (
	"os"
	"testing"

	"github.com/snapgate/gateway/internal/proctest"
)

// The store is removed under way and put back.
func TestStoreRemoved(t *testing.T) {
	r := newRig(t, proctest.Options{Shares: map[string]string{"main": "{ snapshot: { when: close, quiet: 100ms } }"}})
	r.start()
	r.mustPut("/stored", 2*mib)
	r.snapshot()
	stored := r.held["/stored"]

	elsewhere := r.Dir + "/elsewhere"
	r.must(os.Rename(r.Store, elsewhere))
	r.mustPut("/waiting", mib)
	r.mustPut("/small", 100)
	r.refuseSnapshot("store unavailable", "hint: is the store's disk mounted")
	r.verifyNames(r.see)
	r.checkAway("/stored")
	if _, err := os.Stat(r.Store); err == nil {
		t.Error("something was made where the store was")
	}

	// A start without the store, with the index of the head.
	r.must(r.Stop())
	mark := len(r.log())
	r.start()
	r.awaitLog(mark, `msg="store is away; uploads are kept and committed when it is back, stored files cannot be read until then"`)
	r.verifyNames(r.see)
	r.mustPut("/later", mib)
	r.mustRename("/stored", "/moved")
	r.mustPut("/stored", mib)
	r.checkAway("/moved")
	r.refuseSnapshot("store unavailable", "hint: is the store's disk mounted")

	mark = len(r.log())
	r.must(os.Rename(elsewhere, r.Store))
	r.awaitLog(mark, "commits work again")
	r.verify(r.see)
	if got := r.held["/moved"]; len(got) != len(stored) {
		t.Error("the test does not hold the file that was stored first")
	}
	r.check()
}

// checkAway checks what can be learned of a stored file while the store is away.
func (r *rig) checkAway(name string) {
	r.t.Helper()
	for _, s := range []*proctest.SFTP{r.see, r.login()} {
		info, err := s.Lstat(name)
		if err != nil || info.Size() != int64(len(r.held[name])) {
			r.t.Errorf("stat of %s: %v, %v", name, info, err)
		}
		_, err = read(s, name)
		says(r.t, "reading "+name, err, "store unavailable, try again later")
	}
}
