package auth

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/crypto/argon2"
	"golang.org/x/crypto/bcrypt"
	"golang.org/x/crypto/ssh"

	"github.com/snapgate/gateway/vfs"
)

var (
	here  = netip.MustParseAddr("192.0.2.7")
	there = netip.MustParseAddr("198.51.100.1")
)

// cheap is a hash of "secret" with the lowest parameters.
func cheap(tb testing.TB) Hash {
	tb.Helper()
	salt := []byte("0123456789abcdef")
	return Hash{memory: 8, passes: 1, lanes: 1, salt: salt, sum: argon2.IDKey([]byte("secret"), salt, 1, 8, 1, 32)}
}

func newKey(tb testing.TB) ssh.PublicKey {
	tb.Helper()
	pub, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		tb.Fatal(err)
	}
	k, err := ssh.NewPublicKey(pub)
	if err != nil {
		tb.Fatal(err)
	}
	return k
}

func keyLine(k ssh.PublicKey) string { return strings.TrimSpace(string(ssh.MarshalAuthorizedKey(k))) }

func newDirectory(tb testing.TB, users ...User) *Directory {
	tb.Helper()
	for i := range users {
		users[i].Principal = &vfs.Principal{User: users[i].Name}
	}
	d, err := New(Config{Users: users})
	if err != nil {
		tb.Fatal(err)
	}
	return d
}

func TestParseHash(t *testing.T) {
	b64 := strings.Repeat("A", 43)
	bc, err := bcrypt.GenerateFromPassword([]byte("secret"), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct{ name, in, err string }{
		{"argon2id", "$argon2id$v=19$m=65536,t=3,p=2$AAAAAAAAAAAAAAAAAAAAAA$" + b64, ""},
		{"bcrypt 2a", string(bc), ""},
		{"bcrypt 2b", "$2b$" + string(bc[4:]), ""},
		{"bcrypt 2y", "$2y$" + string(bc[4:]), ""},
		{"empty", "", "empty"},
		{"plain", "hunter2", "not a password hash"},
		{"argon2i", "$argon2i$v=19$m=65536,t=3,p=2$AAAAAAAAAAA$" + b64, "unsupported password hash"},
		{"sha512", "$6$abc$def", "unsupported"},
		{"old version", "$argon2id$v=16$m=65536,t=3,p=2$AAAAAAAAAAA$" + b64, "version"},
		{"parts", "$argon2id$v=19$m=65536,t=3,p=2$AAAAAAAAAAA", "malformed"},
		{"huge memory", "$argon2id$v=19$m=4194304,t=1,p=1$AAAAAAAAAAAAAAAAAAAAAA$" + b64, "too high"},
		{"many passes", "$argon2id$v=19$m=65536,t=1000,p=1$AAAAAAAAAAAAAAAAAAAAAA$" + b64, "too many"},
		{"much work", "$argon2id$v=19$m=1048576,t=8,p=1$AAAAAAAAAAAAAAAAAAAAAA$" + b64, "too long"},
		{"no memory", "$argon2id$v=19$m=1,t=1,p=1$AAAAAAAAAAAAAAAAAAAAAA$" + b64, "too low"},
		{"no lanes", "$argon2id$v=19$m=65536,t=1,p=0$AAAAAAAAAAAAAAAAAAAAAA$" + b64, "too low"},
		{"order", "$argon2id$v=19$t=1,m=65536,p=1$AAAAAAAAAAAAAAAAAAAAAA$" + b64, "want m="},
		{"salt", "$argon2id$v=19$m=65536,t=1,p=1$AAAA$" + b64, "salt"},
		{"bcrypt cost", "$2b$31$" + string(bc[7:]), "too high"},
		{"bcrypt short", "$2b$04$abc", "malformed"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := ParseHash(tt.in)
			if tt.err == "" && err != nil {
				t.Fatalf("got %v, want no error", err)
			}
			if tt.err != "" && (err == nil || !strings.Contains(err.Error(), tt.err)) {
				t.Fatalf("got %v, want an error with %q", err, tt.err)
			}
		})
	}
}

