package sshsrv

import (
	"fmt"
	"io/fs"
	"os"
	"strings"
	"time"

	"github.com/pkg/sftp"

	"github.com/snapgate/gateway/vfs"
)

// fileInfo shows a vfs.Info to pkg/sftp.
type fileInfo struct{ info vfs.Info }

var _ sftp.FileInfoUidGid = fileInfo{}

func (f fileInfo) Name() string       { return f.info.Name }
func (f fileInfo) Size() int64        { return max(f.info.Size, 0) }
func (f fileInfo) ModTime() time.Time { return time.Unix(int64(wireTime(f.info.ModTime)), 0) }
func (f fileInfo) IsDir() bool        { return f.info.Type == vfs.TypeDir }
func (f fileInfo) Sys() any           { return nil }
func (f fileInfo) Uid() uint32        { return f.info.UID }
func (f fileInfo) Gid() uint32        { return f.info.GID }

func (f fileInfo) Mode() fs.FileMode {
	mode := f.info.Mode &^ fs.ModeType
	switch f.info.Type {
	case vfs.TypeDir:
		mode |= fs.ModeDir
	case vfs.TypeSymlink:
		mode |= fs.ModeSymlink
	}
	return mode
}

// oneInfo is the ListerAt of a STAT or LSTAT.
type oneInfo struct{ info vfs.Info }

func (o oneInfo) ListAt(to []os.FileInfo, off int64) (int, error) {
	if off > 0 || len(to) == 0 {
		return 0, nil
	}
	to[0] = fileInfo(o)
	return 1, nil
}

// halfYear decides whether a listing shows the year or the time of day, as ls(1) does.
const halfYear = 365 * 24 * time.Hour / 2

// longName is the line that a client may show for an entry (section 7, SSH_FXP_NAME),
// in the format of OpenSSH's server; times are UTC.
func longName(name string, info vfs.Info, now time.Time) string {
	t := info.ModTime.UTC()
	date := t.Format("Jan _2 15:04")
	if age := now.Sub(t); age > halfYear || age < 0 {
		date = t.Format("Jan _2  2006")
	}
	owner, group := info.Owner, info.Group
	if owner == "" {
		owner = fmt.Sprint(info.UID)
	}
	if group == "" {
		group = fmt.Sprint(info.GID)
	}
	return fmt.Sprintf("%s %3d %-8s %-8s %8d %s %s", modeString(info), max(info.Links, 1), owner, group, max(info.Size, 0), date, name)
}

func modeString(info vfs.Info) string {
	var b strings.Builder
	switch info.Type {
	case vfs.TypeDir:
		b.WriteByte('d')
	case vfs.TypeSymlink:
		b.WriteByte('l')
	default:
		b.WriteByte('-')
	}
	const rwx = "rwxrwxrwx"
	special := [3]struct {
		bit      fs.FileMode
		set, not byte
	}{{fs.ModeSetuid, 's', 'S'}, {fs.ModeSetgid, 's', 'S'}, {fs.ModeSticky, 't', 'T'}}
	for i := range 9 {
		on := info.Mode&(1<<(8-i)) != 0
		c := byte('-')
		if on {
			c = rwx[i]
		}
		if sp := special[i/3]; i%3 == 2 && info.Mode&sp.bit != 0 {
			c = sp.not
			if on {
				c = sp.set
			}
		}
		b.WriteByte(c)
	}
	return b.String()
}
