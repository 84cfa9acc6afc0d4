package store

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/PlakarKorp/kloset/caching"
	"github.com/PlakarKorp/kloset/connectors/storage"
	"github.com/PlakarKorp/kloset/objects"
	"github.com/PlakarKorp/kloset/repository/state"
	"github.com/PlakarKorp/kloset/resources"
	"github.com/PlakarKorp/kloset/versioning"
	"golang.org/x/sync/errgroup"

	"github.com/snapgate/gateway/store/internal/backend"
)

// buriedAt is when a packfile that was removed is coloured, for all time. kloset has no order of
// states but that one comes after its parent, so a reader may learn that a packfile is there after
// it has learned that it is gone. As long as it is coloured nobody uses it, and plakar's
// maintenance does not look at what is coloured later than it runs. It is the last second of
// kloset's clock, of nanoseconds.
func buriedAt() time.Time { return time.Unix(math.MaxInt64/int64(time.Second)-1, 0) }

// Buried reports whether a packfile that was coloured at a time has been removed.
func Buried(coloured time.Time) bool { return coloured.Equal(buriedAt()) }

// bury forgets packfiles that have been removed and that a state has told of afterwards, or that were missing.
func (s *Store) bury() (err error) {
	db, err := s.openIndex()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	when := binary.LittleEndian.AppendUint64(nil, uint64(buriedAt().UnixNano()))
	if _, err := db.Exec(lostTable); err != nil {
		return s.indexError(err)
	}
	// substr counts from 1: the time is behind the type and the name.
	rows, err := db.Query(`SELECT mac FROM (SELECT mac FROM packfiles UNION SELECT mac FROM snapgate_lost) WHERE mac IN
		(SELECT mac FROM deleteds WHERE type = ? AND substr(payload, ?, 8) = ?)`,
		int(resources.RT_PACKFILE), 1+1+len(objects.MAC{}), when)
	if err != nil {
		return s.indexError(err)
	}
	names, err := texts(rows)
	if err != nil || len(names) == 0 {
		return s.indexError(err)
	}
	tx, err := db.Begin()
	if err != nil {
		return s.indexError(err)
	}
	if err := dropPackfiles(tx, names); err != nil {
		return errors.Join(s.indexError(err), tx.Rollback())
	}
	return s.indexError(tx.Commit())
}

// texts reads rows of one text.
func texts(rows *sql.Rows) (all []string, err error) {
	defer func() { err = errors.Join(err, rows.Close()) }()
	for rows.Next() {
		var one string
		if err := rows.Scan(&one); err != nil {
			return nil, err
		}
		all = append(all, one)
	}
	return all, rows.Err()
}

// places returns all entries of a blob, those in coloured packfiles too.
func (s *Store) places(typ resources.Type, mac objects.MAC) ([][]byte, error) {
	return s.placesBy(`SELECT payload FROM deltas WHERE type = ? AND mac = ?
		AND packfile IN (SELECT mac FROM packfiles)`, int(typ), hex.EncodeToString(mac[:]))
}

func (s *Store) placesBy(query string, args ...any) (payloads [][]byte, err error) {
	db, err := s.openIndex()
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	err = s.payloads(db, func(payload []byte) error {
		payloads = append(payloads, payload)
		return nil
	}, query, args...)
	return payloads, err
}

// Place is where a blob is.
type Place struct {
	Type     resources.Type
	Blob     objects.MAC
	Packfile objects.MAC
	Offset   uint64
	Length   uint32
}

// PlacesOf returns where a blob is, as of the last Refresh and Ingest: also in packfiles that are
// coloured, but not in such as are missing.
func (s *Store) PlacesOf(typ resources.Type, mac objects.MAC) ([]Place, error) {
	payloads, err := s.places(typ, mac)
	if err != nil {
		return nil, err
	}
	return s.placesFrom(payloads)
}

func (s *Store) placesFrom(payloads [][]byte) (places []Place, err error) {
	places = make([]Place, len(payloads))
	for i, payload := range payloads {
		if places[i], err = placeFrom(payload); err != nil {
			return nil, s.indexError(err)
		}
	}
	return places, nil
}

