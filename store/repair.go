package store

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strings"
	"time"

	"github.com/PlakarKorp/kloset/caching"
	"github.com/PlakarKorp/kloset/caching/sqlite"
	"github.com/PlakarKorp/kloset/connectors/storage"
	"github.com/PlakarKorp/kloset/objects"
	"github.com/PlakarKorp/kloset/repository/state"
	"github.com/PlakarKorp/kloset/resources"
	"github.com/PlakarKorp/kloset/versioning"

	"github.com/snapgate/gateway/store/internal/backend"
)

// ErrNoCopy means that there is no sound copy of something.
var ErrNoCopy = errors.New("there is no sound copy of it")

// CopyOfPackfile reads a packfile as it was, byte for byte: from the copies of metadata that are kept
// here, or from another copy of this store. The error is ErrNoCopy when there is none that is sound, and ErrUnavailable
// when nobody knows, as one of them cannot be read now. It takes the time that the other place takes, and needs no lock. from may be nil.
func (s *Store) CopyOfPackfile(ctx context.Context, mac objects.MAC, from *Store) ([]byte, error) {
	raw, err := s.localCopy(mac)
	if err == nil {
		return raw, nil
	}
	none := err // when the other copy has it neither
	if from == nil || from.ID() != s.ID() {
		return nil, none
	}
	raw, err = from.readFile(ctx, storage.StorageResourcePackfile, mac, verifyMost, nil)
	if err != nil {
		if _, berr := from.blame(ctx, err); berr != nil {
			return nil, fmt.Errorf("copy of the store: %w", berr)
		}
		return nil, errors.Join(none, err)
	}
	if !s.soundPackfile(mac, raw) {
		return nil, none
	}
	return raw, nil
}

// localCopy reads the copy of a packfile that is kept here. Errors: ErrNoCopy when there is none that is sound; ErrUnavailable.
func (s *Store) localCopy(mac objects.MAC) ([]byte, error) {
	if s.conn.mirror == nil {
		return nil, ErrNoCopy
	}
	rd, err := s.conn.mirror.reopen(mac)
	var raw []byte
	if err == nil {
		raw, err = io.ReadAll(rd)
		err = errors.Join(err, rd.Close())
	}
	switch {
	case errors.Is(err, fs.ErrNotExist), err == nil && !s.soundPackfile(mac, raw):
		return nil, ErrNoCopy
	case err != nil:
		return nil, Unavailable("read the local copy", err)
	}
	return raw, nil
}

// CopiesBusy reports whether the local copies of metadata are those of another process, which uses the cache directory: it may
// remove some at any moment.
func (s *Store) CopiesBusy() bool { return s.cache.busy != "" }

// RestorePackfile puts a packfile back as CopyOfPackfile has read it. It needs a lock on the store,
// under which the packfile must still be one that the states tell of. That others may have repaired it
// does not matter: these are the bytes that it was written with.
func (s *Store) RestorePackfile(ctx context.Context, mac objects.MAC, raw []byte) error {
	return s.putPackfile(ctx, mac, raw)
}

// putPackfile writes a packfile again, of which Reconcile may know that it was missing. It is for the writer.
func (s *Store) putPackfile(ctx context.Context, mac objects.MAC, raw []byte) error {
	if err := s.putFile(ctx, packfileName(mac), raw); err != nil {
		return err
	}
	s.listing.found(mac)
	return nil
}

// soundPackfile reports whether all of a packfile is as it was written.
func (s *Store) soundPackfile(mac objects.MAC, raw []byte) bool {
	p := &packBytes{raw: raw}
	s.takeApart(mac, p)
	if !p.whole || len(p.parts) > 0 {
		return false
	}
	for _, b := range p.blobs {
		if b.Type == resources.RT_RANDOM {
			continue
		}
		if err := s.checkPlace(p, &Place{b.Type, b.MAC, mac, b.Offset, b.Length}); err != nil {
			return false
		}
	}
	return true
}

func (s *Store) putFile(ctx context.Context, name string, data []byte) error {
	if _, err := s.files.Put(ctx, name, bytes.NewReader(data)); err != nil {
		return Unavailable("write "+name, err)
	}
	return nil
}

// Mending is a packfile that is to be written again, with each of its blobs in its old place: nothing
// that knows of the packfile, a state or somebody's index, has to change.
type Mending struct {
	// Lacks are the blobs that are not sound in it.
	Lacks []Place

	s       *Store
	mac     objects.MAC
	was     *packBytes
	missing bool
	places  []Place // all of them
	blobs   []byte  // as they will be
	left    []Place // of Lacks, after Fill
}