func TestHashVerify(t *testing.T) {
	made, err := HashPassword([]byte("secret"))
	if err != nil {
		t.Fatal(err)
	}
	bc, err := bcrypt.GenerateFromPassword([]byte("secret"), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range []string{made, string(bc), "$2b$" + string(bc[4:]), "$2y$" + string(bc[4:])} {
		h, err := ParseHash(s)
		if err != nil {
			t.Fatal(err)
		}
		if !h.Verify([]byte("secret")) {
			t.Errorf("%.10s: the right password is refused", s)
		}
		if h.Verify([]byte("Secret")) || h.Verify(nil) {
			t.Errorf("%.10s: a wrong password is accepted", s)
		}
		if h.decoy().Verify([]byte("secret")) {
			t.Errorf("%.10s: the decoy accepts the password", s)
		}
	}
	if (Hash{}).Verify(nil) {
		t.Error("the zero hash accepts")
	}
}

// The decoy of a bcrypt hash must be one that bcrypt works through: an error at once
// would tell unknown users by the clock.
func TestDecoyIsValid(t *testing.T) {
	bc, err := bcrypt.GenerateFromPassword([]byte("secret"), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	d := Hash{bcrypt: bc}.decoy()
	if err := bcrypt.CompareHashAndPassword(d.bcrypt, []byte("secret")); !errors.Is(err, bcrypt.ErrMismatchedHashAndPassword) {
		t.Fatalf("got %v, want a mismatch", err)
	}
}

func TestParseKey(t *testing.T) {
	line := keyLine(newKey(t))
	rk, err := rsa.GenerateKey(rand.Reader, 1024) //nolint:gosec // a key that must be refused
	if err != nil {
		t.Skip("no short RSA keys here:", err)
	}
	short, err := ssh.NewPublicKey(&rk.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct{ name, in, err string }{
		{"plain", line, ""},
		{"comment", line + " me@host", ""},
		{"restrict", "restrict " + line, ""},
		{"from", `from="10.0.0.0/8,!10.1.*,2001:db8::/32" ` + line, ""},
		{"all", `restrict,from="10.0.0.1",expiry-time="20300101Z" ` + line, ""},
		{"empty", "", "no key"},
		{"two lines", line + "\n" + line, "more than one line"},
		{"garbage", "ssh-ed25519 AAAA", "not a public key"},
		{"private", "-----BEGIN OPENSSH PRIVATE KEY-----", "private key"},
		{"command", `command="ls" ` + line, `option "command" is not supported`},
		{"no-pty", "no-pty " + line, `option "no-pty" is not supported`},
		{"cert-authority", "cert-authority " + line, "not supported"},
		{"host name", `from="*.example.com" ` + line, "host names"},
		{"host bits", `from="10.0.0.1/8" ` + line, "host names"},
		{"more than the mapped network", `from="::ffff:0:0/95" ` + line, "host names"},
		{"expiry", `expiry-time="2030-01-01" ` + line, "want YYYYMMDD"},
		{"short rsa", keyLine(short), "below 2048"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := ParseKey(tt.in, time.UTC)
			if tt.err == "" && err != nil {
				t.Fatalf("got %v, want no error", err)
			}
			if tt.err != "" && (err == nil || !strings.Contains(err.Error(), tt.err)) {
				t.Fatalf("got %v, want an error with %q", err, tt.err)
			}
		})
	}
}

func TestKeyAllowed(t *testing.T) {
	line := keyLine(newKey(t))
	now := time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
	tests := []struct {
		name, options, addr string
		want                error
	}{
		{"from network", `from="192.0.2.0/24" `, "192.0.2.7", nil},
		{"from other network", `from="192.0.2.0/24" `, "198.51.100.1", errKeyFrom},
		{"from wildcard", `from="192.0.*" `, "192.0.2.7", nil},
		{"from negated", `from="192.0.2.0/24,!192.0.2.7" `, "192.0.2.7", errKeyFrom},
		{"only negated", `from="!192.0.2.8" `, "192.0.2.7", errKeyFrom},
		{"from mapped network", `from="::ffff:192.0.2.0/120" `, "192.0.2.7", nil},
		{"from negated mapped network", `from="*,!::ffff:192.0.2.0/120" `, "192.0.2.7", errKeyFrom},
		{"from negated mapped address", `from="*,!::ffff:192.0.2.7" `, "192.0.2.7", errKeyFrom},
		{"from v6", `from="2001:db8::/32" `, "2001:db8::1", nil},
		{"expired", `expiry-time="20261122Z" `, "192.0.2.7", errKeyExpired},
		{"expires later today", `expiry-time="202611221201Z" `, "192.0.2.7", nil},
		{"earliest counts", `expiry-time="20300101Z",expiry-time="20200101Z" `, "192.0.2.7", errKeyExpired},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			k, err := ParseKey(tt.options+line, time.UTC)
			if err != nil {
				t.Fatal(err)
			}
			if got := k.allowed(netip.MustParseAddr(tt.addr), now); !errors.Is(got, tt.want) {
				t.Fatalf("got %v, want %v", got, tt.want)
			}
		})
	}
}

