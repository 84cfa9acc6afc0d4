package websrv

import (
	"crypto/tls"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/snapgate/gateway/vfs"
)

// Without a login there is nothing but the login, and it leads back to where one wanted to go.
func TestLoginFirst(t *testing.T) {
	s := startSite(t, nil)
	s.put("/secret-name.txt", "x")
	snap := s.commit()
	b := s.browser()
	for _, path := range []string{
		"/", "/browse/", "/browse/secret-name.txt", "/view/secret-name.txt", "/raw/secret-name.txt", "/file/secret-name.txt",
		"/zip/", "/snapshots/", "/search/?q=*", "/history/secret-name.txt", "/diff/", "/restore/.snapshots/" + snap + "/secret-name.txt", "/activity",
	} {
		a := b.get(path)
		want := "/login"
		if path != "/" {
			want += "?next=" + url.QueryEscape(path)
		}
		if a.status != http.StatusSeeOther || a.header.Get("Location") != want {
			t.Errorf("GET %s: %d to %q, want 303 to %q", path, a.status, a.header.Get("Location"), want)
		}
	}
	if a := b.get("/login?next=%2Fview%2Fsecret-name.txt"); a.status != http.StatusOK {
		t.Fatalf("login page: %d", a.status)
	}
	if a := b.post("/login", "user", "alice", "password", "alice's", "next", "/view/secret-name.txt"); a.header.Get("Location") != "/view/secret-name.txt" {
		t.Errorf("after the login: %d to %q", a.status, a.header.Get("Location"))
	}
	contains(t, b.want("/view/secret-name.txt"), "secret-name.txt")
}

// A login leads nowhere but here.
func TestLoginRedirect(t *testing.T) {
	s := startSite(t, nil)
	for _, next := range []string{"//evil.example", "https://evil.example/", "/\\evil.example", "javascript:alert(1)", "\t//evil.example", "evil", ""} {
		b := s.browser()
		b.get("/login?next=" + url.QueryEscape(next))
		if a := b.post("/login", "user", "alice", "password", "alice's", "next", next); a.status != http.StatusSeeOther || a.header.Get("Location") != "/" {
			t.Errorf("next %q: %d to %q, want 303 to /", next, a.status, a.header.Get("Location"))
		}
	}
}

// Who is refused learns nothing; the log and the audit log do, but not the password.
func TestLoginRefused(t *testing.T) {
	s := startSite(t, nil)
	b := s.browser()
	pages := map[string]string{}
	for name, user := range map[string]string{"wrong password": "alice", "no such user": "mallory"} {
		b.get("/login")
		a := b.post("/login", "user", user, "password", "hunter2-wrong")
		if a.status != http.StatusForbidden {
			t.Errorf("%s: %d", name, a.status)
		}
		contains(t, a.body, `role="alert"`)
		lacks(t, a.body, "secret reason", "hunter2-wrong")
		pages[name] = strings.ReplaceAll(a.body, user, "X")
	}
	if pages["wrong password"] != pages["no such user"] {
		t.Error("the answers tell whether there is such a user")
	}
	if a := b.get("/"); a.status != http.StatusSeeOther {
		t.Errorf("overview after refused logins: %d", a.status)
	}
	lacks(t, s.log.String(), "hunter2-wrong")
	contains(t, s.log.String(), "the secret reason")
	s.told.mu.Lock()
	defer s.told.mu.Unlock()
	if n := len(s.told.logins); n != 2 || s.told.logins[0].Err == nil || s.told.logins[0].Protocol != "web" || s.told.logins[0].Method != "password" {
		t.Errorf("the observer was told %+v", s.told.logins)
	}
	if from := s.users.froms[0]; !from.IsLoopback() {
		t.Errorf("the password came from %v, want the browser's address", from)
	}
}

// The cookie is a secret that scripts, other sites and plain connections do not get.
func TestCookies(t *testing.T) {
	s := startSite(t, nil)
	b := s.browser()
	b.get("/login")
	a := b.post("/login", "user", "alice", "password", "alice's")
	var found *http.Cookie
	for _, c := range (&http.Response{Header: a.header}).Cookies() {
		if c.Name == "snapgate" {
			found = c
		}
	}
	switch {
	case found == nil:
		t.Fatalf("no cookie in %v", a.header["Set-Cookie"])
	case !found.HttpOnly || found.SameSite != http.SameSiteStrictMode || found.Path != "/" || found.Domain != "" || len(found.Value) != 43:
		t.Errorf("cookie %v", found)
	}
}

