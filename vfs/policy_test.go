package vfs

import (
	"testing"
	"time"
)

// at is a time on the day of the policy tests.
func at(clock string) time.Time {
	t, err := time.Parse(time.RFC3339Nano, "2026-11-22T"+clock+"Z")
	if err != nil {
		return time.Time{}
	}
	return t
}

// midnights is a schedule: once a day at 00:00.
func midnights(after time.Time) time.Time { return after.Truncate(24 * time.Hour).Add(24 * time.Hour) }

func TestDecide(t *testing.T) {
	batch := ShareConfig{When: WhenBatch}
	onClose := ShareConfig{When: WhenClose}
	session := ShareConfig{When: WhenSession}
	manual := ShareConfig{When: WhenManual}
	schedule := ShareConfig{When: WhenSchedule, Next: midnights}
	const hot = "08:00:00.000000001" // a nanosecond after the change at 08:00:00
	change := policyState{oldestChange: at("08:00:00"), lastChange: at("08:00:00")}
	with := func(st policyState, edits ...func(*policyState)) policyState {
		for _, e := range edits {
			e(&st)
		}
		return st
	}
	online := func(st *policyState) { st.sessions = 1 }
	ended := func(clock string) func(*policyState) {
		return func(st *policyState) { st.sessions, st.lastSessionEnd = 0, at(clock) }
	}
	uploading := func(st *policyState) { st.openUploads = 1 }
	bulk := func(st *policyState) { st.sessions, st.bulk = 1, 1 }
	last := func(clock string) func(*policyState) {
		return func(st *policyState) { st.lastChange = at(clock) }
	}
	published := func(st *policyState) { st.completedUpload = true }
	temp := func(clock string) func(*policyState) {
		return func(st *policyState) { st.oldestTemp = at(clock) }
	}
	sealed := func(n int, clock string) func(*policyState) {
		return func(st *policyState) { st.sealed, st.oldestSealed = n, at(clock) }
	}
	restored := func(clock string) func(*policyState) {
		return func(st *policyState) { st.oldestRestore = at(clock) }
	}
	changes := func(n int) func(*policyState) { return func(st *policyState) { st.changes = n } }
	pressed := func(st *policyState) { st.pressed = true }
	none := policyState{}

	for _, tt := range []struct {
		name   string
		cfg    ShareConfig
		st     policyState
		now    string
		commit bool
		reason string
		wake   string // "": never
	}{
		{"batch: nothing", batch, none, "08:00:00", false, "", ""},
		{"batch: nothing, long after a session", batch, with(none, ended("07:00:00")), "08:00:00", false, "", ""},
		{"batch: waits for quiet while a session lasts", batch, with(change, online), "08:00:59", false, "", "08:01:00"},
		{"batch: quiet", batch, with(change, online), "08:01:00", true, "batch", ""},
		{"batch: another change starts the quiet again", batch, with(change, online, last("08:00:50")), "08:01:00", false, "", "08:01:50"},
		{"batch: waits for the grace of the last session", batch, with(change, ended("08:00:10")), "08:00:14.9", false, "", "08:00:15"},
		{"batch: grace over", batch, with(change, ended("08:00:10")), "08:00:15", true, "batch", ""},
		{"batch: an open upload stops grace and quiet", batch, with(change, ended("08:00:10"), uploading), "08:14:00", false, "", "08:15:00"},
		{"batch: after the longest delay, open upload or not", batch, with(change, online, uploading, last("08:14:59")), "08:15:00", true, "batch", ""},
		{"batch: the longest delay counts from the oldest change", batch, with(change, online, last("08:14:30")), "08:15:00", true, "batch", ""},
		{"batch: a change without any session since the start", batch, change, hot, true, "batch", ""},
		{"batch: what belongs together waits", batch, with(change, bulk), "08:14:59", false, "", "08:15:00"},
		{"batch: but not for ever", batch, with(change, bulk), "08:15:00", true, "batch", ""},
		{"close: what belongs together waits", onClose, with(change, bulk, published), "08:14:59", false, "", "08:15:00"},
		{"close: but not for ever", onClose, with(change, bulk, published), "08:15:00", true, "close", ""},
		{"batch: own times", ShareConfig{SessionGrace: time.Second, Quiet: 2 * time.Second, MaxDelay: 30 * time.Second}, with(change, online), "08:00:01", false, "", "08:00:02"},
		{"batch: own longest delay", ShareConfig{Quiet: 2 * time.Second, MaxDelay: 30 * time.Second}, with(change, uploading), "08:00:29", false, "", "08:00:30"},
		{"batch: too many changes for the memory", batch, with(change, online, uploading, changes(2), pressed), "08:00:00", true, "backlog", ""},
		{"batch: of temporary names, too", batch, with(none, online, last("08:00:00"), changes(2), pressed), "08:00:00", true, "backlog", ""},

		{"close: nothing", onClose, with(none, ended("07:00:00")), "08:00:00", false, "", ""},
		{"close: a completed upload commits at once", onClose, with(change, published, online), "08:00:00", true, "close", ""},
		{"close: open uploads do not stop that", onClose, with(change, published, online, uploading), "08:00:00", true, "close", ""},
		{"close: other changes wait for quiet", onClose, with(change, online), "08:00:01", false, "", "08:00:02"},
		{"close: other changes after quiet", onClose, with(change, online, uploading), "08:00:02", true, "close", ""},
		{"close: another change starts the quiet again", onClose, with(change, online, last("08:00:01.5")), "08:00:02", false, "", "08:00:03.5"},
		{"close: too many changes for the memory", onClose, with(change, online, changes(2), pressed), "08:00:00", true, "backlog", ""},
		{"close: but not for ever", onClose, with(change, online, last("08:14:59.5")), "08:15:00", true, "close", ""},
		{"close: the end of the session does not matter", onClose, with(change, ended("08:00:00.5")), "08:00:01", false, "", "08:00:02"},

		{"session: not while one lasts, whatever the time", session, with(change, online), "23:00:00", false, "", ""},
		{"session: waits for the grace", session, with(change, ended("08:30:00")), "08:30:04", false, "", "08:30:05"},
		{"session: grace over", session, with(change, ended("08:30:00")), "08:30:05", true, "session", ""},
		{"session: no change, no snapshot", session, with(none, ended("08:30:00")), "08:31:00", false, "", ""},
		{"session: changes that recovery found", session, change, "08:00:00", true, "session", ""},

		{"schedule: before the time", schedule, with(change, ended("08:30:00")), "23:59:59", false, "", "24h"},
		{"schedule: no change, no snapshot", schedule, none, "23:59:59", false, "", ""},
		{"schedule: the time has come", ShareConfig{When: WhenSchedule, Next: func(after time.Time) time.Time { return after.Add(time.Hour) }},
			with(change, online, uploading), "09:00:00", true, "schedule", ""},

		{"manual: never", manual, with(change, ended("08:00:00")), "23:00:00", false, "", ""},

		{"manual: too many changes for the memory", manual, with(change, online, changes(2), pressed), "08:00:00", true, "backlog", ""},
		{"session: too many changes for the memory", session, with(change, online, changes(2), pressed), "08:00:00", true, "backlog", ""},
		{"schedule: too many changes for the memory", schedule, with(change, online, changes(2), pressed), "08:00:00", true, "backlog", ""},

		{"restore: soon, whatever the setting", manual, with(change, restored("08:00:00"), uploading), "08:00:01", false, "", "08:00:02"},
		{"restore: manual", manual, with(change, restored("08:00:00"), uploading), "08:00:02", true, "restore", ""},
		{"restore: batch", batch, with(change, restored("08:00:00"), uploading), "08:00:02", true, "restore", ""},

		{"temp: alone it waits an hour", batch, with(none, last("08:00:00"), temp("08:00:00"), ended("08:00:10")), "08:30:00", false, "", "09:00:00"},
		{"temp: then it is a change like others", batch, with(none, last("08:00:00"), temp("08:00:00"), ended("08:00:10")), "09:00:00", true, "batch", ""},
		{"temp: then it waits for open uploads like others", batch, with(none, last("08:00:00"), temp("08:00:00"), uploading), "09:00:00", false, "", "09:15:00"},
		{"temp: others do not wait for it", batch, with(change, temp("07:59:00"), ended("08:00:10")), "08:00:15", true, "batch", ""},
		{"temp: with close it waits an hour as well", onClose, with(none, last("08:00:00"), temp("08:00:00"), online), "08:59:59", false, "", "09:00:00"},
		{"temp: with close it is committed at that age", onClose, with(none, last("08:00:00"), temp("08:00:00"), online), "09:00:00", true, "close", ""},
		{"temp: own age", ShareConfig{When: WhenClose, TempMaxAge: time.Minute}, with(none, last("08:00:00"), temp("08:00:00")), "08:01:00", true, "close", ""},
		{"temp: session", session, with(none, last("08:00:00"), temp("08:00:00"), ended("08:00:10")), "08:10:00", false, "", "09:00:00"},

		{"sealed: a short while for others to join", batch, with(none, sealed(1, "08:00:00"), online), "08:00:01", false, "", "08:00:02"},
		{"sealed: then without the current set", batch, with(change, sealed(1, "08:00:00"), online, uploading), "08:00:02", true, "", ""},
		{"sealed: close", onClose, with(none, sealed(3, "08:00:00"), online), "08:00:02", true, "", ""},
		{"sealed: together with the current set when that is due", onClose, with(change, published, sealed(1, "08:00:00")), "08:00:00", true, "close", ""},
		{"sealed: manual lets them wait, but for too many changes", manual, with(none, sealed(3, "08:00:00"), pressed), "08:00:00", true, "", ""},
		{"sealed: manual lets them wait", manual, with(none, sealed(500, "08:00:00")), "23:00:00", false, "", ""},
		{"sealed: unless there are many", manual, with(none, sealed(501, "08:00:00")), "08:00:00", true, "", ""},
		{"sealed: schedule, with a limit of its own", ShareConfig{When: WhenSchedule, Next: midnights, MaxPending: 10}, with(none, sealed(6, "08:00:00")), "08:00:00", true, "", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := decide(tt.cfg.withDefaults(), tt.st, at(tt.now))
			want := decision{commit: tt.commit, reason: tt.reason, wake: at(tt.wake)}
			if tt.wake == "24h" {
				want.wake = at("00:00:00").Add(24 * time.Hour)
			}
			if got != want {
				t.Errorf("got %+v, want %+v", got, want)
			}
		})
	}
}

