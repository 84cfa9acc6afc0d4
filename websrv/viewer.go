package websrv

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/netip"
	"strconv"
	"sync"
	"time"

	"github.com/snapgate/gateway/internal/acceptor"
	"github.com/snapgate/gateway/snapshotter"
	"github.com/snapgate/gateway/vfs"
)

// Viewer configures the pages. Auth, Sessions, Snapshots, Lineage and Status are needed.
type Viewer struct {
	Auth Authenticator
	// Sessions starts the session of a request: what users may see and do is decided there.
	Sessions func(ctx context.Context, p *vfs.Principal, from vfs.ConnInfo) (*vfs.Session, error)
	// Snapshots are asked for what a session cannot tell: time lines, searches, differences.
	Snapshots *snapshotter.Snapshotter
	Lineage   func(share string) snapshotter.Lineage
	Status    func() vfs.Status
	Uploads   func() []vfs.UploadStatus // nil: none
	Jobs      func() []Job              // nil: none
	Alarms    func() []Alarm            // nil: none
	// Verification tells how far stores were read back: the one that is served, and with others all that
	// are known after it; nil: nothing is known.
	Verification func(others bool) []Verification
	// Operator says that a user is told of all shares, jobs, alarms and uploads, and why something
	// fails, beside what its session shows. nil: nobody is.
	Operator func(user string) bool
	Observer acceptor.Observer // nil: nobody
	Now      func() time.Time  // nil: the clock
}

// Authenticator checks passwords.
type Authenticator interface {
	// Login checks a password that was sent from an address. It may take seconds.
	Login(ctx context.Context, user string, password []byte, from netip.Addr) (Grant, error)
}

// Grant is somebody who has logged in.
type Grant interface {
	// Principal tells what the user may do as of now, from an address; an error ends the login.
	Principal(from netip.Addr) (*vfs.Principal, error)
}

// Job is something that is done by a schedule. Times may be zero.
type Job struct {
	Name, Kind, Schedule string
	Share                string // whose users are told of it, "" for operators alone
	State                string // idle, waiting, running
	Result               string // of the last run, "" before the first
	Summary, Error, Hint string
	Start, End, Next     time.Time
	Failures             int // in a row
}

// Alarm is something that is not as it should be.
type Alarm struct {
	Kind, Subject, Text string
	Why, Hint           string // for operators alone
	Share               string // whose users are told of it, "" for operators alone
	Since               time.Time
}

// Limits of what is done at a time, and of what comes in.
const (
	maxForm      = 64 << 10         // bytes of a form
	maxSearches  = 2                // searches and comparisons at once; each may have all cores busy
	maxArchives  = 4                // archives at once
	turnPatience = 10 * time.Second // how long one waits for its turn
	pageTimeout  = 25 * time.Second // for what a page asks; below writeTimeout
)

// viewer is the pages. Safe for concurrent use.
type viewer struct {
	cfg      Viewer
	log      *slog.Logger
	pages    *pages
	logins   *logins
	searches chan struct{} // a semaphore
	archives chan struct{} // a semaphore
	secure   bool          // TLS: cookies are for it alone
	// transfers are the downloads and restores under way.
	transfers *gate
	// ready is Config.Ready.
	ready func(ctx context.Context) (ready bool, lines []string)
}

