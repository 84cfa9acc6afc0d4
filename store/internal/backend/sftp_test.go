package backend_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"github.com/pkg/sftp"

	"github.com/snapgate/gateway/store/internal/backend"
	"github.com/snapgate/gateway/store/storetest"
)

// pipeDialer connects to SFTP servers in this process, one for each connection, and makes
// trouble on demand.
type pipeDialer struct {
	wg     sync.WaitGroup
	stall  atomic.Bool                                       // requests arrive and are not answered
	hold   atomic.Pointer[chan struct{}]                     // requests wait until it is closed; nil: for nothing
	deaf   atomic.Bool                                       // the next READ finds that the connection has ended
	rename atomic.Pointer[func(from, to string) renameFault] // what becomes of a RENAME; nil: it is done
	// answered is called when an OPEN is answered, before its client has the answer; nil: nobody is. Nothing else may be
	// under way on that connection.
	answered atomic.Pointer[func(path string)]
	// answers are given in the place of the servers; nil: there are none. Set before the first connection.
	answers *sftpAnswers

	mu     sync.Mutex
	dials  int                   // guarded by mu
	refuse bool                  // guarded by mu
	limit  int64                 // guarded by mu: bytes from the client after which a connection ends
	down   int64                 // guarded by mu: bytes to the client
	conns  map[net.Conn]struct{} // guarded by mu
}

var errNoServer = errors.New("no server there")

func newPipeDialer(t *testing.T) *pipeDialer {
	d := &pipeDialer{conns: make(map[net.Conn]struct{})}
	t.Cleanup(func() {
		d.hangUp()
		d.wg.Wait()
	})
	return d
}

func (d *pipeDialer) Dial(context.Context) (*backend.SFTPLink, error) {
	d.mu.Lock()
	refuse, limit, down := d.refuse, d.limit, d.down
	d.dials++
	d.mu.Unlock()
	if refuse {
		return nil, errNoServer
	}
	near, far := net.Pipe()
	d.mu.Lock()
	d.conns[far] = struct{}{}
	d.mu.Unlock()
	var conn io.ReadWriteCloser = &limitedConn{Conn: far, stall: &d.stall, hold: &d.hold, up: limit, down: down}
	if d.answers != nil {
		conn = newAnsweredConn(conn, d.answers)
	}
	server, err := sftp.NewServer(conn)
	if err != nil {
		return nil, err
	}
	d.wg.Go(func() {
		_ = server.Serve() // it ends with the connection
		_ = server.Close()
		_ = far.Close()
	})
	opening := &atomic.Pointer[string]{}
	client, err := sftp.NewClientPipe(&answerReader{near, d, opening}, &channelWriter{near, d, opening})
	if err != nil {
		return nil, errors.Join(err, near.Close())
	}
	return &backend.SFTPLink{Client: client, HangUp: near.Close, Heard: func() time.Time { return time.Time{} }}, nil
}

// hangUp ends all connections from the server's side.
func (d *pipeDialer) hangUp() {
	d.mu.Lock()
	defer d.mu.Unlock()
	for conn := range d.conns {
		_ = conn.Close()
	}
	clear(d.conns)
}

// trouble sets what goes wrong, with all connections anew.
func (d *pipeDialer) trouble(refuse bool, limit, down int64) {
	d.mu.Lock()
	d.refuse, d.limit, d.down = refuse, limit, down
	d.mu.Unlock()
	d.hangUp()
}

// limitedConn ends when a number of bytes was read or written; 0 is no limit.
type limitedConn struct {
	net.Conn
	stall    *atomic.Bool
	hold     *atomic.Pointer[chan struct{}]
	up, down int64
	in, out  int64
}

func (c *limitedConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	for err == nil && c.stall.Load() {
		n, err = c.Conn.Read(p)
	}
	if hold := c.hold.Load(); hold != nil {
		<-*hold
	}
	if c.in += int64(n); c.up > 0 && c.in > c.up {
		return 0, errors.Join(io.ErrUnexpectedEOF, c.Close())
	}
	return n, err
}

func (c *limitedConn) Write(p []byte) (int, error) {
	if c.out += int64(len(p)); c.down > 0 && c.out > c.down {
		return 0, errors.Join(io.ErrClosedPipe, c.Close())
	}
	return c.Conn.Write(p)
}

// renameFault is what becomes of a RENAME.
type renameFault int

