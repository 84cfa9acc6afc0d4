package config

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestRetention(t *testing.T) {
	cfg := load(t, "testdata/good/retention.yaml")
	want := []string{
		"all: everything is kept; nothing younger than 7 days is removed",
		"default: kept: the last of each day for 30 days, the newest 3; days are those of Europe/Paris; nothing younger than 7 days is removed",
		"own: kept: the last of each hour for 2 days; days are those of Asia/Tokyo; nothing younger than 1 hour is removed",
		"pulled: kept: the last of each day for 30 days, the newest 3; days are those of America/New_York; nothing younger than 30 days is removed",
	}
	if d := cmp.Diff(want, cfg.Retention.Words()); d != "" {
		t.Errorf("words (-want +got):\n%s", d)
	}
	if got, want := cfg.Retention.Prune.Times.Words(), "daily at 05:00 Europe/Paris"; got != want || cfg.Retention.Prune.Jitter >= 0 {
		t.Errorf("pruned %s, want %s; jitter %v, want none", got, want, cfg.Retention.Prune.Jitter)
	}
	if !cfg.Retention.Removes() || len(cfg.Warnings) > 0 {
		t.Errorf("removes %v, warnings %q", cfg.Retention.Removes(), cfg.Warnings)
	}

	// Without a word about it, everything is kept and nothing is scheduled.
	cfg = load(t, "testdata/good/contract.yaml")
	if r := cfg.Retention; r.Removes() || r.Prune.Times != nil || len(r.Of) > 0 {
		t.Errorf("by default: %+v", r)
	}
}
