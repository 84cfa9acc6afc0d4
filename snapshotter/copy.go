package snapshotter

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/PlakarKorp/kloset/objects"
	"github.com/PlakarKorp/kloset/resources"

	"github.com/snapgate/gateway/store"
)

// Errors of copying; test with errors.Is.
var (
	// ErrSourceDamaged means that a snapshot cannot be copied because the store that it is in
	// lacks or has spoilt a part of it. Others can.
	ErrSourceDamaged = errors.New("the snapshot cannot be read")
	// ErrRemoved means that a snapshot was removed from the store that it would be copied to.
	ErrRemoved = errors.New("the snapshot was removed from the store that it would be copied to")
	// ErrSameStore means that both ends of a copy are one store.
	ErrSameStore = errors.New("both are the same store")
	// ErrNotRead means that a snapshot was copied and cannot be read back.
	ErrNotRead = errors.New("what was copied cannot be read back")
)

// TargetError is an error of the store that is copied to.
type TargetError struct{ Err error }

func (e *TargetError) Error() string { return "target: " + e.Err.Error() }

// Unwrap returns the cause.
func (e *TargetError) Unwrap() error { return e.Err }

// CopierConfig configures a Copier.
type CopierConfig struct {
	From, To *Snapshotter
	// Verify has every snapshot that is copied read back from the target. What a snapshot
	// before it has as well is read once.
	Verify bool
}

// CopyProgress counts what a Copier has done.
type CopyProgress struct {
	Snapshots uint64 // copied
	Entries   uint64 // names that are new or differ from the snapshot before
	Read      uint64 // bytes of contents that were read
	Sent      uint64 // bytes of contents that the target did not have
}

// Copier copies snapshots from one store to another. A copy has the identifier of the snapshot
// and says of it all that the original says. Its blobs have other names: a store's MACs are
// keyed. So every object, entry and index is made anew, for the names that are in it, and
// contents are read for their MAC even where the target has all of their chunks, but for what this
// Snapshotter of the target has hashed lately (see copying.earlier).
//
// What a snapshot has in common with one that is in both stores, and is not read again, is
// found by comparing the directories of the two in the source (see copying). A Copier takes
// nothing for granted that an earlier run has left but what the target's states tell of:
// checkpoints write states in the middle of large snapshots.
//
// Copy is for one goroutine at a time.
type Copier struct {
	from, to *Snapshotter
	verify   *verification // nil: nothing is read back

	snapshots, entries, read, sent atomic.Uint64

	checkpointBytes int64
	checkpointEvery time.Duration

	instead *instead // nil: copies have the identifiers of what they are copies of
}

const (
	// checkpointBytes is after how many new bytes a state is written, so that a run that is
	// killed need not send them again. A state takes milliseconds of every cold start of the
	// store, for ever.
	checkpointBytes = 1 << 30
	// checkpointEvery is when one is written on slow lines.
	checkpointEvery = time.Minute
)

// NewCopier makes a Copier. Errors: ErrSameStore.
func NewCopier(cfg CopierConfig) (*Copier, error) {
	if cfg.From == nil || cfg.To == nil {
		return nil, errors.New("copier: a store is missing")
	}
	if cfg.From.store.ID() == cfg.To.store.ID() {
		return nil, fmt.Errorf("copier: %w: %s", ErrSameStore, cfg.From.store.ID())
	}
	c := &Copier{from: cfg.From, to: cfg.To, checkpointBytes: checkpointBytes, checkpointEvery: checkpointEvery}
	if cfg.Verify {
		var err error
		if c.verify, err = newVerification(cfg.To); err != nil {
			return nil, err
		}
	}
	return c, nil
}

// Close releases what the Copier holds; the stores stay open.
func (c *Copier) Close() error {
	if c.verify == nil {
		return nil
	}
	return c.verify.close()
}

// Progress returns what has been done so far. It may be called at any time.
func (c *Copier) Progress() CopyProgress {
	return CopyProgress{
		Snapshots: c.snapshots.Load(), Entries: c.entries.Load(), Read: c.read.Load(), Sent: c.sent.Load(),
	}
}

// CopyPlan is what there is to be copied.
type CopyPlan struct {
	Missing []Snapshot // from the target, oldest first: each is the base of those after it
	There   []Snapshot // in both stores
	Removed []Snapshot // from the target, by somebody
	// Unreadable is what the source has beside all these that cannot be read, so that nobody knows whose it is: see Snapshotter.Unreadable.
	// The target has no copy of it, nor was one removed from it.
	Unreadable []ID
}

