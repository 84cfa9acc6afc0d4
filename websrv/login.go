package websrv

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/snapgate/gateway/internal/acceptor"
	"github.com/snapgate/gateway/vfs"
)

// protocol is what sessions, logs and metrics call the pages.
const protocol = "web"

// Limits of logins. Half an hour without a page and half a day in all are what a person at work
// does not notice, and what a browser that was left open does not survive.
const (
	idleLimit    = 30 * time.Minute
	lifeLimit    = 12 * time.Hour
	userLogins   = 16   // of one user; the one that was used least lately goes first
	allLogins    = 1000 // about 1 KiB each
	maxUserName  = 128  // of a name that is logged
	maxUserAgent = 200
)

// login is somebody's browser. user, id, form, from, grant and since never change.
type login struct {
	user  string
	id    string // in the log
	form  string // the token of its forms
	from  string // host:port of the login
	grant Grant
	since time.Time
	sent  atomic.Int64 // bytes of files
	files atomic.Int64 // that were opened
	saved atomic.Int64 // files that were restored

	used time.Time // guarded by logins.mu
}

// mayPost reports whether a form is one of this login.
func (l *login) mayPost(token string) bool {
	return subtle.ConstantTimeCompare([]byte(token), []byte(l.form)) == 1
}

// key is what is kept of a token: whoever reads the memory of it cannot log in.
type key [sha256.Size]byte

// logins are those who have logged in. They are not kept over a restart. Safe for concurrent use.
type logins struct {
	now      func() time.Time
	observer acceptor.Observer

	mu  sync.Mutex // guards of, and used of each
	of  map[key]*login
	end bool // there are no more
}

func newLogins(now func() time.Time, o acceptor.Observer) *logins {
	return &logins{now: now, observer: o, of: map[key]*login{}}
}

// secret is 256 random bits as text.
func secret() string {
	var b [32]byte
	_, _ = rand.Read(b[:]) // never fails
	return base64.RawURLEncoding.EncodeToString(b[:])
}

// newID is the name of a login in the log.
func newID() string {
	var b [4]byte
	_, _ = rand.Read(b[:]) // never fails
	return "w" + hex.EncodeToString(b[:])
}

// add begins a login and returns its token. Others go when there are too many.
func (s *logins) add(l *login) string {
	token := secret()
	s.mu.Lock()
	now := s.now()
	l.since, l.used = now, now
	gone := s.sweep(now)
	for s.end || len(s.of) >= allLogins || s.count(l.user) >= userLogins {
		k := s.oldest(l.user)
		if s.end || k == (key{}) {
			break
		}
		gone = append(gone, s.of[k])
		delete(s.of, k)
	}
	if !s.end {
		s.of[sha256.Sum256([]byte(token))] = l
	}
	s.mu.Unlock()
	s.told(gone)
	return token
}

func (s *logins) count(user string) (n int) {
	for _, l := range s.of {
		if l.user == user {
			n++
		}
	}
	return n
}

// oldest finds the login to give up for another one of user: one of the same user when it has as
// many as it may have, or else anybody's. mu is held.
func (s *logins) oldest(user string) (found key) {
	own := s.count(user) >= userLogins
	var used time.Time
	for k, l := range s.of {
		if (!own || l.user == user) && (found == (key{}) || l.used.Before(used)) {
			found, used = k, l.used
		}
	}
	return found
}

// find finds the login of a token, and what it may do as of now; nil for none. A login that may
// not go on has ended.
func (s *logins) find(token string, from netip.Addr) (*login, *vfs.Principal) {
	if token == "" {
		return nil, nil
	}
	k := key(sha256.Sum256([]byte(token)))
	s.mu.Lock()
	now := s.now()
	gone := s.sweep(now)
	l := s.of[k]
	if l != nil {
		l.used = now
	}
	s.mu.Unlock()
	s.told(gone)
	if l == nil {
		return nil, nil
	}
	who, err := l.grant.Principal(from)
	if err != nil {
		s.remove(token)
		return nil, nil
	}
	return l, who
}

// remove ends a login.
func (s *logins) remove(token string) {
	k := key(sha256.Sum256([]byte(token)))
	s.mu.Lock()
	l := s.of[k]
	delete(s.of, k)
	s.mu.Unlock()
	if l != nil {
		s.told([]*login{l})
	}
}

// sweep takes out what has ended by itself; mu is held.
func (s *logins) sweep(now time.Time) (gone []*login) {
	for k, l := range s.of {
		if now.Sub(l.used) >= idleLimit || now.Sub(l.since) >= lifeLimit {
			gone = append(gone, l)
			delete(s.of, k)
		}
	}
	return gone
}

// expire ends what has not been used, for the audit log's sake.
func (s *logins) expire() {
	s.mu.Lock()
	gone := s.sweep(s.now())
	s.mu.Unlock()
	s.told(gone)
}

// close ends all logins.
func (s *logins) close() {
	s.mu.Lock()
	s.end = true
	gone := make([]*login, 0, len(s.of))
	for k, l := range s.of {
		gone = append(gone, l)
		delete(s.of, k)
	}
	s.mu.Unlock()
	s.told(gone)
}

func (s *logins) told(gone []*login) {
	for _, l := range gone {
		s.observer.LoggedOut(acceptor.Logout{
			Peer: acceptor.Peer{User: l.user, Protocol: protocol, Remote: l.from, Conn: l.id},
			Dur:  s.now().Sub(l.since), Read: l.sent.Load(), Files: l.files.Load(), Uploads: l.saved.Load(),
		})
	}
}

