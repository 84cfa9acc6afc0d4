package snapshotter

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/PlakarKorp/kloset/objects"
	"github.com/PlakarKorp/kloset/repository"
	"github.com/PlakarKorp/kloset/resources"
	"github.com/PlakarKorp/kloset/snapshot/header"
	"golang.org/x/sync/errgroup"

	"github.com/snapgate/gateway/store"
)

// importerType is the importer type of snapshots of uploads.
const importerType = "gateway"

// Keys in the Context of a snapshot's header. They are never indexes of the snapshot:
// stock maintenance gives up on indexes that it does not know.
const (
	keyGateway  = "snapgate.gateway"
	keyShare    = "snapgate.share"
	keySequence = "snapgate.sequence"
	keyParent   = "snapgate.parent"
	keyJournal  = "snapgate.journal"
	keySuffix   = "snapgate.suffix"
	keyLost     = "snapgate.lost"
	keyErrors   = "snapgate.errors"
	keyReplaces = "snapgate.replaces" // ids, with spaces between them
)

// record is what is kept in memory of every snapshot.
type record struct {
	snap    Snapshot
	vfs     header.VFS
	dirpack objects.MAC // root of the dirpack index; zero when there is none
	types   objects.MAC // root of the index of content types; likewise
	summary objects.MAC // root of the index of summaries; likewise
	state   objects.MAC // which told of it, of a snapshot that was made here just now
}

// Refresh takes over what other processes did in the store: snapshots that plakar made or
// removed, maintenance.
func (s *Snapshotter) Refresh(ctx context.Context) error {
	s.write.Lock()
	defer s.write.Unlock()
	return s.refresh(ctx)
}

// The pause between two looks of CatchUp; it doubles from the first to the other.
const (
	catchUpPause     = 20 * time.Millisecond
	catchUpPauseMost = time.Second
)

// CatchUp is Refresh that does not wait for a commit while there is nothing to take over; else for as long as
// patience, or without an end for 0. Errors: ErrBusy when the commit goes on; that of ctx.
func (s *Snapshotter) CatchUp(ctx context.Context, patience time.Duration) error {
	return s.catchUp(ctx, patience, s.refresh)
}

// CatchUpToCommit is CatchUp without an end, for whoever is about to commit: as a commit does, it takes stock of what the store
// lacks when that keeps a snapshot from being listed, under a lock on the store.
func (s *Snapshotter) CatchUpToCommit(ctx context.Context) error {
	return s.catchUp(ctx, 0, func(ctx context.Context) error {
		err := s.refresh(ctx)
		if !errors.Is(err, repository.ErrPackfileNotFound) || s.readOnly {
			return err
		}
		if err := s.putBack(ctx); err != nil {
			return err
		}
		return s.refresh(ctx)
	})
}

// catchUp is CatchUp with what refreshes while no commit is running; it has s.write then.
func (s *Snapshotter) catchUp(ctx context.Context, patience time.Duration, refresh func(context.Context) error) error {
	began := time.Now()
	for pause := catchUpPause; ; pause = min(2*pause, catchUpPauseMost) {
		if done, err := s.tryCatchUp(ctx, refresh); done || err != nil {
			return err
		}
		if patience > 0 && time.Since(began) >= patience {
			return fmt.Errorf("%w: this process writes to it", ErrBusy)
		}
		if err := sleep(ctx, pause); err != nil {
			return err
		}
	}
}

