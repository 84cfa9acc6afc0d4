package store_test

import (
	"errors"
	"io"
	"path/filepath"
	"strings"
	"testing"

	"github.com/snapgate/gateway/store"
	"github.com/snapgate/gateway/store/internal/backend"
	"github.com/snapgate/gateway/store/storetest"
)

// TestLockAside refreshes a lock on a server that does not rename over files, while the lock is aside: a host that
// finds none, and maintains, has ignored it.
func TestLockAside(t *testing.T) {
	for name, tt := range map[string]struct {
		comes, goes bool // the other host, in between
		breaks      bool // the line does, in between
		want        error
	}{
		"nobody comes":                         {},
		"the other is still there":             {comes: true, want: store.ErrUnavailable},
		"the line breaks, and nobody can know": {breaks: true, want: store.ErrUnavailable},
		"the line breaks, the other is there":  {comes: true, breaks: true, want: store.ErrUnavailable},
		"the line breaks, the other has gone":  {comes: true, goes: true, breaks: true, want: store.ErrUnavailable},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			s, other := storetest.Open(t, storetest.Config(dir)), otherHost(t, dir)
			server, between := storetest.NewOpenSSH(t, "-P", "posix-rename"), 0
			aside := false
			server.Renaming = func(from, to string) error {
				if strings.HasSuffix(to, ".old") {
					aside = true
				}
				if !aside || !strings.HasPrefix(filepath.Base(from), "tmp.") {
					return nil
				}
				between++
				if between > 1 {
					return nil
				}
				if tt.comes {
					theirs, err := other.LockExclusively(t.Context())
					if err != nil {
						t.Errorf("the lock is not aside: %v", err)
						return nil
					}
					unlock := func() {
						if err := theirs.Unlock(); err != nil {
							t.Error(err)
						}
					}
					if tt.goes {
						unlock()
					} else {
						t.Cleanup(unlock)
					}
				}
				if tt.breaks {
					return io.EOF
				}
				return nil
			}
			b := backend.NewSFTP(backend.SFTPConfig{Dialer: server, Root: filepath.Join(dir, "store"), Token: "token"})
			store.Reach(s, b)
			t.Cleanup(func() {
				if err := b.Close(); err != nil {
					t.Error(err)
				}
			})
			lock, err := s.Lock(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			defer func() {
				if err := lock.Unlock(); err != nil {
					t.Error(err)
				}
			}()
			if err := store.Renew(t.Context(), lock); (err == nil) != (tt.want == nil) || between == 0 {
				t.Errorf("refresh: %v, after %d moments in between", err, between)
			}
			if err := lock.Valid(); !errors.Is(err, tt.want) {
				t.Errorf("got %v, want %v", err, tt.want)
			}
		})
	}
}

// otherHost opens the store in a directory as another host does.
func otherHost(t *testing.T, dir string) *store.Store {
	t.Helper()
	cfg := storetest.Config(t.TempDir())
	cfg.Location = storetest.Config(dir).Location
	return storetest.Open(t, cfg)
}
