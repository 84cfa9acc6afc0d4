package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/snapgate/gateway/cmd/gateway/internal/config"
	"github.com/snapgate/gateway/cmd/gateway/internal/watch"
	"github.com/snapgate/gateway/internal/alarm"
	"github.com/snapgate/gateway/internal/disk"
	"github.com/snapgate/gateway/internal/jobs"
	"github.com/snapgate/gateway/snapshotter"
	"github.com/snapgate/gateway/vfs"
)

// inspect looks at new snapshots of a share, and raises alarms.
func (s *serving) inspect(ctx context.Context, n *watch.New) error {
	expect, newest := s.expect.Load().Of[n.Share], &n.Fresh[len(n.Fresh)-1]
	if text := expect.TooSmall(newest); text != "" {
		s.alarms.Raise(alarm.Alarm{
			Kind: alarm.TooSmall, Subject: n.Share, Text: text, Snapshot: newest.ID.String(),
			Hint: "see what is missing with: gateway ls -R " + shellQuote(n.Share),
		})
	} else {
		s.alarms.Clear(alarm.TooSmall, n.Share)
	}
	found, err := n.Judge(expect, func(was, now snapshotter.ID) (watch.Changes, error) { return s.compare(ctx, was, now) })
	if errors.Is(err, snapshotter.ErrUnavailable) || ctx.Err() != nil {
		return err // later
	}
	if err != nil { // a snapshot was removed, or is damaged: that stays so
		s.log.Warn("what a snapshot has changed cannot be looked at", "share", n.Share, "snapshot", newest.ID.String(), "err", err)
	}
	for i := range found {
		if err := s.suspect(ctx, n.Share, newest, &found[i]); err != nil {
			return err
		}
	}
	return nil
}

// compare sums up what differs between two snapshots.
func (s *serving) compare(ctx context.Context, was, now snapshotter.ID) (watch.Changes, error) {
	a, err := s.snapshots.View(ctx, was)
	if err != nil {
		return watch.Changes{}, err
	}
	b, err := s.snapshots.View(ctx, now)
	if err != nil {
		return watch.Changes{}, err
	}
	return watch.Compare(snapshotter.Diff(ctx, a, b, "/"))
}

// suspect raises the alarm of a finding, and pins the good snapshot before it.
func (s *serving) suspect(ctx context.Context, share string, newest *snapshotter.Snapshot, f *watch.Finding) error {
	s.keeper.alarming.Lock()
	defer s.keeper.alarming.Unlock()
	good := f.Good.ID.String()
	// In this order: an acknowledgement unpins before the alarm is over.
	ours := slices.ContainsFunc(s.alarms.List(), func(a alarm.Alarm) bool { return slices.Contains(a.Pins, good) })
	pins, err := s.snapshots.Pins(ctx)
	if err != nil {
		return err
	}
	_, pinned := pins[f.Good.ID]
	a := alarm.Alarm{
		Kind: f.Kind, Subject: share, Finding: true, Text: f.Text, Snapshot: newest.ID.String(),
		Hint: fmt.Sprintf("compare: gateway diff %s %s; the former is kept until somebody has looked: gateway alarms ack %s %s",
			good[:shortID], newest.ID.String()[:shortID], f.Kind, share),
	}
	if !pinned || ours { // else somebody has pinned it, who will unpin it
		a.Pins = []string{good}
	}
	s.alarms.Raise(a)
	// A pin that the alarm does not name, as it has too many, nobody would take away.
	if now, ok := s.alarms.Get(a.Kind, share); !ok || !slices.Contains(now.Pins, good) {
		return nil
	}
	if pinned { // unless another alarm that has pinned it was acknowledged before this one was raised
		if pins, err = s.snapshots.Pins(ctx); err != nil {
			return err
		}
		if _, pinned = pins[f.Good.ID]; pinned {
			return nil
		}
	}
	err = s.keeper.pin(ctx, f.Good.ID, pinnedFor(&a))
	if errors.Is(err, snapshotter.ErrNoSnapshot) {
		s.log.Warn("the snapshot before what is suspicious is gone", "share", share, "snapshot", good)
		return nil
	}
	return err
}

