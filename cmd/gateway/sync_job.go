package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"

	"github.com/dustin/go-humanize"

	"github.com/snapgate/gateway/cmd/gateway/internal/config"
	"github.com/snapgate/gateway/internal/jobs"
	"github.com/snapgate/gateway/snapshotter"
)

// syncJob copies snapshots beside what the gateway does.
func (s *serving) syncJob(cfg *config.Config, job *config.Sync) func(context.Context) (jobs.Outcome, error) {
	return func(ctx context.Context) (jobs.Outcome, error) {
		log := s.log.With("job", job.Name)
		run := &syncRun{cfg: cfg, job: *job, refs: job.Shares, log: log}
		if job.From == config.DefaultStore {
			run.from = s.snapshots
		}
		report := &syncLog{log: log}
		defer s.progress.watch(job.Name, report.summary)()
		err := run.run(ctx, report)
		if err == nil {
			err = report.unreadable(job)
		}
		if err != nil && worthRetrying(err) {
			err = jobs.Retry(err)
		}
		return jobs.Outcome{Partial: report.failed > 0, Summary: report.summary()}, err
	}
}

// syncLog writes how a sync gets on to the log, and tells it those who ask.
type syncLog struct {
	log *slog.Logger

	mu     sync.Mutex          // guards what follows
	copier *snapshotter.Copier // nil before there is a plan
	failed int
	unread int // of them, the copies that cannot be read back
}

func (l *syncLog) planned(plan snapshotter.CopyPlan, copier *snapshotter.Copier) {
	for _, id := range plan.Unreadable {
		l.log.Error("snapshot not copied", "snapshot", id.String(), "err", unreadableText)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.copier, l.failed = copier, len(plan.Unreadable)
}

func (l *syncLog) checked(s snapshotter.Snapshot, err error) {
	if err != nil {
		l.copied(s, err)
		return
	}
	l.log.Info("copy of a run before read back", "snapshot", s.ID.String(), "share", s.Share)
}

func (l *syncLog) copying(snapshotter.Snapshot) {}

func (l *syncLog) copied(s snapshotter.Snapshot, err error) {
	if errors.Is(err, snapshotter.ErrNoSnapshot) {
		return // somebody has removed it meanwhile
	}
	if err != nil {
		l.mu.Lock()
		l.failed++
		if errors.Is(err, snapshotter.ErrNotRead) {
			l.unread++
		}
		l.mu.Unlock()
	}
	switch {
	case errors.Is(err, snapshotter.ErrUnread): // which the next run looks at again
		l.log.Warn("copy could not be read back", "snapshot", s.ID.String(), "share", s.Share, "err", err)
	case errors.Is(err, snapshotter.ErrNotRead):
		l.log.Error("copy cannot be read back", "snapshot", s.ID.String(), "share", s.Share, "err", err)
	case err != nil:
		l.log.Error("snapshot not copied", "snapshot", s.ID.String(), "share", s.Share, "err", err)
	default:
		l.log.Debug("snapshot copied", "snapshot", s.ID.String(), "share", s.Share)
	}
}

func (l *syncLog) finished() {}

// unreadable says that there are copies that cannot be read back: a run that has met one has failed. Damage of the source has an
// alarm of its own.
func (l *syncLog) unreadable(job *config.Sync) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.unread == 0 {
		return nil
	}
	return &hintedError{
		err:  fmt.Errorf("sync: %s in %s cannot be read back", count(l.unread, "copy", "copies"), job.To),
		hint: fmt.Sprintf("gateway scrub --repair --from %s %s mends what it finds damaged", job.From, job.To),
	}
}

// summary says in one line what was done so far.
func (l *syncLog) summary() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.copier == nil {
		return ""
	}
	n := l.copier.Progress()
	text := count(n.Snapshots, "snapshot", "snapshots") + " copied, " + humanize.IBytes(n.Sent) + " sent"
	if l.failed > 0 {
		text += fmt.Sprintf("; %d could not be, or not be read back", l.failed)
	}
	return text
}
