package backend

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
	"sync"
	"time"

	"github.com/pkg/sftp"
	"golang.org/x/sync/errgroup"
)

const (
	// defaultSFTPConns is how many connections are used: one is held back by its window, about
	// 38 MB/s at a round trip of 50 ms.
	defaultSFTPConns = 4
	// sftpDepth is how many names the paths of directories have that are looked into: those of a store, as
	// packfiles/ab, have two.
	sftpDepth = 3
	// sftpRequests is how many requests of one kind are under way, on all connections.
	sftpRequests = 32
	// sftpReadSize is how much is asked for at once, in requests beside each other.
	sftpReadSize = 1 << 20

	defaultSFTPTimeout = 30 * time.Second
	defaultSFTPRetries = 3
	// sftpPause is how long to wait before another connection is tried; it doubles.
	sftpPause = 200 * time.Millisecond
	// unansweredLimits is how many time limits a call may go without moving itself, while others on its connection do.
	unansweredLimits = 60
)

// The extensions of OpenSSH that a store is better with.
const (
	extRename = "posix-rename@openssh.com"
	extSync   = "fsync@openssh.com"
)

// SFTPDialer opens connections to an SFTP server.
type SFTPDialer interface {
	// Dial opens a connection. Errors: ErrLogin; no error may be one of package fs, which would pass for
	// one of a file.
	Dial(ctx context.Context) (*SFTPLink, error)
}

// SFTPLink is a connection to an SFTP server.
type SFTPLink struct {
	Client *sftp.Client
	// HangUp ends it at once, whatever is under way on it.
	HangUp func() error
	// Heard is when a byte came from the server last. It is called at any time.
	Heard func() time.Time
}

// SFTPConfig says how a directory on an SFTP server is reached.
type SFTPConfig struct {
	Dialer SFTPDialer
	Root   string // of the store, as the server takes it
	Token  string // marks temporary files of this installation; see NewLocal

	Connections int           // at most; 0: 4
	Timeout     time.Duration // how long a connection may stand still on which there are requests; 0: 30 s
	Retries     int           // of what can be repeated; 0: 3
}

// SFTP is a Backend in a directory of an SFTP server, with the layout of plakar's connector. A
// file is written to a temporary name in the same directory, a lock in that of the store, synced,
// renamed over the other, where the server can do so, and synced by its name. On one without posix-rename@openssh.com the other
// moves aside meanwhile (see makeRoom): Get finds it there, and Stat, but for locks; List does not. One without
// fsync@openssh.com keeps its own time.
type SFTP struct {
	cfg       SFTPConfig
	conns     []*sftpConn
	replacing sync.RWMutex // guards what is aside on the server
	leaving   *leaving
}

// NewSFTP returns the backend. It does not connect; Close ends its connections.
func NewSFTP(cfg SFTPConfig) *SFTP {
	if cfg.Connections == 0 {
		cfg.Connections = defaultSFTPConns
	}
	if cfg.Timeout == 0 {
		cfg.Timeout = defaultSFTPTimeout
	}
	if cfg.Retries == 0 {
		cfg.Retries = defaultSFTPRetries
	}
	s := &SFTP{cfg: cfg, leaving: newLeaving()}
	for range cfg.Connections {
		c := &sftpConn{}
		c.ended = sync.NewCond(&c.mu)
		s.conns = append(s.conns, c)
	}
	return s
}

// Close ends all connections, and waits until they have.
func (s *SFTP) Close() error {
	return s.end(func(*sftpConn) bool { return true })
}

