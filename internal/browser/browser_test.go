package browser

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/browser"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/chromedp"

	"github.com/snapgate/gateway/internal/proctest"
)

var shots = flag.String("shots", "", "keep pictures of the pages in this `directory`")

// limit bounds everything that a test does in the browser.
const limit = 4 * time.Minute

// screen is a size of the window.
type screen struct {
	name          string
	width, height int64
	dark          bool
}

func screens() []screen {
	return []screen{{"desk", 1280, 900, false}, {"phone", 375, 740, false}, {"dark", 1280, 900, true}}
}

// tab is a tab of a browser, for one goroutine.
type tab struct {
	t    *testing.T
	ctx  context.Context
	base string
	axe  string // the program
	now  screen
	seen map[string]bool // pages that axe has looked at, and screen

	mu      sync.Mutex // guards the rest
	console []string   // what the console says, which is nothing when all is well
}

// open starts Chromium with an empty profile. Names lead nowhere in it: it has this machine alone.
func open(t *testing.T, base string) *tab {
	t.Helper()
	axe, err := os.ReadFile(filepath.Join("node_modules", "axe-core", "axe.min.js"))
	if err != nil {
		t.Fatalf("%v: run npm ci in internal/browser", err)
	}
	options := append(chromedp.DefaultExecAllocatorOptions[:],
		chromedp.ExecPath("chromium"), chromedp.Flag("headless", "new"), chromedp.NoSandbox, chromedp.DisableGPU,
		chromedp.UserDataDir(t.TempDir()), chromedp.Flag("host-resolver-rules", "MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"),
		chromedp.Flag("disable-component-update", true), chromedp.Flag("no-pings", true), chromedp.Flag("lang", "en-US"),
	)
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	t.Cleanup(cancel)
	ctx, cancel = chromedp.NewExecAllocator(ctx, options...)
	t.Cleanup(cancel)
	ctx, cancel = chromedp.NewContext(ctx)
	t.Cleanup(cancel)
	b := &tab{t: t, ctx: ctx, base: base, axe: string(axe), seen: map[string]bool{}}
	messages := chromedp.Console(ctx)
	var reading sync.WaitGroup
	reading.Go(func() {
		for m, err := range messages {
			if err != nil {
				return
			}
			b.mu.Lock()
			b.console = append(b.console, m.String())
			b.mu.Unlock()
		}
	})
	t.Cleanup(func() {
		if err := chromedp.Cancel(ctx); err != nil {
			t.Errorf("ending the browser: %v", err)
		}
		reading.Wait()
	})
	b.resize(screens()[0])
	return b
}

func (b *tab) do(what string, steps ...chromedp.Action[chromedp.Void]) {
	b.t.Helper()
	if err := chromedp.Do(b.ctx, steps...); err != nil {
		b.t.Fatalf("%s: %v\n%s", what, err, b.text())
	}
}

// load does what loads another page, and returns the status of the answer.
func (b *tab) load(what string, steps ...chromedp.Action[chromedp.Void]) int64 {
	b.t.Helper()
	resp, err := chromedp.RunResponse(b.ctx, steps...)
	if err != nil {
		b.t.Fatalf("%s: %v\n%s", what, err, b.text())
	}
	return resp.Status
}

func (b *tab) goTo(path string) {
	b.t.Helper()
	if status := b.load("going to "+path, chromedp.Navigate(b.base+path)); status != 200 {
		b.t.Fatalf("going to %s: status %d\n%s", path, status, b.text())
	}
}

// click clicks what a selector finds, which leads to another page.
func (b *tab) click(selector string) {
	b.t.Helper()
	if status := b.load("clicking "+selector, chromedp.Click(chromedp.CSS(selector))); status != 200 {
		b.t.Fatalf("clicking %s: status %d\n%s", selector, status, b.text())
	}
}

func (b *tab) text() string {
	s, err := chromedp.Run(b.ctx, chromedp.Evaluate[string](`document.body ? document.body.innerText : ""`))
	if err != nil {
		return err.Error()
	}
	return s
}

// eval evaluates an expression in the page, which its policy does not forbid to tests.
func eval[T any](b *tab, expression string) T {
	b.t.Helper()
	v, err := chromedp.Run(b.ctx, chromedp.Evaluate[T](expression))
	if err != nil {
		b.t.Fatalf("%s: %v", expression, err)
	}
	return v
}

