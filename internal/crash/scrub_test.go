//go:build crash

package crash

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/snapgate/gateway/internal/proctest"
)

// TestCrashScrub damages all packfiles and a state of a store, and kills scrubs and repairs of it, in
// the running gateway and alone, at each of their moments. The next repair does the rest, and stock plakar,
// which knows the store from before, checks it.
func TestCrashScrub(t *testing.T) {
	r := &maintainCrash{rng: rand.NewChaCha8([32]byte{4}), commands: newCommands(t, proctest.Options{
		Parent: fastDisk(),
		Shares: map[string]string{"main": "{ snapshot: { when: manual } }"},
		Extra:  "stores: { copy: { location: ./data/copy, plaintext: true, create: true } }\n",
	})}
	r.start()
	for _, name := range []string{"one", "two"} {
		r.put(name)
		r.command("snapshot", "main")
	}
	r.command("scrub", "--all")
	r.stop()
	r.command("sync", "--to", "copy")
	r.plakar = proctest.NewPlakar(t, r.g.Store, r.g.PassFile)
	ids, err := r.plakar.Snapshots(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := r.plakar.Check(t.Context(), ids...); err != nil {
		t.Fatal(err)
	}
	for inServer, points := range map[bool][]string{true: {"scrub-verified:2", "repair-after"}, false: {"scrub-found:2", "repair-before", "repair-after:2"}} {
		for _, point := range points {
			name := fmt.Sprintf("%s, in the server %v", point, inServer)
			if inServer {
				if _, err := r.g.Start(t.Context(), "GATEWAY_FAILPOINT="+point); err != nil {
					t.Fatal(err)
				}
				r.spoil()
				if out, err := r.begin(nil, "scrub", "--all", "--repair", "--from", "copy").end(); err == nil {
					t.Errorf("%s: the gateway was not killed:\n%s", name, out)
					r.stop()
					continue
				}
				<-r.g.Ended()
			} else {
				r.spoil()
				r.killedAt(point, "scrub", "--all", "--repair", "--from", "copy")
			}
			r.command("scrub", "--all", "--repair", "--from", "copy")
			r.command("store", "check")
			if err := r.plakar.Check(t.Context(), ids...); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
	r.start()
	r.put("after")
	r.command("snapshot", "main")
	r.command("scrub", "--all")
	r.stop()
}

// spoil writes into the middle of all packfiles, and of a state.
func (r *maintainCrash) spoil() {
	r.t.Helper()
	packs, err := filepath.Glob(filepath.Join(r.g.Store, "packfiles", "*", "*"))
	states, serr := filepath.Glob(filepath.Join(r.g.Store, "states", "*", "*"))
	if err := errors.Join(err, serr); err != nil || len(packs) < 2 || len(states) == 0 {
		r.t.Fatalf("%d packfiles, %d states, %v", len(packs), len(states), err)
	}
	for _, path := range append(packs, states[0]) {
		f, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			r.t.Fatal(err)
		}
		fi, err := f.Stat()
		if err == nil {
			_, err = f.WriteAt([]byte("spoilt"), fi.Size()/2)
		}
		if err := errors.Join(err, f.Close()); err != nil {
			r.t.Fatal(err)
		}
	}
}
