package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/snapgate/gateway/cmd/gateway/internal/config"
	"github.com/snapgate/gateway/cmd/gateway/internal/control"
	"github.com/snapgate/gateway/cmd/gateway/internal/watch"
	"github.com/snapgate/gateway/internal/alarm"
	"github.com/snapgate/gateway/internal/disk"
	"github.com/snapgate/gateway/internal/jobs"
	"github.com/snapgate/gateway/pull"
	"github.com/snapgate/gateway/snapshotter"
	"github.com/snapgate/gateway/store"
)

// A job of any kind that fails is an alarm when it is not repeated soon, or was in vain, until a run goes well.
func TestJobAlarms(t *testing.T) {
	board := newBoard(t)
	b, err := openBackups(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	e := &events{alarms: board, backups: b}
	ended := func(name, kind string, result jobs.Result, failures int, again bool, err error) func() {
		st := jobs.Status{Name: name, Kind: kind, State: jobs.State{Result: result, Failures: failures}}
		if err != nil {
			st.State.Error = err.Error()
		}
		if again {
			st.State.Retry = time.Now().Add(time.Minute)
		}
		return func() { e.alarmOfJob(&st, err) }
	}
	away := fmt.Errorf("sync: %w", store.ErrUnavailable)
	got := raised(t, board,
		ended("nightly", jobSync, jobs.Failed, 1, true, away), ended("nightly", jobSync, jobs.Failed, 2, true, away),
		ended("nightly", jobSync, jobs.Failed, 3, true, away), ended("nightly", jobSync, jobs.Failed, 4, true, away),
		ended("nightly", jobSync, jobs.Stopped, 4, true, errors.New("the gateway was shut down")),
		ended("other", jobSync, jobs.OK, 0, false, nil), ended("nightly", jobSync, jobs.Partial, 0, false, nil),
		ended("prune", jobPrune, jobs.Failed, 1, false, away), ended("prune", jobPrune, jobs.OK, 0, false, nil),
		ended("maintenance-offsite", jobMaintain, jobs.Failed, 1, false, away), ended("maintenance-offsite", jobMaintain, jobs.OK, 0, false, nil),
		ended("verify", jobVerify, jobs.Failed, 1, false, snapshotter.ErrUnread), ended("verify", jobVerify, jobs.OK, 0, false, nil),
		ended("web", jobPull, jobs.Failed, 1, true, away), ended("web", jobPull, jobs.Failed, 1, false, away), ended("web", jobPull, jobs.OK, 0, false, nil),
	)
	text := func(subject string, failures int, err error) string {
		return fmt.Sprintf("job-failed %s: the job has failed, %d in a row: %v", subject, failures, err)
	}
	want := []string{
		"", "", text("nightly", 3, away), text("nightly", 4, away), text("nightly", 4, away), text("nightly", 4, away), "",
		text("prune", 1, away), "", text("maintenance-offsite", 1, away), "", text("verify", 1, snapshotter.ErrUnread), "",
		"", "pull-failed web: pulling has failed, 1 in a row: " + away.Error(), "",
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("alarms (-want +got):\n%s", d)
	}
	for _, err := range []error{pull.ErrRunning, snapshotter.ErrScrubbing, snapshotter.ErrMaintaining, disk.ErrLocked} {
		for kind, again := range map[string]bool{jobPull: true, jobVerify: false} {
			if got := raised(t, board, ended("busy", kind, jobs.Failed, 9, again, fmt.Errorf("busy: %w", err))); got[0] != "" {
				t.Errorf("%v is an alarm: %s", err, got[0])
			}
		}
	}
}

// Alarms of what is not configured any more end, and no others.
func TestForget(t *testing.T) {
	board, log := newBoard(t), slog.New(slog.DiscardHandler)
	scheduler, err := jobs.New(jobs.Config{Dir: t.TempDir(), Logger: log})
	if err != nil {
		t.Fatal(err)
	}
	yearly, err := jobs.ParseCron("0 2 1 1 *", time.UTC)
	if err != nil {
		t.Fatal(err)
	}
	run := func(context.Context) (jobs.Outcome, error) { return jobs.Outcome{}, nil }
	if err := scheduler.Set([]jobs.Job{
		{Name: "nightly", Kind: jobSync, Schedule: yearly, Run: run}, {Name: "web", Kind: jobPull, Schedule: yearly, Run: run},
	}); err != nil {
		t.Fatal(err)
	}
	s := &serving{gateway: &gateway{alarms: board, log: log}, jobs: scheduler, keeper: &keeper{alarms: board}}
	cfg := &config.Config{Store: config.Store{Name: config.DefaultStore}}
	cfg.Verify.New = true
	s.inForce.Store(cfg)
	s.expect.Store(&config.Expect{Of: map[string]watch.Expect{"main": {}, "web": {}}})
	for _, a := range []alarm.Alarm{
		{Kind: alarm.JobFailed, Subject: "nightly"},
		{Kind: alarm.JobFailed, Subject: "web"}, // which was a sync
		{Kind: alarm.JobFailed, Subject: "gone"},
		{Kind: alarm.JobFailed, Subject: verifyNewSubject},
		{Kind: alarm.PullFailed, Subject: "web"},
		{Kind: alarm.PullFailed, Subject: "nightly"}, // which was a source
		{Kind: alarm.MissedBackup, Subject: "main"},
		{Kind: alarm.MissedBackup, Subject: "gone"},
		{Kind: alarm.VerificationFailed, Subject: config.DefaultStore},
		{Kind: alarm.VerificationFailed, Subject: "gone"},
		{Kind: alarm.SpoolNearlyFull, Subject: spoolSubject},
	} {
		board.Raise(a)
	}
	left := func() (got []string) {
		s.forget(t.Context())
		for _, a := range board.List() {
			got = append(got, string(a.Kind)+" "+a.Subject)
		}
		return got
	}
	want := []string{
		"job-failed nightly", "job-failed " + verifyNewSubject, "missed-backup main", "pull-failed web", "spool-nearly-full spool",
		"verification-failed default",
	}
	if d := cmp.Diff(want, left()); d != "" {
		t.Errorf("alarms (-want +got):\n%s", d)
	}
	cfg.Verify.New = false
	if d := cmp.Diff(append([]string{"job-failed nightly"}, want[2:]...), left()); d != "" {
		t.Errorf("without verify.new_snapshots (-want +got):\n%s", d)
	}
}

// A status tells of each job that fails once; of one whose alarm goes on while it runs again, or was stopped, too.
func TestAlarmsOfJobsInStatus(t *testing.T) {
	for _, tt := range []struct {
		name, kind, result string
		want               []string
	}{
		{"that has failed", string(alarm.JobFailed), string(jobs.Failed), nil},
		{"that runs again", string(alarm.JobFailed), string(jobs.Running), []string{"job-failed web: in vain"}},
		{"that was stopped", string(alarm.JobFailed), string(jobs.Stopped), []string{"job-failed web: in vain"}},
		{"whose pull has failed", string(alarm.PullFailed), string(jobs.Failed), nil},
		{"that pulls again", string(alarm.PullFailed), string(jobs.Running), []string{"pull-failed web: in vain"}},
	} {
		list := []control.Job{{Name: "other", Result: string(jobs.Failed)}, {Name: "web", Result: tt.result}}
		got := alarmProblems([]control.Alarm{{Kind: tt.kind, Subject: "web", Text: "in vain"}}, list)
		if d := cmp.Diff(tt.want, got); d != "" {
			t.Errorf("a job %s (-want +got):\n%s", tt.name, d)
		}
	}
}