// MissingPlacesOf is PlacesOf for packfiles that are missing, as of the last Reconcile, and that maintenance has not removed.
func (s *Store) MissingPlacesOf(typ resources.Type, mac objects.MAC) (places []Place, err error) {
	payloads, err := s.placesBy("SELECT payload FROM deltas WHERE type = ? AND mac = ? AND packfile IN (SELECT mac FROM snapgate_lost)",
		int(typ), hex.EncodeToString(mac[:]))
	if err != nil {
		return nil, err
	}
	coloured, err := s.ColouredAs(resources.RT_PACKFILE)
	if err != nil {
		return nil, err
	}
	if places, err = s.placesFrom(payloads); err != nil {
		return nil, err
	}
	return slices.DeleteFunc(places, func(p Place) bool { return Buried(coloured[p.Packfile]) }), nil
}

func placeFrom(payload []byte) (p Place, err error) {
	if len(payload) != state.DeltaEntrySerializedSize {
		return p, fmt.Errorf("%w: a place of %d bytes", errIndex, len(payload))
	}
	le := binary.LittleEndian
	return Place{
		Type: resources.Type(payload[0]), Blob: objects.MAC(payload[entryBlob:entryPack]), Packfile: objects.MAC(payload[entryPack:entryPlace]),
		Offset: le.Uint64(payload[entryPlace:]), Length: le.Uint32(payload[entryPlace+8:]),
	}, nil
}

// placesPage is how many places are read at a time: others get at the index in between.
const placesPage = 10_000

// EachPlace calls each with all that the index tells, also of packfiles that it does not know any
// more. What is added meanwhile may be left out.
func (s *Store) EachPlace(ctx context.Context, each func(Place)) (err error) {
	db, err := s.openIndex()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	for after, n := int64(math.MinInt64), placesPage; n == placesPage; {
		if err := ctx.Err(); err != nil {
			return err
		}
		if after, n, err = s.placesAfter(db.DB, after, each); err != nil {
			return s.indexError(err)
		}
	}
	return nil
}

