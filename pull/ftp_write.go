package pull

import (
	"cmp"
	"context"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"time"
	"unicode/utf8"
)

// ftpAbilities is what a server has shown that it can, or cannot, do; nil says that nobody has
// tried.
type ftpAbilities struct {
	chmod   *bool
	setTime *string // the command, "" for none
	dirTime *bool
}

// MakeRoot implements Target: what is missing cannot be told from what is forbidden, so all
// that can be made is, until the directory is there.
func (f *FTP) MakeRoot(ctx context.Context) (made bool, err error) {
	err = f.with(ctx, "make", "/", func(c *ftpConn, full string) error {
		if err := c.chdir("make", "/", full); err == nil || c.Err() != nil {
			return err
		}
		var refused []error // nil where a directory was made
		for i := 1; i <= len(full); i++ {
			if i < len(full) && full[i] != '/' {
				continue
			}
			r, err := c.cmd("make", full[:i], "MKD "+full[:i])
			if err != nil {
				return err
			}
			if made = r.means(250); made {
				refused = append(refused, nil)
			} else {
				refused = append(refused, c.refused("make", full[:i], r))
			}
		}
		err := c.chdir("make", "/", full)
		if err == nil || c.Err() != nil {
			return err
		}
		return c.notMade(full, refused, err)
	})
	return made && err == nil, err
}

// notMade returns why a directory cannot be changed to after all: what the server says of the topmost one that is not there, as
// those above are refused because they are. refused has that of MKD for each, missing that of CWD for full.
func (c *ftpConn) notMade(full string, refused []error, missing error) error {
	why := missing
	for at, i := full, len(refused)-1; i >= 0 && refused[i] != nil; i-- {
		if at != full {
			missing = c.chdir("make", at, at)
			if c.Err() != nil {
				return missing
			}
			if missing == nil {
				break
			}
		}
		if why = refused[i]; saysExists(why) { // and may not be entered, or is a file
			why = missing
		}
		at = at[:max(strings.LastIndexByte(at, '/'), 0)]
	}
	return why
}

// saysExists reports whether a server has refused to make a directory because something has its name.
func saysExists(err error) bool {
	var r *replyError
	return errors.As(err, &r) && KindOf(err) == KindOther && (r.code == 521 || strings.Contains(strings.ToLower(r.all), "exist"))
}

// Mkdir implements Target. The mode is the server's choice.
func (f *FTP) Mkdir(ctx context.Context, path string) error {
	return f.with(ctx, "make", path, func(c *ftpConn, full string) error {
		r, err := c.cmd("make", path, "MKD "+full)
		if err == nil && !r.means(250) {
			err = c.refused("make", path, r)
		}
		return err
	})
}

// Create implements Target: STOR, which replaces what is there, and REST before it.
func (f *FTP) Create(ctx context.Context, path string, offset int64) (Writer, error) {
	conn, full, err := f.get(ctx, "write", path)
	if err != nil {
		return nil, err
	}
	w := &ftpWriter{f: f, conn: conn, full: full, path: path, size: offset}
	if offset > 0 {
		err = f.resumable(ctx, conn.s, path, full, offset)
	}
	if err == nil {
		w.t, err = conn.s.start(ctx, "write", path, "STOR "+full, offset)
	}
	if err != nil {
		f.pool.put(conn)
		if cause := ctx.Err(); cause != nil {
			return nil, cause
		}
		return nil, err
	}
	return w, nil
}

// resumable returns nil when an upload may go on at offset: FTP cannot cut a file.
func (f *FTP) resumable(ctx context.Context, c *ftpConn, path, full string, offset int64) error {
	stop := c.watch(ctx)
	defer stop()
	r, err := c.cmd("write", path, "SIZE "+full)
	if err != nil {
		return err
	}
	if size, serr := parseSize(strings.TrimSpace(r.text())); r.code != 213 || serr != nil || size != offset {
		return failf("write", path, KindUnsupported, "it cannot be cut at %d bytes", offset)
	}
	return nil
}

