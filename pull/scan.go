package pull

import (
	"container/heap"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"sync"
	"sync/atomic"
)

const (
	// defaultScanMemory is the weight of the entries that are held in memory: 40 MB.
	defaultScanMemory = 200_000
	// defaultScanDepth bounds paths: PATH_MAX allows no more than 2,048, and what goes deeper
	// than this is a loop on the server, as a rule.
	defaultScanDepth = 256
	// defaultScanNames bounds one directory: five times what the largest in use have.
	defaultScanNames = 10_000_000
	// defaultScanEntries bounds the tree: ten times what large servers have. With more the server
	// makes them up, or shows the same directories again and again.
	defaultScanEntries = 100_000_000
	// maxScanPath bounds the paths of directories that are listed: twice PATH_MAX.
	maxScanPath = 8192
	// maxScanWorkers is how many directories are listed at a time.
	maxScanWorkers = 64
	// scanWindow is the weight of the entries of a directory that are looked at for directories
	// below it that can be listed meanwhile.
	scanWindow = 1024
	// maxDirProblems is how many entries of one directory are told as problems one by one.
	maxDirProblems = 1000
)

// ScanConfig says how Scan works. Report is needed; the rest has defaults.
type ScanConfig struct {
	Exclude *Exclude
	Retry   Retry
	Report  *Report
	// Partial goes on when the connection is lost for good: what was not listed is a
	// problem each.
	Partial bool
	Memory  int    // entries held in memory, of about 200 bytes each; 0 for 200,000
	Depth   int    // of directories below the root; 0 for 256
	Names   int    // of one directory; 0 for ten million
	Entries int64  // of the whole tree; 0 for a hundred million
	TempDir string // for long listings; "" for the system's
}

// Item is an entry of a tree.
type Item struct {
	Path  string
	Entry Entry // never with Err, never Special
	// Whole says of a Dir that everything in it is known: what Scan does not yield is not
	// there, or excluded.
	Whole bool
}

// Scan lists the tree of a remote, many directories at a time, and yields it in the order of
// a commit: depth first, a directory before what is in it, siblings in byte order of their
// names. It ends with an error of the root, also one of listing it that has shown nothing, of ctx, of the local
// disk, when there are more than cfg.Entries (ErrEndless), or, unless
// cfg.Partial, when the connection is lost for good; every other failure is a Problem of the
// report, also that of a directory whose listing breaks each connection while others can be made.
// Memory is bounded by cfg.Memory, not by the tree.
func Scan(ctx context.Context, r Remote, cfg ScanConfig) iter.Seq2[Item, error] {
	return func(yield func(Item, error) bool) {
		if err := scan(ctx, r, cfg, func(i Item) bool { return yield(i, nil) }); err != nil {
			yield(Item{}, err)
		}
	}
}

func scan(ctx context.Context, r Remote, cfg ScanConfig, yield func(Item) bool) error {
	cfg.Retry = cfg.Retry.Watching(r)
	s := &scanner{r: r, cfg: cfg, files: map[*os.File]struct{}{}}
	for p, value := range map[*int]int{&s.cfg.Memory: defaultScanMemory, &s.cfg.Depth: defaultScanDepth, &s.cfg.Names: defaultScanNames} {
		if *p <= 0 {
			*p = value
		}
	}
	if s.cfg.Entries <= 0 {
		s.cfg.Entries = defaultScanEntries
	}
	s.wakeup = sync.NewCond(&s.mu)
	var caps Capabilities
	root := Entry{}
	err := cfg.Retry.Do(ctx, func() (_ bool, err error) {
		if caps, err = r.Capabilities(ctx); err != nil {
			return false, err
		}
		root, err = r.Lstat(ctx, "/")
		return false, err
	})
	if err == nil && root.Type != Dir {
		err = fail("list", "/", KindConflict, ErrNotDirectory)
	}
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer func() {
		cancel()
		s.stop()
		wg.Wait()
		for f := range s.files {
			_ = f.Close()
		}
	}()
	for range min(max(caps.Parallel, 1), maxScanWorkers) {
		wg.Go(func() { s.work(ctx) })
	}
	stop := context.AfterFunc(ctx, s.stop)
	defer stop()
	return s.walk(ctx, root, yield)
}

