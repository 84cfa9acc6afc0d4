package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/PlakarKorp/kloset/connectors/storage"
	"github.com/PlakarKorp/kloset/kcontext"
	"github.com/PlakarKorp/kloset/objects"
	"github.com/PlakarKorp/kloset/repository"

	"github.com/snapgate/gateway/store/internal/backend"
)

// afresh is a view of the store, as kloset has it, beside the one that everybody uses.
type afresh struct {
	kctx *kcontext.KContext
	repo *repository.Repository
	conn *provingConn
}

// Afresh returns kloset's view of the store, as of the last Refresh, for whoever is to prove what is in
// it: all of it is read from the store, metadata too, which otherwise may come from local copies; and
// it ends with ctx, which kloset's own does not. kloset does with it so many things at a time. patience bounds how often packfiles
// are asked for that a store elsewhere does not give. done must be called when it is not used any more. It returns the first error
// of reading from a store that is elsewhere, an ErrUnavailable, or nil: kloset says of what it could not read no more than that it is
// missing. What is missing is no such error.
// Safe for concurrent use.
func (s *Store) Afresh(ctx context.Context, parallel int, patience *Patience) (repo *repository.Repository, done func() error, err error) {
	a, err := s.takeAfresh()
	if err != nil {
		return nil, nil, err
	}
	// Nobody else has it, so nobody reads these.
	a.kctx.Context, a.kctx.Cancel = context.WithCancelCause(ctx)
	a.kctx.MaxConcurrency = parallel
	a.conn.begin(patience)
	return a.repo, func() error {
		a.kctx.Cancel(nil)
		unread := a.conn.failed()
		s.mu.Lock()
		defer s.mu.Unlock()
		s.spare = append(s.spare, a)
		return unread
	}, nil
}

// takeAfresh takes a view that nobody uses, or makes one, with a handle of its own on the index.
func (s *Store) takeAfresh() (*afresh, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if n := len(s.spare); n > 0 {
		a := s.spare[n-1]
		s.spare = s.spare[:n-1]
		return a, nil
	}
	// A connection without a mirror.
	a := &afresh{kctx: kcontext.NewKContextFrom(s.kctx), conn: &provingConn{conn: &conn{connector: s.conn.connector}}}
	var err error
	if a.repo, err = repository.NewNoRebuild(a.kctx, s.key, a.conn, s.sound, true); err != nil {
		return nil, fmt.Errorf("open repository: %w", s.CacheError(err))
	}
	return a, nil
}

// provingConn is a conn that remembers that something could not be read.
type provingConn struct {
	*conn

	mu       sync.Mutex
	err      error     // guarded by mu: the first one
	patience *Patience // guarded by mu

	asking sync.Mutex // held while it is asked whether the store is there: others wait for the answer
	gone   bool       // guarded by asking: it was not
}

// begin forgets what was.
func (c *provingConn) begin(patience *Patience) {
	c.mu.Lock()
	c.err, c.patience = nil, patience
	c.mu.Unlock()
	c.asking.Lock()
	c.gone = false
	c.asking.Unlock()
}

// there reports whether the store can be reached, for whoever was refused as somebody has found that it cannot: that may have been of
// one file. When it is away, it stays so for all that is still to be read: each would wait.
func (c *provingConn) there(ctx context.Context) bool {
	c.asking.Lock()
	defer c.asking.Unlock()
	if !c.gone {
		_, err := c.Open(backend.Insist(ctx))
		c.gone = err != nil
	}
	return !c.gone
}

// patient returns what bounds reading a file, nil if nothing does.
func (c *provingConn) patient(res storage.StorageResource) *Patience {
	if !c.remote || res != storage.StorageResourcePackfile {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.patience
}

func (c *provingConn) failed() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// note takes note of an error of reading.
func (c *provingConn) note(err error) {
	if !errors.Is(err, ErrUnavailable) {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err == nil {
		c.err = err
	}
}

// Get implements storage.Store.
func (c *provingConn) Get(ctx context.Context, res storage.StorageResource, mac objects.MAC, rg *storage.Range) (io.ReadCloser, error) {
	patience := c.patient(res)
	if err := patience.Refuse(mac); err != nil {
		c.note(err)
		return nil, err
	}
	rd, err := c.conn.Get(ctx, res, mac, rg)
	if errors.Is(err, backend.ErrNotTried) && c.there(ctx) {
		rd, err = c.conn.Get(backend.Insist(ctx), res, mac, rg)
	}
	if err != nil {
		c.note(err)
		if ctx.Err() == nil {
			patience.Note(mac, err)
		}
		return nil, err
	}
	return &provingReader{rd, c, func(err error) {
		if ctx.Err() == nil {
			patience.Note(mac, err)
		}
	}, nil}, nil
}

// provingReader is for one goroutine.
type provingReader struct {
	io.ReadCloser
	c    *provingConn
	came func(error) // what has come of it
	err  error       // ErrUnavailable
}

func (r *provingReader) Read(p []byte) (int, error) {
	n, err := r.ReadCloser.Read(p)
	r.c.note(err)
	if errors.Is(err, ErrUnavailable) {
		r.err = err
	}
	return n, err
}

// Close implements io.Closer.
func (r *provingReader) Close() error {
	err := r.ReadCloser.Close()
	r.came(r.err) // which may read something else
	return err
}
