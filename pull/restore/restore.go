package restore

import (
	"context"
	"errors"
	"fmt"
	"path"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sync/semaphore"
	"golang.org/x/time/rate"

	"github.com/snapgate/gateway/internal/disk"
	"github.com/snapgate/gateway/pull"
	"github.com/snapgate/gateway/snapshotter"
)

const (
	// smallFile is what is read whole before it is written, so that a lost connection does not
	// read it again.
	smallFile = 256 << 10
	// largeMemory is what a larger file is counted with: a chunk, what is under way to the
	// server, and chunks that are read ahead.
	largeMemory = 4 << 20
	// defaultMemory is for all files that are being written.
	defaultMemory = 64 << 20
	// maxWorkers is how many files are written at a time: 1,200 small ones a second at 50 ms,
	// where one costs four round trips.
	maxWorkers = 256
	// walkers is how many directories are made or listed at a time.
	walkers = 16
	// page is how many entries of a directory of the snapshot are read at a time.
	page = 1024
	// maxListed is how many names of a directory of the destination are kept in memory, at
	// about 200 bytes each; what is in larger ones is asked for one by one.
	maxListed = 200_000
	// maxExtras is how many names Delete removes in one run.
	maxExtras = 1_000_000
	// bufferSize is how much of a large file is read, sent or compared in one go.
	bufferSize = 1 << 20
	// syncEvery is after how many bytes of a file the server is asked to make them durable, so
	// that they need not be compared after a lost connection.
	syncEvery = 32 << 20
	// zoneAllowance is how far the times of an FTP server's LIST may be behind, which are in a zone that nobody knows and
	// taken for UTC.
	zoneAllowance = 12 * time.Hour
)

// Overwrite says what becomes of a file that is there and differs.
type Overwrite string

// The values of Overwrite.
const (
	Always Overwrite = "always" // replaced
	Older  Overwrite = "older"  // replaced when it is older than the snapshot's
	Never  Overwrite = "never"  // kept
)

// ParseOverwrite reads the word of an option.
func ParseOverwrite(s string) (Overwrite, error) {
	switch o := Overwrite(s); o {
	case Always, Older, Never:
		return o, nil
	}
	return "", fmt.Errorf("overwrite %q: it is one of always, older, never", s)
}

// Source is the tree of a snapshot; see FromView.
type Source interface {
	Lstat(ctx context.Context, path string) (snapshotter.Entry, error)
	ReadDir(ctx context.Context, path, after string, n int) ([]snapshotter.Entry, error)
	Open(ctx context.Context, path string) (Content, error)
}

// Content is a file of a Source. Reading in order reads ahead.
type Content interface {
	// Slice returns bytes at an offset, at least one and at most n, and io.EOF at the end. They stay what they are, and
	// must not be changed.
	Slice(off int64, n int) ([]byte, error)
	Size() int64
	Close() error
}

// FromView makes a Source of a view.
func FromView(v *snapshotter.View) Source { return view{v} }

type view struct{ *snapshotter.View }

func (v view) Open(ctx context.Context, path string) (Content, error) { return v.View.Open(ctx, path) }

// Action is one thing that is done, or would be.
type Action struct {
	Op   string // "make", "restore", "replace", "keep", "delete"
	Path string // in the destination
	Type pull.Type
	Size int64 // of a file
}

// Extras are what Delete is about to remove.
type Extras struct {
	Paths []string // with what is below them
}

// Config says what Run does. Source, Path, Target and Report are needed.
type Config struct {
	Source Source
	Path   string // canonical; of a directory or of a file
	Target pull.Target
	Report *Report

	// Lineage tells versions of files of different shares apart in the names of temporary
	// files.
	Lineage   snapshotter.Lineage
	Overwrite Overwrite // "" for Always
	Owner     bool      // set numeric users and groups, and setuid and setgid of files
	DryRun    bool      // write nothing
	Verify    bool      // read back what was written, and what was there; of a dry run, what is there
	Delete    bool      // remove what the snapshot does not have
	// Lacks are the paths of the destination, canonical, of what the snapshot says could not be captured: nobody knows
	// what was there. Delete leaves them, what is below them and the directories that they are in; with "/" it
	// removes nothing.
	Lacks []string
	// Confirm is asked once before anything is deleted; it is needed with Delete.
	Confirm func(ctx context.Context, e Extras) (bool, error)
	// Note is told what is done, one at a time; nil for nobody.
	Note func(Action)

	Retry pull.Retry
	// Workers is how many files are written at a time; 0 for what makes sense on the target,
	// 256 at most.
	Workers int
	// Memory bounds the bytes of files in memory; 0 for 64 MiB.
	Memory int64
	// Bandwidth is how many bytes of contents are sent, or read back, a second; 0 for no limit.
	Bandwidth int64
	// Failpoint is called at named moments, the Failpoint constants. It is for crash tests.
	Failpoint func(name string)
}