// end ends connections beside each other: each may take seconds.
func (s *SFTP) end(which func(*sftpConn) bool) error {
	errs := make([]error, len(s.conns))
	var wg sync.WaitGroup
	for i, c := range s.conns {
		wg.Go(func() {
			errs[i] = c.end(func() bool { return which(c) })
			c.awaitEnds()
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// sftpConn is a connection that is made when it is needed, and again when it breaks.
type sftpConn struct {
	dialing sync.Mutex // held while connecting: others wait for it

	mu     sync.Mutex
	ended  *sync.Cond // of mu: ending has become less
	link   *SFTPLink  // guarded by mu: nil when there is none
	ending int        // guarded by mu: earlier ones that are being hung up
	users  int        // guarded by mu
	busy   time.Time  // guarded by mu: since when there have been users, when there are any
}

// errBroken says that a connection could not be made, or broke.
var errBroken = errors.New("no connection to the SFTP server")

// ErrLogin is what errors of an SFTPDialer are when trying again is of no use, and may get us
// banned: there is a server, and no login.
var ErrLogin = errors.New("no login at its server")

// call makes a call on the connection with the fewest users. When the connection breaks and the
// call may be repeated, it does so on another. call has to tell alive of what moves.
func (s *SFTP) call(ctx context.Context, repeat bool, fn func(c *sftp.Client, alive func()) error) error {
	return s.callOn(ctx, s.leastUsed, repeat, fn)
}

// callOn is call with a choice of the connection.
func (s *SFTP) callOn(ctx context.Context, pick func() *sftpConn, repeat bool, fn func(c *sftp.Client, alive func()) error) error {
	pause := sftpPause
	for try := 0; ; try++ {
		err := s.callOnce(ctx, pick(), fn)
		if !errors.Is(err, errBroken) || errors.Is(err, ErrLogin) || !repeat || try == s.cfg.Retries || isClosed(s.leaving.cut) {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-s.leaving.cut:
			return err
		case <-time.After(pause):
		}
		pause *= 2
	}
}

func (s *SFTP) callOnce(ctx context.Context, conn *sftpConn, fn func(c *sftp.Client, alive func()) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	conn.use(1)
	defer conn.use(-1)
	link, err := conn.open(ctx, s.dial)
	if err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return fmt.Errorf("%w: %w", errBroken, err)
	}
	if isClosed(s.leaving.gone) { // Leave sees a call that gets beyond this, and ends it
		return fmt.Errorf("%w: %w", errBroken, errLeaving)
	}
	// There is no other way to end a request than to end the connection.
	w := &sftpWatch{limit: s.cfg.Timeout, conn: conn, link: link}
	w.begin()
	defer w.end()
	err = fn(link.Client, w.begin)
	if isBroken(err) {
		conn.drop(link)
		if isClosed(s.leaving.begun) {
			err = fmt.Errorf("%w: %w", errLeaving, err)
		}
		return fmt.Errorf("%w: %w", errBroken, err)
	}
	return err
}

// sftpWatch drops a connection when nothing has moved for the time that a call may stand still: neither the call, nor
// anything that has come from the server, since the answers to all calls come one after the other, over a line that may be
// slow.
type sftpWatch struct {
	limit time.Duration
	conn  *sftpConn
	link  *SFTPLink

	mu    sync.Mutex  // guards what follows
	timer *time.Timer // nil before the beginning
	moved time.Time   // when the call did
	ended bool
}

// begin begins anew: the call moves.
func (w *sftpWatch) begin() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.moved = time.Now()
	switch {
	case w.ended:
	case w.timer == nil:
		w.timer = time.AfterFunc(w.limit, w.look)
	default:
		w.timer.Reset(w.limit)
	}
}

func (w *sftpWatch) end() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.ended = true
	w.timer.Stop()
}

func (w *sftpWatch) look() {
	if !w.moves() {
		w.conn.drop(w.link)
	}
}

// moves reports whether there is no reason to drop the connection, and has it looked at again as long as the call goes on.
func (w *sftpWatch) moves() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	still := time.Since(w.moved)
	left := w.limit - min(still, time.Since(w.link.Heard()))
	if still >= unansweredLimits*w.limit { // a server may answer others, and never this one
		left = 0
	}
	if !w.ended && left > 0 {
		w.timer.Reset(left)
	}
	return w.ended || left > 0
}

// isBroken reports whether an error is not an answer of the server.
func isBroken(err error) bool {
	var status *sftp.StatusError
	var source *sourceError
	switch {
	case err == nil, errors.As(err, &source), errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded),
		errors.Is(err, fs.ErrNotExist), errors.Is(err, fs.ErrPermission), errors.Is(err, fs.ErrExist):
		return false
	case errors.As(err, &status):
		code := status.FxCode()
		return code == sftp.ErrSSHFxConnectionLost || code == sftp.ErrSSHFxNoConnection
	case errors.Is(err, errSize), errors.Is(err, errChanged):
		return false
	}
	return true
}

