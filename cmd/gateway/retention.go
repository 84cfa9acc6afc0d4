package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/snapgate/gateway/cmd/gateway/internal/config"
	"github.com/snapgate/gateway/cmd/gateway/internal/control"
	"github.com/snapgate/gateway/internal/alarm"
	"github.com/snapgate/gateway/internal/audit"
	"github.com/snapgate/gateway/internal/disk"
	"github.com/snapgate/gateway/internal/retention"
	"github.com/snapgate/gateway/snapshotter"
)

// The files of retention, below data_dir/retention.
const (
	retentionDir = "retention"
	clockName    = "clock.json"
	sightsName   = "sights.json"
	pinsName     = "pins.json"
)

// maxRetentionFile bounds them: some 300 bytes a snapshot.
const maxRetentionFile = 256 << 20

// keeper knows what retention keeps of this gateway's snapshots. Safe for concurrent use.
type keeper struct {
	dir       string
	disk      disk.FS
	clocks    func() retention.Reading
	served    *keeper // of another store than the one that is served: that one's, whose time is taken over
	snapshots *snapshotter.Snapshotter
	gatewayID string
	lineage   func(share string) snapshotter.Lineage
	needed    func() map[snapshotter.ID]struct{} // by what is not committed; nil for nothing
	readOnly  bool                               // nothing is written
	store     string                             // its name, of another store than the one that is served
	policies  atomic.Pointer[config.Retention]
	alarms    *alarm.Board // nil when readOnly
	events    *events      // the same
	log       *slog.Logger

	// alarming is held by whoever raises or ends an alarm that pins, also across I/O, until what it pins is pinned or
	// unpinned: nobody would take a pin away that comes after the acknowledgement. Before mu.
	alarming sync.Mutex
	mu       sync.Mutex          // held by whoever observes or prunes, also across I/O; before that of served
	evidence *retention.Evidence // nil before it was read
}

// pruneOptions say what to prune.
type pruneOptions struct {
	shares  []string // none for all
	by      string   // bySchedule, byOperator or byCommand
	dryRun  bool
	confirm bool // the wall clock is right
}

// verdict is what becomes of a snapshot.
type verdict struct {
	snap    snapshotter.Snapshot
	keep    bool
	reasons []string
}

// observe takes over what time has passed, and which snapshots are there.
func (k *keeper) observe(ctx context.Context) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	list, err := k.snapshots.AllSnapshots(ctx, "")
	if err != nil {
		return err
	}
	return k.look(ctx, k.facts(k.own(list)), false)
}