// ftpWriter is a Writer.
type ftpWriter struct {
	f    *FTP
	conn *pooled[*ftpConn] // nil when it was closed
	t    *transfer
	full string
	path string
	size int64 // what the file is to have so far

	short bool // the server has another size in the end
}

// ftpPiece is how many bytes a server has FTPConfig.Timeout to take: 9 kbit/s by default. With all of a Write it
// would be slow where 16 large files share a line of 2 Mbit/s.
const ftpPiece = 64 << 10

func (w *ftpWriter) Write(ctx context.Context, p []byte) error {
	for piece := range slices.Chunk(p, ftpPiece) {
		if err := w.write(ctx, piece); err != nil {
			return err
		}
	}
	return nil
}

func (w *ftpWriter) write(ctx context.Context, p []byte) error {
	err := w.t.data.SetWriteDeadline(time.Now().Add(w.f.cfg.Timeout))
	if broken := w.conn.s.Err(); broken != nil { // the deadline of an ended context was moved
		err = broken
	}
	if err == nil {
		_, err = w.t.data.Write(p)
	}
	if err == nil {
		w.size += int64(len(p))
		return nil
	}
	if cause := ctx.Err(); cause != nil {
		return cause
	}
	// A server that has no room closes the data connection and says why.
	w.t.finished = true
	_ = w.t.raw.Close()
	if w.conn.s.Err() == nil {
		if r, rerr := w.conn.s.reply("write"); rerr == nil && r.code >= 400 {
			return w.conn.s.refused("write", w.path, r)
		}
	}
	return w.conn.s.broken(fail("write", w.path, KindConnection, w.conn.s.silence(err)))
}

// Sync implements Writer: FTP acknowledges a whole file only.
func (w *ftpWriter) Sync(ctx context.Context) (int64, error) { return 0, ctx.Err() }

func (w *ftpWriter) Finish(ctx context.Context, a Attributes) error {
	defer w.Abort()
	c := w.conn.s
	w.t.finished = true
	err := w.t.data.SetWriteDeadline(time.Now().Add(w.f.cfg.Timeout))
	if err == nil {
		err = closeWrite(w.t.data)
	}
	var r ftpReply
	if err == nil {
		// What the server has sent, such as tickets of TLS, is read until it has answered: to
		// close a connection with bytes that nobody has read resets it, and the server may
		// lose what it has not read yet, and take what it has for the whole.
		drained := make(chan struct{})
		go func() {
			defer close(drained)
			_, _ = io.Copy(io.Discard, w.t.raw) // until it is closed, by either side
		}()
		r, err = c.reply("write")
		_ = w.t.raw.Close()
		<-drained
	} else {
		_ = w.t.raw.Close()
		err = c.broken(fail("write", w.path, KindConnection, c.silence(err)))
	}
	if err == nil && (r.code < 200 || r.code > 299) {
		err = c.refused("write", w.path, r)
	}
	if err == nil {
		err = w.f.attributes(c, w.path, w.full, File, a, w.sized())
		if err != nil && !w.short && c.Err() == nil {
			err = &AttributeError{err}
		}
	}
	if cause := ctx.Err(); err != nil && cause != nil {
		return cause
	}
	return err
}

// closeWrite says that nothing more is written: of TLS with its alert, and of TCP.
func closeWrite(data net.Conn) error {
	if tc, ok := data.(*tls.Conn); ok {
		if err := tc.CloseWrite(); err != nil {
			return err
		}
		data = tc.NetConn()
	}
	if half, ok := data.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return data.Close()
}

// sized asks for the size of what was written: a server can take a connection that was lost
// for the end of the file. One that does not know is believed.
func (w *ftpWriter) sized() ftpStep {
	return ftpStep{"write", "SIZE " + w.full, func(r ftpReply) error {
		if size, err := parseSize(strings.TrimSpace(r.text())); r.code == 213 && err == nil && size != w.size {
			w.short = true
			return failf("write", w.path, KindShort, "the server has %d bytes of %d", size, w.size)
		}
		return nil
	}}
}

func (w *ftpWriter) Abort() {
	if w.conn != nil {
		_ = w.t.Close()
		w.f.pool.put(w.conn)
		w.conn = nil
	}
}

