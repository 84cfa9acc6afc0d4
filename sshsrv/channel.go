package sshsrv

import (
	"context"
	"errors"
	"io"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"
)

// Exit statuses of a channel.
const (
	exitOK     = 0
	exitFailed = 1
)

// program is what a channel runs; it returns the exit status.
type program func(ctx context.Context, ch ssh.Channel) int

// serveChannel answers the requests of a session channel (RFC 4254 section 6). One program
// runs on it: a second request to start one is refused, and so is everything that a shell
// would need.
func (c *conn) serveChannel(ctx context.Context, ch ssh.Channel, reqs <-chan *ssh.Request) {
	var wg sync.WaitGroup
	defer wg.Wait()
	started := false
	for req := range reqs {
		var run program
		if !started {
			run = c.program(req)
		}
		if req.WantReply {
			_ = req.Reply(run != nil, nil) // fails with the connection
		}
		if run == nil {
			c.log.Debug("request refused", "type", clip(req.Type))
			continue
		}
		started = true
		wg.Go(func() {
			defer c.recovered("program")
			ctx, cancel := context.WithCancel(ctx)
			defer cancel()
			finish(ch, run(ctx, ch))
		})
	}
}

// program chooses what a request starts, nil when it is refused.
func (c *conn) program(req *ssh.Request) program {
	var payload struct{ Value string }
	switch req.Type {
	case "subsystem":
		if err := ssh.Unmarshal(req.Payload, &payload); err != nil || payload.Value != "sftp" {
			return nil
		}
		return c.sftp
	case "exec":
		if err := ssh.Unmarshal(req.Payload, &payload); err != nil {
			return nil
		}
		return c.exec(payload.Value)
	case "shell":
		return func(_ context.Context, ch ssh.Channel) int {
			say(ch.Stderr(), "This server offers SFTP only.\r\n")
			return exitFailed
		}
	default: // pty-req, env, x11-req, auth-agent-req@openssh.com, window-change, signal, …
		return nil
	}
}

// finish sends the exit status and closes the channel. Errors mean that the peer is gone.
func finish(ch ssh.Channel, status int) {
	_ = ch.CloseWrite()
	_, _ = ch.SendRequest("exit-status", false, ssh.Marshal(struct{ Status uint32 }{uint32(status)}))
	_ = ch.Close()
}

// say tells the user something; when it fails, the user is gone.
func say(w io.Writer, text string) { _, _ = io.WriteString(w, text) }

// sftp is the subsystem.
func (c *conn) sftp(ctx context.Context, ch ssh.Channel) int {
	sess, err := c.vfsSession(ctx)
	if err != nil {
		c.log.Error("cannot start a session", "err", err)
		say(ch.Stderr(), "cannot start a session\r\n")
		return exitFailed
	}
	h := newHandler(ctx, sess, c.log, &c.count)
	h.shim = newShim(activeChannel{ch, c}, h, c.server.memory)
	if !c.addShim(h.shim) {
		return exitFailed
	}
	defer c.removeShim(h.shim)
	err = h.run()
	switch {
	case err == nil, errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		c.log.Debug("sftp ended", "err", err)
		return exitOK
	default:
		c.log.Info("sftp ended", "err", err)
		return exitFailed
	}
}

// activeChannel notes when the client asks for something, and ends the connection of one
// that takes no answers: it could hold what they say in memory for ever, and its answers to
// keepalives would tell of nothing wrong.
type activeChannel struct {
	ssh.Channel
	conn *conn
}

// writePiece is how much of an answer a client must take in the peer timeout: what x/crypto
// puts into a packet of SSH.
const writePiece = 32 << 10

func (a activeChannel) Write(p []byte) (n int, err error) {
	timeout := a.conn.server.cfg.PeerTimeout
	stalled := time.AfterFunc(timeout, func() {
		a.conn.log.Info("connection closed", "err", errStalled)
		a.conn.Close()
	})
	defer stalled.Stop()
	for n < len(p) && err == nil {
		var k int
		k, err = a.Channel.Write(p[n:min(n+writePiece, len(p))])
		n += k
		stalled.Reset(timeout)
	}
	return n, err
}

func (a activeChannel) Read(p []byte) (int, error) {
	n, err := a.Channel.Read(p)
	if n > 0 {
		a.conn.touch()
	}
	return n, err
}
