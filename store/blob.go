package store

import (
	"database/sql"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/PlakarKorp/kloset/caching/sqlite"
	"github.com/PlakarKorp/kloset/objects"
	"github.com/PlakarKorp/kloset/repository/state"
	"github.com/PlakarKorp/kloset/resources"
)

// locator looks blobs up in kloset's index: kloset itself tells nobody where they are, only
// what they hold, decoded at a quarter of the speed. Safe for concurrent use: each of its handles
// answers one question at a time.
type locator struct {
	asked   atomic.Uint64
	handles [locators]locatorHandle
}

// locatorHandle is a handle of a locator, which is opened when it is needed.
type locatorHandle struct {
	mu   sync.Mutex // guards the rest; held while it is opened
	db   *sqlite.SQLiteCache
	find *sql.Stmt
}

const (
	// locators is how many handles a locator has: most of what a small blob costs is the look-up.
	locators = 2
	// locateMany is after how many look-ups all handles on the index, kloset's as well, let go of the pages
	// that they have in memory.
	//
	// SQLite is built so that all handles of a process have one bound together, the sum of theirs. Whoever
	// has as many pages as it may takes the oldest page of any other for the next. The other, which has fewer
	// than it may, is given a new one, and when that makes too many together it is taken away again after each
	// question: every look-up reads all of its pages anew, at eight times the cost (BenchmarkHas). Nothing but
	// letting go of all pages ends that.
	locateMany = 1 << 14
)

const (
	// lasting are the places of a blob whose packfile is known and not about to be removed.
	lasting = `SELECT d.payload FROM deltas d JOIN packfiles p ON p.mac = d.packfile
	LEFT JOIN deleteds x ON x.mac = d.packfile AND x.type = ?
	WHERE d.type = ? AND d.mac = ? AND x.mac IS NULL`
	// locate is what kloset does in three steps: the first of them.
	locate = lasting + ` LIMIT 1`
)

// open readies the look-up; it must be closed before the index is made anew.
func (l *locator) open(s *Store) (err error) {
	for i := range l.handles {
		_, herr := l.handles[i].open(s)
		err = errors.Join(err, herr)
	}
	return err
}

func (h *locatorHandle) open(s *Store) (*sql.Stmt, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.find != nil {
		return h.find, nil
	}
	db, err := s.openIndex()
	if err != nil {
		return nil, err
	}
	find, err := db.Prepare(locate)
	if err != nil {
		return nil, errors.Join(err, db.Close())
	}
	h.db, h.find = db, find
	return find, nil
}

// locate returns the index's entry of a blob; the error is sql.ErrNoRows when there is none.
func (l *locator) locate(s *Store, typ resources.Type, mac objects.MAC) (payload []byte, err error) {
	n := l.asked.Add(1)
	h := &l.handles[n%locators]
	find, err := h.open(s)
	if err != nil {
		return nil, err
	}
	if n%locateMany == 0 {
		h.shrink()
	}
	err = find.QueryRow(int(resources.RT_PACKFILE), int(typ), hex.EncodeToString(mac[:])).Scan(&payload)
	return payload, err
}

// shrink has all handles on the index let go of their pages.
func (h *locatorHandle) shrink() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.db != nil {
		_, _ = h.db.Exec("PRAGMA shrink_memory") // when it fails look-ups are slow
	}
}

func (l *locator) close() (err error) {
	for i := range l.handles {
		err = errors.Join(err, l.handles[i].close())
	}
	return err
}

func (h *locatorHandle) close() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.db == nil {
		return nil
	}
	err := errors.Join(h.find.Close(), h.db.Close())
	h.db, h.find = nil, nil
	return err
}

// Named reports whether blobs of a type have names, not the MACs of what they hold.
func Named(typ resources.Type) bool {
	return typ == resources.RT_SNAPSHOT || typ == resources.RT_SIGNATURE
}

// compareMAC compares what was read of a blob with its MAC, if it has one. The error is ErrDamaged.
func (s *Store) compareMAC(typ resources.Type, mac objects.MAC, data []byte) error {
	if Named(typ) || s.repo.ComputeMAC(data) == mac {
		return nil
	}
	return fmt.Errorf("%w: its content is not what was written", ErrDamaged)
}

