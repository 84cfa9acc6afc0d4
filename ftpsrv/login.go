package ftpsrv

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/snapgate/gateway/vfs"
)

// needTLS refuses what must not be sent in plain text. It is true when that was so.
func (c *conn) needTLS() bool {
	if !c.server.cfg.TLSRequired || c.ctl.encrypted() {
		return false
	}
	c.ctl.reply(codeNotLoggedIn, "encryption is required: send AUTH TLS first")
	return true
}

// cmdUser names the user (RFC 959 section 4.1.1).
func (c *conn) cmdUser(cmd command) {
	switch {
	case c.sess != nil:
		c.ctl.reply(codeNotLoggedIn, "already logged in; make a new connection to be somebody else")
	case c.needTLS():
	default:
		c.user = cmd.arg
		c.ctl.reply(codeNeedPassword, "the password, please")
	}
}

// cmdPass checks the password.
func (c *conn) cmdPass(cmd command) {
	switch {
	case c.sess != nil:
		c.ctl.reply(codeSequence, "already logged in")
		return
	case c.needTLS():
		return
	case c.user == "":
		c.ctl.reply(codeSequence, "send USER first")
		return
	}
	ctx, cancel := context.WithDeadline(c.ctx, c.started.Add(c.server.cfg.LoginTimeout))
	defer cancel()
	meta := ConnMeta{User: c.user, Remote: c.addr, Conn: c.id, TLS: c.ctl.encrypted()}
	p, err := c.server.cfg.Auth.Password(ctx, meta, []byte(cmd.arg))
	if err == nil && p == nil {
		err = errors.New("no principal")
	}
	if err != nil {
		c.loginFailed(ctx, err)
		return
	}
	if err := c.ticket.LoggedIn(p.User); err != nil {
		c.log.Warn("connection refused", "user", p.User, "err", err)
		c.tellLogin(p.User, err)
		c.refuseLogin(err.Error())
		return
	}
	c.login(p)
}

// loginFailed tells a client, after a while, that it may not come in. What the reason is,
// it does not learn.
func (c *conn) loginFailed(ctx context.Context, why error) {
	c.tries++
	c.log.Info("password refused", "user", clip(c.user), "err", why)
	c.tellLogin(clip(c.user), why)
	select {
	case <-time.After(c.server.cfg.FailureDelay):
	case <-ctx.Done():
		c.refuseLogin("the login took too long")
		return
	}
	if c.tries >= c.server.cfg.Limits.LoginTries {
		c.refuseLogin("login incorrect, too many attempts")
		return
	}
	c.ctl.reply(codeNotLoggedIn, "login incorrect")
	c.user = ""
}

// refuseLogin ends the connection.
func (c *conn) refuseLogin(text string) {
	c.ctl.reply(codeUnavailable, text)
	c.failed.Store(true)
}

// login starts the session, and has the library start its own.
func (c *conn) login(p *vfs.Principal) {
	peer := c.peer(p.User)
	from := vfs.ConnInfo{Protocol: peer.Protocol, Remote: peer.Remote, Conn: peer.Conn}
	sess, err := c.server.cfg.Sessions(c.ctx, p, from)
	if err != nil {
		c.log.Error("cannot start a session", "user", p.User, "err", err)
		c.tellLogin(p.User, err)
		c.refuseLogin("cannot start a session, try again later")
		return
	}
	c.tries = 0
	c.log = c.log.With("user", p.User)
	c.sess = sess
	// Nothing else reads or waits now; from here on readAhead does.
	if err := c.ctl.raw.SetReadDeadline(time.Time{}); err != nil {
		c.log.Debug("connection lost", "err", err)
	}
	go c.readAhead() // end waits for it
	c.log.Info("login", "method", "password", "protocol", peer.Protocol)
	c.loggedIn = p.User
	c.tellLogin(p.User, nil)
	c.engine.push(
		&exchange{verb: "USER", arg: "x", finish: func(int, string) {}},
		&exchange{verb: "PASS", arg: "x", finish: func(code int, _ string) {
			if code != codeLoggedIn {
				c.refuseLogin("cannot start a session, try again later")
				return
			}
			c.ctl.reply(codeLoggedIn, "logged in")
		}},
	)
}

// tellLogin tells the observer of an attempt.
func (c *conn) tellLogin(user string, err error) {
	c.server.cfg.Observer.LoggedIn(Login{Peer: c.peer(user), Method: "password", Err: err})
}

func (c *conn) peer(user string) Peer {
	protocol := "ftp"
	if c.ctl.encrypted() {
		protocol = "ftps"
	}
	return Peer{User: user, Protocol: protocol, Remote: c.ctl.raw.RemoteAddr().String(), Conn: c.id}
}

// cmdAuth begins TLS (RFC 4217 section 4).
func (c *conn) cmdAuth(cmd command) {
	mechanism := strings.ToUpper(strings.TrimSpace(cmd.arg))
	switch {
	case c.tls == nil:
		c.ctl.reply(codeNotHere, "TLS is not configured")
		return
	case c.sess != nil:
		c.ctl.reply(codeSequence, "already logged in")
		return
	case c.ctl.encrypted():
		c.ctl.reply(codeSequence, "the connection is encrypted already")
		return
	}
	switch mechanism {
	case "TLS", "TLS-C":
	case "SSL", "TLS-P":
		c.protected = true // these two ask for encrypted data connections, too
	default:
		c.ctl.reply(codeParameter, "only AUTH TLS is known")
		return
	}
	c.user = "" // of a USER that was sent in plain text
	if err := c.handshake(func() { c.ctl.reply(codeAuthAccepted, "begin TLS") }); err != nil {
		c.log.Info("no TLS", "err", err)
		c.failed.Store(true)
	}
}

// cmdPbsz is RFC 4217's: it has no meaning with TLS, and must be sent.
func (c *conn) cmdPbsz(command) {
	if !c.ctl.encrypted() {
		c.ctl.reply(codeSequence, "send AUTH TLS first")
		return
	}
	c.ctl.reply(codeOK, "PBSZ=0")
}

// cmdProt sets the protection of data connections (RFC 4217 section 9).
func (c *conn) cmdProt(cmd command) {
	if !c.ctl.encrypted() {
		c.ctl.reply(codeSequence, "send AUTH TLS first")
		return
	}
	switch strings.ToUpper(strings.TrimSpace(cmd.arg)) {
	case "P":
		c.protected = true
		c.ctl.reply(codeOK, "data connections are encrypted")
	case "C":
		if c.server.cfg.TLSRequired {
			c.ctl.reply(codeDenied, "encryption is required")
			return
		}
		c.protected = false
		c.ctl.reply(codeOK, "data connections are not encrypted")
	case "S", "E":
		c.ctl.reply(codeProtLevel, "only C and P are known")
	default:
		c.ctl.reply(codeParameter, "only C and P are known")
	}
}
