package pull

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// maxReplyLine bounds a line of the control connection: a path and something around it.
	maxReplyLine = 16 << 10
	// maxReplyLines and maxReplyBytes bound a reply: FEAT and welcome texts have tens of short lines.
	maxReplyLines = 1000
	maxReplyBytes = 256 << 10
)

// ftpConn is a control connection that is logged in. One call at a time uses it; Err and
// Close may be called beside.
type ftpConn struct {
	cfg   *FTPConfig
	raw   net.Conn
	nc    net.Conn // raw, or TLS on it
	in    *bufio.Reader
	tls   *tls.Config // with a session cache of this connection's own; nil for none
	feats map[string]string
	trip  time.Duration // how long the server takes to answer
	home  string
	cwd   string // "" when not known
	// noEPSV is set when the server has refused EPSV, epsv when it has answered it.
	noEPSV, epsv bool
	prepared     prepared
	// serial is shared by the connections of a remote: set when the server has not answered a
	// command that was sent before the reply to the one before.
	serial *atomic.Bool
	// proven is shared, too: set when the server has answered such a command.
	proven *atomic.Bool

	mu  sync.Mutex // guards err
	err error      // not nil: the connection is not to be used again
}

// ftpReply is a reply (RFC 959 section 4.2).
type ftpReply struct {
	code  int
	lines []string // without the codes of the first and the last
}

func (r ftpReply) text() string { return r.lines[len(r.lines)-1] }

// all has all lines as one. The reason is often in the first one: Pure-FTPd's last line of a failed
// upload tells how fast it was.
func (r ftpReply) all() string {
	texts := make([]string, 0, len(r.lines))
	for _, line := range r.lines {
		line = strings.TrimPrefix(line, strconv.Itoa(r.code)+"-")
		if line = strings.TrimSpace(line); line != "" {
			texts = append(texts, line)
		}
	}
	return strings.Join(texts, "; ")
}

// cutOff reports whether a data connection could not be made or was lost. The server's own trouble
// with a file is 451, in place of which vsftpd says 426, too.
func (r ftpReply) cutOff() bool {
	return r.code == 425 || r.code == 426 && !strings.Contains(strings.ToLower(r.text()), "reading local file")
}

// Err implements session.
func (c *ftpConn) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// Close implements session. It does not say QUIT: a server need not be waited for.
func (c *ftpConn) Close() error {
	_ = c.broken(net.ErrClosed)
	return nil
}

// broken ends the connection.
func (c *ftpConn) broken(err error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err == nil {
		c.err = err
		_ = c.raw.Close() // of TLS, it would wait for the server
	}
	return err
}

// watch ends the connection, and waits for data connections, when ctx ends. stop ends the watch, and reports
// whether ctx had not ended: if it had, the connection has ended when stop returns, and not later, under
// whoever has it then.
func (c *ftpConn) watch(ctx context.Context, data ...net.Conn) (stop func() bool) {
	end := context.AfterFunc(ctx, func() {
		_ = c.broken(ctx.Err())
		for _, nc := range data {
			_ = nc.SetDeadline(time.Unix(1, 0))
		}
	})
	return func() bool {
		if end() {
			return true
		}
		if err := ctx.Err(); err != nil { // nil: stop was called before
			_ = c.broken(err)
		}
		return false
	}
}

// dialFTP connects and logs in.
func dialFTP(ctx context.Context, cfg *FTPConfig) (*ftpConn, error) {
	nc, err := cfg.Dial(ctx, "tcp", cfg.Addr)
	if err != nil {
		return nil, failOS("connect", "", err)
	}
	c := &ftpConn{cfg: cfg, raw: nc, nc: nc, feats: map[string]string{}}
	stop := c.watch(ctx)
	defer stop()
	if err := c.login(ctx); err != nil {
		_ = c.broken(err)
		if cause := ctx.Err(); cause != nil {
			return nil, cause
		}
		return nil, err
	}
	return c, nil
}

func (c *ftpConn) login(ctx context.Context) error {
	if c.cfg.TLS != nil {
		// Data connections resume the session of their control connection, as servers want
		// it: so the cache has no sessions of others. Tickets are found by the name.
		c.tls = c.cfg.TLS.Clone()
		c.tls.ClientSessionCache = keptSessions{tls.NewLRUClientSessionCache(1)}
		if host, _, err := net.SplitHostPort(c.cfg.Addr); err == nil && c.tls.ServerName == "" {
			c.tls.ServerName, _, _ = strings.Cut(host, "%") // a zone is of this machine, and not in a certificate
		}
	}
	if c.cfg.TLS != nil && c.cfg.Implicit {
		if err := c.startTLS(ctx); err != nil {
			return err
		}
	}
	c.in = bufio.NewReaderSize(c.nc, maxReplyLine)
	began := time.Now()
	r, err := c.reply("connect")
	for err == nil && r.code == 120 && time.Since(began) < c.cfg.Timeout { // ready in a while
		r, err = c.reply("connect")
	}
	switch {
	case err == nil && r.code == 120: // what may be over at the next attempt
		err = fail("connect", "", KindConnection, replyText(r))
	case err == nil && r.code != 220:
		err = c.refused("connect", "", r)
	}
	if err == nil && c.cfg.TLS != nil && !c.cfg.Implicit {
		if _, err = c.want("connect", "", 234, "AUTH TLS"); err == nil { // RFC 4217 section 4
			if c.in.Buffered() > 0 {
				return failf("connect", "", KindProtocol, "plain text after AUTH TLS")
			}
			if err = c.startTLS(ctx); err == nil {
				c.in = bufio.NewReaderSize(c.nc, maxReplyLine)
			}
		}
	}
	if err != nil {
		return err
	}
	if err := c.user(); err != nil {
		return err
	}
	if c.tls != nil {
		if _, err := c.want("connect", "", 200, "PBSZ 0"); err != nil {
			return err
		}
		// Never in clear what was asked for in TLS.
		if _, err := c.want("connect", "", 200, "PROT P"); err != nil {
			return err
		}
	}
	return c.settle()
}

