package main

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/snapgate/gateway/cmd/gateway/internal/config"
	"github.com/snapgate/gateway/internal/alarm"
	"github.com/snapgate/gateway/internal/disk"
	"github.com/snapgate/gateway/snapshotter"
	"github.com/snapgate/gateway/store/storetest"
)

// What comes within the delay is read back by one run, what comes during a run by another, and a run that
// cannot be made is made later.
func TestVerifySoon(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := &events{made: make(chan struct{}, 1), stored: make(chan struct{}, 1)}
		var mu sync.Mutex // guards what follows
		begun, runs, done := time.Now(), []time.Duration(nil), false
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			verifySoon(ctx, e.stored, func() bool {
				mu.Lock()
				defer mu.Unlock()
				runs = append(runs, time.Since(begun))
				if len(runs) == 2 {
					e.pulse() // while it runs
				}
				return done
			})
		}()
		want := func(want ...time.Duration) {
			t.Helper()
			synctest.Wait()
			mu.Lock()
			defer mu.Unlock()
			if len(runs) != len(want) {
				t.Fatalf("runs at %v, want %v", runs, want)
			}
			for i := range want {
				if runs[i] != want[i] {
					t.Errorf("runs at %v, want %v", runs, want)
				}
			}
		}
		time.Sleep(time.Hour) //nolint:forbidigo // in a synctest bubble
		want()                // nothing was stored
		answer := func(d bool) {
			mu.Lock()
			defer mu.Unlock()
			done = d
		}
		now := func(d bool) {
			mu.Lock()
			begun = time.Now()
			mu.Unlock()
			answer(d)
		}
		now(false)
		for range 10 {
			e.pulse()
			time.Sleep(time.Second) //nolint:forbidigo // in a synctest bubble
		}
		want()
		answer(true)
		time.Sleep(time.Hour) //nolint:forbidigo // in a synctest bubble
		want(verifyDelay)
		now(false)
		e.pulse()
		time.Sleep(verifyDelay) //nolint:forbidigo // in a synctest bubble
		want(verifyDelay, verifyDelay)
		answer(true)
		time.Sleep(time.Hour) //nolint:forbidigo // in a synctest bubble
		// What was pulsed during the run that failed is part of the one that is made for it.
		want(verifyDelay, verifyDelay, verifyDelay+verifyAgain)
		cancel()
		<-ended
	})
}

