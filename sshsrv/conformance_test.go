package sshsrv

import (
	"context"
	"errors"
	"io"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pkg/sftp"
	"golang.org/x/crypto/ssh"

	"github.com/snapgate/gateway/vfs"
	"github.com/snapgate/gateway/vfs/vfstest"
)

// TestConformance runs the suite of the live tree through SSH, with pkg/sftp's client.
func TestConformance(t *testing.T) {
	key := newKey(t, "ed25519")
	vfstest.Run(t, vfstest.Target{
		Start: func(tb testing.TB) vfstest.System {
			tb.Helper()
			return startRemote(tb, key)
		},
		Kind:   remoteKind,
		Coarse: coarseKind,
		Remote: true,
	})
}

// coarseKind is what is left of a kind in a status code.
func coarseKind(kind vfs.Kind) vfs.Kind {
	switch kindStatus(kind) {
	case statusNoSuchFile:
		return vfs.KindNotExist
	case statusPermissionDenied:
		return vfs.KindPermission
	case statusBadMessage:
		return vfs.KindInvalid
	case statusOpUnsupported:
		return vfs.KindUnsupported
	default:
		return vfs.KindOther
	}
}

func remoteKind(err error) vfs.Kind {
	var status *sftp.StatusError
	switch {
	case errors.Is(err, os.ErrNotExist):
		return vfs.KindNotExist
	case errors.Is(err, os.ErrPermission):
		return vfs.KindPermission
	case errors.As(err, &status) && status.Code == statusBadMessage:
		return vfs.KindInvalid
	case errors.As(err, &status) && status.Code == statusOpUnsupported:
		return vfs.KindUnsupported
	default:
		return vfs.KindOther
	}
}

// remote is a system behind a server. It is no vfstest.Holder: that commits may happen at
// any moment has nothing to do with the protocol.
type remote struct {
	local  *vfstest.Local
	server *testServer
}

// Commit implements vfstest.System.
func (r *remote) Commit() error { return r.local.Commit() }

// Pull implements vfstest.System.
func (r *remote) Pull() error { return r.local.Pull() }

// Limit implements vfstest.System.
func (r *remote) Limit(quota int64) error { return r.local.Limit(quota) }

// Restart implements vfstest.Restarter.
func (r *remote) Restart() error { return r.local.Restart() }

func startRemote(tb testing.TB, key ssh.Signer) *remote {
	tb.Helper()
	return startRemoteShare(tb, key, nil)
}

// startRemoteShare is startRemote with a share whose settings are changed.
func startRemoteShare(tb testing.TB, key ssh.Signer, share func(*vfs.ShareConfig)) *remote {
	tb.Helper()
	r := &remote{local: vfstest.StartLocal(tb, share)}
	r.server = startServer(tb, func(c *Config) {
		c.HostKeys = []ssh.Signer{key}
		c.Auth = localAuth{r.local}
		c.Sessions = func(ctx context.Context, p *vfs.Principal, from vfs.ConnInfo) (*vfs.Session, error) {
			return r.local.System().Session(ctx, p, from)
		}
	})
	return r
}

// localAuth lets everybody in.
type localAuth struct{ local *vfstest.Local }

func (a localAuth) Password(_ context.Context, m ConnMeta, _ []byte) (*vfs.Principal, error) {
	return a.local.Principal(m.User), nil
}

func (a localAuth) PublicKey(context.Context, ConnMeta, ssh.PublicKey) (*vfs.Principal, error) {
	return nil, errors.New("no keys here")
}

// Client implements vfstest.System.
func (r *remote) Client(tb testing.TB, user string) vfstest.Client {
	tb.Helper()
	conn, err := r.server.dial(tb, clientConfig(user, ssh.Password("x")))
	if err != nil {
		tb.Fatalf("dial as %s: %v", user, err)
	}
	client, err := sftp.NewClient(conn, sftp.UseFstat(true), sftp.UseConcurrentWrites(true))
	if err != nil {
		tb.Fatalf("sftp as %s: %v", user, err)
	}
	return &remoteClient{Client: client, conn: conn, server: r.server}
}

type remoteClient struct {
	*sftp.Client
	conn   *ssh.Client
	server *testServer
}

// Drop cuts the connection and waits until the server has noticed.
func (c *remoteClient) Drop() error {
	err := c.conn.Close()
	timeout := time.After(patience)
	poll := time.NewTicker(time.Millisecond)
	defer poll.Stop()
	for !c.server.ended(c.conn.LocalAddr().String()) {
		select {
		case <-poll.C:
		case <-timeout:
			return errors.New("the server does not notice that the connection is gone")
		}
	}
	return err
}

// ended reports whether a connection from addr has ended; that is logged last.
func (ts *testServer) ended(addr string) bool {
	for line := range strings.Lines(ts.log.String()) {
		if strings.Contains(line, `msg="session ended"`) && strings.Contains(line, "remote="+addr+" ") {
			return true
		}
	}
	return false
}

