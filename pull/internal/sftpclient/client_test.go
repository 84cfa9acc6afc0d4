package sftpclient

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// packetOf makes a packet of a type with an id.
func packetOf(typ byte, id uint32, payload []byte) []byte {
	b := binary.BigEndian.AppendUint32(nil, uint32(5+len(payload)))
	b = append(b, typ)
	b = binary.BigEndian.AppendUint32(b, id)
	return append(b, payload...)
}

func u32(n uint32) []byte { return binary.BigEndian.AppendUint32(nil, n) }

func namesOf(names ...string) []byte {
	b := u32(uint32(len(names)))
	for _, n := range names {
		b = appendString(appendString(b, n), "")
		b = append(b, u32(0)...)
	}
	return b
}

// dial connects to a server that says hello and then answers each request with what answer
// returns; nothing is no answer, and a nil slice in place of one ends the connection.
func dial(t *testing.T, timeout time.Duration, answer func(typ byte, id uint32, body []byte) []byte) (*Client, error) {
	t.Helper()
	near, far := net.Pipe()
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer far.Close()
		srv := &Client{}
		if _, _, err := srv.packet(far); err != nil {
			return
		}
		if _, err := far.Write(packetOf(typeVersion, version, nil)); err != nil {
			return
		}
		for {
			typ, body, err := srv.packet(far)
			if err != nil {
				return
			}
			reply := answer(typ, binary.BigEndian.Uint32(body), body[4:])
			if reply == nil {
				return
			}
			if _, err := far.Write(reply); err != nil {
				return
			}
		}
	}()
	c, err := New(t.Context(), near, timeout)
	t.Cleanup(func() {
		if c != nil {
			c.Close()
		}
		<-done
	})
	return c, err
}

// Names reach the caller as they are: what is made of them is its business.
func TestListing(t *testing.T) {
	hostile := []string{"..", "../etc/passwd", "/", "", "a\x00b", "ok", "\xff\xfe"}
	pages := 0
	c, err := dial(t, time.Minute, func(typ byte, id uint32, _ []byte) []byte {
		switch typ {
		case typeOpendir:
			return packetOf(typeHandle, id, appendString(nil, "h"))
		case typeReaddir:
			if pages++; pages == 1 {
				return packetOf(typeName, id, namesOf(hostile...))
			}
			return packetOf(typeStatus, id, u32(statusEOF))
		}
		return packetOf(typeStatus, id, u32(statusOK))
	})
	if err != nil {
		t.Fatal(err)
	}
	d, err := c.OpenDir(t.Context(), "/")
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for {
		page, err := d.Next(t.Context())
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		for _, n := range page {
			got = append(got, n.Name)
		}
	}
	d.Close()
	if !slices.Equal(got, hostile) {
		t.Errorf("got %q", got)
	}
}

