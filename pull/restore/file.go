package restore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"time"

	"github.com/snapgate/gateway/pull"
	"github.com/snapgate/gateway/snapshotter"
)

// file is a file that is being restored, by one goroutine.
type file struct {
	r              *run
	src, dst, temp string
	e              snapshotter.Entry
	fresh          bool  // the directory was made by this run
	begun          bool  // the listing has its temporary file
	aside          found // what an earlier run has moved aside, or this one: see pull.AsideName

	content Content
	small   []byte // all of a small file
	safe    int64  // so many bytes of the temporary file are durable, and were written by this run
	counted int64  // of the report's done bytes
	best    int64  // up to where an attempt has come
	tried   bool
	named   bool                 // it may have its name: a rename was asked for
	lacks   *pull.AttributeError // what it has not got
}

// attributes are what an entry gets.
func (r *run) attributes(e snapshotter.Entry) pull.Attributes {
	a := pull.Attributes{Mode: e.Attr.Mode, HasMode: true, ModTime: e.Attr.ModTime}
	if r.Owner {
		a.UID, a.GID, a.HasOwner = e.Attr.UID, e.Attr.GID, true
	} else if e.Kind == snapshotter.File {
		// Of whoever restores, it would be another program.
		a.Mode &^= fs.ModeSetuid | fs.ModeSetgid
	}
	return a
}

// owes reports whether what is there is to be given to the user and group of the snapshot's.
func (r *run) owes(old pull.Entry, e snapshotter.Entry) bool {
	return r.Owner && (!old.HasOwner || old.UID != e.Attr.UID || old.GID != e.Attr.GID)
}

// same reports whether a file of the destination is taken for the one of the snapshot.
func same(old pull.Entry, e snapshotter.Entry) bool {
	return old.Type == pull.File && old.Size == e.Size && timed(old) && sameTime(old, e)
}

// timed reports whether the time of what is there is known to the second.
func timed(old pull.Entry) bool { return old.Precision > 0 && old.Precision <= time.Second }

// sameTime compares the time of what is there, when timed, with the snapshot's.
func sameTime(old pull.Entry, e snapshotter.Entry) bool {
	if old.ModTime.Nanosecond() == 0 { // of a server or a file system without less
		return old.ModTime.Equal(e.Attr.ModTime.Truncate(time.Second))
	}
	return old.ModTime.Equal(e.Attr.ModTime)
}

// replaces reports whether what is there is replaced.
func (r *run) replaces(old pull.Entry, e snapshotter.Entry) bool {
	switch r.Overwrite {
	case Older:
		if old.Precision >= time.Minute { // of LIST
			return old.ModTime.Add(old.Precision + zoneAllowance).Before(e.Attr.ModTime)
		}
		return old.Precision > 0 && old.ModTime.Before(e.Attr.ModTime.Truncate(old.Precision))
	case Never:
		return false
	}
	return true
}

// restore restores the file. old is what the listing has under its name.
func (f *file) restore(ctx context.Context, old found) error {
	r := f.r
	r.Report.at(f.dst)
	decides := old.there && old.Type == pull.File && (old.Size == f.e.Size || r.Overwrite == Older) // the time of what is there
	old.ask = old.ask || decides && old.Precision != time.Second && r.caps.Exact
	old, err := r.look(ctx, f.dst, old)
	if err != nil {
		return err
	}
	op := "restore"
	if old.there {
		if old.Type != pull.File && old.Type != pull.Symlink {
			return conflict(f.dst, "a directory or a device is where a file is to be")
		}
		if done, err := f.asIs(ctx, old.Entry); done || err != nil {
			return err
		}
		if !r.replaces(old.Entry, f.e) {
			return f.keep()
		}
		op = "replace"
	}
	r.note(op, f.dst, pull.File, f.e.Size)
	if r.DryRun {
		f.count(old.there)
		return nil
	}
	held := f.e.Size
	if held > smallFile {
		held = largeMemory
	}
	if err := r.memory.Acquire(ctx, held); err != nil {
		return err
	}
	defer r.memory.Release(held)
	if err := f.write(ctx, old.there); err != nil {
		return err
	}
	f.count(old.there)
	if r.Verify {
		if err := f.verify(ctx); err != nil {
			return err
		}
	}
	if err := r.tidyAside(ctx, f.temp, f.aside); err != nil || f.lacks == nil {
		return err
	}
	return f.lacks
}