// wants fails unless the page has each of some texts.
func (b *tab) wants(texts ...string) {
	b.t.Helper()
	page := b.text()
	for _, text := range texts {
		if !strings.Contains(page, text) {
			b.t.Errorf("no %q at %s in\n%s", text, b.at(), page)
		}
	}
}

func (b *tab) at() string {
	b.t.Helper()
	return strings.TrimPrefix(eval[string](b, "location.href"), b.base)
}

func (b *tab) resize(s screen) {
	b.t.Helper()
	b.now = s
	scheme := "light"
	if s.dark {
		scheme = "dark"
	}
	b.do("resizing", chromedp.EmulateViewport(s.width, s.height))
	media := emulation.SetEmulatedMediaParams{Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}}}
	if _, err := chromedp.Call(b.ctx, emulation.SetEmulatedMedia, media); err != nil {
		b.t.Fatalf("color scheme: %v", err)
	}
}

// press presses keys, one after the other.
func (b *tab) press(keys string) {
	b.t.Helper()
	b.do("pressing keys", chromedp.KeyEvent(keys))
}

// tabTo presses Tab until an element of that text or name has the focus, and fails when it cannot be
// seen that it has.
func (b *tab) tabTo(name string) {
	b.t.Helper()
	const most = 60
	for range most {
		b.press("\t")
		type focus struct {
			Text    string `json:"text"`
			Visible bool   `json:"visible"`
		}
		f := eval[focus](b, `(() => { const e = document.activeElement, s = getComputedStyle(e), r = e.getBoundingClientRect();
			return {text: (e.name || "") + "|" + e.textContent.trim().replace(/\s+/g, " "),
				visible: s.outlineStyle !== "none" && parseFloat(s.outlineWidth) >= 2 && r.width > 0 && r.left >= 0} })()`)
		field, text, _ := strings.Cut(f.Text, "|")
		if field == name || text == name {
			if !f.Visible {
				b.t.Errorf("%s has the focus, and nobody sees it", name)
			}
			return
		}
	}
	b.t.Fatalf("no key leads to %q at %s", name, b.at())
}

// check takes a picture at each size, and has axe-core look for what somebody could not use.
func (b *tab) check(name string) {
	b.t.Helper()
	before := b.now
	for _, s := range screens() {
		b.resize(s)
		if wide := eval[int64](b, "document.documentElement.scrollWidth"); wide > s.width {
			b.t.Errorf("%s, %s: the page is %d wide, on a screen of %d", name, s.name, wide, s.width)
		}
		b.shoot(name + "-" + s.name)
		b.judge(name + ", " + s.name)
	}
	b.resize(before)
}

func (b *tab) shoot(name string) {
	b.t.Helper()
	if *shots == "" {
		return
	}
	png, err := chromedp.Run(b.ctx, chromedp.CaptureScreenshot())
	if err == nil {
		err = os.WriteFile(filepath.Join(*shots, name+".png"), png, 0o600)
	}
	if err != nil {
		b.t.Fatalf("picture of %s: %v", name, err)
	}
}

// judge fails with what axe-core finds serious or critical.
func (b *tab) judge(what string) {
	b.t.Helper()
	b.do("axe-core", chromedp.Func(func(ctx context.Context, t *chromedp.Target) error {
		_, err := chromedp.Evaluate[bool](b.axe+"; true")(ctx, t)
		return err
	}))
	found, err := chromedp.Run(b.ctx, chromedp.Evaluate[string](
		`axe.run(document, {resultTypes: ["violations"]}).then(r => JSON.stringify(r.violations.map(v => ({id: v.id, impact: v.impact, help: v.help, nodes: v.nodes.map(n => n.html + " " + n.failureSummary)}))))`,
		chromedp.EvalAwaitPromise))
	if err != nil {
		b.t.Fatalf("axe-core: %v", err)
	}
	var list []struct {
		ID, Impact, Help string
		Nodes            []string
	}
	if err := json.Unmarshal([]byte(found), &list); err != nil {
		b.t.Fatalf("axe-core: %v in %q", err, found)
	}
	for _, v := range list {
		if v.Impact == "serious" || v.Impact == "critical" {
			b.t.Errorf("%s: %s (%s): %s\n  %s", what, v.ID, v.Impact, v.Help, strings.Join(v.Nodes, "\n  "))
		}
	}
}

