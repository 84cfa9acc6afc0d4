package store

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"database/sql"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/PlakarKorp/kloset/caching"
	"github.com/PlakarKorp/kloset/caching/sqlite"
	"github.com/PlakarKorp/kloset/connectors/storage"
	"github.com/PlakarKorp/kloset/objects"
	"github.com/PlakarKorp/kloset/repository"
	"github.com/PlakarKorp/kloset/repository/state"
	"github.com/PlakarKorp/kloset/resources"
	"github.com/PlakarKorp/kloset/versioning"
	"golang.org/x/sync/errgroup"
)

const (
	// ingestRows is after how many entries a transaction that takes over many states ends:
	// what it has changed is in memory.
	ingestRows = 100_000
	// stateBytes is up to which size a state is read into memory, and how much of states is
	// kept between finding out their order and taking them over.
	stateBytes = 32 << 20
	// ingestMany is from how many missing states on they are taken over here.
	ingestMany = 8
	// placeRows is how many places a statement writes.
	placeRows = 32
	// stateReads is how many states are read at a time, and stateBatch how many of those that
	// were not kept: some wait for the store while others are decoded.
	stateReads = 16
	stateBatch = 64
)

// errUnusual says that a state has what is left to kloset.
var errUnusual = errors.New("state with settings")

// ingester writes states into kloset's index, many entries in a transaction, where kloset
// makes one of each. Its statements are kloset's. It belongs to whoever calls Refresh and
// Ingest.
type ingester struct {
	db *sqlite.SQLiteCache
}

func (g *ingester) close() error {
	if g.db == nil {
		return nil
	}
	err := g.db.Close()
	g.db = nil
	return err
}

const (
	insertPlaces = "INSERT OR IGNORE INTO deltas(mac, type, packfile, payload) VALUES "
	placeValues  = "(?, ?, ?, ?)"
)

// begin begins a transaction.
func (g *ingester) begin(s *Store) (t *stateWriter, err error) {
	if g.db == nil {
		if g.db, err = s.openIndex(); err != nil {
			return nil, err
		}
	}
	t = new(stateWriter)
	if t.tx, err = g.db.Begin(); err != nil {
		return nil, s.indexError(err)
	}
	for _, x := range []struct {
		stmt **sql.Stmt
		text string
	}{
		{&t.unplace, "DELETE FROM deltas WHERE mac = ? AND type = ? AND packfile = ?"},
		{&t.uncolour, "DELETE FROM deleteds WHERE mac = ? AND type = ?"},
		{&t.delta, insertPlaces + placeValues},
		{&t.deltas, insertPlaces + placeValues + strings.Repeat(", "+placeValues, placeRows-1)},
		{&t.coloured, "INSERT OR IGNORE INTO deleteds(mac, type, payload) VALUES(?, ?, ?)"},
		{&t.packfile, "INSERT OR IGNORE INTO packfiles(mac, payload) VALUES(?, ?)"},
		{&t.state, "INSERT INTO states(mac, payload) VALUES(?, ?)"},
	} {
		if *x.stmt, err = t.tx.Prepare(x.text); err != nil {
			return nil, errors.Join(s.indexError(err), t.tx.Rollback())
		}
	}
	return t, nil
}

// stateWriter is what kloset's reader of states writes to: a transaction. It has what that
// calls for states without settings.
type stateWriter struct {
	caching.StateCache // nil

	tx                               *sql.Tx
	delta, coloured, packfile, state *sql.Stmt
	deltas, unplace, uncolour        *sql.Stmt

	rows    int
	places  []placed // that are not written yet
	payload []byte   // of places, one behind the other
	gone    []string // packfiles that were removed
	err     error    // of a removal: kloset's reader does not look at those
	unusual bool
}

func (t *stateWriter) exec(stmt *sql.Stmt, args ...any) error {
	t.rows++
	_, err := stmt.Exec(args...)
	return err
}

// placed is a row that says where a blob is.
type placed struct {
	typ        resources.Type
	blob, pack objects.MAC
	from, to   int // in the payloads
}

func comparePlaces(a, b placed) int {
	return cmp.Or(cmp.Compare(a.typ, b.typ), bytes.Compare(a.blob[:], b.blob[:]), bytes.Compare(a.pack[:], b.pack[:]),
		cmp.Compare(a.from, b.from))
}

