//go:build unix

package main

import (
	"io/fs"
	"syscall"

	"github.com/snapgate/gateway/vfs"
)

// attributes are what an import keeps of a file's or directory's attributes.
func attributes(info fs.FileInfo) vfs.AttrSet {
	mode, mtime := info.Mode()&(fs.ModePerm|fs.ModeSetuid|fs.ModeSetgid|fs.ModeSticky), info.ModTime()
	set := vfs.AttrSet{Mode: &mode, ModTime: &mtime}
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		set.UID, set.GID = &st.Uid, &st.Gid
	}
	return set
}
