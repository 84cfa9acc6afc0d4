package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/snapgate/gateway/cmd/gateway/internal/config"
	"github.com/snapgate/gateway/cmd/gateway/internal/control"
	"github.com/snapgate/gateway/internal/alarm"
	"github.com/snapgate/gateway/internal/jobs"
	"github.com/snapgate/gateway/snapshotter"
)

const (
	// verifyDelay is how long after a snapshot what it has brought is read back: clients that make
	// one after the other go first.
	verifyDelay = 15 * time.Second
	// verifyAgain is when that is tried again, while a run of the job is under way or the store is
	// away.
	verifyAgain = 2 * time.Minute
)

// verifyNewSubject is what the alarm of scrubs of what is new is about; no job is called so.
const verifyNewSubject = "verify:new_snapshots"

// verifying is what the running gateway knows of reading its store back.
type verifying struct {
	read atomic.Int64 // bytes, since the start

	mu    sync.Mutex // guards what follows
	state snapshotter.ScrubState
	err   error // why it is not known what is damaged, or not all of it
	// failures is how often in a row what is new could not be read back.
	failures int
}

// get returns what is known, and why that is not all when what was known could not be read.
func (v *verifying) get() (snapshotter.ScrubState, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.state, v.err
}

func (v *verifying) set(st *snapshotter.ScrubState, err error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.state, v.err = *st, err
}

// openVerifying reads what was left.
func (s *serving) openVerifying() {
	s.events.pulse() // before the last stop
	st, err := snapshotter.ReadScrubState(scrubDir(s.cfg, &s.cfg.Store))
	s.verifying.set(&st, err)
	if err != nil { // an alarm goes on: what is damaged is not known
		s.log.Error("what is known of the store's files cannot be read; the next verification finds it out again", "err", err)
		s.snapshots.Distrust(&snapshotter.ScrubState{Forgotten: time.Now()})
		return
	}
	s.verifying.set(&st, st.Known())
	s.snapshots.Distrust(&st)
	s.alarmOfDamage(config.DefaultStore, &st)
}

// scrubDir is where scrubs of a store keep what they know.
func scrubDir(cfg *config.Config, named *config.Store) string {
	return filepath.Join(cfg.DataDir, "verify", named.Name)
}

func scrubConfig(cfg *config.Config, named *config.Store, scope snapshotter.ScrubScope) snapshotter.ScrubConfig {
	v := &cfg.Verify
	if named.Name != config.DefaultStore {
		v = &named.Upkeep.Verify
	}
	return snapshotter.ScrubConfig{Dir: scrubDir(cfg, named), Scope: scope, Every: v.Every, Bandwidth: v.Bandwidth}
}

// scrub reads a part of the store back, and tells of damage.
func (s *serving) scrub(ctx context.Context, sc snapshotter.ScrubConfig) (snapshotter.ScrubReport, error) {
	last, tell := int64(0), sc.Progress
	note := func(rep *snapshotter.ScrubReport) {
		s.verifying.read.Add(rep.Bytes - last)
		last = rep.Bytes
	}
	sc.Progress = func(rep snapshotter.ScrubReport) {
		note(&rep)
		if tell != nil {
			tell(rep)
		}
	}
	rep, err := s.snapshots.Scrub(ctx, sc)
	note(&rep)
	s.reopenHeads(ctx, &rep)
	if errors.Is(err, snapshotter.ErrScrubbing) || rep.State.Store == "" {
		return rep, err
	}
	s.verifying.set(&rep.State, rep.State.Known())
	s.alarmOfDamage(config.DefaultStore, &rep.State)
	if err == nil && sc.Scope != snapshotter.ScrubDamaged { // which has read what is new, whoever has called it
		s.alarmOfNew(nil)
	}
	return rep, err
}

// alarmOfNew raises the alarm that what snapshots have brought cannot be read back, by the rule that jobs have (see
// alarmOfJob), or clears it.
func (s *serving) alarmOfNew(err error) {
	v := &s.verifying
	v.mu.Lock()
	if v.failures++; err == nil {
		v.failures = 0
	}
	failures := v.failures
	v.mu.Unlock()
	switch {
	case err == nil:
		s.alarms.Clear(alarm.JobFailed, verifyNewSubject)
	case failures >= failuresToTell || !worthRetrying(err):
		s.alarms.Raise(alarm.Alarm{
			Kind: alarm.JobFailed, Subject: verifyNewSubject, Hint: hintFor(err),
			Text: fmt.Sprintf("what snapshots have brought could not be read back, %d in a row: %v", failures, err),
		})
	}
}

