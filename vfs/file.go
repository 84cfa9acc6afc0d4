package vfs

import (
	"context"
	"errors"
	"io"
	"sync"
	"sync/atomic"
	"time"
)

// File is an open file. ReadAt and WriteAt may be called concurrently; Close must be the
// last call and publishes an upload: when it returns nil the upload is durable (with
// acknowledge: stored, in a snapshot). Abort ends it without publication.
//
// A write handle whose upload was resumed by another session of the same principal fails
// with KindBusy from then on, Close included. Opening an existing file for writing and
// closing it unchanged publishes nothing. When Close fails, the upload has become a
// partial; only with acknowledge: stored it may also be published and durable, but in no
// snapshot yet: the kind tells why (KindTimeout, KindUnavailable, …), the version stays,
// and uploading the same bytes again makes no second one.
//
// Handles of one session that open a name without truncation while it is being uploaded
// share the upload, as they would share a file: each Close publishes what all have
// written so far.
type File struct {
	session *Session
	share   *share
	name    Name // in the principal's name space, links resolved
	flag    OpenFlag

	mu     sync.RWMutex // guards closed; held for reading across reads so that Close waits for them
	closed bool

	up     *upload // the upload that is written, or read by the session that writes it
	writer bool    // this handle may change up
	// version is what its Close has published or found published already, 0 while there is
	// no such thing; bytes are that version's, nil when they are not known.
	version uint64
	content *content // of it, nil when a snapshot had it then
	bytes   *fingerprint
	size    int64 // of that version

	// A read handle on a complete version.
	reader Reader
	info   Info
	stored baseRef // where a snapshot has the bytes, if one does
	done   func() error

	moved atomic.Int64 // bytes read or written
	event *event       // told at the end; nil: nobody observes
}

// Name is the file's canonical name in the principal's name space when it was opened.
func (f *File) Name() Name { return f.name }

func (f *File) begin(op string, need OpenFlag) error {
	f.mu.RLock()
	switch {
	case f.closed:
		f.mu.RUnlock()
		return errKind(op, f.name, KindClosed)
	case f.flag&need != need:
		f.mu.RUnlock()
		return errKind(op, f.name, KindPermission)
	}
	return nil
}

// Stat describes the open file, with the attributes set on it so far.
func (f *File) Stat(ctx context.Context) (Info, error) {
	if err := f.begin("fstat", 0); err != nil {
		return Info{}, err
	}
	defer f.mu.RUnlock()
	if f.up != nil {
		return f.up.info(f.name.Base()), nil
	}
	return f.info, nil
}

// ReadAt implements io.ReaderAt.
func (f *File) ReadAt(p []byte, off int64) (int, error) {
	if err := f.begin("read", OpenRead); err != nil {
		return 0, err
	}
	defer f.mu.RUnlock()
	if off < 0 {
		return 0, errKind("read", f.name, KindInvalid)
	}
	var n int
	var err error
	if f.up != nil {
		n, err = f.up.readAt(context.Background(), f, p, off)
	} else {
		n, err = f.reader.ReadAt(p, off)
	}
	f.moved.Add(int64(n))
	f.session.traffic.out.Add(int64(n))
	if err != nil && err != io.EOF { //nolint:errorlint // a cause that is one is no end of the file
		return n, clientError("read", f.name, err)
	}
	return n, err
}

// WriteAt implements io.WriterAt; p is not kept. After a failed write the upload cannot
// be completed: Close fails with the same Kind.
func (f *File) WriteAt(p []byte, off int64) (int, error) {
	if err := f.begin("write", OpenWrite); err != nil {
		return 0, err
	}
	defer f.mu.RUnlock()
	n, err := f.up.writeAt(f, p, off)
	f.moved.Add(int64(n))
	f.session.traffic.in.Add(int64(n))
	return n, clientError("write", f.name, err)
}

// SetAttr sets attributes; on an upload they take effect with its publication.
func (f *File) SetAttr(ctx context.Context, set AttrSet) error {
	if err := f.begin("fsetstat", 0); err != nil {
		return err
	}
	defer f.mu.RUnlock()
	if !f.writer {
		return f.session.SetAttr(ctx, f.name.String(), set, false)
	}
	return clientError("fsetstat", f.name, f.up.setAll(ctx, f, set))
}

// setAll sets the size at once and notes the other attributes.
func (u *upload) setAll(ctx context.Context, f *File, set AttrSet) error {
	if set.Size != nil {
		if err := u.truncate(ctx, f, *set.Size); err != nil {
			return err
		}
	}
	if err := u.enter(f); err != nil {
		return err
	}
	defer u.mu.RUnlock()
	u.setAttr(set)
	return nil
}

// Sync makes what was written so far durable as a partial (fsync@openssh.com).
func (f *File) Sync(ctx context.Context) error {
	if err := f.begin("fsync", 0); err != nil {
		return err
	}
	defer f.mu.RUnlock()
	if !f.writer {
		return nil
	}
	return clientError("fsync", f.name, f.up.sync(ctx, f))
}