// quiet fails when the console has said something: a policy that was offended, a script that ran.
func (b *tab) quiet() {
	b.t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, line := range b.console {
		b.t.Errorf("the console says: %s", line)
	}
	b.console = nil
}

// login types a name and a password, and presses Enter.
func (b *tab) login(user, password string) {
	b.t.Helper()
	b.goTo("/login")
	b.do("name", chromedp.SendKeys(chromedp.ID("user"), user))
	b.do("password", chromedp.SendKeys(chromedp.ID("password"), password))
	if status := b.load("signing in", chromedp.KeyEvent("\r")); status != 200 {
		b.t.Fatalf("signing in: %d\n%s", status, b.text())
	}
}

// site is a gateway with files, snapshots and users, and the addresses of what it has.
type site struct {
	*proctest.Gateway
	base        string
	first, last string // names of snapshots
}

// pixel is a picture.
const pixel = "iVBORw0KGgoAAAANSUhEUgAAAAoAAAAKCAIAAAACUFjqAAAAEklEQVR4nGP4z8CAB+GTG8HSALfKY52fTcuYAAAAAElFTkSuQmCC"

// hostile are names and contents that would do something if a page let them.
func hostile() map[string]string {
	return map[string]string{
		`<img src=x onerror=document.title='XSS'>.txt`:  "<script>document.title='XSS'</script>",
		`"><script>document.title='XSS'<.html`:          "<html><body onload=\"document.title='XSS'\"><script>document.title='XSS'</script></body></html>",
		"draw.svg":                                      `<svg xmlns="http://www.w3.org/2000/svg" onload="document.title='XSS'"><script>document.title='XSS'</script></svg>`,
		"fake.png":                                      "<html><script>document.title='XSS'</script></html>",
		"not\xffUTF-8 \x1b[31m\u202egnp.exe":            "bytes",
		"' onmouseover='document.title=\"XSS\"' x='.md": "# text",
	}
}

func start(t *testing.T) *site {
	t.Helper()
	port := proctest.FreePort(t)
	g := proctest.NewGateway(t, proctest.Options{
		Shares: map[string]string{"main": "{ snapshot: { when: manual } }", "other": "{ snapshot: { when: manual } }"},
		Users: []proctest.User{
			{Name: "alice", Share: "main"}, {Name: "reader", Share: "main", Permissions: "read-only"}, {Name: "drop", Share: "main", Permissions: "upload-only"},
		},
		Extra: fmt.Sprintf("http: { listen: \"127.0.0.1:%d\", operators: [alice] }\nsources: { nas: { location: \"sftp://127.0.0.1:1/srv\", schedule: \"0 2 1 1 *\" } }\n", port),
	})
	if _, err := g.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	s := &site{Gateway: g, base: fmt.Sprintf("http://127.0.0.1:%d", port)}
	sftp, err := g.Client.Login(t.Context(), "alice")
	if err != nil {
		t.Fatal(err)
	}
	defer sftp.Close()
	put := func(name, content string) {
		t.Helper()
		if err := sftp.MkdirAll(filepath.Dir(name)); err != nil {
			t.Fatal(err)
		}
		f, err := sftp.Create(name)
		if err == nil {
			_, err = f.Write([]byte(content))
		}
		if err == nil {
			err = f.Close()
		}
		if err != nil {
			t.Fatalf("%q: %v", name, err)
		}
	}
	snapshot := func() string {
		t.Helper()
		if _, err := g.Command(t.Context(), "snapshot", "main"); err != nil {
			t.Fatal(err)
		}
		target, err := sftp.ReadDir("/.snapshots")
		if err != nil {
			t.Fatal(err)
		}
		newest := ""
		for _, e := range target {
			if n := e.Name(); n != "latest" && n > newest {
				newest = n
			}
		}
		return newest
	}
	picture, err := base64.StdEncoding.DecodeString(pixel)
	if err != nil {
		t.Fatal(err)
	}
	put("/docs/letter.txt", "Dear reader,\n\nthis is the first letter.\n")
	put("/docs/deep/er/still/notes.md", "# Notes\n")
	put("/docs/picture.png", string(picture))
	put("/docs/"+strings.Repeat("a very long name ", 12)+".txt", "long")
	for name, content := range hostile() {
		put("/hostile/"+name, content)
	}
	s.first = snapshot()
	put("/docs/letter.txt", "Dear reader,\n\nthis is the second letter.\nIt is longer.\n")
	if err := sftp.Remove("/docs/deep/er/still/notes.md"); err != nil {
		t.Fatal(err)
	}
	s.last = snapshot()
	if s.first == s.last {
		t.Fatalf("both snapshots are called %s", s.first)
	}
	return s
}

