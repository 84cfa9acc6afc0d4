package restore

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/snapgate/gateway/pull"
	"github.com/snapgate/gateway/snapshotter"
)

// relockLimit is how long a run that was ended takes to give directories back the modes that they had.
const relockLimit = 10 * time.Second

// unlocked is a directory that was made writable for what is in it, and stays.
type unlocked struct {
	path string
	was  pull.Attributes
}

// remove removes what the destination has and the snapshot has not, when all was restored and
// Confirm agrees.
func (r *run) remove(ctx context.Context) error {
	if len(r.extras) == 0 {
		return nil
	}
	slices.SortFunc(r.extras, func(a, b extra) int { return strings.Compare(a.path, b.path) })
	if n := r.Report.Failed(); n > 0 {
		return fmt.Errorf("%w, because of %s", ErrNotDeleted, pull.Count(n, "problem", "problems"))
	}
	if slices.Contains(r.Lacks, "/") {
		return fmt.Errorf("%w: what is there may be what the snapshot lacks", ErrNotDeleted)
	}
	r.Report.deletes.Store(true)
	if r.spare(); len(r.extras) == 0 {
		return nil
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	r.cancel = cancel
	if r.DryRun {
		for _, x := range r.extras {
			r.note("delete", x.path, x.t, 0)
			if err := r.countTree(ctx, x); err != nil {
				r.failed(ctx, x.path, err)
			}
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
		}
		return nil
	}
	if err := r.recheck(ctx); err != nil {
		return err
	}
	if len(r.extras) == 0 {
		return nil
	}
	e := Extras{}
	for _, x := range r.extras {
		e.Paths = append(e.Paths, x.path)
	}
	ok, err := r.Confirm(ctx, e)
	if err != nil {
		return err
	}
	if !ok {
		return ErrNotDeleted
	}
	dirs := map[string]struct{}{} // that were changed
	for _, x := range r.extras {
		if ctx.Err() != nil {
			break
		}
		r.note("delete", x.path, x.t, 0)
		parent := parentOf(x.path)
		if _, ok := dirs[parent]; !ok && parent != "/" && r.setsDirs() {
			r.unlock(ctx, parent)
			dirs[parent] = struct{}{}
		}
		if err := r.removeTree(ctx, x); err != nil {
			r.failed(ctx, x.path, err)
			continue
		}
		r.Failpoint(FailpointDeleted)
		dirs[parent] = struct{}{}
	}
	r.relock(ctx, dirs)
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if r.more {
		r.Report.note("/", &pull.Error{Op: "delete", Path: "/", Kind: pull.KindLimit, Err: fmt.Errorf("more than %d names: run it again", maxExtras)})
	}
	return nil
}

// spare drops the extras that the snapshot may lack, see Config.Lacks, and says so.
func (r *run) spare() {
	kept := make(map[string]int64, len(r.Lacks)) // extras, by what they are kept for
	above := map[string]string{}                 // directories with one of Lacks below
	for _, p := range r.Lacks {
		kept[p] = 0
		for dir := parentOf(p); dir != "/"; dir = parentOf(dir) {
			above[dir] = p
		}
	}
	r.extras = slices.DeleteFunc(r.extras, func(x extra) bool {
		lack, ok := above[x.path]
		for at := x.path; !ok && at != "/"; at = parentOf(at) {
			lack = at
			_, ok = kept[at]
		}
		if ok {
			kept[lack]++
		}
		return ok
	})
	for p, n := range kept {
		if n > 0 {
			r.Report.note(p, fmt.Errorf("%s not deleted, since the snapshot lacks what could not be captured here", pull.Count(n, "name is", "names are")))
		}
	}
}

// recheck lists the directories of extras again, now that all is restored, and drops what is not to be
// removed: on a destination that folds names, by case or by form, a name that was there is that of a
// file of the snapshot by now.
func (r *run) recheck(ctx context.Context) error {
	byDir := map[string][]extra{}
	for _, x := range r.extras {
		dir := parentOf(x.path)
		byDir[dir] = append(byDir[dir], x)
	}
	r.extras = nil
	for _, dir := range slices.Sorted(maps.Keys(byDir)) {
		names, err := r.names(ctx, dir)
		if err == nil {
			err = r.hasAll(ctx, dir, names)
		}
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err != nil && fatal(err):
			return err
		case err != nil:
			r.Report.note(dir, err)
			continue
		}
		for _, x := range byDir[dir] {
			if _, ok := names[x.path[strings.LastIndexByte(x.path, '/')+1:]]; ok {
				r.extras = append(r.extras, x)
			}
		}
	}
	slices.SortFunc(r.extras, func(a, b extra) int { return strings.Compare(a.path, b.path) })
	return nil
}

