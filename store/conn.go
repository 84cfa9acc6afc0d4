package store

import (
	"context"
	"fmt"
	"io"
	"sync"

	"github.com/PlakarKorp/kloset/connectors/storage"
	"github.com/PlakarKorp/kloset/objects"
)

// conn is the connection to a store that kloset works with. What it takes over from the
// connector: durable writes, and locks, which are the business of Lock: a snapshot
// builder's own handling of locks finds an empty list and does nothing.
type conn struct {
	*connector

	mirror      *mirror // nil for none
	mirrorFirst bool    // the store is far away, the mirror is not

	mu    sync.Mutex
	locks map[objects.MAC]bool // guarded by mu: the locks that Lock has made
	// guarded by mu: what the last list of states had
	states map[objects.MAC]struct{}
}

func newConn(c *connector) *conn {
	return &conn{connector: c, locks: make(map[objects.MAC]bool)}
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

// away reports whether the store cannot be reached: its configuration cannot be read.
func (c *conn) away(ctx context.Context) bool {
	_, err := c.Open(ctx)
	return err != nil
}

// List implements storage.Store; see conn for locks.
func (c *conn) List(ctx context.Context, res storage.StorageResource) ([]objects.MAC, error) {
	if res == storage.StorageResourceLock {
		return nil, nil
	}
	macs, err := c.connector.List(ctx, res)
	if err == nil && res == storage.StorageResourceState {
		states := make(map[objects.MAC]struct{}, len(macs))
		for _, mac := range macs {
			states[mac] = struct{}{}
		}
		c.mu.Lock()
		c.states = states
		c.mu.Unlock()
	}
	return macs, err
}

// listedStates returns what the last list of states had.
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
	if c.mirror != nil && res == storage.StorageResourcePackfile && storage.Flag(ctx)&storage.StorageHot != 0 {
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