// The policy never asks to be woken in the past, nor at a time at which it then waits on
// for the same reason: either would make the committer spin.
func TestDecideWakesForward(t *testing.T) {
	start := at("08:00:00")
	times := []time.Time{{}, start.Add(-2 * time.Hour), start.Add(-time.Minute), start.Add(-time.Second), start}
	for when := WhenBatch; when <= WhenManual; when++ {
		cfg := ShareConfig{When: when, Next: midnights}.withDefaults()
		for i := range 5 * 5 * 5 * 5 * 8 {
			st := policyState{
				oldestChange: times[i%5], lastChange: times[i/5%5], oldestTemp: times[i/25%5], lastSessionEnd: times[i/125%5],
				completedUpload: i/625&1 != 0, openUploads: i / 625 >> 1 & 1, sessions: i / 625 >> 2 & 1,
			}
			now := start
			for range 4 {
				d := decide(cfg, st, now)
				if d.commit && d.reason == "" {
					t.Fatalf("%+v: a commit without a reason and without sealed sets", st)
				}
				if d.commit || d.wake.IsZero() {
					break
				}
				if !d.wake.After(now) {
					t.Fatalf("%+v at %v: wake at %v", st, now, d.wake)
				}
				now = d.wake
				if !decide(cfg, st, now).commit {
					t.Fatalf("%+v: woken at %v for nothing", st, now)
				}
			}
		}
	}
}