// Where TLS ends here, with no proxy before it, cookies are for this host alone and for TLS, when they are set and when they
// are taken back; browsers refuse others of such a name. A cookie that a plain connection may have set does not count.
func TestCookiesOverTLS(t *testing.T) {
	cert := certificate(t, "gateway")
	s := startSite(t, func(c *Config) {
		c.TLS = func() *tls.Config {
			return &tls.Config{Certificates: []tls.Certificate{*cert}, MinVersion: tls.VersionTLS12}
		}
	})
	over := func() *browser {
		b := s.browser()
		b.base = "https://" + s.addr
		b.client.Transport.(*http.Transport).TLSClientConfig = &tls.Config{InsecureSkipVerify: true}
		return b
	}
	values := map[string]string{}
	fit := func(a answer, names ...string) {
		t.Helper()
		var got []string
		for _, c := range (&http.Response{Header: a.header}).Cookies() {
			got, values[c.Name] = append(got, c.Name), c.Value
			if !c.Secure || !c.HttpOnly || c.SameSite != http.SameSiteStrictMode || c.Path != "/" || c.Domain != "" {
				t.Errorf("cookie %v", c)
			}
		}
		if !slices.Equal(got, names) {
			t.Errorf("cookies %q, want %q", got, names)
		}
	}
	b := over()
	page := b.get("/login")
	fit(page, "__Host-snapgate-form")
	if sts := page.header.Get("Strict-Transport-Security"); sts == "" {
		t.Error("no Strict-Transport-Security")
	}
	fit(b.post("/login", "user", "alice", "password", "alice's"), "__Host-snapgate", "__Host-snapgate-form")
	value := values["__Host-snapgate"]
	contains(t, b.want("/"), "alice")
	for name, want := range map[string]int{"snapgate": http.StatusSeeOther, "__Host-snapgate": http.StatusOK} {
		if a := over().get("/", "Cookie", name+"="+value); a.status != want {
			t.Errorf("with the value as %s: %d, want %d", name, a.status, want)
		}
	}
	fit(b.post("/logout"), "__Host-snapgate")
	if a := b.get("/"); a.status != http.StatusSeeOther {
		t.Errorf("after the logout: %d", a.status)
	}
}

// A login gets a new token each time, and the old one ends.
func TestLoginRotates(t *testing.T) {
	s := startSite(t, nil)
	b := s.as("alice")
	here, _ := url.Parse(b.base)
	old := b.client.Jar.Cookies(here)
	b.client.Jar.SetCookies(here, []*http.Cookie{{Name: "snapgate-form", Value: strings.Repeat("x", 43), Path: "/"}})
	a := b.post("/login", "user", "alice", "password", "alice's", "token", strings.Repeat("x", 43))
	if a.status != http.StatusSeeOther {
		t.Fatalf("second login: %d", a.status)
	}
	now := b.client.Jar.Cookies(here)
	if old[0].Value == now[0].Value {
		t.Error("the token is the same")
	}
	other := s.browser()
	other.client.Jar.SetCookies(here, old)
	if a := other.get("/"); a.status != http.StatusSeeOther {
		t.Errorf("with the old token: %d", a.status)
	}
}

// What ends a login, and that the audit log is told.
func TestLoginEnds(t *testing.T) {
	for _, tt := range []struct {
		name string
		end  func(s *site, b *browser)
	}{
		{"logout", func(_ *site, b *browser) { b.get("/"); b.post("/logout") }},
		{"idle", func(s *site, _ *browser) { s.clock.forward(idleLimit) }},
		{"half a day", func(s *site, b *browser) {
			for range lifeLimit / (idleLimit / 2) {
				s.clock.forward(idleLimit / 2)
				b.get("/")
			}
		}},
		{"another password", func(s *site, _ *browser) {
			s.users.mu.Lock()
			defer s.users.mu.Unlock()
			s.users.gone["alice"] = true
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := startSite(t, nil)
			b := s.as("alice")
			s.clock.forward(idleLimit - time.Second)
			b.want("/")
			tt.end(s, b)
			if a := b.get("/"); a.status != http.StatusSeeOther || a.header.Get("Location") != "/login" {
				t.Errorf("after the end: %d to %q", a.status, a.header.Get("Location"))
			}
			s.told.mu.Lock()
			defer s.told.mu.Unlock()
			if len(s.told.logouts) != 1 || s.told.logouts[0].User != "alice" || s.told.logouts[0].Conn != s.told.logins[0].Conn {
				t.Errorf("logouts: %+v", s.told.logouts)
			}
		})
	}
}

