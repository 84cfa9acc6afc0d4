package alarm_test

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/snapgate/gateway/internal/alarm"
	"github.com/snapgate/gateway/internal/disk"
	"github.com/snapgate/gateway/internal/disk/disktest"
	"github.com/snapgate/gateway/internal/logtest"
)

// rig is a board with what it has told.
type rig struct {
	*alarm.Board
	cfg   alarm.Config
	log   *logtest.Buffer
	now   time.Time
	heard []string
}

func newRig(t *testing.T, set ...func(*alarm.Config)) *rig {
	t.Helper()
	r := &rig{log: &logtest.Buffer{}, now: time.Date(2026, 11, 26, 12, 0, 0, 0, time.UTC)}
	r.cfg = alarm.Config{
		Dir: t.TempDir(), Logger: slog.New(slog.NewTextHandler(r.log, nil)), Now: func() time.Time { return r.now },
		Changed: func(c alarm.Change) {
			r.heard = append(r.heard, fmt.Sprintf("%s %s %v", c.Kind, c.Subject, c.Raised))
		},
	}
	for _, f := range set {
		f(&r.cfg)
	}
	r.open(t)
	return r
}

func (r *rig) open(t *testing.T) {
	t.Helper()
	var err error
	if r.Board, err = alarm.Open(r.cfg); err != nil {
		t.Fatal(err)
	}
}

// lines counts the lines of the log with a text.
func (r *rig) lines(text string) int { return strings.Count(r.log.String(), text) }

// Raised again, an alarm says what is true now, is logged and told once, and a restart neither
// loses nor repeats it.
func TestRaiseAndClear(t *testing.T) {
	r := newRig(t)
	r.Raise(alarm.Alarm{Kind: alarm.PullFailed, Subject: "web", Text: "first", Hint: "look"})
	r.now = r.now.Add(time.Minute)
	r.Raise(alarm.Alarm{Kind: alarm.PullFailed, Subject: "web", Text: "second"})
	r.Raise(alarm.Alarm{Kind: alarm.MissedBackup, Subject: "main", Text: "missed"})
	r.open(t)
	r.now = r.now.Add(time.Minute)
	r.Raise(alarm.Alarm{Kind: alarm.PullFailed, Subject: "web", Text: "third"})
	want := []alarm.Alarm{
		{Kind: alarm.MissedBackup, Subject: "main", Text: "missed", Since: r.now.Add(-time.Minute), Last: r.now.Add(-time.Minute), Times: 1},
		{Kind: alarm.PullFailed, Subject: "web", Text: "third", Since: r.now.Add(-2 * time.Minute), Last: r.now, Times: 3},
	}
	if d := cmp.Diff(want, r.List()); d != "" {
		t.Errorf("alarms (-want +got):\n%s", d)
	}
	r.Clear(alarm.PullFailed, "web")
	r.Clear(alarm.PullFailed, "web")
	r.Clear(alarm.PullFailed, "other")
	r.open(t)
	if d := cmp.Diff(want[:1], r.List()); d != "" {
		t.Errorf("after the clear (-want +got):\n%s", d)
	}
	if d := cmp.Diff([]string{"pull-failed web true", "missed-backup main true", "pull-failed web false"}, r.heard); d != "" {
		t.Errorf("told (-want +got):\n%s", d)
	}
	if a, b := r.lines(`level=WARN msg=alarm kind=pull-failed subject=web text=first hint=look`), r.lines("level=WARN"); a != 1 || b != 2 {
		t.Errorf("%d lines of it and %d warnings, want 1 and 2:\n%s", a, b, r.log)
	}
	if n := r.lines(`level=INFO msg="alarm is over" kind=pull-failed subject=web`); n != 1 {
		t.Errorf("%d lines that it is over, want 1:\n%s", n, r.log)
	}
}

// acknowledge acknowledges what is known of an alarm.
func (r *rig) acknowledge(kind alarm.Kind, subject string) (alarm.Alarm, error) {
	seen, ok := r.Get(kind, subject)
	if !ok {
		seen = alarm.Alarm{Kind: kind, Subject: subject}
	}
	return r.Acknowledge(&seen)
}

