package snapshotter

import (
	"cmp"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/PlakarKorp/kloset/objects"
	"github.com/PlakarKorp/kloset/repository"
	"golang.org/x/time/rate"

	"github.com/snapgate/gateway/internal/background"
	"github.com/snapgate/gateway/internal/disk"
	"github.com/snapgate/gateway/store"
)

const (
	// DefaultScrubEvery is how often everything in a store is read back.
	DefaultScrubEvery = 30 * 24 * time.Hour
	// DefaultScrubBandwidth is how many bytes a second are read: less than a disk reads, and what a
	// core decodes.
	DefaultScrubBandwidth = 64 << 20
	// scrubSave is how often what is known is written while a run is under way.
	scrubSave = time.Minute
	// damageMost is how many damaged files are kept with what is known of them. Of others there is what they are.
	damageMost = 1000
)

// The names that Config.Failpoint is called with by scrubs.
const (
	ScrubVerified = "scrub-verified" // a file was read back, and that is noted
	ScrubFound    = "scrub-found"    // damage is noted
)

// ErrScrubbing means that another scrub of the store with the same Dir runs.
var ErrScrubbing = errors.New("the store is being scrubbed already")

// ErrUnread means that files could not be read, of a store that can be reached: a line that is bad, or a
// server whose disk is. That says nothing of what they hold. Scrubs have read what else there is.
var ErrUnread = errors.New("could not be read")

// ErrForgotten means that what earlier scrubs have found could not be read, and not all of the store was read back since: what is
// damaged is not known.
var ErrForgotten = errors.New("what was found damaged in the store is not known any more, until all of it is read back")

// ScrubScope says what a scrub reads back.
type ScrubScope string

const (
	// ScrubDue is what has come since, and enough of the rest that a run a day reads everything
	// within ScrubConfig.Every.
	ScrubDue ScrubScope = "due"
	// ScrubNew is what has come since.
	ScrubNew ScrubScope = "new"
	// ScrubAll is everything; one that was cut off is taken up where it was.
	ScrubAll ScrubScope = "all"
	// ScrubDamaged is what was damaged when it was read last.
	ScrubDamaged ScrubScope = "damaged"
)

// ScrubConfig configures Scrub.
type ScrubConfig struct {
	// Dir keeps what was read back when, and what is damaged. It is made, and belongs to one
	// store, and to one run at a time.
	Dir   string
	Scope ScrubScope    // "": ScrubDue
	Every time.Duration // 0: DefaultScrubEvery
	// Bandwidth is how many bytes a second are read; 0: as fast as it goes.
	Bandwidth int64
	// Repair mends what is damaged, as far as From has it, which may be nil: the local copies of
	// metadata are tried, too. From is another copy of the store, or has copies of its snapshots.
	Repair bool
	From   *Snapshotter
	// Accept takes states that are missing for removed: the store is an older copy of itself.
	Accept bool
	// GiveUp are ids, or how they begin, of snapshots to be removed whose headers are lost and of which nobody has a copy: the
	// damage that concerns them alone is none any more. What can be repaired is repaired first, as with Repair. See ErrReadable.
	GiveUp []string
	// AtOnce is up to how many packfiles the first run of all reads, whatever is due; 0: 64.
	AtOnce   int
	Now      func() time.Time  // nil: time.Now
	Progress func(ScrubReport) // is told now and then; may be nil

	damageMost int // 0: damageMost
}

// ScrubReport is what a run has done.
type ScrubReport struct {
	Scope     ScrubScope
	Packfiles int
	States    int
	Blobs     int
	Bytes     int64
	Left      int // files that this run is still to read
	Unread    int // files that could not be read; see ErrUnread
	Mended    int // that were damaged when they were read before
	Repaired  int // of those, by this run
	// Unused is how many blobs are damaged that no snapshot uses.
	Unused int
	// Replaced are snapshots that were made anew from their copies.
	Replaced []Replaced
	// GivenUp are the snapshots of ScrubConfig.GiveUp, when they are removed.
	GivenUp []ID
	State   ScrubState // with all damage that is known, of earlier runs, too
}

