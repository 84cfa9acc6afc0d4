package store

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"time"

	"github.com/PlakarKorp/kloset/caching/sqlite"
	"github.com/PlakarKorp/kloset/connectors/storage"
	"github.com/PlakarKorp/kloset/objects"
	"github.com/PlakarKorp/kloset/repository/state"
	"github.com/PlakarKorp/kloset/resources"
)

// lostTable holds, in kloset's index, the rows of packfiles that are missing from the store.
// Without its row in kloset's own table a packfile does not count: kloset takes its blobs for
// absent, and stores them again when it is given them.
const lostTable = `CREATE TABLE IF NOT EXISTS snapgate_lost (mac TEXT NOT NULL PRIMARY KEY, payload BLOB NOT NULL)`

// lostMark ends the time at which a packfile is coloured because it is missing, as it stands in the
// state: the low bytes of its nanoseconds. Whoever learns of the colour, maybe when the packfile is back
// and without having known that it was missing, knows by that that the colour is to go.
// Another colour has it by chance once in 4,000,000,000 times; a packfile that is there then loses a mark of
// maintenance, which marks it again.
const lostMark = "lost"

// lostAt is when a packfile is coloured that is missing: within 5 s before now.
func lostAt(now time.Time) time.Time {
	le := binary.LittleEndian
	raw := le.AppendUint64(nil, uint64(now.UnixNano()))
	copy(raw, lostMark)
	t := time.Unix(0, int64(le.Uint64(raw)))
	if t.After(now) {
		t = t.Add(-1 << 32)
	}
	return t
}

// notColoured leaves out packfiles that the states call unusable.
const notColoured = ` NOT IN (SELECT mac FROM deleteds WHERE type = ?)`

// namedPackfiles bounds the packfiles that a log line names.
const namedPackfiles = 10

// BlobID names a blob.
type BlobID struct {
	Type resources.Type
	MAC  objects.MAC
}

// Loss says that packfiles are missing from the store.
type Loss struct {
	s *Store
	// Serial is another one whenever other packfiles are missing than before.
	Serial uint64
}

// Reconcile compares the packfiles that the states in the store tell of with those that the
// store has. What is missing is put back from the copies of metadata that are kept here; what
// there is no copy of counts as absent from then on, is logged once, and is coloured by a state.
// Colouring is what maintenance does to packfiles that are not to be used any more: other readers of the store
// then look for their blobs elsewhere. What is back loses the colour.
// It returns nil when nothing is missing. It needs a lock on the store, and is for the writer: nobody may be
// committing. Errors: ErrUnavailable, ErrReplaced. With an *UnreadCopiesError, loss is what is missing beside what that names, of
// which nothing is said.
func (s *Store) Reconcile(ctx context.Context) (loss *Loss, err error) {
	loss, unread, err := s.reconcile(ctx, false)
	if err == nil && unread != nil {
		err = unread
	}
	return loss, err
}

// LookForLoss is Reconcile for who changes nothing in the store: all that is missing counts as absent, in the index that is kept
// here alone, also that of which there is a copy. It needs no lock: what maintenance removes at the same time may be among it.
func (s *Store) LookForLoss(ctx context.Context) (*Loss, error) {
	loss, _, err := s.reconcile(ctx, true)
	return loss, err
}

// LookAgain has the next Reconcile look for a packfile that was not there when somebody read it, whatever was listed before: what was
// listed of a store that is elsewhere may do for a while. It is for the writer, as Reconcile is.
func (s *Store) LookAgain(packfile objects.MAC) { s.listing.doubt(packfile) }

