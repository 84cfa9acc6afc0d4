package retention

import (
	"cmp"
	"fmt"
	"slices"
	"time"
)

// Snapshot is what Decide knows of a snapshot.
type Snapshot struct {
	ID       string
	Replaces []string  // in whose place it was made: what was seen of them holds for it
	Sequence uint64    // in its line
	Time     time.Time // that it carries
	Pinned   bool
	// Hold says why it must stay whatever the policy says, "" for no such reason.
	Hold string
	// Sight is when it was first seen; zero: just now.
	Sight Sight
}

// Sight is when a snapshot was first seen, and when was looked before, by the time of an Evidence.
type Sight struct {
	Before, Seen time.Time
	Age          time.Duration // that was observed since
}

// Decision is what becomes of a snapshot, and why.
type Decision struct {
	ID      string
	Keep    bool
	Reasons []string // in words; the first is the strongest
}

// slack is how far the time of a snapshot may be from when it can have been made.
const slack = 2 * time.Minute

// candidate is a snapshot with what follows from its sight.
type candidate struct {
	*Snapshot
	seen  time.Time
	doubt bool      // its time cannot be right
	made  time.Time // what it ages from
}

// period is a period of a time line.
type period struct {
	kind     Period
	timeline uint8
	name     string
}

// The time lines. Snapshots in doubt have their own, so that they take nobody's place.
const (
	byTime uint8 = iota
	byDoubtfulTime
	bySight
)

// Decide tells of each snapshot of one line (one share of one gateway) what becomes of it, in the
// same order. now is the time of an [Evidence]. An earlier now keeps all that a later one keeps.
func Decide(snaps []Snapshot, now time.Time, p Policy) []Decision {
	list := make([]candidate, len(snaps))
	for i := range snaps {
		list[i] = newCandidate(&snaps[i], now)
	}
	// Numbers, not times, say what came after what.
	order := make([]int, len(list))
	for i := range order {
		order[i] = i
	}
	slices.SortFunc(order, func(a, b int) int {
		return -cmp.Or(cmp.Compare(list[a].Sequence, list[b].Sequence), list[a].Time.Compare(list[b].Time), cmp.Compare(list[a].ID, list[b].ID))
	})
	last := map[period]*candidate{} // of each period
	for _, i := range order {
		c := &list[i]
		for _, r := range p.Rules {
			for _, in := range c.periods(r.Period, p.zone()) {
				if last[in] == nil {
					last[in] = c
				}
			}
		}
	}
	out := make([]Decision, len(list))
	for rank, i := range order {
		c := &list[i]
		d := Decision{ID: c.ID, Reasons: c.mustStay(now, &p, rank)}
		d.Reasons = append(d.Reasons, c.rules(now, &p, rank, last)...)
		d.Keep = len(d.Reasons) > 0
		if !d.Keep {
			d.Reasons = []string{c.unwanted(now, &p, last)}
		}
		out[i] = d
	}
	return out
}

func newCandidate(s *Snapshot, now time.Time) candidate {
	c := candidate{Snapshot: s, seen: s.Sight.Seen, made: s.Time}
	if c.seen.IsZero() {
		c.seen = now
	}
	c.doubt = s.Time.After(c.seen.Add(slack)) || s.Time.Before(s.Sight.Before.Add(-slack))
	if c.doubt {
		c.made = c.seen
	}
	return c
}

// mustStay are the reasons that no policy changes.
func (c *candidate) mustStay(now time.Time, p *Policy, rank int) []string {
	var why []string
	if c.Pinned {
		why = append(why, "pinned")
	}
	if c.Hold != "" && rank > 0 { // the newest stays anyway
		why = append(why, c.Hold)
	}
	if left := p.Lock - c.Sight.Age; left > 0 {
		why = append(why, "locked until "+stamp(now.Add(left), p.zone()))
	}
	if rank == 0 {
		why = append(why, "newest of its share")
	}
	return why
}

// rules are the reasons that the policy gives.
func (c *candidate) rules(now time.Time, p *Policy, rank int, last map[period]*candidate) []string {
	if p.KeepsAll() {
		return []string{"everything is kept"}
	}
	var why []string
	for _, r := range p.Rules {
		if !r.covers(c, now, p.zone()) {
			continue
		}
		if r.Period == All {
			why = append(why, "all "+r.Span.Words())
			continue
		}
		for _, in := range c.periods(r.Period, p.zone()) {
			if last[in] == c {
				why = append(why, in.String())
				break
			}
		}
	}
	if rank < p.Last {
		why = append(why, fmt.Sprintf("one of the last %d", p.Last))
	}
	return why
}

// covers reports whether a snapshot is young enough for a rule.
func (r *Rule) covers(c *candidate, now time.Time, zone *time.Location) bool {
	end, ends := r.Span.from(c.made.In(zone))
	return !ends || end.After(now)
}

// unwanted says why nothing keeps a snapshot.
func (c *candidate) unwanted(now time.Time, p *Policy, last map[period]*candidate) string {
	for _, r := range p.Rules {
		if r.Period == All || !r.covers(c, now, p.zone()) {
			continue
		}
		in := c.periods(r.Period, p.zone())[0]
		return fmt.Sprintf("%s is that of %s", in, stamp(last[in].Time, p.zone()))
	}
	return "older than all that is kept"
}

// periods are those of a kind that a snapshot is in.
func (c *candidate) periods(kind Period, zone *time.Location) []period {
	if !c.doubt {
		return []period{{kind, byTime, kind.name(c.Time.In(zone))}}
	}
	return []period{
		{kind, bySight, kind.name(c.seen.In(zone))},
		{kind, byDoubtfulTime, kind.name(c.Time.In(zone))},
	}
}

// name is the period that a time is in. An hour that the clock shows twice is two hours.
func (p Period) name(t time.Time) string {
	switch p {
	case Hourly:
		return t.Format("2006-01-02 15:00 -0700")
	case Daily:
		return t.Format("2006-01-02")
	case Weekly:
		year, week := t.ISOWeek()
		return fmt.Sprintf("%04d-W%02d", year, week)
	case Monthly:
		return t.Format("2006-01")
	case Yearly:
		return t.Format("2006")
	}
	return ""
}

// String is a period in words.
func (p period) String() string {
	text := p.kind.String() + " of " + p.name
	switch p.timeline {
	case bySight:
		text += ", when it was first seen"
	case byDoubtfulTime:
		text += ", by a clock that was wrong"
	}
	return text
}

// stamp is a time as people read it.
func stamp(t time.Time, zone *time.Location) string {
	return t.In(zone).Format("2006-01-02 15:04 MST")
}
