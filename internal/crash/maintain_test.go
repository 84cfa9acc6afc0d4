//go:build crash

package crash

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"path/filepath"
	"testing"
	"time"

	"github.com/snapgate/gateway/internal/proctest"
)

const (
	// maintainGarbage is the size of a file that is removed again.
	maintainGarbage = 3 << 20
	// maintainRest is how much may be left of all that was removed: metadata beside what is needed.
	maintainRest = 1 << 20
	// lockedLimit is how long a commit may take after maintenance was killed with the store locked:
	// kloset's locks last ten minutes.
	lockedLimit = 20 * time.Second
)

// TestCrashMaintain kills maintenance at each of its moments, in the running gateway and in a
// process of its own. Commits work at once, snapshots are whole, and the next runs give back what was
// to be given back.
func TestCrashMaintain(t *testing.T) {
	r := &maintainCrash{rng: rand.NewChaCha8([32]byte{3}), commands: newCommands(t, proctest.Options{
		Parent: fastDisk(),
		Shares: map[string]string{"main": "{ snapshot: { when: close } }"},
	})}
	r.start()
	r.put("kept")
	r.command("snapshot", "main")
	r.plakar = proctest.NewPlakar(t, r.g.Store, r.g.PassFile)
	for _, point := range []string{"maintain-marked", "maintain-locked", "maintain-state", "maintain-buried", "maintain-removing", "maintain-unlocked"} {
		for _, inServer := range []bool{true, false} {
			name := fmt.Sprintf("%s, in the server %v", point, inServer)
			r.garbage()
			if point == "maintain-removing" {
				r.maintain() // marks
			}
			r.stop()
			if inServer {
				r.killServer(point)
			} else {
				r.killedAt(point, "maintain", "--grace", "0s")
			}
			r.start()
			start := time.Now()
			r.put("after")
			r.command("snapshot", "main")
			if took := time.Since(start); took > lockedLimit {
				t.Errorf("%s: a commit took %s", name, took)
			}
			r.command("store", "check")
			r.maintain()
			if m := r.maintain(); m.Marked != 0 {
				t.Errorf("%s: the second run after it marks: %+v", name, m)
			}
			if n := r.packed(); n > 3*maintainGarbage+maintainRest { // kept, and two versions of after
				t.Errorf("%s: %d bytes are left", name, n)
			}
			r.command("store", "check")
		}
	}
	ids, err := r.plakar.Snapshots(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := r.plakar.Check(t.Context(), ids...); err != nil {
		t.Error(err)
	}
	r.stop()
}

type maintainCrash struct {
	commands
	rng    *rand.ChaCha8
	plakar *proctest.Plakar
}

func (r *maintainCrash) start() {
	r.t.Helper()
	if _, err := r.g.Start(r.t.Context()); err != nil {
		r.t.Fatal(err)
	}
}

func (r *maintainCrash) stop() {
	r.t.Helper()
	if err := r.g.Stop(); err != nil {
		r.t.Fatal(err)
	}
}

// put makes a file of fresh contents in place of the one that is there.
func (r *maintainCrash) put(name string) {
	r.t.Helper()
	c, err := r.g.Client.Login(r.t.Context(), "alice")
	if err != nil {
		r.t.Fatal(err)
	}
	defer c.Close()
	f, err := c.Create("/" + name)
	if err != nil {
		r.t.Fatal(err)
	}
	data := make([]byte, maintainGarbage)
	_, _ = r.rng.Read(data)
	_, err = f.Write(data)
	if err := errors.Join(err, f.Close()); err != nil {
		r.t.Fatal(err)
	}
}

// garbage makes snapshots that nobody has any more.
func (r *maintainCrash) garbage() {
	r.t.Helper()
	r.put("garbage")
	r.command("snapshot", "main")
	c, err := r.g.Client.Login(r.t.Context(), "alice")
	if err != nil {
		r.t.Fatal(err)
	}
	defer c.Close()
	ids, err := r.plakar.Snapshots(r.t.Context())
	if err != nil {
		r.t.Fatal(err)
	}
	if err := c.Remove("/garbage"); err != nil {
		r.t.Fatal(err)
	}
	r.command("snapshot", "main")
	if _, err := r.plakar.Run(r.t.Context(), append([]string{"rm", "-apply"}, ids...)...); err != nil {
		r.t.Fatal(err)
	}
}

// killServer has the running gateway maintain its store, and die of it.
func (r *maintainCrash) killServer(point string) {
	r.t.Helper()
	if _, err := r.g.Start(r.t.Context(), "GATEWAY_FAILPOINT="+point); err != nil {
		r.t.Fatal(err)
	}
	out, err := r.begin(nil, "maintain", "--grace", "0s").end()
	if err == nil {
		r.t.Errorf("%s: the gateway was not killed:\n%s", point, out)
		r.stop()
		return
	}
	<-r.g.Ended()
}

// maintained is what matters of `gateway maintain --json`.
type maintained struct {
	Marked  int `json:"marked"`
	Removed int `json:"removed"`
}

func (r *maintainCrash) maintain() (m maintained) {
	r.t.Helper()
	if err := json.Unmarshal([]byte(r.command("maintain", "--grace", "0s", "--json")), &m); err != nil {
		r.t.Fatal(err)
	}
	return m
}

// packed is how much the packfiles take.
func (r *maintainCrash) packed() (bytes int64) {
	r.t.Helper()
	err := filepath.WalkDir(filepath.Join(r.g.Store, "packfiles"), func(_ string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		fi, err := d.Info()
		if err == nil {
			bytes += fi.Size()
		}
		return err
	})
	if err != nil {
		r.t.Fatal(err)
	}
	return bytes
}
