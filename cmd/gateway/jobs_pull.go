package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"github.com/snapgate/gateway/cmd/gateway/internal/config"
	"github.com/snapgate/gateway/internal/disk"
	"github.com/snapgate/gateway/internal/jobs"
	"github.com/snapgate/gateway/internal/sshclient"
	"github.com/snapgate/gateway/pull"
	"github.com/snapgate/gateway/snapshotter"
	"github.com/snapgate/gateway/store"
)

// pullJob pulls a source inside the gateway.
func (s *serving) pullJob(dataDir string, src config.Source) func(context.Context) (jobs.Outcome, error) {
	return func(ctx context.Context) (jobs.Outcome, error) {
		var out jobs.Outcome
		log := s.log.With("job", src.Name)
		report := &pull.Report{}
		defer s.progress.watch(src.Name, func() string { return progressText(report.Progress(), pace{}) })()
		res, err := runPull(ctx, s.snapshots, dataDir, &src, pullOptions{report: report, log: log, bound: s.fullness.bounded})
		logProblems(ctx, log, report)
		if err != nil && worthRetrying(err) {
			err = jobs.Retry(err)
		}
		if !res.ID.IsZero() {
			out.Snapshot = res.ID.String()
		}
		out.Partial = res.Partial || report.Failed() > 0
		out.Summary = summarize(report, res.New)
		return out, err
	}
}

// summarize says in one line what a pull has done.
func summarize(report *pull.Report, made bool) string {
	c := report.Counts()
	text := fmt.Sprintf("%s; %s new, %d changed, %d removed", count(c.Files, "file", "files"), count(c.New, "name is", "names are"), c.Changed, c.Removed)
	if !made {
		text += "; no new snapshot"
	}
	if n := report.Failed(); n > 0 {
		text += "; " + notCaptured(n)
	}
	return text
}

// logProblems logs what could not be captured, and how much of it was not logged.
func logProblems(ctx context.Context, log *slog.Logger, report *pull.Report) {
	list, _ := report.Problems()
	for i, p := range list {
		if i == shownProblems {
			log.LogAttrs(ctx, slog.LevelWarn, "more could not be captured; the snapshot's errors have all of it", slog.Int64("paths", report.Counts().Problems-int64(i)))
			return
		}
		log.LogAttrs(ctx, slog.LevelWarn, "could not be captured", slog.String("path", p.Path), slog.String("kind", p.Kind.String()), slog.String("err", p.Text))
	}
}

// worthRetrying reports whether another try may go better: the server, the network or the store
// is away or busy. A wrong password or a changed host key needs somebody.
func worthRetrying(err error) bool {
	var ssh *sshclient.Error
	switch {
	case errors.Is(err, store.ErrLogin), errors.Is(err, store.ErrRefused), errors.Is(err, store.ErrReplaced):
		return false
	case errors.Is(err, store.ErrUnavailable), errors.Is(err, store.ErrServer), errors.Is(err, store.ErrLocked),
		errors.Is(err, errStoreFull), errors.Is(err, pull.ErrRunning), errors.Is(err, disk.ErrLocked),
		errors.Is(err, snapshotter.ErrNoSnapshot), disk.IsFull(err):
		return true
	case errors.As(err, &ssh):
		switch ssh.Kind {
		case sshclient.KindTimeout, sshclient.KindDNS, sshclient.KindRefused, sshclient.KindUnreachable, sshclient.KindClosed:
			return true
		}
		return false
	}
	kind := pull.KindOf(err)
	return kind == pull.KindConnection || kind == pull.KindBreaks || kind == pull.KindBusy
}
