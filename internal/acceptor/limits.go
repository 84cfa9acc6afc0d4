package acceptor

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
)

// Reasons to refuse a connection, or to drop one that has not logged in.
var (
	ErrTooMany           = errors.New("too many connections")
	ErrTooManyAddress    = errors.New("too many connections from this address")
	ErrTooManyUser       = errors.New("too many connections of this user")
	ErrTooManyHandshakes = errors.New("too many connections that have not logged in")
)

// Limits bound the connections of a server; 0 is the default.
type Limits struct {
	Connections          int // in all; 1,024
	PerAddress           int // of one address (of IPv6: of a /64 network); 256
	PerUser              int // of one user; 256
	Handshakes           int // not logged in yet, in all; 512
	HandshakesPerAddress int // not logged in yet, of one address; 256
}

const (
	defaultConnections          = 1024
	defaultPerAddress           = 256
	defaultPerUser              = 256
	defaultHandshakes           = 512
	defaultHandshakesPerAddress = 256
)

// WithDefaults refuses negative limits and fills in those that are 0.
func (l Limits) WithDefaults() (Limits, error) {
	for _, f := range []struct {
		name  string
		value *int
		def   int
	}{
		{"connections", &l.Connections, defaultConnections},
		{"connections of an address", &l.PerAddress, defaultPerAddress},
		{"connections of a user", &l.PerUser, defaultPerUser},
		{"handshakes", &l.Handshakes, defaultHandshakes},
		{"handshakes of an address", &l.HandshakesPerAddress, defaultHandshakesPerAddress},
	} {
		if *f.value < 0 {
			return l, fmt.Errorf("limit on %s is negative", f.name)
		}
		if *f.value == 0 {
			*f.value = f.def
		}
	}
	return l, nil
}

// admission counts connections against the limits.
type admission struct {
	limits Limits

	mu        sync.Mutex // guards what follows; a leaf
	all       int
	waiting   []*Ticket // of connections that have not logged in, the oldest first
	dropped   int       // connections that were dropped, and have not ended yet
	byAddress map[netip.Addr]*addressCount
	byUser    map[string]int
}

type addressCount struct{ all, waiting int }

func newAdmission(limits Limits) *admission {
	return &admission{limits: limits, byAddress: make(map[netip.Addr]*addressCount), byUser: make(map[string]int)}
}

// Ticket is a connection's place in the counts.
type Ticket struct {
	a    *admission
	addr netip.Addr
	end  func() // ends the connection, without waiting

	// Guarded by admission.mu.
	state ticketState
	user  string
}

type ticketState int

const (
	ticketWaiting  ticketState = iota // not logged in
	ticketLoggedIn                    // counted for a user
	ticketDropped                     // not counted any more: another one has the place
)

// addressBits is what counts as one address of IPv6: the least that a site is given.
const addressBits = 64

// enter counts a new connection, which has not logged in. When there are too many, the
// oldest of those that have not logged in has to make room: refusing would lock out
// everybody as long as somebody holds connections without logging in, and a login takes no
// time in comparison. An address with too many of its own loses its own; else the address
// that has the most loses one, so that many connections from one address cannot push out
// the only one of another. The dropped connection is returned, for its end to be called.
func (a *admission) enter(addr netip.Addr, end func()) (t, dropped *Ticket, err error) {
	if addr.Is6() {
		if site, err := addr.Prefix(addressBits); err == nil {
			addr = site.Addr()
		}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	n := a.byAddress[addr]
	if n == nil {
		n = &addressCount{}
	}
	switch {
	case n.all >= a.limits.PerAddress:
		err = ErrTooManyAddress
		dropped = a.oldest(func(t *Ticket) bool { return t.addr == addr })
	case n.waiting >= a.limits.HandshakesPerAddress:
		err = ErrTooManyHandshakes
		dropped = a.oldest(func(t *Ticket) bool { return t.addr == addr })
	case a.all >= a.limits.Connections:
		err = ErrTooMany
		dropped = a.oldest(a.ofBusiest(n.waiting, addr))
	case len(a.waiting) >= a.limits.Handshakes:
		err = ErrTooManyHandshakes
		dropped = a.oldest(a.ofBusiest(n.waiting, addr))
	}
	// Those that were dropped hold memory until they have ended, so they have a limit, too.
	if err != nil && (dropped == nil || a.dropped >= a.limits.Handshakes) {
		return nil, nil, err
	}
	if dropped != nil {
		a.remove(dropped)
		dropped.state = ticketDropped
		a.dropped++
	}
	t = &Ticket{a: a, addr: addr, end: end}
	a.byAddress[addr] = n // remove may have taken it out
	a.all++
	a.waiting = append(a.waiting, t)
	n.all++
	n.waiting++
	return t, dropped, nil
}

// oldest returns the oldest connection of a kind that has not logged in, nil when there is none.
func (a *admission) oldest(of func(*Ticket) bool) *Ticket {
	if i := slices.IndexFunc(a.waiting, of); i >= 0 {
		return a.waiting[i]
	}
	return nil
}

// ofBusiest says which connections are of the address that has the most without a login:
// that of the newcomer, of which there are n already, when no other has more.
func (a *admission) ofBusiest(n int, newcomer netip.Addr) func(*Ticket) bool {
	busiest := newcomer
	for _, t := range a.waiting {
		if m := a.byAddress[t.addr].waiting; m > n {
			n, busiest = m, t.addr
		}
	}
	return func(t *Ticket) bool { return t.addr == busiest }
}

// LoggedIn moves the connection from those that have not logged in to those of a user,
// unless that one has too many (ErrTooManyUser), or the connection was dropped meanwhile.
func (t *Ticket) LoggedIn(user string) error {
	t.a.mu.Lock()
	defer t.a.mu.Unlock()
	switch {
	case t.state != ticketWaiting:
		return ErrTooManyHandshakes
	case t.a.byUser[user] >= t.a.limits.PerUser:
		return ErrTooManyUser
	}
	t.endWaiting()
	t.state = ticketLoggedIn
	t.a.byUser[user]++
	t.user = user
	return nil
}

func (t *Ticket) endWaiting() {
	t.a.byAddress[t.addr].waiting--
	i := slices.Index(t.a.waiting, t)
	t.a.waiting = slices.Delete(t.a.waiting, i, i+1)
}

// leave takes the connection out of all counts.
func (t *Ticket) leave() {
	t.a.mu.Lock()
	defer t.a.mu.Unlock()
	if t.state == ticketDropped {
		t.a.dropped--
		return
	}
	t.a.remove(t)
}

// remove takes a connection that was not dropped out of the counts.
func (a *admission) remove(t *Ticket) {
	if t.state == ticketWaiting {
		t.endWaiting()
	} else if a.byUser[t.user]--; a.byUser[t.user] == 0 {
		delete(a.byUser, t.user)
	}
	a.all--
	if n := a.byAddress[t.addr]; n.all == 1 {
		delete(a.byAddress, t.addr)
		n.all = 0
	} else {
		n.all--
	}
}
