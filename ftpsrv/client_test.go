package ftpsrv

import (
	"bufio"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"testing"
	"time"
)

// client is a client that shows every line. Its methods with a reply in their name, and
// those that want one, end the test when the connection fails; exchange and what ends in
// an error may be called from any goroutine, one at a time.
type client struct {
	tb   testing.TB
	raw  *net.TCPConn // the control connection
	conn net.Conn     // raw, or TLS on it
	in   *bufio.Reader
	tls  *tls.Config // of both connections; nil: never TLS
	// protected says that data connections are encrypted: after PROT P.
	protected bool
	mode      string // EPSV, PASV, PORT or EPRT: how data connections are made
	said      []byte // what was sent: replies may repeat it
}

// reply is an answer of the server.
type reply struct {
	code  int
	lines []string // without the code; one of them unless it is a multi-line reply
}

// text is the last line, the only one mostly.
func (r reply) text() string { return r.lines[len(r.lines)-1] }

func (r reply) String() string { return fmt.Sprintf("%d %s", r.code, strings.Join(r.lines, " / ")) }

// connect dials the server's plain port and reads no greeting.
func (ts *testServer) connect(tb testing.TB) *client {
	tb.Helper()
	return newClient(tb, ts, ts.addr)
}

func newClient(tb testing.TB, ts *testServer, addr string) *client {
	tb.Helper()
	nc, err := net.Dial("tcp", addr)
	if err != nil {
		tb.Fatal(err)
	}
	c := &client{tb: tb, raw: nc.(*net.TCPConn), conn: nc, in: bufio.NewReader(nc), mode: "EPSV"}
	if ts.client != nil {
		c.tls = ts.client.Clone()
		c.tls.ClientSessionCache = tls.NewLRUClientSessionCache(8) // data connections resume
	}
	tb.Cleanup(func() { _ = c.raw.Close() })
	return c
}

// dial connects and reads the greeting.
func (ts *testServer) dial(tb testing.TB) *client {
	tb.Helper()
	c := ts.connect(tb)
	c.want(codeReady)
	return c
}

// dialTLS is dial, with explicit TLS for both connections.
func (ts *testServer) dialTLS(tb testing.TB) *client {
	tb.Helper()
	c := ts.dial(tb)
	c.do("AUTH TLS", codeAuthAccepted)
	c.startTLS()
	c.do("PBSZ 0", codeOK)
	c.do("PROT P", codeOK)
	c.protected = true
	return c
}

// dialImplicit is dial, with implicit TLS for both connections.
func (ts *testServer) dialImplicit(tb testing.TB) *client {
	tb.Helper()
	c := newClient(tb, ts, ts.implicit)
	c.startTLS()
	c.want(codeReady)
	c.protected = true
	return c
}

// login is dial, or dialTLS when the server has TLS, and a login.
func (ts *testServer) login(tb testing.TB, user string) *client {
	tb.Helper()
	if ts.client == nil {
		return ts.dial(tb).login(user)
	}
	return ts.dialTLS(tb).login(user)
}

// login logs a user in.
func (c *client) login(user string) *client {
	c.tb.Helper()
	c.do("USER "+user, codeNeedPassword)
	c.do("PASS "+password, codeLoggedIn)
	return c
}

// startTLS makes the control connection a TLS one.
func (c *client) startTLS() {
	c.tb.Helper()
	t := tls.Client(c.raw, c.tls)
	if err := errors.Join(t.SetDeadline(time.Now().Add(patience)), t.Handshake()); err != nil {
		c.tb.Fatalf("TLS: %v", err)
	}
	c.conn, c.in = t, bufio.NewReader(t)
}

// send sends a line and reads nothing.
func (c *client) send(line string) error {
	if err := c.conn.SetWriteDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	c.said = append(append(c.said, line...), '\n')
	_, err := io.WriteString(c.conn, line+"\r\n")
	return err
}

// receive reads a reply (RFC 959 section 4.2).
func (c *client) receive() (reply, error) {
	var r reply
	if err := c.conn.SetReadDeadline(time.Now().Add(patience)); err != nil {
		return r, err
	}
	for {
		line, err := c.in.ReadString('\n')
		if err != nil {
			return r, err
		}
		text, ok := strings.CutSuffix(line, "\r\n")
		if !ok {
			return r, fmt.Errorf("a line ends without CR: %q", line)
		}
		code, err := strconv.Atoi(text[:min(3, len(text))])
		coded := err == nil && len(text) > 3 && (text[3] == ' ' || text[3] == '-')
		switch {
		case r.lines == nil && !coded:
			return r, fmt.Errorf("%q begins no reply", text)
		case r.lines == nil:
			r.code = code
			fallthrough
		case coded && code == r.code && text[3] == ' ':
			r.lines = append(r.lines, text[4:])
		default:
			r.lines = append(r.lines, text)
		}
		if coded && code == r.code && text[3] == ' ' {
			wantDiscreet(c.tb, r, c.said)
			return r, nil
		}
	}
}