// The permissions of a login are those of now.
func TestPermissionsOfNow(t *testing.T) {
	s := startSite(t, nil)
	s.put("/a.txt", "x")
	b := s.as("alice")
	b.want("/file/a.txt")
	s.user("alice", vfs.PermList, at("/", "main", "/"))
	if a := b.get("/file/a.txt"); a.status != http.StatusForbidden {
		t.Errorf("without the permission to read: %d", a.status)
	}
}

// The number of logins is bounded, for a user and in all: the one that was used least lately goes.
func TestManyLogins(t *testing.T) {
	s := startSite(t, nil)
	first := s.as("alice")
	s.clock.forward(time.Second)
	second := s.as("alice")
	for range userLogins - 1 {
		s.clock.forward(time.Second)
		s.as("alice")
	}
	if a := first.get("/"); a.status != http.StatusSeeOther {
		t.Errorf("the first login: %d, want it to have ended", a.status)
	}
	second.want("/")

	table := newLogins(s.clock.read, s.told)
	for i := range allLogins + 10 {
		table.add(&login{user: fmt.Sprint(i), grant: fakeGrant{s.users, "alice"}})
	}
	if n := len(table.of); n != allLogins {
		t.Errorf("%d logins, want %d", n, allLogins)
	}
}

// A form of another site is refused, and one without the token, and what it would have done is not done.
func TestForgedForms(t *testing.T) {
	s := startSite(t, nil)
	b := s.as("alice")
	b.get("/")
	token := tokenField.FindStringSubmatch(b.page.body)[1]
	send := func(token string, headers ...string) int {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, b.base+"/logout", strings.NewReader(url.Values{"token": {token}}.Encode()))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		for i := 0; i < len(headers); i += 2 {
			req.Header.Set(headers[i], headers[i+1])
		}
		return b.do(req).status
	}
	other := s.as("alice")
	other.get("/")
	for name, got := range map[string]int{
		"no token":         send(""),
		"another token":    send(tokenField.FindStringSubmatch(other.page.body)[1]),
		"a cut token":      send(token[1:]),
		"another site":     send(token, "Sec-Fetch-Site", "cross-site"),
		"a sister site":    send(token, "Sec-Fetch-Site", "same-site"),
		"another origin":   send(token, "Origin", "https://evil.example"),
		"an opaque origin": send(token, "Origin", "null"),
	} {
		if got != http.StatusForbidden {
			t.Errorf("%s: %d, want 403", name, got)
		}
	}
	b.want("/")
	if a := b.get("/logout"); a.status != http.StatusMethodNotAllowed && a.status != http.StatusNotFound {
		t.Errorf("GET /logout: %d", a.status)
	}
	b.want("/")
	if got := send(token, "Sec-Fetch-Site", "same-origin", "Origin", b.base); got != http.StatusSeeOther {
		t.Errorf("the true form: %d", got)
	}
	fresh := s.browser()
	if a := fresh.post("/login", "user", "alice", "password", "alice's"); a.status != http.StatusForbidden {
		t.Errorf("a login without the page: %d", a.status)
	}
}

// A form that is too large is not read.
func TestLargeForm(t *testing.T) {
	s := startSite(t, nil)
	b := s.browser()
	b.get("/login")
	if a := b.post("/login", "user", "alice", "password", strings.Repeat("x", maxForm)); a.status != http.StatusBadRequest {
		t.Errorf("got %d", a.status)
	}
}

// Every page has the headers that keep it to itself.
func TestHeaders(t *testing.T) {
	s := startSite(t, nil)
	s.put("/a.txt", "x")
	b := s.as("alice")
	for _, path := range []string{"/", "/login", "/browse/", "/view/a.txt", "/browse/nothing", "/static/style.css", "/snapshots/"} {
		h := b.get(path).header
		for key, want := range map[string]string{
			"Content-Security-Policy":      policy,
			"X-Content-Type-Options":       "nosniff",
			"Referrer-Policy":              "no-referrer",
			"Cross-Origin-Opener-Policy":   "same-origin",
			"Cross-Origin-Resource-Policy": "same-origin",
		} {
			if got := h.Get(key); got != want {
				t.Errorf("%s: %s: %q, want %q", path, key, got, want)
			}
		}
		if got := h.Get("Cache-Control"); path != "/static/style.css" && got != "no-store" {
			t.Errorf("%s: Cache-Control: %q", path, got)
		}
	}
}
