package acceptor

import (
	"errors"
	"net/netip"
	"testing"
)

func wide() Limits {
	return Limits{Connections: 99, PerAddress: 99, PerUser: 99, Handshakes: 99, HandshakesPerAddress: 99}
}

var errDropped = errors.New("dropped") // in tables: lets the newcomer in at the expense of another

// visitor is a connection of a test.
type visitor struct {
	t     *Ticket
	ended bool
}

// enter counts a connection; want is nil, a refusal, or errDropped.
func (v *visitor) enter(t *testing.T, a *admission, addr string, want error) {
	t.Helper()
	ticket, dropped, err := a.enter(netip.MustParseAddr(addr), func() { v.ended = true })
	v.t = ticket
	switch {
	case want == nil || errors.Is(want, errDropped):
		if err != nil || (dropped != nil) != (want != nil) {
			t.Errorf("%s: dropped %v, error %v, want %v", addr, dropped != nil, err, want)
		}
	case !errors.Is(err, want) || dropped != nil:
		t.Errorf("%s: error %v, want %v", addr, err, want)
	}
	if dropped != nil {
		dropped.end()
	}
}

func TestAdmission(t *testing.T) {
	type step struct {
		addr string
		user string // logs in with it, when not empty
		want error
		gone int // the step whose connection is dropped, with errDropped
	}
	const a, b, c = "192.0.2.1", "192.0.2.2", "192.0.2.3"
	tests := []struct {
		name   string
		change func(*Limits)
		steps  []step
	}{
		{"in all", func(l *Limits) { l.Connections = 2 }, []step{{a, "x", nil, 0}, {b, "y", nil, 0}, {c, "", ErrTooMany, 0}}},
		{"in all, not logged in", func(l *Limits) { l.Connections = 2 }, []step{{a, "x", nil, 0}, {b, "", nil, 0}, {c, "", errDropped, 1}}},
		{"of an address", func(l *Limits) { l.PerAddress = 1 }, []step{{a, "x", nil, 0}, {a, "", ErrTooManyAddress, 0}, {b, "", nil, 0}}},
		{"of an address, not logged in", func(l *Limits) { l.PerAddress = 2 }, []step{{a, "x", nil, 0}, {a, "", nil, 0}, {a, "", errDropped, 1}}},
		{"a network of IPv6", func(l *Limits) { l.PerAddress = 2 }, []step{
			{"2001:db8::1", "x", nil, 0}, {"2001:db8::2", "x", nil, 0}, {"2001:db8::3", "", ErrTooManyAddress, 0},
			{"2001:db8:0:1::1", "", nil, 0},
		}},
		{"handshakes: the oldest goes", func(l *Limits) { l.Handshakes = 2 }, []step{
			{a, "", nil, 0}, {b, "", nil, 0}, {c, "", errDropped, 0}, {a, "", errDropped, 1},
		}},
		{"handshakes: the busiest address loses", func(l *Limits) { l.Handshakes = 3 }, []step{
			{a, "", nil, 0}, {b, "", nil, 0}, {b, "", nil, 0}, {c, "", errDropped, 1}, {b, "", errDropped, 2},
		}},
		{"handshakes: an address cannot push out others", func(l *Limits) { l.Handshakes = 3 }, []step{
			{a, "", nil, 0}, {b, "", nil, 0}, {c, "", nil, 0}, {c, "", errDropped, 2}, {c, "", errDropped, 3},
		}},
		{"handshakes of an address", func(l *Limits) { l.HandshakesPerAddress = 2 }, []step{
			{b, "", nil, 0}, {a, "", nil, 0}, {a, "", nil, 0}, {a, "", errDropped, 1}, {a, "", errDropped, 2},
		}},
		{"a login makes room", func(l *Limits) { l.Handshakes = 1 }, []step{{a, "x", nil, 0}, {b, "", nil, 0}}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			limits := wide()
			tt.change(&limits)
			adm := newAdmission(limits)
			all := make([]visitor, len(tt.steps))
			for i, s := range tt.steps {
				all[i].enter(t, adm, s.addr, s.want)
				if errors.Is(s.want, errDropped) && !all[s.gone].ended {
					t.Errorf("step %d: that of step %d stays", i, s.gone)
				}
				if s.user != "" {
					if err := all[i].t.LoggedIn(s.user); err != nil {
						t.Errorf("step %d: %v", i, err)
					}
				}
			}
			for i := range all {
				if all[i].t != nil {
					all[i].t.leave()
				}
			}
			if adm.all != 0 || len(adm.waiting) != 0 || adm.dropped != 0 || len(adm.byAddress) != 0 || len(adm.byUser) != 0 {
				t.Errorf("left behind: %+v", adm)
			}
		})
	}
}

func TestLoggedIn(t *testing.T) {
	limits := wide()
	limits.PerUser, limits.HandshakesPerAddress = 1, 1
	a := newAdmission(limits)
	var first, second, third visitor
	first.enter(t, a, "192.0.2.1", nil)
	if err := first.t.LoggedIn("x"); err != nil {
		t.Error(err)
	}
	second.enter(t, a, "192.0.2.1", nil)
	if err := second.t.LoggedIn("x"); !errors.Is(err, ErrTooManyUser) {
		t.Errorf("a second one of the user: %v", err)
	}
	third.enter(t, a, "192.0.2.1", errDropped)
	if err := second.t.LoggedIn("y"); !errors.Is(err, ErrTooManyHandshakes) {
		t.Errorf("a login after the drop: %v", err)
	}
	first.t.leave()
	if err := third.t.LoggedIn("x"); err != nil {
		t.Errorf("after the first has left: %v", err)
	}
}

// Connections that were dropped and do not end are bounded, too.
func TestDroppedAreBounded(t *testing.T) {
	limits := wide()
	limits.Handshakes = 2
	a := newAdmission(limits)
	v := make([]visitor, 6)
	for i, want := range []error{nil, nil, errDropped, errDropped, ErrTooManyHandshakes} {
		v[i].enter(t, a, "192.0.2.1", want)
	}
	v[0].t.leave()
	v[5].enter(t, a, "192.0.2.1", errDropped)
}

func TestLimitsWithDefaults(t *testing.T) {
	l, err := Limits{PerUser: 7}.WithDefaults()
	want := Limits{Connections: 1024, PerAddress: 256, PerUser: 7, Handshakes: 512, HandshakesPerAddress: 256}
	if err != nil || l != want {
		t.Errorf("got %+v, %v", l, err)
	}
	if _, err := (Limits{Handshakes: -1}).WithDefaults(); err == nil {
		t.Error("a negative limit is taken")
	}
}
