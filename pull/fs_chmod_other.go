//go:build !linux

package pull

import "golang.org/x/sys/unix"

// chmodAt sets the mode of what a directory has under a name, of a symbolic link itself.
func chmodAt(dir int, name string, mode uint32) error {
	return uninterrupted(func() error { return unix.Fchmodat(dir, name, mode, unix.AT_SYMLINK_NOFOLLOW) })
}