func TestShareConfigDefaults(t *testing.T) {
	for _, tt := range []struct {
		name  string
		in    ShareConfig
		quiet time.Duration
	}{
		{"batch", ShareConfig{}, time.Minute},
		{"close", ShareConfig{When: WhenClose}, 2 * time.Second},
		{"set", ShareConfig{When: WhenClose, Quiet: time.Hour}, time.Hour},
	} {
		got := tt.in.withDefaults()
		if got.Quiet != tt.quiet || got.SessionGrace != 5*time.Second || got.MaxDelay != 15*time.Minute ||
			got.TempMaxAge != time.Hour || got.PartialMaxAge != 7*24*time.Hour || got.AckTimeout != 5*time.Minute ||
			got.MaxPending != 1000 || len(got.TempNames) != len(DefaultTempNames()) {
			t.Errorf("%s: %+v", tt.name, got)
		}
	}
	if got := (ShareConfig{TempNames: []string{}}).withDefaults().TempNames; len(got) != 0 {
		t.Errorf("an empty list of temporary names became %q", got)
	}
}

func TestShareConfigCheck(t *testing.T) {
	for _, tt := range []struct {
		name string
		cfg  ShareConfig
		ok   bool
	}{
		{"plain", ShareConfig{Name: "main"}, true},
		{"schedule", ShareConfig{Name: "main", When: WhenSchedule, Next: midnights}, true},
		{"stored with close", ShareConfig{Name: "main", When: WhenClose, AckStored: true}, true},
		{"no name", ShareConfig{}, false},
		{"a name that is a path", ShareConfig{Name: "a/b"}, false},
		{"a name that goes up", ShareConfig{Name: ".."}, false},
		{"schedule without times", ShareConfig{Name: "main", When: WhenSchedule}, false},
		{"stored with manual", ShareConfig{Name: "main", When: WhenManual, AckStored: true}, false},
		{"stored with session", ShareConfig{Name: "main", When: WhenSession, AckStored: true}, false},
		{"bad pattern", ShareConfig{Name: "main", TempNames: []string{"[a"}}, false},
	} {
		if err := tt.cfg.check(); (err == nil) != tt.ok {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
}

func TestTempNames(t *testing.T) {
	cfg := ShareConfig{}.withDefaults()
	start := at("08:00:00")
	for base, want := range map[string]bool{
		"a.part": true, "a.filepart": true, "a.partial": true, ".tmp": true, "x.tmp": true, "f.ocTransferId123": true, "\xff.part": true,
		"a.parts": false, "part": false, "a.part.txt": false, "a.PART": false, "report.pdf": false,
	} {
		if got := isTempName(cfg.TempNames, base); got != want {
			t.Errorf("%q is a temporary name: %v", base, got)
		}
		if got := cfg.tempWaits(base, start, start.Add(time.Hour-1)); got != want {
			t.Errorf("%q waits: %v", base, got)
		}
		if cfg.tempWaits(base, start, start.Add(time.Hour)) {
			t.Errorf("%q waits after an hour", base)
		}
	}
}

// Who only looks on, as pages of the web viewer do, puts no commit off, neither by being there nor by having gone.
func TestOnlookersDoNotCount(t *testing.T) {
	sys := openTestSystem(t, t.TempDir(), newMemRepository(), func(c *Config) {
		c.Shares[0].When, c.Shares[0].SessionGrace = WhenSession, time.Hour
	})
	defer closeSystem(t, sys)
	sh := testShare(t, sys)
	who := &Principal{User: "u", Perms: PermFull, Mounts: []Mount{{At: Root(), Share: sh.name, Root: Root()}}}
	session := func(onlooker bool) *Session {
		t.Helper()
		s, err := sys.Session(t.Context(), who, ConnInfo{Protocol: "web", Onlooker: onlooker})
		wantNil(t, "session", err)
		return s
	}
	uploader := session(false)
	want(t, "sessions that upload", sh.policyState().sessions, 1)
	onlooker := session(true)
	wantNil(t, "close", uploader.Close())
	st := sh.policyState()
	want(t, "sessions that upload", st.sessions, 0)
	want(t, "one has ended", st.lastSessionEnd.IsZero(), false)
	wantNil(t, "close", onlooker.Close())
	want(t, "the last end", sh.policyState().lastSessionEnd, st.lastSessionEnd)
	want(t, "sessions", sh.policyState().sessions, 0)
}
