package auth

import (
	"errors"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/crypto/bcrypt"

	"github.com/snapgate/gateway/vfs"
)

// A login that lasts ends with its user, its password, or what else keeps the user out.
func TestGrant(t *testing.T) {
	clock := time.Date(2026, 11, 26, 12, 0, 0, 0, time.UTC)
	hash := func(password string) Hash {
		h, err := bcrypt.GenerateFromPassword([]byte(password), bcrypt.MinCost)
		if err != nil {
			t.Fatal(err)
		}
		parsed, err := ParseHash(string(h))
		if err != nil {
			t.Fatal(err)
		}
		return parsed
	}
	first, other := hash("secret"), hash("secret")
	user := func(change func(*User)) User {
		u := User{Name: "alice", Principal: &vfs.Principal{User: "alice"}, Hash: first}
		change(&u)
		return u
	}
	here, there := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("198.51.100.1")
	for _, tt := range []struct {
		name   string
		change func(*User)
		from   netip.Addr
		ok     bool
	}{
		{"nothing", func(*User) {}, here, true},
		{"other permissions", func(u *User) { u.Principal = &vfs.Principal{User: "alice", Perms: vfs.PermList} }, here, true},
		{"from elsewhere", func(*User) {}, there, true},
		{"the same password with another salt", func(u *User) { u.Hash = other }, here, false},
		{"no password", func(u *User) { u.Hash = Hash{} }, here, false},
		{"disabled", func(u *User) { u.Disabled = true }, here, false},
		{"expired", func(u *User) { u.Expires = clock }, here, false},
		{"another name", func(u *User) { u.Name = "bob" }, here, false},
		{"an address that is let in", func(u *User) { u.AllowFrom = []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")} }, here, true},
		{"an address that is not", func(u *User) { u.AllowFrom = []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")} }, there, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d, err := New(Config{Users: []User{user(func(*User) {})}, Now: func() time.Time { return clock }})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := d.Login(t.Context(), "alice", []byte("wrong"), here); !errors.Is(err, ErrDenied) {
				t.Errorf("wrong password: %v", err)
			}
			g, err := d.Login(t.Context(), "alice", []byte("secret"), here)
			if err != nil {
				t.Fatal(err)
			}
			now := user(tt.change)
			if err := d.Reload([]User{now}); err != nil {
				t.Fatal(err)
			}
			p, err := g.Principal(tt.from)
			if tt.ok && (err != nil || p != now.Principal) || !tt.ok && !errors.Is(err, ErrDenied) {
				t.Errorf("got %v, %v, want let in: %t", p, err, tt.ok)
			}
		})
	}
}
