package snapshotter

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/PlakarKorp/kloset/caching"
	"github.com/PlakarKorp/kloset/objects"
	"github.com/PlakarKorp/kloset/repository"
	"github.com/PlakarKorp/kloset/snapshot"
	"github.com/PlakarKorp/kloset/snapshot/header"
	"github.com/PlakarKorp/kloset/snapshot/vfs"

	"github.com/snapgate/gateway/internal/background"
	"github.com/snapgate/gateway/store"
)

// Commit makes a snapshot that differs from base by changes; see Change. A zero base is
// the empty tree. When it returns nil the snapshot is durable; when it returns an error
// there is none, as far as a failing disk lets itself be told, and the same call may be
// made again. Cancelling ctx gives the commit up as long as it reads contents.
//
// Errors: ErrNoSnapshot when the base does not exist any more (removed by plakar): the
// caller may look for another base or commit everything on a zero one. ErrBusy while
// another process maintains the store. ErrUnavailable, with the system's error wrapped,
// when the store cannot be read or written. MissingError when the store lacks what Stored
// says is there. fs.ErrInvalid for changes that contradict each other or the base. Errors of
// Content are wrapped.
//
// Contents may open snapshots here with the context that they get, and must not wait for anything else that commits
// or refreshes.
func (s *Snapshotter) Commit(ctx context.Context, base ID, changes iter.Seq2[Change, error], meta Meta) (id ID, err error) {
	priority(meta)(func() { id, err = s.commit(ctx, base, changes, meta) })
	return id, err
}

// priority says how the work of a commit is run.
func priority(meta Meta) func(func()) {
	if meta.Urgent {
		return func(f func()) { f() }
	}
	return background.Do
}

func (s *Snapshotter) commit(ctx context.Context, base ID, changes iter.Seq2[Change, error], meta Meta) (id ID, err error) {
	s.enter()
	defer s.write.Unlock()
	lock, unlock, err := s.lockStore(ctx)
	if err != nil {
		return ID{}, fmt.Errorf("commit: %w", err)
	}
	defer unlock()
	base = s.is(base)
	d, err := s.reconcile(ctx, base)
	if err != nil {
		return ID{}, fmt.Errorf("commit: %w", err)
	}
	s.recall(base)
	ctx = context.WithValue(ctx, committing{}, s)
	r, err := s.make(ctx, base, changes, meta, newFailures(meta.Errors, s.failuresMax), lock, d)
	if err != nil {
		return ID{}, fmt.Errorf("commit: %w", s.store.CacheError(err))
	}
	s.published(ctx, r)
	s.early.settle()
	s.sound(r, d)
	s.failpoint(FailCommitDone)
	return r.snap.ID, nil
}

// committing is the key, in the context that a commit gives to its contents, of the Snapshotter whose commit it is.
type committing struct{}

// lockStore takes the store's shared lock, and over what others did in the store. It needs
// s.write.
func (s *Snapshotter) lockStore(ctx context.Context) (lock *store.Lock, unlock func(), err error) {
	return s.lockStoreBy(ctx, s.store.Lock)
}

// lockStoreBy is lockStore with a lock of another kind.
func (s *Snapshotter) lockStoreBy(ctx context.Context, take func(context.Context) (*store.Lock, error)) (lock *store.Lock, unlock func(), err error) {
	if err := s.store.Available(ctx); err != nil {
		return nil, nil, err
	}
	if lock, err = take(ctx); err != nil {
		return nil, nil, err
	}
	unlock = func() {
		if uerr := lock.Unlock(); uerr != nil {
			s.log.Warn("store lock not removed", "err", uerr)
		}
	}
	if err := s.refreshLocked(ctx); err != nil {
		unlock()
		return nil, nil, err
	}
	return lock, unlock, nil
}

// attempt is one try to make a snapshot.
type attempt struct {
	s      *Snapshotter
	id     objects.MAC
	meta   Meta
	began  time.Time
	lock   *store.Lock
	rw     *repository.RepositoryWriter
	packer *packer

	state objects.MAC        // the name of the state that is to come
	delta *caching.ScanCache // what it will tell of
	blobs atomic.Int64       // how many, about
	// turn is held for reading while a packfile is put, and for writing while the state changes: kloset
	// looks without a lock at the state's name, for a line of its trace.
	turn sync.RWMutex

	builder *snapshot.Builder
	source  *merge    // what the Builder is played; nil in an incremental commit
	base    *snapTree // whose unchanged directories need no check; nil for none

	lostBefore uint64 // Snapshot.Lost of the base
	failures   *failures
}