// The failpoints of a restore: a directory is made; a temporary file is there, has its first bytes,
// has all of them and its attributes; a file has its name; a link is made and has not its name yet; a
// directory is about to get its attributes; something was deleted.
const (
	FailpointMade     = "restore-made"
	FailpointBegun    = "restore-begun"
	FailpointWritten  = "restore-written"
	FailpointFinished = "restore-finished"
	FailpointRenamed  = "restore-renamed"
	FailpointLinked   = "restore-linked"
	FailpointSettled  = "restore-settled"
	FailpointDeleted  = "restore-deleted"
)

// ErrNotDeleted means that Confirm has refused to delete, or that there were problems or Lacks has "/": then nobody is asked.
var ErrNotDeleted = errors.New("nothing was deleted")

// errDirectory means that Delete was asked for with a single file.
var errDirectory = errors.New("delete needs a directory")

// Run restores. It ends what it has started before it returns.
func Run(ctx context.Context, cfg Config) (err error) {
	r, err := newRun(cfg)
	if err != nil {
		return err
	}
	cfg.Report.begin(cfg.DryRun)
	defer func() {
		w, werr := cfg.Target.Writes(context.WithoutCancel(ctx))
		if werr != nil {
			w = pull.Writes{Mode: true, ModTime: true, DirMode: true, DirTime: true}
		}
		cfg.Report.end(w)
	}()
	top, err := cfg.Source.Lstat(ctx, cfg.Path)
	if err != nil {
		return err
	}
	if cfg.Delete && top.Kind != snapshotter.Dir {
		return fmt.Errorf("%s is no directory: %w", cfg.Path, errDirectory)
	}
	made, err := r.root(ctx)
	if err != nil {
		return err
	}
	w, err := retry(ctx, r, cfg.Target.Writes)
	if err != nil {
		return err
	}
	r.noLinks = !w.Symlinks
	caps := pull.Capabilities{Parallel: 1}
	if !r.nowhere {
		if caps, err = retry(ctx, r, cfg.Target.Capabilities); err != nil {
			return err
		}
	}
	r.caps = caps
	if !caps.Latest.IsZero() {
		s := withinTimes{r.Source, caps, cfg.Report}
		r.Source, top = s, s.within(top)
	}
	if err := r.all(ctx, top, made); err != nil {
		return err
	}
	return r.remove(ctx)
}

// run is one restore.
type run struct {
	Config
	caps     pull.Capabilities
	nowhere  bool // a dry run to a directory that is not there
	noLinks  bool // the protocol has no symbolic links
	memory   *semaphore.Weighted
	files    *errgroup.Group
	walks    *semaphore.Weighted
	wg       sync.WaitGroup // of walks
	cancel   context.CancelCauseFunc
	limit    *rate.Limiter // nil for none
	unlocked []unlocked    // by removals, which one goroutine makes

	mu     sync.Mutex // guards what follows; and Note is called under it
	extras []extra
	more   bool // than maxExtras
}

type extra struct {
	path string
	t    pull.Type
}

func newRun(cfg Config) (*run, error) {
	switch {
	case cfg.Source == nil || cfg.Target == nil || cfg.Report == nil:
		return nil, errors.New("restore: Source, Target and Report are needed")
	case cfg.Delete && cfg.Confirm == nil:
		return nil, errors.New("restore: Delete needs Confirm")
	case !strings.HasPrefix(cfg.Path, "/") || path.Clean(cfg.Path) != cfg.Path:
		return nil, fmt.Errorf("restore: path %q is not canonical", cfg.Path)
	}
	if cfg.Overwrite == "" {
		cfg.Overwrite = Always
	}
	if cfg.Failpoint == nil {
		cfg.Failpoint = func(string) {}
	}
	if cfg.Memory <= 0 {
		cfg.Memory = defaultMemory
	}
	cfg.Memory = max(cfg.Memory, largeMemory)
	cfg.Retry = cfg.Retry.Watching(cfg.Target)
	r := &run{Config: cfg, memory: semaphore.NewWeighted(cfg.Memory), walks: semaphore.NewWeighted(walkers)}
	if cfg.Bandwidth > 0 {
		r.limit = rate.NewLimiter(rate.Limit(cfg.Bandwidth), int(min(cfg.Bandwidth, bufferSize)))
	}
	return r, nil
}

