package sshsrv

import (
	"errors"
	"net/netip"
	"sync"
)

// Reasons to refuse a connection, or to close it.
var (
	errTooMany           = errors.New("too many connections")
	errTooManyAddress    = errors.New("too many connections from this address")
	errTooManyUser       = errors.New("too many connections of this user")
	errTooManyHandshakes = errors.New("too many connections that have not logged in")
	errTooManyChannels   = errors.New("too many channels at once")
	errStalled           = errors.New("the client takes no answers")
)

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

// ticket is a connection's place in the counts. Its methods are called one at a time.
type ticket struct {
	a         *admission
	addr      netip.Addr
	user      string
	hasUser   bool
	handshake bool
}

// addressBits is what counts as one address of IPv6: the least that a site is given.
const addressBits = 64

// enter counts a new connection, which has not logged in.
func (a *admission) enter(addr netip.Addr) (*ticket, error) {
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
		return nil, errTooMany
	case n.all >= a.limits.PerAddress:
		return nil, errTooManyAddress
	case a.handshakes >= a.limits.Handshakes, n.handshakes >= a.limits.HandshakesPerAddress:
		return nil, errTooManyHandshakes
	}
	a.byAddress[addr] = n
	a.all++
	a.handshakes++
	n.all++
	n.handshakes++
	return &ticket{a: a, addr: addr, handshake: true}, nil
}

// loggedIn moves the connection from those in handshake to those of a user, unless that
// one has too many.
func (t *ticket) loggedIn(user string) error {
	t.a.mu.Lock()
	defer t.a.mu.Unlock()
	if t.a.byUser[user] >= t.a.limits.PerUser {
		return errTooManyUser
	}
	t.endHandshake()
	t.a.byUser[user]++
	t.user, t.hasUser = user, true
	return nil
}

func (t *ticket) endHandshake() {
	if t.handshake {
		t.handshake = false
		t.a.handshakes--
		t.a.byAddress[t.addr].handshakes--
	}
}

// leave takes the connection out of all counts.
func (t *ticket) leave() {
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
