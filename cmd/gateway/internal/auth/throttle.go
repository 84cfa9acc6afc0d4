package auth

import (
	"math"
	"net/netip"
	"sync"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"
)

// The figures of slowing down and locking out. They allow a person's typing errors and a
// handful of devices with an old password behind one address, and leave a guesser some
// two thousand tries a day.
const (
	freeFailures     = 3 // no delay up to here
	firstDelay       = 500 * time.Millisecond
	maxDelay         = 4 * time.Second  // six tries fit into a 30 s handshake
	lockFailures     = 20               // then no password is looked at
	lockFor          = 15 * time.Minute // after the last failure that counted
	failureHalfLife  = 10 * time.Minute // a count halves in this time
	throttleCapacity = 16384            // addresses, users and familiar logins, each; about 4 MiB
)

// throttle remembers failed passwords by address and by user. What strangers guess at a
// user's name is not held against addresses that the user has logged in from: nobody can
// lock a device out from elsewhere. Safe for concurrent use.
type throttle struct {
	mu    sync.Mutex // guards the rest; a leaf
	addrs *simplelru.LRU[netip.Prefix, failures]
	// users counts what fails at a user's name: that of strangers together, and that of each familiar
	// address by itself, which another user of the same address does not take away by logging in.
	users *simplelru.LRU[login, failures]
	// familiar are the addresses that users have logged in from.
	familiar *simplelru.LRU[login, struct{}]
}

// login is where a user has logged in from; from nowhere, it stands for all strangers.
type login struct {
	from netip.Prefix
	user string
}

// failures is a count that decays.
type failures struct {
	count  float64
	last   time.Time
	locked time.Time // until then
}

func newThrottle() *throttle {
	// The only error is a capacity that is not positive.
	addrs, _ := simplelru.NewLRU[netip.Prefix, failures](throttleCapacity, nil)
	users, _ := simplelru.NewLRU[login, failures](throttleCapacity, nil)
	familiar, _ := simplelru.NewLRU[login, struct{}](throttleCapacity, nil)
	return &throttle{addrs: addrs, users: users, familiar: familiar}
}

func (f failures) at(now time.Time) failures {
	if age := now.Sub(f.last); age > 0 {
		f.count *= math.Exp2(-age.Seconds() / failureHalfLife.Seconds())
	}
	f.last = now
	return f
}

// fail counts one failure.
func (f failures) fail(now time.Time) failures {
	f = f.at(now)
	f.count++
	if f.count >= lockFailures {
		f.locked = now.Add(lockFor)
		f.count = lockFailures / 2 // a few tries after the lock, then the next one
	}
	return f
}

// delay is how long the next try waits.
func (f failures) delay(now time.Time) time.Duration {
	// Half a failure of slack: decay starts at once and must not give a try away.
	n := int(math.Floor(f.at(now).count+0.5)) - freeFailures
	if n < 0 {
		return 0
	}
	return min(firstDelay<<min(n, 10), maxDelay)
}

// check returns how long a password from addr for user must wait before it is looked at,
// and whether it is refused without a look.
func (t *throttle) check(addr netip.Addr, user string, now time.Time) (wait time.Duration, locked bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if f, ok := t.addrs.Get(network(addr)); ok {
		wait, locked = f.delay(now), now.Before(f.locked)
	}
	if f, ok := t.users.Get(t.key(addr, user)); ok {
		wait, locked = max(wait, f.delay(now)), locked || now.Before(f.locked)
	}
	return wait, locked
}

// failed counts a wrong password.
func (t *throttle) failed(addr netip.Addr, user string, now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	a, _ := t.addrs.Get(network(addr))
	t.addrs.Add(network(addr), a.fail(now))
	key := t.key(addr, user)
	u, _ := t.users.Get(key)
	t.users.Add(key, u.fail(now))
}

// key is what a user's failures from addr are counted under.
func (t *throttle) key(addr netip.Addr, user string) login {
	if l := (login{network(addr), user}); t.familiar.Contains(l) {
		return l
	}
	return login{user: user}
}

// succeeded forgets the failures of addr, and those of user there. Those of strangers stay when addr
// is familiar: they have guessed, and may go on.
func (t *throttle) succeeded(addr netip.Addr, user string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.addrs.Remove(network(addr))
	t.users.Remove(t.key(addr, user))
	t.familiar.Add(login{network(addr), user}, struct{}{}) // used last: it is dropped last
}

// network is what counts as one address: an IPv4 address, or the /64 that an IPv6 host
// can choose its addresses from.
func network(addr netip.Addr) netip.Prefix {
	addr = addr.Unmap().WithZone("")
	bits := addr.BitLen()
	if addr.Is6() {
		bits = 64
	}
	p, err := addr.Prefix(bits)
	if err != nil {
		return netip.Prefix{} // no address (a unix socket): all such peers are one
	}
	return p
}