// Rename implements Target. When the server refuses to replace a file, that makes room first: see
// makeRoom.
func (f *FTP) Rename(ctx context.Context, from, to string) error {
	if err := checkPath("rename", from); err != nil {
		return err
	}
	conn, full, err := f.get(ctx, "rename", to)
	if err != nil {
		return err
	}
	defer f.pool.put(conn)
	stop := conn.s.watch(ctx)
	defer stop()
	err = f.rename(ctx, conn.s, strings.TrimSuffix(full, to)+from, full, to, stop)
	if err == nil && changeable(to) {
		if _, lerr := f.lstat(ctx, conn.s, to, full); lerr != nil && KindOf(lerr) == KindNotFound {
			err = failf("rename", to, KindName, "the server has given it another name, and may have replaced a file of that name")
		}
	}
	if cause := ctx.Err(); err != nil && cause != nil {
		return cause
	}
	return err
}

// changeable reports whether a path has a name that servers may change without a word: Pure-FTPd makes
// underscores of blanks at the end.
func changeable(path string) bool {
	name := base(path)
	return strings.TrimSpace(name) != name || !utf8.ValidString(name)
}

// rename is Rename; stop ends the watch of ctx.
func (f *FTP) rename(ctx context.Context, c *ftpConn, old, full, to string, stop func() bool) error {
	next := f.pool.wanted() && !changeable(to) // as a rule for another file
	// A server that may lose what is sent ahead is found out by commands that are quick.
	ahead := c.proven.Load() && c.takesAhead()
	refused, err := c.rename(to, old, full, ahead, next)
	if !refused {
		return err
	}
	if ahead {
		if refused, err = c.rename(to, old, full, false, false); err == nil {
			c.serial.Store(true) // it was refused for it
		}
	}
	if refused && KindOf(err) != KindNotFound {
		err = f.replace(ctx, c, old, full, to, err, stop)
	}
	if err != nil {
		// Some servers keep what RNFR has named, and take it for the next file whose RNFR fails.
		_ = c.broken(err)
	}
	return err
}

// replace makes room for a file where the server has refused to replace the one that is there, if one is.
func (f *FTP) replace(ctx context.Context, c *ftpConn, old, full, to string, refused error, stop func() bool) error {
	e, err := f.lstat(ctx, c, to, full)
	switch {
	case c.Err() != nil:
		return cmp.Or(err, c.Err())
	case err != nil, e.Type == Dir:
		return refused
	case !stop(): // not to end while neither of the files has the name
		return ctx.Err()
	}
	return makeRoom(c, old, full, refused, func(from, into string) error {
		_, err := c.rename(to, from, into, false, false)
		return err
	}, func(p string) error {
		_, err := c.want("rename", to, 250, "DELE "+p)
		return err
	})
}

// rename sends RNFR and RNTO, which servers want one right after the other: ahead says together,
// next that somebody waits for the connection. It reports whether it is RNTO that was refused.
func (c *ftpConn) rename(path, old, full string, ahead, next bool) (refused bool, err error) {
	from, into := c.step("rename", path, 350, "RNFR "+old), c.step("rename", path, 250, "RNTO "+full)
	if !ahead {
		if err := c.steps(path, from); err != nil {
			return false, err
		}
	}
	if next {
		c.prepare()
	}
	if ahead {
		i, why, err := c.together(path, from, into)
		return i == 1 && why != nil, cmp.Or(err, why)
	}
	err = c.steps(path, into)
	return err != nil && c.Err() == nil, err
}

// Symlink implements Target: FTP has no such thing.
func (f *FTP) Symlink(_ context.Context, _, path string) error {
	return failf("link", path, KindUnsupported, "FTP has no symbolic links")
}

// Remove implements Target. What is listed as a directory may be a symbolic link to one, so it
// is removed as a file first.
func (f *FTP) Remove(ctx context.Context, path string, t Type) error {
	return f.with(ctx, "remove", path, func(c *ftpConn, full string) error {
		if path == "/" {
			return failf("remove", path, KindName, "it is the root")
		}
		_, err := c.want("remove", path, 250, "DELE "+full)
		if t == Dir && err != nil && c.Err() == nil {
			_, err = c.want("remove", path, 250, "RMD "+full)
		}
		return err
	})
}