// tryCatchUp is one look of CatchUp. It reports whether all is taken over.
func (s *Snapshotter) tryCatchUp(ctx context.Context, refresh func(context.Context) error) (bool, error) {
	if s.write.TryLock() {
		defer s.write.Unlock()
		return true, refresh(ctx)
	}
	there, err := s.store.StatesBeside(ctx)
	if err != nil {
		return false, err
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	if !s.loaded || len(there) != len(s.states) {
		return false, nil
	}
	for _, id := range there {
		if _, ok := s.states[id]; !ok {
			return false, nil
		}
	}
	return true, nil
}

// refresh needs s.write.
func (s *Snapshotter) refresh(ctx context.Context) error {
	if err := s.store.Refresh(ctx); err != nil {
		return err
	}
	if err := s.list(ctx, false); err != nil {
		return err
	}
	s.recallDue()
	return nil
}

// list reads the headers of snapshots that are not known yet, if there are other states than
// the last time; anew also those that are known. It needs s.write.
func (s *Snapshotter) list(ctx context.Context, anew bool) error {
	indexed := s.store.Indexed()
	s.mu.RLock()
	same := s.loaded && maps.Equal(indexed, s.states)
	s.mu.RUnlock()
	if same && !anew {
		return nil
	}
	s.mu.RLock()
	states, known := maps.Clone(indexed), maps.Clone(s.records)
	s.mu.RUnlock()
	ids, err := s.snapshotIDs(ctx, known)
	if err != nil {
		return fmt.Errorf("list snapshots: %w", err)
	}
	if anew {
		clear(known)
	}
	records, err := s.loadRecords(ctx, ids, known)
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case err == nil:
		s.states, s.loaded, s.lacks, s.looked = states, true, nil, time.Now()
	case records == nil || s.loaded: // what is in memory stands
		return err
	case s.lacks == nil:
		s.lacks = err
	case isUnreadCopy(s.lacks): // it is known better
		err = fmt.Errorf("%w: %w", err, s.lacks)
	}
	s.replaceRecords(records)
	s.short, s.recalled, s.recalling = len(records) < len(ids), time.Now(), 0
	return err
}

// replaceRecords makes records all that there are; mu is held for writing.
func (s *Snapshotter) replaceRecords(records map[ID]*record) {
	s.records, s.standIns, s.byShare = records, nil, map[string][]*record{}
	for _, r := range records {
		s.standIn(r)
		s.byShare[r.snap.Share] = append(s.byShare[r.snap.Share], r)
	}
	for _, list := range s.byShare {
		slices.SortFunc(list, newestFirst)
	}
}

// insert puts a new record where it belongs among those of its share, mostly first; mu is
// held for writing.
func (s *Snapshotter) insert(r *record) {
	if s.byShare == nil {
		s.byShare = map[string][]*record{}
	}
	list := s.byShare[r.snap.Share]
	at, there := slices.BinarySearchFunc(list, r, newestFirst)
	if !there {
		s.byShare[r.snap.Share] = slices.Insert(list, at, r)
	}
}

// newestFirst orders records.
func newestFirst(a, b *record) int {
	return -cmp.Or(a.snap.Time.Compare(b.snap.Time), cmp.Compare(a.snap.Sequence, b.snap.Sequence), slices.Compare(a.snap.ID[:], b.snap.ID[:]))
}