// MendPackfile reads a packfile, and finds out what it lacks.
func (s *Store) MendPackfile(ctx context.Context, mac objects.MAC) (*Mending, error) {
	p, missing, err := s.readPackfile(ctx, mac, nil)
	if err != nil {
		return nil, err
	}
	places, err := s.allPlacesIn(mac, p)
	if err != nil {
		return nil, err
	}
	if len(places) == 0 {
		return nil, fmt.Errorf("%w: nothing tells what is in it", ErrNoCopy)
	}
	end := 0
	for _, at := range places {
		if at.Offset > verifyMost || at.Offset+uint64(at.Length) > verifyMost {
			return nil, fmt.Errorf("a packfile with a blob of %d bytes at %d: %w", at.Length, at.Offset, errors.ErrUnsupported)
		}
		end = max(end, int(at.Offset)+int(at.Length))
	}
	m := &Mending{s: s, mac: mac, was: p, missing: missing, places: places, blobs: make([]byte, end)}
	_, _ = rand.Read(m.blobs) // never fails; padding
	copy(m.blobs, p.payload)
	for i := range places {
		at := &places[i]
		if at.Type == resources.RT_RANDOM || s.checkPlace(p, at) == nil {
			continue
		}
		if p.err != nil && !missing && s.readPlace(ctx, p, at, m.place(at)) == nil {
			continue
		}
		m.Lacks = append(m.Lacks, *at)
	}
	return m, ctx.Err()
}

func (m *Mending) place(at *Place) []byte { return m.blobs[at.Offset : at.Offset+uint64(at.Length)] }

// Fill takes what find returns of the blobs that are lacking. It returns those that stay damaged.
func (m *Mending) Fill(ctx context.Context, find func(Place) ([]byte, error)) (left []Place, err error) {
	for i := range m.Lacks {
		at := &m.Lacks[i]
		data, err := find(*at)
		if err == nil {
			err = m.s.encodeInto(m.place(at), data)
		}
		if err != nil {
			if ctx.Err() != nil {
				return nil, ctx.Err()
			}
			m.s.log.Info("a blob cannot be repaired", "packfile", hex.EncodeToString(m.mac[:]), "type", at.Type.String(), "blob", hex.EncodeToString(at.Blob[:]), "err", err)
			m.left = append(m.left, *at)
		}
	}
	return m.left, nil
}

// Write writes the packfile after Fill. Bytes that nobody has are left as they are; of a packfile that
// is missing or cannot be read to its end nothing is written unless there are none. It needs a lock
// on the store.
func (m *Mending) Write(ctx context.Context) error {
	if m.was.err != nil && len(m.left) > 0 { // what was not read may be sound
		return nil
	}
	raw, err := m.s.assemble(m.blobs, m.places)
	if err != nil {
		return err
	}
	if len(m.left) == 0 && !m.s.soundPackfile(m.mac, raw) {
		return fmt.Errorf("%w: what was made of it is not sound", ErrNoCopy)
	}
	// Others may have repaired or removed it since it was read.
	now, missing, err := m.s.readPackfile(ctx, m.mac, nil)
	switch {
	case err != nil:
		return err
	case missing != m.missing, m.was.err == nil && !bytes.Equal(now.raw, m.was.raw):
		return errors.New("it was changed while it was repaired")
	}
	return m.s.putPackfile(ctx, m.mac, raw)
}

// readPlace reads a blob of a packfile that cannot be read whole, if it is sound, into dst, which is of
// its length.
func (s *Store) readPlace(ctx context.Context, p *packBytes, at *Place, dst []byte) (err error) {
	rd, err := s.conn.connector.Get(backend.Insist(ctx), storage.StorageResourcePackfile, at.Packfile,
		&storage.Range{Offset: at.Offset + uint64(headerSize), Length: at.Length})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, rd.Close()) }()
	encoded := make([]byte, len(dst))
	if _, err := io.ReadFull(rd, encoded); err != nil {
		return err
	}
	if err := s.checkEncoded(p, at, encoded); err != nil {
		return err
	}
	copy(dst, encoded)
	return nil
}

