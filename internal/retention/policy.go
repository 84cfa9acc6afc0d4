package retention

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Unit is a unit of a Span.
type Unit uint8

// The units. Days and longer ones are those of the calendar.
const (
	Hours Unit = iota + 1
	Days
	Weeks
	Months
	Years
	Forever // without a number
)

// unitNames are the ways to write a unit; the first is the short one, the second its name.
var unitNames = map[Unit][]string{ //nolint:gochecknoglobals // a constant
	Hours:  {"h", "hour", "hours"},
	Days:   {"d", "day", "days"},
	Weeks:  {"w", "week", "weeks"},
	Months: {"mo", "month", "months"},
	Years:  {"y", "year", "years"},
}

// Span is how long a rule keeps something.
type Span struct {
	N    int
	Unit Unit
}

// maxCount bounds numbers in a policy.
const maxCount = 100_000

// from returns the end of a span that begins at t, in the calendar of t's location; ok is false when
// it has none. A day that the last month does not have (31 April, 29 February) is one after it.
func (s Span) from(t time.Time) (end time.Time, ok bool) {
	switch s.Unit {
	case Hours:
		return t.Add(time.Duration(s.N) * time.Hour), true
	case Days:
		return t.AddDate(0, 0, s.N), true
	case Weeks:
		return t.AddDate(0, 0, 7*s.N), true
	case Months:
		return t.AddDate(0, s.N, 0), true
	case Years:
		return t.AddDate(s.N, 0, 0), true
	}
	return time.Time{}, false
}

// String is the span as Parse takes it.
func (s Span) String() string {
	if s.Unit == Forever {
		return "forever"
	}
	return strconv.Itoa(s.N) + unitNames[s.Unit][0]
}

// Words is the span in words.
func (s Span) Words() string {
	switch {
	case s.Unit == Forever:
		return "forever"
	case s.N == 1:
		return "for 1 " + unitNames[s.Unit][1]
	}
	return fmt.Sprintf("for %d %s", s.N, unitNames[s.Unit][2])
}

// Period is what a rule keeps one snapshot of.
type Period uint8

// The periods. All is every snapshot.
const (
	All Period = iota + 1
	Hourly
	Daily
	Weekly // from Monday on
	Monthly
	Yearly
)

var periodNames = []string{All: "all", Hourly: "hourly", Daily: "daily", Weekly: "weekly", Monthly: "monthly", Yearly: "yearly"} //nolint:gochecknoglobals // a constant

// String is the period as Parse takes it.
func (p Period) String() string { return periodNames[p] }

// Rule keeps the last snapshot of each period for a time.
type Rule struct {
	Period Period
	Span   Span
}

// Policy says what is kept of a line of snapshots. The zero Policy keeps everything.
type Policy struct {
	// Rules keep what any of them keeps; each period at most once, in their order.
	Rules []Rule
	// Last keeps so many of the newest.
	Last int
	// Lock keeps everything that was first seen less than this ago.
	Lock time.Duration
	// Zone is where days begin; nil: UTC.
	Zone *time.Location
}

// KeepsAll reports whether the policy never removes anything.
func (p *Policy) KeepsAll() bool {
	return len(p.Rules) == 0 && p.Last == 0 || slices.Contains(p.Rules, Rule{All, Span{Unit: Forever}})
}

func (p *Policy) zone() *time.Location {
	if p.Zone == nil {
		return time.UTC
	}
	return p.Zone
}

// ErrSyntax says that a text is not a policy. Errors of Parse are it.
var ErrSyntax = errors.New("not a policy of retention")

// syntaxError is one line of what is wrong with a part of a policy.
type syntaxError struct{ part, text string }

func (e *syntaxError) Error() string {
	if e.part == "" {
		return e.text
	}
	return fmt.Sprintf("%q: %s", e.part, e.text)
}

func (e *syntaxError) Unwrap() error { return ErrSyntax }

// maxPolicy bounds the text of a policy.
const maxPolicy = 1000