func TestPassword(t *testing.T) {
	d := newDirectory(t,
		User{Name: "alice", Hash: cheap(t)},
		User{Name: "keys"},
		User{Name: "off", Hash: cheap(t), Disabled: true},
		User{Name: "old", Hash: cheap(t), Expires: time.Now().Add(-time.Hour)},
		User{Name: "inside", Hash: cheap(t), AllowFrom: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}},
	)
	tests := []struct {
		name, user, password string
		addr                 netip.Addr
		want                 error
	}{
		{"good", "alice", "secret", here, nil},
		{"wrong", "alice", "Secret", here, errPassword},
		{"unknown", "bob", "secret", here, errUnknown},
		{"no password", "keys", "", here, errNoPassword},
		{"disabled", "off", "secret", here, errDisabled},
		{"disabled and wrong", "off", "x", here, errPassword},
		{"expired", "old", "secret", here, errExpired},
		{"from inside", "inside", "secret", here, nil},
		{"from inside, mapped", "inside", "secret", netip.MustParseAddr("::ffff:192.0.2.7"), nil},
		{"from outside", "inside", "secret", there, errAddress},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			d.throttle = newThrottle()
			p, err := d.Password(t.Context(), tt.user, []byte(tt.password), tt.addr)
			if !errors.Is(err, tt.want) {
				t.Fatalf("got %v, want %v", err, tt.want)
			}
			if err == nil && p.User != tt.user {
				t.Fatalf("got principal %q, want %q", p.User, tt.user)
			}
			if err != nil && (p != nil || !errors.Is(err, ErrDenied)) {
				t.Fatalf("got principal %v and error %v, want none and ErrDenied", p, err)
			}
		})
	}
}

func TestPublicKey(t *testing.T) {
	mine, other := newKey(t), newKey(t)
	key, err := ParseKey(`from="192.0.2.0/24" `+keyLine(mine), time.UTC)
	if err != nil {
		t.Fatal(err)
	}
	d := newDirectory(t,
		User{Name: "alice", Keys: []Key{key}},
		User{Name: "off", Keys: []Key{key}, Disabled: true},
	)
	tests := []struct {
		name, user string
		key        ssh.PublicKey
		addr       netip.Addr
		want       error
	}{
		{"listed", "alice", mine, here, nil},
		{"not listed", "alice", other, here, errKeyUnlisted},
		{"wrong place", "alice", mine, there, errKeyFrom},
		{"unknown user", "bob", mine, here, errUnknown},
		{"disabled", "off", mine, here, errDisabled},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p, err := d.PublicKey(tt.user, tt.key, tt.addr)
			if !errors.Is(err, tt.want) || (err == nil) != (p != nil) {
				t.Fatalf("got %v and %v, want %v", p, err, tt.want)
			}
		})
	}
}

