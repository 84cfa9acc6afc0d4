package main

import (
	"fmt"
	"log/slog"
	"testing"

	"github.com/snapgate/gateway/cmd/gateway/internal/config"
	"github.com/snapgate/gateway/snapshotter"
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
