package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"sync"
	"time"

	"github.com/snapgate/gateway/cmd/gateway/internal/control"
	"github.com/snapgate/gateway/snapshotter"
	"github.com/snapgate/gateway/vfs"
)

const (
	// importWorkers files are stored at the same time, so that they share syncs.
	importWorkers = 8
	// importBuffer is the size of one write.
	importBuffer = 256 << 10
	// importReport is the time between two lines of progress.
	importReport = time.Second
)

// imported is what an import did.
type imported struct {
	control.Import
	head snapshotter.ID // the share's head after it
}

// importer copies a local directory tree into a session.
type importer struct {
	session *vfs.Session
	commit  func(ctx context.Context) error // makes room in the spool
	report  func(control.Import) error      // called one at a time

	// room is held for reading while a file is stored, and for writing, for as long as a
	// commit and one file take, when the spool is full: then the others must wait.
	room sync.RWMutex

	mu       sync.Mutex // guards the rest, and calls of report; taken after room
	sum      control.Import
	reported time.Time
	gone     error // of report: nobody listens any more
}

// importFile is a file that waits for a worker.
type importFile struct {
	path string // in the share
	info fs.FileInfo
}

// importedDir is a directory whose times are set when everything below it is stored.
type importedDir struct {
	path string
	attr vfs.AttrSet
}

// run stores everything below dir. Files that cannot be read or stored are counted and
// reported; an error means that the whole import came to an end.
func (im *importer) run(ctx context.Context, dir string) (imported, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return imported{}, err
	}
	defer func() { _ = root.Close() }() // only read
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	im.reported = time.Now()

	files := make(chan importFile)
	var workers sync.WaitGroup
	for range importWorkers {
		workers.Go(func() {
			for f := range files {
				if im.file(ctx, root, f) != nil {
					cancel() // nobody listens any more
				}
			}
		})
	}
	var dirs []importedDir
	err = fs.WalkDir(root.FS(), ".", func(name string, d fs.DirEntry, err error) error {
		return im.visit(ctx, root, name, d, err, files, &dirs)
	})
	close(files)
	workers.Wait()
	if err == nil {
		err = im.dirTimes(ctx, dirs)
	}
	im.mu.Lock()
	defer im.mu.Unlock()
	if im.gone != nil {
		err = im.gone
	}
	return imported{Import: im.sum}, err
}

