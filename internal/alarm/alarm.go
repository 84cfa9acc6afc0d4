package alarm

import (
	"cmp"
	"slices"
	"strings"
	"time"
)

// Kind says what is wrong.
type Kind string

// The kinds, and what their subjects are.
const (
	MissedBackup       Kind = "missed-backup"       // a share or source
	TooSmall           Kind = "too-small"           // a share or source
	Shrink             Kind = "shrink"              // a share or source; a finding
	MassDeletion       Kind = "mass-deletion"       // a share or source; a finding
	MassOverwrite      Kind = "mass-overwrite"      // a share or source; a finding
	PullFailed         Kind = "pull-failed"         // a source
	JobFailed          Kind = "job-failed"          // a job that is no pull
	CommitFailed       Kind = "commit-failed"       // a share
	QuotaNearlyFull    Kind = "quota-nearly-full"   // a share
	VerificationFailed Kind = "verification-failed" // a store
	StoreNearlyFull    Kind = "store-nearly-full"   // a store
	StoreFullOfLocked  Kind = "store-full-of-locked"
	SpoolNearlyFull    Kind = "spool-nearly-full" // "spool"
)

// OfShare reports whether the subject of a kind is a share or source.
func (k Kind) OfShare() bool {
	switch k {
	case JobFailed, VerificationFailed, StoreNearlyFull, StoreFullOfLocked, SpoolNearlyFull:
		return false
	}
	return true
}

// Alarm is something that is wrong.
type Alarm struct {
	Kind    Kind   `json:"kind"`
	Subject string `json:"subject"`
	// Text says what is wrong, and Hint what to do about it.
	Text string `json:"text"`
	Hint string `json:"hint,omitempty"`
	// Finding is an alarm of what has happened: it stays until it is acknowledged.
	Finding bool `json:"finding,omitempty"`
	// Snapshot is the id of the one that it is about, if there is one.
	Snapshot string `json:"snapshot,omitempty"`
	// Pins are ids of snapshots that were pinned because of it.
	Pins []string `json:"pins,omitempty"`

	// What follows is the board's: since when, when it was raised last and how often, and when
	// somebody acknowledged it and still it goes on.
	Since        time.Time `json:"since"`
	Last         time.Time `json:"last"`
	Times        int       `json:"times"`
	Acknowledged time.Time `json:"acknowledged,omitzero"`
}

// maxText bounds a text, and maxPins the pins of an alarm: who provokes more of the same alarm has
// been told of.
const (
	maxText = 2 << 10
	maxPins = 100
)

// update takes over what is known by raising a once more.
func (a *Alarm) update(by *Alarm) {
	a.Text, a.Hint, a.Snapshot, a.Finding = by.Text, by.Hint, by.Snapshot, by.Finding
	for _, id := range by.Pins {
		if !slices.Contains(a.Pins, id) && len(a.Pins) < maxPins {
			a.Pins = append(slices.Clip(a.Pins), id)
		}
	}
}

// same reports whether b says nothing that a does not.
func (a *Alarm) same(b *Alarm) bool {
	return a.Text == b.Text && a.Hint == b.Hint && a.Snapshot == b.Snapshot && a.Finding == b.Finding &&
		slices.Equal(a.Pins, b.Pins) && a.Acknowledged.Equal(b.Acknowledged)
}

// key orders and names alarms.
type key struct {
	kind    Kind
	subject string
}

func (a *Alarm) key() key { return key{a.Kind, a.Subject} }

func compare(a, b Alarm) int {
	return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Subject, b.Subject))
}

// shortened is a text that is kept.
func shortened(s string) string {
	s = strings.ToValidUTF8(s, "\uFFFD")
	if len(s) > maxText {
		s = strings.ToValidUTF8(s[:maxText], "") + "…"
	}
	return s
}