// What snapshots have brought is read back, once, and nothing else.
func TestVerifyNew(t *testing.T) {
	snaps, err := snapshotter.New(t.Context(), snapshotter.Config{Store: storetest.New(t)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = snaps.Close() })
	log := slog.New(slog.DiscardHandler)
	board, err := alarm.Open(alarm.Config{Dir: t.TempDir(), Logger: log})
	if err != nil {
		t.Fatal(err)
	}
	cfg := &config.Config{DataDir: t.TempDir(), Store: config.Store{Name: config.DefaultStore}}
	cfg.Verify.New, cfg.Verify.Every = true, 30*24*time.Hour
	s := &serving{gateway: &gateway{snapshots: snaps, alarms: board, log: log, cfg: cfg, events: &events{stored: make(chan struct{}, 1)}}}
	s.inForce.Store(cfg)
	base := snapshotter.ID{}
	commit := func(n uint64) {
		t.Helper()
		changes := func(yield func(snapshotter.Change, error) bool) {
			yield(snapshotter.Change{Path: "/", Kind: snapshotter.Dir, Version: n}, nil)
		}
		meta := snapshotter.Meta{Share: "main", ShareID: "s", GatewayID: "g", Sequence: n, Parent: base, Time: time.Unix(int64(n), 0)}
		if base, err = snaps.Commit(t.Context(), base, iter.Seq2[snapshotter.Change, error](changes), meta); err != nil {
			t.Fatal(err)
		}
	}
	// run reads back, and says how many files there are, all of which were read, and how much of them now.
	run := func() (files int, bytes int64) {
		t.Helper()
		before := s.verifying.read.Load()
		if !s.scrubNew(t.Context()) {
			t.Fatal("it is to be tried again")
		}
		st, _ := s.verifying.get()
		if st.Fresh != st.Files {
			t.Errorf("%d of %d files are read back", st.Fresh, st.Files)
		}
		return st.Files, s.verifying.read.Load() - before
	}
	for n := range uint64(3) {
		commit(n + 1)
	}
	files, three := run()
	if files < 6 || three == 0 { // a packfile and a state each, at least
		t.Errorf("of three snapshots %d files, %d bytes", files, three)
	}
	if again, bytes := run(); again != files || bytes != 0 {
		t.Errorf("once more: %d bytes", bytes)
	}
	commit(4)
	if now, bytes := run(); now <= files || bytes == 0 || bytes >= three {
		t.Errorf("of a fourth %d files after %d, %d bytes after %d", now, files, bytes, three)
	}
	// What was known cannot be read: an alarm of damage stays until everything was read back again.
	if err := os.WriteFile(filepath.Join(scrubDir(cfg, &cfg.Store), "scrub.json"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	board.Raise(alarm.Alarm{Kind: alarm.VerificationFailed, Subject: config.DefaultStore, Text: "damaged"})
	s.openVerifying()
	if _, known := board.Get(alarm.VerificationFailed, config.DefaultStore); !known {
		t.Error("the alarm is over, and nothing was read back")
	}
	if _, err := s.verifying.get(); err == nil {
		t.Error("nobody is told that nothing is known")
	}
	mc := snapshotter.MaintainConfig{Dir: t.TempDir(), Grace: snapshotter.DefaultGrace}
	if _, err := snaps.Maintain(t.Context(), mc); !errors.Is(err, snapshotter.ErrForgotten) {
		t.Errorf("it is maintained, and nobody knows what is damaged: %v", err)
	}
	before := s.verifying.read.Load()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	sc := scrubConfig(cfg, &cfg.Store, snapshotter.ScrubNew)
	sc.Progress = func(snapshotter.ScrubReport) { cancel() }
	if _, err := s.scrub(ctx, sc); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	s.openVerifying() // after a start
	_, err = s.verifying.get()
	if a, _ := board.Get(alarm.VerificationFailed, config.DefaultStore); !strings.HasPrefix(a.Text, snapshotter.ErrForgotten.Error()) || !errors.Is(err, snapshotter.ErrForgotten) {
		t.Errorf("it was cut off: %v, alarm %q", err, a.Text)
	}
	if run(); s.verifying.read.Load()-before < three {
		t.Errorf("then %d bytes were read back, of three snapshots alone %d", s.verifying.read.Load()-before, three)
	}
	if _, known := board.Get(alarm.VerificationFailed, config.DefaultStore); known {
		t.Error("the alarm goes on, and all was read back")
	}
	// That it cannot be read back is an alarm, but not that another run is at it.
	commit(5)
	failing := func() string {
		a, _ := board.Get(alarm.JobFailed, verifyNewSubject)
		return a.Text
	}
	dir := scrubDir(cfg, &cfg.Store)
	lock, err := disk.Lock(dir)
	if err != nil {
		t.Fatal(err)
	}
	for range failuresToTell + 1 {
		if s.scrubNew(t.Context()) || failing() != "" {
			t.Fatalf("another run is at it, and it is not tried again, or an alarm: %q", failing())
		}
	}
	if err := lock.Unlock(); err != nil {
		t.Fatal(err)
	}
	for _, err := range []error{os.Rename(dir, dir+".away"), os.WriteFile(dir, nil, 0o600)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	if !s.scrubNew(t.Context()) || !strings.HasPrefix(failing(), "what snapshots have brought could not be read back, 1 in a row: ") {
		t.Errorf("it cannot be read back at all: %q", failing())
	}
	for _, err := range []error{os.Remove(dir), os.Rename(dir+".away", dir)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	if run(); failing() != "" {
		t.Errorf("it was read back, and the alarm goes on: %s", failing())
	}
	cfg.Verify.New = false
	commit(6)
	before = s.verifying.read.Load()
	if done := s.scrubNew(t.Context()); !done || s.verifying.read.Load() != before {
		t.Error("what is new was read back, and should not be")
	}
}

// What cannot be read by several runs in a row is an alarm until one goes well.
func TestUnreadGoesOn(t *testing.T) {
	board := newBoard(t)
	s := &serving{gateway: &gateway{alarms: board}}
	step := func(err error) func() { return func() { s.alarmOfNew(err) } }
	unread := fmt.Errorf("1 file %w: %w", snapshotter.ErrUnread, snapshotter.ErrUnavailable)
	got := raised(t, board, step(unread), step(unread), step(nil), step(unread), step(unread), step(unread), step(unread), step(nil), step(unread))
	text := "job-failed verify:new_snapshots: what snapshots have brought could not be read back, N in a row: 1 file could not be read: store unavailable"
	want := []string{"", "", "", "", "", strings.Replace(text, "N", "3", 1), strings.Replace(text, "N", "4", 1), "", ""}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("alarms (-want +got):\n%s", d)
	}
}

// Damage is said also when nothing is known but that it is there.
func TestDamageText(t *testing.T) {
	one := []snapshotter.Damage{{Kind: snapshotter.DamagedPackfile}}
	for want, st := range map[string]snapshotter.ScrubState{
		"":                              {},
		"damaged in the store: 3 files": {More: 3},
		"what was found damaged in the store is not known any more, until all of it is read back; 2 of 5 files are left": {Files: 5, Unread: 2, Forgotten: time.Now()},
		"damaged in the store: 1 packfile, 1 more file":                                                                  {Damage: one, More: 1},
	} {
		if got := damageText(&st); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}
