package sshclient

import (
	"context"
	"errors"
	"io"
	"sync"
	"sync/atomic"
)

// Stream makes a connection with one session of SFTP and returns the session's stream as it
// is, for a client of the caller's own; Config.SFTP means nothing then. Close ends the
// connection, and Reads and Writes with it.
//
// Why a server does not speak SFTP after all, and with the openssh transport why it does not
// let us in, is the error of Read, an *Error as SFTP would return it.
func (d *Dialer) Stream(ctx context.Context) (io.ReadWriteCloser, error) {
	if d.cfg.Transport == OpenSSH {
		if err := ctx.Err(); err != nil {
			return nil, context.Cause(ctx)
		}
		c := d.newProcesses()
		p, err := c.launch()
		if err != nil {
			return nil, errors.Join(err, c.Close())
		}
		return &stream{c: c, rw: p, raw: p, explain: func(err error) error { return p.explain(err) }, began: func() { p.running.Store(true) }}, nil
	}
	ctx, cancel := d.clock.bound(ctx, d.cfg.Total)
	defer cancel()
	c, err := d.dial(ctx)
	if err != nil {
		return nil, err
	}
	limit := pick(d.cfg.LoginTimeout, DefaultLoginTimeout)
	ctx, cancelSession := context.WithTimeoutCause(ctx, limit, &stageTimeout{stage: "SFTP session", limit: limit})
	defer cancelSession()
	stop := context.AfterFunc(ctx, func() { c.end(connectError(ctx, c.String(), nil)) })
	s, err := c.openSession()
	if !stop() && err == nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		err = c.sessionError(ctx, err)
		return nil, errors.Join(err, c.Close())
	}
	return &stream{c: c, rw: s, raw: s.Channel, explain: s.explain, began: func() {}}, nil
}

// stream is the session of Dialer.Stream. Read and Write are each for one goroutine at a time;
// Close may be called beside.
type stream struct {
	c       *Client
	rw      io.ReadWriteCloser
	raw     io.Reader   // rw without notes of what was read
	started atomic.Bool // the server has begun to speak SFTP
	began   func()      // called then
	explain func(error) error

	once sync.Once // guards why
	why  error
}

// failed is why there is no SFTP.
func (s *stream) failed(err error) error {
	s.once.Do(func() { s.why = s.explain(err) })
	return s.why
}

func (s *stream) Read(p []byte) (int, error) {
	if s.started.Load() {
		n, err := s.raw.Read(p)
		return n, s.timeout(err)
	}
	n, err := s.rw.Read(p)
	if n > 0 && p[0] == 0 { // as every packet of SFTP of a sensible size
		s.started.Store(true)
		s.began()
		return n, err
	}
	if n == 0 && err == nil {
		return 0, nil
	}
	if err == nil {
		err = errNoPacket
	}
	return 0, s.failed(err)
}

// errNoPacket means that a server sends something else than SFTP.
var errNoPacket = errors.New("not a packet of SFTP")

func (s *stream) Write(p []byte) (int, error) {
	n, err := s.rw.Write(p)
	if err != nil && !s.started.Load() {
		return n, s.failed(err)
	}
	return n, s.timeout(err)
}

// timeout is err, or why the keep-alive has ended the connection.
func (s *stream) timeout(err error) error {
	if err == nil {
		return nil
	}
	if cause := s.c.Err(); cause != nil && KindOf(cause) == KindTimeout {
		return cause
	}
	return err
}

// Close ends the connection and waits until nothing of it runs.
func (s *stream) Close() error { return s.c.Close() }
