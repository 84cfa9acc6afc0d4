package acceptor

import (
	"errors"
	"fmt"
	"net/netip"
	"sync"
)

// Reasons to refuse a connection.
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
	Handshakes           int // not logged in yet, in all; 128
	HandshakesPerAddress int // not logged in yet, of one address; 64
}

const (
	defaultConnections          = 1024
	defaultPerAddress           = 256
	defaultPerUser              = 256
	defaultHandshakes           = 128
	defaultHandshakesPerAddress = 64
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

	mu         sync.Mutex // guards what follows; a leaf
	all        int
	handshakes int
	byAddress  map[netip.Addr]*addressCount
	byUser     map[string]int
}

type addressCount struct{ all, handshakes int }

func newAdmission(limits Limits) *admission {
	return &admission{limits: limits, byAddress: make(map[netip.Addr]*addressCount), byUser: make(map[string]int)}
}

// Ticket is a connection's place in the counts. Its methods are called one at a time.
type Ticket struct {
	a         *admission
	addr      netip.Addr
	user      string
	hasUser   bool
	handshake bool
}

// addressBits is what counts as one address of IPv6: the least that a site is given.
const addressBits = 64

// enter counts a new connection, which has not logged in.
func (a *admission) enter(addr netip.Addr) (*Ticket, error) {
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
	case a.all >= a.limits.Connections:
		return nil, ErrTooMany
	case n.all >= a.limits.PerAddress:
		return nil, ErrTooManyAddress
	case a.handshakes >= a.limits.Handshakes, n.handshakes >= a.limits.HandshakesPerAddress:
		return nil, ErrTooManyHandshakes
	}
	a.byAddress[addr] = n
	a.all++
	a.handshakes++
	n.all++
	n.handshakes++
	return &Ticket{a: a, addr: addr, handshake: true}, nil
}

// LoggedIn moves the connection from those in handshake to those of a user, unless that
// one has too many (ErrTooManyUser).
func (t *Ticket) LoggedIn(user string) error {
	t.a.mu.Lock()
	defer t.a.mu.Unlock()
	if t.a.byUser[user] >= t.a.limits.PerUser {
		return ErrTooManyUser
	}
	t.endHandshake()
	t.a.byUser[user]++
	t.user, t.hasUser = user, true
	return nil
}

func (t *Ticket) endHandshake() {
	if t.handshake {
		t.handshake = false
		t.a.handshakes--
		t.a.byAddress[t.addr].handshakes--
	}
}

// leave takes the connection out of all counts.
func (t *Ticket) leave() {
	t.a.mu.Lock()
	defer t.a.mu.Unlock()
	t.endHandshake()
	t.a.all--
	if n := t.a.byAddress[t.addr]; n.all == 1 {
		delete(t.a.byAddress, t.addr)
	} else {
		n.all--
	}
	if t.hasUser {
		if t.a.byUser[t.user]--; t.a.byUser[t.user] == 0 {
			delete(t.a.byUser, t.user)
		}
	}
}
