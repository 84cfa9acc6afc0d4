package store

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"slices"
	"time"

	"github.com/PlakarKorp/kloset/compression"
	"github.com/PlakarKorp/kloset/connectors/storage"
	"github.com/PlakarKorp/kloset/encryption"
	"github.com/PlakarKorp/kloset/objects"
	"github.com/PlakarKorp/kloset/packfile"
	"github.com/PlakarKorp/kloset/repository"
	"github.com/PlakarKorp/kloset/repository/state"
	"github.com/PlakarKorp/kloset/resources"
	"github.com/PlakarKorp/kloset/versioning"

	"github.com/snapgate/gateway/store/internal/backend"
)

const (
	// verifyPiece is how much of a file is read between two calls of a Pace.
	verifyPiece = 256 << 10
	// verifyMost is up to which size a packfile is read: it is in memory while it is. kloset makes
	// them of 64 MiB at most, with what is around the blobs.
	verifyMost = 256 << 20

	headerSize  = int(storage.STORAGE_HEADER_SIZE)
	trailerSize = int(storage.STORAGE_FOOTER_SIZE)
	lengthSize  = 4 // of the length of the footer
)

// Pace is called before n bytes are read, and waits as long as it wants them to wait.
type Pace func(ctx context.Context, n int) error

// The parts of a packfile around its blobs.
const (
	PartHeader  = "header"  // the first bytes
	PartIndex   = "index"   // what blobs there are
	PartFooter  = "footer"  // where the index is
	PartTrailer = "trailer" // the MAC of all of it
)

// PackfileCheck is what there is to be said of a packfile that was read back.
type PackfileCheck struct {
	Bytes   int64 // that were read
	Blobs   int   // that are as they were written
	Missing bool
	Err     error    // why it cannot be read to its end; nil when it can
	Parts   []string // what around the blobs is not as it was written
	Damaged []Place  // blobs that are not, or that nothing can be said of
	Padding bool     // bytes that mean nothing are not as they were written
}

// Sound reports whether all that means something is as it was written.
func (c *PackfileCheck) Sound() bool {
	return !c.Missing && c.Err == nil && len(c.Parts) == 0 && len(c.Damaged) == 0
}

// mendedFlag, in the footer of a packfile, says that it was repaired: its name is the MAC of what it
// was. kloset has no flags yet, and does not look.
const mendedFlag = 1 << 31

// packBytes is a packfile in memory.
type packBytes struct {
	raw     []byte // the whole file
	payload []byte // without header and trailer
	whole   bool   // the trailer is the MAC of what is before it
	named   bool   // the payload's MAC is the file's name
	blobs   []packfile.Blob
	mended  bool // it was repaired, so its name says nothing
	parts   []string
	err     error // of reading it
}

// VerifyPackfile reads a packfile back, from the store and from no copy, decodes all of its blobs
// and compares them with their MACs. What is in it is what its index says; if that cannot be read,
// what the states of the store say.
//
// Its error says that the store cannot be reached; all that is wrong with the packfile is in the
// result.
func (s *Store) VerifyPackfile(ctx context.Context, mac objects.MAC, pace Pace) (c PackfileCheck, err error) {
	p, missing, err := s.readPackfile(ctx, mac, pace)
	if err != nil {
		return c, err
	}
	c.Missing, c.Bytes, c.Err, c.Parts = missing, int64(len(p.raw)), p.err, p.parts
	places, err := s.placesIn(mac, p)
	if err != nil {
		return c, err
	}
	if missing {
		c.Damaged = places
		return c, nil
	}
	for i := range places {
		if err := ctx.Err(); err != nil {
			return c, err
		}
		if err := s.checkPlace(p, &places[i]); err != nil {
			c.Damaged = append(c.Damaged, places[i])
		} else {
			c.Blobs++
		}
	}
	c.Padding = !p.whole && !p.named && c.Sound()
	return c, nil
}

// placesIn lists the blobs of a packfile that mean something.
func (s *Store) placesIn(mac objects.MAC, p *packBytes) (places []Place, err error) {
	if p.blobs == nil {
		if places, err = s.PlacesIn(mac); err != nil {
			return nil, err
		}
	}
	for _, b := range p.blobs {
		places = append(places, Place{b.Type, b.MAC, mac, b.Offset, b.Length})
	}
	return slices.DeleteFunc(places, func(p Place) bool { return p.Type == resources.RT_RANDOM }), nil
}

