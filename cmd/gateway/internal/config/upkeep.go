package config

import (
	"maps"
	"slices"
	"time"

	"github.com/snapgate/gateway/internal/jobs"
)

// Upkeep is what serve does at times for a store that it does not serve.
type Upkeep struct {
	Retention   Retention // nothing is removed without a schedule
	Maintenance Maintenance
	Verify      Verify

	keep                 *retentionSection // nil without retention
	maintained, verified bool              // the section is there
	at                   node
}

// JobOf is what a job of a further store is called: that of the served store with the store's name.
func JobOf(job, store string) string { return job + "-" + store }

// upkeepFields are the sections of a store in stores.
func (l *loader) upkeepFields(known fields, st *Store) {
	u := &st.Upkeep
	known["retention"] = field{func(n node) {
		u.keep, u.at = new(retentionSection), n
		n.fields(u.keep.sectionFields())
	}}
	known["maintenance"] = field{func(n node) {
		u.maintained = true
		l.readMaintenanceInto(n, &u.Maintenance)
	}}
	known["verify"] = field{func(n node) {
		u.verified = true
		v := &u.Verify
		*v = defaultVerify()
		own := fields{"every": intoEvery(&v.Every), "bandwidth": intoBytes(&v.Bandwidth, minBandwidth)}
		var when scheduleReader
		maps.Copy(own, when.fields())
		n.fields(own)
		line := when.line
		if line == "" {
			line = verifySchedule
		}
		if v.Every > 0 {
			v.Schedule = Schedule{Times: n.cron(line, when.zone), Jitter: when.jitter}
		}
	}}
}

// finishUpkeep gives the further stores their policies, and checks the names of their jobs.
func (l *loader) finishUpkeep() {
	for i := range l.cfg.Stores {
		st := &l.cfg.Stores[i]
		u := &st.Upkeep
		if u.keep != nil && u.at.clean() {
			l.policiesOf(u)
		}
		if !u.maintained {
			u.Maintenance.Grace = l.cfg.Maintenance.Grace
		}
		if !u.verified { // what gateway scrub goes by
			u.Verify.Every, u.Verify.Bandwidth = l.cfg.Verify.Every, l.cfg.Verify.Bandwidth
		}
		for _, job := range []struct {
			name  string
			times *jobs.Cron
		}{{PruneJob, u.Retention.Prune.Times}, {MaintenanceJob, u.Maintenance.Schedule.Times}, {VerifyJob, u.Verify.Schedule.Times}} {
			name := JobOf(job.name, st.Name)
			_, source := l.cfg.Source(name)
			if job.times != nil && (source || l.cfg.SyncNamed(name) != nil) {
				st.at.failHint("give it another name", "a source or an entry of sync is called %q, and jobs are told apart by their names", name)
			}
		}
		u.keep, u.at, u.Maintenance.at, st.at = nil, node{}, node{}, node{}
	}
}

// policiesOf takes the policies of the shares and sources where the store does not say otherwise.
func (l *loader) policiesOf(u *Upkeep) {
	r := u.keep
	u.Retention.Of = maps.Clone(l.cfg.Retention.Of)
	for _, name := range slices.Concat(shareNames(l.cfg.Shares), sourceNames(l.cfg.Sources)) {
		p, ok := u.Retention.Of[name]
		if r.keep {
			p.Rules, p.Last = r.policy.Rules, r.policy.Last
		}
		if r.lock {
			p.Lock = r.policy.Lock
		}
		if r.zone != nil {
			p.Zone = r.zone
		}
		if p.Zone == nil {
			p.Zone = time.UTC
		}
		if ok || r.keep || r.lock {
			u.Retention.Of[name] = p
		}
	}
	l.schedulePrune(r, &u.Retention)
}

func shareNames(list []share) (names []string) {
	for _, s := range list {
		names = append(names, s.Name)
	}
	return names
}

func sourceNames(list []Source) (names []string) {
	for i := range list {
		names = append(names, list[i].Name)
	}
	return names
}
