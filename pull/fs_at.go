package pull

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// errLink stands for a symbolic link where none is followed.
var errLink = errors.New("a symbolic link, which is not followed")

// do calls fn with the directory that has the last element of a path, and with that element: "." for "/".
// It is there for as long as fn runs.
func (f *FS) do(ctx context.Context, op, path string, fn func(dir int, name string) error) error {
	if err := errors.Join(ctx.Err(), checkPath(op, path)); err != nil {
		return err
	}
	if f.root == nil {
		return fail(op, path, KindNotFound, fs.ErrNotExist)
	}
	err := f.at(path, fn)
	var e *Error
	if errors.Is(err, errLink) && !errors.As(err, &e) {
		return fail(op, path, KindConflict, err)
	}
	if err != nil {
		return failOS(op, path, err)
	}
	return nil
}

func (f *FS) at(path string, fn func(dir int, name string) error) error {
	conn, err := f.root.SyscallConn()
	if err != nil {
		return err
	}
	cerr := conn.Control(func(root uintptr) { err = descend(int(root), path, fn) })
	return errors.Join(cerr, err)
}

// descend goes from the root to the directory of a path, one element after the other. No element may be a symbolic
// link: whoever owns a directory can put one into it, to what is another's, after it was listed. (An os.Root keeps to
// its directory, and follows what leads from one place in it to another.) A directory that is moved away meanwhile is
// still the one that was there.
func descend(root int, path string, fn func(dir int, name string) error) error {
	dir, start := root, 1
	leave := func() {
		if dir != root {
			_ = unix.Close(dir)
		}
	}
	defer func() { leave() }()
	for {
		n := strings.IndexByte(path[start:], '/')
		if n < 0 {
			break
		}
		sub, err := openDirAt(dir, path[start:start+n])
		if errors.Is(err, errLink) {
			return fmt.Errorf("%s is %w", quotePath(path[:start+n]), err)
		}
		if err != nil {
			return err
		}
		leave()
		dir, start = sub, start+n+1
	}
	name := path[start:]
	if name == "" {
		name = "."
	}
	return fn(dir, name)
}

// openDirAt opens a directory that a directory has.
func openDirAt(dir int, name string) (int, error) {
	fd, err := openAt(dir, name, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err == nil || errors.Is(err, errLink) {
		return fd, err
	}
	// Where it is a link, most systems say that it is no directory.
	if st, serr := lstatAt(dir, name); serr == nil && fileType(&st) == unix.S_IFLNK {
		err = errLink
	}
	return -1, err
}

// openAt opens what a directory has under a name, unless it is a symbolic link.
func openAt(dir int, name string, flags int, mode uint32) (fd int, err error) {
	err = uninterrupted(func() (err error) {
		fd, err = unix.Openat(dir, name, flags|unix.O_NOFOLLOW|unix.O_CLOEXEC, mode)
		return err
	})
	if errors.Is(err, unix.ELOOP) || errors.Is(err, unix.EMLINK) { // FreeBSD's
		err = errLink
	}
	return fd, err
}

// openFileAt opens a regular file. path is for messages.
func openFileAt(dir int, name, path string, flags int) (*os.File, *unix.Stat_t, error) {
	fd, err := openAt(dir, name, flags|unix.O_NONBLOCK, newFileMode) // not blocking: it may have become a pipe
	if err != nil {
		return nil, nil, err
	}
	var st unix.Stat_t
	err = uninterrupted(func() error { return unix.Fstat(fd, &st) })
	if err == nil && fileType(&st) != unix.S_IFREG {
		err = fail("open", path, KindSpecial, nil)
	}
	if err == nil {
		err = unix.SetNonblock(fd, false)
	}
	if err != nil {
		return nil, nil, errors.Join(err, unix.Close(fd))
	}
	return os.NewFile(uintptr(fd), path), &st, nil
}

func lstatAt(dir int, name string) (st unix.Stat_t, err error) {
	err = uninterrupted(func() error { return unix.Fstatat(dir, name, &st, unix.AT_SYMLINK_NOFOLLOW) })
	return st, err
}

func readlinkAt(dir int, name string) (string, error) {
	for size := 256; ; size *= 2 {
		buf, n := make([]byte, size), 0
		err := uninterrupted(func() (err error) {
			n, err = unix.Readlinkat(dir, name, buf)
			return err
		})
		if err != nil || n < size {
			return string(buf[:max(n, 0)]), err
		}
	}
}

// removeAt removes a file, a symbolic link or an empty directory.
func removeAt(dir int, name string) error {
	err := uninterrupted(func() error { return unix.Unlinkat(dir, name, 0) })
	if err == nil {
		return nil
	}
	derr := uninterrupted(func() error { return unix.Unlinkat(dir, name, unix.AT_REMOVEDIR) })
	if errors.Is(derr, unix.ENOTDIR) {
		return err
	}
	return derr
}

// setTimeAt sets the time of what a directory has under a name, of a symbolic link itself.
func setTimeAt(dir int, name string, t time.Time) error {
	ts, err := unix.TimeToTimespec(t) // nanoseconds since 1970 end in 2262
	if err != nil {
		return err
	}
	return uninterrupted(func() error {
		return unix.UtimesNanoAt(dir, name, []unix.Timespec{ts, ts}, unix.AT_SYMLINK_NOFOLLOW)
	})
}

// uninterrupted calls fn until no signal cuts it off, which Go sends to its own threads: network file systems let it.
func uninterrupted(fn func() error) error {
	for {
		if err := fn(); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// fileType are the bits of a mode that tell files from directories and others.
func fileType(st *unix.Stat_t) uint32 { return uint32(st.Mode) & unix.S_IFMT } //nolint:unconvert // 16 bits on other systems

func statEntry(name string, st *unix.Stat_t) Entry {
	e := Entry{
		Name: name, Mode: unixMode(uint32(st.Mode)), HasMode: true, //nolint:unconvert // as above
		UID: st.Uid, GID: st.Gid, HasOwner: true,
		ModTime: time.Unix(st.Mtim.Unix()).UTC(), Precision: time.Nanosecond,
	}
	switch fileType(st) {
	case unix.S_IFREG:
		e.Type, e.Size = File, st.Size
	case unix.S_IFDIR:
		e.Type = Dir
	case unix.S_IFLNK:
		e.Type = Symlink
	default:
		e.Type = Special
	}
	return e
}
