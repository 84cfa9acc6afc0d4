package ftpsrv

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"path"
	"strconv"
	"time"

	ftpserver "github.com/fclairamb/ftpserverlib"

	"github.com/snapgate/gateway/vfs"
)

// ready refuses a transfer for which no data connection is prepared, or one that must be
// encrypted is not.
func (c *conn) ready() bool {
	switch {
	case c.data == nil:
		c.ctl.reply(codeNoData, "send EPSV, PASV, EPRT or PORT first")
		return false
	case c.server.cfg.TLSRequired && !c.protected:
		c.closeData()
		c.ctl.reply(codeNoNetProtocol, "data connections must be encrypted: send PROT P first")
		return false
	}
	return true
}

// start has the library run a transfer: its own passive mode first, of which the client
// learns nothing, and then the transfer as an upload or download.
func (c *conn) start(upload bool, j *job, name string) {
	verb := "RETR"
	if upload {
		verb = "STOR"
	}
	x := &exchange{verb: verb, arg: name, asked: j.verb, path: j.path, job: j, seq: c.seq, done: make(chan struct{})}
	c.engine.push(
		&exchange{verb: "EPSV", prepares: j, finish: func(code int, text string) {
			if code == codeExtPassive {
				return
			}
			c.log.Error("no data connection", "err", text)
			c.engine.queue = nil
			j.port.close()
			j.release()
			c.ctl.reply(codeNoData, "no data connection, try again later")
		}},
		x,
	)
	c.count.files.Add(1)
}

// cmdStor is STOR, APPE, and STOR after REST (RFC 959 section 4.1.3).
func (c *conn) cmdStor(cmd command) {
	offset, announced := c.offset, c.announced
	c.announced = -1
	if !c.ready() {
		return
	}
	flag := vfs.OpenWrite | vfs.OpenCreate
	switch {
	case cmd.verb == "APPE":
		flag |= vfs.OpenResume
		offset = -1
	case offset > 0:
		flag |= vfs.OpenResume
	default:
		flag |= vfs.OpenTruncate
	}
	c.start(true, c.newJob(cmd.verb, cmd.arg, func(j *job, name string) (ftpserver.FileTransfer, error) {
		return c.openUpload(j, name, flag, offset, announced)
	}), cmd.arg)
}

// uniqueTries is how many names STOU tries. The first is mostly free.
const uniqueTries = 100

// cmdStou stores under a name that is free (RFC 959), and tells it as RFC 1123 section
// 4.1.2.9 says.
func (c *conn) cmdStou(cmd command) {
	announced := c.announced
	c.announced = -1
	if !c.ready() {
		return
	}
	base := cmd.arg
	if base == "" {
		base = "ftp-" + time.Now().UTC().Format("20060102-150405")
	}
	open := func(j *job, name string) (ftpserver.FileTransfer, error) {
		var err error
		for i := range uniqueTries {
			try := name
			switch {
			case i == 0 && cmd.arg == "", i > 0:
				ext := path.Ext(name)
				try = name[:len(name)-len(ext)] + "-" + strconv.FormatUint(uint64(rand.Uint32()), 36) + ext
			}
			var u ftpserver.FileTransfer
			u, err = c.openUpload(j, try, vfs.OpenWrite|vfs.OpenExclusive, 0, announced)
			if err == nil {
				dir, _ := path.Split(cmd.arg)
				j.text = "FILE: " + dir + path.Base(try)
				j.path = dir + path.Base(try)
				return u, nil
			}
			if vfs.KindOf(err) != vfs.KindExist {
				break
			}
		}
		return nil, err
	}
	c.start(true, c.newJob("STOU", base, open), base)
}

// cmdRetr sends a file (RFC 959 section 4.1.3), from where REST said.
func (c *conn) cmdRetr(cmd command) {
	offset := c.offset
	if !c.ready() {
		return
	}
	c.start(false, c.newJob("RETR", cmd.arg, func(j *job, name string) (ftpserver.FileTransfer, error) {
		return c.openDownload(j, name, offset)
	}), cmd.arg)
}

// pieceBytes is the size of a read from a data connection and of one from a file: of a TLS
// connection's, several records; of a stored file's, a part of a chunk that is in the cache.
const pieceBytes = 128 << 10

