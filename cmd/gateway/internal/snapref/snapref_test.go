package snapref_test

import (
	"encoding/hex"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/snapgate/gateway/cmd/gateway/internal/snapref"
	"github.com/snapgate/gateway/snapshotter"
)

var berlin = time.FixedZone("CET", 3600)

// now is a Thursday, 12:00 in Berlin.
var now = time.Date(2026, 11, 26, 12, 0, 0, 0, berlin)

func snap(id, share string, t time.Time, seq uint64) snapshotter.Snapshot {
	s := snapshotter.Snapshot{Share: share, Time: t, Sequence: seq}
	raw, err := hex.DecodeString(id + strings.Repeat("0", 64-len(id)))
	if err != nil {
		panic(err)
	}
	copy(s.ID[:], raw)
	if seq > 0 {
		s.GatewayID, s.ShareID = "g", share
	}
	return s
}

func at(s string) time.Time {
	t, err := time.Parse(time.RFC3339, s)
	if err != nil {
		panic(err)
	}
	return t
}

func snapshots() []snapshotter.Snapshot {
	list := []snapshotter.Snapshot{
		snap("aaaa01", "main", at("2026-11-20T08:00:00Z"), 1),
		snap("aaaa02", "main", at("2026-11-21T19:04:29Z").Add(700*time.Millisecond), 2),
		snap("bbbb03", "main", at("2026-11-21T19:04:29Z").Add(900*time.Millisecond), 3),
		snap("bbbb04", "main", at("2026-11-25T13:00:00Z"), 4),
		// The clock was put back: what follows is the head all the same.
		snap("bbbb05", "main", at("2026-11-25T12:00:00Z"), 5),
		snap("cccc06", "main", at("2026-11-26T10:59:00Z"), 0), // made by plakar
		snap("dddd07", "nas", at("2026-11-01T00:00:00Z"), 1),
		snap("eeee08", "cafe", at("2026-11-02T00:00:00Z"), 1),
		snap("cafe09", "weird@name:x", at("2026-11-03T00:00:00Z"), 0),
	}
	list[2].Suffix = 1
	return list
}

func lineage(share string) snapshotter.Lineage {
	return snapshotter.Lineage{GatewayID: "g", ShareID: share}
}

func TestFind(t *testing.T) {
	list := append(snapshots(),
		snap("ffff10", "yesterday", at("2026-11-04T00:00:00Z"), 1),
		snap("ffff11", "2026-11-25 14", at("2026-11-05T00:00:00Z"), 1))
	full := list[1].ID.String()
	for _, tt := range []struct{ ref, id, path string }{
		{full, "aaaa02", "/"},
		{full + ":etc/passwd", "aaaa02", "/etc/passwd"},
		{"dddd", "dddd07", "/"},
		{"DDDD07:/", "dddd07", "/"},
		{"dddd07:/a:b/c", "dddd07", "/a:b/c"},
		{"bbbb03::x", "bbbb03", "/:x"},
		{"main", "bbbb05", "/"},
		{"main@latest", "bbbb05", "/"},
		{"main:a//b/./c/", "bbbb05", "/a/b/c"},
		{"main@latest:a b", "bbbb05", "/a b"},
		{"main@aaaa01", "aaaa01", "/"},
		{"main@2026-11-21T19-04-29Z", "aaaa02", "/"},
		{"main@2026-11-21T19-04-29Z-1:x:y", "bbbb03", "/x:y"},
		{"main@2026-11-26T10-59-00Z-cccc0600", "cccc06", "/"},
		{"main@2026-11-21", "bbbb03", "/"},
		{"main@2026-11-20:2026-11-21", "aaaa01", "/2026-11-21"},
		{"main@2026-11-21T19:04:29Z", "bbbb03", "/"},
		{"main@2026-11-21T20:04:28+01:00", "aaaa01", "/"},
		{"main@2026-11-21 20:04:29:/etc/14:00", "bbbb03", "/etc/14:00"},
		{"main@2026-11-21 20:05:etc", "bbbb03", "/etc"},
		{"main@yesterday 13:30", "bbbb05", "/"},
		{`main@"yesterday 13:30":/x`, "bbbb05", "/x"},
		{"main@yesterday 12:30", "bbbb03", "/"},
		{"main@5 days ago:14:00", "aaaa01", "/14:00"},
		{"main@now:/a:/b", "bbbb05", "/a:/b"},
		{"nas@2 weeks ago", "dddd07", "/"},
		{"cafe@latest", "eeee08", "/"},
		{"weird@name:x", "cafe09", "/"},
		{"weird@name:x:etc", "cafe09", "/etc"},
		{"weird@name:x@latest:etc", "cafe09", "/etc"},
		{"cafe09", "cafe09", "/"},
		{"main:\xff", "bbbb05", "/\xff"},
		// A share whose name is a time, or begins one, is the share.
		{"yesterday", "ffff10", "/"},
		{"yesterday:14:00", "ffff10", "/14:00"},
		{"2026-11-25 14:00", "ffff11", "/00"},
	} {
		got, err := snapref.Find(tt.ref, list, snapref.Options{Now: now, Lineage: lineage})
		if err != nil {
			t.Errorf("%s: %v", tt.ref, err)
			continue
		}
		if id := got.Snapshot.ID.String(); !strings.HasPrefix(id, tt.id) || got.Path != tt.path {
			t.Errorf("%s: %s:%s, want %s:%s", tt.ref, id[:6], got.Path, tt.id, tt.path)
		}
	}
}