// reconcile is Reconcile, without what it could not tell in the error, or LookForLoss when it is only to look.
func (s *Store) reconcile(ctx context.Context, look bool) (loss *Loss, unread *UnreadCopiesError, err error) {
	db, err := s.openIndex()
	if err != nil {
		return nil, nil, err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	resume := !look && s.resumes()
	defer func() {
		switch {
		case err != nil:
			s.resumed = time.Time{}
		case resume:
			s.resumed = time.Now()
		}
	}()
	missing, back, err := s.compare(ctx, db)
	if err != nil {
		return nil, nil, err
	}
	gone, restored := missing, []objects.MAC(nil)
	if !look {
		gone, restored, unread, err = s.putAllBack(ctx, missing)
	}
	if err != nil {
		return nil, nil, err
	}
	if len(restored) > 0 { // others may have said that it was missing
		coloured, err := s.colouredLost(db, slices.DeleteFunc(missing, func(mac objects.MAC) bool { return slices.Contains(restored, mac) }))
		if err != nil {
			return nil, nil, err
		}
		back = union(back, coloured)
	}
	if len(gone)+len(back) > 0 {
		// First the states: should this end in between, it is found out again.
		if !look {
			err = s.uncolour(ctx, back, objects.NilMac)
		}
		if err != nil {
			return nil, nil, err
		}
		if err := s.noteLost(db, gone, back); err != nil {
			return nil, nil, err
		}
		s.lossSerial++
		s.logLost(gone, back)
	}
	lost, err := s.macs(db, "SELECT mac FROM snapgate_lost")
	if len(lost) == 0 || err != nil {
		return nil, unread, err
	}
	if look {
		return &Loss{s: s, Serial: s.lossSerial}, nil, nil
	}
	plain, err := s.macs(db, "SELECT mac FROM snapgate_lost WHERE mac"+notColoured, int(resources.RT_PACKFILE))
	var begun []objects.MAC
	if err == nil && resume {
		begun, err = s.macs(db, "SELECT mac FROM snapgate_lost WHERE mac IN (SELECT mac FROM snapgate_turn)")
	}
	if err == nil {
		err = s.colour(ctx, plain, begun)
	}
	if err != nil {
		return nil, nil, err
	}
	return &Loss{s: s, Serial: s.lossSerial}, unread, nil
}

// resumes reports whether answers are to be completed that were begun; see turnTable.
func (s *Store) resumes() bool { return time.Since(s.resumed) > resumeAfter }

// UnreadCopiesError says, as an ErrUnavailable, that packfiles are missing from the store of which there are local copies that
// cannot be read now. Whether what they hold is lost nobody knows: they may be put back another time, or by somebody else.
type UnreadCopiesError struct {
	Packfiles []objects.MAC
	Err       error // of the first
}

func (e *UnreadCopiesError) Error() string {
	text := fmt.Sprintf("%v: packfile %x is missing, and its local copy cannot be read", ErrUnavailable, e.Packfiles[0][:])
	if more := len(e.Packfiles) - 1; more > 0 {
		text += fmt.Sprintf(", as are %d more", more)
	}
	return text + ": " + e.Err.Error()
}

// Unwrap returns ErrUnavailable and the cause.
func (e *UnreadCopiesError) Unwrap() []error { return []error{ErrUnavailable, e.Err} }

// putAllBack is putBack for several, and returns which of them are gone and which are back; unread is nil unless there is
// one of which neither can be told.
func (s *Store) putAllBack(ctx context.Context, missing []objects.MAC) (gone, back []objects.MAC, unread *UnreadCopiesError, err error) {
	for _, mac := range missing {
		err := s.putBack(ctx, mac)
		var one *UnreadCopiesError
		switch {
		case err == nil:
			back = append(back, mac)
		case errors.As(err, &one) && unread == nil:
			unread = one
		case errors.As(err, &one):
			unread.Packfiles = append(unread.Packfiles, mac)
		case errors.Is(err, fs.ErrNotExist):
			gone = append(gone, mac)
		default:
			return nil, nil, nil, err
		}
	}
	return gone, back, unread, nil
}

// hasLostMark is of kloset's entries of colours those with a lostMark: they are few, and what maintenance has removed stays
// coloured. substr counts from 1: the time is behind the type and the name.
func hasLostMark() string {
	return fmt.Sprintf("type = %d AND substr(payload, %d, %d) = x'%x'", resources.RT_PACKFILE, 1+1+len(objects.MAC{}), len(lostMark), lostMark)
}

// colouredLost returns the packfiles that the states tell of and that are coloured because they were missing, or of
// which an answer was begun, without those that still are missing.
func (s *Store) colouredLost(db *sqlite.SQLiteCache, missing []objects.MAC) ([]objects.MAC, error) {
	if _, err := db.Exec("CREATE INDEX IF NOT EXISTS snapgate_lost_colours ON deleteds (mac) WHERE " + hasLostMark()); err != nil {
		return nil, s.indexError(err)
	}
	macs, err := s.macs(db, "SELECT mac FROM packfiles WHERE mac IN (SELECT mac FROM deleteds INDEXED BY snapgate_lost_colours WHERE "+hasLostMark()+")")
	if err == nil && s.resumes() {
		var begun []objects.MAC
		// What is coloured by now, without a lostMark, is marked by maintenance: that stays.
		begun, err = s.macs(db, "SELECT mac FROM snapgate_turn WHERE mac IN (SELECT mac FROM packfiles) AND mac"+notColoured, int(resources.RT_PACKFILE))
		macs = union(macs, begun)
	}
	return slices.DeleteFunc(macs, func(mac objects.MAC) bool { return slices.Contains(missing, mac) }), err
}

// Complete reports whether the store has all packfiles that its states tell of, or nothing
// could be put back anyway because no copies are kept. In contrast to Reconcile it changes
// nothing, and without a lock it may take for missing what maintenance removes at the same
// time.
func (s *Store) Complete(ctx context.Context) (complete bool, err error) {
	if s.conn.mirror == nil {
		return true, nil
	}
	db, err := s.openIndex()
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	missing, back, err := s.compare(ctx, db)
	return len(missing)+len(back) == 0, err
}

// compare returns the packfiles that are missing from the store, and those that were, as far as is known here or
// as their colour says, and are back.
func (s *Store) compare(ctx context.Context, db *sqlite.SQLiteCache) (missing, back []objects.MAC, err error) {
	if _, err := db.Exec(lostTable + ";" + turnTable); err != nil {
		return nil, nil, s.indexError(err)
	}
	// Also those that are coloured: maintenance removes them from the states first.
	known, err := s.macs(db, "SELECT mac FROM packfiles")
	if err != nil {
		return nil, nil, err
	}
	lost, err := s.macs(db, "SELECT mac FROM snapgate_lost")
	if err != nil {
		return nil, nil, err
	}
	if err := s.listing.update(ctx); err != nil {
		return nil, nil, s.conn.unavailable("list packfiles", err)
	}
	for _, mac := range known {
		if s.listing.has(mac) {
			continue
		}
		switch _, err := s.files.Stat(ctx, packfileName(mac)); {
		case err == nil:
			s.listing.found(mac)
		case errors.Is(err, fs.ErrNotExist):
			missing = append(missing, mac)
		default:
			return nil, nil, s.conn.unavailable("look for packfile", err)
		}
	}
	coloured, err := s.colouredLost(db, missing)
	if err != nil {
		return nil, nil, err
	}
	lost = slices.DeleteFunc(lost, func(mac objects.MAC) bool { return !s.listing.has(mac) })
	there, err := s.StatPackfiles(ctx, slices.Concat(coloured, lost)) // the listing may be older than the colour
	if err != nil {
		return nil, nil, err
	}
	absent := func(mac objects.MAC) bool { _, ok := there[mac]; return !ok }
	for _, mac := range coloured {
		if absent(mac) {
			missing = append(missing, mac)
		}
	}
	back = slices.DeleteFunc(union(coloured, lost), absent)
	if len(missing) > 0 { // not because the store has just gone away
		if err := s.Available(ctx); err != nil {
			return nil, nil, err
		}
	}
	return missing, back, nil
}

// Outlived reports whether the store has a packfile that was written before one that is missing now was: then its packfiles are
// where they were. Whatever was put back since, by whomever and of which copy, has a later date, as has what is written to
// another place, unless the clock of the store was set back in between: nothing in a store tells of that. A store whose files were
// copied without their dates has none. It is for after Reconcile.
func (s *Store) Outlived(ctx context.Context, lost objects.MAC) (bool, error) {
	at, err := s.writtenAt(ctx, lost)
	if err != nil || at.IsZero() {
		return false, err
	}
	told, err := s.IndexedPackfiles()
	if err != nil {
		return false, err
	}
	older := slices.DeleteFunc(slices.Collect(maps.Keys(told)), func(mac objects.MAC) bool { return !told[mac].Before(at) })
	slices.SortFunc(older, func(a, b objects.MAC) int { return told[a].Compare(told[b]) })
	for batch := range slices.Chunk(older, liveLooks) { // mostly the first
		there, err := s.StatPackfiles(ctx, batch)
		if err != nil {
			return false, err
		}
		for _, fi := range there {
			if fi.ModTime.Before(at) {
				return true, nil
			}
		}
	}
	return false, nil
}

// writtenAt returns when a packfile was written at the latest, by the clock of whoever did and by the one of the store, which
// may be another; the zero time when nobody knows. The store has the date of the state that tells of it.
func (s *Store) writtenAt(ctx context.Context, mac objects.MAC) (at time.Time, err error) {
	name := hex.EncodeToString(mac[:])
	rows, err := s.placesBy("SELECT payload FROM snapgate_lost WHERE mac = ? UNION ALL SELECT payload FROM packfiles WHERE mac = ?", name, name)
	if err != nil || len(rows) == 0 {
		return at, err
	}
	e, err := state.PackfileEntryFromBytes(rows[0])
	if err != nil {
		return at, s.indexError(err)
	}
	if name, err = s.conn.name(storage.StorageResourceState, e.StateID); err != nil {
		return at, err
	}
	fi, err := s.files.Stat(ctx, name)
	if errors.Is(err, fs.ErrNotExist) {
		return at, nil
	}
	if err != nil {
		return at, s.conn.unavailable("look for state", err)
	}
	if fi.ModTime.Before(e.Timestamp) {
		return fi.ModTime, nil
	}
	return e.Timestamp, nil
}

// union adds to list what is in more as well.
func union(list, more []objects.MAC) []objects.MAC {
	has := make(map[objects.MAC]struct{}, len(list))
	for _, mac := range list {
		has[mac] = struct{}{}
	}
	return append(list, slices.DeleteFunc(more, func(mac objects.MAC) bool { _, ok := has[mac]; return ok })...)
}

// macs runs a query for names of packfiles.
func (s *Store) macs(db *sqlite.SQLiteCache, query string, args ...any) ([]objects.MAC, error) {
	rows, err := db.Query(query, args...)
	if err != nil {
		return nil, s.indexError(err)
	}
	defer rows.Close()
	var macs []objects.MAC
	for rows.Next() {
		var name string
		if err := rows.Scan(&name); err != nil {
			return nil, s.indexError(err)
		}
		mac, err := parseMAC(name)
		if err != nil {
			return nil, s.indexError(err)
		}
		macs = append(macs, mac)
	}
	return macs, s.indexError(rows.Err())
}

func parseMAC(name string) (mac objects.MAC, err error) {
	if n, err := hex.Decode(mac[:], []byte(name)); err != nil || n != len(mac) || len(name) != 2*n {
		return mac, fmt.Errorf("%w: it names %q", errIndex, name)
	}
	return mac, nil
}

// putBack writes a packfile that is missing from the store again; fs.ErrNotExist when there
// is no sound copy of it, an *UnreadCopiesError when nobody knows.
func (s *Store) putBack(ctx context.Context, mac objects.MAC) error {
	if s.conn.mirror == nil {
		return fs.ErrNotExist
	}
	rd, err := s.conn.mirror.reopen(mac)
	if errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err != nil {
		return &UnreadCopiesError{[]objects.MAC{mac}, err}
	}
	_, err = s.files.Put(ctx, packfileName(mac), rd)
	if err := errors.Join(err, rd.Close()); err != nil {
		return Unavailable("put packfile back", withoutNotExist(err))
	}
	s.log.Error("a packfile was missing from the store and was put back from the local copy: look for what else is missing",
		"store", s.Location(), "packfile", hex.EncodeToString(mac[:]))
	return nil
}

// withoutNotExist keeps a store that has gone away from looking like a missing copy.
func withoutNotExist(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return errors.New(err.Error())
	}
	return err
}

