package sftpclient

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"math"
	"time"
)

// writeAhead is how many bytes of a file are sent before the first of them is acknowledged: the
// window of a channel of x/crypto/ssh and OpenSSH.
const writeAhead = 2 << 20

// abortPatience is how long a server may take to answer what was written before a file is given up.
const abortPatience = time.Second

// Set says which attributes are set.
type Set struct {
	HasSize, HasOwner, HasMode bool

	Size     uint64
	UID, GID uint32
	Mode     uint32 // permission bits, setuid, setgid and sticky
	// ModTime is the time of access, too; zero to leave both.
	ModTime time.Time
}

func (s Set) empty() bool { return !s.HasSize && !s.HasOwner && !s.HasMode && s.ModTime.IsZero() }

// append writes the attributes as section 5 has them.
func (s Set) append(b []byte) []byte {
	flags := uint32(0)
	for flag, on := range map[uint32]bool{attrSize: s.HasSize, attrOwner: s.HasOwner, attrMode: s.HasMode, attrTimes: !s.ModTime.IsZero()} {
		if on {
			flags |= flag
		}
	}
	b = binary.BigEndian.AppendUint32(b, flags)
	if s.HasSize {
		b = binary.BigEndian.AppendUint64(b, s.Size)
	}
	if s.HasOwner {
		b = binary.BigEndian.AppendUint32(b, s.UID)
		b = binary.BigEndian.AppendUint32(b, s.GID)
	}
	if s.HasMode {
		b = binary.BigEndian.AppendUint32(b, s.Mode)
	}
	if !s.ModTime.IsZero() {
		t := uint32(min(max(s.ModTime.Unix(), 0), math.MaxUint32))
		b = binary.BigEndian.AppendUint32(b, t)
		b = binary.BigEndian.AppendUint32(b, t)
	}
	return b
}

// Has reports whether the server offers an extension.
func (c *Client) Has(extension string) bool {
	_, ok := c.exts[extension]
	return ok
}

// status is ask for requests that are answered by a status.
func (c *Client) status(ctx context.Context, typ byte, payload []byte) error {
	k, err := c.start(ctx, typ, payload)
	if err != nil {
		return err
	}
	return c.acknowledged(ctx, k)
}

// acknowledged waits for the status of one request.
func (c *Client) acknowledged(ctx context.Context, k *call) error {
	d, err := c.wait(ctx, k, typeStatus)
	if err != nil {
		return err
	}
	err = d.status()
	switch {
	case d.err != nil:
		return c.fail(d.err)
	case errors.Is(err, io.EOF): // no end of anything here
		return &StatusError{Code: statusEOF}
	}
	return err
}

// Mkdir makes a directory.
func (c *Client) Mkdir(ctx context.Context, path string, mode uint32) error {
	return c.status(ctx, typeMkdir, Set{HasMode: true, Mode: mode}.append(appendString(nil, path)))
}

// Rmdir removes an empty directory.
func (c *Client) Rmdir(ctx context.Context, path string) error {
	return c.status(ctx, typeRmdir, appendString(nil, path))
}

// Remove removes what is no directory. It does not follow symbolic links.
func (c *Client) Remove(ctx context.Context, path string) error {
	return c.status(ctx, typeRemove, appendString(nil, path))
}

// Rename renames, and replaces what has the new name where the server offers
// posix-rename@openssh.com; others refuse then.
func (c *Client) Rename(ctx context.Context, from, to string) error {
	if c.Has("posix-rename@openssh.com") {
		b := appendString(nil, "posix-rename@openssh.com")
		return c.status(ctx, typeExtended, appendString(appendString(b, from), to))
	}
	return c.status(ctx, typeRename, appendString(appendString(nil, from), to))
}

// Symlink makes a symbolic link. The arguments are in OpenSSH's order, which is not the one of
// section 6.10, unless reversed is set.
func (c *Client) Symlink(ctx context.Context, target, link string, reversed bool) error {
	first, second := target, link
	if reversed {
		first, second = link, target
	}
	return c.status(ctx, typeSymlink, appendString(appendString(nil, first), second))
}

// Setstat sets attributes of a path, and follows a symbolic link.
func (c *Client) Setstat(ctx context.Context, path string, s Set) error {
	if s.empty() {
		return nil
	}
	return c.status(ctx, typeSetstat, s.append(appendString(nil, path)))
}

