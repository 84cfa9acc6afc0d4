//go:build stores

package stores

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
)

// TestServeMaintained gives back the space of a snapshot that somebody has removed, beside uploads.
func TestServeMaintained(t *testing.T) { each(t, testServeMaintained) }

func testServeMaintained(t *testing.T, r *rig) {
	const garbage = 3 << 20
	r.start()
	r.must(r.put("/kept", garbage))
	r.must(r.put("/garbage", garbage))
	r.commit()
	for i := range 256 { // a server of S3 has no empty ones, and plakar's connector for directories makes none
		r.must(os.MkdirAll(filepath.Join(r.dir, "states", fmt.Sprintf("%02x", i)), 0o700))
	}
	p := r.plakar()
	old, err := p.Snapshots(t.Context())
	r.must(err)
	c, err := r.Client.Login(t.Context(), "alice")
	r.must(err)
	r.must(c.Remove("/garbage"))
	c.Close()
	delete(r.held, "/garbage")
	r.commit()
	_, err = p.Run(t.Context(), append([]string{"rm", "-apply"}, old...)...)
	r.must(err)

	before := r.packed()
	if m := r.maintain(); m.Marked == 0 || m.Removed != 0 {
		t.Errorf("the first run: %+v", m)
	}
	r.must(r.put("/meanwhile", 100_000))
	m := r.maintain()
	if m.Removed == 0 || m.Lost != 0 || m.RemovedBytes < garbage {
		t.Errorf("the second run: %+v, want %d bytes removed at least", m, garbage)
	}
	r.commit()
	if after := r.packed(); after > before-garbage/2 {
		t.Errorf("%d bytes are stored, %d were before", after, before)
	}
	r.verify()
	r.must(r.Stop())
	r.check()
}

// maintained is what matters of `gateway maintain --json`.
type maintained struct {
	Marked  int `json:"marked"`
	Removed int `json:"removed"`
	Lost    int `json:"lost"`

	RemovedBytes int64 `json:"removed_bytes"`
}

func (r *rig) maintain() (m maintained) {
	r.t.Helper()
	out, err := r.Command(r.t.Context(), "maintain", "--grace", "0s", "--json")
	r.must(err)
	r.must(json.Unmarshal([]byte(out), &m))
	return m
}

// packed is how much the packfiles take.
func (r *rig) packed() (bytes int64) {
	r.t.Helper()
	r.must(filepath.WalkDir(filepath.Join(r.dir, "packfiles"), func(_ string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		fi, err := d.Info()
		if err == nil {
			bytes += fi.Size()
		}
		return err
	}))
	return bytes
}