// allPlacesIn is placesIn with padding, in the order of bytes.
func (s *Store) allPlacesIn(mac objects.MAC, p *packBytes) (places []Place, err error) {
	if p.blobs == nil {
		return s.PlacesIn(mac)
	}
	for _, b := range p.blobs {
		places = append(places, Place{b.Type, b.MAC, mac, b.Offset, b.Length})
	}
	slices.SortFunc(places, func(a, b Place) int { return cmp.Compare(a.Offset, b.Offset) })
	return places, nil
}

// encodeInto encodes a blob so that it takes exactly the bytes that it took: what is encoded has no
// end of its own.
func (s *Store) encodeInto(dst, data []byte) error {
	var size int
	for _, begin := range []func([]byte) (*Encoding, error){s.codec.begin, s.codec.foreign} {
		e, err := begin(data)
		if err != nil {
			return err
		}
		if size = e.Size(); size == len(dst) {
			e.Write(dst)
			return nil
		}
		e.Drop()
	}
	return fmt.Errorf("it is compressed to %d bytes now, and was to %d", size, len(dst))
}

// assemble makes a packfile of its blobs.
func (s *Store) assemble(blobs []byte, places []Place) ([]byte, error) {
	le := binary.LittleEndian
	var index []byte
	for _, p := range places {
		index = le.AppendUint32(index, uint32(p.Type))
		index = le.AppendUint32(index, uint32(versioning.GetCurrentVersion(p.Type)))
		index = append(index, p.Blob[:]...)
		index = le.AppendUint64(index, p.Offset)
		index = le.AppendUint32(index, p.Length)
		index = le.AppendUint32(index, 0)
	}
	indexMAC := s.repo.ComputeMAC(index)
	// Index and footer are encoded as kloset does it, which made them: so they are as long as they were.
	payload, err := appendEncoding(s.codec.foreign, slices.Clone(blobs), index)
	if err != nil {
		return nil, err
	}
	footer := le.AppendUint64(nil, uint64(time.Now().UnixNano()))
	footer = le.AppendUint32(footer, uint32(len(places)))
	footer = le.AppendUint64(footer, uint64(len(blobs)))
	footer = append(footer, indexMAC[:]...)
	footer = le.AppendUint32(footer, mendedFlag)
	at := len(payload)
	if payload, err = appendEncoding(s.codec.foreign, payload, footer); err != nil {
		return nil, err
	}
	payload = le.AppendUint32(payload, uint32(len(payload)-at))
	rd, err := storage.Serialize(s.repo.GetMACHasher(), resources.RT_PACKFILE, versioning.GetCurrentVersion(resources.RT_PACKFILE), bytes.NewReader(payload))
	if err != nil {
		return nil, err
	}
	return io.ReadAll(rd)
}

// BlobElsewhere reads a blob from another packfile than one. Errors: ErrNoCopy; ErrUnavailable when there is a place that
// could not be read.
func (s *Store) BlobElsewhere(typ resources.Type, mac, not objects.MAC) ([]byte, error) {
	payloads, err := s.places(typ, mac)
	if err != nil {
		return nil, err
	}
	unread := ErrNoCopy
	for _, payload := range payloads {
		at, err := placeFrom(payload)
		if err != nil || at.Packfile == not {
			continue
		}
		data, err := s.blobAt(typ, mac, payload)
		if err == nil {
			return data, nil
		}
		if errors.Is(err, ErrUnavailable) {
			unread = err
		}
	}
	return nil, unread
}

// RestoreConfig puts the configuration back as it was when the store was opened.
func (s *Store) RestoreConfig(ctx context.Context) error {
	if err := backend.PutBytes(ctx, s.files, backend.ConfigName, s.sound); err != nil {
		return Unavailable("write store configuration", err)
	}
	return nil
}

// CopyOfState reads a state as it was, byte for byte, from another copy of this store. The error is
// ErrNoCopy when there is none that is sound, and ErrUnavailable when nobody knows, as the other copy cannot
// be reached. It needs no lock. from may be nil.
func (s *Store) CopyOfState(ctx context.Context, id objects.MAC, from *Store) ([]byte, error) {
	if from == nil || from.ID() != s.ID() {
		return nil, ErrNoCopy
	}
	raw, err := from.readFile(ctx, storage.StorageResourceState, id, verifyMost, nil)
	if err == nil {
		_, err = s.compareTrailer(ctx, bytes.NewReader(raw), nil)
	}
	if err != nil {
		if _, berr := from.blame(ctx, err); berr != nil {
			return nil, fmt.Errorf("copy of the store: %w", berr)
		}
		return nil, errors.Join(ErrNoCopy, err)
	}
	return raw, nil
}