// TestFindNewest: what depends on which other snapshots there are is told from what is named exactly.
func TestFindNewest(t *testing.T) {
	one := snapshots()[:6]
	for ref, want := range map[string]bool{
		"main": true, "main:etc": true, "main@latest": true, "latest": true, "main@yesterday 14:00": true, `main@"yesterday 14:00":x`: true, "yesterday 14:00": true,
		"aaaa02": false, "main@aaaa02": false, "main@2026-11-21T19-04-29Z": false, `main@"aaaa02":x`: false,
	} {
		if got, err := snapref.Find(ref, one, snapref.Options{Now: now, Lineage: lineage}); err != nil || got.Newest != want {
			t.Errorf("%s: %t, %v, want %t", ref, got.Newest, err, want)
		}
	}
}

func TestFindErrors(t *testing.T) {
	for _, tt := range []struct {
		ref  string
		kind error
		text string
	}{
		{"", snapref.ErrSyntax, "names no snapshot"},
		{":/etc", snapref.ErrSyntax, "names no snapshot"},
		{"aaaa", snapref.ErrAmbiguous, "aaaa020000000000"},
		{"bbb", snapref.ErrNotFound, `share or source "bbb"`},
		{"abcd", snapref.ErrNotFound, "abcd"},
		{"latest", snapref.ErrAmbiguous, "main, nas"},
		{"yesterday 14:00:/etc", snapref.ErrAmbiguous, "main, nas"},
		{"tomorrow:/etc", snapref.ErrNotFound, `share or source "tomorrow"`},
		{"yesterday@latest", snapref.ErrNotFound, `share or source "yesterday"`},
		{"cafe", snapref.ErrAmbiguous, "cafe090000000000"},
		{"other", snapref.ErrNotFound, "other"},
		{"other@yesterday", snapref.ErrNotFound, "other"},
		{"main@", snapref.ErrSyntax, "neither a time"},
		{"main@tomorrow:/x", snapref.ErrSyntax, "tomorrow"},
		{"main@2026-11-21T19-04-30Z", snapref.ErrNotFound, "2026-11-21T19-04-30Z"},
		{"main@2026-11-19", snapref.ErrNotFound, "the oldest is of 2026-11-20T09:00:00+01:00"},
		{"main@abcd", snapref.ErrNotFound, "main has no snapshot abcd"},
		{"main@bbbb", snapref.ErrAmbiguous, "bbbb030000000000"},
		{`main@"yesterday`, snapref.ErrSyntax, "without its other"},
		{"main:../etc", snapref.ErrSyntax, ".."},
		{"main:a\x00", snapref.ErrSyntax, "NUL"},
	} {
		_, err := snapref.Find(tt.ref, snapshots(), snapref.Options{Now: now, Lineage: lineage})
		if !errors.Is(err, tt.kind) || !strings.Contains(err.Error(), tt.text) {
			t.Errorf("%q: %v, want %v with %q", tt.ref, err, tt.kind, tt.text)
		}
	}
	var ambiguous *snapref.Error
	_, err := snapref.Find("yesterday 14:00:/etc", snapshots(), snapref.Options{Now: now})
	if !errors.As(err, &ambiguous) || ambiguous.Hint != `write SHARE@TIME, for example "cafe@yesterday 14:00"` {
		t.Errorf("a time among several shares: %+v", err)
	}
	_, err = snapref.Find("2026-11-19:x", snapshots()[:6], snapref.Options{Now: now})
	if !errors.Is(err, snapref.ErrNotFound) || !strings.Contains(err.Error(), "main has no snapshot as old as 2026-11-19 (") {
		t.Errorf("a time before all snapshots: %v", err)
	}
	if _, err := snapref.Find("main", nil, snapref.Options{Now: now}); !errors.Is(err, snapref.ErrNotFound) {
		t.Errorf("in an empty store: %v", err)
	}
}

