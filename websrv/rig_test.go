package websrv

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"iter"
	"log/slog"
	"net/http"
	"net/http/cookiejar"
	"net/netip"
	"net/url"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/snapgate/gateway/internal/acceptor"
	"github.com/snapgate/gateway/internal/disk"
	"github.com/snapgate/gateway/internal/logtest"
	"github.com/snapgate/gateway/snapshotter"
	"github.com/snapgate/gateway/store"
	"github.com/snapgate/gateway/vfs"
)

// fakeUsers lets users in by their names: the password of alice is alice's. Safe for concurrent use.
type fakeUsers struct {
	mu    sync.Mutex // guards the rest
	of    map[string]*vfs.Principal
	gone  map[string]bool // what they had does not hold any more
	froms []netip.Addr
}

func (u *fakeUsers) Login(_ context.Context, user string, password []byte, from netip.Addr) (Grant, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.froms = append(u.froms, from)
	if u.of[user] == nil || string(password) != user+"'s" {
		return nil, errors.New("the secret reason")
	}
	return fakeGrant{u, user}, nil
}

func (u *fakeUsers) set(p *vfs.Principal) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.of[p.User] = p
}

type fakeGrant struct {
	users *fakeUsers
	user  string
}

func (g fakeGrant) Principal(netip.Addr) (*vfs.Principal, error) {
	g.users.mu.Lock()
	defer g.users.mu.Unlock()
	if g.users.gone[g.user] {
		return nil, errors.New("not any more")
	}
	return g.users.of[g.user], nil
}

// told remembers what an observer is told.
type told struct {
	mu      sync.Mutex // guards the rest
	logins  []acceptor.Login
	logouts []acceptor.Logout
	events  []vfs.Event
}

func (o *told) LoggedIn(l acceptor.Login) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.logins = append(o.logins, l)
}

func (o *told) LoggedOut(l acceptor.Logout) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.logouts = append(o.logouts, l)
}

func (o *told) Done(e vfs.Event) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.events = append(o.events, e)
}

func (o *told) Committed(vfs.Commit) {}

// clockwork is a clock that tests set.
type clockwork struct {
	mu  sync.Mutex // guards now
	now time.Time
}

