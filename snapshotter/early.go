package snapshotter

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/PlakarKorp/kloset/caching"
	"github.com/PlakarKorp/kloset/objects"
	"github.com/PlakarKorp/kloset/packfile"
	"github.com/PlakarKorp/kloset/repository"
	"github.com/PlakarKorp/kloset/repository/state"
	"github.com/PlakarKorp/kloset/resources"

	"github.com/snapgate/gateway/internal/background"
)

// earlyPause is how long nothing is put into the store ahead of a commit after that has
// failed: a store that is away, full or being maintained stays so for a while.
const earlyPause = 10 * time.Second

// earlyWriters is how many packfiles are written at a time ahead of a commit. While an
// upload arrives, each flush of one waits for much of the upload to reach the disk, too, and
// they share that wait. Each has a packfile in memory.
const earlyWriters = 3

var (
	// errEarlyPause is what an Ingest fails with during earlyPause.
	errEarlyPause = errors.New("not tried again so soon after a failure")
	// errEarlyGone is the cause of what somebody has removed.
	errEarlyGone = errors.New("packfiles are gone that were put ahead of a commit")
)

// early puts chunks into the store ahead of the commit that will need them. No state tells
// of them until a commit has taken them over (adopt), so that nobody else's view of the
// store changes, and no lock is held in between: maintenance may remove them, and the commit
// looks before it relies on them. Safe for concurrent use.
type early struct {
	s *Snapshotter

	turn sync.Mutex // one seals or adopts at a time; before use and mu
	// use is held for reading while a chunk is put into the open batch, and for writing
	// while another one takes its place.
	use    sync.RWMutex
	closed bool   // guarded by use
	open   *batch // guarded by use: nil for none

	mu      sync.Mutex               // guards the rest; a leaf
	batches []*batch                 // the open one among them
	adopted []*batch                 // by the last commit that was tried
	retry   time.Time                // when to try again after a failure
	cause   error                    // of that failure
	losses  int                      // how often something that was put was lost
	loss    error                    // the cause of the last time
	gone    map[objects.MAC]struct{} // packfiles of batches that are not in the store any more
}

// batch is a row of packfiles that no state tells of yet. It ends with a commit, or when the
// store fails.
type batch struct {
	id     objects.MAC
	delta  *caching.ScanCache // the places of its blobs, of packfiles that are in the store
	packer *packer
	w      *writer
	blobs  atomic.Int64 // in packfiles
}

// put puts a chunk. It waits when there is more to write than memory is meant for. For by see putChunk.
func (e *early) put(mac objects.MAC, data []byte, by *cutter) error {
	for {
		e.use.RLock()
		b := e.open
		if b == nil {
			e.use.RUnlock()
			if err := e.begin(); err != nil {
				return err
			}
			continue
		}
		err := b.packer.failed()
		if err == nil {
			b.w.putChunk(mac, data, false, by)
		}
		e.use.RUnlock()
		if err != nil {
			e.failed(b)
		} else if b.blobs.Load() >= e.s.rotateBlobs {
			e.end(b)
		}
		return err
	}
}

// begin opens a batch when none is open.
func (e *early) begin() error {
	e.use.Lock()
	defer e.use.Unlock()
	e.mu.Lock()
	pause, cause := time.Now().Before(e.retry), e.cause
	e.mu.Unlock()
	switch {
	case e.closed:
		return context.Canceled
	case e.open != nil:
		return nil
	case pause:
		return fmt.Errorf("%w: %w", errEarlyPause, cause)
	}
	b := &batch{id: objects.RandomMAC()}
	var err error
	if b.delta, err = e.s.repo.AppContext().GetCache().Scan(b.id); err != nil {
		return fmt.Errorf("state delta: %w", err)
	}
	rw := e.s.repo.NewRepositoryWriter(b.delta, b.id, repository.DefaultType, "")
	rw.PackerManager.Wait() // ends kloset's own packer
	b.packer = newPacker(background.Do, e.s.store.Encode, e.s.repo.GetMACHasher,
		func(p packfile.Packfile) error { return e.write(b, rw, p) }, e.failpoint)
	b.packer.size = e.s.packSize
	b.packer.room = e.s.packSize + e.s.packSize/8
	for range earlyWriters - 1 {
		b.packer.writer()
	}
	b.w = e.s.newWriter(rw, b.packer, e.has)
	e.open = b
	e.mu.Lock()
	e.batches = append(e.batches, b)
	e.mu.Unlock()
	return nil
}

