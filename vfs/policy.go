package vfs

import (
	"fmt"
	"path"
	"time"
)

// Defaults of ShareConfig. The durations are those of the design: long enough that a
// client that uploads a tree gets one snapshot of it, short enough that an operator who
// looks after a transfer finds it.
const (
	defaultSessionGrace  = 5 * time.Second
	defaultQuietBatch    = time.Minute
	defaultQuietClose    = 2 * time.Second
	defaultMaxDelay      = 15 * time.Minute
	defaultTempMaxAge    = time.Hour
	defaultPartialMaxAge = 7 * 24 * time.Hour
	defaultAckTimeout    = 5 * time.Minute
	defaultMaxPending    = 1000
)

// sealDelay is how long a set that versions: all has sealed waits for others, so that a
// client that rewrites many files makes one burst of commits of them, not one at a time
// in between its uploads.
const sealDelay = 2 * time.Second

// The reasons of commits that the policy decides; they are written into the snapshot.
const (
	reasonBatch    = "batch"
	reasonClose    = "close"
	reasonSession  = "session"
	reasonSchedule = "schedule"
	reasonRestore  = "restore"
	reasonBacklog  = "backlog" // the policy would have waited, but changes are many
)

// withDefaults returns c with every zero setting replaced by its default.
func (c ShareConfig) withDefaults() ShareConfig {
	quiet := defaultQuietBatch
	if c.When == WhenClose {
		quiet = defaultQuietClose
	}
	for _, d := range []struct {
		field *time.Duration
		value time.Duration
	}{
		{&c.SessionGrace, defaultSessionGrace},
		{&c.Quiet, quiet},
		{&c.MaxDelay, defaultMaxDelay},
		{&c.TempMaxAge, defaultTempMaxAge},
		{&c.PartialMaxAge, defaultPartialMaxAge},
		{&c.AckTimeout, defaultAckTimeout},
	} {
		if *d.field <= 0 {
			*d.field = d.value
		}
	}
	if c.TempNames == nil {
		c.TempNames = DefaultTempNames()
	}
	if c.MaxPending <= 0 {
		c.MaxPending = defaultMaxPending
	}
	return c
}

// check refuses settings that make no sense, alone or together.
func (c ShareConfig) check() error {
	switch {
	case !validElem(c.Name):
		return fmt.Errorf("share name %q is not a single path element", c.Name)
	case c.When > WhenManual:
		return fmt.Errorf("share %s: unknown snapshot policy %d", c.Name, c.When)
	case c.When == WhenSchedule && c.Next == nil:
		return fmt.Errorf("share %s: a schedule needs its times", c.Name)
	case c.AckStored && c.When != WhenBatch && c.When != WhenClose:
		return fmt.Errorf("share %s: acknowledge: stored commits at once, so snapshot.when must be batch or close", c.Name)
	}
	for _, p := range c.TempNames {
		if _, err := path.Match(p, ""); err != nil {
			return fmt.Errorf("share %s: temporary name %q: %w", c.Name, p, err)
		}
	}
	return nil
}

// isTempName reports whether base, the last element of a name, matches one of patterns:
// clients give such names to files that they rename when the transfer is complete.
func isTempName(patterns []string, base string) bool {
	for _, p := range patterns {
		if ok, err := path.Match(p, base); err == nil && ok {
			return true
		}
	}
	return false
}

// tempWaits reports whether a file with the last element base, complete since, still
// waits for its rename at now: such a file is left out of sealed sets and is no completed
// change. c has its defaults.
func (c ShareConfig) tempWaits(base string, since, now time.Time) bool {
	return now.Before(since.Add(c.TempMaxAge)) && isTempName(c.TempNames, base)
}

// policyState is what the decision to commit depends on: a summary of a share's current
// change set, which a commit would seal, and of its surroundings. The zero value is a
// share without changes or sessions. It is comparable. No time lies in the future: of
// recovered changes it is the start of the process when the clock has gone back.
type policyState struct {
	// oldestChange is when the oldest completed change of the current set was accepted,
	// zero when there is none. Every operation is one, except a file under a temporary
	// name that still waits for its rename.
	oldestChange time.Time
	// lastChange is when the newest operation was accepted, under whatever name.
	lastChange time.Time
	// oldestRestore is when the oldest file that was restored from a view, and has its bytes
	// nowhere but in that snapshot, was accepted; zero when there is none.
	oldestRestore time.Time
	// changes is the number of operations in the current set, under whatever name.
	changes int
	// oldestTemp is when the oldest file that waits for its rename was completed, zero
	// when there is none. At the age of TempMaxAge it counts as a completed change.
	oldestTemp time.Time
	// completedUpload says that the current set publishes a file under its final name: by
	// its close, or by the rename away from a temporary name.
	completedUpload bool
	// openUploads is the number of open upload handles.
	openUploads int
	// sessions is the number of sessions that have the share mounted; lastSessionEnd is
	// when the last one of them ended, zero when none has since the start.
	sessions       int
	lastSessionEnd time.Time
	// bulk is the number of sessions whose changes belong together.
	bulk int
	// sealed is the number of sealed sets that wait for their commit, oldestSealed when
	// the first of them was sealed.
	sealed       int
	oldestSealed time.Time
	// pressed says that changes are so many that a commit has to make room, whatever the policy.
	pressed bool
	// headless says that changes wait for their head, or the live tree does, which an attempt looks for.
	headless bool
}

