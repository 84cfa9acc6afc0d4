package store

import (
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/PlakarKorp/kloset/objects"

	"github.com/snapgate/gateway/store/internal/backend"
)

// TestPatience: a packfile that is not given is asked for some times; it is over with all when none of many is given, and not
// as long as anything is answered.
func TestPatience(t *testing.T) {
	away := Unavailable("read", errors.New("the disk does not answer"))
	mac := func(n int) objects.MAC { return objects.MAC{byte(n)} }
	const given, copied, missing = 201, 202, 203
	none := func(int) bool { return false }
	for name, tc := range map[string]struct {
		packfiles int
		answer    func(try int) bool
		gives     []int // of given, copied, missing when they are read again
		over      bool
	}{
		"one that is bad":              {1, none, nil, false},
		"all":                          {packfilesInVain, none, nil, true},
		"not all":                      {packfilesInVain, func(try int) bool { return try%triesInVain == triesInVain-1 }, nil, false},
		"many that are bad":            {packfilesInVain, none, []int{given}, false},
		"all that has no local copies": {packfilesInVain, none, []int{copied}, false},
		"all but what was missing":     {packfilesInVain, none, []int{missing}, true},
	} {
		asked := 0
		p := newPatience(func(packfile objects.MAC) error {
			asked++
			if !slices.Contains(tc.gives, int(packfile[0])) {
				return away
			}
			return nil
		})
		p.Note(mac(given), nil)
		p.NoteCopy(mac(copied))
		p.NoteCopy(objects.MAC{}) // none
		p.Note(mac(missing), ErrDamaged)
		for try := range sparedMost * triesInVain {
			err := away
			if tc.answer(try) {
				err = ErrDamaged // which is an answer, too
			}
			p.Note(mac(try%tc.packfiles), err)
		}
		if err := p.Over(); (err != nil) != tc.over || err != nil && !errors.Is(err, ErrUnavailable) {
			t.Errorf("%s: over: %v, want %v", name, err, tc.over)
		}
		if err := p.Refuse(mac(99)); (err != nil) != tc.over {
			t.Errorf("%s: another packfile is refused: %v, want %v", name, err, tc.over)
		}
		if asked > 20 {
			t.Errorf("%s: %d times it was read what was given before", name, asked)
		}
	}

	// A server may have in memory what it gave last, and nothing else any more.
	p := newPatience(func(objects.MAC) error { return nil })
	p.Note(mac(given), nil)
	tries := 0
	for n := range 5000 {
		packfile := objects.MAC{1, byte(n >> 8), byte(n)}
		for ; p.Refuse(packfile) == nil; tries++ {
			p.Note(packfile, away)
		}
	}
	if most := (sparedMost + 1) * triesInVain; !errors.Is(p.Over(), ErrUnavailable) || tries > most {
		t.Errorf("a server that gives what it gave last: over: %v, after %d tries, want %d at most", p.Over(), tries, most)
	}
	p = newPatience(func(objects.MAC) error { return nil })
	for n := range 5000 { // what is given in between is an answer
		p.Note(mac(n%packfilesInVain), away)
		if n%(sparedMost*triesInVain) == 0 {
			p.Note(mac(given), nil)
		}
	}
	if err := p.Over(); err != nil {
		t.Errorf("a server that gives something in between: %v", err)
	}

	notTried := 1
	p = newPatience(func(objects.MAC) error {
		if notTried--; notTried >= 0 {
			return fmt.Errorf("%w (%w)", away, backend.ErrNotTried)
		}
		return nil
	})
	p.Note(mac(given), nil)
	for try := range 2 * triesInVain {
		p.Note(mac(try%packfilesInVain), away)
	}
	if err := p.Over(); err != nil || notTried >= 0 {
		t.Errorf("what was given was not asked for at first: over: %v, %d more times", err, notTried)
	}

	p = newPatience(func(objects.MAC) error { return nil })
	for range packfileTries {
		p.Note(mac(0), fmt.Errorf("%w (%w)", away, backend.ErrNotTried))
	}
	for n := range packfileTries {
		if err := p.Refuse(mac(0)); err != nil {
			t.Errorf("after %d tries: %v", n, err)
		}
		p.Note(mac(0), away)
	}
	if err := p.Refuse(mac(0)); !errors.Is(err, ErrUnavailable) || p.Refuse(mac(1)) != nil {
		t.Errorf("after %d tries: got %v, want %v, and for it alone", packfileTries, err, ErrUnavailable)
	}
	for turn, asked := range []bool{true, false, true, false, false, false, true} {
		p.Begin()
		if err := p.Refuse(mac(0)); (err == nil) != asked {
			t.Errorf("%d turns later: %v", turn+1, err)
		}
		if asked {
			p.Note(mac(0), away)
		}
	}
}
