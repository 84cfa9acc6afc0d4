package restore

import (
	"context"
	"errors"
	"sync/atomic"

	"github.com/snapgate/gateway/pull"
	"github.com/snapgate/gateway/snapshotter"
)

// node is a directory of which not everything is restored yet.
type node struct {
	parent   *node
	src, dst string // in the snapshot, and in the destination
	entry    snapshotter.Entry
	made     bool         // by this run
	file     bool         // only a file of it is restored
	pending  atomic.Int64 // entries below that are not finished, and one for the walk
}

// listing is what the destination has in a directory.
type listing struct {
	fresh bool                  // the directory was made by this run: nothing is in it
	names map[string]pull.Entry // nil when they are to be asked for one by one
	whole bool                  // names has them all
}

// found is what the destination has under a name.
type found struct {
	pull.Entry
	there bool
	ask   bool // nobody knows: ask by name
}

// take takes what a listing has under a name out of it.
func (l *listing) take(name string) found {
	if l.fresh {
		return found{}
	}
	e, ok := l.names[name]
	delete(l.names, name)
	switch {
	case ok && e.Err == nil:
		return found{Entry: e, there: true}
	case ok, !l.whole:
		return found{ask: true}
	}
	return found{}
}

// takeAside takes what was moved aside for what has a temporary name out of the listing of n. In a directory
// that was not listed it is asked for only when nothing else is restored there: see maxListed.
func (l *listing) takeAside(n *node, temp string) found {
	old := l.take(pull.AsideName(temp))
	old.ask = old.ask && n.file
	return old
}

// list lists a directory of the destination.
func (r *run) list(ctx context.Context, n *node) (*listing, error) {
	if n.made {
		return &listing{fresh: true}, nil
	}
	l := &listing{}
	limit := maxListed
	if r.Delete {
		limit = maxExtras
	}
	errMany := errors.New("too many")
	err := r.Retry.Do(ctx, func() (bool, error) {
		l.names = map[string]pull.Entry{}
		return false, r.Target.ReadDir(ctx, n.dst, func(e pull.Entry) error {
			if len(l.names) == limit {
				return errMany
			}
			l.names[e.Name] = e
			return nil
		})
	})
	switch {
	case errors.Is(err, errMany):
		*l = listing{}
		if r.Delete {
			r.Report.note(n.dst, &pull.Error{Op: "delete", Path: n.dst, Kind: pull.KindLimit, Err: errMany})
		}
	case err != nil && pull.KindOf(err) == pull.KindListing:
		// What it has shown is there; what it has not is asked for.
		if r.Delete {
			r.Report.note(n.dst, err)
		}
	case err != nil:
		return nil, err
	default:
		l.whole = true
	}
	return l, nil
}

// walk restores what is in a directory, which is there.
func (r *run) walk(ctx context.Context, n *node) {
	l := &listing{fresh: true}
	var err error
	if !r.nowhere {
		if l, err = r.list(ctx, n); err != nil {
			r.failed(ctx, n.dst, err)
			return
		}
	}
	after := ""
	for ctx.Err() == nil {
		entries, err := r.Source.ReadDir(ctx, n.src, after, page)
		if err != nil {
			r.failed(ctx, n.dst, err)
			return
		}
		for _, e := range entries {
			after = e.Name
			if ctx.Err() != nil {
				return
			}
			r.entry(ctx, n, l, e)
		}
		if len(entries) < page {
			break
		}
	}
	if r.Delete && ctx.Err() == nil {
		r.collect(n, l)
	}
}

// entry restores an entry of a directory: files beside, directories beside or here.
func (r *run) entry(ctx context.Context, n *node, l *listing, e snapshotter.Entry) {
	if err := checkName(n.dst, e.Name); err != nil {
		r.failed(ctx, n.dst, err)
		return
	}
	dst, old := child(n.dst, e.Name), l.take(e.Name)
	switch e.Kind {
	case snapshotter.Dir:
		r.Report.dirs.Add(1)
		sub := &node{parent: n, src: child(n.src, e.Name), dst: dst, entry: e}
		sub.pending.Add(1)
		n.pending.Add(1)
		do := func() {
			if r.enter(ctx, sub, old) {
				r.walk(ctx, sub)
				r.finished(ctx, sub)
			} else {
				r.finished(ctx, n)
			}
		}
		if !r.walks.TryAcquire(1) {
			do()
			return
		}
		r.wg.Go(func() {
			defer r.walks.Release(1)
			do()
		})
	case snapshotter.Symlink:
		r.Report.symlinks.Add(1)
		temp := tempName(r.Lineage, dst, e)
		begun, aside := l.take(temp).there, l.takeAside(n, temp)
		r.beside(ctx, n, func() error {
			err := r.symlink(ctx, dst, e, old, &aside)
			var lacks *pull.AttributeError
			if err != nil && !errors.As(err, &lacks) || r.DryRun || r.Overwrite == Never {
				return err
			}
			return errors.Join(r.tidy(ctx, child(n.dst, temp), begun), r.tidyAside(ctx, child(n.dst, temp), aside), err)
		}, dst)
	default:
		r.Report.files.Add(1)
		r.Report.bytes.Add(e.Size)
		src, temp := child(n.src, e.Name), tempName(r.Lineage, child(n.src, e.Name), e)
		f := &file{
			r: r, src: src, dst: dst, temp: child(n.dst, temp), e: e, fresh: l.fresh,
			begun: l.take(temp).there, aside: l.takeAside(n, temp),
		}
		r.beside(ctx, n, func() error { return f.restore(ctx, old) }, dst)
	}
}

