package snapshotter

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"path"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/PlakarKorp/kloset/connectors"
	"github.com/PlakarKorp/kloset/location"
	"github.com/PlakarKorp/kloset/objects"
	"github.com/PlakarKorp/kloset/resources"
	"github.com/PlakarKorp/kloset/snapshot/header"
)

// mergePage is how many entries of a base directory are held at a time.
const mergePage = 512

// merge is a kloset importer that plays the tree which a base and changes to it make.
type merge struct {
	//nolint:containedctx // Import gets kloset's context, which is never cancelled
	ctx      context.Context
	s        *Snapshotter
	importer header.Importer
	base     *snapTree // nil: the empty tree
	now      time.Time
	changes  iter.Seq2[Change, error]
	// failed says that the commit has failed elsewhere and playing on is pointless.
	failed func() error
	damage *damage // what base may have lost; nil for nothing
	// failures are noted as kloset does it; counted is how many of them summaries have.
	failures *failures
	counted  atomic.Uint64

	records chan<- *connectors.Record
	pending sync.WaitGroup // records that are being worked on
	next    func() (Change, error, bool)
	change  *Change // the next one, nil at the end
	last    string  // the path of the last one taken

	mu  sync.Mutex
	err error // guarded by mu: the first error of a content reader

	// exists reports whether the store has a blob, or this commit has written it.
	exists  func(resources.Type, objects.MAC) bool
	missing missing

	files, dirs, others atomic.Uint64 // what was played
}

// Origin, Type, Root, Flags, Ping and Close are kloset's importer.Importer.
func (m *merge) Origin() string              { return m.importer.Origin }
func (m *merge) Type() string                { return m.importer.Type }
func (m *merge) Root() string                { return m.importer.Directory }
func (m *merge) Flags() location.Flags       { return 0 }
func (m *merge) Ping(context.Context) error  { return nil }
func (m *merge) Close(context.Context) error { return nil }

// Import plays the tree. It returns after everything that it sent was worked on, so that
// nothing of a failed commit is left running.
func (m *merge) Import(_ context.Context, records chan<- *connectors.Record, _ <-chan *connectors.Result) error {
	defer m.pending.Wait()
	defer close(records)
	m.records = records
	next, stop := iter.Pull2(m.changes)
	defer stop()
	m.next = next
	if err := m.advance(); err != nil {
		return err
	}
	if err := m.root(); err != nil {
		return err
	}
	if err := m.note(); err != nil {
		return err
	}
	if err := m.missing.err(); err != nil {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.err = cmp.Or(m.err, err)
		return err
	}
	if m.change != nil {
		return fmt.Errorf("change %q: out of order or below something that is not a directory", m.change.Path)
	}
	return nil
}

// advance takes the next change.
func (m *merge) advance() error {
	c, err, ok := m.next()
	if err != nil {
		return fmt.Errorf("changes: %w", err)
	}
	m.change = nil
	if !ok {
		return nil
	}
	if err := checkOrder(m.last, c.Path); err != nil {
		return err
	}
	m.last = c.Path
	m.change = &c
	return nil
}

// checkOrder refuses the path of a change that is not canonical or does not come after the
// last one ("" for none).
func checkOrder(last, p string) error {
	if !strings.HasPrefix(p, "/") || path.Clean(p) != p {
		return fmt.Errorf("change %q: %w path", p, fs.ErrInvalid)
	}
	if last != "" && comparePaths(last, p) >= 0 {
		return fmt.Errorf("change %q: %w: it comes after %q", p, fs.ErrInvalid, last)
	}
	return nil
}

// comparePaths orders paths depth first, siblings by the bytes of their names: a
// separator sorts before everything that a name may contain.
func comparePaths(a, b string) int {
	if a == "/" || b == "/" {
		return len(a) - len(b)
	}
	for i := 0; i < len(a) && i < len(b); i++ {
		switch {
		case a[i] == b[i]:
		case a[i] == '/':
			return -1
		case b[i] == '/':
			return 1
		default:
			return int(a[i]) - int(b[i])
		}
	}
	return len(a) - len(b)
}