// count notes that the file is restored.
func (f *file) count(replaced bool) {
	f.r.Report.restored.Add(1)
	f.r.Report.restoredBytes.Add(f.e.Size)
	if replaced {
		f.r.Report.replaced.Add(1)
	}
	f.progress(f.e.Size)
}

// progress notes that so many bytes of the file are there.
func (f *file) progress(n int64) {
	f.r.Report.done.Add(n - f.counted)
	f.counted = n
}

func (f *file) keep() error {
	f.r.note("keep", f.dst, pull.File, f.e.Size)
	f.r.Report.kept.Add(1)
	f.progress(f.e.Size)
	return nil
}

// asIs takes a file that is there as restored, if it is the one of the snapshot, and sets its
// mode.
func (f *file) asIs(ctx context.Context, old pull.Entry) (bool, error) {
	r := f.r
	if !same(old, f.e) {
		return false, nil
	}
	if r.Verify || r.stands(f.e.Attr.ModTime) {
		err := f.verify(ctx)
		switch {
		case err == nil:
		case !r.Verify && !fatal(err) && ctx.Err() == nil:
			return false, nil // it may not be read, as a drop box has it: nobody knows that it is the same
		case pull.KindOf(err) == pull.KindDiffers && r.Overwrite == Always:
			return false, nil // and is replaced, as anything that differs
		default:
			return false, err
		}
	}
	r.Report.unchanged.Add(1)
	f.progress(f.e.Size)
	if r.DryRun || r.Overwrite == Never {
		return true, nil
	}
	want := r.attributes(f.e)
	want.ModTime = time.Time{}
	want.HasMode = old.HasMode && old.Mode != want.Mode
	want.HasOwner = r.owes(old, f.e)
	if want.HasOwner {
		want.HasMode = true // it takes setuid away
	}
	if want.HasMode || want.HasOwner {
		if err := r.setAttributes(ctx, f.dst, pull.File, want); err != nil {
			return false, err
		}
	}
	// An earlier run was cut off after it had begun this anew, or before it had removed the old one.
	return true, errors.Join(r.tidy(ctx, f.temp, f.begun), r.tidyAside(ctx, f.temp, f.aside))
}

// tidy removes what was left of a file or a symbolic link, when it is there.
func (r *run) tidy(ctx context.Context, path string, there bool) error {
	if !there {
		return nil
	}
	err := r.Retry.Do(ctx, func() (bool, error) { return false, r.Target.Remove(ctx, path, pull.File) })
	if err != nil && pull.KindOf(err) == pull.KindNotFound {
		return nil
	}
	return err
}

// tidyAside removes what was moved aside for what had a temporary name, now that this has its own.
func (r *run) tidyAside(ctx context.Context, temp string, old found) error {
	path := pull.AsideName(temp)
	old, err := r.look(ctx, path, old)
	if err != nil && (fatal(err) || ctx.Err() != nil) {
		return err
	}
	return r.tidy(ctx, path, old.there)
}

// write writes the file beside its place and gives it its name. was says that another one has it.
func (f *file) write(ctx context.Context, was bool) (err error) {
	if err := f.open(ctx); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.close()) }()
	err = f.r.Retry.Do(ctx, func() (bool, error) { return f.attempt(ctx) })
	if err == nil || ctx.Err() != nil || !f.tried || fatal(err) {
		return err
	}
	if !was {
		old, lerr := f.r.look(ctx, pull.AsideName(f.temp), f.aside)
		was = lerr == nil && old.there
	}
	if was {
		// A server that has lost the old file shall not lose the new one, too.
		if _, lerr := f.r.Target.Lstat(ctx, f.dst); lerr != nil {
			gone := "may be gone"
			if pull.KindOf(lerr) == pull.KindNotFound {
				gone = "is gone"
			}
			return fmt.Errorf("%w; the file that was there %s, what is there of the new one is %s", err, gone, pull.Printable(f.temp))
		}
	}
	if pull.KindOf(err) == pull.KindBreaks && f.best > smallFile {
		return err // it may not be the file that breaks it: the next run goes on
	}
	// Nobody would go on with it. It may not be there, or not go away: the error is the other.
	_ = f.r.Target.Remove(ctx, f.temp, pull.File)
	return err
}

