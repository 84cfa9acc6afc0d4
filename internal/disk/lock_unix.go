//go:build unix

package disk

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// LockName is the file in a locked directory that carries the lock. It stays when the
// lock is released: removing it would let two processes lock different files.
const LockName = "lock"

// ErrLocked says that another process holds the lock.
var ErrLocked = errors.New("in use by another process")

// DirLock is an exclusive lock on a directory. The kernel releases it when the process
// ends, however it ends.
type DirLock struct{ f *os.File }

// Lock locks the directory path, which must exist, without waiting. When it is held
// already, also by this process, the error is ErrLocked.
func Lock(path string) (*DirLock, error) {
	name := filepath.Join(path, LockName)
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := flock(f, unix.LOCK_EX|unix.LOCK_NB); err != nil {
		cerr := f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("lock %s: %w", path, ErrLocked)
		}
		return nil, errors.Join(fmt.Errorf("lock %s: %w", path, err), cerr)
	}
	return &DirLock{f: f}, nil
}

// Unlock releases the lock.
func (l *DirLock) Unlock() error { return l.f.Close() }

// Alone calls f while this process, and no other that uses the same name, holds a lock on
// the file name, which it makes and removes. It waits for the others. What f makes sure of
// must be there when it returns nil: a process that comes later need not find the same file.
func Alone(name string, f func() error) (err error) {
	file, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	if err := flock(file, unix.LOCK_EX); err != nil {
		return fmt.Errorf("lock %s: %w", name, err)
	}
	if err := f(); err != nil {
		return err // those that wait must try it one by one
	}
	if err := os.Remove(name); !errors.Is(err, os.ErrNotExist) {
		return err // else one that waited has removed it
	}
	return nil
}

// flock is flock(2), whatever signals arrive.
func flock(f *os.File, how int) error {
	for {
		if err := unix.Flock(int(f.Fd()), how); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}
