package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/snapgate/gateway/cmd/gateway/internal/config"
	"github.com/snapgate/gateway/internal/alarm"
	"github.com/snapgate/gateway/snapshotter"
)

const (
	// fullnessInterval is how often the size of the store is looked at; between two looks the bytes
	// of commits are counted. Of a store that is elsewhere it takes at most 1/fullnessShare of the time.
	fullnessInterval = time.Minute
	fullnessShare    = 50
	// fullnessAgain is how often it is asked for more room on the disk: uploads are refused without.
	fullnessAgain = time.Second
	fullnessMore  = 64 << 20 // bytes that are worth a look, or the reserve
	// makeRoomEvery is how often retention and maintenance are called because the store is full.
	makeRoomEvery = 6 * time.Hour
	// fullnessRow is how many shares an alarm names.
	fullnessRow = 5
)

// fullness knows how full the store is, and lets uploads be refused when it takes no more.
type fullness struct {
	*bounded

	refuse func(room int64, why string)
	left   func() int64 // of the room; -1 for no bound
	// verdicts are what retention says of all snapshots; room has it and maintenance make room.
	verdicts func(ctx context.Context) ([]verdict, error)
	makeRoom func(ctx context.Context)
	// checkDisk raises the alarm of a store that takes all and whose disk has less than expected, or
	// clears it: one place decides of each alarm.
	checkDisk func()
	alarms    *alarm.Board
	log       *slog.Logger

	moved chan struct{} // holds one value when limit, or what is expected, may have changed

	rooms sync.WaitGroup // of who makes room

	mu     sync.Mutex // guards the rest; held while it looks
	made   time.Time  // when room was made last
	making bool       // somebody does
	told   int64      // the limit that was logged last
	last   filled     // what was measured last
}

// openFullness makes the watch of the gateway's store.
func (s *serving) openFullness() *fullness {
	own := s.cfg.Store
	f := &fullness{
		bounded: boundOf(s.cfg, &own, s.store), refuse: s.system.SetStoreRoom, left: s.system.StoreRoom,
		checkDisk: func() { s.checkDisk(&own) }, alarms: s.alarms, log: s.log, moved: make(chan struct{}, 1),
	}
	st := s.system.Status()
	f.pending, f.reserve = func() int64 { return s.system.Status().SpoolBytes }, st.Reserve
	f.verdicts = func(ctx context.Context) ([]verdict, error) {
		r, err := s.keeper.prune(ctx, pruneOptions{dryRun: true})
		return r.verdicts, err
	}
	f.makeRoom = func(ctx context.Context) {
		for _, job := range []string{config.PruneJob, config.MaintenanceJob} {
			if _, err := s.jobs.RunNow(ctx, job, func() {}); err != nil && ctx.Err() == nil {
				s.log.Debug("a job to make room in the store did not run", "job", job, "err", err)
			}
		}
	}
	return f
}

// limitTo takes over another limit, and has it looked at, with what else a configuration says.
func (f *fullness) limitTo(bytes int64) {
	f.limit.Store(bytes)
	f.move()
}

// move has watch look at once.
func (f *fullness) move() {
	select {
	case f.moved <- struct{}{}:
	default: // it is known
	}
}

// watch looks until ctx ends.
func (f *fullness) watch(ctx context.Context) {
	defer f.rooms.Wait()
	for {
		began := time.Now()
		if err := f.look(ctx); err != nil && ctx.Err() == nil && !errors.Is(err, snapshotter.ErrUnavailable) {
			f.log.Warn("it is not known how full the store is", "err", err)
		}
		if !f.pause(ctx, fullnessShare*time.Since(began)) {
			return
		}
	}
}

// pause waits until it is worth a look, for least if nobody moves the limit; false when ctx ends first.
func (f *fullness) pause(ctx context.Context, least time.Duration) bool {
	next, again := time.NewTimer(max(fullnessInterval, least)), time.NewTicker(max(fullnessAgain, least))
	defer next.Stop()
	defer again.Stop()
	for {
		select {
		case <-next.C:
			return true
		case <-f.moved:
			return true
		case <-again.C:
			if f.freed() {
				return true
			}
		case <-ctx.Done():
			return false
		}
	}
}

// freed reports whether little is left, and the disk has more.
func (f *fullness) freed() bool {
	f.mu.Lock()
	disk := f.last.disk
	f.mu.Unlock()
	left := f.left()
	if !disk || left < 0 || left > 4*f.reserve+f.pending() {
		return false
	}
	avail, ok, err := f.free()
	return ok && err == nil && avail-f.reserve-left >= min(f.reserve, fullnessMore)
}