// Plan compares the stores, as they are now. want chooses snapshots of the source; nil wants all.
func (c *Copier) Plan(ctx context.Context, want func(Snapshot) bool) (CopyPlan, error) {
	var plan CopyPlan
	if err := c.from.Refresh(ctx); err != nil {
		return plan, fmt.Errorf("source: %w", err)
	}
	if err := c.to.Refresh(ctx); err != nil {
		return plan, &TargetError{err}
	}
	list, err := c.from.Snapshots(ctx, "")
	if err != nil {
		return plan, fmt.Errorf("source: %w", err)
	}
	slices.Reverse(list)
	for _, s := range list {
		if want != nil && !want(s) {
			continue
		}
		if c.there(&s) != nil {
			plan.There = append(plan.There, s)
			continue
		}
		removed, err := c.deleted(&s)
		switch {
		case err != nil:
			return plan, &TargetError{err}
		case removed:
			plan.Removed = append(plan.Removed, s)
		default:
			plan.Missing = append(plan.Missing, s)
		}
	}
	plan.Unreadable, err = c.unreadable(ctx)
	return plan, err
}

// unreadable is CopyPlan.Unreadable.
func (c *Copier) unreadable(ctx context.Context) (ids []ID, err error) {
	lost, err := c.from.Unreadable(ctx)
	if err != nil {
		return nil, fmt.Errorf("source: %w", err)
	}
	for _, id := range lost {
		s := Snapshot{ID: id}
		if c.there(&s) != nil {
			continue
		}
		removed, err := c.deleted(&s)
		if err != nil {
			return nil, &TargetError{err}
		}
		if !removed {
			ids = append(ids, id)
		}
	}
	return ids, nil
}

// Copy copies a snapshot unless the target has it. When it returns nil the copy is durable. It
// holds a shared lock on the target meanwhile: maintenance of the target waits, nobody else.
// Otherwise the target has no such snapshot, but what was put into it is not put again the
// next time; a Copier that verifies may leave a copy that it has not read, or could not read, which
// Plan finds There: see Check.
//
// Errors: ErrNoSnapshot, ErrSourceDamaged and ErrRemoved concern this snapshot alone, and so
// does ErrNotRead. ErrBusy while another process maintains the target. ErrUnavailable for
// either store; with ErrUnread, the target is there and has not given a part of the copy, which is to be read again.
func (c *Copier) Copy(ctx context.Context, id ID) error {
	src, err := c.from.record(ctx, id)
	if err != nil {
		return fmt.Errorf("copy: source: %w", err)
	}
	if err := c.copy(ctx, src); err != nil {
		return fmt.Errorf("copy: %w", c.explain(ctx, id, err))
	}
	if c.verify == nil {
		return nil
	}
	if err := c.readBack(ctx, id); err != nil {
		return fmt.Errorf("copy: %w", err)
	}
	return nil
}

// Check reads back a copy that the target has already, by a Copier that verifies: a run that has ended
// between a copy and its check leaves one that nobody has read. Errors: ErrNoSnapshot, when the target has
// none, ErrNotRead, ErrUnavailable for the target, with ErrUnread as Copy has it.
func (c *Copier) Check(ctx context.Context, id ID) error {
	if c.verify == nil {
		return errors.New("check: the copier does not verify")
	}
	if _, err := c.to.record(ctx, id); err != nil {
		return fmt.Errorf("check: %w", &TargetError{err})
	}
	if err := c.readBack(ctx, id); err != nil {
		return fmt.Errorf("check: %w", err)
	}
	return nil
}

// readBack reads a copy. ErrNotRead is not for a target that is away, or was for a moment.
func (c *Copier) readBack(ctx context.Context, id ID) error {
	err := c.verify.check(ctx, id)
	switch {
	case err == nil || ctx.Err() != nil:
		return err
	case errors.Is(err, ErrUnavailable), errors.Is(err, store.ErrReplaced):
		return &TargetError{err}
	}
	return fmt.Errorf("%w: %w", ErrNotRead, err)
}

func (c *Copier) copy(ctx context.Context, src *record) error {
	to := c.to
	to.enter()
	defer to.write.Unlock()
	lock, unlock, err := to.lockStore(ctx)
	if err != nil {
		return &TargetError{err}
	}
	defer unlock()
	if c.there(&src.snap) != nil {
		return nil
	}
	removed, err := c.deleted(&src.snap)
	if err != nil {
		return &TargetError{err}
	}
	if removed {
		return ErrRemoved
	}
	base := c.base(src)
	damage, err := to.reconcile(ctx, base)
	if err != nil {
		return &TargetError{err}
	}
	if damage != nil {
		base = ID{}
	}
	return c.attempt(ctx, src, base, lock)
}