func TestLockout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDirectory(t, User{Name: "alice", Hash: cheap(t)}, User{Name: "bob", Hash: cheap(t)})
		ctx := t.Context()
		try := func(user, password string, addr netip.Addr) (time.Duration, error) {
			start := time.Now()
			_, err := d.Password(ctx, user, []byte(password), addr)
			return time.Since(start), err
		}
		var last time.Duration
		for i := range lockFailures + 5 {
			took, err := try("alice", "wrong", here)
			if errors.Is(err, errLocked) {
				break
			}
			if i < freeFailures && took > 0 {
				t.Errorf("failure %d waited %v, want no wait yet", i, took)
			}
			if took < last || took > maxDelay {
				t.Errorf("failure %d waited %v after %v, want a growing wait of at most %v", i, took, last, maxDelay)
			}
			last = took
		}
		if _, err := try("alice", "secret", here); !errors.Is(err, errLocked) {
			t.Errorf("the right password while locked out: got %v, want %v", err, errLocked)
		}
		if _, err := try("alice", "secret", there); !errors.Is(err, errLocked) {
			t.Errorf("from elsewhere while the user is locked out: got %v, want %v", err, errLocked)
		}
		if _, err := try("bob", "secret", here); !errors.Is(err, errLocked) {
			t.Errorf("another user from the locked address: got %v, want %v", err, errLocked)
		}
		if _, err := try("bob", "secret", there); err != nil {
			t.Errorf("another user from elsewhere: got %v, want success", err)
		}
		time.Sleep(lockFor + time.Second) //nolint:forbidigo // in a synctest bubble
		if _, err := try("alice", "secret", here); err != nil {
			t.Errorf("after the lock-out: got %v, want success", err)
		}
		if took, err := try("alice", "wrong", here); took > 0 || !errors.Is(err, errPassword) {
			t.Errorf("first failure after a success: waited %v and got %v, want no wait", took, err)
		}
	})
}

// Whoever guesses at a user's name from elsewhere locks himself out, and no address that
// the user logs in from.
func TestGuessingFromElsewhere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDirectory(t, User{Name: "alice", Hash: cheap(t)})
		try := func(password string, addr netip.Addr) error {
			_, err := d.Password(t.Context(), "alice", []byte(password), addr)
			return err
		}
		if err := try("secret", here); err != nil {
			t.Fatal(err)
		}
		guess := func() {
			t.Helper()
			addr := there
			for range 2 * lockFailures { // each from an address of its own
				if err := try("wrong", addr); errors.Is(err, errLocked) {
					return
				}
				addr = addr.Next()
			}
			t.Error("guessing from many addresses is never locked out")
		}
		for range 2 { // the success in between must not give the guesser new tries
			guess()
			start := time.Now()
			if err := try("secret", here); err != nil || time.Since(start) > 0 {
				t.Errorf("from an address that has logged in: %v after %v, want success at once", err, time.Since(start))
			}
			if err := try("secret", there); !errors.Is(err, errLocked) {
				t.Errorf("from elsewhere, during the lock-out: %v, want %v", err, errLocked)
			}
		}
		for range lockFailures + 5 { // some fade meanwhile
			_ = try("wrong", here)
		}
		if err := try("secret", here); !errors.Is(err, errLocked) {
			t.Errorf("after guesses from an address that has logged in: %v, want %v", err, errLocked)
		}
	})
}

// Somebody with an account of its own at the same address, as behind a proxy, gets no tries at another
// user's password by logging in now and then.
func TestGuessingBesideOwnLogins(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDirectory(t, User{Name: "alice", Hash: cheap(t)}, User{Name: "mallory", Hash: cheap(t)})
		try := func(user, password string) error {
			_, err := d.Password(t.Context(), user, []byte(password), here)
			return err
		}
		if err := try("alice", "secret"); err != nil {
			t.Fatal(err)
		}
		for range 2 * lockFailures {
			if err := try("mallory", "secret"); err != nil {
				t.Fatalf("mallory, who does nothing wrong at its own name: %v", err)
			}
			if err := try("alice", "wrong"); errors.Is(err, errLocked) {
				return
			}
		}
		t.Error("guessing is never locked out")
	})
}

// Connecting, and offering keys that are not listed, must never lock anybody out.
func TestOfferedKeysDoNotCount(t *testing.T) {
	d := newDirectory(t, User{Name: "alice", Hash: cheap(t)})
	k := newKey(t)
	for range 10 * lockFailures {
		_, _ = d.PublicKey("alice", k, here)
	}
	if wait, locked := d.throttle.check(here, "alice", time.Now()); wait > 0 || locked {
		t.Fatalf("got a wait of %v, locked %v; want neither", wait, locked)
	}
}

