package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/snapgate/gateway/internal/alarm"
	"github.com/snapgate/gateway/internal/disk"
	"github.com/snapgate/gateway/snapshotter"
)

// fullnessRig is a watch of a store that the test fills.
type fullnessRig struct {
	*fullness
	t              *testing.T
	bytes, pending int64
	avail          int64 // -1: the disk does not tell
	list           []verdict
	room           int64
	why            string
	made           int // how often room was made
}

func newFullnessRig(t *testing.T) *fullnessRig {
	t.Helper()
	board, err := alarm.Open(alarm.Config{Dir: t.TempDir(), Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	r := &fullnessRig{t: t, avail: -1}
	r.fullness = &fullness{
		bounded: &bounded{
			store: "default", key: "limits.store", reserve: 10,
			size:    func(context.Context) (int64, error) { return r.bytes, nil },
			free:    func() (int64, bool, error) { return r.avail, r.avail >= 0, nil },
			pending: func() int64 { return r.pending },
		},
		alarms: board, log: slog.New(slog.DiscardHandler), moved: make(chan struct{}, 1),
		refuse:    func(room int64, why string) { r.room, r.why = room, why },
		left:      func() int64 { return r.room },
		verdicts:  func(context.Context) ([]verdict, error) { return r.list, nil },
		checkDisk: func() { board.Clear(alarm.StoreNearlyFull, "default") }, // which has what is expected
		makeRoom:  func(context.Context) { r.made++ },
	}
	return r
}

// alarmed looks, and returns the kind of the one alarm that there may be, and its text.
func (r *fullnessRig) alarmed() (alarm.Kind, string) {
	r.t.Helper()
	if err := r.look(r.t.Context()); err != nil {
		r.t.Fatal(err)
	}
	r.rooms.Wait()
	switch list := r.alarms.List(); len(list) {
	case 0:
		return "", ""
	case 1:
		return list[0].Kind, list[0].Text
	default:
		r.t.Fatalf("%d alarms: %+v", len(list), list)
	}
	return "", ""
}

// As a store fills, an alarm says so, then uploads are refused, and whose data fill it is named.
// What is locked is told from what may go.
func TestStoreFills(t *testing.T) {
	now := time.Date(2026, 11, 21, 19, 0, 0, 0, time.UTC)
	r := newFullnessRig(t)
	snap := func(share string, age time.Duration, size uint64, user, reason string) verdict {
		return verdict{
			snap: snapshotter.Snapshot{Share: share, Time: now.Add(-age), Size: size, Tags: []string{"user=" + user, "reason=close"}},
			keep: reason != "", reasons: []string{reason},
		}
	}
	r.list = []verdict{
		snap("main", time.Hour, 3<<20, "fw01", "locked until 2026-12-03 12:00 UTC"),
		snap("main", 2*time.Hour, 9<<20, "fw02", "newest of its share"),
		snap("web", time.Hour, 5<<20, "www", "pinned"),
	}
	check := func(what string, room int64, kind alarm.Kind, words ...string) {
		t.Helper()
		got, text := r.alarmed()
		if got != kind || r.room != room {
			t.Errorf("%s: alarm %q, room for %d bytes; want %q, %d: %s", what, got, r.room, kind, room, text)
		}
		for _, w := range words {
			if !strings.Contains(text, w) {
				t.Errorf("%s: the alarm does not say %q: %s", what, w, text)
			}
		}
	}
	r.bytes = 500
	check("without a limit", -1, "")
	r.limitTo(1000)
	check("half full", 500, "")
	r.pending = 450
	check("nearly full with what is pending", 500, alarm.StoreNearlyFull, "500 B of 1000 B (limits.store)", "main has 3.0 MiB in 2 snapshots, 1 of them locked (fw01, fw02)")
	if r.made != 0 {
		t.Error("room was made before the store was full")
	}
	r.bytes, r.pending = 2000, 0
	check("full of what is locked", 0, alarm.StoreFullOfLocked, "uploads are refused, and nothing may be removed (locked snapshots: 1)", "web has 5.0 MiB")
	if r.why != "the limit of the store is reached" || r.made != 1 {
		t.Errorf("refused with %q; room was made %d times, want once", r.why, r.made)
	}
	r.list[1].keep = false
	check("full, and something may go", 0, alarm.StoreNearlyFull, "uploads are refused")
	if r.made != 1 {
		t.Errorf("room was made %d times within a minute", r.made)
	}
	r.limitTo(10_000)
	check("with a higher limit", 8000, "")
	r.avail = 1000
	check("the disk has less", 990, "")
	r.avail = 39
	check("the disk has little", 29, alarm.StoreNearlyFull, "its disk has 39 B left")
	r.limitTo(0)
	r.avail = 10
	check("the disk is full", 0, alarm.StoreNearlyFull, "uploads are refused")
	if r.why != "the disk of the store is nearly full" {
		t.Errorf("refused with %q", r.why)
	}

	// Who overwrites a small file all day is named first, however many have more data; and the largest is named.
	const reason = "locked until 2026-12-03 12:00 UTC"
	r.list = []verdict{snap("media", time.Hour, 9<<40, "amy", reason)}
	for _, user := range []string{"ann", "bob", "cleo", "dan", "eve", "fay"} {
		r.list = append(r.list, snap("main", time.Hour, 5<<30, user, reason), snap("share-"+user, time.Hour, 1<<30, user, reason), snap("share-"+user, time.Hour, 1<<30, user, reason))
	}
	for i := range 50 {
		r.list = append(r.list, snap("main", time.Duration(i)*time.Minute, 3<<10, "zed", reason), snap("main", 2*time.Hour, 3<<10, "fay", "newest of its share"))
	}
	check("filled by many snapshots of a small file", 0, alarm.StoreFullOfLocked,
		"(locked snapshots: 69); main has 3.0 KiB in 106 snapshots, 56 of them locked (zed, fay, ann, bob, cleo, and 2 more); share-ann has ",
		"; share-cleo has 1.0 GiB in 2 snapshots, 2 of them locked (cleo); media has 9.0 TiB in 1 snapshot, 1 of them locked (amy); and 3 more shares")
}

// A disk that was full is looked at again as soon as it has room: nobody waits for a minute.
func TestFullDiskFreed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, start := newFullnessRig(t), time.Now()
		r.free = func() (int64, bool, error) {
			if time.Since(start) < 3500*time.Millisecond {
				return 10, true, nil
			}
			return 1000, true, nil
		}
		if kind, _ := r.alarmed(); kind != alarm.StoreNearlyFull || r.room != 0 {
			t.Fatalf("alarm %q, room for %d bytes; want a full store", kind, r.room)
		}
		<-r.moved // somebody has tried to make room
		if !r.pause(t.Context(), 0) || time.Since(start) != 4*time.Second {
			t.Errorf("looked again after %s, want 4 s", time.Since(start))
		}
		if kind, _ := r.alarmed(); kind != "" || r.room != 990 {
			t.Errorf("alarm %q, room for %d bytes; want none and 990", kind, r.room)
		}
		if start = time.Now(); !r.pause(t.Context(), 0) || time.Since(start) != time.Minute {
			t.Errorf("a disk with room was looked at after %s, want a minute", time.Since(start))
		}
	})
}