// PlacesIn returns what the states tell of a packfile, whether it is there or not, in the order of
// its bytes. It looks through the whole index.
func (s *Store) PlacesIn(mac objects.MAC) (places []Place, err error) {
	db, err := s.openIndex()
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	rows, err := db.Query("SELECT payload FROM deltas WHERE packfile = ?", hex.EncodeToString(mac[:]))
	if err != nil {
		return nil, s.indexError(err)
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	for rows.Next() {
		var payload []byte
		if err := rows.Scan(&payload); err != nil {
			return nil, s.indexError(err)
		}
		p, err := placeFrom(payload)
		if err != nil {
			return nil, s.indexError(err)
		}
		places = append(places, p)
	}
	slices.SortFunc(places, func(a, b Place) int { return int(int64(a.Offset) - int64(b.Offset)) })
	return places, s.indexError(rows.Err())
}

// readPackfile reads a packfile into memory and takes it apart. What it cannot read of a store that
// can be reached is the packfile's fault.
func (s *Store) readPackfile(ctx context.Context, mac objects.MAC, pace Pace) (p *packBytes, missing bool, err error) {
	p = new(packBytes)
	p.raw, p.err = s.readFile(ctx, storage.StorageResourcePackfile, mac, verifyMost, pace)
	if missing, err = s.blame(ctx, p.err); missing || err != nil {
		return p, missing, err
	}
	s.takeApart(mac, p)
	return p, false, nil
}

// blame finds out what an error of reading a file means: that the file is missing, that the store
// is away (an error), or that the file cannot be read.
func (s *Store) blame(ctx context.Context, cause error) (missing bool, err error) {
	if cause == nil {
		return false, nil
	}
	if err := ctx.Err(); err != nil {
		return false, err
	}
	if err := s.reachable(ctx); err != nil {
		return false, err
	}
	if errors.Is(cause, fs.ErrNotExist) || errors.Is(cause, repository.ErrPackfileNotFound) {
		return true, nil
	}
	if s.conn.remote && !errors.Is(cause, ErrDamaged) {
		return false, Unavailable("read", cause) // a line that is bad, or a server: not what it has
	}
	return false, nil
}

// reachable is AvailableNow for those who do not mind that the configuration is damaged.
func (s *Store) reachable(ctx context.Context) error {
	err := s.AvailableNow(ctx)
	if err == nil || errors.Is(err, ErrDamaged) || !errors.Is(err, ErrUnavailable) && errors.Is(s.VerifyConfig(ctx), ErrDamaged) {
		return ctx.Err()
	}
	return err
}

// readFile reads a file of the store, as far as that is possible.
func (s *Store) readFile(ctx context.Context, res storage.StorageResource, mac objects.MAC, most int, pace Pace) (data []byte, err error) {
	rd, err := s.conn.connector.Get(backend.Insist(ctx), res, mac, nil)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, rd.Close()) }()
	for {
		if err := pause(ctx, pace); err != nil {
			return data, err
		}
		data = slices.Grow(data, verifyPiece)
		n, err := fill(rd, data[len(data):len(data)+verifyPiece])
		data = data[:len(data)+n]
		switch {
		case err == io.EOF: //nolint:errorlint // one that is wrapped is no end
			return data, nil
		case err != nil:
			return data, err
		case len(data) > most:
			return nil, fmt.Errorf("a file of more than %d bytes: %w", most, errors.ErrUnsupported)
		}
	}
}

// fill is io.ReadFull which leaves errors as they are: io.EOF is the end of a file, and
// io.ErrUnexpectedEOF says that a connection has ended before it.
func fill(rd io.Reader, p []byte) (n int, err error) {
	for n < len(p) && err == nil {
		var k int
		k, err = rd.Read(p[n:])
		n += k
	}
	return n, err
}

func sum(h hash.Hash, parts ...[]byte) (mac objects.MAC) {
	for _, part := range parts {
		h.Write(part)
	}
	return objects.MAC(h.Sum(nil))
}

// takeApart finds the parts of a packfile, and what of them is not as it was written.
func (s *Store) takeApart(mac objects.MAC, p *packBytes) {
	if len(p.raw) < headerSize+lengthSize+trailerSize {
		if len(p.raw) > headerSize {
			p.payload = p.raw[headerSize:]
		}
		p.parts = append(p.parts, PartIndex, PartFooter, PartTrailer)
		return
	}
	trailer := p.raw[len(p.raw)-trailerSize:]
	p.payload = p.raw[headerSize : len(p.raw)-trailerSize]
	hasher := s.repo.GetMACHasher
	p.whole = sum(hasher(), p.raw[:len(p.raw)-trailerSize]) == objects.MAC(trailer)
	p.named = sum(hasher(), p.payload) == mac
	if !p.whole {
		// One of the two is as it was written, or none is.
		if !s.goodHeader(p.raw, resources.RT_PACKFILE) {
			p.parts = append(p.parts, PartHeader)
		} else if p.named {
			p.parts = append(p.parts, PartTrailer)
		}
	}
	if err := s.readTail(p); err != nil {
		p.blobs = nil
		p.payload = p.raw[headerSize:] // of one that is cut, blobs may be to the end
		p.parts = append(p.parts, err.Error())
	} else if p.mended && !p.whole && len(p.parts) == 0 {
		p.parts = append(p.parts, PartTrailer) // or padding, which cannot be told apart
	}
}