// exchange sends a line and reads a reply.
func (c *client) exchange(line string) (reply, error) {
	if err := c.send(line); err != nil {
		return reply{}, err
	}
	return c.receive()
}

// want reads a reply that must have one of the codes.
func (c *client) want(codes ...int) reply {
	c.tb.Helper()
	r, err := c.receive()
	if err != nil {
		c.tb.Fatalf("reading a reply, want %d: %v", codes, err)
	}
	c.check("", r, codes)
	return r
}

// do sends a line and reads a reply that must have one of the codes.
func (c *client) do(line string, codes ...int) reply {
	c.tb.Helper()
	r, err := c.exchange(line)
	if err != nil {
		c.tb.Fatalf("%s: %v", line, err)
	}
	c.check(line, r, codes)
	return r
}

func (c *client) check(line string, r reply, codes []int) {
	c.tb.Helper()
	for _, code := range codes {
		if r.code == code {
			return
		}
	}
	c.tb.Errorf("%s: %v, want %d", line, r, codes)
}

// dialogue sends lines and checks the codes of their replies.
func (c *client) dialogue(steps ...step) {
	c.tb.Helper()
	for _, s := range steps {
		c.do(s.line, s.code)
	}
}

// try is dialogue for what may come too late: the first reply that has another code is an error. The step
// without a line reads the greeting.
func (c *client) try(steps ...step) error {
	for _, s := range steps {
		if s.line != "" {
			if err := c.send(s.line); err != nil {
				return err
			}
		}
		r, err := c.receive()
		if err == nil && r.code != s.code {
			err = &replyError{r.code, r.text()}
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// step is a line and the code that it must be answered with.
type step struct {
	line string
	code int
}

// wantEnd reads until the server closes the connection, and returns the replies before.
func (c *client) wantEnd() []reply {
	c.tb.Helper()
	var all []reply
	for {
		r, err := c.receive()
		var timeout net.Error
		switch {
		case err == nil:
			all = append(all, r)
			continue
		case errors.As(err, &timeout) && timeout.Timeout():
			c.tb.Error("the server does not hang up")
		}
		return all
	}
}

// drop cuts the control connection off, as a broken network does: no alert, no FIN.
func (c *client) drop() error { return reset(c.raw) }

func reset(nc *net.TCPConn) error {
	return errors.Join(nc.SetLinger(0), nc.Close())
}

// dataSocket is a data connection that is being made.
type dataSocket struct {
	nc net.Conn     // passive: made
	ln net.Listener // active: will be made by the server
}

func (d *dataSocket) close() {
	if d.nc != nil {
		_ = d.nc.Close()
	}
	if d.ln != nil {
		_ = d.ln.Close()
	}
}

// socket prepares a data connection, as c.mode says.
func (c *client) socket() (*dataSocket, error) {
	if c.mode == "EPSV" || c.mode == "PASV" {
		addr, err := c.passive()
		if err != nil {
			return nil, err
		}
		nc, err := net.DialTimeout("tcp", addr, patience)
		return &dataSocket{nc: nc}, err
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	d := &dataSocket{ln: ln}
	r, err := c.exchange(activeCommand(c.mode, ln.Addr().(*net.TCPAddr)))
	if err == nil && r.code != codeOK {
		err = &replyError{r.code, r.text()}
	}
	if err != nil {
		d.close()
	}
	return d, err
}

// passive asks for a passive port and returns its address.
func (c *client) passive() (string, error) {
	r, err := c.exchange(c.mode)
	if err != nil {
		return "", err
	}
	host, _, err := net.SplitHostPort(c.raw.RemoteAddr().String())
	if err != nil {
		return "", err
	}
	switch r.code {
	case codeExtPassive:
		_, port, _ := strings.Cut(r.text(), "(|||")
		return net.JoinHostPort(host, strings.TrimSuffix(port, "|)")), nil
	case codePassive:
		_, numbers, _ := strings.Cut(strings.TrimSuffix(r.text(), ")"), "(")
		ap, err := parsePort(numbers)
		return ap.String(), err
	}
	return "", &replyError{r.code, r.text()}
}

// activeCommand is PORT or EPRT for an IPv4 address.
func activeCommand(verb string, addr *net.TCPAddr) string {
	ip := addr.IP.To4()
	if verb == "EPRT" {
		return fmt.Sprintf("EPRT |1|%s|%d|", ip, addr.Port)
	}
	return fmt.Sprintf("PORT %d,%d,%d,%d,%d,%d", ip[0], ip[1], ip[2], ip[3], addr.Port>>8, addr.Port&0xff)
}

// data is a data connection, after the 150 reply.
type data struct {
	net.Conn // TCP, or TLS on it
	raw      *net.TCPConn
}

// begin prepares a data connection, sends lines that are each answered with 350 or 200
// (REST, ALLO) but for the last one, which transfers something, and returns when the data
// connection is made and, of a TLS one, its handshake. A refusal is a *replyError.
func (c *client) begin(lines ...string) (*data, error) {
	d, err := c.socket()
	if err != nil {
		return nil, err
	}
	for i, line := range lines {
		r, err := c.exchange(line)
		ok := r.code == codeOpening
		if i < len(lines)-1 {
			ok = r.code == codePending || r.code == codeOK
		}
		if err == nil && !ok {
			err = &replyError{r.code, r.text()}
		}
		if err != nil {
			d.close()
			return nil, err
		}
	}
	return c.open(d)
}

// open makes the data connection after the 150 reply.
func (c *client) open(d *dataSocket) (*data, error) {
	nc := d.nc
	if d.ln != nil {
		defer d.ln.Close()
		var err error
		if err = d.ln.(*net.TCPListener).SetDeadline(time.Now().Add(patience)); err != nil {
			return nil, err
		}
		if nc, err = d.ln.Accept(); err != nil {
			return nil, err
		}
	}
	out := &data{Conn: nc, raw: nc.(*net.TCPConn)}
	if err := nc.SetDeadline(time.Now().Add(patience)); err != nil {
		return nil, err
	}
	if !c.protected {
		return out, nil
	}
	t := tls.Client(nc, c.tls)
	out.Conn = t
	if err := t.Handshake(); err != nil {
		_ = nc.Close()
		return nil, fmt.Errorf("TLS of the data connection: %w", err)
	}
	return out, nil
}

// cut ends the data connection as a broken network does: no alert, no FIN.
func (d *data) cut() error { return reset(d.raw) }

// ended closes a data connection that the server has ended. A reset then tells the server
// nothing new, and keeps its port from waiting for a minute: tests transfer thousands of
// files, and to find a port among as many that wait takes long.
func (d *data) ended() error { return reset(d.raw) }

// finish reads the final reply of a transfer.
func (c *client) finish() error {
	r, err := c.receive()
	if err == nil && r.code != codeClosingData {
		return &replyError{r.code, r.text()}
	}
	return err
}

// put uploads a whole file by the last of lines; the others are sent before it.
func (c *client) put(body []byte, lines ...string) error {
	d, err := c.begin(lines...)
	if err != nil {
		return err
	}
	_, err = d.Write(body)
	return errors.Join(err, d.Close(), c.finish())
}

// get downloads what the last of lines transfers, a file or a listing; the others are sent
// before it.
func (c *client) get(lines ...string) ([]byte, error) {
	d, err := c.begin(lines...)
	if err != nil {
		return nil, err
	}
	body, err := io.ReadAll(d)
	return body, errors.Join(err, d.ended(), c.finish())
}

// mustPut is put, and ends the test when it fails.
func (c *client) mustPut(path string, body []byte) {
	c.tb.Helper()
	if err := c.put(body, "STOR "+path); err != nil {
		c.tb.Fatalf("STOR %s: %v", path, err)
	}
}

// announce is put of what makes a file of so many bytes, and tells them before: nothing is waited for behind
// its end.
func (c *client) announce(size int, body []byte, lines ...string) error {
	return c.put(body, append([]string{fmt.Sprintf("ALLO %d", size)}, lines...)...)
}

// mustAnnounce is announce of a whole file, and ends the test when it fails.
func (c *client) mustAnnounce(path string, body []byte) {
	c.tb.Helper()
	if err := c.announce(len(body), body, "STOR "+path); err != nil {
		c.tb.Fatalf("STOR %s: %v", path, err)
	}
}

// mustGet is get of a file or a listing, and ends the test when it fails.
func (c *client) mustGet(line string) string {
	c.tb.Helper()
	body, err := c.get(line)
	if err != nil {
		c.tb.Fatalf("%s: %v", line, err)
	}
	return string(body)
}

// wantRefused checks that err is a reply with a code.
func wantRefused(tb testing.TB, what string, err error, code int) {
	tb.Helper()
	var re *replyError
	if !errors.As(err, &re) || re.code != code {
		tb.Errorf("%s: %v, want reply %d", what, err, code)
	}
}
