package store

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	fsstorage "github.com/PlakarKorp/integrations/fs/storage"
	"github.com/PlakarKorp/kloset/connectors/storage"
	"github.com/PlakarKorp/kloset/objects"
	"github.com/PlakarKorp/kloset/repository/state"

	"github.com/snapgate/gateway/internal/disk"
)

const (
	// tmpPrefix begins the names of files that are being written, ours and kloset's.
	tmpPrefix = "tmp."
	// tmpMaxAge is when somebody else's temporary file counts as left behind. The longest
	// that a file is written to is the time for one packfile (64 MiB) or one state.
	tmpMaxAge = time.Hour
	// writeSize is the size of the writes to a packfile.
	writeSize = 1 << 20
)

// conn is the connection to a store that kloset works with. What it takes over from the
// connector: durable writes, and locks, which are the business of Lock: a snapshot
// builder's own handling of locks finds an empty list and does nothing.
type conn struct {
	storage.Store // the connector

	fsys   disk.FS
	root   string
	token  string  // part of this installation's temporary names
	mirror *mirror // nil for none

	// listMu guards stateDirs. It is held while directories are read: whoever else wants the
	// list wants what comes of it. mu is taken below it.
	listMu    sync.Mutex
	stateDirs listing

	mu    sync.Mutex
	locks map[objects.MAC]bool // guarded by mu: the locks that Lock has made
	// guarded by mu: what the last list of states had; another map when that changes
	states map[objects.MAC]struct{}
}

// newConn connects to the store in root. This is the one place where a connector of
// kloset is named; kloset's registry is not used.
func newConn(ctx context.Context, fsys disk.FS, root, token string) (*conn, error) {
	inner, err := fsstorage.NewStore(ctx, "fs", map[string]string{"location": scheme + root})
	if err != nil {
		return nil, fmt.Errorf("connect to store: %w", err)
	}
	// Open tells the connector where its directories are. That it cannot read the
	// configuration of a store that is away does not matter here.
	_, _ = inner.Open(ctx)
	return &conn{Store: inner, fsys: fsys, root: root, token: token, locks: make(map[objects.MAC]bool)}, nil
}

// Type keeps the snapshot builder from leaving out files: it skips every path of the
// source that looks as if it were below the store's own directory, but only for type
// "fs", and a share may well hold such a path.
func (c *conn) Type() string { return "gateway" }

// Get implements storage.Store. While the store is away, metadata comes from the mirror: a
// packfile is named by its content, so a copy is as good. A packfile that is missing from a
// store that is there is missing: others cannot read it either; see Reconcile.
func (c *conn) Get(ctx context.Context, res storage.StorageResource, mac objects.MAC, rg *storage.Range) (io.ReadCloser, error) {
	rd, err := c.Store.Get(ctx, res, mac, rg)
	if err == nil || c.mirror == nil || res != storage.StorageResourcePackfile || !c.away() {
		return rd, err
	}
	if rd, merr := c.mirror.open(mac, rg); merr == nil {
		return rd, nil
	}
	return nil, err
}

// maxBlob is longer than any blob: packfiles are of 64 MiB at most.
const maxBlob = 128 << 20

// read reads a blob into buf, which it enlarges when it must. kloset's GetPackfileRange reads
// up to an eighth more, so that a store elsewhere learns less of what is read.
func (c *conn) read(loc state.Location, buf []byte) (_ []byte, err error) {
	if loc.Length > maxBlob {
		return buf, fmt.Errorf("blob of %d bytes: %w", loc.Length, errors.ErrUnsupported)
	}
	rd, err := c.Get(context.Background(), storage.StorageResourcePackfile, loc.Packfile,
		&storage.Range{Offset: loc.Offset + uint64(storage.STORAGE_HEADER_SIZE), Length: loc.Length})
	if err != nil {
		return buf, err
	}
	defer func() { err = errors.Join(err, rd.Close()) }()
	buf = slices.Grow(buf[:0], int(loc.Length))[:loc.Length]
	_, err = io.ReadFull(rd, buf)
	return buf, err
}

