package config

import (
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/snapgate/gateway/ftpsrv"
	"github.com/snapgate/gateway/store"
	"github.com/snapgate/gateway/vfs"
)

var update = flag.Bool("update", false, "rewrite the expected texts of testdata/bad")

// TestBad loads every file of testdata/bad and compares what is said about it.
func TestBad(t *testing.T) {
	files, err := filepath.Glob("testdata/bad/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("no files: %v", err)
	}
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".yaml")
		t.Run(name, func(t *testing.T) {
			cfg, err := Load(file)
			var list Errors
			if cfg != nil || !errors.As(err, &list) {
				t.Fatalf("got %v and error %v, want Errors", cfg, err)
			}
			wd, err := os.Getwd()
			if err != nil {
				t.Fatal(err)
			}
			var b strings.Builder
			for _, e := range list {
				b.WriteString(strings.ReplaceAll(e.Error(), wd+"/", "") + "\n")
				if e.Hint != "" {
					b.WriteString("  hint: " + e.Hint + "\n")
				}
			}
			want := strings.TrimSuffix(file, ".yaml") + ".txt"
			if *update {
				if err := os.WriteFile(want, []byte(b.String()), 0o644); err != nil { //nolint:gosec // a test's fixture
					t.Fatal(err)
				}
			}
			text, err := os.ReadFile(want)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(text), b.String()); diff != "" {
				t.Errorf("what is said (-want +got):\n%s", diff)
			}
		})
	}
}

func load(tb testing.TB, name string) *Config {
	tb.Helper()
	cfg, err := Load(name)
	if err != nil {
		tb.Fatal(err)
	}
	return cfg
}

func TestContract(t *testing.T) {
	cfg := load(t, "testdata/good/contract.yaml")
	dir, err := filepath.Abs("testdata/good")
	if err != nil {
		t.Fatal(err)
	}
	if got, want := cfg.DataDir, dir+"/data"; got != want {
		t.Errorf("data_dir %q, want %q", got, want)
	}
	if got, want := cfg.Store.Location, "fs://"+dir+"/data/store"; got != want {
		t.Errorf("location %q, want %q", got, want)
	}
	if got, want := cfg.Store.PassphraseFile, dir+"/pass"; got != want {
		t.Errorf("passphrase_file %q, want %q", got, want)
	}
	if cfg.Store.Create {
		t.Error("a store would be created unasked")
	}
	wantShares := []vfs.ShareConfig{
		{Name: "batch", When: vfs.WhenBatch, SessionGrace: time.Second, Quiet: 2 * time.Second, MaxDelay: 30 * time.Second},
		{Name: "main", When: vfs.WhenClose},
	}
	if diff := cmp.Diff(wantShares, cfg.Shares); diff != "" {
		t.Errorf("shares (-want +got):\n%s", diff)
	}
	alice, drop := cfg.Users[0], cfg.Users[1]
	if alice.Name != "alice" || len(alice.Keys) != 1 || alice.Hash.IsZero() || alice.Principal.Perms != vfs.PermFull {
		t.Errorf("alice is %+v", alice)
	}
	if drop.Principal.Perms != vfs.PermUploadOnly || drop.Permissions != "list,create,mkdir" {
		t.Errorf("drop may %v (%s)", drop.Principal.Perms, drop.Permissions)
	}
	m := drop.Principal.Mounts
	if len(m) != 1 || m[0].At != vfs.Root() || m[0].Share != "main" || m[0].Root.String() != "/in" {
		t.Errorf("drop sees %v", m)
	}
	if len(cfg.Warnings) > 0 {
		t.Errorf("warnings: %q", cfg.Warnings)
	}
}

