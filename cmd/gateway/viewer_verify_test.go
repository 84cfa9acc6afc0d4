package main

import (
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"github.com/snapgate/gateway/cmd/gateway/internal/config"
	"github.com/snapgate/gateway/internal/jobs"
)

// Further stores are told of when they are asked for: those that were read back, and those of which
// that cannot be read.
func TestWebVerification(t *testing.T) {
	scheduler, err := jobs.New(jobs.Config{Dir: t.TempDir(), Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	cfg := &config.Config{DataDir: t.TempDir(), Store: config.Store{Name: config.DefaultStore}}
	cfg.Stores = []config.Store{{Name: "broken"}, {Name: "never"}, {Name: "offsite"}}
	for name, content := range map[string]string{"broken": "{", "offsite": `{"store":"id","files":3}`} {
		dir := scrubDir(cfg, cfg.StoreNamed(name))
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "scrub.json"), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s := &serving{gateway: &gateway{cfg: cfg}, jobs: scheduler}
	s.inForce.Store(cfg)
	if list := s.webVerification(false); len(list) != 1 || list[0].Others {
		t.Errorf("of the store that is served: %+v", list)
	}
	list := s.webVerification(true)
	if len(list) != 3 {
		t.Fatalf("of all: %+v", list)
	}
	if v := list[1]; v.Store != "broken" || !v.Others || v.Err == nil {
		t.Errorf("of one that cannot be read: %+v", v)
	}
	if v := list[2]; v.Store != "offsite" || !v.Others || v.Err != nil || v.State.Files != 3 {
		t.Errorf("of one that was read back: %+v", v)
	}
}
