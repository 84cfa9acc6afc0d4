package ftpsrv

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/snapgate/gateway/internal/acceptor"
)

// dataPort is where the next data connection comes from or goes to.
type dataPort interface {
	// open makes the connection; it is called at most once and ends with ctx.
	open(ctx context.Context) (net.Conn, error)
	// close gives it up.
	close()
}

var errNoPort = errors.New("no passive port is free")

// listenPassive opens a port at a local address for a client's data connection.
func listenPassive(ctx context.Context, local netip.Addr, ports PortRange) (*net.TCPListener, error) {
	var lc net.ListenConfig
	listen := func(port int) (*net.TCPListener, error) {
		ln, err := lc.Listen(ctx, "tcp", net.JoinHostPort(local.String(), strconv.Itoa(port)))
		if err != nil {
			return nil, err
		}
		return ln.(*net.TCPListener), nil
	}
	if ports.IsZero() {
		return listen(0)
	}
	// The first is chosen at random: a port that can be foretold can be taken by others.
	n := int(ports.Last) - int(ports.First) + 1
	start := rand.IntN(n)
	err := errNoPort
	for i := range n {
		ln, e := listen(int(ports.First) + (start+i)%n)
		if e == nil {
			return ln, nil
		}
		err = errors.Join(errNoPort, e)
	}
	return nil, err
}

// passiveListener is a listener of TCP.
type passiveListener interface {
	net.Listener
	SetDeadline(t time.Time) error
}

// passivePort waits for the client to connect.
type passivePort struct {
	ln      passiveListener
	peer    netip.Addr // zero: from anywhere
	timeout time.Duration
	log     *slog.Logger
}

func (p *passivePort) open(ctx context.Context) (net.Conn, error) {
	defer p.close()
	stop := context.AfterFunc(ctx, p.close)
	defer stop()
	if err := p.ln.SetDeadline(time.Now().Add(p.timeout)); err != nil {
		return nil, err
	}
	for {
		nc, err := acceptor.Accept(ctx, p.ln, p.log)
		if err != nil {
			return nil, err
		}
		from, err := netip.ParseAddrPort(nc.RemoteAddr().String())
		if err == nil && (!p.peer.IsValid() || from.Addr().Unmap().WithZone("") == p.peer) {
			return nc, nil
		}
		// Somebody else tries to get or to put the file in the client's place.
		p.log.Warn("data connection from another address", "from", nc.RemoteAddr().String())
		_ = nc.Close()
	}
}

func (p *passivePort) close() { _ = p.ln.Close() } // a second one fails, and nothing depends on it

// activePort connects to the client.
type activePort struct {
	addr    netip.AddrPort
	local   netip.Addr
	timeout time.Duration
}

func (p *activePort) open(ctx context.Context) (net.Conn, error) {
	d := net.Dialer{Timeout: p.timeout}
	if p.local.IsValid() && p.local.Is4() == p.addr.Addr().Is4() {
		d.LocalAddr = net.TCPAddrFromAddrPort(netip.AddrPortFrom(p.local, 0))
	}
	return d.DialContext(ctx, "tcp", p.addr.String())
}

func (*activePort) close() {}

// dataConn is a data connection. Each Read and Write has a deadline, so that one on which
// nothing moves is given up.
type dataConn struct {
	net.Conn           // TCP, or TLS on it
	below    *tcpBelow // TLS; nil without
	timeout  time.Duration
}

func newDataConn(nc net.Conn, cfg *tls.Config, timeout time.Duration) *dataConn {
	if cfg == nil {
		return &dataConn{Conn: nc, timeout: timeout}
	}
	// The handshake happens with the first Read or Write: clients begin it when they have
	// the 150 reply.
	below := &tcpBelow{Conn: nc}
	return &dataConn{Conn: tls.Server(below, cfg), below: below, timeout: timeout}
}

// tcpBelow is the TCP connection below TLS. It notes when that has ended: crypto/tls takes
// an end between two records for one in order, even before the handshake, and reads no
// further than the close_notify alert.
type tcpBelow struct {
	net.Conn
	ended bool // of who reads
}

func (c *tcpBelow) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.ended = c.ended || errors.Is(err, io.EOF)
	return n, err
}