// away reports whether the store cannot be reached: its configuration cannot be read.
func (c *conn) away() bool {
	_, err := readConfig(c.root)
	return err != nil
}

// List implements storage.Store; see conn for locks.
func (c *conn) List(ctx context.Context, res storage.StorageResource) ([]objects.MAC, error) {
	switch res {
	case storage.StorageResourceLock:
		return nil, nil
	case storage.StorageResourceState:
		states, err := c.listStates()
		return slices.Collect(maps.Keys(states)), err
	default:
		return c.Store.List(ctx, res)
	}
}

// listStates lists the states in the store. Every commit does, so directories that have not
// changed are not read. The map must not be changed.
func (c *conn) listStates() (map[objects.MAC]struct{}, error) {
	c.listMu.Lock()
	defer c.listMu.Unlock()
	dir := filepath.Join(c.root, statesDir)
	err := c.stateDirs.update(c.fsys.ReadDir, dir, time.Now())
	if errors.Is(err, fs.ErrNotExist) {
		_, err = os.Stat(dir) // a copy of an empty store may have no buckets
	}
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.states = c.stateDirs.all()
	return c.states, nil
}

// listedStates returns what the last list of states had. It must not be changed.
func (c *conn) listedStates() map[objects.MAC]struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.states
}

// Delete implements storage.Store; see conn for locks.
func (c *conn) Delete(ctx context.Context, res storage.StorageResource, mac objects.MAC) error {
	if res == storage.StorageResourceLock && !c.owns(mac) {
		return nil
	}
	return c.Store.Delete(ctx, res, mac)
}

// Put implements storage.Store. When it returns nil the file is durable; when it returns
// an error there is no such file, as far as the disk lets itself be told.
func (c *conn) Put(ctx context.Context, res storage.StorageResource, mac objects.MAC, rd io.Reader) (int64, error) {
	src, mirrored := rd, func(bool) {}
	if c.mirror != nil && res == storage.StorageResourcePackfile && storage.Flag(ctx)&storage.StorageHot != 0 {
		src, mirrored = c.mirror.copy(mac, rd)
	}
	n, err := c.put(res, mac, src)
	mirrored(err == nil)
	if err != nil {
		// What kloset gives us to read comes out of a chain of pipes, whose goroutines
		// live until somebody has read to the end.
		_, _ = io.Copy(io.Discard, rd)
		return n, Unavailable(fmt.Sprintf("write %s", res), err)
	}
	return n, nil
}

func (c *conn) put(res storage.StorageResource, mac objects.MAC, rd io.Reader) (int64, error) {
	switch res {
	case storage.StorageResourcePackfile:
		return c.putDurably(filepath.Join(c.root, packfilesDir), mac, rd)
	case storage.StorageResourceState:
		return c.putDurably(filepath.Join(c.root, statesDir), mac, rd)
	case storage.StorageResourceLock:
		if !c.owns(mac) {
			return io.Copy(io.Discard, rd)
		}
		return c.putLock(mac, rd)
	}
	return 0, fmt.Errorf("%s: %w", res, errors.ErrUnsupported)
}

// putDurably writes a file below dir. The temporary file is in the same directory as the
// final one, so that one sync makes the rename durable.
func (c *conn) putDurably(dir string, mac objects.MAC, rd io.Reader) (int64, error) {
	bucket := filepath.Join(dir, hex.EncodeToString(mac[:1]))
	tmp := filepath.Join(bucket, c.tmpName())
	final := filepath.Join(bucket, hex.EncodeToString(mac[:]))
	n, err := c.write(tmp, rd, true)
	if errors.Is(err, fs.ErrNotExist) && n == 0 { // of opening tmp: nothing has been read
		// Stores are created with all their buckets, but copying one may drop empty
		// directories. The store itself must be there: nothing is made in a mount point.
		if _, err := os.Stat(filepath.Join(c.root, configName)); err != nil {
			return 0, err
		}
		if err := disk.MkdirDurable(c.fsys, bucket, 0o700); err != nil {
			return 0, err
		}
		n, err = c.write(tmp, rd, true)
	}
	if err != nil {
		return n, err
	}
	if err := c.fsys.Rename(tmp, final); err != nil {
		return n, errors.Join(err, ignoreNotExist(c.fsys.Remove(tmp)))
	}
	if err := c.fsys.SyncDir(bucket); err != nil {
		// The name may or may not survive. The caller is told that there is no such file,
		// so do what can be done to make that true.
		return n, errors.Join(err, ignoreNotExist(c.fsys.Remove(final)))
	}
	return n, nil
}