// failpoint tells the packer's failpoints from those of a commit.
func (e *early) failpoint(name string) {
	switch name {
	case FailPackfilePutBefore:
		name = FailEarlyPutBefore
	case FailPackfilePutAfter:
		name = FailEarlyPutAfter
	}
	e.s.failpoint(name)
}

// write writes a packfile durably, under a lock of its own: while somebody maintains the
// store, nothing is added to it.
func (e *early) write(b *batch, rw *repository.RepositoryWriter, p packfile.Packfile) error {
	ctx := context.Background() // it is short, and close waits for it
	if err := e.s.store.Available(ctx); err != nil {
		return err
	}
	lock, err := e.s.store.Lock(ctx)
	if err != nil {
		return err
	}
	if err = rw.PutPackfile(p); err == nil {
		b.blobs.Add(int64(len(p.Entries())))
	}
	if uerr := lock.Unlock(); uerr != nil {
		e.s.log.Warn("store lock not removed", "err", uerr)
	}
	return err
}

// has reports whether a blob need not be put: it is in the store already, or in a packfile
// of a batch.
func (e *early) has(typ resources.Type, mac objects.MAC) bool {
	e.mu.Lock()
	batches, gone := e.batches, e.gone
	e.mu.Unlock()
	for _, b := range batches {
		for _, buf := range b.delta.GetDelta(typ, mac) {
			if len(gone) == 0 {
				return true
			}
			entry, err := state.DeltaEntryFromBytes(buf)
			if _, lost := gone[entry.Location.Packfile]; err == nil && !lost {
				return true
			}
		}
	}
	return e.s.store.Has(typ, mac)
}

// failed ends a batch that cannot be written. What it has written stays known.
func (e *early) failed(b *batch) {
	e.pause(b.packer.failed())
	e.end(b)
}

// end ends a batch: a commit takes over one after the other.
func (e *early) end(b *batch) {
	e.turn.Lock()
	defer e.turn.Unlock()
	e.seal(b)
}

func (e *early) pause(cause error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.retry, e.cause = time.Now().Add(earlyPause), cause
	e.losses, e.loss = e.losses+1, cause
}

// lost counts how often something that was put did not get into the store, or did not stay there,
// and returns the last cause. Commits look for each chunk; who does not has to look here.
func (e *early) lost() (n int, cause error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.losses, e.loss
}

// seal ends a batch when it is the open one, nil for any: what it has in memory is written,
// or lost. It needs turn.
func (e *early) seal(b *batch) {
	e.use.Lock()
	if b == nil {
		b = e.open
	}
	if b == nil || b != e.open {
		e.use.Unlock()
		return
	}
	e.open = nil
	e.use.Unlock()
	b.w.close()
	// Which blobs are in the store is in the delta, whatever went wrong.
	if err := b.packer.finish(); err != nil {
		e.pause(err)
		e.s.log.Info("chunks were not put into the store ahead of a commit", "err", err)
	}
}

// adopt makes everything that was put ahead of a commit, by whomever, part of its state, as
// far as it is still in the store: what nobody needs after all is garbage then that
// maintenance knows of. The commit has a lock on the store and has taken over its states.
// Until settle is called, the next commit does the same again.
//
// take gets one batch after the other, and what of it is live; done says that a state which
// tells of those so far is in the store, and known here.
func (e *early) adopt(ctx context.Context, take func(b *batch, live map[objects.MAC]struct{}) (done bool, err error)) error {
	e.turn.Lock()
	defer e.turn.Unlock()
	e.seal(nil)
	e.use.RLock()
	open := e.open
	e.use.RUnlock()
	e.mu.Lock()
	batches := slices.DeleteFunc(slices.Clone(e.batches), func(b *batch) bool { return b == open })
	e.adopted = batches
	e.mu.Unlock()
	var macs []objects.MAC
	for _, b := range batches {
		for mac := range b.delta.GetPackfiles() {
			macs = append(macs, mac)
		}
	}
	if len(macs) == 0 {
		return nil
	}
	live, err := e.s.store.Live(ctx, macs)
	if err != nil {
		return err
	}
	if n := len(macs) - len(live); n > 0 {
		e.s.log.Info("packfiles that were put into the store ahead of a commit are gone", "gone", n)
		e.lose(macs, live)
	}
	for i, b := range batches {
		done, err := take(b, live)
		if err != nil {
			return err
		}
		if done {
			e.forget(batches[:i+1])
		}
	}
	e.s.failpoint(FailEarlyAdopt)
	return nil
}

