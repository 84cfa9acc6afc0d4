package retention

import (
	"testing"
	"time"
)

const day = 24 * time.Hour

// clocks are those of a machine.
type clocks struct {
	wall time.Time
	boot string
	up   time.Duration
}

func (c *clocks) read() Reading { return Reading{Wall: c.wall, Boot: c.boot, Up: c.up} }

func (c *clocks) pass(d time.Duration) { c.wall, c.up = c.wall.Add(d), c.up+d }

// restart takes d, and the wall clock shows that it did.
func (c *clocks) restart(d time.Duration) {
	c.wall, c.boot, c.up = c.wall.Add(d), c.boot+"+", time.Minute
}

// TestEvidenceTime: what an Evidence takes for the time when clocks are set and machines restart.
func TestEvidenceTime(t *testing.T) {
	start := at("2026-11-26 12:00")
	tests := []struct {
		name   string
		snaps  []Snapshot // at the start
		happen func(*Evidence, *clocks)
		// now and ahead are as of the end, since the start.
		now, ahead time.Duration
	}{
		{name: "time passes", now: 10 * day, happen: func(e *Evidence, c *clocks) { c.pass(10 * day) }},
		{
			name: "the clock jumps to 2099", now: 2 * time.Hour, ahead: at("2099-01-01 00:00").Add(time.Hour).Sub(start.Add(2 * time.Hour)),
			happen: func(e *Evidence, c *clocks) {
				c.pass(time.Hour)
				e.Observe(c.read())
				c.wall = at("2099-01-01 00:00")
				e.Observe(c.read())
				c.pass(time.Hour)
			},
		},
		{
			name: "and back", now: 3 * time.Hour,
			happen: func(e *Evidence, c *clocks) {
				c.wall = at("2099-01-01 00:00")
				e.Observe(c.read())
				c.pass(2 * time.Hour)
				e.Observe(c.read())
				c.wall = start.Add(2 * time.Hour)
				c.pass(time.Hour)
			},
		},
		{
			name: "somebody says that the jump is right", now: 100 * day,
			happen: func(e *Evidence, c *clocks) {
				c.wall = start.Add(100 * day)
				e.Observe(c.read())
				e.Confirm()
			},
		},
		{
			// The earlier of the two counts at once.
			name: "the clock is set back", now: -365 * day, ahead: -365 * day,
			happen: func(e *Evidence, c *clocks) { c.wall = start.Add(-365 * day) },
		},
		{
			name: "and forward again within a day", now: 10 * time.Hour,
			happen: func(e *Evidence, c *clocks) {
				c.wall = start.Add(-365 * day)
				e.Observe(c.read())
				c.pass(10 * time.Hour)
				e.Observe(c.read())
				c.wall = start.Add(10 * time.Hour)
			},
		},
		{
			// It was started by a clock that was ahead.
			name: "it stays back", now: -365*day + 30*time.Hour,
			happen: func(e *Evidence, c *clocks) {
				c.wall = start.Add(-365 * day)
				for range 30 {
					e.Observe(c.read())
					c.pass(time.Hour)
				}
			},
		},
		{
			name: "a restart of an hour", now: 11 * time.Hour,
			happen: func(e *Evidence, c *clocks) {
				c.pass(10 * time.Hour)
				e.Observe(c.read())
				c.restart(time.Hour)
			},
		},
		{
			name: "a restart before the clock is set", now: 12 * time.Hour,
			happen: func(e *Evidence, c *clocks) {
				c.pass(10 * time.Hour)
				e.Observe(c.read())
				right := c.wall.Add(time.Hour)
				c.restart(0)
				c.wall = at("1970-01-01 00:00")
				e.Observe(c.read())
				c.pass(time.Hour)
				e.Observe(c.read())
				c.wall = right.Add(time.Hour)
			},
		},
		{
			name: "a month away", now: 30*day + 72*time.Hour, ahead: 30*day - 72*time.Hour,
			happen: func(e *Evidence, c *clocks) {
				c.pass(30 * day)
				e.Observe(c.read())
				c.restart(30 * day)
			},
		},
		{
			// No more is believed than was observed.
			name: "restarts in a row with a clock that runs away", now: 20 * time.Hour, ahead: 3*1000*day - 10*time.Hour,
			happen: func(e *Evidence, c *clocks) {
				c.pass(10 * time.Hour)
				e.Observe(c.read())
				for range 3 {
					c.restart(1000 * day)
					e.Observe(c.read())
				}
			},
		},
		{
			name: "a machine that says nothing about restarts", now: 0, ahead: 10 * day,
			happen: func(e *Evidence, c *clocks) {
				c.boot = ""
				c.pass(10 * day)
			},
		},
		{
			name:  "the first start long after the newest snapshot",
			snaps: honest("2026-10-01 00:00", "2026-11-01 12:00"), now: -22 * day, ahead: 22 * day,
			happen: func(*Evidence, *clocks) {},
		},
		{
			name: "the first start soon after it", snaps: honest("2026-10-01 00:00", "2026-11-24 12:00"), now: 0,
			happen: func(*Evidence, *clocks) {},
		},
		{
			// As of a virtual machine that is stopped for its backup.
			name: "small lags are made up", now: 2 * day,
			happen: func(e *Evidence, c *clocks) {
				c.wall = c.wall.Add(10 * time.Minute)
				e.Observe(c.read())
				c.pass(2*day - 10*time.Minute)
			},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := &clocks{wall: start, boot: "one", up: time.Hour}
			var e Evidence
			e.Start(c.read(), tt.snaps)
			tt.happen(&e, c)
			e.Observe(c.read())
			// Without what may be made up in the time that has passed.
			tolerance := e.Passed / slew
			if got := e.Now().Sub(start); (got - tt.now).Abs() > tolerance {
				t.Errorf("now is %v, want %v", got, tt.now)
			}
			if got := e.Ahead(); (got - tt.ahead).Abs() > tolerance {
				t.Errorf("the clock is ahead by %v, want %v", got, tt.ahead)
			}
		})
	}
}

