package ftpsrv

import (
	"fmt"

	"github.com/snapgate/gateway/vfs"
)

// final is the last reply to a command that the library did: its code and text, or those
// of the error that the driver noted. The library's own words hold names of this side.
func (c *conn) final(x *exchange, code int, text string) (int, string) {
	if err := x.noted(); err != nil && code >= 400 {
		c.report(x.asked, x.path, err)
		return describe(x.path, err)
	}
	switch x.asked {
	case "STOR", "APPE", "STOU", "RETR", "LIST", "NLST", "MLSD":
		if code < 400 {
			return code, "transfer complete"
		}
		return codeAborted, x.path + ": transfer failed"
	}
	if code >= 400 {
		return c.refused(x, code, text)
	}
	switch x.asked {
	case "CWD", "CDUP":
		return code, quoted(c.engine.path()) + " is the working directory"
	case "PWD":
		return code, quoted(c.engine.path()) + " is the working directory"
	case "MKD":
		return code, quoted(c.absolute(x.arg)) + " is made"
	case "RMD", "DELE":
		return code, x.path + " is removed"
	}
	return code, text // numbers and times
}

// refused is the reply to what the library refused by itself.
func (c *conn) refused(x *exchange, code int, text string) (int, string) {
	switch x.asked {
	case "CWD":
		return describe(x.path, &vfs.Error{Kind: vfs.KindNotDir})
	case "SIZE":
		return codeFailed, x.path + ": is a directory"
	case "AVBL":
		return codeFailed, x.path + ": not a directory"
	}
	c.log.Debug("refused by the library", "op", x.asked, "path", x.path, "err", text)
	return code, fmt.Sprintf("%s: refused", x.asked)
}

// report logs an error: as a warning when an operator should see it.
func (c *conn) report(op, path string, err error) {
	if internal(vfs.KindOf(err)) && !isRefusal(err) {
		c.log.Warn("operation failed", "op", op, "path", path, "err", err)
		return
	}
	c.log.Debug("operation refused", "op", op, "path", path, "err", err)
}