func TestEverything(t *testing.T) {
	t.Setenv("HOME", "/home/me")
	cfg := load(t, "testdata/good/everything.yaml")
	dir, err := filepath.Abs("testdata/good")
	if err != nil {
		t.Fatal(err)
	}
	if got, want := cfg.Store.Location, "fs:///home/me/store"; got != want {
		t.Errorf("location %q, want %q", got, want)
	}
	wantSFTP := &SFTP{
		Listen: ":2022", HostKeys: []string{dir + "/keys/ed25519", "/etc/ssh/host_rsa"},
		IdleTimeout: time.Hour, Keepalive: 15 * time.Second, ChaCha20: true, Banner: "Authorised use only.\n",
		LegacyFrom: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("2001:db8::/32")},
	}
	if diff := cmp.Diff(wantSFTP, cfg.SFTP, cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); diff != "" {
		t.Errorf("sftp (-want +got):\n%s", diff)
	}
	wantLimits := Limits{
		Spool: 10 << 30, Store: 2 << 40, Reserve: 1e9, Changes: 2000, Inline: 4096, OpenHandles: 500, SessionHandles: 50, Connections: 100,
		ConnectionsPerAddr: 10, ConnectionsPerUser: 11, Handshakes: 12, HandshakesPerAddr: 13, LoginTries: 3, ChannelsPerConn: 4, ChannelsPerUser: 40, TransferMemory: 64 << 20, UserTransferMemory: 8 << 20,
		HandshakeTimeout: 10 * time.Second, PasswordChecks: 1,
	}
	if diff := cmp.Diff(wantLimits, cfg.Limits); diff != "" {
		t.Errorf("limits (-want +got):\n%s", diff)
	}
	if cfg.Log != (Log{Level: slog.LevelDebug, JSON: true}) {
		t.Errorf("log is %+v", cfg.Log)
	}
	nightly := cfg.Shares[1]
	if nightly.Name != "nightly" || nightly.TempNames == nil || len(nightly.TempNames) > 0 ||
		nightly.PartialMaxAge != 72*time.Hour || nightly.Versions != vfs.VersionsLast || len(nightly.Aliases) != 4 {
		t.Errorf("nightly is %+v", nightly)
	}
	got := nightly.Next(time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)) // a Friday
	if want := time.Date(2026, 11, 23, 1, 30, 0, 0, time.UTC); !got.Equal(want) {
		t.Errorf("next is %v, want %v", got, want)
	}
	var names []string
	for _, u := range cfg.Users {
		names = append(names, u.Name)
	}
	if diff := cmp.Diff([]string{"1234", "both", "keys", "r@x"}, names); diff != "" {
		t.Errorf("users (-want +got):\n%s", diff)
	}
	if m := cfg.Users[1].Principal.Mounts; len(m) != 2 || m[0].At.String() != "/night" || m[1].Share != "hand" {
		t.Errorf("both sees %v", m)
	}
}

func TestInclude(t *testing.T) {
	cfg := load(t, "testdata/good/include.yaml")
	if len(cfg.Files) != 4 || len(cfg.Shares) != 2 || len(cfg.Users) != 2 {
		t.Errorf("got %d files, %d shares, %d users; want 4, 2, 2", len(cfg.Files), len(cfg.Shares), len(cfg.Users))
	}
}

// Timing settings that the chosen way of committing ignores are said, not refused.
func TestIgnoredTiming(t *testing.T) {
	want := []string{
		"shares.a.snapshot.session_grace has no effect with when: close",
		"shares.b.snapshot.quiet has no effect with when: manual",
		"shares.c.snapshot.max_delay has no effect with when: session",
		"shares.e.snapshot.time_zone has no effect with when: batch",
	}
	if diff := cmp.Diff(want, load(t, "testdata/good/ignored-timing.yaml").Warnings); diff != "" {
		t.Errorf("warnings (-want +got):\n%s", diff)
	}
}

// The example that is shipped must be good, and show no key that is not there.
func TestExample(t *testing.T) {
	cfg := load(t, "../../../../config.example.yaml")
	if len(cfg.Users) == 0 || len(cfg.Shares) == 0 || cfg.SFTP == nil {
		t.Error("the example shows no user, share or port")
	}
}

func TestMissingFile(t *testing.T) {
	_, err := Load("testdata/nowhere.yaml")
	if !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v, want %v", err, fs.ErrNotExist)
	}
	_, err = Load("testdata")
	var path *fs.PathError
	if !errors.As(err, &path) {
		t.Errorf("a directory: got %v, want a path error", err)
	}
}

