//go:build unix

package disk

import (
	"errors"

	"golang.org/x/sys/unix"
)

// dirSyncUnsupported reports whether err says that directories cannot be synced here.
func dirSyncUnsupported(err error) bool {
	return errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOTSUP) || errors.Is(err, unix.ENOSYS)
}
