package ftpsrv

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	ftpserver "github.com/fclairamb/ftpserverlib"
)

// engine is ftpserverlib's server of this one connection. One for all connections would
// not do: its callbacks for data connections are not told whose they are.
//
// It reads the lines that conn.next gives it, one at a time, and its replies end in
// answered: it never sees the control connection, and knows nothing of TLS, passwords and
// data connections.
type engine struct {
	conn *conn
	ctx  ftpserver.ClientContext // set when it has begun

	queue []*exchange // to be read next; of the loop
	rest  []byte      // of the line that is being read; of the loop

	mu  sync.Mutex // guards what follows; a leaf
	cur *exchange
	out []byte // of a reply that is not whole yet

	done chan struct{} // closed when the library's loop has ended
	once sync.Once
}

// exchange is a command that the library is given, and its reply.
type exchange struct {
	verb, arg string // for the library
	asked     string // the client's own command and path, for the reply
	path      string
	job       *job   // of a transfer, else nil
	seq       uint64 // of a transfer: of its command
	prepares  *job   // of the EPSV before a transfer, which the client does not see

	// finish, when not nil, takes the final reply's code instead of the client.
	finish func(code int, text string)

	mu  sync.Mutex // guards err; a leaf
	err error      // the first that the driver met

	over atomic.Bool   // of a transfer: its final reply is about to be sent
	done chan struct{} // of a transfer: closed when it has been sent
}

// note keeps an error of the driver for the reply; nil and later ones change nothing.
func (x *exchange) note(err error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.err == nil {
		x.err = err
	}
}

func (x *exchange) noted() error {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.err
}

// cancel cuts a transfer off.
func (x *exchange) cancel(why error) { x.job.cancel(why) }

func newEngine(c *conn) *engine { return &engine{conn: c, done: make(chan struct{})} }

// run runs the library's loop until the connection ends.
func (e *engine) run() {
	server := ftpserver.NewFtpServer(&mainDriver{e})
	server.Logger = slog.New(quietHandler{e.conn.log.Handler()})
	if err := server.Listen(); err != nil {
		e.conn.log.Error("cannot start", "err", err) // its settings are wrong
		return
	}
	var accept sync.WaitGroup
	accept.Go(func() { _ = server.Serve() }) // ends with the listener
	<-e.done
	accept.Wait()
}

// push queues exchanges that the library reads next.
func (e *engine) push(x ...*exchange) { e.queue = append(e.queue, x...) }

// queued takes the next exchange from the queue.
func (e *engine) queued() *exchange {
	if len(e.queue) == 0 {
		return nil
	}
	x := e.queue[0]
	e.queue = e.queue[1:]
	return x
}

func (e *engine) current() *exchange {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.cur
}

// path is the working directory.
func (e *engine) path() string { return e.ctx.Path() }

// Read implements net.Conn for the library: at most one line at a time, so that a command
// has been answered when the next one is asked for.
func (e *engine) Read(p []byte) (int, error) {
	if len(e.rest) == 0 {
		x, ok := e.conn.next()
		if !ok {
			return 0, io.EOF
		}
		e.mu.Lock()
		e.cur = x
		e.mu.Unlock()
		if x.job != nil {
			e.conn.setTransfer(x)
		}
		e.rest = []byte(x.verb + " " + x.arg + "\r\n")
	}
	n := copy(p, e.rest)
	e.rest = e.rest[n:]
	return n, nil
}

// maxReply bounds what is kept of a reply; the library's have a path at most.
const maxReply = 64 << 10

// Write implements net.Conn for the library: it takes replies apart.
func (e *engine) Write(p []byte) (int, error) {
	e.mu.Lock()
	e.out = append(e.out, p...)
	var lines []string
	for {
		i := bytes.IndexByte(e.out, '\n')
		if i < 0 {
			break
		}
		lines = append(lines, string(bytes.TrimRight(e.out[:i], "\r\n")))
		e.out = e.out[i+1:]
	}
	if len(e.out) > maxReply {
		e.out = nil
	}
	x := e.cur
	e.mu.Unlock()
	for _, line := range lines {
		code, err := strconv.Atoi(line[:min(3, len(line))])
		if err != nil || len(line) < 4 || line[3] != ' ' {
			continue // a line of a multi-line reply, of which the last one counts
		}
		e.answered(x, code, line[4:])
	}
	return len(p), nil
}

// answered hands a reply on.
func (e *engine) answered(x *exchange, code int, text string) {
	switch {
	case x == nil: // the greeting
		e.conn.ctl.reply(code, text)
	case code < codeOK:
		e.conn.ctl.reply(code, x.job.opening())
	case x.finish != nil:
		x.finish(code, text)
	default:
		code, text = e.conn.final(x, code, text)
		x.over.Store(true)
		e.conn.ctl.reply(code, text)
		if x.done != nil {
			close(x.done)
		}
	}
}

// Close implements net.Conn for the library: its loop has ended.
func (e *engine) Close() error {
	e.once.Do(func() { close(e.done) })
	return nil
}

