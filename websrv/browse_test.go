package websrv

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/snapgate/gateway/snapshotter"
	"github.com/snapgate/gateway/store"
	"github.com/snapgate/gateway/store/storetest"
	"github.com/snapgate/gateway/vfs"
)

func TestOverview(t *testing.T) {
	s := startSite(t, nil)
	s.user("both", vfs.PermReadOnly, at("/files", "main", "/"), at("/more", "other", "/"))
	s.put("/a.txt", "hello")
	s.commit()
	s.put("/b.txt", "not yet")
	page := s.as("both").want("/")
	contains(t, page, `href="/browse/files"`, `href="/browse/more"`, "1 file, 5 B", "1 snapshot<", "There is no snapshot yet.", "1 change in no snapshot yet")
	lacks(t, page, "pulled")
}

// An operator is told of everything, and may see no more files for it.
func TestOperator(t *testing.T) {
	s := startSite(t, func(c *Config) {
		c.Viewer.Operator = func(user string) bool { return user == "ops" }
		c.Viewer.Alarms = func() []Alarm {
			return []Alarm{{Kind: "missed backup", Subject: "other", Share: "other", Text: "nothing came <b>for</b> 2 days"}, {Kind: "spool", Text: "nearly full"}}
		}
	})
	s.user("ops", vfs.PermReadOnly, at("/", "main", "/"))
	page := s.as("ops").want("/")
	contains(t, page, "other", "pulled", "missed backup", "nothing came &lt;b&gt;for&lt;/b&gt; 2 days", "nearly full")
	lacks(t, s.as("alice").want("/"), "other", "pulled", "missed backup", "nearly full")
	s.user("bob", vfs.PermReadOnly, at("/", "other", "/"))
	page = s.as("bob").want("/")
	contains(t, page, "missed backup")
	lacks(t, page, "nearly full")
	s.user("part", vfs.PermReadOnly, at("/", "other", "/part"))
	lacks(t, s.as("part").want("/"), "missed backup")
}

func TestBrowse(t *testing.T) {
	s := startSite(t, nil)
	s.put("/docs/a.txt", "first")
	if err := s.work.Symlink(t.Context(), "docs/a.txt", "/ln"); err != nil {
		t.Fatal(err)
	}
	first := s.commit()
	s.put("/docs/a.txt", "second version")
	s.put("/docs/b.txt", "new")
	b := s.as("alice")
	contains(t, b.want("/browse/"), `href="/browse/docs"`, `href="/browse/ln"`, "docs/a.txt", `href="/zip/"`, `action="/search/"`)
	page := b.want("/browse/docs")
	contains(t, page, `href="/view/docs/a.txt"`, `href="/view/docs/b.txt"`, "14 B", `href="/file/docs/b.txt"`)
	page = b.want("/browse/.snapshots/" + first + "/docs")
	contains(t, page, `href="/view/.snapshots/`+first+`/docs/a.txt"`, "5 B", `href="/browse/docs"`, `name="at" value="`+first+`"`)
	lacks(t, page, "b.txt")
	contains(t, b.want("/view/docs/a.txt"), "second version")
	contains(t, b.want("/view/.snapshots/"+first+"/docs/a.txt"), ">first<", `href="/restore/.snapshots/`+first+`/docs/a.txt"`)
	for path, to := range map[string]string{
		"/browse/docs/a.txt": "/view/docs/a.txt",
		"/view/docs":         "/browse/docs",
		"/browse/ln":         "/view/ln",
		"/browse/.snapshots": "/snapshots/",
	} {
		if a := b.get(path); a.status != http.StatusSeeOther || a.header.Get("Location") != to {
			t.Errorf("GET %s: %d to %q, want %q", path, a.status, a.header.Get("Location"), to)
		}
	}
	for _, path := range []string{"/browse/nothing", "/browse/docs/a.txt/x", "/view/.snapshots/2020-01-01T00-00-00Z/docs/a.txt", "/snapshots/docs", "/browse/a%00b"} {
		if a := b.get(path); a.status != http.StatusNotFound {
			t.Errorf("GET %s: %d, want 404", path, a.status)
		}
	}
}