// The kinds of Damage.
const (
	DamagedPackfile = "packfile"
	DamagedState    = "state"
	DamagedConfig   = "configuration"
)

// Damage is a file of a store that is not as it was written.
type Damage struct {
	Kind  string    `json:"kind"`
	File  string    `json:"file"` // its name in the store
	Text  string    `json:"text"` // what is wrong with it
	Found time.Time `json:"found"`
	Blobs int       `json:"blobs"` // that are damaged and that snapshots use
	Uses  []Use     `json:"uses,omitempty"`
	More  int       `json:"more_uses,omitempty"`
	// Repair says why it was not repaired, when that was tried.
	Repair string `json:"repair,omitempty"`
}

// Scrub reads files of the store back and compares what they hold with its MACs: the packfiles that
// the states tell of, and the states. It takes no lock, and writes nothing to the store, unless it is to repair or to give up.
//
// What is damaged is not an error of the run; it is in the report, and in Dir until a later run
// finds it mended. Errors: ErrScrubbing; ErrUnread, of files that the next run looks at again;
// ErrUnavailable, after which the next run goes on where this one was.
func (s *Snapshotter) Scrub(ctx context.Context, cfg ScrubConfig) (report ScrubReport, err error) {
	background.Do(func() { report, err = s.scrub(ctx, cfg) })
	if err != nil {
		err = fmt.Errorf("scrub: %w", s.store.CacheError(err))
	}
	return report, err
}

func (s *Snapshotter) scrub(ctx context.Context, cfg ScrubConfig) (report ScrubReport, err error) {
	r, end, err := s.openScrub(cfg)
	if err != nil {
		return report, err
	}
	defer func() { err = errors.Join(err, end()) }()
	err = r.run(ctx)
	return r.report, err
}

// openScrub begins a run.
func (s *Snapshotter) openScrub(cfg ScrubConfig) (r *scrubbing, end func() error, err error) {
	if cfg.Dir == "" || cfg.Every < 0 || cfg.Bandwidth < 0 {
		return nil, nil, fmt.Errorf("directory %q, every %s, bandwidth %d", cfg.Dir, cfg.Every, cfg.Bandwidth)
	}
	cfg.Every = cmp.Or(cfg.Every, DefaultScrubEvery)
	cfg.Scope = cmp.Or(cfg.Scope, ScrubDue)
	cfg.damageMost = cmp.Or(cfg.damageMost, damageMost)
	cfg.Repair = cfg.Repair || len(cfg.GiveUp) > 0 // what can be brought back is not lost
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, nil, err
	}
	alone, err := disk.Lock(cfg.Dir)
	if errors.Is(err, disk.ErrLocked) {
		return nil, nil, ErrScrubbing
	}
	if err != nil {
		return nil, nil, err
	}
	r = &scrubbing{s: s, cfg: cfg, began: cfg.Now().UTC(), damage: make(map[ledgerKey]*Damage), unread: make(map[ledgerKey]error), found: make(map[ledgerKey]damaged), before: make(map[ID]map[ledgerKey]time.Time)}
	r.report.Scope = cfg.Scope
	if cfg.Bandwidth > 0 {
		const burst = 1 << 20
		r.limit = rate.NewLimiter(rate.Limit(cfg.Bandwidth), max(burst, int(min(cfg.Bandwidth, 1<<30))/4))
	}
	r.state, err = ReadScrubState(cfg.Dir)
	if err != nil {
		s.log.Warn("what was found damaged is looked for again", "err", err)
		r.state = ScrubState{Store: s.store.ID(), Forgotten: r.began}
		s.forgotten.Store(true)
		if err := forgetLedger(cfg.Dir); err != nil { // it calls what is damaged read back as well
			return nil, nil, errors.Join(err, alone.Unlock())
		}
	}
	if r.state.Store != s.store.ID() {
		r.state = ScrubState{Store: s.store.ID()}
	}
	r.state.Every = cfg.Every.String()
	for i := range r.state.Damage {
		d := r.state.Damage[i]
		r.damage[keyOfDamage(&d)] = &d
	}
	if r.ledger, err = openLedger(cfg.Dir, s.store.ID()); err != nil {
		return nil, nil, errors.Join(err, alone.Unlock())
	}
	r.more = r.state.More > 0 && !r.ledger.any(suspect)
	return r, func() error { return errors.Join(r.ledger.close(), alone.Unlock()) }, nil
}