// forget lets go of batches of which a state tells that is in the store and known here.
func (e *early) forget(done []*batch) {
	e.mu.Lock()
	defer e.mu.Unlock()
	// A new slice: has goes through the old one.
	e.batches = slices.DeleteFunc(slices.Clone(e.batches), func(b *batch) bool { return slices.Contains(done, b) })
	if len(e.batches) == 0 {
		e.gone = nil
	}
}

// lose notes packfiles that are not live, so that what was in them is put again.
func (e *early) lose(macs []objects.MAC, live map[objects.MAC]struct{}) {
	e.mu.Lock()
	defer e.mu.Unlock()
	gone := make(map[objects.MAC]struct{}) // a new one: has looks into the old one
	maps.Copy(gone, e.gone)
	fresh := false
	for _, mac := range macs {
		if _, ok := live[mac]; ok {
			continue
		}
		if _, known := gone[mac]; !known {
			gone[mac], fresh = struct{}{}, true
		}
	}
	e.gone = gone
	if fresh { // of the others has knows, since they were lost
		e.losses, e.loss = e.losses+1, errEarlyGone
	}
}

// copyTo copies what a batch has in live packfiles to the delta of a state.
func (b *batch) copyTo(id objects.MAC, into *caching.ScanCache, live map[objects.MAC]struct{}) (n int64, err error) {
	for mac := range b.delta.GetPackfiles() {
		if _, ok := live[mac]; !ok {
			continue
		}
		entry := state.PackfileEntry{StateID: id, Packfile: mac, Timestamp: time.Now()}
		if err := into.PutPackfile(mac, entry.ToBytes()); err != nil {
			return n, err
		}
	}
	for _, buf := range b.delta.GetDeltas() {
		entry, err := state.DeltaEntryFromBytes(buf)
		if err != nil {
			return n, err
		}
		if _, ok := live[entry.Location.Packfile]; !ok {
			continue
		}
		if err := into.PutDelta(entry.Type, entry.Blob, entry.Location.Packfile, buf); err != nil {
			return n, err
		}
		n++
	}
	return n, nil
}

// settle forgets what the last commit has adopted: its state is in the store and known here.
func (e *early) settle() {
	e.mu.Lock()
	done := e.adopted
	e.adopted = nil
	e.mu.Unlock()
	e.forget(done)
}

// close ends everything; what is in memory is dropped.
func (e *early) close() {
	e.turn.Lock()
	defer e.turn.Unlock()
	e.use.Lock()
	b := e.open
	e.open, e.closed = nil, true
	e.use.Unlock()
	if b != nil {
		b.packer.fail(context.Canceled)
		b.w.close()
		b.packer.end()
	}
}

// Ingest puts the chunks of a file that is still arriving into the store, for the commit
// that will have it (Change.Ingested). What it has put is of use for others as well, and
// harmless when there is no such commit. It is for one goroutine at a time, and belongs to
// the Snapshotter that has made it.
//
// It needs no goroutine, nor much memory, while nothing arrives: a file is cut into the same
// chunks wherever one takes it up again, as long as that is where a chunk begins.
type Ingest struct {
	s    *Snapshotter
	seen io.Writer
	sum  *contentSum
	file *fileObject
	done bool
	once bool // nobody will write a part of the file

	cutter *cutter // nil while resting
	src    source
	most   int64 // length of a chunk, at most; 0 while not known
}

// NewIngest makes an Ingest. The bytes of the file are written to seen, in order, as they are
// put: so it can be told which file they are.
func (s *Snapshotter) NewIngest(seen io.Writer) *Ingest {
	return &Ingest{s: s, seen: seen, sum: s.newSum(nil), file: newFileObject()}
}

