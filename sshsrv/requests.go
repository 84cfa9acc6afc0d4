package sshsrv

import (
	"fmt"
	"strings"

	"github.com/snapgate/gateway/vfs"
)

const vfsOther = vfs.KindOther

// Extensions (PROTOCOL of OpenSSH, sections 4.3 to 4.11; draft-ietf-secsh-filexfer-extensions-00).
const (
	extPosixRename   = "posix-rename@openssh.com"
	extStatVFS       = "statvfs@openssh.com"
	extFstatVFS      = "fstatvfs@openssh.com"
	extHardlink      = "hardlink@openssh.com"
	extFsync         = "fsync@openssh.com"
	extLsetstat      = "lsetstat@openssh.com"
	extLimits        = "limits@openssh.com"
	extExpandPath    = "expand-path@openssh.com"
	extCopyData      = "copy-data"
	extHomeDirectory = "home-directory"
	extUsersGroups   = "users-groups-by-id@openssh.com"
)

// extensions are the names and versions that VERSION announces, as OpenSSH 9.2 does.
func extensions() [][2]string {
	return [][2]string{
		{extPosixRename, "1"}, {extStatVFS, "2"}, {extFstatVFS, "2"}, {extHardlink, "1"},
		{extFsync, "1"}, {extLsetstat, "1"}, {extLimits, "1"}, {extExpandPath, "1"},
		{extCopyData, "1"}, {extHomeDirectory, "1"}, {extUsersGroups, "1"},
	}
}

// packet answers a packet that is no WRITE, or forwards it. pkt is valid until the server
// has read it.
func (s *shim) packet(typ byte, pkt []byte) error {
	d := &decoder{b: pkt[5:]}
	if typ == fxpInit {
		return s.version(d)
	}
	req := &request{typ: typ, id: d.uint32()}
	if d.bad {
		return fmt.Errorf("%w: type %d", errMalformed, typ)
	}
	var err error
	switch typ {
	case fxpRead, fxpClose, fxpReaddir, fxpFstat, fxpFsetstat:
		err = s.handleRequest(req, d, pkt)
	case fxpExtended:
		err = s.extended(req, d)
	case fxpOpen, fxpLstat, fxpSetstat, fxpOpendir, fxpRemove, fxpMkdir, fxpRmdir,
		fxpRealpath, fxpStat, fxpRename, fxpReadlink, fxpSymlink:
		err = s.pathRequest(req, d)
	default:
		return s.reply(statusPacket(req.id, kindError(vfs.KindUnsupported)))
	}
	if d.bad {
		return fmt.Errorf("%w: type %d", errMalformed, typ)
	}
	return err
}

// version answers INIT (section 4). The client's version does not matter: the answer is
// the lower of the two, and nobody has less than 3.
func (s *shim) version(d *decoder) error {
	if d.uint32(); d.bad {
		return fmt.Errorf("%w: INIT", errMalformed)
	}
	s.init = true
	e := newPacket(fxpVersion).uint32(protocolVersion)
	for _, x := range extensions() {
		e.string(x[0]).string(x[1])
	}
	return s.reply(e.packet())
}

// pathRequest forwards a request about a path.
func (s *shim) pathRequest(req *request, d *decoder) error {
	req.path = d.string()
	switch req.typ {
	case fxpOpen:
		req.pflags = d.uint32()
		req.attrs = d.attrs()
	case fxpSetstat, fxpMkdir:
		req.attrs = d.attrs()
	case fxpRename, fxpSymlink:
		req.target = d.string()
	}
	if d.bad {
		return nil
	}
	if req.tooLong() {
		return s.reply(statusPacket(req.id, kindError(vfs.KindBadName)))
	}
	if req.path == "" && req.typ != fxpRealpath || req.target == "" && (req.typ == fxpRename || req.typ == fxpSymlink) {
		return s.reply(statusPacket(req.id, kindError(vfs.KindNotExist)))
	}
	if (req.typ == fxpOpen || req.typ == fxpOpendir) && s.isDraining() {
		return s.reply(statusPacket(req.id, &statusError{statusFailure, "server is shutting down"}))
	}
	switch req.typ {
	case fxpOpen:
		// CREAT without WRITE is what paramiko's mode 'x' sends: nothing but a write open
		// makes sense of it. APPEND alone is a write open for pkg/sftp's client.
		req.file = &openFile{
			name:  req.path,
			read:  req.pflags&fxfRead != 0,
			write: req.pflags&(fxfWrite|fxfAppend|fxfCreate|fxfTrunc) != 0,
		}
		if !req.file.write {
			req.file.read = true
		}
	case fxpOpendir:
		req.file = &openFile{name: req.path}
	}
	return s.forward(req, req.typ, "")
}

