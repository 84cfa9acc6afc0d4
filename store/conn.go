package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"slices"
	"sync"

	"github.com/PlakarKorp/kloset/connectors/storage"
	"github.com/PlakarKorp/kloset/objects"
	"github.com/PlakarKorp/kloset/repository/state"

	"github.com/snapgate/gateway/store/internal/backend"
)

// conn is the connection to a store that kloset works with. What it takes over from the
// connector: durable writes, and locks, which are the business of Lock: a snapshot
// builder's own handling of locks finds an empty list and does nothing.
type conn struct {
	*connector

	mirror      *mirror // nil for none
	mirrorFirst bool    // the store is far away, the mirror is not

	// listMu guards stateDirs. It is held while directories are read: whoever else wants the
	// list wants what comes of it. mu is taken below it.
	listMu    sync.Mutex
	stateDirs *listing // nil for a store that is elsewhere

	mu    sync.Mutex
	locks map[objects.MAC]bool // guarded by mu: the locks that Lock has made
	// guarded by mu: what the last list of states had; another map when that changes
	states map[objects.MAC]struct{}
}

func newConn(c *connector) *conn {
	n := &conn{connector: c, locks: make(map[objects.MAC]bool)}
	if local, ok := c.files.(*backend.Local); ok {
		n.stateDirs = newListing(local, backend.StatesDir)
	}
	return n
}

// Type keeps the snapshot builder from leaving out files: it skips every path of the
// source that looks as if it were below the store's own directory, but only for type
// "fs", and a share may well hold such a path.
func (c *conn) Type() string { return "gateway" }

// Get implements storage.Store. While the store is away, and always when it is elsewhere,
// metadata comes from the mirror: a packfile is named by its content, so a copy is as good. A
// packfile that is missing from a
// store that is there is missing: others cannot read it either; see Reconcile.
func (c *conn) Get(ctx context.Context, res storage.StorageResource, mac objects.MAC, rg *storage.Range) (io.ReadCloser, error) {
	if c.mirrorFirst && c.mirror != nil && res == storage.StorageResourcePackfile {
		if rd, err := c.mirror.open(mac, rg); err == nil {
			return rd, nil
		}
	}
	rd, err := c.connector.Get(ctx, res, mac, rg)
	if err == nil || c.mirror == nil || res != storage.StorageResourcePackfile || !c.away(ctx) {
		return rd, err
	}
	if rd, merr := c.mirror.open(mac, rg); merr == nil {
		return rd, nil
	}
	return nil, err
}

// maxBlob is longer than any blob: packfiles are of 64 MiB at most.
const maxBlob = 128 << 20

// read reads a blob of a local store into buf, which it enlarges when it must. kloset's
// GetPackfileRange reads up to an eighth more, so that a store elsewhere learns less of what
// is read.
func (c *conn) read(loc state.Location, buf []byte) ([]byte, error) {
	return readRange(context.Background(), c, loc, buf)
}

// readRange reads a part of a packfile into buf, which it enlarges when it must. Its offset is that of kloset's index.
func readRange(ctx context.Context, from interface {
	Get(ctx context.Context, res storage.StorageResource, mac objects.MAC, rg *storage.Range) (io.ReadCloser, error)
}, loc state.Location, buf []byte) (_ []byte, err error) {
	if loc.Length > maxBlob {
		return buf, fmt.Errorf("blob of %d bytes: %w", loc.Length, errors.ErrUnsupported)
	}
	rd, err := from.Get(ctx, storage.StorageResourcePackfile, loc.Packfile,
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
func (c *conn) away(ctx context.Context) bool {
	_, err := c.Open(ctx)
	return err != nil
}

// List implements storage.Store; see conn for locks.
func (c *conn) List(ctx context.Context, res storage.StorageResource) ([]objects.MAC, error) {
	switch res {
	case storage.StorageResourceLock:
		return nil, nil
	case storage.StorageResourceState:
		states, err := c.listStates(ctx)
		return slices.Collect(maps.Keys(states)), err
	default:
		return c.connector.List(ctx, res)
	}
}

// listStates lists the states in the store. Every commit does, so of a local store directories
// that have not changed are not read. The map must not be changed.
func (c *conn) listStates(ctx context.Context) (states map[objects.MAC]struct{}, err error) {
	c.listMu.Lock()
	defer c.listMu.Unlock()
	if c.stateDirs == nil {
		states, err = c.listRemoteStates(ctx)
	} else {
		err = c.stateDirs.update(ctx)
		if errors.Is(err, fs.ErrNotExist) {
			_, err = c.stateDirs.disk.StatDir(backend.StatesDir) // a copy of an empty store may have no buckets
		}
		states = c.stateDirs.all()
	}
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.states = states
	return states, nil
}

func (c *conn) listRemoteStates(ctx context.Context) (map[objects.MAC]struct{}, error) {
	macs, err := c.connector.List(ctx, storage.StorageResourceState)
	states := make(map[objects.MAC]struct{}, len(macs))
	for _, mac := range macs {
		states[mac] = struct{}{}
	}
	return states, err
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
	return c.connector.Delete(ctx, res, mac)
}

// Put implements storage.Store. When it returns nil the file is durable; when it returns
// an error there is no such file, as far as the disk lets itself be told.
func (c *conn) Put(ctx context.Context, res storage.StorageResource, mac objects.MAC, rd io.Reader) (int64, error) {
	src, mirrored := rd, func(bool) {}
	if c.mirror != nil && !c.mirror.others && res == storage.StorageResourcePackfile && storage.Flag(ctx)&storage.StorageHot != 0 {
		src, mirrored = c.mirror.copy(mac, rd)
	}
	n, err := c.put(ctx, res, mac, src)
	mirrored(err == nil)
	if err != nil {
		// What kloset gives us to read comes out of a chain of pipes, whose goroutines
		// live until somebody has read to the end.
		_, _ = io.Copy(io.Discard, rd)
		return n, Unavailable(fmt.Sprintf("write %s", res), err)
	}
	return n, nil
}

func (c *conn) put(ctx context.Context, res storage.StorageResource, mac objects.MAC, rd io.Reader) (int64, error) {
	if res == storage.StorageResourceLock && !c.owns(mac) {
		return io.Copy(io.Discard, rd)
	}
	return c.connector.Put(ctx, res, mac, rd)
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