// While room is made, which may take hours, the alarm is there, and what else makes room is noticed.
func TestFullWhileRoomIsMade(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, made := newFullnessRig(t), make(chan struct{})
		r.makeRoom = func(context.Context) { <-made }
		r.bytes = 2000
		r.limit.Store(1000)
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() { defer close(ended); r.watch(ctx) }()
		check := func(what string, room int64, alarms int) {
			t.Helper()
			synctest.Wait()
			if got := len(r.alarms.List()); got != alarms || r.room != room {
				t.Errorf("%s: %d alarms, room for %d bytes; want %d, %d", what, got, r.room, alarms, room)
			}
		}
		check("full", 0, 1)
		r.limitTo(10_000)
		check("with a higher limit", 8000, 0)
		r.limitTo(1000)
		check("full again", 0, 1)
		r.bytes = 500
		close(made)
		check("room was made", 500, 0)
		cancel()
		<-ended
	})
}

// A disk that has less than expected is one alarm, which stays acknowledged, however often it is looked at.
func TestLessThanExpectedStays(t *testing.T) {
	r := newFullnessRig(t)
	r.checkDisk = func() { checkStore(r.alarms, r.store, disk.Space{Total: 2000, Avail: 1000}, 1500) }
	r.avail = 1000
	for i := range 3 {
		if kind, _ := r.alarmed(); kind != alarm.StoreNearlyFull {
			t.Fatalf("look %d: alarm %q, want %s", i, kind, alarm.StoreNearlyFull)
		}
		a, _ := r.alarms.Get(alarm.StoreNearlyFull, r.store)
		if a.Times != i+1 || a.Acknowledged.IsZero() == (i > 0) {
			t.Errorf("look %d: %+v", i, a)
		}
		if _, err := r.alarms.Acknowledge(&a); err != nil {
			t.Fatal(err)
		}
	}
}