// Blob reads a blob: as kloset's GetBlobBytes does it, and faster where the store has the
// usual form. All but headers and signatures of snapshots is compared with its MAC: ErrDamaged. Safe for concurrent use.
func (s *Store) Blob(typ resources.Type, mac objects.MAC) ([]byte, error) {
	data, err := s.fastBlob(typ, mac)
	if err == nil || errors.Is(err, ErrUnavailable) { // which it would be again
		return data, err
	}
	// Whatever else goes wrong, kloset gets to the bottom of, and its errors are known.
	data, err = s.repo.GetBlobBytes(typ, mac)
	if err == nil {
		err = s.compareMAC(typ, mac, data)
	}
	if err == nil || errors.Is(err, ErrUnavailable) {
		return data, err
	}
	if data, ok := s.blobAnywhere(typ, mac); ok {
		return data, nil
	}
	return nil, err
}

// Has reports whether the store has a blob, as of the last Refresh and Ingest. It asks the
// index once where kloset asks three times. Safe for concurrent use.
func (s *Store) Has(typ resources.Type, mac objects.MAC) bool {
	_, err := s.locator.locate(s, typ, mac)
	if err == nil || errors.Is(err, sql.ErrNoRows) {
		return err == nil
	}
	return s.repo.BlobExists(typ, mac)
}

// Distrust names the packfiles that are known to be damaged, in place of those before.
func (s *Store) Distrust(packfiles map[objects.MAC]struct{}) { s.distrusted.Store(&packfiles) }

// Distrusted returns the packfiles that Distrust has named last; they are not to be changed.
func (s *Store) Distrusted() map[objects.MAC]struct{} {
	if bad := s.distrusted.Load(); bad != nil {
		return *bad
	}
	return nil
}

// Doubtful reports whether a blob that the store has is only in packfiles which Distrust has named,
// or else in such as are about to be removed. It is sound perhaps; whoever is about to rely on it
// stores it again. Safe for concurrent use.
func (s *Store) Doubtful(typ resources.Type, mac objects.MAC) bool {
	bad := s.Distrusted()
	if len(bad) == 0 {
		return false
	}
	doubtful := func(payload []byte) bool {
		delta, err := state.DeltaEntryFromBytes(payload)
		_, named := bad[delta.Location.Packfile]
		return err == nil && named
	}
	if payload, err := s.locator.locate(s, typ, mac); err != nil || !doubtful(payload) {
		return false // one that is not indexed yet was just stored
	}
	places, err := s.placesBy(lasting, int(resources.RT_PACKFILE), int(typ), hex.EncodeToString(mac[:]))
	return err == nil && !slices.ContainsFunc(places, func(p []byte) bool { return !doubtful(p) })
}

func (s *Store) fastBlob(typ resources.Type, mac objects.MAC) ([]byte, error) {
	if !s.codec.fast {
		return nil, errNotFast
	}
	payload, err := s.locator.locate(s, typ, mac)
	if err != nil {
		return nil, err
	}
	return s.blobAt(typ, mac, payload)
}

// blobAnywhere reads a blob at whichever place it is sound. That may be in packfiles which are about
// to be removed: it is there until they are, so what somebody reads stays readable for the grace
// period of maintenance when its snapshot is removed. Has does not count it: what is to stay must
// be stored again. And a blob that was stored again because it is damaged (Distrust) is in two.
func (s *Store) blobAnywhere(typ resources.Type, mac objects.MAC) ([]byte, bool) {
	payloads, err := s.places(typ, mac)
	if err != nil {
		return nil, false
	}
	for _, payload := range payloads {
		if data, err := s.blobAt(typ, mac, payload); err == nil {
			return data, true
		}
	}
	return nil, false
}

// blobAt reads a blob at a place that the index tells. Errors: ErrUnavailable when the place could not be read; others say
// that the blob is not there, or not sound.
func (s *Store) blobAt(typ resources.Type, mac objects.MAC, payload []byte) ([]byte, error) {
	delta, err := state.DeltaEntryFromBytes(payload)
	if err != nil {
		return nil, err
	}
	buf := s.encoded.Get().(*[]byte)
	defer s.encoded.Put(buf)
	encoded := *buf
	if s.conn.remote {
		encoded, err = s.repo.GetPackfileRange(delta.Location)
	} else {
		encoded, err = s.conn.read(delta.Location, encoded)
		*buf = encoded
	}
	if err != nil {
		return nil, err
	}
	data, err := s.codec.decode(encoded)
	if err != nil {
		return nil, err
	}
	return data, s.compareMAC(typ, mac, data)
}
