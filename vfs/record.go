package vfs

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"time"

	"github.com/snapgate/gateway/snapshotter"
	"github.com/snapgate/gateway/vfs/internal/spool"
)

// A journal record is one operation: a format byte, the kind, and the kind's fields.
// Numbers are varints, strings and bytes carry their length, times are a presence byte
// and nanoseconds since 1970. A record of an unknown format or kind stops the recovery, so that
// an older gateway never misreads what a newer one has written.

// recordFormat is the first byte of every record.
const recordFormat = 1

// errRecord is the cause of every decoding error.
var errRecord = errors.New("malformed journal record")

// encode returns the record of o.
func (o *op) encode() []byte {
	e := &encoder{b: make([]byte, 0, 128+len(o.name.s)+o.inlineLen())}
	kind := o.kind
	if kind == opCommitted && o.commit.lenient {
		kind = opLenient
	}
	e.b = append(e.b, recordFormat, byte(kind))
	e.time(o.time)
	e.str(o.user)
	e.str(o.protocol)
	switch o.kind {
	case opPut:
		e.str(o.name.s)
		e.attr(o.attr)
		e.uint(o.version)
		e.uint(uint64(o.mask))
		e.content(o.content)
	case opMkdir:
		e.str(o.name.s)
		e.attr(o.attr)
		e.uint(o.version)
	case opSymlink:
		e.str(o.name.s)
		e.attr(o.attr)
		e.uint(o.version)
		e.str(o.target)
	case opRemove:
		e.str(o.name.s)
	case opRename:
		e.str(o.name.s)
		e.str(o.to.s)
	case opSetattr:
		e.str(o.name.s)
		e.uint(uint64(o.mask))
		e.attr(o.attr)
	case opLink:
		e.str(o.name.s)
		e.str(o.to.s)
		e.uint(o.version)
	case opSeal:
		e.str(o.reason)
	case opCommitted:
		e.uint(o.commit.upTo)
		e.id(o.commit.id)
		e.uint(o.commit.sequence)
		e.time(o.commit.time)
		e.uint(uint64(o.commit.suffix))
		e.uint(o.commit.version)
	case opPartial:
		e.partial(*o.partial)
	case opPartialGone:
		e.str(o.partial.user)
		e.str(o.partial.name.s)
	case opTorn, opWhole:
		e.str(o.name.s)
	}
	return e.b
}

func (o *op) inlineLen() int {
	if o.content == nil {
		return 0
	}
	return len(o.content.inline)
}

// decodeOp parses a record. Inline bytes are not copied out of it: the content carries
// only that they are there.
func decodeOp(b []byte) (*op, error) {
	o, _, err := decodeRecord(b)
	return o, err
}

// decodeInline returns the inline bytes of an opPut record, sharing b's memory.
func decodeInline(b []byte) ([]byte, error) {
	o, data, err := decodeRecord(b)
	switch {
	case err != nil:
		return nil, err
	case o.kind != opPut || !o.content.inRecord:
		return nil, fmt.Errorf("%w: no inline content", errRecord)
	}
	return data, nil
}

func decodeRecord(b []byte) (*op, []byte, error) {
	if len(b) < 2 {
		return nil, nil, fmt.Errorf("%w: %d bytes", errRecord, len(b))
	}
	if b[0] != recordFormat {
		return nil, nil, fmt.Errorf("%w: format %d, this version knows %d", errRecord, b[0], recordFormat)
	}
	d := &decoder{b: b[2:]}
	o := &op{kind: opKind(b[1])}
	o.time = d.time()
	o.user = d.str()
	o.protocol = d.str()
	var inline []byte
	switch o.kind {
	case opPut:
		o.name = d.name()
		o.attr = d.attr()
		o.version = d.uint()
		o.mask = attrMask(d.uint())
		o.content, inline = d.content()
	case opMkdir:
		o.name = d.name()
		o.attr = d.attr()
		o.version = d.uint()
	case opSymlink:
		o.name = d.name()
		o.attr = d.attr()
		o.version = d.uint()
		o.target = d.str()
	case opRemove:
		o.name = d.name()
	case opRename:
		o.name = d.name()
		o.to = d.name()
	case opSetattr:
		o.name = d.name()
		o.mask = attrMask(d.uint())
		o.attr = d.attr()
	case opLink:
		o.name = d.name()
		o.to = d.name()
		o.version = d.uint()
	case opSeal:
		o.reason = d.str()
	case opCommitted, opLenient:
		o.commit = &committedRecord{upTo: d.uint(), lenient: o.kind == opLenient}
		o.kind = opCommitted
		o.commit.id = d.id()
		o.commit.sequence = d.uint()
		o.commit.time = d.time()
		o.commit.suffix = int(d.uint())
		o.commit.version = d.uint()
	case opPartial:
		p := d.partial()
		o.partial = &p
	case opPartialGone:
		o.partial = &partial{user: d.str(), name: d.name()}
	case opTorn, opWhole:
		o.name = d.name()
	default:
		return nil, nil, fmt.Errorf("%w: kind %d", errRecord, b[1])
	}
	if d.err == nil && len(d.b) > 0 {
		d.err = fmt.Errorf("%w: %d bytes left over", errRecord, len(d.b))
	}
	return o, inline, d.err
}

// Where the bytes of a recorded content are.
const (
	contentInline = 1 << iota // in the record
	contentSpool              // in a spool file, whole or in extents
	contentBase               // in a stored file
	contentHash               // the BLAKE3-256 of the whole is known
)

type encoder struct{ b []byte }