// Parse reads rules separated by commas: "all 1d", "hourly 7d", "daily 30d", "weekly 1y",
// "monthly 2 years", "yearly forever", "last 10". It leaves Lock and Zone alone. The text must say
// something: to keep everything, "all forever".
func Parse(text string) (Policy, error) {
	var p Policy
	if len(text) > maxPolicy {
		return Policy{}, &syntaxError{"", "it is too long for a policy"}
	}
	seen := map[string]bool{}
	for part := range strings.SplitSeq(text, ",") {
		words := strings.Fields(strings.ToLower(part))
		part = strings.Join(words, " ")
		switch {
		case len(words) == 0 && strings.TrimSpace(text) == "":
			return Policy{}, &syntaxError{"", `it is empty; write "all forever" to keep everything`}
		case len(words) == 0:
			return Policy{}, &syntaxError{"", "nothing between two commas, or at an end"}
		case seen[words[0]]:
			return Policy{}, &syntaxError{part, words[0] + " is given twice"}
		}
		seen[words[0]] = true
		if err := p.add(part, words); err != nil {
			return Policy{}, err
		}
	}
	slices.SortFunc(p.Rules, func(a, b Rule) int { return int(a.Period) - int(b.Period) })
	return p, nil
}

// add adds one part of a policy.
func (p *Policy) add(part string, words []string) error {
	if words[0] == "last" {
		if len(words) != 2 {
			return &syntaxError{part, `say how many, as in "last 10"`}
		}
		n, err := number(words[1])
		if err != nil {
			return &syntaxError{part, "how many? " + err.Error()}
		}
		p.Last = n
		return nil
	}
	at := slices.Index(periodNames, words[0])
	if at < 1 {
		return &syntaxError{part, "it must begin with all, hourly, daily, weekly, monthly, yearly or last"}
	}
	if len(words) == 1 {
		return &syntaxError{part, fmt.Sprintf(`say for how long, as in "%s 30d" or "%[1]s forever"`, words[0])}
	}
	span, err := parseSpan(strings.Join(words[1:], ""))
	if err != nil {
		return &syntaxError{part, err.Error()}
	}
	p.Rules = append(p.Rules, Rule{Period(at), span})
	return nil
}

func number(digits string) (int, error) {
	if digits == "" || strings.Trim(digits, "0123456789") != "" {
		return 0, fmt.Errorf("%q is not a whole number", digits)
	}
	n, err := strconv.Atoi(digits)
	if err != nil || n < 1 || n > maxCount {
		return 0, fmt.Errorf("want a number from 1 to %d", maxCount)
	}
	return n, nil
}

func parseSpan(s string) (Span, error) {
	if s == "forever" {
		return Span{Unit: Forever}, nil
	}
	unit := strings.TrimLeft(s, "0123456789")
	n, err := number(s[:len(s)-len(unit)])
	if err != nil {
		return Span{}, errors.New("for how long? want as 12h, 30d, 8w, 6mo, 2y or forever")
	}
	for u, names := range unitNames {
		if slices.Contains(names, unit) {
			return Span{n, u}, nil
		}
	}
	switch unit {
	case "":
		return Span{}, errors.New("the number needs a unit: h, d, w, mo or y")
	case "m", "min":
		return Span{}, errors.New(`write "mo" for months; there are no minutes`)
	}
	return Span{}, fmt.Errorf("unknown unit %q; want h, d, w, mo or y", unit)
}

// String is the rules as Parse takes them, "" for those that were never set.
func (p Policy) String() string {
	var parts []string
	for _, r := range p.Rules {
		parts = append(parts, r.Period.String()+" "+r.Span.String())
	}
	if p.Last > 0 {
		parts = append(parts, "last "+strconv.Itoa(p.Last))
	}
	return strings.Join(parts, ", ")
}

// Words says in a sentence what the policy means.
func (p Policy) Words() string {
	var parts []string
	for _, r := range p.Rules {
		what := "every snapshot"
		if r.Period != All {
			what = "the last of each " + [...]string{Hourly: "hour", Daily: "day", Weekly: "week", Monthly: "month", Yearly: "year"}[r.Period]
		}
		parts = append(parts, what+" "+r.Span.Words())
	}
	switch {
	case p.Last == 1:
		parts = append(parts, "the newest")
	case p.Last > 1:
		parts = append(parts, fmt.Sprintf("the newest %d", p.Last))
	}
	text := "everything is kept"
	if !p.KeepsAll() {
		text = "kept: " + strings.Join(parts, ", ") + "; days are those of " + p.zone().String()
	}
	if p.Lock > 0 {
		text += "; nothing younger than " + spanWords(p.Lock) + " is removed"
	}
	return text
}

// spanWords writes whole days as days, and whole hours as hours.
func spanWords(d time.Duration) string {
	const day = 24 * time.Hour
	switch {
	case d == day:
		return "1 day"
	case d%day == 0:
		return fmt.Sprintf("%d days", d/day)
	case d == time.Hour:
		return "1 hour"
	case d%time.Hour == 0:
		return fmt.Sprintf("%d hours", d/time.Hour)
	}
	return d.String()
}
