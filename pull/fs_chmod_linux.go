package pull

import (
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// chmodAt sets the mode of what a directory has under a name, unless that is a symbolic link.
func chmodAt(dir int, name string, mode uint32) error {
	err := uninterrupted(func() error { return unix.Fchmodat(dir, name, mode, unix.AT_SYMLINK_NOFOLLOW) })
	if err == nil {
		return nil
	}
	return chmodOpened(dir, name, mode) // it is a link, the kernel is older than 6.6, or a sandbox does not know the call
}

// chmodOpened is chmodAt for all kernels. It opens without the right to read, which the mode may withhold.
func chmodOpened(dir int, name string, mode uint32) error {
	fd, err := openAt(dir, name, unix.O_PATH, 0)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fd) }()
	var st unix.Stat_t
	if err := uninterrupted(func() error { return unix.Fstat(fd, &st) }); err != nil {
		return err
	}
	if fileType(&st) == unix.S_IFLNK {
		return errLink
	}
	return uninterrupted(func() error { return unix.Chmod(openedPath(fd), mode) })
}

// setTimeOpened sets the time of what is open.
func setTimeOpened(fd int, t time.Time) error {
	ts, err := unix.TimeToTimespec(t)
	if err != nil {
		return err
	}
	return uninterrupted(func() error {
		return unix.UtimesNanoAt(unix.AT_FDCWD, openedPath(fd), []unix.Timespec{ts, ts}, 0)
	})
}

// openedPath leads to what is open, whatever its directory permits.
func openedPath(fd int) string { return "/proc/self/fd/" + strconv.Itoa(fd) }
