//go:build linux || darwin || freebsd

package disk

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// Usage reports the space of the file system that holds path.
func Usage(path string) (Space, error) {
	var st unix.Statfs_t
	for {
		err := unix.Statfs(path, &st)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return Space{}, fmt.Errorf("disk usage of %s: %w", path, err)
		}
		break
	}
	bs := blockSize(&st)
	return Space{
		BlockSize: bs,
		Total:     st.Blocks * bs,
		Free:      st.Bfree * bs,
		// Avail is signed on FreeBSD and below zero when the reserve is in use.
		Avail:     uint64(max(0, int64(st.Bavail))) * bs,
		Files:     st.Files,
		FilesFree: uint64(max(0, int64(st.Ffree))),
		ReadOnly:  readOnly(&st),
	}, nil
}
