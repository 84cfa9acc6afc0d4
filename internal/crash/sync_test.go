//go:build crash

package crash

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"testing"

	"github.com/snapgate/gateway/internal/proctest"
)

// TestCrashSync kills a sync at each of its moments. The target is good every time, the next run
// finishes the work, and plakar finds nothing wrong with it.
func TestCrashSync(t *testing.T) {
	r := &syncCrash{rng: rand.NewChaCha8([32]byte{1}), commands: newCommands(t, proctest.Options{
		Parent: fastDisk(),
		Shares: map[string]string{"main": "{ snapshot: { when: manual } }"},
		Extra:  "stores: { second: { location: ./second, plaintext: true, create: true } }\n",
	})}
	g := r.g
	if _, err := g.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	for i, point := range []string{
		"early-packfile-put-before", "early-packfile-put-after", "early-adopt", "commit-entries", "commit-indexes",
		"commit-header-before", "commit-header-after", "packfile-put-before", "packfile-put-after",
		"state-put-before", "state-put-after",
	} {
		r.upload(i)
		r.killedAt(point, "sync", "--to", "second")
		if i > 0 { // the first kill may come before anything is there
			r.command("store", "check", "second")
		}
		if i%2 == 1 { // else the next run finds more than one missing, and leftovers of more than one
			r.command("sync", "--to", "second")
		}
	}
	r.command("sync", "--to", "second", "--verify")
	if out := r.command("sync", "--to", "second", "--json"); !strings.Contains(out, `"copied":0,"failed":0,"there":11,`) {
		t.Errorf("after all, a sync says:\n%s", out)
	}
	// The copy is there, and has not been read back: the next run makes up for it.
	r.upload(11)
	r.killedAt("state-put-after", "sync", "--to", "second", "--verify")
	for i, want := range []string{`{"event":"read",`, `{"event":"done","copied":0,"failed":0,"there":12,`} {
		if out := r.command("sync", "--to", "second", "--verify", "--json"); !strings.HasPrefix(out, want) {
			t.Errorf("run %d after the kill says:\n%s", i, out)
		}
	}
	if err := g.Stop(); err != nil {
		t.Fatal(err)
	}
	p := proctest.NewPlakar(t, filepath.Join(g.Dir, "second"), g.PassFile)
	found, err := p.Snapshots(t.Context())
	if err != nil || len(found) != 12 {
		t.Fatalf("plakar sees %d snapshots, want 12, %v", len(found), err)
	}
	if err := p.Check(t.Context(), found...); err != nil {
		t.Error(err)
	}
}

type syncCrash struct {
	commands
	rng *rand.ChaCha8
}

// upload makes another snapshot, of a file of several packfiles.
func (r *syncCrash) upload(i int) {
	r.t.Helper()
	c, err := r.g.Client.Login(r.t.Context(), "alice")
	if err != nil {
		r.t.Fatal(err)
	}
	defer c.Close()
	f, err := c.Create(fmt.Sprintf("/file%d", i))
	if err != nil {
		r.t.Fatal(err)
	}
	data := make([]byte, 20<<20)
	_, _ = r.rng.Read(data)
	_, err = f.Write(data)
	if err := errors.Join(err, f.Close()); err != nil {
		r.t.Fatal(err)
	}
	r.command("snapshot", "main")
}
