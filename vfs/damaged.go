package vfs

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"sync"
	"syscall"

	"github.com/snapgate/gateway/snapshotter"
	"github.com/snapgate/gateway/vfs/internal/spool"
)

// ErrUploadDamaged says that the spool does not give back the bytes of an accepted upload.
// Nothing but the bytes themselves, or Config.LeaveOutDamaged, helps.
var ErrUploadDamaged = errors.New("the spooled bytes of an upload are missing or damaged")

// ErrBaseGone says that an accepted upload continues a file of a snapshot that was removed from the store, and of
// which a part is gone, or damaged. Nothing but Config.LeaveOutDamaged helps, unless another snapshot has what is damaged as well, and it is
// repaired.
var ErrBaseGone = errors.New("a snapshot that an upload takes bytes from was removed, and is gone from the store")

// ErrBaseLost says that an accepted upload takes bytes from a snapshot that is listed, and that the store has lost them, or gives others than were
// written. Nothing but their repair, or Config.LeaveOutDamaged, helps.
var ErrBaseLost = errors.New("bytes that an upload takes from a snapshot are missing from the store, or damaged")

// unopenedError marks why a snapshot could not be opened: that says nothing about what a content takes from it.
type unopenedError struct{ err error }

func (e *unopenedError) Error() string { return e.err.Error() }
func (e *unopenedError) Unwrap() error { return e.err }

// isBaseLost reports whether an error of reading a content says that what it takes from a snapshot is lost, or damaged. What is not there because
// the store is away, or for whatever other reason, is not, and a snapshot that is not listed can be repaired.
func isBaseLost(err error) bool {
	var unopened *unopenedError
	return !errors.Is(err, snapshotter.ErrNoSnapshot) &&
		(errors.Is(err, snapshotter.ErrLost) || errors.Is(err, snapshotter.ErrDamaged) && !errors.As(err, &unopened))
}

// spoolError marks what the spool failed with.
type spoolError struct{ err error }

func (e *spoolError) Error() string { return e.err.Error() }
func (e *spoolError) Unwrap() error { return e.err }

// isDamage reports whether an error of reading a content says that its bytes are gone, and
// not that the process or the store is in trouble.
func isDamage(err error) bool {
	var spooled *spoolError
	return errors.Is(err, errRotten) || errors.As(err, &spooled) &&
		(errors.Is(err, spool.ErrDamaged) || errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.EIO))
}

// damagedUploads are the contents that an attempt to commit could not read. Safe for
// concurrent use.
type damagedUploads struct {
	mu       sync.Mutex
	contents map[*content]error // guarded by mu
}

func (d *damagedUploads) reset() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.contents = nil
}

func (d *damagedUploads) any() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.contents) > 0
}

// note returns err, and notes c when its bytes are damaged, or gone.
func (d *damagedUploads) note(c *content, err error) error {
	var why error
	switch {
	case err == nil:
		return nil
	case isDamage(err):
		why = ErrUploadDamaged
	case errors.Is(err, snapshotter.ErrNoSnapshot) && !errors.Is(err, snapshotter.ErrDamaged) && !errors.Is(err, snapshotter.ErrLost): // what was not removed can be repaired
		why = ErrBaseGone
	case isBaseLost(err):
		why = ErrBaseLost
	default:
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.contents == nil {
		d.contents = map[*content]error{}
	}
	d.contents[c] = err
	return fmt.Errorf("%w: %w", why, err)
}

func (d *damagedUploads) cause(c *content) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.contents[c]
}

// leaveOut takes the uploads that could not be read out of a sealed set, so that the rest of
// it can be committed: what the head has at their names shows again. Each is logged. It does
// nothing, and says so, unless Config.LeaveOutDamaged allows it.
func (s *share) leaveOut(ctx context.Context, set *changeSet) (bool, error) {
	if !s.system.cfg.LeaveOutDamaged {
		return false, nil
	}
	// Those that cannot be opened are found at once, not one a commit.
	var names []Name
	set.tree.diff(func(c snapshotter.Change, n *node, _ bool) bool {
		if c.Kind != snapshotter.File || c.From != "" {
			return true
		}
		if r, err := s.openContent(ctx, n.content); err == nil {
			_ = r.Close() // nothing was written
		} else {
			_ = set.damaged.note(n.content, err)
		}
		if err := set.damaged.cause(n.content); err != nil {
			s.log.Error("an upload is damaged and left out of the snapshot: it must be uploaded again",
				"share", s.name, "path", c.Path, "err", err)
			n.content.leaveOut(err)
			names = append(names, Name{c.Path})
		}
		return true
	})
	if len(names) == 0 {
		return false, nil
	}
	t, err := set.tree.hide(ctx, names)
	if err != nil {
		return false, err
	}
	set.tree = t
	set.leftOut += uint64(len(names))
	return true, nil
}