// TestPages goes through all pages by clicking, and has each looked at.
func TestPages(t *testing.T) {
	s := start(t)
	sftp, err := s.Client.Login(t.Context(), "alice")
	if err != nil {
		t.Fatal(err)
	}
	defer sftp.Close()
	coming, err := sftp.Create("/coming.bin")
	if err == nil {
		_, err = coming.Write(make([]byte, 100_000))
	}
	if err != nil {
		t.Fatal(err)
	}
	defer coming.Close()
	b := open(t, s.base)
	b.goTo("/browse/docs")
	b.wants("Sign in")
	b.check("login")
	b.do("name", chromedp.SendKeys(chromedp.ID("user"), "alice"))
	b.do("password", chromedp.SendKeys(chromedp.ID("password"), "wrong"))
	if status := b.load("a wrong password", chromedp.KeyEvent("\r")); status != 403 {
		t.Errorf("a wrong password: status %d", status)
	}
	b.wants("is not right")
	b.check("login-wrong")
	b.do("password", chromedp.SendKeys(chromedp.ID("password"), s.Client.Password))
	b.click("button[type=submit]")
	if b.at() != "/browse/docs" {
		t.Errorf("the login has led to %s", b.at())
	}
	b.mu.Lock()
	b.console = nil // it has told of the status 403
	b.mu.Unlock()

	b.click(`a[href="/"]`)
	b.wants("main", "other", "2 snapshots", "Last snapshot")
	b.check("overview")
	b.click(`main a[href="/browse/"]`)
	b.wants("docs", "hostile")
	b.click(`main a[href="/browse/docs"]`)
	b.wants("letter.txt", "picture.png")
	b.check("browse")
	b.click(`main a[href="/view/docs/picture.png"]`)
	if !eval[bool](b, `(() => { const i = document.querySelector("main img"); return i.complete && i.naturalWidth === 10 })()`) {
		t.Error("the picture is not shown")
	}
	b.check("picture")
	b.goTo("/view/docs/letter.txt")
	b.wants("this is the second letter.")
	b.check("text")
	b.click(`main a[href="/history/docs/letter.txt"]`)
	b.wants("in 1 snapshot", "Compare")
	b.check("history")
	b.click(`main a[href^="/diff/docs/letter.txt?"]`)
	b.wants("-this is the first letter.", "+this is the second letter.")
	b.check("diff-lines")
	b.click(`.crumbs a[href="/browse/"]`)
	b.click(`main a[href="/snapshots/"]`)
	b.wants("latest")
	b.check("snapshots")
	b.click(`form[action="/diff/"] button`)
	b.wants("changed", "/docs/letter.txt", "removed", "/docs/deep/er/still/notes.md")
	b.check("diff")
	b.goTo("/browse/.snapshots/" + s.first)
	b.wants("You see a snapshot")
	b.check("browse-snapshot")
	b.do("pattern", chromedp.SendKeys(chromedp.ID("q"), "*.md"))
	b.click(`form[role=search] button`)
	b.wants("notes.md")
	b.check("search")
	b.do("all snapshots", chromedp.Click(chromedp.CSS(`input[name=all]`)))
	b.click(`form[role=search] button`)
	b.wants("vanished", "appeared")
	b.check("search-all")
	b.goTo("/activity")
	b.wants("nas", "not run yet", "coming.bin", "Uploads under way")
	b.check("activity")
	if _, err := s.Command(t.Context(), "scrub", "--all"); err != nil {
		t.Fatal(err)
	}
	b.click(`a[href="/"]`)
	b.click(`main a[href="/verification"]`)
	b.wants("100 % in the last 30 days", "Last full round", "Next run", "No damage is known.")
	b.check("verification")
	b.goTo("/view/.snapshots/" + s.first + "/docs/letter.txt")
	b.wants("this is the first letter.")
	b.click(`main a[href^="/restore/"]`)
	b.wants("Replace the file that is there now")
	b.check("restore")
	// The browser itself asks for the tick.
	b.do("restoring without a tick", chromedp.Click(chromedp.CSS(`main form button`)))
	if !strings.HasPrefix(b.at(), "/restore/") {
		t.Errorf("without a tick: %s", b.at())
	}
	b.do("the tick", chromedp.Click(chromedp.CSS(`input[name=replace]`)))
	b.click(`main form button`)
	b.wants("The file was restored.", "this is the first letter.")
	b.check("restored")
	b.ill(s, sftp)
	if status := b.load("a missing page", chromedp.Navigate(b.base+"/view/nothing")); status != 404 {
		t.Errorf("a missing page: status %d", status)
	}
	b.wants("There is nothing of that name.")
	b.check("missing")
	b.mu.Lock()
	b.console = nil // it has told of the status 404
	b.mu.Unlock()
	b.click(`.out button`)
	b.wants("Sign in")
	b.quiet()
}