const (
	renameDone renameFault = iota
	renameRefused
	renameLost // with the connection, before the server has it
)

// channelWriter fails as a channel of SSH that was closed does, with io.EOF.
type channelWriter struct {
	net.Conn
	d       *pipeDialer
	opening *atomic.Pointer[string] // the path of an OPEN without an answer
}

func (w *channelWriter) Write(p []byte) (int, error) {
	const fxpOpen, fxpRead, fxpRename, head = 3, 5, 18, 9
	if len(p) <= head {
		return w.Conn.Write(p)
	}
	if w.d.answered.Load() != nil && p[4] == fxpOpen && int(binary.BigEndian.Uint32(p)) == len(p)-4 { // no contents, which come by themselves
		path := string(p[head+4:][:binary.BigEndian.Uint32(p[head:])])
		w.opening.Store(&path)
	}
	if p[4] == fxpRead && w.d.deaf.CompareAndSwap(true, false) {
		return 0, io.EOF
	}
	if fault := w.d.rename.Load(); fault != nil && p[4] == fxpRename {
		n := int(binary.BigEndian.Uint32(p[head:]))
		from, to := p[head+4:head+4+n], p[head+4+n+4:]
		switch (*fault)(string(from), string(to)) {
		case renameLost:
			return 0, errors.Join(io.EOF, w.Conn.Close())
		case renameRefused:
			q := bytes.Clone(p)
			q[len(q)-1] = 0 // no system has such a name
			return w.Conn.Write(q)
		}
	}
	return w.Conn.Write(p)
}

// answerReader is a connection from which a client has its answers.
type answerReader struct {
	net.Conn
	d       *pipeDialer
	opening *atomic.Pointer[string]
}

func (r *answerReader) Read(p []byte) (int, error) {
	n, err := r.Conn.Read(p)
	if path := r.opening.Swap(nil); path != nil {
		if answered := r.d.answered.Load(); answered != nil {
			(*answered)(*path)
		}
	}
	return n, err
}

func newSFTP(t *testing.T, d *pipeDialer) *backend.SFTP {
	b := backend.NewSFTP(backend.SFTPConfig{Dialer: d, Root: filepath.Join(t.TempDir(), "store"), Token: "token", Retries: 1})
	t.Cleanup(func() { _ = b.Close() })
	return b
}

func TestSFTP(t *testing.T) {
	storetest.TestBackend(t, func(t *testing.T) backend.Backend { return newSFTP(t, newPipeDialer(t)) })
}

// TestSFTPFaults has connections break at once and in the middle of files.
func TestSFTPFaults(t *testing.T) {
	storetest.TestBackendFaults(t, func(t *testing.T) (backend.Backend, []storetest.Fault) {
		d := newPipeDialer(t)
		var faults []storetest.Fault
		for name, tt := range map[string]struct {
			refuse   bool
			up, down int64
		}{
			"refused":          {refuse: true},
			"cut off at once":  {up: 10},
			"cut off early":    {up: 400},
			"upload cut off":   {up: 9 << 20},
			"download cut off": {down: 3 << 20},
			"answers cut off":  {down: 200},
		} {
			faults = append(faults, storetest.Fault{Name: name, Start: func() func() {
				d.trouble(tt.refuse, tt.up, tt.down)
				return func() { d.trouble(false, 0, 0) }
			}})
		}
		return newSFTP(t, d), faults
	})
}

// TestSFTPReconnects has connections end while nothing is under way.
func TestSFTPReconnects(t *testing.T) {
	d := newPipeDialer(t)
	b := newSFTP(t, d)
	if err := b.Create(t.Context()); err != nil {
		t.Fatal(err)
	}
	for i := range uint64(5) {
		d.hangUp()
		name := storetest.FileName(backend.PackfilesDir, i)
		if err := backend.PutBytes(t.Context(), b, backend.ConfigName, []byte("x")); err != nil {
			t.Fatal(err)
		}
		d.hangUp()
		if err := backend.PutBytes(t.Context(), b, name, []byte("x")); err != nil {
			t.Fatal(err)
		}
	}
}

