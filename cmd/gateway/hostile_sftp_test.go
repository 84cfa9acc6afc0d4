package main

import (
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"io"
	"io/fs"
	"maps"
	"net"
	"os"
	"path"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pkg/sftp"
	"golang.org/x/crypto/ssh"
)

// hostileTime is the time of everything on hostile servers.
func hostileTime() time.Time { return time.Date(2026, 1, 2, 3, 4, 6, 0, time.UTC) }

// hostileFile is what a hostile server says of a file, and what it gives.
type hostileFile struct {
	data  string
	size  int64 // that it says; 0 for the true one, saysEmpty for 0
	fails error // of reading it, once it is open
}

// saysEmpty is the size of a file that says that it has no bytes.
const saysEmpty = -1

func (f hostileFile) said() int64 {
	switch f.size {
	case 0:
		return int64(len(f.data))
	case saysEmpty:
		return 0
	}
	return f.size
}

// ReadAt implements io.ReaderAt.
func (f hostileFile) ReadAt(p []byte, off int64) (int, error) {
	if f.fails != nil {
		return 0, f.fails
	}
	return strings.NewReader(f.data).ReadAt(p, off)
}

// hostileTree is the tree of a hostile server: files by path, directories by what is in them.
type hostileTree map[string]hostileFile

func (t hostileTree) isDir(name string) bool {
	return name == "/" || slices.ContainsFunc(slices.Collect(maps.Keys(t)), func(p string) bool { return strings.HasPrefix(p, name+"/") })
}

// names are the entries of a directory.
func (t hostileTree) names(dir string) []string {
	seen := map[string]bool{}
	for p := range t {
		if rest, ok := strings.CutPrefix(p, strings.TrimSuffix(dir, "/")+"/"); ok {
			name, _, _ := strings.Cut(rest, "/")
			seen[name] = true
		}
	}
	return slices.Sorted(maps.Keys(seen))
}

// hostileInfo describes an entry as it is sent: its name need not be one.
type hostileInfo struct {
	name string
	mode fs.FileMode
	size int64
}

func (i hostileInfo) Name() string       { return i.name }
func (i hostileInfo) Size() int64        { return i.size }
func (i hostileInfo) Mode() fs.FileMode  { return i.mode }
func (i hostileInfo) ModTime() time.Time { return hostileTime() }
func (i hostileInfo) IsDir() bool        { return i.mode.IsDir() }
func (i hostileInfo) Sys() any           { return nil }

func (t hostileTree) info(name string) (hostileInfo, bool) {
	f, ok := t[name]
	switch {
	case ok:
		return hostileInfo{path.Base(name), 0o644, f.said()}, true
	case t.isDir(name):
		return hostileInfo{path.Base(name), 0o755 | fs.ModeDir, 0}, true
	}
	return hostileInfo{}, false
}

// hostileSFTP is an SFTP server that does what no good one does.
type hostileSFTP struct {
	tree hostileTree
	// list gives further entries of a directory, one after the other; io.EOF ends them, any
	// other error is sent.
	list func(dir string, n int) (hostileInfo, error)
	// wrap may cut, slow down or count a connection; n is its number.
	wrap func(c net.Conn, n int) net.Conn
	// newKeys shows another host key on every connection from this one on; 0 for never.
	newKeys int

	// breaks are paths at which it ends the connection, of whoever lists or reads them.
	breaks []string

	// everywhere has every path be a directory.
	everywhere bool

	addr  string
	conns atomic.Int32

	mu    sync.Mutex // guards asked, and what a connection is like while change is called
	asked []string   // paths
}

// change has the server be another one for connections that come later; there are none now.
func (h *hostileSFTP) change(to func(*hostileSFTP)) {
	h.mu.Lock()
	defer h.mu.Unlock()
	to(h)
}

func (h *hostileSFTP) start(t *testing.T) *hostileSFTP {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	h.addr = ln.Addr().String()
	key := hostileKey(t)
	var wg sync.WaitGroup
	var mu sync.Mutex
	open := map[net.Conn]bool{}
	wg.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			n := int(h.conns.Add(1))
			h.mu.Lock()
			newKeys, wrap := h.newKeys, h.wrap
			h.mu.Unlock()
			signer := key
			if newKeys > 0 && n >= newKeys {
				signer = hostileKey(t)
			}
			mu.Lock()
			open[c] = true
			mu.Unlock()
			wg.Go(func() {
				if wrap != nil {
					c = wrap(c, n)
				}
				h.serve(c, signer)
			})
		}
	})
	t.Cleanup(func() {
		_ = ln.Close()
		mu.Lock()
		for c := range open {
			_ = c.Close()
		}
		mu.Unlock()
		wg.Wait()
	})
	return h
}

func hostileKey(t *testing.T) ssh.Signer {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Error(err)
	}
	signer, err := ssh.NewSignerFromKey(key)
	if err != nil {
		t.Error(err)
	}
	return signer
}

