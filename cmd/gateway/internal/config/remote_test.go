package config

import (
	"errors"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/snapgate/gateway/pull"
	"github.com/snapgate/gateway/vfs"
)

func TestRemotes(t *testing.T) {
	t.Setenv("HOME", "/home/me")
	cfg := load(t, "testdata/good/remotes.yaml")
	dir, err := filepath.Abs("testdata/good")
	if err != nil {
		t.Fatal(err)
	}
	web1, ok := cfg.Source("web1")
	if !ok {
		t.Fatal("no source web1")
	}
	want := Remote{
		Name:          "web1",
		Location:      pull.Location{Scheme: pull.SchemeSFTP, User: "backup", Host: "web1.example.com", Port: 2222, Path: "/srv/www/html"},
		PasswordEnv:   "WEB1_PASSWORD",
		Identities:    []string{dir + "/id_ed25519", "/home/me/.ssh/id_rsa"},
		PrivateKeyEnv: "WEB1_KEY", PassphraseFile: dir + "/passphrase", Agent: "none",
		KnownHosts: dir + "/known_hosts", HostKey: "accept-new", SSHConfig: dir + "/ssh_config", Transport: "native",
		Jump: "ops@bastion:2200", Legacy: true, Connections: 2, Bandwidth: 10 << 20, Timeout: 90 * time.Second,
	}
	if diff := cmp.Diff(want, web1.Remote); diff != "" {
		t.Errorf("web1 (-want +got):\n%s", diff)
	}
	if !web1.Unchanged || !web1.Checksum || !web1.Partial || web1.MaxEntries != 5_000_000 || web1.MaxTime != 8*time.Hour {
		t.Errorf("web1: %+v", web1)
	}
	shown := vfs.ShareConfig{Name: "web1", Source: true, VisibleHistory: true, Aliases: []string{"~snapshot"}}
	all := cfg.AllShares()
	if i := slices.IndexFunc(all, func(s vfs.ShareConfig) bool { return s.Name == "web1" }); i < 0 {
		t.Errorf("no share of web1 in %+v", all)
	} else if diff := cmp.Diff(shown, all[i]); diff != "" || len(all) != 1+len(cfg.Sources) {
		t.Errorf("share of web1 (-want +got):\n%s\n%d shares", diff, len(all))
	}
	for path, excluded := range map[string]bool{"/a.tmp": true, "/cache": true, "/b/cache": false, "/x.o": true, "/keep.o": false} {
		if got := web1.Exclude.Match(path, true); got != excluded {
			t.Errorf("%s is excluded: %v, want %v", path, got, excluded)
		}
	}
	next := web1.Schedule.Times.Next(time.Date(2026, 7, 1, 12, 0, 0, 0, time.UTC))
	if want := time.Date(2026, 7, 2, 0, 0, 0, 0, time.UTC); !next.Equal(want) { // 2:00 in Paris
		t.Errorf("due at %v, want %v", next, want)
	}
	if got, want := web1.Schedule.Jitter, 10*time.Minute; got != want {
		t.Errorf("jitter %v, want %v", got, want)
	}
	if s, _ := cfg.Source("path"); s.Schedule.Times.String() != "@hourly UTC" || s.Schedule.Jitter >= 0 {
		t.Errorf("path: %v with jitter %v, want none", s.Schedule.Times, s.Schedule.Jitter)
	}
	if alias, _ := cfg.Source("alias"); !alias.Location.Alias || !alias.Location.Home || alias.Schedule.Times != nil || alias.Exclude != nil {
		t.Errorf("alias: %+v", alias)
	}
	for name, want := range map[string]string{
		"local": "fs://" + dir + "/tree", "path": "fs://" + dir + "/tree", "hosting": "ftp://u@ftp.example.com/",
		"legacy": "ftp://anonymous@ftp.example.com/pub/linux", "old": "ftps://ftp.example.com/", "odd": "ftps://ftp.example.com:1990/",
	} {
		if s, _ := cfg.Source(name); s.Location.String() != want {
			t.Errorf("%s is at %s, want %s", name, s.Location, want)
		}
	}
	for name, want := range map[string]TLSMode{"hosting": TLSExplicit, "legacy": TLSOff, "old": TLSImplicit, "odd": TLSImplicit} {
		if s, _ := cfg.Source(name); s.TLS != want {
			t.Errorf("%s has TLS mode %v, want %v", name, s.TLS, want)
		}
	}
	if d, ok := cfg.Destination("dr1"); !ok || d.TLS != TLSImplicit || d.PasswordEnv != "DR1" {
		t.Errorf("dr1: %+v", d)
	}
	warned := []string{
		"destinations.dr2: insecure_ignore_host_key: whoever is between here and the server can read and change what is sent, and gets the password",
		"sources.legacy: tls: off: password and files cross the network in plain text",
		"sources.local.jitter has no effect without schedule",
		"sources.odd: tls_insecure_no_verify: whoever is between here and the server can read and change what is sent, and gets the password",
	}
	if diff := cmp.Diff(warned, cfg.Warnings); diff != "" {
		t.Errorf("warnings (-want +got):\n%s", diff)
	}
}

func TestAdHoc(t *testing.T) {
	s, warnings, err := AdHoc("/work", map[string]any{
		"location": "sftp://h/b", "identity": []string{"key", "/etc/key"}, "port": 22, "exclude": []string{"*.o"},
		"insecure_ignore_host_key": true, "timeout": "5s",
	})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"/work/key", "/etc/key"}, s.Identities); diff != "" || s.Location.Port != 22 || !s.Exclude.Match("/x.o", false) {
		t.Errorf("identities (-want +got):\n%s\n%+v", diff, s)
	}
	if len(warnings) != 1 || !strings.HasPrefix(warnings[0], "command line: insecure_ignore_host_key") {
		t.Errorf("warnings: %q", warnings)
	}
	_, _, err = AdHoc("/work", map[string]any{"location": "sftp://u:secret@h/b", "host_key": "strict"})
	var list Errors
	if !errors.As(err, &list) || strings.Contains(err.Error(), "secret") ||
		err.Error() != "command line: location: invalid location: a password does not belong in a location" {
		t.Errorf("got %v", err)
	}
	if _, _, err := AdHoc("/work", map[string]any{"location": "fs:///\xff"}); err == nil {
		t.Error("a byte that JSON cannot carry is taken")
	}
}

func TestPrivateKey(t *testing.T) {
	t.Setenv("GATEWAY_TEST_KEY", "the key")
	t.Setenv("GATEWAY_TEST_EMPTY", "")
	if key, err := (&Remote{PrivateKeyEnv: "GATEWAY_TEST_KEY"}).PrivateKey(); string(key) != "the key" || err != nil {
		t.Errorf("got %q, %v", key, err)
	}
	if _, err := (&Remote{PrivateKeyEnv: "GATEWAY_TEST_EMPTY"}).PrivateKey(); err == nil {
		t.Error("an empty variable is a key")
	}
	if key, err := (&Remote{}).PrivateKey(); key != nil || err != nil {
		t.Errorf("got %q, %v without one", key, err)
	}
}
