//go:build !unix

package disk

import (
	"errors"
	"io/fs"
)

// dirSyncUnsupported reports whether err says that directories cannot be synced here.
func dirSyncUnsupported(err error) bool {
	return errors.Is(err, errors.ErrUnsupported) || errors.Is(err, fs.ErrPermission)
}
