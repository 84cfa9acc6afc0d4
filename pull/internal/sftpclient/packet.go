package sftpclient

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"time"
)

// Packet types (section 3) and status codes (section 7).
const (
	typeInit          = 1
	typeVersion       = 2
	typeOpen          = 3
	typeClose         = 4
	typeRead          = 5
	typeWrite         = 6
	typeLstat         = 7
	typeFstat         = 8
	typeSetstat       = 9
	typeFsetstat      = 10
	typeOpendir       = 11
	typeReaddir       = 12
	typeRemove        = 13
	typeMkdir         = 14
	typeRmdir         = 15
	typeRealpath      = 16
	typeStat          = 17
	typeRename        = 18
	typeReadlink      = 19
	typeSymlink       = 20
	typeStatus        = 101
	typeHandle        = 102
	typeData          = 103
	typeName          = 104
	typeAttrs         = 105
	typeExtended      = 200
	typeExtendedReply = 201

	statusOK         = 0
	statusEOF        = 1
	statusNoSuchFile = 2
	statusPermission = 3
	statusFailure    = 4
	statusConnection = 7 // and 6, no connection
	statusNoConn     = 6
	statusNotThere   = 8 // operation unsupported

	openRead  = 1
	openWrite = 2
	openCreat = 8
	openExcl  = 32
)

// Attribute flags (section 5).
const (
	attrSize     = 1
	attrOwner    = 2
	attrMode     = 4
	attrTimes    = 8
	attrExtended = 1 << 31
)

// maxPacket bounds a packet of the server. OpenSSH's own limit is 256 KiB.
const maxPacket = 1 << 20

// ErrProtocol means that the server does not keep to the protocol. The connection has ended.
var ErrProtocol = errors.New("sftp: protocol error")

// StatusError is a refusal by the server.
type StatusError struct {
	Code    uint32
	Message string // the server's
}

func (e *StatusError) Error() string {
	return fmt.Sprintf("sftp: status %d: %.300q", e.Code, e.Message)
}

// NotExist reports whether there is no such file.
func (e *StatusError) NotExist() bool { return e.Code == statusNoSuchFile }

// Permission reports whether the server does not let us.
func (e *StatusError) Permission() bool { return e.Code == statusPermission }

// Unsupported reports whether the server does not know the operation.
func (e *StatusError) Unsupported() bool { return e.Code == statusNotThere }

// Failure reports whether the server does not say why.
func (e *StatusError) Failure() bool { return e.Code == statusFailure }

// Lost reports whether the server has lost what it stands on.
func (e *StatusError) Lost() bool { return e.Code == statusConnection || e.Code == statusNoConn }

// Attrs are the attributes that the server has sent; Has… tells which.
type Attrs struct {
	HasSize, HasOwner, HasMode, HasTimes bool

	Size     uint64
	UID, GID uint32
	Mode     uint32 // of Unix, with the type
	ModTime  time.Time
}

// Types of Attrs.Mode.
const (
	ModeType    = 0o170000
	ModeDir     = 0o040000
	ModeFile    = 0o100000
	ModeSymlink = 0o120000
)

// Name is an entry of a listing.
type Name struct {
	Name string // as sent
	Long string // as of ls -l
	Attrs
}

// decoder takes a packet apart. After an error everything is zero.
type decoder struct {
	b    []byte
	body []byte // what b is in, where that may be used again
	err  error
}

func (d *decoder) take(n int) []byte {
	if d.err != nil || n < 0 || n > len(d.b) {
		d.err = fmt.Errorf("%w: a packet is too short", ErrProtocol)
		d.b = nil
		return nil
	}
	out := d.b[:n]
	d.b = d.b[n:]
	return out
}

func (d *decoder) uint32() uint32 {
	if b := d.take(4); b != nil {
		return binary.BigEndian.Uint32(b)
	}
	return 0
}

func (d *decoder) uint64() uint64 {
	if b := d.take(8); b != nil {
		return binary.BigEndian.Uint64(b)
	}
	return 0
}

func (d *decoder) bytes() []byte { return d.take(int(min(d.uint32(), maxPacket+1))) }

func (d *decoder) string() string { return string(d.bytes()) }

func (d *decoder) attrs() Attrs {
	var a Attrs
	flags := d.uint32()
	if a.HasSize = flags&attrSize != 0; a.HasSize {
		a.Size = d.uint64()
	}
	if a.HasOwner = flags&attrOwner != 0; a.HasOwner {
		a.UID, a.GID = d.uint32(), d.uint32()
	}
	if a.HasMode = flags&attrMode != 0; a.HasMode {
		a.Mode = d.uint32()
	}
	if a.HasTimes = flags&attrTimes != 0; a.HasTimes {
		d.uint32() // of access
		a.ModTime = time.Unix(int64(d.uint32()), 0).UTC()
	}
	if flags&attrExtended != 0 {
		for n := d.uint32(); n > 0 && d.err == nil; n-- {
			d.bytes()
			d.bytes()
		}
	}
	return a
}

func (d *decoder) names() []Name {
	var names []Name
	for n := d.uint32(); n > 0 && d.err == nil; n-- {
		name := Name{Name: d.string(), Long: d.string(), Attrs: d.attrs()}
		if d.err == nil {
			names = append(names, name)
		}
	}
	return names
}

func (d *decoder) status() error {
	e := &StatusError{Code: d.uint32()}
	if d.err != nil {
		return d.err
	}
	if len(d.b) > 0 { // servers of older versions send the code alone
		e.Message = d.string()
	}
	switch e.Code {
	case statusOK:
		return nil
	case statusEOF:
		return io.EOF
	}
	return e
}

func appendString(b []byte, s string) []byte {
	b = binary.BigEndian.AppendUint32(b, uint32(len(s)))
	return append(b, s...)
}
