package store

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/PlakarKorp/kloset/connectors/storage"
	"github.com/PlakarKorp/kloset/objects"
	"github.com/PlakarKorp/kloset/repository"

	"github.com/snapgate/gateway/internal/disk"
)

// exclusivePatience is how long LockExclusively waits for the shared locks of this process.
// Nobody else here gets one meanwhile.
const exclusivePatience = 2 * time.Second

// ownLocks are the locks of this process: who wants a shared one waits for the exclusive one,
// instead of failing as others do. The zero value is ready; safe for concurrent use.
type ownLocks struct {
	mu        sync.Mutex
	shared    int           // guarded by mu
	exclusive bool          // guarded by mu: held, or about to be
	changed   chan struct{} // guarded by mu: closed at the next change; nil when nobody waits
}

// wait waits for a change; mu is held before and after.
func (l *ownLocks) wait(ctx context.Context) error {
	if l.changed == nil {
		l.changed = make(chan struct{})
	}
	changed := l.changed
	l.mu.Unlock()
	defer l.mu.Lock()
	select {
	case <-changed:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// tell wakes those who wait; mu is held.
func (l *ownLocks) tell() {
	if l.changed != nil {
		close(l.changed)
		l.changed = nil
	}
}

func (l *ownLocks) share(ctx context.Context) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	for l.exclusive {
		if err := l.wait(ctx); err != nil {
			return err
		}
	}
	l.shared++
	return nil
}

func (l *ownLocks) unshare() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.shared--
	l.tell()
}

func (l *ownLocks) exclude(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, exclusivePatience)
	defer cancel()
	l.mu.Lock()
	defer l.mu.Unlock()
	for l.exclusive {
		if err := l.wait(ctx); err != nil {
			return err
		}
	}
	l.exclusive = true
	for l.shared > 0 {
		if err := l.wait(ctx); err != nil {
			l.exclusive = false
			l.tell()
			return err
		}
	}
	return nil
}

func (l *ownLocks) include() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.exclusive = false
	l.tell()
}

// LockExclusively takes the exclusive lock, beside which nobody else has a lock of any kind:
// others fail to get one, and those of this process wait. It is to be held for a moment only.
// It fails with ErrLocked while somebody else has a lock, and for one in this process, after
// 2 s. Locks that nobody has refreshed for kloset's time of 10 minutes are removed, and so is
// one that a process on KeepDir has left behind, as it was killed or could not reach the store.
func (s *Store) LockExclusively(ctx context.Context) (l *Lock, err error) {
	// First without a lock: putting one would make others fail for nothing.
	if err := s.checkAlone(ctx, nil); err != nil {
		return nil, err
	}
	if err := s.ownLocks.exclude(ctx); err != nil {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return nil, fmt.Errorf("%w: this gateway writes to it", ErrLocked)
	}
	defer func() {
		if err != nil {
			s.ownLocks.include()
		}
	}()
	l = &Lock{s: s, id: objects.RandomMAC(), exclusive: true, stop: make(chan struct{}), done: make(chan struct{})}
	if l.holder, err = s.noteHolder(l.id); err != nil {
		return nil, err
	}
	s.conn.own(l.id, true)
	if err := l.put(); err != nil {
		// It may be there all the same, or come later. Whether it can be removed says no more than err.
		_ = l.remove()
		return nil, errors.Join(err, l.holder.release(true))
	}
	if err := s.checkAlone(ctx, &l.id); err != nil {
		return nil, errors.Join(err, l.withdraw())
	}
	go l.refresh()
	return l, nil
}

// checkAlone looks for locks of any kind beside our own, if there is one.
func (s *Store) checkAlone(ctx context.Context, own *objects.MAC) error {
	ids, err := s.conn.connector.List(ctx, storage.StorageResourceLock)
	if own == nil && errors.Is(err, fs.ErrNotExist) {
		return nil // a copy of a store may lack the directory while it is empty; whoever puts a lock makes it
	}
	if err != nil {
		return Unavailable("list locks", err)
	}
	for _, id := range ids {
		if own != nil && id == *own || s.conn.owns(id) {
			continue // those of this process have been waited for, or will be
		}
		lock, err := s.readLock(id)
		if ignoreNotExist(err) != nil {
			return err
		}
		if err != nil {
			continue // released meanwhile
		}
		switch {
		case lock.Exclusive && s.leftBehind(id):
			if err := s.dropLock(ctx, id, "left behind"); err != nil {
				return err
			}
		case dubious(lock):
			age, err := s.lockAge(ctx, own, id)
			if err != nil {
				return err
			}
			if age < repository.LOCK_TTL {
				return lockedError(lock, age)
			}
			if own == nil {
				continue // decided when there is one
			}
			if err := s.dropLock(ctx, id, "stale"); err != nil {
				return err
			}
		default:
			return lockedError(lock, time.Since(lock.Timestamp))
		}
	}
	return nil
}