// What is no name of a share may be meant as something else.
func TestFindHints(t *testing.T) {
	const shares = "there are snapshots of: cafe, main, nas, weird@name:x"
	for ref, want := range map[string]string{
		"other":       shares,
		"Main":        `did you mean "main"?`,
		" main":       `did you mean "main"?`,
		"main/etc/x":  "a path follows a colon: main:/etc/x",
		"sftp://h/x":  "a snapshot is named here, not a location; " + shares,
		"/etc":        "a path follows the snapshot and a colon, as SHARE:/etc; " + shares,
		"~/etc":       "a path follows the snapshot and a colon, as SHARE:/etc; " + shares,
		"other/etc":   shares,
		"other@now:x": shares,
	} {
		_, err := snapref.Find(ref, snapshots(), snapref.Options{Now: now, Lineage: lineage})
		var e *snapref.Error
		if !errors.As(err, &e) || e.Hint != want {
			t.Errorf("%q: %+v; want the hint %q", ref, err, want)
		}
	}
}

// Without a data directory nobody knows the share's own line: times decide, and names as
// .snapshots had them are found by their time.
func TestFindWithoutLineage(t *testing.T) {
	for _, tt := range []struct{ ref, id string }{
		{"main", "cccc06"},
		{"main@2026-11-21T19-04-29Z", "aaaa02"},
		{"main@2026-11-21T19-04-29Z-1", "bbbb03"},
		{"main@yesterday 14:30", "bbbb04"},
	} {
		got, err := snapref.Find(tt.ref, snapshots(), snapref.Options{Now: now})
		if err != nil || !strings.HasPrefix(got.Snapshot.ID.String(), tt.id) {
			t.Errorf("%s: %v, %v, want %s", tt.ref, got.Snapshot.ID, err, tt.id)
		}
	}
	for _, tt := range []struct{ ref, id, path string }{ // of the one share that there is
		{"2026-11-21", "bbbb03", "/"},
		{"2026-11-21T19:04:29Z:/x", "bbbb03", "/x"},
		{"2026-11-21 20:04:28:x:y", "aaaa01", "/x:y"},
		{"yesterday 13:30:/etc/14:00", "bbbb05", "/etc/14:00"},
		{"yesterday:/a@b", "bbbb04", "/a@b"},
		{"3 days ago", "bbbb03", "/"},
		{"now", "cccc06", "/"},
	} {
		got, err := snapref.Find(tt.ref, snapshots()[:6], snapref.Options{Now: now})
		if err != nil || !strings.HasPrefix(got.Snapshot.ID.String(), tt.id) || got.Path != tt.path {
			t.Errorf("%s: %v:%s, %v, want %s:%s", tt.ref, got.Snapshot.ID, got.Path, err, tt.id, tt.path)
		}
	}
	if got, err := snapref.Find("yesterday", snapshots()[:6], snapref.Options{Now: now, Lineage: lineage}); err != nil || !strings.HasPrefix(got.Snapshot.ID.String(), "bbbb05") {
		t.Errorf("a time in the share's own line: %v, %v, want bbbb05", got.Snapshot.ID, err)
	}
	one := snapshots()[:1]
	if got, err := snapref.Find("latest:x", one, snapref.Options{Now: now}); err != nil || got.Snapshot.ID != one[0].ID || got.Path != "/x" {
		t.Errorf("latest of a store with one share: %+v, %v", got, err)
	}
}

