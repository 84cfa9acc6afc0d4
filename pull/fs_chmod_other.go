//go:build !linux

package pull

import (
	"time"

	"golang.org/x/sys/unix"
)

// chmodAt sets the mode of what a directory has under a name, of a symbolic link itself.
func chmodAt(dir int, name string, mode uint32) error {
	return uninterrupted(func() error { return unix.Fchmodat(dir, name, mode, unix.AT_SYMLINK_NOFOLLOW) })
}

// setTimeOpened sets the time of what is open, to the microsecond.
func setTimeOpened(fd int, t time.Time) error {
	ts, err := unix.TimeToTimespec(t)
	if err != nil {
		return err
	}
	tv := unix.NsecToTimeval(int64(ts.Nsec)) //nolint:unconvert // 32 bits on other systems
	tv.Sec = ts.Sec
	return uninterrupted(func() error { return unix.Futimes(fd, []unix.Timeval{tv, tv}) })
}