// RestoreState puts a state back: as CopyOfState has read it; or, when raw is nil, made anew, from what
// the index here knows of it, or, when that is nothing, from the packfiles that no state tells of. What
// is made anew says in addition all that is known to be removed, so that nothing comes back that the
// state had removed. It needs a lock on the store. The error is ErrDamaged, and nothing is written, when one of those packfiles
// does not tell what is in it: whose it is nobody knows.
func (s *Store) RestoreState(ctx context.Context, id objects.MAC, raw []byte) (err error) {
	if raw == nil {
		return s.remakeState(ctx, id)
	}
	name, err := s.conn.name(storage.StorageResourceState, id)
	if err != nil {
		return err
	}
	back, lost, err := s.lateAnswers(id, raw)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			s.resumed = time.Time{} // the next Reconcile goes on
		}
	}()
	// Once the state is there nothing else says that it is to be answered.
	if err := s.noteTurn(noteTurns, slices.Concat(back, lost)); err != nil {
		return err
	}
	if err := s.putFile(ctx, name, raw); err != nil {
		return err
	}
	if err := s.uncolour(ctx, back, objects.NilMac); err != nil {
		return err
	}
	return s.colour(ctx, nil, lost)
}

// lateAnswers returns of which packfiles a state is to be answered that could not be read for a while, since what came
// after it was said to those that could be: that they are back, and that they are missing.
func (s *Store) lateAnswers(id objects.MAC, raw []byte) (back, lost []objects.MAC, err error) {
	known, err := s.placesBy("SELECT payload FROM states WHERE mac = ?", hex.EncodeToString(id[:]))
	if err != nil || len(known) == 0 { // then it is answered by Reconcile, when it is taken over
		return nil, nil, err
	}
	c, _, err := s.factsOf(id, raw)
	if err != nil {
		return nil, nil, err
	}
	if back, err = s.plainOf(c.coloured); err != nil || len(c.Freed) == 0 {
		return back, nil, err
	}
	lost, err = s.LostPackfiles()
	return back, slices.DeleteFunc(lost, func(mac objects.MAC) bool { return !slices.Contains(c.Freed, mac) }), err
}

func (s *Store) remakeState(ctx context.Context, id objects.MAC) error {
	// It takes no colour away any more, since maintenance answers what does so, and may know that it did not. If it did,
	// others do so from now on.
	freed, err := s.freedAfter(ctx, id)
	if err == nil {
		err = s.uncolour(ctx, freed, id)
	}
	if err != nil {
		return err
	}
	_, err = s.putState(id, objects.NilMac, func(st *state.LocalState, cache *caching.ScanCache) error {
		known, err := s.recallState(id, st, cache)
		if err != nil || known {
			return err
		}
		s.log.Warn("a state is made anew from the packfiles that no other one tells of: what it had removed and nobody knows of is back", "state", hex.EncodeToString(id[:]))
		return s.gatherState(ctx, id, cache)
	})
	if err != nil {
		return err
	}
	return s.DropState(id)
}

// recallState fills in what the index knows of a state, and all that is removed; false when it never
// was in the index. That a packfile is missing, it says as well: when that is back, the state is
// one of those that are answered; see turn.
func (s *Store) recallState(id objects.MAC, st *state.LocalState, cache *caching.ScanCache) (known bool, err error) {
	db, err := s.openIndex()
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	if _, err := db.Exec(lostTable); err != nil {
		return false, s.indexError(err)
	}
	each := func(do func(payload []byte) error, query string, args ...any) {
		if err == nil {
			err = s.payloads(db, do, query, args...)
		}
	}
	each(func(payload []byte) error {
		e, err := state.ColouredEntryFromBytes(payload)
		if err != nil {
			return err
		}
		if e.Type == resources.RT_PACKFILE && Buried(e.When) {
			return putBurial(st, cache, e.Blob)
		}
		return cache.PutColoured(e.Type, e.Blob, payload)
	}, "SELECT payload FROM deleteds")
	each(func(payload []byte) error {
		meta, err := state.MetadataFromBytes(payload)
		if err == nil {
			known, st.Metadata = true, *meta
		}
		return err
	}, "SELECT payload FROM states WHERE mac = ?", hex.EncodeToString(id[:]))
	if err != nil || !known {
		return false, err
	}
	var packs []objects.MAC
	each(func(payload []byte) error {
		e, err := state.PackfileEntryFromBytes(payload)
		if err != nil || e.StateID != id {
			return err
		}
		packs = append(packs, e.Packfile)
		return cache.PutPackfile(e.Packfile, payload)
	}, "SELECT payload FROM packfiles UNION SELECT payload FROM snapgate_lost") // what is missing may come back
	for _, mac := range packs {
		each(func(payload []byte) error {
			e, err := state.DeltaEntryFromBytes(payload)
			return errors.Join(err, cache.PutDelta(e.Type, e.Blob, mac, payload))
		}, "SELECT payload FROM deltas WHERE packfile = ?", hex.EncodeToString(mac[:]))
	}
	return true, err
}

