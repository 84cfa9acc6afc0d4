package sshsrv

import (
	"context"
	"strings"

	"golang.org/x/crypto/ssh"

	"github.com/snapgate/gateway/vfs"
)

// exec chooses what a command line starts. There is no shell: the first word is one of
// the documented ones, and the rest is its argument.
func (c *conn) exec(line string) program {
	word, arg, _ := strings.Cut(strings.TrimSpace(line), " ")
	switch word {
	case "snapshot":
		return func(ctx context.Context, ch ssh.Channel) int {
			return c.snapshot(ctx, ch, unquote(strings.TrimSpace(arg)))
		}
	case "scp":
		return refuseExec("scp: the old scp protocol is not supported; use SFTP mode (scp without -O, OpenSSH 9.0 or newer, or scp -s)\r\n")
	default:
		return refuseExec("unknown command; this server offers SFTP and the command: snapshot [PATH]\r\n")
	}
}

func refuseExec(text string) program {
	return func(_ context.Context, ch ssh.Channel) int {
		say(ch.Stderr(), text)
		return exitFailed
	}
}

// unquote takes one pair of quotes off: clients that expect a shell quote paths.
func unquote(s string) string {
	if n := len(s); n >= 2 && (s[0] == '\'' || s[0] == '"') && s[n-1] == s[0] {
		return s[1 : n-1]
	}
	return s
}

// snapshot commits the share at a path now and prints the head's id alone on a line.
func (c *conn) snapshot(ctx context.Context, ch ssh.Channel, path string) int {
	if path == "" {
		path = "/"
	}
	sess, err := c.vfsSession(ctx)
	if err != nil {
		c.log.Error("cannot start a session", "err", err)
		say(ch.Stderr(), "snapshot: cannot start a session\r\n")
		return exitFailed
	}
	id, err := snapshotNow(ctx, c, sess, path)
	switch {
	case err != nil:
		_, text := statusCode(report(c.log, &c.count, "snapshot", path, err))
		say(ch.Stderr(), "snapshot: "+path+": "+text+"\r\n")
		return exitFailed
	case id == "":
		say(ch.Stderr(), "snapshot: "+path+": nothing has been stored yet\r\n")
		return exitFailed
	}
	say(ch, id+"\n")
	return exitOK
}

func snapshotNow(ctx context.Context, c *conn, sess *vfs.Session, path string) (_ string, err error) {
	defer recovered(c.log, "snapshot", &err)
	id, err := sess.Snapshot(ctx, path)
	if err != nil || id.IsZero() {
		return "", err
	}
	return id.String(), nil
}