// reopenHeads has shares whose heads were made anew show what was made, and those whose heads were given up what is left.
func (s *serving) reopenHeads(ctx context.Context, rep *snapshotter.ScrubReport) {
	ids := slices.Clone(rep.GivenUp)
	for i := range rep.Replaced {
		ids = append(ids, rep.Replaced[i].Old)
	}
	if len(ids) == 0 {
		return
	}
	if err := s.system.Reopen(ctx, ids); err != nil {
		s.log.Warn("a share shows what is damaged until its next snapshot, or until the gateway is restarted", "err", err)
	}
}

// alarmOfDamage raises the alarm of a store that is damaged, or clears it.
func (s *serving) alarmOfDamage(store string, st *snapshotter.ScrubState) {
	text, command, does := damageText(st), "gateway scrub --damaged", " names what is concerned; docs/OPERATIONS.md tells how to repair it"
	if len(st.Damage)+st.More == 0 {
		command, does = "gateway scrub", " reads the rest back"
	}
	if store != config.DefaultStore {
		command += " " + store
	}
	if text == "" {
		s.alarms.Clear(alarm.VerificationFailed, store)
		return
	}
	s.alarms.Raise(alarm.Alarm{
		Kind: alarm.VerificationFailed, Subject: store, Text: text,
		Hint: command + does,
	})
}

// damageText says in a line what is damaged; "" when nothing is, and that is known.
func damageText(st *snapshotter.ScrubState) string {
	if st.Sound() {
		return ""
	}
	if len(st.Damage)+st.More == 0 {
		return fmt.Sprintf("%v; %d of %s left", snapshotter.ErrForgotten, st.Unread, count(st.Files, "file is", "files are"))
	}
	packfiles, states, blobs := st.Damaged()
	var parts []string
	if packfiles > 0 {
		parts = append(parts, count(packfiles, "packfile", "packfiles"))
	}
	if states > 0 {
		parts = append(parts, count(states, "state", "states"))
	}
	if packfiles+states < len(st.Damage) {
		parts = append(parts, "the configuration")
	}
	switch more := uint64(st.More); {
	case more == 0:
	case len(parts) == 0:
		parts = append(parts, count(more, "file", "files"))
	default:
		parts = append(parts, count(more, "more file", "more files"))
	}
	text := "damaged in the store: " + strings.Join(parts, ", ")
	if blobs > 0 {
		text += fmt.Sprintf("; snapshots use %d of their blobs", blobs)
	}
	for i := range st.Damage {
		for j := range st.Damage[i].Uses {
			if u := &st.Damage[i].Uses[j]; u.Path != "" {
				return text + fmt.Sprintf("; %s:%s for one", u.Share, u.Path)
			}
		}
	}
	return text
}

// verifyJob reads back what is due.
func (s *serving) verifyJob(cfg *config.Config) func(context.Context) (jobs.Outcome, error) {
	return func(ctx context.Context) (jobs.Outcome, error) {
		var at atomic.Pointer[snapshotter.ScrubReport]
		at.Store(new(snapshotter.ScrubReport))
		defer s.progress.watch(config.VerifyJob, func() string {
			rep := at.Load()
			return readBack(rep) + ", " + count(rep.Left, "file is", "files are") + " left"
		})()
		sc := scrubConfig(cfg, &cfg.Store, snapshotter.ScrubDue)
		sc.Progress = func(rep snapshotter.ScrubReport) { at.Store(&rep) }
		rep, err := s.scrub(ctx, sc)
		through := err == nil || errors.Is(err, snapshotter.ErrUnread)
		if through && (!rep.State.Sound() || s.snapshots.Doubled()) && cfg.Verify.RepairFrom != "" {
			sc.Scope, sc.Repair = snapshotter.ScrubDamaged, true
			mended, rerr := scrubFrom(ctx, cfg, cfg.Verify.RepairFrom, s.log, sc, s.scrub)
			err = errors.Join(err, rerr)
			if mended.State.Store != "" {
				rep.State, rep.Repaired = mended.State, mended.Repaired
				noteReplaced(s.events.note, bySchedule, mended.Replaced)
			}
		}
		if err != nil && (worthRetrying(err) || errors.Is(err, snapshotter.ErrScrubbing)) {
			err = jobs.Retry(err)
		}
		summary := readBack(&rep)
		if rep.Repaired > 0 {
			summary += "; " + count(rep.Repaired, "file", "files") + " repaired"
		}
		if damage := damageText(&rep.State); damage != "" {
			summary += "; " + damage
		}
		return jobs.Outcome{Partial: !rep.State.Sound(), Summary: summary}, err
	}
}