func (c *clockwork) read() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clockwork) forward(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

// heldDisk is a disk whose files are flushed when a test says so.
type heldDisk struct {
	disk.FS
	held    sync.RWMutex // a test has it for writing while no flush is to end
	flushes atomic.Int64 // that have begun
}

func (d *heldDisk) OpenFile(path string, flag int, perm fs.FileMode) (disk.File, error) {
	f, err := d.FS.OpenFile(path, flag, perm)
	if err != nil {
		return nil, err
	}
	return &heldFile{f, d}, nil
}

type heldFile struct {
	disk.File
	disk *heldDisk
}

func (f *heldFile) Sync() error {
	f.disk.flushes.Add(1)
	f.disk.held.RLock()
	defer f.disk.held.RUnlock()
	return f.File.Sync()
}

// wornRepo is a store that is slow, or that takes no snapshots, when a test says so.
type wornRepo struct {
	vfs.Repository
	slow, away atomic.Bool
}

func (r *wornRepo) Commit(ctx context.Context, base snapshotter.ID, changes iter.Seq2[snapshotter.Change, error], meta snapshotter.Meta) (snapshotter.ID, error) {
	if r.away.Load() {
		return snapshotter.ID{}, snapshotter.ErrUnavailable
	}
	return r.Repository.Commit(ctx, base, changes, meta)
}

func (r *wornRepo) View(ctx context.Context, id snapshotter.ID) (vfs.View, error) {
	v, err := r.Repository.View(ctx, id)
	if err != nil {
		return nil, err
	}
	return &wornView{v, r}, nil
}

type wornView struct {
	vfs.View
	repo *wornRepo
}

// Open is at its deadline while the store is slow.
func (v *wornView) Open(ctx context.Context, path string) (vfs.Reader, error) {
	if v.repo.slow.Load() {
		return nil, context.DeadlineExceeded
	}
	return v.View.Open(ctx, path)
}

// site is a server with pages over a share "main", one "other", and a source "pulled", on a store of its own.
type site struct {
	t      testing.TB
	addr   string
	server *Server
	sys    *vfs.System
	snaps  *snapshotter.Snapshotter
	users  *fakeUsers
	told   *told
	clock  *clockwork
	disk   *heldDisk
	repo   *wornRepo
	log    *logtest.Buffer
	view   *Viewer
	work   *vfs.Session // of somebody who may do everything in main
	away   *vfs.Session // the same in other
}

// startSite starts one; change sets what it likes in the configuration, and may be nil.
func startSite(t *testing.T, change func(*Config)) *site {
	t.Helper()
	ctx := context.Background()
	dir := t.TempDir()
	st, err := store.Open(ctx, store.Config{Location: filepath.Join(dir, "store"), Create: true, Plaintext: true})
	if err != nil {
		t.Fatal(err)
	}
	s := &site{t: t, users: &fakeUsers{of: map[string]*vfs.Principal{}, gone: map[string]bool{}}, told: &told{}, log: &logtest.Buffer{}}
	s.clock, s.disk = &clockwork{now: time.Now()}, &heldDisk{FS: disk.OS{}}
	if s.snaps, err = snapshotter.New(ctx, snapshotter.Config{Store: st}); err != nil {
		t.Fatal(err)
	}
	s.repo = &wornRepo{Repository: vfs.FromSnapshotter(s.snaps)}
	s.sys, err = vfs.Open(ctx, vfs.Config{
		DataDir: filepath.Join(dir, "data"), Repository: s.repo, Observer: s.told, Disk: s.disk,
		Shares: []vfs.ShareConfig{{Name: "main", When: vfs.WhenManual}, {Name: "other", When: vfs.WhenManual}, {Name: "pulled", Source: true}},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, err := range []error{s.sys.Close(ctx), s.snaps.Close(), st.Close()} {
			if err != nil {
				t.Errorf("close: %v", err)
			}
		}
	})
	s.user("alice", vfs.PermFull, at("/", "main", "/"))
	s.work, s.away = s.session("main"), s.session("other")
	cfg := good()
	cfg.Logger = slog.New(slog.NewTextHandler(s.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	cfg.Viewer = &Viewer{
		Auth: s.users, Sessions: s.sys.Session, Snapshots: s.snaps, Lineage: s.sys.Lineage, Status: s.sys.Status,
		Uploads: s.sys.Uploads, Observer: s.told, Now: s.clock.read,
	}
	if change != nil {
		change(&cfg)
	}
	s.view = cfg.Viewer
	s.server, s.addr = serve(t, cfg)
	return s
}

// at is a mount.
func at(place, share, root string) vfs.Mount {
	p, _ := vfs.ParseName(place, vfs.Limits{})
	r, _ := vfs.ParseName(root, vfs.Limits{})
	return vfs.Mount{At: p, Share: share, Root: r}
}

func (s *site) user(name string, perms vfs.Perm, mounts ...vfs.Mount) {
	s.users.set(&vfs.Principal{User: name, Perms: perms, Mounts: mounts})
}

// session is that of a user who may do everything in a share.
func (s *site) session(share string) *vfs.Session {
	s.t.Helper()
	who := &vfs.Principal{User: "worker", Perms: vfs.PermFull, Mounts: []vfs.Mount{at("/", share, "/")}}
	sess, err := s.sys.Session(context.Background(), who, vfs.ConnInfo{Protocol: "sftp", Conn: "test"})
	if err != nil {
		s.t.Fatal(err)
	}
	return sess
}

// put writes a file into main, with the directories above it.
func (s *site) put(name, content string) { s.t.Helper(); s.putIn(s.work, name, content) }

func (s *site) putIn(sess *vfs.Session, name, content string) {
	s.t.Helper()
	ctx := context.Background()
	for i, c := range name {
		if c == '/' && i > 0 {
			if err := sess.Mkdir(ctx, name[:i], vfs.AttrSet{}); err != nil && vfs.KindOf(err) != vfs.KindExist {
				s.t.Fatal(err)
			}
		}
	}
	f, err := sess.Open(ctx, name, vfs.OpenWrite|vfs.OpenCreate|vfs.OpenTruncate, vfs.AttrSet{})
	if err != nil {
		s.t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte(content), 0); err != nil {
		s.t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		s.t.Fatal(err)
	}
}

// commit makes a snapshot of main, and returns its name.
func (s *site) commit() string { s.t.Helper(); return s.commitOf("main") }

func (s *site) commitOf(share string) string {
	s.t.Helper()
	id, err := s.sys.Commit(context.Background(), share)
	if err != nil {
		s.t.Fatal(err)
	}
	snap, err := s.snaps.Snapshot(context.Background(), id)
	if err != nil {
		s.t.Fatal(err)
	}
	return snap.ViewName(s.sys.Lineage(share))
}

// content reads a file of main's live tree, "" when there is none.
func (s *site) content(name string) string {
	s.t.Helper()
	f, err := s.work.Open(context.Background(), name, vfs.OpenRead, vfs.AttrSet{})
	if err != nil {
		if vfs.KindOf(err) != vfs.KindNotExist {
			s.t.Fatal(err)
		}
		return ""
	}
	defer f.Close()
	info, err := f.Stat(context.Background())
	if err != nil {
		s.t.Fatal(err)
	}
	b := make([]byte, info.Size)
	if _, err := f.ReadAt(b, 0); err != nil && !errors.Is(err, io.EOF) {
		s.t.Fatal(err)
	}
	return string(b)
}

// browser is a browser of a user, without one that shows anything.
type browser struct {
	t      testing.TB
	base   string
	client *http.Client
	page   answer // the last one
}

// answer is what came back.
type answer struct {
	status int
	body   string
	header http.Header
}

// browser makes one that has not logged in.
func (s *site) browser() *browser {
	s.t.Helper()
	jar, err := cookiejar.New(nil)
	if err != nil {
		s.t.Fatal(err)
	}
	tr := &http.Transport{DisableCompression: true}
	s.t.Cleanup(tr.CloseIdleConnections)
	return &browser{t: s.t, base: "http://" + s.addr, client: &http.Client{
		Jar: jar, Transport: tr,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

// as logs a user in.
func (s *site) as(user string) *browser {
	s.t.Helper()
	b := s.browser()
	b.login(user)
	return b
}

func (b *browser) login(user string) {
	b.t.Helper()
	b.get("/login")
	a := b.post("/login", "user", user, "password", user+"'s")
	if a.status != http.StatusSeeOther {
		b.t.Fatalf("login of %s: %d %s", user, a.status, a.body)
	}
}

// get asks for a page; headers are in pairs.
func (b *browser) get(path string, headers ...string) answer {
	b.t.Helper()
	req, err := http.NewRequestWithContext(b.t.Context(), http.MethodGet, b.base+path, nil)
	if err != nil {
		b.t.Fatal(err)
	}
	for i := 0; i+1 < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	b.page = b.do(req)
	return b.page
}

// want asks for a page that must be there.
func (b *browser) want(path string) string {
	b.t.Helper()
	a := b.get(path)
	if a.status != http.StatusOK {
		b.t.Fatalf("GET %s: %d %s", path, a.status, a.body)
	}
	return a.body
}

var tokenField = regexp.MustCompile(`name="token" value="([^"]+)"`)

// post sends a form with the token of the last page; fields are in pairs.
func (b *browser) post(path string, fields ...string) answer {
	b.t.Helper()
	form := url.Values{}
	if m := tokenField.FindStringSubmatch(b.page.body); m != nil {
		form.Set("token", m[1])
	}
	for i := 0; i+1 < len(fields); i += 2 {
		form.Set(fields[i], fields[i+1])
	}
	req, err := http.NewRequestWithContext(b.t.Context(), http.MethodPost, b.base+path, strings.NewReader(form.Encode()))
	if err != nil {
		b.t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.Header.Set("Origin", b.base)
	req.Header.Set("Sec-Fetch-Site", "same-origin")
	return b.do(req)
}

func (b *browser) do(req *http.Request) answer {
	b.t.Helper()
	resp, err := b.client.Do(req)
	if err != nil {
		b.t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		b.t.Fatal(err)
	}
	return answer{resp.StatusCode, string(body), resp.Header}
}

// contains fails unless a page has each of some texts.
func contains(t testing.TB, page string, texts ...string) {
	t.Helper()
	for _, text := range texts {
		if !strings.Contains(page, text) {
			t.Errorf("no %q in\n%s", text, page)
		}
	}
}

// lacks fails when a page has one of some texts.
func lacks(t testing.TB, page string, texts ...string) {
	t.Helper()
	for _, text := range texts {
		if strings.Contains(page, text) {
			t.Errorf("%q in\n%s", text, page)
		}
	}
}
