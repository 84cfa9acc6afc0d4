package pull

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pkg/sftp"

	"github.com/snapgate/gateway/internal/sftptest"
)

// quick is a Retry for tests.
var quick = Retry{Attempts: 4, First: time.Microsecond, Max: time.Millisecond}

// sftpHouse serves SFTP in this process, by pkg/sftp's server.
type sftpHouse struct {
	dir    string
	limit  int // connections at a time, 0 for any number
	budget atomic.Int64

	mu    sync.Mutex // guards conns
	conns map[net.Conn]struct{}
	wg    sync.WaitGroup
	dials atomic.Int32
}

// dial makes a connection. After h.budget bytes from the server (when that is positive) all
// connections are cut.
func (h *sftpHouse) dial(context.Context) (io.ReadWriteCloser, error) {
	h.dials.Add(1)
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.limit > 0 && len(h.conns) >= h.limit {
		return nil, errors.New("too many connections")
	}
	near, far := net.Pipe()
	srv, err := sftp.NewServer(far, sftp.ReadOnly())
	if err != nil {
		return nil, err
	}
	if h.conns == nil {
		h.conns = map[net.Conn]struct{}{}
	}
	h.conns[far] = struct{}{}
	h.wg.Go(func() {
		_ = srv.Serve()
		_ = srv.Close()
		h.mu.Lock()
		defer h.mu.Unlock()
		delete(h.conns, far)
	})
	return &cutting{Conn: near, budget: &h.budget}, nil
}

// cutting is a connection that is cut when the budget is used up.
type cutting struct {
	net.Conn
	budget *atomic.Int64
}

func (c *cutting) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if c.budget.Load() > 0 && c.budget.Add(-int64(n)) <= 0 {
		c.budget.Store(0)
		_ = c.Conn.Close()
		return 0, net.ErrClosed
	}
	return n, err
}

func newSFTPHouse(t *testing.T, dir string, connections int) (*sftpHouse, *SFTP) {
	t.Helper()
	h := &sftpHouse{dir: dir}
	r, err := NewSFTP(SFTPConfig{Dial: h.dial, Root: dir, Connections: connections, Timeout: patience})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close(); h.wg.Wait() })
	return h, r
}

func TestSFTP(t *testing.T) {
	dir := house(t)
	_, r := newSFTPHouse(t, dir, 3)
	testRemote(t, r, dir)
}

func TestSFTPOpenSSH(t *testing.T) {
	dir := house(t)
	testRemote(t, newSFTP(t, SFTPConfig{Dial: sftptest.Dialer(t, "-R"), Root: dir, Connections: 2}), dir)
}