// beside runs fn when a worker is free.
func (r *run) beside(ctx context.Context, n *node, fn func() error, dst string) {
	n.pending.Add(1)
	r.files.Go(func() error {
		if ctx.Err() == nil {
			if err := fn(); err != nil {
				r.failed(ctx, dst, err)
			}
		}
		r.finished(ctx, n)
		return nil
	})
}

// look finds out what the destination has, where the listing did not tell.
func (r *run) look(ctx context.Context, dst string, old found) (found, error) {
	if !old.ask {
		return old, nil
	}
	e, err := retry(ctx, r, func(ctx context.Context) (pull.Entry, error) { return r.Target.Lstat(ctx, dst) })
	switch {
	case err == nil:
		return found{Entry: e, there: true}, nil
	case pull.KindOf(err) == pull.KindNotFound:
		return found{}, nil
	case pull.KindOf(err) == pull.KindListing && r.Overwrite == Always && !r.DryRun:
		// A directory may be written to and not be listed: it is for the server to refuse what is not possible.
		return found{}, nil
	}
	return found{}, err
}

// enter makes a directory, or makes sure that it is one.
func (r *run) enter(ctx context.Context, n *node, old found) bool {
	old, err := r.look(ctx, n.dst, old)
	if err == nil && old.there && old.Type != pull.Dir {
		what := "a file"
		if old.Type == pull.Symlink {
			what = "a symbolic link, which is not followed,"
		}
		err = conflict(n.dst, what+" is where a directory is to be; nothing below it is restored")
	}
	if err == nil && !old.there {
		n.made = true
		r.note("make", n.dst, pull.Dir, 0)
		if !r.DryRun {
			err = r.mkdir(ctx, n)
		}
	}
	if err == nil && old.there && r.setsDirs() && old.HasMode && old.Mode&0o700 != 0o700 && !r.DryRun {
		// To be written to; it gets its own mode at the end.
		err = r.setAttributes(ctx, n.dst, pull.Dir, pull.Attributes{Mode: old.Mode | 0o700, HasMode: true})
	}
	if err != nil {
		r.failed(ctx, n.dst, err)
		return false
	}
	return true
}

// mkdir makes a directory. When the answer was lost, or somebody else was first, it is there
// and is not taken for empty.
func (r *run) mkdir(ctx context.Context, n *node) error {
	return r.Retry.Do(ctx, func() (bool, error) {
		err := r.Target.Mkdir(ctx, n.dst)
		if err == nil {
			r.Failpoint(FailpointMade)
		}
		if err == nil || pull.KindOf(err) == pull.KindConnection {
			return false, err
		}
		if e, lerr := r.Target.Lstat(ctx, n.dst); lerr == nil && e.Type == pull.Dir {
			n.made = false
			return false, nil
		}
		return false, err
	})
}

// setsDirs reports whether directories that were there get the attributes of the snapshot's.
func (r *run) setsDirs() bool { return r.Overwrite != Never }

func (r *run) setAttributes(ctx context.Context, dst string, t pull.Type, a pull.Attributes) error {
	return r.Retry.Do(ctx, func() (bool, error) { return false, r.Target.SetAttributes(ctx, dst, t, a) })
}

// finished notes that one thing in a directory is done. After the last the directory gets its
// attributes, and its parent is told.
func (r *run) finished(ctx context.Context, n *node) {
	for ; n != nil && n.pending.Add(-1) == 0; n = n.parent {
		if r.DryRun || ctx.Err() != nil {
			continue
		}
		r.Failpoint(FailpointSettled)
		var err error
		// The destination itself is as it was, unless this run has made it.
		if (n.made || n.parent != nil && r.setsDirs()) && !n.file {
			err = r.setAttributes(ctx, n.dst, pull.Dir, r.attributes(n.entry))
		} else if s, ok := r.Target.(pull.DirSyncer); ok {
			err = s.SyncDir(ctx, n.dst)
		}
		if err != nil {
			r.failed(ctx, n.dst, err)
		}
	}
}

// collect notes what the destination has and the snapshot has not.
func (r *run) collect(n *node, l *listing) {
	if !l.whole {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for name, e := range l.names {
		switch {
		case e.Err != nil || checkName(n.dst, name) != nil:
			r.Report.note(n.dst, &pull.Error{Op: "delete", Path: n.dst, Kind: pull.KindListing, Err: errors.New("what is not understood stays")})
		case e.Type == pull.Special: // no snapshot has it
		case len(r.extras) == maxExtras:
			r.more = true
		default:
			r.extras = append(r.extras, extra{child(n.dst, name), e.Type})
		}
	}
}
