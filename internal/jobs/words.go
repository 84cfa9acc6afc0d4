package jobs

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Words says when the schedule runs, as "Mondays at 02:00 Europe/Paris", or gives the line of cron
// where words would be long.
func (c *Cron) Words() string {
	if d, ok := strings.CutPrefix(c.line, "@every "); ok {
		return "every " + d
	}
	f := strings.Fields(c.line)
	if len(f) == 1 {
		f = map[string][]string{
			"@hourly":   {"0", "*", "*", "*", "*"},
			"@daily":    {"0", "0", "*", "*", "*"},
			"@midnight": {"0", "0", "*", "*", "*"},
			"@weekly":   {"0", "0", "*", "*", "0"},
			"@monthly":  {"0", "0", "1", "*", "*"},
		}[f[0]]
	}
	if len(f) == 5 {
		days, byClock := daysInWords(f[2], f[3], f[4])
		if text := timesInWords(f[0], f[1], days); text != "" && byClock {
			return text + " " + c.zone.String()
		}
		if text := passingInWords(f[0], f[1]); text != "" && days == everyDay {
			return text
		}
	}
	return "cron " + c.String()
}

const everyDay = "daily"

// daysInWords puts the days into words, as "Mondays"; ok is false where it cannot.
func daysInWords(day, month, weekday string) (text string, ok bool) {
	switch {
	case month != "*":
		return "", false
	case day == "*" && weekday == "*":
		return everyDay, true
	case weekday == "*":
		n, err := strconv.Atoi(day)
		return fmt.Sprintf("monthly on day %d", n), err == nil
	case day == "*":
		return weekdaysInWords(weekday)
	}
	return "", false
}

func weekdaysInWords(field string) (text string, ok bool) {
	names := []string{"Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"}
	name := func(s string) string {
		for i, n := range names {
			if s == strconv.Itoa(i) || strings.EqualFold(s, n[:3]) {
				return n
			}
		}
		return ""
	}
	if from, to, ok := strings.Cut(field, "-"); ok {
		return name(from) + " to " + name(to), name(from) != "" && name(to) != ""
	}
	var days []string
	for s := range strings.SplitSeq(field, ",") {
		days = append(days, name(s)+"s")
	}
	return and(days), !slices.Contains(days, "s")
}

// timesInWords puts times of day after the days, "" where it cannot.
func timesInWords(minute, hour, days string) string {
	m, err := strconv.Atoi(minute)
	if err != nil {
		return ""
	}
	var times []string
	for s := range strings.SplitSeq(hour, ",") {
		h, err := strconv.Atoi(s)
		if err != nil {
			return ""
		}
		times = append(times, fmt.Sprintf("%02d:%02d", h, m))
	}
	return days + " at " + and(times)
}

// passingInWords is for times that come every few minutes or hours, "" for others.
func passingInWords(minute, hour string) string {
	step := func(field string) int {
		n, _ := strconv.Atoi(strings.TrimPrefix(field, "*/")) // 0: no step
		return n
	}
	m, err := strconv.Atoi(minute)
	switch {
	case minute == "*" && hour == "*":
		return "every minute"
	case hour == "*" && strings.HasPrefix(minute, "*/") && step(minute) > 0 && 60%step(minute) == 0:
		return fmt.Sprintf("every %d minutes", step(minute))
	case hour == "*" && err == nil:
		return fmt.Sprintf("hourly at minute %d", m)
	case strings.HasPrefix(hour, "*/") && step(hour) > 0 && 24%step(hour) == 0 && err == nil:
		return fmt.Sprintf("every %d hours at minute %d", step(hour), m)
	}
	return ""
}

func and(list []string) string {
	last := len(list) - 1
	if last < 1 {
		return strings.Join(list, "")
	}
	return strings.Join(list[:last], ", ") + " and " + list[last]
}
