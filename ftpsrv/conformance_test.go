package ftpsrv

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/snapgate/gateway/vfs"
	"github.com/snapgate/gateway/vfs/vfstest"
)

// TestConformance runs the suite of the live tree through FTP and through FTPS.
func TestConformance(t *testing.T) {
	ways := []string{"FTP", "FTPS"}
	if testing.Short() { // the race detector has enough to see in one; TestAbortMatrix has TLS
		ways = ways[:1]
	}
	for _, way := range ways {
		t.Run(way, func(t *testing.T) {
			vfstest.Run(t, vfstest.Target{
				Start: func(tb testing.TB) vfstest.System {
					tb.Helper()
					changes := []func(*Config){func(c *Config) { c.CloseGrace = time.Millisecond }}
					if way == "FTPS" {
						changes = append(changes, withTLS(tb))
					}
					return &remote{startServer(tb, changes...)}
				},
				Kind:    replyKind,
				Remote:  true,
				Costly:  true,
				Lacks:   lacking,
				LeftOut: leftOut(),
			})
		})
	}
}

// lacking is what FTP has no command for.
const lacking = vfstest.Update | // STOR with REST drops what was behind the new bytes
	vfstest.Handles | // there is nothing but the transfer
	vfstest.Resize |
	vfstest.Exclusive | // STOU chooses the name itself
	vfstest.HardLinks |
	vfstest.NoReplace | // RNTO replaces, as with all common servers
	vfstest.LineBreak // it ends the command

// leftOut are the suite's cases that FTP cannot express.
func leftOut() map[string]string {
	const (
		update = "an upload is one stream: bytes cannot be written anywhere in a file"
		handle = "a transfer has no attributes"
		resize = "no command sets a size"
		link   = "no command makes a hard link"
	)
	return map[string]string{
		"writes in any order and with gaps":              update,
		"updates in the middle keep the rest":            update,
		"a handle reads its own writes":                  update,
		"the size of an open upload can be set":          resize,
		"the size of a closed file can be set":           resize,
		"time and mode of an open upload appear with it": handle,
		"exclusive creation":                             "STOU chooses the name itself",
		"real paths":                                     "PWD and MLST name a place as the client has named it, links included",
		"hard links share content, not fate":             link,
		"hard links that are refused":                    link,
		"a file is restored by a link":                   link,
	}
}

// replyKind reads the kind from a reply: the code has a few, the text all of them.
func replyKind(err error) vfs.Kind {
	var re *replyError
	switch {
	case errors.Is(err, errNoLink):
		return vfs.KindInvalid
	case !errors.As(err, &re):
		return vfs.KindOther
	case re.code == codeUnknown && re.text == "line too long", re.code == codeBadName:
		return vfs.KindBadName
	}
	text := re.text[strings.LastIndex(re.text, ": ")+1:]
	for kind := vfs.KindOther; kind <= vfs.KindQuota; kind++ {
		if strings.TrimSpace(text) == kind.String() && kindCode(kind) == re.code {
			return kind
		}
	}
	return vfs.KindOther
}

// remote is a system behind a server. It is no vfstest.Holder: that commits may happen at
// any moment has nothing to do with the protocol.
type remote struct{ server *testServer }

// Commit implements vfstest.System.
func (r *remote) Commit() error { return r.server.local.Commit() }

// Pull implements vfstest.System.
func (r *remote) Pull() error { return r.server.local.Pull() }

// Limit implements vfstest.System.
func (r *remote) Limit(quota int64) error { return r.server.local.Limit(quota) }

// Restart implements vfstest.Restarter.
func (r *remote) Restart() error { return r.server.local.Restart() }

// Client implements vfstest.System.
func (r *remote) Client(tb testing.TB, user string) vfstest.Client {
	tb.Helper()
	return &remoteClient{tb: tb, server: r.server, user: user}
}

// remoteClient is a user with as many connections as it needs: each of them does one thing
// at a time, and an open file has one to itself.
type remoteClient struct {
	tb     testing.TB
	server *testServer
	user   string

	mu    sync.Mutex // guards what follows
	all   []*client
	idle  []*client
	files map[*remoteUpload]struct{}
}

// take gives a connection.
func (c *remoteClient) take() *client {
	c.mu.Lock()
	defer c.mu.Unlock()
	if n := len(c.idle); n > 0 {
		conn := c.idle[n-1]
		c.idle = c.idle[:n-1]
		return conn
	}
	conn := c.server.login(c.tb, c.user)
	c.all = append(c.all, conn)
	return conn
}