// noteLost takes packfiles out of kloset's index, or puts them into it again.
func (s *Store) noteLost(db *sqlite.SQLiteCache, gone, back []objects.MAC) error {
	tx, err := db.Begin()
	if err != nil {
		return s.indexError(err)
	}
	move := func(macs []objects.MAC, from, to string) error {
		for _, mac := range macs {
			name := hex.EncodeToString(mac[:])
			if _, err := tx.Exec("INSERT OR REPLACE INTO "+to+" (mac, payload) SELECT mac, payload FROM "+from+" WHERE mac = ?", name); err != nil {
				return err
			}
			if _, err := tx.Exec("DELETE FROM "+from+" WHERE mac = ?", name); err != nil {
				return err
			}
		}
		return nil
	}
	// What is back counts again at once, whatever the states in the store say.
	uncolour := func() error {
		for _, mac := range back {
			if _, err := tx.Exec("DELETE FROM deleteds WHERE mac = ? AND type = ?", hex.EncodeToString(mac[:]), int(resources.RT_PACKFILE)); err != nil {
				return err
			}
		}
		return nil
	}
	if err := errors.Join(uncolour(), move(gone, "packfiles", "snapgate_lost"), move(back, "snapgate_lost", "packfiles")); err != nil {
		return errors.Join(s.indexError(err), tx.Rollback())
	}
	return s.indexError(tx.Commit())
}

