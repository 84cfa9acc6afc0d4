package sshsrv

import (
	"bytes"
	"context"
	"log/slog"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/pkg/sftp"

	"github.com/snapgate/gateway/vfs"
)

func closeBody(handle string) func(*encoder) { return func(e *encoder) { e.string(handle) } }

func writeBody(handle string, off uint64, data string) func(*encoder) {
	return func(e *encoder) { e.string(handle).uint64(off).string(data) }
}

func TestUploadEnds(t *testing.T) {
	tests := []struct {
		name           string
		end            func(c *raw, r *rig, handle string)
		closes, aborts int
	}{
		{"close publishes", func(c *raw, _ *rig, handle string) {
			c.wantStatus(c.ask(fxpClose, closeBody(handle)), statusOK)
		}, 1, 0},
		{"connection lost", func(_ *raw, r *rig, _ string) { r.client.Close() }, 0, 1},
		{"connection lost in a packet", func(c *raw, r *rig, handle string) {
			e := newPacket(fxpWrite).uint32(9).string(handle).uint64(4).string("more")
			p := e.packet()
			if _, err := r.client.Write(p[:len(p)-2]); err != nil {
				t.Error(err)
			}
			r.client.Close()
		}, 0, 1},
		{"malformed packet", func(c *raw, _ *rig, _ string) { c.send(newPacket(fxpOpen).uint32(7).uint32(1 << 30)) }, 0, 1},
		{"close with half an id", func(c *raw, _ *rig, _ string) { c.send(newPacket(fxpClose)) }, 0, 1},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f := newFakeFile("")
			r := newRig(t, map[string]*fakeFile{"/up": f})
			c := newRaw(t, r.client)
			handle := c.open("/up", fxfWrite|fxfCreate|fxfTrunc)
			c.wantStatus(c.ask(fxpWrite, writeBody(handle, 0, "data")), statusOK)
			tt.end(c, r, handle)
			f.wantEnd(t, tt.closes, tt.aborts)
			if got := string(f.data); got != "data" {
				t.Errorf("data = %q", got)
			}
		})
	}
}

// A client that closes after a failed WRITE must not publish half a file.
func TestCloseAfterFailedWrite(t *testing.T) {
	f := newFakeFile("")
	f.failAt = 4
	r := newRig(t, map[string]*fakeFile{"/up": f})
	c := newRaw(t, r.client)
	handle := c.open("/up", fxfWrite|fxfCreate)
	c.wantStatus(c.ask(fxpWrite, writeBody(handle, 0, "good")), statusOK)
	a := c.ask(fxpWrite, writeBody(handle, 4, "bad"))
	c.wantStatus(a, statusFailure)
	if a.text != vfs.KindNoSpace.String() {
		t.Errorf("text = %q, want that of the kind alone", a.text)
	}
	c.wantStatus(c.ask(fxpClose, closeBody(handle)), statusFailure)
	f.wantEnd(t, 0, 1)
}

func TestCloseErrorIsTold(t *testing.T) {
	f := newFakeFile("")
	f.closing = &vfs.Error{Op: "close", Kind: vfs.KindTimeout}
	r := newRig(t, map[string]*fakeFile{"/up": f})
	c := newRaw(t, r.client)
	handle := c.open("/up", fxfWrite|fxfCreate)
	a := c.ask(fxpClose, closeBody(handle))
	c.wantStatus(a, statusFailure)
	if a.text != "timed out" {
		t.Errorf("text = %q", a.text)
	}
	c.wantStatus(c.ask(fxpClose, closeBody(handle)), statusNoSuchFile)
}

// scp overwrites without TRUNC and cuts what is left of the old file off before it closes.
// When that fails, the new beginning with the old end is nobody's file.
func TestCloseAfterFailedTruncation(t *testing.T) {
	f := newFakeFile("old and long")
	f.max = 20
	r := newRig(t, map[string]*fakeFile{"/f": f})
	c := newRaw(t, r.client)
	handle := c.open("/f", fxfWrite)
	c.wantStatus(c.ask(fxpWrite, writeBody(handle, 0, "new")), statusOK)
	c.wantStatus(c.ask(fxpFsetstat, func(e *encoder) { e.string(handle).uint32(attrSize).uint64(21) }), statusFailure)
	c.wantStatus(c.ask(fxpClose, closeBody(handle)), statusFailure)
	f.wantEnd(t, 0, 1)
}

