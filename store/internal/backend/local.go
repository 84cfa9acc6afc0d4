package backend

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/PlakarKorp/kloset/reading"

	"github.com/snapgate/gateway/internal/disk"
)

const (
	// tmpPrefix begins the names of files that are being written, ours and kloset's.
	tmpPrefix = "tmp."
	// tmpMaxAge is when somebody else's temporary file counts as left behind. The longest
	// that a file is written to is the time for one packfile (64 MiB) or one state.
	tmpMaxAge = time.Hour
	// writeSize is the size of the writes to a file. Linux takes memory in pieces of that size for the page cache, and
	// large ones cost a virtual machine several times as much, whose host has to give them: of 1 GiB, written in pieces of
	// 1 MiB, 1.8 s of a processor.
	writeSize = 64 << 10
)

// Local is a Backend in a directory of this machine. A file is written to a temporary name
// in the same directory, synced, renamed, and the directory is synced.
type Local struct {
	fsys  disk.FS
	root  string
	token string
}

// NewLocal returns the backend in a directory. token marks the temporary files of this
// installation: Sweep takes away all that bear it, so only one process may use it.
func NewLocal(fsys disk.FS, root, token string) *Local {
	return &Local{fsys: fsys, root: root, token: token}
}

func (l *Local) path(name string) string { return filepath.Join(l.root, filepath.FromSlash(name)) }

// Put implements Files. A lock is not synced: it need not survive a power loss, since whoever
// holds it does not.
func (l *Local) Put(ctx context.Context, name string, rd io.Reader) (int64, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	dir := dirOf(name)
	if dir == LocksDir {
		return l.putLock(name, rd)
	}
	tmp := l.path(dir + "/" + l.tmpName())
	if name == ConfigName {
		tmp = l.path(name + ".tmp") // an attempt that was cut off is written over
		if err := ignoreNotExist(l.fsys.Remove(tmp)); err != nil {
			return 0, err
		}
	}
	n, err := l.write(tmp, rd, true)
	if errors.Is(err, fs.ErrNotExist) && n == 0 { // of opening tmp: nothing has been read
		if err := l.remake(dir); err != nil {
			return 0, err
		}
		n, err = l.write(tmp, rd, true)
	}
	if err != nil {
		return n, err
	}
	_, serr := os.Lstat(l.path(name))
	fresh := errors.Is(serr, fs.ErrNotExist)
	if err := l.fsys.Rename(tmp, l.path(name)); err != nil {
		return n, errors.Join(err, ignoreNotExist(l.fsys.Remove(tmp)))
	}
	err = l.fsys.SyncDir(l.path(dir))
	if err != nil && fresh {
		// The name may or may not survive. The caller is told that there is no such file,
		// so do what can be done to make that true. One that there was before is not taken
		// away: it has the old content or the new one.
		err = errors.Join(err, ignoreNotExist(l.fsys.Remove(l.path(name))))
	}
	return n, err
}

// remake makes a directory that is missing: stores are created with all of theirs, but copying one may drop those that
// are empty. The store itself must be there: nothing is made in a mount point.
func (l *Local) remake(dir string) error {
	if _, err := os.Stat(l.path(ConfigName)); err != nil {
		return err
	}
	return disk.MkdirDurable(l.fsys, l.path(dir), 0o700)
}

// write copies rd to a new file and removes it again when that fails. n counts what was
// taken from rd.
func (l *Local) write(path string, rd io.Reader, durable bool) (n int64, err error) {
	f, err := l.fsys.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return 0, err
	}
	n, err = copyTo(f, rd)
	if err == nil && durable {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return n, errors.Join(err, ignoreNotExist(l.fsys.Remove(path)))
	}
	return n, nil
}

// copyTo writes all of rd to f, in large pieces: rd often yields small ones.
func copyTo(f io.WriterAt, rd io.Reader) (n int64, err error) {
	buf := make([]byte, 0, writeSize)
	for err == nil {
		var k int
		k, err = rd.Read(buf[len(buf):cap(buf)])
		buf = buf[:len(buf)+k]
		if len(buf) < cap(buf) && err == nil {
			continue
		}
		if _, werr := f.WriteAt(buf, n); werr != nil {
			return n, werr
		}
		n += int64(len(buf))
		buf = buf[:0]
	}
	if err == io.EOF {
		err = nil
	}
	return n, err
}

func (l *Local) putLock(name string, rd io.Reader) (int64, error) {
	tmp := l.path(l.tmpName())
	n, err := l.write(tmp, rd, false)
	if err != nil {
		return n, err
	}
	err = l.fsys.Rename(tmp, l.path(name))
	if errors.Is(err, fs.ErrNotExist) {
		if err = l.remake(LocksDir); err == nil {
			err = l.fsys.Rename(tmp, l.path(name))
		}
	}
	if err != nil {
		return n, errors.Join(err, ignoreNotExist(l.fsys.Remove(tmp)))
	}
	return n, nil
}

func (l *Local) tmpName() string { return tmpPrefix + l.token + "-" + rand.Text() }

// Get implements Files.
func (l *Local) Get(ctx context.Context, name string, offset, length int64) (io.ReadCloser, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	f, err := os.Open(l.path(name))
	if err != nil || offset == 0 && length < 0 {
		return f, err
	}
	if length < 0 {
		if _, err := f.Seek(offset, io.SeekStart); err != nil {
			return nil, errors.Join(err, f.Close())
		}
		return f, nil
	}
	return reading.NewSectionReadCloser(f, offset, length), nil
}