// names are the names that a directory of the destination has.
func (r *run) names(ctx context.Context, dir string) (map[string]struct{}, error) {
	var names map[string]struct{}
	err := r.Retry.Do(ctx, func() (bool, error) {
		names = map[string]struct{}{}
		return false, r.Target.ReadDir(ctx, dir, func(e pull.Entry) error {
			if len(names) == 2*maxExtras {
				return &pull.Error{Op: "delete", Path: dir, Kind: pull.KindLimit, Err: errors.New("too many names")}
			}
			names[e.Name] = struct{}{}
			return nil
		})
	})
	return names, err
}

// hasAll returns an error when a directory lacks a name that the snapshot has, and the destination can have.
func (r *run) hasAll(ctx context.Context, dir string, names map[string]struct{}) error {
	src, after := strings.TrimSuffix(r.Path, "/")+strings.TrimSuffix(dir, "/"), ""
	if src == "" {
		src = "/"
	}
	for {
		entries, err := r.Source.ReadDir(ctx, src, after, page)
		if err != nil {
			return err
		}
		for _, e := range entries {
			after = e.Name
			if _, ok := names[e.Name]; ok {
				continue
			}
			if err := r.unlisted(ctx, dir, e); err != nil {
				return err
			}
		}
		if len(entries) < page {
			return nil
		}
	}
}

// unlisted returns an error for what the snapshot has and a directory does not list, unless it is a link that was left out: what
// lies in its place under another name stays.
func (r *run) unlisted(ctx context.Context, dir string, e snapshotter.Entry) error {
	why := "was restored"
	if r.noLinks && e.Kind == snapshotter.Symlink {
		_, err := retry(ctx, r, func(ctx context.Context) (pull.Entry, error) { return r.Target.Lstat(ctx, child(dir, e.Name)) })
		switch {
		case err == nil:
			why = "is there"
		case pull.KindOf(err) == pull.KindNotFound:
			return nil
		default:
			return err
		}
	}
	text := fmt.Sprintf("it does not show %s, which %s: the destination changes names, or hides them, and nothing is deleted here", pull.Printable(e.Name), why)
	return &pull.Error{Op: "delete", Path: dir, Kind: pull.KindConflict, Err: errors.New(text)}
}

// relock gives directories their attributes when removals are over, also when somebody has ended the run: those of the snapshot
// in which something was removed, and extras that could not be removed.
func (r *run) relock(ctx context.Context, dirs map[string]struct{}) {
	if ctx.Err() != nil {
		if fatal(context.Cause(ctx)) {
			return // it would be as futile
		}
		late, cancel := context.WithTimeout(context.WithoutCancel(ctx), relockLimit)
		defer cancel()
		ctx = late
	}
	for _, u := range r.unlocked { // the deepest first
		if ctx.Err() != nil {
			return
		}
		if err := r.setAttributes(ctx, u.path, pull.Dir, u.was); err != nil && pull.KindOf(err) != pull.KindNotFound {
			r.failed(ctx, u.path, err)
		}
	}
	for dir := range dirs {
		if ctx.Err() == nil {
			r.again(ctx, dir)
		}
	}
}

