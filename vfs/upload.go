package vfs

import (
	"context"
	"errors"
	"io/fs"
	"sync"
	"sync/atomic"
	"time"

	"github.com/snapgate/gateway/snapshotter"
	"github.com/snapgate/gateway/vfs/internal/spool"
)

const (
	// checkpointBytes is how much new data makes a checkpoint due: what a power loss can
	// take from a partial. At 100 MB/s that is a disk flush every third of a second.
	checkpointBytes = 32 << 20
	// checkpointEvery is the age at which less than that is due, too: resuming matters most
	// on slow lines, which send 32 MiB in minutes.
	checkpointEvery = 3 * time.Second
	// noteAfter is how long a small overwrite may take before the journal is told of it.
	noteAfter = time.Second
	// noteRetry is when it is told again of one that it has not taken.
	noteRetry = 10 * time.Second
	// deadAfter is how long a handle must have been quiet for another session of the same
	// principal to see its upload as a partial: a client that reconnects after its line
	// broke asks for the size long before the server learns that the old line is dead.
	deadAfter = 10 * time.Second
	// copyPiece is the unit in which bytes are copied on the server's side.
	copyPiece = 1 << 20
	// defaultFileMode and defaultDirMode are for clients that do not say.
	defaultFileMode fs.FileMode = 0o644
	defaultDirMode  fs.FileMode = 0o755
)

// upload is a file on its way in: what write handles write to. Handles of one session
// that open the same name without truncation share an upload, as they would share a file;
// a resume by another session of the principal takes it away from all of them.
//
// Lock order: upload.mu, then the share's sequencer (do), then uploads.mu. The sequencer
// calls name and nothing else of an upload, so waiting for it under mu is safe.
type upload struct {
	share     *share
	table     *uploads
	at        Name // guarded by table.mu
	root      Name // of the owner's mount; missing parents of it are made
	user      string
	started   time.Time
	onto      bool // above a complete file, which it follows when that is renamed; changed with table.mu held
	exclusive bool // publishes under a free name only; guarded by table.mu
	resent    bool // its principal has published the name since it was opened; guarded by table.mu

	owner    atomic.Pointer[Session] // changed with mu held
	size     atomic.Int64            // logical size so far
	written  atomic.Int64            // bytes that went to the spool
	replaced int64                   // size of the file that it replaces; guarded by share.claims.mu
	claimed  int64                   // of the quota; likewise
	unsaved  atomic.Int64            // of them, since the last checkpoint or fsync
	saved    atomic.Int64            // size of the partial that is journalled, or was to be
	quiet    atomic.Int64            // Unix nanoseconds of the last write
	savedAt  atomic.Int64            // Unix nanoseconds of the last checkpoint or fsync, of the start at first
	spoolNo  atomic.Uint64           // the spool file, 0 while there is none on disk
	saving   atomic.Bool             // a checkpoint is under way
	rewrites atomic.Bool             // it does not only add to the end of a complete file that has its name
	noted    atomic.Bool             // the journal says so, or is about to
	unnoted  atomic.Bool             // that has failed
	late     *time.Timer             // calls noteLate; set by uploads.add, reset by noteSoon

	background sync.WaitGroup // the checkpoint; started with mu held for reading

	// mu is held for reading while bytes are read and written, and for writing by what
	// must be alone: truncation, takeover and the end. It is held across I/O by design:
	// the end of an upload must wait for the writes that came before it.
	mu      sync.RWMutex
	state   uploadState
	handles map[*File]bool // that may use it
	changed bool           // there is something to publish
	file    *spool.File    // nil until the first change
	ahead   *ahead         // puts file's bytes into the store while they arrive; nil for none
	base    uploadBase
	done    *content // once published
	over    *seen    // all that it may be published over; nil: whatever is there
	// newest is the partial that was journalled last. The sequencer has it while a record is under way, which
	// mu is held for, or background waited for; who holds mu for writing has it else.
	newest partial
	// doubtful says that its publication has failed, and that the journal may hold it.
	doubtful bool

	meta   sync.Mutex // guards the rest; a leaf
	attr   snapshotter.Attr
	mtime  bool     // attr.ModTime was set by the client
	set    attrMask // attributes that the client has set
	failed error    // of a write: the upload cannot be completed any more
}

type uploadState uint8

const (
	uploadOpen uploadState = iota
	uploadPublished
	uploadEnded // a partial or nothing is left
)

// uploadBase is the version below an upload that was opened without truncation.
type uploadBase struct {
	where   sync.Mutex // guards ref and content for needs, beside upload.mu; a leaf
	ref     baseRef    // where a snapshot has it
	content *content   // or where it is else
	limit   int64      // how many of its bytes still count

	mu     sync.Mutex // guards reader; held while it is opened
	reader Reader
}