// observed is the time by what has passed until now.
func (k *keeper) observed(ctx context.Context) (*retention.Clock, error) {
	if err := k.observe(ctx); err != nil {
		return nil, err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	c := k.evidence.Clock
	return &c, nil
}

// own are the snapshots that this gateway has made.
func (k *keeper) own(list []snapshotter.Snapshot) []snapshotter.Snapshot {
	var own []snapshotter.Snapshot
	for _, s := range list {
		if s.GatewayID == k.gatewayID && !s.Foreign() {
			own = append(own, s)
		}
	}
	return own
}

// facts are what retention looks at.
func (k *keeper) facts(list []snapshotter.Snapshot) []retention.Snapshot {
	out := make([]retention.Snapshot, len(list))
	for i, s := range list {
		out[i] = retention.Snapshot{ID: s.ID.String(), Sequence: s.Sequence, Time: s.Time}
		for _, id := range s.Replaces {
			out[i].Replaces = append(out[i].Replaces, id.String())
		}
	}
	return out
}

// look brings the evidence up to date and saves it; k.mu is held.
func (k *keeper) look(ctx context.Context, snaps []retention.Snapshot, confirm bool) error {
	var changed bool
	if k.evidence == nil {
		e, err := k.read()
		if err != nil {
			return err
		}
		k.evidence = e
	}
	switch {
	case k.served != nil:
		now, err := k.served.observed(ctx)
		if err != nil {
			return fmt.Errorf("the time that retention goes by: %w", err)
		}
		changed = k.evidence.Follow(now, snaps)
	case k.evidence.Started():
		changed = k.evidence.Observe(k.clocks())
	default:
		k.evidence.Start(k.clocks(), snaps)
		changed = true
	}
	if confirm {
		changed = k.evidence.Confirm() || changed
	}
	changed = k.evidence.Look(snaps) || changed
	if k.readOnly {
		return nil
	}
	return k.save(changed)
}

// read reads the evidence; one that was never started when there is none.
func (k *keeper) read() (*retention.Evidence, error) {
	var e retention.Evidence
	for name, into := range map[string]any{clockName: &e.Clock, sightsName: &e.Sights} {
		err := k.readFile(name, into)
		if errors.Is(err, fs.ErrNotExist) {
			continue // sights without a clock are not used; without sights, all is seen now
		}
		if err != nil {
			return nil, &hintedError{
				err:  fmt.Errorf("retention: %w", err),
				hint: "nothing is removed before it can be read; if it is damaged, remove it: locks then begin anew",
			}
		}
	}
	return &e, nil
}

func (k *keeper) readFile(name string, into any) error {
	path := filepath.Join(k.dir, name)
	data, err := disk.ReadFile(k.disk, path, maxRetentionFile)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(data, into); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}

// save writes the evidence, the sights only if they have changed: those first, as a clock that is
// behind them makes locks longer, never shorter.
func (k *keeper) save(sights bool) error {
	if err := disk.MkdirDurable(k.disk, k.dir, 0o700); err != nil {
		return fmt.Errorf("retention: %w", err)
	}
	if sights {
		if err := k.writeFile(sightsName, k.evidence.Sights); err != nil {
			return err
		}
	}
	return k.writeFile(clockName, k.evidence.Clock)
}

func (k *keeper) writeFile(name string, what any) error {
	data, err := json.Marshal(what)
	if err == nil {
		err = disk.WriteFile(k.disk, filepath.Join(k.dir, name), append(data, '\n'), 0o600)
	}
	if err != nil {
		return fmt.Errorf("retention: %w", err)
	}
	return nil
}

// pruned is what came of pruning.
type pruned struct {
	verdicts []verdict
	removed  int
	kept     int
	ahead    time.Duration // of the wall clock
	now      time.Time     // that was decided by
}

// summary says it in one line.
func (r *pruned) summary() string { return fmt.Sprintf("%d removed, %d kept", r.removed, r.kept) }

// pruneTries is how often pruning decides anew because somebody has pinned, removed or come to need something
// meanwhile.
const pruneTries = 3

// prune decides about all snapshots, removes those that nothing keeps, and notes that.
func (k *keeper) prune(ctx context.Context, o pruneOptions) (pruned, error) {
	r, err := k.pruneTried(ctx, o)
	if o.dryRun || k.events == nil {
		return r, err
	}
	for i := range r.verdicts {
		if v := &r.verdicts[i]; err == nil && !v.keep {
			k.events.note(audit.Event{
				Event: "snapshot_removed", Result: audit.OK, Share: v.snap.Share, Snapshot: v.snap.ID.String(), Reason: o.by,
				Detail: k.ofStore(strings.Join(v.reasons, "; ")),
			})
		}
	}
	detail := r.summary()
	if len(o.shares) > 0 {
		detail += " of " + strings.Join(o.shares, " ")
	}
	if o.confirm {
		detail += "; the clock was confirmed"
	}
	k.events.ofItself("prune", o.by, k.ofStore(detail), err)
	return r, err
}

// ofStore says before a text of which store it is, unless it is of the one that is served.
func (k *keeper) ofStore(text string) string {
	if k.store == "" {
		return text
	}
	return k.store + ": " + text
}

func (k *keeper) pruneTried(ctx context.Context, o pruneOptions) (pruned, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for try := 1; ; try++ {
		r, err := k.pruneOnce(ctx, o)
		if try < pruneTries && (errors.Is(err, snapshotter.ErrPinned) || errors.Is(err, snapshotter.ErrNewest) || errors.Is(err, snapshotter.ErrNeeded)) {
			continue
		}
		return r, err
	}
}

func (k *keeper) pruneOnce(ctx context.Context, o pruneOptions) (pruned, error) {
	pins, err := k.snapshots.Pins(ctx) // as it is in the store now
	if err != nil {
		return pruned{}, err
	}
	list, err := k.snapshots.AllSnapshots(ctx, "")
	if err != nil {
		return pruned{}, err
	}
	if err := k.look(ctx, k.facts(k.own(list)), o.confirm && !o.dryRun); err != nil {
		return pruned{}, err
	}
	r := pruned{now: k.evidence.Now(), ahead: k.evidence.Ahead()}
	var gone []snapshotter.ID
	for _, v := range k.decide(list, pins) {
		if len(o.shares) > 0 && !slices.Contains(o.shares, v.snap.Share) {
			continue
		}
		r.verdicts = append(r.verdicts, v)
		if v.keep {
			r.kept++
			continue
		}
		r.removed++
		gone = append(gone, v.snap.ID)
	}
	if o.dryRun || len(gone) == 0 {
		return r, nil
	}
	if err := k.snapshots.RemoveUnneeded(ctx, k.needed, gone...); err != nil {
		return pruned{}, err
	}
	for _, v := range r.verdicts {
		if !v.keep {
			k.log.Info("snapshot removed", "share", v.snap.Share, "snapshot", v.snap.ID.String(), "time", v.snap.Time, "why", v.reasons[0])
		}
	}
	return r, nil
}

// decide decides about all snapshots, newest first in each share.
func (k *keeper) decide(list []snapshotter.Snapshot, pins map[snapshotter.ID]time.Time) []verdict {
	lines := map[snapshotter.Lineage][]snapshotter.Snapshot{}
	// A snapshot and one that was made in its place count once, and both stay until a repair leaves one.
	there, replaced := map[snapshotter.ID]bool{}, map[snapshotter.ID]bool{}
	for i := range list {
		there[list[i].ID] = true
		for _, id := range list[i].Replaces {
			replaced[id] = true
		}
	}
	var out []verdict
	for _, s := range list {
		switch {
		case s.Foreign():
			out = append(out, verdict{s, true, []string{"not made by a gateway"}})
		case s.GatewayID != k.gatewayID:
			// Its policy is the other one's, and so is what still refers to it.
			out = append(out, verdict{s, true, []string{"made by another gateway"}})
		case replaced[s.ID]:
			out = append(out, verdict{s, true, []string{"one was made in its place"}})
		default:
			line := snapshotter.Lineage{GatewayID: s.GatewayID, ShareID: s.ShareID}
			lines[line] = append(lines[line], s)
		}
	}
	needed := map[snapshotter.ID]struct{}{}
	if k.needed != nil {
		needed = k.needed()
	}
	for _, line := range lines {
		facts := k.facts(line)
		for i := range facts {
			s := &line[i]
			_, facts[i].Pinned = pins[s.ID]
			for _, id := range s.IDs() {
				if _, ok := needed[id]; ok {
					facts[i].Hold = "changes that wait need it"
				}
			}
			if slices.ContainsFunc(s.Replaces, func(id snapshotter.ID) bool { return there[id] }) {
				facts[i].Hold = "made in place of one that is still there"
			}
			facts[i].Sight = k.evidence.Sight(facts[i].ID)
		}
		// All of a line have one share, but for one that was renamed.
		byShare := map[string][]retention.Decision{}
		for i := range line {
			share := line[i].Share
			if byShare[share] == nil {
				byShare[share] = retention.Decide(facts, k.evidence.Now(), k.policies.Load().Of[share])
			}
			d := byShare[share][i]
			out = append(out, verdict{line[i], d.Keep, d.Reasons})
		}
	}
	slices.SortFunc(out, func(a, b verdict) int {
		return cmp.Or(cmp.Compare(a.snap.Share, b.snap.Share), b.snap.Time.Compare(a.snap.Time), cmp.Compare(b.snap.Sequence, a.snap.Sequence), slices.Compare(a.snap.ID[:], b.snap.ID[:]))
	})
	return out
}

// describe puts a verdict into the form of the control socket.
func (k *keeper) describe(v *verdict, dryRun bool) control.Retained {
	return control.Retained{
		ID: v.snap.ID.String(), Time: v.snap.Time.UTC().Format(time.RFC3339), Share: v.snap.Share,
		Name: v.snap.ViewName(k.lineage(v.snap.Share)), Keep: v.keep, Removed: !v.keep && !dryRun, Reasons: v.reasons,
	}
}

// pinNotes are why this gateway has pinned snapshots; the pins are in the store.
type pinNotes map[string]string

// of is the note of a snapshot: its own, or that of one in whose place it was made, which had its pin.
func (n pinNotes) of(s *snapshotter.Snapshot) string {
	for _, id := range s.IDs() {
		if reason := n[id.String()]; reason != "" {
			return reason
		}
	}
	return ""
}

// drop removes it.
func (n pinNotes) drop(s *snapshotter.Snapshot) {
	for _, id := range s.IDs() {
		delete(n, id.String())
	}
}

func (k *keeper) notes() (pinNotes, error) {
	notes := pinNotes{}
	if err := k.readFile(pinsName, &notes); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("pins: %w", err)
	}
	return notes, nil
}

