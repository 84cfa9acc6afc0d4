package config

import (
	"time"

	"github.com/snapgate/gateway/internal/jobs"
)

// Schedule says when a job runs.
type Schedule struct {
	Times *jobs.Cron // nil: it is not scheduled
	// Jitter is as jobs.Job has it.
	Jitter time.Duration
}

// scheduleReader reads the keys of a schedule.
type scheduleReader struct {
	line   string
	zone   *time.Location
	jitter time.Duration
	at     map[string]node // the keys that are there
}

func (sr *scheduleReader) fields() fields {
	known := fields{
		"schedule":  intoText(&sr.line),
		"time_zone": {func(n node) { sr.zone = readZone(n) }},
		"jitter": {func(n node) {
			sr.jitter = 0
			intoDuration(&sr.jitter, 0).read(n)
			if n.clean() && sr.jitter == 0 {
				sr.jitter = -1 // none, not the default
			}
		}},
	}
	sr.at = make(map[string]node, len(known))
	for key, f := range known {
		known[key] = noting(sr.at, key, f)
	}
	return known
}

// schedule is what was read of the job that n is.
func (sr *scheduleReader) schedule(l *loader, n node) Schedule {
	at, scheduled := sr.at["schedule"]
	if scheduled {
		return Schedule{Times: at.cron(sr.line, sr.zone), Jitter: sr.jitter}
	}
	for _, key := range []string{"time_zone", "jitter"} {
		if _, ok := sr.at[key]; ok {
			l.warn("%s.%s has no effect without schedule", n.label(), key)
		}
	}
	return Schedule{}
}

// cron reads the line of cron that n is; nil when it is none.
func (n node) cron(line string, zone *time.Location) *jobs.Cron {
	if !n.clean() {
		return nil
	}
	c, err := jobs.ParseCron(line, zone)
	if err != nil {
		n.failHint(`want minute, hour, day, month, weekday, as "0 2 * * *"`, "%w", err)
		return nil
	}
	return c
}

// readZone reads a time zone; nil when it is not known.
func readZone(n node) *time.Location {
	s, ok := n.text()
	if !ok {
		return nil
	}
	loc, err := time.LoadLocation(s)
	if err != nil {
		n.failHint("want as UTC or Europe/Paris", "unknown time zone %q", s)
		return nil
	}
	return loc
}