// PutDelta collects places: written in the order of their index, as place does it, they cost a third
// of what they do in no order.
func (t *stateWriter) PutDelta(typ resources.Type, blob, pack objects.MAC, data []byte) error {
	t.rows++
	from := len(t.payload)
	t.payload = append(t.payload, data...)
	t.places = append(t.places, placed{typ, blob, pack, from, len(t.payload)})
	if len(t.places) < ingestRows {
		return nil
	}
	return t.place()
}

// place writes the places that were collected. Of several of the same key the first one stays.
func (t *stateWriter) place() error {
	slices.SortFunc(t.places, comparePlaces)
	args := make([]any, 0, 4*placeRows)
	for rest := t.places; len(rest) > 0; {
		n, stmt := placeRows, t.deltas
		if len(rest) < n {
			n, stmt = 1, t.delta
		}
		args = args[:0]
		for i := range rest[:n] {
			p := &rest[i]
			args = append(args, hex.EncodeToString(p.blob[:]), p.typ, hex.EncodeToString(p.pack[:]), t.payload[p.from:p.to])
		}
		if _, err := stmt.Exec(args...); err != nil {
			return err
		}
		rest = rest[n:]
	}
	t.places, t.payload = t.places[:0], t.payload[:0]
	return nil
}

func (t *stateWriter) PutColoured(typ resources.Type, blob objects.MAC, data []byte) error {
	return t.exec(t.coloured, hex.EncodeToString(blob[:]), typ, data)
}

func (t *stateWriter) PutPackfile(pack objects.MAC, data []byte) error {
	return t.exec(t.packfile, hex.EncodeToString(pack[:]), data)
}

func (t *stateWriter) refuse() error {
	t.unusual = true
	return errUnusual
}

func (t *stateWriter) DelDelta(typ resources.Type, blob, pack objects.MAC) error {
	t.err = errors.Join(t.err, t.place(), t.exec(t.unplace, hex.EncodeToString(blob[:]), typ, hex.EncodeToString(pack[:])))
	return nil
}

func (t *stateWriter) DelColoured(typ resources.Type, blob objects.MAC) error {
	t.err = errors.Join(t.err, t.exec(t.uncolour, hex.EncodeToString(blob[:]), typ))
	return nil
}

// DelPackfile notes that a packfile goes, with all that is in it. kloset looks through the whole
// table of places for each; here it is done once, by commit. Packfiles do not come back, so it
// does not matter in which order the states of one transaction are.
func (t *stateWriter) DelPackfile(pack objects.MAC) error {
	t.gone = append(t.gone, hex.EncodeToString(pack[:]))
	return nil
}

func (t *stateWriter) GetConfiguration(string) ([]byte, error) { return nil, t.refuse() }
func (t *stateWriter) PutConfiguration(string, []byte) error   { return t.refuse() }

// commit ends the transaction.
func (t *stateWriter) commit() error {
	if err := errors.Join(t.err, t.place()); err != nil {
		return errors.Join(err, t.tx.Rollback())
	}
	if err := dropPackfiles(t.tx, t.gone); err != nil {
		return errors.Join(err, t.tx.Rollback())
	}
	return t.tx.Commit()
}

// dropPackfiles takes packfiles, and all that is in them, out of the index.
func dropPackfiles(tx *sql.Tx, names []string) error {
	if len(names) == 0 {
		return nil
	}
	for _, text := range []string{lostTable, "CREATE TEMP TABLE IF NOT EXISTS snapgate_gone (mac TEXT NOT NULL PRIMARY KEY)", "DELETE FROM snapgate_gone"} {
		if _, err := tx.Exec(text); err != nil {
			return err
		}
	}
	for _, name := range names {
		if _, err := tx.Exec("INSERT OR IGNORE INTO snapgate_gone (mac) VALUES (?)", name); err != nil {
			return err
		}
	}
	for _, text := range []string{
		"DELETE FROM packfiles WHERE mac IN (SELECT mac FROM snapgate_gone)",
		"DELETE FROM deltas WHERE packfile IN (SELECT mac FROM snapgate_gone)",
		"DELETE FROM snapgate_lost WHERE mac IN (SELECT mac FROM snapgate_gone)",
		"DELETE FROM snapgate_gone",
	} {
		if _, err := tx.Exec(text); err != nil {
			return err
		}
	}
	return nil
}

