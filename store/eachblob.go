package store

import (
	"bytes"
	"cmp"
	"context"
	"database/sql"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"

	"github.com/PlakarKorp/kloset/objects"
	"github.com/PlakarKorp/kloset/repository"
	"github.com/PlakarKorp/kloset/repository/state"
	"github.com/PlakarKorp/kloset/resources"
)

const (
	// eachMost is about how many places EachBlob has in memory.
	eachMost = 1 << 20
	// eachGap is how far blobs may be apart that are read together, and eachSpan how much is read together.
	eachGap  = 64 << 10
	eachSpan = 4 << 20
)

// blobPlace is a Place in little memory.
type blobPlace struct {
	blob   objects.MAC
	pack   int // in a list
	offset uint64
	length uint32
}

func (p *blobPlace) end() uint64 { return p.offset + uint64(p.length) }

// EachBlob reads all blobs of a type that the index tells of, in the order in which they lie in their packfiles, where
// those that are near each other are one request. It calls each for every one, for some more than once: with what it
// holds, or with the error of Blob. What is added meanwhile may be left out. An error of each ends it. data is valid
// until each returns.
func (s *Store) EachBlob(ctx context.Context, typ resources.Type, each func(blob objects.MAC, data []byte, err error) error) error {
	n, err := s.countBlobs(typ)
	if err != nil {
		return err
	}
	return s.eachBlob(ctx, typ, 1+n/eachMost, each)
}

// eachBlob goes through the index so many times, each time for another part of the packfiles.
func (s *Store) eachBlob(ctx context.Context, typ resources.Type, parts uint64, each func(blob objects.MAC, data []byte, err error) error) error {
	for part := range parts {
		var places []blobPlace
		var packs []objects.MAC
		known := make(map[objects.MAC]int)
		err := s.EachPlace(ctx, func(p Place) {
			if p.Type != typ || binary.LittleEndian.Uint64(p.Packfile[:])%parts != part {
				return
			}
			i, ok := known[p.Packfile]
			if !ok {
				i = len(packs)
				known[p.Packfile] = i
				packs = append(packs, p.Packfile)
			}
			places = append(places, blobPlace{p.Blob, i, p.Offset, p.Length})
		})
		if err != nil {
			return err
		}
		r := placeReader{s: s, typ: typ, read: s.conn.read, blob: s.Blob}
		if err := r.run(ctx, packs, places, each); err != nil {
			return err
		}
	}
	return nil
}

// EachBlobOf reads these blobs of a type through a view of Afresh, in the order in which they lie in their packfiles, as EachBlob
// does it. It calls each once for every one, with what it holds, or with an error: ErrUnavailable when it was not given, others when it is
// missing or not sound in any packfile that is not about to be removed. An error of each ends it. data is valid until each returns. It keeps
// about 60 bytes in memory for each blob.
func (s *Store) EachBlobOf(ctx context.Context, fresh *repository.Repository, typ resources.Type, blobs []objects.MAC, each func(blob objects.MAC, data []byte, err error) error) error {
	r := placeReader{s: s, typ: typ, once: true}
	r.read = func(loc state.Location, buf []byte) ([]byte, error) { return readRange(ctx, fresh.Store(), loc, buf) }
	r.blob = func(_ resources.Type, mac objects.MAC) ([]byte, error) { return r.soundBlob(mac) }
	known := make(map[objects.MAC]int)
	var packs []objects.MAC
	places := make([]blobPlace, 0, len(blobs))
	for _, mac := range blobs {
		if err := ctx.Err(); err != nil {
			return err
		}
		payload, err := s.locator.locate(s, typ, mac)
		var p Place
		if err == nil {
			p, err = placeFrom(payload)
		}
		if err != nil {
			if !errors.Is(err, sql.ErrNoRows) {
				return s.indexError(err)
			}
			if err := each(mac, nil, fmt.Errorf("%s %x: %w", typ, mac[:4], repository.ErrBlobNotFound)); err != nil {
				return err
			}
			continue
		}
		i, ok := known[p.Packfile]
		if !ok {
			i = len(packs)
			known[p.Packfile] = i
			packs = append(packs, p.Packfile)
		}
		places = append(places, blobPlace{mac, i, p.Offset, p.Length})
	}
	return r.run(ctx, packs, places, each)
}

