package sshsrv

import (
	"errors"
	"io"
	"net"
	"sync"
)

// pipeListener is a listener whose connections exist in memory alone, so that tests of
// time can run in a bubble of synctest.
type pipeListener struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func newPipeListener() *pipeListener {
	return &pipeListener{conns: make(chan net.Conn), closed: make(chan struct{})}
}

// instead replaces a real listener.
func (l *pipeListener) instead(ln net.Listener) net.Listener {
	_ = ln.Close()
	return l
}

// dial makes a connection. Between its ends sits a relay: both sides of SSH begin with a
// Write, and a Write to a pipe alone would wait for the other's Read.
func (l *pipeListener) dial() net.Conn {
	client, near := net.Pipe()
	far, server := net.Pipe()
	relay := func(to, from net.Conn) {
		_, _ = io.Copy(to, from)
		_ = to.Close()
		_ = from.Close()
	}
	go relay(near, far)
	go relay(far, near)
	l.conns <- server
	return client
}

func (l *pipeListener) Accept() (net.Conn, error) {
	select {
	case nc := <-l.conns:
		return nc, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *pipeListener) Close() error {
	err := errors.New("closed twice")
	l.once.Do(func() { close(l.closed); err = nil })
	return err
}

func (l *pipeListener) Addr() net.Addr { return nil }