// tooLong reports whether a path is longer than any name (ENAMETOOLONG).
func (r *request) tooLong() bool { return len(r.path) > maxPath || len(r.target) > maxPath }

// handleRequest deals with a request about a handle.
func (s *shim) handleRequest(req *request, d *decoder, pkt []byte) error {
	handle := d.string()
	if d.bad {
		return nil
	}
	f := s.lookup(handle)
	switch req.typ {
	case fxpClose:
		if f == nil {
			// OpenSSH's handle_close leaves errno at ENOENT.
			return s.reply(statusPacket(req.id, kindError(vfs.KindNotExist)))
		}
		// Forgotten when it is in work: a session that is draining ends when there is neither
		// a handle nor a request.
		if err := s.pass(&inflight{typ: fxpClose, id: req.id, file: f}, pkt); err != nil {
			return err
		}
		s.forget(handle)
		return nil
	case fxpReaddir:
		if f == nil || f.dir == nil {
			return s.reply(statusPacket(req.id, kindError(vfs.KindOther)))
		}
		return s.readdir(req, f)
	}
	if f == nil || f.dir != nil {
		return s.reply(statusPacket(req.id, kindError(vfs.KindOther)))
	}
	req.file = f
	switch req.typ {
	case fxpRead:
		off, n := d.uint64(), d.uint32()
		if d.bad {
			return nil
		}
		if !f.read {
			return s.reply(statusPacket(req.id, &statusError{statusNoSuchFile, "not open for reading"})) // EBADF
		}
		return s.read(req.id, f, off, n)
	case fxpFstat:
		return s.forward(req, fxpStat, "")
	default:
		if req.attrs = d.attrs(); d.bad {
			return nil
		}
		return s.forward(req, fxpSetstat, "")
	}
}

// readdir answers READDIR here: pkg/sftp would send a fixed number of entries, set by a
// variable of the whole process.
func (s *shim) readdir(req *request, dir *openFile) error {
	if err := s.quiesce(); err != nil {
		return err
	}
	body, err := s.ops.readDir(s.ops.context(), dir)
	if err != nil {
		return s.reply(statusPacket(req.id, err))
	}
	e := newPacket(fxpName).uint32(req.id)
	body(e)
	return s.reply(e.packet())
}

// extended answers an extension (section 8), or forwards it as a request with the same
// kind of reply.
func (s *shim) extended(req *request, d *decoder) error {
	req.ext = d.string()
	switch req.ext {
	case extLimits:
		return s.reply(newPacket(fxpExtReply).uint32(req.id).uint64(maxPacket).
			uint64(maxTransfer).uint64(maxTransfer).uint64(uint64(s.mem.handles)).packet())
	case extUsersGroups:
		return s.usersGroups(req, d)
	case extFsync, extFstatVFS:
		f := s.lookup(d.string())
		if d.bad {
			return nil
		}
		if f == nil || f.dir != nil {
			kind := vfs.KindOther
			if req.ext == extFsync {
				kind = vfs.KindNotExist // process_extended_fsync
			}
			return s.reply(statusPacket(req.id, kindError(kind)))
		}
		req.file, req.path = f, f.name
		if req.ext == extFsync {
			return s.forward(req, fxpSetstat, "")
		}
		return s.forward(req, fxpExtended, extStatVFS)
	case extCopyData:
		return s.copyData(req, d)
	case extPosixRename, extHardlink, extStatVFS, extLsetstat, extExpandPath, extHomeDirectory:
		return s.extendedPath(req, d)
	default:
		return s.reply(statusPacket(req.id, kindError(vfs.KindUnsupported)))
	}
}

