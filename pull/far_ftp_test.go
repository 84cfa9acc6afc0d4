package pull

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// farNet is a network in memory, 50 ms wide in the time of a bubble. It knows no deadlines.
type farNet struct {
	host net.TCPAddr // of the server; 127.0.0.1 when it has no IP. The port has no meaning

	mu    sync.Mutex // guards what follows
	ports map[string]*farListener
	last  int
}

// listen opens a port.
func (n *farNet) listen() (net.Listener, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.last++
	addr := &net.TCPAddr{IP: n.host.IP, Zone: n.host.Zone, Port: n.last}
	if addr.IP == nil {
		addr.IP = net.IPv4(127, 0, 0, 1)
	}
	l := &farListener{
		n: n, addr: addr,
		calls: make(chan *farConn, 1<<10), closed: make(chan struct{}),
	}
	if n.ports == nil {
		n.ports = map[string]*farListener{}
	}
	n.ports[l.addr.String()] = l
	return l, nil
}

// dial makes a connection as TCP does: it is there after a round trip, and accepted half a one later.
func (n *farNet) dial(ctx context.Context, _, addr string) (net.Conn, error) {
	select {
	case <-time.After(2 * farDelay):
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	n.mu.Lock()
	l := n.ports[addr]
	n.mu.Unlock()
	if l == nil {
		return nil, &net.OpError{Op: "dial", Err: net.ErrClosed}
	}
	there, back := make(chan delayed, 1<<10), make(chan delayed, 1<<10)
	near := &farConn{in: back, out: there, done: make(chan struct{}), local: &net.TCPAddr{}, remote: l.addr}
	far := &farConn{in: there, out: back, done: make(chan struct{}), local: l.addr, remote: &net.TCPAddr{}, since: time.Now().Add(farDelay)}
	select {
	case l.calls <- far:
		return near, nil
	case <-l.closed:
	case <-ctx.Done():
	}
	return nil, &net.OpError{Op: "dial", Err: net.ErrClosed}
}

// farListener is a net.Listener.
type farListener struct {
	n      *farNet
	addr   *net.TCPAddr
	calls  chan *farConn
	closed chan struct{}
	once   sync.Once
}

func (l *farListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.calls:
		select {
		case <-time.After(time.Until(c.since)):
			return c, nil
		case <-l.closed:
			_ = c.Close()
		}
	case <-l.closed:
	}
	return nil, net.ErrClosed
}

func (l *farListener) Addr() net.Addr { return l.addr }

func (l *farListener) Close() error {
	l.once.Do(func() {
		l.n.mu.Lock()
		defer l.n.mu.Unlock()
		delete(l.n.ports, l.addr.String())
		close(l.closed)
	})
	return nil
}

// farConn is an end of a connection: what is written arrives at the other end half a round trip later.
type farConn struct {
	in            <-chan delayed
	out           chan<- delayed
	done          chan struct{} // closed by Close
	once          sync.Once
	local, remote net.Addr
	since         time.Time // when the server has it

	rest  []byte // of who reads
	ended bool
}

func (c *farConn) Read(p []byte) (int, error) {
	for len(c.rest) == 0 && !c.ended {
		select {
		case d := <-c.in:
			select {
			case <-time.After(time.Until(d.due)):
				c.rest, c.ended = d.data, d.data == nil
			case <-c.done:
				return 0, net.ErrClosed
			}
		case <-c.done:
			return 0, net.ErrClosed
		}
	}
	if c.ended {
		return 0, io.EOF
	}
	n := copy(p, c.rest)
	c.rest = c.rest[n:]
	return n, nil
}

func (c *farConn) Write(p []byte) (int, error) {
	select {
	case <-c.done:
		return 0, net.ErrClosed
	default:
	}
	select {
	case c.out <- delayed{bytes.Clone(p), time.Now().Add(farDelay)}:
		return len(p), nil
	case <-c.done:
		return 0, net.ErrClosed
	}
}

func (c *farConn) Close() error {
	c.once.Do(func() {
		close(c.done)
		select {
		case c.out <- delayed{nil, time.Now().Add(farDelay)}:
		default: // nobody reads
		}
	})
	return nil
}

func (c *farConn) LocalAddr() net.Addr              { return c.local }
func (c *farConn) RemoteAddr() net.Addr             { return c.remote }
func (c *farConn) SetDeadline(time.Time) error      { return nil }
func (c *farConn) SetReadDeadline(time.Time) error  { return nil }
func (c *farConn) SetWriteDeadline(time.Time) error { return nil }

// farFTP is an FTP server at 50 ms, with a certificate or without TLS.
func farFTP(t *testing.T, n *farNet, h *ftpHouse, secure bool, change func(*FTPConfig)) *FTP {
	t.Helper()
	h.listen, h.accepts = n.listen, true
	var client *tls.Config
	if secure {
		h.tls, client = testTLS(t) // in the bubble, where it is another year
	}
	return h.start(t).remote(t, func(c *FTPConfig) { c.TLS, c.Dial, c.Connections = client, n.dial, 0 }, change)
}

