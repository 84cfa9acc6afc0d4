package sshsrv

import (
	"context"
	"net"
	"strings"

	gliderlabs "github.com/gliderlabs/ssh"
	"golang.org/x/crypto/ssh"

	"github.com/snapgate/gateway/vfs"
)

// frontEnd is the server of this one connection. One for all connections would not do:
// its callback for failures is not told whose they are.
//
// What is left out is left out on purpose (see doc.go): gliderlabs' own authentication
// handlers, its session handler, its deadlines. Without a handler for them it refuses all
// global requests, and all channels that are no sessions, one after the other.
func (c *conn) frontEnd(ctx, login context.Context) *gliderlabs.Server {
	return &gliderlabs.Server{
		Version: strings.TrimPrefix(c.server.cfg.Version, versionPrefix), // put in front again
		Banner:  c.server.cfg.Banner,
		ServerConfigCallback: func(front gliderlabs.Context) *ssh.ServerConfig {
			c.front = front
			return c.authConfig(ctx, login)
		},
		ConnectionFailedCallback: func(_ net.Conn, err error) { c.logFailure(err) },
		RequestHandlers:          map[string]gliderlabs.RequestHandler{},
		ChannelHandlers: map[string]gliderlabs.ChannelHandler{
			"session": func(_ *gliderlabs.Server, sc *ssh.ServerConn, nc ssh.NewChannel, _ gliderlabs.Context) {
				c.handleChannel(ctx, sc, nc)
			},
		},
	}
}

// serverConn returns the connection below, nil as long as there is none.
func (c *conn) serverConn() *ssh.ServerConn {
	if c.front == nil {
		return nil
	}
	sc, _ := c.front.Value(gliderlabs.ContextKeyConn).(*ssh.ServerConn)
	return sc
}

// maxRefusals is how many channels beyond the limit may wait for their refusal at once.
// Each has a goroutine of gliderlabs' until the peer takes the refusal; a client that
// opens so many before it reads an answer only wants the memory.
const maxRefusals = 100

// handleChannel serves a session channel, or refuses it. gliderlabs starts a goroutine
// for it and does not wait: one that starts after the end of the connection touches
// nothing.
func (c *conn) handleChannel(ctx context.Context, sc *ssh.ServerConn, nc ssh.NewChannel) {
	if !c.enterHandler() {
		return
	}
	defer c.leaveHandler()
	defer c.recovered("channel")
	principal := principalOf(sc.Permissions)
	if principal == nil {
		c.log.Error("login without a principal")
		c.Close()
		return
	}
	if !c.enterChannel(principal) {
		_ = nc.Reject(ssh.ResourceShortage, "too many channels") // fails with the connection
		return
	}
	defer c.leaveChannel()
	ch, reqs, err := nc.Accept()
	if err != nil {
		return // the connection is gone
	}
	c.serveChannel(ctx, ch, reqs)
}

// enterHandler counts a goroutine of a channel. It is false when the connection has ended
// and when there are too many, which ends it.
func (c *conn) enterHandler() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ended {
		return false
	}
	if c.handlers >= c.server.cfg.Limits.Channels+maxRefusals {
		c.log.Warn("connection closed", "err", errTooManyChannels)
		c.ended = true // for those that are to start yet, too
		c.Close()
		return false
	}
	c.handlers++
	c.running.Add(1)
	return true
}

func (c *conn) leaveHandler() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.handlers--
	c.running.Done()
}

func (c *conn) enterChannel(p *vfs.Principal) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.draining || c.channels >= c.server.cfg.Limits.Channels || !c.server.memory.enterChannel(p.User) {
		return false
	}
	c.channels++
	c.principal = p // the same for every channel
	return true
}

func (c *conn) leaveChannel() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.channels--
	c.server.memory.leaveChannel(c.principal.User)
}