// decision says what to do now.
type decision struct {
	commit bool
	// reason is why the current set is to be sealed and committed, "" when only what is
	// sealed already is.
	reason string
	// wake is when to decide again although nothing changes, zero for never.
	wake time.Time
}

// decide is the policy of "When to commit": a pure function of the settings (with their
// defaults), the state and the time. Explicit requests and the end of the process commit
// without asking it.
func decide(cfg ShareConfig, st policyState, now time.Time) decision {
	reason, due := dueTime(cfg, st)
	sealedDue := sealedDueTime(cfg, st)
	var restoreDue time.Time
	if !st.oldestRestore.IsZero() {
		// Whatever the setting: the snapshot that it came from may be pruned.
		restoreDue = st.oldestRestore.Add(sealDelay)
	}
	switch {
	case reached(due, now):
		return decision{commit: true, reason: reason}
	case reached(restoreDue, now):
		return decision{commit: true, reason: reasonRestore}
	case reached(sealedDue, now), st.sealed > cfg.MaxPending/2, st.pressed && st.sealed > 0:
		return decision{commit: true}
	}
	return decision{wake: earliest(earliest(due, sealedDue), restoreDue)}
}

// dueTime is when the current set is to be committed if nothing else happens, and why;
// zero for never.
func dueTime(cfg ShareConfig, st policyState) (reason string, due time.Time) {
	if st.pressed && st.changes > 0 {
		return reasonBacklog, st.lastChange
	}
	oldest := st.oldestChange
	// A temporary name that nobody renames is a change from the end of its wait on.
	var aged time.Time
	if !st.oldestTemp.IsZero() {
		aged = st.oldestTemp.Add(cfg.TempMaxAge)
		oldest = earliest(oldest, aged)
	}
	if oldest.IsZero() {
		return "", time.Time{}
	}
	switch cfg.When {
	case WhenBatch:
		return reasonBatch, latest(oldest, batchDue(cfg, st, oldest))
	case WhenClose:
		return reasonClose, closeDue(cfg, st, aged)
	case WhenSession:
		if st.sessions > 0 {
			return "", time.Time{}
		}
		return reasonSession, latest(oldest, st.lastSessionEnd.Add(cfg.SessionGrace))
	case WhenSchedule:
		// The first time of the schedule after the oldest change: a time that passed while
		// the gateway was down is made up for.
		return reasonSchedule, cfg.Next(oldest)
	}
	return "", time.Time{}
}

// closeDue is at once with a completed upload, with all that came before it, and after a
// quiet time, but for no longer than MaxDelay, with other changes alone.
func closeDue(cfg ShareConfig, st policyState, aged time.Time) time.Time {
	switch {
	case st.oldestChange.IsZero():
		return aged
	case st.bulk > 0:
		return earliest(aged, st.oldestChange.Add(cfg.MaxDelay))
	case st.completedUpload:
		return st.oldestChange
	}
	quiet := latest(st.oldestChange, st.lastChange).Add(cfg.Quiet)
	return earliest(aged, earliest(quiet, st.oldestChange.Add(cfg.MaxDelay)))
}

// batchDue is the earliest of the three moments at which batch commits.
func batchDue(cfg ShareConfig, st policyState, oldest time.Time) time.Time {
	due := oldest.Add(cfg.MaxDelay)
	if st.openUploads > 0 || st.bulk > 0 {
		return due
	}
	due = earliest(due, latest(oldest, st.lastChange).Add(cfg.Quiet))
	if st.sessions == 0 {
		due = earliest(due, latest(oldest, st.lastSessionEnd.Add(cfg.SessionGrace)))
	}
	return due
}

// sealedDueTime is when sets that are sealed already are to be committed without waiting
// for the policy; zero for never. With batch and close that is soon. The other settings
// mean that snapshots appear when they are asked for, so sealed sets wait for that, as
// long as there are not so many that destructive operations would be slowed down, or that
// they fill the memory.
func sealedDueTime(cfg ShareConfig, st policyState) time.Time {
	if st.sealed > 0 && (cfg.When == WhenBatch || cfg.When == WhenClose) {
		return st.oldestSealed.Add(sealDelay)
	}
	return time.Time{}
}

// reached reports whether a due time has come; the zero time never comes.
func reached(due, now time.Time) bool { return !due.IsZero() && !now.Before(due) }

// earliest returns the earlier of two times of which zero ones mean never.
func earliest(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

func latest(a, b time.Time) time.Time {
	if a.Before(b) {
		return b
	}
	return a
}
