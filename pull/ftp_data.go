package pull

import (
	"bufio"
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"time"
)

const (
	// maxListLine bounds a line of a listing: a path, a target and something around them.
	maxListLine = 16 << 10
	// maxListLines bounds a listing: all names that a directory may have, itself, the one above, and a total.
	maxListLines = defaultScanNames + 3
)

func isEOF(err error) bool { return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) }

// refusalPatience is how long a reply may take that says why the server did not wait for a data
// connection.
const refusalPatience = 5 * time.Second

const (
	// preparedPatience is how long the first reply to a command that was sent ahead may take, when
	// that to the one before it has come.
	preparedPatience = 10 * time.Second
	// preparedLife is how long a port is good: servers wait for a data connection for 30 s and more.
	preparedLife = 5 * time.Second
)

// prepared is an EPSV for the next transfer that goes with the last command of the one before, and
// saves its round trip.
type prepared struct {
	wanted bool // goes with the next command
	asked  bool // its reply has not been read
	port   int  // 0 for none
	at     time.Time
}

// prepare has an EPSV go with the next command, if the server is known to take it and there is no
// port yet.
func (c *ftpConn) prepare() {
	fresh := c.prepared.port != 0 && time.Since(c.prepared.at) < preparedLife
	c.prepared.wanted = !fresh && c.epsv && !c.noEPSV && c.takesAhead()
}

// takesAhead reports whether commands may be sent before the reply to the one before.
func (c *ftpConn) takesAhead() bool { return c.serial != nil && !c.serial.Load() }

// early reads the reply to a command that was sent ahead, when that to the one before it has come.
// One that does not come is of a server, or of a firewall, that takes one command at a time: that is
// not tried again. Once one has come, others may take as long as all replies: a server that says when
// a file is safe can take minutes.
func (c *ftpConn) early(op string) (ftpReply, error) {
	patience := c.cfg.patience
	if c.proven.Load() {
		patience = c.cfg.Timeout
	}
	late := time.AfterFunc(patience, func() {
		c.serial.Store(true)
		_ = c.broken(failf(op, "", KindConnection, "no reply to a command that was sent ahead"))
	})
	r, err := c.reply(op)
	if late.Stop() && err == nil {
		c.proven.Store(true)
	}
	return r, err
}

// ftpStep is a command, and what its reply means.
type ftpStep struct {
	op, line string
	check    func(ftpReply) error
}

// steps sends commands together and reads their replies: they cost one round trip. What the server
// refuses of those that it got early is sent again, alone.
func (c *ftpConn) steps(path string, steps ...ftpStep) error {
	refused := 0 // the first that is, or that has not been sent
	var failed error
	if len(steps) > 1 && c.takesAhead() {
		var err error
		if refused, failed, err = c.together(path, steps...); err != nil {
			return err
		}
		if failed == nil || refused == 0 {
			return failed
		}
	}
	early := refused > 0
	for _, s := range steps[refused:] {
		r, err := c.cmd(s.op, path, s.line)
		if err != nil {
			return err
		}
		if err := s.check(r); err != nil {
			return cmp.Or(failed, err) // the first time it said why
		}
		failed = nil
		if early {
			c.serial.Store(true) // it was refused for it
			early = false
		}
	}
	return nil
}

// together sends commands at once and reads their replies. It returns which is the first that the
// server refused, and why it did.
func (c *ftpConn) together(path string, steps ...ftpStep) (refused int, why, err error) {
	lines := make([]string, len(steps))
	for i, s := range steps {
		lines[i] = s.line
	}
	if err := c.send(steps[0].op, path, lines...); err != nil {
		return 0, nil, err
	}
	for i, s := range steps {
		read := c.early
		if i == 0 {
			read = c.reply
		}
		r, err := read(s.op)
		if err != nil {
			return 0, nil, err
		}
		if why == nil {
			why, refused = s.check(r), i
		}
	}
	return refused, why, nil
}

// step is one whose reply is to mean what one with the code does.
func (c *ftpConn) step(op, path string, code int, line string) ftpStep {
	return ftpStep{op, line, func(r ftpReply) error {
		if !r.means(code) {
			return c.refused(op, path, r)
		}
		return nil
	}}
}

