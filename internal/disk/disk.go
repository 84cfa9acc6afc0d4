// Package disk is the seam between the gateway and the local file system.
//
// Everything the gateway must not lose (journal, spool, the fs store) is written
// through an FS, so that a test can count, fail and drop what was not synced. The
// production implementation, OS, is a thin layer over package os.
package disk

import (
	"io"
	"io/fs"
)

// FS is a directory tree on a disk. Paths are native paths as package os takes them.
// All methods are safe for concurrent use.
type FS interface {
	// OpenFile opens or creates a file; flags are those of package os.
	OpenFile(path string, flag int, perm fs.FileMode) (File, error)
	// Rename replaces newpath; it is durable only after SyncDir of both parents.
	Rename(oldpath, newpath string) error
	// Remove removes a file or an empty directory.
	Remove(path string) error
	// MkdirAll creates a directory and its parents.
	MkdirAll(path string, perm fs.FileMode) error
	// SyncDir makes creations, renames and removals in a directory durable.
	SyncDir(path string) error
	// ReadDir lists a directory in name order.
	ReadDir(path string) ([]fs.DirEntry, error)
}

// File is an open file. ReadAt and WriteAt may be called concurrently.
type File interface {
	io.ReaderAt
	io.WriterAt
	io.Closer
	// Truncate changes the size.
	Truncate(size int64) error
	// Sync makes the contents and the size durable (fsync or fdatasync).
	Sync() error
	// Size reports the current size in bytes.
	Size() (int64, error)
}