// scanner is a scan under way: workers list directories, and one goroutine walks over what
// they have listed.
type scanner struct {
	r   Remote
	cfg ScanConfig

	entries atomic.Int64 // of all listings so far

	mu      sync.Mutex // guards what follows
	wakeup  *sync.Cond // on mu: the workers wait
	queue   scanQueue
	held    int      // weight of the entries in memory
	wanted  *scanDir // what the walk waits for; it is listed also when too much is held
	stopped bool
	gone    error // Partial: the connection is lost for good, nothing more is tried
	files   map[*os.File]struct{}
}

// scanDir is a directory to be listed, being listed, or listed.
type scanDir struct {
	path  string
	depth int
	done  chan struct{} // closed when it is listed; what follows is the walk's then

	whole bool
	err   error // ends the scan
	src   entrySource
	file  *os.File
	holds int         // with file: what it is counted with in held
	ahead []scanEntry // taken from src already
	heavy int         // weight of these
	last  string      // name of the last of these
	end   bool        // src is at its end
}

// scanEntry is an entry of a directory, with the listing of one that is a directory.
type scanEntry struct {
	e   Entry
	dir *scanDir
}

// scanQueue is a heap of directories to be listed, in the order of the walk.
type scanQueue []*scanDir

func (q scanQueue) Len() int           { return len(q) }
func (q scanQueue) Less(i, j int) bool { return comparePaths(q[i].path, q[j].path) < 0 }
func (q scanQueue) Swap(i, j int)      { q[i], q[j] = q[j], q[i] }
func (q *scanQueue) Push(x any)        { *q = append(*q, x.(*scanDir)) }
func (q *scanQueue) Pop() any {
	old := *q
	d := old[len(old)-1]
	old[len(old)-1] = nil
	*q = old[:len(old)-1]
	return d
}

func (s *scanner) stop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stopped = true
	s.wakeup.Broadcast()
}

// push has a directory listed.
func (s *scanner) push(d *scanDir) {
	s.mu.Lock()
	defer s.mu.Unlock()
	heap.Push(&s.queue, d)
	s.wakeup.Signal()
}

// work lists directories: the next of the walk first, and others as long as there is memory.
func (s *scanner) work(ctx context.Context) {
	for {
		s.mu.Lock()
		for !s.stopped && (len(s.queue) == 0 || s.held >= s.cfg.Memory && s.queue[0] != s.wanted) {
			s.wakeup.Wait()
		}
		if s.stopped {
			s.mu.Unlock()
			return
		}
		d := heap.Pop(&s.queue).(*scanDir)
		s.mu.Unlock()
		if d.err = s.list(ctx, d); d.err == nil {
			d.err = s.fill(d)
		}
		close(d.done)
	}
}

// errLocal marks errors of this machine, which end a scan.
var errLocal = errors.New("local disk")

// ErrEndless means that a tree has more entries than it may have.
var ErrEndless = errors.New("the tree seems to have no end")

// found is what a listing had that is not kept, for the report.
type found struct {
	problems []error
	omitted  int
	excluded int64
	special  []string // names, up to maxDirProblems
	others   int      // how many more are special
	unsure   bool     // a name may be hidden in what was not understood
}

// list lists a directory and says what is wrong with it. Errors end the scan.
func (s *scanner) list(ctx context.Context, d *scanDir) error {
	s.mu.Lock()
	gone, run := s.gone, runEntries
	if s.held >= s.cfg.Memory {
		run = runEntries / 16
	}
	s.mu.Unlock()
	if gone != nil {
		s.cfg.Report.note(d.path, gone)
		d.src = &memSource{}
		return nil
	}
	var so *sorter
	var f found
	n := 0
	err := s.cfg.Retry.Do(ctx, func() (bool, error) {
		if so != nil {
			so.discard()
		}
		so, f = &sorter{dir: s.cfg.TempDir, run: min(run, max(s.cfg.Memory, 2))}, found{}
		n = 0
		return false, s.r.ReadDir(ctx, d.path, func(e Entry) error {
			n++
			if s.entries.Load()+int64(n) > s.cfg.Entries {
				return fail("list", d.path, KindLimit, fmt.Errorf("%w: more than %d entries", ErrEndless, s.cfg.Entries))
			}
			if n > s.cfg.Names {
				return failf("list", d.path, KindLimit, "more than %d names", s.cfg.Names)
			}
			return s.take(d, so, &f, e)
		})
	})
	s.entries.Add(int64(n))
	if err != nil && (ctx.Err() != nil || errors.Is(err, errLocal) || errors.Is(err, ErrEndless)) {
		so.discard()
		return errors.Join(ctx.Err(), err)
	}
	if d.path == "/" {
		nothing := n == len(f.problems)+f.omitted // was seen
		if err == nil && nothing {
			err = f.forbidden()
		}
		if err != nil && (nothing || KindOf(err) == KindBreaks) {
			so.discard()
			return err // also with Partial: there is no part
		}
	}
	if err != nil && lost(err) {
		if !s.cfg.Partial {
			so.discard()
			return err
		}
		s.mu.Lock()
		s.gone = err
		s.mu.Unlock()
	}
	s.tell(d, &f, err)
	d.whole = err == nil && !f.unsure
	d.file = so.file
	src, serr := so.finish()
	s.mu.Lock()
	defer s.mu.Unlock()
	if d.file != nil {
		s.files[d.file] = struct{}{}
	}
	if serr != nil {
		return fmt.Errorf("%w: %w", errLocal, serr)
	}
	d.src = src
	held := src.inMemory()
	if d.file != nil {
		held = min(held, max(s.cfg.Memory/8, 1)) // some of them, whatever the limit
		d.holds = held
	}
	s.held += held
	return nil
}

