package ftpsrv

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"strconv"
	"strings"
	"time"

	ftpserver "github.com/fclairamb/ftpserverlib"

	"github.com/snapgate/gateway/vfs"
)

// listPage is how many entries are fetched at a time; a listing costs memory for one page.
const listPage = 1000

// maxListDepth bounds LIST -R.
const maxListDepth = 64

// lister sends a listing; emit gets a line without its end.
type lister struct {
	conn *conn
	verb string
	args listArgs
	now  time.Time
	top  *vfs.Dir // the directory that is listed; nil: something else
}

// errListing ends a listing whose reader is gone.
var errListing = errors.New("listing ended")

// cmdList is LIST and NLST (RFC 959), and MLSD (RFC 3659 section 7).
func (c *conn) cmdList(cmd command) {
	if !c.ready() {
		return
	}
	l := &lister{conn: c, verb: cmd.verb, now: time.Now()}
	if cmd.verb == "MLSD" {
		l.args.path = cmd.arg
	} else {
		l.args = parseListArgs(cmd.arg, func(name string) bool {
			_, err := c.sess.Lstat(c.ctx, c.absolute(name))
			return err == nil
		})
	}
	j := c.newJob(cmd.verb, l.args.path, func(j *job, _ string) (ftpserver.FileTransfer, error) {
		send, err := l.prepare(j.ctx)
		if err != nil {
			return nil, err
		}
		return &listing{transfer{j: j}, send, l.top}, nil
	})
	if j.path == "" {
		j.path = c.engine.path()
	}
	// The library is told of a download of the root, which is never looked up: the path may
	// be a pattern.
	c.start(false, j, "/")
}

// send writes lines to emit until that fails.
type send func(ctx context.Context, emit func(line string) error) error

// prepare finds what is listed, so that an error is told before the data connection is
// made.
func (l *lister) prepare(ctx context.Context) (send, error) {
	c := l.conn
	abs := c.absolute(l.args.path)
	info, err := c.sess.Stat(ctx, abs)
	link, lerr := c.sess.Lstat(ctx, abs)
	switch {
	case err == nil && info.Type == vfs.TypeDir && !(l.args.dirOnly && l.verb != "MLSD"):
		return l.directory(ctx, abs)
	case l.verb == "MLSD" && err == nil:
		return nil, &vfs.Error{Kind: vfs.KindNotDir}
	case l.verb == "MLSD": // of directories only (RFC 3659 section 7.1), not of a link to nowhere
		return nil, err
	case lerr == nil:
		e := c.entry(path.Dir(abs), link)
		e.name = l.args.path
		if e.name == "" {
			e.name = "."
		}
		return func(_ context.Context, emit func(string) error) error { return emit(l.line(e, "")) }, nil
	case l.verb != "MLSD" && isPattern(l.args.path):
		elems, ok := patternElems(l.args.path)
		if !ok {
			return nil, &vfs.Error{Kind: vfs.KindInvalid}
		}
		at, shown := c.engine.path(), ""
		if path.IsAbs(l.args.path) {
			at, shown = "/", "/"
		}
		if _, err := c.sess.Stat(ctx, at); err != nil {
			return nil, err
		}
		return func(ctx context.Context, emit func(string) error) error {
			return l.expand(ctx, at, shown, elems, emit)
		}, nil
	case err == nil:
		err = lerr
	}
	return nil, err
}

// directory lists one, and with -R what is below it.
func (l *lister) directory(ctx context.Context, abs string) (send, error) {
	d, err := l.conn.sess.ReadDir(ctx, abs)
	if err != nil {
		return nil, err
	}
	l.top = d
	prefix := ""
	if l.verb == "NLST" && l.args.path != "" {
		prefix = l.args.path
		if prefix[len(prefix)-1] != '/' {
			prefix += "/"
		}
	}
	return func(ctx context.Context, emit func(string) error) error {
		return l.directoryAt(ctx, d, abs, prefix, 0, emit)
	}, nil
}

// directoryAt lists an open directory, which it closes.
func (l *lister) directoryAt(ctx context.Context, d *vfs.Dir, abs, prefix string, depth int, emit func(string) error) error {
	var below []string
	err := l.each(ctx, d, func(info vfs.Info) error {
		if l.args.recursive && l.verb != "MLSD" && info.Type == vfs.TypeDir && depth < maxListDepth {
			below = append(below, info.Name)
		}
		return emit(l.line(l.conn.entry(abs, info), prefix))
	})
	if err != nil {
		return err
	}
	for _, name := range below {
		sub, err := l.conn.sess.ReadDir(ctx, path.Join(abs, name))
		if vanished(err) {
			continue
		}
		if err != nil {
			return err
		}
		title := name
		if depth > 0 || prefix != "" {
			title = prefix + name
		}
		if l.verb == "LIST" {
			title = path.Join(l.args.path, l.relative(abs, name))
			if err := errors.Join(emit(""), emit(printable(title)+":")); err != nil {
				_ = sub.Close()
				return err
			}
		}
		if err := l.directoryAt(ctx, sub, path.Join(abs, name), title+"/", depth+1, emit); err != nil {
			return err
		}
	}
	return nil
}

// relative is where a directory lies below the one that is listed.
func (l *lister) relative(abs, name string) string {
	top := l.conn.absolute(l.args.path)
	rel := abs[len(top):]
	return path.Join(".", rel, name)
}

// vanished reports whether a directory has gone or has become something else.
func vanished(err error) bool {
	if err == nil {
		return false
	}
	k := vfs.KindOf(err)
	return k == vfs.KindNotExist || k == vfs.KindNotDir
}