// scrubbing is one run.
type scrubbing struct {
	s      *Snapshotter
	cfg    ScrubConfig
	began  time.Time
	limit  *rate.Limiter // nil: none
	ledger *ledger
	state  ScrubState
	report ScrubReport
	saved  time.Time

	damage map[ledgerKey]*Damage
	unread map[ledgerKey]error // what could not be read, and why
	uses   *useSearch          // of the last damage that was looked at
	// found is damage of this run whose uses are still to be found.
	found map[ledgerKey]damaged
	// gaveUp are the snapshots that are damaged and not replaced, and why.
	gaveUp map[ID]error
	// before are the files that were there before something was made in place of a snapshot.
	before map[ID]map[ledgerKey]time.Time
	more   bool // there was damage, before this run, of which is not known what files it is in
}

// damaged is what was found damaged in a file.
type damaged struct {
	text   string
	blobs  []store.Place
	around bool // what is around the blobs of a packfile is
}

// configKey stands for the configuration.
func configKey() ledgerKey { return ledgerKey{} }

// kindOf is the Kind of damage to a file.
func kindOf(k ledgerKey) string {
	switch k.kind {
	case ledgerPackfile:
		return DamagedPackfile
	case ledgerState:
		return DamagedState
	}
	return DamagedConfig
}

func keyOfDamage(d *Damage) ledgerKey {
	k := configKey()
	if raw, err := hex.DecodeString(d.File); err == nil && len(raw) == len(k.mac) {
		k.mac = objects.MAC(raw)
		k.kind = ledgerPackfile
		if d.Kind == DamagedState {
			k.kind = ledgerState
		}
	}
	return k
}

func (r *scrubbing) pace(ctx context.Context, n int) error {
	if r.limit == nil {
		return ctx.Err()
	}
	return r.limit.WaitN(ctx, n)
}

func (r *scrubbing) run(ctx context.Context) (err error) {
	if err := r.config(ctx); err != nil {
		return err
	}
	if err := r.refresh(ctx); err != nil {
		return err
	}
	if r.cfg.Scope == ScrubAll && r.state.All.IsZero() {
		r.state.All = r.began
	}
	// What is known must not be lost with the error.
	defer func() { err = errors.Join(err, r.finish(ctx, err)) }()
	done := make(map[ledgerKey]bool)
	if err := r.begin(ctx); err != nil {
		return err
	}
	if r.cfg.Accept {
		if err := r.accept(ctx); err != nil {
			return err
		}
	}
	if err := r.read(ctx, done); err != nil {
		return err
	}
	if r.cfg.Repair && len(r.damage) > 0 {
		if err := r.concerns(ctx); err != nil {
			return err
		}
		if err := r.repair(ctx); err != nil {
			return err
		}
	}
	if r.cfg.Repair { // what a run has left that was cut off
		if _, err := r.settle(ctx); err != nil {
			return err
		}
		r.explain()
		// A packfile that was missing may have come back by itself: others are to hear of it. The next commit tells them
		// if it cannot be said now.
		switch err := r.locked(ctx, func() error { return r.restocked(ctx, nil) }); {
		case errors.Is(err, ErrBusy), errors.Is(err, ErrUnavailable):
			r.s.log.Warn("what has come back to the store is looked for later", "err", err)
		case err != nil:
			return err
		}
	}
	if err := r.unreadError(); err != nil || len(r.cfg.GiveUp) == 0 {
		return err
	}
	return r.giveUpLost(ctx, done)
}