// SetAttributes implements Target. Those of symbolic links are left: servers would set the target's.
func (f *FTP) SetAttributes(ctx context.Context, path string, t Type, a Attributes) error {
	if t == Symlink {
		return ctx.Err()
	}
	return f.with(ctx, "set attributes of", path, func(c *ftpConn, full string) error {
		return f.attributes(c, path, full, t, a)
	})
}

// attributes sets what the server lets us, after first. The first refusal of a command says that it
// does not, as the file is ours.
func (f *FTP) attributes(c *ftpConn, path, full string, t Type, a Attributes, first ...ftpStep) error {
	steps := first
	able := f.abilities()
	switch {
	case !a.HasMode || able.chmod != nil && !*able.chmod:
	case able.chmod != nil:
		steps = append(steps, c.chmod(path, full, a))
	default:
		if err := c.steps(path, steps...); err != nil {
			return err
		}
		steps = nil
		if err := f.findChmod(c, path, full, a); err != nil {
			return err
		}
	}
	at := a.ModTime
	switch {
	case at.IsZero(), t == Dir && able.dirTime != nil && !*able.dirTime, able.setTime != nil && *able.setTime == "":
	case able.setTime != nil && (t != Dir || able.dirTime != nil):
		steps = append(steps, c.setTime(path, timeCommand(*able.setTime, full, at)))
	default:
		if err := c.steps(path, steps...); err != nil {
			return err
		}
		return f.findTime(c, path, full, t, at)
	}
	return c.steps(path, steps...)
}

func (f *FTP) abilities() ftpAbilities {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.able
}

// learn notes what a try has shown, unless one has before. It returns what is known then.
func learn[T any](f *FTP, shown T, which func(*ftpAbilities) **T) T {
	f.mu.Lock()
	defer f.mu.Unlock()
	known := which(&f.able)
	if *known == nil {
		*known = &shown
	}
	return **known
}

func chmodCommand(full string, a Attributes) string {
	return fmt.Sprintf("SITE CHMOD %03o %s", modeNumber(a.Mode), full)
}

// chmod sets a mode on a server that does.
func (c *ftpConn) chmod(path, full string, a Attributes) ftpStep {
	const op = "set the mode of"
	return ftpStep{op, chmodCommand(full, a), func(r ftpReply) error {
		if !r.means(200) {
			return c.refused(op, path, r)
		}
		return nil
	}}
}

// findChmod sets a mode, and finds out whether the server does that.
func (f *FTP) findChmod(c *ftpConn, path, full string, a Attributes) error {
	r, err := c.cmd("set the mode of", path, chmodCommand(full, a))
	if err != nil {
		return err
	}
	ok := r.means(200)
	if able := learn(f, ok, func(b *ftpAbilities) **bool { return &b.chmod }); able && !ok {
		return c.refused("set the mode of", path, r) // somebody has found out meanwhile
	}
	return nil
}

// setTime sets a time on a server that does.
func (c *ftpConn) setTime(path, command string) ftpStep {
	const op = "set the time of"
	return ftpStep{op, command, func(r ftpReply) error {
		if r.code < 200 || r.code > 299 {
			return c.refused(op, path, r)
		}
		return nil
	}}
}

// findTime sets a time, and finds out what the server lets us. The commands are MFMT
// (draft-somers-ftp-mfxx), MDTM with a time, as vsftpd has it, and SITE UTIME, as pure-ftpd has it.
func (f *FTP) findTime(c *ftpConn, path, full string, t Type, at time.Time) error {
	command := f.abilities().setTime
	if command == nil {
		return f.findSetTime(c, path, full, t, at)
	}
	if *command == "" { // somebody has found out meanwhile
		return nil
	}
	r, err := c.cmd("set the time of", path, timeCommand(*command, full, at))
	if err != nil {
		return err
	}
	ok := r.code >= 200 && r.code < 300
	if t == Dir && !learn(f, ok, func(b *ftpAbilities) **bool { return &b.dirTime }) {
		return nil
	}
	if !ok { // somebody has found out meanwhile that it does
		return c.refused("set the time of", path, r)
	}
	return nil
}

