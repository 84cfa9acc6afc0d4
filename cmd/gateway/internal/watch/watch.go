package watch

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/snapgate/gateway/internal/disk"
	"github.com/snapgate/gateway/snapshotter"
)

// fileName is the state's file in its directory.
const fileName = "watch.json"

const (
	stateVersion = 1
	maxState     = 64 << 20
)

// Config configures a Watcher.
type Config struct {
	Dir    string // of the state; it must exist
	Disk   disk.FS
	Logger *slog.Logger
	// Snapshots lists all snapshots.
	Snapshots func(ctx context.Context) ([]snapshotter.Snapshot, error)
	// Inspect looks at what is new of a share: a snapshot, or many when they are too many to be looked at
	// singly. An error ends the look, and the next one begins with the same snapshots. Nil for nobody.
	Inspect func(ctx context.Context, n *New) error
	// Tell tells somebody of a new snapshot. What it tells must be durable when it returns.
	Tell func(s snapshotter.Snapshot)
}

// New is what is new of a share.
type New struct {
	Share string
	// Was is the snapshot before the first that is new, nil for none.
	Was   *snapshotter.Snapshot
	Fresh []snapshotter.Snapshot // the oldest first
	// All has the snapshots of the share.
	All []snapshotter.Snapshot
	// Day is what Inspect keeps of the share.
	Day *Day
}

// Day is what is kept of a share besides its mark: see package watch's Judge.
type Day struct {
	Base    string    `json:"base,omitempty"` // the snapshot that the day began with
	Began   time.Time `json:"began,omitzero"`
	Changed int       `json:"changed,omitempty"` // files removed and overwritten since then, some more than once
	Judged  int       `json:"judged,omitempty"`  // Changed, when the day was compared as a whole last
}

// mark is how far a lineage was looked at.
type mark struct {
	Sequence uint64 `json:"sequence"`
	Day      Day    `json:"day,omitzero"`
}

// state is what the file holds.
type state struct {
	Version  int             `json:"version"`
	Lineages map[string]mark `json:"lineages"` // by the id of the share
}

// Watcher notices snapshots. Safe for concurrent use.
type Watcher struct {
	cfg    Config
	opened time.Time

	mu    sync.Mutex // held by whoever looks, also across I/O
	state state
	begun bool // the state is of this or an earlier start
}

// Open reads the state. One that is damaged is forgotten: then what there is counts as seen.
func Open(cfg Config) (*Watcher, error) {
	if cfg.Dir == "" || cfg.Logger == nil || cfg.Snapshots == nil || cfg.Tell == nil {
		return nil, errors.New("watch: the configuration is not complete")
	}
	if cfg.Disk == nil {
		cfg.Disk = disk.OS{}
	}
	w := &Watcher{cfg: cfg, opened: time.Now(), state: state{Version: stateVersion, Lineages: map[string]mark{}}}
	path := filepath.Join(cfg.Dir, fileName)
	data, err := disk.ReadFile(cfg.Disk, path, maxState)
	if errors.Is(err, fs.ErrNotExist) {
		return w, nil
	}
	if err != nil {
		return nil, fmt.Errorf("watch: %w", err)
	}
	var st state
	if err := json.Unmarshal(data, &st); err != nil || st.Version != stateVersion || st.Lineages == nil {
		cfg.Logger.Error("which snapshots were seen cannot be read and is forgotten: those that are there are taken for seen", "file", path, "err", err)
		return w, nil
	}
	w.state, w.begun = st, true
	return w, nil
}

// Look deals with what is new in the lineages, which are by their shares' names. Shares whose
// snapshots cannot be inspected do not keep others from it; their errors are joined.
func (w *Watcher) Look(ctx context.Context, lineages map[string]snapshotter.Lineage) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	list, err := w.cfg.Snapshots(ctx)
	if err != nil {
		return err
	}
	of := map[snapshotter.Lineage][]snapshotter.Snapshot{}
	for i := range list {
		if s := &list[i]; !s.Foreign() {
			line := snapshotter.Lineage{GatewayID: s.GatewayID, ShareID: s.ShareID}
			of[line] = append(of[line], *s)
		}
	}
	for _, all := range of {
		slices.SortFunc(all, func(a, b snapshotter.Snapshot) int { return cmp.Compare(a.Sequence, b.Sequence) })
	}
	if !w.begun {
		if err := w.begin(lineages, of); err != nil {
			return err
		}
	}
	var errs []error
	for _, share := range slices.Sorted(maps.Keys(lineages)) {
		if err := w.lineage(ctx, share, lineages[share].ShareID, of[lineages[share]]); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", share, err))
		}
	}
	return errors.Join(errs...)
}

// begin takes what was there when the Watcher was opened for seen. mu is held.
func (w *Watcher) begin(lineages map[string]snapshotter.Lineage, of map[snapshotter.Lineage][]snapshotter.Snapshot) error {
	for _, line := range lineages {
		m := mark{}
		for _, s := range of[line] {
			if s.Time.Before(w.opened) {
				m.Sequence = s.Sequence
			}
		}
		w.state.Lineages[line.ShareID] = m
	}
	if err := w.save(); err != nil {
		return err
	}
	w.begun = true
	return nil
}

// lineage deals with what is new in a lineage; all are its snapshots in their order. mu is held.
func (w *Watcher) lineage(ctx context.Context, share, id string, all []snapshotter.Snapshot) error {
	m := w.state.Lineages[id]
	at, _ := slices.BinarySearchFunc(all, m.Sequence+1, func(s snapshotter.Snapshot, n uint64) int { return cmp.Compare(s.Sequence, n) })
	if at == len(all) {
		return nil
	}
	if err := w.inspect(ctx, share, all, at, &m.Day); err != nil {
		return err
	}
	for _, s := range all[at:] {
		w.cfg.Tell(s)
	}
	m.Sequence = all[len(all)-1].Sequence
	w.state.Lineages[id] = m
	return w.save()
}

// maxSingly is how many new snapshots of a share are inspected one by one; those before them are
// taken as one.
const maxSingly = 32

// inspect has the snapshots from at on inspected. mu is held.
func (w *Watcher) inspect(ctx context.Context, share string, all []snapshotter.Snapshot, at int, day *Day) error {
	if w.cfg.Inspect == nil {
		return nil
	}
	for end := max(at+1, len(all)-maxSingly); at < len(all); at, end = end, end+1 {
		n := &New{Share: share, Fresh: all[at:end], All: all, Day: day}
		if at > 0 {
			n.Was = &all[at-1]
		}
		if err := w.cfg.Inspect(ctx, n); err != nil {
			return err
		}
	}
	return nil
}

func (w *Watcher) save() error {
	data, err := json.Marshal(w.state)
	if err == nil {
		err = disk.WriteFile(w.cfg.Disk, filepath.Join(w.cfg.Dir, fileName), append(data, '\n'), 0o600)
	}
	if err != nil {
		return fmt.Errorf("watch: %w", err)
	}
	return nil
}