// make makes a snapshot, by an incremental commit where that is possible. d is what the
// base has lost, nil for nothing.
func (s *Snapshotter) make(ctx context.Context, base ID, changes iter.Seq2[Change, error], meta Meta, f *failures, lock *store.Lock, d *damage) (*record, error) {
	var r *record
	if !base.IsZero() {
		if r = s.known(base); r == nil {
			return nil, fmt.Errorf("base %s: %w", base, ErrNoSnapshot)
		}
		if r.snap.Foreign() || d != nil {
			return s.rebuild(ctx, base, changes, meta, f, lock, d)
		}
	}
	made, err := s.incremental(ctx, r, changes, meta, f, lock)
	if !errors.Is(err, errInconsistent) && !errors.Is(err, errTooMuch) {
		return made, err
	}
	s.log.Warn("incremental commit not possible, the snapshot is made anew", "share", meta.Share, "err", err)
	return s.rebuild(ctx, base, changes, meta, f, lock, nil)
}

// rebuild makes a snapshot with kloset's Builder.
func (s *Snapshotter) rebuild(ctx context.Context, base ID, changes iter.Seq2[Change, error], meta Meta, f *failures, lock *store.Lock, d *damage) (*record, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	a, end, err := s.begin(ctx, meta, f, lock)
	if err != nil {
		return nil, err
	}
	defer end()
	b := a.builder
	a.source = &merge{
		ctx: ctx, s: s, importer: meta.importer(), now: a.time(), changes: changes,
		failed: a.packer.failed, damage: d, exists: s.committed, failures: f,
	}
	if !base.IsZero() {
		if err := a.useBase(b, base); err != nil {
			return nil, err
		}
	}
	if err := a.play(ctx, b); err != nil {
		return nil, err
	}
	if err := a.indexFailures(b.Header); err != nil {
		return nil, err
	}
	return a.publish(b)
}

// begin readies an attempt; end gives up what it holds.
func (s *Snapshotter) begin(ctx context.Context, meta Meta, f *failures, lock *store.Lock) (a *attempt, end func(), err error) {
	a = &attempt{s: s, id: objects.RandomMAC(), meta: meta, failures: f, lock: lock, began: time.Now()}
	a.state = a.id
	// The delta of the state, in memory. The Builder makes itself another one that it
	// leaves empty.
	if a.delta, err = s.repo.AppContext().GetCache().Scan(objects.RandomMAC()); err != nil {
		return nil, nil, fmt.Errorf("state delta: %w", err)
	}
	a.rw = s.repo.NewRepositoryWriter(a.delta, a.state, repository.DefaultType, "")
	a.rw.PackerManager.Wait() // ends kloset's own packer
	a.packer = newPacker(priority(meta), s.store.Encode, s.repo.GetMACHasher, a.putPackfile, s.failpoint)
	a.packer.size = s.packSize
	a.rw.PackerManager = a.packer
	s.uncommitted.Store(&uncommitted{repo: s.repo, deltas: []*caching.ScanCache{a.delta}})
	if err := s.early.adopt(ctx, a.take); err != nil {
		s.uncommitted.Store(nil)
		a.packer.Wait()
		return nil, nil, errors.Join(err, a.delta.Close())
	}
	// What the Builder does after it has read everything cannot be stopped, but it is
	// quick once nothing is packed any more.
	stop := context.AfterFunc(ctx, func() { a.packer.fail(context.Canceled) })
	end = func() {
		stop()
		s.uncommitted.Store(nil)
		a.packer.Wait()
		_ = a.delta.Close() // in memory
	}
	if a.builder, err = snapshot.CreateWithRepositoryWriter(a.rw, a.options(), a.id); err != nil {
		end()
		return nil, nil, store.Unavailable("begin snapshot", err)
	}
	giveUp := end
	return a, func() { _ = a.builder.Close(); giveUp() }, nil // as deferred before: it has nothing to say
}

func (a *attempt) time() time.Time {
	if a.meta.Time.IsZero() {
		return a.began.UTC()
	}
	return a.meta.Time.UTC()
}

