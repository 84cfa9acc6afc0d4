package pull

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/snapgate/gateway/internal/sshclient"
	"github.com/snapgate/gateway/pull/internal/sftpclient"
)

const (
	// defaultSFTPConnections, with sftpShare, is 512 calls at a time. farSFTPConnections is for
	// servers from farAway on: each connection carries a window of 2 MiB a round trip, 40 MiB/s
	// at 50 ms. OpenSSH's MaxStartups begins to refuse at 10 connections that log in at once.
	defaultSFTPConnections = 4
	farSFTPConnections     = 8
	// sftpShare is how many calls one connection takes at a time.
	sftpShare = 128
	// sftpSpare are handles that are left to a server which tells how many it has.
	sftpSpare = 4
)

// SFTPConfig says how NewSFTP reaches a server.
type SFTPConfig struct {
	// Dial opens the "sftp" subsystem of a new SSH connection, or starts an SFTP server on a
	// pipe. Close of what it returns must end Reads and Writes. Errors that are an *Error of
	// KindConnection, or of the network, are tried again.
	Dial func(ctx context.Context) (io.ReadWriteCloser, error)
	// Root is the directory that the remote shows; Home says that it is relative to where a
	// login arrives. See Location. It may be a symbolic link.
	Root string
	Home bool
	// Connections is the most to be made; 0 for 4, or 8 when the server is far. Fewer are used
	// when the server refuses.
	Connections int
	// Timeout is how long the server may keep a call waiting; 0 for a minute.
	Timeout time.Duration
}

// SFTP is a Remote on an SFTP server of version 3 (draft-ietf-secsh-filexfer-02).
type SFTP struct {
	pool *pool[*sftpclient.Client]
	cfg  SFTPConfig

	mu  sync.Mutex // guards top
	top string     // Root as the server names it, "" while that is not known

	links sync.Mutex // guards order
	order *bool      // whether SYMLINK takes the link first; nil while that is not known

	// What the server has shown not to know: modes and times of open files, those of paths, and modes
	// of paths that are not followed.
	noFsetstat, noSetstat, noLsetstat atomic.Bool
}

var _ Remote = (*SFTP)(nil)

// NewSFTP makes a Remote. It does not connect yet.
func NewSFTP(cfg SFTPConfig) (*SFTP, error) {
	if cfg.Dial == nil {
		return nil, errors.New("sftp remote: no Dial")
	}
	if !cfg.Home && !strings.HasPrefix(cfg.Root, "/") {
		return nil, fmt.Errorf("sftp remote: root %q is not absolute", cfg.Root)
	}
	s := &SFTP{cfg: cfg}
	s.pool = newPool(func(c *sftpclient.Client) int {
		return connections(cfg.Connections, defaultSFTPConnections, farSFTPConnections, c.RoundTrip())
	}, shareOf, func(ctx context.Context) (*sftpclient.Client, error) {
		rw, err := cfg.Dial(ctx)
		if err != nil {
			return nil, failOS("connect", "", err)
		}
		c, err := sftpclient.New(ctx, rw, cfg.Timeout)
		if err != nil {
			return nil, sftpError(ctx, "connect", "", err)
		}
		return c, nil
	})
	// Where it takes long to log in, it takes long to come to speed.
	s.pool.eager = func(c *sftpclient.Client) bool { return c.RoundTrip() >= farAway }
	return s, nil
}

func shareOf(c *sftpclient.Client) int { return min(sftpShare, c.Limits().Handles-sftpSpare) }

// with calls fn with a connection and the path as the server has it.
func (s *SFTP) with(ctx context.Context, op, path string, fn func(c *sftpclient.Client, full string) error) error {
	conn, full, err := s.get(ctx, op, path)
	if err != nil {
		return err
	}
	defer s.pool.put(conn)
	return sftpError(ctx, op, path, fn(conn.s, full))
}

func (s *SFTP) get(ctx context.Context, op, path string) (*pooled[*sftpclient.Client], string, error) {
	if err := checkPath(op, path); err != nil {
		return nil, "", err
	}
	conn, err := s.pool.get(ctx)
	if err != nil {
		return nil, "", sftpError(ctx, op, path, err)
	}
	top, err := s.root(ctx, conn.s)
	if err != nil {
		s.pool.put(conn)
		return nil, "", sftpError(ctx, "open", s.cfg.Root, err)
	}
	switch {
	case top == "/":
		return conn, path, nil
	case path == "/":
		return conn, top, nil
	}
	return conn, top + path, nil
}

