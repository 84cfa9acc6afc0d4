package main

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/snapgate/gateway/cmd/gateway/internal/config"
	"github.com/snapgate/gateway/snapshotter"
	"github.com/snapgate/gateway/store"
	"github.com/snapgate/gateway/store/storetest"
)

// onFirst is a writer that does something at the first write.
type onFirst struct {
	strings.Builder
	do func()
}

func (w *onFirst) Write(p []byte) (int, error) {
	if w.Len() == 0 {
		w.do()
	}
	return w.Builder.Write(p)
}

// checkRig is a store with two snapshots, of which something happens to the older one while a check runs.
type checkRig struct {
	t     *testing.T
	cfg   store.Config
	st    *store.Store
	snaps *snapshotter.Snapshotter
	list  []snapshotter.Snapshot

	packfiles []string // of the older one
}

func newCheckRig(t *testing.T) *checkRig {
	k := &checkRig{t: t}
	k.st = storetest.New(t, func(cfg *store.Config) {
		cfg.MirrorBytes = 1 // no local copies, of which headers come back
		k.cfg = *cfg
	})
	k.snaps = openSnapshots(t, k.st)
	first := emptySnapshot(t, k.snaps, 1, snapshotter.ID{})
	var err error
	k.packfiles, err = filepath.Glob(filepath.Join(strings.TrimPrefix(k.cfg.Location, "fs://"), "packfiles", "*", "*"))
	if err != nil || len(k.packfiles) != 1 {
		t.Fatalf("packfiles: %q, %v", k.packfiles, err)
	}
	emptySnapshot(t, k.snaps, 2, first)
	if k.list, err = k.snaps.Snapshots(t.Context(), ""); err != nil || len(k.list) != 2 || k.list[1].ID != first {
		t.Fatalf("%v, %v", k.list, err)
	}
	return k
}

// lose removes the packfile with the header of the older snapshot.
func (k *checkRig) lose() {
	k.t.Helper()
	if err := os.Remove(k.packfiles[0]); err != nil {
		k.t.Fatal(err)
	}
}

// check checks in one of the ways: what happens comes after the newer snapshot was checked, or first.
func (k *checkRig) check(way string, happens func()) (string, error) {
	out := &onFirst{do: happens}
	if check := checks(k.st, k.snaps, k.list)[way]; check != nil {
		err := check(k.t.Context(), &program{stdout: out, stderr: io.Discard}, out)
		return out.String(), err
	}
	happens()
	out.do = func() {}
	ck := new(checkCommand)
	v := new(program).newViewing(&ck.viewFlags, new(config.Config), k.st, k.snaps, k.list, out)
	err := ck.run(k.t.Context(), v, []string{k.list[1].ID.String()})
	return out.String(), err
}

// TestCheckRemoved: a snapshot that was removed while it was checked is no damage.
func TestCheckRemoved(t *testing.T) {
	for _, way := range []string{"check", "store check", "check ID"} {
		t.Run(way, func(t *testing.T) {
			k := newCheckRig(t)
			text, err := k.check(way, func() {
				cfg := k.cfg
				cfg.CacheDir = t.TempDir()
				other := openSnapshots(t, storetest.Open(t, cfg))
				if err := other.Remove(t.Context(), k.list[1].ID); err != nil {
					t.Fatal(err)
				}
				k.lose() // as by maintenance
			})
			if err != nil || !strings.Contains(text, " removed\n") || strings.Contains(text, "damaged") {
				t.Errorf("got %v, and %q", err, text)
			}
		})
	}
}

// TestCheckLost: a snapshot whose header is lost, which is noticed, while it is checked is damaged, not removed, and is named once.
func TestCheckLost(t *testing.T) {
	for _, way := range []string{"check", "store check", "check ID"} {
		t.Run(way, func(t *testing.T) {
			k := newCheckRig(t)
			text, err := k.check(way, func() {
				k.lose()
				m := snapshotter.Meta{Share: "other", ShareID: "o", GatewayID: "g", Sequence: 1, Time: time.Unix(3, 0)}
				c := snapshotter.Change{Path: "/", Kind: snapshotter.Dir, Attr: snapshotter.Attr{Mode: 0o700, ModTime: m.Time}, Version: 1}
				if _, err := k.snaps.Commit(t.Context(), snapshotter.ID{}, func(yield func(snapshotter.Change, error) bool) { yield(c, nil) }, m); err != nil {
					t.Fatal(err)
				}
			})
			id, lines := k.list[1].ID.String()[:shortID], ""
			for line := range strings.Lines(text) {
				if strings.HasPrefix(line, id) {
					lines += line
				}
			}
			if !errors.Is(err, store.ErrDamaged) || strings.Count(lines, "\n") != 1 || !strings.Contains(lines, " damaged: "+unreadableText) {
				t.Errorf("got %v, and %q", err, text)
			}
		})
	}
}