// root makes the destination, and makes sure that it is a directory.
func (r *run) root(ctx context.Context) (made bool, err error) {
	first := r.Retry.Connecting()
	if !r.DryRun {
		if made, err = try(ctx, first, r.Target.MakeRoot); err != nil {
			return false, err
		}
		if made {
			r.makes()
		}
		first = r.Retry
	}
	e, err := try(ctx, first, func(ctx context.Context) (pull.Entry, error) { return r.Target.Lstat(ctx, "/") })
	switch {
	case err != nil && r.DryRun && pull.KindOf(err) == pull.KindNotFound:
		r.nowhere = true
		r.makes()
		return true, nil
	case err != nil:
		return false, err
	case e.Type != pull.Dir:
		return false, &pull.Error{Op: "restore", Path: "/", Kind: pull.KindConflict, Err: errors.New("the destination is no directory")}
	}
	return made, nil
}

// makes tells that the destination itself is made, or would be.
func (r *run) makes() {
	r.note("make", "/", pull.Dir, 0)
	r.Report.makes()
}

// retry calls a method of the target until it is not the connection that fails.
func retry[T any](ctx context.Context, r *run, fn func(context.Context) (T, error)) (T, error) {
	return try(ctx, r.Retry, fn)
}

func try[T any](ctx context.Context, r pull.Retry, fn func(context.Context) (T, error)) (v T, err error) {
	err = r.Do(ctx, func() (_ bool, err error) {
		v, err = fn(ctx)
		return false, err
	})
	return v, err
}

// all restores everything.
func (r *run) all(ctx context.Context, top snapshotter.Entry, made bool) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	r.cancel = cancel
	r.files = &errgroup.Group{}
	workers := r.Workers
	if workers <= 0 {
		workers = min(r.caps.Parallel, maxWorkers)
	}
	r.files.SetLimit(max(workers, 1))
	root := &node{src: r.Path, dst: "/", made: made, entry: top}
	root.pending.Add(1)
	if top.Kind == snapshotter.Dir {
		r.walk(ctx, root)
	} else {
		root.src, root.file = path.Dir(r.Path), true
		r.entry(ctx, root, &listing{fresh: r.nowhere}, top)
	}
	r.finished(ctx, root)
	r.wg.Wait()
	_ = r.files.Wait() // errors are the cause of ctx
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return nil
}

// failed notes a problem, or ends the run when going on makes no sense.
func (r *run) failed(ctx context.Context, dst string, err error) {
	switch {
	case ctx.Err() != nil: // this one is not the cause
	case fatal(err):
		r.cancel(err)
	default:
		r.Report.note(dst, err)
	}
}

// fatal reports whether going on makes no sense after an error.
func fatal(err error) bool {
	return pull.KindOf(err) == pull.KindConnection || errors.Is(err, snapshotter.ErrUnavailable) ||
		disk.IsFull(err) || errors.Is(err, syscall.EROFS)
}

// wait waits until so many bytes may be moved.
func (r *run) wait(ctx context.Context, n int) error {
	if r.limit == nil {
		return nil
	}
	for n > 0 {
		now := min(n, r.limit.Burst())
		if err := r.limit.WaitN(ctx, now); err != nil {
			return err
		}
		n -= now
	}
	return nil
}

// note tells what is done.
func (r *run) note(op, dst string, t pull.Type, size int64) {
	if r.Note != nil {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.Note(Action{Op: op, Path: dst, Type: t, Size: size})
	}
}

// conflict is the error for what is not replaced.
func conflict(dst, text string) error {
	return &pull.Error{Op: "restore", Path: dst, Kind: pull.KindConflict, Err: errors.New(text)}
}

func child(dir, name string) string {
	if dir == "/" {
		return "/" + name
	}
	return dir + "/" + name
}

// checkName returns nil for what may be the name of an entry.
func checkName(dir, name string) error {
	if name == "" || name == "." || name == ".." || strings.ContainsAny(name, "/\x00") {
		return &pull.Error{Op: "restore", Path: dir, Kind: pull.KindName, Err: fmt.Errorf("%q", name)}
	}
	return nil
}