// give takes a connection back.
func (c *remoteClient) give(conn *client) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.idle = append(c.idle, conn)
}

// ask sends a command; a refusal is a *replyError.
func (c *remoteClient) ask(line string) (reply, error) {
	conn := c.take()
	defer c.give(conn)
	r, err := conn.exchange(line)
	if err == nil && r.code >= 400 {
		err = &replyError{r.code, r.text()}
	}
	return r, err
}

// do is ask, for commands that tell nothing.
func (c *remoteClient) do(line string) error {
	_, err := c.ask(line)
	return err
}

// Drop cuts all connections, after what was sent has arrived: FTP does not tell that, and
// the suite counts on it. It waits until the server has noticed.
func (c *remoteClient) Drop() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	var errs []error
	for f := range c.files {
		errs = append(errs, f.arrived(), f.data.cut())
	}
	for _, conn := range c.all {
		errs = append(errs, conn.drop())
	}
	for _, conn := range c.all {
		c.server.wantSessionEnd(c.tb, conn)
	}
	return errors.Join(errs...)
}

// Open implements vfstest.FileClient.
func (c *remoteClient) Open(name string, flag vfs.OpenFlag) (vfstest.File, error) {
	if flag&vfs.OpenWrite == 0 {
		return c.download(name)
	}
	if flag&vfs.OpenCreate == 0 { // FTP creates always
		if _, err := c.Stat(name); err != nil {
			return nil, err
		}
	}
	lines, at := []string{"STOR " + name}, int64(0)
	if flag&vfs.OpenTruncate == 0 {
		if info, err := c.Stat(name); err == nil {
			at = info.Size
		}
		lines = []string{"APPE " + name}
		if flag&vfs.OpenResume != 0 && at > 0 {
			lines = []string{"REST " + strconv.FormatInt(at, 10), "STOR " + name}
		}
	}
	return c.upload(name, at, lines...)
}

// Remove implements vfstest.FileClient.
func (c *remoteClient) Remove(name string) error { return c.do("DELE " + name) }