func (m *merge) root() error {
	if c := m.change; c != nil && c.Path == "/" {
		if c.Kind != Dir {
			return fmt.Errorf("change %q: %w: the root stays a directory", c.Path, fs.ErrInvalid)
		}
		change := *c
		if err := m.advance(); err != nil {
			return err
		}
		return m.changedDir(&change)
	}
	if m.base == nil {
		return m.changedDir(&Change{Path: "/", Kind: Dir, Attr: Attr{Mode: 0o755, ModTime: m.now}})
	}
	e, err := m.base.lookup("/")
	if err != nil {
		return fmt.Errorf("base: %w", err)
	}
	return m.stored("/", "/", e)
}

// child returns the name below dir that the next change is at or below, and whether it is
// at it; "" when the next change is not below dir.
func (m *merge) child(dir string) (name string, direct bool) {
	if m.change == nil {
		return "", false
	}
	return childOf(dir, m.change.Path)
}

// childOf returns the name below dir that p is at or below, and whether it is at it; ""
// when p is not below dir.
func childOf(dir, p string) (name string, direct bool) {
	rest, ok := strings.CutPrefix(p, below(dir))
	if !ok || rest == "" {
		return "", false
	}
	name, _, deeper := strings.Cut(rest, "/")
	return name, !deeper
}

// below returns what the paths below a directory begin with.
func below(dir string) string {
	if dir == "/" {
		return dir
	}
	return dir + "/"
}

// note plays the failures.
func (m *merge) note() error {
	for _, f := range m.failures.list {
		rec := connectors.NewError(f.Path, errors.New(f.Text))
		rec.Reader = &content{m: m}
		if err := m.hand(rec); err != nil {
			return err
		}
	}
	return nil
}

// children plays what is below dir: the entries of the base directory from ("" for none)
// with the changes applied.
func (m *merge) children(dir, from string) error {
	m.counted.Add(m.failures.in[dir])
	base := &dirCursor{tree: m.base, dir: from, end: from == "" || m.base == nil, damage: m.damage}
	e, err := base.next()
	if err != nil {
		return err
	}
	for {
		name, direct := m.child(dir)
		if e == nil && name == "" {
			return nil
		}
		if name == "" || e != nil && e.Name() < name { // untouched
			if err := m.stored(below(dir)+e.Name(), below(from)+e.Name(), e); err != nil {
				return err
			}
			if e, err = base.next(); err != nil {
				return err
			}
			continue
		}
		var here *storedEntry // what the base has under that name
		if e != nil && e.Name() == name {
			here = e
			if e, err = base.next(); err != nil {
				return err
			}
		}
		if err := m.touched(dir, from, name, direct, here); err != nil {
			return err
		}
	}
}

// touched plays the name below dir that the next change is at (direct) or below.
func (m *merge) touched(dir, from, name string, direct bool, here *storedEntry) error {
	if direct {
		c := *m.change
		if err := m.advance(); err != nil {
			return err
		}
		return m.changed(&c)
	}
	if here == nil && m.damage != nil {
		// The directory itself is lost, and what is new in it is not.
		return m.changedDir(&Change{Path: below(dir) + name, Kind: Dir, Attr: Attr{Mode: 0o755, ModTime: m.now}})
	}
	if here == nil || !here.IsDir() {
		return fmt.Errorf("change %q: %w: above it is no directory", m.change.Path, fs.ErrInvalid)
	}
	return m.stored(below(dir)+name, below(from)+name, here)
}

// changed plays a change and, for a directory, what is below it.
func (m *merge) changed(c *Change) error {
	switch c.Kind {
	case Removed:
		return nil
	case Dir:
		return m.changedDir(c)
	case File:
		return m.changedFile(c)
	case Symlink:
		fi := fileInfo(c, fs.ModeSymlink, int64(len(c.Target)))
		if c.Target == "" {
			return fmt.Errorf("%w: symbolic link to nothing", fs.ErrInvalid)
		}
		m.others.Add(1)
		return m.send(&connectors.Record{Pathname: c.Path, FileInfo: fi, Target: c.Target}, nil)
	}
	return fmt.Errorf("%w: kind %d", fs.ErrInvalid, c.Kind)
}

