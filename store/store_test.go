package store_test

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/PlakarKorp/kloset/connectors/storage"
	"github.com/PlakarKorp/kloset/objects"
	"github.com/PlakarKorp/kloset/repository"

	"github.com/snapgate/gateway/store"
	"github.com/snapgate/gateway/store/storetest"
)

func passphrase(s string) func(context.Context) ([]byte, error) {
	return func(context.Context) ([]byte, error) { return []byte(s), nil }
}

// made creates a store below dir and closes it again.
func made(t *testing.T, dir string, options ...func(*store.Config)) store.Config {
	t.Helper()
	cfg := storetest.Config(dir)
	for _, option := range options {
		option(&cfg)
	}
	s, err := store.Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	if !s.Created() {
		t.Error("Created is false for a new store")
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	cfg.Create = false
	return cfg
}

func configFile(dir string) string { return filepath.Join(dir, "store", "CONFIG") }

func rewrite(path string, change func([]byte) []byte) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	return os.WriteFile(path, change(data), 0o600)
}

func TestOpenErrors(t *testing.T) {
	noKeep := func(cfg *store.Config) { cfg.KeepDir = "" }
	tests := []struct {
		name    string
		options []func(*store.Config)
		spoil   func(dir string, cfg *store.Config) error
		want    error
		refused bool // with whatever error
	}{
		{name: "fine", spoil: func(string, *store.Config) error { return nil }},
		{name: "plaintext", options: []func(*store.Config){storetest.Plaintext}, spoil: func(string, *store.Config) error { return nil }},
		{name: "wrong passphrase", want: store.ErrWrongPassphrase, spoil: func(dir string, cfg *store.Config) error {
			cfg.Passphrase = passphrase("wrong")
			return nil
		}},
		{name: "no passphrase", want: store.ErrWrongPassphrase, spoil: func(dir string, cfg *store.Config) error {
			cfg.Passphrase = nil
			return nil
		}},
		{name: "encrypted but plaintext wanted", want: store.ErrWrongPassphrase, spoil: func(dir string, cfg *store.Config) error {
			cfg.Plaintext = true
			return nil
		}},
		{name: "plaintext but passphrase given", want: store.ErrWrongPassphrase, options: []func(*store.Config){storetest.Plaintext},
			spoil: func(dir string, cfg *store.Config) error {
				cfg.Plaintext, cfg.Passphrase = false, passphrase("x")
				return nil
			}},
		{name: "missing", want: store.ErrNotExist, options: []func(*store.Config){noKeep}, spoil: func(dir string, cfg *store.Config) error {
			return os.RemoveAll(filepath.Join(dir, "store"))
		}},
		{name: "a file", want: store.ErrNotExist, options: []func(*store.Config){noKeep}, spoil: func(dir string, cfg *store.Config) error {
			cfg.Location = "fs://" + configFile(dir)
			return nil
		}},
		{name: "newer version", want: store.ErrNewerVersion, spoil: func(dir string, cfg *store.Config) error {
			return rewrite(configFile(dir), func(b []byte) []byte { b[14] = 9; return b })
		}},
		{name: "not a configuration", want: store.ErrDamaged, spoil: func(dir string, cfg *store.Config) error {
			return rewrite(configFile(dir), func(b []byte) []byte { return bytes.Repeat([]byte("x"), len(b)) })
		}},
		{name: "configuration cut short", want: store.ErrDamaged, spoil: func(dir string, cfg *store.Config) error {
			return rewrite(configFile(dir), func(b []byte) []byte { return b[:20] })
		}},
		{name: "configuration empty", want: store.ErrDamaged, spoil: func(dir string, cfg *store.Config) error {
			return rewrite(configFile(dir), func(b []byte) []byte { return nil })
		}},
		{name: "configuration with a flipped bit", want: store.ErrDamaged, spoil: func(dir string, cfg *store.Config) error {
			return rewrite(configFile(dir), func(b []byte) []byte { b[len(b)-1] ^= 1; return b })
		}},
		{name: "another store", want: store.ErrReplaced, spoil: func(dir string, cfg *store.Config) error {
			other := t.TempDir()
			made(t, other)
			b, err := os.ReadFile(configFile(other))
			return errors.Join(err, rewrite(configFile(dir), func([]byte) []byte { return b }))
		}},
		{name: "truncated state", want: store.ErrDamaged, spoil: func(dir string, cfg *store.Config) error {
			name := filepath.Join(dir, "store", "states", "ab", "ab"+strings.Repeat("00", 31))
			return os.WriteFile(name, []byte("_KLOSET_"), 0o600)
		}},
		{name: "unknown scheme", spoil: func(dir string, cfg *store.Config) error { cfg.Location = "ftp://host/x"; return nil }, refused: true},
		{name: "no path", spoil: func(dir string, cfg *store.Config) error { cfg.Location = "fs://"; return nil }, refused: true},
		{name: "archive", spoil: func(dir string, cfg *store.Config) error { cfg.Location += ".ptar"; return nil }, refused: true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			cfg := made(t, dir, tt.options...)
			if err := tt.spoil(dir, &cfg); err != nil {
				t.Fatal(err)
			}
			s, err := store.Open(t.Context(), cfg)
			if err == nil {
				defer s.Close()
			}
			switch {
			case tt.want == nil && !tt.refused && err != nil:
				t.Fatalf("Open: %v", err)
			case tt.refused && err == nil:
				t.Fatal("Open succeeds")
			case tt.want != nil && !errors.Is(err, tt.want):
				t.Fatalf("Open: got %v, want %v", err, tt.want)
			}
			if err != nil && strings.Contains(err.Error(), storetest.Passphrase) {
				t.Errorf("error shows the passphrase: %v", err)
			}
		})
	}
}