// Lsetstat sets attributes of a path, and of a symbolic link itself. The server has to offer
// lsetstat@openssh.com.
func (c *Client) Lsetstat(ctx context.Context, path string, s Set) error {
	return c.status(ctx, typeExtended, s.append(appendString(appendString(nil, "lsetstat@openssh.com"), path)))
}

// Fsync is the name of OpenSSH's extension of that name (PROTOCOL, section 4.6).
const Fsync = "fsync@openssh.com"

// statvfs is OpenSSH's extension of that name (PROTOCOL, section 4.4), and stReadOnly of its flags.
const (
	statvfs    = "statvfs@openssh.com"
	stReadOnly = 1
)

// Room is what a server tells of a file system.
type Room struct{ Full, ReadOnly bool }

// Room asks about the file system that has a path. The error is a *StatusError when the server cannot tell.
func (c *Client) Room(ctx context.Context, path string) (Room, error) {
	if !c.Has(statvfs) {
		return Room{}, &StatusError{Code: statusNotThere}
	}
	d, err := c.ask(ctx, typeExtended, typeExtendedReply, appendString(appendString(nil, statvfs), path))
	if err != nil {
		return Room{}, err
	}
	var f [11]uint64 // bsize, frsize, blocks, bfree, bavail, files, ffree, favail, fsid, flag, namemax
	for i := range f {
		f[i] = d.uint64()
	}
	if d.err != nil {
		return Room{}, c.fail(d.err)
	}
	// Some file systems count no blocks, or no files.
	return Room{Full: f[2] > 0 && f[4] == 0 || f[5] > 0 && f[7] == 0, ReadOnly: f[9]&stReadOnly != 0}, nil
}

// Upload is an open file being written, in order, by one goroutine at a time.
type Upload struct {
	c      *Client
	handle string // "" when it was closed
	next   int64  // the offset of the next byte
	under  int    // bytes that are not acknowledged
	asked  []piece
	err    error // why one of them has failed

	sync            *call // an fsync under way, nil for none
	syncTo, durable int64 // it is of so many bytes; the last one was
}

// Create opens a file for writing at offset. With fresh it must not be there yet, and nothing
// is followed; mode is the new file's.
func (c *Client) Create(ctx context.Context, path string, offset int64, mode uint32, fresh bool) (*Upload, error) {
	flags := uint32(openWrite)
	if fresh {
		flags |= openCreat | openExcl
	}
	b := binary.BigEndian.AppendUint32(appendString(nil, path), flags)
	h, err := c.handle(ctx, typeOpen, Set{HasMode: fresh, Mode: mode}.append(b))
	if err != nil {
		return nil, err
	}
	return &Upload{c: c, handle: h, next: offset}, nil
}

// Write sends bytes and waits for older ones to be acknowledged when too many are under way.
func (u *Upload) Write(ctx context.Context, p []byte) (int, error) {
	if u.err != nil {
		return 0, u.err
	}
	sent := 0
	for sent < len(p) {
		n := min(len(p)-sent, u.c.limits.Write)
		for u.under > 0 && u.under+n > writeAhead {
			if err := u.settle(ctx); err != nil {
				return sent, err
			}
		}
		b := appendString(make([]byte, 0, 4+len(u.handle)+12), u.handle)
		b = binary.BigEndian.AppendUint64(b, uint64(u.next))
		b = binary.BigEndian.AppendUint32(b, uint32(n))
		k, err := u.c.start(ctx, typeWrite, b, p[sent:sent+n])
		if err != nil {
			return sent, err
		}
		u.asked = append(u.asked, piece{k, u.next, n})
		u.under += n
		u.next += int64(n)
		sent += n
	}
	return sent, nil
}

// settle waits for the oldest request.
func (u *Upload) settle(ctx context.Context) error {
	if u.err != nil {
		return u.err
	}
	p := u.asked[0]
	u.err = u.c.acknowledged(ctx, p.call)
	u.asked = u.asked[1:]
	u.under -= p.n
	return u.err
}

// Flush waits until all that was written is acknowledged.
func (u *Upload) Flush(ctx context.Context) error {
	if u.err != nil {
		return u.err
	}
	for len(u.asked) > 0 {
		if err := u.settle(ctx); err != nil {
			return err
		}
	}
	return nil
}

