package retention

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func at(s string) time.Time {
	t, err := time.Parse("2006-01-02 15:04", s)
	if err != nil {
		panic(err)
	}
	return t
}

func zone(t *testing.T, name string) *time.Location {
	t.Helper()
	z, err := time.LoadLocation(name)
	if err != nil {
		t.Fatal(err)
	}
	return z
}

func policy(t testing.TB, text string) Policy {
	t.Helper()
	p, err := Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// honest are snapshots that were seen when they were made, named by their times.
func honest(times ...string) []Snapshot {
	var list []Snapshot
	for i, s := range times {
		list = append(list, seen(uint64(i+1), at(s), at(s), 0))
	}
	return list
}

// seen is a snapshot that was seen at a time, and not a minute before.
func seen(n uint64, label, when time.Time, age time.Duration) Snapshot {
	return Snapshot{
		ID: label.Format("2006-01-02 15:04"), Sequence: n, Time: label,
		Sight: Sight{Before: when.Add(-time.Minute), Seen: when, Age: age},
	}
}

// kept are the ids that are kept, with their reasons.
func kept(list []Decision) []string {
	var out []string
	for _, d := range list {
		if d.Keep {
			out = append(out, d.ID+": "+strings.Join(d.Reasons, "; "))
		}
	}
	return out
}

func TestDecide(t *testing.T) {
	tests := []struct {
		name   string
		policy string
		zone   string
		now    string
		snaps  []Snapshot
		want   []string
	}{
		{
			name: "all rules", policy: "all 1d, hourly 2d, daily 7d, yearly forever, last 2", now: "2026-11-26 12:00",
			snaps: honest("2024-03-01 08:00", "2024-12-31 22:00", "2026-11-18 09:00", "2026-11-20 09:00", "2026-11-20 23:00", "2026-11-25 07:05", "2026-11-25 07:55", "2026-11-26 10:00", "2026-11-26 10:30"),
			want: []string{
				"2024-12-31 22:00: yearly of 2024",
				"2026-11-20 23:00: daily of 2026-11-20",
				"2026-11-25 07:55: hourly of 2026-11-25 07:00 +0000; daily of 2026-11-25",
				"2026-11-26 10:00: all for 1 day; one of the last 2",
				"2026-11-26 10:30: newest of its share; all for 1 day; hourly of 2026-11-26 10:00 +0000; daily of 2026-11-26; yearly of 2026; one of the last 2",
			},
		},
		{
			name: "no policy", now: "2099-01-01 00:00", snaps: honest("1999-01-01 00:00", "2026-11-26 10:30"),
			want: []string{"1999-01-01 00:00: everything is kept", "2026-11-26 10:30: newest of its share; everything is kept"},
		},
		{
			name: "the newest, however old", policy: "all 1d", now: "2026-11-26 12:00", snaps: honest("2020-01-01 00:00", "2020-01-02 00:00"),
			want: []string{"2020-01-02 00:00: newest of its share"},
		},
		{
			name: "days begin where the share is", policy: "daily 30d", zone: "Pacific/Auckland", now: "2026-11-26 12:00",
			// 23:59 and 00:30 in Auckland.
			snaps: honest("2026-11-20 10:59", "2026-11-20 11:30", "2026-11-20 23:00"),
			want:  []string{"2026-11-20 10:59: daily of 2026-11-20", "2026-11-20 23:00: newest of its share; daily of 2026-11-21"},
		},
		{
			name: "the hour that the clock shows twice", policy: "hourly 30d", zone: "Europe/Paris", now: "2026-10-26 12:00",
			snaps: honest("2026-10-25 00:30", "2026-10-25 01:30", "2026-10-25 02:30"), // 02:30, 02:30, 03:30
			want: []string{
				"2026-10-25 00:30: hourly of 2026-10-25 02:00 +0200", "2026-10-25 01:30: hourly of 2026-10-25 02:00 +0100",
				"2026-10-25 02:30: newest of its share; hourly of 2026-10-25 03:00 +0100",
			},
		},
		{
			name: "a year from a leap day ends on the first of March", policy: "daily 1y", now: "2029-02-28 23:00",
			snaps: honest("2028-02-28 12:00", "2028-02-29 12:00", "2028-03-01 12:00"),
			want:  []string{"2028-02-29 12:00: daily of 2028-02-29", "2028-03-01 12:00: newest of its share; daily of 2028-03-01"},
		},
		{
			name: "and not later", policy: "daily 1y", now: "2029-03-01 12:01",
			snaps: honest("2028-02-29 12:00", "2028-03-01 12:00"), want: []string{"2028-03-01 12:00: newest of its share"},
		},
		{
			name: "a month from 31 January", policy: "all 1mo", now: "2027-03-02 00:00",
			snaps: honest("2027-01-31 12:00", "2027-03-01 00:00"), want: []string{"2027-01-31 12:00: all for 1 month", "2027-03-01 00:00: newest of its share; all for 1 month"},
		},
		{
			name: "a week of two years", policy: "weekly 10y", now: "2027-06-01 00:00",
			snaps: honest("2026-12-27 12:00", "2026-12-31 12:00", "2027-01-02 12:00", "2027-01-04 12:00"),
			want: []string{
				"2026-12-27 12:00: weekly of 2026-W52", "2027-01-02 12:00: weekly of 2026-W53",
				"2027-01-04 12:00: newest of its share; weekly of 2027-W01",
			},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var p Policy
			if tt.policy != "" {
				p = policy(t, tt.policy)
			}
			if tt.zone != "" {
				p.Zone = zone(t, tt.zone)
			}
			if d := cmp.Diff(tt.want, kept(Decide(tt.snaps, at(tt.now), p))); d != "" {
				t.Errorf("kept (-want +got):\n%s", d)
			}
		})
	}
}

