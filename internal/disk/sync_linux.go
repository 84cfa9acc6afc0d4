package disk

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// syncData uses fdatasync: it writes the size and the block map that are needed to read
// the data back, but not time stamps, which saves a journal commit when a file is
// overwritten in place.
func syncData(f *os.File) error {
	rc, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var serr error
	err = rc.Control(func(fd uintptr) {
		for {
			if serr = unix.Fdatasync(int(fd)); serr != unix.EINTR {
				return
			}
		}
	})
	return errors.Join(err, serr)
}

func syncDir(d *os.File) error { return d.Sync() }

// preallocate reserves blocks and keeps the size.
func preallocate(f *os.File, size int64) error {
	rc, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var serr error
	err = rc.Control(func(fd uintptr) {
		for {
			serr = unix.Fallocate(int(fd), unix.FALLOC_FL_KEEP_SIZE, 0, size)
			if serr != unix.EINTR {
				return
			}
		}
	})
	if errors.Is(serr, unix.EOPNOTSUPP) || errors.Is(serr, unix.ENOSYS) {
		serr = nil
	}
	return errors.Join(err, serr)
}
