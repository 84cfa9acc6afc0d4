package main

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/snapgate/gateway/cmd/gateway/internal/config"
	"github.com/snapgate/gateway/internal/disk"
	"github.com/snapgate/gateway/internal/retention"
	"github.com/snapgate/gateway/snapshotter"
	"github.com/snapgate/gateway/store/storetest"
)

// TestDecideWhose: a gateway decides about what it has made itself, share by share and line by line,
// and about nothing else.
func TestDecideWhose(t *testing.T) {
	now := time.Date(2026, 11, 26, 12, 0, 0, 0, time.UTC)
	var list []snapshotter.Snapshot
	add := func(share, gateway, line string) snapshotter.ID {
		n := len(list) + 1
		id := snapshotter.ID{byte(n)}
		list = append(list, snapshotter.Snapshot{
			ID: id, Share: share, GatewayID: gateway, ShareID: line, Sequence: uint64(n), Time: now.Add(time.Duration(n-100) * time.Hour),
		})
		return id
	}
	add("main", "", "")
	add("main", "", "")
	add("main", "other", "x")
	add("main", "other", "x")
	add("gone", "own", "g")
	add("gone", "own", "g")
	add("main", "own", "before") // of a share that was made anew
	add("main", "own", "before")
	pinned := add("main", "own", "now")
	needed := add("main", "own", "now")
	add("main", "own", "now")
	add("main", "own", "now")
	add("pair", "own", "p")
	add("pair", "own", "p")
	damaged := add("pair", "own", "p")
	add("pair", "own", "p") // in its place
	list[15].Sequence, list[15].Time, list[15].Replaces = list[14].Sequence, list[14].Time, []snapshotter.ID{{99}, damaged}
	add("pair", "own", "p")

	k := &keeper{
		gatewayID: "own", disk: disk.OS{}, log: slog.New(slog.DiscardHandler), evidence: &retention.Evidence{},
		needed: func() map[snapshotter.ID]struct{} { return map[snapshotter.ID]struct{}{needed: {}} },
	}
	k.policies.Store(&config.Retention{Of: map[string]retention.Policy{"main": {Last: 1}, "pair": {Last: 3}}})
	k.evidence.Start(retention.Reading{Wall: now, Boot: "b"}, k.facts(k.own(list)))
	got := map[byte]string{}
	for _, v := range k.decide(list, map[snapshotter.ID]time.Time{pinned: now}) {
		got[v.snap.ID[0]] = v.reasons[0]
		if !v.keep {
			got[v.snap.ID[0]] = "removed"
		}
	}
	want := map[byte]string{
		1: "not made by a gateway", 2: "not made by a gateway", 3: "made by another gateway", 4: "made by another gateway",
		5: "everything is kept", 6: "newest of its share", 7: "removed", 8: "newest of its share",
		9: "pinned", 10: "changes that wait need it", 11: "removed", 12: "newest of its share",
		13: "removed", 14: "one of the last 3", 15: "one was made in its place", 16: "made in place of one that is still there", 17: "newest of its share",
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("what becomes of them (-want +got):\n%s", d)
	}
}

// TestPruneNeededMeanwhile: what comes to be needed after it was decided about stays, and the rest goes all the same.
func TestPruneNeededMeanwhile(t *testing.T) {
	snaps, err := snapshotter.New(t.Context(), snapshotter.Config{Store: storetest.New(t, storetest.Plaintext)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = snaps.Close() })
	now := time.Date(2026, 11, 26, 12, 0, 0, 0, time.UTC)
	var ids []snapshotter.ID
	for n := range uint64(4) {
		root := func(yield func(snapshotter.Change, error) bool) {
			yield(snapshotter.Change{Path: "/", Kind: snapshotter.Dir, Version: n + 1}, nil)
		}
		meta := snapshotter.Meta{Share: "main", ShareID: "s", GatewayID: "own", Sequence: n + 1, Time: now.Add(time.Duration(n) * time.Minute)}
		id, err := snaps.Commit(t.Context(), snapshotter.ID{}, root, meta)
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, id)
	}
	asked := 0
	k := &keeper{
		dir: t.TempDir(), disk: disk.OS{}, snapshots: snaps, gatewayID: "own", log: slog.New(slog.DiscardHandler),
		clocks: func() retention.Reading { return retention.Reading{Wall: now.Add(time.Hour), Boot: "b", Up: time.Hour} },
		needed: func() map[snapshotter.ID]struct{} {
			if asked++; asked == 1 {
				return nil
			}
			return map[snapshotter.ID]struct{}{ids[1]: {}}
		},
	}
	k.policies.Store(&config.Retention{Of: map[string]retention.Policy{"main": {Last: 1}}})
	r, err := k.prune(t.Context(), pruneOptions{})
	if err != nil || r.removed != 2 {
		t.Fatalf("removed: %d, %v", r.removed, err)
	}
	list, err := snaps.Snapshots(t.Context(), "main")
	if err != nil || len(list) != 2 || list[0].ID != ids[3] || list[1].ID != ids[1] {
		t.Errorf("left: %v, %v", list, err)
	}
}

// TestTurns: one at a time works on what retention knows of a store, and whoever waits for that can give up;
// another store is another matter.
func TestTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var turns turns
		take := func(name string) (done func()) {
			t.Helper()
			done, err := turns.take(t.Context(), name)
			if err != nil {
				t.Fatal(err)
			}
			return done
		}
		done := take("a")
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		waited := make(chan error, 1)
		go func() {
			_, err := turns.take(ctx, "a")
			waited <- err
		}()
		synctest.Wait()
		select {
		case err := <-waited:
			t.Fatalf("another does not wait: %v", err)
		default:
		}
		take("b")()
		cancel()
		if err := <-waited; !errors.Is(err, context.Canceled) {
			t.Errorf("whoever gives up gets %v", err)
		}
		done()
		take("a")()
	})
}

// TestPinNoteOfReplaced: why a snapshot is pinned is known also of the one that has got its pin.
func TestPinNoteOfReplaced(t *testing.T) {
	old, made := snapshotter.Snapshot{ID: snapshotter.ID{1}}, snapshotter.Snapshot{ID: snapshotter.ID{2}, Replaces: []snapshotter.ID{{9}, {1}}}
	notes := pinNotes{old.ID.String(): "audit"}
	if a, b := notes.of(&old), notes.of(&made); a != "audit" || b != "audit" {
		t.Errorf("noted are %q and %q", a, b)
	}
	if notes.drop(&made); len(notes) != 0 {
		t.Errorf("left are %v", notes)
	}
}

// TestMachineClocks: what passes is what passes, and one boot has one name.
func TestMachineClocks(t *testing.T) {
	read := machineClocks()
	a := read()
	b := read()
	if a.Boot == "" || a.Boot != b.Boot || b.Up < a.Up || a.Up <= 0 || a.Wall.IsZero() {
		t.Errorf("%+v, then %+v", a, b)
	}
	if other := machineClocks()(); bootID() != "" && other.Boot != a.Boot {
		t.Errorf("another process has boot %q, want %q", other.Boot, a.Boot)
	}
}
