package store

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"

	"github.com/PlakarKorp/kloset/caching/sqlite"
	"github.com/PlakarKorp/kloset/objects"
	"github.com/PlakarKorp/kloset/repository/state"
	"github.com/PlakarKorp/kloset/resources"
)

// lostTable holds, in kloset's index, the rows of packfiles that are missing from the store.
// Without its row in kloset's own table a packfile does not count: kloset takes its blobs for
// absent, and stores them again when it is given them.
//
// Those that are back are in a second table until the states in the store say so, too. The
// column state names the state that has coloured a packfile, where that is known.
const lostTable = `CREATE TABLE IF NOT EXISTS snapgate_lost (
	mac TEXT NOT NULL PRIMARY KEY, payload BLOB NOT NULL, state TEXT NOT NULL DEFAULT '');
CREATE TABLE IF NOT EXISTS snapgate_back (mac TEXT NOT NULL PRIMARY KEY, state TEXT NOT NULL)`

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

// ToColour returns the missing packfiles of which the next state must say so, as of the last
// Reconcile. Colouring is what maintenance does to packfiles that are not to be used any
// more: other readers of the store then look for their blobs elsewhere.
func (s *Store) ToColour() []objects.MAC { return s.toColour }

// Coloured notes that a state which says so is in the store.
func (s *Store) Coloured(id objects.MAC) (err error) {
	if len(s.toColour) == 0 {
		return nil
	}
	db, err := s.openIndex()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	for _, mac := range s.toColour {
		if _, err := db.Exec("UPDATE snapgate_lost SET state = ? WHERE mac = ?", hex.EncodeToString(id[:]), hex.EncodeToString(mac[:])); err != nil {
			return s.indexError(err)
		}
	}
	return nil
}

// Reconcile compares the packfiles that the states in the store tell of with those that the
// store has. What is missing is put back from the copies of metadata that are kept here; what
// there is no copy of counts as absent from then on, and is logged once. It returns nil when
// nothing is missing. It needs a lock on the store, and is for the writer: nobody may be
// committing. Errors: ErrUnavailable, ErrReplaced.
func (s *Store) Reconcile(ctx context.Context) (loss *Loss, err error) {
	db, err := s.openIndex()
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	missing, back, err := s.compare(ctx, db)
	if err != nil {
		return nil, err
	}
	var gone []objects.MAC
	for _, mac := range missing {
		err := s.putBack(ctx, mac)
		if errors.Is(err, fs.ErrNotExist) {
			gone = append(gone, mac)
		} else if err != nil {
			return nil, err
		}
	}
	if len(gone)+len(back) > 0 {
		if err := s.noteLost(db, gone, back); err != nil {
			return nil, err
		}
		s.lossSerial++
		s.logLost(gone, back)
	}
	lost, err := s.macs(db, "SELECT mac FROM snapgate_lost")
	if err != nil {
		return nil, err
	}
	if err := s.uncolour(db); err != nil {
		return nil, err
	}
	s.toColour, err = s.macs(db, "SELECT mac FROM snapgate_lost WHERE mac"+notColoured, int(resources.RT_PACKFILE))
	if len(lost) == 0 || err != nil {
		return nil, err
	}
	return &Loss{s: s, Serial: s.lossSerial}, nil
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

// compare returns the packfiles that are missing from the store, and those that were and are
// back.
func (s *Store) compare(ctx context.Context, db *sqlite.SQLiteCache) (missing, back []objects.MAC, err error) {
	if _, err := db.Exec(lostTable); err != nil {
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
	for _, mac := range lost {
		if s.listing.has(mac) {
			back = append(back, mac)
		}
	}
	if len(missing) > 0 { // not because the store has just gone away
		if err := s.Available(ctx); err != nil {
			return nil, nil, err
		}
	}
	return missing, back, nil
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
// is no sound copy of it.
func (s *Store) putBack(ctx context.Context, mac objects.MAC) error {
	if s.conn.mirror == nil {
		return fs.ErrNotExist
	}
	rd, err := s.conn.mirror.reopen(mac)
	if err != nil {
		return fs.ErrNotExist
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
			// A state that is read again brings one back that is known to be lost, and which state has said so.
			if _, err := tx.Exec("INSERT INTO "+to+" (mac, payload) SELECT mac, payload FROM "+from+` WHERE mac = ?
				ON CONFLICT (mac) DO UPDATE SET payload = excluded.payload`, name); err != nil {
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
			name, typ := hex.EncodeToString(mac[:]), int(resources.RT_PACKFILE)
			if _, err := tx.Exec(`INSERT OR IGNORE INTO snapgate_back SELECT mac, state FROM snapgate_lost
				WHERE mac = ? AND mac IN (SELECT mac FROM deleteds WHERE type = ?)`, name, typ); err != nil {
				return err
			}
			if _, err := tx.Exec("DELETE FROM deleteds WHERE mac = ? AND type = ?", name, typ); err != nil {
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

// uncolour writes states that take the colour of packfiles away that are back.
func (s *Store) uncolour(db *sqlite.SQLiteCache) error {
	parents := make(map[string][]objects.MAC)
	macs, err := s.macs(db, "SELECT mac FROM snapgate_back")
	if err != nil {
		return err
	}
	for _, mac := range macs {
		var parent string
		name := hex.EncodeToString(mac[:])
		if err := db.QueryRow("SELECT state FROM snapgate_back WHERE mac = ?", name).Scan(&parent); err != nil {
			return s.indexError(err)
		}
		parents[parent] = append(parents[parent], mac)
	}
	for parent, macs := range parents {
		if err := s.putUncoloured(parent, macs); err != nil {
			return err
		}
		for _, mac := range macs {
			if _, err := db.Exec("DELETE FROM snapgate_back WHERE mac = ?", hex.EncodeToString(mac[:])); err != nil {
				return s.indexError(err)
			}
		}
	}
	return nil
}

// putUncoloured writes one such state, as a child of the one that has coloured: a reader takes
// a state over after its parent, and others in any order. All states of a process that goes on
// have the same parent otherwise.
func (s *Store) putUncoloured(parent string, macs []objects.MAC) (err error) {
	cache, err := s.kctx.GetCache().Scan(objects.RandomMAC())
	if err != nil {
		return fmt.Errorf("state delta: %w", err)
	}
	defer func() { err = errors.Join(err, cache.Close()) }()
	st := &state.LocalState{}
	st = st.Derive(cache)
	st.Metadata.Serial = s.config.RepositoryID
	if parent != "" {
		if st.Metadata.Parent, err = parseMAC(parent); err != nil {
			return err
		}
	}
	for _, mac := range macs {
		if err := st.DelColouredResource(resources.RT_PACKFILE, mac); err != nil {
			return fmt.Errorf("state delta: %w", err)
		}
	}
	var buf bytes.Buffer
	if err := st.SerializeToStream(&buf); err != nil {
		return fmt.Errorf("state delta: %w", err)
	}
	id := objects.RandomMAC()
	if err := s.repo.PutState(id, &buf); err != nil {
		return errors.Join(Unavailable("state", err), s.DropState(id))
	}
	return s.CacheError(s.repo.IngestStateFile(id))
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