// open opens the content, and reads all of a small one.
func (f *file) open(ctx context.Context) error {
	content, err := f.r.Source.Open(ctx, f.src)
	if err != nil {
		return err
	}
	if n := content.Size(); n != f.e.Size {
		return errors.Join(fmt.Errorf("read %s: the snapshot has %d bytes of %d", pull.Printable(f.src), n, f.e.Size), content.Close())
	}
	f.content = content
	if f.e.Size > smallFile || f.small != nil {
		return nil
	}
	small := make([]byte, 0, f.e.Size)
	for int64(len(small)) < f.e.Size {
		data, err := f.read(int64(len(small)))
		if err != nil {
			return errors.Join(err, f.close())
		}
		small = append(small, data...)
	}
	f.small = small
	return nil
}

func (f *file) close() error {
	if f.content == nil {
		return nil
	}
	err := f.content.Close()
	f.content = nil
	return err
}

// read returns bytes of the content from off on, which is not its end: at most bufferSize, and as many as are in one
// place. They must not be changed.
func (f *file) read(off int64) ([]byte, error) {
	n := min(bufferSize, f.e.Size-off)
	if f.small != nil {
		return f.small[off : off+n], nil
	}
	data, err := f.content.Slice(off, int(n))
	if err == nil && len(data) == 0 || errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return nil, fmt.Errorf("read the snapshot: %w", err)
	}
	return data, nil
}

// attempt is one try. It reports whether bytes were written that none before has.
func (f *file) attempt(ctx context.Context) (progress bool, err error) {
	t := f.r.Target
	if f.named { // the answer may have been lost
		if now, err := t.Lstat(ctx, f.dst); err == nil && same(now, f.e) {
			if _, err := t.Lstat(ctx, f.temp); err != nil && pull.KindOf(err) == pull.KindNotFound {
				return false, nil
			}
		}
	}
	w, offset, err := f.begin(ctx)
	f.tried = true
	if err != nil {
		return false, err
	}
	defer w.Abort()
	f.r.Failpoint(FailpointBegun)
	f.progress(offset)
	unsynced := int64(0)
	for offset < f.e.Size {
		data, err := f.read(offset)
		if err != nil {
			return progress, err
		}
		if err := f.r.wait(ctx, len(data)); err != nil {
			return progress, err
		}
		if err := w.Write(ctx, data); err != nil {
			return progress, err
		}
		f.r.Failpoint(FailpointWritten)
		offset += int64(len(data))
		progress = progress || offset > f.best
		f.best = max(f.best, offset)
		unsynced += int64(len(data))
		f.r.Report.sent.Add(int64(len(data)))
		f.progress(offset)
		if unsynced >= syncEvery && offset < f.e.Size { // at the end Finish does it
			durable, err := w.Sync(ctx)
			if err != nil {
				return progress, err
			}
			unsynced, f.safe = 0, max(f.safe, durable)
		}
	}
	if err := f.finish(ctx, w); err != nil {
		return progress, err
	}
	f.r.Failpoint(FailpointFinished)
	f.named = true
	if err := t.Rename(ctx, f.temp, f.dst); err != nil {
		f.aside.ask = f.aside.ask || pull.KindOf(err) == pull.KindConnection
		return progress, err
	}
	f.r.Failpoint(FailpointRenamed)
	return progress, nil
}