// again gives a directory that was changed by removals its attributes.
func (r *run) again(ctx context.Context, dst string) {
	if dst == "/" || !r.setsDirs() {
		if s, ok := r.Target.(pull.DirSyncer); ok {
			if err := s.SyncDir(ctx, dst); err != nil {
				r.failed(ctx, dst, err)
			}
		}
		return
	}
	e, err := r.Source.Lstat(ctx, strings.TrimSuffix(r.Path, "/")+dst)
	if err == nil {
		err = r.setAttributes(ctx, dst, pull.Dir, r.attributes(e))
	}
	if err != nil {
		r.failed(ctx, dst, err)
	}
}

func parentOf(p string) string { return p[:max(strings.LastIndexByte(p, '/'), 1)] }

// removeTree removes what is at a path with all that is below it. It does not follow symbolic
// links.
func (r *run) removeTree(ctx context.Context, x extra) (err error) {
	err = r.Retry.Do(ctx, func() (bool, error) { return false, r.Target.Remove(ctx, x.path, x.t) })
	if err == nil || pull.KindOf(err) == pull.KindNotFound {
		r.Report.gone.Add(1)
		return nil
	}
	if x.t != pull.Dir || pull.KindOf(err) == pull.KindConnection || ctx.Err() != nil {
		return err
	}
	if r.setsDirs() {
		if was, changed := r.unlock(ctx, x.path); changed {
			defer func() {
				if err != nil {
					r.unlocked = append(r.unlocked, unlocked{x.path, was})
				}
			}()
		}
	}
	below, lerr := r.below(ctx, x)
	if lerr != nil {
		return lerr
	}
	if len(below) == 0 {
		return err // it is empty, and something else is in the way
	}
	for _, b := range below {
		if err := r.removeTree(ctx, b); err != nil {
			return err
		}
	}
	err = r.Retry.Do(ctx, func() (bool, error) { return false, r.Target.Remove(ctx, x.path, x.t) })
	if err == nil || pull.KindOf(err) == pull.KindNotFound {
		r.Report.gone.Add(1)
		return nil
	}
	return err
}

// unlock lets its owner remove what is in a directory, as enter does for writing, and returns what it may have changed. When that
// is refused, so is the removal, whose error says more.
func (r *run) unlock(ctx context.Context, dst string) (was pull.Attributes, changed bool) {
	e, err := retry(ctx, r, func(ctx context.Context) (pull.Entry, error) { return r.Target.Lstat(ctx, dst) })
	if err != nil || e.Type != pull.Dir || !e.HasMode || e.Mode&0o700 == 0o700 {
		return was, false
	}
	err = r.setAttributes(ctx, dst, pull.Dir, pull.Attributes{Mode: e.Mode | 0o700, HasMode: true})
	return pull.Attributes{Mode: e.Mode, HasMode: true}, err == nil || ctx.Err() != nil
}

// below is what a directory has.
func (r *run) below(ctx context.Context, x extra) (below []extra, err error) {
	err = r.Retry.Do(ctx, func() (bool, error) {
		below = nil
		return false, r.Target.ReadDir(ctx, x.path, func(e pull.Entry) error {
			switch {
			case e.Err != nil:
				return e.Err
			case len(below) == maxExtras:
				return errors.New("too many names")
			}
			below = append(below, extra{child(x.path, e.Name), e.Type})
			return nil
		})
	})
	return below, err
}

// countTree counts what removeTree would remove.
func (r *run) countTree(ctx context.Context, x extra) error {
	if x.t == pull.Dir {
		below, err := r.below(ctx, x)
		if err != nil {
			return err
		}
		for _, b := range below {
			if err := r.countTree(ctx, b); err != nil {
				return err
			}
		}
	}
	r.Report.gone.Add(1)
	return nil
}
