package vfs

import (
	"context"
	"crypto/hkdf"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/snapgate/gateway/internal/disk"
	"github.com/snapgate/gateway/snapshotter"
)

// System is the set of shares below one data directory, which it holds exclusively.
// Safe for concurrent use.
type System struct {
	cfg       Config
	log       *slog.Logger
	gatewayID string
	lock      *disk.DirLock
	recovered []Recovery
	space     spaceGate
	room      atomic.Pointer[storeRoom] // nil: the store has no bound
	intakes   *intakes                  // of all shares
	handles   handleCount               // of all sessions
	turns     chan struct{}             // of uploads that are put into the store while they arrive

	reload sync.Mutex // held while Reload opens shares and Close closes them; before mu

	mu       sync.Mutex // guards the rest
	shares   map[string]*share
	sessions map[*Session]struct{}
	closed   bool
	traffic  map[string]*traffic // by protocol
	// lastSession is the number of the newest session.
	lastSession uint64
}

// Open locks the data directory, recovers every share and starts their committers. A
// data directory that another process holds is disk.ErrLocked.
func Open(ctx context.Context, cfg Config) (*System, error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	if err := disk.MkdirDurable(cfg.Disk, cfg.DataDir, 0o700); err != nil {
		return nil, fmt.Errorf("data directory: %w", err)
	}
	lock, err := disk.Lock(cfg.DataDir)
	if err != nil {
		return nil, fmt.Errorf("lock data directory: %w", err)
	}
	s := &System{
		cfg: cfg, log: cfg.Logger, lock: lock, turns: newTurns(),
		intakes: newIntakes(cfg.Limits.Changes),
		shares:  map[string]*share{}, sessions: map[*Session]struct{}{}, traffic: map[string]*traffic{},
	}
	if s.gatewayID, err = loadID(cfg.Disk, cfg.DataDir, gatewayIDName); err == nil {
		var list []opened
		if list, err = s.openNew(ctx, cfg.Shares); err == nil {
			if err = s.add(list); err == nil {
				err = s.add(s.openLeft(ctx))
			}
		}
	}
	if err != nil {
		return nil, errors.Join(err, s.Close(ctx))
	}
	return s, nil
}

// check fills in defaults and refuses a configuration that cannot work.
func (c *Config) check() error {
	switch {
	case c.DataDir == "":
		return errors.New("vfs: no data directory")
	case c.Repository == nil:
		return errors.New("vfs: no repository")
	case c.SpoolKey != nil && len(c.SpoolKey) != 32:
		return fmt.Errorf("vfs: spool key of %d bytes, want 32", len(c.SpoolKey))
	}
	if c.Disk == nil {
		c.Disk = disk.OS{}
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	c.Limits = c.Limits.withDefaults()
	for _, share := range c.Shares {
		if err := share.check(); err != nil {
			return fmt.Errorf("vfs: %w", err)
		}
	}
	return nil
}

// withDefaults returns l with every zero limit replaced by its default.
func (l Limits) withDefaults() Limits {
	def := func(v *int, d int) {
		if *v <= 0 {
			*v = d
		}
	}
	if l.SpoolBytes <= 0 {
		l.SpoolBytes = 64 << 30
	}
	if l.ReserveBytes <= 0 {
		l.ReserveBytes = DefaultReserve
	}
	def(&l.Changes, defaultChanges)
	def(&l.InlineBytes, 64<<10)
	def(&l.OpenHandles, 10_000)
	def(&l.SessionFiles, 1_000)
	def(&l.NameBytes, defaultNameBytes)
	def(&l.PathBytes, defaultPathBytes)
	def(&l.SymlinkDepth, 40)
	return l
}

// opened is a share that was opened, and nobody knows of yet.
type opened struct {
	share *share
	rec   Recovery
}

// openNew opens the shares that are not open yet, or whose names sources have that are not any more, and
// starts their committers. It opens all or none.
func (s *System) openNew(ctx context.Context, cfgs []ShareConfig) (list []opened, err error) {
	for _, cfg := range cfgs {
		sh, ok := s.share(cfg.Name)
		if ok && (sh.source == nil || cfg.Source) || slices.ContainsFunc(list, func(o opened) bool { return o.share.name == cfg.Name }) {
			continue
		}
		sh, rec, err := openShare(ctx, s, cfg)
		if err != nil {
			return nil, errors.Join(err, s.closeNew(list))
		}
		list = append(list, opened{sh, rec})
	}
	return list, nil
}

// closeNew closes what openNew has opened. What the journals hold is for the next start to commit: a store that
// hangs does not keep anybody waiting for the error.
func (s *System) closeNew(list []opened) error {
	var errs []error
	for _, o := range list {
		errs = append(errs, o.share.end())
		if o.share.intake != nil {
			s.intakes.remove(o.share.intake)
		}
	}
	return errors.Join(errs...)
}

// add takes shares over that were opened.
func (s *System) add(list []opened) error {
	s.mu.Lock()
	closed := s.closed
	if !closed {
		for _, o := range list {
			s.shares[o.share.name] = o.share
			s.recovered = append(s.recovered, o.rec)
		}
	}
	s.mu.Unlock()
	if closed { // by now: nobody else would close them
		return errors.Join(errKind("open share", Name{}, KindClosed), s.closeNew(list))
	}
	return nil
}

// share returns an open share.
func (s *System) share(name string) (*share, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	sh, ok := s.shares[name]
	return sh, ok
}

// allShares lists the open shares by name.
func (s *System) allShares() []*share {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]*share, 0, len(s.shares))
	for _, name := range slices.Sorted(maps.Keys(s.shares)) {
		out = append(out, s.shares[name])
	}
	return out
}

