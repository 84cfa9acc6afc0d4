package sshsrv

import (
	"context"
	"io"
	"log/slog"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/snapgate/gateway/vfs"
)

// file is an open file; *vfs.File, or a double in tests.
type file interface {
	io.ReaderAt
	io.WriterAt
	Stat(ctx context.Context) (vfs.Info, error)
	SetAttr(ctx context.Context, set vfs.AttrSet) error
	Sync(ctx context.Context) error
	// CloseContext publishes an upload. A wait for its snapshot ends with ctx.
	CloseContext(ctx context.Context) error
	Abort() error // ends the handle; an upload becomes a partial
}

// openFile is a handle of a client: a file, or a directory that is listed. pkg/sftp calls
// ReadAt and WriteAt from several goroutines, then Close, after TransferError when the
// session ended with the handle open.
type openFile struct {
	name        string // the client's own bytes
	read, write bool
	file        file
	dir         *dirLister      // a directory; then file is nil
	ctx         context.Context //nolint:containedctx // pkg/sftp's Close is not given one; ends with the connection
	log         *slog.Logger
	count       *counters

	failed atomic.Pointer[statusError] // the first WRITE, or change of the size, that failed

	mu    sync.Mutex // guards ended
	ended bool
}

// ReadAt implements io.ReaderAt.
func (f *openFile) ReadAt(p []byte, off int64) (n int, err error) {
	defer recovered(f.log, "read", &err)
	if off < 0 {
		return 0, kindError(vfs.KindInvalid) // beyond 2^63, EINVAL of lseek(2)
	}
	n, err = f.file.ReadAt(p, off)
	f.count.read.Add(int64(n))
	if n > 0 && err == io.EOF { //nolint:errorlint // the contract of io.ReaderAt
		err = nil
	}
	return n, report(f.log, f.count, "read", f.name, err)
}

// WriteAt implements io.WriterAt.
func (f *openFile) WriteAt(p []byte, off int64) (n int, err error) {
	defer f.noteFailure(&err)
	defer recovered(f.log, "write", &err)
	if off < 0 {
		return 0, kindError(vfs.KindInvalid)
	}
	n, err = f.file.WriteAt(p, off)
	f.count.written.Add(int64(n))
	return n, report(f.log, f.count, "write", f.name, err)
}

func (f *openFile) noteFailure(err *error) {
	if *err == nil {
		return
	}
	code, text := statusCode(*err)
	f.failed.CompareAndSwap(nil, &statusError{code, text})
}

// Close ends the handle because the client closed it: an upload is published. One of
// which a WRITE or a change of the size failed is not: clients close after a failure, too,
// and what is there is not what they meant.
func (f *openFile) Close() (err error) {
	if !f.end() {
		return nil
	}
	defer recovered(f.log, "close", &err)
	if f.dir != nil {
		return report(f.log, f.count, "close", f.name, f.dir.Close())
	}
	if failed := f.failed.Load(); failed != nil {
		_ = report(f.log, f.count, "abort", f.name, f.file.Abort()) // the failure itself is told below
		return failed
	}
	if err := f.file.CloseContext(f.ctx); err != nil {
		return report(f.log, f.count, "close", f.name, err)
	}
	if f.write {
		f.count.uploaded.Add(1)
	}
	return nil
}

// TransferError ends the handle because the session ended before the client closed it:
// an upload becomes a partial. pkg/sftp calls it before Close, which then does nothing.
func (f *openFile) TransferError(cause error) {
	if !f.end() {
		return
	}
	var err error
	defer recovered(f.log, "abort", &err)
	if f.dir != nil {
		err = f.dir.Close()
	} else {
		if f.write {
			f.count.aborted.Add(1)
			f.log.Info("upload cut off", "path", f.name, "cause", cause)
		}
		err = f.file.Abort()
	}
	_ = report(f.log, f.count, "abort", f.name, err) // logged; there is nobody to tell
}

// end reports whether the caller is the first to end the handle.
func (f *openFile) end() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	first := !f.ended
	f.ended = true
	return first
}

// recovered turns a panic into a failure. It is deferred in every method that pkg/sftp
// calls: there a panic would end the process.
func recovered(log *slog.Logger, op string, err *error) {
	if r := recover(); r != nil {
		log.Error("panic", "op", op, "value", r, "stack", string(debug.Stack()))
		*err = kindError(vfs.KindOther)
	}
}

// report logs an error that an operator should see and makes it a status. A client that
// goes on and on while the disk is full must not fill it with log lines.
func report(log *slog.Logger, count *counters, op, path string, err error) error {
	if err == nil {
		return nil
	}
	st := toStatus(err)
	if code, _ := statusCode(st); code == statusFailure && internal(vfs.KindOf(err)) && count.failure() {
		log.Warn("operation failed", "op", op, "path", path, "err", err)
	} else if code != statusEOF {
		log.Debug("operation refused", "op", op, "path", path, "err", err)
	}
	return st
}

// internal reports whether an operator should see errors of a kind: those that are not the client's doing, and
// refusals of which OpenSSH's client, which has a code alone, says no more than "Failure".
func internal(kind vfs.Kind) bool {
	switch kind {
	case vfs.KindOther, vfs.KindNoSpace, vfs.KindUnavailable, vfs.KindDisk, vfs.KindTimeout, vfs.KindTooMany, vfs.KindTorn, vfs.KindQuota:
		return true
	default:
		return false
	}
}

// counters are what a session did.
type counters struct {
	read, written atomic.Int64 // bytes
	files         atomic.Int64 // opened
	uploaded      atomic.Int64 // published by a CLOSE
	aborted       atomic.Int64 // uploads that were cut off
	failures      atomic.Int64 // operations that failed, of which an operator should know
	lastFailure   atomic.Int64 // Unix time in nanoseconds when one was logged
}

// A session's failures are logged one by one at first, then one in a while.
const (
	loggedFailures  = 10
	failureInterval = time.Second
)

// failure counts a failure and reports whether it is to be logged.
func (c *counters) failure() bool {
	n, now, last := c.failures.Add(1), time.Now(), c.lastFailure.Load()
	return n <= loggedFailures || now.UnixNano()-last >= int64(failureInterval) && c.lastFailure.CompareAndSwap(last, now.UnixNano())
}
