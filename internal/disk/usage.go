package disk

import (
	"errors"
	"syscall"
)

// Space describes the file system that holds a path, in bytes and files.
type Space struct {
	BlockSize uint64 // bytes of a block
	Total     uint64 // bytes in all
	Free      uint64 // bytes not used
	Avail     uint64 // bytes that this process may use (Free without the superuser's reserve)
	Files     uint64 // inodes in all; 0 when the file system does not count them
	FilesFree uint64 // inodes not used
	ReadOnly  bool   // mounted read-only
}

// ErrUnsupported is what Usage returns where the system does not tell.
var ErrUnsupported = errors.ErrUnsupported

// IsFull reports whether err says that there is no room for more: the file system is full, or a quota is used up, of a user, a
// directory or a dataset (EDQUOT). Removing files makes room in either.
func IsFull(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}
