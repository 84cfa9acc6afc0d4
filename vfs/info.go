package vfs

import (
	"io/fs"
	"time"

	"github.com/snapgate/gateway/snapshotter"
)

// FileType is what a name stands for.
type FileType uint8

// The file types.
const (
	TypeFile FileType = iota + 1
	TypeDir
	TypeSymlink
)

// Info describes a name.
type Info struct {
	Name    string // last element; "/" for the root
	Type    FileType
	Mode    fs.FileMode // permission bits, setuid, setgid and sticky; without write bits inside a view
	Size    int64
	ModTime time.Time
	UID     uint32
	GID     uint32
	Owner   string
	Group   string
	Links   uint32

	// Version is the number of what has a name in a live tree, another one for each upload; 0 in views.
	Version uint64
	// Partial says that no complete file has the name: it is an upload that is under way or was cut
	// off. Of an upload above a complete file the session that sends it is told, too.
	Partial bool
}

// modeBits are the bits of a mode that clients set and see. Nothing here acts on them.
const modeBits = fs.ModePerm | fs.ModeSetuid | fs.ModeSetgid | fs.ModeSticky

// AttrSet says which attributes to set; nil leaves one alone.
type AttrSet struct {
	Size    *int64
	Mode    *fs.FileMode
	ModTime *time.Time
	UID     *uint32
	GID     *uint32
}

// OpenFlag says how to open a file.
type OpenFlag uint8

// The open flags.
const (
	OpenRead OpenFlag = 1 << iota
	OpenWrite
	OpenCreate
	OpenExclusive // with OpenCreate: fail when the name exists; implies OpenWrite
	OpenTruncate
	OpenResume // continue this principal's partial, or else the complete file (FTP REST and APPE)
)

// StatFS are the figures of the spool's disk.
type StatFS struct {
	BlockSize   uint64
	Blocks      uint64
	BlocksFree  uint64
	BlocksAvail uint64
	SpoolAvail  uint64 // BlocksAvail without regard to the quota
	Files       uint64
	FilesFree   uint64
	NameMax     uint64
	ReadOnly    bool
}

// apply returns attr with what is set, and the mask of the attributes that were.
func (set *AttrSet) apply(attr snapshotter.Attr, mask attrMask) (snapshotter.Attr, attrMask) {
	if set.Mode != nil {
		attr.Mode = *set.Mode & modeBits
		mask |= setMode
	}
	if set.ModTime != nil {
		attr.ModTime = set.ModTime.UTC()
		mask |= setMtime
	}
	if set.UID != nil {
		attr.UID = *set.UID
		mask |= setUID
	}
	if set.GID != nil {
		attr.GID = *set.GID
		mask |= setGID
	}
	return attr, mask
}