// visit handles one name of the walk.
func (im *importer) visit(ctx context.Context, root *os.Root, name string, d fs.DirEntry, err error, files chan<- importFile, dirs *[]importedDir) error {
	at := path.Join("/", name)
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err != nil {
		return im.problem(at, err) // a directory that cannot be listed
	}
	info, err := d.Info()
	if err != nil {
		return im.problem(at, err)
	}
	switch info.Mode().Type() {
	case fs.ModeDir:
		if name == "." {
			return nil
		}
		if err := im.dir(ctx, at, info); err != nil {
			if perr := im.problem(at, err); perr != nil {
				return perr
			}
			return fs.SkipDir
		}
		*dirs = append(*dirs, importedDir{at, attributes(info)})
		return nil
	case fs.ModeSymlink:
		same, err := im.symlink(ctx, root, name, at)
		return im.note(err, at, func(s *control.Import) {
			if same {
				s.Same++
			} else {
				s.Links++
			}
		})
	case 0:
		select {
		case files <- importFile{at, info}:
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return im.problem(at, errors.New("neither a file, a directory nor a symbolic link"))
}

// dir makes a directory, or takes one that is there.
func (im *importer) dir(ctx context.Context, at string, info fs.FileInfo) error {
	set := attributes(info)
	set.ModTime = nil // set at the end
	err := im.session.Mkdir(ctx, at, set)
	if err != nil && vfs.KindOf(err) == vfs.KindExist {
		have, serr := im.session.Lstat(ctx, at)
		if serr != nil || have.Type != vfs.TypeDir {
			return err
		}
		err = nil
	}
	if err == nil {
		im.count(func(s *control.Import) { s.Dirs++ })
	}
	return err
}

// symlink makes a symbolic link with the same target; one that is there is replaced when
// it differs.
func (im *importer) symlink(ctx context.Context, root *os.Root, name, at string) (same bool, err error) {
	target, err := root.Readlink(name)
	if err != nil {
		return false, err
	}
	err = im.session.Symlink(ctx, target, at)
	if err == nil || vfs.KindOf(err) != vfs.KindExist {
		return false, err
	}
	have, rerr := im.session.Readlink(ctx, at)
	switch {
	case rerr != nil:
		return false, err // not a link: a user's file is not taken away
	case have == target:
		return true, nil
	}
	if err := im.session.Remove(ctx, at); err != nil {
		return false, err
	}
	return false, im.session.Symlink(ctx, target, at)
}

// file stores one file. When the spool is full it has the share committed and tries again.
func (im *importer) file(ctx context.Context, root *os.Root, f importFile) error {
	have, err := im.session.Lstat(ctx, f.path)
	isNew := err != nil && vfs.KindOf(err) == vfs.KindNotExist
	if err == nil && have.Type == vfs.TypeFile && have.Size == f.info.Size() && sameTime(have.ModTime, f.info.ModTime()) {
		im.count(func(s *control.Import) { s.Same++ })
		return im.progress()
	}
	im.room.RLock()
	n, err := im.copy(ctx, root, f, isNew)
	im.room.RUnlock()
	if err != nil && ctx.Err() == nil && vfs.KindOf(err) == vfs.KindNoSpace {
		n, err = im.alone(ctx, root, f, isNew)
	}
	return im.note(err, f.path, func(s *control.Import) { s.Files++; s.Bytes += n })
}

// alone makes room by a commit and stores a file while nothing else is under way.
func (im *importer) alone(ctx context.Context, root *os.Root, f importFile, isNew bool) (int64, error) {
	im.room.Lock()
	defer im.room.Unlock()
	if err := im.commit(ctx); err != nil {
		return 0, err
	}
	return im.copy(ctx, root, f, isNew)
}

// sameTime compares times as coarsely as the live tree keeps them: to the second at least.
func sameTime(a, b time.Time) bool { return a.Unix() == b.Unix() }

// copy stores the bytes and attributes of one file.
func (im *importer) copy(ctx context.Context, root *os.Root, f importFile, isNew bool) (n int64, err error) {
	src, err := root.Open(f.path[1:])
	if err != nil {
		return 0, err
	}
	defer func() { _ = src.Close() }() // only read
	set := attributes(f.info)
	dst, err := im.session.Open(ctx, f.path, vfs.OpenWrite|vfs.OpenCreate|vfs.OpenTruncate, vfs.AttrSet{Mode: set.Mode, UID: set.UID, GID: set.GID})
	if err != nil {
		return 0, err
	}
	n, err = io.CopyBuffer(io.NewOffsetWriter(dst, 0), onlyReader{ctx, src}, make([]byte, importBuffer))
	if err == nil {
		err = dst.SetAttr(ctx, set)
	}
	if err == nil {
		err = dst.Close()
	} else {
		err = errors.Join(err, dst.Abort())
	}
	if err != nil && isNew {
		// Nobody will resume what is left of it, and it would fill the spool for days.
		_ = im.session.Remove(context.WithoutCancel(ctx), f.path) // there may be nothing
	}
	return n, err
}

// onlyReader hides that a file can write itself elsewhere, and ends with its context.
type onlyReader struct {
	ctx context.Context //nolint:containedctx // lives as long as one copy
	r   io.Reader
}

func (r onlyReader) Read(p []byte) (int, error) {
	if r.ctx.Err() != nil {
		return 0, context.Cause(r.ctx)
	}
	return r.r.Read(p)
}

// dirTimes sets the attributes of directories, the deepest first.
func (im *importer) dirTimes(ctx context.Context, dirs []importedDir) error {
	for i := len(dirs) - 1; i >= 0; i-- {
		if err := im.session.SetAttr(ctx, dirs[i].path, dirs[i].attr, false); err != nil {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			if perr := im.problem(dirs[i].path, err); perr != nil {
				return perr
			}
		}
	}
	return nil
}

// note counts a success, or reports a problem.
func (im *importer) note(err error, at string, count func(*control.Import)) error {
	if err != nil {
		return im.problem(at, err)
	}
	im.count(count)
	return im.progress()
}

func (im *importer) count(f func(*control.Import)) {
	im.mu.Lock()
	defer im.mu.Unlock()
	f(&im.sum)
}

// progress reports the counts when it is time.
func (im *importer) progress() error {
	im.mu.Lock()
	defer im.mu.Unlock()
	if im.gone == nil && time.Since(im.reported) >= importReport {
		im.reported = time.Now()
		im.gone = im.report(im.sum)
	}
	return im.gone
}

// problem reports a name that is left out.
func (im *importer) problem(at string, err error) error {
	im.mu.Lock()
	defer im.mu.Unlock()
	im.sum.Failed++
	if im.gone == nil {
		line := im.sum
		line.Path, line.Problem = at, problemText(err)
		im.gone = im.report(line)
	}
	return im.gone
}

// problemText leaves out the path that a path error repeats.
func problemText(err error) string {
	var pe *fs.PathError
	if errors.As(err, &pe) {
		return fmt.Sprintf("%s: %v", pe.Op, pe.Err)
	}
	return err.Error()
}