// backupsName is the file of when shares had their last backups, in data_dir.
const backupsName = "backups.json"

// maxBackups bounds it.
const maxBackups = 16 << 20

// backups knows when each share or source was backed up last: an upload was complete, a snapshot was
// made, a pull went well, whether it has found changes or not. Safe for concurrent use.
type backups struct {
	mu      sync.Mutex // guards what follows
	last    map[string]moment
	fresh   map[string]time.Time // backed up since the last look; zero for just now
	changed bool
}

// moment is a time by two clocks.
type moment struct {
	Wall    time.Time `json:"wall"`
	Trusted time.Time `json:"trusted"` // see retention.Evidence
}

// since is how much has passed from a to b, by the clock that says more: the one clock does not go on while the
// machine is off for long, and the other can be set.
func (b moment) since(a moment) time.Duration {
	return max(b.Wall.Sub(a.Wall), b.Trusted.Sub(a.Trusted))
}

// note notes that a share was backed up at a time, zero for now.
func (b *backups) note(share string, at time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if was, ok := b.fresh[share]; !ok || !was.IsZero() && (at.IsZero() || at.After(was)) {
		b.fresh[share] = at
	}
}

// openBackups reads what an earlier start has left.
func openBackups(dataDir string) (*backups, error) {
	b := &backups{last: map[string]moment{}, fresh: map[string]time.Time{}}
	path := filepath.Join(dataDir, backupsName)
	data, err := disk.ReadFile(disk.OS{}, path, maxBackups)
	if errors.Is(err, fs.ErrNotExist) {
		return b, nil
	}
	if err == nil {
		err = json.Unmarshal(data, &b.last)
	}
	if err != nil {
		return nil, &hintedError{
			err:  fmt.Errorf("%s: %w", path, err),
			hint: "if it is damaged, remove it: what is expected of backups then counts from the newest snapshots",
		}
	}
	return b, nil
}

// look takes over what was noted, and returns how long ago the last backup of a share was. A share
// that is not known counts from its newest snapshot, or else from now.
func (b *backups) look(share string, now moment, newest time.Time) (last moment, ago time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	last, known := b.last[share]
	at, fresh := b.fresh[share]
	delete(b.fresh, share)
	if !known && !fresh {
		at = newest
	}
	then := now
	if old := now.Wall.Sub(at); !at.IsZero() && old > 0 {
		then = moment{at.UTC(), now.Trusted.Add(-old)}
	}
	if !known || fresh && now.since(then) < now.since(last) {
		last = then
		b.last[share], b.changed = last, true
	}
	return last, now.since(last)
}

// save writes down what has changed.
func (b *backups) save(dataDir string) error {
	b.mu.Lock()
	changed := b.changed
	b.changed = false
	data, err := json.Marshal(b.last)
	b.mu.Unlock()
	if !changed {
		return nil
	}
	if err == nil {
		err = disk.WriteFile(disk.OS{}, filepath.Join(dataDir, backupsName), append(data, '\n'), 0o600)
	}
	return err
}

// now is the time by both clocks. Before retention has seen any time pass it is the wall clock's.
func (k *keeper) now() moment {
	k.mu.Lock()
	defer k.mu.Unlock()
	r := k.clocks()
	wall := r.Wall.UTC()
	e := k.evidence
	if e == nil || !e.Started() {
		return moment{wall, wall}
	}
	trusted := e.Base.Add(e.Passed)
	if r.Boot != "" && r.Boot == e.Last.Boot {
		trusted = trusted.Add(max(0, r.Up-e.Last.Up))
	}
	return moment{wall, trusted.UTC()}
}