// Read implements net.Conn. Of a TLS connection that ends without the close_notify alert
// (RFC 8446 section 6.1) it gives io.ErrUnexpectedEOF.
func (c *dataConn) Read(p []byte) (int, error) {
	if err := c.SetDeadline(time.Now().Add(c.timeout)); err != nil {
		return 0, err
	}
	n, err := c.Conn.Read(p)
	if c.below != nil && c.below.ended && errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

// Write implements net.Conn.
func (c *dataConn) Write(p []byte) (int, error) {
	if err := c.SetDeadline(time.Now().Add(c.timeout)); err != nil {
		return 0, err
	}
	return c.Conn.Write(p)
}

// parsePort reads the argument of PORT (RFC 959 section 5.3.2): h1,h2,h3,h4,p1,p2.
func parsePort(arg string) (netip.AddrPort, error) {
	fields := strings.Split(strings.TrimSpace(arg), ",")
	if len(fields) != 6 {
		return netip.AddrPort{}, fmt.Errorf("%d numbers, want 6", len(fields))
	}
	var n [6]byte
	for i, f := range fields {
		v, err := strconv.ParseUint(strings.TrimSpace(f), 10, 8)
		if err != nil {
			return netip.AddrPort{}, fmt.Errorf("%q is no number from 0 to 255", f)
		}
		n[i] = byte(v)
	}
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte(n[:4])), uint16(n[4])<<8|uint16(n[5])), nil
}

// errNetProtocol is RFC 2428's: the network protocol is not known.
var errNetProtocol = errors.New("unknown network protocol")

// parseExtPort reads the argument of EPRT (RFC 2428 section 2): |1|address|port|, with any
// delimiter.
func parseExtPort(arg string) (netip.AddrPort, error) {
	if arg == "" {
		return netip.AddrPort{}, errors.New("no argument")
	}
	fields := strings.Split(arg, arg[:1])
	if len(fields) != 5 || fields[0] != "" || fields[4] != "" {
		return netip.AddrPort{}, errors.New("want |protocol|address|port|")
	}
	if fields[1] != "1" && fields[1] != "2" {
		return netip.AddrPort{}, errNetProtocol
	}
	addr, err := netip.ParseAddr(fields[2])
	if err != nil || addr.Is4() != (fields[1] == "1") || addr.Zone() != "" {
		return netip.AddrPort{}, fmt.Errorf("%q is no address of protocol %s", fields[2], fields[1])
	}
	port, err := strconv.ParseUint(fields[3], 10, 16)
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("%q is no port", fields[3])
	}
	return netip.AddrPortFrom(addr.Unmap(), uint16(port)), nil
}

// publicIPAge is how long an address that a name had is used before it is looked up again.
const publicIPAge = time.Minute

// publicIP is the address that PASV tells clients from elsewhere. Safe for concurrent use.
type publicIP struct {
	name string // "" for none
	log  *slog.Logger

	mu   sync.Mutex // guards the rest; held across the look-up so that there is one at a time
	addr netip.Addr
	at   time.Time
}

func newPublicIP(name string, log *slog.Logger) *publicIP { return &publicIP{name: name, log: log} }

// lookup returns the address for a client; local is the one that the client has reached.
// Clients on the server's own network are behind the same router as the server, and most
// routers do not lead back.
func (p *publicIP) lookup(ctx context.Context, peer, local netip.Addr) netip.Addr {
	if p.name == "" || peer.IsLoopback() || local.IsPrivate() && (peer.IsPrivate() || peer.IsLinkLocalUnicast()) {
		return local
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.addr.IsValid() && time.Since(p.at) < publicIPAge {
		return p.addr
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	addrs, err := net.DefaultResolver.LookupNetIP(ctx, "ip4", p.name)
	if err == nil && len(addrs) == 0 {
		err = errors.New("no IPv4 address")
	}
	if err != nil {
		p.log.Warn("public_ip cannot be looked up", "name", p.name, "err", err)
		if p.addr.IsValid() {
			return p.addr // the last one known
		}
		return local
	}
	p.addr, p.at = addrs[0].Unmap(), time.Now()
	return p.addr
}
