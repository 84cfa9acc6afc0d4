//go:build crash

package crash

import (
	"slices"
	"testing"
	"time"

	"github.com/snapgate/gateway/internal/proctest"
)

// stats count what happened in a run.
type stats struct {
	randomKills   int
	recoveryKills int
	hits          map[string]int // by failpoint
	tried         map[string]int // rounds, by failpoint
	writeInFlight int            // kills while a client was sending file contents
	acked         int
	versions      int             // whole files or ranges acknowledged
	bytes         int64           // of these
	starts        []time.Duration // after kills
}

func newStats() stats { return stats{hits: make(map[string]int), tried: make(map[string]int)} }

func (s *stats) kills() int {
	n := s.randomKills
	for _, hits := range s.hits {
		n += hits
	}
	return n
}

// account records how the gateway ended.
func (s *stats) account(point string, died bool) {
	if died {
		s.hits[point]++
	} else {
		s.randomKills++
	}
}

func (s *stats) log(h History) {
	for _, op := range h.Acked {
		if op.Kind.Writes() {
			s.versions++
			s.bytes += op.Size
		}
	}
}

// missed lists the failpoints that were not hit.
func (r *run) missed() []string {
	var out []string
	for _, p := range r.points {
		if r.hits[p] == 0 {
			out = append(out, p)
		}
	}
	return out
}

func (s *stats) report(t *testing.T, points []string, snapshots int) {
	t.Helper()
	t.Logf("%d kills under load: %d at random moments, %d at failpoints; %d more during recovery",
		s.kills(), s.randomKills, s.kills()-s.randomKills, s.recoveryKills)
	t.Logf("a write was in flight at %d of them", s.writeInFlight)
	t.Logf("%d operations acknowledged, %d of them uploads with %d MiB; %d snapshots checked", s.acked, s.versions, s.bytes>>20, snapshots)
	for _, p := range points {
		t.Logf("failpoint %-28s hit %d times in %d tries", p, s.hits[p], s.tried[p])
	}
	if len(s.starts) == 0 {
		return
	}
	slices.Sort(s.starts)
	median, slowest := s.starts[len(s.starts)/2], s.starts[len(s.starts)-1]
	t.Logf("starts after kills: median %v, slowest %v", median.Round(time.Millisecond), slowest.Round(time.Millisecond))
	if median > proctest.ReadyLimit {
		t.Errorf("the median start takes %v, more than %v", median, proctest.ReadyLimit)
	}
}
