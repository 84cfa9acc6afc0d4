package store

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"path"
	"strings"
	"sync"
	"syscall"

	"github.com/PlakarKorp/kloset/connectors/storage"
	klosetlocation "github.com/PlakarKorp/kloset/location"
	"github.com/PlakarKorp/kloset/objects"
	"github.com/PlakarKorp/kloset/repository"

	"github.com/snapgate/gateway/store/internal/backend"
)

// connector is a storage.Store over a backend, with the names that kloset's own connectors
// use. Where the backend is elsewhere, what goes wrong is ErrUnavailable: nothing else says
// of such an error that it is one of reading and writing.
type connector struct {
	files  backend.Backend
	at     location
	remote bool
	counts errorCounts
}

// errorCounts counts errors by what was tried. The zero value is ready; safe for concurrent use.
type errorCounts struct {
	mu sync.Mutex // guards by
	by map[string]uint64
}

// add counts an error, unless it says that a file is not there, or that nobody waits any more.
func (e *errorCounts) add(op string, err error) {
	if err == nil || errors.Is(err, fs.ErrNotExist) || errors.Is(err, context.Canceled) {
		return
	}
	op, _, _ = strings.Cut(op, " ") // the rest is a name
	e.count(op)
}

func (e *errorCounts) count(op string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.by == nil {
		e.by = map[string]uint64{}
	}
	e.by[op]++
}

// Errors counts what went wrong with reading, listing, writing and removing files of the store
// since it was opened, by these words: read, list, write, remove. Operations that were tried
// again by what is below, and succeeded then, are not among them.
func (s *Store) Errors() map[string]uint64 {
	e := &s.conn.counts
	e.mu.Lock()
	defer e.mu.Unlock()
	return maps.Clone(e.by)
}

// name returns the name of a file in the store.
func (c *connector) name(res storage.StorageResource, mac objects.MAC) (string, error) {
	base := hex.EncodeToString(mac[:])
	switch res {
	case storage.StorageResourcePackfile:
		return packfileName(mac), nil
	case storage.StorageResourceState:
		return backend.Bucket(backend.StatesDir, mac[0]) + "/" + base, nil
	case storage.StorageResourceLock:
		return lockName(mac), nil
	}
	return "", fmt.Errorf("%s: %w", res, errors.ErrUnsupported)
}

func packfileName(mac objects.MAC) string {
	return backend.Bucket(backend.PackfilesDir, mac[0]) + "/" + hex.EncodeToString(mac[:])
}

func lockName(id objects.MAC) string { return backend.LocksDir + "/" + hex.EncodeToString(id[:]) }

// wrap says of an error of a backend that is elsewhere what it is.
func (c *connector) wrap(op string, err error) error {
	c.counts.add(op, err)
	if !c.remote || err == nil || errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return c.unavailable(op, err)
}

// unavailable is Unavailable, and says of a store that is elsewhere why it is.
func (c *connector) unavailable(op string, err error) error {
	switch {
	case err == nil || !c.remote || errors.Is(err, context.Canceled):
	case errors.Is(err, fs.ErrPermission):
		err = fmt.Errorf("%w: %w", ErrRefused, err)
	case errors.Is(err, ErrLogin):
		err = fmt.Errorf("%w: %w", ErrLogin, err)
	default:
		err = fmt.Errorf("%w: %w", ErrServer, err)
	}
	return Unavailable(op, err)
}

// Get implements storage.Store.
func (c *connector) Get(ctx context.Context, res storage.StorageResource, mac objects.MAC, rg *storage.Range) (io.ReadCloser, error) {
	name, err := c.name(res, mac)
	if err != nil {
		return nil, err
	}
	offset, length := int64(0), int64(-1)
	if rg != nil {
		offset, length = int64(rg.Offset), int64(rg.Length)
	}
	rd, err := c.files.Get(ctx, name, offset, length)
	switch {
	case err == nil && c.remote:
		return &remoteReader{rd, c, name}, nil
	case res == storage.StorageResourcePackfile && errors.Is(err, fs.ErrNotExist):
		return nil, repository.ErrPackfileNotFound
	case err != nil:
		return nil, c.wrap("read "+name, err)
	}
	return rd, nil
}

// remoteReader says of errors what they are.
type remoteReader struct {
	io.ReadCloser
	c    *connector
	name string
}

func (r *remoteReader) Read(p []byte) (int, error) {
	n, err := r.ReadCloser.Read(p)
	if err != nil && err != io.EOF { //nolint:errorlint // a lost line may wrap one
		err = r.c.wrap("read "+r.name, err)
	}
	return n, err
}

