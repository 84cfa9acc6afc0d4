package store

import (
	"context"
	"errors"
	"io"
	"path"
	"strings"
	"sync"
	"time"

	"github.com/PlakarKorp/kloset/caching"
	"github.com/PlakarKorp/kloset/objects"
	"github.com/PlakarKorp/kloset/repository"
	"github.com/PlakarKorp/kloset/repository/state"
	"github.com/PlakarKorp/kloset/resources"
	"github.com/PlakarKorp/kloset/versioning"

	"github.com/snapgate/gateway/store/internal/backend"
)

// ForgetHolder lets go of what tells others that the holder of an exclusive lock is alive, and
// leaves the rest as it is, as when its process is killed.
func ForgetHolder(l *Lock) error {
	h := l.holder
	l.holder = nil
	return h.lock.Unlock()
}

// ReadStates reads states as a cold start does, with room to keep so many bytes of them, and returns
// them in their order.
func ReadStates(ctx context.Context, s *Store, ids []objects.MAC, room int) (ordered []objects.MAC, data [][]byte, err error) {
	r := &stateReader{s: s, kept: make(map[objects.MAC]keptState), room: room}
	parents, err := r.parents(ctx, ids)
	if err != nil {
		return nil, nil, err
	}
	ordered, err = repository.TopoSort(ids, func(id objects.MAC) (objects.MAC, error) { return parents[id], nil })
	for i := range ordered {
		rd, _, terr := r.take(ctx, ordered[i:])
		if terr != nil {
			return nil, nil, errors.Join(err, terr)
		}
		one, terr := io.ReadAll(rd)
		data, err = append(data, one), errors.Join(err, terr)
	}
	if len(r.kept) > 0 || r.room != room {
		err = errors.Join(err, errors.New("states are kept that were taken"))
	}
	return ordered, data, err
}

// ReadState reads a state, and keeps nothing of it.
func ReadState(rd io.Reader, version versioning.Version) error {
	_, err := stateFromStream(rd, version, new(factCollector))
	return err
}

// PutEmptyState writes a state that says nothing, after another one.
func PutEmptyState(s *Store, parent objects.MAC) (id objects.MAC, err error) {
	id, err = s.putState(objects.RandomMAC(), parent, func(*state.LocalState, *caching.ScanCache) error { return nil })
	if err != nil {
		return id, err
	}
	return id, s.Ingest(id)
}

// OnStateRead has f called before a store reads a state the next time.
func OnStateRead(s *Store, f func()) { s.conn.files = &watchedFiles{Backend: s.conn.files, f: f} }

type watchedFiles struct {
	backend.Backend
	once sync.Once
	f    func()
}

func (w *watchedFiles) Get(ctx context.Context, name string, offset, length int64) (io.ReadCloser, error) {
	if strings.HasPrefix(name, backend.StatesDir+"/") {
		w.once.Do(w.f)
	}
	return w.Backend.Get(ctx, name, offset, length)
}

// FailNextLock has the next lock that a store writes reported as one that was not written.
func FailNextLock(s *Store, err error) {
	s.conn.files = &unsureFiles{Backend: s.conn.files, err: err}
}

type unsureFiles struct {
	backend.Backend
	once sync.Once
	err  error
}

func (f *unsureFiles) Put(ctx context.Context, name string, rd io.Reader) (n int64, err error) {
	n, err = f.Backend.Put(ctx, name, rd)
	if err == nil && strings.HasPrefix(name, backend.LocksDir+"/") {
		f.once.Do(func() { err = f.err })
	}
	return n, err
}

// Renew refreshes a lock.
func Renew(ctx context.Context, l *Lock) error { return l.renew(ctx) }

// Reach has a store reach its files in another way, as one that is elsewhere.
func Reach(s *Store, b backend.Backend) {
	s.files, s.conn.files, s.conn.remote = b, b, true
}

// FailLookAtLocks has a store fail to look at locks, other than by reading them.
func FailLookAtLocks(s *Store, err error) { s.files = &blindFiles{s.files, err} }

type blindFiles struct {
	backend.Backend
	err error
}