func newViewer(cfg Viewer, server *Config) (*viewer, error) {
	if cfg.Auth == nil || cfg.Sessions == nil || cfg.Snapshots == nil || cfg.Lineage == nil || cfg.Status == nil {
		return nil, errors.New("web server: the viewer lacks what it shows")
	}
	if cfg.Observer == nil {
		cfg.Observer = acceptor.Silent{}
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	p, err := loadPages()
	if err != nil {
		return nil, fmt.Errorf("web server: %w", err)
	}
	v := &viewer{
		cfg: cfg, log: server.Logger, pages: p, secure: server.TLS != nil, ready: server.Ready,
		searches: make(chan struct{}, maxSearches), archives: make(chan struct{}, maxArchives), transfers: newGate(),
	}
	v.logins = newLogins(cfg.Now, cfg.Observer)
	return v, nil
}

// register adds the pages to mux. Whatever page another site has somebody's browser send is
// refused by where it comes from, and again for want of the token that every form has.
func (v *viewer) register(mux *http.ServeMux) {
	origin := http.NewCrossOriginProtection()
	handle := func(pattern string, f http.HandlerFunc) { mux.Handle(pattern, origin.Handler(v.headed(f))) }
	handle("GET /static/{name}", v.static)
	handle("GET /login", v.loginPage)
	handle("POST /login", v.login)
	for pattern, f := range map[string]func(*visit) error{
		"GET /{$}":                 v.overview,
		"POST /logout":             v.logout,
		"GET /browse/{path...}":    v.browse,
		"GET /view/{path...}":      v.preview,
		"GET /raw/{path...}":       v.transfer(v.picture),
		"GET /file/{path...}":      v.transfer(v.download),
		"GET /zip/{path...}":       v.transfer(v.archive),
		"GET /snapshots/{path...}": v.timeline,
		"GET /search/{path...}":    v.search,
		"GET /history/{path...}":   v.history,
		"GET /diff/{path...}":      v.diff,
		"GET /restore/{path...}":   v.restorePage,
		"POST /restore/{path...}":  v.transfer(v.restore),
		"GET /activity":            v.activity,
		"GET /verification":        v.verification,
	} {
		handle(pattern, v.page(f))
	}
}

// chorePause is how often logins are looked for that have ended by themselves.
const chorePause = time.Minute

// housekeep ends logins that are over, and at last all.
func (v *viewer) housekeep(over <-chan struct{}) {
	tick := time.NewTicker(chorePause)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			v.logins.expire()
		case <-over:
			v.logins.close()
			return
		}
	}
}

// policy is the content security policy of pages: nothing but the style sheet, pictures that are
// previewed, and forms that lead here.
const policy = "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"

// sandboxed is the policy for contents of files, if a browser shows them in spite of everything.
const sandboxed = "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; sandbox"

// headed sets the headers of pages, and has reading the form end in time and nothing else.
func (v *viewer) headed(next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", policy)
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Cross-Origin-Opener-Policy", "same-origin")
		h.Set("Cross-Origin-Resource-Policy", "same-origin")
		h.Set("X-Frame-Options", "DENY")
		h.Set("Permissions-Policy", "camera=(), geolocation=(), microphone=()")
		if v.encrypted(r) {
			h.Set("Strict-Transport-Security", "max-age=31536000")
		}
		r.Body = http.MaxBytesReader(w, r.Body, maxForm)
		if r.Method == http.MethodPost {
			if err := r.ParseForm(); err != nil {
				http.Error(w, "the form cannot be read", http.StatusBadRequest)
				return
			}
		}
		// net/http reads what is left of a body before it answers: that is to come within the limit as well.
		if _, err := io.Copy(io.Discard, r.Body); err != nil {
			h.Set("Connection", "close")
			http.Error(w, "the request cannot be read", http.StatusBadRequest)
			return
		}
		// The limit was for the request. It would end an answer that takes longer, too.
		_ = http.NewResponseController(w).SetReadDeadline(time.Time{}) // fails with the connection
		next(w, r)
	}
}

// visit is a request of somebody who has logged in.
type visit struct {
	v     *viewer
	w     http.ResponseWriter
	r     *http.Request
	ctx   context.Context //nolint:containedctx // of the request, with a limit of time
	login *login
	who   *vfs.Principal
	sess  *vfs.Session
	name  vfs.Name // what the path in the URL means, in the principal's name space
}

