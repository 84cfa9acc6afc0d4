package restore

import (
	"cmp"
	"context"
	"errors"
	"strings"

	"github.com/snapgate/gateway/pull"
	"github.com/snapgate/gateway/snapshotter"
)

// symlink restores a symbolic link. aside is what was moved aside for it.
func (r *run) symlink(ctx context.Context, dst string, e snapshotter.Entry, old found, aside *found) error {
	r.Report.at(dst)
	if e.Target == "" || strings.IndexByte(e.Target, 0) >= 0 {
		return &pull.Error{Op: "link", Path: dst, Kind: pull.KindName, Err: errors.New("no link can have its target")}
	}
	old, err := r.look(ctx, dst, old)
	if err != nil {
		return err
	}
	op := "restore"
	if old.there {
		same, err := r.leadsTo(ctx, dst, e.Target, old.Entry)
		switch {
		case err != nil:
			return err
		case same:
			r.Report.unchanged.Add(1)
			if r.Verify {
				r.Report.verified.Add(1)
			}
			return r.settleLink(ctx, dst, e, old.Entry)
		case r.noLinks && old.Type != pull.File && old.Type != pull.Symlink:
			return r.leaveOut(dst, aside)
		case old.Type != pull.File && old.Type != pull.Symlink:
			return conflict(dst, "a directory or a device is where a symbolic link is to be")
		case !r.replaces(old.Entry, e):
			r.note("keep", dst, pull.Symlink, 0)
			r.Report.kept.Add(1)
			*aside = found{} // it may be the only one
			return nil
		}
		op = "replace"
	}
	if r.noLinks {
		return r.leaveOut(dst, aside)
	}
	r.note(op, dst, pull.Symlink, 0)
	var lacks *pull.AttributeError
	if !r.DryRun {
		if err := r.link(ctx, dst, e, old.there, aside); err != nil && !errors.As(err, &lacks) {
			return err
		}
	}
	r.Report.restored.Add(1)
	if old.there {
		r.Report.replaced.Add(1)
	}
	if lacks != nil {
		return lacks
	}
	return nil
}

// leaveOut notes a link that the protocol of the destination has not. What lies in its place stays, also what was moved aside
// for it: it may be the only one.
func (r *run) leaveOut(dst string, aside *found) error {
	*aside = found{}
	r.Report.leaveOut(dst, &pull.Error{Op: "link", Path: dst, Kind: pull.KindUnsupported, Err: errNoLinks})
	return nil
}

// errNoLinks is why a link is left out.
var errNoLinks = errors.New("the protocol has no symbolic links")

// settleLink gives a link that is there what it lacks: a run that was cut off may have made it, and one without
// Owner leaves it to whoever ran it.
func (r *run) settleLink(ctx context.Context, dst string, e snapshotter.Entry, old pull.Entry) error {
	var want pull.Attributes
	if r.owes(old, e) {
		want.UID, want.GID, want.HasOwner = e.Attr.UID, e.Attr.GID, true
	}
	if timed(old) && !sameTime(old, e) && r.replaces(old, e) {
		want.ModTime = e.Attr.ModTime
	}
	if want == (pull.Attributes{}) || r.DryRun || r.Overwrite == Never {
		return nil
	}
	err := r.setAttributes(ctx, dst, pull.Symlink, want)
	if err != nil && !want.HasOwner && pull.KindOf(err) == pull.KindPermission {
		return nil // it is somebody else's, and leads where it is to
	}
	return lacking(err)
}

// leadsTo reports whether what is there is a symbolic link with a target.
func (r *run) leadsTo(ctx context.Context, dst, target string, old pull.Entry) (bool, error) {
	if old.Type != pull.Symlink {
		return false, nil
	}
	if old.Target != "" {
		return old.Target == target, nil
	}
	got, err := retry(ctx, r, func(ctx context.Context) (string, error) { return r.Target.Readlink(ctx, dst) })
	return got == target, err
}

// link makes a symbolic link, in place of what is there. A *pull.AttributeError says that all but attributes is as it is to be.
func (r *run) link(ctx context.Context, dst string, e snapshotter.Entry, replace bool, aside *found) error {
	t := r.Target
	at := dst
	if replace {
		at = child(parentOf(dst), tempName(r.Lineage, dst, e))
	}
	err := r.Retry.Do(ctx, func() (bool, error) {
		err := t.Symlink(ctx, e.Target, at)
		if err == nil || pull.KindOf(err) == pull.KindConnection || pull.KindOf(err) == pull.KindUnsupported {
			return false, err
		}
		// The answer was lost, or an earlier run has made it.
		if got, rerr := t.Readlink(ctx, at); rerr == nil && got == e.Target {
			return false, nil
		}
		return false, err
	})
	if err != nil {
		return err
	}
	// It leads where it is to, also without its owner or time.
	lacks := r.setAttributes(ctx, at, pull.Symlink, r.attributes(e))
	if lacks != nil && (fatal(lacks) || ctx.Err() != nil) {
		return lacks
	}
	if replace {
		r.Failpoint(FailpointLinked)
		err = r.Retry.Do(ctx, func() (bool, error) {
			err := t.Rename(ctx, at, dst)
			aside.ask = aside.ask || err != nil && pull.KindOf(err) == pull.KindConnection
			if err != nil && pull.KindOf(err) == pull.KindNotFound {
				if got, rerr := t.Readlink(ctx, dst); rerr == nil && got == e.Target {
					err = nil
				}
			}
			return false, err
		})
	}
	if err != nil || !r.Verify {
		return cmp.Or(err, lacking(lacks))
	}
	got, err := retry(ctx, r, func(ctx context.Context) (string, error) { return t.Readlink(ctx, dst) })
	switch {
	case err != nil:
		return err
	case got != e.Target:
		return &pull.Error{Op: "verify", Path: dst, Kind: pull.KindDiffers, Err: errors.New("it leads to " + pull.Printable(got))}
	}
	r.Report.verified.Add(1)
	return lacking(lacks)
}

// lacking makes an AttributeError of what a link that is there has not got, unless it ends the run.
func lacking(err error) error {
	if err == nil || fatal(err) {
		return err
	}
	return &pull.AttributeError{Err: err}
}