func (a *attempt) options() *snapshot.BuilderOptions {
	m := a.meta
	var tags []string
	for _, user := range m.Users {
		tags = append(tags, "user="+user)
	}
	for _, protocol := range m.Protocols {
		tags = append(tags, "protocol="+protocol)
	}
	if m.Reason != "" {
		tags = append(tags, "reason="+m.Reason)
	}
	if m.Source.Location != "" {
		tags = append(tags, LocationTag+m.Source.Location)
	}
	tags = append(tags, m.Tags...)
	const unset = "default" // as kloset itself fills these in
	return &snapshot.BuilderOptions{
		Name: m.Share, Dataset: m.Share, Job: importerType, Tags: tags,
		Category: unset, Environment: unset, Perimeter: unset,
		// With checkpoints a ticker writes states in the middle of the commit.
		NoCheckpoint: true, NoXattr: true,
	}
}

// pulled reports whether the snapshot is one of a source.
func (m *Meta) pulled() bool { return m.Source.Type != "" }

// importer is what the header names as the origin of the tree.
func (m *Meta) importer() header.Importer {
	if !m.pulled() {
		return header.Importer{Type: importerType, Origin: m.Share, Directory: "/"}
	}
	return header.Importer{Type: m.Source.Type, Origin: m.Source.Origin, Directory: "/"}
}

// useBase makes the base the tree that the changes apply to and, if it is ours, the cache
// of what need not be read again. Entries of foreign snapshots may have what an importer
// cannot repeat (extended attributes), and the Builder would then point to entries that it
// has not written.
func (a *attempt) useBase(b *snapshot.Builder, base ID) error {
	r := a.s.known(base)
	if r == nil {
		return fmt.Errorf("base %s: %w", base, ErrNoSnapshot)
	}
	t, err := a.s.tree(r)
	if err != nil {
		return fmt.Errorf("base %s: %w", base, err)
	}
	a.source.base = t
	a.lostBefore = r.snap.Lost
	if r.snap.Foreign() || t.dirpack == nil || a.source.damage.spoilsIndexes() {
		return nil
	}
	cache, err := vfs.NewFilesystemWithCache(a.s.repo, r.vfs.Root, r.vfs.Xattrs, r.vfs.Errors, t.dirpack)
	if err != nil {
		return fmt.Errorf("base %s: %w", base, readError("index", err))
	}
	b.WithVFSCache(cache)
	a.base = t
	return nil
}