// LocalAddr implements net.Conn.
func (e *engine) LocalAddr() net.Addr { return e.conn.ctl.raw.LocalAddr() }

// RemoteAddr implements net.Conn.
func (e *engine) RemoteAddr() net.Addr { return e.conn.ctl.raw.RemoteAddr() }

// SetDeadline implements net.Conn, without effect: deadlines are conn's.
func (*engine) SetDeadline(time.Time) error { return nil }

// SetReadDeadline implements net.Conn, without effect.
func (*engine) SetReadDeadline(time.Time) error { return nil }

// SetWriteDeadline implements net.Conn, without effect.
func (*engine) SetWriteDeadline(time.Time) error { return nil }

// oneConn is the library's listener: it has this one connection.
type oneConn struct {
	e    *engine
	once sync.Once
}

// Accept implements net.Listener.
func (l *oneConn) Accept() (nc net.Conn, err error) {
	l.once.Do(func() { nc = l.e })
	if nc != nil {
		return nc, nil
	}
	<-l.e.done
	return nil, &net.OpError{Op: "accept", Err: net.ErrClosed} // what the library takes for an end in order
}

// Close implements net.Listener.
func (l *oneConn) Close() error { return l.e.Close() }

// Addr implements net.Listener.
func (l *oneConn) Addr() net.Addr { return l.e.LocalAddr() }

// mainDriver is what the library asks about the connection.
type mainDriver struct{ e *engine }

// Days of seconds: the library's own time-outs must never be the first.
const never = 10 * 24 * 3600

// GetSettings implements ftpserver.MainDriver.
func (m *mainDriver) GetSettings() (*ftpserver.Settings, error) {
	return &ftpserver.Settings{
		Listener:               &oneConn{e: m.e},
		IdleTimeout:            never,
		ConnectionTimeout:      never,
		DefaultTransferType:    ftpserver.TransferTypeBinary,
		DisableASCIIConversion: true,
		DisableLISTArgs:        true,
		DisableActiveMode:      true,
		PasvConnectionsCheck:   ftpserver.IPMatchDisabled, // dataPort checks
		Banner:                 m.e.conn.server.cfg.Greeting,
	}, nil
}

// ClientConnected implements ftpserver.MainDriver.
func (m *mainDriver) ClientConnected(cc ftpserver.ClientContext) (string, error) {
	m.e.ctx = cc
	return m.e.conn.server.cfg.Greeting, nil
}

// ClientDisconnected implements ftpserver.MainDriver.
func (*mainDriver) ClientDisconnected(ftpserver.ClientContext) {}

// AuthUser implements ftpserver.MainDriver. Its user and password are made up: it is
// called when the login is done.
func (m *mainDriver) AuthUser(ftpserver.ClientContext, string, string) (ftpserver.ClientDriver, error) {
	if m.e.conn.sess == nil {
		return nil, errors.New("no session")
	}
	return &driver{conn: m.e.conn}, nil
}

// GetTLSConfig implements ftpserver.MainDriver: encryption is ours.
func (*mainDriver) GetTLSConfig() (*tls.Config, error) { return nil, errors.New("no TLS") }

// WrapPassiveListener implements ftpserver.MainDriverExtensionPassiveWrapper: the library's
// listener is never told to anybody. It is closed when the transfer begins, for which the
// data connection is there or prepared.
func (m *mainDriver) WrapPassiveListener(ln net.Listener) (net.Listener, error) {
	x := m.e.current()
	if x == nil || x.prepares == nil {
		_ = ln.Close()
		return nil, errors.New("no transfer")
	}
	return &dataListener{Listener: ln, job: x.prepares}, nil
}

// dataListener gives the library the data connection of a job.
type dataListener struct {
	net.Listener // the library's own
	job          *job
}

// Accept implements net.Listener.
func (l *dataListener) Accept() (net.Conn, error) {
	_ = l.Listener.Close()
	return l.job.connect()
}

// quietHandler logs what the library has to say as debugging, but for its panics: whatever
// it reports comes from us, who report it better.
type quietHandler struct{ slog.Handler }

// Enabled implements slog.Handler.
func (h quietHandler) Enabled(ctx context.Context, _ slog.Level) bool {
	return h.Handler.Enabled(ctx, slog.LevelError)
}

// Handle implements slog.Handler.
func (h quietHandler) Handle(ctx context.Context, r slog.Record) error {
	if r.Message != "Internal command handling error" {
		r.Level = slog.LevelDebug
	} else {
		r.Level = slog.LevelError
	}
	if !h.Handler.Enabled(ctx, r.Level) {
		return nil
	}
	return h.Handler.Handle(ctx, r)
}

// WithAttrs implements slog.Handler.
func (h quietHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return quietHandler{h.Handler.WithAttrs(attrs)}
}

// WithGroup implements slog.Handler.
func (h quietHandler) WithGroup(name string) slog.Handler {
	return quietHandler{h.Handler.WithGroup(name)}
}
