package sshclient

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/pkg/sftp"
	"golang.org/x/crypto/ssh"
)

// Client is a connection to a server, or with the openssh transport the processes of ssh
// that were started for one. It is safe for concurrent use. Close it.
type Client struct {
	d      *Dialer
	target *hop           // nil with the openssh transport
	root   net.Conn       // the outermost TCP connection
	hops   []*ssh.Client  // jump hosts, then the server
	guards []*guardedConn // of all hops
	heard  hearing        // of the sessions of SFTP

	ended chan struct{}
	tasks tasks

	mu        sync.Mutex // guards what follows
	cause     error      // why it ended; set before ended is closed, or before closing
	closing   bool
	processes map[*process]bool
	first     *sftp.Client // of the openssh transport, until somebody takes it
}

// start runs the tasks of a native connection. Close waits for them.
func (c *Client) start() {
	c.tasks.Go(func() {
		c.end(endError(c.String(), c.SSH().Wait()))
		close(c.ended)
	})
	if c.target.keepAlive > 0 {
		c.tasks.Go(c.keepAlive)
	}
}

// endError is why a connection ended. What the network does not explain is what the server
// said last.
func endError(host string, err error) error {
	if err == nil {
		err = io.EOF
	}
	e := connectError(context.Background(), host, err)
	if KindOf(e) == KindOther {
		return &Error{Kind: KindClosed, Host: host, Err: err, Hint: "the server ended the connection: its log says why"}
	}
	return e
}

// SSH is the connection below, for what is not SFTP; nil with the openssh transport. It is
// closed by Close.
func (c *Client) SSH() *ssh.Client {
	if len(c.hops) == 0 {
		return nil
	}
	return c.hops[len(c.hops)-1]
}

// String is the server in messages.
func (c *Client) String() string { return c.d.String() }

// Done is closed when the connection has ended, whatever the reason. With the openssh
// transport that is Close.
func (c *Client) Done() <-chan struct{} { return c.ended }

// Err says why the connection has ended, nil while it lives and after Close. What SFTP
// reports is only that it was lost.
func (c *Client) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closing {
		return nil
	}
	return c.cause
}

// Close ends the connection and all sessions on it, and waits until nothing of it runs.
func (c *Client) Close() error {
	c.mu.Lock()
	again := c.closing
	c.closing = true
	var processes []*process
	for p := range c.processes {
		processes = append(processes, p)
	}
	first := c.first
	c.first = nil
	c.mu.Unlock()
	var errs []error
	for _, p := range processes {
		errs = append(errs, p.end())
	}
	if first != nil {
		_ = first.Close() // its process is over
	}
	if len(c.hops) > 0 {
		c.closeAll()
	} else if !again {
		close(c.ended)
	}
	c.tasks.Wait()
	return errors.Join(errs...)
}

// closeAll closes all hops; the TCP connection first, so that no hop waits for an answer.
func (c *Client) closeAll() {
	if c.root != nil {
		_ = c.root.Close()
	}
	for _, hop := range slices.Backward(c.hops) {
		_ = hop.Close()
		_ = hop.Wait()
	}
	for _, g := range c.guards {
		_ = g.out.Wait() // what it lacked was given up with the connection
	}
}

// guard is what stands before the connection to the server.
func (c *Client) guard() *guardedConn { return c.guards[len(c.guards)-1] }

// end remembers why the connection ends, and ends it.
func (c *Client) end(cause error) {
	c.mu.Lock()
	if c.cause == nil {
		c.cause = cause
	}
	c.mu.Unlock()
	_ = c.root.Close()
}

// keepAlive asks the server whether it lives (keepalive@openssh.com, as ServerAliveInterval
// of ssh does) and ends the connection when nothing at all came for the count of intervals:
// neither an answer nor data, since an answer waits behind the data of a slow link.
func (c *Client) keepAlive() {
	ticker := time.NewTicker(c.target.keepAlive)
	defer ticker.Stop()
	answered := make(chan struct{}, 1)
	waiting, silent, seen := false, 0, c.guard().received.Load()
	for {
		select {
		case <-c.ended:
			return
		case <-answered:
			waiting, silent = false, 0
			continue
		case <-ticker.C:
		}
		if now := c.guard().received.Load(); now != seen {
			seen, silent = now, 0
		}
		if silent >= c.target.keepAliveCount && waiting {
			c.end(timeoutError(c.String(), fmt.Errorf("no answer for %v", time.Duration(silent)*c.target.keepAlive)))
			return
		}
		silent++
		if !waiting {
			waiting = true
			c.tasks.Go(func() {
				// A server that does not know the request answers too.
				_, _, _ = c.SSH().SendRequest("keepalive@openssh.com", true, nil)
				answered <- struct{}{}
			})
		}
	}
}

// Heard is when something came last in a session of SFTP: a server that is alive otherwise does not count.
func (c *Client) Heard() time.Time { return c.heard.last() }

// SFTP starts a session of SFTP with Config.SFTP: a channel of the connection, or a process
// of ssh. Closing it ends the session only. When ctx ends, or the login's time limit is
// over, before the server has answered, the whole native connection is closed: there is no
// way to give up one channel that the server does not open.
func (c *Client) SFTP(ctx context.Context) (*sftp.Client, error) {
	limit := pick(c.d.cfg.LoginTimeout, DefaultLoginTimeout)
	ctx, cancel := context.WithTimeoutCause(ctx, limit, &stageTimeout{stage: "SFTP session", limit: limit})
	defer cancel()
	if c.target == nil {
		c.mu.Lock()
		first := c.first
		c.first = nil
		c.mu.Unlock()
		if first != nil {
			return first, nil
		}
		return c.startProcess(ctx)
	}
	stop := context.AfterFunc(ctx, func() { c.end(connectError(ctx, c.String(), nil)) })
	defer stop()
	s, err := c.openSession()
	if err == nil {
		var client *sftp.Client
		if client, err = sftp.NewClientPipe(c.heard.from(s), s, c.d.cfg.SFTP...); err == nil {
			return client, nil
		}
		err = s.explain(err)
		_ = s.Close()
	}
	return nil, c.sessionError(ctx, err)
}

// sessionError is why a session cannot be had. ctx is that of its start.
func (c *Client) sessionError(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return connectError(ctx, c.String(), context.Cause(ctx))
	}
	if cause := c.Err(); cause != nil && KindOf(cause) == KindTimeout {
		return cause
	}
	return connectError(ctx, c.String(), err)
}