func (s *shim) extendedPath(req *request, d *decoder) error {
	req.path = d.string()
	switch req.ext {
	case extPosixRename, extHardlink:
		req.target = d.string()
	case extLsetstat:
		req.attrs = d.attrs()
	}
	if d.bad {
		return nil
	}
	if req.tooLong() {
		return s.reply(statusPacket(req.id, kindError(vfs.KindBadName)))
	}
	switch req.ext {
	case extHomeDirectory:
		if req.path != "" && req.path != s.ops.user() {
			return s.reply(statusPacket(req.id, kindError(vfs.KindOther))) // nobody sees other users
		}
		req.path = "/"
		return s.forward(req, fxpRealpath, "")
	case extExpandPath:
		var ok bool
		if req.path, ok = s.expandPath(req.path); !ok {
			return s.reply(statusPacket(req.id, kindError(vfs.KindNotExist)))
		}
		return s.forward(req, fxpRealpath, "")
	}
	if req.path == "" || req.target == "" && (req.ext == extPosixRename || req.ext == extHardlink) {
		return s.reply(statusPacket(req.id, kindError(vfs.KindNotExist)))
	}
	if req.ext == extLsetstat {
		if req.attrs.flags&attrSize != 0 {
			return s.reply(statusPacket(req.id, kindError(vfs.KindInvalid))) // a link has no size to set
		}
		return s.forward(req, fxpSetstat, "")
	}
	return s.forward(req, fxpExtended, req.ext)
}

// expandPath expands a leading "~" or "~user" to the user's home directory, which is "/";
// other users have none.
func (s *shim) expandPath(p string) (string, bool) {
	tilde, isTilde := strings.CutPrefix(p, "~")
	if !isTilde {
		return p, true
	}
	user, rest, _ := strings.Cut(tilde, "/")
	if user != "" && user != s.ops.user() {
		return "", false
	}
	return "/" + rest, true
}

// copyData forwards copy-data as a request that is answered with a status.
func (s *shim) copyData(req *request, d *decoder) error {
	from := s.lookup(d.string())
	req.off, req.length = d.uint64(), d.uint64()
	to := s.lookup(d.string())
	req.toOff = d.uint64()
	if d.bad {
		return nil
	}
	if from == nil || to == nil || from.dir != nil || to.dir != nil || from == to || from.name == to.name {
		return s.reply(statusPacket(req.id, kindError(vfs.KindOther)))
	}
	if !from.read || !to.write {
		return s.reply(statusPacket(req.id, &statusError{statusNoSuchFile, "handle not open for this"})) // EBADF
	}
	req.file, req.to = from, to
	return s.forward(req, fxpSetstat, "")
}

// usersGroups answers users-groups-by-id@openssh.com: the names are those of listings;
// "" stands for one that is not known.
func (s *shim) usersGroups(req *request, d *decoder) error {
	uids, gids := &decoder{b: []byte(d.string())}, &decoder{b: []byte(d.string())}
	if d.bad {
		return nil
	}
	names := func(ids *decoder, lookup func(uint32) string) string {
		e := &encoder{}
		for len(ids.b) > 0 && !ids.bad {
			name := lookup(ids.uint32())
			if len(e.b)+len(name) > maxTransfer/4 {
				name = "" // the reply has to fit; a missing name is shown as a number
			}
			e.string(name)
		}
		return string(e.b)
	}
	users, groups := names(uids, s.ops.userName), names(gids, s.ops.groupName)
	if uids.bad || gids.bad {
		d.bad = true
		return nil
	}
	return s.reply(newPacket(fxpExtReply).uint32(req.id).string(users).string(groups).packet())
}