// refresh takes over what others did, unless damage is in the way of that.
func (r *scrubbing) refresh(ctx context.Context) error {
	err := r.s.Refresh(ctx)
	if errors.Is(err, store.ErrDamaged) || err != nil && r.damage[configKey()] != nil && !errors.Is(err, ErrUnavailable) {
		return ctx.Err()
	}
	if isUnlisted(err) && r.s.listedAny() { // else it may be the place of the packfiles that is not there
		return ctx.Err()
	}
	return err
}

// isUnlisted reports whether err says no more than that snapshots are not listed whose headers are in packfiles that are missing. What the
// states tell is taken over then. Nothing may be taken for unused, see useSearch.blind, and whoever removes something looks for them under
// the lock.
func isUnlisted(err error) bool { return errors.Is(err, repository.ErrPackfileNotFound) }

// tell reports, and writes down now and then what is known.
func (r *scrubbing) tell(ctx context.Context) error {
	if r.cfg.Progress != nil {
		r.report.State = r.state
		r.cfg.Progress(r.report)
	}
	if time.Since(r.saved) < scrubSave {
		return nil
	}
	return r.save(ctx)
}

// save writes down what is known.
func (r *scrubbing) save(ctx context.Context) error {
	files, err := r.files(ctx)
	if err != nil {
		return err
	}
	now := r.cfg.Now()
	r.state.Files, r.state.Fresh, r.state.Unread, r.state.Oldest = len(files), 0, 0, time.Time{}
	unknown := 0
	for k, added := range files {
		at := r.verified(k)
		if !at.IsZero() && now.Sub(at) <= r.cfg.Every {
			r.state.Fresh++
		}
		if at.IsZero() {
			r.state.Unread++
			if !r.isDamaged(k) {
				unknown++
			}
			at = added
		}
		if !at.IsZero() && (r.state.Oldest.IsZero() || at.Before(r.state.Oldest)) {
			r.state.Oldest = at.UTC()
		}
	}
	if unknown == 0 {
		r.state.Forgotten = time.Time{}
	}
	if err := r.saveDamage(); err != nil {
		return err
	}
	if !r.state.Forgotten.IsZero() { // what this process has known of is damaged until it is read back
		for mac := range r.s.store.Distrusted() {
			if k := (ledgerKey{ledgerPackfile, mac}); r.verified(k).IsZero() {
				r.state.suspects = append(r.state.suspects, mac)
			}
		}
	}
	r.s.Distrust(&r.state)
	r.saved = time.Now()
	return writeScrubState(r.cfg.Dir, &r.state)
}

// finish finds out what the damage concerns, and writes down what is known.
func (r *scrubbing) finish(ctx context.Context, cause error) error {
	var err error
	through := cause == nil || errors.Is(cause, ErrUnread)
	if ctx.Err() == nil && (through || !errors.Is(cause, ErrUnavailable)) {
		err = r.concerns(ctx)
	}
	if through && err == nil {
		now := r.cfg.Now().UTC()
		if r.cfg.Scope == ScrubDue || r.cfg.Scope == ScrubAll {
			r.state.Last = now
		}
		if r.cfg.Scope == ScrubAll && cause == nil {
			r.state.Began, r.state.Whole, r.state.All = r.state.All, now, time.Time{}
		}
	}
	if r.report.Repaired > 0 {
		r.state.Repaired, r.state.RepairedFiles = r.cfg.Now().UTC(), r.report.Repaired
	}
	// Also when it was told to stop.
	err = errors.Join(err, r.save(context.WithoutCancel(ctx)))
	r.report.State = r.state
	return err
}
