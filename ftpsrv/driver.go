package ftpsrv

import (
	"io/fs"
	"os"
	"time"

	ftpserver "github.com/fclairamb/ftpserverlib"
	"github.com/spf13/afero"

	"github.com/snapgate/gateway/vfs"
)

// driver is the session as the library's file system. It notes each error for the reply:
// what the library would say of it has local words in it. Paths are absolute here, in the
// client's bytes.
type driver struct{ conn *conn }

var (
	_ ftpserver.ClientDriver                        = (*driver)(nil)
	_ ftpserver.ClientDriverExtentionFileTransfer   = (*driver)(nil)
	_ ftpserver.ClientDriverExtensionRemoveDir      = (*driver)(nil)
	_ ftpserver.ClientDriverExtensionAvailableSpace = (*driver)(nil)
	_ ftpserver.MainDriverExtensionPassiveWrapper   = (*mainDriver)(nil)
	_ ftpserver.FileTransferError                   = (*upload)(nil)
)

// note keeps an error for the reply.
func (d *driver) note(err error) error {
	if err != nil {
		d.conn.engine.current().note(err)
	}
	return err
}

// Name implements afero.Fs.
func (*driver) Name() string { return "vfs" }

// Mkdir implements afero.Fs.
func (d *driver) Mkdir(name string, _ os.FileMode) error {
	return d.note(d.conn.sess.Mkdir(d.conn.ctx, name, vfs.AttrSet{}))
}

// Remove implements afero.Fs: DELE.
func (d *driver) Remove(name string) error {
	return d.note(d.conn.sess.Remove(d.conn.ctx, name))
}

// RemoveDir implements ftpserver.ClientDriverExtensionRemoveDir: RMD.
func (d *driver) RemoveDir(name string) error {
	return d.note(d.conn.sess.Rmdir(d.conn.ctx, name))
}

// Stat implements afero.Fs.
func (d *driver) Stat(name string) (os.FileInfo, error) {
	info, err := d.conn.sess.Stat(d.conn.ctx, name)
	if err != nil {
		return nil, d.note(err)
	}
	return fileInfo{info}, nil
}

// GetHandle implements ftpserver.ClientDriverExtentionFileTransfer: it opens what the
// current job transfers.
func (d *driver) GetHandle(name string, _ int, _ int64) (ft ftpserver.FileTransfer, err error) {
	x := d.conn.engine.current()
	defer d.conn.recovered("open", func() { ft, err = nil, d.note(refusal(codeLocalError, "internal error")) })
	if x.job == nil {
		return nil, d.note(refusal(codeLocalError, "internal error"))
	}
	ft, err = x.job.open(x.job, name)
	if err != nil {
		x.job.port.close()
		return nil, d.note(err)
	}
	return ft, nil
}

// GetAvailableSpace implements ftpserver.ClientDriverExtensionAvailableSpace: AVBL.
func (d *driver) GetAvailableSpace(name string) (int64, error) {
	st, err := d.conn.sess.StatFS(d.conn.ctx, name)
	if err != nil {
		return 0, d.note(err)
	}
	return int64(st.BlocksAvail * st.BlockSize), nil
}

// What follows belongs to afero.Fs, and no command comes to it.

// errUnused says that a method is called that no command needs.
var errUnused = refusal(codeNotHere, "not available")

// Create implements afero.Fs.
func (d *driver) Create(string) (afero.File, error) { return nil, d.note(errUnused) }

// MkdirAll implements afero.Fs.
func (d *driver) MkdirAll(string, os.FileMode) error { return d.note(errUnused) }

// Open implements afero.Fs.
func (d *driver) Open(string) (afero.File, error) { return nil, d.note(errUnused) }

// OpenFile implements afero.Fs.
func (d *driver) OpenFile(string, int, os.FileMode) (afero.File, error) {
	return nil, d.note(errUnused)
}

// Rename implements afero.Fs.
func (d *driver) Rename(string, string) error { return d.note(errUnused) }

// RemoveAll implements afero.Fs.
func (d *driver) RemoveAll(string) error { return d.note(errUnused) }

// Chmod implements afero.Fs.
func (d *driver) Chmod(string, os.FileMode) error { return d.note(errUnused) }

// Chown implements afero.Fs.
func (d *driver) Chown(string, int, int) error { return d.note(errUnused) }

// Chtimes implements afero.Fs.
func (d *driver) Chtimes(string, time.Time, time.Time) error { return d.note(errUnused) }

// fileInfo is a vfs.Info as an os.FileInfo.
type fileInfo struct{ vfs.Info }

// Name implements fs.FileInfo.
func (i fileInfo) Name() string { return i.Info.Name }

// Size implements fs.FileInfo.
func (i fileInfo) Size() int64 { return i.Info.Size }

// Mode implements fs.FileInfo.
func (i fileInfo) Mode() fs.FileMode {
	switch i.Type {
	case vfs.TypeDir:
		return i.Info.Mode | fs.ModeDir
	case vfs.TypeSymlink:
		return i.Info.Mode | fs.ModeSymlink
	}
	return i.Info.Mode
}

// ModTime implements fs.FileInfo.
func (i fileInfo) ModTime() time.Time { return i.Info.ModTime }

// IsDir implements fs.FileInfo.
func (i fileInfo) IsDir() bool { return i.Type == vfs.TypeDir }

// Sys implements fs.FileInfo.
func (fileInfo) Sys() any { return nil }