// A directory of any size comes in pages, each of which begins behind the one before.
func TestBrowsePages(t *testing.T) {
	s := startSite(t, nil)
	if err := s.work.Mkdir(t.Context(), "/many", vfs.AttrSet{}); err != nil {
		t.Fatal(err)
	}
	const n = 2*listPage + 1
	for i := range n {
		name := fmt.Sprintf("/many/%04d&<>.txt", i)
		if err := s.work.Symlink(t.Context(), "x", name); err != nil {
			t.Fatal(err)
		}
	}
	snap := s.commit()
	b := s.as("alice")
	for _, at := range []string{"/browse/many", "/browse/.snapshots/" + snap + "/many"} {
		seen := 0
		for to := at; to != ""; {
			page := b.want(to)
			for i := range n {
				if strings.Contains(page, fmt.Sprintf(">%04d&amp;&lt;&gt;.txt<", i)) {
					if i != seen {
						t.Fatalf("%s: entry %d comes after %d others", to, i, seen)
					}
					seen++
				}
			}
			_, rest, ok := strings.Cut(page, `<nav class="more"`)
			to = ""
			if _, rest, more := strings.Cut(rest, `Next`); ok && more {
				_ = rest
				to = next(page)
			}
		}
		if seen != n {
			t.Errorf("%s: %d entries in all pages, want %d", at, seen, n)
		}
	}
}

// next is the link behind "Next page".
func next(page string) string {
	before, _, _ := strings.Cut(page, `">Next page`)
	return strings.ReplaceAll(before[strings.LastIndex(before, `href="`)+len(`href="`):], "&amp;", "&")
}

func TestTimeline(t *testing.T) {
	s := startSite(t, nil)
	var names []string
	for i := range linePage + 3 {
		s.put("/a.txt", fmt.Sprint(i))
		names = append(names, s.commit())
	}
	b := s.as("alice")
	page := b.want("/snapshots/")
	newest, oldest := names[len(names)-1], names[0]
	contains(t, page, `href="/browse/.snapshots/`+newest+`"`, "latest", fmt.Sprintf("%d snapshots", len(names)), "manual", "worker")
	lacks(t, page, `href="/browse/.snapshots/`+oldest+`"`)
	before, _, ok := strings.Cut(page, `">Older<`)
	if !ok {
		t.Fatalf("no link to older ones in %s", page)
	}
	page = b.want(before[strings.LastIndex(before, `href="`)+len(`href="`):])
	contains(t, page, `href="/browse/.snapshots/`+oldest+`"`, "Newest")
	lacks(t, page, `href="/browse/.snapshots/`+newest+`"`)
}

// What a user has no permission for is refused, on every page; what is not mounted does not exist.
func TestPermissions(t *testing.T) {
	s := startSite(t, nil)
	s.put("/mine/a.txt", "a's words")
	s.put("/theirs/b.txt", "b's words")
	snap := s.commit()
	s.putIn(s.away, "/c.txt", "c's words")
	away := s.commitOf("other")
	s.user("nohistory", vfs.PermFull&^vfs.PermHistory, at("/", "main", "/"))
	s.user("nolist", vfs.PermFull&^vfs.PermList, at("/", "main", "/"))
	s.user("noread", vfs.PermFull&^vfs.PermRead, at("/", "main", "/"))
	s.user("part", vfs.PermFull, at("/", "main", "/mine"))
	s.user("uploader", vfs.PermUploadOnly, at("/", "main", "/"))
	old := "/.snapshots/" + snap
	for _, tt := range []struct {
		user   string
		status int
		paths  []string
	}{
		{"nohistory", 403, []string{
			"/browse" + old + "/mine", "/view" + old + "/mine/a.txt", "/file" + old + "/mine/a.txt", "/zip" + old, "/snapshots/",
			"/search/?q=*", "/search/?q=*&all=1", "/history/mine/a.txt", "/diff/", "/restore" + old + "/mine/a.txt",
		}},
		{"nolist", 403, []string{
			"/browse/", "/browse/mine", "/browse" + old + "/mine", "/view/mine/a.txt", "/view/nothing", "/zip/mine", "/snapshots/", "/search/?q=*",
			"/history/mine/a.txt", "/history/nothing", "/diff/",
		}},
		{"noread", 403, []string{"/raw/mine/a.txt", "/file/mine/a.txt", "/file" + old + "/mine/a.txt", "/zip/", "/restore" + old + "/mine/a.txt"}},
		{"uploader", 403, []string{"/file/mine/a.txt", "/browse" + old, "/snapshots/", "/search/?q=*", "/history/mine/a.txt", "/diff/", "/zip/"}},
		{"part", 404, []string{
			"/browse/theirs", "/view/theirs/b.txt", "/file/theirs/b.txt", "/file/../theirs/b.txt", "/browse/%2e%2e/theirs", "/view/mine/a.txt",
			"/file" + old + "/theirs/b.txt", "/history/theirs/b.txt", "/history/..%2ftheirs%2fb.txt", "/view/.snapshots/" + away + "-x/c.txt",
		}},
	} {
		b := s.as(tt.user)
		for _, path := range tt.paths {
			a := b.get(path)
			for i := 0; a.status == http.StatusTemporaryRedirect && i < 3; i++ { // a path that is not clean
				a = b.get(a.header.Get("Location"))
			}
			if a.status != tt.status && (a.status != 404 || tt.status != 403) {
				t.Errorf("%s: GET %s: %d, want %d\n%s", tt.user, path, a.status, tt.status, a.body)
			}
			lacks(t, a.body, "words")
		}
	}
	noread := s.as("noread")
	page := noread.want("/view/mine/a.txt")
	contains(t, page, "You may not read files.")
	lacks(t, page, "words", "/file/")
	part := s.as("part")
	contains(t, part.want("/view/a.txt"), "a&#39;s words")
	contains(t, part.want("/view"+old+"/a.txt"), "a&#39;s words")
	for _, path := range []string{"/", "/snapshots/", "/browse/"} {
		lacks(t, part.want(path), "2 files", "theirs", "18 B", "1 snapshot<", "worker")
	}
}