func (s *Store) placesAfter(db *sql.DB, after int64, each func(Place)) (last int64, n int, err error) {
	rows, err := db.Query("SELECT rowid, payload FROM deltas WHERE rowid > ? ORDER BY rowid LIMIT ?", after, placesPage)
	if err != nil {
		return after, 0, err
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	var payload sql.RawBytes
	for last = after; rows.Next(); n++ {
		if err := rows.Scan(&last, &payload); err != nil {
			return last, n, err
		}
		p, err := placeFrom(payload)
		if err != nil {
			return last, n, err
		}
		each(p)
	}
	return last, n, rows.Err()
}

// IndexedPackfiles returns the packfiles that the states tell of, and when they came to the
// store, as of the last Refresh and Ingest.
func (s *Store) IndexedPackfiles() (map[objects.MAC]time.Time, error) {
	return s.times("SELECT payload FROM packfiles", nil, func(payload []byte) (objects.MAC, time.Time, error) {
		e, err := state.PackfileEntryFromBytes(payload)
		return e.Packfile, e.Timestamp, err
	})
}

func (s *Store) times(query string, args []any, parse func([]byte) (objects.MAC, time.Time, error)) (all map[objects.MAC]time.Time, err error) {
	db, err := s.openIndex()
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	rows, err := db.Query(query, args...)
	if err != nil {
		return nil, s.indexError(err)
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	all = make(map[objects.MAC]time.Time)
	for rows.Next() {
		var payload []byte
		if err := rows.Scan(&payload); err != nil {
			return nil, s.indexError(err)
		}
		mac, t, err := parse(payload)
		if err != nil {
			return nil, s.indexError(err)
		}
		all[mac] = t
	}
	return all, s.indexError(rows.Err())
}

// LostPackfiles returns the packfiles that are missing from the store, as of the last Reconcile.
func (s *Store) LostPackfiles() ([]objects.MAC, error) {
	return s.lostMACs("SELECT mac FROM snapgate_lost")
}

// lostMACs is macs for a query that may ask for missing packfiles, of an index of its own.
func (s *Store) lostMACs(query string, args ...any) (ids []objects.MAC, err error) {
	db, err := s.openIndex()
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	if _, err := db.Exec(lostTable); err != nil {
		return nil, s.indexError(err)
	}
	return s.macs(db, query, args...)
}

// StateFacts is what a state says of snapshots, and of packfiles.
type StateFacts struct {
	Snapshots []objects.MAC // it has their headers
	Removed   []objects.MAC // it says of them that they were removed
	Restored  []objects.MAC // it says of them that they were not removed after all
	Freed     []objects.MAC // it takes the colour of these packfiles away, and does not colour them itself
	Buried    []objects.MAC // it says of these packfiles that they were removed
	Parent    objects.MAC   // the state that it comes after, if it comes after one
}

// ReadState reads what a state says, from the store and not from the index.
func (s *Store) ReadState(ctx context.Context, id objects.MAC) (StateFacts, error) {
	c, _, err := s.readFacts(ctx, id)
	if err != nil {
		return StateFacts{}, err
	}
	return c.StateFacts, nil
}

// readFacts reads what a state says, and which its parent is.
func (s *Store) readFacts(ctx context.Context, id objects.MAC) (*factCollector, objects.MAC, error) {
	r := &stateReader{s: s, kept: make(map[objects.MAC]keptState)}
	rd, version, err := r.open(ctx, id)
	if err != nil {
		return nil, objects.NilMac, Unavailable("read state", err)
	}
	return factsFrom(id, rd, version)
}

// factsOf is readFacts of what CopyOfState has read.
func (s *Store) factsOf(id objects.MAC, raw []byte) (*factCollector, objects.MAC, error) {
	version, rd, err := storage.Deserialize(s.repo.GetMACHasher(), resources.RT_STATE, io.NopCloser(bytes.NewReader(raw)))
	if err == nil && !versioning.IsCompatibleWithCurrentVersion(resources.RT_STATE, version) {
		err = fmt.Errorf("it is of version %s: %w", version, errors.ErrUnsupported)
	}
	if err == nil {
		rd, err = s.codec.unstream(rd)
	}
	if err != nil {
		return nil, objects.NilMac, fmt.Errorf("read copy of state %x: %w", id[:4], err)
	}
	return factsFrom(id, rd, version)
}

// factsFrom is readFacts of a state that is decoded. It closes rd.
func factsFrom(id objects.MAC, rd io.ReadCloser, version versioning.Version) (*factCollector, objects.MAC, error) {
	c := new(factCollector)
	st, err := stateFromStream(rd, version, c)
	if err := errors.Join(err, rd.Close()); err != nil {
		return nil, objects.NilMac, fmt.Errorf("read state %x: %w: %w", id[:4], ErrDamaged, err)
	}
	coloured := make(map[objects.MAC]struct{}, len(c.coloured))
	for _, mac := range c.coloured {
		coloured[mac] = struct{}{}
	}
	c.Parent = st.Metadata.Parent
	// A state is read with what it takes away first.
	c.Freed = slices.DeleteFunc(c.Freed, func(mac objects.MAC) bool { _, ok := coloured[mac]; return ok })
	return c, st.Metadata.Parent, nil
}

// factCollector is what kloset's reader of states writes to.
type factCollector struct {
	caching.StateCache // nil
	StateFacts
	coloured []objects.MAC // packfiles
}

func (c *factCollector) PutDelta(typ resources.Type, blob, _ objects.MAC, _ []byte) error {
	if typ == resources.RT_SNAPSHOT {
		c.Snapshots = append(c.Snapshots, blob)
	}
	return nil
}

func (c *factCollector) PutColoured(typ resources.Type, blob objects.MAC, data []byte) error {
	switch typ {
	case resources.RT_SNAPSHOT:
		c.Removed = append(c.Removed, blob)
	case resources.RT_PACKFILE:
		c.coloured = append(c.coloured, blob)
		e, err := state.ColouredEntryFromBytes(data)
		if err != nil {
			return err
		}
		if Buried(e.When) {
			c.Buried = append(c.Buried, blob)
		}
	}
	return nil
}

func (c *factCollector) DelColoured(typ resources.Type, blob objects.MAC) error {
	switch typ {
	case resources.RT_SNAPSHOT:
		c.Restored = append(c.Restored, blob)
	case resources.RT_PACKFILE:
		c.Freed = append(c.Freed, blob)
	}
	return nil
}

func (c *factCollector) PutPackfile(objects.MAC, []byte) error                   { return nil }
func (c *factCollector) DelDelta(resources.Type, objects.MAC, objects.MAC) error { return nil }
func (c *factCollector) DelPackfile(objects.MAC) error                           { return nil }
func (c *factCollector) GetConfiguration(string) ([]byte, error)                 { return nil, nil }
func (c *factCollector) PutConfiguration(string, []byte) error                   { return nil }

// Removal is what maintenance says.
type Removal struct {
	Colour []objects.MAC // packfiles that nobody shall use any more
	Bury   []objects.MAC // packfiles that are to be removed
	// Freed are, by packfile, the states that take its colour away: all that there are of those two.
	Freed map[objects.MAC][]objects.MAC
}

// PutRemoval writes what maintenance says, and leaves it to be taken over: in one state, and one more for each of
// Freed, which it has to come after. It needs the exclusive lock, and is for the
// writer: nobody may be committing. With an error, ids are the states that are in the store all the same. Errors: ErrUnavailable.
func (s *Store) PutRemoval(r Removal, now time.Time) (ids []objects.MAC, err error) {
	by := make(map[objects.MAC]*Removal) // by parent
	add := func(mac objects.MAC, list func(*Removal) *[]objects.MAC) {
		parents := r.Freed[mac]
		if len(parents) == 0 {
			parents = []objects.MAC{objects.NilMac}
		}
		for _, parent := range parents {
			if by[parent] == nil {
				by[parent] = new(Removal)
			}
			all := list(by[parent])
			*all = append(*all, mac)
		}
	}
	for _, mac := range r.Colour {
		add(mac, func(r *Removal) *[]objects.MAC { return &r.Colour })
	}
	for _, mac := range r.Bury {
		add(mac, func(r *Removal) *[]objects.MAC { return &r.Bury })
	}
	for parent, r := range by {
		id, err := s.putState(objects.RandomMAC(), parent, func(st *state.LocalState, cache *caching.ScanCache) (err error) {
			for _, mac := range r.Colour {
				err = errors.Join(err, putColour(cache, mac, now))
			}
			for _, mac := range r.Bury {
				err = errors.Join(err, putBurial(st, cache, mac))
			}
			return err
		})
		if err != nil {
			return ids, err
		}
		ids = append(ids, id)
	}
	return ids, nil
}

// putBurial says that a packfile was removed.
func putBurial(st *state.LocalState, cache *caching.ScanCache, mac objects.MAC) error {
	// kloset takes over what is removed before what is added, so the colour gets another time.
	return errors.Join(st.DelPackfile(mac), st.DelColouredResource(resources.RT_PACKFILE, mac), putColour(cache, mac, buriedAt()))
}

// ListPackfiles lists the packfiles that are in the store.
func (s *Store) ListPackfiles(ctx context.Context) (map[objects.MAC]struct{}, error) {
	macs, err := s.conn.List(ctx, storage.StorageResourcePackfile)
	if err != nil {
		return nil, s.conn.unavailable("list packfiles", err)
	}
	all := make(map[objects.MAC]struct{}, len(macs))
	for _, mac := range macs {
		all[mac] = struct{}{}
	}
	return all, nil
}

// PackfileInfo describes a packfile in the store.
type PackfileInfo struct {
	Size    int64
	ModTime time.Time // by the clock of the store
}

// StatPackfiles describes packfiles; those that are not there are left out.
func (s *Store) StatPackfiles(ctx context.Context, macs []objects.MAC) (map[objects.MAC]PackfileInfo, error) {
	var mu sync.Mutex // guards all
	all := make(map[objects.MAC]PackfileInfo, len(macs))
	err := s.eachPackfile(ctx, macs, func(ctx context.Context, mac objects.MAC) error {
		fi, err := s.files.Stat(ctx, packfileName(mac))
		if err != nil {
			return s.conn.unavailable("look for packfile", ignoreNotExist(err))
		}
		mu.Lock()
		defer mu.Unlock()
		all[mac] = PackfileInfo{Size: fi.Size, ModTime: fi.ModTime}
		return nil
	})
	return all, err
}

// RemovePackfiles removes packfiles for good. It needs the exclusive lock. What is not there any
// more is no error.
func (s *Store) RemovePackfiles(ctx context.Context, macs []objects.MAC) error {
	return s.eachPackfile(ctx, macs, func(ctx context.Context, mac objects.MAC) error {
		err := s.files.Remove(ctx, packfileName(mac))
		return s.conn.unavailable("remove packfile", ignoreNotExist(err))
	})
}

func (s *Store) eachPackfile(ctx context.Context, macs []objects.MAC, do func(context.Context, objects.MAC) error) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(liveLooks)
	for _, mac := range macs {
		group.Go(func() error {
			if err := ctx.Err(); err != nil {
				return err
			}
			return do(ctx, mac)
		})
	}
	return group.Wait()
}

// Remote reports whether the store is elsewhere: to look at a file takes its time.
func (s *Store) Remote() bool { return s.conn.remote }

// SweepLeftovers removes what writes have left behind that did not end. It needs the exclusive
// lock: nobody may be writing.
func (s *Store) SweepLeftovers(ctx context.Context) error {
	if _, ok := s.files.(*backend.Local); !ok {
		return nil // each Open does
	}
	if err := s.files.Sweep(ctx, time.Now()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return Unavailable("leftovers", err)
	}
	return nil
}