func (c *remoteClient) Open(path string, flag vfs.OpenFlag) (vfstest.File, error) {
	mode := os.O_RDONLY
	switch {
	case flag&vfs.OpenRead != 0 && flag&vfs.OpenWrite != 0:
		mode = os.O_RDWR
	case flag&^vfs.OpenRead != 0:
		mode = os.O_WRONLY
	}
	for bit, add := range map[vfs.OpenFlag]int{
		vfs.OpenCreate: os.O_CREATE, vfs.OpenTruncate: os.O_TRUNC, vfs.OpenExclusive: os.O_CREATE | os.O_EXCL,
	} {
		if flag&bit != 0 {
			mode |= add
		}
	}
	f, err := c.OpenFile(path, mode)
	if err != nil {
		return nil, err
	}
	return &remoteFile{File: f, client: c, reader: mode == os.O_RDONLY}, nil
}

// Remove removes a file. pkg/sftp's Remove tries rmdir, too, which hides what the server
// said.
func (c *remoteClient) Remove(path string) error {
	if info, err := c.Client.Lstat(path); err == nil && info.IsDir() {
		return &sftp.StatusError{Code: statusFailure}
	}
	return c.Client.Remove(path)
}

func (c *remoteClient) Rename(from, to string, replace bool) error {
	if replace {
		return c.PosixRename(from, to)
	}
	return c.Client.Rename(from, to)
}

func (c *remoteClient) SetAttr(path string, set vfs.AttrSet) error {
	var errs []error
	if set.Size != nil {
		errs = append(errs, c.Truncate(path, *set.Size))
	}
	if set.Mode != nil {
		errs = append(errs, c.Chmod(path, *set.Mode))
	}
	if set.ModTime != nil {
		errs = append(errs, c.Chtimes(path, *set.ModTime, *set.ModTime))
	}
	if set.UID != nil && set.GID != nil {
		errs = append(errs, c.Chown(path, int(*set.UID), int(*set.GID)))
	}
	return errors.Join(errs...)
}

func (c *remoteClient) Mkdir(path string) error { return c.Client.Mkdir(path) }
func (c *remoteClient) Rmdir(path string) error { return c.RemoveDirectory(path) }

func (c *remoteClient) List(path string) ([]vfs.Info, error) {
	if path == "" {
		path = "/" // the suite's word; SFTP knows no empty path
	}
	entries, err := c.ReadDir(path)
	var infos []vfs.Info
	for _, e := range entries {
		infos = append(infos, remoteInfo(e))
	}
	return infos, err
}

func (c *remoteClient) Stat(path string) (vfs.Info, error)  { return infoOf(c.Client.Stat(path)) }
func (c *remoteClient) Lstat(path string) (vfs.Info, error) { return infoOf(c.Client.Lstat(path)) }

func (c *remoteClient) Symlink(target, path string) error    { return c.Client.Symlink(target, path) }
func (c *remoteClient) Readlink(path string) (string, error) { return c.ReadLink(path) }

func infoOf(fi os.FileInfo, err error) (vfs.Info, error) {
	if err != nil {
		return vfs.Info{}, err
	}
	return remoteInfo(fi), nil
}

func remoteInfo(fi os.FileInfo) vfs.Info {
	info := vfs.Info{Name: fi.Name(), Type: vfs.TypeFile, Mode: fi.Mode() &^ os.ModeType, Size: fi.Size(), ModTime: fi.ModTime().UTC()}
	switch {
	case fi.IsDir():
		info.Type = vfs.TypeDir
	case fi.Mode()&os.ModeSymlink != 0:
		info.Type = vfs.TypeSymlink
	}
	if st, ok := fi.Sys().(*sftp.FileStat); ok {
		info.UID, info.GID = st.UID, st.GID
	}
	return info
}

type remoteFile struct {
	*sftp.File
	client *remoteClient
	reader bool

	mu    sync.Mutex // guards what follows
	block []byte     // of a reader
	at    int64
}

// blockLen is what a reader asks for at a time: testing/fstest reads single bytes.
const blockLen = 4096

// ReadAt implements io.ReaderAt. What one handle reads does not change under it, so a
// reader may read ahead.
func (f *remoteFile) ReadAt(p []byte, off int64) (int, error) {
	if !f.reader || len(p) == 0 || len(p) > blockLen/2 || off < 0 {
		return f.File.ReadAt(p, off)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if off < f.at || off+int64(len(p)) > f.at+int64(len(f.block)) {
		block := make([]byte, blockLen)
		n, err := f.File.ReadAt(block, off)
		if err != nil && !errors.Is(err, io.EOF) {
			return 0, err
		}
		f.block, f.at = block[:n], off
	}
	n := copy(p, f.block[off-f.at:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func (f *remoteFile) Stat() (vfs.Info, error) { return infoOf(f.File.Stat()) }

func (f *remoteFile) SetAttr(set vfs.AttrSet) error {
	var errs []error
	if set.Size != nil {
		errs = append(errs, f.Truncate(*set.Size))
	}
	if set.Mode != nil {
		errs = append(errs, f.Chmod(*set.Mode))
	}
	if set.ModTime != nil { // pkg/sftp's File cannot; the server finds the open upload by its name
		errs = append(errs, f.client.Chtimes(f.Name(), *set.ModTime, *set.ModTime))
	}
	return errors.Join(errs...)
}
