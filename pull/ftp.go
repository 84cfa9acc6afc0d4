package pull

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// defaultFTPConnections is for servers that are near, farFTPConnections for others: a small file
	// costs four round trips of a connection with TLS and three without, or one more (see
	// ftpConn.prepare): 240 and 320 files/s at 50 ms. ProFTPD has 30 processes for all its clients, vsftpd takes
	// 50 connections of an address, of which two are left for others, Pure-FTPd's package 8.
	defaultFTPConnections = 24
	farFTPConnections     = 48
	// ftpDialsAtOnce is how many log in at a time, which costs 13 round trips with TLS: 48 are there after 4 s at 50 ms.
	ftpDialsAtOnce = 8
	// defaultTimeout is how long a server may keep us waiting.
	defaultTimeout = time.Minute
)

// FTPConfig says how NewFTP reaches a server.
type FTPConfig struct {
	Addr           string // host:port; see Location.Addr
	User, Password string // "" is an anonymous login
	// TLS protects both connections, by AUTH TLS or, with Implicit, from the first byte;
	// nil for none. Without a ServerName it takes the host of Addr.
	TLS      *tls.Config
	Implicit bool
	// Root is the directory that the remote shows; Home says that it is relative to where a
	// login arrives. See Location.
	Root string
	Home bool
	// Connections is the most to be made; 0 for 24, or 48 when the server is far. Fewer are used
	// when the server refuses.
	Connections int
	// Timeout is how long the server may keep us waiting, on both connections; 0 for a
	// minute.
	Timeout time.Duration
	// Dial makes all connections; nil for the net package's way.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)
	// patience is preparedPatience; tests have less.
	patience time.Duration
	lines    int // maxListLines; tests have less
	// Now is the clock that tells the year of what LIST shows without one; nil for the
	// system's.
	Now func() time.Time
}

// FTP is a Remote on an FTP server (RFC 959, 2428, 3659, 4217). Files are listed by MLSD
// where the server has it, else by LIST, whose times are to the minute or to the day and in a
// zone that nobody knows: they are taken for UTC, and Lstat asks MDTM.
type FTP struct {
	pool *pool[*ftpConn]
	cfg  FTPConfig

	serial, proven atomic.Bool // see ftpConn

	mu   sync.Mutex // guards what follows
	all  *bool      // whether "LIST -a" shows hidden files; nil when not tried
	able ftpAbilities
}

var _ Remote = (*FTP)(nil)

