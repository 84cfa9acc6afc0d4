package auth

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/snapgate/gateway/vfs"
)

// ErrDenied is the class of all refusals: errors.Is(err, ErrDenied). The text of a
// refusal is for the log; a client must not learn more than that it was refused.
var ErrDenied = errors.New("access denied")

// The reasons of refusals.
var (
	errUnknown     = fmt.Errorf("%w: no such user", ErrDenied)
	errPassword    = fmt.Errorf("%w: wrong password", ErrDenied)
	errNoPassword  = fmt.Errorf("%w: user has no password", ErrDenied)
	errLocked      = fmt.Errorf("%w: locked out after too many wrong passwords", ErrDenied)
	errDisabled    = fmt.Errorf("%w: user is disabled", ErrDenied)
	errExpired     = fmt.Errorf("%w: user has expired", ErrDenied)
	errAddress     = fmt.Errorf("%w: address is not in allow_from", ErrDenied)
	errKeyUnlisted = fmt.Errorf("%w: key is not listed", ErrDenied)
	errKeyExpired  = fmt.Errorf("%w: key has expired", ErrDenied)
	errKeyFrom     = fmt.Errorf("%w: key may not be used from this address", ErrDenied)
)

// User is one configured user.
type User struct {
	Name      string
	Principal *vfs.Principal // what a successful login gets
	Hash      Hash           // zero: no password
	Keys      []Key
	AllowFrom []netip.Prefix // empty: from anywhere
	Disabled  bool
	Expires   time.Time // from then on logins are refused; zero means never
}

// Config configures a Directory.
type Config struct {
	Users []User
	// Checks is how many passwords are hashed at the same time, which bounds memory (64
	// MiB each with the hashes this package makes); 0 means 2.
	Checks int
	// Now is the clock; nil means time.Now.
	Now func() time.Time
}

const defaultChecks = 2

// Directory knows the users and checks what they present. Safe for concurrent use.
type Directory struct {
	table    atomic.Pointer[table]
	throttle *throttle
	checks   chan struct{} // a semaphore around hashing
	now      func() time.Time
}

// table is one generation of users; it is never changed.
type table struct {
	users  map[string]*User
	decoys []Hash // one for each configured password
	key    []byte // chooses the decoy of an unknown name, the same one every time
}