// each calls fn for the entries of an open directory, which it closes.
func (l *lister) each(ctx context.Context, d *vfs.Dir, fn func(vfs.Info) error) (err error) {
	defer func() { err = errors.Join(err, d.Close()) }()
	for {
		page, err := d.Next(ctx, listPage)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		for i := range page {
			if err := fn(page[i]); err != nil {
				return err
			}
		}
	}
}

// expand lists what a pattern stands for; at is the directory, shown what the client is
// told of it.
func (l *lister) expand(ctx context.Context, at, shown string, elems []string, emit func(string) error) error {
	elem, rest := elems[0], elems[1:]
	if !isPattern(elem) {
		if len(rest) > 0 {
			return l.expand(ctx, path.Join(at, elem), shown+elem+"/", rest, emit)
		}
		e, err := l.conn.lookup(path.Join(at, elem))
		if err != nil {
			return nil //nolint:nilerr // a pattern stands for what there is
		}
		return emit(l.line(e, shown))
	}
	d, err := l.conn.sess.ReadDir(ctx, at)
	if vanished(err) {
		return nil
	}
	if err != nil {
		return err
	}
	return l.each(ctx, d, func(info vfs.Info) error {
		ok, _ := path.Match(elem, info.Name) // patternElems has checked it
		if !ok || hidden(elem, info.Name) {
			return nil
		}
		if len(rest) > 0 {
			return l.expand(ctx, path.Join(at, info.Name), shown+info.Name+"/", rest, emit)
		}
		return emit(l.line(l.conn.entry(at, info), shown))
	})
}

// line is how an entry is shown; prefix is the directory in the client's words.
func (l *lister) line(e entry, prefix string) string {
	switch {
	case l.verb == "MLSD":
		return l.conn.facts.line(e)
	case l.verb == "NLST" && !l.args.long:
		return printable(prefix + e.name)
	}
	if isPattern(l.args.path) {
		e.name = prefix + e.name
	}
	return l.long(e)
}

// oldAge is how old a file is for ls to show its year.
const oldAge = 180 * 24 * time.Hour

// long is a line of ls -l, with the time in UTC.
func (l *lister) long(e entry) string {
	layout := "Jan _2 15:04"
	if t := e.info.ModTime; t.Before(l.now.Add(-oldAge)) || t.After(l.now.Add(24*time.Hour)) {
		layout = "Jan _2  2006"
	}
	name := printable(e.name)
	if e.info.Type == vfs.TypeSymlink && e.target != "" {
		name += " -> " + printable(e.target)
	}
	return fmt.Sprintf("%s %3d %-8s %-8s %12d %s %s", modeString(e.info), max(e.info.Links, 1),
		owner(e.info.Owner, e.info.UID), owner(e.info.Group, e.info.GID),
		e.info.Size, e.info.ModTime.UTC().Format(layout), name)
}

// owner is a name, or the number where there is none.
func owner(name string, id uint32) string {
	if name == "" {
		return strconv.FormatUint(uint64(id), 10)
	}
	return strings.ReplaceAll(printable(name), " ", "_") // a column
}

// unixMode is a mode as the system calls have it.
func unixMode(info vfs.Info) uint32 {
	m := uint32(info.Mode.Perm())
	for bit, unix := range map[fs.FileMode]uint32{fs.ModeSetuid: 0o4000, fs.ModeSetgid: 0o2000, fs.ModeSticky: 0o1000} {
		if info.Mode&bit != 0 {
			m |= unix
		}
	}
	return m
}

// modeString is a mode as ls shows it.
func modeString(info vfs.Info) string {
	b := []byte("-rwxrwxrwx")
	switch info.Type {
	case vfs.TypeDir:
		b[0] = 'd'
	case vfs.TypeSymlink:
		b[0] = 'l'
	}
	m := unixMode(info)
	for i := range 9 {
		if m&(1<<(8-i)) == 0 {
			b[i+1] = '-'
		}
	}
	for _, s := range []struct {
		bit  uint32
		at   int
		with [2]byte // x, not x
	}{{0o4000, 3, [2]byte{'s', 'S'}}, {0o2000, 6, [2]byte{'s', 'S'}}, {0o1000, 9, [2]byte{'t', 'T'}}} {
		if m&s.bit == 0 {
			continue
		}
		if b[s.at] == '-' {
			b[s.at] = s.with[1]
		} else {
			b[s.at] = s.with[0]
		}
	}
	return string(b)
}

// listing is a listing as a download.
type listing struct {
	transfer
	send send
	top  *vfs.Dir
}

// WriteTo implements io.WriterTo, which io.Copy uses.
func (l *listing) WriteTo(w io.Writer) (n int64, err error) {
	defer l.j.conn.recovered("list", func() { err = l.fail(refusal(codeLocalError, "internal error")) })
	buf, done := l.j.conn.server.buffer()
	defer done()
	buf = buf[:0]
	var broken error
	flush := func() error {
		put, err := w.Write(buf)
		n += int64(put)
		buf = buf[:0]
		if err != nil {
			broken = err
			return errListing
		}
		return nil
	}
	err = l.send(l.j.ctx, func(line string) error {
		buf = append(append(buf, line...), "\r\n"...)
		if len(buf) < pieceBytes-4096 {
			return nil
		}
		return flush()
	})
	if err == nil && len(buf) > 0 {
		err = flush()
	}
	switch {
	case broken != nil:
		return n, broken
	case err != nil:
		return n, l.fail(err)
	}
	return n, nil
}

// Read implements io.Reader; a listing is written.
func (*listing) Read([]byte) (int, error) { return 0, io.EOF }

// Write implements io.Writer; nobody writes to a listing.
func (*listing) Write([]byte) (int, error) { return 0, nil }

// Close implements io.Closer. A listing whose data connection was never made has its
// directory open.
func (l *listing) Close() error {
	if l.top == nil {
		return nil
	}
	return l.top.Close()
}
