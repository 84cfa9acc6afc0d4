package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"sync"
	"time"

	"github.com/PlakarKorp/kloset/connectors/storage"
	"github.com/PlakarKorp/kloset/objects"
	"github.com/PlakarKorp/kloset/repository"

	"github.com/snapgate/gateway/store/internal/backend"
)

// Lock is a lock on a store. While a shared one is held, no maintenance of any process removes
// anything; while an exclusive one is held, nobody writes. It is refreshed in the background
// until Unlock.
type Lock struct {
	s         *Store
	id        objects.MAC
	exclusive bool
	holder    *holder // of an exclusive one
	stop      chan struct{}
	done      chan struct{}

	// mu guards what follows. It is held over requests: who asks whether the lock is valid waits for what
	// comes of a refresh.
	mu        sync.Mutex
	refreshed time.Time // when the lock was last written
	lost      bool      // there was a moment when it may not have counted
}

// Lock takes a shared lock. It fails with ErrLocked while another process holds an
// exclusive one, and with ErrUnavailable when the store cannot be reached; it waits for an
// exclusive one of this process. Locks that nobody has refreshed for kloset's time of 10 minutes
// are removed.
func (s *Store) Lock(ctx context.Context) (l *Lock, err error) {
	if err := s.ownLocks.share(ctx); err != nil {
		return nil, fmt.Errorf("lock store: %w", err)
	}
	defer func() {
		if err != nil {
			s.ownLocks.unshare()
		}
	}()
	l = &Lock{s: s, id: objects.RandomMAC(), stop: make(chan struct{}), done: make(chan struct{})}
	s.conn.own(l.id, true)
	if err := l.put(); err != nil {
		_ = l.remove() // it may be there all the same; whether that works says no more than err
		return nil, err
	}
	// First put, then look: two processes that do this cannot miss each other.
	if err := s.checkLocks(ctx, l.id); err != nil {
		return nil, errors.Join(err, l.withdraw())
	}
	go l.refresh()
	return l, nil
}

// Valid returns nil when maintenance has respected the lock ever since it was taken, and
// ErrUnavailable when it may have been ignored: it was not refreshed for so long that it
// counted as left behind, somebody has removed it, or it was under no name while it was refreshed and
// somebody has taken a lock meanwhile that excludes it.
func (l *Lock) Valid() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.valid()
}

func (l *Lock) valid() error {
	_, err := l.s.files.Stat(context.Background(), lockName(l.id))
	if ignoreNotExist(err) != nil {
		return l.s.conn.unavailable("look for lock", err)
	}
	// What counts for others is the time of day, which goes on while this machine sleeps.
	age := max(time.Since(l.refreshed), time.Now().Round(0).Sub(l.refreshed.Round(0)))
	l.lost = l.lost || err != nil || age >= repository.LOCK_TTL
	if l.lost {
		return fmt.Errorf("lock of store: %w: others may have ignored it", ErrUnavailable)
	}
	return nil
}

// Unlock releases the lock. An error means that the lock may stay in the store until it is
// too old to count. An exclusive one does not count for who has the same KeepDir.
func (l *Lock) Unlock() error {
	close(l.stop)
	<-l.done
	err := l.withdraw()
	if l.exclusive {
		l.s.ownLocks.include()
	} else {
		l.s.ownLocks.unshare()
	}
	return err
}

// withdraw takes back a lock that is not refreshed any more.
func (l *Lock) withdraw() error {
	err := l.remove()
	return errors.Join(err, l.holder.release(err != nil))
}

func (l *Lock) remove() error {
	err := ignoreNotExist(l.s.conn.Delete(context.Background(), storage.StorageResourceLock, l.id))
	if err == nil { // else it stays known as one of ours, which nobody here waits for
		l.s.conn.own(l.id, false)
	}
	return Unavailable("remove lock", err)
}