// What waits for what, so that requests on one file take effect in their order.
func TestConflicts(t *testing.T) {
	f, g := &openFile{name: "f"}, &openFile{name: "g"}
	about := func(typ byte, file *openFile) *inflight {
		return &inflight{typ: fxpSetstat, req: &request{typ: typ, file: file}}
	}
	read := &inflight{typ: fxpRead, file: f, off: 0, end: 10}
	write := &inflight{typ: fxpWrite, file: f, off: 0, end: 10}
	tests := []struct {
		name     string
		work, in *inflight
		want     bool
	}{
		{"write, write beside", write, &inflight{typ: fxpWrite, file: f, off: 10, end: 20}, false},
		{"write, write across", write, &inflight{typ: fxpWrite, file: f, off: 9, end: 20}, true},
		{"write, write elsewhere", write, &inflight{typ: fxpWrite, file: g, off: 0, end: 10}, false},
		{"write, read", write, read, true},
		{"read, write", read, write, true},
		{"read, read", read, read, false},
		{"write, setattr", write, about(fxpFsetstat, f), true},
		{"read, setattr", read, about(fxpFsetstat, f), true},
		{"read, setattr of a path", read, about(fxpSetstat, nil), true},
		{"read, stat", read, &inflight{typ: fxpStat, req: &request{typ: fxpFstat, file: f}}, false},
		{"setattr, write", about(fxpFsetstat, f), write, true},
		{"setattr, read", about(fxpFsetstat, f), read, true},
		{"setattr of another, read", about(fxpFsetstat, g), read, false},
		{"write, close", write, &inflight{typ: fxpClose, file: f}, true},
		{"read, close", read, &inflight{typ: fxpClose, file: f}, true},
		{"write, close of another", write, &inflight{typ: fxpClose, file: g}, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := &shim{inflight: []*inflight{tt.work}}
			if got := s.conflicts(tt.in); got != tt.want {
				t.Errorf("conflicts = %v, want %v", got, tt.want)
			}
		})
	}
}

// Requests that a client sends without waiting take effect in their order.
func TestOrder(t *testing.T) {
	f := newFakeFile("")
	f.block = make(chan struct{})
	r := newRig(t, map[string]*fakeFile{"/f": f})
	c := newRaw(t, r.client)
	handle := c.open("/f", fxfRead|fxfWrite|fxfCreate)
	size := func(n uint64) func(*encoder) {
		return func(e *encoder) { e.string(handle).uint32(attrSize).uint64(n) }
	}
	steps := []struct {
		typ  byte
		body func(*encoder)
	}{
		{fxpWrite, writeBody(handle, 0, "aaaaaaaa")},
		{fxpWrite, writeBody(handle, 4, "bbbb")}, // overlaps
		{fxpFsetstat, size(6)},
		{fxpFstat, closeBody(handle)},
		{fxpWrite, writeBody(handle, 5, "cc")},
		{fxpExtended, func(e *encoder) { e.string(extFsync).string(handle) }},
		{fxpRead, func(e *encoder) { e.string(handle).uint64(0).uint32(100) }},
		{fxpWrite, writeBody(handle, 0, "dd")},
		{fxpFsetstat, size(3)},
		{fxpRead, func(e *encoder) { e.string(handle).uint64(0).uint32(100) }},
		{fxpClose, closeBody(handle)},
	}
	go func() {
		for i, s := range steps {
			e := newPacket(s.typ).uint32(uint32(100 + i))
			s.body(e)
			if _, err := r.client.Write(e.packet()); err != nil {
				t.Error(err)
				return
			}
		}
	}()
	close(f.block)
	answers := map[uint32]answer{}
	for range steps {
		a := parseAnswer(c.recv())
		answers[a.id] = a
	}
	if got := answers[103].attrs.size; got != 6 {
		t.Errorf("size after WRITE and FSETSTAT = %d, want 6", got)
	}
	if got := answers[106].data; got != "aaaabcc" {
		t.Errorf("read %q, want %q", got, "aaaabcc")
	}
	if got := answers[109].data; got != "dda" {
		t.Errorf("read %q, want %q", got, "dda")
	}
	if f.synced != 7 {
		t.Errorf("fsync saw %d bytes, want 7", f.synced)
	}
	f.wantEnd(t, 1, 0)
}

