package jobs

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"
	"time"

	"github.com/snapgate/gateway/internal/disk"
)

// Result is how the last run of a job ended.
type Result string

// The results.
const (
	Never       Result = ""            // it has not run yet
	Running     Result = "running"     // it runs
	OK          Result = "ok"          // everything was done
	Partial     Result = "partial"     // what could be done was done; the rest is named
	Failed      Result = "failed"      // nothing came of it
	Stopped     Result = "stopped"     // it was told to stop
	Interrupted Result = "interrupted" // the process ended while it ran
)

// State is what is kept of a job between runs and starts. Times are of the wall clock; those
// that have not come are zero.
type State struct {
	Version  int       `json:"version"`
	Schedule string    `json:"schedule"`       // that Due is a time of
	Due      time.Time `json:"due"`            // the first time that the job has not had
	Retry    time.Time `json:"retry,omitzero"` // when a run is repeated, if that is before Due
	Start    time.Time `json:"start,omitzero"` // of the last run
	End      time.Time `json:"end,omitzero"`   // of the last run, zero while it runs
	Result   Result    `json:"result"`
	Error    string    `json:"error,omitempty"`
	Hint     string    `json:"hint,omitempty"`
	Snapshot string    `json:"snapshot,omitempty"` // that a run made or found last
	Summary  string    `json:"summary,omitempty"`
	Success  time.Time `json:"success,omitzero"` // end of the last run with OK or Partial
	Failures int       `json:"failures"`         // in a row
}

// stateVersion is State.Version.
const stateVersion = 1

// maxState bounds a state's file, and maxText a text in it.
const (
	maxState = 64 << 10
	maxText  = 4 << 10
)

// errNoState means that a job has no state yet.
var errNoState = errors.New("the job has no state yet")

func statePath(dir, name string) string { return filepath.Join(dir, name+".json") }

// ReadState reads the state of a job from the directory of a scheduler, which may be in use. A job
// without one has the zero State.
func ReadState(fsys disk.FS, dir, name string) (State, error) {
	s, err := readState(fsys, dir, name)
	if errors.Is(err, errNoState) {
		return State{}, nil
	}
	return s, err
}

func readState(fsys disk.FS, dir, name string) (State, error) {
	path := statePath(dir, name)
	data, err := disk.ReadFile(fsys, path, maxState)
	if errors.Is(err, fs.ErrNotExist) {
		return State{}, errNoState
	}
	if err != nil {
		return State{}, err
	}
	var s State
	if err := json.Unmarshal(data, &s); err != nil {
		return State{}, fmt.Errorf("%s: %w", path, err)
	}
	if s.Version != stateVersion || s.Due.IsZero() {
		return State{}, fmt.Errorf("%s: not a state of version %d", path, stateVersion)
	}
	return s, nil
}

func writeState(fsys disk.FS, dir, name string, s *State) error {
	data, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return err
	}
	return disk.WriteFile(fsys, statePath(dir, name), append(data, '\n'), 0o600)
}

// shortened is a text that fits into a state.
func shortened(s string) string {
	s = strings.ToValidUTF8(s, "\uFFFD")
	if len(s) > maxText {
		s = strings.ToValidUTF8(s[:maxText], "") + "…"
	}
	return s
}
