package snapshotter

import "time"

// Follow makes m the one that comes after last in its lineage, the first for the zero
// Snapshot. Names of views have seconds and must be unique and in order, whatever the clock
// does, so the time may move on.
func (m *Meta) Follow(last Snapshot) {
	m.Sequence, m.Parent = last.Sequence+1, last.ID
	second := last.Time.Truncate(time.Second)
	if last.Time.IsZero() || m.Time.Truncate(time.Second).After(second) {
		return
	}
	if !m.Time.After(last.Time) {
		m.Time = last.Time.Add(1)
	}
	if m.Time.Truncate(time.Second).Equal(second) {
		m.Suffix = last.Suffix + 1
	}
}
