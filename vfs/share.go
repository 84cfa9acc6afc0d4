package vfs

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/snapgate/gateway/vfs/internal/journal"
	"github.com/snapgate/gateway/vfs/internal/spool"
)

// share is one live tree with its journal, spool and snapshot history. One goroutine, the
// sequencer, decides the order of operations: it takes what is waiting, applies it to a
// new tree, writes one batch to the journal, syncs once, and only then makes the tree
// current and answers. So concurrent closes share one fsync, and nobody sees what is not
// durable.
type share struct {
	system  *System
	name    string
	id      string // random, kept in the share's directory: it names the lineage in headers
	cfg     atomic.Pointer[ShareConfig]
	log     *slog.Logger
	started time.Time
	begun   time.Time // started, with the reading of the monotonic clock
	journal *journal.Journal
	spool   *spool.Spool
	uploads *uploads // open uploads and partials by name: newUploads
	views   *views   // snapshots that are open for reading: newViews
	source  *source  // of a share that is only read; nil, and all that follows, elsewhere

	live     atomic.Pointer[tree]
	headless atomic.Pointer[headless] // nil: what is pending is above the head
	headLost atomic.Bool              // the view of the head, or what stands in for it, has found that it was removed
	requests chan *request
	stop     chan struct{} // closed to end the sequencer
	ended    chan struct{} // closed when it has ended
	changed  chan struct{} // pulsed when the ledger changes; capacity 1

	aheads *aheads // put uploads into the store while they arrive
	intake *intake // lets changes in; nil for a source
	claims claims

	committer   *committer
	stopCommits context.CancelFunc // ends the committer and the chores
	chores      sync.WaitGroup

	mu     sync.Mutex // guards what follows; a leaf, never held across I/O
	ledger ledger
	people sessionCount
	// retired says that a source is no longer configured: it ends with its last session.
	retired bool
	trouble trouble
	// doubtful are spool files of uploads whose record may be in the journal although it
	// failed: without them a restart could not go on. They go with the next record.
	doubtful []spool.ID

	seq sequencer // used by the sequencer's goroutine only
}

// sessionCount is what the commit policy wants to know of a share's sessions.
type sessionCount struct {
	open      int
	bulk      int       // of those, with ConnInfo.Bulk
	onlookers int       // of those, with ConnInfo.Onlooker
	lastEnd   time.Time // of one that is no onlooker's
}

// ledger is what has been accepted and is not in a snapshot yet.
type ledger struct {
	sealed []*changeSet // oldest first
	open   *changeSet
	last   committedRecord // of the head
	bytes  int64           // of pending nodes, as the spool limit counts them
	holes  int64           // bytes of pending files that nobody has sent
}

// changeSet is a run of accepted operations that becomes one snapshot.
type changeSet struct {
	number    uint64
	ops       []*op
	bytes     int64     // of the files that the operations put
	oldest    time.Time // when the first completed change was accepted; temp names wait
	newest    time.Time // when the last operation was accepted
	completed bool      // a file was published under its final name
	restored  time.Time // when the first file with no bytes but a snapshot's was accepted
	temps     map[Name]time.Time
	users     map[string]bool
	protocol  map[string]bool

	// These are used by the committer only.
	tried   bool           // a commit of it may have been attempted
	changes int            // that the commit reads
	damaged damagedUploads // found by the last attempt
	leftOut uint64         // files that are not part of tree, as they were damaged

	// The rest is there once the set is sealed.
	sealed  time.Time
	upTo    journal.Position
	reason  string
	tree    *tree  // the live tree at the seal, without what was carried over
	carried []Name // temp names that wait for their rename in the next set
}

func newChangeSet(number uint64) *changeSet {
	return &changeSet{
		number: number, temps: map[Name]time.Time{},
		users: map[string]bool{}, protocol: map[string]bool{},
	}
}

// nodeCost is what a pending operation counts against the spool limit, in bytes: its
// nodes, tree path and record in memory (measured: about 600 bytes for a short path).
const nodeCost = 1024

