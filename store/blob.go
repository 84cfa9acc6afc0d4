package store

import (
	"database/sql"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/PlakarKorp/kloset/caching/sqlite"
	"github.com/PlakarKorp/kloset/objects"
	"github.com/PlakarKorp/kloset/repository/state"
	"github.com/PlakarKorp/kloset/resources"
)

// locator looks blobs up in kloset's index: kloset itself tells nobody where they are, only
// what they hold, decoded at a quarter of the speed. Safe for concurrent use.
type locator struct {
	mu   sync.Mutex // guards the rest; held while it is opened
	db   *sqlite.SQLiteCache
	find *sql.Stmt
}

const (
	// lasting are the places of a blob whose packfile is known and not about to be removed.
	lasting = `SELECT d.payload FROM deltas d JOIN packfiles p ON p.mac = d.packfile
	LEFT JOIN deleteds x ON x.mac = d.packfile AND x.type = ?
	WHERE d.type = ? AND d.mac = ? AND x.mac IS NULL`
	// locate is what kloset does in three steps: the first of them.
	locate = lasting + ` LIMIT 1`
)

// open readies the look-up; it must be closed before the index is made anew.
func (l *locator) open(s *Store) (*sql.Stmt, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.find != nil {
		return l.find, nil
	}
	db, err := s.openIndex()
	if err != nil {
		return nil, err
	}
	find, err := db.Prepare(locate)
	if err != nil {
		return nil, errors.Join(err, db.Close())
	}
	l.db, l.find = db, find
	return find, nil
}

// locate returns the index's entry of a blob; the error is sql.ErrNoRows when there is none.
func (l *locator) locate(s *Store, typ resources.Type, mac objects.MAC) (payload []byte, err error) {
	find, err := l.open(s)
	if err != nil {
		return nil, err
	}
	err = find.QueryRow(int(resources.RT_PACKFILE), int(typ), hex.EncodeToString(mac[:])).Scan(&payload)
	return payload, err
}

func (l *locator) close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.db == nil {
		return nil
	}
	err := errors.Join(l.find.Close(), l.db.Close())
	l.db, l.find = nil, nil
	return err
}

// Blob reads a blob: as kloset's GetBlobBytes does it, and faster where the store has the
// usual form. A chunk is compared with its MAC: ErrDamaged. Safe for concurrent use.
func (s *Store) Blob(typ resources.Type, mac objects.MAC) ([]byte, error) {
	// Whatever goes wrong here, kloset gets to the bottom of, and its errors are known.
	if data, ok := s.fastBlob(typ, mac); ok {
		return data, nil
	}
	data, err := s.repo.GetBlobBytes(typ, mac)
	if err == nil && typ == resources.RT_CHUNK && s.repo.ComputeMAC(data) != mac {
		err = fmt.Errorf("%w: its content is not what was written", ErrDamaged)
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

func (s *Store) fastBlob(typ resources.Type, mac objects.MAC) ([]byte, bool) {
	if !s.codec.fast {
		return nil, false
	}
	payload, err := s.locator.locate(s, typ, mac)
	if err != nil {
		return nil, false
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
		if data, ok := s.blobAt(typ, mac, payload); ok {
			return data, true
		}
	}
	return nil, false
}

// blobAt reads a blob at a place that the index tells.
func (s *Store) blobAt(typ resources.Type, mac objects.MAC, payload []byte) ([]byte, bool) {
	delta, err := state.DeltaEntryFromBytes(payload)
	if err != nil {
		return nil, false
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
		return nil, false
	}
	data, err := s.codec.decode(encoded)
	if err != nil || typ != resources.RT_SNAPSHOT && s.repo.ComputeMAC(data) != mac { // a snapshot's is a name
		return nil, false
	}
	return data, true
}