// Sync asks for an fsync, where the server offers it, and does not wait: not while an earlier one
// is under way. durable is up to where the file is on the server's disk: what it had acknowledged
// before it was asked.
func (u *Upload) Sync(ctx context.Context) (durable int64, err error) {
	if u.sync != nil {
		if !u.sync.answered() {
			return u.durable, nil
		}
		if err := u.synced(ctx); err != nil {
			return u.durable, err
		}
	}
	if u.err != nil {
		return u.durable, u.err
	}
	if to, err := u.Acknowledged(ctx); err != nil {
		return u.durable, err
	} else if to > u.durable && u.c.Has(Fsync) {
		if u.sync, err = u.c.start(ctx, typeExtended, fsync(u.handle)); err != nil {
			return u.durable, err
		}
		u.syncTo = to
	}
	return u.durable, nil
}

// Acknowledged is up to where the server has the file, by the answers that have come. It does not wait.
func (u *Upload) Acknowledged(ctx context.Context) (int64, error) {
	for u.err == nil && len(u.asked) > 0 && u.asked[0].call.answered() {
		_ = u.settle(ctx) // it keeps the error
	}
	return u.next - int64(u.under), u.err
}

// SyncFile has the server bring what it has of a file to its disk, whoever writes it. The server has
// to offer Fsync. asked says that it may have tried: an error then can be of the file's contents, which a
// server need not say to others as well.
func (c *Client) SyncFile(ctx context.Context, path string) (asked bool, err error) {
	b := binary.BigEndian.AppendUint32(appendString(nil, path), openRead)
	h, err := c.handle(ctx, typeOpen, Set{}.append(b))
	if err != nil {
		return false, err
	}
	defer c.close(h)
	err = c.status(ctx, typeExtended, fsync(h))
	var st *StatusError
	return !errors.As(err, &st) || st.Code == statusFailure, err // others say that it is not for such a handle
}

// synced waits for the fsync that is under way.
func (u *Upload) synced(ctx context.Context) error {
	if u.sync == nil {
		return nil
	}
	err := u.c.acknowledged(ctx, u.sync)
	if u.sync = nil; err == nil {
		u.durable = u.syncTo
	}
	return err
}

func fsync(handle string) []byte { return appendString(appendString(nil, Fsync), handle) }

// Finish waits for all that was written, sets attributes one after the other, syncs and closes.
// refused has an error for each of sets, nil for those that were set. err is the first of the others;
// the file is closed in any case.
func (u *Upload) Finish(ctx context.Context, sets ...Set) (refused []error, err error) {
	if err := errors.Join(u.Flush(ctx), u.synced(ctx)); err != nil {
		u.Abort()
		return nil, err
	}
	// These need not wait for each other: the server does them in order.
	type request struct {
		typ     byte
		payload []byte
		set     int // the index of the Set, -1 for none
	}
	var requests []request
	for i, s := range sets {
		if !s.empty() {
			requests = append(requests, request{typeFsetstat, s.append(appendString(nil, u.handle)), i})
		}
	}
	if u.c.Has(Fsync) {
		requests = append(requests, request{typeExtended, fsync(u.handle), -1})
	}
	requests = append(requests, request{typeClose, appendString(nil, u.handle), -1})
	var calls []*call
	var first error
	for _, r := range requests {
		k, err := u.c.start(ctx, r.typ, r.payload)
		if err != nil {
			first = err
			u.Abort()
			break
		}
		calls = append(calls, k)
	}
	u.handle = ""
	refused = make([]error, len(sets))
	for i, k := range calls {
		err := u.c.acknowledged(ctx, k)
		var st *StatusError
		switch set := requests[i].set; {
		case set >= 0 && errors.As(err, &st):
			refused[set] = err
		case err != nil && first == nil:
			first = err
		}
	}
	return refused, first
}

// Abort closes the file and leaves it as it is. It waits a moment for what was written, so that
// none of that changes the file after what is done next over another connection.
func (u *Upload) Abort() {
	ctx, cancel := context.WithTimeout(context.Background(), abortPatience)
	defer cancel()
	for _, p := range u.asked {
		_ = u.c.acknowledged(ctx, p.call) // or it is abandoned
	}
	if u.sync != nil {
		u.c.abandon(u.sync)
		u.sync = nil
	}
	if u.asked = nil; u.handle != "" {
		u.c.close(u.handle)
		u.handle = ""
	}
}