// add notes an accepted operation; isTemp tells the names that wait for their rename.
func (c *changeSet) add(o *op, isTemp func(Name) bool) {
	c.ops = append(c.ops, o)
	if o.kind == opPut {
		c.bytes += o.content.size
	}
	if o.time.After(c.newest) {
		c.newest = o.time
	}
	if o.user != "" {
		c.users[o.user] = true
	}
	if o.protocol != "" {
		c.protocol[o.protocol] = true
	}
	at, was := o.name, false
	if o.kind == opRename || o.kind == opLink {
		at = o.to
	}
	if o.kind == opRename || o.kind == opRemove {
		_, was = c.temps[o.name]
		delete(c.temps, o.name)
	}
	switch {
	case isTemp(at) && (o.kind == opPut || o.kind == opRename && was):
		c.temps[at] = o.time
		return
	case o.kind == opRemove && was, o.kind == opSetattr && isTemp(at):
		return // nothing that a snapshot would show
	case o.kind == opPut, o.kind == opLink, o.kind == opRename && was:
		c.completed = true
	}
	if o.kind == opPut && o.content.restored() && c.restored.IsZero() {
		c.restored = o.time
	}
	if c.oldest.IsZero() || o.time.Before(c.oldest) {
		c.oldest = o.time
	}
}

// policyState summarises the share for the commit policy.
func (s *share) policyState() policyState {
	uploads, pressed := s.uploads.count(), s.intake.pressed()
	s.mu.Lock()
	defer s.mu.Unlock()
	open := s.ledger.open
	st := policyState{
		oldestChange: open.oldest, lastChange: open.newest, completedUpload: open.completed,
		openUploads: uploads, sessions: s.people.open - s.people.onlookers, lastSessionEnd: s.people.lastEnd, bulk: s.people.bulk,
		sealed: len(s.ledger.sealed), changes: len(open.ops), oldestRestore: open.restored, pressed: pressed,
		headless: s.headless.Load() != nil || s.headLost.Load(),
	}
	for _, born := range open.temps {
		if st.oldestTemp.IsZero() || born.Before(st.oldestTemp) {
			st.oldestTemp = born
		}
	}
	if st.sealed > 0 {
		st.oldestSealed = s.ledger.sealed[0].sealed
	}
	// A clock that has gone back must not put commits off until it is there again.
	now, started := time.Now(), s.started
	if started.After(now) { // it has gone back since: as the monotonic clock tells it; to the second, as states are compared
		started = now.Add(-now.Sub(s.begun)).UTC().Truncate(time.Second)
	}
	for _, at := range []*time.Time{&st.oldestChange, &st.lastChange, &st.oldestTemp, &st.lastSessionEnd, &st.oldestSealed, &st.oldestRestore} {
		if at.After(now) {
			*at = started
		}
	}
	return st
}

// sessionStarted and sessionEnded count the sessions that have the share mounted.
func (s *share) sessionStarted(from ConnInfo) {
	s.mu.Lock()
	s.people.open++
	if from.Bulk {
		s.people.bulk++
	}
	if from.Onlooker {
		s.people.onlookers++
	}
	s.mu.Unlock()
	s.pulse()
}

func (s *share) sessionEnded(from ConnInfo) {
	s.mu.Lock()
	s.people.open--
	if from.Bulk {
		s.people.bulk--
	}
	if from.Onlooker {
		s.people.onlookers--
	} else {
		s.people.lastEnd = time.Now().UTC()
	}
	last := s.retired && s.people.open == 0
	s.mu.Unlock()
	s.pulse()
	if last {
		s.endSource()
	}
}

// config returns the share's settings as of now.
func (s *share) config() *ShareConfig { return s.cfg.Load() }

// current returns the tree as of now of a share that can be written.
func (s *share) current() *tree { return s.live.Load() }

// do submits an operation and waits until it is durable and visible (opSetattr: visible,
// durable within a second). It fails with an *Error and no effect when the operation is
// refused or the journal cannot be written.
func (s *share) do(ctx context.Context, o *op) error {
	asked := time.Now()
	if h := s.headless.Load(); h != nil && o.kind.changes() {
		return h.refusal(o.kind.String(), o.name) // before it waits for room that no commit will make
	}
	if err := s.admitNode(o); err != nil {
		return err
	}
	if err := s.slowDown(ctx, o, asked); err != nil {
		return err
	}
	if o.room == roomUnasked && o.kind.changes() {
		if err := s.intake.enter(ctx); err != nil {
			return errCause(o.kind.String(), o.name, KindOf(err), err)
		}
		o.room = roomTaken
		defer s.leave(o)
	}
	return s.submit(ctx, &request{op: o, asked: asked, done: make(chan error, 1)})
}

