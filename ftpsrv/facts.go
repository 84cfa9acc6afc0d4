package ftpsrv

import (
	"fmt"
	"path"
	"strings"
	"time"

	"github.com/snapgate/gateway/vfs"
)

// fact is one that MLST and MLSD tell of a file (RFC 3659 section 7.5).
type fact uint8

const (
	factType fact = 1 << iota
	factSize
	factModify
	factMode
	factOwner
	factGroup
)

// facts is the set that a client wants.
type facts uint8

// allFacts is what is told until OPTS MLST says otherwise.
func allFacts() facts {
	return facts(factType | factSize | factModify | factMode | factOwner | factGroup)
}

// factNames are the facts in the order in which they are told.
func factNames() []struct {
	fact fact
	name string
} {
	return []struct {
		fact fact
		name string
	}{
		{factType, "type"}, {factSize, "size"}, {factModify, "modify"},
		{factMode, "UNIX.mode"}, {factOwner, "UNIX.ownername"}, {factGroup, "UNIX.groupname"},
	}
}

func (f facts) has(x fact) bool { return f&facts(x) != 0 }

// choose takes the list of OPTS MLST (RFC 3659 section 7.9); unknown names are ignored.
func (f *facts) choose(list string) {
	*f = 0
	for name := range strings.SplitSeq(list, ";") {
		for _, n := range factNames() {
			if strings.EqualFold(strings.TrimSpace(name), n.name) {
				*f |= facts(n.fact)
			}
		}
	}
}

// String lists the chosen facts as OPTS MLST answers.
func (f facts) String() string {
	var b strings.Builder
	for _, n := range factNames() {
		if f.has(n.fact) {
			b.WriteString(n.name + ";")
		}
	}
	return b.String()
}

// feature lists all facts as FEAT does; chosen ones have a star.
func (f facts) feature() string {
	var b strings.Builder
	for _, n := range factNames() {
		star := ""
		if f.has(n.fact) {
			star = "*"
		}
		b.WriteString(n.name + star + ";")
	}
	return b.String()
}

// timeVal is RFC 3659's form of a time (section 2.3), in UTC.
const timeVal = "20060102150405"

// entry is a name in a listing.
type entry struct {
	name   string
	info   vfs.Info
	target string // of a symbolic link
}

// line is the entry's facts and name (RFC 3659 section 7.2).
func (f facts) line(e entry) string {
	var b strings.Builder
	if f.has(factType) {
		switch e.info.Type {
		case vfs.TypeDir:
			b.WriteString("type=dir;")
		case vfs.TypeSymlink:
			// What is registered with IANA for Unix; clients read the target from it.
			b.WriteString("type=OS.unix=slink:" + printable(strings.ReplaceAll(e.target, ";", "?")) + ";")
		default:
			b.WriteString("type=file;")
		}
	}
	if f.has(factSize) && e.info.Type == vfs.TypeFile {
		fmt.Fprintf(&b, "size=%d;", e.info.Size)
	}
	if f.has(factModify) {
		b.WriteString("modify=" + e.info.ModTime.UTC().Format(timeVal) + ";")
	}
	if f.has(factMode) {
		fmt.Fprintf(&b, "UNIX.mode=%#04o;", unixMode(e.info))
	}
	if f.has(factOwner) {
		b.WriteString("UNIX.ownername=" + owner(e.info.Owner, e.info.UID) + ";")
	}
	if f.has(factGroup) {
		b.WriteString("UNIX.groupname=" + owner(e.info.Group, e.info.GID) + ";")
	}
	return b.String() + " " + printable(e.name)
}

// cmdMlst tells the facts of one name (RFC 3659 section 7).
func (c *conn) cmdMlst(cmd command) {
	name := cmd.arg
	if name == "" {
		name = c.engine.path()
	}
	e, err := c.lookup(c.absolute(name))
	if err != nil {
		c.fail(cmd.verb, name, err)
		return
	}
	e.name = c.absolute(name)
	c.ctl.reply(codeDone, "facts:", c.facts.line(e), "end")
}

// lookup describes one name; a symbolic link is described as one.
func (c *conn) lookup(name string) (entry, error) {
	info, err := c.sess.Lstat(c.ctx, name)
	if err != nil {
		return entry{}, err
	}
	return c.entry(path.Dir(name), info), nil
}

// entry completes what a listing of dir says of a name.
func (c *conn) entry(dir string, info vfs.Info) entry {
	e := entry{name: info.Name, info: info}
	if info.Type == vfs.TypeSymlink {
		// A target that cannot be read leaves the arrow without one.
		e.target, _ = c.sess.Readlink(c.ctx, path.Join(dir, info.Name))
	}
	return e
}

// absolute makes a path of the client absolute.
func (c *conn) absolute(name string) string {
	if path.IsAbs(name) {
		return path.Clean(name)
	}
	return path.Join(c.engine.path(), name)
}

// fail tells the client of an error.
func (c *conn) fail(op, path string, err error) {
	c.report(op, path, err)
	code, text := describe(path, err)
	c.ctl.reply(code, text)
}

// parseTimeVal reads a time of RFC 3659 section 2.3; a fraction of a second is kept.
func parseTimeVal(s string) (time.Time, error) {
	whole, fraction, _ := strings.Cut(s, ".")
	layout := timeVal
	if fraction != "" {
		layout += "." + strings.Repeat("0", min(len(fraction), 9))
		fraction = "." + fraction[:min(len(fraction), 9)]
	}
	return time.Parse(layout, whole+fraction)
}

// setTime sets a file's time.
func (c *conn) setTime(verb, name string, t time.Time) bool {
	if err := c.sess.SetAttr(c.ctx, c.absolute(name), vfs.AttrSet{ModTime: &t}, true); err != nil {
		c.fail(verb, name, err)
		return false
	}
	return true
}

// cmdMfmt sets the modification time (draft-somers-ftp-mfxx-04 section 3.1).
func (c *conn) cmdMfmt(cmd command) {
	value, name, _ := strings.Cut(cmd.arg, " ")
	t, err := parseTimeVal(value)
	if err != nil || name == "" {
		c.ctl.reply(codeSyntax, "MFMT: want YYYYMMDDhhmmss and a path")
		return
	}
	if c.setTime(cmd.verb, name, t) {
		c.ctl.reply(codeFile, "Modify="+value+"; "+name)
	}
}

// cmdMdtm tells the modification time (RFC 3659 section 3). Old clients set it with a time
// before the path.
func (c *conn) cmdMdtm(cmd command) {
	value, name, two := strings.Cut(cmd.arg, " ")
	t, err := parseTimeVal(value)
	if two && name != "" && err == nil {
		if _, err := c.sess.Lstat(c.ctx, c.absolute(cmd.arg)); err != nil { // else it is all one name
			if c.setTime(cmd.verb, name, t) {
				c.ctl.reply(codeFile, value)
			}
			return
		}
	}
	c.engine.push(&exchange{verb: "MDTM", arg: cmd.arg, asked: "MDTM", path: cmd.arg})
}