// List implements storage.Store.
func (c *connector) List(ctx context.Context, res storage.StorageResource) ([]objects.MAC, error) {
	var dir string
	switch res {
	case storage.StorageResourcePackfile:
		dir = backend.PackfilesDir
	case storage.StorageResourceState:
		dir = backend.StatesDir
	case storage.StorageResourceLock:
		dir = backend.LocksDir
	default:
		return nil, fmt.Errorf("%s: %w", res, errors.ErrUnsupported)
	}
	macs := make([]objects.MAC, 0)
	err := c.files.List(ctx, dir, func(name string) error {
		if mac, ok := macOf(name); ok {
			macs = append(macs, mac)
		}
		return nil
	})
	if err != nil {
		return nil, c.wrap("list "+dir, err)
	}
	return macs, nil
}

// macOf returns what the last element of a name stands for; what is no such name is somebody
// else's.
func macOf(name string) (mac objects.MAC, ok bool) {
	base := path.Base(name)
	if len(base) != hex.EncodedLen(len(mac)) {
		return mac, false
	}
	_, err := hex.Decode(mac[:], []byte(base))
	return mac, err == nil
}

// Put implements storage.Store.
func (c *connector) Put(ctx context.Context, res storage.StorageResource, mac objects.MAC, rd io.Reader) (int64, error) {
	name, err := c.name(res, mac)
	if err != nil {
		return 0, err
	}
	n, err := c.files.Put(ctx, name, rd)
	return n, c.wrap("write "+name, err)
}

// Delete implements storage.Store.
func (c *connector) Delete(ctx context.Context, res storage.StorageResource, mac objects.MAC) error {
	name, err := c.name(res, mac)
	if err != nil {
		return err
	}
	return c.wrap("remove "+name, c.files.Remove(ctx, name))
}

// Create implements storage.Store: it lays out an empty store. Errors: ErrNotExist when the
// place is used for something else, ErrDamaged, ErrUnavailable.
func (c *connector) Create(ctx context.Context, wrapped []byte) error {
	err := c.files.Create(ctx)
	if err == nil {
		err = c.stillMissing(ctx)
	}
	if err == nil {
		err = backend.PutBytes(ctx, c.files, backend.ConfigName, wrapped)
	}
	var occupied *backend.OccupiedError
	switch {
	case errors.Is(err, ErrMadeTwice):
		return fmt.Errorf("create store: %w", err)
	case errors.As(err, &occupied):
		return fmt.Errorf("create store: %w: %w", ErrNotExist, err)
	case errors.Is(err, backend.ErrOrphaned):
		return fmt.Errorf("create store: %w: %w", ErrDamaged, err)
	}
	return c.unavailable("create store", err)
}

// stillMissing returns an error when there is a configuration. Laying out a store may take a while, and whoever does the same may have come to the
// end before: what is put into a store whose configuration is replaced is lost.
func (c *connector) stillMissing(ctx context.Context) error {
	_, err := backend.GetBytes(ctx, c.files, backend.ConfigName, maxConfigBytes)
	if err == nil {
		return ErrMadeTwice
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// Open implements storage.Store: it reads the configuration. A store that is not there is
// ErrNotExist, one that cannot be reached ErrUnavailable.
func (c *connector) Open(ctx context.Context) ([]byte, error) {
	wrapped, err := backend.GetBytes(ctx, c.files, backend.ConfigName, maxConfigBytes)
	switch {
	case err == nil:
		return wrapped, nil
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ENOTDIR):
		c.counts.count("read") // that it has a configuration is what makes it a store
		return nil, fmt.Errorf("%w: %w", ErrNotExist, err)
	}
	c.counts.add("read", err)
	return nil, c.unavailable("read store configuration", err)
}

// Ping implements storage.Store.
func (c *connector) Ping(ctx context.Context) error {
	_, err := c.Open(ctx)
	return err
}

// Origin implements storage.Store.
func (c *connector) Origin() string {
	if c.remote {
		return c.at.endpoint
	}
	return "localhost"
}

// Type implements storage.Store.
func (c *connector) Type() string { return c.at.scheme }

// Root implements storage.Store.
func (c *connector) Root() string { return c.at.path }

// Flags implements storage.Store.
func (c *connector) Flags() klosetlocation.Flags {
	if c.remote {
		return 0
	}
	return klosetlocation.FLAG_LOCALFS
}

// Mode implements storage.Store.
func (c *connector) Mode(context.Context) (storage.Mode, error) {
	return storage.ModeRead | storage.ModeWrite, nil
}

// Size implements storage.Store; it is not known.
func (c *connector) Size(context.Context) (int64, error) { return -1, nil }

// Close implements storage.Store.
func (c *connector) Close(context.Context) error { return nil }
