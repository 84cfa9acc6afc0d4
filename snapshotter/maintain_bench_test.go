//go:build soak

package snapshotter_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/snapgate/gateway/snapshotter"
)

// BenchmarkMaintain maintains a share of many files and SNAPSHOTS (100) snapshots, each of which changes every
// thousandth file: the first run of all, one that finds nothing new, one after a commit, one that marks what a
// tenth of the snapshots alone have had, and one that removes it. locked-ms is how long commits have to wait at most.
func BenchmarkMaintain(b *testing.B) {
	n, snapshots := viewFiles(b), fromEnv(b, "SNAPSHOTS", 100)
	k := newKeeper(b)
	c := &benchCommits{rig: k.rig, b: b, n: n, perDir: 100, version: 90_000_000}
	id := c.commitSeq(b, snapshotter.ID{}, benchTree(n, c.perDir))
	var ids []snapshotter.ID
	for range snapshots {
		var changes []snapshotter.Change
		for place := 0; place < n; place += 1000 {
			changes = append(changes, c.change(place))
		}
		id = c.commit(id, changes...)
		ids = append(ids, id)
	}
	run := func(name string, fits func(snapshotter.MaintainReport) bool) {
		b.Run(name, func(b *testing.B) {
			resetPeak(b)
			var rep snapshotter.MaintainReport
			for b.Loop() {
				rep = k.maintain()
			}
			if !fits(rep) {
				b.Errorf("%+v", rep)
			}
			b.ReportMetric(float64(rep.Locked)/float64(time.Millisecond), "locked-ms")
			b.ReportMetric(float64(rep.Before.Packfiles), "packfiles")
			b.ReportMetric(float64(rep.Before.Bytes)/(1<<20), "store-MiB")
			b.ReportMetric(float64(rss(b, "VmHWM")), "peak-MiB")
		})
	}
	idle := func(rep snapshotter.MaintainReport) bool {
		return rep.Marked.Packfiles == 0 && rep.Removed.Packfiles == 0
	}
	run(fmt.Sprintf("first of %d files", n), idle)
	run("nothing new", idle)
	c.commit(id, c.change(n/2))
	run("a snapshot more", idle)
	k.drop(ids[snapshots/2 : snapshots/2+snapshots/10]...)
	run("snapshots removed", idle) // of no use for not long enough
	k.later()
	run("marks", func(rep snapshotter.MaintainReport) bool { return rep.Marked.Packfiles > 0 })
	k.later()
	run("removes", func(rep snapshotter.MaintainReport) bool { return rep.Removed.Packfiles > 0 })
}