// Offset is how many bytes of the file are in chunks.
func (g *Ingest) Offset() int64 { return g.file.size }

// Feed goes on as far as it is certain where chunks end, when size bytes of r's file are
// there, and to the end when that is the whole file. They must not change any more. After an
// error the Ingest is of no use; the store may be away, or somebody maintain it.
func (g *Ingest) Feed(ctx context.Context, r io.ReaderAt, size int64, whole bool) error {
	if g.done || size < g.file.size {
		return fmt.Errorf("ingest of %d bytes after %d: %w", size, g.file.size, io.ErrShortBuffer)
	}
	if err := g.wake(); err != nil {
		return err
	}
	g.src.r, g.src.size = r, size
	for whole || size-g.file.size >= g.most {
		if err := ctx.Err(); err != nil {
			return err
		}
		piece, err := g.cutter.next()
		if err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		if len(piece) > 0 || size == 0 { // of nothing, one piece without a byte, as kloset has it
			if err := g.add(piece); err != nil {
				return err
			}
		}
		if err != nil {
			return g.end(size, whole)
		}
	}
	return nil
}

func (g *Ingest) add(piece []byte) error {
	g.sum.write(piece, g.file.size)
	if _, err := g.seen.Write(piece); err != nil {
		return err
	}
	c := objects.NewChunk()
	c.ContentMAC, c.Length = g.s.repo.ComputeMAC(piece), uint32(len(piece))
	g.file.add(c, piece)
	return g.s.early.put(c.ContentMAC, piece, g.cutter)
}

// end completes the object of a file of a size.
func (g *Ingest) end(size int64, whole bool) error {
	if !whole || g.file.size != size {
		return sizeError(size, g.file.size)
	}
	mac, err := g.sum.finish(size)
	if err != nil {
		return err
	}
	if !g.once {
		g.s.sums.keep(mac, g.sum.sums, mac)
	}
	g.file.obj.ContentMAC, g.done = mac, true
	g.Rest()
	return nil
}

// wake makes a cutter for what comes next.
func (g *Ingest) wake() (err error) {
	if g.cutter != nil {
		return nil
	}
	if g.cutter, err = newCutter(&g.s.chunking, &g.s.buffers); err != nil {
		return err
	}
	g.src = source{at: g.file.size}
	g.cutter.reset(&g.src)
	g.most = int64(g.cutter.max)
	return nil
}

// Rest gives back the memory that is needed while bytes are fed. Feed may go on later.
func (g *Ingest) Rest() {
	if g.cutter == nil {
		return
	}
	g.cutter.release()
	g.cutter, g.src = nil, source{}
}

// source reads what is there of a file.
type source struct {
	r        io.ReaderAt
	at, size int64
}

func (s *source) Read(p []byte) (int, error) {
	if s.at >= s.size {
		return 0, io.EOF
	}
	n, err := s.r.ReadAt(p[:min(int64(len(p)), s.size-s.at)], s.at)
	s.at += int64(n)
	if n > 0 && errors.Is(err, io.EOF) {
		err = nil
	}
	return n, err
}

// ingested makes the object of a file from the chunks that were put ahead of the commit. It
// is false when one of them is not in the store any more, as far as that is known, or when
// they are not of the file.
func (c *increment) ingested(in *ingester, ch *change) (obj object, ok bool, err error) {
	g := ch.Ingested
	if g == nil {
		return obj, false, nil
	}
	missing := g.file.missing(c.w.exists)
	if !g.done || g.s != c.s || missing > 0 || g.file.size != ch.Content.Size() {
		c.s.log.Info("a file that was put into the store while it arrived is read again",
			"share", c.meta.Share, "path", ch.Path, "missing_chunks", missing)
		return obj, false, nil
	}
	obj, err = in.putFile(ch.Path, g.file)
	return obj, err == nil, err
}

// packfiles returns those that were put and that no state tells of yet.
func (e *early) packfiles() map[objects.MAC]struct{} {
	e.mu.Lock()
	batches := e.batches
	e.mu.Unlock()
	all := make(map[objects.MAC]struct{})
	for _, b := range batches {
		for mac := range b.delta.GetPackfiles() {
			all[mac] = struct{}{}
		}
	}
	return all
}