func (s *Store) logLost(gone, back []objects.MAC) {
	names := func(macs []objects.MAC) []string {
		var names []string
		for _, mac := range macs[:min(len(macs), namedPackfiles)] {
			names = append(names, hex.EncodeToString(mac[:]))
		}
		return names
	}
	if len(gone) > 0 {
		s.log.Error("packfiles are missing from the store: what they hold counts as lost until they are put back",
			"store", s.Location(), "missing", len(gone), "packfiles", names(gone))
	}
	if len(back) > 0 {
		s.log.Info("packfiles that were missing from the store are back",
			"store", s.Location(), "back", len(back), "packfiles", names(back))
	}
}

// Blobs returns the blobs that are nowhere else than in the missing packfiles. It reads the
// whole index.
func (l *Loss) Blobs() (blobs map[BlobID]struct{}, err error) {
	db, err := l.s.openIndex()
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	rows, err := db.Query(`SELECT DISTINCT d.type, d.mac FROM deltas d
		WHERE d.packfile IN (SELECT mac FROM snapgate_lost) AND d.type <> ? AND NOT EXISTS (
			SELECT 1 FROM deltas e JOIN packfiles p ON p.mac = e.packfile
			WHERE e.type = d.type AND e.mac = d.mac AND p.mac`+notColoured+`)`,
		int(resources.RT_RANDOM), int(resources.RT_PACKFILE))
	if err != nil {
		return nil, l.s.indexError(err)
	}
	defer rows.Close()
	blobs = make(map[BlobID]struct{})
	for rows.Next() {
		var typ int
		var name string
		if err := rows.Scan(&typ, &name); err != nil {
			return nil, l.s.indexError(err)
		}
		mac, err := parseMAC(name)
		if err != nil {
			return nil, l.s.indexError(err)
		}
		blobs[BlobID{resources.Type(typ), mac}] = struct{}{}
	}
	return blobs, l.s.indexError(rows.Err())
}