func TestOpenRequest(t *testing.T) {
	r := newRig(t, map[string]*fakeFile{"a/../b//c": newFakeFile("")})
	c := newRaw(t, r.client)
	tests := []struct {
		name   string
		pflags uint32
		want   vfs.OpenFlag
	}{
		{"read", fxfRead, vfs.OpenRead},
		{"nothing", 0, vfs.OpenRead},
		{"write", fxfWrite, vfs.OpenWrite},
		{"scp", fxfWrite | fxfCreate, vfs.OpenWrite | vfs.OpenCreate},
		{"put", fxfWrite | fxfCreate | fxfTrunc, vfs.OpenWrite | vfs.OpenCreate | vfs.OpenTruncate},
		{"paramiko x", fxfCreate | fxfExcl, vfs.OpenWrite | vfs.OpenCreate | vfs.OpenExclusive},
		{"append", fxfAppend, vfs.OpenWrite},
		{"update", fxfRead | fxfWrite, vfs.OpenRead | vfs.OpenWrite},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r.files["a/../b//c"] = newFakeFile("")
			a := c.ask(fxpOpen, func(e *encoder) {
				e.string("a/../b//c").uint32(tt.pflags).uint32(attrPermissions | attrTimes).uint32(0o100640).uint32(1).uint32(2)
			})
			if a.typ != fxpHandle {
				t.Fatalf("status %d %q", a.status, a.text)
			}
			got := <-r.opens
			if got.path != "a/../b//c" {
				t.Errorf("path = %q, want the client's bytes", got.path)
			}
			if got.flag != tt.want {
				t.Errorf("flags = %b, want %b", got.flag, tt.want)
			}
			if got.attr.Mode == nil || *got.attr.Mode != 0o640 {
				t.Errorf("mode = %v", got.attr.Mode)
			}
			c.wantStatus(c.ask(fxpClose, closeBody(a.handle)), statusOK)
		})
	}
}

func TestBadRequests(t *testing.T) {
	files := map[string]*fakeFile{"/r": newFakeFile("read me"), "/w": newFakeFile("")}
	r := newRig(t, files)
	c := newRaw(t, r.client)
	rd := c.open("/r", fxfRead)
	wr := c.open("/w", fxfWrite|fxfCreate)
	files["/r"].panics = true
	tests := []struct {
		name string
		typ  byte
		body func(*encoder)
		want uint32
	}{
		{"read of no handle", fxpRead, func(e *encoder) { e.string("no").uint64(0).uint32(1) }, statusFailure},
		{"write to no handle", fxpWrite, writeBody("no", 0, "x"), statusFailure},
		{"close of no handle", fxpClose, closeBody("no"), statusNoSuchFile},
		{"fstat of no handle", fxpFstat, closeBody("no"), statusFailure},
		{"fsync of no handle", fxpExtended, func(e *encoder) { e.string(extFsync).string("no") }, statusNoSuchFile},
		{"readdir of a file", fxpReaddir, closeBody(rd), statusFailure},
		{"write to a file open for reading", fxpWrite, writeBody(rd, 0, "x"), statusNoSuchFile},
		{"read of a file open for writing", fxpRead, func(e *encoder) { e.string(wr).uint64(0).uint32(1) }, statusNoSuchFile},
		{"read at a negative offset", fxpRead, func(e *encoder) { e.string(rd).uint64(1 << 63).uint32(1) }, statusBadMessage},
		{"read at the end", fxpRead, func(e *encoder) { e.string(rd).uint64(7).uint32(1) }, statusEOF},
		{"missing file", fxpOpen, func(e *encoder) { e.string("/none").uint32(fxfRead).uint32(0) }, statusNoSuchFile},
		{"path longer than any", fxpOpen, func(e *encoder) {
			e.string(strings.Repeat("/.", maxPath)).uint32(fxfRead).uint32(0)
		}, statusBadMessage},
		{"target longer than any", fxpRename, func(e *encoder) { e.string("/r").string(strings.Repeat("/.", maxPath)) }, statusBadMessage},
		{"long path of an extension", fxpExtended, func(e *encoder) {
			e.string(extStatVFS).string(strings.Repeat("/.", maxPath))
		}, statusBadMessage},
		{"empty path", fxpOpen, func(e *encoder) { e.string("").uint32(fxfRead).uint32(0) }, statusNoSuchFile},
		{"impossible size", fxpFsetstat, func(e *encoder) { e.string(wr).uint32(attrSize).uint64(1 << 63) }, statusBadMessage},
		{"lsetstat of a size", fxpExtended, func(e *encoder) { e.string(extLsetstat).string("/r").uint32(attrSize).uint64(1) }, statusBadMessage},
		{"copy to itself", fxpExtended, func(e *encoder) {
			e.string(extCopyData).string(rd).uint64(0).uint64(0).string(rd).uint64(0)
		}, statusFailure},
		{"unknown extension", fxpExtended, func(e *encoder) { e.string("who@example.com").string("x") }, statusOpUnsupported},
		{"unknown type", 42, func(e *encoder) { e.string("x") }, statusOpUnsupported},
		{"panic in a file", fxpFstat, closeBody(rd), statusFailure},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c.wantStatus(c.ask(tt.typ, tt.body), tt.want)
		})
	}
	if got := c.ask(fxpRead, func(e *encoder) { e.string(rd).uint64(0).uint32(100) }).data; got != "read me" {
		t.Errorf("read %q after all that", got)
	}
}