// GatewayID is the random name that this data directory's snapshots carry.
func (s *System) GatewayID() string { return s.gatewayID }

// Lineage names the snapshots of a share of this System, or else of a source that was pulled
// without being configured; it is none for others.
func (s *System) Lineage(share string) snapshotter.Lineage {
	if sh, ok := s.share(share); ok {
		return sh.lineage()
	}
	return StoredSourceLineage(s.cfg.DataDir, share)
}

// Recovered says in one line what Open recovered, "" when there was nothing.
func (s *System) Recovered() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var parts []string
	for _, r := range s.recovered {
		if r.nothing() {
			continue
		}
		text := fmt.Sprintf("share %s: %d changes to commit, %d partial uploads, %d leftovers removed",
			r.Share, r.Changes, r.Partials, r.Removed)
		if r.Away {
			text += ", store away"
		}
		if r.Headless {
			text += ", the changes wait for the last snapshot, which cannot be read"
		}
		parts = append(parts, text)
	}
	return strings.Join(parts, "; ")
}

// Commit commits what is pending in a share now and returns its head, the zero ID when
// there has never been a change.
func (s *System) Commit(ctx context.Context, share string) (snapshotter.ID, error) {
	sh, ok := s.share(share)
	if !ok {
		return snapshotter.ID{}, errCause("commit", Name{}, KindNotExist, fmt.Errorf("no share %q", share))
	}
	if sh.source != nil {
		return snapshotter.ID{}, errCause("commit", Name{}, KindPermission, fmt.Errorf("share %q: %w", share, ErrSource))
	}
	if err := sh.committer.request(ctx, "manual"); err != nil {
		return snapshotter.ID{}, err
	}
	return sh.head().id, nil
}

// ErrSource says that a share is that of a source: only pulls make its snapshots.
var ErrSource = errors.New("only pulls make snapshots of a source")

// Reload takes over changed share settings and new shares. A share that is no longer
// listed stays open until the next start, that of a source until its last session ends. When it returns an
// error, nothing has changed.
func (s *System) Reload(ctx context.Context, shares []ShareConfig) error {
	for _, cfg := range shares {
		if err := cfg.check(); err != nil {
			return err
		}
	}
	s.reload.Lock()
	defer s.reload.Unlock()
	s.mu.Lock()
	closed := s.closed
	s.mu.Unlock()
	if closed {
		return errKind("reload", Name{}, KindClosed)
	}
	list, err := s.openNew(ctx, shares) // which may fail
	if err != nil {
		return err
	}
	s.retireSources(shares)
	for _, cfg := range shares {
		sh, ok := s.share(cfg.Name)
		if !ok || (sh.source != nil) != cfg.Source {
			continue // new; or a share that became a source and still has to commit
		}
		cfg = cfg.withDefaults()
		sh.cfg.Store(&cfg)
		if sh.source == nil {
			sh.committer.reload(cfg)
		}
	}
	return s.add(list)
}