// smallFiles makes files of 4 KiB, 100 in a directory.
func smallFiles(t *testing.T, files int) (dir string) {
	t.Helper()
	dir = t.TempDir()
	for i := range files {
		p := filepath.Join(dir, fmt.Sprint(i/100), fmt.Sprint(i))
		if i%100 == 0 {
			if err := os.Mkdir(filepath.Dir(p), 0o700); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.WriteFile(p, make([]byte, 4096), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// A small file costs a connection three round trips: for TCP and the command, for the bytes, and for what the file is
// like now. TLS costs one more, and not two: it does not wait for the reply to the command.
func TestFarFTPRoundTrips(t *testing.T) {
	const files = 5
	dir := smallFiles(t, files)
	for name, tt := range map[string]struct {
		secure bool
		trips  int
	}{"plain": {false, 3}, "TLS": {true, 4}} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := farFTP(t, &farNet{}, &ftpHouse{dir: dir, mlsd: true}, tt.secure, func(c *FTPConfig) { c.Connections = 1 })
				if err := r.Connect(t.Context()); err != nil {
					t.Fatal(err)
				}
				began := time.Now()
				var all sync.WaitGroup
				for i := range files {
					all.Go(func() {
						f := &file{r: r, retry: quick, path: fmt.Sprint("/0/", i), seen: Entry{Type: File, Size: 4096}}
						if _, err := f.whole(t.Context()); err != nil {
							t.Errorf("%s: %v", f.path, err)
						}
					})
				}
				all.Wait()
				// The first port is asked for alone, the others together with what a file is like.
				if got, want := time.Since(began), time.Duration(1+files*tt.trips)*2*farDelay; got != want {
					t.Errorf("%d files take %v, want %v", files, got, want)
				}
			})
		})
	}
}

// Small files come over many connections, with TLS, too.
func TestFarFTPSmallFiles(t *testing.T) {
	const files, atLeast = 24 * farFTPConnections, 205 // files/s once all are logged in
	dir := smallFiles(t, files)
	synctest.Test(t, func(t *testing.T) {
		r := farFTP(t, &farNet{}, &ftpHouse{dir: dir, mlsd: true}, true, func(*FTPConfig) {})
		var all sync.WaitGroup
		free := make(chan struct{})
		for range farFTPConnections {
			all.Go(func() {
				conn, err := r.pool.get(t.Context())
				if err != nil {
					t.Error(err)
					return
				}
				<-free
				r.pool.put(conn)
			})
		}
		time.AfterFunc(patience, func() { close(free) }) // of the bubble: they take 6 s
		all.Wait()
		took, counts := pullFar(t, r)
		if rate := files / took.Seconds(); counts.Read != files || rate < atLeast {
			t.Errorf("%d files, %.0f/s, want %d", counts.Read, rate, atLeast)
		}
	})
}

// Data connections go to the address of the control connection, with its zone, also where that is of IPv6 and the server has
// PASV alone. A certificate is of the address without the zone, which means something on this machine only.
func TestFTPOverIPv6(t *testing.T) {
	loopback, local := net.TCPAddr{IP: net.IPv6loopback}, net.TCPAddr{IP: net.ParseIP("fe80::1"), Zone: "eth0"}
	dir := house(t)
	for name, tt := range map[string]struct {
		host   net.TCPAddr
		house  *ftpHouse
		secure bool
	}{
		"EPSV":                   {loopback, &ftpHouse{mlsd: true}, false},
		"PASV alone":             {loopback, &ftpHouse{noEPSV: true}, false},
		"explicit TLS":           {loopback, &ftpHouse{mlsd: true}, true},
		"implicit TLS":           {loopback, &ftpHouse{mlsd: true, implicit: true}, true},
		"zone":                   {local, &ftpHouse{mlsd: true}, false},
		"zone, PASV alone":       {local, &ftpHouse{noEPSV: true}, false},
		"zone, explicit TLS":     {local, &ftpHouse{mlsd: true}, true},
		"zone, implicit TLS":     {local, &ftpHouse{mlsd: true, implicit: true}, true},
		"zone, TLS, PASV alone ": {local, &ftpHouse{noEPSV: true}, true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := tt.house
				h.dir = dir
				r := farFTP(t, &farNet{host: tt.host}, h, tt.secure, func(c *FTPConfig) { c.Implicit = h.implicit })
				got, err := readRange(t.Context(), r, "/small", 0, 6)
				if err != nil || string(got) != "hello\n" {
					t.Errorf("a file: %q, %v", got, err)
				}
				seen := 0
				if err := r.ReadDir(t.Context(), "/many", func(Entry) error { seen++; return nil }); err != nil || seen != 301 {
					t.Errorf("a directory: %d entries, %v", seen, err)
				}
				if pasv := h.count("PASV"); pasv > 0 != h.noEPSV {
					t.Errorf("%d times PASV", pasv)
				}
			})
		})
	}
}
