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
	for {
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if err != nil {
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
