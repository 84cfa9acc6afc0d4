package sshsrv

import (
	"context"
	"io"
	"io/fs"
	"log/slog"
	"sync"

	"github.com/pkg/sftp"

	"github.com/snapgate/gateway/vfs"
)

// handler does what a client asks for. pkg/sftp calls it with a number in the place of a
// path; the request itself comes from the shim (see there). All methods but those of an
// openFile are called one at a time.
type handler struct {
	// ctx ends with the connection.
	ctx   context.Context //nolint:containedctx // pkg/sftp's handlers are not given one
	sess  *vfs.Session
	open  func(ctx context.Context, path string, flag vfs.OpenFlag, attr vfs.AttrSet) (file, error)
	log   *slog.Logger
	count *counters
	shim  *shim
	names names
}

var (
	_ sftp.FileReader           = (*handler)(nil)
	_ sftp.OpenFileWriter       = (*handler)(nil)
	_ sftp.PosixRenameFileCmder = (*handler)(nil)
	_ sftp.StatVFSFileCmder     = (*handler)(nil)
	_ sftp.LstatFileLister      = (*handler)(nil)
	_ sftp.RealPathFileLister   = (*handler)(nil)
	_ sftp.ReadlinkFileLister   = (*handler)(nil)
	_ sftp.TransferError        = (*openFile)(nil)
)

func newHandler(ctx context.Context, sess *vfs.Session, log *slog.Logger, count *counters) *handler {
	return &handler{
		ctx: ctx, sess: sess, log: log, count: count,
		open: func(ctx context.Context, path string, flag vfs.OpenFlag, attr vfs.AttrSet) (file, error) {
			f, err := sess.Open(ctx, path, flag, attr)
			if err != nil {
				return nil, err // not f: a nil *vfs.File is no nil file
			}
			return f, nil
		},
	}
}

func (h *handler) context() context.Context { return h.ctx }

// user is the name that "~" and home-directory know besides none.
func (h *handler) user() string {
	if h.sess == nil {
		return ""
	}
	return h.sess.Principal().User
}

// serve speaks version 3 on ch until it ends. Every handle that the client did not close
// is aborted before it returns.
func (h *handler) serve(ch io.ReadWriteCloser) error {
	limits, err := Limits{}.withDefaults()
	if err != nil {
		return err
	}
	h.shim = newShim(ch, h, newMemory(limits))
	return h.run()
}

func (h *handler) run() error {
	server := sftp.NewRequestServer(h.shim,
		sftp.Handlers{FileGet: h, FilePut: h, FileCmd: h, FileList: h})
	err := server.Serve()
	h.shim.endTransfers()
	if h.shim.isDraining() {
		return nil
	}
	return err
}

// request takes back the request behind r.
func (h *handler) request(r *sftp.Request) (*request, error) { return h.take(r.Filepath) }

func (h *handler) take(token string) (*request, error) {
	req, err := h.shim.take(token)
	if err != nil {
		h.log.Error("request lost", "token", token, "err", err)
		return nil, kindError(vfs.KindOther)
	}
	return req, nil
}

// Fileread implements sftp.FileReader: an OPEN for reading alone.
func (h *handler) Fileread(r *sftp.Request) (_ io.ReaderAt, err error) { return h.openFile(r) }

// Filewrite implements sftp.FileWriter; the shim makes every OPEN for writing one for both.
func (h *handler) Filewrite(r *sftp.Request) (io.WriterAt, error) { return h.openFile(r) }

// OpenFile implements sftp.OpenFileWriter: an OPEN for writing.
func (h *handler) OpenFile(r *sftp.Request) (sftp.WriterAtReaderAt, error) { return h.openFile(r) }

func (h *handler) openFile(r *sftp.Request) (_ *openFile, err error) {
	defer recovered(h.log, "open", &err)
	req, err := h.request(r)
	if err != nil {
		return nil, err
	}
	attr, err := req.attrs.set()
	if err != nil {
		return nil, err
	}
	attr = creationAttr(attr)
	opened, err := h.open(h.ctx, req.path, openFlags(req), attr)
	if err != nil {
		return nil, report(h.log, h.count, "open", req.path, err)
	}
	f := req.file
	f.file, f.ctx, f.log, f.count = opened, h.ctx, h.log, h.count
	h.count.files.Add(1)
	return f, nil
}

// creationUmask is taken off the permissions that OPEN and MKDIR ask for, as the usual
// umask of OpenSSH's server is: many clients ask for 0777.
const creationUmask fs.FileMode = 0o022

// creationAttr is what a request may say about what it creates: OpenSSH's server takes
// the permissions, and clients set the rest afterwards.
func creationAttr(set vfs.AttrSet) vfs.AttrSet {
	if set.Mode == nil {
		return vfs.AttrSet{}
	}
	mode := *set.Mode &^ creationUmask
	return vfs.AttrSet{Mode: &mode}
}