func TestVersion(t *testing.T) {
	r := newRig(t, nil)
	client, err := sftp.NewClientPipe(r.client, r.client)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	for _, x := range extensions() {
		if v, ok := client.HasExtension(x[0]); !ok || v != x[1] {
			t.Errorf("extension %s = %q, %v", x[0], v, ok)
		}
	}
}

func TestLimitsExtension(t *testing.T) {
	r := newRig(t, nil)
	c := newRaw(t, r.client)
	a := c.ask(fxpExtended, func(e *encoder) { e.string(extLimits) })
	d := &decoder{b: a.rest}
	if p, rd, wr := d.uint64(), d.uint64(), d.uint64(); p != 262144 || rd != 261120 || wr != 261120 {
		t.Errorf("limits = %d %d %d, want OpenSSH's", p, rd, wr)
	}
	if n := d.uint64(); n != 1000 {
		t.Errorf("handles = %d, want 1000", n)
	}
}

// A transfer with the longest requests arrives unharmed.
func TestLongTransfers(t *testing.T) {
	f := newFakeFile("")
	r := newRig(t, map[string]*fakeFile{"/f": f})
	client, err := sftp.NewClientPipe(r.client, r.client, sftp.MaxPacketUnchecked(maxTransfer), sftp.UseConcurrentWrites(true), sftp.UseFstat(true))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	want := bytes.Repeat([]byte("0123456789abcdef!"), 300_000) // 5 MB, no power of two
	w, err := client.OpenFile("/f", 0x2|0x40)                  // O_RDWR|O_CREATE
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.ReadFrom(bytes.NewReader(want)); err != nil {
		t.Fatal(err)
	}
	var got bytes.Buffer
	if _, err := w.Seek(0, 0); err != nil {
		t.Fatal(err)
	}
	if _, err := w.WriteTo(&got); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got.Bytes(), want) || !bytes.Equal(f.data, want) {
		t.Error("bytes differ")
	}
	if err := w.Close(); err != nil {
		t.Error(err)
	}
}

