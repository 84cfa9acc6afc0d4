package ftpsrv

import (
	"context"
	"fmt"
	"time"
)

// status is STAT without a path (RFC 959 section 4.1.3); t is the transfer under way, nil
// for none.
func (c *conn) status(t *exchange) {
	lines := []string{"status:", "connected for " + time.Since(c.started).Truncate(time.Second).String()}
	if c.ctl.encrypted() {
		lines = append(lines, "the control connection is encrypted")
	}
	if c.sess != nil {
		lines = append(lines, "logged in as "+c.sess.Principal().User, "working directory "+quoted(c.engine.path()))
	}
	if t != nil {
		lines = append(lines, fmt.Sprintf("%s %s under way; %d bytes received and %d sent by this session",
			t.asked, t.path, c.count.written.Load(), c.count.read.Load()))
	}
	c.ctl.reply(codeSystem, append(lines, "end")...)
}

// cmdStat is STAT: of the connection, or a listing over the control connection.
func (c *conn) cmdStat(cmd command) {
	if cmd.arg == "" {
		c.status(nil)
		return
	}
	l := &lister{conn: c, verb: "LIST", now: time.Now()}
	l.args = parseListArgs(cmd.arg, func(name string) bool {
		_, err := c.sess.Lstat(c.ctx, c.absolute(name))
		return err == nil
	})
	send, err := l.prepare(c.ctx)
	if err != nil {
		c.fail(cmd.verb, l.args.path, err)
		return
	}
	c.ctl.write(fmt.Sprintf("%d-status of %s:\r\n", codeFile, printable(cmd.arg)))
	err = send(c.ctx, func(line string) error {
		if c.gone() {
			return errGone
		}
		c.ctl.write(" " + line + "\r\n")
		return context.Cause(c.ctx)
	})
	if err != nil {
		// The code has been told; a line with another one would not end the reply.
		c.report(cmd.verb, l.args.path, err)
		_, text := describe(l.args.path, err)
		c.ctl.reply(codeFile, "cut short: "+text)
		return
	}
	c.ctl.reply(codeFile, "end")
}