func (m *merge) changedDir(c *Change) error {
	if c.From != "" {
		if m.base == nil {
			return fmt.Errorf("%w: taken from %q of an empty base", fs.ErrInvalid, c.From)
		}
		e, err := m.base.lookup(c.From)
		if err != nil && !m.damage.concerns(err) { // or its entries may still be there
			return fmt.Errorf("base %q: %w", c.From, err)
		}
		if err == nil && !e.IsDir() {
			return fmt.Errorf("base %q: %w: not a directory", c.From, fs.ErrInvalid)
		}
	}
	m.dirs.Add(1)
	if err := m.send(&connectors.Record{Pathname: c.Path, FileInfo: fileInfo(c, fs.ModeDir, 0)}, nil); err != nil {
		return err
	}
	return m.children(c.Path, c.From)
}

func (m *merge) changedFile(c *Change) error {
	if c.Stored != nil {
		if f := m.s.unsealed(c.Path, c.Stored, m.exists); f != nil {
			m.files.Add(1)
			rec := &connectors.Record{Pathname: c.Path, FileInfo: fileInfo(c, 0, f.size)}
			return m.send(rec, func() (io.ReadCloser, error) { return readAll(newReader(m.s.chunks, f.obj)), nil })
		}
		if c.Content == nil {
			m.missing.add(c.Path)
			return nil
		}
	}
	if c.Content != nil {
		m.files.Add(1)
		rec := &connectors.Record{Pathname: c.Path, FileInfo: fileInfo(c, 0, c.Content.Size())}
		return m.send(rec, func() (io.ReadCloser, error) { return c.Content.Open(m.ctx) })
	}
	if m.base == nil || c.From == "" {
		return fmt.Errorf("%w: file without content", fs.ErrInvalid)
	}
	e, err := m.base.lookup(c.From)
	if m.damage.concerns(err) {
		m.damage.note(c.Path)
		return nil
	}
	if err != nil {
		return fmt.Errorf("base %q: %w", c.From, err)
	}
	if !e.FileInfo.Mode().IsRegular() {
		return fmt.Errorf("base %q: %w: not a file", c.From, fs.ErrInvalid)
	}
	if lost, err := m.damage.lost(c.Path, e); lost || err != nil {
		return err
	}
	m.files.Add(1)
	fi := fileInfo(c, 0, e.Size())
	return m.send(&connectors.Record{Pathname: c.Path, FileInfo: fi}, m.opener(e))
}

// stored plays an entry of the base as it is, and what is below it with the changes there.
func (m *merge) stored(p, from string, e *storedEntry) error {
	fi := e.FileInfo
	fi.Lname = path.Base(p)
	rec := &connectors.Record{Pathname: p, FileInfo: fi, Target: e.SymlinkTarget}
	switch {
	case fi.Lmode.IsDir():
		m.dirs.Add(1)
		if err := m.send(rec, nil); err != nil {
			return err
		}
		return m.children(p, from)
	case fi.Lmode.IsRegular():
		if lost, err := m.damage.lost(p, e); lost || err != nil {
			return err
		}
		m.files.Add(1)
		return m.send(rec, m.opener(e))
	}
	m.others.Add(1)
	return m.send(rec, nil)
}

func (m *merge) opener(e *storedEntry) func() (io.ReadCloser, error) {
	return func() (io.ReadCloser, error) {
		r, err := m.base.open(e)
		if err != nil {
			return nil, err
		}
		return readAll(r), nil
	}
}

// readAll reads a stored file from its beginning to its end.
func readAll(r *Reader) io.ReadCloser {
	return struct {
		io.Reader
		io.Closer
	}{io.NewSectionReader(r, 0, r.Size()), r}
}

// send hands a record to the Builder, which asks open for the bytes of a file if it does
// not know them already.
func (m *merge) send(rec *connectors.Record, open func() (io.ReadCloser, error)) error {
	if len(rec.Pathname) > 1 && rec.Pathname[1] == 0xff {
		// The Builder lists paths below "/" up to "/\xff" and would leave this one out.
		return fmt.Errorf("%q: %w: kloset cannot keep a name at the root that begins with byte 0xff", rec.Pathname, fs.ErrInvalid)
	}
	if err := errors.Join(m.ctx.Err(), m.failed(), m.contentError()); err != nil {
		return err
	}
	rec.Reader = &content{m: m, path: rec.Pathname, open: open, size: rec.FileInfo.Lsize}
	return m.hand(rec)
}