// page finds out who asks, and starts the session in which a page does everything.
func (v *viewer) page(f func(*visit) error) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		l, who := v.logins.find(v.token(r), peerAddr(r))
		if l == nil {
			if r.Method != http.MethodGet && r.Method != http.MethodHead {
				v.fail(w, r, nil, http.StatusForbidden, "You are not signed in any more.")
				return
			}
			toLogin(w, r)
			return
		}
		if r.Method == http.MethodPost && !l.mayPost(r.PostForm.Get("token")) {
			v.fail(w, r, l, http.StatusForbidden, "This form is not from a page of yours, or out of date. Go back, load the page again, and repeat.")
			return
		}
		from := vfs.ConnInfo{Protocol: protocol, Remote: r.RemoteAddr, Conn: l.id, Onlooker: r.Method != http.MethodPost}
		sess, err := v.cfg.Sessions(r.Context(), who, from)
		if err != nil {
			v.refuse(w, r, l, err)
			return
		}
		defer func() {
			if err := sess.Close(); err != nil {
				v.log.Warn("ending a session", "conn", l.id, "err", err)
			}
		}()
		x := &visit{v: v, w: w, r: r, ctx: r.Context(), login: l, who: who, sess: sess}
		if x.name, err = vfs.ParseName("/"+r.PathValue("path"), vfs.Limits{}); err == nil {
			err = f(x)
		}
		if err != nil {
			v.refuse(w, r, l, err)
		}
	}
}

// transfer lets what takes long begin only while the gateway is not about to end.
func (v *viewer) transfer(f func(*visit) error) func(*visit) error {
	return func(x *visit) error {
		if !v.transfers.enter() {
			x.w.Header().Set("Retry-After", "10")
			v.fail(x.w, x.r, x.login, http.StatusServiceUnavailable, "The gateway is shutting down. Try again when it is back.")
			return nil
		}
		defer v.transfers.leave()
		return f(x)
	}
}

// limited gives a page, but no download, a limit of time.
func (x *visit) limited() (cancel context.CancelFunc) {
	x.ctx, cancel = context.WithTimeout(x.ctx, pageTimeout)
	return cancel
}

// errBusy says that too many want the same.
var errBusy = &vfs.Error{Op: "wait", Kind: vfs.KindTooMany}

// turn waits for a place in a semaphore.
func (x *visit) turn(sem chan struct{}) (done func(), err error) {
	patience := time.NewTimer(turnPatience)
	defer patience.Stop()
	select {
	case sem <- struct{}{}:
		return func() { <-sem }, nil
	case <-patience.C:
		return nil, errBusy
	case <-x.ctx.Done():
		return nil, x.ctx.Err()
	}
}

// refuse answers with an error. What is not of a Kind is for the log alone.
func (v *viewer) refuse(w http.ResponseWriter, r *http.Request, l *login, err error) {
	if r.Context().Err() != nil {
		return // nobody is there
	}
	status, text := http.StatusInternalServerError, "Something went wrong. The gateway's log says what."
	kind := vfs.KindOther
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		status, text = http.StatusServiceUnavailable, "This took too long. Try again, or ask for less."
	case errors.Is(err, snapshotter.ErrUnavailable), errors.Is(err, snapshotter.ErrBusy), vfs.KindOf(err) == vfs.KindUnavailable:
		kind = vfs.KindUnavailable
	case errors.Is(err, snapshotter.ErrNoSnapshot):
		kind = vfs.KindNotExist
	default:
		kind = vfs.KindOf(err)
	}
	switch kind {
	case vfs.KindNotExist, vfs.KindNotDir, vfs.KindBadName, vfs.KindLoop:
		status, text = http.StatusNotFound, "There is nothing of that name."
	case vfs.KindPermission:
		status, text = http.StatusForbidden, "You do not have the permission for this."
	case vfs.KindIsDir, vfs.KindInvalid, vfs.KindUnsupported:
		status, text = http.StatusBadRequest, "This cannot be done with it: "+kind.String()+"."
	case vfs.KindExist, vfs.KindBusy, vfs.KindTorn, vfs.KindChanged:
		status, text = http.StatusConflict, "This cannot be done now: "+kind.String()+"."
	case vfs.KindNoSpace:
		status, text = http.StatusInsufficientStorage, "There is no space left."
	case vfs.KindQuota:
		status, text = http.StatusInsufficientStorage, "The quota of the share is used up."
	case vfs.KindUnavailable, vfs.KindTooMany, vfs.KindTimeout, vfs.KindClosed, vfs.KindDisk:
		status, text = http.StatusServiceUnavailable, "This cannot be done now: "+kind.String()+"."
		w.Header().Set("Retry-After", "10")
	case vfs.KindOther:
		if status == http.StatusInternalServerError {
			v.log.Error("a page failed", "conn", l.id, "principal", l.user, "path", r.URL.Path, "err", err)
		}
	}
	v.fail(w, r, l, status, text)
}