// stateFromStream has kloset read a state into a cache. kloset asks for a few bytes at a time, which through the
// pipe of its decompression, in a thread of its own (see package background), are two switches of
// threads each: that was half of a first backup of many small files.
func stateFromStream(rd io.Reader, version versioning.Version, c caching.StateCache) (*state.LocalState, error) {
	return state.FromStream(bufio.NewReaderSize(rd, 64<<10), version, c)
}

// add adds a state.
func (t *stateWriter) add(id objects.MAC, rd io.Reader, version versioning.Version) error {
	st, err := stateFromStream(rd, version, t)
	if t.unusual {
		err = errUnusual
	}
	if err != nil {
		return err
	}
	meta, err := st.Metadata.ToBytes()
	if err != nil {
		return err
	}
	return t.exec(t.state, hex.EncodeToString(id[:]), meta)
}

// Ingest takes over the state that a commit has just written, without reading it from the
// store. It must not overlap with Refresh. After an error only Refresh finds the state.
func (s *Store) Ingest(id objects.MAC) error {
	known := s.indexed
	s.indexed = nil // until it is known again
	err := s.ingest(id)
	if errors.Is(err, errUnusual) {
		err = s.repo.IngestStateFile(id)
	}
	if err != nil {
		return fmt.Errorf("ingest state: %w", s.CacheError(err))
	}
	if known != nil {
		known[id] = struct{}{}
		s.indexed = known
	}
	return nil
}

func (s *Store) ingest(id objects.MAC) (err error) {
	t, err := s.ingester.begin(s)
	if err != nil {
		return err
	}
	path := s.stateFile(id)
	rd, version, err := s.repo.OpenStateFromStateFile(path)
	if err == nil {
		err = errors.Join(t.add(id, rd, version), rd.Close())
	}
	if err != nil {
		return errors.Join(err, t.tx.Rollback())
	}
	if err := t.commit(); err != nil {
		return err
	}
	return os.Remove(path)
}

// stateFile is where kloset leaves a copy of a state that it has written.
func (s *Store) stateFile(id objects.MAC) string {
	return filepath.Join(s.stateDir(), fmt.Sprintf("%x.state", id))
}

// ingestMissing takes over states of the store that the index lacks, when there are many.
// It leaves the last one to kloset, which takes some of its settings from it, and all
// from the first on that is unusual or damaged.
func (s *Store) ingestMissing(ctx context.Context, known map[objects.MAC]struct{}) error {
	var missing []objects.MAC
	for id := range s.conn.listedStates() {
		if _, ok := known[id]; !ok {
			missing = append(missing, id)
		}
	}
	if len(missing) < ingestMany {
		return nil
	}
	r := &stateReader{s: s, kept: make(map[objects.MAC]keptState), room: stateBytes - stateBytes/4}
	parents, err := r.parents(ctx, missing)
	if err != nil {
		return ctx.Err() // kloset gets to the bottom of it
	}
	ordered, err := repository.TopoSort(missing, func(id objects.MAC) (objects.MAC, error) { return parents[id], nil })
	if err != nil || len(ordered) != len(missing) {
		return ctx.Err()
	}
	r.room += stateBytes / 4
	for ordered = ordered[:len(ordered)-1]; len(ordered) > 0; {
		n, err := s.ingestSome(ctx, r, ordered)
		if err != nil {
			s.log.Debug("states are left to kloset", "err", err)
			return ctx.Err()
		}
		ordered = ordered[n:]
	}
	return nil
}

// ingestSome takes over the first of some states in one transaction, and says how many.
func (s *Store) ingestSome(ctx context.Context, r *stateReader, ids []objects.MAC) (n int, err error) {
	t, err := s.ingester.begin(s)
	if err != nil {
		return 0, err
	}
	for n < len(ids) && t.rows < ingestRows {
		rd, version, err := r.take(ctx, ids[n:])
		if err == nil {
			err = errors.Join(t.add(ids[n], rd, version), rd.Close())
		}
		if err != nil {
			return 0, errors.Join(err, t.tx.Rollback())
		}
		n++
	}
	return n, t.commit()
}