// attempt copies a snapshot, with a base where there is one that can be read.
func (c *Copier) attempt(ctx context.Context, src *record, base ID, lock *store.Lock) error {
	err := c.copyOn(ctx, src, base, lock)
	var unfit *baseError
	if errors.As(err, &unfit) && ctx.Err() == nil {
		c.to.log.Info("a snapshot is copied without the one before it", "snapshot", src.snap.ID.String(), "err", err)
		return c.copyOn(ctx, src, ID{}, lock)
	}
	return err
}

// base chooses the snapshot that both stores have which src has most in common with: its parent,
// else the nearest before it of its line, else of what it was made of.
func (c *Copier) base(src *record) ID {
	var best *record
	rank := func(r *record) int {
		s, t := &src.snap, &r.snap
		switch {
		case t.ID == s.Parent || slices.Contains(t.Replaces, s.Parent):
			return 3
		case !s.Foreign() && t.Of(Lineage{s.GatewayID, s.ShareID}):
			return 2
		case t.Share == s.Share && t.Source == s.Source:
			return 1
		}
		return 0
	}
	for _, r := range c.from.all() {
		if rank(r) == 0 || r.snap.ID == src.snap.ID {
			continue
		}
		if t := c.there(&r.snap); t == nil || c.instead.spoilt(t.snap.ID) {
			continue
		}
		if best == nil || cmp.Or(cmp.Compare(rank(r), rank(best)), nearer(src, r, best)) > 0 {
			best = r
		}
	}
	if best == nil {
		return ID{}
	}
	return best.snap.ID
}

// there returns what the target has of a snapshot: a copy, what was made in place of that, or what the
// snapshot was made in place of; nil for nothing.
func (c *Copier) there(s *Snapshot) *record {
	for _, id := range s.IDs() {
		if r := c.to.known(id); r != nil {
			return r
		}
	}
	return nil
}

// deleted reports whether somebody has removed a snapshot from the target, or what it was made in place of.
func (c *Copier) deleted(s *Snapshot) (bool, error) {
	for _, id := range s.IDs() {
		if removed, err := c.to.store.Deleted(objects.MAC(id)); removed || err != nil {
			return removed, err
		}
	}
	return false, nil
}

// nearer compares how near in time two snapshots are to src.
func nearer(src, a, b *record) int {
	return -cmp.Compare(src.snap.Time.Sub(a.snap.Time).Abs(), src.snap.Time.Sub(b.snap.Time).Abs())
}

// all returns the records in memory.
func (s *Snapshotter) all() []*record {
	s.mu.RLock()
	defer s.mu.RUnlock()
	all := make([]*record, 0, len(s.records))
	for _, r := range s.records {
		all = append(all, r)
	}
	return all
}

// sourceError is an error of reading the source.
type sourceError struct{ err error }

func (e *sourceError) Error() string { return e.err.Error() }
func (e *sourceError) Unwrap() error { return e.err }

// baseError is an error of reading what a base has, in either store.
type baseError struct{ err error }

func (e *baseError) Error() string { return "base: " + e.err.Error() }
func (e *baseError) Unwrap() error { return e.err }

// explain finds out what an error of the source means: the source may be away, the snapshot may
// have been removed meanwhile, or it is damaged.
func (c *Copier) explain(ctx context.Context, id ID, err error) error {
	var src *sourceError
	if !errors.As(err, &src) || ctx.Err() != nil {
		return err
	}
	if aerr := c.from.store.Available(ctx); aerr != nil {
		return fmt.Errorf("source: %w", errors.Join(aerr, err))
	}
	if c.from.Refresh(ctx) == nil && c.from.known(id) == nil {
		return fmt.Errorf("source: %w", ErrNoSnapshot)
	}
	return damagedSource{err}
}

// damagedSource is an ErrSourceDamaged. It hides that a blob which is missing looks like a store
// that is away.
type damagedSource struct{ err error }

func (e damagedSource) Error() string        { return fmt.Sprintf("%s: %s", ErrSourceDamaged, e.err) }
func (e damagedSource) Is(target error) bool { return target == ErrSourceDamaged }

// readBlob reads a blob of the source and compares it with its MAC.
func (c *Copier) readBlob(typ resources.Type, mac objects.MAC) ([]byte, error) {
	data, err := c.from.blob(typ, mac)
	if err == nil && c.from.repo.ComputeMAC(data) != mac {
		err = fmt.Errorf("%s %x: %w", typ, mac[:4], store.ErrDamaged)
	}
	if err != nil {
		return nil, &sourceError{err}
	}
	return data, nil
}

// checkpoints decides when a checkpoint is due.
type checkpoints struct {
	turn  sync.Mutex // one at a time
	bytes atomic.Int64
	last  atomic.Int64 // UnixNano
}