func TestModes(t *testing.T) {
	tests := []struct {
		name           string
		config, secret fs.FileMode
		err, warning   string
	}{
		{"private", 0o600, 0o600, "", ""},
		{"usual umask", 0o644, 0o600, "", ""},
		{"readable secret", 0o600, 0o644, "", "can be read by others"},
		{"writable secret", 0o600, 0o666, "anybody may write", ""},
		{"writable configuration", 0o666, 0o600, "anybody may write", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			write := func(name, text string, mode fs.FileMode) {
				if err := os.WriteFile(filepath.Join(dir, name), []byte(text), mode); err != nil {
					t.Fatal(err)
				}
				if err := os.Chmod(filepath.Join(dir, name), mode); err != nil {
					t.Fatal(err)
				}
			}
			write("pass", "secret\n", tt.secret)
			write("config.yaml", "version: 1\ndata_dir: d\nstore: { passphrase_file: pass }\n", tt.config)
			cfg, err := Load(filepath.Join(dir, "config.yaml"))
			if tt.err != "" {
				if err == nil || !strings.Contains(err.Error(), tt.err) {
					t.Fatalf("got %v, want an error with %q", err, tt.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got := strings.Join(cfg.Warnings, "\n"); !strings.Contains(got, tt.warning) || (got == "") != (tt.warning == "") {
				t.Errorf("warnings %q, want %q", got, tt.warning)
			}
		})
	}
}

func TestPassphrase(t *testing.T) {
	file := func(text string) Store {
		name := filepath.Join(t.TempDir(), "pass")
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return Store{PassphraseFile: name}
	}
	t.Setenv("GATEWAY_TEST_SECRET", "from env\n")
	tests := []struct {
		name      string
		store     Store
		want, err string
	}{
		{"file", file("secret"), "secret", ""},
		{"file with newline", file("secret\n"), "secret", ""},
		{"only one newline", file("secret\n\n"), "secret\n", ""},
		{"spaces stay", file(" a b \n"), " a b ", ""},
		{"empty file", file("\n"), "", "is empty"},
		{"missing file", Store{PassphraseFile: "/nowhere/pass"}, "", "no such file"},
		{"variable", Store{PassphraseEnv: "GATEWAY_TEST_SECRET"}, "from env\n", ""},
		{"missing variable", Store{PassphraseEnv: "GATEWAY_TEST_NOTHING"}, "", "is not set"},
		{"command", Store{PassphraseCommand: []string{"printf", `a b\n`}}, "a b", ""},
		{"no shell", Store{PassphraseCommand: []string{"echo", "$HOME"}}, "$HOME", ""},
		{"command fails", Store{PassphraseCommand: []string{"false"}}, "", "passphrase_command false"},
		{"command missing", Store{PassphraseCommand: []string{"/nowhere/x"}}, "", "passphrase_command /nowhere/x"},
		{"command is silent", Store{PassphraseCommand: []string{"true"}}, "", "the output of true is empty"},
		{"plaintext", Store{Plaintext: true}, "", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := tt.store.Passphrase(t.Context())
			if tt.err != "" {
				if err == nil || !strings.Contains(err.Error(), tt.err) || !errors.Is(err, ErrPassphrase) {
					t.Fatalf("got %v, want ErrPassphrase with %q", err, tt.err)
				}
				return
			}
			if err != nil || string(got) != tt.want {
				t.Fatalf("got %q and %v, want %q", got, err, tt.want)
			}
		})
	}
}

func FuzzLoad(f *testing.F) {
	for _, pattern := range []string{"testdata/good/*.yaml", "testdata/bad/*.yaml"} {
		files, err := filepath.Glob(pattern)
		if err != nil {
			f.Fatal(err)
		}
		for _, name := range files {
			data, err := os.ReadFile(name)
			if err != nil {
				f.Fatal(err)
			}
			f.Add(data)
		}
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		name := filepath.Join(t.TempDir(), "config.yaml")
		if err := os.WriteFile(name, data, 0o600); err != nil {
			t.Fatal(err)
		}
		cfg, err := Load(name)
		if (cfg == nil) != (err != nil) {
			t.Fatalf("got %v and error %v", cfg, err)
		}
		if err != nil && err.Error() == "" {
			t.Fatal("an error without text")
		}
	})
}

func TestFTP(t *testing.T) {
	cfg := load(t, "testdata/good/ftp.yaml")
	dir, err := filepath.Abs("testdata/good")
	if err != nil {
		t.Fatal(err)
	}
	want := &FTP{
		Listen: ":21", ImplicitListen: ":990", PassivePorts: ftpsrv.PortRange{First: 50000, Last: 50099},
		PublicIP: "gateway.example", NoActive: true, ForeignData: true, Greeting: "hello",
		IdleTimeout: 2 * time.Minute, DataTimeout: 45 * time.Second, CloseGrace: 100 * time.Millisecond,
		TLS: TLS{Mode: TLSBoth, Certificate: dir + "/ftp.crt", Key: dir + "/ftp.key", ClientCA: dir + "/ca.crt"},
	}
	if diff := cmp.Diff(want, cfg.FTP); diff != "" {
		t.Errorf("ftp (-want +got):\n%s", diff)
	}
	if len(cfg.Warnings) != 1 || !strings.Contains(cfg.Warnings[0], "plain text") {
		t.Errorf("warnings %q, want one of plain text", cfg.Warnings)
	}
}

