//go:build peers

package peers

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"path/filepath"
	"testing"
	"time"

	"github.com/snapgate/gateway/internal/proctest"
)

const (
	// garbageSize is that of a file that is removed again.
	garbageSize = 3 << 20
	// uploadsPerMaintenance is how many files arrive beside each run.
	uploadsPerMaintenance = 5
	// longestCommit is how long a commit may take beside maintenance.
	longestCommit = 20 * time.Second
	// collectLimit is how long the gateway may count on somebody who looks at a snapshot that was removed, and does not any more:
	// Go's runtime collects garbage every two minutes at least, and a view goes with the second time.
	collectLimit = 5 * time.Minute
)

// maintained is what matters of `gateway maintain --json`.
type maintained struct {
	BytesBefore  int64 `json:"bytes_before"`
	BytesAfter   int64 `json:"bytes_after"`
	Marked       int   `json:"marked"`
	Removed      int   `json:"removed"`
	RemovedBytes int64 `json:"removed_bytes"`
	LockedMillis int64 `json:"locked_ms"`
}

// TestMaintain gives space back beside uploads and beside stock plakar: one that sees all states as
// they come, one that knows those of the beginning, and one that knows none.
func TestMaintain(t *testing.T) {
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
	e := &env{t: t, g: g, see: see, user: alice, share: "main", local: t.TempDir(), port: g.Port, dir: "/", rng: newRand(6)}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatalf("%v\n%s", err, g.LogTail(20))
		}
	}
	warm, stale := proctest.NewPlakar(t, g.Store, g.PassFile), proctest.NewPlakar(t, g.Store, g.PassFile)
	held := make(map[string][]byte)
	_, held["/kept"] = e.remote("kept", 300_000)
	must(e.snapshot())
	_, err = stale.Snapshots(t.Context())
	must(err)
	removed := 0
	for round := range 2 {
		garbage, data := e.remote("garbage", garbageSize)
		must(e.snapshot())
		ids, err := warm.Snapshots(t.Context())
		must(err)
		must(see.Remove(garbage))
		must(e.snapshot())
		_, err = warm.Run(t.Context(), append([]string{"rm", "-apply"}, ids...)...)
		must(err)
		full := packed(t, g.Store)
		// Marked by the first, removed by the second; by later ones when the view of the snapshot with it was not collected yet.
		var back int64
		began := time.Now()
		for turn := 0; turn < 2 || back < garbageSize; turn++ {
			if time.Since(began) > collectLimit {
				t.Fatalf("%d bytes removed, in %d runs", back, turn)
			}
			done := make(chan error, 1)
			var m maintained
			go func() {
				out, err := g.Command(t.Context(), "maintain", "--grace", "0s", "--json")
				done <- errors.Join(err, json.Unmarshal([]byte(out), &m))
			}()
			for n := 0; turn < 2 && n < uploadsPerMaintenance; n++ {
				name := fmt.Sprintf("r%d-%d-%d", round, turn, n)
				_, held["/"+name] = e.remote(name, 20_000)
				start := time.Now()
				must(e.snapshot())
				if took := time.Since(start); took > longestCommit {
					t.Errorf("a commit beside maintenance took %s", took)
				}
			}
			must(<-done)
			if turn < 2 || m.Marked+m.Removed > 0 {
				t.Logf("round %d: run %d: %+v", round, turn+1, m)
			}
			removed += m.Removed
			back += m.RemovedBytes
		}
		if now := packed(t, g.Store); now > full {
			t.Errorf("%d bytes removed, %d stored before, %d after", back, full, now)
		}
		// What is gone is stored again.
		f, err := see.Create(garbage)
		must(err)
		_, err = f.Write(data)
		must(errors.Join(err, f.Close()))
		must(e.snapshot())
		must(e.holds(garbage, data))
		cold := proctest.NewPlakar(t, g.Store, g.PassFile)
		for _, p := range []*proctest.Plakar{warm, stale, cold} {
			ids, err := p.Snapshots(t.Context())
			must(err)
			must(p.Check(t.Context(), ids...))
		}
		must(see.Remove(garbage))
		for name, want := range held {
			must(errors.Join(e.holds(name, want), e.holds(path.Join("/.snapshots/latest", name), want)))
		}
	}
	// plakar's own maintenance goes on from here, without any grace period.
	must(maintain(t, warm))
	dropLocks(t, g)
	must(maintain(t, stale))
	dropLocks(t, g)
	ids, err := warm.Snapshots(t.Context())
	must(err)
	must(warm.Check(t.Context(), ids...))
	must(g.Stop())
	if _, err := g.Command(t.Context(), "store", "check"); err != nil {
		t.Error(err)
	}
	if removed == 0 {
		t.Error("nothing was removed")
	}
}

// packed is how much the packfiles of a store take.
func packed(t *testing.T, store string) (bytes int64) {
	t.Helper()
	err := filepath.WalkDir(filepath.Join(store, "packfiles"), func(_ string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		fi, err := d.Info()
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		bytes += fi.Size()
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return bytes
}