// The names of cookies. A name that begins with __Host- is for this host alone, and for TLS.
func (v *viewer) cookieName(r *http.Request, name string) string {
	if v.encrypted(r) {
		return "__Host-" + name
	}
	return name
}

const (
	loginCookie = "snapgate"
	formCookie  = "snapgate-form" // before the login
)

func (v *viewer) setCookie(w http.ResponseWriter, r *http.Request, name, value string, age int) {
	http.SetCookie(w, &http.Cookie{
		Name: v.cookieName(r, name), Value: value, Path: "/", MaxAge: age,
		HttpOnly: true, Secure: v.encrypted(r), SameSite: http.SameSiteStrictMode,
	})
}

func (v *viewer) cookie(r *http.Request, name string) string {
	c, err := r.Cookie(v.cookieName(r, name))
	if err != nil {
		return ""
	}
	return c.Value
}

func (v *viewer) token(r *http.Request) string { return v.cookie(r, loginCookie) }

// peerAddr is the address that a request comes from; not valid when it is not known.
func peerAddr(r *http.Request) netip.Addr {
	ap, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return netip.Addr{}
	}
	return ap.Addr().Unmap()
}

// toLogin sends somebody to the login, and afterwards back.
func toLogin(w http.ResponseWriter, r *http.Request) {
	to := "/login"
	if next := r.URL.RequestURI(); next != "/" {
		to += "?next=" + url.QueryEscape(next)
	}
	http.Redirect(w, r, to, http.StatusSeeOther)
}

// afterLogin is where somebody wanted to go, if that is here.
func afterLogin(next string) string {
	u, err := url.Parse(next)
	if err != nil || u.IsAbs() || u.Host != "" || u.User != nil || !strings.HasPrefix(next, "/") ||
		strings.HasPrefix(next, "//") || strings.ContainsAny(next, "\\\r\n\t") {
		return "/"
	}
	return next
}

// loginForm is what the login page shows.
type loginForm struct {
	frame
	Next, Name, Wrong string
}

func (v *viewer) loginPage(w http.ResponseWriter, r *http.Request) {
	if l, _ := v.logins.find(v.token(r), peerAddr(r)); l != nil {
		http.Redirect(w, r, afterLogin(r.URL.Query().Get("next")), http.StatusSeeOther)
		return
	}
	v.askLogin(w, r, http.StatusOK, loginForm{Next: afterLogin(r.URL.Query().Get("next"))})
}

// askLogin shows the login page. The form has a token that a cookie has, too: nobody can have
// somebody's browser log in as another user.
func (v *viewer) askLogin(w http.ResponseWriter, r *http.Request, status int, f loginForm) {
	token := v.cookie(r, formCookie)
	if len(token) != len(secret()) {
		token = secret()
		v.setCookie(w, r, formCookie, token, 0)
	}
	name, next, wrong := f.Name, f.Next, f.Wrong
	f = loginForm{frame: v.frame(nil, "Sign in"), Next: next, Name: name, Wrong: wrong}
	f.Token = token
	v.send(w, r, status, "login", f)
}

// login checks a password. Who is refused does not learn why.
func (v *viewer) login(w http.ResponseWriter, r *http.Request) {
	form := loginForm{Next: afterLogin(r.PostForm.Get("next")), Name: r.PostForm.Get("user")}
	if t := v.cookie(r, formCookie); t == "" || subtle.ConstantTimeCompare([]byte(t), []byte(r.PostForm.Get("token"))) != 1 {
		form.Wrong = "This page was out of date, or your browser refuses its cookie. Please try again."
		v.askLogin(w, r, http.StatusForbidden, form)
		return
	}
	l := &login{user: form.Name, id: newID(), form: secret(), from: r.RemoteAddr}
	peer := acceptor.Peer{User: clip(l.user, maxUserName), Protocol: protocol, Remote: l.from, Conn: l.id}
	told := acceptor.Login{Peer: peer, Method: "password", Client: clip(r.UserAgent(), maxUserAgent)}
	l.grant, told.Err = v.cfg.Auth.Login(r.Context(), l.user, []byte(r.PostForm.Get("password")), peerAddr(r))
	v.cfg.Observer.LoggedIn(told)
	if told.Err != nil {
		v.log.Info("password refused", "conn", l.id, "user", peer.User, "remote", l.from, "err", told.Err)
		form.Wrong = "This name or this password is not right, or you may not sign in from here."
		v.askLogin(w, r, http.StatusForbidden, form)
		return
	}
	if old := v.token(r); old != "" {
		v.logins.remove(old)
	}
	v.log.Info("login", "conn", l.id, "user", l.user, "method", "password", "protocol", protocol, "remote", l.from)
	v.setCookie(w, r, loginCookie, v.logins.add(l), 0)
	v.setCookie(w, r, formCookie, "", -1)
	http.Redirect(w, r, form.Next, http.StatusSeeOther)
}

func (v *viewer) logout(x *visit) error {
	v.logins.remove(v.token(x.r))
	v.setCookie(x.w, x.r, loginCookie, "", -1)
	http.Redirect(x.w, x.r, "/login", http.StatusSeeOther)
	return nil
}

// clip shortens what a peer has sent.
func clip(s string, n int) string {
	if len(s) > n {
		return s[:n]
	}
	return s
}