// settled reads the reply to an EPSV that was sent ahead.
func (c *ftpConn) settled(op string) error {
	if !c.prepared.asked {
		return nil
	}
	c.prepared = prepared{}
	r, err := c.early(op)
	if err != nil {
		return err
	}
	if r.code == 229 {
		c.prepared.port, c.prepared.at = epsvPort(r.text()), time.Now()
	}
	return nil
}

// passive asks where the next data connection goes to (RFC 2428 section 3; RFC 959 section 4.1.2).
// The address that PASV tells is not used: a server says where to connect, not to whom.
func (c *ftpConn) passive(op, path string) (addr string, err error) {
	host, _, err := net.SplitHostPort(c.nc.RemoteAddr().String())
	if err != nil {
		return "", failOS(op, path, err)
	}
	if err := c.settled(op); err != nil {
		return "", err
	}
	port, fresh := c.prepared.port, time.Since(c.prepared.at) < preparedLife
	if c.prepared = (prepared{}); port != 0 && fresh {
		return net.JoinHostPort(host, strconv.Itoa(port)), nil
	}
	port = 0
	if !c.noEPSV {
		r, err := c.cmd(op, path, "EPSV")
		switch {
		case err != nil:
			return "", err
		case r.code == 229:
			port, c.epsv = epsvPort(r.text()), true
		case r.code >= 500:
			c.noEPSV = true
		default:
			return "", c.refused(op, path, r)
		}
	}
	if c.noEPSV {
		r, err := c.want(op, path, 227, "PASV")
		if err != nil {
			return "", err
		}
		port = pasvPort(r.text())
	}
	if port == 0 {
		return "", c.broken(failf(op, path, KindProtocol, "no port for the data connection"))
	}
	return net.JoinHostPort(host, strconv.Itoa(port)), nil
}

// dataConn is a data connection that is made beside the dialogue: TCP costs a round trip, TLS another one.
type dataConn struct {
	cancel context.CancelFunc
	dialed chan struct{} // closed when it is known whether there is raw
	raw    net.Conn
	none   error         // why there is no raw
	ended  chan struct{} // closed when nobody works at it any more
	data   net.Conn      // raw, or TLS on it; nil when there is none
	err    error         // of TLS
}

// connect begins to make a data connection. It is to be taken or dropped.
func (c *ftpConn) connect(ctx context.Context, addr string) *dataConn {
	d := &dataConn{dialed: make(chan struct{}), ended: make(chan struct{})}
	ctx, d.cancel = context.WithCancel(ctx)
	go func() {
		defer close(d.ended)
		d.raw, d.none = c.cfg.Dial(ctx, "tcp", addr)
		close(d.dialed)
		switch {
		case d.none != nil:
		case c.tls == nil:
			d.data = d.raw
		default:
			// Servers that begin only when they have said 150 find what we have sent till then.
			t := tls.Client(d.raw, c.tls)
			if d.err = t.HandshakeContext(ctx); d.err == nil {
				d.data = t
			}
		}
	}()
	return d
}

// take waits until the connection, which has been dialed, carries data: for a server that begins TLS only now as
// long as timeout.
func (d *dataConn) take(timeout time.Duration) (net.Conn, error) {
	if err := d.raw.SetDeadline(time.Now().Add(timeout)); err != nil {
		d.drop()
		return nil, err
	}
	<-d.ended
	d.cancel()
	if d.err != nil {
		_ = d.raw.Close()
	}
	return d.data, d.err
}

// drop ends the connection, whatever it has come to.
func (d *dataConn) drop() {
	d.cancel()
	<-d.ended
	if d.raw != nil {
		_ = d.raw.Close()
	}
}