// Close publishes an upload, or ends reading.
func (f *File) Close() error { return f.CloseContext(context.Background()) }

// CloseContext is Close for somebody who may go away: with acknowledge: stored, the wait
// for the snapshot ends with ctx (KindClosed, or KindTimeout at its deadline), and the
// version stays published. The publication itself does not depend on ctx: an end of the
// session must not tear it.
func (f *File) CloseContext(ctx context.Context) (err error) {
	if err := f.end("close"); err != nil {
		return err
	}
	began := time.Now()
	op := EventDownload
	if f.writer {
		op = EventUpload
	}
	defer func() { f.tellEnd(op, began, err) }()
	if !f.writer {
		return clientError("close", f.name, f.release())
	}
	return clientError("close", f.name, f.publish(ctx))
}

func (f *File) publish(ctx context.Context) error {
	name := f.up.name()
	room := roomIgnored
	if f.up.changes() {
		// Here, where nothing is held that others need.
		if err := f.share.intake.enter(ctx); err != nil {
			return joinClose(err, f.up.abort(context.WithoutCancel(ctx), f))
		}
		room = roomTaken
	}
	whole := context.WithoutCancel(ctx)
	done, room, err := f.up.publish(whole, f, room)
	if err == nil && !done {
		done, room, err = f.attrOnly(whole, room)
	}
	if room == roomTaken {
		f.share.intake.leave()
	}
	if err != nil || !done {
		return err
	}
	err = f.share.waitStored(ctx, name, f.content)
	made := f.share.uploads.made
	switch {
	case f.version == 0:
	case err == nil:
		made.owe(f.version, nil)
	default:
		made.owe(f.version, f.bytes)
	}
	return err
}

// Published reports, after a Close, whether what was uploaded is published and durable, also when
// Close has returned an error: then no snapshot has it yet. What was left out of its snapshot, as it is damaged, is not.
func (f *File) Published() bool { return f.version != 0 && f.content.lost() == nil }

// attrOnly sets the attributes that were set on a handle that changed nothing else, durably. done is
// false when there are none.
func (f *File) attrOnly(ctx context.Context, room roomState) (done bool, _ roomState, _ error) {
	u := f.up
	u.meta.Lock()
	attr, mask := u.attr, u.set
	u.meta.Unlock()
	if mask == 0 {
		return false, room, nil
	}
	o := f.session.setattrOp(ctx, f.share, u.name(), attr, mask)
	o.room, o.flush = room, true
	err := f.share.do(ctx, o)
	return err == nil, o.room, err
}

// Abort ends the handle; an upload becomes a partial.
func (f *File) Abort() (err error) {
	if err := f.end("abort"); err != nil {
		return err
	}
	op := EventDownload
	if f.writer {
		op = EventCutOff
	}
	began := time.Now()
	defer func() { f.tellEnd(op, began, err) }()
	if !f.writer {
		return clientError("abort", f.name, f.release())
	}
	return clientError("abort", f.name, f.up.abort(context.Background(), f))
}

// end closes the handle for other calls and waits for those that read or write.
func (f *File) end(op string) error {
	f.mu.Lock()
	closed := f.closed
	f.closed = true
	f.mu.Unlock()
	if closed {
		return errKind(op, f.name, KindClosed)
	}
	f.session.forget(f)
	return nil
}

func (f *File) release() error {
	var err error
	if f.reader != nil {
		err = f.reader.Close()
	}
	if f.done != nil {
		err = errors.Join(err, f.done())
	}
	return err
}

// copyTo copies n bytes, to the end when n is 0, in pieces.
func (f *File) copyTo(ctx context.Context, off, n int64, to *File, toOff int64) error {
	buf := make([]byte, copyPiece)
	toEnd := n == 0
	for toEnd || n > 0 {
		if err := ctx.Err(); err != nil {
			return clientError("copy", to.name, err)
		}
		p := buf
		if !toEnd {
			p = buf[:min(n, copyPiece)]
		}
		got, err := f.ReadAt(p, off)
		if got > 0 {
			if _, err := to.WriteAt(p[:got], toOff); err != nil {
				return err
			}
			off, toOff, n = off+int64(got), toOff+int64(got), n-int64(got)
		}
		switch {
		case err == io.EOF && (toEnd || n == 0): //nolint:errorlint // as ReadAt has it
			return nil
		case err == io.EOF: //nolint:errorlint // likewise
			return errCause("copy", to.name, KindInvalid, io.EOF)
		case err != nil:
			return err
		}
	}
	return nil
}

// adopt makes an empty upload a whole copy of a stored file, without moving a byte; it
// reports whether that is possible.
func (u *upload) adopt(f *File, ref baseRef) (bool, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.usable(f) != nil || u.size.Load() != 0 || u.base.exists() || ref.path == "" {
		return false, nil
	}
	if err := u.claim(ref.size); err != nil {
		return true, u.fail(err)
	}
	u.touch()
	u.base.is(ref, u.base.content)
	u.base.limit = ref.size
	u.size.Store(ref.size)
	return true, nil
}
