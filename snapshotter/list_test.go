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

// Snapshots of a share are listed newest first, whatever order they become known in; others
// do not matter.
func TestSnapshotsNewestFirst(t *testing.T) {
	s := &Snapshotter{records: map[ID]*record{}, loaded: true, looked: time.Now()}
	day := func(n int) time.Time { return time.Date(2026, 11, n, 0, 0, 0, 0, time.UTC) }
	for _, snap := range []Snapshot{
		{ID: ID{1}, Share: "web", Time: day(3)}, {ID: ID{2}, Share: "web", Time: day(1)}, {ID: ID{3}, Share: "mail", Time: day(9)},
		{ID: ID{4}, Share: "web", Time: day(2), Sequence: 1}, {ID: ID{5}, Share: "web", Time: day(2), Sequence: 2}, {ID: ID{6}, Share: "web", Time: day(4)},
	} {
		r := &record{snap: snap}
		s.records[snap.ID] = r
		s.insert(r)
		s.insert(r) // known already
	}
	for share, want := range map[string][]byte{"web": {6, 1, 5, 4, 2}, "mail": {3}, "none": nil, "": {3, 6, 1, 5, 4, 2}} {
		list, err := s.Snapshots(t.Context(), share)
		if err != nil {
			t.Fatal(err)
		}
		var got []byte
		for _, snap := range list {
			got = append(got, snap.ID[0])
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("%q (-want +got):\n%s", share, d)
		}
	}
}
