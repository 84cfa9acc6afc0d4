package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/dustin/go-humanize"

	"github.com/snapgate/gateway/cmd/gateway/internal/config"
	"github.com/snapgate/gateway/snapshotter"
)

// syncEvent is what sync --json prints.
type syncEvent struct {
	Event string `json:"event"` // copied, read, failed, removed, missing or done

	ID    string `json:"id,omitempty"`
	Time  string `json:"time,omitempty"`
	Share string `json:"share,omitempty"`
	Error string `json:"error,omitempty"`

	Entries uint64 `json:"entries,omitempty"` // that are new or differ
	Read    uint64 `json:"read,omitempty"`    // bytes of contents
	Sent    uint64 `json:"sent,omitempty"`    // of them, what was not there

	*syncTotals
}

// syncTotals are of the whole run.
type syncTotals struct {
	Copied  int     `json:"copied"`
	Failed  int     `json:"failed"`  // to be copied, or to be read back
	There   int     `json:"there"`   // before
	Removed int     `json:"removed"` // from the target, and left out
	Missing int     `json:"missing"` // with --dry-run
	Seconds float64 `json:"seconds"`
}

// progressEvery is how often a terminal is told how far a snapshot is.
const progressEvery = 500 * time.Millisecond

// syncOutput prints how a sync gets on: what was copied on standard output, what was not and
// progress on standard error.
type syncOutput struct {
	stdout, stderr io.Writer // stderr goes above the line of progress
	live           *liveLine // nil: standard error is no terminal
	asJSON         bool
	began          time.Time

	copier *snapshotter.Copier
	plan   snapshotter.CopyPlan
	tried  int // snapshots
	before snapshotter.CopyProgress
	stop   func() // ends the progress of a snapshot
	dry    bool
	done   int
	failed int
	unread int // of them, the copies that cannot be read back
}

func newSyncOutput(p *program, asJSON bool) *syncOutput {
	o := &syncOutput{
		stdout: p.stdout, stderr: p.stderr, asJSON: asJSON, began: time.Now(),
		live: terminal(p.stderr), stop: func() {}, dry: true,
	}
	if o.live != nil {
		o.stderr = o.live
	}
	return o
}

func (o *syncOutput) print(e syncEvent, format string, args ...any) {
	if o.asJSON {
		enc := json.NewEncoder(o.stdout)
		enc.SetEscapeHTML(false)
		_ = enc.Encode(e) // the last one tells whether it could be written
		return
	}
	_, _ = fmt.Fprintf(o.stdout, format+"\n", args...)
}

func event(name string, s snapshotter.Snapshot) syncEvent {
	return syncEvent{Event: name, ID: s.ID.String(), Time: s.Time.UTC().Format(time.RFC3339), Share: s.Share}
}

// line describes a snapshot as plakar lists it, and its share.
func line(s snapshotter.Snapshot) string {
	return fmt.Sprintf("%s %s %s", s.ID.String()[:8], s.Time.UTC().Format(time.RFC3339), printable(s.Share))
}

func (o *syncOutput) planned(plan snapshotter.CopyPlan, copier *snapshotter.Copier) {
	o.plan, o.copier = plan, copier
	for _, s := range plan.Removed {
		o.print(event("removed", s), "%s: was removed from the store that it would be copied to", line(s))
	}
	for _, id := range plan.Unreadable {
		o.failed++
		if o.asJSON {
			o.print(syncEvent{Event: "failed", ID: id.String(), Error: unreadableText}, "")
		}
		_, _ = fmt.Fprintf(o.stderr, "not copied: %s: %s\n", id.String()[:8], unreadableText)
	}
}

func (o *syncOutput) checked(s snapshotter.Snapshot, err error) {
	if err != nil {
		o.fail(s, err)
		return
	}
	o.print(event("read", s), "%s: was copied before, and is read back now", line(s))
}

// fail tells of a snapshot that was not copied, or of a copy that cannot be read back.
func (o *syncOutput) fail(s snapshotter.Snapshot, err error) {
	what := "not copied"
	o.failed++
	if errors.Is(err, snapshotter.ErrNotRead) || errors.Is(err, snapshotter.ErrUnread) {
		what = "not read back"
		o.unread++
	}
	e := event("failed", s)
	e.Error = err.Error()
	if o.asJSON {
		o.print(e, "")
	}
	_, _ = fmt.Fprintf(o.stderr, "%s: %s: %s\n", what, line(s), printable(err.Error()))
}

