package pull

import (
	"context"
	"errors"
	"io/fs"
	"iter"
	"sync/atomic"
	"time"

	"golang.org/x/sync/semaphore"

	"github.com/snapgate/gateway/snapshotter"
)

const (
	// basePage is how many entries of a directory of the base are read at a time.
	basePage = 512
	// planWindow is how many entries are compared, or wait for one before them.
	planWindow = 4096
	// zoneAllowance is how far the times of LIST may be behind, which are in a zone that nobody knows
	// and taken for UTC: the westernmost is UTC-12.
	zoneAllowance = 12 * time.Hour
)

// Base is the snapshot that a tree is compared with: a *snapshotter.View. Missing paths are
// fs.ErrNotExist.
type Base interface {
	Lstat(ctx context.Context, path string) (snapshotter.Entry, error)
	ReadDir(ctx context.Context, path, after string, n int) ([]snapshotter.Entry, error)
}

// PlanConfig says how Plan compares. Report is needed.
type PlanConfig struct {
	// Base is nil for the first snapshot.
	Base   Base
	Retry  Retry
	Report *Report
	// Checksum reads every file, whatever its size and time say.
	Checksum bool
	// Settled is a time of the server before which nothing that Base has at a path was
	// written after it was read. A file of a later time is read even if size and time are
	// those of the base: it may have been written twice in a tick of the server's clock.
	// Nil trusts all, the zero time nothing.
	Settled func(path string) time.Time
	// FirstVersion is the snapshotter.Change.Version of the first new content; the others
	// count on. None of them may be in the base. 0 takes the clock, in nanoseconds.
	FirstVersion uint64
	// Partial goes on when the connection is lost for good.
	Partial bool
}

// Plan compares what Scan yields with the base and yields the changes of a commit on it, in
// its order. The Content of a change reads from the remote and verifies what it reads; when
// it fails, the commit does: Fetch comes between. Files whose size and time are those of the
// base are not opened. What cannot be looked at is a Problem and stays as the base has it.
func Plan(ctx context.Context, r Remote, items iter.Seq2[Item, error], cfg PlanConfig) iter.Seq2[snapshotter.Change, error] {
	return func(yield func(snapshotter.Change, error) bool) {
		var caps Capabilities
		err := cfg.Retry.Do(ctx, func() (_ bool, err error) {
			caps, err = r.Capabilities(ctx)
			return false, err
		})
		if err != nil {
			yield(snapshotter.Change{}, err)
			return
		}
		cfg.Retry = cfg.Retry.Watching(r)
		p := &planner{r: r, caps: caps, cfg: cfg, ahead: semaphore.NewWeighted(rangesMemory)}
		first := cfg.FirstVersion
		if first == 0 {
			first = uint64(time.Now().UnixNano())
		}
		p.version.Store(first - 1)
		workers := min(max(caps.Parallel, 1), maxScanWorkers)
		for c, err := range ordered(ctx, p.candidates(ctx, items), workers, planWindow, nil, p.decide) {
			if err != nil {
				yield(snapshotter.Change{}, err)
				return
			}
			if c == nil {
				continue
			}
			if c.Kind != snapshotter.Removed && c.Version == 0 {
				c.Version = p.version.Add(1)
			}
			if !yield(*c, nil) {
				return
			}
		}
	}
}

// planner is a comparison under way.
type planner struct {
	r       Remote
	caps    Capabilities
	cfg     PlanConfig
	ahead   *semaphore.Weighted // see file.ahead
	version atomic.Uint64
}

// candidate is a path of the remote, of the base, or of both.
type candidate struct {
	path string
	item *Item              // nil: the remote does not have it
	base *snapshotter.Entry // nil: the base does not have it
}

// level is a directory of the walk over the remote, with the same one in the base.
type level struct {
	path  string
	whole bool // what is in the base only is gone
	page  []snapshotter.Entry
	after string // name of the last entry of page
	end   bool   // nothing comes after page
}