func TestMustStay(t *testing.T) {
	now := at("2026-11-26 12:00")
	p := policy(t, "last 1")
	p.Lock = 7 * 24 * time.Hour
	snaps := honest("2026-01-01 00:00", "2026-01-02 00:00", "2026-01-03 00:00", "2026-01-04 00:00", "2026-11-20 00:00", "2026-11-26 00:00")
	for i := range snaps[:4] {
		snaps[i].Sight.Age = 300 * 24 * time.Hour
	}
	snaps[1].Pinned = true
	snaps[2].Hold = "a pending change needs it"
	snaps[4].Sight.Age = 6 * 24 * time.Hour
	got := Decide(snaps, now, p)
	want := []string{
		"2026-01-02 00:00: pinned", "2026-01-03 00:00: a pending change needs it",
		"2026-11-20 00:00: locked until 2026-11-27 12:00 UTC",
		"2026-11-26 00:00: locked until 2026-12-03 12:00 UTC; newest of its share; one of the last 1",
	}
	if d := cmp.Diff(want, kept(got)); d != "" {
		t.Errorf("kept (-want +got):\n%s", d)
	}
	if d := cmp.Diff(Decision{ID: "2026-01-01 00:00", Reasons: []string{"older than all that is kept"}}, got[0]); d != "" {
		t.Error(d)
	}
	// One that nobody has seen before is as young as can be.
	snaps[0].Sight = Sight{}
	if d := Decide(snaps, now, p)[0]; !d.Keep || d.Reasons[0] != "locked until 2026-12-03 12:00 UTC" {
		t.Errorf("never seen: %+v", d)
	}
}

// A snapshot whose time is not true takes nobody's place, and is not old because its clock was.
func TestDoubt(t *testing.T) {
	p := policy(t, "all 1d, daily 30d, yearly forever")
	now := at("2026-11-26 12:00")
	snaps := honest("2024-06-01 12:00", "2025-06-01 12:00", "2026-11-10 12:00", "2026-11-10 13:00", "2026-11-26 11:00")
	snaps = append(snaps,
		seen(6, at("2025-12-31 23:59"), at("2026-11-26 11:10"), 0), // the clock was set back
		seen(7, at("2025-12-31 23:59").Add(1), at("2026-11-20 11:20"), 0),
		seen(8, at("2099-01-01 00:00"), at("2026-11-26 11:30"), 0), // and forward
		seen(9, at("2099-01-01 00:01"), at("2026-11-26 11:40"), 0))
	got := Decide(snaps, now, p)
	want := []string{
		"2024-06-01 12:00: yearly of 2024",
		"2025-06-01 12:00: yearly of 2025",
		"2026-11-10 13:00: daily of 2026-11-10",
		"2026-11-26 11:00: all for 1 day; daily of 2026-11-26; yearly of 2026",
		"2025-12-31 23:59: all for 1 day",
		"2025-12-31 23:59: daily of 2026-11-20, when it was first seen; yearly of 2025, by a clock that was wrong",
		"2099-01-01 00:00: all for 1 day",
		"2099-01-01 00:01: newest of its share; all for 1 day; daily of 2026-11-26, when it was first seen; yearly of 2026, when it was first seen",
	}
	if d := cmp.Diff(want, kept(got)); d != "" {
		t.Errorf("kept (-want +got):\n%s", d)
	}
}

// An attacker who uploads thousands of snapshots gets no older one removed earlier, and none of
// what is locked.
func TestFlood(t *testing.T) {
	p := policy(t, "hourly 2d, daily 30d, monthly forever, last 10")
	p.Lock = 7 * 24 * time.Hour
	now := at("2026-11-26 12:00")
	var good []Snapshot
	for i, day := uint64(1), at("2026-06-01 20:00"); day.Before(now); i, day = i+1, day.AddDate(0, 0, 1) {
		good = append(good, seen(i, day, day, now.Sub(day)))
	}
	var before []string
	for _, d := range Decide(good, now, p) {
		if d.Keep && !slices.Contains(d.Reasons, "newest of its share") && !strings.Contains(strings.Join(d.Reasons, ";"), "one of the last") {
			before = append(before, d.ID)
		}
	}
	flood := slices.Clone(good)
	for i := range 5000 {
		when := now.Add(time.Duration(i-5000) * time.Second)
		s := seen(uint64(1000+i), when, when, now.Sub(when))
		s.ID = fmt.Sprint("flood ", i)
		flood = append(flood, s)
	}
	after := map[string]bool{}
	for _, d := range Decide(flood, now, p) {
		after[d.ID] = d.Keep
	}
	for _, id := range before {
		if !after[id] {
			t.Errorf("%s was kept before the flood, and is not any more", id)
		}
	}
	for _, s := range good {
		if s.Sight.Age < p.Lock && !after[s.ID] {
			t.Errorf("%s is locked, and was removed", s.ID)
		}
	}
	// A week later all of it that is not the last of an hour, a day or a month goes.
	later := now.Add(8 * 24 * time.Hour)
	for i := range flood {
		flood[i].Sight.Age += 8 * 24 * time.Hour
	}
	left := kept(Decide(flood, later, p))
	if n := len(slices.DeleteFunc(left, func(s string) bool { return !strings.HasPrefix(s, "flood") })); n != 10 {
		t.Errorf("%d of the flood are left, want the last 10", n)
	}
}
