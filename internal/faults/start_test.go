//go:build faults && linux

package faults

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/snapgate/gateway/internal/proctest"
)

// Starts that must fail, and what is said then.
func TestStoreAtStart(t *testing.T) {
	r := newRig(t, proctest.Options{})
	r.start()
	r.mustPut("/a", mib)
	r.must(r.Stop())
	config := filepath.Join(r.Store, "CONFIG")
	good, err := os.ReadFile(config)
	r.must(err)
	kept, err := filepath.Glob(filepath.Join(r.data, "store-*.config"))
	if err != nil || len(kept) != 1 {
		t.Fatalf("copies of the store's configuration: %q, %v", kept, err)
	}
	change := func(at int, to byte) []byte {
		bad := append([]byte(nil), good...)
		bad[at] = to
		return bad
	}
	damaged := func(how string) []string {
		return []string{
			"gateway: open store fs://DIR/data/store: store is damaged: its configuration " + how + " (DIR/data/" + filepath.Base(kept[0]) + " is a copy of its file CONFIG)",
			"hint: restore the store's files from a copy; plakar check tells which snapshots are whole",
		}
	}
	tests := []struct {
		name   string
		config []byte
		pass   string
		want   []string
	}{
		{"wrong passphrase", good, "not the passphrase\n", []string{
			"gateway: open store fs://DIR/data/store: wrong passphrase",
			"hint: check store.passphrase_file (or _env, _command) and store.plaintext; without the passphrase the store was made with nobody can open it",
		}},
		{"empty passphrase", good, "\n", []string{
			"gateway: open store fs://DIR/data/store: passphrase: no passphrase: DIR/pass is empty",
			"hint: see store.passphrase_file, passphrase_env and passphrase_command in the configuration",
		}},
		{"damaged configuration", change(len(good)-1, good[len(good)-1]^1), "", damaged("does not verify: hmac mismatch")},
		{"cut configuration", good[:20], "", damaged("is cut short")},
		{"empty configuration", nil, "", damaged("is cut short")},
		{"something else", []byte("this is no configuration of a store at all, but some text of more than enough bytes"), "", damaged("is none")},
		{"newer version", change(14, 9), "", []string{
			"gateway: open store fs://DIR/data/store: store has a newer format than this program knows: configuration v9.0.0, this program knows v1.0.0",
			"hint: use a newer gateway",
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			sub := *r
			sub.t = t
			pass, err := os.ReadFile(r.PassFile)
			sub.must(err)
			if tt.pass != "" {
				sub.must(os.WriteFile(r.PassFile, []byte(tt.pass), 0o600))
			}
			sub.must(os.WriteFile(config, tt.config, 0o600))
			sub.refuseStart(tt.want...)
			sub.must(os.WriteFile(r.PassFile, pass, 0o600))
		})
	}
	r.must(os.WriteFile(config, good, 0o600))

	r.cover(r.data)
	r.refuseStart("gateway: data_dir DIR/data: open DIR/data/lock: read-only file system",
		"hint: the file system is read-only: mount it for writing, or change data_dir or store.location")
	r.uncover(r.data)
	r.start()
	r.verify(r.see)
}