func (b *uploadBase) exists() bool { return b.ref.path != "" || b.content != nil }

// is notes where the version below is. upload.mu is held for writing, or nobody knows the upload yet.
func (b *uploadBase) is(ref baseRef, c *content) {
	b.where.Lock()
	defer b.where.Unlock()
	b.ref, b.content = ref, c
}

// needs is what is has noted, for who cannot wait for upload.mu.
func (b *uploadBase) needs() (baseRef, *content) {
	b.where.Lock()
	defer b.where.Unlock()
	return b.ref, b.content
}

// newUpload makes an upload without an owner and without bytes.
func newUpload(s *share, user string) *upload {
	u := &upload{share: s, user: user, started: time.Now().UTC(), handles: map[*File]bool{}}
	u.attr.Mode = defaultFileMode
	now := u.started.UnixNano()
	u.quiet.Store(now)
	u.savedAt.Store(now)
	return u
}

// above makes u continue a complete version.
func (u *upload) above(ctx context.Context, t *tree, n *node) error {
	if ref := storedRef(t, n); ref.path != "" {
		u.base.is(ref, nil)
	} else {
		u.base.is(ref, n.content)
	}
	u.base.limit = n.size
	u.size.Store(n.size)
	return u.pinBase(ctx)
}

// pinBase opens a version below that no snapshot has. Other versions can be opened when
// they are needed; this one's bytes go with it when it is deleted as a probe or replaced
// under a temporary name, unless they are open.
func (u *upload) pinBase(ctx context.Context) error {
	if u.base.content == nil {
		return nil
	}
	_, err := u.openBase(ctx)
	return err
}

func (u *upload) spoolID() spool.ID { return spool.ID(u.spoolNo.Load()) }

// dead reports whether nobody has written for a while.
func (u *upload) dead(now time.Time) bool {
	return now.UnixNano()-u.quiet.Load() > int64(deadAfter)
}

// enter takes mu for reading when f still owns the upload.
func (u *upload) enter(f *File) error {
	u.mu.RLock()
	if err := u.usable(f); err != nil {
		u.mu.RUnlock()
		return err
	}
	return nil
}

// usable says whether f may use the upload; mu is held.
func (u *upload) usable(f *File) error {
	switch {
	case !u.handles[f]:
		return errKind("use", Name{}, KindBusy)
	case u.state != uploadOpen:
		return errKind("use", Name{}, KindClosed)
	}
	return nil
}

// join adds a handle of the session that has the upload open; false when it has ended.
func (u *upload) join(f *File) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.state != uploadOpen || u.owner.Load() != f.session {
		return false
	}
	u.handles[f] = true
	f.up, f.writer = u, true
	return true
}

// published reports whether the upload has ended as a complete version.
func (u *upload) published() bool {
	u.mu.RLock()
	defer u.mu.RUnlock()
	return u.state == uploadPublished
}

// anyHandle returns a handle by which a session may use the upload, nil when it has none.
func (u *upload) anyHandle(s *Session) *File {
	u.mu.RLock()
	defer u.mu.RUnlock()
	for f := range u.handles {
		if f.session == s {
			return f
		}
	}
	return nil
}

// change makes sure that there is a spool file and notes that there is something to
// publish.
func (u *upload) change(f *File) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	if err := u.usable(f); err != nil {
		return err
	}
	u.touch()
	return nil
}

// changes reports whether a close of the upload would be a change.
func (u *upload) changes() bool {
	u.mu.RLock()
	defer u.mu.RUnlock()
	u.meta.Lock()
	defer u.meta.Unlock()
	return u.changed || u.set != 0
}

// touch is change with mu held.
func (u *upload) touch() {
	u.changed = true
	if u.file == nil {
		u.file = u.share.spool.Create()
		u.ahead = u.share.newAhead(u.file)
	}
}

// refuseTail, with mu held, refuses to begin an update at or beyond the end of the version below when the
// principal's last overwrite of it was cut off: a client that resumes goes by the size of
// what is there, which is the old version, and would put a new tail on an old head.
func (u *upload) refuseTail(off int64) error {
	if limit := u.base.limit; limit > 0 && off >= limit && u.share.torn(context.Background(), u.user, u.owner.Load(), u.name()) {
		return errKind("write", Name{}, KindTorn)
	}
	return nil
}