// loadRecords returns the records of snapshots: those that are known, and the others from
// their headers, of which a start reads all. Without those that cannot be read. With an error it returns nil, or, of whoever
// writes, all but those whose packfiles are missing: nobody has taken stock of these yet, or nobody can.
func (s *Snapshotter) loadRecords(ctx context.Context, ids []objects.MAC, known map[ID]*record) (map[ID]*record, error) {
	records := make(map[ID]*record, len(ids))
	var mu sync.Mutex // guards records and missing
	var missing error // of headers that are left out
	var group errgroup.Group
	group.SetLimit(cores())
	for _, mac := range ids {
		id := ID(mac)
		if r, ok := known[id]; ok {
			mu.Lock()
			records[id] = r
			mu.Unlock()
			continue
		}
		group.Go(func() error {
			r, err := s.loadUsable(id)
			switch {
			case err == nil:
				mu.Lock()
				defer mu.Unlock()
				records[id] = r
			case errors.Is(err, repository.ErrPackfileNotFound):
				mu.Lock()
				defer mu.Unlock()
				missing = store.Unavailable("read snapshot "+id.String(), err)
			case store.IsIO(err) && !isLost(err):
				return store.Unavailable("read snapshot "+id.String(), err)
			default:
				s.log.Warn("snapshot cannot be read", "snapshot", id.String(), "err", err)
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	if missing == nil {
		return records, nil
	}
	if len(records) == 0 {
		return nil, missing // it is the place of the packfiles that is not there
	}
	if err := s.away(ctx); err != nil {
		return nil, err
	}
	if s.readOnly {
		return records, nil
	}
	return records, missing
}

// Unreadable lists the snapshots that should be there and cannot be read: their headers, or indexes without which nothing of
// them can be read, are damaged or missing. It is answered from what was listed last. When there are any, it waits for a commit
// that is running, or for the end of ctx, whose error it returns then.
func (s *Snapshotter) Unreadable(ctx context.Context) ([]ID, error) {
	if ids, err := s.unlisted(); len(ids) == 0 || err != nil {
		return nil, err
	}
	for pause := catchUpPause; !s.write.TryLock(); pause = min(2*pause, catchUpPauseMost) { // what was just made is in the index before it is in the list
		if err := sleep(ctx, pause); err != nil {
			return nil, err
		}
	}
	defer s.write.Unlock()
	return s.unlisted()
}

// unlisted is Unreadable, with what a commit is about to list.
func (s *Snapshotter) unlisted() (ids []ID, err error) {
	due, err := s.due()
	if err != nil {
		return nil, err
	}
	for _, mac := range due {
		if id := ID(mac); s.known(id) == nil && !slices.Contains(ids, id) {
			ids = append(ids, id)
		}
	}
	slices.SortFunc(ids, func(a, b ID) int { return slices.Compare(a[:], b[:]) })
	return ids, nil
}

// snapshotIDs lists the snapshots in the store. When one of those that are known is missing
// and nobody has removed it, the index has lost it, and is made anew.
func (s *Snapshotter) snapshotIDs(ctx context.Context, known map[ID]*record) ([]objects.MAC, error) {
	ids, err := s.store.Snapshots()
	if err != nil {
		return nil, err
	}
	listed := make(map[ID]struct{}, len(ids))
	for _, id := range ids {
		listed[ID(id)] = struct{}{}
	}
	for id := range known {
		if _, ok := listed[id]; ok {
			continue
		}
		removed, err := s.store.Removed(objects.MAC(id))
		if err != nil {
			return nil, err
		}
		if !removed {
			s.log.Warn("a snapshot has vanished from the store index, which is made anew", "snapshot", id.String())
			if err := s.store.Reindex(ctx); err != nil {
				return nil, err
			}
			return s.store.Snapshots()
		}
	}
	return ids, nil
}

func (s *Snapshotter) listStates(ctx context.Context) (map[objects.MAC]struct{}, error) {
	ids, err := s.store.States(ctx)
	if err != nil {
		return nil, err
	}
	states := make(map[objects.MAC]struct{}, len(ids))
	for _, id := range ids {
		states[id] = struct{}{}
	}
	return states, nil
}

func (s *Snapshotter) loadRecord(id ID) (*record, error) {
	data, err := s.blob(resources.RT_SNAPSHOT, objects.MAC(id))
	if err != nil {
		return nil, err
	}
	h, err := header.NewFromBytes(data)
	if err != nil {
		return nil, fmt.Errorf("decode header: %w", err)
	}
	if h.Identifier != objects.MAC(id) { // it has no MAC to be compared with, and whoever has the store may have moved it
		return nil, fmt.Errorf("%w: it is the header of snapshot %s", store.ErrDamaged, ID(h.Identifier))
	}
	return newRecord(h)
}

func newRecord(h *header.Header) (*record, error) {
	if len(h.Sources) == 0 {
		return nil, fmt.Errorf("snapshot has no source")
	}
	src := h.Sources[0]
	r := &record{vfs: src.VFS}
	for _, index := range src.Indexes {
		if index.Type != "btree" {
			continue
		}
		switch index.Name {
		case "dirpack":
			r.dirpack = index.Value
		case "content-type":
			r.types = index.Value
		case "summary":
			r.summary = index.Value
		}
	}
	r.snap = Snapshot{
		ID:     ID(h.Identifier),
		Time:   h.Timestamp.UTC(),
		Share:  shareOf(h),
		Files:  src.Summary.Directory.Files + src.Summary.Below.Files,
		Errors: src.Summary.Directory.Errors + src.Summary.Below.Errors,
		Size:   src.Summary.Directory.Size + src.Summary.Below.Size,
		Tags:   slices.Clone(h.Tags),
		Root:   "/",
		Source: src.Importer.Type + "://" + src.Importer.Origin + src.Importer.Directory,
	}
	for _, text := range strings.Fields(h.GetContext(keyReplaces)) {
		id, err := ParseID(text)
		if err != nil {
			return nil, fmt.Errorf("header %s: %w", keyReplaces, err)
		}
		r.snap.Replaces = append(r.snap.Replaces, id)
	}
	if h.GetContext(keyGateway) == "" {
		if dir := src.Importer.Directory; strings.HasPrefix(dir, "/") {
			r.snap.Root = path.Clean(dir)
		}
		return r, nil
	}
	r.snap.GatewayID = h.GetContext(keyGateway)
	r.snap.ShareID = h.GetContext(keyShare)
	var err error
	number := func(key string) uint64 {
		n, perr := strconv.ParseUint(h.GetContext(key), 10, 64)
		if perr != nil && err == nil {
			err = fmt.Errorf("header %s: %w", key, perr)
		}
		return n
	}
	r.snap.Sequence = number(keySequence)
	r.snap.Journal = number(keyJournal)
	r.snap.Suffix = int(number(keySuffix))
	if h.GetContext(keyLost) != "" {
		r.snap.Lost = number(keyLost)
	}
	if h.GetContext(keyErrors) != "" { // with those that summaries do not count
		r.snap.Errors = number(keyErrors)
	}
	if err != nil {
		return nil, err
	}
	if parent := h.GetContext(keyParent); parent != "" {
		if r.snap.Parent, err = ParseID(parent); err != nil {
			return nil, fmt.Errorf("header %s: %w", keyParent, err)
		}
	}
	return r, nil
}

// shareOf names the share of a snapshot: its dataset, or where it came from. kloset calls
// "default" what nobody has named.
func shareOf(h *header.Header) string {
	if h.Dataset != "" && h.Dataset != "default" {
		return h.Dataset
	}
	return h.Sources[0].Importer.Origin
}

// Snapshots lists the snapshots whose Share is share, "" for all, newest first. It is
// answered from memory; every few seconds it first looks for what others did. While the
// store is away it gives what was there, ErrUnavailable when it has never been seen.
// Snapshots of which the store lacks the header are not in it. That the newest one of a share is, only AllSnapshots knows.
func (s *Snapshotter) Snapshots(ctx context.Context, share string) ([]Snapshot, error) {
	list, _, err := s.snapshots(ctx, share, false)
	return list, err
}

// AllSnapshots is Snapshots for those to whom it matters what is not in the list, as whoever looks for the head of a share: since
// the start there may be snapshots whose headers are in packfiles that are missing, and that are not lost as far as
// anybody knows. Whose they are nobody knows, so the error is ErrUnavailable for every share until they are back, or are
// lost. Every few seconds it takes stock of what is missing itself, under a lock on the store: whoever commits may ask first.
func (s *Snapshotter) AllSnapshots(ctx context.Context, share string) ([]Snapshot, error) {
	list, lacks, err := s.snapshots(ctx, share, true)
	if err == nil && lacks != nil {
		return nil, fmt.Errorf("not all snapshots can be listed: %w", lacks)
	}
	return list, err
}

// snapshots is Snapshots, with why it lacks some.
func (s *Snapshotter) snapshots(ctx context.Context, share string, mend bool) (_ []Snapshot, lacks, err error) {
	if err := s.look(ctx, mend); err != nil {
		return nil, nil, err
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	records := s.byShare[share]
	if share == "" {
		records = slices.SortedFunc(maps.Values(s.records), newestFirst)
	}
	list := make([]Snapshot, len(records))
	for i, r := range records {
		list[i] = r.snap
	}
	return list, s.lacks, nil
}

// look refreshes the list when that is due and nobody is at it. If mend is true, it then also takes stock of what the list lacks.
func (s *Snapshotter) look(ctx context.Context, mend bool) error {
	s.mu.RLock()
	loaded, last := s.loaded, s.looked
	some := s.some()
	if mend = mend && !loaded; mend {
		last = s.mended
	}
	s.mu.RUnlock()
	if some && time.Since(last) < refreshInterval {
		return nil
	}
	if some && !s.write.TryLock() {
		return nil // a commit is running, it refreshes by itself
	}
	if !some {
		s.write.Lock()
	}
	defer s.write.Unlock()
	s.mu.Lock()
	s.looked = time.Now()
	if mend {
		s.mended = s.looked
	}
	known := s.states
	s.mu.Unlock()
	if loaded {
		states, err := s.listStates(ctx)
		same := err == nil && maps.Equal(states, known)
		if same {
			s.recallDue()
		}
		if err != nil || same {
			return nil // away or unchanged: what is in memory stands
		}
	}
	err := s.refresh(ctx)
	if mend && s.lacking() {
		if err = s.putBack(ctx); err == nil {
			err = s.refresh(ctx)
		}
	}
	if err != nil && loaded {
		s.log.Warn("snapshot list not refreshed", "err", err)
		return nil
	}
	if s.lacking() {
		return nil
	}
	return err
}

// Lacks returns why the list has some snapshots, and not all, an ErrUnavailable; nil when it has all, or none has been listed yet. While
// it does, Refresh and CatchUp fail; Snapshots has those that can be read, and Unreadable the others.
func (s *Snapshotter) Lacks() error {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.lacks
}

// listedAny reports whether the list has been read, at least in part.
func (s *Snapshotter) listedAny() bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.some()
}

// some is listedAny for those who hold mu.
func (s *Snapshotter) some() bool { return s.loaded || s.lacks != nil }

// lacking reports whether the list has some snapshots, and not all.
func (s *Snapshotter) lacking() bool { return s.Lacks() != nil }

// Shares lists the values of Share that occur, in byte order.
func (s *Snapshotter) Shares(ctx context.Context) ([]string, error) {
	list, err := s.Snapshots(ctx, "")
	if err != nil {
		return nil, err
	}
	var shares []string
	for _, snap := range list {
		shares = append(shares, snap.Share)
	}
	slices.Sort(shares)
	return slices.Compact(shares), nil
}

// Latest returns the snapshot with the highest Sequence of a share's own lineage, and
// false when there is none. Recovery asks it where the journal was when the last commit
// succeeded. It looks into the store itself: ErrUnavailable when it cannot.
func (s *Snapshotter) Latest(ctx context.Context, gatewayID, shareID string) (Snapshot, bool, error) {
	if err := s.Refresh(ctx); err != nil {
		return Snapshot{}, false, err
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	var latest Snapshot
	found := false
	for _, r := range s.records {
		if !r.snap.Of(Lineage{gatewayID, shareID}) {
			continue
		}
		if !found || r.snap.Sequence > latest.Sequence || r.snap.Sequence == latest.Sequence &&
			(r.snap.Time.After(latest.Time) || slices.Contains(r.snap.Replaces, latest.ID)) {
			latest, found = r.snap, true
		}
	}
	return latest, found, nil
}

// Snapshot returns one snapshot. A snapshot that is not in the list is looked for in the
// store before the answer is ErrNoSnapshot.
func (s *Snapshotter) Snapshot(ctx context.Context, id ID) (Snapshot, error) {
	r, err := s.record(ctx, id)
	if err != nil {
		return Snapshot{}, err
	}
	return r.snap, nil
}

func (s *Snapshotter) record(ctx context.Context, id ID) (*record, error) {
	if r := s.known(id); r != nil {
		return r, nil
	}
	if ctx.Value(committing{}) == s { // the lock is that commit's, which has refreshed already
		return nil, fmt.Errorf("snapshot %s: %w", id, ErrNoSnapshot)
	}
	if err := s.refreshFor(ctx, id); err != nil {
		// The store is away and its list has never been seen, but the metadata of the
		// snapshot may be at hand. It is not added to the list, which is not known.
		if r, lerr := s.loadRecord(id); errors.Is(err, ErrUnavailable) && lerr == nil {
			return r, nil
		}
		return nil, err
	}
	if r := s.known(id); r != nil {
		return r, nil
	}
	return nil, fmt.Errorf("snapshot %s: %w", id, ErrNoSnapshot)
}

// refreshFor is Refresh, and recall of a snapshot.
func (s *Snapshotter) refreshFor(ctx context.Context, id ID) error {
	s.write.Lock()
	defer s.write.Unlock()
	if err := s.refresh(ctx); err != nil {
		return err
	}
	s.recall(id)
	return nil
}

// left returns the record of a snapshot that is not listed, as it was removed; ErrNoSnapshot when nothing is left of it either (of one that was not
// removed, with ErrLost), or its
// header is damaged, which nothing repairs of one that was removed. Of one that was not, that is with ErrDamaged.
func (s *Snapshotter) left(id ID) (*record, error) {
	if r, ok := s.removed.Get(id); ok {
		return r, nil
	}
	r, err := s.loadRecord(id)
	switch {
	case err == nil:
		s.removed.Add(id, r)
		return r, nil
	case errors.Is(err, repository.ErrPackfileNotFound), store.IsIO(err) && !isLost(err):
		return nil, store.Unavailable("read snapshot "+id.String(), err)
	case isLost(err):
		u, uerr := s.whyUnlisted(id)
		if uerr != nil {
			return nil, uerr
		}
		return nil, fmt.Errorf("snapshot %s: %w", id, u.error(err))
	}
	if removed, derr := s.store.Deleted(objects.MAC(id)); derr == nil && removed {
		return nil, fmt.Errorf("snapshot %s: %w any more: %s", id, ErrNoSnapshot, err.Error())
	}
	if errors.Is(err, ErrDamaged) {
		return nil, fmt.Errorf("snapshot %s: %w that can be read: %w", id, ErrNoSnapshot, err)
	}
	return nil, fmt.Errorf("snapshot %s: %w that can be read: %w: %w", id, ErrNoSnapshot, ErrDamaged, err)
}

// known returns the record of a snapshot, or of the one that was made in its place; nil when there is none
// in memory.
func (s *Snapshotter) known(id ID) *record {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if r := s.records[id]; r != nil {
		return r
	}
	return s.standIns[id]
}

// is returns the id of the snapshot that is there for id.
func (s *Snapshotter) is(id ID) ID {
	if r := s.known(id); r != nil {
		return r.snap.ID
	}
	return id
}

// standIn notes what a snapshot was made in place of; mu is held for writing.
func (s *Snapshotter) standIn(r *record) {
	for _, id := range r.snap.Replaces {
		if s.standIns == nil {
			s.standIns = make(map[ID]*record)
		}
		// Of several the one that was made in place of most.
		if o := s.standIns[id]; o == nil || cmp.Or(cmp.Compare(len(r.snap.Replaces), len(o.snap.Replaces)), slices.Compare(r.snap.ID[:], o.snap.ID[:])) > 0 {
			s.standIns[id] = r
		}
	}
}

// blob reads and decodes a blob.
func (s *Snapshotter) blob(typ resources.Type, mac objects.MAC) ([]byte, error) {
	data, err := s.store.Blob(typ, mac)
	if u := s.uncommitted.Load(); u != nil && errors.Is(err, repository.ErrBlobNotFound) {
		data, err = u.blob(typ, mac)
		if err == nil && typ == resources.RT_CHUNK && s.repo.ComputeMAC(data) != mac {
			err = store.ErrDamaged
		}
	}
	if errors.Is(err, io.EOF) {
		err = &shortError{err}
	}
	if err != nil {
		return nil, &blobError{typ, mac, err}
	}
	return data, nil
}

// blobError is why a blob cannot be read.
type blobError struct {
	typ resources.Type
	mac objects.MAC
	err error
}

func (e *blobError) Error() string { return fmt.Sprintf("%s %x: %v", e.typ, e.mac[:4], e.err) }
func (e *blobError) Unwrap() error { return e.err }

// shortError is why a blob cannot be read when something ended too early, a packfile or a connection.
// It hides the io.EOF: nobody may take it for the end of what the blob is a part of.
type shortError struct{ err error }

func (e *shortError) Error() string { return e.err.Error() }

// Is makes errors.Is(err, io.ErrUnexpectedEOF) true, and all else that it is for the cause but io.EOF.
func (e *shortError) Is(target error) bool {
	return target == io.ErrUnexpectedEOF || target != io.EOF && errors.Is(e.err, target)
}

// As finds what the cause has.
func (e *shortError) As(target any) bool { return errors.As(e.err, target) }
