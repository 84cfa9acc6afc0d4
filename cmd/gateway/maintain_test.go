package main

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/snapgate/gateway/cmd/gateway/internal/config"
	"github.com/snapgate/gateway/cmd/gateway/internal/control"
	"github.com/snapgate/gateway/internal/disk"
	"github.com/snapgate/gateway/internal/jobs"
	"github.com/snapgate/gateway/internal/retention"
	"github.com/snapgate/gateway/snapshotter"
	"github.com/snapgate/gateway/store/storetest"
)

// TestMaintainClock: a clock that is ahead by a month makes nothing old. Once somebody has said that it is right, it does.
func TestMaintainClock(t *testing.T) {
	root := t.TempDir()
	snaps, err := snapshotter.New(t.Context(), snapshotter.Config{Store: storetest.Open(t, storetest.Config(root))})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = snaps.Close() })
	orphan := filepath.Join(root, "store", "packfiles", "ab", strings.Repeat("ab", 32)) // of no use, and old
	begun := time.Now()
	if err := os.MkdirAll(filepath.Dir(orphan), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(orphan, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(orphan, begun, begun.AddDate(-1, 0, 0)); err != nil {
		t.Fatal(err)
	}
	cfg := &config.Config{DataDir: t.TempDir(), Store: config.Store{Name: config.DefaultStore}}
	cfg.Maintenance = config.Maintenance{Grace: snapshotter.DefaultGrace, Schedule: config.Schedule{Times: new(jobs.Cron)}}
	log, ahead := slog.New(slog.DiscardHandler), time.Duration(0)
	k := &keeper{
		dir: filepath.Join(cfg.DataDir, retentionDir), disk: disk.OS{}, snapshots: snaps, gatewayID: "own", log: log,
		clocks: func() retention.Reading { return retention.Reading{Wall: begun.Add(ahead), Boot: "b", Up: time.Hour} },
	}
	k.policies.Store(new(config.Retention))
	s := &serving{gateway: &gateway{snapshots: snaps, log: log, cfg: cfg, events: new(events)}, keeper: k, maintenance: maintainConfig(cfg, &cfg.Store)}
	s.inForce.Store(cfg)
	if err := k.observe(t.Context()); err != nil {
		t.Fatal(err)
	}
	job := func(ctx context.Context) (string, error) {
		out, err := s.maintainJob(cfg)(ctx)
		return out.Summary, err
	}
	asked := func(ctx context.Context) (string, error) {
		m, err := s.answerMaintain(ctx, control.Request{Grace: cfg.Maintenance.Grace.String()})
		if err != nil {
			return "", err
		}
		return summarizeMaintain(m), nil
	}
	ahead = 30 * 24 * time.Hour
	for name, run := range map[string]func(context.Context) (string, error){"job": job, "asked": asked} {
		if done, err := run(t.Context()); err == nil || !strings.Contains(hintFor(err), "gateway prune --confirm-clock") {
			t.Errorf("%s: %q, %v", name, done, err)
		}
	}
	if _, err := k.prune(t.Context(), pruneOptions{by: byOperator, confirm: true}); err != nil {
		t.Fatal(err)
	}
	if done, err := job(t.Context()); err != nil || !strings.Contains(done, " 1 B marked;") {
		t.Errorf("after the clock was confirmed: %q, %v", done, err)
	}
	if _, err := asked(t.Context()); err != nil {
		t.Errorf("after the clock was confirmed: %v", err)
	}
}
