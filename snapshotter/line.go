package snapshotter

import (
	"cmp"
	"slices"
	"time"
)

// Line lists the snapshots of a list that one stands in a line with, the oldest first, up to it: those of
// its lineage, and of lineages that the share had before; or of a foreign one those of the same
// source.
func Line(list []Snapshot, s Snapshot) []Snapshot {
	began := map[Lineage]time.Time{}
	var line []Snapshot
	of := func(s Snapshot) Lineage {
		return Lineage{GatewayID: s.GatewayID, ShareID: s.ShareID}
	}
	for _, o := range list {
		if o.Share != s.Share || o.Foreign() != s.Foreign() || o.Foreign() && o.Source != s.Source {
			continue
		}
		line = append(line, o)
		if t, ok := began[of(o)]; !ok || o.Time.Before(t) {
			began[of(o)] = o.Time
		}
	}
	slices.SortStableFunc(line, func(a, b Snapshot) int {
		if of(a) != of(b) {
			return cmp.Or(began[of(a)].Compare(began[of(b)]), cmp.Compare(a.ShareID, b.ShareID), cmp.Compare(a.GatewayID, b.GatewayID))
		}
		return cmp.Or(cmp.Compare(a.Sequence, b.Sequence), a.Time.Compare(b.Time), slices.Compare(a.ID[:], b.ID[:]))
	})
	for i := range line {
		if line[i].ID == s.ID {
			return line[:i+1]
		}
	}
	return line
}