func (c *ftpConn) user() error {
	r, err := c.cmd("log in", "", "USER "+c.cfg.User)
	if err == nil && r.code == 331 {
		r, err = c.cmd("log in", "", "PASS "+c.cfg.Password)
	}
	if err == nil && r.code != 230 && r.code != 202 {
		err = c.refused("log in", "", r)
	}
	return err
}

// settle asks what the server can do, and makes transfers binary.
func (c *ftpConn) settle() error {
	r, err := c.cmd("connect", "", "FEAT") // RFC 2389
	if err != nil {
		return err
	}
	if r.code == 211 {
		for _, line := range r.lines {
			name, args, _ := strings.Cut(strings.TrimSpace(line), " ")
			c.feats[strings.ToUpper(name)] = args
		}
	}
	if _, ok := c.feats["UTF8"]; ok {
		if _, err := c.cmd("connect", "", "OPTS UTF8 ON"); err != nil {
			return err
		}
	}
	if facts, ok := c.feats["MLST"]; ok {
		if off := factsOff(facts); off != "" {
			if _, err := c.cmd("connect", "", "OPTS MLST "+off); err != nil {
				return err
			}
		}
	}
	began := time.Now()
	if _, err := c.want("connect", "", 200, "TYPE I"); err != nil {
		return err
	}
	c.trip = time.Since(began)
	r, err = c.want("connect", "", 257, "PWD")
	if err != nil {
		return err
	}
	c.home = quotedPath(r.text())
	c.cwd = c.home
	return nil
}

// factsOff returns all facts that are of use, when some are not on ("*") already.
func factsOff(facts string) string {
	var all strings.Builder
	off := false
	for fact := range strings.SplitSeq(facts, ";") {
		name, on := strings.CutSuffix(fact, "*")
		switch strings.ToLower(name) {
		case "type", "size", "modify", "unix.mode", "unix.uid", "unix.gid", "unix.owner", "unix.group":
			all.WriteString(name + ";")
			off = off || !on
		}
	}
	if !off {
		return ""
	}
	return all.String()
}

// quotedPath reads the path of a 257 reply: in quotes, which are doubled inside.
func quotedPath(text string) string {
	_, rest, found := strings.Cut(text, `"`)
	end := strings.LastIndexByte(rest, '"')
	if !found || end < 0 || !strings.HasPrefix(rest, "/") {
		return ""
	}
	return strings.ReplaceAll(rest[:end], `""`, `"`)
}

// keptSessions does not forget a session whose handshake has failed: a data connection that is given up, since the
// command was refused, says nothing of the session. One that fails otherwise ends the control connection.
type keptSessions struct{ tls.ClientSessionCache }

func (k keptSessions) Put(key string, s *tls.ClientSessionState) {
	if s != nil {
		k.ClientSessionCache.Put(key, s)
	}
}

func (c *ftpConn) startTLS(ctx context.Context) error {
	if err := c.nc.SetDeadline(time.Now().Add(c.cfg.Timeout)); err != nil {
		return failOS("connect", "", err)
	}
	t := tls.Client(c.nc, c.tls)
	if err := t.HandshakeContext(ctx); err != nil {
		var cert *tls.CertificateVerificationError
		if errors.As(err, &cert) {
			return fail("connect", "", KindPermission, err)
		}
		return failOS("connect", "", c.silence(err))
	}
	c.nc = t
	return nil
}

// send sends command lines, and what is to go with them.
func (c *ftpConn) send(op, path string, lines ...string) error {
	if err := c.settled(op); err != nil {
		return err
	}
	for _, line := range lines {
		if strings.ContainsAny(line, "\r\n\x00") {
			return failf(op, path, KindName, "FTP cannot carry a line break in a path")
		}
	}
	if err := c.nc.SetDeadline(time.Now().Add(c.cfg.Timeout)); err != nil {
		return c.broken(failOS(op, path, err))
	}
	if c.prepared.wanted {
		c.prepared = prepared{asked: true}
		lines = append(lines[:len(lines):len(lines)], "EPSV")
	}
	if _, err := c.nc.Write([]byte(strings.Join(lines, "\r\n") + "\r\n")); err != nil {
		return c.broken(fail(op, path, KindConnection, err))
	}
	return nil
}