// forbidden is an error when nothing of what the root's listing names may be looked at, as in a directory that can
// be read and not searched; nil when there is another reason.
func (f *found) forbidden() error {
	for _, p := range f.problems {
		if KindOf(p) != KindPermission {
			return nil
		}
	}
	if len(f.problems) == 0 {
		return nil
	}
	return failf("list", "/", KindPermission, "nothing in it may be looked at: %w", f.problems[0])
}

// take keeps an entry of a listing, or what is wrong with it.
func (s *scanner) take(d *scanDir, so *sorter, f *found, e Entry) error {
	err := e.Err
	if err == nil {
		err = checkName(d.path, e.Name) // whatever the remote says
	}
	if err == nil && e.Type == TypeUnknown {
		err = failf("list", child(d.path, e.Name), KindProtocol, "it is not known what it is")
	}
	if err == nil && e.Type == Symlink {
		err = checkTarget("list", child(d.path, e.Name), e.Target)
	}
	if err != nil && s.excludes(d.path, e.Name, err) {
		f.excluded++
		return nil
	}
	if err != nil {
		// No entry of the base can have a name that is not possible.
		f.unsure = f.unsure || KindOf(err) != KindName
		if len(f.problems) < maxDirProblems {
			f.problems = append(f.problems, err)
		} else {
			f.omitted++
		}
		return nil
	}
	path := child(d.path, e.Name)
	if s.cfg.Exclude.Match(path, e.Type == Dir) {
		f.excluded++
		return nil
	}
	if e.Type == Special {
		if len(f.special) < maxDirProblems {
			f.special = append(f.special, e.Name)
		} else {
			f.others++
		}
		return nil
	}
	if err := so.add(e); err != nil {
		return fmt.Errorf("%w: %w", errLocal, err)
	}
	return nil
}

// excludes reports whether a name of a directory is excluded that could not be looked at for err. Nobody knows whether it
// is a directory: only patterns that mean one of its name do, as those of files alone would take it for removed. What is told of anything
// else than the name, as a line that was not understood, may be of another one.
func (s *scanner) excludes(dir, name string, err error) bool {
	if checkName(dir, name) != nil {
		return false
	}
	path := child(dir, name)
	var e *Error
	return errors.As(err, &e) && e.Path == path && s.cfg.Exclude.Match(path, true)
}

// tell reports what is wrong with a listing.
func (s *scanner) tell(d *scanDir, f *found, err error) {
	report := s.cfg.Report
	switch {
	case err == nil:
	case KindOf(err) == KindListing: // it is cut
		report.noteLine(d.path, err)
	default:
		report.note(d.path, err)
	}
	for _, p := range f.problems {
		path := d.path
		var e *Error
		if errors.As(p, &e) && e.Path != "" {
			path = e.Path
		}
		if k := KindOf(p); k == KindListing || k == KindName {
			report.noteLine(path, p)
		} else {
			report.note(path, p)
		}
	}
	if f.omitted > 0 {
		report.noteLine(d.path, failf("list", d.path, KindListing, "%d more entries that cannot be taken", f.omitted))
	}
	for _, name := range f.special {
		p := child(d.path, name)
		report.note(p, fail("list", p, KindSpecial, nil))
	}
	if f.others > 0 {
		report.note(d.path, failf("list", d.path, KindSpecial, "%d more entries", f.others))
	}
	report.special.Add(int64(len(f.special) + f.others))
	report.excluded.Add(f.excluded)
}