func openFlags(req *request) vfs.OpenFlag {
	var flag vfs.OpenFlag
	if req.file.read {
		flag |= vfs.OpenRead
	}
	if req.file.write {
		flag |= vfs.OpenWrite
	}
	if req.pflags&fxfCreate != 0 {
		flag |= vfs.OpenCreate
		if req.pflags&fxfExcl != 0 {
			flag |= vfs.OpenExclusive
		}
	}
	if req.pflags&fxfTrunc != 0 {
		flag |= vfs.OpenTruncate
	}
	return flag
}

// Filecmd implements sftp.FileCmder: the requests that are answered with a status.
func (h *handler) Filecmd(r *sftp.Request) (err error) {
	defer recovered(h.log, "command", &err)
	req, err := h.request(r)
	if err != nil {
		return err
	}
	op, err := h.command(req)
	path := req.path
	if req.file != nil {
		path = req.file.name
	}
	return report(h.log, h.count, op, path, err)
}

func (h *handler) command(req *request) (string, error) {
	switch req.typ {
	case fxpRemove:
		return "remove", h.sess.Remove(h.ctx, req.path)
	case fxpRmdir:
		return "rmdir", h.sess.Rmdir(h.ctx, req.path)
	case fxpMkdir:
		set, err := req.attrs.set()
		if err == nil {
			set = creationAttr(set)
			if set.Mode != nil {
				*set.Mode &^= fs.ModeSetuid | fs.ModeSetgid // as mkdir(2) of Linux
			}
			err = h.sess.Mkdir(h.ctx, req.path, set)
		}
		return "mkdir", err
	case fxpRename:
		return "rename", acrossShares(h.sess.Rename(h.ctx, req.path, req.target, false))
	case fxpSymlink:
		// OpenSSH's order, which all clients follow: the target first, not as the draft has it.
		return "symlink", h.sess.Symlink(h.ctx, req.path, req.target)
	case fxpSetstat, fxpFsetstat:
		set, err := req.attrs.set()
		switch {
		case err != nil:
		case req.file != nil && set.Size != nil && !req.file.write:
			err = kindError(vfs.KindInvalid) // ftruncate(2) of a descriptor that cannot write
		case req.file != nil:
			err = req.file.file.SetAttr(h.ctx, set)
			if err != nil && set.Size != nil {
				req.file.noteFailure(&err) // the old end is still there
			}
		default:
			err = h.sess.SetAttr(h.ctx, req.path, set, true)
		}
		return "setattr", err
	case fxpExtended:
		return h.extension(req)
	default:
		return "unknown", kindError(vfs.KindUnsupported)
	}
}

func (h *handler) extension(req *request) (string, error) {
	switch req.ext {
	case extHardlink:
		return "link", acrossShares(h.sess.Link(h.ctx, req.path, req.target))
	case extLsetstat:
		return "lsetattr", h.lsetattr(req)
	case extFsync:
		return "fsync", req.file.file.Sync(h.ctx)
	case extCopyData:
		return "copy", h.copyData(req)
	default:
		return "unknown", kindError(vfs.KindUnsupported)
	}
}

// acrossShares makes a failure of what cannot be done across shares: OpenSSH's server
// gives no more for EXDEV, and OP_UNSUPPORTED would say that it can never be done.
func acrossShares(err error) error {
	if err != nil && vfs.KindOf(err) == vfs.KindUnsupported {
		return &statusError{statusFailure, "across shares: " + vfs.KindUnsupported.String()}
	}
	return err
}

// lsetattr sets attributes of a path itself. A link has no mode to set on Linux, and
// clients that try are told so by OpenSSH.
func (h *handler) lsetattr(req *request) error {
	set, err := req.attrs.set()
	if err != nil {
		return err
	}
	if set.Mode != nil {
		info, err := h.sess.Lstat(h.ctx, req.path)
		if err != nil {
			return err
		}
		if info.Type == vfs.TypeSymlink {
			return kindError(vfs.KindOther)
		}
	}
	return h.sess.SetAttr(h.ctx, req.path, set, false)
}

// copyData copies between two handles (draft-ietf-secsh-filexfer-extensions-00 section 7).
// A range that ends beyond the end of the file ends there.
func (h *handler) copyData(req *request) error {
	const maxInt64 = 1<<63 - 1
	from, fromOK := req.file.file.(*vfs.File)
	to, toOK := req.to.file.(*vfs.File)
	if !fromOK || !toOK {
		return kindError(vfs.KindUnsupported)
	}
	if req.off > maxInt64 || req.length > maxInt64 || req.toOff > maxInt64 {
		return kindError(vfs.KindInvalid)
	}
	off, length := int64(req.off), int64(req.length)
	info, err := from.Stat(h.ctx)
	if err != nil {
		return err
	}
	if off >= info.Size {
		return nil // nothing to copy, as OpenSSH has it
	}
	if length > info.Size-off {
		length = 0 // to the end
	}
	err = h.sess.CopyData(h.ctx, from, off, length, to, int64(req.toOff))
	if err != nil {
		req.to.noteFailure(&err)
	}
	return err
}

