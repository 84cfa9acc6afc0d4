package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/snapgate/gateway/cmd/gateway/internal/control"
	"github.com/snapgate/gateway/internal/alarm"
	"github.com/snapgate/gateway/internal/disk"
	"github.com/snapgate/gateway/internal/jobs"
	"github.com/snapgate/gateway/pull"
	"github.com/snapgate/gateway/snapshotter"
)

// answerAlarms lists the alarms.
func (s *serving) answerAlarms(send func(control.Reply) error) control.Reply {
	for _, a := range s.alarms.List() {
		d := describeAlarm(&a)
		if err := send(control.Reply{Alarm: &d}); err != nil {
			return refusal(err)
		}
	}
	return control.Reply{}
}

// answerAckAlarm acknowledges an alarm.
func (s *serving) answerAckAlarm(ctx context.Context, req control.Request) control.Reply {
	return refusal(s.keeper.acknowledge(ctx, req.Kind, req.Subject))
}

// acknowledge acknowledges an alarm, and unpins what no other alarm has pinned, before the alarm
// is over: what a crash cuts short can be asked for again. An alarm that stays has its pins again.
func (k *keeper) acknowledge(ctx context.Context, kind, subject string) error {
	k.alarming.Lock()
	defer k.alarming.Unlock()
	a, ok := k.alarms.Get(alarm.Kind(kind), subject)
	if !ok {
		a = alarm.Alarm{Kind: alarm.Kind(kind), Subject: subject} // the board says what is wrong with it
	}
	var unpinned []snapshotter.ID
	if a.Finding {
		var err error
		if unpinned, err = k.unpinOf(ctx, &a); err != nil {
			return fmt.Errorf("%s %s: its snapshots cannot be unpinned: %w", kind, subject, err)
		}
	}
	_, err := k.alarms.Acknowledge(&a)
	switch {
	case errors.Is(err, alarm.ErrUnknown):
		err = &hintedError{err: err, hint: "see: gateway alarms"}
	case errors.Is(err, alarm.ErrChanged):
		for _, id := range unpinned {
			if perr := k.pin(ctx, id, pinnedFor(&a)); perr != nil {
				err = errors.Join(err, fmt.Errorf("what it has pinned is not pinned any more: %w", perr))
			}
		}
		err = &hintedError{err: err, hint: "look again: gateway alarms"}
	}
	return err
}

// drop ends an alarm, and unpins what no other alarm has pinned.
func (k *keeper) drop(ctx context.Context, a *alarm.Alarm) error {
	k.alarming.Lock()
	defer k.alarming.Unlock()
	if _, err := k.unpinOf(ctx, a); err != nil {
		return err
	}
	k.alarms.Drop(a.Kind, a.Subject)
	return nil
}

// pinnedFor is the note of what an alarm pins.
func pinnedFor(a *alarm.Alarm) string { return fmt.Sprintf("%s%s %s", alarmNote, a.Kind, a.Subject) }

// unpinOf unpins what was pinned because of an alarm, and returns that; k.alarming is held.
func (k *keeper) unpinOf(ctx context.Context, a *alarm.Alarm) (unpinned []snapshotter.ID, err error) {
	for _, text := range a.Pins {
		others := slices.ContainsFunc(k.alarms.List(), func(b alarm.Alarm) bool {
			return (b.Kind != a.Kind || b.Subject != a.Subject) && slices.Contains(b.Pins, text)
		})
		id, err := snapshotter.ParseID(text)
		if err != nil || others {
			continue
		}
		was, err := k.unpinForAlarm(ctx, id)
		if err != nil {
			return unpinned, err
		}
		if was {
			unpinned = append(unpinned, id)
		}
	}
	return unpinned, nil
}

// failuresToTell is how many runs in a row must fail to be told of while they are repeated soon.
const failuresToTell = 3

// alarmOfJob raises an alarm about a job that fails, and clears it after a good run.
func (e *events) alarmOfJob(st *jobs.Status, err error) {
	a := alarm.Alarm{Kind: alarm.JobFailed, Subject: st.Name, Hint: st.State.Hint}
	what := "the job"
	if st.Kind == jobPull {
		a.Kind, what = alarm.PullFailed, "pulling"
	}
	switch st.State.Result {
	case jobs.OK, jobs.Partial:
		if st.Kind == jobPull {
			e.backups.note(st.Name, time.Time{})
		}
		e.alarms.Clear(a.Kind, a.Subject)
	case jobs.Failed:
		if underWay(err) || st.State.Failures < failuresToTell && !st.State.Retry.IsZero() {
			return
		}
		a.Text = fmt.Sprintf("%s has failed, %d in a row: %s", what, st.State.Failures, st.State.Error)
		e.alarms.Raise(a)
	}
}

// underWay reports whether a job could not run because another one, or a command, is at it. That may take hours, as the
// first pull of a source does, and nothing is wrong.
func underWay(err error) bool {
	return errors.Is(err, pull.ErrRunning) || errors.Is(err, snapshotter.ErrScrubbing) || errors.Is(err, snapshotter.ErrMaintaining) ||
		errors.Is(err, disk.ErrLocked)
}
