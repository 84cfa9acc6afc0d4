package sftpclient

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// readAhead is how many bytes of a file are asked for before they are read: the window of a
// channel of x/crypto/ssh and OpenSSH.
const readAhead = 2 << 20

// Dir is a directory being listed, by one goroutine at a time.
type Dir struct {
	c      *Client
	handle string
	ahead  *call // the next page, asked for already
}

// OpenDir begins a listing.
func (c *Client) OpenDir(ctx context.Context, path string) (*Dir, error) {
	h, err := c.handle(ctx, typeOpendir, appendString(nil, path))
	if err != nil {
		return nil, err
	}
	return &Dir{c: c, handle: h}, nil
}

func (c *Client) handle(ctx context.Context, typ byte, payload []byte) (string, error) {
	d, err := c.ask(ctx, typ, typeHandle, payload)
	if err != nil {
		return "", err
	}
	h := d.string()
	if d.err != nil {
		return "", c.fail(d.err)
	}
	return h, nil
}

// Next returns the next names, as the server sends them, and io.EOF at the end. The page
// after is asked for at once.
func (d *Dir) Next(ctx context.Context) ([]Name, error) {
	var err error
	if d.ahead == nil {
		if d.ahead, err = d.ask(ctx); err != nil {
			return nil, err
		}
	}
	k := d.ahead
	if d.ahead, err = d.ask(ctx); err != nil {
		return nil, err
	}
	dec, err := d.c.wait(ctx, k, typeName)
	if err != nil {
		return nil, err
	}
	names := dec.names()
	if dec.err != nil {
		return nil, d.c.fail(dec.err)
	}
	if len(names) == 0 {
		return nil, d.c.fail(fmt.Errorf("%w: a page of a listing without a name", ErrProtocol))
	}
	return names, nil
}

func (d *Dir) ask(ctx context.Context) (*call, error) {
	return d.c.start(ctx, typeReaddir, appendString(nil, d.handle))
}

// Close ends the listing. It does not wait for the server.
func (d *Dir) Close() {
	if d.ahead != nil {
		d.c.abandon(d.ahead)
	}
	d.c.close(d.handle)
}

// File is a range of an open file being read, by one goroutine at a time.
type File struct {
	c        *Client
	handle   string
	asked    []piece
	next     int64  // the offset of the next request
	end      int64  // where the range ends
	buf      []byte // has arrived, and was not read
	body     []byte // what buf is in
	finished bool
	stat     *call // the attributes, asked for already; nil for not
}

// piece is a READ under way.
type piece struct {
	call *call
	off  int64
	n    int
}

// Open opens a file for reading length bytes at offset; nothing else is asked for. Requests
// for the first bytes leave with the first Read.
func (c *Client) Open(ctx context.Context, path string, offset, length int64) (*File, error) {
	b := appendString(nil, path)
	b = binary.BigEndian.AppendUint32(b, openRead)
	b = binary.BigEndian.AppendUint32(b, 0) // no attributes
	h, err := c.handle(ctx, typeOpen, b)
	if err != nil {
		return nil, err
	}
	return &File{c: c, handle: h, next: offset, end: offset + length}, nil
}

// Read reads the next bytes of the range. io.EOF comes after its last byte, without asking
// the server, or when the file ends before.
func (f *File) Read(ctx context.Context, p []byte) (int, error) {
	for len(f.buf) == 0 {
		if f.finished {
			return 0, io.EOF
		}
		if err := f.fill(ctx); err != nil {
			return 0, err
		}
	}
	n := copy(p, f.buf)
	if f.buf = f.buf[n:]; len(f.buf) == 0 {
		f.c.reuse(f.body)
		f.body = nil
	}
	return n, nil
}