func (l *Lock) refresh() {
	defer close(l.done)
	tick := time.NewTicker(repository.LOCK_REFRESH_RATE)
	defer tick.Stop()
	for {
		select {
		case <-l.stop:
			return
		case <-tick.C:
			if err := l.renew(context.Background()); err != nil {
				l.s.log.Warn("store lock not refreshed", "err", err)
			}
		}
	}
}

// renew writes the lock anew.
func (l *Lock) renew(ctx context.Context) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	// Before it is written: that would hide that it was gone.
	err := errors.Join(l.valid(), l.put())
	// On a server that does not rename over a file it had no name for a request, and for longer when the line broke
	// then: that is known. First put, then look: who has found no lock meanwhile has one now.
	look := l.s.checkLocks
	if l.exclusive {
		look = func(ctx context.Context, own objects.MAC) error { return l.s.checkAlone(ctx, &own) }
	}
	lerr := look(ctx, l.id)
	l.lost = l.lost || errors.Is(err, backend.ErrAside) || errors.Is(lerr, ErrLocked)
	return errors.Join(err, lerr)
}

// put writes the lock; mu is held, or nobody else has the lock yet.
func (l *Lock) put() error {
	var buf bytes.Buffer
	now := time.Now()
	lock := repository.NewSharedLock(l.s.hostname)
	lock.Exclusive = l.exclusive
	if err := lock.SerializeToStream(&buf); err != nil {
		return fmt.Errorf("encode lock: %w", err)
	}
	if _, err := l.s.repo.PutLock(l.id, &buf); err != nil {
		return Unavailable("lock store", err)
	}
	l.refreshed = now
	return nil
}

// checkLocks looks for exclusive locks beside our own.
func (s *Store) checkLocks(ctx context.Context, own objects.MAC) error {
	ids, err := s.conn.connector.List(ctx, storage.StorageResourceLock)
	if err != nil {
		return Unavailable("list locks", err)
	}
	for _, id := range ids {
		if id == own {
			continue
		}
		lock, err := s.readLock(id)
		if errors.Is(err, fs.ErrNotExist) {
			continue // released meanwhile
		}
		if err != nil {
			return err
		}
		switch {
		case lock.Exclusive && s.leftBehind(id):
			if err := s.dropLock(ctx, id, "left behind"); err != nil {
				return err
			}
		case dubious(lock):
			age, err := s.lockAge(ctx, &own, id)
			if err != nil {
				return err
			}
			if age >= repository.LOCK_TTL {
				if err := s.dropLock(ctx, id, "stale"); err != nil {
					return err
				}
			} else if lock.Exclusive {
				return lockedError(lock, age)
			} // else its owner may be at work, with another clock
		case lock.Exclusive:
			return lockedError(lock, time.Since(lock.Timestamp))
		}
	}
	return nil
}

// dubious reports whether the time in a lock says nothing: it is too long ago, or is to come. Its owner is gone,
// or has a clock that differs from ours; see lockAge.
func dubious(lock *repository.Lock) bool {
	return lock.IsStale() || time.Until(lock.Timestamp) > repository.LOCK_TTL
}

// lockedError says of a lock that it is in the way.
func lockedError(lock *repository.Lock, age time.Duration) error {
	return &LockedError{Host: lock.Hostname, Shared: !lock.Exclusive, Age: age, Expires: repository.LOCK_TTL - age}
}

// readLock reads a lock. One that cannot be read (its writer lost power) counts as
// exclusive for as long as a lock lives.
func (s *Store) readLock(id objects.MAC) (*repository.Lock, error) {
	rd, err := s.repo.GetLock(id)
	if err == nil {
		var lock *repository.Lock
		lock, err = repository.NewLockFromStream(rd)
		if cerr := rd.Close(); err == nil {
			err = cerr
		}
		if err == nil {
			return lock, nil
		}
	}
	if IsIO(err) {
		if errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		return nil, Unavailable("read lock", err)
	}
	fi, err := s.files.Stat(context.Background(), lockName(id))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if err != nil {
		return nil, s.conn.unavailable("look for lock", err)
	}
	return &repository.Lock{Timestamp: fi.ModTime, Hostname: "unknown", Exclusive: true}, nil
}