// stateReader reads states of the store, most of them once.
type stateReader struct {
	s *Store

	mu   sync.Mutex
	kept map[objects.MAC]keptState // guarded by mu
	room int                       // guarded by mu: bytes that may be kept beside
}

type keptState struct {
	data    []byte
	version versioning.Version
}

// parents reads which states were there when states were made.
func (r *stateReader) parents(ctx context.Context, ids []objects.MAC) (map[objects.MAC]objects.MAC, error) {
	list := make([]objects.MAC, len(ids))
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(stateReads)
	for i, id := range ids {
		group.Go(func() (err error) {
			list[i], err = r.parent(ctx, id)
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	parents := make(map[objects.MAC]objects.MAC, len(ids))
	for i, id := range ids {
		parents[id] = list[i]
	}
	return parents, nil
}

func (r *stateReader) parent(ctx context.Context, id objects.MAC) (objects.MAC, error) {
	rd, version, err := r.open(ctx, id)
	if err != nil {
		return objects.NilMac, err
	}
	h, err := state.ReadHeader(rd, version)
	if err = errors.Join(err, rd.Close()); err != nil {
		return objects.NilMac, err
	}
	return h.Parent, nil
}

// open opens a state, decoded, and keeps it if there is room.
func (r *stateReader) open(ctx context.Context, id objects.MAC) (io.ReadCloser, versioning.Version, error) {
	if err := ctx.Err(); err != nil {
		return nil, 0, err
	}
	st, err := r.read(ctx, id)
	if err != nil {
		return r.s.repo.GetState(id) // larger, or in another form
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(st.data) <= r.room {
		r.kept[id] = st
		r.room -= len(st.data)
	}
	return st.open()
}

func (st keptState) open() (io.ReadCloser, versioning.Version, error) {
	return io.NopCloser(bytes.NewReader(st.data)), st.version, nil
}

// take opens the first of some states, and keeps it no longer. If it was not kept it is read, together
// with some that come next.
func (r *stateReader) take(ctx context.Context, ids []objects.MAC) (io.ReadCloser, versioning.Version, error) {
	if st, ok := r.drop(ids[0]); ok {
		return st.open()
	}
	var group errgroup.Group
	group.SetLimit(stateReads)
	for _, id := range ids[1:min(len(ids), stateBatch)] {
		if !r.has(id) {
			group.Go(func() error {
				if rd, _, err := r.open(ctx, id); err == nil { // or else it is read when its turn comes
					_ = rd.Close()
				}
				return nil
			})
		}
	}
	rd, version, err := r.open(ctx, ids[0])
	_ = group.Wait() // never fails
	r.drop(ids[0])
	return rd, version, err
}

func (r *stateReader) has(id objects.MAC) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	_, ok := r.kept[id]
	return ok
}

func (r *stateReader) drop(id objects.MAC) (keptState, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	st, ok := r.kept[id]
	if ok {
		delete(r.kept, id)
		r.room += len(st.data)
	}
	return st, ok
}

// read reads a state as a whole: kloset's own reader takes some megabytes of memory for
// each, however small it is.
func (r *stateReader) read(ctx context.Context, id objects.MAC) (st keptState, err error) {
	if !r.s.codec.fast {
		return st, errors.ErrUnsupported
	}
	raw, err := r.s.conn.Get(ctx, storage.StorageResourceState, id, nil)
	if err != nil {
		return st, err
	}
	version, rd, err := storage.Deserialize(r.s.repo.GetMACHasher(), resources.RT_STATE, raw)
	if err != nil {
		return st, errors.Join(err, raw.Close())
	}
	defer func() { err = errors.Join(err, rd.Close()) }()
	if !versioning.IsCompatibleWithCurrentVersion(resources.RT_STATE, version) {
		return st, errors.ErrUnsupported
	}
	encoded, err := io.ReadAll(io.LimitReader(rd, stateBytes+1))
	if err != nil {
		return st, err
	}
	if len(encoded) > stateBytes {
		return st, errors.ErrUnsupported
	}
	data, err := r.s.codec.decode(encoded)
	return keptState{data, version}, err
}