// candidates walks over the remote and the base together.
func (p *planner) candidates(ctx context.Context, items iter.Seq2[Item, error]) iter.Seq2[candidate, error] {
	return func(yield func(candidate, error) bool) {
		var stack []*level
		errStopped := errors.New("stopped")
		emit := func(c candidate) error {
			if !yield(c, nil) {
				return errStopped
			}
			return nil
		}
		// finish takes what the base has at the end of the directories that are done.
		finish := func(keep func(l *level) bool) error {
			for len(stack) > 0 && !keep(stack[len(stack)-1]) {
				if err := p.before(ctx, stack[len(stack)-1], nil, emit); err != nil {
					return err
				}
				stack = stack[:len(stack)-1]
			}
			return nil
		}
		step := func(item Item) error {
			base, err := p.match(ctx, item, &stack, finish, emit)
			if err != nil {
				return err
			}
			if err := emit(candidate{path: item.Path, item: &item, base: base}); err != nil {
				return err
			}
			if item.Entry.Type == Dir {
				l := &level{path: item.Path, whole: item.Whole, end: base == nil || base.Kind != snapshotter.Dir}
				stack = append(stack, l)
			}
			return nil
		}
		for item, err := range items {
			if err == nil {
				err = step(item)
			}
			if errors.Is(err, errStopped) {
				return
			}
			if err != nil {
				yield(candidate{}, err)
				return
			}
		}
		if err := finish(func(*level) bool { return false }); err != nil && !errors.Is(err, errStopped) {
			yield(candidate{}, err)
		}
	}
}

// match finds the entry of the base at the path of an item, after it has emitted what comes
// before it.
func (p *planner) match(ctx context.Context, item Item, stack *[]*level, finish func(func(*level) bool) error, emit func(candidate) error) (*snapshotter.Entry, error) {
	if item.Path == "/" {
		if p.cfg.Base == nil {
			return nil, nil
		}
		e, err := p.cfg.Base.Lstat(ctx, "/")
		if errors.Is(err, fs.ErrNotExist) {
			return nil, nil
		}
		return &e, err
	}
	name := base(item.Path)
	dir := item.Path[:max(len(item.Path)-len(name)-1, 1)]
	if err := finish(func(l *level) bool { return l.path == dir }); err != nil {
		return nil, err
	}
	if len(*stack) == 0 {
		return nil, failf("plan", item.Path, KindOther, "it comes without its directory")
	}
	l := (*stack)[len(*stack)-1]
	if err := p.before(ctx, l, &name, emit); err != nil {
		return nil, err
	}
	if len(l.page) > 0 && l.page[0].Name == name {
		e := l.page[0]
		l.page = l.page[1:]
		return &e, nil
	}
	return nil, nil
}

// before emits what the base has in a directory before a name, or, for nil, all that is left.
func (p *planner) before(ctx context.Context, l *level, name *string, emit func(candidate) error) error {
	for {
		if len(l.page) == 0 && !l.end {
			page, err := p.cfg.Base.ReadDir(ctx, l.path, l.after, basePage)
			if err != nil {
				return err
			}
			l.page, l.end = page, len(page) < basePage
			if len(page) > 0 {
				l.after = page[len(page)-1].Name
			}
		}
		if len(l.page) == 0 || name != nil && l.page[0].Name >= *name {
			return nil
		}
		e := l.page[0]
		l.page = l.page[1:]
		if !l.whole {
			p.cfg.Report.keep(child(l.path, e.Name))
			continue
		}
		if err := emit(candidate{path: child(l.path, e.Name), base: &e}); err != nil {
			return err
		}
	}
}

// decide makes the change of a candidate, nil for none. The order in which calls end is not
// the order of the changes.
func (p *planner) decide(ctx context.Context, c candidate) (*snapshotter.Change, error) {
	if c.item == nil {
		p.cfg.Report.rem.Add(1)
		return &snapshotter.Change{Path: c.path, Kind: snapshotter.Removed}, nil
	}
	e, err := p.look(ctx, c)
	if err == nil {
		return p.compare(c, e), nil
	}
	if cause := ctx.Err(); cause != nil {
		return nil, cause
	}
	if lost(err) && !p.cfg.Partial {
		return nil, err
	}
	p.cfg.Report.note(c.path, err)
	return nil, nil
}

