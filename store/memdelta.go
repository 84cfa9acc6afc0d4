package store

import (
	"encoding/binary"
	"encoding/hex"
	"slices"
	"strconv"
	"strings"

	"github.com/PlakarKorp/kloset/objects"
	"github.com/PlakarKorp/kloset/repository/state"
)

// deltas are the places of blobs that a commit has written, of which there are three for each
// file: as short as they can be kept. It has of each blob the first place; what it cannot
// have is left to its owner. The owner guards it.
type deltas struct {
	types map[byte]map[objects.MAC]place
	packs []objects.MAC // packfiles
	pack  map[objects.MAC]uint32
}

// place is where a blob is: what a state.DeltaEntry has besides names.
type place struct {
	pack                           uint32 // of packs
	offset, length, version, flags uint32
}

func newDeltas() deltas {
	return deltas{types: make(map[byte]map[objects.MAC]place), pack: make(map[objects.MAC]uint32)}
}

// entryBlob and entryPack are where an encoded state.DeltaEntry has its names.
const (
	entryBlob  = 1 + 4
	entryPack  = entryBlob + 32
	entryPlace = entryPack + 32
)

// deltaName takes the key of a delta apart; ok is false for other keys.
func deltaName(key string) (typ byte, blob, pack objects.MAC, ok bool) {
	rest, ok := strings.CutPrefix(key, deltaKey)
	if !ok {
		return
	}
	t, rest, _ := strings.Cut(rest, ":")
	b, p, _ := strings.Cut(rest, ":")
	n, err := strconv.ParseUint(t, 10, 8)
	blob, okBlob := macOf(b)
	pack, okPack := macOf(p)
	return byte(n), blob, pack, err == nil && okBlob && okPack
}

// put is false for what must be kept elsewhere.
func (d *deltas) put(key string, data []byte) bool {
	typ, blob, pack, ok := deltaName(key)
	if !ok || len(data) != state.DeltaEntrySerializedSize || data[0] != typ ||
		objects.MAC(data[entryBlob:entryPack]) != blob || objects.MAC(data[entryPack:entryPlace]) != pack {
		return false
	}
	le := binary.LittleEndian
	offset := le.Uint64(data[entryPlace:])
	if offset != uint64(uint32(offset)) {
		return false
	}
	number, known := d.pack[pack]
	if old, ok := d.types[typ][blob]; ok && !(known && old.pack == number) {
		return false // another place
	}
	if !known {
		number = uint32(len(d.packs))
		d.packs, d.pack[pack] = append(d.packs, pack), number
	}
	if d.types[typ] == nil {
		d.types[typ] = make(map[objects.MAC]place)
	}
	d.types[typ][blob] = place{
		pack: number, offset: uint32(offset), length: le.Uint32(data[entryPlace+8:]),
		version: le.Uint32(data[1:]), flags: le.Uint32(data[entryPlace+12:]),
	}
	return true
}

// get returns the encoded entry of a key, nil when it is not here.
func (d *deltas) get(key string) []byte {
	typ, blob, pack, ok := deltaName(key)
	if !ok {
		return nil
	}
	p, ok := d.types[typ][blob]
	if !ok || d.packs[p.pack] != pack {
		return nil
	}
	return d.entry(typ, blob, p)
}

func (d *deltas) entry(typ byte, blob objects.MAC, p place) []byte {
	le := binary.LittleEndian
	out := make([]byte, 0, state.DeltaEntrySerializedSize)
	out = append(out, typ)
	out = le.AppendUint32(out, p.version)
	out = append(out, blob[:]...)
	out = append(out, d.packs[p.pack][:]...)
	out = le.AppendUint64(out, uint64(p.offset))
	out = le.AppendUint32(out, p.length)
	return le.AppendUint32(out, p.flags)
}

// remove is false when the key is not here.
func (d *deltas) remove(key string) bool {
	if d.get(key) == nil {
		return false
	}
	typ, blob, _, _ := deltaName(key)
	delete(d.types[typ], blob)
	return true
}

// deltaRef names a delta that is here.
type deltaRef struct {
	typ  byte
	blob objects.MAC
}

// key is the whole key of a delta.
func (d *deltas) key(typ byte, blob objects.MAC, p place) string {
	pack := &d.packs[p.pack]
	buf := make([]byte, 0, len(deltaKey)+4+2*len(blob)+1+2*len(pack))
	buf = append(buf, deltaKey...)
	buf = strconv.AppendUint(buf, uint64(typ), 10)
	buf = append(buf, ':')
	buf = hex.AppendEncode(buf, blob[:])
	buf = append(buf, ':')
	return string(hex.AppendEncode(buf, pack[:]))
}

// matching returns what is here below a prefix, in the order of the keys.
func (d *deltas) matching(prefix string) []deltaRef {
	if !strings.HasPrefix(prefix, deltaKey) && !strings.HasPrefix(deltaKey, prefix) {
		return nil
	}
	// By far the most frequent question: where is a blob?
	if typ, blob, ok := deltaPrefix(prefix); ok {
		if _, ok := d.types[typ][blob]; !ok {
			return nil
		}
		return []deltaRef{{typ, blob}}
	}
	n := 0
	for _, blobs := range d.types {
		n += len(blobs)
	}
	refs := make([]deltaRef, 0, n)
	for typ, blobs := range d.types {
		for blob, p := range blobs {
			if len(prefix) <= len(deltaKey) || strings.HasPrefix(d.key(typ, blob, p), prefix) {
				refs = append(refs, deltaRef{typ, blob})
			}
		}
	}
	slices.SortFunc(refs, func(a, b deltaRef) int {
		if a.typ != b.typ {
			return strings.Compare(strconv.Itoa(int(a.typ))+":", strconv.Itoa(int(b.typ))+":")
		}
		return slices.Compare(a.blob[:], b.blob[:])
	})
	return refs
}

// deltaPrefix takes the prefix of the keys of one blob apart.
func deltaPrefix(prefix string) (typ byte, blob objects.MAC, ok bool) {
	rest, ok := strings.CutPrefix(prefix, deltaKey)
	if !ok || !strings.HasSuffix(rest, ":") {
		return typ, blob, false
	}
	t, b, _ := strings.Cut(strings.TrimSuffix(rest, ":"), ":")
	n, err := strconv.ParseUint(t, 10, 8)
	blob, ok = macOf(b)
	return byte(n), blob, err == nil && ok
}