// request sends a command whose answer comes over a data connection, and makes that meanwhile: servers wait for
// it. Without an error there is none only when the reply is a refusal.
func (c *ftpConn) request(ctx context.Context, op, path, line string, rest int64) (*dataConn, ftpReply, error) {
	var r ftpReply
	addr, err := c.passive(op, path)
	if err != nil {
		return nil, r, err
	}
	d := c.connect(ctx, addr)
	if rest > 0 { // RFC 3659 section 5
		_, err = c.want(op, path, 350, "REST "+strconv.FormatInt(rest, 10))
	}
	if err == nil {
		err = c.send(op, path, line)
	}
	if err != nil {
		d.drop()
		return nil, r, err
	}
	if <-d.dialed; d.none == nil {
		if r, err = c.reply(op); err != nil {
			d.drop()
		}
		return d, r, err
	}
	d.drop()
	// The server waits for a connection that will not come, unless it has refused.
	late := time.AfterFunc(refusalPatience, func() { _ = c.broken(d.none) })
	r, err = c.reply(op)
	if late.Stop(); err == nil && r.code >= 400 && !r.cutOff() {
		return nil, r, nil
	}
	return nil, r, c.broken(fail(op, path, KindConnection, fmt.Errorf("%w: %w", ErrDataConnection, d.none)))
}

// epsvPort reads "… (|||6446|)": the delimiter is the server's choice.
func epsvPort(text string) int {
	_, rest, found := strings.Cut(text, "(")
	rest, _, closed := strings.Cut(rest, ")")
	if !found || !closed || len(rest) < 5 {
		return 0
	}
	parts := strings.Split(rest, rest[:1])
	if len(parts) != 5 {
		return 0
	}
	return portOf(parts[3])
}

// pasvPort reads "… (h1,h2,h3,h4,p1,p2)"; the brackets are not always there.
func pasvPort(text string) int {
	i := strings.IndexAny(text, "0123456789")
	if _, after, found := strings.Cut(text, "("); found {
		text, i = after, 0
	}
	if i < 0 {
		return 0
	}
	end := strings.IndexFunc(text[i:], func(r rune) bool { return (r < '0' || r > '9') && r != ',' })
	if end < 0 {
		end = len(text) - i
	}
	parts := strings.Split(text[i:i+end], ",")
	if len(parts) != 6 {
		return 0
	}
	high, err := strconv.ParseUint(parts[4], 10, 8)
	low, lerr := strconv.ParseUint(parts[5], 10, 8)
	if err != nil || lerr != nil {
		return 0
	}
	return int(high<<8 | low)
}

func portOf(s string) int {
	n, err := strconv.ParseUint(s, 10, 16)
	if err != nil {
		return 0
	}
	return int(n)
}

// transfer is a data connection from the server, for one goroutine.
type transfer struct {
	c        *ftpConn
	op, path string
	raw      net.Conn
	data     net.Conn // raw, or TLS on it
	unwatch  func() bool
	finished bool
	// counted says that all bytes that were announced have come, so that TLS need not
	// tell a cut from an end: some servers close without the alert for it.
	counted bool
	final   ftpReply // after the end
}

// start sends a command whose answer comes over a data connection.
func (c *ftpConn) start(ctx context.Context, op, path, line string, rest int64) (*transfer, error) {
	d, r, err := c.request(ctx, op, path, line, rest)
	if err != nil {
		return nil, err
	}
	if r.code != 125 && r.code != 150 {
		if d != nil {
			d.drop()
		}
		if r.code < 400 { // a reply that is not in any dialogue
			return nil, c.broken(failf(op, path, KindProtocol, "%w", replyText(r)))
		}
		return nil, c.refused(op, path, r)
	}
	data, err := d.take(c.cfg.Timeout)
	if err != nil {
		return nil, c.broken(fail(op, path, KindConnection, fmt.Errorf("data connection: %w", c.silence(err))))
	}
	t := &transfer{c: c, op: op, path: path, raw: d.raw, data: data}
	t.unwatch = c.watch(ctx, data)
	return t, nil
}

