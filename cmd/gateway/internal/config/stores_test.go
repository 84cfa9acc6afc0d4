package config

import (
	"log/slog"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestStores(t *testing.T) {
	cfg := load(t, "testdata/good/stores.yaml")
	dir, err := filepath.Abs("testdata/good")
	if err != nil {
		t.Fatal(err)
	}
	if got, want := cfg.StoreNames(), []string{"default", "offsite", "usb"}; !slices.Equal(got, want) {
		t.Errorf("stores %q, want %q", got, want)
	}
	if st := cfg.StoreNamed("default"); st != &cfg.Store {
		t.Errorf("the default store is %+v", st)
	}
	log := slog.New(slog.DiscardHandler)
	off := cfg.StoreConfigOf(cfg.StoreNamed("offsite"), log, true)
	if off.CacheDir != dir+"/data/stores/offsite/cache" || off.KeepDir != dir+"/data" || !off.Create || off.Passphrase == nil {
		t.Errorf("what the store offsite gets: %+v", off)
	}
	if s := off.SFTP; s.PassphraseEnv != "KEY" || !s.Legacy || !slices.Equal(s.IdentityFiles, []string{dir + "/id_ed25519"}) {
		t.Errorf("what its SSH client gets: %+v", s)
	}
	usb := cfg.StoreConfigOf(cfg.StoreNamed("usb"), log, true)
	if usb.Location != "fs:///media/usb/store" || usb.Create || usb.CacheDir == off.CacheDir {
		t.Errorf("what the store usb gets: %+v", usb)
	}
	if off, usb := cfg.StoreNamed("offsite").Limit, cfg.StoreNamed("usb").Limit; off != 0 || usb != 2<<40 {
		t.Errorf("limits %d and %d, want none and 2 TiB", off, usb)
	}
	if sc := cfg.StoreConfig(log, true); sc.CacheDir != dir+"/data/cache" {
		t.Errorf("cache of the default store %q", sc.CacheDir)
	}
}

// What is done for a further store is its own setting; what it does not say is as for the shares.
func TestUpkeep(t *testing.T) {
	cfg := load(t, "testdata/good/stores.yaml")
	u := &cfg.StoreNamed("offsite").Upkeep
	for name, want := range map[string]string{
		"main": "kept: the last of each month for 5 years; days are those of Europe/Paris; nothing younger than 90 days is removed",
		"web1": "kept: the last of each month for 5 years; days are those of Europe/Paris; nothing younger than 90 days is removed",
	} {
		p := u.Retention.Of[name]
		if got := p.Words(); got != want {
			t.Errorf("of %s is kept %q, want %q", name, got, want)
		}
	}
	if p := cfg.Retention.Of["main"]; p.Lock != 7*24*time.Hour || !p.KeepsAll() {
		t.Errorf("the policy of main itself is now %s", p.Words())
	}
	from := time.Date(2026, 7, 1, 12, 0, 0, 0, time.UTC)
	for what, next := range map[string]time.Time{
		"2026-07-02T04:00:00Z": u.Retention.Prune.Times.Next(from), // 6:00 in Paris
		"2026-07-05T07:00:00Z": u.Maintenance.Schedule.Times.Next(from),
		"2026-07-02T01:10:00Z": u.Verify.Schedule.Times.Next(from),
	} {
		if got := next.UTC().Format(time.RFC3339); got != what {
			t.Errorf("due at %s, want %s", got, what)
		}
	}
	if u.Maintenance.Grace != 14*24*time.Hour || u.Verify.Every != 90*24*time.Hour || u.Verify.Bandwidth != 8<<20 {
		t.Errorf("grace %v, every %v, %d bytes a second", u.Maintenance.Grace, u.Verify.Every, u.Verify.Bandwidth)
	}
	usb := &cfg.StoreNamed("usb").Upkeep
	if usb.Retention.Prune.Times != nil || usb.Maintenance.Schedule.Times != nil || usb.Verify.Schedule.Times != nil {
		t.Errorf("a store without these sections has jobs: %+v", usb)
	}
	if usb.Maintenance.Grace != cfg.Maintenance.Grace || usb.Verify.Every != cfg.Verify.Every {
		t.Errorf("by hand the store is maintained with %v and read in %v", usb.Maintenance.Grace, usb.Verify.Every)
	}
}

func TestSyncJobs(t *testing.T) {
	cfg := load(t, "testdata/good/stores.yaml")
	nightly := cfg.SyncNamed("nightly")
	if nightly == nil || nightly.From != "default" || nightly.To != "offsite" || !nightly.Verify || nightly.Shares != nil {
		t.Fatalf("nightly is %+v", nightly)
	}
	got := nightly.Schedule.Times.Next(time.Date(2026, 7, 1, 12, 0, 0, 0, time.UTC))
	if want := time.Date(2026, 7, 2, 1, 0, 0, 0, time.UTC); !got.Equal(want) {
		t.Errorf("nightly is due at %v, want %v", got, want)
	}
	again := cfg.SyncNamed("again")
	if again == nil || again.Schedule.Times != nil {
		t.Fatalf("again is %+v, want a job without a time", again)
	}
	if diff := cmp.Diff([]string{"main", "web1"}, again.Shares); diff != "" {
		t.Errorf("shares (-want +got):\n%s", diff)
	}
	if cfg.SyncNamed("other") != nil {
		t.Error("there is a job that nobody configured")
	}
}
