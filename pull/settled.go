package pull

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/snapgate/gateway/snapshotter"
)

const (
	// clockAllowance is how far a server's clock may be behind ours: what was written less
	// than this before a run began is read again by the next one.
	clockAllowance = 2 * time.Minute
	// maxUnsettled is how many paths that stay may have a time of their own: as many as there are problems
	// with one, since it costs reading all files to have none.
	maxUnsettled = maxProblems
	// stateName is the file of a source's directory that tells of the last run.
	stateName = "state.json"
)

// settled says up to when what a base has can be trusted by size and time: a file that was
// written again within the tick of the server's clock in which it was read looks the same.
// For paths that a later run could not look at, and what is below them, it is an earlier time.
type settled struct {
	at    time.Time
	paths map[string]time.Time
}

// of is the time for a path.
func (s settled) of(path string) time.Time {
	at, _ := s.look(path)
	return at
}

// look is of; own says that the path, or one above it, is among s.paths.
func (s settled) look(path string) (at time.Time, own bool) {
	if len(s.paths) == 0 {
		return s.at, false
	}
	at = s.at
	for p := path; ; {
		if t, ok := s.paths[p]; ok {
			own = true
			if t.Before(at) {
				at = t
			}
		}
		if p == "/" {
			return at, own
		}
		p = p[:max(strings.LastIndexByte(p, '/'), 1)]
	}
}

// after is what holds after a run that began at a time, on this machine's clock. A line of a listing that was not
// understood says nothing of those that were: what stays because it may be meant has not been looked at. What else was
// not understood, as the facts of a file, is of what it was noted for.
func (s settled) after(began time.Time, report *Report) settled {
	next := settled{at: began.Add(-clockAllowance), paths: map[string]time.Time{}}
	list, omitted := report.Problems()
	kept, all := report.keptPaths()
	for _, p := range list {
		switch {
		case p.Kind == KindSpecial, p.line && p.Kind == KindName: // no snapshot has it
		case p.line && all:
		default:
			next.paths[p.Path] = s.of(p.Path)
		}
	}
	if omitted > 0 {
		return s
	}
	for _, path := range kept {
		if _, own := next.look(path); !own {
			next.paths[path] = s.of(path)
		}
	}
	for path := range s.paths { // what is below one that was not looked at was not, either
		if at, own := next.look(path); own && s.of(path).Before(at) {
			next.paths[path] = s.of(path)
		}
	}
	return next
}

// state is what a run leaves for the next one. It saves work: without it, the snapshots tell
// enough to be safe.
type state struct {
	Snapshot  string               `json:"snapshot"`            // the newest of the lineage after the run
	Settled   time.Time            `json:"settled"`             // zero: nothing is
	Unsettled map[string]time.Time `json:"unsettled,omitempty"` // paths in hexadecimal digits: they are bytes
	Problems  string               `json:"problems"`            // a hash of them, "" for none
	Location  string               `json:"location,omitempty"`  // that was read last; "" when the snapshot's was
}

// loadState reads what the last run has left; the zero state when that is not known, or not
// about this base.
func loadState(dir string, base snapshotter.ID) (state, bool) {
	data, err := os.ReadFile(filepath.Join(dir, stateName))
	if err != nil {
		return state{}, false
	}
	var s state
	if json.Unmarshal(data, &s) != nil || s.Snapshot != base.String() {
		return state{}, false
	}
	return s, true
}

// save replaces the file. It need not survive a loss of power.
func (s state) save(dir string) error {
	data, err := json.Marshal(s)
	if err != nil {
		return err
	}
	name := filepath.Join(dir, stateName)
	if err := os.WriteFile(name+".new", data, 0o600); err != nil {
		return fmt.Errorf("state of the source: %w", err)
	}
	if err := os.Rename(name+".new", name); err != nil {
		return fmt.Errorf("state of the source: %w", err)
	}
	return nil
}

func (s state) settled() settled {
	out := settled{at: s.Settled, paths: map[string]time.Time{}}
	for p, t := range s.Unsettled {
		if path, err := hex.DecodeString(p); err == nil {
			out.paths[string(path)] = t
		} else {
			out.at = time.Time{} // nothing is settled
		}
	}
	return out
}

func newState(base snapshotter.ID, s settled, problems string) state {
	out := state{Snapshot: base.String(), Settled: s.at, Problems: problems}
	if len(s.paths) > 0 {
		out.Unsettled = map[string]time.Time{}
		for p, t := range s.paths {
			out.Unsettled[hex.EncodeToString([]byte(p))] = t
		}
	}
	return out
}

// settledBy derives from snapshots what the last run would have left: the base was read after
// its time, unless there were errors; then some of it is of a run before, which tells nothing when it
// was of another location.
func settledBy(list []snapshotter.Snapshot, base snapshotter.Snapshot) settled {
	byID := make(map[snapshotter.ID]snapshotter.Snapshot, len(list))
	for _, s := range list { // also by what they were made in place of
		for _, id := range s.Replaces {
			byID[id] = s
		}
	}
	for _, s := range list {
		byID[s.ID] = s
	}
	for s := base; ; {
		if s.Errors == 0 && !slices.Contains(s.Tags, PartialTag) {
			return settled{at: s.Time.Add(-clockAllowance)}
		}
		parent, ok := byID[s.Parent]
		if !ok || parent.Sequence >= s.Sequence || locationOf(parent) != locationOf(base) {
			return settled{} // not known: nothing is settled
		}
		s = parent
	}
}

// locationOf is where a snapshot was pulled from, "" when it does not tell.
func locationOf(s snapshotter.Snapshot) string {
	for _, tag := range s.Tags {
		if location, ok := strings.CutPrefix(tag, snapshotter.LocationTag); ok {
			return location
		}
	}
	return ""
}

// hashProblems tells problems of two runs apart, "" for none.
func hashProblems(report *Report) string {
	list, omitted := report.Problems()
	seen := map[string]struct{}{}
	for _, p := range list {
		if p.Kind != KindSpecial {
			seen[p.Path+"\x00"+p.Kind.String()] = struct{}{}
		}
	}
	if len(seen) == 0 {
		return ""
	}
	h := sha256.New()
	var size [8]byte
	for _, p := range slices.Sorted(maps.Keys(seen)) {
		binary.BigEndian.PutUint64(size[:], uint64(len(p)))
		h.Write(size[:])
		h.Write([]byte(p))
	}
	binary.BigEndian.PutUint64(size[:], uint64(omitted))
	h.Write(size[:])
	return hex.EncodeToString(h.Sum(nil))
}

// newest finds the newest snapshot of a lineage, the zero one when there is none, and all of
// the share.
func newest(ctx context.Context, snaps *snapshotter.Snapshotter, share string, lineage snapshotter.Lineage) (snapshotter.Snapshot, []snapshotter.Snapshot, error) {
	if err := snaps.Refresh(ctx); err != nil {
		return snapshotter.Snapshot{}, nil, err
	}
	list, err := snaps.Snapshots(ctx, share)
	if err != nil {
		return snapshotter.Snapshot{}, nil, err
	}
	var newest snapshotter.Snapshot
	for _, s := range list {
		if s.Of(lineage) && s.Sequence > newest.Sequence {
			newest = s
		}
	}
	return newest, list, nil
}
