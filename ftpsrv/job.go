package ftpsrv

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"os"
	"sync"

	ftpserver "github.com/fclairamb/ftpserverlib"
)

// job is a transfer: what is done over one data connection.
type job struct {
	conn *conn
	verb string // the client's
	path string // the client's
	port dataPort
	tls  *tls.Config // of the data connection; nil: none
	// open opens what is transferred; name is the path, absolute.
	open func(j *job, name string) (ftpserver.FileTransfer, error)
	// text is the 150 reply, when it is not the usual one.
	text string

	ctx  context.Context //nolint:containedctx // ends when the transfer is cut off; afero's methods are not given one
	stop context.CancelCauseFunc

	mu   sync.Mutex // guards data
	data *dataConn  // nil: not made yet
}

// newJob takes the prepared data connection over; opening what is transferred may take longer than the port
// is kept for.
func (c *conn) newJob(verb, path string, open func(*job, string) (ftpserver.FileTransfer, error)) *job {
	j := &job{conn: c, verb: verb, path: path, port: c.data, open: open}
	c.data = nil
	c.unused.Stop()
	if c.protected {
		j.tls = c.tls
	}
	j.ctx, j.stop = context.WithCancelCause(c.ctx)
	return j
}

// opening is the text of the 150 reply.
func (j *job) opening() string {
	if j.text != "" {
		return j.text
	}
	return "opening the data connection for " + j.verb
}

// connect makes the data connection. Its error is noted for the reply.
func (j *job) connect() (net.Conn, error) {
	nc, err := j.port.open(j.ctx)
	if err != nil {
		if why := j.cutOff(); why != nil {
			err = why
		} else {
			j.conn.log.Info("no data connection", "op", j.verb, "err", err)
			err = refusal(codeNoData, "no data connection: %s", dataReason(err))
		}
		j.note(err)
		return nil, err
	}
	d := newDataConn(nc, j.tls, j.conn.server.cfg.DataTimeout)
	j.mu.Lock()
	defer j.mu.Unlock()
	if why := j.cutOff(); why != nil {
		_ = nc.Close()
		j.note(why)
		return nil, why
	}
	j.data = d
	return d, nil
}

// dataReason is what a client may know of why there is no data connection.
func dataReason(err error) string {
	var ne net.Error
	switch {
	case errors.Is(err, net.ErrClosed):
		return "it was prepared too long ago, send EPSV or PASV again"
	case errors.Is(err, os.ErrDeadlineExceeded), errors.As(err, &ne) && ne.Timeout():
		return "timed out; is there a firewall in between?"
	default:
		return "refused or unreachable"
	}
}

// cancel cuts the transfer off.
func (j *job) cancel(why error) {
	j.stop(why)
	j.port.close()
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.data != nil {
		// Not Close of a TLS connection, which would wait for a Write that hangs.
		nc := j.data.Conn
		if t, ok := nc.(*tls.Conn); ok {
			nc = t.NetConn()
		}
		_ = nc.Close()
	}
}

var errOver = errors.New("the transfer is over")

// release gives up the context of a transfer that is over: the connection's would hold it.
func (j *job) release() { j.stop(errOver) }

// cutOff returns the reply to a transfer that was cut off, nil to one that was not.
func (j *job) cutOff() error {
	if j.ctx.Err() == nil || errors.Is(context.Cause(j.ctx), errOver) {
		return nil
	}
	return refusal(codeAborted, "%s: transfer aborted", j.path)
}

// note keeps an error for the reply.
func (j *job) note(err error) {
	if x := j.conn.engine.current(); x != nil && x.job == j {
		x.note(err)
	}
}
