package main

import (
	"errors"
	"iter"
	"log/slog"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/snapgate/gateway/cmd/gateway/internal/watch"
	"github.com/snapgate/gateway/internal/alarm"
	"github.com/snapgate/gateway/internal/disk"
	"github.com/snapgate/gateway/snapshotter"
	"github.com/snapgate/gateway/store/storetest"
	"github.com/snapgate/gateway/vfs"
)

// raised says which alarms there are after each step.
func raised(t *testing.T, board *alarm.Board, steps ...func()) (got []string) {
	t.Helper()
	for _, step := range steps {
		step()
		text := ""
		for _, a := range board.List() {
			text += string(a.Kind) + " " + a.Subject + ": " + a.Text
		}
		got = append(got, text)
	}
	return got
}

func newBoard(t *testing.T) *alarm.Board {
	t.Helper()
	board, err := alarm.Open(alarm.Config{Dir: t.TempDir(), Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	return board
}

// Commits that fail a few times are no alarm, and one is over with the first that goes well.
func TestCommitsFail(t *testing.T) {
	board := newBoard(t)
	step := func(failures int, err error) func() {
		return func() {
			checkCommits(board, &vfs.ShareStatus{Name: "main", CommitFailures: failures, CommitError: err, FailingSince: time.Unix(1795287869, 0)})
		}
	}
	away := errors.New("store away")
	got := raised(t, board, step(0, nil), step(4, away), step(5, away), step(6, away), step(0, nil), step(1, away))
	text := "commit-failed main: commits fail since 2026-11-21T19:04:29Z, N in a row; the changes are kept: store away"
	want := []string{"", "", strings.Replace(text, "N", "5", 1), strings.Replace(text, "N", "6", 1), "", ""}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("alarms (-want +got):\n%s", d)
	}
}

// Of a share that was taken out of the configuration, which stays until a restart, nothing is told: its alarms would
// come and go all the time.
func TestShareTakenOut(t *testing.T) {
	board := newBoard(t)
	list := []vfs.ShareStatus{{Name: "main", Bytes: 95, Quota: 100}, {Name: "web", CommitFailures: 9, CommitError: errors.New("store away")}}
	kinds := func() (got []string) {
		for _, a := range board.List() {
			got = append(got, string(a.Kind)+" "+a.Subject)
		}
		return got
	}
	checkShares(board, list, map[string]watch.Expect{"main": {}, "web": {}})
	if d := cmp.Diff([]string{"commit-failed web", "quota-nearly-full main"}, kinds()); d != "" {
		t.Errorf("alarms (-want +got):\n%s", d)
	}
	board.Drop(alarm.QuotaNearlyFull, "main")
	board.Drop(alarm.CommitFailed, "web")
	checkShares(board, list, map[string]watch.Expect{"other": {}})
	if got := kinds(); len(got) > 0 {
		t.Errorf("alarms of shares that are not configured: %q", got)
	}
}

// What is nearly full is an alarm until it is a good deal better.
func TestNearlyFull(t *testing.T) {
	board := newBoard(t)
	spool := func(bytes, free int64) func() {
		return func() {
			checkSpool(board, &vfs.Status{SpoolBytes: bytes << 20, SpoolLimit: 1000 << 20, DiskFree: free << 20, Reserve: 100 << 20}, 0.8)
		}
	}
	store := func(avail uint64) func() {
		return func() {
			checkStore(board, "default", disk.Space{Total: 1000 << 30, Avail: avail << 30}, storeReserve(0, 1000<<30))
		}
	}
	quota := func(bytes, quota int64) func() {
		return func() { checkQuota(board, &vfs.ShareStatus{Name: "main", Bytes: bytes << 20, Quota: quota << 20}) }
	}
	got := raised(t, board,
		quota(899, 1000), quota(900, 1000), quota(811, 1000), quota(809, 1000), quota(950, 1000), quota(950, 0),
		spool(799, 5000), spool(800, 5000), spool(750, 5000), spool(719, 5000), spool(750, 5000),
		spool(100, 499), spool(100, 500), func() { checkSpool(board, &vfs.Status{DiskFree: -1, Reserve: 1}, 0.8) },
		store(20), store(19), store(21), store(22),
	)
	full, free := "spool-nearly-full spool: the spool has N MiB of 1000 MiB; at that size uploads are refused", "store-nearly-full default: the disk of the store has N GiB free; 20 GiB are expected"
	n := func(text, n string) string { return strings.Replace(text, "N", n, 1) }
	used := "quota-nearly-full main: its files have N MiB of 1000 MiB (quota); uploads that do not fit are refused"
	want := []string{
		"", n(used, "900"), n(used, "811"), "", n(used, "950"), "",
		"", n(full, "800"), n(full, "750"), "", "",
		"spool-nearly-full spool: the disk of data_dir has 499 MiB free; below 200 MiB uploads are refused", "", "",
		"", n(free, "19"), n(free, "21"), "",
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("alarms (-want +got):\n%s", d)
	}
	for _, tt := range []struct {
		configured int64
		total      uint64
		want       uint64
	}{{0, 100 << 30, 5 << 30}, {0, 10 << 40, 20 << 30}, {1, 10 << 40, 1}} {
		if got := storeReserve(tt.configured, tt.total); got != tt.want {
			t.Errorf("of %d with %d configured: %d, want %d", tt.total, tt.configured, got, tt.want)
		}
	}
}

// Backups are counted by the clock that says more, survive restarts, and a snapshot of before counts
// from its own time.
func TestBackups(t *testing.T) {
	dir, t0 := t.TempDir(), time.Date(2026, 11, 26, 12, 0, 0, 0, time.UTC)
	b, err := openBackups(dir)
	if err != nil {
		t.Fatal(err)
	}
	at := func(wall, trusted time.Duration) moment { return moment{t0.Add(wall), t0.Add(trusted)} }
	hour := time.Hour
	for _, step := range []struct {
		what   string
		do     func()
		now    moment
		newest time.Time
		want   time.Duration
	}{
		{"never backed up", nil, at(0, 0), time.Time{}, 0},
		{"time passes", nil, at(10*hour, 10*hour), time.Time{}, 10 * hour},
		{"a restart; the clock was set back", func() { b = reopened(t, b, dir) }, at(-5*hour, 20*hour), time.Time{}, 20 * hour},
		{"the machine was off for long", nil, at(200*hour, 72*hour), time.Time{}, 200 * hour},
		{"an upload", func() { b.note("main", time.Time{}) }, at(201*hour, 73*hour), time.Time{}, 0},
		{"an old snapshot is noticed", func() { b.note("main", t0.Add(10*hour)) }, at(202*hour, 74*hour), time.Time{}, hour},
		{"a snapshot of an hour ago is noticed", func() { b.note("main", t0.Add(209*hour)) }, at(210*hour, 82*hour), time.Time{}, hour},
		{"both, in any order", func() { b.note("main", time.Time{}); b.note("main", t0) }, at(211*hour, 83*hour), time.Time{}, 0},
	} {
		if step.do != nil {
			step.do()
		}
		if _, got := b.look("main", step.now, step.newest); got != step.want {
			t.Errorf("%s: %v, want %v", step.what, got, step.want)
		}
	}
	if _, got := b.look("old", at(0, 0), t0.Add(-30*hour)); got != 30*hour {
		t.Errorf("a share with a snapshot: %v, want 30 hours", got)
	}
	if _, got := b.look("odd", at(0, 0), t0.Add(30*hour)); got != 0 {
		t.Errorf("a share with a snapshot of the future: %v, want 0", got)
	}
}

// reopened is what a restart makes of it.
func reopened(t *testing.T, b *backups, dir string) *backups {
	t.Helper()
	if err := b.save(dir); err != nil {
		t.Fatal(err)
	}
	b, err := openBackups(dir)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// hookedFS calls renamed after each rename, and fails those for which broken is set.
type hookedFS struct {
	disk.OS
	renamed func()
	broken  error
}

func (h *hookedFS) Rename(from, to string) error {
	if h.broken != nil {
		return h.broken
	}
	err := h.OS.Rename(from, to)
	if h.renamed != nil {
		h.renamed()
	}
	return err
}

// An alarm that is over takes its own pins away, but none that somebody has set in the meantime; and one that
// was raised again, and stays, keeps its own.
func TestAlarmPins(t *testing.T) {
	snaps, err := snapshotter.New(t.Context(), snapshotter.Config{Store: storetest.New(t)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = snaps.Close() })
	dir := func(yield func(snapshotter.Change, error) bool) {
		yield(snapshotter.Change{Path: "/", Kind: snapshotter.Dir, Version: 1}, nil)
	}
	meta := snapshotter.Meta{Share: "web", ShareID: "s", GatewayID: "g", Sequence: 1, Time: time.Unix(1, 0)}
	id, err := snaps.Commit(t.Context(), snapshotter.ID{}, iter.Seq2[snapshotter.Change, error](dir), meta)
	if err != nil {
		t.Fatal(err)
	}
	fsys, changed := &hookedFS{}, func() {}
	board, err := alarm.Open(alarm.Config{
		Dir: t.TempDir(), Logger: slog.New(slog.DiscardHandler), Changed: func(alarm.Change) { changed() },
	})
	if err != nil {
		t.Fatal(err)
	}
	k := &keeper{
		dir: t.TempDir(), disk: fsys, snapshots: snaps, alarms: board, log: slog.New(slog.DiscardHandler),
		lineage: func(string) snapshotter.Lineage { return snapshotter.Lineage{} },
	}
	finding := alarm.Alarm{Kind: alarm.MassDeletion, Subject: "web", Finding: true, Pins: []string{id.String()}}
	raise := func() { board.Raise(finding) }
	step := func(what string, do func() error, wrong error, want string) {
		t.Helper()
		if err := do(); !errors.Is(err, wrong) {
			t.Errorf("%s: %v, want %v", what, err, wrong)
		}
		pins, err := k.pins(t.Context())
		got := ""
		for _, p := range pins {
			if got += p.Reason; p.Reason == "" {
				got += "no note"
			}
		}
		if err != nil || got != want {
			t.Errorf("%s: pinned with %q, %v; want %q", what, got, err, want)
		}
	}
	pin := func(reason string) func() error { return func() error { return k.pin(t.Context(), id, reason) } }
	ack := func() error { return k.acknowledge(t.Context(), string(finding.Kind), finding.Subject) }
	own := pinnedFor(&finding)

	raise()
	fsys.broken = syscall.ENOSPC
	step("there is no room for the note", pin(own), syscall.ENOSPC, "")
	fsys.broken = nil
	step("the alarm pins it", pin(own), nil, own)
	fsys.renamed = func() { fsys.renamed = nil; raise() } // once it is unpinned
	step("it is raised again while it is acknowledged", ack, alarm.ErrChanged, own)
	step("it is acknowledged", ack, nil, "")
	raise()
	step("the alarm pins it again", pin(own), nil, own)
	step("somebody else pins it as well", pin("evidence"), nil, "evidence")
	step("that alarm is acknowledged", ack, nil, "evidence")

	unpin := func() error { return k.unpin(t.Context(), id) }
	step("somebody has seen enough", unpin, nil, "")
	raise()
	step("an alarm pins it", pin(own), nil, own)
	changed = func() { _, err = k.unpinForAlarm(t.Context(), id) }
	good, gerr := snaps.Snapshot(t.Context(), id)
	if gerr != nil {
		t.Fatal(gerr)
	}
	again := &watch.Finding{Kind: alarm.Shrink, Good: good}
	s := &serving{gateway: &gateway{log: k.log, snapshots: snaps, alarms: board}, keeper: k}
	suspect := func() error {
		serr := s.suspect(t.Context(), "web", &good, again)
		return errors.Join(serr, err)
	}
	step("another pins it while that one is acknowledged", suspect, nil, alarmNote+"shrink web")

	// As a hook does that is told of each alarm.
	board.Drop(finding.Kind, finding.Subject)
	ackOther := func() error { return k.acknowledge(t.Context(), string(again.Kind), "web") }
	changed = func() {}
	step("nothing is pinned", ackOther, nil, "")
	for range 5 {
		acked := make(chan error, 1)
		changed = func() {
			changed = func() {}
			go func() { acked <- ackOther() }()
		}
		step("it is acknowledged before it has pinned", func() error { return errors.Join(suspect(), <-acked) }, nil, "")
		if left := board.List(); len(left) > 0 {
			t.Errorf("alarms are left: %v", left)
		}
	}
}