func (s *Store) countBlobs(typ resources.Type) (n uint64, err error) {
	db, err := s.openIndex()
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	return n, s.indexError(db.QueryRow("SELECT COUNT(*) FROM deltas WHERE type = ?", int(typ)).Scan(&n))
}

// placeReader reads blobs of a type.
type placeReader struct {
	s    *Store
	typ  resources.Type
	read func(loc state.Location, buf []byte) ([]byte, error)
	// blob reads one that is not sound where it was looked for.
	blob func(resources.Type, objects.MAC) ([]byte, error)
	once bool // what is not given is not asked for blob by blob
}

func (r *placeReader) run(ctx context.Context, packs []objects.MAC, places []blobPlace, each func(blob objects.MAC, data []byte, err error) error) error {
	slices.SortFunc(places, func(a, b blobPlace) int {
		return cmp.Or(cmp.Compare(a.pack, b.pack), cmp.Compare(a.offset, b.offset), bytes.Compare(a.blob[:], b.blob[:]))
	})
	var buf []byte
	for len(places) > 0 {
		if err := ctx.Err(); err != nil {
			return err
		}
		first := places[0]
		n, end := 1, first.end()
		for n < len(places) {
			p := &places[n]
			if p.pack != first.pack || p.offset > end && p.offset-end > eachGap || max(end, p.end())-first.offset > eachSpan {
				break
			}
			end = max(end, p.end())
			n++
		}
		var err error
		var there []byte // nil when it cannot be read
		if span := end - first.offset; span <= maxBlob {
			buf, err = r.read(state.Location{Packfile: packs[first.pack], Offset: first.offset, Length: uint32(span)}, buf)
			if err == nil {
				there = buf
			}
		}
		ungiven := r.once && errors.Is(err, ErrUnavailable)
		for _, p := range places[:n] {
			var data []byte
			if !ungiven {
				data, err = r.cut(&p, there, first.offset)
			}
			if err := each(p.blob, data, err); err != nil {
				return err
			}
		}
		places = places[n:]
	}
	return nil
}

// cut takes a blob out of what was read of a packfile from an offset on. If it is not there, or damaged, it
// is looked for wherever else it is.
func (r *placeReader) cut(p *blobPlace, there []byte, from uint64) ([]byte, error) {
	if there != nil && from <= p.offset && p.offset <= p.end() && p.end()-from <= uint64(len(there)) { // or the index is forged
		if data, err := r.sound(p.blob, there[p.offset-from:p.end()-from]); err == nil {
			return data, nil
		}
	}
	data, err := r.blob(r.typ, p.blob)
	if err != nil {
		return nil, fmt.Errorf("%s %x: %w", r.typ, p.blob[:4], err)
	}
	return data, nil
}

func (r *placeReader) sound(mac objects.MAC, encoded []byte) ([]byte, error) {
	data, err := r.s.decode(encoded)
	if err == nil {
		err = r.s.compareMAC(r.typ, mac, data)
	}
	return data, err
}

// soundBlob reads a blob wherever it is sound and not about to be removed. ErrUnavailable tells more than damage elsewhere.
func (r *placeReader) soundBlob(mac objects.MAC) ([]byte, error) {
	payloads, err := r.s.placesBy(lasting, int(resources.RT_PACKFILE), int(r.typ), hex.EncodeToString(mac[:]))
	if err != nil {
		return nil, err
	}
	first := repository.ErrBlobNotFound // if maintenance has removed it since
	for i, payload := range payloads {
		p, err := placeFrom(payload)
		var data []byte
		if err == nil {
			data, err = r.read(state.Location{Packfile: p.Packfile, Offset: p.Offset, Length: p.Length}, nil)
		}
		if err == nil {
			data, err = r.sound(mac, data)
		}
		if err == nil {
			return data, nil
		}
		if i == 0 || errors.Is(err, ErrUnavailable) {
			first = err
		}
	}
	return nil, first
}