func TestParseTime(t *testing.T) {
	for in, want := range map[string]string{
		"2026-11-21":                "2026-11-21T23:59:59+01:00",
		"2026-11-21 14:00":          "2026-11-21T14:00:00+01:00",
		"2026-11-21T14:00:05":       "2026-11-21T14:00:05+01:00",
		"2026-11-21T14:00:05Z":      "2026-11-21T14:00:05Z",
		"2026-11-21t14:00z":         "2026-11-21T14:00:00Z",
		"2026-11-21 14:00 UTC":      "2026-11-21T14:00:00Z",
		"2026-11-21 14:00 -0500":    "2026-11-21T14:00:00-05:00",
		"2026-11-21T14:00:05+05:30": "2026-11-21T14:00:05+05:30",
		"today":                     "2026-11-26T23:59:59+01:00",
		"Yesterday":                 "2026-11-25T23:59:59+01:00",
		"yesterday 14:00":           "2026-11-25T14:00:00+01:00",
		" yesterday   14:00 ":       "2026-11-25T14:00:00+01:00",
		"today 8:05":                "2026-11-26T08:05:00+01:00",
		"8:05":                      "2026-11-26T08:05:00+01:00",
		"now":                       "2026-11-26T12:00:00+01:00",
		"3 hours ago":               "2026-11-26T09:00:00+01:00",
		"an hour ago":               "2026-11-26T11:00:00+01:00",
		"3h ago":                    "2026-11-26T09:00:00+01:00",
		"90 minutes ago":            "2026-11-26T10:30:00+01:00",
		"2 days ago":                "2026-11-24T12:00:00+01:00",
		"1 week ago":                "2026-11-19T12:00:00+01:00",
		"9 months ago":              "2026-02-26T12:00:00+01:00",
		"a year ago":                "2025-11-26T12:00:00+01:00",
	} {
		got, err := snapref.ParseTime(in, now)
		if err != nil || got.Format(time.RFC3339) != want {
			t.Errorf("%q: %s, %v, want %s", in, got.Format(time.RFC3339), err, want)
		}
	}
	for _, in := range []string{
		"", " ", "ago", "3 ago", "hours ago", "-3 hours ago", "3 hours", "3 fortnights ago", "999999999 days ago", "3 4 days ago",
		"2026-13-01", "2026-02-30", "2026-11-21T", "2026-11-21 25:00", "2026-11-21 14", "14", "2026-11-21 14:00 CET",
		"2026-11-21 14:00 +1", "tomorrow", "yesterday today", "2026-11-21 14:00 Z Z", "20261121",
	} {
		if got, err := snapref.ParseTime(in, now); err == nil {
			t.Errorf("%q is %s", in, got)
		}
	}
	march := time.Date(2026, 3, 31, 12, 0, 0, 0, time.UTC)
	if got, err := snapref.ParseTime("1 month ago", march); err != nil || got.Format(time.DateOnly) != "2026-02-28" {
		t.Errorf("a month before the 31st of March is %s, %v", got, err)
	}
}

// No text makes Find do anything but give one of the snapshots with a canonical path, or an
// error that is its own.
func FuzzFind(f *testing.F) {
	for _, s := range []string{"main@yesterday 14:00:/etc", "aaaa:x", `main@"3 hours ago":y`, "latest", "yesterday 14:00:/etc", "main@2026-11-21T19-04-29Z-1", "@:", "main@2026-11-21T14:00+01:00:a"} {
		f.Add(s)
	}
	list := snapshots()
	f.Fuzz(func(t *testing.T, ref string) {
		got, err := snapref.Find(ref, list, snapref.Options{Now: now, Lineage: lineage})
		var e *snapref.Error
		switch {
		case err != nil && !errors.As(err, &e):
			t.Errorf("%q: %v", ref, err)
		case err != nil:
		case got.Path != "/" && (!strings.HasPrefix(got.Path, "/") || strings.Contains(got.Path+"/", "//") ||
			strings.Contains(got.Path+"/", "/../") || strings.Contains(got.Path+"/", "/./") || strings.HasSuffix(got.Path, "/")):
			t.Errorf("%q: path %q", ref, got.Path)
		case got.Snapshot.ID.IsZero():
			t.Errorf("%q: no snapshot", ref)
		}
	})
}
