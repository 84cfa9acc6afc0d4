package sshclient

import (
	"errors"
	"io"
	"io/fs"
	"path"
	"strings"
	"time"

	"github.com/pkg/sftp"
)

// PathError explains err, what an operation of SFTP on a path ended with: that the path is
// not there (and where it may be in an account that is confined to a directory), that the
// account may not use it, or why the connection was lost. Other errors it returns as they
// are. io.EOF at the end of a file is not for it: it would pass for a lost session.
func (c *Client) PathError(client *sftp.Client, name string, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, fs.ErrNotExist):
		return &Error{Kind: KindNoPath, Host: c.String(), Detail: name, Hint: missingHint(client, name), Err: err}
	case errors.Is(err, fs.ErrPermission):
		return &Error{
			Kind: KindPermission, Host: c.String(), Detail: name, Err: err,
			Hint: "the login works, but the account may not do this: look at owner and mode of the path and of each directory above it, with this account",
		}
	case errors.Is(err, sftp.ErrSSHFxConnectionLost), errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return c.lost(err)
	}
	return err
}

// lost returns why the connection ended, or err when it has not: a session can end alone. A
// session notices the end a moment before its connection.
func (c *Client) lost(err error) error {
	timer := time.NewTimer(explainLimit)
	defer timer.Stop()
	select {
	case <-c.ended:
	case <-timer.C:
	}
	if cause := c.Err(); cause != nil {
		return cause
	}
	return &Error{Kind: KindClosed, Host: c.String(), Detail: "the session ended", Err: err, Hint: "the server's log says why"}
}

// missingHint looks for the path below other roots: a chrooted account sees /srv/data of the
// server as /data, say.
func missingHint(client *sftp.Client, name string) string {
	const hint = "paths are those that the account sees: a chrooted one has its ChrootDirectory as /"
	rest := path.Clean("/" + name)
	for range strings.Count(rest, "/") - 1 {
		rest = rest[1:]
		rest = rest[strings.IndexByte(rest, '/'):]
		if _, err := client.Stat(rest); err == nil {
			return hint + "; there is " + rest
		}
	}
	return hint
}