// play feeds the new tree to the Builder and makes sure that all of it arrived.
func (a *attempt) play(ctx context.Context, b *snapshot.Builder) error {
	src, err := snapshot.NewSource(ctx, a.source)
	if err != nil {
		return fmt.Errorf("source: %w", err)
	}
	err = b.Backup(src)
	// The first of these is the cause of the others, and the Builder knows the least.
	if perr := a.packer.failed(); perr != nil && !errors.Is(perr, context.Canceled) {
		return perr
	}
	if cerr := a.source.contentError(); cerr != nil {
		return cerr
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if err != nil {
		return fmt.Errorf("build: %w", err)
	}
	return a.verify(b.Header)
}

// verify compares what the Builder has counted with what it was given.
func (a *attempt) verify(h *header.Header) error {
	if len(h.Sources) != 1 {
		return fmt.Errorf("build: %d sources", len(h.Sources))
	}
	d, below := &h.Sources[0].Summary.Directory, &h.Sources[0].Summary.Below
	if n, sent := d.Errors+below.Errors, a.source.counted.Load(); n != sent {
		return fmt.Errorf("build: kloset noted %d errors of %d", n, sent)
	}
	files, dirs := d.Files+below.Files, d.Directories+below.Directories+1 // the root
	if files != a.source.files.Load() || dirs != a.source.dirs.Load() {
		return fmt.Errorf("build: %d files and %d directories arrived of %d and %d",
			files, dirs, a.source.files.Load(), a.source.dirs.Load())
	}
	return nil
}

// indexFailures puts the index of failures in place of the Builder's, which lacks those of
// the root whose names begin with byte 0xff.
func (a *attempt) indexFailures(h *header.Header) error {
	w := a.s.newWriter(a.rw, a.packer, a.s.committed)
	mac, err := a.failures.index(a.s, w)
	w.close()
	if err != nil {
		return err
	}
	h.Sources[0].VFS.Errors = mac
	return nil
}

// publish writes the header, the last packfiles and, when all is durable, the state.
func (a *attempt) publish(b *snapshot.Builder) (*record, error) {
	a.fillHeader(b.Header)
	return a.put(b)
}

// put is publish with a header that is complete.
func (a *attempt) put(b *snapshot.Builder) (*record, error) {
	a.s.failpoint(FailHeaderBefore)
	if _, err := b.PutSnapshot(); err != nil {
		return nil, fmt.Errorf("header: %w", err)
	}
	a.s.failpoint(FailHeaderAfter)
	if err := a.packer.finish(); err != nil {
		return nil, err
	}
	// The record first: a header that cannot be read back must not be published.
	r, err := newRecord(b.Header)
	if err != nil {
		return nil, fmt.Errorf("header: %w", err)
	}
	if a.source != nil {
		if err := a.verifyDirs(r); err != nil {
			return nil, err
		}
	}
	if err := a.lock.Valid(); err != nil {
		return nil, err
	}
	r.state = a.state
	a.s.failpoint(FailStatePutBefore)
	if err := a.rw.CommitTransaction(a.state); err != nil {
		return nil, errors.Join(store.Unavailable("state", err), a.s.store.DropState(a.state))
	}
	a.s.failpoint(FailStatePutAfter)
	return r, nil
}

func (a *attempt) fillHeader(h *header.Header) {
	m := a.meta
	h.Timestamp = a.time()
	h.Duration = time.Since(a.began)
	h.SetContext(keyGateway, m.GatewayID)
	h.SetContext(keyShare, m.ShareID)
	h.SetContext(keySequence, strconv.FormatUint(m.Sequence, 10))
	if !m.Parent.IsZero() {
		h.SetContext(keyParent, m.Parent.String())
	}
	h.SetContext(keyJournal, strconv.FormatUint(m.Journal, 10))
	h.SetContext(keySuffix, strconv.Itoa(m.Suffix))
	lost := m.LeftOut
	if a.source != nil {
		lost += a.source.damage.count()
	}
	if lost > 0 {
		h.Tags = append(h.Tags, "lost="+strconv.FormatUint(lost, 10))
	}
	if !m.pulled() { // a pull has listed all: it has what its base had lost, or says why not
		lost += a.lostBefore
	}
	if lost > 0 {
		h.SetContext(keyLost, strconv.FormatUint(lost, 10))
	}
	if n := a.failures.total; n > 0 {
		h.SetContext(keyErrors, strconv.FormatUint(n, 10))
	}
}

// published makes a snapshot that is in the store known to this process.
func (s *Snapshotter) published(ctx context.Context, r *record) {
	s.ingested(ctx, r.state)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.records[r.snap.ID] = r
	s.standIn(r)
	s.insert(r)
}

// ingested makes a state that is in the store part of kloset's index.
func (s *Snapshotter) ingested(ctx context.Context, id objects.MAC) {
	if err := s.store.Ingest(id); err != nil {
		// The state exists all the same; reading the states again finds it.
		err = errors.Join(err, s.store.DropState(id), s.store.Refresh(ctx))
		s.log.Warn("state not ingested at once", "state", ID(id).String(), "err", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.states != nil {
		s.states[id] = struct{}{}
	}
}

// Check runs kloset's own check on a snapshot, which reads all directories, objects and chunks, and reads what that leaves out:
// every index and all that it names. Each is compared with its MAC.
func (s *Snapshotter) Check(ctx context.Context, id ID) (err error) {
	v, err := newVerification(s)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, v.close()) }()
	return v.check(ctx, id)
}

// verification is checks of several snapshots: what they have in common is read once.
type verification struct {
	s      *Snapshotter
	cache  *caching.CheckCache
	forget func() // what was found to be bad: kloset would take what could not be read for damaged the next time
	index  *indexCheck
	// patience bounds how often it asks for what it is not given; nil does not.
	patience *store.Patience
}

func newVerification(s *Snapshotter) (*verification, error) {
	cache, forget, err := store.NewCheckCache()
	if err != nil {
		return nil, fmt.Errorf("check cache: %w", err)
	}
	return &verification{s: s, cache: cache, forget: forget, index: newIndexCheck(s)}, nil
}

func (v *verification) close() error { return v.cache.Close() }

// check reads a snapshot, from the store. Errors: ErrNoSnapshot; ErrUnavailable, with ErrUnread when the store can be
// reached all the same, which says nothing of what it holds; that of ctx. All others are damage, also when something else was unread.
func (v *verification) check(ctx context.Context, id ID) error {
	r, err := v.s.record(ctx, id)
	if err != nil {
		return err
	}
	id = r.snap.ID
	parallel := cores()
	if background.Is(ctx) {
		parallel = 1 // what kloset starts is not in the background
	}
	repo, done, err := v.s.store.Afresh(ctx, parallel, v.patience)
	if err != nil {
		return readError("snapshot "+id.String(), err)
	}
	err = v.checkBy(repo, id)
	indexes := v.checkIndexes(ctx, repo, r) // whatever err is: it may name more of what is damaged
	err = cmp.Or(err, indexes)
	unread := done()
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil: // which kloset takes for damage
		v.forget()
		err = ctx.Err()
	case unread != nil: // likewise
		v.forget()
		err = v.s.unread(ctx, unread)
		if errors.Is(err, ErrUnread) && errors.Is(indexes, store.ErrDamaged) && !errors.Is(indexes, ErrUnavailable) {
			err = fmt.Errorf("%w; and beside that: %s", indexes, err.Error()) // which does not change what is proven
		}
	default:
		if away := v.s.away(ctx); away != nil {
			v.forget()
			err = away
		}
	}
	if errors.Is(err, ErrUnavailable) && !errors.Is(err, ErrUnread) { // so what seemed to be missing may be there
		clear(v.index.bad)
	}
	return fmt.Errorf("check snapshot %s: %w", id, err)
}

