package backend

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"time"

	"github.com/pkg/sftp"
)

// sftpCleanTimeout bounds tidying up after a failed Put.
const sftpCleanTimeout = 5 * time.Second

// errSize means that the server has another number of bytes than were sent.
var errSize = errors.New("the server has not all that was written")

// sourceError is an error of what is to be put: the connection is well.
type sourceError struct{ err error }

func (e *sourceError) Error() string { return e.err.Error() }
func (e *sourceError) Unwrap() error { return e.err }

// source is what is to be put.
type source struct {
	ctx   context.Context //nolint:containedctx // of the Put that it belongs to
	rd    io.Reader
	n     int64
	alive func()
	err   error
}

func (s *source) Read(p []byte) (int, error) {
	if err := s.ctx.Err(); err != nil {
		s.err = err
		return 0, &sourceError{err}
	}
	s.alive()
	n, err := s.rd.Read(p)
	s.n += int64(n)
	if err != nil && err != io.EOF { // a cause that is one is no end of the source
		s.err = err
		err = &sourceError{err}
	}
	return n, err
}

// Put implements Files. Until the temporary file is open, it may be tried again; nothing of rd
// has been read then.
func (s *SFTP) Put(ctx context.Context, name string, rd io.Reader) (int64, error) {
	src := &source{ctx: ctx, rd: rd}
	dir := dirOf(name)
	if dir == LocksDir {
		dir = "" // plakar's connector fails when it finds anything else among locks
	}
	tmp := s.tmpName(dir)
	err := s.openTmp(ctx, name, tmp)
	if err == nil {
		err = s.call(ctx, false, func(c *sftp.Client, alive func()) error {
			src.alive = alive
			return s.write(c, src, tmp, name)
		})
	}
	if err == nil && dirOf(name) != LocksDir {
		err = s.call(ctx, true, func(c *sftp.Client, _ func()) error { return s.syncName(c, name) })
	}
	if err == nil {
		return src.n, nil
	}
	if src.err != nil {
		err = src.err
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), sftpCleanTimeout)
	defer cancel()
	// What stays is left to Sweep. The error that led here says more.
	_ = s.call(ctx, true, func(c *sftp.Client, _ func()) error {
		if !replaces(c) {
			if err := s.putBack(c, name); isBroken(err) {
				return err
			}
		}
		return c.Remove(s.path(tmp))
	})
	return src.n, fmt.Errorf("put %s: %w", name, err)
}

// openTmp makes the temporary file.
func (s *SFTP) openTmp(ctx context.Context, name, tmp string) error {
	open := func() error {
		return s.call(ctx, true, func(c *sftp.Client, _ func()) error {
			f, err := c.OpenFile(s.path(tmp), os.O_WRONLY|os.O_CREATE)
			if err != nil {
				return err
			}
			return errors.Join(ignoreModeRefused(f.Chmod(0o600)), f.Close())
		})
	}
	err := open()
	if !errors.Is(err, fs.ErrNotExist) || name == ConfigName {
		return err
	}
	// Copying a store may drop empty directories; see Local. The store itself must be there.
	if _, err := s.Stat(ctx, ConfigName); err != nil {
		return err
	}
	err = s.call(ctx, true, func(c *sftp.Client, _ func()) error { return c.MkdirAll(s.path(dirOf(name))) })
	if err != nil {
		return err
	}
	return open()
}

// write fills the temporary file and gives it its name.
func (s *SFTP) write(c *sftp.Client, src *source, tmp, name string) error {
	f, err := c.OpenFile(s.path(tmp), os.O_WRONLY)
	if err != nil {
		return err
	}
	err = s.fill(c, f, src, dirOf(name) != LocksDir)
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	src.alive()
	if err := src.ctx.Err(); err != nil {
		return &sourceError{err}
	}
	err = s.rename(c, tmp, name)
	if dirOf(name) != LocksDir || !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	// The directory is missing, as in openTmp.
	if _, err := c.Stat(s.path(ConfigName)); err != nil {
		return err
	}
	if err := c.MkdirAll(s.path(LocksDir)); err != nil {
		return err
	}
	return s.rename(c, tmp, name)
}

// syncName has the server write to its disk that a file has its name, which is not so when a rename is answered.
// SFTP opens no directories. On the file systems that servers have (ext4, XFS, Btrfs, ZFS) what is known of a
// file's name goes with the file.
func (s *SFTP) syncName(c *sftp.Client, name string) error {
	if _, ok := c.HasExtension(extSync); !ok {
		return nil
	}
	err := s.syncBy(c, name, os.O_RDONLY)
	if err != nil && !isBroken(err) { // Windows flushes only what is open for writing
		if werr := s.syncBy(c, name, os.O_WRONLY); werr == nil || isBroken(werr) {
			return werr
		}
	}
	return err
}

func (s *SFTP) syncBy(c *sftp.Client, name string, flags int) error {
	f, err := c.OpenFile(s.path(name), flags)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

func (s *SFTP) fill(c *sftp.Client, f *sftp.File, src *source, durable bool) error {
	if _, err := f.ReadFromWithConcurrency(src, sftpRequests); err != nil {
		return err
	}
	if src.err != nil { // pkg/sftp takes an io.EOF anywhere in an error's chain for the end
		return &sourceError{src.err}
	}
	// Writes go beside each other: one that went missing leaves a hole, or a short end.
	fi, err := f.Stat()
	if err != nil {
		return err
	}
	if fi.Size() != src.n {
		return fmt.Errorf("%w: %d bytes of %d", errSize, fi.Size(), src.n)
	}
	if _, ok := c.HasExtension(extSync); ok && durable {
		src.alive()
		return f.Sync()
	}
	return nil
}