// readBack says in a line what was read.
func readBack(rep *snapshotter.ScrubReport) string {
	return fmt.Sprintf("%s read back, %s and %s", size(rep.Bytes),
		count(rep.Packfiles, "packfile", "packfiles"), count(rep.States, "state", "states"))
}

// verifyNew reads back what snapshots have brought, soon after them.
func (s *serving) verifyNew(ctx context.Context) {
	verifySoon(ctx, s.events.stored, func() bool { return s.scrubNew(ctx) })
}

// scrubNew reads back what is new in the store; false when that is to be tried again.
func (s *serving) scrubNew(ctx context.Context) (done bool) {
	cfg := s.inForce.Load()
	if !cfg.Verify.New {
		return true
	}
	_, err := s.scrub(ctx, scrubConfig(cfg, &cfg.Store, snapshotter.ScrubNew))
	if err == nil || ctx.Err() != nil {
		return true
	}
	if !underWay(err) {
		s.alarmOfNew(err)
	}
	switch {
	case errors.Is(err, snapshotter.ErrUnread): // which the next run looks at again
	case underWay(err), worthRetrying(err):
		s.log.Debug("what is new in the store is read back later", "err", err)
		return false
	}
	s.log.Error("what is new in the store was not read back", "err", err)
	return true
}

// verifySoon calls run a while after something was stored, once for all that was stored until then;
// and again when it says that it could not.
func verifySoon(ctx context.Context, stored <-chan struct{}, run func() (done bool)) {
	for {
		select {
		case <-stored:
		case <-ctx.Done():
			return
		}
		for wait := verifyDelay; ; wait = verifyAgain {
			if !pauseFor(ctx, wait) {
				return
			}
			select {
			case <-stored: // what came while it waited is read back with the rest
			default:
			}
			if run() {
				break
			}
		}
	}
}

// pauseFor waits; false when ctx ends first.
func pauseFor(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// answerScrub reads the store back, and tells of damage.
func (s *serving) answerScrub(ctx context.Context, req control.Request, send func(control.Reply) error) control.Reply {
	cfg := s.inForce.Load()
	sc := scrubConfig(cfg, &cfg.Store, snapshotter.ScrubScope(req.Scope))
	sc.Accept, sc.Repair, sc.GiveUp = req.Accept, req.Repair, req.GiveUp
	rep, err := scrubFrom(ctx, cfg, req.From, s.log, sc, s.scrub)
	noteReplaced(s.events.note, byOperator, rep.Replaced)
	noteGivenUp(s.events.note, byOperator, "", rep.GivenUp)
	if errors.Is(err, snapshotter.ErrScrubbing) {
		err = &hintedError{err: err, hint: "a job of the gateway does it, or another call: wait for its end"}
	}
	for i := range rep.State.Damage {
		if serr := send(control.Reply{Damage: describeDamage(&rep.State.Damage[i])}); serr != nil {
			return refusal(serr)
		}
	}
	answer := refusal(err)
	answer.Scrub = describeScrub(config.DefaultStore, &rep)
	return answer
}

// describeVerify puts what is known of the store's files into a status; nil when that is nothing.
func describeVerify(st *snapshotter.ScrubState) *control.Verify {
	if st.Store == "" {
		return nil
	}
	_, _, blobs := st.Damaged()
	return &control.Verify{
		Last: stamp(st.Last), Files: st.Files, Fresh: st.Fresh, Oldest: stamp(st.Oldest), Damaged: len(st.Damage) + st.More, DamagedBlobs: blobs,
	}
}
