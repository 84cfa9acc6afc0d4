package snapshotter_test

import (
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/PlakarKorp/kloset/objects"
	"github.com/PlakarKorp/kloset/resources"

	"github.com/snapgate/gateway/snapshotter"
	"github.com/snapgate/gateway/store"
)

// TestIndexedStates has two gateways commit to one store in turns: what each takes its
// index to be made from is what is in the store, so it may leave out reading it again.
func TestIndexedStates(t *testing.T) {
	a := newRig(t)
	b := newRig(t, func(cfg *store.Config) {
		cfg.Location, cfg.KeepDir = a.store.Location(), filepath.Dir(strings.TrimPrefix(a.store.Location(), "fs://"))+"/keep"
	})
	for i := range 3 {
		for _, r := range []*rig{a, b} {
			id := r.commit(snapshotter.ID{}, put("/", dir(i)))
			states, err := r.store.States(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			indexed := slices.Collect(maps.Keys(r.store.Indexed()))
			order := func(a, b objects.MAC) int { return slices.Compare(a[:], b[:]) }
			slices.SortFunc(states, order)
			slices.SortFunc(indexed, order)
			if !slices.Equal(states, indexed) {
				t.Fatalf("%d states in the store, %d in the index, or others", len(states), len(indexed))
			}
			for _, other := range []*rig{a, b} {
				if err := other.Refresh(t.Context()); err != nil {
					t.Fatal(err)
				}
				for _, mac := range []objects.MAC{objects.MAC(id), objects.RandomMAC()} {
					got, want := other.store.Has(resources.RT_SNAPSHOT, mac), mac == objects.MAC(id)
					if got != want || other.store.Repository().BlobExists(resources.RT_SNAPSHOT, mac) != want {
						t.Errorf("snapshot: %v, want %v", got, want)
					}
				}
			}
		}
	}
}

// TestGrowth bounds how much a store grows by a commit of one file, by what it grows with
// kloset's Builder.
func TestGrowth(t *testing.T) {
	c, id := newBenchCommits(t, 1000, 100)
	id = c.commit(id, c.change(c.n/2), c.change(c.n-1)) // what comes once
	var builder costs
	change := c.change(c.n / 2)
	c.measure(&builder, func() snapshotter.ID { return c.rebuild(t, id, seq([]snapshotter.Change{change})) })
	for name, limit := range map[string]float64{"first": 1, "middle": 1, "last": 1.6} {
		var ours costs
		change := c.change(c.places()[name])
		id = c.measure(&ours, func() snapshotter.ID { return c.commit(id, change) })
		if ratio := ours.kib[0] / builder.kib[0]; ratio > limit {
			t.Errorf("%s: %.1f KiB, %.2f of Builder's, want at most %.1f", name, ours.kib[0], ratio, limit)
		}
	}
}