func TestHTTP(t *testing.T) {
	cfg := load(t, "testdata/good/http.yaml")
	dir, err := filepath.Abs("testdata/good")
	if err != nil {
		t.Fatal(err)
	}
	want := &HTTP{
		Listen: ":8022", Metrics: true, Hosts: []string{"gateway.example.com"}, Viewer: true, Operators: []string{"ops"},
		TrustedProxies: []netip.Prefix{
			netip.MustParsePrefix("127.0.0.1/32"), netip.MustParsePrefix("10.0.0.0/24"), netip.MustParsePrefix("2001:db8::/64"),
		},
		TLS: TLS{Mode: TLSImplicit, Certificate: dir + "/http.crt", Key: dir + "/http.key", ClientCA: dir + "/clients.crt"},
	}
	if diff := cmp.Diff(want, cfg.HTTP, cmpopts.EquateComparable(netip.Prefix{})); diff != "" {
		t.Errorf("http (-want +got):\n%s", diff)
	}
	if got, want := cfg.Audit.File, dir+"/audit.log"; got != want {
		t.Errorf("audit file %q, want %q", got, want)
	}
	if len(cfg.Warnings) > 0 {
		t.Errorf("warnings: %q", cfg.Warnings)
	}
}

// A server that only this machine reaches and that has a name is behind a proxy.
func TestHTTPProxy(t *testing.T) {
	for more, want := range map[string]string{
		"": "", "hosts: [gateway.example.com]": "lock everybody out", "hosts: [localhost]": "", "hosts: [gateway.example.com], viewer: false": "",
		"hosts: [gateway.example.com], trusted_proxies: [127.0.0.1]": "",
	} {
		file := filepath.Join(t.TempDir(), "config.yaml")
		text := fmt.Sprintf("version: 1\ndata_dir: d\nstore: { plaintext: true }\nhttp: { listen: \"127.0.0.1:8022\", %s }\n", more)
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		cfg := load(t, file)
		if got := strings.Join(cfg.Warnings, "\n"); (want == "") != (got == "") || !strings.Contains(got, want) {
			t.Errorf("%s: warnings %q, want %q", more, got, want)
		}
	}
}

// Other machines are served without encryption only when that is asked for, and then with a
// warning.
func TestHTTPPlain(t *testing.T) {
	for _, tt := range []struct {
		listen, more string
		err, warning string
	}{
		{"127.0.0.1:8022", "", "", ""},
		{"127.9.9.9:8022", "", "", ""},
		{"[::1]:8022", "", "", ""},
		{"[::ffff:127.0.0.1]:8022", "", "", ""},
		{"localhost:8022", "", "", ""},
		{":8022", "", "open to other machines", ""},
		{"0.0.0.0:8022", "", "open to other machines", ""},
		{"[::]:8022", "", "open to other machines", ""},
		{"gateway.example.com:8022", "", "open to other machines", ""},
		{"localhost.example.com:8022", "", "open to other machines", ""},
		{":8022", ", insecure_no_tls: true", "", "the viewer is off"},
		{":8022", ", insecure_no_tls: true, viewer: false", "", "without encryption"},
		{":8022", ", insecure_no_tls: true, viewer: true", "passwords would go over the network as they are", ""},
		{"127.0.0.1:8022", ", operators: [alice]", "no user", ""},
	} {
		file := filepath.Join(t.TempDir(), "config.yaml")
		text := fmt.Sprintf("version: 1\ndata_dir: d\nstore: { plaintext: true }\nhttp: { listen: %q%s }\n", tt.listen, tt.more)
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		cfg, err := Load(file)
		switch {
		case tt.err != "" && (err == nil || !strings.Contains(err.Error(), tt.err)),
			tt.err == "" && err != nil:
			t.Errorf("%s: got error %v, want %q", tt.listen, err, tt.err)
		case err == nil && cfg.HTTP.Viewer != (tt.warning == ""):
			t.Errorf("%s%s: viewer %t", tt.listen, tt.more, cfg.HTTP.Viewer)
		case err == nil && (len(cfg.Warnings) > 0) != (tt.warning != ""),
			tt.warning != "" && !strings.Contains(cfg.Warnings[0], tt.warning):
			t.Errorf("%s: warnings %q, want %q", tt.listen, cfg.Warnings, tt.warning)
		}
	}
}

