package hooks

import (
	"context"
	"math/rand/v2"
	"time"
)

// Bounds of the pause after a failure, which doubles from one to the next; the pause itself is
// drawn from its upper half.
const (
	retryFirst = 2 * time.Second
	retryMax   = 10 * time.Minute
)

func retryPause(failures int) time.Duration {
	pause := retryMax
	if shift := failures - 1; shift < 9 { // 2 s << 9 is beyond ten minutes
		pause = retryFirst << shift
	}
	return pause/2 + rand.N(pause/2)
}

// tell tells a hook of an event until it takes it, does not want it, or the event is given up;
// it is false when ctx has ended before.
func (q *Queue) tell(ctx context.Context, h *Hook, e entry) bool {
	ev, body, err := q.read(e)
	if err != nil {
		q.cfg.Logger.Error("an event in the queue of hooks cannot be read and is lost", "hook", h.Name, "err", err)
		return true
	}
	if !h.wants(&ev) {
		return true
	}
	at, err := time.Parse(time.RFC3339Nano, ev.Time)
	if err != nil {
		at = q.cfg.Now()
	}
	for tries := 1; ; tries++ {
		err := h.deliver(ctx, q.cfg.Client, &ev, body, q.cfg.Now())
		if err != nil && ctx.Err() != nil {
			return false // the end, not a failure
		}
		alone := err != nil && tries >= aloneTries && q.takesNext(ctx, h, e)
		if q.note(h, &ev, tries, at, alone, err) {
			return true
		}
		pause := time.NewTimer(q.cfg.Pause(tries))
		select {
		case <-pause.C:
		case <-ctx.Done():
			pause.Stop()
			return false
		}
	}
}

// aloneTries is after how many failures, some minutes of them, a hook is asked whether it takes the
// event behind: one that it cannot take must not hold up the others for days.
const aloneTries = 8

// takesNext reports whether a hook takes the event behind e, which it is told again in its turn.
func (q *Queue) takesNext(ctx context.Context, h *Hook, e entry) bool {
	for {
		var ok bool
		if e, ok = q.after(e.seq); !ok {
			return false
		}
		ev, body, err := q.read(e)
		if err == nil && h.wants(&ev) {
			return h.deliver(ctx, q.cfg.Client, &ev, body, q.cfg.Now()) == nil
		}
	}
}

// note keeps the account of a try, and reports whether it was the last one: alone says that others
// are taken.
func (q *Queue) note(h *Hook, ev *Event, tries int, at time.Time, alone bool, err error) (over bool) {
	age := q.cfg.Now().Sub(at)
	q.mu.Lock()
	defer q.mu.Unlock()
	st := q.status[h.Name]
	if err == nil {
		st.Tries, st.Error, st.Success = 0, "", q.cfg.Now()
		return true
	}
	st.Tries, st.Error = tries, err.Error()
	if alone {
		st.GivenUp++
		q.cfg.Logger.Error("hook takes other events but not this one, which is given up", "hook", h.Name, "event", ev.Event, "id", ev.ID, "try", tries, "err", err)
		return true
	}
	if age < q.cfg.GiveUp {
		q.cfg.Logger.Warn("hook failed, it is tried again", "hook", h.Name, "event", ev.Event, "id", ev.ID, "try", tries, "err", err)
		return false
	}
	st.GivenUp++
	q.cfg.Logger.Error("hook failed for too long, the event is given up", "hook", h.Name, "event", ev.Event, "id", ev.ID, "try", tries, "err", err)
	return true
}
