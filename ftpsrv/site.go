package ftpsrv

import (
	"io/fs"
	"strconv"
	"strings"
	"time"

	"github.com/snapgate/gateway/vfs"
)

// cmdSite is the commands of this site (RFC 959 section 4.1.3).
func (c *conn) cmdSite(cmd command) {
	word, arg, _ := strings.Cut(strings.TrimLeft(cmd.arg, " "), " ")
	switch strings.ToUpper(word) {
	case "HELP":
		c.siteHelp()
	case "CHMOD":
		c.siteChmod(arg)
	case "UTIME":
		c.siteUtime(arg)
	case "SYMLINK":
		c.siteSymlink(arg)
	case "SNAPSHOT":
		c.siteSnapshot(arg)
	default:
		c.ctl.reply(codeParameter, "SITE "+clip(word)+": unknown; SITE HELP lists what there is")
	}
}

func (c *conn) siteHelp() {
	c.ctl.reply(codeHelp, "site commands:",
		"CHMOD mode path",
		"UTIME path YYYYMMDDhhmmss [ YYYYMMDDhhmmss YYYYMMDDhhmmss UTC ]",
		"UTIME YYYYMMDDhhmm[ss] path",
		"SYMLINK target path",
		"SNAPSHOT [ path ]",
		"HELP",
		"SITE SNAPSHOT makes a snapshot now and tells its id")
}

// modeMask are the bits of a mode that chmod(2) knows.
const modeMask = 0o7777

func (c *conn) siteChmod(arg string) {
	text, name, _ := strings.Cut(arg, " ")
	m, err := strconv.ParseUint(text, 8, 32)
	if err != nil || m > modeMask || name == "" {
		c.ctl.reply(codeSyntax, "SITE CHMOD: want an octal mode and a path")
		return
	}
	mode := fs.FileMode(m & 0o777)
	for unix, bit := range map[uint64]fs.FileMode{0o4000: fs.ModeSetuid, 0o2000: fs.ModeSetgid, 0o1000: fs.ModeSticky} {
		if m&unix != 0 {
			mode |= bit
		}
	}
	if err := c.sess.SetAttr(c.ctx, c.absolute(name), vfs.AttrSet{Mode: &mode}, true); err != nil {
		c.fail("SITE CHMOD", name, err)
		return
	}
	c.ctl.reply(codeOK, "the mode is set")
}

// utimeArgs reads both forms of SITE UTIME that are in use: a time and a path, and a path
// with three times, of which the second is the modification time, and UTC.
func utimeArgs(arg string) (name string, t time.Time, ok bool) {
	first, rest, _ := strings.Cut(arg, " ")
	if t, err := parseUtime(first); err == nil && rest != "" {
		return rest, t, true
	}
	// The path may have spaces: it is what is before the last four words.
	name, words := arg, [4]string{}
	for i := 3; i >= 0; i-- {
		at := strings.LastIndexByte(name, ' ') + 1
		name, words[i] = strings.TrimRight(name[:at], " "), name[at:]
	}
	if name != "" && strings.EqualFold(words[3], "UTC") {
		if t, err := parseUtime(words[1]); err == nil {
			return name, t, true
		}
	}
	if i := strings.LastIndexByte(arg, ' '); i > 0 {
		if t, err := parseUtime(arg[i+1:]); err == nil {
			return arg[:i], t, true
		}
	}
	return "", time.Time{}, false
}

func parseUtime(s string) (time.Time, error) {
	if len(s) == len(timeVal)-2 {
		s += "00"
	}
	return time.Parse(timeVal, s)
}

func (c *conn) siteUtime(arg string) {
	name, t, ok := utimeArgs(strings.TrimRight(arg, " "))
	if !ok {
		c.ctl.reply(codeSyntax, "SITE UTIME: want a path and a time; SITE HELP tells the forms")
		return
	}
	if c.setTime("SITE UTIME", name, t) {
		c.ctl.reply(codeOK, "the time is set")
	}
}

// siteSymlink makes a symbolic link; neither name may have a space, but for the last.
func (c *conn) siteSymlink(arg string) {
	target, name, ok := strings.Cut(arg, " ")
	if !ok || name == "" {
		c.ctl.reply(codeSyntax, "SITE SYMLINK: want the target and the path of the link")
		return
	}
	if err := c.sess.Symlink(c.ctx, target, c.absolute(name)); err != nil {
		c.fail("SITE SYMLINK", name, err)
		return
	}
	c.ctl.reply(codeOK, "the link is made")
}

func (c *conn) siteSnapshot(name string) {
	if name == "" {
		name = c.engine.path()
	}
	id, err := c.sess.Snapshot(c.ctx, c.absolute(name))
	switch {
	case err != nil:
		c.fail("SITE SNAPSHOT", name, err)
	case id.IsZero():
		c.ctl.reply(codeFailed, name+": nothing has been stored yet")
	default:
		c.ctl.reply(codeOK, id.String())
	}
}