// A finding stays until somebody has looked, with all that was pinned for it; any other alarm is
// known then, and over when it is cleared.
func TestAcknowledge(t *testing.T) {
	r := newRig(t)
	if _, err := r.acknowledge(alarm.Shrink, "main"); !errors.Is(err, alarm.ErrUnknown) {
		t.Errorf("nothing to acknowledge: got %v, want %v", err, alarm.ErrUnknown)
	}
	for _, pin := range []string{"a", "b", "a"} {
		r.Raise(alarm.Alarm{Kind: alarm.Shrink, Subject: "main", Finding: true, Text: "x", Pins: []string{pin}})
	}
	r.Raise(alarm.Alarm{Kind: alarm.PullFailed, Subject: "web", Text: "y"})
	r.Clear(alarm.Shrink, "main")
	r.open(t)
	seen, _ := r.Get(alarm.Shrink, "main")
	r.Raise(alarm.Alarm{Kind: alarm.Shrink, Subject: "main", Finding: true, Text: "x", Pins: []string{"b"}})
	if _, err := r.Acknowledge(&seen); !errors.Is(err, alarm.ErrChanged) {
		t.Errorf("raised again while somebody looks: got %v, want %v", err, alarm.ErrChanged)
	}
	a, err := r.acknowledge(alarm.Shrink, "main")
	if err != nil || !slices.Equal(a.Pins, []string{"a", "b"}) {
		t.Errorf("acknowledged %+v, %v; want the pins a and b", a, err)
	}
	if _, err := r.acknowledge(alarm.PullFailed, "web"); err != nil {
		t.Error(err)
	}
	r.Raise(alarm.Alarm{Kind: alarm.PullFailed, Subject: "web", Text: "z"})
	r.open(t)
	list := r.List()
	if len(list) != 1 || list[0].Kind != alarm.PullFailed || list[0].Acknowledged.IsZero() || list[0].Text != "z" {
		t.Errorf("alarms %+v, want the failed pull, acknowledged", list)
	}
	r.Clear(alarm.PullFailed, "web")
	r.Raise(alarm.Alarm{Kind: alarm.PullFailed, Subject: "web", Text: "again"})
	if list := r.List(); len(list) != 1 || !list[0].Acknowledged.IsZero() || list[0].Times != 1 {
		t.Errorf("raised again: %+v, want a new one", list)
	}
}

// What the configuration does not have any more is over.
func TestDrop(t *testing.T) {
	r := newRig(t)
	for _, share := range []string{"old", "main"} {
		r.Raise(alarm.Alarm{Kind: alarm.Shrink, Subject: share, Finding: true})
		r.Raise(alarm.Alarm{Kind: alarm.TooSmall, Subject: share})
	}
	r.Drop(alarm.Shrink, "old")
	r.Drop(alarm.Shrink, "never there")
	var got []string
	for _, a := range r.List() {
		got = append(got, string(a.Kind)+" "+a.Subject)
	}
	if d := cmp.Diff([]string{"shrink main", "too-small main", "too-small old"}, got); d != "" {
		t.Errorf("alarms (-want +got):\n%s", d)
	}
}

// Text and pins are bounded, and what is no text becomes one.
func TestBounds(t *testing.T) {
	r := newRig(t)
	for i := range 200 {
		r.Raise(alarm.Alarm{Kind: alarm.Shrink, Subject: "main", Text: "\xff" + strings.Repeat("x", 9000), Pins: []string{fmt.Sprint(i)}})
	}
	a, ok := r.Get(alarm.Shrink, "main")
	if !ok || len(a.Text) > 2100 || !strings.HasPrefix(a.Text, "\uFFFDxxx") || len(a.Pins) != 100 || a.Pins[0] != "0" {
		t.Errorf("%d bytes of text, %d pins", len(a.Text), len(a.Pins))
	}
}

// While the file cannot be written the board goes on, says so once, and catches up.
func TestDiskFails(t *testing.T) {
	faulty := disktest.NewFaulty(disk.OS{})
	r := newRig(t, func(c *alarm.Config) { c.Disk = faulty })
	faulty.Add(disktest.Fault{Ops: disktest.OpWrite, Path: "alarms.json.new", Times: 2, Err: syscall.ENOSPC})
	r.Raise(alarm.Alarm{Kind: alarm.SpoolNearlyFull, Subject: "spool"})
	r.Raise(alarm.Alarm{Kind: alarm.SpoolNearlyFull, Subject: "spool"})
	if len(r.List()) != 1 || r.lines("level=ERROR") != 1 {
		t.Errorf("alarms %v, log:\n%s", r.List(), r.log)
	}
	r.Raise(alarm.Alarm{Kind: alarm.SpoolNearlyFull, Subject: "spool"})
	r.open(t)
	if list := r.List(); len(list) != 1 || list[0].Times != 3 {
		t.Errorf("after a restart: %+v", list)
	}
	faulty.Add(disktest.Fault{Ops: disktest.OpSync, Path: "alarms.json.new", Times: 1, Err: syscall.EIO})
	if _, err := r.acknowledge(alarm.SpoolNearlyFull, "spool"); err == nil {
		t.Error("an acknowledgement that is not durable is no error")
	}
}