func (f *blindFiles) Stat(ctx context.Context, name string) (backend.Info, error) {
	if strings.HasPrefix(name, backend.LocksDir+"/") {
		return backend.Info{}, f.err
	}
	return f.Backend.Stat(ctx, name)
}

// IndexedStates returns the states that the index of a store was made from.
func IndexedStates(s *Store) (map[objects.MAC]struct{}, error) { return s.indexedStates() }

// StaleListing has a store take packfiles for present that were there once, as the listing of one that is elsewhere
// does for a while.
func StaleListing(s *Store) { s.listing = staleListing{} }

type staleListing struct{}

func (staleListing) update(context.Context) error { return nil }
func (staleListing) has(objects.MAC) bool         { return true }
func (staleListing) found(objects.MAC)            {}
func (staleListing) doubt(objects.MAC)            {}

// BadSector makes reading fail that comes by one byte of the files of a store.
type BadSector struct {
	In  string // only of the file of this name; "": of all
	At  int64
	Err error
}

// Use puts the bad sector into a store. With remote, the store is taken for one that is elsewhere.
func (b BadSector) Use(s *Store, remote bool) {
	s.conn.files = badFiles{s.conn.files, b}
	s.conn.remote = remote
}

type badFiles struct {
	backend.Backend
	bad BadSector
}

func (f badFiles) Get(ctx context.Context, name string, offset, length int64) (io.ReadCloser, error) {
	rd, err := f.Backend.Get(ctx, name, offset, length)
	if err != nil || offset > f.bad.At || name == backend.ConfigName || f.bad.In != "" && path.Base(name) != f.bad.In {
		return rd, err
	}
	return &badReader{rd, f.bad.At - offset, f.bad.Err}, nil
}

type badReader struct {
	io.ReadCloser
	left int64
	err  error
}

func (r *badReader) Read(p []byte) (int, error) {
	if r.left == 0 {
		return 0, r.err
	}
	n, err := r.ReadCloser.Read(p[:min(int64(len(p)), r.left)])
	r.left -= int64(n)
	return n, err
}

// AddPlaces adds places of blobs to the index, whatever is there.
func AddPlaces(s *Store, places ...Place) error {
	t, err := s.ingester.begin(s)
	if err != nil {
		return err
	}
	for _, p := range places {
		d := state.DeltaEntry{Type: p.Type, Blob: p.Blob, Location: state.Location{Packfile: p.Packfile, Offset: p.Offset, Length: p.Length}}
		if err := t.PutDelta(p.Type, p.Blob, p.Packfile, d.ToBytes()); err != nil {
			return err
		}
	}
	return t.commit()
}

// FillIndex adds blobs to the index that are nowhere, as a commit does, and asks kloset for some of them, so that
// its handle has as much of the index in memory as it may.
func FillIndex(s *Store, typ resources.Type, blobs []objects.MAC) error {
	t, err := s.ingester.begin(s)
	if err != nil {
		return err
	}
	now := time.Unix(1_700_000_000, 0)
	pack := objects.MAC{1}
	e := state.PackfileEntry{Packfile: pack, Timestamp: now}
	if err := t.PutPackfile(pack, e.ToBytes()); err != nil {
		return err
	}
	for _, blob := range blobs {
		d := state.DeltaEntry{Type: typ, Blob: blob, Location: state.Location{Packfile: pack, Length: 1}}
		if err := t.PutDelta(typ, blob, pack, d.ToBytes()); err != nil {
			return err
		}
	}
	if err := t.commit(); err != nil {
		return err
	}
	for _, blob := range blobs[:min(len(blobs), 20_000)] {
		if !s.repo.BlobExists(typ, blob) {
			return errors.New("a blob is not in the index")
		}
	}
	return nil
}

// EachBlobInParts is EachBlob which goes through the index so many times.
func (s *Store) EachBlobInParts(ctx context.Context, typ resources.Type, parts uint64, each func(blob objects.MAC, data []byte, err error) error) error {
	return s.eachBlob(ctx, typ, parts, each)
}
