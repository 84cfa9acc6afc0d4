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