// buffer lends a buffer of pieceBytes, until done is called.
func (s *Server) buffer() (buf []byte, done func()) {
	p := s.buffers.Get().(*[]byte)
	return *p, func() { s.buffers.Put(p) }
}

// transfer is what uploads and downloads have in common. Its methods are called by the
// library, one at a time; Seek has no effect, since the offset is known when it is opened.
type transfer struct {
	j      *job
	f      *vfs.File
	off    int64
	failed error // the first failure: of the file, or of the data connection
}

// Seek implements io.Seeker.
func (*transfer) Seek(offset int64, _ int) (int64, error) { return offset, nil }

// TransferError implements ftpserver.FileTransferError: the data connection failed, or was
// never made. It is called before Close.
func (t *transfer) TransferError(err error) {
	switch why := t.j.cutOff(); {
	case t.failed != nil:
		return
	case why != nil:
		t.failed = why
	default:
		t.j.conn.log.Info("data connection failed", "op", t.j.verb, "path", t.j.path, "err", err)
		t.failed = refusal(codeAborted, "%s: the data connection failed", t.j.path)
	}
	t.j.note(t.failed)
}

// fail keeps a failure of the file.
func (t *transfer) fail(err error) error {
	if t.failed == nil {
		t.failed = err
	}
	t.j.note(err)
	return err
}

// upload is a file that is being received.
type upload struct {
	transfer
	// announced is the size by ALLO, -1 for nothing: of the file, as lftp sends it before it
	// resumes, too. Who announces what is still to come announces less.
	announced int64
}

// openUpload opens a file for an upload from offset on; -1: at its end.
func (c *conn) openUpload(j *job, name string, flag vfs.OpenFlag, offset, announced int64) (ftpserver.FileTransfer, error) {
	f, err := c.sess.Open(c.ctx, name, flag, vfs.AttrSet{})
	if err != nil {
		return nil, err
	}
	u := &upload{transfer{j: j, f: f}, announced}
	if flag&vfs.OpenResume != 0 {
		if u.off, err = c.resumeAt(f, j.path, offset); err != nil {
			return nil, errors.Join(err, f.Abort())
		}
	}
	return u, nil
}

// resumeAt readies an upload that goes on at offset (-1: at its end) and returns where that
// is. What lies behind it is what the client sends again.
func (c *conn) resumeAt(f *vfs.File, name string, offset int64) (int64, error) {
	info, err := f.Stat(c.ctx)
	switch {
	case err != nil:
		return 0, err
	case offset < 0:
		return info.Size, nil
	case offset > info.Size:
		return 0, refusal(codeBadRestart, "%s: has %d bytes, cannot go on at %d", name, info.Size, offset)
	case offset < info.Size:
		return offset, f.SetAttr(c.ctx, vfs.AttrSet{Size: &offset})
	}
	return offset, nil
}

// ReadFrom implements io.ReaderFrom, which io.Copy uses.
func (u *upload) ReadFrom(r io.Reader) (n int64, err error) {
	buf, done := u.j.conn.server.buffer()
	defer done()
	for {
		got, err := r.Read(buf)
		if got > 0 {
			put, err := u.Write(buf[:got])
			n += int64(put)
			if err != nil {
				return n, err
			}
		}
		switch {
		case errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF):
			return n, nil
		case err != nil:
			return n, err
		}
	}
}

// Write implements io.Writer.
func (u *upload) Write(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	n, err := u.f.WriteAt(p, u.off)
	u.off += int64(n)
	u.j.conn.count.written.Add(int64(n))
	if err != nil {
		return n, u.fail(err)
	}
	return n, nil
}

// Read implements io.Reader; nobody reads an upload.
func (*upload) Read([]byte) (int, error) { return 0, io.EOF }

