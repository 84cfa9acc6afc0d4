package config

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/snapgate/gateway/cmd/gateway/internal/watch"
)

// What a share or source says goes before what is said for all, and that before the defaults.
func TestExpect(t *testing.T) {
	got := load(t, "testdata/good/expect.yaml").Expect
	want := Expect{SpoolFull: 0.7, StoreFree: 100 << 30, Of: map[string]watch.Expect{
		"a": {Every: 26 * time.Hour, MinSize: 10 << 20, MaxShrink: 0.5, MaxDeletion: 0.3},
		"b": {Every: 26 * time.Hour, MaxDeletion: 0.3, MaxOverwrite: 0.5},
		"c": {Every: 48 * time.Hour, MaxOverwrite: 0.5},
	}}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("expect (-want +got):\n%s", d)
	}
	if !got.HasTimes() {
		t.Error("no times")
	}
	plain := load(t, "testdata/good/hooks.yaml").Expect
	if d := cmp.Diff(watch.Expect{MaxDeletion: 0.5, MaxOverwrite: 0.5}, plain.Of["a"]); d != "" || plain.SpoolFull != 0.8 || plain.HasTimes() {
		t.Errorf("defaults (-want +got):\n%s%+v", d, plain)
	}
}

func TestHooks(t *testing.T) {
	t.Setenv("HOOK_SECRET", "")
	cfg := load(t, "testdata/good/hooks.yaml")
	web, ok := cfg.HookNamed("web")
	if _, err := web.Secret(); !ok || err == nil {
		t.Errorf("an empty secret: %v", err)
	}
	t.Setenv("HOOK_SECRET", "hush")
	if got, err := web.Secret(); string(got) != "hush" || err != nil {
		t.Errorf("secret %q, %v", got, err)
	}
	here, _ := cfg.HookNamed("here")
	if _, err := here.Secret(); err == nil {
		t.Error("a secret that is missing")
	}
	mail, _ := cfg.HookNamed("mail")
	if got, err := mail.Secret(); got != nil || err != nil {
		t.Errorf("secret %q, %v", got, err)
	}
	if mail.Timeout != time.Minute || mail.GiveUp != 24*time.Hour || len(mail.Command) != 2 {
		t.Errorf("mail is %+v", mail)
	}
	if _, ok := cfg.HookNamed("none"); ok {
		t.Error("there is a hook none")
	}
}