// TestSFTPEndsAreTold has a connection, and what is to be put, end with an error that has io.EOF for its
// cause: neither is the end of a file.
func TestSFTPEndsAreTold(t *testing.T) {
	d := newPipeDialer(t)
	b := newSFTP(t, d)
	if err := b.Create(t.Context()); err != nil {
		t.Fatal(err)
	}
	name := storetest.FileName(backend.PackfilesDir, 1)
	if err := backend.PutBytes(t.Context(), b, name, make([]byte, 100_000)); err != nil {
		t.Fatal(err)
	}
	d.deaf.Store(true)
	got, err := backend.GetBytes(t.Context(), b, name, 1<<20)
	if err != nil || len(got) != 100_000 {
		t.Errorf("get: %d bytes, %v", len(got), err)
	}
	lost := io.MultiReader(bytes.NewReader(make([]byte, 50_000)), iotest.ErrReader(fmt.Errorf("lost: %w", io.EOF)))
	if _, err := b.Put(t.Context(), name, lost); err == nil {
		t.Error("half of a file was put")
	}
	if info, err := b.Stat(t.Context(), name); err != nil || info.Size != 100_000 {
		t.Errorf("what was there: %+v, %v", info, err)
	}
}

// TestSFTPHang has a server that does not answer for a while: all goes on in time after that.
func TestSFTPHang(t *testing.T) {
	const timeout = time.Minute
	root := filepath.Join(t.TempDir(), "store")
	synctest.Test(t, func(t *testing.T) { // whatever the disk takes is no time
		d := newPipeDialer(t)
		b := backend.NewSFTP(backend.SFTPConfig{Dialer: d, Root: root, Timeout: timeout, Connections: 1, Retries: 1})
		t.Cleanup(func() { _ = b.Close() })
		if err := b.Create(t.Context()); err != nil {
			t.Fatal(err)
		}
		name := storetest.FileName(backend.PackfilesDir, 1)
		put := func() error { return backend.PutBytes(t.Context(), b, name, make([]byte, 100_000)) }
		for what, call := range map[string]func() error{
			"put":    put,
			"get":    func() error { _, err := b.Get(t.Context(), name, 0, -1); return err },
			"stat":   func() error { _, err := b.Stat(t.Context(), name); return err },
			"list":   func() error { return b.List(t.Context(), "", func(string) error { return nil }) },
			"remove": func() error { return b.Remove(t.Context(), name) },
		} {
			if err := put(); err != nil { // there is a connection
				t.Fatal(err)
			}
			d.stall.Store(true)
			timer := time.AfterFunc(timeout/2, func() { d.stall.Store(false) })
			began := time.Now()
			err := call()
			took := time.Since(began)
			timer.Stop()
			d.stall.Store(false)
			if err != nil || took > 2*timeout { // the second try is answered
				t.Errorf("%s: %v after %v", what, err, took)
			}
		}
	})
}

// TestSFTPSweep leaves temporary files behind.
func TestSFTPSweep(t *testing.T) {
	d := newPipeDialer(t)
	b := newSFTP(t, d)
	if err := b.Create(t.Context()); err != nil {
		t.Fatal(err)
	}
	own, others := backend.Bucket(backend.PackfilesDir, 1)+"/tmp.token-1", backend.StatesDir+"/tmp.other-1"
	for _, name := range []string{own, others} {
		if err := backend.PutBytes(t.Context(), b, name, []byte("x")); err != nil {
			t.Fatal(err)
		}
	}
	there := func(name string) bool {
		_, err := b.Stat(t.Context(), name)
		return err == nil
	}
	if err := b.Sweep(t.Context(), time.Now()); err != nil || there(own) || !there(others) {
		t.Errorf("Sweep: %v, own there: %v, others' there: %v", err, there(own), there(others))
	}
}

// lockedOut is a dialer of a server that does not let us in.
type lockedOut struct{ dials atomic.Int32 }

func (d *lockedOut) Dial(context.Context) (*backend.SFTPLink, error) {
	d.dials.Add(1)
	return nil, backend.ErrLogin
}

// TestSFTPLogin has a login fail, which is not repeated: that may get us banned.
func TestSFTPLogin(t *testing.T) {
	d := &lockedOut{}
	b := backend.NewFailFast(backend.NewSFTP(backend.SFTPConfig{Dialer: d, Root: "/store"}), time.Hour)
	for range 3 {
		if _, err := b.Stat(t.Context(), backend.ConfigName); !errors.Is(err, backend.ErrLogin) {
			t.Errorf("Stat: %v", err)
		}
	}
	if n := d.dials.Load(); n != 1 {
		t.Errorf("%d logins were tried, want 1", n)
	}
}