// An IPv6 host has 2^64 addresses to guess from; they count as one.
func TestNetwork(t *testing.T) {
	a, b := netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("2001:db8::ffff:1")
	if network(a) != network(b) {
		t.Errorf("%v and %v count apart", a, b)
	}
	if network(here) == network(there) {
		t.Errorf("%v and %v count together", here, there)
	}
}

func TestPasswordGivesUpWithContext(t *testing.T) {
	d := newDirectory(t, User{Name: "alice", Hash: cheap(t)})
	for range cap(d.checks) {
		d.checks <- struct{}{}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := d.Password(ctx, "alice", []byte("secret"), here); !errors.Is(err, context.Canceled) {
		t.Fatalf("got %v, want %v", err, context.Canceled)
	}
	if wait, _ := d.throttle.check(here, "alice", time.Now()); wait != 0 {
		t.Fatal("a try that was given up counts as a failure")
	}
}

// Unknown users must take the time that known ones take, and each the same every time.
func TestDecoyCosts(t *testing.T) {
	bc, err := bcrypt.GenerateFromPassword([]byte("secret"), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	d := newDirectory(t, User{Name: "alice", Hash: cheap(t)}, User{Name: "bob", Hash: Hash{bcrypt: bc}}, User{Name: "keys"})
	seen := map[bool]int{}
	for i := range 64 {
		name := fmt.Sprintf("unknown%d", i)
		h := d.table.Load().decoy(name)
		switch {
		case h.bcrypt != nil:
			if cost, err := bcrypt.Cost(h.bcrypt); err != nil || cost != bcrypt.MinCost {
				t.Errorf("cost %d, %v; want %d", cost, err, bcrypt.MinCost)
			}
		case h.memory != 8 || h.passes != 1 || h.lanes != 1:
			t.Errorf("parameters %d, %d, %d; want those of a user", h.memory, h.passes, h.lanes)
		}
		if again := d.table.Load().decoy(name); (again.bcrypt == nil) != (h.bcrypt == nil) {
			t.Errorf("%s takes another time the second time", name)
		}
		seen[h.bcrypt != nil]++
	}
	if seen[true] == 0 || seen[false] == 0 {
		t.Errorf("got %v, want some of both kinds", seen)
	}
}

func TestReload(t *testing.T) {
	d := newDirectory(t, User{Name: "alice", Hash: cheap(t)})
	p := &vfs.Principal{User: "bob"}
	if err := d.Reload([]User{{Name: "bob", Principal: p, Hash: cheap(t)}}); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Password(t.Context(), "alice", []byte("secret"), here); !errors.Is(err, errUnknown) {
		t.Errorf("a removed user: got %v, want %v", err, errUnknown)
	}
	if _, err := d.Password(t.Context(), "bob", []byte("secret"), here); err != nil {
		t.Errorf("a new user: got %v, want success", err)
	}
	if err := d.Reload([]User{{Name: "x"}}); err == nil {
		t.Error("a user without principal is accepted")
	}
	if _, err := d.Password(t.Context(), "bob", []byte("secret"), here); err != nil {
		t.Errorf("after a refused reload: got %v, want success", err)
	}
}

func FuzzParseKey(f *testing.F) {
	f.Add(`restrict,from="10.0.0.0/8,!10.1.*",expiry-time="20300101Z" ` + keyLine(newKey(f)))
	f.Fuzz(func(t *testing.T, line string) {
		if k, err := ParseKey(line, time.UTC); err == nil {
			_ = k.allowed(here, time.Now())
		}
	})
}

func FuzzParseHash(f *testing.F) {
	f.Add("$argon2id$v=19$m=8,t=1,p=1$AAAAAAAAAAAAAAAAAAAAAA$" + strings.Repeat("A", 43))
	f.Fuzz(func(t *testing.T, s string) {
		h, err := ParseHash(s)
		if err == nil && h.IsZero() {
			t.Fatalf("%q gives the zero hash", s)
		}
	})
}