// checkIndexes reads what kloset's check leaves out, unless nothing is read any more.
func (v *verification) checkIndexes(ctx context.Context, repo *repository.Repository, r *record) (err error) {
	if ctx.Err() == nil && v.patience.Over() == nil {
		err = v.index.check(ctx, repo, r, v.patience)
	}
	return err
}

func (v *verification) checkBy(repo *repository.Repository, id ID) error {
	snap, err := snapshot.Load(repo, objects.MAC(id))
	if err != nil {
		return fmt.Errorf("%w: header: %w", store.ErrDamaged, err)
	}
	defer snap.Close()
	snap.SetCheckCache(v.cache)
	return snap.Check("/", &snapshot.CheckOptions{})
}

// away says why the store cannot be reached; nil when it can, also with a configuration that is damaged.
func (s *Snapshotter) away(ctx context.Context) error {
	if err := s.store.AvailableNow(ctx); err != nil && !errors.Is(err, store.ErrDamaged) {
		return err
	}
	return nil
}

// unread tells a store that is away from one of which something could not be read: ErrUnread.
func (s *Snapshotter) unread(ctx context.Context, err error) error {
	if away := s.away(ctx); away != nil {
		return away
	}
	return fmt.Errorf("%w: %w", ErrUnread, err)
}

// refusedMost is how often something is read again that somebody else's tries have kept from being read, each of which takes longer
// than one more.
const refusedMost = 32

// tried has something read again that was not asked for, as somebody has found a moment ago that the store is out of reach, while
// it is not: that was of one file.
func (s *Snapshotter) tried(ctx context.Context, read func() error) error {
	err := read()
	for n := 0; n < refusedMost && errors.Is(err, store.ErrNotTried) && s.away(ctx) == nil; n++ { // which has others tried again as well
		err = read()
	}
	return err
}

// asDamage is for whoever proves what the store holds: that something is missing from a store which is there is damage to
// them, and to others it is as if the store were away. So is a bad sector of a disk of this machine, which a
// scrub takes for damage, too: nobody reads it another time.
func (s *Snapshotter) asDamage(ctx context.Context, err error) error {
	missing := isLost(err) || errors.Is(err, repository.ErrPackfileNotFound)
	if ctx.Err() != nil || !missing && (s.store.Remote() || !errors.Is(err, syscall.EIO)) {
		return err
	}
	if away := s.away(ctx); away != nil {
		return away
	}
	if !missing {
		return fmt.Errorf("%w: the disk cannot read a part of it", store.ErrDamaged)
	}
	return fmt.Errorf("%w: a part of it is missing", store.ErrDamaged)
}
