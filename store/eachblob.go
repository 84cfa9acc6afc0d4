package store

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/PlakarKorp/kloset/objects"
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
		if err := s.readPlaces(ctx, typ, packs, places, each); err != nil {
			return err
		}
	}
	return nil
}

func (s *Store) countBlobs(typ resources.Type) (n uint64, err error) {
	db, err := s.openIndex()
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	return n, s.indexError(db.QueryRow("SELECT COUNT(*) FROM deltas WHERE type = ?", int(typ)).Scan(&n))
}

// readPlaces reads blobs.
func (s *Store) readPlaces(ctx context.Context, typ resources.Type, packs []objects.MAC, places []blobPlace, each func(blob objects.MAC, data []byte, err error) error) error {
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
			buf, err = s.conn.read(state.Location{Packfile: packs[first.pack], Offset: first.offset, Length: uint32(span)}, buf)
			if err == nil {
				there = buf
			}
		}
		for _, p := range places[:n] {
			data, err := s.cutBlob(typ, &p, there, first.offset)
			if err := each(p.blob, data, err); err != nil {
				return err
			}
		}
		places = places[n:]
	}
	return nil
}

// cutBlob takes a blob out of what was read of a packfile from an offset on. If it is not there, or damaged, it
// is looked for wherever else it is.
func (s *Store) cutBlob(typ resources.Type, p *blobPlace, there []byte, from uint64) ([]byte, error) {
	if there != nil && from <= p.offset && p.offset <= p.end() && p.end()-from <= uint64(len(there)) { // or the index is forged
		data, err := s.decode(there[p.offset-from : p.end()-from])
		if err == nil && s.compareMAC(typ, p.blob, data) == nil {
			return data, nil
		}
	}
	data, err := s.Blob(typ, p.blob)
	if err != nil {
		return nil, fmt.Errorf("%s %x: %w", typ, p.blob[:4], err)
	}
	return data, nil
}