// checkBackups raises alarms of backups that are missing, and clears them.
func (s *serving) checkBackups(dataDir string) error {
	expect, now := s.expect.Load(), s.keeper.now()
	for _, sh := range s.system.Status().Shares {
		every := expect.Of[sh.Name].Every
		if every == 0 {
			s.alarms.Clear(alarm.MissedBackup, sh.Name)
			continue
		}
		last, ago := s.events.backups.look(sh.Name, now, sh.HeadTime)
		if ago <= every {
			s.alarms.Clear(alarm.MissedBackup, sh.Name)
			continue
		}
		s.alarms.Raise(alarm.Alarm{
			Kind: alarm.MissedBackup, Subject: sh.Name, Text: fmt.Sprintf("no backup since %s; one every %s is expected", stamp(last.Wall), inHours(every)),
			Hint: "does the client, or the job, still run? see: gateway jobs, and the log",
		})
	}
	return s.events.backups.save(dataDir)
}

// inHours writes what is expected as people do.
func inHours(d time.Duration) string {
	switch day := 24 * time.Hour; {
	case d%day == 0:
		return fmt.Sprintf("%dd", d/day)
	case d%time.Hour == 0:
		return fmt.Sprintf("%dh", d/time.Hour)
	}
	return d.String()
}

// commitFailuresToTell is how many commits of a share must fail in a row: some half a minute of them.
const commitFailuresToTell = 5

// checkShares raises alarms of shares whose changes cannot be committed or that are nearly full, and clears them. A
// share that is not configured any more stays until a restart, but forget has ended its alarms.
func checkShares(board *alarm.Board, list []vfs.ShareStatus, configured map[string]watch.Expect) {
	for i := range list {
		if _, ok := configured[list[i].Name]; ok {
			checkCommits(board, &list[i])
			checkQuota(board, &list[i])
		}
	}
}

// checkQuota looks at what the live tree of a share has of its quota.
func checkQuota(board *alarm.Board, sh *vfs.ShareStatus) {
	full := nearlyFull(sh.Quota)
	if _, raised := board.Get(alarm.QuotaNearlyFull, sh.Name); raised {
		full -= full / slack // it must not come and go all the time
	}
	text := ""
	if sh.Quota > 0 && sh.Bytes >= full {
		text = fmt.Sprintf("its files have %s of %s (quota); uploads that do not fit are refused", bytesText(sh.Bytes), bytesText(sh.Quota))
	}
	settle(board, alarm.QuotaNearlyFull, sh.Name, text, "remove files, or set quota of the share higher; snapshots do not count")
}

func checkCommits(board *alarm.Board, sh *vfs.ShareStatus) {
	switch {
	case sh.CommitFailures == 0:
		board.Clear(alarm.CommitFailed, sh.Name)
	case sh.CommitFailures >= commitFailuresToTell:
		board.Raise(alarm.Alarm{
			Kind: alarm.CommitFailed, Subject: sh.Name, Hint: hintFor(sh.CommitError),
			Text: fmt.Sprintf("commits fail since %s, %d in a row; the changes are kept: %v", stamp(sh.FailingSince), sh.CommitFailures, sh.CommitError),
		})
	}
}

// spoolSubject is what alarms of the spool are about.
const spoolSubject = "spool"

// slack is the part of a limit by which things must be better for an alarm to be over: a tenth.
const slack = 10

// reserves is how many reserves of a commit the disk of data_dir must have beside what is pending.
const reserves = 4

// checkSpace raises alarms of what is nearly full, and clears them.
func (s *serving) checkSpace(stores []config.Store) {
	expect, st := s.expect.Load(), s.system.Status()
	checkSpool(s.alarms, &st, expect.SpoolFull)
	for i := range stores {
		s.checkDisk(&stores[i])
	}
}

// checkDisk looks at the disk of a store, as far as there is one that tells.
func (s *serving) checkDisk(store *config.Store) {
	if store.Path == "" {
		s.alarms.Clear(alarm.StoreNearlyFull, store.Name)
		return
	}
	space, err := disk.Usage(store.Path)
	if err != nil || space.Total == 0 {
		return // whether it can be reached is told elsewhere
	}
	checkStore(s.alarms, store.Name, space, storeReserve(s.expect.Load().StoreFree, space.Total))
}

