package hooks

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/snapgate/gateway/internal/disk"
	"github.com/snapgate/gateway/internal/disk/disktest"
	"github.com/snapgate/gateway/internal/logtest"
)

// pending lists the paths of the events that the hook has not had.
func pending(t *testing.T, q *Queue) []string {
	t.Helper()
	var paths []string
	for _, e := range q.entries {
		if e.seq <= q.done["web"] {
			continue
		}
		ev, _, err := q.read(e)
		if err != nil {
			t.Fatal(err)
		}
		paths = append(paths, ev.Path)
	}
	return paths
}

// takeOne has the hook take the oldest event.
func takeOne(t *testing.T, q *Queue) {
	t.Helper()
	e, ok, _ := q.next("web")
	if !ok {
		t.Fatal("nothing to take")
	}
	if err := q.took("web", e.seq); err != nil {
		t.Fatal(err)
	}
}

// At whatever moment the power fails, and whatever the disk made of unsynced writes, the next
// start has every event that was added and not taken, in order, and none that was taken before
// the last note of it was durable.
func TestPowerLoss(t *testing.T) {
	root := t.TempDir()
	rec, err := disktest.NewRecorder(root)
	if err != nil {
		t.Fatal(err)
	}
	hook := func(fsys disk.FS) func(*Config) {
		return func(c *Config) { c.Hooks, c.Disk = []Hook{{Name: "web", URL: "http://127.0.0.1:1/"}}, fsys }
	}
	q := open(t, filepath.Join(root, "hooks"), &logtest.Buffer{}, hook(rec))
	type step struct {
		point int // reached when it was acknowledged
		left  []string
	}
	steps := []step{{rec.Point(), nil}}
	for i, what := range "aatattaaatttat" {
		if what == 'a' {
			add(t, q, fmt.Sprintf("/%d", i))
		} else {
			takeOne(t, q)
		}
		steps = append(steps, step{rec.Point(), pending(t, q)})
	}
	for _, point := range rec.SyncPoints() {
		if point < steps[0].point {
			continue // it was being made
		}
		now := 0
		for i := range steps {
			if steps[i].point <= point {
				now = i
			}
		}
		for _, v := range disktest.Variants(3) {
			dir := t.TempDir()
			if err := rec.Materialize(point, v, dir); err != nil {
				t.Fatal(err)
			}
			after := open(t, filepath.Join(dir, "hooks"), &logtest.Buffer{}, hook(disk.OS{}))
			got := pending(t, after)
			ok := slices.Equal(got, steps[now].left) || now+1 < len(steps) && slices.Equal(got, steps[now+1].left)
			if !ok {
				t.Errorf("power loss at %d, %v: %v are left, want %v", point, v, got, steps[now].left)
			}
			// It goes on from there.
			add(t, after, "/new")
			if left := pending(t, after); len(left) != len(got)+1 || left[len(left)-1] != "/new" {
				t.Errorf("power loss at %d, %v: with another event %v are left", point, v, left)
			}
			_ = after.Close()
		}
	}
}

// What could not be made durable is an error, is told to nobody, and does not harm what
// comes after it.
func TestDiskFails(t *testing.T) {
	for name, fault := range map[string]disktest.Fault{
		"write":       {Ops: disktest.OpWrite, Path: queueName, Times: 1, Err: syscall.ENOSPC},
		"short write": {Ops: disktest.OpWrite, Path: queueName, Times: 1, Err: syscall.ENOSPC, Short: 40},
		"sync":        {Ops: disktest.OpSync, Path: queueName, Times: 1, Err: syscall.EIO},
	} {
		t.Run(name, func(t *testing.T) {
			dir, log := t.TempDir(), &logtest.Buffer{}
			faulty := disktest.NewFaulty(disk.OS{})
			hook := func(c *Config) { c.Hooks, c.Disk = []Hook{{Name: "web", URL: "http://127.0.0.1:1/"}}, faulty }
			q := open(t, dir, log, hook)
			add(t, q, "/1")
			faulty.Add(fault)
			if err := q.Add(Event{Event: Upload, Path: "/" + strings.Repeat("x", 500)}); err == nil {
				t.Error("the event is acknowledged")
			}
			add(t, q, "/2")
			if got := pending(t, q); !slices.Equal(got, []string{"/1", "/2"}) {
				t.Errorf("pending %v", got)
			}
			q = open(t, dir, log, hook)
			if got := pending(t, q); !slices.Equal(got, []string{"/1", "/2"}) {
				t.Errorf("after a start: pending %v", got)
			}
		})
	}
}