// goodHeader reports whether a file of the store begins as one of that type does.
func (s *Store) goodHeader(raw []byte, typ resources.Type) bool {
	magic := string(raw[:8])
	version := binary.LittleEndian.Uint32(raw[12:])
	return (magic == "_KLOSET_" || magic == "_PLAKAR_") && binary.LittleEndian.Uint32(raw[8:]) == uint32(typ) &&
		version == uint32(versioning.GetCurrentVersion(typ))
}

// errPart names a part of a packfile that is damaged.
type errPart string

func (e errPart) Error() string { return string(e) }

// readTail reads footer and index.
func (s *Store) readTail(p *packBytes) error {
	data := p.payload
	size := int64(binary.LittleEndian.Uint32(data[len(data)-lengthSize:]))
	data = data[:len(data)-lengthSize]
	if size > int64(len(data)) {
		return errPart(PartFooter)
	}
	raw, err := s.decode(data[len(data)-int(size):])
	if err != nil || len(raw) != packfile.FOOTER_SIZE {
		return errPart(PartFooter)
	}
	data = data[:len(data)-int(size)]
	footer, err := packfile.NewInMemoryFooterFromBytes(versioning.GetCurrentVersion(resources.RT_PACKFILE), raw)
	if err != nil || footer.IndexOffset > uint64(len(data)) {
		return errPart(PartFooter)
	}
	index, err := s.decode(data[footer.IndexOffset:])
	if err != nil || s.repo.ComputeMAC(index) != footer.IndexMAC || len(index) != int(footer.Count)*packfile.BLOB_RECORD_SIZE {
		return errPart(PartIndex)
	}
	if p.blobs, err = packfile.NewInMemoryIndexFromBytes(versioning.GetCurrentVersion(resources.RT_PACKFILE), index); err != nil {
		return errPart(PartIndex)
	}
	p.mended = footer.Flags&mendedFlag != 0
	return nil
}

// decode decodes what stands in a packfile, whatever form the store has.
func (s *Store) decode(encoded []byte) ([]byte, error) {
	data, err := s.codec.decode(encoded)
	if err == nil || !errors.Is(err, errNotFast) {
		return data, err
	}
	rd := io.NopCloser(bytes.NewReader(encoded))
	if s.key != nil {
		if rd, err = encryption.DecryptStream(s.config.Encryption, s.key, rd); err != nil {
			return nil, err
		}
	}
	if s.config.Compression != nil {
		if rd, err = compression.InflateStream(s.config.Compression.Algorithm, rd); err != nil {
			return nil, err
		}
	}
	return io.ReadAll(rd)
}

// checkPlace decodes a blob of a packfile in memory, and compares it with its MAC. Headers and
// signatures of snapshots have names for MACs: what tells there is the encryption, the checksum of the
// compression, or else the MAC of the whole file.
func (s *Store) checkPlace(p *packBytes, at *Place) error {
	end := at.Offset + uint64(at.Length)
	if end < at.Offset || end > uint64(len(p.payload)) {
		return fmt.Errorf("%w: it is cut off", ErrDamaged)
	}
	return s.checkEncoded(p, at, p.payload[at.Offset:end])
}

func (s *Store) checkEncoded(p *packBytes, at *Place, encoded []byte) error {
	data, err := s.decode(encoded)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	if Named(at.Type) && s.key == nil && s.config.Compression == nil && !p.whole && !p.named {
		return fmt.Errorf("%w: nothing tells that it is as it was written", ErrDamaged)
	}
	return s.compareMAC(at.Type, at.Blob, data)
}