// hand hands over a record, whose Reader ends the work on it.
func (m *merge) hand(rec *connectors.Record) error {
	m.pending.Add(1)
	select {
	case m.records <- rec:
		return nil
	case <-m.ctx.Done():
		m.pending.Done()
		return m.ctx.Err()
	}
}

func (m *merge) contentError() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.err
}

func (m *merge) contentFailed(path string, err error) error {
	err = fmt.Errorf("content of %q: %w", path, err)
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.err == nil {
		m.err = err
	}
	return err
}

// fileInfo makes the attributes of a changed entry. The version becomes the inode number.
func fileInfo(c *Change, typ fs.FileMode, size int64) objects.FileInfo {
	return objects.NewFileInfo(path.Base(c.Path), size, typ|c.Attr.Mode&permBits, c.Attr.ModTime.UTC(),
		0, c.Version, uint64(c.Attr.UID), uint64(c.Attr.GID), 1)
}

// content reads the bytes of one file for the Builder. It opens them when they are first
// asked for, insists on the announced size, and remembers errors: the Builder notes an
// unreadable file in the snapshot and goes on.
type content struct {
	m    *merge
	path string
	open func() (io.ReadCloser, error)
	size int64

	rd   io.ReadCloser
	read int64
	err  error
}

func (c *content) Read(p []byte) (int, error) {
	if c.err != nil {
		return 0, c.err
	}
	n, err := c.tryRead(p)
	c.read += int64(n)
	switch {
	case c.read > c.size, errors.Is(err, io.EOF) && c.read < c.size:
		err = fmt.Errorf("%d bytes announced, %d or more read: %w", c.size, c.read, io.ErrUnexpectedEOF)
		c.err = c.m.contentFailed(c.path, err)
	case errors.Is(err, io.EOF):
		c.err = io.EOF
	case err != nil:
		c.err = c.m.contentFailed(c.path, err)
	}
	return n, c.err
}

func (c *content) tryRead(p []byte) (int, error) {
	if c.rd == nil {
		if c.open == nil {
			return 0, io.EOF
		}
		if err := c.m.ctx.Err(); err != nil {
			return 0, err
		}
		rd, err := c.open()
		if err != nil {
			return 0, err
		}
		c.rd = rd
	}
	return c.rd.Read(p)
}

// Close ends the work on the record.
func (c *content) Close() error {
	defer c.m.pending.Done()
	if c.rd == nil {
		return nil
	}
	return c.rd.Close()
}

// dirCursor goes through a base directory page by page.
type dirCursor struct {
	tree *snapTree
	dir  string
	page []*storedEntry
	last string
	end  bool // nothing comes after page

	damage *damage
	scan   bool // by the index of paths: the dirpack is lost
}

// readPage reads what comes after the last entry. Of a directory that is lost it gives what
// can be read.
func (c *dirCursor) readPage() (page []*storedEntry, err error) {
	if !c.scan {
		page, err = c.tree.readDir(c.dir, c.last, mergePage)
		c.scan = c.damage.concerns(err)
	}
	if c.scan {
		page, err = c.tree.scanDir(c.dir, c.last, mergePage)
	}
	if c.damage.concerns(err) {
		c.damage.note(c.dir)
		return nil, nil
	}
	return page, err
}

// next returns the next entry, nil at the end.
func (c *dirCursor) next() (*storedEntry, error) {
	if len(c.page) == 0 {
		if c.end {
			return nil, nil
		}
		page, err := c.readPage()
		if err != nil {
			return nil, fmt.Errorf("base %q: %w", c.dir, err)
		}
		c.page, c.end = page, len(page) < mergePage
		if len(page) == 0 {
			return nil, nil
		}
	}
	e := c.page[0]
	c.page, c.last = c.page[1:], e.Name()
	return e, nil
}
