package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"github.com/snapgate/gateway/cmd/gateway/internal/config"
	"github.com/snapgate/gateway/internal/disk"
	"github.com/snapgate/gateway/store"
	"github.com/snapgate/gateway/vfs"
)

// guardInterval is how often it is asked, while something is written to a store, whether that takes
// more. Asking takes at most 1/fullnessShare of the time.
const guardInterval = 5 * time.Second

// bounded tells how full a store is: the one place that does, for all that writes to it.
type bounded struct {
	store string // its name
	// size is what the store has; free what its disk has, and tells nothing where ok is false.
	size func(ctx context.Context) (int64, error)
	free func() (avail int64, ok bool, err error)
	// pending is what waits for its commit, and reserve what a commit needs beside.
	pending func() int64
	reserve int64
	key     string       // of the configuration, that sets limit
	limit   atomic.Int64 // bytes; 0 for none
	path    string       // of a store on a local disk; else ""
}

// boundOf makes what tells how full a configured store is. Nothing is pending.
func boundOf(cfg *config.Config, named *config.Store, st *store.Store) *bounded {
	b := &bounded{
		store: named.Name, size: st.Size, pending: func() int64 { return 0 }, reserve: cmp.Or(cfg.Limits.Reserve, vfs.DefaultReserve),
		key: "stores." + named.Name + ".limit", path: named.Path,
	}
	limit, path := named.Limit, named.Path
	if named.Name == config.DefaultStore {
		limit, b.key = cfg.Limits.Store, "limits.store"
	}
	b.limit.Store(limit)
	b.free = func() (int64, bool, error) {
		if path == "" {
			return 0, false, nil
		}
		u, err := disk.Usage(path)
		if errors.Is(err, disk.ErrUnsupported) {
			return 0, false, nil
		}
		return int64(min(u.Avail, 1<<62)), true, err
	}
	return b
}

// filled is how full a store is.
type filled struct {
	room    int64  // bytes that it takes, with what is pending; -1 for no bound
	pending int64  // bytes
	size    int64  // of the store, with a limit
	nearly  bool   // it is worth a word
	disk    bool   // room is what its disk has
	why     string // it takes no more than room
	text    string // what it has of what it may have
}

func (s *filled) full() bool { return s.room >= 0 && s.room <= s.pending }

// measure compares what the store has with what it may have.
func (b *bounded) measure(ctx context.Context) (filled, error) {
	st := filled{room: -1, pending: b.pending()}
	if limit := b.limit.Load(); limit > 0 {
		size, err := b.size(ctx)
		if err != nil {
			return st, err
		}
		st.size = size
		st.room, st.why = max(0, limit-size), "the limit of the store is reached"
		st.text = fmt.Sprintf("it has %s of %s (%s)", bytesText(size), bytesText(limit), b.key)
		st.nearly = size+st.pending > nearlyFull(limit)
	}
	avail, ok, err := b.free()
	if err != nil {
		return st, err
	}
	if left := max(0, avail-b.reserve); ok && (st.room < 0 || left < st.room) {
		nearly := avail < 4*b.reserve+st.pending
		if nearly || st.room < 0 {
			st.text = fmt.Sprintf("its disk has %s left", bytesText(avail))
		}
		st.room, st.why, st.nearly, st.disk = left, "the disk of the store is nearly full", st.nearly || nearly, true
	}
	return st, nil
}

// errStoreFull means that a store takes no more.
var errStoreFull = errors.New("the store is full")

// full says that the store takes no more; nil when it does.
func (b *bounded) full(ctx context.Context) error {
	st, err := b.measure(ctx)
	if err != nil {
		return fmt.Errorf("store %s: how full it is: %w", b.store, err)
	}
	if !st.full() {
		return nil
	}
	if st.disk {
		return b.diskFull(st.text)
	}
	return &hintedError{
		err:  fmt.Errorf("%w: %s: %s", errStoreFull, b.store, st.text),
		hint: fmt.Sprintf("make room: %s; or set %s higher", howToMakeRoom(b.store), b.key),
	}
}

// diskFull is the error of a store whose disk is full.
func (b *bounded) diskFull(text string) error {
	return &hintedError{
		err:  fmt.Errorf("%w: %s: %s", errStoreFull, b.store, text),
		hint: "make room: " + howToMakeRoom(b.store) + ", or a larger disk",
	}
}

// ranOut puts errStoreFull in place of an error that says that a file of the store could not be written as its disk was full: it may fill up
// between two looks, and have room again when what could not be written is gone.
func (b *bounded) ranOut(err error) error {
	var at *fs.PathError
	if b.path == "" || !disk.IsFull(err) || !errors.As(err, &at) || !strings.HasPrefix(at.Path, b.path+string(filepath.Separator)) {
		return err
	}
	return b.diskFull("its disk has no room left")
}

// howToMakeRoom says what to call for more room in a store.
func howToMakeRoom(store string) string {
	if store == config.DefaultStore {
		return "gateway prune, then gateway maintain"
	}
	return fmt.Sprintf("gateway prune --store %s (see retention of stores.%[1]s), then gateway maintain %[1]s", store)
}

// guard refuses what is to be written to a store that is full, and ends the returned context when it
// becomes full; finish, which must be called with what came of it, says so then.
func (b *bounded) guard(ctx context.Context) (within context.Context, finish func(error) error, err error) {
	began := time.Now()
	if err := b.full(ctx); err != nil {
		return nil, nil, err
	}
	within, cancel := context.WithCancelCause(ctx)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for pauseFor(within, max(guardInterval, fullnessShare*time.Since(began))) {
			began = time.Now()
			// That it cannot be asked, whoever writes will notice.
			if err := b.full(within); errors.Is(err, errStoreFull) {
				cancel(err)
			}
		}
	}()
	return within, func(err error) error {
		cancel(nil)
		<-ended
		if full := context.Cause(within); err != nil && errors.Is(full, errStoreFull) {
			return full
		}
		return b.ranOut(err)
	}, nil
}