// pin notes why a snapshot is to be pinned, and pins it: in this order, since an alarm takes no pin away that is
// not noted as its own. A note without a pin says nothing.
func (k *keeper) pin(ctx context.Context, id snapshotter.ID, reason string) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if err := k.note(ctx, id, reason); err != nil {
		return err
	}
	err := k.snapshots.Pin(ctx, id)
	if errors.Is(err, snapshotter.ErrNoSnapshot) {
		err = errors.Join(err, k.note(ctx, id, ""))
	}
	return err
}

// unpin takes a pin away.
func (k *keeper) unpin(ctx context.Context, id snapshotter.ID) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if err := k.snapshots.Unpin(ctx, id); err != nil {
		return err
	}
	return k.note(ctx, id, "")
}

// alarmNote is how the notes of pins begin that alarms have set.
const alarmNote = "alarm: "

// unpinForAlarm takes a pin away that an alarm has set, and reports whether there was one. A pin with another
// note is of somebody who wants it.
func (k *keeper) unpinForAlarm(ctx context.Context, id snapshotter.ID) (bool, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	notes, err := k.notes()
	if err != nil {
		return false, err
	}
	s, err := k.snapshots.Snapshot(ctx, id)
	if errors.Is(err, snapshotter.ErrNoSnapshot) {
		s, err = snapshotter.Snapshot{ID: id}, nil
	}
	if err != nil || !strings.HasPrefix(notes.of(&s), alarmNote) {
		return false, err
	}
	switch err := k.snapshots.Unpin(ctx, id); {
	case errors.Is(err, snapshotter.ErrNotPinned):
		return false, nil
	case err != nil:
		return false, err
	}
	return true, k.note(ctx, id, "")
}