// TestLook: sightings stay, come and go with their snapshots, and remember what was observed.
func TestLook(t *testing.T) {
	c := &clocks{wall: at("2026-11-26 12:00"), boot: "one", up: time.Hour}
	var e Evidence
	if e.Started() {
		t.Error("it is started")
	}
	old := honest("2026-11-20 12:00", "2026-11-25 12:00")
	e.Start(c.read(), old)
	if got, want := e.Sight(old[0].ID).Age, 5*day; got != want || !e.Started() {
		t.Errorf("what was there at the start is %v old, want %v", got, want)
	}
	if e.Look(old) {
		t.Error("nothing has changed")
	}
	c.pass(time.Hour)
	e.Observe(c.read())
	list := append(old[1:], Snapshot{ID: "new", Time: c.wall.Add(-time.Minute)}, Snapshot{ID: "future", Time: c.wall.Add(300 * day)})
	if !e.Look(list) {
		t.Error("something has changed")
	}
	if e.Sight(old[0].ID) != (Sight{}) {
		t.Error("what is gone is remembered")
	}
	if s := e.Sight("new"); s.Age != 0 || !s.Seen.Equal(c.wall) || !s.Before.Equal(at("2026-11-26 12:00")) {
		t.Errorf("new: %+v", s)
	}
	// The clock, and with it a snapshot's time, was right, somebody says; the lock is not shorter.
	c.wall = c.wall.Add(301 * day)
	e.Observe(c.read())
	e.Confirm()
	if !e.Look(list) {
		t.Error("the sighting has changed")
	}
	if s := e.Sight("future"); s.Age != 0 || !s.Seen.Equal(list[2].Time) {
		t.Errorf("confirmed: %+v", s)
	}
	if s := e.Sight("new"); s.Age != 0 || !s.Seen.Equal(list[1].Time.Add(time.Minute)) {
		t.Errorf("seen before: %+v", s)
	}
}