// leave takes back the room of an operation that has ended without a change.
func (s *share) leave(o *op) {
	if o.room == roomTaken {
		s.intake.leave()
	}
}

// seal closes the current change set when it has changes; the next commit ends there.
func (s *share) seal(ctx context.Context, reason string) error {
	return s.exec(ctx, func() error { return s.sealNow(reason) })
}

// exec runs f in the sequencer's goroutine, between two batches.
func (s *share) exec(ctx context.Context, f func() error) error {
	return s.submit(ctx, &request{run: f, done: make(chan error, 1)})
}

// submit hands a request to the sequencer. Once it is handed over, its outcome is waited
// for whatever ctx says: it takes one disk flush, and nobody could tell what happened.
func (s *share) submit(ctx context.Context, r *request) error {
	select {
	case <-s.stop:
		return errKind("submit", Name{}, KindClosed)
	default:
	}
	select {
	case s.requests <- r:
	case <-s.stop:
		return errKind("submit", Name{}, KindClosed)
	case <-ctx.Done():
		return errCause("submit", Name{}, KindClosed, ctx.Err())
	}
	select {
	case err := <-r.done:
		return err
	case <-s.ended:
		select {
		case err := <-r.done:
			return err
		default:
			return errKind("submit", Name{}, KindClosed)
		}
	}
}

// slowDownPoll is how often a slowed down operation looks again, slowDownMax when it is
// refused: clients give up on a reply after half a minute or more.
const (
	slowDownPoll = 50 * time.Millisecond
	slowDownMax  = 20 * time.Second
)

// slowDown makes an operation that would destroy a version wait while too many sealed
// sets wait for their commit, and refuses it when that does not help.
func (s *share) slowDown(ctx context.Context, o *op, asked time.Time) error {
	if o.kind != opPut && o.kind != opRemove && o.kind != opRename {
		return nil
	}
	limit := s.config().MaxPending
	if s.pendingSets() < limit || !s.wouldSeal(o, asked) {
		return nil
	}
	deadline := time.NewTimer(slowDownMax)
	defer deadline.Stop()
	poll := time.NewTicker(slowDownPoll)
	defer poll.Stop()
	for s.pendingSets() >= limit {
		select {
		case <-poll.C:
		case <-deadline.C:
			return errCause(o.kind.String(), o.name, KindUnavailable,
				errors.New("too many versions wait for a snapshot"))
		case <-ctx.Done():
			return errCause(o.kind.String(), o.name, KindClosed, ctx.Err())
		}
	}
	return nil
}

// wouldSeal reports whether an operation that was asked for then would destroy a version as things stand.
func (s *share) wouldSeal(o *op, asked time.Time) bool {
	s.mu.Lock()
	open := s.ledger.open.number
	s.mu.Unlock()
	probe := op{kind: o.kind, name: o.name, to: o.to, session: o.session}
	if o.upload != nil {
		probe.name = o.upload.name()
	}
	seals, err := s.destroys(s.current(), &probe, asked, open)
	return seals && err == nil // an error will be met again
}

func (s *share) pendingSets() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.ledger.sealed)
}

// pending is what the share holds against the spool limit, in bytes.
func (s *share) pending() int64 {
	if s.source != nil {
		return 0
	}
	s.mu.Lock()
	nodes := s.ledger.bytes
	s.mu.Unlock()
	return nodes + s.journal.Bytes() + s.spool.Bytes()
}

// head returns the record of the last commit; its id is zero when there is none.
func (s *share) head() committedRecord {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ledger.last
}

// isTemp reports whether a name waits for its rename.
func (s *share) isTemp(name Name) bool {
	return isTempName(s.config().TempNames, name.Base())
}

// pulse tells the committer that something changed.
func (s *share) pulse() {
	select {
	case s.changed <- struct{}{}:
	default:
	}
}

// journalError makes an *Error of a failed journal write.
func journalError(o string, name Name, err error) error {
	return errCause(o, name, errorKind(err), err)
}
