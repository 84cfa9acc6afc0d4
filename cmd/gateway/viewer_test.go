package main

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/snapgate/gateway/internal/alarm"
)

// Users of a share are told in the viewer of all that concerns it, but for why something fails; operators of everything.
func TestWebAlarms(t *testing.T) {
	board := newBoard(t)
	s := &serving{gateway: &gateway{alarms: board}}
	for _, kind := range []alarm.Kind{
		alarm.MissedBackup, alarm.TooSmall, alarm.Shrink, alarm.MassDeletion, alarm.MassOverwrite, alarm.PullFailed, alarm.CommitFailed,
		alarm.QuotaNearlyFull, alarm.JobFailed, alarm.VerificationFailed, alarm.StoreNearlyFull, alarm.StoreFullOfLocked, alarm.SpoolNearlyFull,
	} {
		board.Raise(alarm.Alarm{Kind: kind, Subject: "main", Text: "what is wrong"})
	}
	type told struct{ Share, Text, Why string }
	got := map[string]told{}
	for _, a := range s.webAlarms() {
		if got[a.Kind] = (told{a.Share, a.Text, a.Why}); a.Subject != "main" {
			t.Errorf("%s: subject %q", a.Kind, a.Subject)
		}
	}
	users, failing, operators := told{"main", "what is wrong", ""}, told{"main", "", "what is wrong"}, told{"", "what is wrong", ""}
	want := map[string]told{
		"missed-backup": users, "too-small": users, "shrink": users, "mass-deletion": users, "mass-overwrite": users, "quota-nearly-full": users,
		"pull-failed": failing, "commit-failed": failing,
		"job-failed": operators, "verification-failed": operators, "store-nearly-full": operators, "store-full-of-locked": operators,
		"spool-nearly-full": operators,
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
}
