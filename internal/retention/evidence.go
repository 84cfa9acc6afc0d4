package retention

import (
	"time"
)

// Reading is what the clocks of the machine show at a moment.
type Reading struct {
	// Wall is the clock that can be set.
	Wall time.Time
	// Boot names the boot of the machine that Up counts from, "" when that is not known: then
	// nothing was observed since the last reading.
	Boot string
	// Up is how long the machine has been up, suspended or not, by a clock that nobody can set.
	Up time.Duration
}

const (
	// maxCredit is how much time a restart of the machine may have taken at most without being
	// asked about: a long weekend.
	maxCredit = 72 * time.Hour
	// slew is by how much an Evidence may go faster or slower than time: by 1/slew. It evens out
	// what clocks lose.
	slew = 100
	// wrongBy is how far the wall clock must be behind to be called set back.
	wrongBy = time.Hour
	// patience is how long the wall clock must stay behind before it is believed.
	patience = 24 * time.Hour
)

// Evidence is a time that advances with what really passes, and when snapshots were first seen. The
// zero Evidence is to be started. Safe for one user at a time.
type Evidence struct {
	Clock
	// Sights are of the snapshots that were there when was looked last.
	Sights map[string]Sighting
}

// Clock is the part of an Evidence that changes all the time.
type Clock struct {
	// Base is the time at which Passed was 0. It moves with what is credited and confirmed.
	Base time.Time `json:"base"`
	// Passed is how much time was observed since the start.
	Passed time.Duration `json:"passed"`
	// Last is what the clocks showed last.
	Last Reading `json:"last"`
	// Looked is when somebody looked which snapshots there are.
	Looked time.Time `json:"looked"`
	// Credit is how much of a restart may still be believed. It grows with what is observed.
	Credit time.Duration `json:"credit"`
	// Gap is what the wall clock showed before a restart whose length is not known yet, zero for
	// none, and GapPassed is Passed then.
	Gap       time.Time     `json:"gap,omitzero"`
	GapPassed time.Duration `json:"gap_passed,omitempty"`
	// Behind is for how long the wall clock has been behind.
	Behind time.Duration `json:"behind,omitempty"`
}

// Sighting is when a snapshot was first seen.
type Sighting struct {
	Before time.Time     `json:"before"` // when was looked before
	Seen   time.Time     `json:"seen"`
	Passed time.Duration `json:"passed"` // Clock.Passed then; less for what was there at the start
}

// Start begins with what the wall clock shows, but no more than a long weekend after the newest
// snapshot there is. Snapshots that are there are taken as seen at the times that they carry; what was
// observed since is what lies between them and the newest, as the clock may be wrong already.
func (e *Evidence) Start(r Reading, snaps []Snapshot) {
	c := Clock{Base: r.Wall.UTC(), Last: r}
	newest := newestTime(snaps)
	if limit := newest.Add(maxCredit).UTC(); !newest.IsZero() && limit.Before(c.Base) {
		c.Base = limit
	}
	e.start(&c, snaps)
}

// Follow takes over the time of another Evidence instead of observing it, and reports whether Sights has
// changed. One that was not started begins with that time, however old the newest snapshot is. When the
// other was started anew, snapshots stay as old as they were, and get older from there.
func (e *Evidence) Follow(c *Clock, snaps []Snapshot) (changed bool) {
	if !e.Started() {
		e.start(c, snaps)
		return true
	}
	base, looked := e.Base, e.Looked
	if lost := e.Passed - c.Passed; lost > 0 {
		for id, s := range e.Sights {
			s.Passed -= lost
			e.Sights[id] = s
		}
		base, changed = base.Add(lost), true
	}
	e.Clock = *c
	e.Base, e.Looked = base, looked
	return e.shift(c.Base.Sub(base)) || changed
}

// start begins with a time, and with what is there.
func (e *Evidence) start(c *Clock, snaps []Snapshot) {
	*e = Evidence{Clock: *c, Sights: make(map[string]Sighting, len(snaps))}
	e.Looked = e.trusted()
	newest := newestTime(snaps)
	if newest.After(e.Looked) {
		newest = e.Looked
	}
	for i := range snaps {
		at := snaps[i].Time.UTC()
		if at.After(newest) {
			at = newest.UTC()
		}
		e.Sights[snaps[i].ID] = Sighting{Before: at, Seen: at, Passed: e.Passed + at.Sub(newest)}
	}
}

// newestTime is the time of the newest snapshot, zero for none.
func newestTime(snaps []Snapshot) (newest time.Time) {
	for i := range snaps {
		if snaps[i].Time.After(newest) {
			newest = snaps[i].Time
		}
	}
	return newest
}