// look compares what the store has with what it may have. What cannot be asked leaves everything as it is.
func (f *fullness) look(ctx context.Context) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	state, err := f.measured(ctx)
	if err != nil {
		return err
	}
	err = f.tell(ctx, state)
	if state.full() && !f.making && time.Since(f.made) > makeRoomEvery {
		f.made, f.making = time.Now(), true
		f.rooms.Go(func() { // which takes hours where a store is elsewhere
			f.makeRoom(ctx)
			f.mu.Lock()
			f.making = false
			f.mu.Unlock()
			f.move()
		})
	}
	return err
}

// measured also has uploads refused that do not fit.
func (f *fullness) measured(ctx context.Context) (filled, error) {
	st, err := f.measure(ctx)
	if err != nil {
		return st, err
	}
	if limit := f.limit.Load(); f.told != limit && limit > 0 {
		f.told = limit
		f.log.Info("the store has a limit", "store", f.store, "size", st.size, "limit", limit)
	}
	f.last = st
	f.refuse(st.room, st.why)
	return st, nil
}

// tell raises an alarm when the store is nearly full, and another one when what is locked fills it.
func (f *fullness) tell(ctx context.Context, st filled) error {
	if !st.nearly && !st.full() {
		f.alarms.Clear(alarm.StoreFullOfLocked, f.store)
		f.checkDisk()
		return nil
	}
	list, err := f.verdicts(ctx)
	if err != nil {
		return err
	}
	use, locked, removable := whatFills(list)
	kind, hint := alarm.StoreNearlyFull, "give the store more room, or keep less (keep and lock of the shares), and see gateway maintain"
	text := st.text
	if st.full() {
		text += "; uploads are refused"
		if locked > 0 && removable == 0 {
			kind = alarm.StoreFullOfLocked
			text += fmt.Sprintf(", and nothing may be removed (locked snapshots: %d)", locked)
			hint = "locked snapshots are never removed: give the store more room, raise limits.store, or stop whoever fills it"
		}
	}
	other := alarm.StoreFullOfLocked
	if kind == other {
		other = alarm.StoreNearlyFull
	}
	if use != "" {
		text += "; " + use
	}
	f.alarms.Raise(alarm.Alarm{Kind: kind, Subject: f.store, Text: text, Hint: hint})
	f.alarms.Clear(other, f.store)
	return nil
}

// shareUse is what is stored of a share.
type shareUse struct {
	name              string
	size              uint64 // of the newest snapshot
	newest            time.Time
	snapshots, locked int
	users             []string
}

// whatFills says what is stored of each share and whose it is, the largest first.
func whatFills(list []verdict) (text string, locked, removable int) {
	shares := map[string]*shareUse{}
	for i := range list {
		v := &list[i]
		u := shares[v.snap.Share]
		if u == nil {
			u = &shareUse{name: v.snap.Share}
			shares[v.snap.Share] = u
		}
		u.snapshots++
		if !v.keep {
			removable++
		}
		if slices.ContainsFunc(v.reasons, func(r string) bool { return strings.HasPrefix(r, "locked ") }) {
			u.locked++
			locked++
		}
		if u.snapshots == 1 || v.snap.Time.After(u.newest) {
			u.size, u.newest = v.snap.Size, v.snap.Time
		}
		for _, tag := range v.snap.Tags {
			if name, ok := strings.CutPrefix(tag, "user="); ok && !slices.Contains(u.users, name) {
				u.users = append(u.users, name)
			}
		}
	}
	var all []*shareUse
	for _, u := range shares {
		slices.Sort(u.users)
		all = append(all, u)
	}
	slices.SortFunc(all, func(a, b *shareUse) int { return cmp.Or(cmp.Compare(b.size, a.size), cmp.Compare(a.name, b.name)) })
	var parts []string
	for _, u := range all[:min(len(all), fullnessRow)] {
		part := fmt.Sprintf("%s has %s in %d snapshots, %d of them locked", printable(u.name), bytesText(int64(min(u.size, 1<<62))), u.snapshots, u.locked)
		if len(u.users) > 0 {
			part += " (" + printable(strings.Join(u.users[:min(len(u.users), fullnessRow)], ", ")) + ")"
		}
		parts = append(parts, part)
	}
	if more := len(all) - fullnessRow; more > 0 {
		parts = append(parts, fmt.Sprintf("and %d more shares", more))
	}
	return strings.Join(parts, "; "), locked, removable
}
