package sshsrv

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/snapgate/gateway/vfs"
)

// TestMain fails when anything that a test started is still there at the end, but for what
// the example's store leaves: kloset's repository cannot be closed.
func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreTopFunction("database/sql.(*DB).connectionOpener"))
}

// patience bounds waits for something that another goroutine does.
const patience = time.Minute

// fakeFile is a file in memory that remembers how it ended.
type fakeFile struct {
	mu      sync.Mutex
	data    []byte
	mtime   time.Time
	mode    uint32
	synced  int // size at the last Sync
	closes  int
	aborts  int
	failAt  int64         // a WriteAt at or beyond fails, 0: none
	block   chan struct{} // WriteAt and Sync wait for it, when not nil
	panics  bool          // Stat does
	max     int64         // size that is not exceeded, 0: none
	closing error         // what Close returns
	ended   chan struct{} // closed by Close or Abort
}

func newFakeFile(data string) *fakeFile {
	return &fakeFile{data: []byte(data), ended: make(chan struct{})}
}

func (f *fakeFile) ReadAt(p []byte, off int64) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if off >= int64(len(f.data)) {
		return 0, io.EOF
	}
	n := copy(p, f.data[off:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func (f *fakeFile) WriteAt(p []byte, off int64) (int, error) {
	if f.block != nil {
		<-f.block
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.failAt > 0 && off >= f.failAt {
		return 0, &vfs.Error{Op: "write", Kind: vfs.KindNoSpace, Err: errors.New("/secret/spool is full")}
	}
	if f.max > 0 && off > f.max-int64(len(p)) {
		return 0, &vfs.Error{Op: "write", Kind: vfs.KindNoSpace}
	}
	if end := off + int64(len(p)); end > int64(len(f.data)) {
		f.data = append(f.data, make([]byte, end-int64(len(f.data)))...)
	}
	copy(f.data[off:], p)
	return len(p), nil
}

func (f *fakeFile) Stat(context.Context) (vfs.Info, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.panics {
		panic("stat")
	}
	return vfs.Info{Type: vfs.TypeFile, Mode: 0o644, Size: int64(len(f.data)), ModTime: f.mtime}, nil
}

func (f *fakeFile) SetAttr(_ context.Context, set vfs.AttrSet) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if set.Size != nil {
		if f.max > 0 && *set.Size > f.max {
			return &vfs.Error{Op: "setattr", Kind: vfs.KindNoSpace}
		}
		n := int(*set.Size)
		if n <= len(f.data) {
			f.data = f.data[:n]
		} else {
			f.data = append(f.data, make([]byte, n-len(f.data))...)
		}
	}
	if set.ModTime != nil {
		f.mtime = *set.ModTime
	}
	if set.Mode != nil {
		f.mode = uint32(*set.Mode)
	}
	return nil
}

func (f *fakeFile) Sync(context.Context) error {
	if f.block != nil {
		<-f.block
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.synced = len(f.data)
	return nil
}

func (f *fakeFile) CloseContext(context.Context) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.closes++
	close(f.ended)
	return f.closing
}

func (f *fakeFile) Abort() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.aborts++
	close(f.ended)
	return nil
}

// wantEnd waits until the file has ended and says how.
func (f *fakeFile) wantEnd(tb testing.TB, closes, aborts int) {
	tb.Helper()
	select {
	case <-f.ended:
	case <-time.After(patience):
		tb.Fatal("file has not ended")
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closes != closes || f.aborts != aborts {
		tb.Errorf("closes, aborts = %d, %d, want %d, %d", f.closes, f.aborts, closes, aborts)
	}
}

// opened is how a fake file system was asked to open a file.
type opened struct {
	path string
	flag vfs.OpenFlag
	attr vfs.AttrSet
}

// rig is a handler that serves fake files over a pipe.
type rig struct {
	client net.Conn
	files  map[string]*fakeFile
	opens  chan opened
	done   chan error // what serve returned
	h      *handler
}

func newRig(tb testing.TB, files map[string]*fakeFile) *rig {
	tb.Helper()
	r := &rig{files: files, opens: make(chan opened, 100), done: make(chan error, 1)}
	var server net.Conn
	r.client, server = net.Pipe()
	r.h = &handler{
		ctx: context.Background(), log: slog.New(slog.DiscardHandler), count: &counters{},
		open: func(_ context.Context, path string, flag vfs.OpenFlag, attr vfs.AttrSet) (file, error) {
			r.opens <- opened{path, flag, attr}
			f := files[path]
			if f == nil {
				return nil, &vfs.Error{Op: "open", Kind: vfs.KindNotExist}
			}
			return f, nil
		},
	}
	r.h.shim = newShim(server, r.h, newTestMemory(tb))
	go func() {
		defer server.Close()
		r.done <- r.h.run()
	}()
	tb.Cleanup(func() {
		r.client.Close()
		select {
		case <-r.done:
		case <-time.After(patience):
			tb.Error("handler does not end")
		}
	})
	return r
}

func newTestMemory(tb testing.TB) *memory {
	tb.Helper()
	limits, err := Limits{}.withDefaults()
	if err != nil {
		tb.Fatal(err)
	}
	return newMemory(limits)
}

// raw is a client that sends whole packets and reads them in another goroutine.
type raw struct {
	t       testing.TB
	conn    io.ReadWriter
	packets chan []byte // type and body; closed at the end of the stream
	nextID  uint32
}

func newRaw(tb testing.TB, conn io.ReadWriter) *raw {
	tb.Helper()
	c := &raw{t: tb, conn: conn, packets: make(chan []byte, 1000)}
	go func() {
		defer close(c.packets)
		for {
			p, err := readPacket(conn)
			if err != nil {
				return
			}
			c.packets <- p
		}
	}()
	c.send(newPacket(fxpInit).uint32(3))
	if p := c.recv(); p[0] != fxpVersion {
		tb.Fatalf("type of the answer to INIT = %d, want VERSION", p[0])
	}
	return c
}

func readPacket(r io.Reader) ([]byte, error) {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, err
	}
	n := binary.BigEndian.Uint32(head[:])
	if n < 1 || n > maxPacket {
		return nil, fmt.Errorf("packet of %d bytes", n)
	}
	p := make([]byte, n)
	_, err := io.ReadFull(r, p)
	return p, err
}

func (c *raw) send(e *encoder) {
	c.t.Helper()
	if _, err := c.conn.Write(e.packet()); err != nil {
		c.t.Fatalf("write: %v", err)
	}
}

func (c *raw) recv() []byte {
	c.t.Helper()
	select {
	case p, ok := <-c.packets:
		if !ok {
			c.t.Fatal("connection closed")
		}
		return p
	case <-time.After(patience):
		c.t.Fatal("no answer")
	}
	return nil
}

// id gives the next request id.
func (c *raw) id() uint32 {
	c.nextID++
	return c.nextID
}

// ask sends a request whose body after the id is made by body, and returns the answer.
func (c *raw) ask(typ byte, body func(*encoder)) answer {
	c.t.Helper()
	id := c.id()
	e := newPacket(typ).uint32(id)
	body(e)
	c.send(e)
	return c.answer(id)
}

// answer reads the next packet, which must answer id.
func (c *raw) answer(id uint32) answer {
	c.t.Helper()
	a := parseAnswer(c.recv())
	if a.id != id {
		c.t.Fatalf("answer to %d, want to %d", a.id, id)
	}
	return a
}

// answer is a reply, taken apart.
type answer struct {
	typ    byte
	id     uint32
	status uint32 // STATUS
	text   string
	handle string // HANDLE
	data   string // DATA
	attrs  wireAttrs
	names  []string // NAME
	long   []string
	rest   []byte // EXTENDED_REPLY
}

func parseAnswer(p []byte) answer {
	d := &decoder{b: p[1:]}
	a := answer{typ: p[0], id: d.uint32()}
	switch a.typ {
	case fxpStatus:
		a.status, a.text = d.uint32(), d.string()
	case fxpHandle:
		a.handle = d.string()
	case fxpData:
		a.data = d.string()
	case fxpAttrs:
		a.attrs = d.attrs()
	case fxpName:
		for range d.uint32() {
			a.names = append(a.names, d.string())
			a.long = append(a.long, d.string())
			a.attrs = d.attrs()
		}
	case fxpExtReply:
		a.rest = d.b
	}
	return a
}

func (c *raw) open(path string, pflags uint32) string {
	c.t.Helper()
	a := c.ask(fxpOpen, func(e *encoder) { e.string(path).uint32(pflags).uint32(0) })
	if a.typ != fxpHandle {
		c.t.Fatalf("open %q: status %d %q", path, a.status, a.text)
	}
	return a.handle
}

func (c *raw) wantStatus(a answer, want uint32) {
	c.t.Helper()
	if a.typ != fxpStatus || a.status != want {
		c.t.Errorf("type %d status %d %q, want status %d", a.typ, a.status, a.text, want)
	}
}