// fill takes entries from a listing, and has the directories among them listed.
func (s *scanner) fill(d *scanDir) error {
	for !d.end && d.heavy < scanWindow {
		e, err := d.src.next()
		if errors.Is(err, io.EOF) {
			d.end = true
			if d.file != nil {
				s.mu.Lock()
				delete(s.files, d.file)
				s.free(d.holds)
				s.mu.Unlock()
				_ = d.file.Close()
			}
			break
		}
		if err != nil {
			return fmt.Errorf("%w: %w", errLocal, err)
		}
		path := child(d.path, e.Name)
		if e.Name == d.last {
			s.cfg.Report.note(path, failf("list", path, KindProtocol, "the server lists it twice"))
			s.release(d, e)
			continue
		}
		d.last = e.Name
		se := scanEntry{e: e}
		if e.Type == Dir {
			se.dir = &scanDir{path: path, depth: d.depth + 1, done: make(chan struct{})}
			var limit error
			switch {
			case se.dir.depth > s.cfg.Depth:
				limit = failf("list", path, KindLimit, "deeper than %d directories", s.cfg.Depth)
			case len(path) > maxScanPath:
				limit = failf("list", path, KindLimit, "a path longer than %d bytes", maxScanPath)
			}
			if limit != nil {
				s.cfg.Report.note(path, limit)
				se.dir.src = &memSource{}
				close(se.dir.done)
			} else {
				s.push(se.dir)
			}
		}
		d.ahead = append(d.ahead, se)
		d.heavy += e.weight()
	}
	return nil
}

// walk yields everything, in order.
func (s *scanner) walk(ctx context.Context, e Entry, yield func(Item) bool) error {
	root := &scanDir{path: "/", done: make(chan struct{})}
	s.push(root)
	var stack []*scanDir
	enter := func(d *scanDir, e Entry) (bool, error) {
		s.mu.Lock()
		s.wanted = d
		s.wakeup.Broadcast()
		s.mu.Unlock()
		select {
		case <-d.done:
		case <-ctx.Done():
			return false, ctx.Err()
		}
		if d.err != nil {
			return false, d.err
		}
		s.cfg.Report.dirs.Add(1)
		stack = append(stack, d)
		return yield(Item{Path: d.path, Entry: e, Whole: d.whole}), nil
	}
	if ok, err := enter(root, e); err != nil || !ok {
		return err
	}
	for len(stack) > 0 {
		d := stack[len(stack)-1]
		if err := errors.Join(ctx.Err(), s.fillMore(d)); err != nil {
			return err
		}
		if len(d.ahead) == 0 {
			stack = stack[:len(stack)-1]
			continue
		}
		next := d.ahead[0]
		d.ahead[0] = scanEntry{}
		d.ahead = d.ahead[1:]
		d.heavy -= next.e.weight()
		s.release(d, next.e)
		if next.dir != nil {
			if ok, err := enter(next.dir, next.e); err != nil || !ok {
				return err
			}
			continue
		}
		s.count(next.e)
		if !yield(Item{Path: child(d.path, next.e.Name), Entry: next.e}) {
			return nil
		}
	}
	return nil
}

// fillMore is fill, when half of the window is used up.
func (s *scanner) fillMore(d *scanDir) error {
	if d.heavy > scanWindow/2 {
		return nil
	}
	return s.fill(d)
}

// release gives back the memory of an entry of a listing that was in memory.
func (s *scanner) release(d *scanDir, e Entry) {
	if d.file != nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.free(e.weight())
}

// free gives back the memory of entries of the weight n. It needs s.mu.
func (s *scanner) free(n int) {
	full := s.held >= s.cfg.Memory
	if s.held -= n; full && s.held < s.cfg.Memory {
		s.wakeup.Broadcast()
	}
}

func (s *scanner) count(e Entry) {
	switch e.Type {
	case File:
		s.cfg.Report.files.Add(1)
		s.cfg.Report.bytes.Add(e.Size)
	case Symlink:
		s.cfg.Report.symlinks.Add(1)
	}
}