// Started reports whether Start was called, ever.
func (e *Evidence) Started() bool { return !e.Base.IsZero() }

// Observe takes over what has passed since the last reading. It reports whether Sights has changed.
func (e *Evidence) Observe(r Reading) (changed bool) {
	elapsed := r.Up - e.Last.Up
	if r.Boot == "" || r.Boot != e.Last.Boot || elapsed < 0 {
		elapsed = 0
		if e.Gap.IsZero() {
			e.Gap, e.GapPassed = e.Last.Wall, e.Passed
		}
	}
	e.Last = r
	e.Passed += elapsed
	e.Credit = min(e.Credit+elapsed, maxCredit)
	changed = e.closeGap()
	most := elapsed / slew
	e.Base = e.Base.Add(max(-most, min(most, e.Ahead())))
	return e.lower(elapsed) || changed
}

// closeGap believes how long a restart has taken, within what is credited. A wall clock that is
// behind what it showed before has not been set yet.
func (e *Evidence) closeGap() (changed bool) {
	if e.Gap.IsZero() {
		return false
	}
	took := e.Last.Wall.Sub(e.Gap) - (e.Passed - e.GapPassed)
	if took < 0 {
		return false
	}
	e.Gap, e.GapPassed = time.Time{}, 0
	take := max(0, min(took, e.Credit, e.Ahead()))
	e.Credit -= take
	return e.shift(take)
}

// lower goes back to a wall clock that has been behind for long: perhaps it was ahead when this was
// started.
func (e *Evidence) lower(elapsed time.Duration) (changed bool) {
	if -e.Ahead() < wrongBy {
		e.Behind = 0
		return false
	}
	if e.Behind += elapsed; e.Behind < patience {
		return false
	}
	return e.Confirm()
}

// Confirm takes over what the wall clock shows, because somebody says that it is right. It reports
// whether Sights has changed. Locks count what was observed, as before.
func (e *Evidence) Confirm() (changed bool) {
	e.Gap, e.GapPassed, e.Behind = time.Time{}, 0, 0
	return e.shift(e.Ahead())
}

// shift moves the time. What was seen in what is the future now moves along.
func (e *Evidence) shift(by time.Duration) (changed bool) {
	e.Base = e.Base.Add(by)
	if by >= 0 {
		return false
	}
	now := e.trusted()
	for id, s := range e.Sights {
		if s.Seen.After(now) {
			e.Sights[id] = Sighting{s.Before.Add(by), s.Seen.Add(by), s.Passed}
			changed = true
		}
	}
	if e.Looked.After(now) {
		e.Looked = now
	}
	return changed
}

// Ahead is how much the wall clock is ahead of what has passed; negative when it is behind.
func (e *Evidence) Ahead() time.Duration { return e.Last.Wall.Sub(e.trusted()) }

// Now is the time to decide by: the earlier of the two.
func (e *Evidence) Now() time.Time {
	if now := e.trusted(); now.Before(e.Last.Wall) {
		return now
	}
	return e.Last.Wall.UTC()
}

func (e *Evidence) trusted() time.Time { return e.Base.Add(e.Passed) }

// Look notes which snapshots are there now, and reports whether Sights has changed. A snapshot that is
// not there any more is forgotten.
func (e *Evidence) Look(snaps []Snapshot) (changed bool) {
	sights := make(map[string]Sighting, len(snaps))
	kept, now := 0, e.trusted()
	for i := range snaps {
		s, known := e.Sights[snaps[i].ID]
		for _, id := range snaps[i].Replaces {
			if was, ok := e.Sights[id]; ok && !known {
				s, known, changed = was, true, true
			}
		}
		switch {
		case !known:
			s = Sighting{Before: e.Looked, Seen: now, Passed: e.Passed}
			changed = true
		default:
			kept++
			// Seen while the time had fallen behind, which somebody has confirmed since.
			if at := snaps[i].Time; at.After(s.Seen.Add(slack)) && !at.After(now) {
				s.Seen = at.UTC()
				changed = true
			}
		}
		sights[snaps[i].ID] = s
	}
	changed = changed || kept < len(e.Sights)
	e.Looked, e.Sights = now, sights
	return changed
}

// Sight is when a snapshot was first seen, zero when it never was.
func (e *Evidence) Sight(id string) Sight {
	s, ok := e.Sights[id]
	if !ok {
		return Sight{}
	}
	return Sight{Before: s.Before, Seen: s.Seen, Age: max(0, e.Passed-s.Passed)}
}
