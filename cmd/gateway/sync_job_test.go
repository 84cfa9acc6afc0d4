package main

import (
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/snapgate/gateway/cmd/gateway/internal/config"
	"github.com/snapgate/gateway/snapshotter"
	"github.com/snapgate/gateway/store"
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