// reply reads a reply. Errors are of the connection, which has ended then.
func (c *ftpConn) reply(op string) (ftpReply, error) {
	var r ftpReply
	if err := c.nc.SetDeadline(time.Now().Add(c.cfg.Timeout)); err != nil {
		return r, c.broken(fail(op, "", KindConnection, err))
	}
	size := 0
	for range maxReplyLines {
		b, err := c.in.ReadSlice('\n')
		size += len(b)
		switch {
		case size > maxReplyBytes:
			return r, c.broken(failf(op, "", KindProtocol, "a reply has more than %d bytes", maxReplyBytes))
		case errors.Is(err, bufio.ErrBufferFull):
			return r, c.broken(failf(op, "", KindProtocol, "a reply has a line of more than %d bytes", maxReplyLine))
		case err != nil:
			return r, c.broken(failf(op, "", KindConnection, "reply: %w", c.silence(err)))
		}
		line := strings.TrimRight(string(b), "\r\n")
		code, cerr := 0, errors.New("no code")
		if len(line) >= 3 {
			code, cerr = strconv.Atoi(line[:3])
		}
		coded := cerr == nil && code >= 100 && code < 600 && (len(line) == 3 || line[3] == ' ' || line[3] == '-')
		last := coded && (len(line) == 3 || line[3] == ' ')
		switch {
		case r.code == 0 && !coded:
			return r, c.broken(failf(op, "", KindProtocol, "%s is no reply", quote(line)))
		case r.code == 0 || coded && code == r.code && last:
			r.code = code
			r.lines = append(r.lines, line[min(4, len(line)):])
		default:
			r.lines = append(r.lines, line)
			last = false
		}
		if last {
			if r.code == 421 { // the server closes
				return r, c.broken(failf(op, "", KindConnection, "%w", replyText(r)))
			}
			return r, nil
		}
	}
	return r, c.broken(failf(op, "", KindProtocol, "a reply has more than %d lines", maxReplyLines))
}

// cmd sends a command and reads its reply, whatever it is.
func (c *ftpConn) cmd(op, path, line string) (ftpReply, error) {
	if err := c.send(op, path, line); err != nil {
		return ftpReply{}, err
	}
	return c.reply(op)
}

// means reports whether a reply says what one with the code would. That something was done is 200 to some servers and 250 to others;
// 202 says that nothing was (RFC 959 section 4.2.2).
func (r ftpReply) means(code int) bool {
	if code == 200 || code == 250 {
		return r.code >= 200 && r.code <= 299 && r.code != 202
	}
	return r.code == code
}

// want is cmd, with an error for a reply that means something else than one with the code.
func (c *ftpConn) want(op, path string, code int, line string) (ftpReply, error) {
	r, err := c.cmd(op, path, line)
	if err == nil && !r.means(code) {
		err = c.refused(op, path, r)
	}
	return r, err
}

// refused sorts a reply that is not what was hoped for. The codes do not tell missing from
// forbidden (both are 550), the texts of most servers do.
func (c *ftpConn) refused(op, path string, r ftpReply) error {
	kind := KindOther
	text := strings.ToLower(r.all())
	has := func(parts ...string) bool {
		for _, p := range parts {
			if strings.Contains(text, p) {
				return true
			}
		}
		return false
	}
	switch {
	case r.cutOff():
		kind = KindConnection
	case r.code == 500, r.code == 502, r.code == 504:
		kind = KindUnsupported
	case r.code == 530, r.code == 534, r.code >= 400 && has("permission", "denied", "not permitted", "forbidden"):
		kind = KindPermission
	case r.code >= 400 && has("no such", "not found", "not exist", "cannot find", "can't find",
		"cannot be listed", "can't check for file existence"): // ProFTPD's and Pure-FTPd's MLST
		kind = KindNotFound
	case r.code < 500 && op == "list" && !has("no files"): // 4yz passes, by RFC 959 section 4.2.1; some say so of what is empty
		kind = KindBusy
	}
	return fail(op, path, kind, replyText(r))
}

// replyError is a reply as an error, fit for a message.
type replyError struct {
	code int
	text string // of its last line
	all  string
}

func (e *replyError) Error() string {
	return fmt.Sprintf("the server says %d %s", e.code, strings.Trim(quote(e.all), `"`))
}

func replyText(r ftpReply) error { return &replyError{r.code, r.text(), r.all()} }

// silence says of an error of a read or a write what it means: the server has closed the connection, or has done nothing for too long.
func (c *ftpConn) silence(err error) error {
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return fmt.Errorf("%w for %v", ErrSilent, c.cfg.Timeout)
	}
	return noEOF(err)
}

// noEOF makes an unexpected one of an end.
func noEOF(err error) error {
	if isEOF(err) {
		return errors.New("the connection was closed")
	}
	return err
}
