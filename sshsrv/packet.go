package sshsrv

import (
	"encoding/binary"
	"errors"
	"io/fs"
	"math"
	"time"

	"github.com/snapgate/gateway/vfs"
)

// Packet types of version 3 (draft-ietf-secsh-filexfer-02 section 3).
const (
	fxpInit     byte = 1
	fxpVersion  byte = 2
	fxpOpen     byte = 3
	fxpClose    byte = 4
	fxpRead     byte = 5
	fxpWrite    byte = 6
	fxpLstat    byte = 7
	fxpFstat    byte = 8
	fxpSetstat  byte = 9
	fxpFsetstat byte = 10
	fxpOpendir  byte = 11
	fxpReaddir  byte = 12
	fxpRemove   byte = 13
	fxpMkdir    byte = 14
	fxpRmdir    byte = 15
	fxpRealpath byte = 16
	fxpStat     byte = 17
	fxpRename   byte = 18
	fxpReadlink byte = 19
	fxpSymlink  byte = 20
	fxpStatus   byte = 101
	fxpHandle   byte = 102
	fxpData     byte = 103
	fxpName     byte = 104
	fxpAttrs    byte = 105
	fxpExtended byte = 200
	fxpExtReply byte = 201
)

// Bits of an OPEN's pflags (section 6.3).
const (
	fxfRead   uint32 = 1 << 0
	fxfWrite  uint32 = 1 << 1
	fxfAppend uint32 = 1 << 2
	fxfCreate uint32 = 1 << 3
	fxfTrunc  uint32 = 1 << 4
	fxfExcl   uint32 = 1 << 5
)

// Bits of an attribute block's flags (section 5).
const (
	attrSize        uint32 = 1 << 0
	attrUIDGID      uint32 = 1 << 1
	attrPermissions uint32 = 1 << 2
	attrTimes       uint32 = 1 << 3
	attrExtended    uint32 = 1 << 31
)

const (
	protocolVersion = 3
	// maxPacket is the longest packet, without its length field, that is taken or sent:
	// SFTP_MAX_MSG_LENGTH of OpenSSH and the limit of pkg/sftp.
	maxPacket = 256 << 10
	// maxTransfer is the most data in one READ or WRITE, as OpenSSH's server has it:
	// maxPacket without 1 KiB for the rest of the packet.
	maxTransfer = maxPacket - 1024
	// maxPath bounds what a client can make a session keep for a request or a handle. Names
	// have 4 KiB at most; the rest is for "." and "..".
	maxPath = 16 << 10
	// maxAttrExtended bounds the extended attributes of one block, which are ignored.
	maxAttrExtended = 64
)

// errMalformed ends a session: after a packet that cannot be parsed nothing that follows
// can be trusted. OpenSSH's server exits, too.
var errMalformed = errors.New("malformed packet")

// decoder reads the fields of a packet; after a field that is not there everything is
// zero and bad is set.
type decoder struct {
	b   []byte
	bad bool
}

func (d *decoder) take(n int) []byte {
	if d.bad || n < 0 || n > len(d.b) {
		d.bad = true
		return nil
	}
	v := d.b[:n]
	d.b = d.b[n:]
	return v
}

func (d *decoder) uint32() uint32 {
	if v := d.take(4); v != nil {
		return binary.BigEndian.Uint32(v)
	}
	return 0
}

func (d *decoder) uint64() uint64 {
	if v := d.take(8); v != nil {
		return binary.BigEndian.Uint64(v)
	}
	return 0
}

func (d *decoder) string() string {
	n := d.uint32()
	if n > maxPacket {
		d.bad = true
		return ""
	}
	return string(d.take(int(n)))
}

// wireAttrs are the attributes of a request.
type wireAttrs struct {
	flags        uint32
	size         uint64
	uid, gid     uint32
	mode         uint32
	atime, mtime uint32
}