// Rename implements vfstest.FileClient.
func (c *remoteClient) Rename(from, to string, _ bool) error {
	conn := c.take()
	defer c.give(conn)
	for _, line := range []string{"RNFR " + from, "RNTO " + to} {
		r, err := conn.exchange(line)
		if err == nil && r.code >= 400 {
			err = &replyError{r.code, r.text()}
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// SetAttr implements vfstest.FileClient.
func (c *remoteClient) SetAttr(name string, set vfs.AttrSet) error {
	var errs []error
	if set.Mode != nil {
		errs = append(errs, c.do(fmt.Sprintf("SITE CHMOD %o %s", *set.Mode, name)))
	}
	if set.ModTime != nil {
		errs = append(errs, c.do("MFMT "+set.ModTime.UTC().Format(timeVal)+" "+name))
	}
	if set.Size != nil || set.UID != nil || set.GID != nil {
		errs = append(errs, errors.ErrUnsupported)
	}
	return errors.Join(errs...)
}

// Mkdir implements vfstest.DirClient.
func (c *remoteClient) Mkdir(name string) error { return c.do("MKD " + name) }

// Rmdir implements vfstest.DirClient.
func (c *remoteClient) Rmdir(name string) error { return c.do("RMD " + name) }

// List implements vfstest.DirClient.
func (c *remoteClient) List(name string) ([]vfs.Info, error) {
	conn := c.take()
	defer c.give(conn)
	body, err := conn.get(withName("MLSD", name))
	var infos []vfs.Info
	for line := range strings.Lines(string(body)) {
		info, _, perr := parseFacts(strings.TrimSuffix(line, "\r\n"))
		infos, err = append(infos, info), errors.Join(err, perr)
	}
	return infos, err
}

// withName is a command with a name; none is the working directory's.
func withName(verb, name string) string {
	if name == "" {
		return verb
	}
	return verb + " " + name
}

// facts asks for a name's facts; a symbolic link has a target.
func (c *remoteClient) facts(name string) (info vfs.Info, target string, err error) {
	r, err := c.ask(withName("MLST", name))
	if err != nil {
		return vfs.Info{}, "", err
	}
	if len(r.lines) != 3 || !strings.HasPrefix(r.lines[1], " ") {
		return vfs.Info{}, "", fmt.Errorf("facts: %v", r)
	}
	return parseFacts(r.lines[1][1:])
}

// Lstat implements vfstest.DirClient.
func (c *remoteClient) Lstat(name string) (vfs.Info, error) {
	info, _, err := c.facts(name)
	info.Name = path.Base(info.Name) // MLST tells the whole path
	return info, err
}

// Stat implements vfstest.DirClient. MLST shows links; SIZE and MDTM follow them.
func (c *remoteClient) Stat(name string) (vfs.Info, error) {
	info, err := c.Lstat(name)
	if err != nil || info.Type != vfs.TypeSymlink {
		return info, err
	}
	r, err := c.ask("SIZE " + name)
	switch {
	case err == nil:
		info.Type = vfs.TypeFile
		if info.Size, err = strconv.ParseInt(r.text(), 10, 64); err != nil {
			return info, err
		}
	case replyKind(err) == vfs.KindIsDir:
		info.Type = vfs.TypeDir
	default:
		return info, err
	}
	if r, err = c.ask("MDTM " + name); err == nil {
		info.ModTime, err = time.Parse(timeVal, r.text())
	}
	return info, err
}

// Symlink implements vfstest.LinkClient.
func (c *remoteClient) Symlink(target, name string) error {
	return c.do("SITE SYMLINK " + target + " " + name)
}

var errNoLink = errors.New("no symbolic link")

// Readlink implements vfstest.LinkClient.
func (c *remoteClient) Readlink(name string) (string, error) {
	info, target, err := c.facts(name)
	if err == nil && info.Type != vfs.TypeSymlink {
		err = errNoLink
	}
	return target, err
}

// Link implements vfstest.LinkClient.
func (*remoteClient) Link(string, string) error { return errors.ErrUnsupported }

// RealPath implements vfstest.LinkClient: MLST tells how the server understands a path.
func (c *remoteClient) RealPath(name string) (string, error) {
	info, _, err := c.facts(name)
	return info.Name, err
}

// parseFacts reads a line of MLSD, or of MLST without the space at its start (RFC 3659
// section 7.2).
func parseFacts(line string) (info vfs.Info, target string, err error) {
	list, name, ok := strings.Cut(line, "; ")
	if !ok {
		return info, "", fmt.Errorf("facts: %q", line)
	}
	info.Name = name
	for f := range strings.SplitSeq(list, ";") {
		key, value, _ := strings.Cut(f, "=")
		var err error
		switch key {
		case "type":
			info.Type, target, err = parseType(value)
		case "size":
			info.Size, err = strconv.ParseInt(value, 10, 64)
		case "modify":
			info.ModTime, err = time.Parse(timeVal, value)
		case "UNIX.mode":
			var mode uint64
			mode, err = strconv.ParseUint(value, 8, 32)
			info.Mode = fs.FileMode(mode & 0o777)
		}
		if err != nil {
			return info, "", fmt.Errorf("fact %s of %q: %w", key, line, err)
		}
	}
	return info, target, nil
}

func parseType(value string) (typ vfs.FileType, target string, err error) {
	target, link := strings.CutPrefix(value, "OS.unix=slink:")
	switch {
	case link:
		return vfs.TypeSymlink, target, nil
	case value == "dir":
		return vfs.TypeDir, "", nil
	case value == "file":
		return vfs.TypeFile, "", nil
	}
	return 0, "", errors.New("unknown")
}

// transferFile is what open files have in common: a transfer has no attributes.
type transferFile struct {
	client *remoteClient
	conn   *client
	data   *data
}

// Stat implements vfstest.File.
func (*transferFile) Stat() (vfs.Info, error) { return vfs.Info{}, errors.ErrUnsupported }

// SetAttr implements vfstest.File.
func (*transferFile) SetAttr(vfs.AttrSet) error { return errors.ErrUnsupported }

// remoteUpload is a file that is being sent.
type remoteUpload struct {
	transferFile
	name  string
	start int64 // where the transfer began
	at    int64
	sent  int64 // by its connection before the transfer
}

func (c *remoteClient) upload(name string, at int64, lines ...string) (vfstest.File, error) {
	f := &remoteUpload{transferFile{client: c, conn: c.take()}, name, at, at, 0}
	var err error
	if f.data, err = f.conn.begin(lines...); err == nil {
		f.sent, err = f.received()
	}
	if err != nil {
		c.give(f.conn)
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.files == nil {
		c.files = map[*remoteUpload]struct{}{}
	}
	c.files[f] = struct{}{}
	return f, nil
}

// WriteAt implements io.WriterAt for the bytes of a stream, one after the other. When the
// first ones of a file that was opened at its end come for its start, it is sent from
// there, as a client would have begun that knows what it is going to send.
func (f *remoteUpload) WriteAt(p []byte, off int64) (int, error) {
	if off == 0 && f.at > 0 && f.at == f.start {
		if err := f.again(); err != nil {
			return 0, err
		}
	}
	if off != f.at {
		return 0, fmt.Errorf("%s: write at %d of a stream at %d", f.name, off, f.at)
	}
	n, err := f.data.Write(p)
	f.at += int64(n)
	return n, err
}

// again aborts a transfer that has begun at the end of a file, and begins at its start.
func (f *remoteUpload) again() error {
	if err := f.data.cut(); err != nil {
		return err
	}
	var re *replyError
	if err := f.conn.finish(); !errors.As(err, &re) || re.code != codeAborted {
		return fmt.Errorf("%s: cut off: %w", f.name, err)
	}
	f.start, f.at = 0, 0
	var err error
	f.data, err = f.conn.begin("STOR " + f.name)
	return err
}

// Close implements io.Closer: the file is complete and durable when it returns.
func (f *remoteUpload) Close() error {
	f.client.mu.Lock()
	delete(f.client.files, f)
	f.client.mu.Unlock()
	err := errors.Join(f.data.Close(), f.conn.finish())
	f.client.give(f.conn)
	return err
}

// received asks how many bytes the connection's session has received so far: STAT is the
// one command that may be sent during a transfer.
func (f *remoteUpload) received() (n int64, err error) {
	r, err := f.conn.exchange("STAT")
	if err != nil {
		return 0, err
	}
	i := slices.IndexFunc(r.lines, func(line string) bool { return strings.Contains(line, " under way; ") })
	if i < 0 {
		return 0, fmt.Errorf("no transfer is under way: %v", r)
	}
	_, text, _ := strings.Cut(r.lines[i], " under way; ")
	_, err = fmt.Sscanf(text, "%d bytes received", &n)
	return n, err
}

// arrived waits until the server has received everything that was sent.
func (f *remoteUpload) arrived() error {
	for deadline := time.Now().Add(patience); ; {
		n, err := f.received()
		switch {
		case err != nil:
			return err
		case n-f.sent == f.at-f.start:
			return nil
		case time.Now().After(deadline):
			return fmt.Errorf("%s: %d bytes have arrived of %d", f.name, n-f.sent, f.at-f.start)
		}
	}
}

// ReadAt implements io.ReaderAt.
func (*remoteUpload) ReadAt([]byte, int64) (int, error) { return 0, errors.ErrUnsupported }

// remoteDownload is a file that is being received. What has come is kept, so that it can be
// read again: the suite reads anywhere.
type remoteDownload struct {
	transferFile

	mu   sync.Mutex // guards what follows
	body []byte
	err  error // io.EOF when all is there
}

func (c *remoteClient) download(name string) (vfstest.File, error) {
	f := &remoteDownload{transferFile: transferFile{client: c, conn: c.take()}}
	var err error
	if f.data, err = f.conn.begin("RETR " + name); err != nil {
		c.give(f.conn)
		return nil, err
	}
	return f, nil
}

// ReadAt implements io.ReaderAt.
func (f *remoteDownload) ReadAt(p []byte, off int64) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for f.err == nil && int64(len(f.body)) < off+int64(len(p)) {
		f.body = slices.Grow(f.body, 32<<10)
		var n int
		n, f.err = f.data.Read(f.body[len(f.body):cap(f.body)])
		f.body = f.body[:len(f.body)+n]
		if errors.Is(f.err, io.EOF) {
			f.err = errors.Join(f.data.ended(), f.conn.finish())
			if f.err == nil {
				f.err = io.EOF // and the server says that it is all
			}
		}
	}
	if off >= int64(len(f.body)) {
		return 0, f.err
	}
	n := copy(p, f.body[off:])
	if n < len(p) {
		return n, f.err
	}
	return n, nil
}

// Close implements io.Closer. A download that is left before its end is aborted.
func (f *remoteDownload) Close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	defer f.client.give(f.conn)
	if f.err != nil {
		return nil
	}
	if err := f.data.cut(); err != nil {
		return err
	}
	_, err := f.conn.receive() // either reply is right: it may have been sent already
	return err
}

// WriteAt implements io.WriterAt.
func (*remoteDownload) WriteAt([]byte, int64) (int, error) { return 0, errors.ErrUnsupported }
