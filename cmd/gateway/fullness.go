package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
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
	// fullnessRow is how many shares an alarm names, and users of each.
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
	users             []*userUse
}

// userUse is how many of a share's snapshots have something from a user.
type userUse struct {
	name              string
	snapshots, locked int
}

// add takes a snapshot into account.
func (u *shareUse) add(s *snapshotter.Snapshot, locked bool) {
	if u.snapshots == 0 || s.Time.After(u.newest) {
		u.size, u.newest = s.Size, s.Time
	}
	u.snapshots++
	if locked {
		u.locked++
	}
	for _, tag := range s.Tags {
		name, ok := strings.CutPrefix(tag, "user=")
		if !ok {
			continue
		}
		i := slices.IndexFunc(u.users, func(w *userUse) bool { return w.name == name })
		if i < 0 {
			i, u.users = len(u.users), append(u.users, &userUse{name: name})
		}
		u.users[i].snapshots++
		if locked {
			u.users[i].locked++
		}
	}
}

// text says it in a line, with the users that have most locked snapshots.
func (u *shareUse) text() string {
	text := fmt.Sprintf("%s has %s in %s, %d of them locked", printable(u.name), bytesText(int64(min(u.size, 1<<62))), count(u.snapshots, "snapshot", "snapshots"), u.locked)
	if len(u.users) == 0 {
		return text
	}
	slices.SortFunc(u.users, func(a, b *userUse) int {
		return cmp.Or(cmp.Compare(b.locked, a.locked), cmp.Compare(b.snapshots, a.snapshots), cmp.Compare(a.name, b.name))
	})
	var names []string
	for _, w := range u.users[:min(len(u.users), fullnessRow)] {
		names = append(names, w.name)
	}
	if more := len(u.users) - fullnessRow; more > 0 {
		names = append(names, fmt.Sprintf("and %d more", more))
	}
	return text + " (" + printable(strings.Join(names, ", ")) + ")"
}

// whatFills says what is stored of each share and whose it is: first of those with most locked snapshots, for who
// overwrites a small file all day fills a store as well, and in any case of the largest.
func whatFills(list []verdict) (text string, locked, removable int) {
	shares := map[string]*shareUse{}
	for i := range list {
		v := &list[i]
		u := shares[v.snap.Share]
		if u == nil {
			u = &shareUse{name: v.snap.Share}
			shares[v.snap.Share] = u
		}
		if !v.keep {
			removable++
		}
		isLocked := slices.ContainsFunc(v.reasons, func(r string) bool { return strings.HasPrefix(r, "locked ") })
		if isLocked {
			locked++
		}
		u.add(&v.snap, isLocked)
	}
	bySize := func(a, b *shareUse) int { return cmp.Or(cmp.Compare(b.size, a.size), cmp.Compare(a.name, b.name)) }
	all := slices.SortedFunc(maps.Values(shares), func(a, b *shareUse) int { return cmp.Or(cmp.Compare(b.locked, a.locked), bySize(a, b)) })
	row := all[:min(len(all), fullnessRow)]
	if len(all) > len(row) {
		if largest := slices.MinFunc(all, bySize); !slices.Contains(row, largest) {
			row[len(row)-1] = largest
		}
	}
	var parts []string
	for _, u := range row {
		parts = append(parts, u.text())
	}
	if more := len(all) - len(row); more > 0 {
		parts = append(parts, "and "+count(more, "more share", "more shares"))
	}
	return strings.Join(parts, "; "), locked, removable
}