// held is what a process has: descriptors, and goroutines when those that are about to end have ended, until
// there are no more than limit.
func held(t *testing.T, limit int) (descriptors, goroutines int) {
	t.Helper()
	goroutines = runtime.NumGoroutine()
	for end := time.Now().Add(time.Minute); goroutines > limit && time.Now().Before(end); {
		runtime.Gosched()
		goroutines = runtime.NumGoroutine()
	}
	if runtime.GOOS != "linux" {
		return 0, goroutines
	}
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(fds), goroutines
}

// TestOpenAgainAndAgain opens and closes a store as jobs do, and one that cannot be opened: nothing piles up.
func TestOpenAgainAndAgain(t *testing.T) {
	for _, tt := range []struct {
		name  string
		spoil func(dir string, cfg *store.Config) error
		want  error
	}{
		{name: "opened", spoil: func(string, *store.Config) error { return nil }},
		{name: "with a temporary cache", spoil: func(_ string, cfg *store.Config) error { cfg.CacheDir = ""; return nil }},
		{name: "refused", want: store.ErrDamaged, spoil: func(dir string, _ *store.Config) error {
			name := filepath.Join(dir, "store", "states", "ab", "ab"+strings.Repeat("00", 31))
			return os.WriteFile(name, []byte("_KLOSET_"), 0o600)
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			cfg := made(t, dir)
			if err := tt.spoil(dir, &cfg); err != nil {
				t.Fatal(err)
			}
			open := func() {
				t.Helper()
				s, err := store.Open(t.Context(), cfg)
				if !errors.Is(err, tt.want) {
					t.Fatalf("Open: got %v, want %v", err, tt.want)
				}
				if err == nil {
					err = s.Close()
				}
				if tt.want == nil && err != nil {
					t.Fatal(err)
				}
			}
			before := runtime.NumGoroutine()
			open()
			fds, _ := held(t, before)
			for range 20 {
				open()
			}
			if n, m := held(t, before); n > fds || m > before {
				t.Errorf("%d descriptors, %d after the first time; %d goroutines, %d before", n, fds, m, before)
			}
		})
	}
}

func TestMissingIsNotCreatedUnasked(t *testing.T) {
	cfg := storetest.Config(t.TempDir())
	cfg.Create = false
	if _, err := store.Open(t.Context(), cfg); !errors.Is(err, store.ErrNotExist) {
		t.Fatalf("Open: got %v, want ErrNotExist", err)
	}
	if _, err := os.Stat(strings.TrimPrefix(cfg.Location, "fs://")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("something was made: %v", err)
	}
}

func TestCreateRefusesFullDirectory(t *testing.T) {
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "store"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "store", "precious"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := store.Open(t.Context(), storetest.Config(dir)); !errors.Is(err, store.ErrNotExist) {
		t.Fatalf("Open: got %v, want ErrNotExist", err)
	}
}

