//go:build stores

package stores

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/snapgate/gateway/internal/proctest"
)

// TestServeSync copies the snapshots of a local store to one on a server, while they are made: runs
// are killed and cut off, the last one finishes. The copy is then all that is left.
func TestServeSync(t *testing.T) { each(t, testServeSync) }

func testServeSync(t *testing.T, r *rig) {
	config, err := os.ReadFile(r.Config)
	r.must(err)
	section := regexp.MustCompile(`(?m)^store: (.*)$`)
	remote := section.FindStringSubmatch(string(config))[1]
	local := section.ReplaceAllString(string(config), `store: { location: ./first, plaintext: true, create: true }`) +
		"stores:\n  offsite: " + remote + "\nsync:\n  again: { to: offsite, verify: true }\n"
	r.must(os.WriteFile(r.Config, []byte(local), 0o600))
	r.start()
	for i, size := range []int{0, 100, 70_000, 3 << 20, 40 << 20} {
		r.must(r.put(fmt.Sprintf("/file%d", i), size))
	}
	r.commit()
	left := make(map[string]bool) // packfiles that runs which were cut off have left
	for i, after := range []string{"300ms", "800ms", "1500ms"} {
		r.kill(after)
		r.must(r.put(fmt.Sprintf("/later%d", i), 5<<20))
		r.commit()
		r.unfinished(left) // by now the server has done what it was asked before
	}
	// The server goes away in the middle.
	gone := make(chan struct{})
	timer := time.AfterFunc(500*time.Millisecond, func() {
		defer close(gone)
		r.proxy.Set(proctest.Trouble{Reset: true})
	})
	out, err := r.Command(t.Context(), "sync", "--to", "offsite")
	if !timer.Stop() {
		<-gone
	}
	r.proxy.Set(proctest.Trouble{})
	r.unfinished(left)
	if err != nil && (!strings.Contains(err.Error(), "unavailable") || !strings.Contains(err.Error(), "hint: ")) {
		t.Errorf("sync while the server goes away: %v\n%s", err, out)
	}
	out, err = r.Command(t.Context(), "sync", "--job", "again", "--json")
	if err != nil || !strings.Contains(out, `"event":"done"`) {
		t.Fatalf("sync: %v\n%s", err, out)
	}
	out, err = r.Command(t.Context(), "sync", "--to", "offsite", "--json")
	if err != nil || !strings.Contains(out, `"copied":0,"failed":0`) {
		t.Errorf("sync of what is there: %v\n%s", err, out)
	}
	before, err := r.Command(t.Context(), "snapshots")
	r.must(err)
	r.must(r.Stop())
	r.scrubbed(left)
	r.check()

	// The first store is lost, and data_dir with it.
	for _, name := range []string{"first", "data"} {
		r.must(os.RemoveAll(filepath.Join(r.Dir, name)))
	}
	r.must(os.WriteFile(r.Config, config, 0o600))
	r.start()
	after, err := r.Command(t.Context(), "snapshots")
	if err != nil || fmt.Sprint(ids(after)) != fmt.Sprint(ids(before)) {
		t.Errorf("snapshots of the copy, %v:\n%s\nof the original:\n%s", err, after, before)
	}
	r.restored(ids(after)[0])
	r.must(r.Stop())
}

// kill starts a sync and kills it after a time, unless it ends before.
func (r *rig) kill(after string) {
	r.t.Helper()
	wait, err := time.ParseDuration(after)
	r.must(err)
	cmd := exec.CommandContext(r.t.Context(), filepath.Join(r.Dir, "sgserve"), "sync", "-c", r.Config, "--to", "offsite")
	r.must(cmd.Start())
	timer := time.AfterFunc(wait, func() { _ = cmd.Process.Kill() })
	_ = cmd.Wait() // killed: its status says nothing
	timer.Stop()
}

// unfinished notes the packfiles of a run that was cut off. They are newer than all states, as a state comes after
// what it tells of; no later run knows of them, and a scrub leaves them to maintenance.
func (r *rig) unfinished(left map[string]bool) {
	r.t.Helper()
	var newest time.Time
	for _, path := range r.list("states") {
		if t := stat(r, path).ModTime(); t.After(newest) {
			newest = t
		}
	}
	for _, path := range r.list("packfiles") {
		if stat(r, path).ModTime().After(newest) {
			left[path] = true
		}
	}
}

// restored has stock plakar restore a snapshot and compares it with what was acknowledged.
func (r *rig) restored(id string) {
	r.t.Helper()
	dir := filepath.Join(r.Dir, "restored")
	_, err := r.plakar().Run(r.t.Context(), "restore", "-to", dir, id)
	r.must(err)
	for name, want := range r.held {
		got, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil || string(got) != string(want) {
			r.t.Errorf("%s restored: %d bytes, want %d, %v", name, len(got), len(want), err)
		}
	}
}