// fail answers with an error; l is nil for who has not logged in.
func (v *viewer) fail(w http.ResponseWriter, r *http.Request, l *login, status int, text string) {
	d := struct {
		frame
		Text string
	}{frame: v.frame(l, http.StatusText(status)), Text: text}
	v.send(w, r, status, "error", d)
}

// show answers with a page.
func (x *visit) show(page string, data any) error {
	x.v.send(x.w, x.r, http.StatusOK, page, data)
	return nil
}

// send makes a page, and sends it if that went well.
func (v *viewer) send(w http.ResponseWriter, r *http.Request, status int, page string, data any) {
	var b bytes.Buffer
	if err := v.pages.write(&b, page, data); err != nil {
		v.log.Error("a page cannot be made", "page", page, "err", err)
		http.Error(w, "this page cannot be made", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.Header().Set("Content-Length", strconv.Itoa(b.Len()))
	w.WriteHeader(status)
	if r.Method != http.MethodHead {
		_, _ = w.Write(b.Bytes()) // fails with the connection
	}
}

// frame is what every page has.
type frame struct {
	Title    string
	User     string // "" for who has not logged in
	Token    string // of forms
	Here     string // which of the pages that are always named
	Operator bool
	Now      time.Time
	Zone     string // of all times
}

func (v *viewer) frame(l *login, title string) frame {
	f := frame{Title: title, Now: v.cfg.Now()}
	f.Zone = f.Now.Local().Format("MST (-07:00)")
	if l != nil {
		f.User, f.Token, f.Operator = l.user, l.form, v.operator(l.user)
	}
	return f
}

func (v *viewer) operator(user string) bool { return v.cfg.Operator != nil && v.cfg.Operator(user) }

// patient is a ResponseWriter for an answer of any length: as long as the peer takes some of it
// now and then, it goes on.
type patient struct {
	http.ResponseWriter
	control *http.ResponseController
	login   *login
	until   time.Time
}

// stallTimeout is how long a peer may take nothing.
const stallTimeout = time.Minute

func (x *visit) patient() *patient {
	return &patient{ResponseWriter: x.w, control: http.NewResponseController(x.w), login: x.login}
}

// Write implements io.Writer.
func (p *patient) Write(b []byte) (int, error) {
	if now := time.Now(); p.until.Sub(now) < stallTimeout/2 {
		p.until = now.Add(stallTimeout)
		if err := p.control.SetWriteDeadline(p.until); err != nil {
			return 0, err
		}
	}
	n, err := p.ResponseWriter.Write(b)
	p.login.sent.Add(int64(n))
	return n, err
}

// cut ends an answer so that the peer notices that it is not whole.
func (p *patient) cut() { _ = p.control.SetWriteDeadline(time.Unix(1, 0)) }

// Unwrap is for http.ResponseController.
func (p *patient) Unwrap() http.ResponseWriter { return p.ResponseWriter }

// gate counts the answers under way.
type gate struct {
	mu     sync.Mutex // guards the rest
	closed bool
	open   int
	empty  chan struct{} // closed when closed and none is open
}

func newGate() *gate { return &gate{empty: make(chan struct{})} }

// enter reports whether an answer may begin; it ends with leave.
func (g *gate) enter() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		return false
	}
	g.open++
	return true
}

func (g *gate) leave() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.open--; g.open == 0 && g.closed {
		close(g.empty)
	}
}

// wait lets no more begin, and waits for the others.
func (g *gate) wait() { <-g.end() }

// end lets no more begin; the channel is closed when the others have ended.
func (g *gate) end() <-chan struct{} {
	g.mu.Lock()
	if !g.closed {
		g.closed = true
		if g.open == 0 {
			close(g.empty)
		}
	}
	g.mu.Unlock()
	return g.empty
}