// ill makes a job fail and damages the store, and has the pages looked at that tell of it.
func (b *tab) ill(s *site, sftp *proctest.SFTP) {
	b.t.Helper()
	if out, err := s.Command(b.t.Context(), "jobs", "run", "nas"); err == nil {
		b.t.Fatalf("the job has not failed: %s", out)
	}
	content := make([]byte, 2<<20) // whose packfile is the largest
	_, _ = rand.Read(content)      // never fails
	f, err := sftp.Create("/docs/scan.tiff")
	if err == nil {
		_, err = f.Write(content)
		err = errors.Join(err, f.Close())
	}
	if err == nil {
		_, err = s.Command(b.t.Context(), "snapshot", "main")
	}
	if err != nil {
		b.t.Fatal(err)
	}
	packfiles, err := filepath.Glob(filepath.Join(s.Store, "packfiles", "*", "*"))
	if err == nil {
		err = proctest.FlipLargest(packfiles)
	}
	if err != nil {
		b.t.Fatal(err)
	}
	// A run that has begun by itself is waited for.
	var out string
	_, err = proctest.Wait(b.ctx, time.Minute, func() bool {
		out, _ = s.Command(b.t.Context(), "scrub", "--all") // it fails
		return strings.Contains(out, "main:/docs/scan.tiff")
	})
	if err != nil {
		b.t.Fatalf("no damage was found: %v\n%s", err, out)
	}
	b.click(`a[href="/"]`)
	b.wants("Alarms", "nas", "pulling has failed", "damaged in the store: 1 packfile", "for one\ngateway scrub --damaged names")
	b.check("overview-ill")
	b.click(`main a[href="/verification"]`)
	b.wants("There is damage in this store.", "packfile", "/docs/scan.tiff", "content, 2.0 MiB, in 1 snapshot", "gateway scrub --repair")
	b.check("verification-damage")
	b.goTo("/activity")
	b.wants("Alarms", "failed", "1 in a row")
	b.check("activity-ill")
}

// TestKeyboard signs in, looks for a file, restores it and signs out without a mouse.
func TestKeyboard(t *testing.T) {
	s := start(t)
	b := open(t, s.base)
	b.resize(screens()[1])
	b.goTo("/login")
	_, err := proctest.Wait(b.ctx, 30*time.Second, func() bool { return eval[bool](b, `document.activeElement.id === "user"`) })
	if err != nil {
		t.Fatalf("the field of the name has no focus: %v", err)
	}
	b.press("alice\t" + s.Client.Password)
	b.load("Enter", chromedp.KeyEvent("\r"))
	b.press("\t")
	if got := eval[string](b, "document.activeElement.innerText"); got != "Skip to the content" {
		t.Errorf("the first Tab leads to %q", got)
	}
	b.press("\r")
	b.tabTo("main")
	b.load("Enter", chromedp.KeyEvent("\r"))
	b.tabTo("q")
	b.press("notes*")
	b.load("Enter", chromedp.KeyEvent("\r"))
	b.wants("Nothing was found.")
	b.tabTo("all")
	b.press(" ")
	b.tabTo("Find")
	b.load("Enter", chromedp.KeyEvent("\r"))
	b.wants("vanished")
	b.tabTo("/docs/deep/er/still/notes.md")
	b.load("Enter", chromedp.KeyEvent("\r"))
	b.tabTo("Restore …")
	b.load("Enter", chromedp.KeyEvent("\r"))
	b.tabTo("Restore")
	b.load("Enter", chromedp.KeyEvent("\r"))
	b.wants("The file was restored.")
	if b.at() != "/view/docs/deep/er/still/notes.md?restored=1" {
		t.Errorf("restored to %s", b.at())
	}
	b.goTo("/view/docs/letter.txt")
	b.tabTo("Dear reader, this is the second letter. It is longer.") // a text that is wider than the screen can be moved
	b.do("back", chromedp.Reload())
	b.tabTo("Sign out")
	b.load("Enter", chromedp.KeyEvent("\r"))
	b.wants("Sign in")
	b.quiet()
}

