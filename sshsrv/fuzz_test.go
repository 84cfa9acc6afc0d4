package sshsrv

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"testing"

	"github.com/snapgate/gateway/vfs"
)

// tape is a connection whose client has sent everything and hung up.
type tape struct {
	in  io.Reader
	out bytes.Buffer

	// rest follows in, when the client has been given a handle.
	rest io.Reader
	gate chan struct{}
}

func (c *tape) Read(p []byte) (int, error) {
	n, err := c.in.Read(p)
	if n == 0 && err != nil && c.rest != nil {
		<-c.gate
		c.in, c.rest = c.rest, nil
		return c.in.Read(p)
	}
	return n, err
}

func (c *tape) Write(p []byte) (int, error) {
	if c.out.Len() > 64<<20 {
		return 0, errors.New("too much output")
	}
	if c.gate != nil && len(p) > 4 && p[4] == fxpHandle {
		defer close(c.gate)
	}
	return c.out.Write(p)
}

func (c *tape) Close() error { return nil }

// FuzzShim sends arbitrary bytes after INIT. The server must end, answer in whole
// packets, hold no more than a few buffers, and leave no file open; nothing but a CLOSE
// may publish one.
func FuzzShim(f *testing.F) {
	seed := func(packets ...*encoder) {
		var b []byte
		for _, e := range packets {
			b = append(b, e.packet()...)
		}
		f.Add(b)
	}
	open := newPacket(fxpOpen).uint32(1).string("/f").uint32(fxfRead | fxfWrite | fxfCreate).uint32(0)
	seed(open, newPacket(fxpWrite).uint32(2).string("1").uint64(0).string("data"), newPacket(fxpClose).uint32(3).string("1"))
	seed(open, newPacket(fxpExtended).uint32(2).string(extFsync).string("1"), newPacket(fxpFstat).uint32(3).string("1"))
	seed(open, newPacket(fxpFsetstat).uint32(2).string("1").uint32(attrSize).uint64(5), newPacket(fxpRead).uint32(3).string("1").uint64(0).uint32(9))
	seed(open, newPacket(fxpExtended).uint32(2).string(extCopyData).string("1").uint64(0).uint64(0).string("1").uint64(0))
	seed(newPacket(fxpExtended).uint32(2).string(extUsersGroups).string("\x00\x00\x00\x00").string(""))
	seed(newPacket(fxpExtended).uint32(2).string(extLsetstat).string("/f").uint32(attrExtended).uint32(1).string("a").string("b"))
	seed(newPacket(fxpRename).uint32(1).string("/a").string("/b"), newPacket(fxpOpendir).uint32(2).string("/"))
	seed(newPacket(fxpInit).uint32(3))
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, 1})
	f.Add([]byte{0, 0, 0, 0})

	f.Fuzz(func(t *testing.T, data []byte) {
		var files []*fakeFile
		h := &handler{
			ctx: context.Background(), log: slog.New(slog.DiscardHandler), count: &counters{},
			open: func(context.Context, string, vfs.OpenFlag, vfs.AttrSet) (file, error) {
				fake := newFakeFile("")
				fake.max = 1 << 20
				files = append(files, fake)
				return fake, nil
			},
		}
		ch := &tape{in: io.MultiReader(bytes.NewReader(newPacket(fxpInit).uint32(3).packet()), bytes.NewReader(data))}
		if err := h.serve(ch); err == nil {
			t.Error("the session ended without a reason")
		}
		for _, fake := range files {
			if fake.closes+fake.aborts != 1 {
				t.Errorf("a file was closed %d times and aborted %d times", fake.closes, fake.aborts)
			}
			if fake.closes > 0 && bytes.IndexByte(data, fxpClose) < 0 {
				t.Error("a file was published without a CLOSE")
			}
		}
		for out := bytes.NewReader(ch.out.Bytes()); out.Len() > 0; {
			if _, err := readPacket(out); err != nil {
				t.Fatalf("output: %v", err)
			}
		}
	})
}