// A snapshot from before a part of a share existed is not its user's.
func TestTimelineOfPart(t *testing.T) {
	s := startSite(t, nil)
	s.put("/others.txt", "x")
	before := s.commit()
	s.put("/mine/a.txt", "x")
	with := s.commit()
	s.user("part", vfs.PermFull, at("/", "main", "/mine"))
	page := s.as("part").want("/snapshots/")
	contains(t, page, with)
	lacks(t, page, `href="/browse/.snapshots/`+before+`"`)
}

// Whatever a file is called, its name is text on each page, and its address leads to it.
func TestNames(t *testing.T) {
	s := startSite(t, nil)
	names := []string{
		`<script>alert(1)`, `"><img src=x onerror=alert(1)>`, `' onmouseover='alert(1)`, "javascript:alert(1)", "{{.Token}}",
		"line\nbreak", "esc\x1b[31mred", "not\xffUTF-8", "\xc3\x28", "right\u202eto left", "per%41cent%", "ques?tion#hash&amp;", "back\\slash",
		"plus+ space", "ünïcödé 漢字 🎉", "..hidden", "semi;colon", "a=b", "%2e%2e",
	}
	for i, name := range names {
		s.put("/"+name+"/in "+name, fmt.Sprintf("content %d", i))
	}
	snap := s.commit()
	b := s.as("alice")
	lists := map[string]string{"/browse/": b.want("/browse/"), "/browse/.snapshots/" + snap: b.want("/browse/.snapshots/" + snap)}
	for path, page := range lists {
		lacks(t, page, "<script>", "<img", "\x1b", "\u202e", "\xff", "onerror=alert(1)>\"", "' onmouseover='")
		for _, name := range names {
			to := link("browse", strings.TrimPrefix(path, "/browse")+"/"+name)
			to = strings.Replace(to, "/browse//", "/browse/", 1)
			if !strings.Contains(page, `href="`+to+`"`) {
				t.Errorf("%s: no link to %s", path, to)
			}
		}
	}
	for i, name := range names {
		for _, top := range []string{"/", "/.snapshots/" + snap + "/"} {
			file := top + name + "/in " + name
			want := fmt.Sprintf("content %d", i)
			page := b.want(link("view", file))
			contains(t, page, want)
			lacks(t, page, "<script>", "<img", "\x1b", "\u202e", "\xff")
			if got := b.want(link("file", file)); got != want {
				t.Errorf("%q: %q, want %q", file, got, want)
			}
			contains(t, b.want(link("browse", top+name)), `href="`+link("view", file)+`"`)
		}
	}
}