// write copies rd to a new file and removes it again when that fails. n counts what was
// taken from rd.
func (c *conn) write(path string, rd io.Reader, durable bool) (n int64, err error) {
	f, err := c.fsys.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return 0, err
	}
	n, err = copyTo(f, rd)
	if err == nil && durable {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return n, errors.Join(err, ignoreNotExist(c.fsys.Remove(path)))
	}
	return n, nil
}

// copyTo writes all of rd to f, in large pieces: rd often yields small ones.
func copyTo(f disk.File, rd io.Reader) (n int64, err error) {
	buf := make([]byte, 0, writeSize)
	for err == nil {
		var k int
		k, err = rd.Read(buf[len(buf):cap(buf)])
		buf = buf[:len(buf)+k]
		if len(buf) < cap(buf) && err == nil {
			continue
		}
		if _, werr := f.WriteAt(buf, n); werr != nil {
			return n, werr
		}
		n += int64(len(buf))
		buf = buf[:0]
	}
	if err == io.EOF {
		err = nil
	}
	return n, err
}

// putLock writes a lock. Locks need not survive power loss: whoever held them does not.
func (c *conn) putLock(id objects.MAC, rd io.Reader) (int64, error) {
	tmp := filepath.Join(c.root, c.tmpName())
	n, err := c.write(tmp, rd, false)
	if err != nil {
		return n, err
	}
	if err := c.fsys.Rename(tmp, filepath.Join(c.root, locksDir, hex.EncodeToString(id[:]))); err != nil {
		return n, errors.Join(err, ignoreNotExist(c.fsys.Remove(tmp)))
	}
	return n, nil
}

func (c *conn) owns(id objects.MAC) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.locks[id]
}

func (c *conn) own(id objects.MAC, owned bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if owned {
		c.locks[id] = true
	} else {
		delete(c.locks, id)
	}
}

func (c *conn) tmpName() string {
	return tmpPrefix + c.token + "-" + rand.Text()
}

// sweep removes temporary files that nobody is writing any more: this installation's own
// (it has just started, and its token is its own), and anybody's that are old.
func (c *conn) sweep(now time.Time) error {
	dirs := []string{c.root}
	for _, dir := range []string{packfilesDir, statesDir} {
		dirs = append(dirs, filepath.Join(c.root, dir))
		for i := range buckets {
			dirs = append(dirs, filepath.Join(c.root, dir, fmt.Sprintf("%02x", i)))
		}
	}
	own := []byte(tmpPrefix + c.token + "-")
	var errs []error
	for _, dir := range dirs {
		entries, err := c.fsys.ReadDir(dir)
		if err != nil {
			errs = append(errs, ignoreNotExist(err))
			continue
		}
		for _, e := range entries {
			name := []byte(e.Name())
			if !e.Type().IsRegular() || !bytes.HasPrefix(name, []byte(tmpPrefix)) {
				continue
			}
			if !bytes.HasPrefix(name, own) {
				fi, err := e.Info()
				if err != nil || now.Sub(fi.ModTime()) < tmpMaxAge {
					continue
				}
			}
			errs = append(errs, ignoreNotExist(c.fsys.Remove(filepath.Join(dir, e.Name()))))
		}
	}
	return errors.Join(errs...)
}
