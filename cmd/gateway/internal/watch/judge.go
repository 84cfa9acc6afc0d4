package watch

import (
	"fmt"
	"time"

	"github.com/dustin/go-humanize"

	"github.com/snapgate/gateway/internal/alarm"
	"github.com/snapgate/gateway/snapshotter"
)

// Expect says what is expected of a share or source. Zero values expect nothing.
type Expect struct {
	Every   time.Duration // there is a backup
	MinSize int64         // of the newest snapshot, in bytes
	// MaxShrink is by what part of its size a share may become smaller in a day, MaxDeletion what part of
	// its files may go, and MaxOverwrite what part of the files that are overwritten may look encrypted.
	MaxShrink, MaxDeletion, MaxOverwrite float64
}

// Below these nothing is suspicious: few files, and a share that is nearly empty.
const (
	fewFiles  = 20
	smallSize = 1 << 20
)

// dayLength is over how long changes are added up. Who makes a snapshot of each file must not stay
// below what is suspicious.
const dayLength = 24 * time.Hour

// Finding is something suspicious.
type Finding struct {
	Kind alarm.Kind
	Text string
	// Good is the snapshot before it.
	Good snapshotter.Snapshot
}

// Judge looks for what is suspicious in what is new. It compares the new snapshots with the one before, and
// with the one that the day began with when much has changed since, at the cost of the changes; compare
// is asked for them. It takes Day further.
func (n *New) Judge(e Expect, compare func(was, now snapshotter.ID) (Changes, error)) ([]Finding, error) {
	newest, was := n.Fresh[len(n.Fresh)-1], n.Was
	if was == nil {
		if len(n.Fresh) == 1 {
			return nil, nil // there was nothing before
		}
		was = &n.Fresh[0]
	}
	if e.MaxShrink == 0 && e.MaxDeletion == 0 && e.MaxOverwrite == 0 {
		*n.Day = Day{}
		return nil, nil
	}
	base := n.base()
	if base == nil || newest.Time.Sub(n.Day.Began) > dayLength || newest.Time.Before(n.Day.Began) {
		base = was
		*n.Day = Day{Base: was.ID.String(), Began: n.Fresh[0].Time}
	}
	var found []Finding
	if e.MaxDeletion > 0 || e.MaxOverwrite > 0 {
		c, err := compare(was.ID, newest.ID)
		if err != nil {
			return nil, err
		}
		found = e.judge(c, was, &newest)
		n.Day.Changed += c.Removed + c.Scrambled
		// Each time that a quarter more has changed: together that costs what has changed a few times.
		if len(found) == 0 && base.ID != was.ID && n.Day.Changed >= fewFiles && n.Day.Changed > n.Day.Judged+n.Day.Judged/4 {
			if c, err = compare(base.ID, newest.ID); err != nil {
				return nil, err
			}
			found, n.Day.Judged = e.judge(c, base, &newest), n.Day.Changed
		}
	}
	if e.MaxShrink > 0 && base.Size >= smallSize && float64(newest.Size) < float64(base.Size)*(1-e.MaxShrink) {
		found = append(found, Finding{alarm.Shrink, fmt.Sprintf("it has shrunk from %s to %s", humanize.IBytes(base.Size), humanize.IBytes(newest.Size)), *base})
	}
	if len(found) > 0 { // what is so now is what the next changes are compared with
		*n.Day = Day{Base: newest.ID.String(), Began: newest.Time}
	}
	return found, nil
}

// base is the snapshot that the day began with, nil when there is none.
func (n *New) base() *snapshotter.Snapshot {
	id, err := snapshotter.ParseID(n.Day.Base)
	if err != nil {
		return nil // none yet
	}
	for i := range n.All {
		if n.All[i].ID == id {
			return &n.All[i]
		}
	}
	return nil
}

// judge judges about changes since a good snapshot.
func (e *Expect) judge(c Changes, good, newest *snapshotter.Snapshot) (found []Finding) {
	if c.Cut { // it was not counted to the end: what is certain
		c.Removed = max(0, int(good.Files)-int(newest.Files))
	}
	if e.MaxDeletion > 0 && c.Removed >= fewFiles && float64(c.Removed) > e.MaxDeletion*float64(good.Files) {
		found = append(found, Finding{alarm.MassDeletion, fmt.Sprintf("%d of %d files were removed", c.Removed, good.Files), *good})
	}
	if e.MaxOverwrite > 0 && c.Scrambled >= fewFiles && float64(c.Scrambled) > e.MaxOverwrite*float64(c.Overwritten) {
		text := fmt.Sprintf("%d of %d files that were overwritten look encrypted, and did not before", c.Scrambled, c.Overwritten)
		if c.Extension != "" {
			text += fmt.Sprintf("; most are called *%s now", c.Extension)
		}
		found = append(found, Finding{alarm.MassOverwrite, text, *good})
	}
	return found
}

// TooSmall says that a snapshot is smaller than is expected, "" when it is not.
func (e *Expect) TooSmall(s *snapshotter.Snapshot) string {
	if e.MinSize == 0 || s.Size >= uint64(e.MinSize) {
		return ""
	}
	return fmt.Sprintf("the newest snapshot has %s; at least %s are expected", humanize.IBytes(s.Size), humanize.IBytes(uint64(e.MinSize)))
}