// newSFTP is a remote that is closed at the end of the test.
func newSFTP(t *testing.T, cfg SFTPConfig) *SFTP {
	t.Helper()
	r, err := NewSFTP(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	return r
}

// A root that is a symbolic link is the directory that it points to, and a root below home
// is looked up by the server.
func TestSFTPRoot(t *testing.T) {
	dir := house(t)
	link := t.TempDir() + "/link"
	if err := os.Symlink(dir, link); err != nil {
		t.Fatal(err)
	}
	_, r := newSFTPHouse(t, link, 1)
	e, err := r.Lstat(t.Context(), "/")
	if err != nil || e.Type != Dir {
		t.Errorf("%+v, %v", e, err)
	}
	if _, err := r.Lstat(t.Context(), "/small"); err != nil {
		t.Error(err)
	}
	h := &sftpHouse{}
	home, err := NewSFTP(SFTPConfig{Dial: h.dial, Home: true})
	if err != nil {
		t.Fatal(err)
	}
	defer h.wg.Wait()
	defer home.Close()
	if e, err := home.Lstat(t.Context(), "/"); err != nil || e.Type != Dir {
		t.Errorf("home: %+v, %v", e, err)
	}
	if _, err := NewSFTP(SFTPConfig{Dial: h.dial, Root: "a"}); err == nil {
		t.Error("a relative root was taken")
	}
}

// A directory that may be read and not searched lists nothing with OpenSSH, without an error: it is not empty.
func TestSFTPUnsearchable(t *testing.T) {
	dir := t.TempDir()
	for _, sub := range []string{"closed", "empty"} {
		if err := os.Mkdir(filepath.Join(dir, sub), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "closed", "file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Join(dir, "closed"), 0o400); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.Chmod(filepath.Join(dir, "closed"), 0o700) }) // for whoever removes it
	server := []string{sftptest.Server(t), "-R"}
	if os.Geteuid() == 0 { // who may search everything
		server = append([]string{"setpriv", "--bounding-set=-dac_override,-dac_read_search"}, server...)
	}
	dial := func(context.Context) (io.ReadWriteCloser, error) {
		return sftptest.Start(exec.Command(server[0], server[1:]...))
	}
	none := func(e Entry) error { t.Errorf("it has %+v", e); return nil }
	r := newSFTP(t, SFTPConfig{Dial: dial, Root: dir, Connections: 1})
	if err := r.ReadDir(t.Context(), "/closed", none); err == nil || KindOf(err) != KindPermission {
		t.Errorf("may not be searched: %v", err)
	}
	if err := r.ReadDir(t.Context(), "/empty", none); err != nil {
		t.Errorf("empty: %v", err)
	}
	r = newSFTP(t, SFTPConfig{Dial: dial, Root: filepath.Join(dir, "closed"), Connections: 1})
	if _, _, err := scanAll(t, r, ScanConfig{}); err == nil || KindOf(err) != KindPermission {
		t.Errorf("the root may not be searched: %v", err)
	}
}

// A server that refuses more connections gets all calls over those that it allows.
func TestSFTPFewerConnections(t *testing.T) {
	dir := house(t)
	h, r := newSFTPHouse(t, dir, 8)
	h.limit = 2
	var open []io.ReadCloser
	for range sftpShare + 1 { // more than the first takes: each holds a place until Close
		rd, err := r.Open(t.Context(), "/small", 0, 6)
		if err != nil {
			t.Fatal(err)
		}
		open = append(open, rd)
	}
	var wg sync.WaitGroup
	for range 5 {
		wg.Go(func() {
			if data, err := readRange(t.Context(), r, "/small", 0, 6); err != nil || string(data) != "hello\n" {
				t.Errorf("%q, %v", data, err)
			}
		})
	}
	for _, rd := range open {
		if err := rd.Close(); err != nil {
			t.Error(err)
		}
	}
	wg.Wait()
	// The second may be there before any is refused, and makes room for one more that is being made.
	if n := h.dials.Load(); n > 2+dialsAtOnce {
		t.Errorf("%d connections tried, want two and those that are refused at once", n)
	}
}

// A lost connection is KindConnection for the calls that had it, and the next call has
// another one.
func TestSFTPReconnects(t *testing.T) {
	dir := house(t)
	h, r := newSFTPHouse(t, dir, 1)
	if _, err := r.Lstat(t.Context(), "/"); err != nil {
		t.Fatal(err)
	}
	h.budget.Store(1 << 20)
	_, err := readRange(t.Context(), r, "/large", 0, 3<<20+17)
	if err == nil || KindOf(err) != KindConnection {
		t.Fatalf("a cut read: %v", err)
	}
	data, err := readRange(t.Context(), r, "/large", 0, 3<<20+17)
	if err != nil || !bytes.Equal(data, randomBytes(3<<20+17)) {
		t.Errorf("%d bytes, %v", len(data), err)
	}
	if n := h.dials.Load(); n != 2 {
		t.Errorf("%d connections, want 2", n)
	}
}

// Nobody can log in: the error says why, to all who wait, and is not taken for a lost
// connection.
func TestSFTPCannotConnect(t *testing.T) {
	refused := errors.New("no authentication method left")
	r, err := NewSFTP(SFTPConfig{Root: "/", Dial: func(context.Context) (io.ReadWriteCloser, error) { return nil, refused }})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	var wg sync.WaitGroup
	for range 10 {
		wg.Go(func() {
			if _, err := r.Lstat(t.Context(), "/"); !errors.Is(err, refused) || KindOf(err) != KindOther {
				t.Errorf("%v", err)
			}
		})
	}
	wg.Wait()
}

func TestRetry(t *testing.T) {
	gone := fail("read", "/x", KindConnection, nil)
	other := fail("read", "/x", KindNotFound, nil)
	for _, tt := range []struct {
		name  string
		errs  []error
		calls int
		want  error
	}{
		{"at once", []error{nil}, 1, nil},
		{"again", []error{gone, gone, nil}, 3, nil},
		{"given up", []error{gone, gone, gone, gone, nil}, 4, gone},
		{"not for this", []error{other, nil}, 1, other},
	} {
		t.Run(tt.name, func(t *testing.T) {
			n := 0
			err := quick.Do(t.Context(), func() (bool, error) { n++; return false, tt.errs[n-1] })
			if n != tt.calls || !errors.Is(err, tt.want) {
				t.Errorf("%d calls, %v", n, err)
			}
		})
	}
	n := 0
	err := quick.Do(t.Context(), func() (bool, error) {
		if n++; n < 20 {
			return true, gone
		}
		return true, nil
	})
	if err != nil || n != 20 {
		t.Errorf("with progress: %d calls, %v", n, err)
	}
}