func (s *SFTP) leastUsed() *sftpConn {
	var best *sftpConn
	fewest := 0
	for _, c := range s.conns {
		c.mu.Lock()
		if best == nil || c.users < fewest {
			best, fewest = c, c.users
		}
		c.mu.Unlock()
	}
	return best
}

func (c *sftpConn) use(n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.users == 0 {
		c.busy = time.Now()
	}
	c.users += n
}

func (c *sftpConn) current() *SFTPLink {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.link
}

// client is that of the connection; nil when there is none.
func (c *sftpConn) client() *sftp.Client {
	if link := c.current(); link != nil {
		return link.Client
	}
	return nil
}

// open returns the connection, and makes it when there is none.
func (c *sftpConn) open(ctx context.Context, dial func(context.Context) (*SFTPLink, error)) (*SFTPLink, error) {
	if link := c.current(); link != nil {
		return link, nil
	}
	c.dialing.Lock()
	defer c.dialing.Unlock()
	if link := c.current(); link != nil {
		return link, nil
	}
	link, err := dial(ctx)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.link = link
	return link, nil
}

// drop ends a connection that is of no use any more.
func (c *sftpConn) drop(link *SFTPLink) {
	_ = c.end(func() bool { return c.link == link }) // it is broken
}

// end ends the connection that there is if which, which is called with mu held, says so. Others need not wait for that to make another.
func (c *sftpConn) end(which func() bool) error {
	c.mu.Lock()
	link := c.link
	if link == nil || !which() {
		c.mu.Unlock()
		return nil
	}
	c.link = nil
	c.ending++
	c.mu.Unlock()
	err := link.HangUp()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ending--
	c.ended.Broadcast()
	return err
}

// awaitEnds waits until nothing is being hung up, by whomever.
func (c *sftpConn) awaitEnds() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for c.ending > 0 {
		c.ended.Wait()
	}
}

func (s *SFTP) path(name string) string { return path.Join(s.cfg.Root, name) }

// errChanged says that a file was replaced while it was read over a connection that broke.
var errChanged = errors.New("it was replaced while it was read")

// Get implements Files. When the connection breaks while it is read, it goes on with another.
func (s *SFTP) Get(ctx context.Context, name string, offset, length int64) (io.ReadCloser, error) {
	r := &sftpReader{ctx: ctx, s: s, name: name, offset: offset, length: length}
	if err := r.fill(); err != nil {
		return nil, err
	}
	return r, nil
}

// sftpReader reads a file in large pieces.
type sftpReader struct {
	ctx    context.Context //nolint:containedctx // of the Get that it belongs to: reading ends with it
	s      *SFTP
	name   string
	offset int64 // of what is asked for next
	length int64 // of that; negative: to the end
	buf    []byte
	eof    bool

	conn   *sftpConn // where file is open
	client *sftp.Client
	file   *sftp.File  // nil for none
	info   os.FileInfo // of the file that was opened first
}

func (r *sftpReader) pick() *sftpConn {
	if r.file == nil || r.conn.client() != r.client {
		r.conn, r.file = r.s.leastUsed(), nil
	}
	return r.conn
}

