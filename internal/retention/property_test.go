package retention

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

// world is a gateway whose clocks do anything, and what really happens.
type world struct {
	rng      *rand.Rand
	real     time.Duration // since the beginning
	up       time.Duration // what the monotonic clock shows
	boot     int
	skew     time.Duration // of the wall clock
	evidence Evidence
	snaps    []Snapshot
	made     map[string]time.Duration // really
	last     time.Time                // label of the newest
	log      []string
}

var genesis = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func (w *world) reading() Reading {
	return Reading{Wall: genesis.Add(w.real + w.skew), Boot: fmt.Sprint(w.boot), Up: w.up}
}

func (w *world) do(format string, args ...any) { w.log = append(w.log, fmt.Sprintf(format, args...)) }

func (w *world) pass(d time.Duration) { w.real, w.up = w.real+d, w.up+d }

// upload makes snapshots as a share does: their times only grow.
func (w *world) upload(n int) {
	for range n {
		label := w.reading().Wall
		if !label.After(w.last) {
			label = w.last.Add(1)
		}
		w.last = label
		id := fmt.Sprint("s", len(w.made))
		w.snaps = append(w.snaps, Snapshot{ID: id, Sequence: uint64(len(w.made) + 1), Time: label, Pinned: w.rng.IntN(20) == 0})
		w.made[id] = w.real
	}
}

// step does something at random.
func (w *world) step() {
	switch w.rng.IntN(9) {
	case 0:
		n := 1 + w.rng.IntN(30)
		w.do("upload %d", n)
		w.upload(n)
	case 1:
		w.do("the clock shows 2099")
		w.skew = genesis.AddDate(73, 0, 0).Sub(genesis)
	case 2:
		w.do("the clock shows 1970")
		w.skew = -genesis.AddDate(-56, 0, 0).Sub(genesis).Abs()
	case 3:
		w.do("the clock is right")
		w.skew = 0
	case 4:
		w.skew += time.Duration(w.rng.Int64N(int64(48*time.Hour))) - 24*time.Hour
		w.do("the clock is wrong by %v", w.skew)
	case 5:
		d := time.Duration(w.rng.Int64N(int64(100 * time.Hour)))
		w.do("down for %v", d)
		w.real += d
		w.boot, w.up = w.boot+1, 0
	default:
		d := time.Duration(w.rng.Int64N(int64(30 * time.Hour)))
		w.do("%v pass", d)
		w.pass(d)
		w.upload(w.rng.IntN(3))
	}
}

// prune decides and removes, as a gateway does.
func (w *world) prune(t *testing.T, p Policy) {
	t.Helper()
	w.evidence.Observe(w.reading())
	w.evidence.Look(w.snaps)
	for i := range w.snaps {
		w.snaps[i].Sight = w.evidence.Sight(w.snaps[i].ID)
	}
	now := w.evidence.Now()
	list := Decide(w.snaps, now, p)
	earlier := Decide(w.snaps, now.Add(-time.Duration(w.rng.Int64N(int64(1000*time.Hour)))), p)
	var left []Snapshot
	for i, d := range list {
		s := &w.snaps[i]
		if d.Keep {
			left = append(left, *s)
			if !earlier[i].Keep {
				t.Errorf("%s is kept (%v), and was not earlier (%v)", s.ID, d.Reasons, earlier[i].Reasons)
			}
			continue
		}
		age := w.real - w.made[s.ID]
		switch {
		case s.Pinned:
			t.Errorf("%s was pinned, and is removed", s.ID)
		case age < p.Lock:
			t.Errorf("%s is %v old and locked for %v, and is removed: %v", s.ID, age, p.Lock, d.Reasons)
		case i == len(list)-1:
			t.Errorf("%s is the newest, and is removed", s.ID)
		case len(list)-i <= p.Last:
			t.Errorf("%s is one of the last %d, and is removed", s.ID, p.Last)
		}
		// Restarts may pass for what was observed since the last one and three days.
		if all := p.Rules[0]; all.Period == All && maxCredit+2*age+age/slew < time.Duration(all.Span.N)*24*time.Hour {
			t.Errorf("%s is %v old and kept for %v, and is removed: %v", s.ID, age, all.Span, d.Reasons)
		}
	}
	w.snaps = left
}

// TestNeverRemoved: whatever the clocks do and however many snapshots are made, nothing locked,
// pinned or last is ever removed; and something is.
func TestNeverRemoved(t *testing.T) {
	removed := 0
	for seed := range uint64(100) {
		rng := rand.New(rand.NewPCG(seed, 1))
		p, err := Parse([]string{"all 10d, daily 20d, last 3", "last 2, hourly 1d", "daily 7d, yearly forever", "all 5d"}[seed%4])
		if err != nil {
			t.Fatal(err)
		}
		p.Lock = time.Duration(rng.IntN(10)) * 24 * time.Hour
		w := &world{rng: rng, made: map[string]time.Duration{}, last: genesis.AddDate(-100, 0, 0)}
		for range rng.IntN(10) {
			w.upload(1 + rng.IntN(3))
			w.pass(time.Duration(rng.Int64N(int64(100 * time.Hour))))
		}
		for range 40 {
			if !w.evidence.Started() {
				// What was there at the start has the times that it carries, but now anything goes.
				if rng.IntN(3) == 0 {
					w.real += time.Duration(rng.Int64N(int64(1000 * time.Hour)))
				}
				w.skew = []time.Duration{0, 0, 1000 * time.Hour, genesis.AddDate(73, 0, 0).Sub(genesis), -100000 * time.Hour}[rng.IntN(5)]
				w.evidence.Start(w.reading(), w.snaps)
			}
			w.step()
			n := len(w.snaps)
			w.prune(t, p)
			removed += n - len(w.snaps)
			if t.Failed() {
				t.Fatalf("seed %d, %v, lock %v: %q", seed, p, p.Lock, w.log)
			}
		}
	}
	if removed < 1000 {
		t.Errorf("only %d were removed: this proves nothing", removed)
	}
}

// TestAges: with clocks that are right, policies are kept to exactly.
func TestAges(t *testing.T) {
	p, err := Parse("all 2d, daily 5d")
	if err != nil {
		t.Fatal(err)
	}
	w := &world{rng: rand.New(rand.NewPCG(1, 1)), made: map[string]time.Duration{}}
	w.evidence.Start(w.reading(), nil)
	for range 20 * 24 {
		w.pass(time.Hour)
		w.upload(1)
		for i := range w.snaps {
			w.snaps[i].Pinned = false
		}
		w.prune(t, p)
	}
	var ages []time.Duration
	for _, s := range w.snaps {
		ages = append(ages, (w.real-w.made[s.ID])/time.Hour)
	}
	var want []time.Duration // the day before and the one before that have their last at 23:00
	for _, h := range []int{97, 73, 49} {
		want = append(want, time.Duration(h))
	}
	for h := 47; h >= 0; h-- {
		want = append(want, time.Duration(h))
	}
	if !slices.Equal(ages, want) {
		t.Errorf("ages in hours: %d, want %d", ages, want)
	}
}