// What was seen of a snapshot holds for the one that was made in its place, at once with it or after it.
func TestLookReplaced(t *testing.T) {
	start := time.Date(2026, 11, 21, 19, 0, 0, 0, time.UTC)
	for _, both := range []bool{false, true} {
		var e Evidence
		e.Start(Reading{Wall: start}, nil)
		old := Snapshot{ID: "old", Time: start}
		e.Look([]Snapshot{old})
		was := e.Sights["old"]
		e.Passed += 48 * time.Hour
		made := Snapshot{ID: "new", Time: start, Replaces: []string{"older", "old"}}
		if both {
			e.Look([]Snapshot{old, made})
		}
		changed := e.Look([]Snapshot{made})
		if got := e.Sights["new"]; got != was || !changed {
			t.Errorf("both %v: %+v, changed %v, want %+v", both, got, changed, was)
		}
		if age := e.Sight("new").Age; age != 48*time.Hour {
			t.Errorf("both %v: it is %s old", both, age)
		}
		if e.Look([]Snapshot{made}) {
			t.Error("it changes once more")
		}
	}
}

// TestFollow: who looks seldom at a copy knows what time has passed from one who has observed it all along.
func TestFollow(t *testing.T) {
	c := &clocks{wall: at("2026-11-26 12:00"), boot: "one", up: time.Hour}
	var served, e Evidence
	served.Start(c.read(), nil)
	look := func(copies []Snapshot) {
		served.Observe(c.read())
		e.Follow(&served.Clock, copies)
		e.Look(copies)
	}
	check := func(what, id string, age, ahead time.Duration) {
		t.Helper()
		if got := e.Sight(id).Age; got != age {
			t.Errorf("%s: a copy is %v old, want %v", what, got, age)
		}
		// Some of what the clock is ahead is made up while time passes.
		if got := e.Ahead(); (got-ahead).Abs() > e.Passed/slew || !e.Now().Equal(served.Now()) {
			t.Errorf("%s: the clock is ahead by %v, want %v; now is %v, want %v", what, got, ahead, e.Now(), served.Now())
		}
	}

	// The oldest copies come first: they say nothing about the time.
	copies := honest("2024-01-01 12:00", "2024-01-02 12:00")
	look(copies)
	check("at the start", copies[0].ID, day, 0)
	check("at the start", copies[1].ID, 0, 0)
	copies = append(copies, honest("2026-11-26 11:00")...)
	look(copies)
	if s := e.Sight(copies[2].ID); !s.Seen.Equal(c.wall) {
		t.Errorf("a copy of an hour ago was seen at %v", s.Seen)
	}

	// The machine is off every night, and the copy is looked at once a day.
	for range 10 {
		c.pass(7 * time.Hour)
		served.Observe(c.read())
		c.pass(7 * time.Hour)
		served.Observe(c.read())
		c.restart(10 * time.Hour)
		look(copies)
	}
	check("off at night", copies[0].ID, day+140*time.Hour, 0)

	// It was off for long, and somebody says that the clock is right.
	c.restart(30 * day)
	look(copies)
	check("off for long", copies[2].ID, 140*time.Hour, 30*day-40*time.Hour)
	served.Confirm()
	look(copies)
	check("confirmed", copies[2].ID, 140*time.Hour, 0)

	// The clock was ahead, and is set back for good: what was seen meanwhile was seen before.
	copies = append(copies, Snapshot{ID: "late", Time: c.wall})
	look(copies)
	c.wall = c.wall.Add(-20 * day)
	served.Observe(c.read())
	served.Confirm()
	look(copies)
	check("set back", "late", 0, 0)
	if s := e.Sight("late"); s.Seen.After(e.Now()) {
		t.Errorf("it was seen at %v, and now is %v", s.Seen, e.Now())
	}

	// What the other has observed is lost: nothing gets older by that, nor younger.
	served = Evidence{}
	served.Start(c.read(), nil)
	look(copies)
	check("lost", copies[2].ID, 140*time.Hour, 0)
	c.pass(time.Hour)
	look(copies)
	check("lost and gone on", copies[2].ID, 141*time.Hour, 0)
}
