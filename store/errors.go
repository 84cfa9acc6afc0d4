package store

import (
	"errors"
	"fmt"
	"io/fs"
	"syscall"
	"time"

	"github.com/PlakarKorp/kloset/repository"

	"github.com/snapgate/gateway/internal/disk"
	"github.com/snapgate/gateway/store/internal/backend"
)

// Errors of this package; test with errors.Is.
var (
	// ErrNotExist means that there is no store at the location, or that what is there is
	// not one.
	ErrNotExist = errors.New("no store at this location")
	// ErrWrongPassphrase means that the store does not open with this passphrase, or that
	// it is encrypted and no passphrase was given, or the other way round.
	ErrWrongPassphrase = errors.New("wrong passphrase")
	// ErrNewerVersion means that the store was made by a newer kloset than this one.
	ErrNewerVersion = errors.New("store has a newer format than this program knows")
	// ErrDamaged means that the store's configuration or one of its states cannot be read
	// for what it is.
	ErrDamaged = errors.New("store is damaged")
	// ErrReplaced means that the store at the location is not the one whose configuration
	// was kept: what waits in the spool was encrypted for the other.
	ErrReplaced = errors.New("store is not the one that was here before")
	// ErrMadeTwice means that the store was to be made, and that somebody else has made one at its location at the same moment. That
	// one is there.
	ErrMadeTwice = errors.New("somebody else has made a store there at the same moment")
	// ErrUnavailable means that the store cannot be reached, read or written right now:
	// the same call may succeed later. The cause is wrapped.
	ErrUnavailable = errors.New("store unavailable")
	// ErrServer says, with ErrUnavailable, that a store is elsewhere and that its server
	// cannot be reached or does not work.
	ErrServer = errors.New("its server does not answer as it should")
	// ErrRefused says, with ErrUnavailable, that the server of a store refuses access.
	ErrRefused = errors.New("its server refuses access")
	// ErrCredentials means that there is nothing to log in with to the server of a store.
	ErrCredentials = backend.ErrCredentials
	// ErrLogin says, with ErrUnavailable, that the server of a store was reached, and that there
	// is no login: it takes no key or password of ours, or its host key is not trusted.
	ErrLogin = backend.ErrLogin
	// ErrNotTried says, with ErrUnavailable, that a server was not asked, as an earlier call has found it out of reach a moment ago.
	ErrNotTried = backend.ErrNotTried
	// ErrLocked means that another process holds the store exclusively (maintenance), or, for
	// maintenance, that somebody writes to it. A *LockedError in the chain says who.
	ErrLocked = errors.New("store is locked by another process")
)

// LockedError names the holder of a lock that is in the way.
type LockedError struct {
	Host   string        // where the holder runs
	Shared bool          // it writes to the store; otherwise it maintains it
	Age    time.Duration // since the holder last refreshed the lock
	// Expires is how long the lock will be respected when the holder does not refresh it,
	// which is what happens when the holder is gone without having removed it.
	Expires time.Duration
}

func (e *LockedError) Error() string {
	kind := "exclusive"
	if e.Shared {
		kind = "shared"
	}
	return fmt.Sprintf("%v: %s lock of host %q, refreshed %s ago, expires in %s",
		ErrLocked, kind, e.Host, e.Age.Round(time.Second), e.Expires.Round(time.Second))
}

// Is makes errors.Is(err, ErrLocked) true.
func (e *LockedError) Is(target error) bool { return target == ErrLocked }

// Unavailable wraps err with ErrUnavailable unless it is nil or already one of this
// package's errors. It is for errors of reading and writing the store.
func Unavailable(op string, err error) error {
	if err == nil {
		return nil
	}
	for _, known := range []error{ErrUnavailable, ErrLocked, ErrDamaged, ErrNotExist} {
		if errors.Is(err, known) {
			return fmt.Errorf("%s: %w", op, err)
		}
	}
	return fmt.Errorf("%s: %w: %w", op, ErrUnavailable, err)
}

// minCacheBytes is how much space the local index needs to work at all: its shared memory
// files grow in steps of 32 KiB.
const minCacheBytes = 1 << 20

// CacheError explains an error that comes from kloset's local index, an SQLite database in
// the cache directory, whose errors do not say what the system said. What it explains is
// an ErrUnavailable, as the same call may succeed later. Nil and other errors are returned
// as they are.
func (s *Store) CacheError(err error) error {
	var db interface { // of modernc.org/sqlite
		error
		Code() int
	}
	if !errors.As(err, &db) {
		return err
	}
	switch db.Code() & 0xff { // the rest is the extended code
	case sqliteFull, sqliteIOErr, sqliteReadOnly, sqliteCantOpen:
	default:
		return err
	}
	space, uerr := disk.Usage(s.cache.path)
	switch {
	case uerr != nil:
	case space.ReadOnly:
		err = fmt.Errorf("%w: %w", syscall.EROFS, err)
	case space.Avail < minCacheBytes:
		err = fmt.Errorf("%w: %w", syscall.ENOSPC, err)
	}
	return fmt.Errorf("%w: cache directory %s: %w", ErrUnavailable, s.cache.path, err)
}

// The primary result codes of SQLite for what goes wrong below it.
const (
	sqliteReadOnly = 8
	sqliteIOErr    = 10
	sqliteFull     = 13
	sqliteCantOpen = 14
)

// IsIO reports whether err comes from the store's files: they are missing, not
// accessible, or the disk below them fails. Other errors say that what was read is wrong.
func IsIO(err error) bool {
	var errno syscall.Errno
	return errors.As(err, &errno) || errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) ||
		errors.Is(err, repository.ErrPackfileNotFound) || errors.Is(err, ErrUnavailable)
}
