package config

import (
	"maps"
	"slices"
	"time"

	"github.com/snapgate/gateway/snapshotter"
)

// Maintenance says how the space of what no snapshot needs is given back.
type Maintenance struct {
	// Grace is how long what is of no use is left alone before it is marked, and then before it is
	// removed.
	Grace time.Duration
	// Schedule says when serve maintains its store.
	Schedule Schedule

	at node
}

// MaintenanceJob is what the job of Maintenance.Schedule is called.
const MaintenanceJob = "maintenance"

// shortGrace is below which a warning is given: others may work with what they know of the store for
// hours, as a backup by plakar does.
const shortGrace = 24 * time.Hour

// readMaintenance reads the maintenance section.
func (l *loader) readMaintenance(n node) { l.readMaintenanceInto(n, &l.cfg.Maintenance) }

// readMaintenanceInto reads the maintenance section of a store.
func (l *loader) readMaintenanceInto(n node, m *Maintenance) {
	m.Grace = snapshotter.DefaultGrace
	known := fields{"grace": intoDuration(&m.Grace, 0)}
	var when scheduleReader
	maps.Copy(known, when.fields())
	n.fields(known)
	m.Schedule = when.schedule(l, n)
	m.at = n
	if n.clean() && m.Grace < shortGrace {
		l.warn("%s.grace is below a day: a backup by plakar that runs for longer may refer to what is removed", n.key)
	}
}

// finishMaintenance checks that no other job has its name.
func (l *loader) finishMaintenance() {
	m := &l.cfg.Maintenance
	if m.Schedule.Times == nil || !m.at.clean() {
		return
	}
	_, source := l.cfg.Source(MaintenanceJob)
	if source || slices.ContainsFunc(l.cfg.Syncs, func(s Sync) bool { return s.Name == MaintenanceJob }) {
		m.at.failHint("give it another name", "a source or an entry of sync is called %q, and jobs are told apart by their names", MaintenanceJob)
	}
	m.at = node{}
}