// note notes why a snapshot is pinned; k.mu is held.
func (k *keeper) note(ctx context.Context, id snapshotter.ID, reason string) error {
	notes, err := k.notes()
	if err != nil {
		return err
	}
	s, err := k.snapshots.Snapshot(ctx, id) // which may be one that was made in its place
	if err != nil {
		s = snapshotter.Snapshot{ID: id}
	}
	if notes.of(&s) == reason {
		return nil
	}
	if notes.drop(&s); reason != "" {
		notes[s.ID.String()] = reason
	}
	if err := disk.MkdirDurable(k.disk, k.dir, 0o700); err != nil {
		return err
	}
	return k.writeFile(pinsName, notes)
}

// pins lists the pinned snapshots, by share, newest first.
func (k *keeper) pins(ctx context.Context) ([]control.Pin, error) {
	pins, err := k.snapshots.Pins(ctx)
	if err != nil {
		return nil, err
	}
	list, err := k.snapshots.Snapshots(ctx, "")
	if err != nil {
		return nil, err
	}
	k.mu.Lock()
	notes, err := k.notes()
	k.mu.Unlock()
	if err != nil {
		return nil, err
	}
	var out []control.Pin
	for _, s := range list {
		when, ok := pins[s.ID]
		if !ok {
			continue
		}
		out = append(out, control.Pin{
			ID: s.ID.String(), Time: s.Time.UTC().Format(time.RFC3339), Share: s.Share, Name: s.ViewName(k.lineage(s.Share)),
			Pinned: stamp(when), Reason: notes.of(&s),
		})
	}
	slices.SortStableFunc(out, func(a, b control.Pin) int { return cmp.Compare(a.Share, b.Share) })
	return out, nil
}