// A short read is no end of the file, and no more is asked for than the range.
func TestShortReads(t *testing.T) {
	content := strings.Repeat("0123456789", 10000)
	reads := 0
	c, err := dial(t, time.Minute, func(typ byte, id uint32, body []byte) []byte {
		d := decoder{b: body}
		switch typ {
		case typeOpen:
			return packetOf(typeHandle, id, appendString(nil, "h"))
		case typeRead:
			d.string()
			off, n := d.uint64(), d.uint32()
			if reads++; off >= uint64(len(content)) {
				t.Errorf("a read at %d", off)
			}
			n = min(n, 7000) // less than was asked for
			return packetOf(typeData, id, appendString(nil, content[off:min(off+uint64(n), uint64(len(content)))]))
		}
		return packetOf(typeStatus, id, u32(statusOK))
	})
	if err != nil {
		t.Fatal(err)
	}
	f, err := c.Open(t.Context(), "/f", 10, int64(len(content))-10)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var got []byte
	buf := make([]byte, 5000)
	for {
		n, err := f.Read(t.Context(), buf)
		got = append(got, buf[:n]...)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if string(got) != content[10:] {
		t.Errorf("%d bytes that are not the same", len(got))
	}
}

// TestLargeReplies reads a file in requests of 255 KiB, each of another content: the buffers of replies that were read
// are used again, and what is in them is right all the same.
func TestLargeReplies(t *testing.T) {
	const replies = 40
	at := func(off uint64) byte { return byte(off/7 ^ off>>16) }
	c, err := dial(t, time.Minute, func(typ byte, id uint32, body []byte) []byte {
		d := decoder{b: body}
		switch typ {
		case typeOpen:
			return packetOf(typeHandle, id, appendString(nil, "h"))
		case typeRead:
			d.string()
			off := d.uint64()
			data := make([]byte, d.uint32())
			for i := range data {
				data[i] = at(off + uint64(i))
			}
			return packetOf(typeData, id, append(u32(uint32(len(data))), data...))
		}
		return packetOf(typeStatus, id, u32(statusOK))
	})
	if err != nil {
		t.Fatal(err)
	}
	c.limits.Read = maxRead
	f, err := c.Open(t.Context(), "/f", 0, replies*maxRead)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	buffers := map[*byte]struct{}{}
	buf := make([]byte, maxRead/3)
	off := uint64(0)
	for {
		n, err := f.Read(t.Context(), buf)
		if len(f.body) > 0 {
			buffers[&f.body[0]] = struct{}{}
		}
		for i, b := range buf[:n] {
			if b != at(off+uint64(i)) {
				t.Fatalf("byte %d is %d", off+uint64(i), b)
			}
		}
		if off += uint64(n); errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if off != replies*maxRead {
		t.Errorf("%d bytes", off)
	}
	if len(buffers) > replies/2 {
		t.Errorf("%d buffers for %d replies", len(buffers), replies)
	}
}

// Whether there is more behind a range is asked before the size, and a server that refuses to
// tell is believed that there is not.
func TestStatTellsMore(t *testing.T) {
	for name, tt := range map[string]struct {
		reply func(id uint32) []byte
		more  bool
	}{
		"a byte":  {func(id uint32) []byte { return packetOf(typeData, id, appendString(nil, "x")) }, true},
		"the end": {func(id uint32) []byte { return packetOf(typeStatus, id, u32(statusEOF)) }, false},
		"refused": {func(id uint32) []byte {
			return packetOf(typeStatus, id, appendString(appendString(u32(4), "no"), ""))
		}, false},
	} {
		t.Run(name, func(t *testing.T) {
			var asked []byte
			c, err := dial(t, time.Minute, func(typ byte, id uint32, _ []byte) []byte {
				asked = append(asked, typ)
				switch typ {
				case typeOpen:
					return packetOf(typeHandle, id, appendString(nil, "h"))
				case typeRead:
					return tt.reply(id)
				case typeFstat:
					return packetOf(typeAttrs, id, u32(0))
				}
				return packetOf(typeStatus, id, u32(statusOK))
			})
			if err != nil {
				t.Fatal(err)
			}
			f, err := c.Open(t.Context(), "/f", 0, 10)
			if err != nil {
				t.Fatal(err)
			}
			_, more, err := f.Stat(t.Context())
			if err != nil || more != tt.more {
				t.Errorf("more %v, %v; want %v", more, err, tt.more)
			}
			if !slices.Equal(asked, []byte{typeOpen, typeRead, typeFstat}) {
				t.Errorf("asked %v", asked)
			}
			f.Close()
		})
	}
}

// What breaks the protocol ends the connection; it is never taken for the end of a file.
func TestHostile(t *testing.T) {
	handle := func(id uint32) []byte { return packetOf(typeHandle, id, appendString(nil, "h")) }
	for name, tt := range map[string]struct {
		answer func(typ byte, id uint32) []byte
		want   error
	}{
		"more than asked for": {func(_ byte, id uint32) []byte {
			return packetOf(typeData, id, appendString(nil, strings.Repeat("x", 200)))
		}, ErrProtocol},
		"nothing": {func(_ byte, id uint32) []byte { return packetOf(typeData, id, u32(0)) }, ErrProtocol},
		"a length that is not there": {func(_ byte, id uint32) []byte {
			return packetOf(typeData, id, u32(1<<31))
		}, ErrProtocol},
		"a huge packet":    {func(byte, uint32) []byte { return append(u32(1<<31), typeData, 0, 0, 0, 0) }, ErrProtocol},
		"a tiny packet":    {func(byte, uint32) []byte { return append(u32(1), typeData, 0, 0, 0, 0) }, ErrProtocol},
		"another id":       {func(_ byte, id uint32) []byte { return packetOf(typeData, id+9, appendString(nil, "x")) }, ErrProtocol},
		"another type":     {func(_ byte, id uint32) []byte { return packetOf(typeName, id, namesOf("a")) }, ErrProtocol},
		"success":          {func(_ byte, id uint32) []byte { return packetOf(typeStatus, id, u32(statusOK)) }, ErrProtocol},
		"the end":          {func(byte, uint32) []byte { return nil }, ErrLost},
		"half a packet":    {func(_ byte, id uint32) []byte { return packetOf(typeData, id, u32(4))[:9] }, ErrTimeout},
		"never an answer":  {func(byte, uint32) []byte { return []byte{} }, ErrTimeout},
		"status cut short": {func(_ byte, id uint32) []byte { return packetOf(typeStatus, id, nil) }, ErrProtocol},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c, err := dial(t, time.Minute, func(typ byte, id uint32, _ []byte) []byte {
					if typ == typeOpen {
						return handle(id)
					}
					return tt.answer(typ, id)
				})
				if err != nil {
					t.Fatal(err)
				}
				f, err := c.Open(t.Context(), "/f", 0, 100)
				if err != nil {
					t.Fatal(err)
				}
				_, err = f.Read(t.Context(), make([]byte, 100))
				f.Close()
				if !errors.Is(err, tt.want) || errors.Is(err, io.EOF) {
					t.Errorf("got %v, want %v", err, tt.want)
				}
				if _, err := c.Lstat(t.Context(), "/"); err == nil || c.Err() == nil {
					t.Errorf("the connection goes on: %v, %v", err, c.Err())
				}
			})
		})
	}
}