// fill waits for the oldest request, and keeps the pipe full meanwhile.
func (f *File) fill(ctx context.Context) error {
	size := int64(f.c.limits.Read)
	for f.next < f.end && int64(len(f.asked)) < max(readAhead/size, 1) {
		n := min(f.end-f.next, size)
		k, err := f.ask(ctx, f.next, int(n))
		if err != nil {
			return err
		}
		f.asked = append(f.asked, piece{k, f.next, int(n)})
		f.next += n
	}
	if len(f.asked) == 0 {
		f.finished = true
		return nil
	}
	head := &f.asked[0]
	d, err := f.c.wait(ctx, head.call, typeData)
	if errors.Is(err, io.EOF) {
		f.finished = true
		return nil
	}
	if err != nil {
		return err
	}
	data := d.bytes()
	switch {
	case d.err != nil:
		return f.c.fail(d.err)
	case len(data) == 0 || len(data) > head.n:
		return f.c.fail(fmt.Errorf("%w: %d bytes in place of %d", ErrProtocol, len(data), head.n))
	case len(data) < head.n:
		// A short read is no end (section 6.4): the rest is asked for again.
		head.off += int64(len(data))
		head.n -= len(data)
		if head.call, err = f.ask(ctx, head.off, head.n); err != nil {
			return err
		}
	default:
		f.asked = f.asked[1:]
	}
	f.buf, f.body = data, d.body
	return nil
}

func (f *File) ask(ctx context.Context, off int64, n int) (*call, error) {
	b := appendString(make([]byte, 0, len(f.handle)+16), f.handle)
	b = binary.BigEndian.AppendUint64(b, uint64(off))
	b = binary.BigEndian.AppendUint32(b, uint32(n))
	return f.c.start(ctx, typeRead, b)
}

// Again begins another range of the open file, after the last byte of the one before. It reports
// whether that was so.
func (f *File) Again(offset, length int64) bool {
	if len(f.asked) > 0 || len(f.buf) > 0 || f.next != f.end || f.stat != nil || f.handle == "" {
		return false
	}
	f.next, f.end, f.finished = offset, offset+length, false
	return true
}

// AskStat asks for the attributes of the open file ahead of its bytes: Stat returns what it is told
// then, and costs no round trip.
func (f *File) AskStat(ctx context.Context) (err error) {
	if f.stat == nil {
		f.stat, err = f.c.start(ctx, typeFstat, appendString(nil, f.handle))
	}
	return err
}

// early waits for what AskStat has asked for.
func (f *File) early(ctx context.Context) (a Attrs, err error) {
	k := f.stat
	f.stat = nil
	d, err := f.c.wait(ctx, k, typeAttrs)
	if err != nil {
		return a, err
	}
	if a = d.attrs(); d.err != nil {
		return a, f.c.fail(d.err)
	}
	return a, nil
}

// Stat asks for the attributes of the open file. more says that it has a byte behind the range,
// of which the server was asked before, so that what its size says is not older. It is an error
// that the server cannot tell when the range ends where the file begins: nothing of it was read.
func (f *File) Stat(ctx context.Context) (a Attrs, more bool, err error) {
	if f.stat != nil {
		a, err = f.early(ctx)
		return a, false, err
	}
	probe, err := f.ask(ctx, f.end, 1)
	if err != nil {
		return Attrs{}, false, err
	}
	a, err = f.c.attrs(ctx, typeFstat, f.handle)
	if err != nil {
		f.c.abandon(probe)
		return Attrs{}, false, err
	}
	d, err := f.c.wait(ctx, probe, typeData)
	if err == nil {
		return a, len(d.bytes()) > 0, nil
	}
	var status *StatusError
	if errors.Is(err, io.EOF) || f.end > 0 && errors.As(err, &status) {
		err = nil // it is not for us to ask beyond the end of some files
	}
	return a, false, err
}

// Close closes the file. It does not wait for the server.
func (f *File) Close() {
	for _, p := range f.asked {
		f.c.abandon(p.call)
	}
	if f.stat != nil {
		f.c.abandon(f.stat)
	}
	f.asked, f.finished, f.buf, f.body, f.stat = nil, true, nil, nil, nil
	f.c.close(f.handle)
}
