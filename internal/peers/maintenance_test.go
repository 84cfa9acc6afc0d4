//go:build peers

package peers

import (
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/snapgate/gateway/internal/proctest"
)

const (
	maintenanceRounds = 3
	// uploadsBeside is how many files arrive while maintenance tries to run.
	uploadsBeside = 10
	// settleLimit is how long a commit may take to come through after maintenance has ended.
	settleLimit = time.Minute
)

// TestPlakarMaintenance runs stock plakar's maintenance, without any grace period, while
// files arrive and are committed. Commits wait or fail meanwhile, and nothing is lost: also
// not what maintenance has just removed and is uploaded again.
func TestPlakarMaintenance(t *testing.T) {
	g := proctest.NewGateway(t, proctest.Options{
		Shares: map[string]string{"main": "{ snapshot: { when: close } }"},
		Users:  []proctest.User{{Name: alice, Share: "main"}},
	})
	if _, err := g.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	see, err := g.Client.Login(t.Context(), alice)
	if err != nil {
		t.Fatal(err)
	}
	defer see.Close()
	e := &env{t: t, g: g, see: see, user: alice, share: "main", local: t.TempDir(), port: g.Port, dir: "/", rng: newRand(5)}
	p := proctest.NewPlakar(t, g.Store, g.PassFile)
	held := make(map[string][]byte)
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatalf("%v\n%s", err, g.LogTail(20))
		}
	}
	_, held["/kept"] = e.remote("kept", 300_000)
	for round := range maintenanceRounds {
		// Contents that no snapshot refers to any more: maintenance may remove them.
		garbage, data := e.remote("garbage", 2<<20)
		must(e.snapshot())
		ids, err := p.Snapshots(t.Context())
		must(err)
		must(see.Remove(garbage))
		must(e.snapshot())
		_, err = p.Run(t.Context(), append([]string{"rm", "-apply"}, ids...)...)
		must(err)

		done := make(chan error, 1)
		go func() { done <- maintain(t, p) }()
		refused := 0
		for n, running := 0, true; running; n++ {
			if n < uploadsBeside {
				select {
				case err := <-done:
					must(err)
					running = false
				default:
				}
			} else { // it gives up when it meets a commit: let it through
				must(<-done)
				running = false
			}
			name := fmt.Sprintf("r%d-%d", round, n)
			_, held["/"+name] = e.remote(name, 20_000)
			if err := e.snapshot(); err != nil {
				if !strings.Contains(err.Error(), "locked") {
					t.Fatalf("a commit beside maintenance: %v", err)
				}
				refused++
			}
		}
		t.Logf("round %d: %d commits were refused, %d locks were left behind", round, refused, dropLocks(t, g))
		f, err := see.Create(garbage)
		must(err)
		_, err = f.Write(data)
		must(errors.Join(err, f.Close()))
		if _, err := proctest.Wait(t.Context(), settleLimit, func() bool { return e.snapshot() == nil }); err != nil {
			t.Fatalf("no commit after maintenance: %v\n%s", err, g.LogTail(20))
		}
		must(e.holds(garbage, data))
		ids, err = p.Snapshots(t.Context())
		must(err)
		must(p.Check(t.Context(), ids...))
		for name, want := range held {
			must(errors.Join(e.holds(name, want), e.holds(path.Join("/.snapshots/latest", name), want)))
		}
	}
	must(g.Stop())
}

// maintain runs maintenance until it does not meet a commit.
func maintain(t *testing.T, p *proctest.Plakar) error {
	for {
		err := p.Maintain(t.Context(), time.Nanosecond)
		if err == nil || !strings.Contains(err.Error(), "already locked") {
			return err
		}
	}
}

// dropLocks removes the locks that maintenance has left behind: it would be ten minutes until
// they do not count any more.
func dropLocks(t *testing.T, g *proctest.Gateway) int {
	t.Helper()
	locks, err := filepath.Glob(filepath.Join(g.Store, "locks", "*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, lock := range locks {
		if err := os.Remove(lock); err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
	}
	return len(locks)
}