// TestHostile looks at names and contents that would do something if a page let them.
func TestHostile(t *testing.T) {
	s := start(t)
	b := open(t, s.base)
	b.login("reader", s.Client.Password)
	pages := []string{
		"/browse/hostile", "/browse/.snapshots/" + s.last + "/hostile", "/search/?q=*", "/search/?q=*&all=1", "/diff/?from=" + s.first + "&to=" + s.last,
	}
	for name := range hostile() {
		file := (&url.URL{Path: "/hostile/" + name}).EscapedPath()
		pages = append(pages, "/view"+file, "/history"+file)
	}
	for _, page := range pages {
		b.goTo(page)
		if title := eval[string](b, "document.title"); title == "XSS" || !strings.HasSuffix(title, "snapgate") {
			t.Errorf("%s: the title is %q", page, title)
		}
		if n := eval[int](b, `document.querySelectorAll("script, iframe, object, embed, svg, [onerror], [onload], [onmouseover]").length`); n > 0 {
			t.Errorf("%s: %d elements that may run something", page, n)
		}
		if n := eval[int](b, `[...document.querySelectorAll("[href], [src], [action]")].filter(e => !/^[\/#]/.test(e.getAttribute("href") || e.getAttribute("src") || e.getAttribute("action"))).length`); n > 0 {
			t.Errorf("%s: %d addresses elsewhere", page, n)
		}
	}
	b.check("hostile")
	b.quiet()
	// What the policy forbids, a script that somebody had brought in could not do.
	if ran := eval[bool](b, `(() => { const s = document.createElement("script"); s.textContent = "window.ran = true"; document.body.append(s); return window.ran === true })()`); ran {
		t.Error("the policy has let a script run")
	}
}

// TestDownload saves a file and an archive, whatever they are.
func TestDownload(t *testing.T) {
	s := start(t)
	b := open(t, s.base)
	dir := t.TempDir()
	params := browser.SetDownloadBehaviorParams{Behavior: browser.SetDownloadBehaviorBehaviorAllow, DownloadPath: dir}
	if _, err := chromedp.CallBrowser(b.ctx, browser.SetDownloadBehavior, params); err != nil {
		t.Fatal(err)
	}
	saved := func(name string) string {
		t.Helper()
		var data []byte
		_, err := proctest.Wait(b.ctx, time.Minute, func() bool {
			var err error
			data, err = os.ReadFile(filepath.Join(dir, name))
			return err == nil && len(data) > 0 // the browser takes the name before the content has it
		})
		if err != nil {
			entries, _ := os.ReadDir(dir)
			t.Fatalf("%s is not saved: %v; there are %v", name, err, entries)
		}
		return string(data)
	}
	b.login("reader", s.Client.Password)
	b.goTo("/view/hostile/draw.svg")
	b.do("download", chromedp.Click(chromedp.CSS(`main a[href="/file/hostile/draw.svg"]`)))
	if got := saved("draw.svg"); got != hostile()["draw.svg"] {
		t.Errorf("saved %q", got)
	}
	b.goTo("/browse/.snapshots/" + s.first + "/docs")
	b.do("archive", chromedp.Click(chromedp.CSS(`main a[href^="/zip/"]`)))
	if got := saved("docs-" + s.first + ".zip"); !strings.HasPrefix(got, "PK\x03\x04") {
		t.Errorf("the archive begins with %.10q", got)
	}
	// By the address, a file is saved as well, and never shown.
	if err := chromedp.Do(b.ctx, chromedp.Navigate(b.base+"/file/hostile/fake.png")); err != nil && !strings.Contains(err.Error(), "ERR_ABORTED") {
		t.Errorf("going to a file: %v", err)
	}
	if got := saved("fake.png"); got != hostile()["fake.png"] {
		t.Errorf("saved %q", got)
	}
	if title := eval[string](b, "document.title"); title == "XSS" {
		t.Error("the file was shown")
	}
}