// A slow request must not let the replies of a flood of others pile up behind it.
func TestRequestsInWorkAreBounded(t *testing.T) {
	f, slow := newFakeFile(""), newFakeFile("")
	slow.block = make(chan struct{})
	r := newRig(t, map[string]*fakeFile{"/f": f, "/slow": slow})
	c := newRaw(t, r.client)
	handle := c.open("/f", fxfWrite|fxfCreate)
	slowHandle := c.open("/slow", fxfWrite|fxfCreate)
	c.send(newPacket(fxpExtended).uint32(999).string(extFsync).string(slowHandle))
	const n = 3 * maxInflight
	sent := make(chan error, 1)
	go func() {
		for i := range n {
			e := newPacket(fxpWrite).uint32(uint32(1000 + i))
			writeBody(handle, uint64(i), "x")(e)
			if _, err := r.client.Write(e.packet()); err != nil {
				sent <- err
				return
			}
		}
		sent <- nil
	}()
	written := func() int {
		f.mu.Lock()
		defer f.mu.Unlock()
		return len(f.data)
	}
	for deadline := time.Now().Add(patience); written() < maxInflight-1 && time.Now().Before(deadline); {
		runtime.Gosched()
	}
	// The next one must not get through: all that is left to do is to look.
	for range 1000 {
		runtime.Gosched()
	}
	if got := written(); got != maxInflight-1 {
		t.Errorf("%d requests done behind a slow one, want %d", got, maxInflight-1)
	}
	close(slow.block)
	c.wantStatus(c.answer(999), statusOK)
	for i := range n {
		c.wantStatus(c.answer(uint32(1000+i)), statusOK)
	}
	if err := <-sent; err != nil {
		t.Error(err)
	}
	c.wantStatus(c.ask(fxpClose, closeBody(handle)), statusOK)
	if got := string(f.data); got != strings.Repeat("x", n) {
		t.Errorf("%d bytes", len(got))
	}
}

// A client that hangs up its sending side after the last request gets all answers.
func TestAnswersBeforeTheEnd(t *testing.T) {
	for range 100 {
		f := newFakeFile("")
		h := &handler{
			ctx: t.Context(), log: slog.New(slog.DiscardHandler), count: &counters{},
			open: func(context.Context, string, vfs.OpenFlag, vfs.AttrSet) (file, error) { return f, nil },
		}
		var in bytes.Buffer
		in.Write(newPacket(fxpInit).uint32(3).packet())
		in.Write(newPacket(fxpOpen).uint32(1).string("/f").uint32(fxfWrite | fxfCreate).uint32(0).packet())
		ch := &tape{in: &in, gate: make(chan struct{})}
		// The handle is "1": pkg/sftp counts. The rest is sent when it has been given out.
		var rest bytes.Buffer
		for i := range 10 {
			rest.Write(newPacket(fxpWrite).uint32(uint32(2 + i)).string("1").uint64(uint64(i)).string("x").packet())
		}
		rest.Write(newPacket(fxpClose).uint32(12).string("1").packet())
		ch.rest = &rest
		_ = h.serve(ch)
		var ids []uint32
		for out := bytes.NewReader(ch.out.Bytes()); out.Len() > 0; {
			p, err := readPacket(out)
			if err != nil {
				t.Fatal(err)
			}
			ids = append(ids, parseAnswer(p).id)
		}
		if len(ids) != 13 || ids[12] != 12 { // VERSION, and twelve requests
			t.Fatalf("answers to %d", ids)
		}
		f.wantEnd(t, 1, 0)
	}
}

// The last CLOSE is answered, also when it arrives while the request before it is being
// struck off.
func TestDrain(t *testing.T) {
	for range 100 {
		testDrain(t)
	}
}

func testDrain(t *testing.T) {
	t.Helper()
	f := newFakeFile("")
	r := newRig(t, map[string]*fakeFile{"/f": f, "/g": newFakeFile("")})
	c := newRaw(t, r.client)
	handle := c.open("/f", fxfWrite|fxfCreate)
	r.h.shim.drain()
	c.wantStatus(c.ask(fxpOpen, func(e *encoder) { e.string("/g").uint32(fxfRead).uint32(0) }), statusFailure)
	c.wantStatus(c.ask(fxpWrite, writeBody(handle, 0, "last")), statusOK)
	c.wantStatus(c.ask(fxpClose, closeBody(handle)), statusOK)
	f.wantEnd(t, 1, 0)
	if _, ok := <-c.packets; ok {
		t.Error("a packet after the last close")
	}
}
