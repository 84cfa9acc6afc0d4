//go:build soak

package snapshotter_test

import (
	"os"
	"testing"
	"time"

	"github.com/snapgate/gateway/snapshotter"
)

// BenchmarkScrub reads a share of many files back, which has more than two blobs a file; then what a
// run a day later reads of it, what a run costs that finds nothing to do, and the names of what damage
// in the middle of a packfile concerns.
func BenchmarkScrub(b *testing.B) {
	n := viewFiles(b)
	k := newScrubRig(b)
	c := &benchCommits{rig: k.rig, perDir: 100}
	c.commitSeq(b, snapshotter.ID{}, benchTree(n, c.perDir))
	measure := func(name string, f func(b *testing.B) snapshotter.ScrubReport) {
		b.Run(name, func(b *testing.B) {
			resetPeak(b)
			var rep snapshotter.ScrubReport
			for b.Loop() {
				rep = f(b)
			}
			b.ReportMetric(float64(rep.Blobs), "blobs")
			b.ReportMetric(float64(rep.Bytes)/(1<<20), "read-MiB")
			b.ReportMetric(float64(rss(b, "VmHWM")), "peak-MiB")
		})
	}
	scrub := func(scope snapshotter.ScrubScope, damages int) func(b *testing.B) snapshotter.ScrubReport {
		return func(b *testing.B) snapshotter.ScrubReport {
			rep := k.scrub(scope)
			if len(rep.State.Damage) != damages {
				b.Fatalf("%d files are damaged, want %d: %+v", len(rep.State.Damage), damages, rep.State.Damage)
			}
			return rep
		}
	}
	measure("all", scrub(snapshotter.ScrubAll, 0))
	measure("nothing new", scrub(snapshotter.ScrubNew, 0))
	measure("a day", func(b *testing.B) snapshotter.ScrubReport {
		k.now = k.now.Add(24 * time.Hour)
		return scrub(snapshotter.ScrubDue, 0)(b)
	})
	large := ""
	for _, path := range k.files("packfiles") {
		st, err := os.Stat(path)
		if err != nil {
			b.Fatal(err)
		}
		if old, err := os.Stat(large); err != nil || st.Size() > old.Size() {
			large = path
		}
	}
	st, err := os.Stat(large)
	if err != nil {
		b.Fatal(err)
	}
	change(b, large, flip(int(st.Size()/2)*8))
	measure("damage", scrub(snapshotter.ScrubAll, 1))
}
