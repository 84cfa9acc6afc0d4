package snapshotter

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// Two gateways on one store number their snapshots without knowing of each other; every one
// must have a name of its own below .snapshots.
func TestViewNamesOfSeveralGateways(t *testing.T) {
	at := time.Date(2026, 11, 21, 19, 4, 29, 0, time.UTC)
	snap := func(id byte, gateway, share string, ms, suffix int) Snapshot {
		return Snapshot{
			ID: ID{id}, GatewayID: gateway, Share: share, Suffix: suffix,
			Time: at.Add(time.Duration(ms) * time.Millisecond),
		}
	}
	list := []Snapshot{ // newest first
		snap(7, "b", "s", 1500, 0),
		snap(6, "b", "s", 900, 1),
		snap(5, "b", "s", 800, 0),
		snap(4, "", "s", 700, 0),
		snap(3, "b", "other", 600, 0),
		snap(2, "a", "s", 500, 1),
		snap(1, "a", "s", 0, 0),
	}
	markAmbiguous(list)
	var got []string
	for _, s := range list {
		got = append(got, s.Share+" "+s.ViewName())
	}
	want := []string{
		"s 2026-11-21T19-04-30Z",
		"s 2026-11-21T19-04-29Z-06000000",
		"s 2026-11-21T19-04-29Z-05000000",
		"s 2026-11-21T19-04-29Z-04000000",
		"other 2026-11-21T19-04-29Z",
		"s 2026-11-21T19-04-29Z-1",
		"s 2026-11-21T19-04-29Z",
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}