// Stat implements Files.
func (l *Local) Stat(ctx context.Context, name string) (Info, error) {
	if err := ctx.Err(); err != nil {
		return Info{}, err
	}
	fi, err := os.Stat(l.path(name))
	if err != nil {
		return Info{}, err
	}
	return Info{Name: name, Size: fi.Size(), ModTime: fi.ModTime()}, nil
}

// List implements Files. Temporary files are left out.
func (l *Local) List(ctx context.Context, dir string, each func(string) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	entries, err := l.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		name := e.Name()
		if dir != "" {
			name = dir + "/" + name
		}
		switch {
		case e.IsDir():
			err = ignoreNotExist(l.List(ctx, name, each))
		case e.Type().IsRegular() && !strings.HasPrefix(e.Name(), tmpPrefix):
			err = each(name)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// Remove implements Files; what is not there is fs.ErrNotExist.
func (l *Local) Remove(ctx context.Context, name string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return l.fsys.Remove(l.path(name))
}

// ReadDir lists one directory, as the disk has it.
func (l *Local) ReadDir(dir string) ([]fs.DirEntry, error) { return l.fsys.ReadDir(l.path(dir)) }

// StatDir describes a directory.
func (l *Local) StatDir(dir string) (fs.FileInfo, error) { return os.Stat(l.path(dir)) }

// Create implements Backend: it makes all directories, durably.
func (l *Local) Create(context.Context) error {
	if err := l.checkVacant(); err != nil {
		return err
	}
	if err := disk.MkdirDurable(l.fsys, l.root, 0o700); err != nil {
		return err
	}
	for _, dir := range []string{PackfilesDir, StatesDir} {
		for i := range Buckets {
			if err := l.fsys.MkdirAll(l.path(Bucket(dir, byte(i))), 0o700); err != nil {
				return err
			}
		}
		if err := l.fsys.SyncDir(l.path(dir)); err != nil {
			return err
		}
	}
	if err := l.fsys.MkdirAll(l.path(LocksDir), 0o700); err != nil {
		return err
	}
	return l.fsys.SyncDir(l.root)
}

// checkVacant refuses a directory that holds anything but the empty beginnings of a store
// whose creation was cut off.
func (l *Local) checkVacant() error {
	entries, err := l.fsys.ReadDir(l.root)
	if err != nil {
		return ignoreNotExist(err)
	}
	for _, e := range entries {
		switch name := e.Name(); {
		case name == PackfilesDir, name == StatesDir:
			if err := l.checkEmptyBuckets(name); err != nil {
				return err
			}
		case name == LocksDir, name == ConfigName+".tmp", strings.HasPrefix(name, tmpPrefix):
		default:
			return &OccupiedError{Place: "directory " + l.root, Name: name}
		}
	}
	return nil
}

func (l *Local) checkEmptyBuckets(dir string) error {
	entries, err := l.fsys.ReadDir(l.path(dir))
	if err != nil {
		return err
	}
	for _, e := range entries {
		files, err := l.fsys.ReadDir(l.path(dir + "/" + e.Name()))
		if err != nil {
			return err
		}
		if len(files) > 0 {
			return fmt.Errorf("directory %s: %w", l.path(dir), ErrOrphaned)
		}
	}
	return nil
}

// Sweep removes temporary files that nobody is writing any more: this installation's own
// (it has just started, and its token is its own), and anybody's that are old; see leftovers.
func (l *Local) Sweep(ctx context.Context, now time.Time) error {
	dirs := []string{""}
	for _, dir := range []string{PackfilesDir, StatesDir} {
		dirs = append(dirs, dir)
		for i := range Buckets {
			dirs = append(dirs, Bucket(dir, byte(i)))
		}
	}
	own := tmpPrefix + l.token + "-"
	var others leftovers
	var errs []error
	for _, dir := range dirs {
		if err := ctx.Err(); err != nil {
			return err
		}
		if fi, err := l.StatDir(dir); err == nil { // when a file was last made there, renamed or removed
			others.note(fi.ModTime())
		}
		entries, err := l.ReadDir(dir)
		if err != nil {
			errs = append(errs, ignoreNotExist(err))
			continue
		}
		for _, e := range entries {
			if !e.Type().IsRegular() || !strings.HasPrefix(e.Name(), tmpPrefix) {
				continue
			}
			name := dir + "/" + e.Name()
			if strings.HasPrefix(e.Name(), own) {
				errs = append(errs, ignoreNotExist(l.fsys.Remove(l.path(name))))
			} else if fi, err := e.Info(); err == nil {
				others.add(name, fi.ModTime())
			}
		}
	}
	for _, name := range others.old(now) {
		errs = append(errs, ignoreNotExist(l.fsys.Remove(l.path(name))))
	}
	return errors.Join(errs...)
}

// leftovers are others' temporary files that a Sweep finds: one that is old nobody is writing any more. The
// times are of the clock of the machine that they are on, which may be hours behind ours; whatever else was
// written there tells how late it is at least. The zero value is ready; safe for concurrent use.
type leftovers struct {
	mu     sync.Mutex
	newest time.Time  // guarded by mu
	found  []leftover // guarded by mu
}

type leftover struct {
	name    string
	written time.Time // last
}

// note takes account of a time by that clock.
func (l *leftovers) note(at time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if at.After(l.newest) {
		l.newest = at
	}
}

// add adds a temporary file that was last written to at a time.
func (l *leftovers) add(name string, written time.Time) {
	l.note(written)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.found = append(l.found, leftover{name, written})
}

// old returns the names of those that are old; now is by our clock.
func (l *leftovers) old(now time.Time) (names []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.newest.Before(now) {
		now = l.newest
	}
	for _, f := range l.found {
		if now.Sub(f.written) >= tmpMaxAge {
			names = append(names, f.name)
		}
	}
	return names
}