// What writes to a store is refused when it is full, and ended when it becomes full; what ends by itself, or
// has done its work by then, is left alone.
func TestFullStoreEndsWhatWrites(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newFullnessRig(t)
		r.limitTo(1000)
		broken := errors.New("something else")
		r.path = "/srv/store"
		elsewhere := &fs.PathError{Op: "write", Path: "/srv/store-cache/x", Err: syscall.ENOSPC}
		for _, tt := range []struct {
			name       string
			came, want error
			more       int64
		}{
			{"that has room", nil, nil, 0},
			{"that has room, and another error", broken, broken, 0},
			{"that becomes full", context.Canceled, errStoreFull, 500},
			{"that becomes full at the end", nil, nil, 500},
			{"whose disk is full before it is looked at", fmt.Errorf("pull: %w", &fs.PathError{Op: "write", Path: "/srv/store/packfiles/ab/x", Err: syscall.ENOSPC}), errStoreFull, 0},
			{"whose quota is used up", &fs.PathError{Op: "write", Path: "/srv/store/packfiles/ab/x", Err: syscall.EDQUOT}, errStoreFull, 0},
			{"that has room, and another disk is full", elsewhere, elsewhere, 0},
		} {
			began := time.Now()
			r.size = func(context.Context) (int64, error) {
				if time.Since(began) > time.Second {
					return 500 + tt.more, nil
				}
				return 500, nil
			}
			ctx, finish, err := r.guard(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			<-time.After(guardInterval + time.Second)
			synctest.Wait()
			if ended := ctx.Err() != nil; ended != (tt.more > 0) {
				t.Errorf("a store %s: ended is %v", tt.name, ended)
			}
			if err := finish(tt.came); !errors.Is(err, tt.want) || (err == nil) != (tt.want == nil) {
				t.Errorf("a store %s: %v, want %v", tt.name, err, tt.want)
			}
		}
		r.size = func(context.Context) (int64, error) { return 1000, nil }
		_, _, err := r.guard(t.Context())
		if !errors.Is(err, errStoreFull) || !worthRetrying(err) {
			t.Fatalf("a full store: %v, want %v, and another try", err, errStoreFull)
		}
		if got, want := err.Error(), "the store is full: default: it has 1000 B of 1000 B (limits.store)"; got != want {
			t.Errorf("%q, want %q", got, want)
		}
		if hint := hintFor(err); !strings.Contains(hint, "gateway prune") || !strings.Contains(hint, "limits.store") {
			t.Errorf("hint %q", hint)
		}
	})
}
