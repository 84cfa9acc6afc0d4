package config

import (
	"log/slog"
	"path/filepath"
	"slices"
	"testing"
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
	if sc := cfg.StoreConfig(log, true); sc.CacheDir != dir+"/data/cache" {
		t.Errorf("cache of the default store %q", sc.CacheDir)
	}
}