// NewFTP makes a Remote. It does not connect yet.
func NewFTP(cfg FTPConfig) (*FTP, error) {
	if _, _, err := net.SplitHostPort(cfg.Addr); err != nil {
		return nil, fmt.Errorf("ftp remote: %w", err)
	}
	if strings.ContainsAny(cfg.User+cfg.Password+cfg.Root, "\r\n\x00") {
		return nil, errors.New("ftp remote: a line break in user, password or root")
	}
	if !cfg.Home && !strings.HasPrefix(cfg.Root, "/") {
		return nil, fmt.Errorf("ftp remote: root %q is not absolute", cfg.Root)
	}
	if cfg.User == "" {
		cfg.User, cfg.Password = "anonymous", "anonymous@"
	}
	if cfg.Timeout <= 0 {
		cfg.Timeout = defaultTimeout
	}
	if cfg.Dial == nil {
		cfg.Dial = (&net.Dialer{Timeout: cfg.Timeout}).DialContext
	}
	if cfg.patience <= 0 {
		cfg.patience = preparedPatience
	}
	if cfg.lines <= 0 {
		cfg.lines = maxListLines
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	f := &FTP{cfg: cfg}
	f.pool = newPool(func(c *ftpConn) int {
		return connections(cfg.Connections, defaultFTPConnections, farFTPConnections, c.trip)
	}, func(*ftpConn) int { return 1 }, func(ctx context.Context) (*ftpConn, error) {
		c, err := dialFTP(ctx, &f.cfg)
		if err == nil {
			c.serial, c.proven = &f.serial, &f.proven
		}
		return c, err
	})
	f.pool.atOnce = ftpDialsAtOnce
	return f, nil
}

// with calls fn with a connection and the path as the server has it.
func (f *FTP) with(ctx context.Context, op, path string, fn func(c *ftpConn, full string) error) error {
	conn, full, err := f.get(ctx, op, path)
	if err != nil {
		return err
	}
	defer f.pool.put(conn)
	stop := conn.s.watch(ctx)
	defer stop()
	err = fn(conn.s, full)
	if cause := ctx.Err(); err != nil && cause != nil {
		return cause
	}
	return err
}

func (f *FTP) get(ctx context.Context, op, path string) (*pooled[*ftpConn], string, error) {
	if err := checkPath(op, path); err != nil {
		return nil, "", err
	}
	conn, err := f.pool.get(ctx)
	if err != nil {
		if cause := ctx.Err(); cause != nil {
			return nil, "", cause
		}
		return nil, "", failOS(op, path, err)
	}
	top := f.cfg.Root
	if f.cfg.Home {
		if conn.s.home == "" {
			f.pool.put(conn)
			return nil, "", failf(op, path, KindProtocol, "the server does not say where a login arrives")
		}
		top = conn.s.home
		if f.cfg.Root != "" {
			top = strings.TrimRight(top, "/") + "/" + f.cfg.Root
		}
	}
	return conn, joinRoot(top, path), nil
}

func joinRoot(top, path string) string {
	switch top = strings.TrimRight(top, "/"); {
	case top == "":
		return path
	case path == "/":
		return top
	}
	return top + path
}

// ReadDir implements Remote.
func (f *FTP) ReadDir(ctx context.Context, path string, each func(Entry) error) error {
	return f.with(ctx, "list", path, func(c *ftpConn, full string) error {
		if _, ok := c.feats["MLST"]; ok {
			return f.mlsd(ctx, c, path, full, each)
		}
		return f.list(ctx, c, path, full, each)
	})
}

// mlsd lists by MLSD. Links whose targets it does not tell are looked up in a LIST, and so is what servers show
// only there.
func (f *FTP) mlsd(ctx context.Context, c *ftpConn, path, full string, each func(Entry) error) error {
	var odd map[string]Entry
	var refused error
	if c.followsLinks() {
		var err error
		if odd, refused, err = f.odd(ctx, c, path, full, each); err != nil {
			return err
		}
	}
	var links []Entry
	shown := false // the directory itself counts
	parse := func(line string) (Entry, bool) {
		shown = true
		return parseMLSD(path, line)
	}
	err := f.lines(ctx, c, path, "MLSD "+full, parse, func(e Entry) error {
		if o, ok := odd[e.Name]; ok && e.Err == nil {
			delete(odd, e.Name)
			if e.Type != Symlink || o.Type != Symlink {
				return each(o)
			}
			e.Target = o.Target
		}
		if e.Err == nil && e.Type == Symlink && e.Target == "" && len(links) < maxLinks {
			links = append(links, e)
			return nil
		}
		return each(e)
	})
	if isEmpty(err) {
		err = nil
	} else if err == nil && !shown {
		// What may be read and not searched looks so, too, where the server leaves out what it cannot describe.
		err = c.chdir("list", path, full)
	}
	if err != nil {
		return err
	}
	for _, o := range odd {
		if err := each(o); err != nil {
			return err
		}
	}
	if refused != nil {
		if err := each(Entry{Err: refused}); err != nil {
			return err
		}
	}
	if len(links) == 0 {
		return nil
	}
	// A link whose target is not found here is asked for alone, and is a problem then.
	if odd, _, err = f.odd(ctx, c, path, full, func(Entry) error { return nil }); err != nil {
		return err
	}
	for _, e := range links {
		if o := odd[e.Name]; o.Err != nil {
			e = o
		} else {
			e.Target = o.Target
		}
		if err := each(e); err != nil {
			return err
		}
	}
	return nil
}

// list lists by LIST, in the directory: with a path, some servers look for patterns and
// options in it.
func (f *FTP) list(ctx context.Context, c *ftpConn, path, full string, each func(Entry) error) error {
	if err := c.chdir("list", path, full); err != nil {
		return err
	}
	all, err := f.showsAll(ctx, c, path)
	if isEmpty(err) {
		return nil
	}
	if err != nil {
		return err
	}
	line := "LIST"
	if all {
		line = "LIST -a"
	}
	l := listing{dir: path, now: f.cfg.Now()}
	shown := false // the directory itself, or anything in it
	err = f.lines(ctx, c, path, line, func(line string) (Entry, bool) {
		e, ok := l.parse(line)
		shown = shown || ok
		if self, unix := parseUnix(line, l.now); unix && self.Name == "." {
			shown = true
		}
		return e, ok
	}, each)
	if isEmpty(err) {
		return nil
	}
	if err != nil {
		return err
	}
	if e, ok := l.end(); ok {
		return each(e)
	}
	if all && !shown {
		return failf("list", path, KindListing, "not even the directory itself is listed")
	}
	return nil
}

// isEmpty reports whether err is what some servers say of an empty directory.
func isEmpty(err error) bool {
	var r *replyError
	return errors.As(err, &r) && (r.code == 450 || r.code == 550) && strings.EqualFold(strings.Trim(r.text, " ."), "no files found")
}

// chdir changes the directory, if it is not there already.
func (c *ftpConn) chdir(op, path, full string) error {
	if c.cwd == full {
		return nil
	}
	c.cwd = ""
	if _, err := c.want(op, path, 250, "CWD "+full); err != nil {
		return err
	}
	c.cwd = full
	return nil
}

// showsAll finds out, once, whether the server takes "-a" for the option that shows hidden
// files, and not for a name: the directory itself is listed then.
func (f *FTP) showsAll(ctx context.Context, c *ftpConn, path string) (bool, error) {
	f.mu.Lock()
	known := f.all
	f.mu.Unlock()
	if known != nil {
		return *known, nil
	}
	self, err := f.showsSelf(ctx, c, path, "LIST -a")
	if err != nil && !noOption(err) {
		// It is the option that it refuses when it refuses it twice, and not what it does without.
		if c.Err() == nil && !lost(err) {
			_, err = f.showsSelf(ctx, c, path, "LIST")
		}
		if err != nil {
			return false, err
		}
		self, err = f.showsSelf(ctx, c, path, "LIST -a")
	}
	if err != nil && (lost(err) || c.Err() != nil) {
		return false, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.all = &self
	return self, nil
}

// noOption reports whether a server says by an error that it does not know an option of a command.
func noOption(err error) bool {
	var r *replyError
	return errors.As(err, &r) && slices.Contains([]int{500, 501, 502, 504}, r.code)
}

// showsSelf reports whether a command lists the directory itself.
func (f *FTP) showsSelf(ctx context.Context, c *ftpConn, path, command string) (self bool, err error) {
	now := f.cfg.Now()
	t, err := c.start(ctx, "list", path, command, 0)
	if err != nil {
		return false, err
	}
	defer t.Close()
	err = t.lines(func(line string, _ bool) error {
		e, ok := parseUnix(line, now)
		self = self || ok && e.Name == "."
		return nil
	})
	if err == nil && !self {
		err = t.listed() // of another directory it may show more
	}
	return self && err == nil, err
}

// lines runs a command that lists, and calls each for the entries.
func (f *FTP) lines(ctx context.Context, c *ftpConn, path, command string, parse func(string) (Entry, bool), each func(Entry) error) error {
	t, err := c.start(ctx, "list", path, command, 0)
	if err != nil {
		return err
	}
	defer t.Close()
	err = t.lines(func(line string, whole bool) error {
		if !whole {
			return each(Entry{Name: line, Err: failf("list", path, KindLimit, "a line is longer than %d bytes: %s", maxListLine, quote(line))})
		}
		e, ok := parse(line)
		if !ok {
			return nil
		}
		return each(e)
	})
	if err == nil {
		err = t.listed()
	}
	return err
}

// listed returns an error when the reply of success after a listing says that it is none:
// pure-ftpd cuts after 10,000 names, vsftpd shows nothing of a directory that it cannot open.
func (t *transfer) listed() error {
	for _, text := range t.final.lines {
		if i := strings.IndexByte(text, '"'); i >= 0 { // FileZilla names the directory
			text = text[:i] + text[strings.LastIndexByte(text, '"')+1:]
		}
		switch text = strings.ToLower(text); {
		case strings.Contains(text, "truncated"):
			return failf(t.op, t.path, KindListing, "the listing is cut: %w", replyText(t.final))
		case strings.Contains(text, "failed to open"):
			return failf(t.op, t.path, KindListing, "the directory is not listed: %w", replyText(t.final))
		}
	}
	return nil
}

// Lstat implements Remote. Without MLST, SIZE and MDTM describe files, and what they refuse
// is looked for in the listing of its directory.
func (f *FTP) Lstat(ctx context.Context, path string) (Entry, error) {
	var e Entry
	err := f.with(ctx, "stat", path, func(c *ftpConn, full string) (err error) {
		e, err = f.lstat(ctx, c, path, full)
		return err
	})
	return e, err
}

func (f *FTP) lstat(ctx context.Context, c *ftpConn, path, full string) (Entry, error) {
	switch _, mlst := c.feats["MLST"]; {
	case path == "/":
		return f.statRoot(c, full, mlst)
	case mlst:
		return c.mlst(path, full)
	}
	return f.statFile(ctx, c, path, full)
}

// statRoot describes the directory that the remote shows, whether it is reached by a link or
// not. It always asks: whoever calls may want to know whether the server is there.
func (f *FTP) statRoot(c *ftpConn, full string, mlst bool) (Entry, error) {
	c.cwd = ""
	if err := c.chdir("stat", "/", full); err != nil {
		return Entry{}, c.noRoot(full, err)
	}
	if mlst {
		if e, err := c.mlst("/", full); err == nil && e.Type == Dir {
			return e, nil
		} else if err != nil && c.Err() != nil {
			return Entry{}, err
		}
	}
	return Entry{Name: "/", Type: Dir}, nil
}

// noRoot says what a refusal to go to the root means where the server does not: vsftpd says of what is missing, of a file
// and of what may not be entered that it has failed.
func (c *ftpConn) noRoot(full string, err error) error {
	var why *replyError
	if !errors.As(err, &why) || why.code != 550 || KindOf(err) != KindOther {
		return err
	}
	file := strings.Contains(strings.ToLower(why.all), "not a directory")
	if !file {
		r, serr := c.cmd("stat", "/", "SIZE "+full) // of a directory nobody tells one
		if serr != nil {
			return serr
		}
		file = r.code == 213
	}
	if file {
		return failf("stat", "/", KindConflict, "%w: %w", ErrNotDirectory, why)
	}
	return failf("stat", "/", KindNotFound, "or there is no way in: %w", why)
}

// mlst asks for the facts of a path (RFC 3659 section 7.2).
func (c *ftpConn) mlst(path, full string) (Entry, error) {
	r, err := c.want("stat", path, 250, "MLST "+full)
	if err != nil {
		return Entry{}, err
	}
	if len(r.lines) < 3 {
		return Entry{}, failf("stat", path, KindListing, "no facts in %w", replyText(r))
	}
	facts, _, _ := strings.Cut(strings.TrimPrefix(r.lines[1], " "), "; ")
	facts += ";"
	name := base(path)
	if path == "/" {
		name = "root"
	}
	// The name of the reply is not of use: it may be a path, or what the server thinks that
	// we meant.
	for _, self := range []string{"cdir", "pdir"} { // of the directory itself, for some
		facts = strings.Replace(facts, "="+self+";", "=dir;", 1)
	}
	e, ok := parseMLSD(path, facts+" "+name)
	if !ok {
		return Entry{}, errLine(path, r.lines[1])
	}
	if path == "/" && e.Err == nil {
		e.Name = "/"
	}
	return e, e.Err
}

func (f *FTP) statFile(ctx context.Context, c *ftpConn, path, full string) (Entry, error) {
	r, err := c.cmd("stat", path, "SIZE "+full) // RFC 3659 section 4
	if err != nil {
		return Entry{}, err
	}
	if size, serr := parseSize(strings.TrimSpace(r.text())); r.code == 213 && serr == nil {
		e := Entry{Name: base(path), Type: File, Size: size}
		r, err := c.cmd("stat", path, "MDTM "+full) // section 3
		if err != nil {
			return Entry{}, err
		}
		if t, p, terr := parseFTPTime(strings.TrimSpace(r.text())); r.code == 213 && terr == nil {
			e.ModTime, e.Precision = t, p
		}
		return e, nil
	}
	dir := full[:max(strings.LastIndexByte(full, '/'), 1)]
	var found *Entry
	bad := 0
	err = f.list(ctx, c, path, dir, func(e Entry) error {
		if e.Err != nil {
			bad++
		} else if e.Name == base(path) {
			found = &e
		}
		return nil
	})
	switch {
	case err != nil:
		return Entry{}, err
	case found != nil:
		return *found, nil
	case bad > 0:
		return Entry{}, failf("stat", path, KindListing, "%s not understood", Count(int64(bad), "line of its directory is", "lines of its directory are"))
	}
	return Entry{}, fail("stat", path, KindNotFound, nil)
}

// Open implements Remote. A transfer cannot end before the file does: offset and length are
// to make up its size. Where the server cannot resume, what comes before offset is read and
// dropped.
func (f *FTP) Open(ctx context.Context, path string, offset, length int64) (io.ReadCloser, error) {
	conn, full, err := f.get(ctx, "open", path)
	if err != nil {
		return nil, err
	}
	r := &ftpReader{f: f, ctx: ctx, conn: conn, full: full, left: length}
	r.t, err = conn.s.start(ctx, "read", path, "RETR "+full, offset)
	skip := int64(0)
	if err != nil && offset > 0 && KindOf(err) == KindUnsupported {
		skip, r.left = offset, offset+length
		r.t, err = conn.s.start(ctx, "read", path, "RETR "+full, 0)
	}
	if err != nil {
		f.pool.put(conn)
		if cause := ctx.Err(); cause != nil {
			return nil, cause
		}
		return nil, err
	}
	if _, err := io.CopyN(io.Discard, r, skip); err != nil {
		_ = r.Close()
		if errors.Is(err, io.EOF) {
			err = failf("read", path, KindShort, "it ends before byte %d", offset)
		}
		return nil, err
	}
	return r, nil
}

// Readlink implements Remote: targets are in listings only.
func (f *FTP) Readlink(ctx context.Context, path string) (string, error) {
	target := ""
	err := f.with(ctx, "readlink", path, func(c *ftpConn, full string) error {
		dir := full[:max(strings.LastIndexByte(full, '/'), 1)]
		err := f.list(ctx, c, path, dir, func(e Entry) error {
			if e.Err == nil && e.Type == Symlink && e.Name == base(path) {
				target = e.Target
			}
			return nil
		})
		if err == nil && target == "" {
			err = fail("readlink", path, KindUnsupported, nil)
		}
		return err
	})
	return target, err
}

// Capabilities implements Remote.
func (f *FTP) Capabilities(ctx context.Context) (Capabilities, error) {
	var caps Capabilities
	err := f.with(ctx, "stat", "/", func(c *ftpConn, _ string) error {
		facts, mlst := c.feats["MLST"]
		facts = strings.ToLower(facts)
		_, mdtm := c.feats["MDTM"]
		caps = Capabilities{Symlinks: true, RawNames: true, Parallel: f.pool.size(), Precision: minute, Mode: true, Exact: mdtm}
		if mlst {
			caps.Precision, caps.Exact = time.Second, true
			caps.Mode = strings.Contains(facts, "unix.mode")
			caps.Owner = strings.Contains(facts, "unix.uid") && strings.Contains(facts, "unix.gid")
		}
		return nil
	})
	return caps, err
}

// Connect implements Connecter.
func (f *FTP) Connect(ctx context.Context) error {
	err := f.pool.ready(ctx)
	if err == nil || ctx.Err() != nil {
		return ctx.Err()
	}
	return failOS("connect", "", err)
}

// Close implements Remote.
func (f *FTP) Close() error {
	f.pool.close()
	return nil
}