// writeAt writes for its owner. It never waits for another offset.
func (u *upload) writeAt(f *File, p []byte, off int64) (int, error) {
	if off < 0 || off > spool.MaxSize-int64(len(p)) {
		return 0, errKind("write", Name{}, KindInvalid)
	}
	if len(p) == 0 {
		return 0, nil
	}
	if err := u.enter(f); err != nil {
		return 0, err
	}
	for !u.changed || u.file == nil {
		err := u.refuseTail(off)
		u.mu.RUnlock()
		if err == nil {
			err = u.change(f)
		}
		if err != nil {
			return 0, err
		}
		if err := u.enter(f); err != nil {
			return 0, err
		}
	}
	defer u.mu.RUnlock()
	if off < u.base.limit {
		u.rewrites.Store(true)
	}
	end := off + int64(len(p))
	if err := u.admit(end, int64(len(p))); err != nil {
		return 0, u.fail(err)
	}
	n, err := u.file.WriteAt(p, off)
	u.wrote(off+int64(n), n)
	u.ahead.arrived(u.size.Load())
	if err != nil {
		return n, u.fail(err)
	}
	if u.checkpointDue() && u.saving.CompareAndSwap(false, true) {
		u.background.Go(u.checkpoint)
	}
	if u.noteDue() && u.noted.CompareAndSwap(false, true) {
		u.background.Go(u.note)
	}
	return n, nil
}

// noteDue reports whether the journal should know that a complete file is being overwritten: not of
// a small file, whose record follows at once. mu is held.
func (u *upload) noteDue() bool {
	return u.rewrites.Load() && !u.noted.Load() && u.over == nil && (u.spoolNo.Load() != 0 || time.Since(u.started) >= noteAfter)
}

// noteLate notes an overwrite of which no write has told the journal, as none has come since, or the journal has
// not taken it.
func (u *upload) noteLate() {
	u.mu.RLock()
	defer u.mu.RUnlock()
	if u.state != uploadOpen {
		return
	}
	if u.unnoted.Load() {
		u.noted.Store(false)
	}
	if u.noteDue() && u.noted.CompareAndSwap(false, true) {
		u.background.Go(u.note)
	}
}

// noteSoon lets noteLate look in a while.
func (u *upload) noteSoon() { u.late.Reset(noteAfter) }

// checkpointDue reports whether enough was written, or long enough ago, to be worth a
// disk flush. What is in memory only needs none: it is quickly sent again.
func (u *upload) checkpointDue() bool {
	if u.unsaved.Load() >= checkpointBytes {
		return true
	}
	return u.spoolNo.Load() != 0 && time.Now().UnixNano()-u.savedAt.Load() >= int64(checkpointEvery)
}

// admit asks whether a write that ends at end may be spooled. Holes count as bytes: a
// commit has to read them.
func (u *upload) admit(end, n int64) error {
	if err := u.claim(end); err != nil {
		return err
	}
	return u.share.admit(max(n, end-u.base.limit-u.written.Load()))
}

func (u *upload) wrote(end int64, n int) {
	for size := u.size.Load(); end > size && !u.size.CompareAndSwap(size, end); size = u.size.Load() {
	}
	u.written.Add(int64(n))
	u.unsaved.Add(int64(n))
	u.quiet.Store(time.Now().UnixNano())
	if u.spoolNo.Load() == 0 {
		u.spoolNo.Store(uint64(u.file.ID()))
	}
}

// fail notes that a write was lost: what is there must not be published as complete.
func (u *upload) fail(err error) error {
	u.claimAtMost(u.size.Load()) // the write had claimed more
	u.meta.Lock()
	defer u.meta.Unlock()
	if u.failed == nil {
		u.failed = err
	}
	return err
}

func (u *upload) failure() error {
	u.meta.Lock()
	defer u.meta.Unlock()
	return u.failed
}

