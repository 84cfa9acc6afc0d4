package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/snapgate/gateway/cmd/gateway/internal/config"
	"github.com/snapgate/gateway/snapshotter"
	"github.com/snapgate/gateway/store"
	"github.com/snapgate/gateway/store/storetest"
	"github.com/snapgate/gateway/vfs"
)

// A job that has met copies that cannot be read has failed, and one that has met a damaged source has not: that has an alarm of
// its own.
func TestSyncJobNotRead(t *testing.T) {
	job := &config.Sync{From: "default", To: "offsite"}
	var s snapshotter.Snapshot
	l := &syncLog{log: slog.New(slog.DiscardHandler)}
	l.copied(s, fmt.Errorf("x: %w", snapshotter.ErrSourceDamaged))
	if err := l.unreadable(job); err != nil {
		t.Errorf("damage of the source: %v", err)
	}
	l.checked(s, fmt.Errorf("x: %w", snapshotter.ErrNotRead))
	l.copied(s, fmt.Errorf("x: %w", snapshotter.ErrNotRead))
	err := l.unreadable(job)
	if want := "sync: 2 copies in offsite cannot be read back"; err == nil || err.Error() != want || worthRetrying(err) {
		t.Errorf("got %v, want %s, and no retry", err, want)
	}
}

// What is to be tried is said of the store that the error is of.
func TestCopyErrorHint(t *testing.T) {
	from, to := &config.Store{Name: config.DefaultStore}, &config.Store{Name: "offsite"}
	for _, tt := range []struct {
		err  error
		want string
	}{
		{fmt.Errorf("source: %w", store.ErrServer), "is the server of store.location up"},
		{fmt.Errorf("copy: %w", &snapshotter.TargetError{Err: store.ErrServer}), "is the server of stores.offsite.location up"},
	} {
		err := copyError(from, to, tt.err)
		if got := hintFor(err); !strings.HasPrefix(got, tt.want) || !errors.Is(err, store.ErrServer) {
			t.Errorf("%v: %q, want %q", err, got, tt.want)
		}
	}
}

// That it cannot be told how full a target is, is an error of the target.
func TestSyncGuardHint(t *testing.T) {
	st := storetest.New(t)
	from, to := openSnapshots(t, storetest.New(t)), openSnapshots(t, st)
	twoSnapshots(t, from)
	run := &syncRun{
		cfg: &config.Config{DataDir: t.TempDir()}, job: config.Sync{From: config.DefaultStore, To: "offsite"},
		log: slog.New(slog.DiscardHandler), from: from,
	}
	source, target := &config.Store{Name: run.job.From}, &config.Store{Name: run.job.To}
	bound := boundOf(run.cfg, target, st)
	bound.limit.Store(1)
	bound.size = func(context.Context) (int64, error) { return 0, store.ErrServer }
	err := run.copy(t.Context(), to, bound, &syncLog{log: run.log})
	if hint, want := hintFor(copyError(source, target, err)), "is the server of stores.offsite.location up"; !strings.HasPrefix(hint, want) {
		t.Errorf("%v: %q, want %q", err, hint, want)
	}
}

// The newest snapshot of a source that is not in the configuration is the last of its own line, whatever the clocks showed.
func TestSyncNewestOfASource(t *testing.T) {
	dir := t.TempDir()
	lineage, err := vfs.SourceLineage(dir, "web")
	if err != nil {
		t.Fatal(err)
	}
	from := openSnapshots(t, storetest.New(t))
	first := webSnapshot(t, from, lineage, 1, time.Unix(2, 0), snapshotter.ID{})
	last := webSnapshot(t, from, lineage, 2, time.Unix(1, 0), first)
	run := &syncRun{cfg: &config.Config{DataDir: dir}, refs: []string{"web@latest"}, from: from}
	want, single, err := run.wanted(t.Context())
	if err != nil || !single || want(snapshotter.Snapshot{ID: first}) || !want(snapshotter.Snapshot{ID: last}) {
		t.Errorf("%v, single %v: it is not the last that is copied", err, single)
	}
}

// webSnapshot makes an empty snapshot of a source.
func webSnapshot(t *testing.T, snaps *snapshotter.Snapshotter, of snapshotter.Lineage, n uint64, at time.Time, base snapshotter.ID) snapshotter.ID {
	t.Helper()
	m := snapshotter.Meta{Share: "web", ShareID: of.ShareID, GatewayID: of.GatewayID, Sequence: n, Parent: base, Time: at, Reason: "pull"}
	dir := snapshotter.Change{Path: "/", Kind: snapshotter.Dir, Attr: snapshotter.Attr{Mode: 0o755, ModTime: at}, Version: n}
	id, err := snaps.Commit(t.Context(), base, func(yield func(snapshotter.Change, error) bool) { yield(dir, nil) }, m)
	if err != nil {
		t.Fatal(err)
	}
	return id
}
