package ftpsrv

import (
	"log/slog"
	"net/netip"
	"testing"
	"time"
)

// TestPublicIP says which address PASV tells: the public one to clients from elsewhere.
func TestPublicIP(t *testing.T) {
	const (
		outside = "203.0.113.9"
		private = "192.168.1.5"
		server  = "192.168.1.2"
		public  = "198.51.100.7"
	)
	for _, tt := range []struct{ name, setting, peer, local, want string }{
		{"none set", "", outside, server, server},
		{"an address", public, outside, server, public},
		{"to the same network", public, private, server, server},
		{"to the machine itself", public, "127.0.0.1", "127.0.0.1", "127.0.0.1"},
		{"from private to public without NAT", public, private, "198.51.100.8", public},
		{"a name", "localhost", outside, server, "127.0.0.1"},
		{"a name that is not known", "nowhere.invalid", outside, server, server},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := newPublicIP(tt.setting, slog.New(slog.DiscardHandler))
			got := p.lookup(t.Context(), netip.MustParseAddr(tt.peer), netip.MustParseAddr(tt.local))
			if got.String() != tt.want {
				t.Errorf("got %v, want %v", got, tt.want)
			}
		})
	}
}

// TestPublicIPIsLookedUpAgain has a name that has moved since.
func TestPublicIPIsLookedUpAgain(t *testing.T) {
	p := newPublicIP("localhost", slog.New(slog.DiscardHandler))
	old := netip.MustParseAddr("198.51.100.1")
	peer, local := netip.MustParseAddr("203.0.113.9"), netip.MustParseAddr("192.168.1.2")
	p.addr, p.at = old, time.Now()
	if got := p.lookup(t.Context(), peer, local); got != old {
		t.Errorf("at once: got %v, want %v", got, old)
	}
	p.at = time.Now().Add(-publicIPAge - time.Second)
	if got := p.lookup(t.Context(), peer, local); got.String() != "127.0.0.1" {
		t.Errorf("later: got %v, want the address that the name has now", got)
	}
	p.name, p.at = "nowhere.invalid", time.Now().Add(-publicIPAge-time.Second)
	p.addr = old
	if got := p.lookup(t.Context(), peer, local); got != old {
		t.Errorf("when it cannot be looked up: got %v, want the last one known", got)
	}
}
