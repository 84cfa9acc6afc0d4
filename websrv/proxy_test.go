package websrv

import (
	"net/http"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
)

func TestClientOf(t *testing.T) {
	trusted := []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32"), netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("fd00::/8")}
	const peer = "127.0.0.1:4711"
	for _, tt := range []struct {
		name    string
		headers []string
		want    string
	}{
		{"one", []string{"203.0.113.5"}, "203.0.113.5:0"},
		{"what the client has made up", []string{"198.51.100.1, 203.0.113.5"}, "203.0.113.5:0"},
		{"in headers of their own", []string{"198.51.100.1", "203.0.113.5"}, "203.0.113.5:0"},
		{"through two proxies", []string{"198.51.100.1, 203.0.113.5, 10.0.0.9"}, "203.0.113.5:0"},
		{"nothing but proxies", []string{"10.0.0.8, 10.0.0.9"}, "10.0.0.8:0"},
		{"a proxy that the client has made up", []string{"10.0.0.8, 203.0.113.5"}, "203.0.113.5:0"},
		{"with a port", []string{"203.0.113.5:5555"}, "203.0.113.5:5555"},
		{"IPv6", []string{"2001:db8::1"}, "[2001:db8::1]:0"},
		{"IPv6 in brackets", []string{"[2001:db8::1]"}, "[2001:db8::1]:0"},
		{"IPv6 with a port", []string{"[2001:db8::1]:5555"}, "[2001:db8::1]:5555"},
		{"IPv6 with a zone", []string{"fe80::1%eth0"}, "[fe80::1]:0"},
		{"IPv6 with a zone in brackets and a port", []string{"[fe80::1%eth0]:1"}, "[fe80::1]:1"},
		{"a trusted one with a zone", []string{"203.0.113.5, fd00::1%x"}, "203.0.113.5:0"},
		{"IPv4 as IPv6", []string{"::ffff:203.0.113.5"}, "203.0.113.5:0"},
		{"a trusted one as IPv6", []string{"203.0.113.5, ::ffff:10.0.0.9"}, "203.0.113.5:0"},
		{"empty elements", []string{" , 203.0.113.5,, "}, "203.0.113.5:0"},
		{"nothing", []string{"", " ,\t,"}, peer},
		{"garbage", []string{"<script>"}, peer},
		{"garbage to the right of an address", []string{"203.0.113.5, unknown"}, peer},
		{"garbage to the left of a proxy", []string{"203.0.113.5, _hidden, 10.0.0.9"}, "10.0.0.9:0"},
		{"a name", []string{"localhost"}, peer},
		{"no address", []string{"0.0.0.0"}, peer},
		{"too large a port", []string{"203.0.113.5:99999"}, peer},
		{"half a bracket", []string{"[2001:db8::1"}, peer},
		{"brackets around nothing", []string{"[]"}, peer},
		{"very long", []string{"203.0.113.5, fe80::1%" + strings.Repeat("x", 1000)}, peer},
		{"very many", []string{strings.Repeat("198.51.100.1,", 500) + "203.0.113.5"}, "203.0.113.5:0"},
	} {
		if got := clientOf(netip.MustParseAddrPort(peer), tt.headers, trusted).String(); got != tt.want {
			t.Errorf("%s: got %s, want %s", tt.name, got, tt.want)
		}
	}
}

// A proxy is believed only when it is trusted: then the client's address is what passwords and the
// audit log are about, and the cookie is for TLS where the client has that.
func TestProxy(t *testing.T) {
	var trusted atomic.Pointer[[]netip.Prefix]
	trusted.Store(new([]netip.Prefix))
	s := startSite(t, func(c *Config) { c.Proxies = func() []netip.Prefix { return *trusted.Load() } })
	login := func() (from netip.Addr, remote, cookie, sts string) {
		t.Helper()
		headers := []string{"X-Forwarded-For", "198.51.100.1, 203.0.113.5", "X-Forwarded-Proto", "https"}
		b := s.browser()
		page := b.get("/login", headers...)
		cookie, _, _ = strings.Cut(page.header.Get("Set-Cookie"), "=")
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, b.base+"/login", strings.NewReader(
			"user=alice&password=alice%27s&token="+tokenField.FindStringSubmatch(page.body)[1]))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		value, _, _ := strings.Cut(page.header.Get("Set-Cookie"), ";")
		req.Header.Set("Cookie", value) // the jar keeps what is for TLS to itself
		for i := 0; i < len(headers); i += 2 {
			req.Header.Set(headers[i], headers[i+1])
		}
		if a := b.do(req); a.status != http.StatusSeeOther {
			t.Fatalf("login: %d %s", a.status, a.body)
		}
		s.users.mu.Lock()
		defer s.users.mu.Unlock()
		s.told.mu.Lock()
		defer s.told.mu.Unlock()
		return s.users.froms[len(s.users.froms)-1], s.told.logins[len(s.told.logins)-1].Remote, cookie, page.header.Get("Strict-Transport-Security")
	}
	from, remote, cookie, sts := login()
	if !from.IsLoopback() || !strings.HasPrefix(remote, "127.0.0.1:") || cookie != "snapgate-form" || sts != "" {
		t.Errorf("from nobody that is trusted: %s, %s, %s, %q", from, remote, cookie, sts)
	}
	if n := strings.Count(s.log.String(), "http.trusted_proxies"); n != 1 {
		t.Errorf("the log has told %d times of a proxy that is not trusted", n)
	}
	trusted.Store(&[]netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")})
	from, remote, cookie, sts = login()
	if from != netip.MustParseAddr("203.0.113.5") || remote != "203.0.113.5:0" || cookie != "__Host-snapgate-form" || sts == "" {
		t.Errorf("from a trusted proxy: %s, %s, %s, %q", from, remote, cookie, sts)
	}
}