// A damaged file is told of and does not keep the gateway from starting.
func TestDamaged(t *testing.T) {
	for name, text := range map[string]string{"no JSON": "{", "a version to come": `{"version":2}`, "empty": ""} {
		r := newRig(t)
		if err := os.WriteFile(filepath.Join(r.cfg.Dir, "alarms.json"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := alarm.Read(disk.OS{}, r.cfg.Dir); err == nil {
			t.Errorf("%s: no error", name)
		}
		r.open(t)
		r.Raise(alarm.Alarm{Kind: alarm.Shrink, Subject: "x"})
		list, err := alarm.Read(disk.OS{}, r.cfg.Dir)
		if err != nil || len(list) != 1 || r.lines("level=ERROR") != 1 {
			t.Errorf("%s: %v, %v, log:\n%s", name, list, err, r.log)
		}
	}
}

// At whatever moment the power fails, the board is what it was after one of the changes, and not
// an older one than was acknowledged.
func TestPowerLoss(t *testing.T) {
	root := t.TempDir()
	rec, err := disktest.NewRecorder(root)
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(root, "data")
	if err := disk.MkdirDurable(rec, dir, 0o700); err != nil {
		t.Fatal(err)
	}
	r := newRig(t, func(c *alarm.Config) { c.Dir, c.Disk = dir, rec })
	points, boards := []int{rec.Point()}, [][]alarm.Alarm{nil}
	for _, step := range []func(){
		func() { r.Raise(alarm.Alarm{Kind: alarm.Shrink, Subject: "a", Finding: true}) },
		func() { r.Raise(alarm.Alarm{Kind: alarm.TooSmall, Subject: "a"}) },
		func() { r.Clear(alarm.TooSmall, "a") },
		func() { _, err = r.acknowledge(alarm.Shrink, "a") },
	} {
		if step(); err != nil {
			t.Fatal(err)
		}
		points, boards = append(points, rec.Point()), append(boards, r.List())
	}
	for _, point := range rec.SyncPoints() {
		now := 0
		for i, p := range points {
			if p <= point {
				now = i
			}
		}
		for _, v := range disktest.Variants(3) {
			after := t.TempDir()
			if err := rec.Materialize(point, v, after); err != nil {
				t.Fatal(err)
			}
			got, err := alarm.Read(disk.OS{}, filepath.Join(after, "data"))
			equal := func(i int) bool {
				return i < len(boards) && len(got) == len(boards[i]) && (len(got) == 0 || cmp.Equal(got, boards[i]))
			}
			if err != nil || !equal(now) && !equal(now+1) {
				t.Errorf("power loss at %d, %v: %v, %v; want board %d", point, v, got, err, now)
			}
		}
	}
}

// Many raise, clear and list at once, and what is told is in the order of what has happened.
func TestConcurrent(t *testing.T) {
	r := newRig(t)
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			for range 10 {
				r.Raise(alarm.Alarm{Kind: alarm.TooSmall, Subject: "a"})
				_ = r.List()
				if i%2 == 0 {
					r.Clear(alarm.TooSmall, "a")
				}
			}
		})
	}
	wg.Wait()
	r.Clear(alarm.TooSmall, "a")
	for i, what := range r.heard {
		if want := fmt.Sprintf("too-small a %v", i%2 == 0); what != want {
			t.Fatalf("told %q as number %d, want %q", what, i, want)
		}
	}
	if len(r.heard)%2 != 0 || len(r.heard) == 0 {
		t.Errorf("%d changes, want as many ends as beginnings", len(r.heard))
	}
}

func TestOpen(t *testing.T) {
	for name, cfg := range map[string]alarm.Config{
		"no directory": {Logger: slog.New(slog.DiscardHandler)}, "no logger": {Dir: t.TempDir()},
	} {
		if _, err := alarm.Open(cfg); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}