func (o *syncOutput) copying(s snapshotter.Snapshot) {
	o.tried++
	o.before, o.dry = o.copier.Progress(), false
	if o.live == nil {
		return
	}
	quit := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		tick := time.NewTicker(progressEvery)
		defer tick.Stop()
		for {
			select {
			case <-quit:
				o.live.draw("")
				return
			case <-tick.C:
				n := o.since()
				o.live.draw(fmt.Sprintf("[%d/%d] %s: %s, %s read, %s sent", o.tried, len(o.plan.Missing),
					line(s), count(n.Entries, "entry", "entries"), humanize.IBytes(n.Read), humanize.IBytes(n.Sent)))
			}
		}
	})
	o.stop = func() {
		close(quit)
		wg.Wait()
		o.stop = func() {}
	}
}

// since is what was done for the snapshot.
func (o *syncOutput) since() snapshotter.CopyProgress {
	n := o.copier.Progress()
	n.Entries -= o.before.Entries
	n.Read -= o.before.Read
	n.Sent -= o.before.Sent
	return n
}

func (o *syncOutput) copied(s snapshotter.Snapshot, err error) {
	o.stop()
	n := o.since()
	if errors.Is(err, snapshotter.ErrNoSnapshot) {
		return // somebody has removed it meanwhile
	}
	if err != nil {
		o.fail(s, err)
		return
	}
	o.done++
	e := event("copied", s)
	e.Entries, e.Read, e.Sent = n.Entries, n.Read, n.Sent
	o.print(e, "%s: %s, %s sent", line(s), count(n.Entries, "entry", "entries"), humanize.IBytes(n.Sent))
}

func (o *syncOutput) finished() {
	t := &syncTotals{
		Copied: o.done, Failed: o.failed, There: len(o.plan.There), Removed: len(o.plan.Removed),
		Seconds: time.Since(o.began).Seconds(),
	}
	if o.dry {
		t.Missing = len(o.plan.Missing)
		for _, s := range o.plan.Missing {
			o.print(event("missing", s), "%s", line(s))
		}
	}
	n := o.copier.Progress()
	e := syncEvent{Event: "done", Entries: n.Entries, Read: n.Read, Sent: n.Sent, syncTotals: t}
	if o.asJSON {
		o.print(e, "")
		return
	}
	if t.Missing > 0 {
		_, _ = fmt.Fprintf(o.stderr, "%s be copied; %s there\n", count(t.Missing, "snapshot would", "snapshots would"), count(t.There, "is", "are"))
		return
	}
	unread := ""
	if o.unread > 0 {
		unread = fmt.Sprintf(", %d cannot be read back", o.unread)
	}
	_, _ = fmt.Fprintf(o.stderr, "copied %s (%s read, %s sent), %s there already, %d could not be copied%s\n",
		count(t.Copied, "snapshot", "snapshots"), humanize.IBytes(n.Read), humanize.IBytes(n.Sent), count(t.There, "was", "were"), t.Failed-o.unread, unread)
}

// incomplete says that not all was copied, or that copies cannot be read back; nil when neither is so.
func (o *syncOutput) incomplete(job config.Sync) error {
	tried := o.failed + o.done
	if o.dry {
		tried += len(o.plan.Missing)
	}
	all := fmt.Sprintf("%d of %s could not be copied", o.failed-o.unread, count(tried, "snapshot", "snapshots"))
	unread := fmt.Sprintf("%s in %s cannot be read back", count(o.unread, "copy", "copies"), job.To)
	switch {
	case o.failed == 0:
		return nil
	case o.unread == 0 && len(o.plan.Unreadable) > 0:
		return &hintedError{err: &incompleteError{"sync: " + all}, hint: hintOfUnreadable}
	case o.unread == 0:
		return &incompleteError{"sync: " + all}
	case o.failed > o.unread:
		unread = all + ", " + unread
	}
	return &hintedError{
		err:  &incompleteError{"sync: " + unread},
		hint: fmt.Sprintf("gateway scrub --repair --from %s %s, which mends what it finds damaged", job.From, job.To),
	}
}

// close ends what an error has left.
func (o *syncOutput) close() { o.stop() }