// TestCreateCutOff creates a store again whose creation failed at every one of its steps.
func TestCreateCutOff(t *testing.T) {
	dir := t.TempDir()
	cfg := storetest.Config(dir)
	fsys := storetest.NewFaultFS()
	cfg.Disk = fsys
	for _, op := range []storetest.Op{storetest.OpMkdir, storetest.OpSyncDir, storetest.OpOpen, storetest.OpWrite, storetest.OpSync, storetest.OpRename} {
		fsys.Fail(func(o storetest.Op, path string) error {
			if o == op && strings.HasPrefix(path, filepath.Join(dir, "store")) {
				return syscall.ENOSPC
			}
			return nil
		})
		_, err := store.Open(t.Context(), cfg)
		if !errors.Is(err, store.ErrUnavailable) || !errors.Is(err, syscall.ENOSPC) {
			t.Fatalf("%s fails: got %v, want ErrUnavailable and ENOSPC", op, err)
		}
	}
	fsys.Fail(nil)
	s := storetest.Open(t, cfg)
	if !s.Created() {
		t.Error("store was created by a failed attempt")
	}
}

// TestCreatedByTwo: of two who make a store at the same moment one opens what the other has made, wherever in its own making it notices that.
func TestCreatedByTwo(t *testing.T) {
	for _, when := range []storetest.Op{storetest.OpReadDir, storetest.OpMkdir} { // before it looks whether there is room, and then
		t.Run(string(when), func(t *testing.T) {
			dir := t.TempDir()
			other := storetest.Config(dir)
			other.CacheDir, other.KeepDir = filepath.Join(dir, "other-cache"), filepath.Join(dir, "other-keep")
			var first *store.Store
			disk := storetest.NewFaultFS()
			disk.Fail(func(op storetest.Op, path string) error {
				if first == nil && op == when && strings.HasPrefix(path, filepath.Join(dir, "store")) {
					first = storetest.Open(t, other)
				}
				return nil
			})
			cfg := storetest.Config(dir)
			cfg.Disk = disk
			s := storetest.Open(t, cfg)
			if s.Created() || first == nil || !first.Created() || s.ID() != first.ID() {
				t.Errorf("there are two stores, or none")
			}
			if err := first.Available(t.Context()); err != nil {
				t.Errorf("for the first: %v", err)
			}
		})
	}
}

// TestCreatedOver: whose store is replaced while it is made is told so, and opens what is there the next time.
func TestCreatedOver(t *testing.T) {
	dir := t.TempDir()
	theirs, err := os.ReadFile(configFile(filepath.Dir(made(t, t.TempDir()).KeepDir)))
	if err != nil {
		t.Fatal(err)
	}
	disk := storetest.NewFaultFS()
	disk.Fail(func(op storetest.Op, path string) error {
		if _, err := os.Stat(configFile(dir)); err == nil && op == storetest.OpSyncDir && path == filepath.Join(dir, "store") {
			return os.WriteFile(configFile(dir), theirs, 0o600)
		}
		return nil
	})
	cfg := storetest.Config(dir)
	cfg.Disk = disk
	if _, err := store.Open(t.Context(), cfg); !errors.Is(err, store.ErrMadeTwice) || errors.Is(err, store.ErrReplaced) {
		t.Errorf("got %v, want %v", err, store.ErrMadeTwice)
	}
	disk.Fail(nil)
	storetest.Open(t, cfg)
}

func TestAway(t *testing.T) {
	tests := []struct {
		name            string
		leave, comeBack func(dir string) error
	}{
		{name: "moved",
			leave:    func(dir string) error { return os.Rename(dir, dir+".away") },
			comeBack: func(dir string) error { return os.Rename(dir+".away", dir) }},
		{name: "empty mount point",
			leave: func(dir string) error {
				return errors.Join(os.Rename(dir, dir+".away"), os.Mkdir(dir, 0o700))
			},
			comeBack: func(dir string) error {
				return errors.Join(os.Remove(dir), os.Rename(dir+".away", dir))
			}},
	}
	if os.Getuid() != 0 { // permissions do not bind root; make faults runs a gateway as nobody
		tests = append(tests, struct {
			name            string
			leave, comeBack func(dir string) error
		}{
			"no permission",
			func(dir string) error { return os.Chmod(dir, 0) },
			func(dir string) error { return os.Chmod(dir, 0o700) },
		})
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			cfg := made(t, dir)
			cfg.Create = true // must not matter
			if err := tt.leave(filepath.Join(dir, "store")); err != nil {
				t.Fatal(err)
			}

			wrong := cfg
			wrong.Passphrase = passphrase("wrong")
			if _, err := store.Open(t.Context(), wrong); !errors.Is(err, store.ErrWrongPassphrase) {
				t.Errorf("wrong passphrase while away: got %v", err)
			}
			s := storetest.Open(t, cfg)
			if err := s.Available(t.Context()); !errors.Is(err, store.ErrUnavailable) {
				t.Errorf("Available: got %v, want ErrUnavailable", err)
			}
			if err := s.Refresh(t.Context()); !errors.Is(err, store.ErrUnavailable) {
				t.Errorf("Refresh: got %v, want ErrUnavailable", err)
			}
			if _, err := s.Lock(t.Context()); !errors.Is(err, store.ErrUnavailable) {
				t.Errorf("Lock: got %v, want ErrUnavailable", err)
			}
			away, err := s.DeriveKey("spool")
			if err != nil || len(away) != 32 {
				t.Fatalf("DeriveKey: %x, %v", away, err)
			}

			if err := tt.comeBack(filepath.Join(dir, "store")); err != nil {
				t.Fatal(err)
			}
			if err := s.Refresh(t.Context()); err != nil {
				t.Errorf("Refresh after it came back: %v", err)
			}
			lock, err := s.Lock(t.Context())
			if err != nil {
				t.Fatalf("Lock after it came back: %v", err)
			}
			if err := lock.Unlock(); err != nil {
				t.Error(err)
			}
			cfg.CacheDir = ""
			back, err := storetest.Open(t, cfg).DeriveKey("spool")
			if err != nil || !bytes.Equal(away, back) {
				t.Errorf("key away %x, key back %x, %v", away, back, err)
			}
		})
	}
}