// lockAge is how long ago a lock was refreshed, by the clock of the store. Whose clock is behind
// has a lock that looks old by what it says of itself, and whose clock is ahead one that never does.
// Without a lock of our own, which shows the time of the store, it counts as old, and so does one
// that is gone.
func (s *Store) lockAge(ctx context.Context, own *objects.MAC, id objects.MAC) (time.Duration, error) {
	if own == nil {
		return repository.LOCK_TTL, nil
	}
	now, err := s.files.Stat(ctx, lockName(*own))
	if err != nil {
		return 0, s.conn.unavailable("look for lock", err)
	}
	fi, err := s.files.Stat(ctx, lockName(id))
	if errors.Is(err, fs.ErrNotExist) {
		return repository.LOCK_TTL, nil
	}
	if err != nil {
		return 0, s.conn.unavailable("look for lock", err)
	}
	return now.ModTime.Sub(fi.ModTime), nil
}

// dropLock removes somebody's lock that does not count any more.
func (s *Store) dropLock(ctx context.Context, id objects.MAC, why string) error {
	if err := ignoreNotExist(s.conn.connector.Delete(ctx, storage.StorageResourceLock, id)); err != nil {
		return Unavailable("remove stale lock", err)
	}
	s.log.Info("a lock on the store was removed", "store", s.Location(), "why", why)
	s.droppedLocks.Add(1)
	return nil
}

// DroppedLocks counts the locks of others that were removed because they did not count any more.
func (s *Store) DroppedLocks() int { return int(s.droppedLocks.Load()) }

// holderDir, in KeepDir, has a directory for each store, which is locked by the process that holds the
// exclusive lock, as the file holderName in it says which. So a lock that a process has left behind, which
// was killed or could not reach the store, is told from one that is held, and does not keep everybody
// out for ten minutes.
const (
	holderDir  = "exclusive"
	holderName = "holder"
)

func (s *Store) holderDir() string { return filepath.Join(s.keepDir, holderDir, s.ID()) }

// holder is the note of who holds the exclusive lock; nil without KeepDir.
type holder struct {
	lock *disk.DirLock
	name string
}

func (s *Store) noteHolder(id objects.MAC) (*holder, error) {
	if s.keepDir == "" {
		return nil, nil
	}
	dir := s.holderDir()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("exclusive lock: %w", err)
	}
	lock, err := disk.Lock(dir)
	if errors.Is(err, disk.ErrLocked) {
		return nil, fmt.Errorf("%w: %w", ErrLocked, err)
	}
	if err != nil {
		return nil, fmt.Errorf("exclusive lock: %w", err)
	}
	h := &holder{lock: lock, name: filepath.Join(dir, holderName)}
	if err := os.WriteFile(h.name, []byte(hex.EncodeToString(id[:])), 0o600); err != nil {
		return nil, errors.Join(fmt.Errorf("exclusive lock: %w", err), lock.Unlock())
	}
	return h, nil
}

// release lets go of the directory. The note stays when the lock may be in the store still: then it says whose
// that was.
func (h *holder) release(left bool) (err error) {
	if h == nil {
		return nil
	}
	if !left {
		err = ignoreNotExist(os.Remove(h.name))
	}
	return errors.Join(err, h.lock.Unlock())
}

// leftBehind reports whether an exclusive lock is that of a process which is not there any more, or has
// released it without being able to remove it.
func (s *Store) leftBehind(id objects.MAC) bool {
	if s.keepDir == "" {
		return false
	}
	dir := s.holderDir()
	name, err := os.ReadFile(filepath.Join(dir, holderName))
	if err != nil || string(name) != hex.EncodeToString(id[:]) {
		return false
	}
	lock, err := disk.Lock(dir)
	if err != nil {
		return false
	}
	// Whoever has it next writes another name first.
	name, err = os.ReadFile(filepath.Join(dir, holderName))
	return errors.Join(err, lock.Unlock()) == nil && string(name) == hex.EncodeToString(id[:])
}