// Contents are text or a picture, or nothing: no page runs what is in a file.
func TestContents(t *testing.T) {
	s := startSite(t, nil)
	png := "\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR"
	for name, content := range map[string]string{
		"page.html": "<html><script>alert(document.cookie)</script></html>",
		"page.png":  "<html><script>alert(document.cookie)</script></html>",
		"draw.svg":  `<svg xmlns="http://www.w3.org/2000/svg" onload="alert(1)"><script>alert(1)</script></svg>`,
		"real.html": png,
		"cut.txt":   strings.Repeat("é", maxText),
		"esc.txt":   "a\x1b[2Jb\u202ec\r\nd",
		"bin.dat":   "a\x00b",
		"empty":     "",
	} {
		s.put("/"+name, content)
	}
	b := s.as("alice")
	for _, name := range []string{"page.html", "page.png", "draw.svg"} {
		page := b.want("/view/" + name)
		contains(t, page, "&lt;script&gt;alert(")
		lacks(t, page, "<script", "<svg", "<img")
		if a := b.get("/raw/" + name); a.status != http.StatusNotFound {
			t.Errorf("raw %s: %d, want 404", name, a.status)
		}
	}
	contains(t, b.want("/view/real.html"), `<img src="/raw/real.html"`)
	a := b.get("/raw/real.html")
	if a.status != 200 || a.header.Get("Content-Type") != "image/png" || a.body != png {
		t.Errorf("picture: %d %v", a.status, a.header)
	}
	contains(t, a.header.Get("Content-Security-Policy"), "sandbox", "default-src 'none'")
	contains(t, b.want("/view/cut.txt"), "This is its beginning")
	page := b.want("/view/esc.txt")
	contains(t, page, "a\u241b[2Jb\u2426c\nd")
	contains(t, b.want("/view/bin.dat"), "There is no preview")
	contains(t, b.want("/view/empty"), "The file is empty")
}

// Downloads are saved, whatever they are, whole or in part.
func TestDownload(t *testing.T) {
	s := startSite(t, nil)
	content := strings.Repeat("0123456789", 30_000)
	s.put("/x.html", content)
	snap := s.commit()
	b := s.as("alice")
	a := b.get("/file/x.html")
	if a.status != 200 || a.body != content {
		t.Fatalf("%d, %d bytes", a.status, len(a.body))
	}
	for key, want := range map[string]string{
		"Content-Type": "application/octet-stream", "Content-Disposition": `attachment; filename="x.html"`,
		"X-Content-Type-Options": "nosniff", "Content-Security-Policy": sandboxed, "Content-Length": fmt.Sprint(len(content)),
		"Accept-Ranges": "bytes", "Etag": "",
	} {
		if got := a.header.Get(key); got != want {
			t.Errorf("%s: %q, want %q", key, got, want)
		}
	}
	old := "/file/.snapshots/" + snap + "/x.html"
	since := a.header.Get("Last-Modified")
	if since == "" {
		t.Error("it is not told when the file was changed")
	}
	tag := b.get(old).header.Get("ETag")
	if tag == "" {
		t.Error("a file of a snapshot has no ETag: a download could not go on")
	}
	for _, tt := range []struct {
		name, path, ranges, ifRange string
		status                      int
		body                        string
	}{
		{"a part", "/file/x.html", "bytes=10-14", "", 206, "01234"},
		{"the end", old, "bytes=-3", "", 206, "789"},
		{"go on", old, "bytes=299998-", tag, 206, "89"},
		{"another version", old, "bytes=299998-", `"other"`, 200, content},
		{"what may be another version", "/file/x.html", "bytes=299998-", since, 200, content},
		{"beyond", old, "bytes=300000-", "", 416, ""},
	} {
		headers := []string{"Range", tt.ranges}
		if tt.ifRange != "" {
			headers = append(headers, "If-Range", tt.ifRange)
		}
		a := b.get(tt.path, headers...)
		if a.status != tt.status || tt.status != 416 && a.body != tt.body {
			t.Errorf("%s: %d %.20q, want %d %.20q", tt.name, a.status, a.body, tt.status, tt.body)
		}
	}
	if a := b.get("/file/nothing"); a.status != 404 || a.header.Get("Content-Disposition") != "" {
		t.Errorf("no such file: %d %v", a.status, a.header)
	}
	downloads := 0
	s.told.mu.Lock()
	defer s.told.mu.Unlock()
	for _, e := range s.told.events {
		if e.Op == vfs.EventDownload && e.User == "alice" && e.From.Protocol == "web" && e.Err == nil {
			downloads++
		}
	}
	if downloads != 8 {
		t.Errorf("the audit log was told of %d downloads, want 8", downloads)
	}
}