// fill asks for the next piece.
func (r *sftpReader) fill() error {
	size := int64(sftpReadSize)
	if r.length >= 0 {
		size = min(size, r.length)
	}
	piece := make([]byte, size)
	err := r.s.callOn(r.ctx, r.pick, true, func(c *sftp.Client, _ func()) error {
		if err := r.open(c, r.length < 0 || r.length > size); err != nil {
			return err
		}
		n, err := r.file.ReadAt(piece, r.offset)
		if err == io.EOF { //nolint:errorlint // what ends a connection may wrap one
			err, r.eof = nil, true
		}
		if err != nil {
			return err
		}
		r.buf = piece[:n]
		if r.eof || r.length == int64(n) { // that was all
			err, r.file = r.file.Close(), nil
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("get %s: %w", r.name, err)
	}
	r.offset += int64(len(r.buf))
	if r.length >= 0 {
		r.length -= int64(len(r.buf))
	}
	return nil
}

// open opens the file unless it is open. When there is more than one piece, it must be the same
// as before.
func (r *sftpReader) open(c *sftp.Client, more bool) error {
	if r.file != nil {
		return nil
	}
	var f *sftp.File
	err := r.s.either(c, r.name, func(path string) (err error) {
		f, err = c.Open(path)
		return err
	})
	if err != nil {
		return err
	}
	r.file, r.client = f, c
	if !more && r.info == nil {
		return nil
	}
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if r.info != nil && (info.Size() != r.info.Size() || !info.ModTime().Equal(r.info.ModTime())) {
		return errChanged
	}
	r.info = info
	return nil
}

func (r *sftpReader) Read(p []byte) (int, error) {
	if len(r.buf) == 0 && !r.eof && r.length != 0 {
		if err := r.fill(); err != nil {
			return 0, err
		}
	}
	if len(r.buf) == 0 {
		return 0, io.EOF
	}
	n := copy(p, r.buf)
	r.buf = r.buf[n:]
	return n, nil
}

func (r *sftpReader) Close() error {
	if r.file == nil || r.conn.client() != r.client {
		return nil
	}
	f := r.file
	r.file = nil
	return r.s.callOnce(context.WithoutCancel(r.ctx), r.conn, func(*sftp.Client, func()) error { return f.Close() })
}

// Stat implements Files.
func (s *SFTP) Stat(ctx context.Context, name string) (info Info, err error) {
	find := s.either
	if dirOf(name) == LocksDir {
		find = s.named
	}
	err = s.call(ctx, true, func(c *sftp.Client, _ func()) error {
		return find(c, name, func(path string) error {
			fi, err := c.Stat(path)
			if err == nil {
				info = Info{Name: name, Size: fi.Size(), ModTime: fi.ModTime()}
			}
			return err
		})
	})
	if err != nil {
		return Info{}, fmt.Errorf("stat %s: %w", name, err)
	}
	return info, nil
}

func (s *SFTP) readDir(ctx context.Context, dir string) (entries []os.FileInfo, err error) {
	err = s.call(ctx, true, func(c *sftp.Client, _ func()) error {
		entries, err = c.ReadDirContext(ctx, s.path(dir))
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("list %s: %w", dir, err)
	}
	return entries, nil
}

// List implements Files. Directories are read beside each other. Temporary files are left out.
func (s *SFTP) List(ctx context.Context, dir string, each func(string) error) error {
	var mu sync.Mutex
	var ended error // guarded by mu
	return s.walk(ctx, dir, func(name string, fi os.FileInfo) error {
		if _, aside := ofAside(name); aside || fi.IsDir() || strings.HasPrefix(path.Base(name), tmpPrefix) {
			return nil
		}
		mu.Lock()
		defer mu.Unlock()
		if ended == nil {
			ended = each(name)
		}
		return ended
	})
}

// walk calls each, from several goroutines, for all files in dir and below, and for directories that lie deeper than
// any of a store. It does not look into these: a server can have them without an end.
func (s *SFTP) walk(ctx context.Context, dir string, each func(name string, fi os.FileInfo) error) error {
	above := 0 // names of dir
	if dir != "" {
		above = strings.Count(dir, "/") + 1
	}
	level := []string{dir}
	for depth := 0; len(level) > 0; depth++ {
		var mu sync.Mutex
		var below []string
		group, ctx := errgroup.WithContext(ctx)
		group.SetLimit(sftpRequests)
		for _, dir := range level {
			group.Go(func() error {
				entries, err := s.readDir(ctx, dir)
				if err != nil {
					if depth > 0 {
						return ignoreNotExist(err) // it was removed
					}
					return err
				}
				for _, e := range entries {
					name := path.Join(dir, e.Name())
					switch {
					case e.IsDir() && above+depth < sftpDepth: // its name may be ".."
						mu.Lock()
						below = append(below, name)
						mu.Unlock()
					case e.IsDir(), e.Mode().IsRegular():
						if err := each(name, e); err != nil {
							return err
						}
					}
				}
				return nil
			})
		}
		if err := group.Wait(); err != nil {
			return err
		}
		level = below
	}
	return nil
}

// Remove implements Files; what is not there is fs.ErrNotExist.
func (s *SFTP) Remove(ctx context.Context, name string) error {
	err := s.call(ctx, true, func(c *sftp.Client, _ func()) error {
		if !replaces(c) { // or else the one aside takes its place
			if err := ignoreNotExist(c.Remove(s.path(asideName(name)))); err != nil {
				return err
			}
		}
		return c.Remove(s.path(name))
	})
	if err != nil {
		return fmt.Errorf("remove %s: %w", name, err)
	}
	return nil
}

// Create implements Backend.
func (s *SFTP) Create(ctx context.Context) error {
	if err := s.checkVacant(ctx); err != nil {
		return err
	}
	if err := s.makeRoot(ctx); err != nil {
		return err
	}
	dirs := []string{LocksDir}
	for _, dir := range []string{PackfilesDir, StatesDir} {
		for i := range Buckets {
			dirs = append(dirs, Bucket(dir, byte(i)))
		}
	}
	group, groupCtx := errgroup.WithContext(ctx)
	group.SetLimit(sftpRequests)
	for _, dir := range dirs {
		group.Go(func() error {
			return s.call(groupCtx, true, func(c *sftp.Client, _ func()) error { return c.MkdirAll(s.path(dir)) })
		})
	}
	return group.Wait()
}

// makeRoot makes the directory of the store, for its account alone. One that is there keeps its mode: it may be
// somebody else's, as the upload directory of an account with a ChrootDirectory.
func (s *SFTP) makeRoot(ctx context.Context) error {
	missing := false // before the first attempt
	return s.call(ctx, true, func(c *sftp.Client, _ func()) error {
		if !missing {
			if _, err := c.Stat(s.cfg.Root); !errors.Is(err, fs.ErrNotExist) {
				return err
			}
			missing = true
		}
		if err := c.MkdirAll(s.cfg.Root); err != nil {
			return err
		}
		return ignoreModeRefused(c.Chmod(s.cfg.Root, 0o700))
	})
}

// ignoreModeRefused is for the answer to a mode. Servers without modes, and those that let nobody set them, refuse it in
// several ways (pkg/sftp's says FAILURE where others say PERMISSION_DENIED or OP_UNSUPPORTED), and can hold a store:
// their umask decides who reads its files. What is wrong with a file otherwise shows when it is written.
func ignoreModeRefused(err error) error {
	var status *sftp.StatusError
	if errors.Is(err, fs.ErrPermission) || errors.As(err, &status) && !isBroken(err) {
		return nil
	}
	return err
}

// checkVacant refuses a directory that holds anything but the empty beginnings of a store.
func (s *SFTP) checkVacant(ctx context.Context) error {
	return ignoreNotExist(s.walk(ctx, "", func(name string, _ os.FileInfo) error {
		top, _, below := strings.Cut(name, "/")
		switch {
		case below && (top == PackfilesDir || top == StatesDir):
			return fmt.Errorf("directory %s: %w", s.path(top), ErrOrphaned)
		case top == LocksDir, strings.HasPrefix(top, tmpPrefix):
			return nil
		}
		return &OccupiedError{Place: "directory " + s.cfg.Root, Name: name}
	}))
}

// Sweep implements Backend: see Local. Files that are aside get their names again.
func (s *SFTP) Sweep(ctx context.Context, now time.Time) error {
	own := tmpPrefix + s.cfg.Token + "-"
	remove := func(name string) error {
		return s.call(ctx, true, func(c *sftp.Client, _ func()) error { return ignoreNotExist(c.Remove(s.path(name))) })
	}
	var others leftovers
	err := s.walk(ctx, "", func(name string, fi os.FileInfo) error {
		if fi.IsDir() {
			return nil
		}
		others.note(fi.ModTime())
		if of, aside := ofAside(name); aside {
			return s.call(ctx, true, func(c *sftp.Client, _ func()) error { return s.putBack(c, of) })
		}
		switch base := path.Base(name); {
		case strings.HasPrefix(base, own):
			return remove(name)
		case strings.HasPrefix(base, tmpPrefix):
			others.add(name, fi.ModTime())
		}
		return nil
	})
	if err != nil {
		return ignoreNotExist(err)
	}
	for _, name := range others.old(now) {
		if err := remove(name); err != nil {
			return err
		}
	}
	return nil
}

func (s *SFTP) tmpName(dir string) string {
	return path.Join(dir, tmpPrefix+s.cfg.Token+"-"+rand.Text())
}