func (d *decoder) attrs() wireAttrs {
	var a wireAttrs
	a.flags = d.uint32()
	if a.flags&attrSize != 0 {
		a.size = d.uint64()
	}
	if a.flags&attrUIDGID != 0 {
		a.uid, a.gid = d.uint32(), d.uint32()
	}
	if a.flags&attrPermissions != 0 {
		a.mode = d.uint32()
	}
	if a.flags&attrTimes != 0 {
		a.atime, a.mtime = d.uint32(), d.uint32()
	}
	if a.flags&attrExtended != 0 {
		n := d.uint32()
		if n > maxAttrExtended {
			d.bad = true
			return a
		}
		for range n {
			d.string()
			d.string()
		}
	}
	return a
}

// set is what the attributes ask to be set. A size that no file can have is
// KindInvalid, as truncate(2) has it.
func (a wireAttrs) set() (vfs.AttrSet, error) {
	var set vfs.AttrSet
	if a.flags&attrSize != 0 {
		if a.size > math.MaxInt64 {
			return set, kindError(vfs.KindInvalid)
		}
		size := int64(a.size)
		set.Size = &size
	}
	if a.flags&attrUIDGID != 0 {
		set.UID, set.GID = &a.uid, &a.gid
	}
	if a.flags&attrPermissions != 0 {
		mode := modeFromWire(a.mode)
		set.Mode = &mode
	}
	if a.flags&attrTimes != 0 {
		t := time.Unix(int64(a.mtime), 0).UTC()
		set.ModTime = &t
	}
	return set, nil
}

// Mode bits of POSIX that version 3 shows in permissions.
const (
	wireSetuid  uint32 = 0o4000
	wireSetgid  uint32 = 0o2000
	wireSticky  uint32 = 0o1000
	wireDir     uint32 = 0o040000
	wireRegular uint32 = 0o100000
	wireSymlink uint32 = 0o120000
)

func modeFromWire(m uint32) fs.FileMode {
	mode := fs.FileMode(m & 0o777)
	if m&wireSetuid != 0 {
		mode |= fs.ModeSetuid
	}
	if m&wireSetgid != 0 {
		mode |= fs.ModeSetgid
	}
	if m&wireSticky != 0 {
		mode |= fs.ModeSticky
	}
	return mode
}

func modeToWire(info vfs.Info) uint32 {
	m := uint32(info.Mode.Perm())
	if info.Mode&fs.ModeSetuid != 0 {
		m |= wireSetuid
	}
	if info.Mode&fs.ModeSetgid != 0 {
		m |= wireSetgid
	}
	if info.Mode&fs.ModeSticky != 0 {
		m |= wireSticky
	}
	switch info.Type {
	case vfs.TypeDir:
		m |= wireDir
	case vfs.TypeSymlink:
		m |= wireSymlink
	default:
		m |= wireRegular
	}
	return m
}

// wireTime is a time as version 3 has it: seconds since 1970 in 32 bits, clamped.
func wireTime(t time.Time) uint32 {
	return uint32(min(max(t.Unix(), 0), math.MaxUint32))
}

// encoder writes a packet; packet gives it its length.
type encoder struct{ b []byte }

func newPacket(typ byte) *encoder { return &encoder{b: []byte{0, 0, 0, 0, typ}} }

func (e *encoder) uint32(v uint32) *encoder {
	e.b = binary.BigEndian.AppendUint32(e.b, v)
	return e
}

func (e *encoder) uint64(v uint64) *encoder {
	e.b = binary.BigEndian.AppendUint64(e.b, v)
	return e
}

func (e *encoder) string(s string) *encoder {
	e.uint32(uint32(len(s)))
	e.b = append(e.b, s...)
	return e
}

// info writes an attribute block with what OpenSSH's server sends: size, owner,
// permissions with the type, times. There is no access time: it is the mtime.
func (e *encoder) info(info vfs.Info) *encoder {
	t := wireTime(info.ModTime)
	return e.uint32(attrSize | attrUIDGID | attrPermissions | attrTimes).
		uint64(uint64(max(info.Size, 0))).
		uint32(info.UID).uint32(info.GID).
		uint32(modeToWire(info)).
		uint32(t).uint32(t)
}

func (e *encoder) packet() []byte {
	binary.BigEndian.PutUint32(e.b, uint32(len(e.b)-4))
	return e.b
}

func statusPacket(id uint32, err error) []byte {
	code, text := statusCode(err)
	return newPacket(fxpStatus).uint32(id).uint32(code).string(text).string("").packet()
}