// truncate sets the logical size.
func (u *upload) truncate(ctx context.Context, f *File, size int64) error {
	if size < 0 || size > spool.MaxSize {
		return errKind("truncate", Name{}, KindInvalid)
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if err := u.usable(f); err != nil {
		return err
	}
	u.background.Wait() // a checkpoint describes what is about to change
	if size == u.size.Load() {
		return nil
	}
	if size > u.size.Load() {
		if err := u.admit(size, 0); err != nil {
			return u.fail(err)
		}
	}
	u.touch()
	if u.file.Size() > size {
		if err := u.file.Truncate(size); err != nil {
			return u.fail(err)
		}
	}
	if size < u.base.limit {
		u.base.limit = size
		u.rewrites.Store(true)
		u.noteSoon()
	}
	u.size.Store(size)
	u.claimAtMost(size)
	u.quiet.Store(time.Now().UnixNano())
	if u.saved.Load() > size {
		// The journal promises more than there is: what comes next may leave gaps.
		if err := u.resave(ctx); err != nil {
			return u.fail(err)
		}
	}
	return nil
}

// setAttr notes attributes for the publication.
func (u *upload) setAttr(set AttrSet) {
	u.meta.Lock()
	defer u.meta.Unlock()
	u.attr, u.set = set.apply(u.attr, u.set)
	u.mtime = u.mtime || set.ModTime != nil
}

// info describes the upload as its own session sees it.
func (u *upload) info(base string) Info {
	u.meta.Lock()
	defer u.meta.Unlock()
	i := Info{
		Name: base, Type: TypeFile, Mode: u.attr.Mode & modeBits, Size: u.size.Load(),
		ModTime: u.attr.ModTime, UID: u.attr.UID, GID: u.attr.GID, Links: 1, Partial: true,
	}
	if !u.mtime {
		i.ModTime = time.Unix(0, u.quiet.Load()).UTC()
	}
	return i
}

// partialInfo describes a partial.
func partialInfo(base string, size int64, at time.Time) Info {
	return Info{Name: base, Type: TypeFile, Mode: defaultFileMode, Size: size, ModTime: at, Links: 1, Partial: true}
}

// readAt reads what was written so far, and the base below it.
func (u *upload) readAt(ctx context.Context, f *File, p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, errKind("read", Name{}, KindInvalid)
	}
	u.mu.RLock()
	defer u.mu.RUnlock()
	switch {
	case u.state == uploadPublished:
		return u.readDone(ctx, p, off)
	case u.state == uploadEnded:
		return 0, errKind("read", Name{}, KindClosed)
	case u.owner.Load() != f.session || f.writer && !u.handles[f]:
		return 0, errKind("read", Name{}, KindBusy)
	}
	r := pieces{size: u.size.Load()}
	if u.file != nil {
		r.spool, r.extents = u.file, u.file.Extents()
	}
	if u.base.limit > 0 {
		base, err := u.openBase(ctx)
		if err != nil {
			return 0, err
		}
		r.base, r.baseSize = base, u.base.limit
	}
	return r.ReadAt(p, off)
}

// readDone reads the published version, for handles that outlive the upload.
func (u *upload) readDone(ctx context.Context, p []byte, off int64) (int, error) {
	r, err := u.share.openContent(ctx, u.done)
	if err != nil {
		return 0, err
	}
	n, err := r.ReadAt(p, off)
	return n, joinClose(err, r.Close())
}

// openBase opens the version below, once.
func (u *upload) openBase(ctx context.Context) (Reader, error) {
	b := &u.base
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.reader != nil {
		return b.reader, nil
	}
	var err error
	if b.content != nil {
		b.reader, err = u.share.openContent(ctx, b.content)
	} else {
		b.reader, err = u.share.openStored(ctx, b.ref)
	}
	if err != nil {
		b.reader = nil
		return nil, err
	}
	return b.reader, nil
}

func (b *uploadBase) close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.reader == nil {
		return nil
	}
	r := b.reader
	b.reader = nil
	return r.Close()
}

// takeOver makes f the owner of an upload whose handle is dead or gives way. What lies
// beyond the first gap is forgotten, as it would be in a partial, and so is what the old
// handle wanted it published over.
func (u *upload) takeOver(f *File) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.state != uploadOpen {
		return errKind("open", Name{}, KindNotExist)
	}
	u.background.Wait()
	size := u.prefix()
	if u.file != nil && u.file.Size() > size {
		if err := u.file.Truncate(size); err != nil {
			return err
		}
	}
	u.base.limit = min(u.base.limit, size)
	u.size.Store(size)
	u.claimAtMost(size)
	u.touch()
	u.share.uploads.settle(u, false)
	u.over = nil
	clear(u.handles)
	u.handles[f] = true
	u.owner.Store(f.session)
	f.up, f.writer = u, true
	u.quiet.Store(time.Now().UnixNano())
	u.meta.Lock()
	u.failed = nil
	u.meta.Unlock()
	return nil
}

// prefix is the length of what is there without a gap from the start; mu is held.
func (u *upload) prefix() int64 {
	var xs []spool.Extent
	if u.file != nil {
		xs = u.file.Extents()
	}
	return min(contiguous(xs, u.base.limit), u.size.Load())
}

// contiguous is how far extents and the first limit bytes of a base reach without a gap.
func contiguous(xs []spool.Extent, limit int64) int64 {
	end := limit
	for _, x := range xs {
		if x.Off > end {
			break
		}
		end = max(end, x.Off+x.Len)
	}
	return end
}

// joinClose keeps the plain io.EOF that io.ReaderAt wants.
func joinClose(err, closeErr error) error {
	if closeErr == nil {
		return err
	}
	return errors.Join(err, closeErr)
}