// root asks the server what Root is, once.
func (s *SFTP) root(ctx context.Context, c *sftpclient.Client) (string, error) {
	s.mu.Lock()
	top := s.top
	s.mu.Unlock()
	if top != "" {
		return top, nil
	}
	root := s.cfg.Root
	if s.cfg.Home {
		root = strings.TrimSuffix("./"+root, "/")
	}
	top, err := c.RealPath(ctx, root)
	if err != nil {
		return "", err
	}
	if !strings.HasPrefix(top, "/") || strings.IndexByte(top, 0) >= 0 {
		return "", failf("open", root, KindProtocol, "the server names the root %s", quote(top))
	}
	if len(top) > 1 {
		top = strings.TrimRight(top, "/")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.top = top
	return top, nil
}

// sftpError sorts an error of a call.
func sftpError(ctx context.Context, op, path string, err error) error {
	var e *Error
	if err == nil || errors.As(err, &e) {
		return err
	}
	if cause := ctx.Err(); cause != nil {
		return cause
	}
	var st *sftpclient.StatusError
	var ssh *sshclient.Error
	kind := KindOther
	switch {
	case errors.As(err, &ssh):
		kind = sshKind(ssh)
	case errors.Is(err, errStop):
		return err
	case errors.As(err, &st):
		switch {
		case st.NotExist():
			kind = KindNotFound
		case st.Permission():
			kind = KindPermission
		case st.Lost():
			kind = KindConnection
		case st.Unsupported():
			kind = KindUnsupported
		}
	case errors.Is(err, sftpclient.ErrProtocol):
		kind = KindProtocol
	case errors.Is(err, sftpclient.ErrTimeout), errors.Is(err, sftpclient.ErrLost), isConnection(err):
		kind = KindConnection
	}
	return fail(op, path, kind, err)
}

// Lstat implements Remote.
func (s *SFTP) Lstat(ctx context.Context, path string) (Entry, error) {
	var e Entry
	err := s.with(ctx, "stat", path, func(c *sftpclient.Client, full string) error {
		a, err := c.Lstat(ctx, full)
		if err != nil {
			return err
		}
		name := base(path)
		if path == "/" {
			name = "/"
			if a.HasMode && a.Mode&sftpclient.ModeType == sftpclient.ModeSymlink {
				// Servers need not resolve links in REALPATH.
				if a, err = c.Lstat(ctx, full+"/."); err != nil {
					return err
				}
			}
		}
		e = sftpEntry(path, sftpclient.Name{Name: name, Attrs: a})
		return e.Err
	})
	return e, err
}

// ReadDir implements Remote.
func (s *SFTP) ReadDir(ctx context.Context, path string, each func(Entry) error) error {
	var stopped error // by each: not ours to sort
	err := s.with(ctx, "list", path, func(c *sftpclient.Client, full string) error {
		d, err := c.OpenDir(ctx, full)
		if err != nil {
			return err
		}
		defer d.Close()
		shown := false // "." counts
		for {
			names, err := d.Next(ctx)
			if errors.Is(err, io.EOF) {
				if !shown {
					return searchable(ctx, c, full)
				}
				return nil
			}
			if err != nil {
				return err
			}
			shown = shown || len(names) > 0
			for _, n := range names {
				if n.Name == "." || n.Name == ".." {
					continue
				}
				var e Entry
				if err := checkName(path, n.Name); err != nil {
					e = Entry{Name: n.Name, Err: err}
				} else {
					e = sftpEntry(child(path, n.Name), n)
				}
				if stopped = each(e); stopped != nil {
					return errStop
				}
			}
		}
	})
	if stopped != nil {
		return stopped
	}
	return err
}

// searchable returns an error when a directory whose listing has nothing, not even itself, may not be searched:
// OpenSSH leaves out what it cannot describe, which is everything then.
func searchable(ctx context.Context, c *sftpclient.Client, full string) error {
	_, err := c.Lstat(ctx, strings.TrimSuffix(full, "/")+"/.")
	if st := (*sftpclient.StatusError)(nil); errors.As(err, &st) && !st.Permission() {
		return nil // the server may not know such a path
	}
	return err
}

// sftpEntry makes an Entry of what a server tells about path.
func sftpEntry(path string, n sftpclient.Name) Entry {
	e := Entry{
		Name: n.Name, UID: n.UID, GID: n.GID, HasOwner: n.HasOwner,
		Mode: unixMode(n.Mode), HasMode: n.HasMode,
	}
	if n.HasTimes {
		e.ModTime, e.Precision = n.ModTime, time.Second
	}
	switch {
	case n.HasMode:
		switch n.Mode & sftpclient.ModeType {
		case sftpclient.ModeFile:
			e.Type = File
		case sftpclient.ModeDir:
			e.Type = Dir
		case sftpclient.ModeSymlink:
			e.Type = Symlink
		case 0: // permissions only
			e.Type = longType(n.Long)
		default:
			e.Type = Special
		}
	default:
		e.Type = longType(n.Long)
	}
	switch {
	case e.Type == TypeUnknown:
		e.Err = failf("list", path, KindProtocol, "the server does not say whether it is a file or a directory")
	case e.Type == File && (!n.HasSize || n.Size > math.MaxInt64):
		e.Err = failf("list", path, KindProtocol, "the server gives no size")
	case e.Type == File:
		e.Size = int64(n.Size)
	}
	return e
}

// longType is the type in a line of ls -l.
func longType(long string) Type {
	if len(long) < 10 {
		return TypeUnknown
	}
	switch long[0] {
	case '-':
		return File
	case 'd':
		return Dir
	case 'l':
		return Symlink
	case 'b', 'c', 'p', 's':
		return Special
	}
	return TypeUnknown
}

// Open implements Remote; the reader is a Ranger. It asks for 2 MiB ahead.
func (s *SFTP) Open(ctx context.Context, path string, offset, length int64) (io.ReadCloser, error) {
	conn, full, err := s.get(ctx, "open", path)
	if err != nil {
		return nil, err
	}
	f, err := conn.s.Open(ctx, full, offset, length)
	if err != nil {
		s.pool.put(conn)
		return nil, sftpError(ctx, "open", path, err)
	}
	return &sftpReader{ctx: ctx, s: s, conn: conn, file: f, path: path, end: offset + length}, nil
}

// sftpReader is a reader for a goroutine at a time.
type sftpReader struct {
	ctx  context.Context
	s    *SFTP
	conn *pooled[*sftpclient.Client]
	file *sftpclient.File // nil after Close
	path string
	end  int64
	rest *lease // since Rest
}

func (r *sftpReader) Read(p []byte) (int, error) {
	if r.file == nil {
		return 0, fail("read", r.path, KindOther, errPoolClosed)
	}
	n, err := r.file.Read(r.ctx, p)
	if errors.Is(err, io.EOF) {
		return n, io.EOF
	}
	return n, sftpError(r.ctx, "read", r.path, err)
}

// Stat implements Stater. A size that more bytes than these are behind is not believed, where
// the end of the range is that of the file.
func (r *sftpReader) Stat(ctx context.Context) (Entry, error) {
	a, more, err := r.file.Stat(ctx)
	if err != nil {
		return Entry{}, sftpError(ctx, "stat", r.path, err)
	}
	if more && a.HasSize && a.Size == uint64(r.end) {
		return Entry{}, failf("read", r.path, KindProtocol, "there is more than the %d bytes that it has by its size", a.Size)
	}
	name := base(r.path)
	e := sftpEntry(r.path, sftpclient.Name{Name: name, Attrs: a})
	return e, e.Err
}

// Rest implements Ranger.
func (r *sftpReader) Rest() bool {
	if r.file == nil || r.conn.s.Err() != nil {
		return false
	}
	pool, conn, file := r.s.pool, r.conn, r.file
	r.rest = pool.rest(func() {
		file.Close()
		pool.put(conn)
	})
	return r.rest != nil
}

// resume ends what Rest began. The file is closed already when its connection was taken away.
func (r *sftpReader) resume() {
	if r.rest != nil && !r.s.pool.resume(r.rest) {
		r.file = nil
	}
	r.rest = nil
}

// Again implements Ranger.
func (r *sftpReader) Again(offset, length int64) bool {
	r.resume()
	if r.file == nil || r.conn.s.Err() != nil || r.s.pool.crowded(r.conn) || !r.file.Again(offset, length) {
		return false
	}
	r.end = offset + length
	return true
}

// AskStat implements Ranger.
func (r *sftpReader) AskStat(ctx context.Context) error {
	return sftpError(ctx, "stat", r.path, r.file.AskStat(ctx))
}

func (r *sftpReader) Close() error {
	r.resume()
	if r.file != nil {
		r.file.Close()
		r.file = nil
		r.s.pool.put(r.conn)
	}
	return nil
}

// Readlink implements Remote.
func (s *SFTP) Readlink(ctx context.Context, path string) (string, error) {
	target := ""
	err := s.with(ctx, "readlink", path, func(c *sftpclient.Client, full string) (err error) {
		target, err = c.ReadLink(ctx, full)
		return err
	})
	return target, err
}

// Capabilities implements Remote.
func (s *SFTP) Capabilities(ctx context.Context) (Capabilities, error) {
	conn, top, err := s.get(ctx, "stat", "/")
	if err != nil {
		return Capabilities{}, err
	}
	defer s.pool.put(conn)
	a, err := conn.s.Lstat(ctx, top)
	if err != nil {
		return Capabilities{}, sftpError(ctx, "stat", "/", err)
	}
	return Capabilities{
		Mode: a.HasMode, Owner: a.HasOwner, Symlinks: true, RawNames: true, Ranges: true,
		Precision: time.Second, Parallel: s.pool.size() * conn.share,
		Earliest: time.Unix(0, 0).UTC(), Latest: time.Unix(math.MaxUint32, 0).UTC(),
	}, nil
}

// Connect implements Connecter.
func (s *SFTP) Connect(ctx context.Context) error {
	return sftpError(ctx, "connect", "", s.pool.ready(ctx))
}

// Close implements Remote.
func (s *SFTP) Close() error {
	s.pool.close()
	return nil
}