// Close implements io.Closer: it publishes an upload that is whole, and ends one that is
// not, which can be resumed then.
func (u *upload) Close() (err error) {
	c := u.j.conn
	defer c.recovered("close", func() { err = u.fail(refusal(codeLocalError, "internal error")) })
	if u.failed == nil {
		u.failed = u.whole()
	}
	if u.failed != nil {
		c.count.aborted.Add(1)
		c.log.Info("upload cut off", "path", u.j.path, "bytes", u.off, "cause", u.failed)
		u.j.note(u.failed)
		if err := u.f.Abort(); err != nil {
			c.log.Warn("operation failed", "op", "abort", "path", u.j.path, "err", err)
		}
		return u.failed
	}
	if err := u.f.CloseContext(u.j.ctx); err != nil {
		return u.fail(err)
	}
	c.count.uploaded.Add(1)
	return nil
}

// whole says why an upload whose data connection has ended in order is not complete, nil
// when it is, as far as anybody can know. FTP marks the end of a file by the end of the
// connection, which a client that was killed looks just like, without TLS: but then its
// control connection ends, too. And one that gives up sends ABOR and ends the data
// connection in order, with TLS, too: which of the two is noticed first is chance.
func (u *upload) whole() error {
	c := u.j.conn
	if why := u.j.cutOff(); why != nil {
		return why
	}
	timer := time.NewTimer(u.grace())
	defer timer.Stop()
	select {
	case <-c.dead:
	case <-u.j.ctx.Done():
		return u.j.cutOff()
	case <-timer.C:
	}
	if c.gone() {
		return refusal(codeAborted, "%s: the client is gone", u.j.path)
	}
	if u.off < u.announced {
		return refusal(codeAborted, "%s: has %d bytes of the %d that ALLO announced", u.j.path, u.off, u.announced)
	}
	return nil
}

// grace is how long the control connection is watched after the end of an upload.
func (u *upload) grace() time.Duration {
	switch cfg := &u.j.conn.server.cfg; {
	case u.announced >= 0 && u.off == u.announced:
		return 0 // it is as long as it was to become
	case u.j.tls != nil:
		return min(cfg.CloseGrace, cfg.abortGrace)
	default:
		return cfg.CloseGrace
	}
}

// download is a file that is being sent.
type download struct {
	transfer
	size int64
}

func (c *conn) openDownload(j *job, name string, offset int64) (ftpserver.FileTransfer, error) {
	f, err := c.sess.Open(c.ctx, name, vfs.OpenRead, vfs.AttrSet{})
	if err != nil {
		return nil, err
	}
	info, err := f.Stat(c.ctx)
	if err == nil && offset > info.Size {
		err = refusal(codeBadRestart, "%s: has %d bytes, cannot go on at %d", j.path, info.Size, offset)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	j.text = fmt.Sprintf("opening the data connection for %s (%d bytes)", j.path, info.Size-offset)
	return &download{transfer{j: j, f: f, off: offset}, info.Size}, nil
}

// WriteTo implements io.WriterTo, which io.Copy uses.
func (d *download) WriteTo(w io.Writer) (n int64, err error) {
	buf, done := d.j.conn.server.buffer()
	defer done()
	for {
		got, err := d.Read(buf)
		if got > 0 {
			put, err := w.Write(buf[:got])
			n += int64(put)
			if err != nil {
				return n, err
			}
		}
		switch {
		case err == io.EOF: //nolint:errorlint // as Read has it
			return n, nil
		case err != nil:
			return n, err
		}
	}
}

// Read implements io.Reader.
func (d *download) Read(p []byte) (int, error) {
	n, err := d.f.ReadAt(p, d.off)
	d.off += int64(n)
	d.j.conn.count.read.Add(int64(n))
	switch {
	case n > 0 && err == io.EOF: //nolint:errorlint // a cause that is one is no end of the file
		return n, nil
	case err != nil && err != io.EOF: //nolint:errorlint // likewise
		return n, d.fail(err)
	case n == 0 && d.off < d.size:
		return 0, d.fail(refusal(codeLocalError, "%s: the file is cut short", d.j.path))
	}
	return n, err
}

// Write implements io.Writer. The library writes nothing to a download but no bytes, to
// see whether that works.
func (*download) Write([]byte) (int, error) { return 0, nil }

// Close implements io.Closer.
func (d *download) Close() error {
	if err := d.f.Close(); err != nil {
		d.j.conn.log.Warn("operation failed", "op", "close", "path", d.j.path, "err", err)
	}
	return nil
}