// retireSources takes the sources away that are not among shares.
func (s *System) retireSources(shares []ShareConfig) {
	listed := map[string]bool{}
	for _, cfg := range shares {
		listed[cfg.Name] = cfg.Source
	}
	for _, sh := range s.allShares() {
		if sh.source == nil || listed[sh.name] {
			continue
		}
		s.mu.Lock()
		delete(s.shares, sh.name)
		s.mu.Unlock()
		sh.retire()
	}
}

// Close ends all sessions, commits what is pending until ctx ends, and releases the
// data directory. What was acknowledged is safe whatever it returns.
func (s *System) Close(ctx context.Context) error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil
	}
	s.closed = true
	sessions := slices.Collect(maps.Keys(s.sessions))
	s.mu.Unlock()
	s.intakes.close()
	var errs []error
	for _, sess := range sessions {
		errs = append(errs, sess.Close())
	}
	s.reload.Lock() // one that is under way closes what it opens
	defer s.reload.Unlock()
	for _, sh := range s.allShares() {
		errs = append(errs, sh.close(ctx))
	}
	return errors.Join(append(errs, s.lock.Unlock())...)
}

// startCommitter starts the goroutine in which the share's commits happen.
func (s *share) startCommitter() {
	s.committer = newCommitter(committerConfig{
		share: *s.config(), logger: s.log, state: s.policyState, notify: s.changed,
		seal: s.settleAndSeal, commitNext: s.observedCommit, told: s.noteAttempt,
	})
	ctx, cancel := context.WithCancel(s.seq.ctx)
	s.stopCommits = cancel
	go s.committer.run(ctx)
	s.chores.Go(func() { s.housekeep(ctx) })
	s.chores.Go(func() { s.aheads.serve(ctx) })
}

// chorePause is how often a share looks for partials that have expired.
const chorePause = 10 * time.Minute

// housekeep gives up partials that have expired, or are too many, until ctx ends.
func (s *share) housekeep(ctx context.Context) {
	tick := time.NewTicker(chorePause)
	defer tick.Stop()
	for {
		err := s.expirePartials(ctx, time.Now())
		for _, user := range s.uploads.partialUsers() { // an older version has kept them all
			err = errors.Join(err, s.boundPartials(ctx, user))
		}
		if err != nil && ctx.Err() == nil {
			s.log.Warn("expired partials cannot be removed", "share", s.name, "err", err)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// close commits what is pending until ctx ends and stops the share.
func (s *share) close(ctx context.Context) error {
	if s.source == nil {
		err := ctx.Err() // a commit would only be begun
		if err == nil {
			err = s.committer.request(ctx, "shutdown")
		}
		if st := s.policyState(); err != nil && st.changes+st.sealed > 0 {
			// The changes are in the journal: the next start commits them.
			s.log.Warn("not everything is committed, the next start goes on with it", "share", s.name, "err", err)
		}
	}
	return s.end()
}

// end closes the share without a commit.
func (s *share) end() error {
	if s.source != nil {
		return s.source.close()
	}
	s.stopCommits()
	<-s.committer.ended
	s.chores.Wait()
	close(s.stop)
	<-s.ended
	return errors.Join(s.views.close(), s.spool.Close(), s.journal.Close())
}

// key derives the key of a purpose of a share, nil when spool and journal are plain.
func (s *System) key(purpose, shareID string) ([]byte, error) {
	if s.cfg.SpoolKey == nil {
		return nil, nil
	}
	return hkdf.Key(sha256.New, s.cfg.SpoolKey, []byte(shareID), "snapgate "+purpose+" v1", 32)
}