// freedAfter returns the packfiles whose colour a state may have taken away: its parent has coloured them, and they are
// there and not coloured any more.
func (s *Store) freedAfter(ctx context.Context, id objects.MAC) (freed []objects.MAC, err error) {
	var metas [][]byte
	if metas, err = s.placesBy("SELECT payload FROM states WHERE mac = ?", hex.EncodeToString(id[:])); err != nil || len(metas) == 0 {
		return nil, err
	}
	meta, err := state.MetadataFromBytes(metas[0])
	if err != nil {
		return nil, s.indexError(err)
	}
	if meta.Parent == objects.NilMac {
		return nil, nil
	}
	parent, err := s.turnOf(ctx, meta.Parent)
	if err != nil {
		return nil, err
	}
	return s.plainOf(parent.coloured)
}

// plainOf returns those of some packfiles that are there and not coloured.
func (s *Store) plainOf(macs []objects.MAC) (plain []objects.MAC, err error) {
	if len(macs) == 0 {
		return nil, nil
	}
	indexed, err := s.IndexedPackfiles()
	if err != nil {
		return nil, err
	}
	coloured, err := s.ColouredAs(resources.RT_PACKFILE)
	if err != nil {
		return nil, err
	}
	for _, mac := range macs {
		_, there := indexed[mac]
		if _, ok := coloured[mac]; there && !ok {
			plain = append(plain, mac)
		}
	}
	return plain, nil
}

// payloads calls do for what a query finds.
func (s *Store) payloads(db *sqlite.SQLiteCache, do func([]byte) error, query string, args ...any) (err error) {
	rows, err := db.Query(query, args...)
	if err != nil {
		return s.indexError(err)
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	for rows.Next() {
		var payload []byte
		if err := rows.Scan(&payload); err != nil {
			return s.indexError(err)
		}
		if err := do(payload); err != nil {
			return s.indexError(err)
		}
	}
	return s.indexError(rows.Err())
}

// gatherState fills in the packfiles that no state tells of, also those that are marked; ErrDamaged when what is in one of them cannot
// be told.
func (s *Store) gatherState(ctx context.Context, id objects.MAC, cache *caching.ScanCache) error {
	indexed, err := s.IndexedPackfiles()
	if err != nil {
		return err
	}
	coloured, err := s.ColouredAs(resources.RT_PACKFILE)
	if err != nil {
		return err
	}
	there, err := s.ListPackfiles(ctx)
	if err != nil {
		return err
	}
	for mac := range there {
		// Maintenance may have marked what no state tells of since the state went. What snapshots need of it is stored again
		// when it is told of.
		if _, told := indexed[mac]; told || Buried(coloured[mac]) {
			continue
		}
		p, missing, err := s.readPackfile(ctx, mac, nil)
		if err != nil {
			return err
		}
		if missing {
			continue
		}
		if p.blobs == nil && len(p.parts) > 0 { // a state without it would pass for the one that there was
			return fmt.Errorf("%w: packfile %x, which no state tells of, is damaged: %s", ErrDamaged, mac[:], strings.Join(p.parts, ", "))
		}
		for _, b := range p.blobs {
			e := state.DeltaEntry{Type: b.Type, Version: b.Version, Blob: b.MAC, Location: state.Location{Packfile: mac, Offset: b.Offset, Length: b.Length}}
			if err := cache.PutDelta(b.Type, b.MAC, mac, e.ToBytes()); err != nil {
				return fmt.Errorf("state delta: %w", err)
			}
		}
		e := state.PackfileEntry{StateID: id, Packfile: mac, Timestamp: time.Now()}
		if err := cache.PutPackfile(mac, e.ToBytes()); err != nil {
			return fmt.Errorf("state delta: %w", err)
		}
	}
	return nil
}