// checkSpool looks at the spool and at the disk of data_dir; full is the part of the limit that is nearly
// full.
func checkSpool(board *alarm.Board, st *vfs.Status, full float64) {
	if _, raised := board.Get(alarm.SpoolNearlyFull, spoolSubject); raised {
		full -= full / slack // it must not come and go all the time
	}
	text := ""
	switch need := st.SpoolBytes + reserves*st.Reserve; {
	case st.SpoolLimit > 0 && float64(st.SpoolBytes) >= full*float64(st.SpoolLimit):
		text = fmt.Sprintf("the spool has %s of %s; at that size uploads are refused", bytesText(st.SpoolBytes), bytesText(st.SpoolLimit))
	case st.DiskFree >= 0 && st.DiskFree < need:
		text = fmt.Sprintf("the disk of data_dir has %s free; below %s uploads are refused", bytesText(st.DiskFree), bytesText(st.SpoolBytes+st.Reserve))
	}
	settle(board, alarm.SpoolNearlyFull, spoolSubject, text, "make room, or see why commits do not get on: gateway status")
}

// checkStore looks at the disk of a store, of which so much should be free.
func checkStore(board *alarm.Board, name string, space disk.Space, want uint64) {
	enough := want
	if _, raised := board.Get(alarm.StoreNearlyFull, name); raised {
		enough += want / slack
	}
	text := ""
	if space.Avail < enough {
		text = fmt.Sprintf("the disk of the store has %s free; %s are expected", bytesText(int64(space.Avail)), bytesText(int64(want)))
	}
	settle(board, alarm.StoreNearlyFull, name, text, "make room: "+howToMakeRoom(name)+", or a larger disk")
}

// storeReserve is how much of a disk with a store should be free.
func storeReserve(configured int64, total uint64) uint64 {
	if configured > 0 {
		return uint64(configured)
	}
	return min(total/20, 20<<30)
}

// settle raises an alarm with a text, and clears it without one.
func settle(board *alarm.Board, kind alarm.Kind, subject, text, hint string) {
	if text == "" {
		board.Clear(kind, subject)
		return
	}
	board.Raise(alarm.Alarm{Kind: kind, Subject: subject, Text: text, Hint: hint})
}

// check looks at all that does not come by itself.
func (s *serving) check() error {
	s.checks.Lock()
	defer s.checks.Unlock()
	cfg := s.inForce.Load()
	checkShares(s.alarms, s.system.Status().Shares, s.expect.Load().Of)
	s.checkSpace(cfg.Stores) // of its own store fullness knows more
	return s.checkBackups(cfg.DataDir)
}

// checking looks at it until ctx ends, however long looks at snapshots take, and the pauses between them.
func (s *serving) checking(ctx context.Context) {
	for pauseFor(ctx, watchInterval) {
		_ = s.check() // what is wrong goes on, and watching tells
	}
}

// forget ends the alarms of what is not configured any more.
func (s *serving) forget(ctx context.Context) {
	expect, list, cfg := s.expect.Load(), s.jobs.List(), s.inForce.Load()
	configured := func(kind alarm.Kind, subject string) bool {
		switch kind {
		case alarm.VerificationFailed, alarm.StoreNearlyFull, alarm.StoreFullOfLocked:
			return cfg.StoreNamed(subject) != nil
		case alarm.JobFailed, alarm.PullFailed:
			return subject == verifyNewSubject && cfg.Verify.New || slices.ContainsFunc(list, func(j jobs.Status) bool {
				return j.Name == subject && (j.Kind == jobPull) == (kind == alarm.PullFailed)
			})
		}
		_, ok := expect.Of[subject]
		return ok || !kind.OfShare()
	}
	for _, a := range s.alarms.List() {
		if configured(a.Kind, a.Subject) {
			continue
		}
		if err := s.keeper.drop(ctx, &a); err != nil { // the alarm stays until that works
			s.log.Warn("what an alarm has pinned is still pinned", "kind", a.Kind, "subject", a.Subject, "err", err)
		}
	}
}