func (e *encoder) uint(v uint64) { e.b = binary.AppendUvarint(e.b, v) }
func (e *encoder) int(v int64)   { e.b = binary.AppendVarint(e.b, v) }
func (e *encoder) str(s string)  { e.uint(uint64(len(s))); e.b = append(e.b, s...) }
func (e *encoder) raw(p []byte)  { e.uint(uint64(len(p))); e.b = append(e.b, p...) }

func (e *encoder) id(id snapshotter.ID) { e.b = append(e.b, id[:]...) }

func (e *encoder) time(t time.Time) {
	if t.IsZero() {
		e.uint(0)
		return
	}
	e.uint(1)
	e.int(t.UnixNano())
}

func (e *encoder) attr(a snapshotter.Attr) {
	e.uint(uint64(a.Mode))
	e.time(a.ModTime)
	e.uint(uint64(a.UID))
	e.uint(uint64(a.GID))
}

func (e *encoder) extents(xs []spool.Extent) {
	e.uint(uint64(len(xs)))
	for _, x := range xs {
		e.uint(uint64(x.Off))
		e.uint(uint64(x.Len))
	}
}

func (e *encoder) base(b baseRef) {
	e.id(b.id)
	e.str(b.path)
	e.uint(uint64(b.size))
}

func (e *encoder) content(c *content) {
	var flags uint64
	if c.inRecord {
		flags |= contentInline
	}
	if c.spool != 0 {
		flags |= contentSpool
	}
	if c.base.path != "" {
		flags |= contentBase
	}
	if c.hasHash {
		flags |= contentHash
	}
	e.uint(flags)
	e.uint(uint64(c.size))
	if c.inRecord {
		e.raw(c.inline)
	}
	if c.spool != 0 {
		e.uint(uint64(c.spool))
		e.extents(c.extents)
	}
	if c.base.path != "" {
		e.base(c.base)
	}
	if c.hasHash {
		e.b = append(e.b, c.hash[:]...)
	}
}

func (e *encoder) partial(p partial) {
	e.str(p.name.s)
	e.str(p.user)
	e.uint(uint64(p.spool))
	e.uint(uint64(p.size))
	e.extents(p.extents)
	e.time(p.time)
	if p.base.path == "" {
		e.uint(0)
		return
	}
	e.uint(1)
	e.base(p.base)
}

// decoder consumes b; after the first error every result is zero.
type decoder struct {
	b   []byte
	err error
}

func (d *decoder) fail(what string) {
	if d.err == nil {
		d.err = fmt.Errorf("%w: %s", errRecord, what)
	}
	d.b = nil
}

func (d *decoder) uint() uint64 {
	v, n := binary.Uvarint(d.b)
	if n <= 0 {
		d.fail("number")
		return 0
	}
	d.b = d.b[n:]
	return v
}

func (d *decoder) int() int64 {
	v, n := binary.Varint(d.b)
	if n <= 0 {
		d.fail("number")
		return 0
	}
	d.b = d.b[n:]
	return v
}

// size reads a length or offset, which must fit in an int64.
func (d *decoder) size() int64 {
	v := d.uint()
	if v > 1<<62 {
		d.fail("size")
		return 0
	}
	return int64(v)
}

func (d *decoder) take(n uint64) []byte {
	if n > uint64(len(d.b)) {
		d.fail("cut short")
		return nil
	}
	p := d.b[:n]
	d.b = d.b[n:]
	return p
}

func (d *decoder) str() string { return string(d.take(d.uint())) }

func (d *decoder) id() (id snapshotter.ID) {
	copy(id[:], d.take(uint64(len(id))))
	return id
}

func (d *decoder) time() time.Time {
	if d.uint() == 0 {
		return time.Time{}
	}
	return time.Unix(0, d.int()).UTC()
}

func (d *decoder) attr() snapshotter.Attr {
	return snapshotter.Attr{
		Mode:    fs.FileMode(d.uint()),
		ModTime: d.time(),
		UID:     uint32(d.uint()),
		GID:     uint32(d.uint()),
	}
}

func (d *decoder) name() Name {
	s := d.str()
	if d.err != nil {
		return Name{}
	}
	if strings.IndexByte(s, 0) >= 0 || !canonical(s, len(s)) {
		d.fail("name")
		return Name{}
	}
	return Name{s}
}

func (d *decoder) extents() []spool.Extent {
	n := d.uint()
	if n > uint64(len(d.b)) { // each takes two bytes at least
		d.fail("extents")
		return nil
	}
	xs := make([]spool.Extent, 0, n)
	for range n {
		xs = append(xs, spool.Extent{Off: d.size(), Len: d.size()})
	}
	return xs
}

func (d *decoder) base() baseRef {
	b := baseRef{id: d.id(), path: d.str(), size: d.size()}
	if b.path == "" {
		d.fail("stored file without a path")
	}
	return b
}

func (d *decoder) content() (*content, []byte) {
	flags := d.uint()
	c := &content{size: d.size()}
	var inline []byte
	if flags&contentInline != 0 {
		c.inRecord = true
		if inline = d.take(d.uint()); int64(len(inline)) != c.size {
			d.fail("inline size")
		}
	}
	if flags&contentSpool != 0 {
		if c.spool = spool.ID(d.uint()); c.spool == 0 {
			d.fail("spool file 0")
		}
		c.extents = d.extents()
	}
	if flags&contentBase != 0 {
		c.base = d.base()
	}
	if flags&contentHash != 0 {
		c.hasHash = true
		copy(c.hash[:], d.take(uint64(len(c.hash))))
	}
	return c, inline
}

func (d *decoder) partial() partial {
	p := partial{
		name:    d.name(),
		user:    d.str(),
		spool:   spool.ID(d.uint()),
		size:    d.size(),
		extents: d.extents(),
		time:    d.time(),
	}
	if d.uint() != 0 {
		p.base = d.base()
	}
	return p
}
