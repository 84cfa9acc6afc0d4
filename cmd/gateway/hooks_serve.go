package main

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/snapgate/gateway/cmd/gateway/internal/config"
	"github.com/snapgate/gateway/cmd/gateway/internal/control"
	"github.com/snapgate/gateway/internal/alarm"
	"github.com/snapgate/gateway/internal/hooks"
	"github.com/snapgate/gateway/internal/metrics"
	"github.com/snapgate/gateway/snapshotter"
	"github.com/snapgate/gateway/vfs"
)

// hookQueue is the queue of a hook.
type hookQueue struct {
	*hooks.Queue
	cfg    config.Hook
	losing atomic.Bool // the last event could not be added
}

// tell puts an event into the queues of all hooks that want it. It is durable there when tell
// returns, or it is logged that it is lost: whatever becomes of hooks, nobody else has to wait for it.
func (e *events) tell(ev hooks.Event) {
	var all sync.WaitGroup
	for _, q := range e.hooks {
		if q.Wants(&ev) {
			all.Go(func() { e.add(q, ev) })
		}
	}
	all.Wait()
}

func (e *events) add(q *hookQueue, ev hooks.Event) {
	err := q.Add(ev)
	if lost := err != nil; q.losing.Swap(lost) != lost && lost {
		e.log.Error("events of a hook are lost", "hook", q.cfg.Name, "event", ev.Event, "err", err)
	}
}

// uploaded tells of an upload, before its client is told that it is complete.
func (e *events) uploaded(ev *vfs.Event) {
	if len(e.hooks) == 0 {
		return
	}
	h := hooks.Event{
		Event: hooks.Upload, Share: ev.Share, Path: ev.Path, User: ev.User, Protocol: ev.From.Protocol, Remote: ev.From.Remote,
		Bytes: &ev.Bytes,
	}
	if ev.Hash != nil {
		h.Hash = "blake3:" + hex.EncodeToString(ev.Hash[:])
	}
	e.tell(h)
}

// snapshotMade tells of a snapshot.
func (e *events) snapshotMade(s snapshotter.Snapshot) {
	size := int64(s.Size)
	e.backups.note(s.Share, s.Time)
	h := hooks.Event{ID: hooks.NameID(hooks.Snapshot, s.ID.String()), Event: hooks.Snapshot, Share: s.Share, Snapshot: s.ID.String(), Bytes: &size, Files: s.Files}
	for _, tag := range s.Tags {
		switch key, value, _ := strings.Cut(tag, "="); key {
		case "user":
			h.Users = append(h.Users, value)
		case "reason":
			h.Reason = value
		}
	}
	e.tell(h)
}

// alarmChanged tells of an alarm.
func (e *events) alarmChanged(c alarm.Change) {
	h := hooks.Event{
		Event: hooks.Alarm, Kind: string(c.Kind), Subject: c.Subject, Text: c.Text, Hint: c.Hint, Since: stamp(c.Since), Snapshot: c.Snapshot,
	}
	if !c.Raised {
		h.Event = hooks.AlarmCleared
	}
	h.ID = hooks.NameID(h.Event, h.Kind, h.Subject, c.Since.Format(time.RFC3339Nano))
	if c.Kind.OfShare() {
		h.Share = c.Subject
	}
	e.tell(h)
}

// tellHooks tells hooks what is in their queues until ctx ends.
func (e *events) tellHooks(ctx context.Context) {
	var all sync.WaitGroup
	for _, q := range e.hooks {
		all.Go(func() { q.Serve(ctx) })
	}
	all.Wait()
}

// hookStates tells how the hooks are doing.
func (e *events) hookStates() []control.Hook {
	list := []control.Hook{}
	for _, q := range e.hooks {
		st := q.Status()[0]
		h := control.Hook{
			Name: st.Name, On: q.cfg.On, Shares: q.cfg.Shares, Target: hookTarget(&q.cfg), Pending: st.Pending, Tries: st.Tries, Error: st.Error,
			Success: stamp(st.Success), GivenUp: st.GivenUp, Dropped: st.Dropped,
		}
		if h.Shares == nil {
			h.Shares = []string{}
		}
		list = append(list, h)
	}
	return list
}

// hookMetrics is hookStates for the metrics.
func (e *events) hookMetrics() (list []metrics.Hook) {
	for _, q := range e.hooks {
		st := q.Status()[0]
		list = append(list, metrics.Hook{
			Name: st.Name, Pending: st.Pending, Failures: st.Tries, GivenUp: uint64(st.GivenUp), Dropped: st.Dropped, Success: st.Success,
		})
	}
	return list
}

// hookProblems says what is wrong with hooks.
func hookProblems(list []control.Hook) (problems []string) {
	for i := range list {
		h := &list[i]
		if h.Tries > 0 {
			problems = append(problems, fmt.Sprintf("hook %s: failed %s in a row, %s: %s", h.Name, count(h.Tries, "time", "times"), count(h.Pending, "event waits", "events wait"), h.Error))
		}
		if lost := uint64(h.GivenUp) + h.Dropped; lost > 0 {
			problems = append(problems, fmt.Sprintf("hook %s: %s lost", h.Name, count(lost, "event is", "events are")))
		}
	}
	return problems
}

// answerHooks lists the hooks.
func (s *serving) answerHooks(send func(control.Reply) error) control.Reply {
	for _, h := range s.events.hookStates() {
		if err := send(control.Reply{Hook: &h}); err != nil {
			return refusal(err)
		}
	}
	return control.Reply{}
}

// watchInterval is how often serve looks at what may be wrong, and othersInterval how often for snapshots
// that others have made, as gateway pull: that lists the store.
const (
	watchInterval  = time.Minute
	othersInterval = 5 * time.Minute
)

// watchPause is how many times as long as a look took is waited before the next: looks take a tenth of a
// processor at most, however many snapshots are made.
const watchPause = 9

// watching deals with new snapshots, and looks at what else may be wrong, until ctx ends.
func (s *serving) watching(ctx context.Context) {
	tick := time.NewTicker(watchInterval)
	defer tick.Stop()
	failing, refreshed := false, time.Now()
	if s.expect.Load().HasTimes() {
		s.observe(ctx) // how long the machine was off
	}
	for {
		began := time.Now()
		err := s.watcher.Look(ctx, s.lineages())
		s.forget(ctx) // not while a finding is pinned
		err = errors.Join(err, s.check())
		if failed := err != nil && ctx.Err() == nil; failed != failing {
			if failing = failed; failed {
				s.log.Warn("new snapshots could not be looked at; that is tried again", "err", err)
			}
		}
		pause := time.NewTimer(watchPause * time.Since(began))
		select {
		case <-pause.C:
		case <-ctx.Done():
			pause.Stop()
			return
		}
		select {
		case <-s.events.made:
		case <-tick.C:
			if time.Since(refreshed) >= othersInterval {
				refreshed = time.Now()
				_ = s.snapshots.Refresh(ctx) // the probe tells when the store is away
			}
		case <-ctx.Done():
			return
		}
	}
}

// lineages are those of all shares and sources.
func (s *serving) lineages() map[string]snapshotter.Lineage {
	lines := map[string]snapshotter.Lineage{}
	for _, sh := range s.system.Status().Shares {
		if line := s.system.Lineage(sh.Name); line.ShareID != "" {
			lines[sh.Name] = line
		}
	}
	return lines
}
