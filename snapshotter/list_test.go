package snapshotter

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// Two gateways on one store number their snapshots without knowing of each other; every one
// must have a name of its own below .snapshots, whatever else is there.
func TestViewNamesOfSeveralGateways(t *testing.T) {
	at := time.Date(2026, 11, 21, 19, 4, 29, 0, time.UTC)
	own := Lineage{GatewayID: "a", ShareID: "1"}
	tests := []struct {
		name   string
		of     Lineage
		suffix int
		want   string
	}{
		{"own", own, 0, "2026-11-21T19-04-29Z"},
		{"own, in the same second", own, 2, "2026-11-21T19-04-29Z-2"},
		{"another gateway's", Lineage{"b", "1"}, 0, "2026-11-21T19-04-29Z-07000000"},
		{"another gateway's, in the same second", Lineage{"b", "2"}, 2, "2026-11-21T19-04-29Z-07000000"},
		{"another lineage of this gateway", Lineage{"a", "2"}, 0, "2026-11-21T19-04-29Z-07000000"},
		{"foreign", Lineage{}, 0, "2026-11-21T19-04-29Z-07000000"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := Snapshot{ID: ID{7}, Time: at, Suffix: tt.suffix, GatewayID: tt.of.GatewayID, ShareID: tt.of.ShareID}
			if d := cmp.Diff(tt.want, s.ViewName(own)); d != "" {
				t.Error(d)
			}
			if s.Foreign() && s.Of(Lineage{}) {
				t.Error("a foreign snapshot is of a lineage")
			}
		})
	}
}