// Somebody who gives up while a store is opened has not to wait for its index the next time.
func TestOpenGivenUpKeepsIndex(t *testing.T) {
	cfg := made(t, t.TempDir())
	index, err := filepath.Glob(filepath.Join(cfg.CacheDir, "*", "store", "*"))
	if err != nil || len(index) == 0 {
		t.Fatalf("no index in %s: %v", cfg.CacheDir, err)
	}
	mark := filepath.Join(index[0], "mark")
	if err := os.WriteFile(mark, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cfg.Passphrase = func(context.Context) ([]byte, error) { // the last thing before the states are read
		cancel()
		return []byte(storetest.Passphrase), nil
	}
	if _, err := store.Open(ctx, cfg); !errors.Is(err, context.Canceled) {
		t.Fatalf("Open: got %v, want %v", err, context.Canceled)
	}
	if _, err := os.Stat(mark); err != nil {
		t.Errorf("the index was thrown away: %v", err)
	}
}

func TestDeriveKey(t *testing.T) {
	s := storetest.New(t)
	a, errA := s.DeriveKey("a")
	b, errB := s.DeriveKey("b")
	again, errC := s.DeriveKey("a")
	if err := errors.Join(errA, errB, errC); err != nil {
		t.Fatal(err)
	}
	if bytes.Equal(a, b) || !bytes.Equal(a, again) {
		t.Errorf("keys a %x, b %x, a again %x", a, b, again)
	}
	plain := storetest.New(t, storetest.Plaintext)
	if k, err := plain.DeriveKey("a"); k != nil || err != nil || plain.Encrypted() {
		t.Errorf("plaintext store: key %x, %v", k, err)
	}
}

func TestSecondProcessGetsItsOwnCache(t *testing.T) {
	cfg := storetest.Config(t.TempDir())
	storetest.Open(t, cfg)
	storetest.Open(t, cfg) // fails if it waits for, or destroys, the first one's cache
}

// TestPutIsDurable states what a packfile and a state owe to power loss: the file is
// synced before it gets its name, and the directory after that.
func TestPutIsDurable(t *testing.T) {
	fsys := storetest.NewFaultFS()
	s := storetest.New(t, func(cfg *store.Config) { cfg.Disk = fsys })
	mac := objects.RandomMAC()
	for _, res := range []storage.StorageResource{storage.StorageResourcePackfile, storage.StorageResourceState} {
		fsys.Ops()
		data := bytes.Repeat([]byte("snap"), 1<<20)
		n, err := s.Repository().Store().Put(t.Context(), res, mac, bytes.NewReader(data))
		if err != nil || n != int64(len(data)) {
			t.Fatalf("Put %s: %d, %v", res, n, err)
		}
		var ops []string
		for _, op := range fsys.Ops() {
			name, _, _ := strings.Cut(op, " ")
			if len(ops) == 0 || ops[len(ops)-1] != name {
				ops = append(ops, name)
			}
		}
		if got, want := strings.Join(ops, " "), "open write sync rename syncdir"; got != want {
			t.Errorf("%s: got %q, want %q", res, got, want)
		}
	}
}

func TestPutFails(t *testing.T) {
	for _, op := range []storetest.Op{storetest.OpOpen, storetest.OpWrite, storetest.OpSync, storetest.OpRename, storetest.OpSyncDir} {
		t.Run(string(op), func(t *testing.T) {
			fsys := storetest.NewFaultFS()
			dir := t.TempDir()
			cfg := storetest.Config(dir)
			cfg.Disk = fsys
			s := storetest.Open(t, cfg)
			fsys.Fail(func(o storetest.Op, _ string) error {
				if o == op {
					return syscall.ENOSPC
				}
				return nil
			})
			rd := bytes.NewReader(make([]byte, 3<<20))
			_, err := s.Repository().Store().Put(t.Context(), storage.StorageResourcePackfile, objects.RandomMAC(), rd)
			if !errors.Is(err, store.ErrUnavailable) || !errors.Is(err, syscall.ENOSPC) {
				t.Errorf("got %v, want ErrUnavailable and ENOSPC", err)
			}
			if rd.Len() != 0 {
				t.Errorf("%d bytes were not read: their writers would hang", rd.Len())
			}
			left, err := filepath.Glob(filepath.Join(dir, "store", "packfiles", "*", "*"))
			if err != nil || len(left) != 0 {
				t.Errorf("left behind: %v, %v", left, err)
			}
		})
	}
}

func TestLeftoversAreSweptAtOpen(t *testing.T) {
	dir := t.TempDir()
	cfg := made(t, dir)
	token, err := os.ReadFile(filepath.Join(dir, "cache", "token"))
	if err != nil {
		t.Fatal(err)
	}
	bucket := filepath.Join(dir, "store", "packfiles", "7f")
	old := time.Now().Add(-2 * time.Hour)
	files := []struct {
		path string
		old  bool
		gone bool
	}{
		{filepath.Join(bucket, "tmp."+string(token)+"-1"), false, true},
		{filepath.Join(bucket, "tmp.999"), true, true},
		{filepath.Join(bucket, "tmp.1000"), false, false}, // plakar may be writing it
		{filepath.Join(dir, "store", "packfiles", "tmp.1"), true, true},
		{filepath.Join(dir, "store", "tmp.2"), true, true},
		{filepath.Join(dir, "store", "readme.txt"), true, false},
		{filepath.Join(dir, "cache", "2.0.0", "dbstorer-x"), false, true},
	}
	for _, f := range files {
		if err := os.WriteFile(f.path, []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
		if f.old {
			if err := os.Chtimes(f.path, old, old); err != nil {
				t.Fatal(err)
			}
		}
	}
	storetest.Open(t, cfg)
	for _, f := range files {
		if _, err := os.Stat(f.path); errors.Is(err, os.ErrNotExist) != f.gone {
			t.Errorf("%s: gone is %v, want %v", f.path, !f.gone, f.gone)
		}
	}
}

func putLock(t *testing.T, s *store.Store, dir string, lock *repository.Lock) string {
	t.Helper()
	var buf bytes.Buffer
	if err := lock.SerializeToStream(&buf); err != nil {
		t.Fatal(err)
	}
	enc, err := s.AppendEncoded(nil, buf.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	rd, err := storage.Serialize(s.Repository().GetMACHasher(), lockType, lockVersion, bytes.NewReader(enc))
	if err != nil {
		t.Fatal(err)
	}
	var data bytes.Buffer
	if _, err := data.ReadFrom(rd); err != nil {
		t.Fatal(err)
	}
	id := objects.RandomMAC()
	path := filepath.Join(dir, "store", "locks", hex.EncodeToString(id[:]))
	if err := os.WriteFile(path, data.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestLock takes locks beside one of somebody else.
func TestLock(t *testing.T) {
	tests := []struct {
		name      string
		exclusive bool
		age       time.Duration // since it was refreshed, by the clock of the store
		ahead     time.Duration // the clock of its owner
		want      error         // of a shared lock; an exclusive one is refused beside what does not go
		gone      bool
	}{
		{name: "shared", age: time.Minute},
		{name: "exclusive", exclusive: true, age: 3 * time.Minute, want: store.ErrLocked},
		{name: "stale exclusive", exclusive: true, age: time.Hour, gone: true},
		{name: "stale shared", age: time.Hour, gone: true},
		{name: "shared, clock behind", age: time.Minute, ahead: -time.Hour},
		{name: "shared, clock ahead", age: time.Minute, ahead: 24 * time.Hour},
		{name: "exclusive, clock behind", exclusive: true, age: 3 * time.Minute, ahead: -time.Hour, want: store.ErrLocked},
		{name: "exclusive, clock ahead", exclusive: true, age: 3 * time.Minute, ahead: 24 * time.Hour, want: store.ErrLocked},
		{name: "stale exclusive, clock ahead", exclusive: true, age: time.Hour, ahead: 24 * time.Hour, gone: true},
		{name: "stale shared, clock ahead", age: time.Hour, ahead: 24 * time.Hour, gone: true},
	}
	for _, tt := range tests {
		for _, exclusively := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, exclusively %v", tt.name, exclusively), func(t *testing.T) {
				dir := t.TempDir()
				s := storetest.Open(t, storetest.Config(dir))
				refreshed := time.Now().Add(-tt.age)
				path := putLock(t, s, dir, &repository.Lock{
					Version: lockVersion, Timestamp: refreshed.Add(tt.ahead), Hostname: "elsewhere", Exclusive: tt.exclusive,
				})
				if err := os.Chtimes(path, time.Time{}, refreshed); err != nil {
					t.Fatal(err)
				}
				take, want := s.Lock, tt.want
				if exclusively {
					take = s.LockExclusively
					if !tt.gone {
						want = store.ErrLocked
					}
				}
				lock, err := take(t.Context())
				if !errors.Is(err, want) {
					t.Fatalf("got %v, want %v", err, want)
				}
				if want != nil {
					var locked *store.LockedError
					// The clock of the disk goes in ticks.
					if !errors.As(err, &locked) || locked.Host != "elsewhere" || locked.Age < tt.age-time.Second || locked.Expires <= 0 {
						t.Errorf("got %+v", locked)
					}
				} else {
					if err := lock.Valid(); err != nil {
						t.Error(err)
					}
					if err := lock.Unlock(); err != nil {
						t.Error(err)
					}
				}
				if _, err := os.Stat(path); errors.Is(err, os.ErrNotExist) != tt.gone {
					t.Errorf("the other's lock: gone is %v, want %v", !tt.gone, tt.gone)
				}
				left, err := filepath.Glob(filepath.Join(dir, "store", "locks", "*"))
				if want := 1; err != nil || (!tt.gone && len(left) != want) || (tt.gone && len(left) != 0) {
					t.Errorf("locks left: %v, %v", left, err)
				}
			})
		}
	}
}

// TestLockWithoutDirectory takes locks on a copy of a store that lacks the directory of locks, which is empty
// in the store. Without the store there is none to be had, and nothing is made.
func TestLockWithoutDirectory(t *testing.T) {
	for name, take := range map[string]func(*store.Store, context.Context) (*store.Lock, error){
		"shared": (*store.Store).Lock, "exclusive": (*store.Store).LockExclusively,
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			s := storetest.Open(t, storetest.Config(dir))
			locks := filepath.Join(dir, "store", "locks")
			if err := os.Remove(locks); err != nil {
				t.Fatal(err)
			}
			lock, err := take(s, t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if err := errors.Join(lock.Valid(), lock.Unlock()); err != nil {
				t.Error(err)
			}
			if err := errors.Join(os.Remove(locks), os.Rename(filepath.Join(dir, "store", "CONFIG"), filepath.Join(dir, "CONFIG"))); err != nil {
				t.Fatal(err)
			}
			if _, err := take(s, t.Context()); !errors.Is(err, store.ErrUnavailable) {
				t.Errorf("without a store: got %v, want %v", err, store.ErrUnavailable)
			}
			if _, err := os.Stat(locks); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("the directory was made without a store: %v", err)
			}
		})
	}
}

func TestUnreadableLockHoldsForItsLife(t *testing.T) {
	dir := t.TempDir()
	s := storetest.Open(t, storetest.Config(dir))
	path := filepath.Join(dir, "store", "locks", fmt.Sprintf("%064x", 7))
	if err := os.WriteFile(path, []byte("torn"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Lock(t.Context()); !errors.Is(err, store.ErrLocked) {
		t.Errorf("fresh: got %v, want ErrLocked", err)
	}
	old := time.Now().Add(-time.Hour)
	if err := os.Chtimes(path, old, old); err != nil {
		t.Fatal(err)
	}
	lock, err := s.Lock(t.Context())
	if err != nil {
		t.Fatalf("old: %v", err)
	}
	if err := lock.Unlock(); err != nil {
		t.Error(err)
	}
}