func timeCommand(command, full string, at time.Time) string {
	stamp := at.UTC().Format("20060102150405")
	if command == "SITE UTIME" {
		return fmt.Sprintf("SITE UTIME %s %s %s %s UTC", full, stamp, stamp, stamp)
	}
	return command + " " + stamp + " " + full
}

// findSetTime tries the commands, and believes the one after which MDTM agrees. Those that fail
// with a directory may work with files.
func (f *FTP) findSetTime(c *ftpConn, path, full string, t Type, at time.Time) error {
	commands := []string{"MDTM", "SITE UTIME"}
	if _, ok := c.feats["MFMT"]; ok {
		commands = append([]string{"MFMT"}, commands...)
	}
	found := ""
	for _, command := range commands {
		r, err := c.cmd("set the time of", path, timeCommand(command, full, at))
		if err != nil {
			return err
		}
		if r.code < 200 || r.code > 299 {
			continue
		}
		r, err = c.cmd("set the time of", path, "MDTM "+full)
		if err != nil {
			return err
		}
		got, _, perr := parseFTPTime(strings.TrimSpace(r.text()))
		if r.code == 213 && perr == nil && got.Unix() == at.Unix() {
			found = command
			break
		}
	}
	if found == "" && t == Dir {
		return nil
	}
	known := learn(f, found, func(b *ftpAbilities) **string { return &b.setTime })
	if found == "" && known != "" { // somebody has found it meanwhile
		return f.findTime(c, path, full, t, at)
	}
	return nil
}

// Writes implements Target. What nobody has tried yet is taken for possible.
func (f *FTP) Writes(context.Context) (Writes, error) {
	b := f.abilities()
	return Writes{
		Mode:    b.chmod == nil || *b.chmod,
		DirMode: b.chmod == nil || *b.chmod,
		ModTime: b.setTime == nil || *b.setTime != "",
		DirTime: (b.setTime == nil || *b.setTime != "") && (b.dirTime == nil || *b.dirTime),
	}, nil
}

// ftpHashes are the names of hashes in the order of our choice, and how long they are.
func ftpHashes() []struct {
	name, ours, command string
	size                int
} {
	return []struct {
		name, ours, command string
		size                int
	}{
		{"SHA-256", "sha256", "XSHA256", 32}, {"SHA-512", "sha512", "XSHA512", 64},
		{"SHA-1", "sha1", "XSHA1", 20}, {"MD5", "md5", "XMD5", 16},
	}
}

// Hash implements Hasher, by HASH (draft-bryan-ftpext-hash) or one of the older commands.
func (f *FTP) Hash(ctx context.Context, path string) (hash string, sum []byte, err error) {
	err = f.with(ctx, "hash", path, func(c *ftpConn, full string) error {
		offered, has := c.feats["HASH"]
		for _, h := range ftpHashes() {
			line := ""
			if _, old := c.feats[h.command]; old {
				line = h.command + " " + full
			}
			if has && strings.Contains(";"+strings.ReplaceAll(strings.ToUpper(offered), "*", "")+";", ";"+h.name+";") {
				if r, err := c.cmd("hash", path, "OPTS HASH "+h.name); err != nil {
					return err
				} else if r.code == 200 {
					line = "HASH " + full
				}
			}
			if line == "" {
				continue
			}
			r, err := c.cmd("hash", path, line)
			if err != nil {
				return err
			}
			if sum = hashIn(r, h.size); sum != nil {
				hash = h.ours
				return nil
			}
		}
		return fail("hash", path, KindUnsupported, nil)
	})
	return hash, sum, err
}

// hashIn finds a hash of so many bytes in a reply.
func hashIn(r ftpReply, size int) []byte {
	if r.code < 200 || r.code > 299 {
		return nil
	}
	for _, line := range r.lines {
		for _, word := range strings.Fields(line) {
			if sum, err := hex.DecodeString(word); err == nil && len(sum) == size {
				return sum
			}
		}
	}
	return nil
}