// PosixRename implements sftp.PosixRenameFileCmder.
func (h *handler) PosixRename(r *sftp.Request) (err error) {
	defer recovered(h.log, "rename", &err)
	req, err := h.request(r)
	if err != nil {
		return err
	}
	return report(h.log, h.count, "rename", req.path, acrossShares(h.sess.Rename(h.ctx, req.path, req.target, true)))
}

// StatVFS implements sftp.StatVFSFileCmder.
func (h *handler) StatVFS(r *sftp.Request) (_ *sftp.StatVFS, err error) {
	const stReadOnly, stNoSuid = 1, 2 // SSH2_FXE_STATVFS_ST_*
	defer recovered(h.log, "statvfs", &err)
	req, err := h.request(r)
	if err != nil {
		return nil, err
	}
	st, err := h.sess.StatFS(h.ctx, req.path)
	if err != nil {
		return nil, report(h.log, h.count, "statvfs", req.path, err)
	}
	out := &sftp.StatVFS{
		Bsize: st.BlockSize, Frsize: st.BlockSize,
		Blocks: st.Blocks, Bfree: st.BlocksFree, Bavail: st.BlocksAvail,
		Files: st.Files, Ffree: st.FilesFree, Favail: st.FilesFree,
		Flag: stNoSuid, Namemax: st.NameMax,
	}
	if st.ReadOnly {
		out.Flag |= stReadOnly
	}
	return out, nil
}

// Filelist implements sftp.FileLister: OPENDIR, STAT and FSTAT.
func (h *handler) Filelist(r *sftp.Request) (_ sftp.ListerAt, err error) {
	defer recovered(h.log, "stat", &err)
	req, err := h.request(r)
	if err != nil {
		return nil, err
	}
	switch req.typ {
	case fxpOpendir:
		dir, err := h.openDir(req.path)
		if err != nil {
			return nil, report(h.log, h.count, "opendir", req.path, err)
		}
		f := req.file
		f.dir, f.log, f.count = dir, h.log, h.count
		return f, nil
	case fxpFstat:
		info, err := req.file.file.Stat(h.ctx)
		if err != nil {
			return nil, report(h.log, h.count, "fstat", req.file.name, err)
		}
		return oneInfo{info}, nil
	default:
		info, err := h.sess.Stat(h.ctx, req.path)
		if err != nil {
			return nil, report(h.log, h.count, "stat", req.path, err)
		}
		return oneInfo{info}, nil
	}
}

// Lstat implements sftp.LstatFileLister.
func (h *handler) Lstat(r *sftp.Request) (_ sftp.ListerAt, err error) {
	defer recovered(h.log, "lstat", &err)
	req, err := h.request(r)
	if err != nil {
		return nil, err
	}
	info, err := h.sess.Lstat(h.ctx, req.path)
	if err != nil {
		return nil, report(h.log, h.count, "lstat", req.path, err)
	}
	return oneInfo{info}, nil
}

// RealPath implements sftp.RealPathFileLister.
func (h *handler) RealPath(token string) (_ string, err error) {
	defer recovered(h.log, "realpath", &err)
	req, err := h.take(token)
	if err != nil {
		return "", err
	}
	p, err := h.sess.RealPath(h.ctx, req.path)
	return p, report(h.log, h.count, "realpath", req.path, err)
}

// Readlink implements sftp.ReadlinkFileLister.
func (h *handler) Readlink(token string) (_ string, err error) {
	defer recovered(h.log, "readlink", &err)
	req, err := h.take(token)
	if err != nil {
		return "", err
	}
	target, err := h.sess.Readlink(h.ctx, req.path)
	return target, report(h.log, h.count, "readlink", req.path, err)
}

// maxNames bounds the owners that a session remembers for users-groups-by-id@openssh.com.
const maxNames = 1000

// names remembers the names of owners that listings showed.
type names struct {
	mu            sync.Mutex // guards both maps; a leaf
	users, groups map[uint32]string
}

func (n *names) learn(info vfs.Info) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.users == nil {
		n.users, n.groups = make(map[uint32]string), make(map[uint32]string)
	}
	if info.Owner != "" && len(n.users) < maxNames {
		n.users[info.UID] = info.Owner
	}
	if info.Group != "" && len(n.groups) < maxNames {
		n.groups[info.GID] = info.Group
	}
}

func (h *handler) userName(uid uint32) string {
	h.names.mu.Lock()
	defer h.names.mu.Unlock()
	return h.names.users[uid]
}

func (h *handler) groupName(gid uint32) string {
	h.names.mu.Lock()
	defer h.names.mu.Unlock()
	return h.names.groups[gid]
}