// look asks for what the listing has not told.
func (p *planner) look(ctx context.Context, c candidate) (Entry, error) {
	e := c.item.Entry
	switch {
	case e.Type == Symlink && e.Target == "":
		err := p.cfg.Retry.Do(ctx, func() (_ bool, err error) {
			e.Target, err = p.r.Readlink(ctx, c.path)
			return false, err
		})
		if err == nil && e.Target == "" {
			err = failf("readlink", c.path, KindProtocol, "the server gives no target")
		}
		if err == nil {
			err = checkTarget("readlink", c.path, e.Target)
		}
		return e, err
	case e.Type == File && p.caps.Exact && (e.Precision == 0 || e.Precision > time.Second):
		now := Entry{}
		err := p.cfg.Retry.Do(ctx, func() (_ bool, err error) {
			now, err = p.r.Lstat(ctx, c.path)
			return false, err
		})
		if err != nil {
			return e, err
		}
		if now.Type != File {
			return e, failf("stat", c.path, KindChanged, "it is no file any more")
		}
		e.Size = now.Size
		if now.Precision > 0 && (e.Precision == 0 || now.Precision < e.Precision) {
			e.ModTime, e.Precision = now.ModTime, now.Precision
		}
	}
	return e, nil
}

// compare makes the change, nil for none.
func (p *planner) compare(c candidate, e Entry) *snapshotter.Change {
	ch := &snapshotter.Change{Path: c.path, Kind: kindOf(e.Type), Attr: attrOf(e, c.base)}
	had := c.base != nil && c.base.Kind == ch.Kind
	count := &p.cfg.Report.changed
	if c.base == nil {
		count = &p.cfg.Report.added
	}
	if had {
		ch.From, ch.Version = c.path, c.base.Version
		if sameAttr(ch.Attr, c.base.Attr) {
			count = nil
		} else {
			count = &p.cfg.Report.attributes
		}
	}
	switch ch.Kind {
	case snapshotter.Symlink:
		ch.Target, ch.From = e.Target, ""
		if had && c.base.Target != e.Target {
			count = &p.cfg.Report.changed
		}
		if count != nil {
			ch.Version = 0
		}
	case snapshotter.File:
		if !had || p.cfg.Checksum || !p.unchanged(c.path, e, c.base) {
			ch.From, ch.Version = "", 0
			f := &file{r: p.r, caps: p.caps, retry: p.cfg.Retry, path: c.path, seen: e, ahead: p.ahead}
			ch.Content = f
			p.cfg.Report.wanted.Add(1)
			p.cfg.Report.wantedBytes.Add(e.Size)
			if had {
				f.base = c.base
				count = &p.cfg.Report.changed
			}
		}
	}
	if count == nil {
		p.cfg.Report.unchanged.Add(1)
		return nil
	}
	count.Add(1)
	if f, ok := ch.Content.(*file); ok {
		f.count = count
	}
	return ch
}

// unchanged reports whether a file is, by size and time, the one that the base has.
func (p *planner) unchanged(path string, e Entry, base *snapshotter.Entry) bool {
	if e.Size != base.Size || e.Precision <= 0 || !sameTime(e, base.Attr.ModTime, 1) {
		return false
	}
	until := e.ModTime.Add(e.Precision)
	if e.Precision >= minute {
		until = until.Add(zoneAllowance)
	}
	return p.cfg.Settled == nil || until.Before(p.cfg.Settled(path))
}

func kindOf(t Type) snapshotter.ChangeKind {
	switch t {
	case Dir:
		return snapshotter.Dir
	case Symlink:
		return snapshotter.Symlink
	default:
		return snapshotter.File
	}
}

// attrOf makes the attributes of a snapshot. What the remote does not tell is as the base has
// it, or as new files have it as a rule; a coarse time that may be the base's is the base's.
func attrOf(e Entry, base *snapshotter.Entry) snapshotter.Attr {
	a := snapshotter.Attr{Mode: 0o644, ModTime: time.Unix(0, 0).UTC()}
	switch e.Type {
	case Dir:
		a.Mode = 0o755
	case Symlink:
		a.Mode = 0o777
	}
	if base != nil && base.Kind == kindOf(e.Type) {
		a = base.Attr
	}
	if e.HasMode {
		a.Mode = e.Mode
	}
	if e.HasOwner {
		a.UID, a.GID = e.UID, e.GID
	}
	if e.Precision > 0 && !sameTime(e, a.ModTime, 1) {
		a.ModTime = e.ModTime
	}
	return a
}

func sameAttr(a, b snapshotter.Attr) bool {
	return a.Mode == b.Mode && a.UID == b.UID && a.GID == b.GID && a.ModTime.Equal(b.ModTime)
}