// VerifyState reads a state back from the store, and compares it with the MAC at its end. The error
// is fs.ErrNotExist when there is none, ErrDamaged when it is not as it was written, and another
// one when the store cannot be reached.
func (s *Store) VerifyState(ctx context.Context, id objects.MAC, pace Pace) (n int64, err error) {
	rd, err := s.conn.connector.Get(backend.Insist(ctx), storage.StorageResourceState, id, nil)
	if err == nil {
		n, err = s.compareTrailer(ctx, rd, pace)
		err = errors.Join(err, rd.Close())
	}
	missing, berr := s.blame(ctx, err)
	switch {
	case berr != nil:
		return n, berr
	case missing:
		return n, fmt.Errorf("state %x: %w", id[:4], fs.ErrNotExist)
	case err != nil && !errors.Is(err, ErrDamaged):
		err = fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	if err != nil {
		return n, fmt.Errorf("state %x: %w", id[:4], err)
	}
	return n, nil
}

// compareTrailer reads a file of the store to its end, which is the MAC of what is before it.
func (s *Store) compareTrailer(ctx context.Context, rd io.Reader, pace Pace) (n int64, err error) {
	h := s.repo.GetMACHasher()
	buf := make([]byte, 0, trailerSize+verifyPiece)
	for {
		if err := pause(ctx, pace); err != nil {
			return n, err
		}
		k, err := fill(rd, buf[len(buf):len(buf)+verifyPiece])
		n += int64(k)
		buf = buf[:len(buf)+k]
		if last := len(buf) - trailerSize; last > 0 {
			h.Write(buf[:last])
			buf = buf[:copy(buf, buf[last:])]
		}
		switch {
		case err == nil:
		case err != io.EOF: //nolint:errorlint // one that is wrapped is no end
			return n, err
		case n <= int64(headerSize+trailerSize) || !bytes.Equal(h.Sum(nil), buf):
			return n, fmt.Errorf("%w: its content is not what was written", ErrDamaged)
		default:
			return n, nil
		}
	}
}

// pause keeps to a pace.
func pause(ctx context.Context, pace Pace) error {
	if pace != nil {
		if err := pace(ctx, verifyPiece); err != nil {
			return err
		}
	}
	return ctx.Err()
}

// VerifyConfig reads the store's configuration back. The error is ErrDamaged when it is not as it
// was when the store was opened, or missing.
func (s *Store) VerifyConfig(ctx context.Context) error {
	wrapped, err := backend.GetBytes(backend.Insist(ctx), s.files, backend.ConfigName, maxConfigBytes)
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.Is(err, fs.ErrNotExist):
		// A store without one looks like one that is away, so only what else it has can tell.
		if _, lerr := s.conn.connector.List(ctx, storage.StorageResourceState); lerr == nil && !s.emptyPlace(ctx) {
			return fmt.Errorf("%w: its configuration is missing", ErrDamaged)
		}
		return Unavailable("read store configuration", withoutNotExist(err))
	case err != nil:
		return Unavailable("read store configuration", err)
	}
	if bytes.Equal(wrapped, s.sound) {
		return nil
	}
	if alike(wrapped, s.sound) {
		return fmt.Errorf("%w: its configuration is not what was written", ErrDamaged)
	}
	config, err := parseConfig(wrapped)
	if err != nil {
		return err
	}
	if config.RepositoryID != s.config.RepositoryID {
		return fmt.Errorf("%w: it is %s, and was %s", ErrReplaced, config.RepositoryID, s.config.RepositoryID)
	}
	return verifyWrapped(s.key, wrapped)
}

// alike reports whether two configurations differ in so little that they are one, and damage.
func alike(a, b []byte) bool {
	const most = 8 // bytes
	n := 0
	for i := range min(len(a), len(b)) {
		if a[i] != b[i] {
			n++
		}
	}
	return n > 0 && n <= most && len(a) == len(b)
}

// emptyPlace reports whether there are no packfiles where the store was.
func (s *Store) emptyPlace(ctx context.Context) bool {
	macs, err := s.conn.connector.List(ctx, storage.StorageResourcePackfile)
	return err != nil || len(macs) == 0
}

// PackfilesAdded is IndexedPackfiles without those that are coloured, and with those that are
// missing from the store: what readers of the store rely on.
func (s *Store) PackfilesAdded() (map[objects.MAC]time.Time, error) {
	indexed, err := s.IndexedPackfiles()
	if err != nil {
		return nil, err
	}
	coloured, err := s.ColouredAs(resources.RT_PACKFILE)
	if err != nil {
		return nil, err
	}
	for mac := range coloured {
		delete(indexed, mac)
	}
	lost, err := s.LostPackfiles()
	if err != nil {
		return nil, err
	}
	for _, mac := range lost {
		if !Buried(coloured[mac]) {
			indexed[mac] = time.Time{}
		}
	}
	return indexed, nil
}

// SnapshotsOfState returns the snapshots that a state tells of, as far as the index has it.
func (s *Store) SnapshotsOfState(id objects.MAC) (ids []objects.MAC, err error) {
	db, err := s.openIndex()
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	rows, err := db.Query(`SELECT DISTINCT d.mac, p.payload FROM deltas d JOIN packfiles p ON p.mac = d.packfile WHERE d.type = ?`, int(resources.RT_SNAPSHOT))
	if err != nil {
		return nil, s.indexError(err)
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	for rows.Next() {
		var name string
		var payload []byte
		if err := rows.Scan(&name, &payload); err != nil {
			return nil, s.indexError(err)
		}
		e, err := state.PackfileEntryFromBytes(payload)
		if err != nil {
			return nil, s.indexError(err)
		}
		if e.StateID != id {
			continue
		}
		mac, err := parseMAC(name)
		if err != nil {
			return nil, s.indexError(err)
		}
		ids = append(ids, mac)
	}
	return ids, s.indexError(rows.Err())
}