// finish finishes the temporary file. It need not have all of its attributes, but for what would make it
// another user's program.
func (f *file) finish(ctx context.Context, w pull.Writer) error {
	want := f.r.attributes(f.e)
	err := w.Finish(ctx, want)
	if f.lacks = nil; errors.As(err, &f.lacks) && want.Mode&(fs.ModeSetuid|fs.ModeSetgid) == 0 {
		return nil
	}
	return err
}

// begin opens the temporary file: a new one, or behind what is right of one that is there.
func (f *file) begin(ctx context.Context) (pull.Writer, int64, error) {
	t := f.r.Target
	look := f.begun || f.tried || f.e.Size > smallFile && !f.fresh
	if !look {
		w, err := t.Create(ctx, f.temp, 0)
		if err == nil || pull.KindOf(err) == pull.KindConnection || ctx.Err() != nil {
			return w, 0, err
		}
		if _, lerr := t.Lstat(ctx, f.temp); lerr != nil {
			return nil, 0, err // it is not that it is there
		}
	}
	there, err := t.Lstat(ctx, f.temp)
	switch {
	case err != nil && (pull.KindOf(err) == pull.KindConnection || ctx.Err() != nil):
		return nil, 0, err
	case err != nil: // it is not there, or its creation says more
		w, err := t.Create(ctx, f.temp, 0)
		return w, 0, err
	case there.Type == pull.Dir, there.Type == pull.Special:
		return nil, 0, conflict(f.temp, "a directory or a device has the name of the temporary file")
	}
	if f.small == nil && there.Type == pull.File {
		offset, err := f.agreed(ctx, there.Size)
		if err != nil {
			return nil, 0, err
		}
		if offset > 0 {
			w, err := t.Create(ctx, f.temp, offset)
			if err == nil {
				if !f.tried {
					f.r.Report.resumed.Add(1)
				}
				return w, offset, nil
			}
			if pull.KindOf(err) == pull.KindConnection || ctx.Err() != nil {
				return nil, 0, err
			}
		}
	}
	f.safe = 0
	if err := t.Remove(ctx, f.temp, there.Type); err != nil && pull.KindOf(err) != pull.KindNotFound {
		return nil, 0, err
	}
	w, err := t.Create(ctx, f.temp, 0)
	return w, 0, err
}

// agreed compares a temporary file of so many bytes with the content, behind what is safe, and
// returns how many of its first bytes are right.
func (f *file) agreed(ctx context.Context, size int64) (int64, error) {
	if f.safe > size {
		f.safe = 0 // a server that promised too much
	}
	n, err := f.compare(ctx, f.temp, f.safe, size)
	var e *pull.Error
	if errors.As(err, &e) && e.Kind != pull.KindConnection {
		// It cannot be read, or a connection that was lost still writes to it: another one then.
		return 0, nil
	}
	return n, err
}

// compare reads a file of the destination from an offset on, and returns where it begins to
// differ: the lesser size when it does not.
func (f *file) compare(ctx context.Context, path string, offset, size int64) (_ int64, err error) {
	end := min(size, f.e.Size)
	if offset >= end {
		return end, nil
	}
	rd, err := f.r.Target.Open(ctx, path, offset, size-offset)
	if err != nil {
		return 0, err
	}
	defer func() {
		if cerr := rd.Close(); err == nil {
			err = cerr
		}
	}()
	got := make([]byte, bufferSize)
	for offset < end {
		want, err := f.read(offset)
		if err != nil {
			return 0, err
		}
		if err := f.r.wait(ctx, len(want)); err != nil {
			return 0, err
		}
		n, err := io.ReadFull(rd, got[:len(want)])
		if !bytes.Equal(got[:n], want[:n]) {
			for i := range n {
				if got[i] != want[i] {
					return offset + int64(i), nil
				}
			}
		}
		offset += int64(n)
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return offset, nil
		}
		if err != nil {
			return 0, err
		}
	}
	if end == size { // FTP says only then whether that was all
		if n, err := rd.Read(got[:1]); n == 0 && err != nil && !errors.Is(err, io.EOF) {
			return 0, err
		}
	}
	return end, nil
}
