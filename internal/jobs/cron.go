package jobs

import (
	"errors"
	"strings"
	"time"

	"github.com/robfig/cron/v3"
)

// Cron is a schedule: a line of cron in a time zone. Safe for concurrent use.
//
// Where clocks are set forward, a time that does not exist that day is had when the hour that is
// left out would have begun, once; where they are set back, a time that comes twice is had the first
// time. Lines whose hour is "*" or "*/n" follow the hours as they pass instead: they have both
// hours of the same name, and none that does not exist.
type Cron struct {
	line   string
	zone   *time.Location
	times  cron.Schedule
	hourly bool // follows the hours as they pass
}

// ParseCron reads "minute hour day month weekday", or @hourly, @daily, @weekly, @monthly, @yearly,
// @every DURATION. A nil zone is UTC. A line whose time never comes is an error.
func ParseCron(line string, zone *time.Location) (*Cron, error) {
	// The library reads a time zone prefix too, but trips over a malformed one.
	if strings.Contains(line, "TZ=") {
		return nil, errors.New("put the time zone into time_zone")
	}
	if zone == nil {
		zone = time.UTC
	}
	times, err := cron.ParseStandard(line)
	if err != nil {
		return nil, err
	}
	c := &Cron{line: strings.Join(strings.Fields(line), " "), zone: zone, times: times}
	if f := strings.Fields(line); len(f) == 5 {
		c.hourly = strings.HasPrefix(f[1], "*") || f[1] == "?"
	} else {
		c.hourly = line == "@hourly"
	}
	if c.Next(time.Now()).IsZero() {
		return nil, errors.New("that time never comes")
	}
	return c, nil
}

// String is the line and its time zone.
func (c *Cron) String() string { return c.line + " " + c.zone.String() }

// Next is the first time of the schedule after a time.
func (c *Cron) Next(after time.Time) time.Time {
	after = after.Round(0).In(c.zone)
	if every, ok := c.times.(cron.ConstantDelaySchedule); ok {
		return every.Next(after)
	}
	// Clocks on the wall are times of UTC here: between two changes of the zone's offset they go
	// as far as time does.
	start, end := after.ZoneBounds()
	offset := offsetAt(after)
	clock := after.UTC().Add(offset)
	if !c.hourly && !start.IsZero() {
		// Set back at start: up to there the clock has been before.
		clock = later(clock, start.UTC().Add(offsetAt(start.Add(-1))-time.Second))
	}
	for {
		next := c.times.Next(clock)
		if next.IsZero() {
			return next
		}
		at := next.Add(-offset)
		if end.IsZero() || at.Before(end) {
			return at.In(c.zone)
		}
		changed := offsetAt(end)
		begins := end.UTC().Add(changed) // what the clock shows after the change
		switch {
		case !c.hourly && next.Before(begins): // left out
			return end
		case !c.hourly && changed < offset: // had before
			begins = end.UTC().Add(offset)
		}
		clock, offset = begins.Add(-time.Second), changed
		_, end = end.ZoneBounds()
	}
}

// offsetAt is how far the clock of a time's zone is ahead of UTC.
func offsetAt(t time.Time) time.Duration {
	_, seconds := t.Zone()
	return time.Duration(seconds) * time.Second
}

func later(a, b time.Time) time.Time {
	if a.Before(b) {
		return b
	}
	return a
}