// A download that is under way when the gateway is told to end goes on, no other begins, and pages say
// what there is to say.
func TestDrain(t *testing.T) {
	s := startSite(t, nil)
	const large, end = 64 << 20, "the end" // far more than sockets hold; nothing but the end is written
	f, err := s.work.Open(t.Context(), "/large.bin", vfs.OpenWrite|vfs.OpenCreate, vfs.AttrSet{})
	if err != nil {
		t.Fatal(err)
	}
	_, err = f.WriteAt([]byte(end), large-int64(len(end)))
	if err := errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
	b := s.as("alice")
	begin := func() io.ReadCloser {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, b.base+"/file/large.bin", nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := b.client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		return resp.Body
	}
	body := begin()
	defer body.Close()
	over, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.server.Drain(over); !errors.Is(err, context.Canceled) {
		t.Errorf("with a download under way and no time left: %v", err)
	}
	ended := make(chan error, 1)
	go func() { ended <- s.server.Drain(t.Context()) }()
	a := b.get("/file/large.bin")
	if a.status != http.StatusServiceUnavailable {
		t.Errorf("another download: %d", a.status)
	}
	contains(t, a.body, "shutting down")
	b.want("/browse/")
	select {
	case err := <-ended:
		t.Errorf("it has ended before the download: %v", err)
	default:
	}
	n, err := io.CopyN(io.Discard, body, large-int64(len(end)))
	last, lastErr := io.ReadAll(body)
	if err := errors.Join(err, lastErr); err != nil || string(last) != end {
		t.Errorf("the download has %d of %d bytes, %v", n+int64(len(last)), large, err)
	}
	if err := <-ended; err != nil {
		t.Errorf("after the download: %v", err)
	}
	if err := s.work.Remove(t.Context(), "/large.bin"); err != nil { // rather than have it committed at the end
		t.Error(err)
	}
}

func TestDisposition(t *testing.T) {
	for name, want := range map[string]string{
		"plain.txt":       `attachment; filename="plain.txt"`,
		"/dir/plain.txt":  `attachment; filename="plain.txt"`,
		`a"b;c%41.txt`:    `attachment; filename="a_b_c_41.txt"; filename*=UTF-8''a%22b%3Bc%2541.txt`,
		"naïve 漢.txt":     `attachment; filename="na_ve _.txt"; filename*=UTF-8''na%C3%AFve%20%E6%BC%A2.txt`,
		"a\r\nX: y\xff\\": `attachment; filename="a__X: y__"`,
	} {
		if got := disposition(name); got != want {
			t.Errorf("%q: %s, want %s", name, got, want)
		}
	}
}

// A request leaves no session and no file open.
func TestSessionsEnd(t *testing.T) {
	s := startSite(t, nil)
	s.put("/a.txt", "x")
	b := s.as("alice")
	for range 3 {
		b.want("/browse/")
		b.want("/file/a.txt")
	}
	if st := s.sys.Status(); st.Sessions["web"] != 0 || st.Handles != 0 {
		t.Errorf("%d sessions and %d files are open while nobody asks", st.Sessions["web"], st.Handles)
	}
}

// The overview is there when the store has not answered since the start.
func TestOverviewWithoutStore(t *testing.T) {
	disk := storetest.NewFaultFS()
	st := storetest.New(t, func(c *store.Config) { c.Disk = disk })
	disk.Fail(func(storetest.Op, string) error { return errors.New("gone") })
	away, err := snapshotter.New(t.Context(), snapshotter.Config{Store: st})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = away.Close() })
	s := startSite(t, func(c *Config) {
		c.Viewer.Snapshots = away
		c.Ready = func(context.Context) (bool, []string) { return true, []string{"accepting into the spool"} }
		c.Viewer.Verification = func(bool) []Verification {
			return []Verification{{Store: "default", State: snapshotter.ScrubState{Store: "id", Damage: []snapshotter.Damage{{Kind: snapshotter.DamagedPackfile, Blobs: 1}}}}}
		}
	})
	page := s.as("alice").want("/")
	contains(t, page, "the store cannot be reached", "accepting into the spool", "whether it concerns your files is not known")
	lacks(t, page, "There is no snapshot yet")
}