// serve lets everybody in.
func (h *hostileSFTP) serve(c net.Conn, key ssh.Signer) {
	defer func() { _ = c.Close() }()
	cfg := &ssh.ServerConfig{NoClientAuth: true, PasswordCallback: func(ssh.ConnMetadata, []byte) (*ssh.Permissions, error) { return nil, nil }}
	cfg.AddHostKey(key)
	_, channels, requests, err := ssh.NewServerConn(c, cfg)
	if err != nil {
		return
	}
	go ssh.DiscardRequests(requests)
	var wg sync.WaitGroup
	defer wg.Wait()
	for ch := range channels {
		channel, requests, err := ch.Accept()
		if err != nil {
			return
		}
		go func() {
			for r := range requests {
				_ = r.Reply(r.Type == "subsystem", nil)
			}
		}()
		wg.Go(func() {
			s := hostileSession{h, c}
			_ = sftp.NewRequestServer(channel, sftp.Handlers{FileGet: s, FilePut: h, FileCmd: h, FileList: s}).Serve()
			_ = channel.Close()
		})
	}
}

// hostileSession is a session of a connection.
type hostileSession struct {
	*hostileSFTP
	c net.Conn
}

// Fileread implements sftp.FileReader.
func (s hostileSession) Fileread(r *sftp.Request) (io.ReaderAt, error) {
	if slices.Contains(s.breaks, r.Filepath) {
		_ = s.c.Close()
	}
	return s.hostileSFTP.Fileread(r)
}

// Filelist implements sftp.FileLister.
func (s hostileSession) Filelist(r *sftp.Request) (sftp.ListerAt, error) {
	if r.Method == "List" && slices.Contains(s.breaks, r.Filepath) {
		_ = s.c.Close()
	}
	return s.hostileSFTP.Filelist(r)
}

func (h *hostileSFTP) note(name string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.asked = append(h.asked, name)
}

// Fileread implements sftp.FileReader.
func (h *hostileSFTP) Fileread(r *sftp.Request) (io.ReaderAt, error) {
	h.note(r.Filepath)
	f, ok := h.tree[r.Filepath]
	if !ok {
		return nil, os.ErrNotExist
	}
	return f, nil
}

// Filewrite implements sftp.FileWriter: whoever pulls writes nothing.
func (h *hostileSFTP) Filewrite(r *sftp.Request) (io.WriterAt, error) {
	h.note("write " + r.Filepath)
	return nil, os.ErrPermission
}

// Filecmd implements sftp.FileCmder.
func (h *hostileSFTP) Filecmd(r *sftp.Request) error {
	h.note(r.Method + " " + r.Filepath)
	return os.ErrPermission
}

// Filelist implements sftp.FileLister.
func (h *hostileSFTP) Filelist(r *sftp.Request) (sftp.ListerAt, error) {
	h.note(r.Filepath)
	info, ok := h.tree.info(r.Filepath)
	if h.everywhere && !ok {
		info, ok = hostileInfo{path.Base(r.Filepath), 0o755 | fs.ModeDir, 0}, true
	}
	if !ok {
		return nil, os.ErrNotExist
	}
	if r.Method != "List" {
		return hostileList{h: h, infos: []hostileInfo{info}}, nil
	}
	l := hostileList{h: h, dir: r.Filepath, more: h.list}
	for _, name := range h.tree.names(r.Filepath) {
		info, _ := h.tree.info(path.Join(r.Filepath, name))
		l.infos = append(l.infos, info)
	}
	return l, nil
}

// Lstat implements sftp.LstatFileLister.
func (h *hostileSFTP) Lstat(r *sftp.Request) (sftp.ListerAt, error) { return h.Filelist(r) }

// hostileList is a listing.
type hostileList struct {
	h     *hostileSFTP
	dir   string
	infos []hostileInfo
	more  func(dir string, n int) (hostileInfo, error)
}

// ListAt implements sftp.ListerAt.
func (l hostileList) ListAt(to []fs.FileInfo, off int64) (int, error) {
	for i := range to {
		n := int(off) + i
		if n < len(l.infos) {
			to[i] = l.infos[n]
			continue
		}
		if l.more == nil {
			return i, io.EOF
		}
		info, err := l.more(l.dir, n-len(l.infos))
		if err != nil {
			return i, err
		}
		to[i] = info
	}
	return len(to), nil
}

// cutConn ends after a number of bytes was written.
type cutConn struct {
	net.Conn
	left atomic.Int64
}

func cutAfter(c net.Conn, n int64) net.Conn {
	cut := &cutConn{Conn: c}
	cut.left.Store(n)
	return cut
}

func (c *cutConn) Write(p []byte) (int, error) {
	if c.left.Add(-int64(len(p))) < 0 {
		_ = c.Close()
		return 0, errors.New("cut")
	}
	return c.Conn.Write(p)
}

// dripConn writes a byte at a time, with a pause before each.
type dripConn struct {
	net.Conn
	pause time.Duration
	wrote func(n int) // is called with how many it has written
	done  chan struct{}
	n     atomic.Int64
	once  sync.Once
}

func (c *dripConn) Write(p []byte) (int, error) {
	for i := range p {
		t := time.NewTimer(c.pause)
		select {
		case <-t.C:
		case <-c.done:
			t.Stop()
			return i, net.ErrClosed
		}
		if _, err := c.Conn.Write(p[i : i+1]); err != nil {
			return i, err
		}
		c.wrote(int(c.n.Add(1)))
	}
	return len(p), nil
}

func (c *dripConn) Close() error {
	c.once.Do(func() { close(c.done) })
	return c.Conn.Close()
}