// Read reads from the data connection. io.EOF says that the server has closed it in order
// and that its final reply says that all was sent.
func (t *transfer) Read(p []byte) (int, error) {
	if t.finished {
		return 0, io.EOF
	}
	// The deadline of an ended context must not be moved, so it is looked at after.
	err := t.data.SetReadDeadline(time.Now().Add(t.c.cfg.Timeout))
	if broken := t.c.Err(); broken != nil {
		return 0, fail(t.op, t.path, KindConnection, broken)
	}
	n := 0
	if err == nil {
		n, err = t.data.Read(p)
	}
	switch {
	case err == nil || n > 0:
		return n, nil
	case !errors.Is(err, io.EOF) && !(t.counted && errors.Is(err, io.ErrUnexpectedEOF)):
		return n, t.c.broken(fail(t.op, t.path, KindConnection, t.c.silence(err)))
	}
	t.finished = true
	_ = t.raw.Close()
	r, err := t.c.reply(t.op)
	if err != nil {
		return 0, err
	}
	t.final = r
	if r.code < 200 || r.code > 299 {
		t.c.cwd = ""
		if r.cutOff() {
			return 0, t.c.broken(fail(t.op, t.path, KindConnection, replyText(r)))
		}
		return 0, t.c.refused(t.op, t.path, r)
	}
	return 0, io.EOF
}

// Close ends the transfer. The control connection ends with one that is not at its end: what
// a server says then, and when, is not the same anywhere.
func (t *transfer) Close() error {
	t.unwatch()
	if !t.finished {
		t.finished = true
		_ = t.c.broken(net.ErrClosed)
		_ = t.raw.Close()
	}
	return nil
}

// lines calls each for every line of a listing. One without an end is an error of KindLimit.
func (t *transfer) lines(each func(line string, whole bool) error) error {
	in := bufio.NewReaderSize(t, maxListLine)
	left := t.c.cfg.lines
	next := func() ([]byte, error) {
		b, err := in.ReadSlice('\n')
		if len(b) > 0 {
			left--
		}
		if left < 0 {
			return nil, failf(t.op, t.path, KindLimit, "more than %d lines", t.c.cfg.lines)
		}
		return b, err
	}
	for {
		b, err := next()
		whole := true
		if errors.Is(err, bufio.ErrBufferFull) {
			whole = false
			b = append([]byte(nil), b[:maxQuoted]...)
			for errors.Is(err, bufio.ErrBufferFull) {
				_, err = next()
			}
		}
		if line := strings.TrimSuffix(strings.TrimSuffix(string(b), "\n"), "\r"); line != "" {
			if err := each(line, whole); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// ftpReader reads a file, for a goroutine at a time. It is a Stater at its end.
type ftpReader struct {
	f    *FTP
	ctx  context.Context
	conn *pooled[*ftpConn]
	t    *transfer
	full string // the path as the server has it
	left int64
	err  error
}

func (r *ftpReader) Read(p []byte) (int, error) {
	if r.err != nil || len(p) == 0 {
		return 0, r.err
	}
	var one [1]byte
	if r.left == 0 { // what comes now is to be the end
		p, r.t.counted = one[:], true
	} else {
		p = p[:min(int64(len(p)), r.left)]
	}
	n, err := r.t.Read(p)
	if err != nil && r.ctx.Err() != nil {
		err = r.ctx.Err()
	}
	if r.left == 0 && n > 0 {
		n, err = 0, failf("read", r.t.path, KindChanged, "it is longer than it was listed")
	}
	r.left -= int64(n)
	r.err = err
	return n, err
}

// Stat describes the file after the last byte, on the connection of the reader: another one
// may not be had.
func (r *ftpReader) Stat(ctx context.Context) (Entry, error) {
	c, path := r.conn.s, r.t.path
	if !r.t.finished || c.Err() != nil {
		return Entry{}, fail("stat", path, KindConnection, c.Err())
	}
	stop := c.watch(ctx)
	defer stop()
	if _, ok := c.feats["MLST"]; ok {
		if r.f.pool.wanted() {
			c.prepare()
		}
		return c.mlst(path, r.full)
	}
	return r.f.statFile(ctx, c, path, r.full)
}

func (r *ftpReader) Close() error {
	if r.conn != nil {
		_ = r.t.Close()
		r.f.pool.put(r.conn)
		r.conn = nil
		r.err = errPoolClosed
	}
	return nil
}
