package snapref

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// maxAgo bounds the number in "N days ago": nobody has older snapshots, and dates stay sane.
const maxAgo = 100_000

// ParseTime reads a time as people write it:
//
//	2026-11-21                     the end of that day
//	2026-11-21 14:00[:05]          also with a T in place of the blank
//	2026-11-21T14:00:05+01:00      with a zone: Z, UTC, +01:00 or +0100
//	today, yesterday               the end of that day
//	yesterday 14:00, today 14:00   and 14:00 alone, today
//	now
//	3 hours ago, an hour ago, 3h ago, 2 days ago, 1 week ago
//
// Months and years ago are of the calendar. What names no zone is in now's.
func ParseTime(s string, now time.Time) (time.Time, error) {
	words := strings.Fields(strings.ToLower(s))
	if len(words) == 0 {
		return time.Time{}, fmt.Errorf("an empty time")
	}
	if words[len(words)-1] == "ago" {
		if t, ok := ago(words[:len(words)-1], now); ok {
			return t, nil
		}
		return time.Time{}, badTime(s)
	}
	if len(words) == 1 && words[0] == "now" {
		return now, nil
	}
	date, rest := words[0], words[1:]
	if d, clock, ok := strings.Cut(date, "t"); ok && isDate(d) {
		date, rest = d, append([]string{clock}, rest...)
	}
	zone := now.Location()
	var year, day int
	var month time.Month
	switch {
	case date == "today":
		year, month, day = now.Date()
	case date == "yesterday":
		year, month, day = now.AddDate(0, 0, -1).Date()
	case isDate(date):
		t, err := time.Parse(time.DateOnly, date)
		if err != nil {
			return time.Time{}, badTime(s)
		}
		year, month, day = t.Date()
	default:
		year, month, day = now.Date()
		rest = words
	}
	if len(rest) == 0 {
		return time.Date(year, month, day+1, 0, 0, 0, -1, zone), nil
	}
	hour, minute, second, zone, ok := clock(rest, zone)
	if !ok {
		return time.Time{}, badTime(s)
	}
	return time.Date(year, month, day, hour, minute, second, 0, zone), nil
}

func badTime(s string) error { return fmt.Errorf("%q is not a time", s) }

func isDate(s string) bool {
	return len(s) == len(time.DateOnly) && s[4] == '-' && s[7] == '-' && strings.Trim(s, "0123456789-") == ""
}

// ago reads "3 hours", "an hour" and "3h" as the time so long before now.
func ago(words []string, now time.Time) (time.Time, bool) {
	var number, unit string
	switch len(words) {
	case 1:
		i := strings.IndexFunc(words[0], func(r rune) bool { return r < '0' || r > '9' })
		if i <= 0 {
			return time.Time{}, false
		}
		number, unit = words[0][:i], words[0][i:]
	case 2:
		number, unit = words[0], words[1]
	default:
		return time.Time{}, false
	}
	if number == "a" || number == "an" || number == "one" {
		number = "1"
	}
	v, err := strconv.ParseUint(number, 10, 32)
	if err != nil || v > maxAgo {
		return time.Time{}, false
	}
	n := int(v)
	switch unit {
	case "s", "sec", "secs", "second", "seconds":
		return now.Add(-time.Duration(n) * time.Second), true
	case "min", "mins", "minute", "minutes":
		return now.Add(-time.Duration(n) * time.Minute), true
	case "h", "hour", "hours":
		return now.Add(-time.Duration(n) * time.Hour), true
	case "d", "day", "days":
		return now.AddDate(0, 0, -n), true
	case "w", "week", "weeks":
		return now.AddDate(0, 0, -7*n), true
	case "month", "months":
		return monthsAgo(now, n), true
	case "y", "year", "years":
		return monthsAgo(now, 12*n), true
	}
	return time.Time{}, false
}

// monthsAgo is the same day n months ago, or the last one of that month: a month before the
// 31st of March is the 28th of February.
func monthsAgo(now time.Time, n int) time.Time {
	t := now.AddDate(0, -n, 0)
	if t.Day() != now.Day() {
		t = t.AddDate(0, 0, -t.Day())
	}
	return t
}

// clock reads "14:00[:05]" with or without a zone, which may be a word of its own.
func clock(words []string, zone *time.Location) (hour, minute, second int, _ *time.Location, ok bool) {
	s := strings.Join(words, "")
	if len(words) > 2 {
		return 0, 0, 0, nil, false
	}
	if i := strings.IndexAny(s, "z+-u"); i >= 0 {
		if zone, ok = parseZone(s[i:]); !ok {
			return 0, 0, 0, nil, false
		}
		s = s[:i]
	} else if len(words) == 2 {
		return 0, 0, 0, nil, false
	}
	for _, layout := range []string{"15:04", "15:04:05"} {
		if t, err := time.Parse(layout, s); err == nil {
			return t.Hour(), t.Minute(), t.Second(), zone, true
		}
	}
	return 0, 0, 0, nil, false
}

func parseZone(s string) (*time.Location, bool) {
	if s == "z" || s == "utc" {
		return time.UTC, true
	}
	for _, layout := range []string{"-07:00", "-0700"} {
		if t, err := time.Parse(layout, s); err == nil {
			_, offset := t.Zone()
			return time.FixedZone("", offset), true
		}
	}
	return nil, false
}