// A call that is given up leaves the connection to the others, and a handle that comes late
// is closed.
func TestCancelled(t *testing.T) {
	asked, late := make(chan struct{}), make(chan uint32, 1)
	closed := make(chan struct{})
	c, err := dial(t, time.Minute, func(typ byte, id uint32, _ []byte) []byte {
		switch typ {
		case typeOpen:
			late <- id
			close(asked)
			return []byte{}
		case typeClose:
			close(closed)
		case typeLstat:
			return append(packetOf(typeHandle, <-late, appendString(nil, "h")), packetOf(typeAttrs, id, u32(0))...)
		}
		return packetOf(typeStatus, id, u32(statusOK))
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-asked; cancel() }()
	if _, err := c.Open(ctx, "/f", 0, 1); !errors.Is(err, context.Canceled) {
		t.Errorf("open: %v", err)
	}
	if _, err := c.Lstat(t.Context(), "/"); err != nil {
		t.Errorf("stat after it: %v", err)
	}
	<-closed
}

// FuzzDecode gives packets of a server to everything that takes them apart.
func FuzzDecode(f *testing.F) {
	f.Add(namesOf("a", ".."))
	f.Add(append(u32(attrSize|attrOwner|attrMode|attrTimes|attrExtended), make([]byte, 60)...))
	f.Add(appendString(u32(statusPermission), "no"))
	f.Fuzz(func(t *testing.T, b []byte) {
		d := decoder{b: b}
		names := d.names()
		if d.err == nil && 12*len(names) > len(b) {
			t.Fatalf("%d names out of %d bytes", len(names), len(b))
		}
		d = decoder{b: b}
		d.attrs()
		d = decoder{b: b}
		_ = d.status()
		if d.err != nil && !errors.Is(d.err, ErrProtocol) {
			t.Fatal(d.err)
		}
	})
}