func TestS3(t *testing.T) {
	cfg := load(t, "testdata/good/s3.yaml")
	dir, err := filepath.Abs("testdata/good")
	if err != nil {
		t.Fatal(err)
	}
	if got, want := cfg.Store.Location, "s3://s3.example.com:9000/bucket/some/prefix"; got != want || cfg.Store.Path != "" {
		t.Errorf("location %q, want %q; path %q", got, want, cfg.Store.Path)
	}
	never := false
	want := &S3{
		AccessKey: "AKIDEXAMPLE", SecretKeyFile: dir + "/secret", Region: "eu-west-3", StorageClass: "STANDARD_IA",
		VirtualHost: &never, Insecure: true, CAFile: dir + "/ca.pem", Timeout: time.Minute, Retries: 7,
	}
	if diff := cmp.Diff(want, cfg.Store.S3); diff != "" {
		t.Errorf("s3 (-want +got):\n%s", diff)
	}
	if len(cfg.Warnings) != 1 || !strings.Contains(cfg.Warnings[0], "tls_insecure_no_verify") {
		t.Errorf("warnings: %q", cfg.Warnings)
	}
	if sc := cfg.StoreConfig(slog.New(slog.DiscardHandler), false); sc.S3.AccessKey != want.AccessKey || sc.S3.SecretKey == nil {
		t.Errorf("what the store gets: %+v", sc.S3)
	}
}

func TestSFTPStore(t *testing.T) {
	cfg := load(t, "testdata/good/sftpstore.yaml")
	dir, err := filepath.Abs("testdata/good")
	if err != nil {
		t.Fatal(err)
	}
	if got, want := cfg.Store.Location, "sftp://backup@nas.example.com:2222/srv/store"; got != want || cfg.Store.Path != "" {
		t.Errorf("location %q, want %q; path %q", got, want, cfg.Store.Path)
	}
	want := &SFTPStore{
		IdentityFiles: []string{dir + "/id_ed25519", "/etc/gateway/id_rsa"}, PasswordFile: dir + "/password",
		KnownHosts: dir + "/known_hosts", HostKey: "accept-new", ConfigFile: dir + "/ssh_config", Transport: "native",
		Timeout: time.Minute, Connections: 2,
	}
	if diff := cmp.Diff(want, cfg.Store.SFTP); diff != "" || cfg.Store.S3 != nil || len(cfg.Warnings) != 0 {
		t.Errorf("sftp (-want +got):\n%s\nwarnings: %q", diff, cfg.Warnings)
	}
	sc := cfg.StoreConfig(slog.New(slog.DiscardHandler), false).SFTP
	got := store.SFTP{
		IdentityFiles: want.IdentityFiles, PasswordFile: want.PasswordFile, KnownHosts: want.KnownHosts, HostKey: "accept-new",
		ConfigFile: want.ConfigFile, Transport: "native", Timeout: time.Minute, Connections: 2,
	}
	if diff := cmp.Diff(got, sc); diff != "" {
		t.Errorf("what the store gets (-want +got):\n%s", diff)
	}
	cfg = load(t, "testdata/good/sftpinsecure.yaml")
	if len(cfg.Warnings) != 1 || !strings.Contains(cfg.Warnings[0], "insecure_ignore_host_key") {
		t.Errorf("warnings: %q", cfg.Warnings)
	}
	if got := cfg.StoreConfig(slog.New(slog.DiscardHandler), false).SFTP.HostKey; got != "insecure" {
		t.Errorf("host key policy %q", got)
	}
}

func TestSecretKey(t *testing.T) {
	file := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(file, []byte("from a file\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("GATEWAY_TEST_SECRET", "from the environment")
	t.Setenv("GATEWAY_TEST_EMPTY", "")
	for _, tt := range []struct {
		s3   S3
		want string // "": ErrSecretKey
	}{
		{S3{SecretKeyFile: file}, "from a file"},
		{S3{SecretKeyFile: file + "x"}, ""},
		{S3{SecretKeyEnv: "GATEWAY_TEST_SECRET"}, "from the environment"},
		{S3{SecretKeyEnv: "GATEWAY_TEST_EMPTY"}, ""},
		{S3{SecretKeyEnv: "GATEWAY_TEST_NONE"}, ""},
	} {
		got, err := tt.s3.SecretKey(t.Context())
		if string(got) != tt.want || (tt.want == "") != errors.Is(err, ErrSecretKey) {
			t.Errorf("%+v: %q, %v, want %q", tt.s3, got, err, tt.want)
		}
	}
}

// A role takes the place of keys.
func TestS3Role(t *testing.T) {
	file := filepath.Join(t.TempDir(), "config.yaml")
	text := "version: 1\ndata_dir: data\nstore: { location: \"s3://h/b\", plaintext: true, credentials: iam }\nshares: { main: {} }\n"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if sc := load(t, file).StoreConfig(slog.New(slog.DiscardHandler), false); !sc.S3.Role || sc.S3.SecretKey != nil {
		t.Errorf("what the store gets: %+v", sc.S3)
	}
}
