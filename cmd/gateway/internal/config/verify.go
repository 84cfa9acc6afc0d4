package config

import (
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/snapgate/gateway/internal/jobs"
	"github.com/snapgate/gateway/snapshotter"
)

// Verify says how the files of the store are read back.
type Verify struct {
	// Every is how often all is read; 0: never, but for what has just come.
	Every time.Duration
	// Schedule says when serve reads a part.
	Schedule Schedule
	// Bandwidth is how many bytes a second are read.
	Bandwidth int64
	// New has what each snapshot has brought read back soon.
	New bool
	// RepairFrom names the store that damage is repaired from; "" for none.
	RepairFrom string

	at    node
	given bool
	zone  *time.Location // of the schedule that is made for it
}

// VerifyJob is what the job of Verify.Schedule is called.
const VerifyJob = "verify"

// verifySchedule is when a part of the store is read without a schedule: before the times that the
// examples of other jobs have.
const verifySchedule = "10 1 * * *"

// shortVerify is below which a run a day is too little.
const shortVerify = 48 * time.Hour

func defaultVerify() Verify {
	return Verify{Every: snapshotter.DefaultScrubEvery, Bandwidth: snapshotter.DefaultScrubBandwidth, New: true}
}

// readVerify reads the verify section.
func (l *loader) readVerify(n node) {
	v := &l.cfg.Verify
	*v = defaultVerify()
	v.at, v.given = n, true
	known := fields{
		"every":         intoEvery(&v.Every),
		"bandwidth":     intoBytes(&v.Bandwidth, minBandwidth),
		"new_snapshots": intoBool(&v.New),
		"repair_from":   intoText(&v.RepairFrom),
	}
	var when scheduleReader
	maps.Copy(known, when.fields())
	n.fields(known)
	v.zone = when.zone
	if _, scheduled := when.at["schedule"]; scheduled {
		v.Schedule = when.schedule(l, n)
	} else {
		v.Schedule.Jitter = when.jitter
	}
	if n.clean() && v.Every > 0 && v.Every < shortVerify && v.Schedule.Times == nil {
		l.warn("verify.every is below two days: without verify.schedule a part is read once a day")
	}
}

// intoEvery reads how often all is read.
func intoEvery(dst *time.Duration) field {
	return field{func(n node) {
		if text, ok := n.text(); ok && text == "never" {
			*dst = 0
		} else if ok {
			intoDuration(dst, 24*time.Hour).read(n)
		}
	}}
}

// finishVerify schedules what has no schedule, and checks names.
func (l *loader) finishVerify() {
	v := &l.cfg.Verify
	if v.given && !v.at.clean() {
		return
	}
	defer func() { v.at = node{} }()
	if v.RepairFrom != "" {
		from := l.cfg.StoreNamed(v.RepairFrom)
		hint := "the stores are: " + strings.Join(l.cfg.StoreNames(), ", ")
		switch {
		case from == nil:
			v.at.failHint(hint, "repair_from: there is no store %q", v.RepairFrom)
		case from.Location == l.cfg.Store.Location:
			v.at.failHint(hint, "repair_from: it is the store itself")
		}
	}
	if v.Every == 0 {
		v.Schedule = Schedule{}
		return
	}
	_, source := l.cfg.Source(VerifyJob)
	taken := source || slices.ContainsFunc(l.cfg.Syncs, func(s Sync) bool { return s.Name == VerifyJob })
	switch {
	case taken && v.given:
		v.at.failHint("give it another name", "a source or an entry of sync is called %q, and jobs are told apart by their names", VerifyJob)
		return
	case taken:
		l.warn("the store is not read back day by day: a source or an entry of sync has the name of that job, %q", VerifyJob)
		return
	}
	if v.Schedule.Times == nil {
		times, err := jobs.ParseCron(verifySchedule, v.zone)
		if err != nil {
			v.at.fail("schedule: %w", err) // it is a constant
			return
		}
		v.Schedule = Schedule{Times: times, Jitter: v.Schedule.Jitter}
	}
}
