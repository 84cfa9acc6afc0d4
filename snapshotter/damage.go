package snapshotter

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/PlakarKorp/kloset/objects"
	"github.com/PlakarKorp/kloset/repository"
	"github.com/PlakarKorp/kloset/resources"

	"github.com/snapgate/gateway/store"
)

// namedLosses bounds the paths that the log names.
const namedLosses = 100

// damage is what a base may refer to and the store has lost. A commit on such a base is made
// from what can be read; the rest is left out of the new snapshot. A nil damage is none.
// Safe for concurrent use.
type damage struct {
	s     *Snapshotter
	blobs map[store.BlobID]struct{} // lost

	mu    sync.Mutex
	n     uint64   // guarded by mu: files and directories that were left out
	paths []string // guarded by mu: the first of them
}

// mend puts back at the start what is missing from the store and can be put back, so that
// the head can be read. It changes nothing, and takes no lock, when nothing is missing.
func (s *Snapshotter) mend(ctx context.Context) error {
	s.write.Lock()
	defer s.write.Unlock()
	if s.readOnly {
		return s.lookForLoss(ctx)
	}
	return s.putBack(ctx)
}

// lookForLoss is putBack for who changes nothing in the store.
func (s *Snapshotter) lookForLoss(ctx context.Context) error {
	if complete, err := s.store.Complete(ctx); complete || err != nil {
		return err
	}
	loss, err := s.store.LookForLoss(ctx)
	if err != nil {
		return err
	}
	return s.counts(ctx, loss)
}

// putBack is mend for those who hold s.write.
func (s *Snapshotter) putBack(ctx context.Context) error {
	if complete, err := s.store.Complete(ctx); complete || err != nil {
		return err
	}
	lock, err := s.store.Lock(ctx)
	if err != nil {
		return err
	}
	defer func() {
		if uerr := lock.Unlock(); uerr != nil {
			s.log.Warn("store lock not removed", "err", uerr)
		}
	}()
	return s.takeStock(ctx)
}

// refreshLocked is refresh for those who have a lock on the store: a header that cannot be
// read may be in a packfile that is missing.
func (s *Snapshotter) refreshLocked(ctx context.Context) error {
	err := s.refresh(ctx)
	if !errors.Is(err, repository.ErrPackfileNotFound) {
		return err
	}
	if err := s.takeStock(ctx); err != nil {
		return err
	}
	return s.refresh(ctx)
}

// takeStock looks for what is missing from the store, and lists the snapshots anew when that
// is something else than before. It needs s.write and a lock on the store. With a *store.UnreadCopiesError it has done so for all
// but what that names: what a base refers to of it must not be left out.
func (s *Snapshotter) takeStock(ctx context.Context) error {
	loss, unread := s.store.Reconcile(ctx)
	if unread != nil && !isUnreadCopy(unread) {
		return unread
	}
	if unread != nil {
		s.mu.Lock()
		if s.lacks != nil {
			s.lacks = unread // which names what can be read again
		}
		s.mu.Unlock()
	}
	if err := s.counts(ctx, loss); err != nil {
		return errors.Join(unread, err)
	}
	return unread
}

// counts takes over what is missing, and lists the snapshots anew when that is something else than before.
func (s *Snapshotter) counts(ctx context.Context, loss *store.Loss) error {
	was := s.loss
	s.loss = loss
	if was == nil && loss == nil || was != nil && loss != nil && was.Serial == loss.Serial {
		return nil
	}
	s.whole = make(map[ID]struct{})
	if err := s.list(ctx, true); err != nil {
		s.loss = was // so that the next attempt lists them
		return err
	}
	return nil
}

// isUnreadCopy reports whether err says that of something that is missing a local copy cannot be read.
func isUnreadCopy(err error) bool {
	_, ok := errors.AsType[*store.UnreadCopiesError](err)
	return ok
}

// reconcile comes before every commit: it compares what the store should have with what it
// has. It returns nil when the base refers to nothing that is lost; otherwise only a rebuild
// is possible, and it needs to know. It needs s.write and a lock on the store.
func (s *Snapshotter) reconcile(ctx context.Context, base ID) (*damage, error) {
	if err := s.takeStock(ctx); err != nil {
		return nil, err
	}
	if _, ok := s.whole[base]; s.loss == nil || ok || base.IsZero() {
		return nil, nil
	}
	blobs, err := s.loss.Blobs()
	if err != nil || len(blobs) == 0 {
		return nil, err
	}
	return &damage{s: s, blobs: blobs}, nil
}

// sound notes that a new snapshot refers to nothing that is lost, and logs what a commit had
// to leave out.
func (s *Snapshotter) sound(r *record, d *damage) {
	if s.loss != nil {
		s.whole[r.snap.ID] = struct{}{}
		delete(s.whole, r.snap.Parent)
	}
	n := d.count()
	if n == 0 {
		return
	}
	s.log.Error("the store has lost contents: they are left out of the share",
		"share", r.snap.Share, "snapshot", r.snap.ID.String(), "before", r.snap.Parent.String(), "lost", n)
	for _, path := range d.paths {
		s.log.Error("lost", "share", r.snap.Share, "path", path, "snapshot", r.snap.Parent.String())
	}
}

// usable finds out whether a snapshot can be used as a head at all: without its root it is
// as good as removed.
func (s *Snapshotter) usable(r *record) error {
	t, err := s.newTree(r)
	if err != nil {
		return err
	}
	if _, err := t.lookup("/"); err != nil {
		return fmt.Errorf("root: %w", err)
	}
	return nil
}

// isLost reports whether err says that the store does not have a blob.
func isLost(err error) bool { return errors.Is(err, repository.ErrBlobNotFound) }

// concerns reports whether err comes from the damage.
func (d *damage) concerns(err error) bool { return d != nil && isLost(err) }

// spoilsIndexes reports whether more is lost than contents.
func (d *damage) spoilsIndexes() bool {
	if d == nil {
		return false
	}
	for b := range d.blobs {
		if b.Type != resources.RT_CHUNK {
			return true
		}
	}
	return false
}

// lost reports whether the content of a file is lost, and notes it.
func (d *damage) lost(path string, e *storedEntry) (bool, error) {
	if d == nil || !e.HasObject() {
		return false, nil
	}
	data, err := d.s.blob(resources.RT_OBJECT, e.Object)
	if err != nil {
		if !isLost(err) {
			return false, readError("object", err)
		}
		d.note(path)
		return true, nil
	}
	obj, err := objects.NewObjectFromBytes(data)
	if err != nil {
		return false, readError("object", err)
	}
	for _, c := range obj.Chunks {
		if _, lost := d.blobs[store.BlobID{Type: resources.RT_CHUNK, MAC: c.ContentMAC}]; lost {
			d.note(path)
			return true, nil
		}
	}
	return false, nil
}

// note counts something that is left out.
func (d *damage) note(path string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.n++
	if len(d.paths) < namedLosses {
		d.paths = append(d.paths, path)
	}
}

// count returns how much was left out.
func (d *damage) count() uint64 {
	if d == nil {
		return 0
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.n
}