// New makes a Directory.
func New(cfg Config) (*Directory, error) {
	if cfg.Checks < 0 {
		return nil, fmt.Errorf("auth: %d password checks at a time", cfg.Checks)
	}
	if cfg.Checks == 0 {
		cfg.Checks = defaultChecks
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	d := &Directory{
		throttle: newThrottle(),
		checks:   make(chan struct{}, cfg.Checks),
		now:      cfg.Now,
	}
	if err := d.Reload(cfg.Users); err != nil {
		return nil, err
	}
	return d, nil
}

// Reload replaces all users at once. On an error nothing changes. Lock-outs stay.
func (d *Directory) Reload(users []User) error {
	t := &table{users: make(map[string]*User, len(users)), key: randomBytes(sha256.Size)}
	if old := d.table.Load(); old != nil {
		t.key = old.key
	}
	for i := range users {
		u := users[i]
		if u.Name == "" || u.Principal == nil {
			return fmt.Errorf("auth: user %q without name or principal", u.Name)
		}
		if t.users[u.Name] != nil {
			return fmt.Errorf("auth: user %q given twice", u.Name)
		}
		t.users[u.Name] = &u
		if !u.Hash.IsZero() {
			t.decoys = append(t.decoys, u.Hash.decoy())
		}
	}
	if len(t.decoys) == 0 {
		t.decoys = []Hash{defaultDecoy()}
	}
	d.table.Store(t)
	return nil
}

// Password checks a password that a client at addr gave for user. It may block: while
// too many other checks run, and to slow down an address or user with failures. A
// refusal is an ErrDenied; ctx's error is returned as it is and counts for nothing.
func (d *Directory) Password(ctx context.Context, user string, password []byte, addr netip.Addr) (*vfs.Principal, error) {
	u, err := d.password(ctx, user, password, addr)
	if err != nil {
		return nil, err
	}
	return u.Principal, nil
}

// Grant is a login by password that is used for longer than a connection. Safe for concurrent use.
type Grant struct {
	directory *Directory
	user      string
	hash      Hash
}

// Login is Password for somebody who comes back.
func (d *Directory) Login(ctx context.Context, user string, password []byte, addr netip.Addr) (*Grant, error) {
	u, err := d.password(ctx, user, password, addr)
	if err != nil {
		return nil, err
	}
	return &Grant{directory: d, user: u.Name, hash: u.Hash}, nil
}

// Principal is what the user may do as of now. It is an ErrDenied when there is no such user any
// more, or one with another password, or when the user could not log in from addr now.
func (g *Grant) Principal(addr netip.Addr) (*vfs.Principal, error) {
	u := g.directory.table.Load().users[g.user]
	switch {
	case u == nil:
		return nil, errUnknown
	case !u.Hash.equal(g.hash):
		return nil, errPassword
	}
	if err := u.admit(addr.Unmap(), g.directory.now()); err != nil {
		return nil, err
	}
	return u.Principal, nil
}

func (d *Directory) password(ctx context.Context, user string, password []byte, addr netip.Addr) (*User, error) {
	addr = addr.Unmap()
	wait, locked := d.throttle.check(addr, throttleName(user), d.now())
	if err := sleep(ctx, wait); err != nil {
		return nil, err
	}
	if locked {
		return nil, errLocked
	}
	t := d.table.Load()
	u := t.users[user]
	hash := t.decoy(user)
	if u != nil && !u.Hash.IsZero() {
		hash = u.Hash
	}
	release, err := d.turn(ctx)
	if err != nil {
		return nil, err
	}
	defer release()
	// Tries that waited together must not all be looked at once the first of them has
	// locked the address out.
	if _, locked := d.throttle.check(addr, throttleName(user), d.now()); locked {
		return nil, errLocked
	}
	if err := d.judge(u, hash.Verify(password), addr); err != nil {
		d.throttle.failed(addr, throttleName(user), d.now())
		return nil, err
	}
	d.throttle.succeeded(addr, throttleName(user))
	return u, nil
}

// judge turns what is known after the hashing into an answer.
func (d *Directory) judge(u *User, match bool, addr netip.Addr) error {
	switch {
	case u == nil:
		return errUnknown
	case u.Hash.IsZero():
		return errNoPassword
	case !match:
		return errPassword
	}
	return u.admit(addr, d.now())
}

// PublicKey checks whether key may log user in from addr. It proves nothing yet: the
// caller must have the client's signature verified before it uses the principal, as
// package ssh does after its public key callback. It never blocks.
func (d *Directory) PublicKey(user string, key ssh.PublicKey, addr netip.Addr) (*vfs.Principal, error) {
	addr = addr.Unmap()
	u := d.table.Load().users[user]
	if u == nil {
		return nil, errUnknown
	}
	offered := string(key.Marshal())
	for i := range u.Keys {
		k := &u.Keys[i]
		// Public keys are no secret: how long the comparison takes tells nothing.
		if string(k.Public.Marshal()) != offered {
			continue
		}
		if err := k.allowed(addr, d.now()); err != nil {
			return nil, err
		}
		if err := u.admit(addr, d.now()); err != nil {
			return nil, err
		}
		return u.Principal, nil
	}
	return nil, errKeyUnlisted
}

// admit checks the conditions on a user that do not depend on what it presented.
func (u *User) admit(addr netip.Addr, now time.Time) error {
	if u.Disabled {
		return errDisabled
	}
	if !u.Expires.IsZero() && !now.Before(u.Expires) {
		return errExpired
	}
	if len(u.AllowFrom) == 0 {
		return nil
	}
	for _, p := range u.AllowFrom {
		if p.Contains(addr.WithZone("")) {
			return nil
		}
	}
	return errAddress
}

// turn waits until this check may run and returns what ends it. A hash that runs is not
// stopped by ctx: it takes 0.1 s, and at most some seconds.
func (d *Directory) turn(ctx context.Context) (release func(), err error) {
	select {
	case d.checks <- struct{}{}:
		return func() { <-d.checks }, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// decoy is the hash that a user without a password is checked against: of the cost of
// some user's that has one, chosen by the name, so that unknown names take the times that
// known ones take, and each the same time every time.
func (t *table) decoy(user string) Hash {
	m := hmac.New(sha256.New, t.key)
	m.Write([]byte(user))
	n := binary.BigEndian.Uint64(m.Sum(nil))
	return t.decoys[n%uint64(len(t.decoys))]
}

// throttleName bounds what a client's idea of a user name can occupy in memory.
func throttleName(user string) string {
	const longest = 128
	return user[:min(len(user), longest)]
}

func sleep(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return nil
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
