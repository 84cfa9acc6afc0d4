package websrv

import (
	"archive/zip"
	"bytes"
	"context"
	"errors"
	"fmt"
	"html"
	"io"
	"io/fs"
	"maps"
	"math/rand/v2"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/snapgate/gateway/internal/proctest"
	"github.com/snapgate/gateway/snapshotter"
	"github.com/snapgate/gateway/vfs"
)

func TestSearch(t *testing.T) {
	s := startSite(t, nil)
	s.put("/docs/one.pdf", "1")
	s.put("/docs/<b>two.PDF", "2")
	s.put("/docs/three.txt", "3")
	first := s.commit()
	s.put("/docs/one.pdf", "one, changed")
	if err := s.work.Remove(t.Context(), "/docs/<b>two.PDF"); err != nil {
		t.Fatal(err)
	}
	last := s.commit()
	s.put("/docs/live.pdf", "not yet")
	b := s.as("alice")
	page := b.want("/search/?q=*.pdf")
	contains(t, page, `href="/view/.snapshots/`+last+`/docs/one.pdf"`, "/docs/one.pdf<")
	lacks(t, page, "two", "three", "live.pdf")
	page = b.want("/search/docs?q=*.pdf&at=" + first)
	contains(t, page, `href="/view/.snapshots/`+first+`/docs/one.pdf"`, "&lt;b&gt;two.PDF")
	lacks(t, page, "<b>two")
	contains(t, b.want("/search/?q=/docs/t*.txt"), "three.txt")
	contains(t, b.want("/search/?q=nothing"), "Nothing was found.")
	contains(t, b.want("/search/?q=%5B"), "This is no pattern")
	contains(t, b.want("/search/?q="+strings.Repeat("%7Ba,aa%7D", 30)), "This is no pattern")
	contains(t, b.want("/search/?q="+strings.Repeat("**/", 30)), "This is no pattern")
	contains(t, b.want("/search/?q="+strings.Repeat("*%7B,,,,,,%7D", 3)+"z"), "This is no pattern")
	contains(t, b.want("/search/docs/three.txt?q=*"), "Nothing was found.")
	contains(t, b.want("/search/"), "Find names")

	page = b.want("/search/?q=*.pdf&all=1")
	if at := []int{strings.Index(page, ">vanished<"), strings.Index(page, ">appeared<")}; at[0] < 0 || at[1] < at[0] {
		t.Errorf("the newest does not come first in %s", page)
	}
	contains(t, page, ">changed<", `href="/view/.snapshots/`+first+`/docs/%3Cb%3Etwo.PDF"`, `href="/view/.snapshots/`+last+`/docs/one.pdf"`)
	lacks(t, page, "three", "Look further back")
}

// A search stops at so many names, and says so.
func TestSearchMany(t *testing.T) {
	s := startSite(t, nil)
	s.put("/old", "")
	first := s.commit()
	var making sync.WaitGroup
	for i := range throughMost + 1 {
		making.Go(func() {
			if err := s.work.Symlink(t.Context(), "x", fmt.Sprintf("/f%04d", i)); err != nil {
				t.Error(err)
			}
		})
	}
	making.Wait()
	last := s.commit()
	b := s.as("alice")
	// Of what happened from one snapshot to the next, too.
	page := b.want("/search/?q=*&all=1")
	contains(t, page, "The first 1000 are shown", "/diff/?from="+first+"&amp;to="+last, "Look further back")
	if n := strings.Count(page, "<td>appeared</td>"); n != throughMost {
		t.Errorf("%d names, want %d", n, throughMost)
	}
	next := regexp.MustCompile(`href="([^"]+)">Look further back`).FindStringSubmatch(page)
	contains(t, b.want(html.UnescapeString(next[1])), "/old")
	page = b.want("/search/?q=f0*&all=1")
	lacks(t, page, "are shown")
	if n := strings.Count(page, "<td>appeared</td>"); n != throughMost {
		t.Errorf("%d names of %d", n, throughMost)
	}
	page = b.want("/search/?q=f*")
	contains(t, page, "There is more than is shown here")
	if n := strings.Count(page, `<tr><th scope="row">`); n != foundMost {
		t.Errorf("%d names, want %d", n, foundMost)
	}
	lacks(t, b.want("/search/?q=f0*1"), "There is more")
}

// A user of a part of a share finds nothing of the others', whatever the pattern.
func TestReachOfPart(t *testing.T) {
	s := startSite(t, nil)
	s.put("/mine/[a]/x.txt", "mine 1")
	s.put("/theirs/x.txt", "theirs 1")
	s.put("/x.txt", "top 1")
	first := s.commit()
	s.put("/mine/[a]/x.txt", "mine 2")
	s.put("/theirs/x.txt", "theirs 2")
	second := s.commit()
	s.user("part", vfs.PermFull, at("/home", "main", "/mine/[a]"), at("/also", "other", "/"))
	b := s.as("part")
	for _, path := range []string{
		"/search/home?q=*", "/search/home?q=x.txt", "/search/home?q=/**", "/search/home?q=**/*", "/search/home?q=/../**", "/search/home?q=x.txt&all=1",
		"/search/home?q=/x.txt", "/search/home/..?q=*&at=" + first, "/diff/home?from=" + first + "&to=" + second, "/diff/home/x.txt?from=" + first + "&to=" + second,
		"/history/home/x.txt", "/snapshots/home", "/", "/search/home/..%2f..%2ftheirs?q=*", "/history/home/..%2f..%2ftheirs%2fx.txt",
	} {
		a := b.get(path)
		for i := 0; a.status == http.StatusTemporaryRedirect && i < 3; i++ {
			a = b.get(a.header.Get("Location"))
		}
		lacks(t, a.body, "theirs<", "theirs/x", "theirs 1", "theirs 2", "top 1", "mine/[a]")
	}
	contains(t, b.want("/search/home?q=/x.txt"), `href="/view/home/.snapshots/`+second+`/x.txt"`)
	contains(t, b.want("/search/home?q=x.*&all=1"), ">changed<", ">appeared<")
	contains(t, b.want("/diff/home?from="+first+"&to="+second), "x.txt", "changed")
	contains(t, b.want("/history/home/x.txt"), `href="/view/home/.snapshots/`+first+`/x.txt"`)
	if a := b.get("/search/?q=*"); a.status != http.StatusNotFound {
		t.Errorf("a search above the mounts: %d", a.status)
	}
	for _, path := range []string{"/history/pulled/x", "/diff/main", "/snapshots/other"} {
		if a := b.get(path); a.status != http.StatusNotFound {
			t.Errorf("GET %s: %d, want 404", path, a.status)
		}
	}
}

func TestHistory(t *testing.T) {
	s := startSite(t, nil)
	s.put("/a/f.txt", "one")
	first := s.commit()
	s.put("/b.txt", "x")
	s.commit()
	s.put("/a/f.txt", "version two")
	second := s.commit()
	if err := s.work.Remove(t.Context(), "/a/f.txt"); err != nil {
		t.Fatal(err)
	}
	s.commit()
	b := s.as("alice")
	page := b.want("/history/a/f.txt")
	contains(t, page, "removed", "3 B", "11 B", "in 2 snapshots", `href="/view/.snapshots/`+second+`/a/f.txt"`,
		`href="/restore/.snapshots/`+first+`/a/f.txt"`, `href="/file/.snapshots/`+first+`/a/f.txt"`, "/diff/a/f.txt?from=")
	if strings.Index(page, "11 B") > strings.Index(page, "3 B") {
		t.Error("the newest version does not come first")
	}
	if a := b.get("/history/a/nothing"); a.status != http.StatusNotFound {
		t.Errorf("no such file: %d", a.status)
	}
	s.put("/new.txt", "not in a snapshot")
	contains(t, b.want("/history/new.txt"), "It is in no snapshot yet.")
	contains(t, b.want("/browse/.snapshots/"+first), "as of "+snapLabel(first))
	if got := snapLabel("2026-11-26T23-51-50Z-1"); !strings.HasSuffix(got, ":50 (1)") || strings.Contains(got, "T") {
		t.Errorf("a snapshot is called %q", got)
	}
	if got := snapLabel("lat\xffest"); got != shown("lat\xffest") {
		t.Errorf("another name is shown as %q", got)
	}
	s.user("noread", vfs.PermList|vfs.PermHistory, at("/", "main", "/"))
	page = s.as("noread").want("/history/a/f.txt")
	lacks(t, page, "/file/", "/restore/", "<code>")
}

func TestDiff(t *testing.T) {
	s := startSite(t, nil)
	s.put("/d/same.txt", "same")
	s.put("/d/text.txt", "one\ntwo\nthree\n")
	s.put("/d/gone.txt", "x")
	s.put("/d/bin", "a\x00b")
	first := s.commit()
	s.put("/d/text.txt", "one\n<b>TWO</b>\nthree\n")
	s.put("/d/new.txt", "y")
	s.put("/d/bin", "a\x00c")
	if err := s.work.Remove(t.Context(), "/d/gone.txt"); err != nil {
		t.Fatal(err)
	}
	second := s.commit()
	b := s.as("alice")
	between := "?from=" + first + "&to=" + second
	page := b.want("/diff/" + between)
	contains(t, page, ">added<", ">removed<", ">changed<", "/d/text.txt", "/d/new.txt", "/d/gone.txt", "/diff/d/text.txt?from=")
	lacks(t, page, "same.txt", "Lines that differ")
	page = b.want("/diff/d/text.txt" + between)
	contains(t, page, "Lines that differ", `class="minus">-two<`, `class="plus">&#43;&lt;b&gt;TWO&lt;/b&gt;<`)
	contains(t, b.want("/diff/d/bin"+between), "It is not a text.")
	contains(t, b.want("/diff/d/same.txt"+between), "Nothing differs.")
	contains(t, b.want("/diff/"), `<option value="`+first+`" selected>`)
	for _, path := range []string{"/diff/nothing" + between, "/diff/?from=" + first + "&to=2020-01-01T00-00-00Z"} {
		if a := b.get(path); a.status != http.StatusNotFound {
			t.Errorf("GET %s: %d, want 404", path, a.status)
		}
	}
	s.user("noread", vfs.PermList|vfs.PermHistory, at("/", "main", "/"))
	noread := s.as("noread")
	contains(t, noread.want("/diff/"+between), "/d/text.txt")
	page = noread.want("/diff/d/text.txt" + between)
	contains(t, page, ">changed<", "14 B → ", "You may not read files.")
	lacks(t, page, "TWO", "Lines that differ")
}

// An archive has what the session shows, in the live tree and in a snapshot.
func TestArchive(t *testing.T) {
	s := startSite(t, nil)
	want := map[string]string{"a.txt": "first", "sub/deep/b.bin": strings.Repeat("\x00\xff", 100_000), "sub/é\xff.txt": "bytes", "<x>": ""}
	for name, content := range want {
		s.put("/top/"+name, content)
	}
	if err := s.work.Symlink(t.Context(), "a.txt", "/top/ln"); err != nil {
		t.Fatal(err)
	}
	if err := s.work.Mkdir(t.Context(), "/top/empty", vfs.AttrSet{}); err != nil {
		t.Fatal(err)
	}
	snap := s.commit()
	s.put("/top/a.txt", "later")
	b := s.as("alice")
	for path, first := range map[string]string{"/zip/top": "later", "/zip/.snapshots/" + snap + "/top": "first"} {
		a := b.get(path)
		if a.status != 200 || a.header.Get("Content-Type") != "application/octet-stream" || !strings.HasPrefix(a.header.Get("Content-Disposition"), `attachment; filename="top`) {
			t.Fatalf("%s: %d %v", path, a.status, a.header)
		}
		z, err := zip.NewReader(bytes.NewReader([]byte(a.body)), int64(len(a.body)))
		if err != nil {
			t.Fatal(err)
		}
		got, links, dirs := map[string]string{}, map[string]string{}, []string{}
		for _, f := range z.File {
			r, err := f.Open()
			if err != nil {
				t.Fatal(err)
			}
			data, err := io.ReadAll(r)
			if err != nil {
				t.Fatal(err)
			}
			switch {
			case f.Mode()&fs.ModeSymlink != 0:
				links[f.Name] = string(data)
			case f.Mode().IsDir():
				dirs = append(dirs, f.Name)
			default:
				got[f.Name] = string(data)
			}
		}
		slices.Sort(dirs)
		want["a.txt"] = first
		if !maps.Equal(got, want) || links["ln"] != "a.txt" || !slices.Equal(dirs, []string{"empty/", "sub/", "sub/deep/"}) {
			t.Errorf("%s: files %.300q, links %q, directories %q", path, got, links, dirs)
		}
	}
	if a := b.get("/zip/top/a.txt"); a.status != http.StatusNotFound {
		t.Errorf("an archive of a file: %d", a.status)
	}
}

// An archive is bounded by what it takes in memory until its end: entries, and their names.
func TestArchiveIsBounded(t *testing.T) {
	for _, tt := range []struct {
		length, most int
		want         error
	}{
		{1, archiveEntries, errArchiveEntries},
		{1 << 10, archiveNames >> 10, errArchiveNames},
	} {
		a := archiving{}
		name := strings.Repeat("x", tt.length)
		for range tt.most {
			if err := a.count(name); err != nil {
				t.Fatalf("names of %d bytes: %v after %d", tt.length, err, a.entries)
			}
		}
		// Before anything is asked of the session.
		if err := a.entry(vfs.Name{}, name, &vfs.Info{}); !errors.Is(err, tt.want) {
			t.Errorf("names of %d bytes: %v after %d, want %v", tt.length, err, a.entries, tt.want)
		}
	}
}

// The archive of the latest snapshot is that of one snapshot.
func TestArchiveOfLatest(t *testing.T) {
	s := startSite(t, nil)
	s.put("/top/a.txt", "first")
	snap := s.commit()
	a := s.as("alice").get("/zip/.snapshots/latest/top")
	if want := "/zip/.snapshots/" + snap + "/top"; a.status != http.StatusSeeOther || a.header.Get("Location") != want {
		t.Errorf("%d to %q, want %q", a.status, a.header.Get("Location"), want)
	}
}

// An archive of a directory that goes away meanwhile is cut off: it must not look whole.
func TestArchiveOfGone(t *testing.T) {
	s := startSite(t, nil)
	random := make([]byte, 32<<20) // more than is on its way while nobody reads
	rand.NewChaCha8([32]byte{1}).Read(random)
	s.put("/top/a", string(random))
	s.put("/top/b", "lost")
	b := s.as("alice")
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, b.base+"/zip/top", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := b.client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if err := s.work.Rename(t.Context(), "/top", "/moved", false); err != nil {
		t.Fatal(err)
	}
	if n, err := io.Copy(io.Discard, resp.Body); err == nil {
		t.Errorf("the archive came whole, with %d bytes", n)
	}
}

// Lines without end are not compared.
func TestDiffOfManyLines(t *testing.T) {
	s := startSite(t, nil)
	s.put("/f.txt", strings.Repeat("\n", diffLines))
	first := s.commit()
	s.put("/f.txt", strings.Repeat("x\n", diffLines))
	last := s.commit()
	contains(t, s.as("alice").want("/diff/f.txt?from="+first+"&to="+last), "It has too many lines to compare.")
}

// A restore from the latest snapshot is one from what the page has shown.
func TestRestoreOfLatest(t *testing.T) {
	s := startSite(t, nil)
	s.put("/a.txt", "first")
	snap := s.commit()
	const path = "/restore/.snapshots/latest/a.txt"
	b := s.as("alice")
	b.want("/")
	for _, a := range []answer{b.post(path, "state", "none"), b.get(path)} {
		if want := "/restore/.snapshots/" + snap + "/a.txt"; a.status != http.StatusSeeOther || a.header.Get("Location") != want {
			t.Errorf("%d to %q, want %q", a.status, a.header.Get("Location"), want)
		}
	}
}

// What is not in a snapshot yet is back all the same; what could not be read in time is not.
func TestRestoreInTime(t *testing.T) {
	s := startSite(t, nil)
	s.put("/f.txt", "old")
	snap := s.commit()
	if err := s.work.Remove(t.Context(), "/f.txt"); err != nil {
		t.Fatal(err)
	}
	s.commit()
	if err := s.sys.Reload(t.Context(), []vfs.ShareConfig{{Name: "main", AckStored: true}, {Name: "other", When: vfs.WhenManual}, {Name: "pulled", Source: true}}); err != nil {
		t.Fatal(err)
	}
	b := s.as("alice")
	path := "/restore/.snapshots/" + snap + "/f.txt"
	restored := func() int { return strings.Count(s.log.String(), "msg=restored") }
	b.want(path)
	s.repo.slow.Store(true)
	a := b.post(path, "state", "none")
	lacks(t, a.body, "is back")
	if a.status != http.StatusServiceUnavailable || s.content("/f.txt") != "" || restored() != 0 {
		t.Errorf("from a slow store: %d %s, %d were restored", a.status, a.body, restored())
	}
	s.repo.slow.Store(false)
	s.repo.away.Store(true)
	defer s.repo.away.Store(false)
	a = b.post(path, "state", "none")
	contains(t, a.body, "The file is back, and not yet in a snapshot")
	if a.status != http.StatusGatewayTimeout || restored() != 1 {
		t.Errorf("while the store takes no snapshot: %d, %d were restored", a.status, restored())
	}
	if info, err := s.work.Stat(t.Context(), "/f.txt"); err != nil || info.Size != 3 {
		t.Errorf("then there is %+v, %v", info, err)
	}
}

func TestRestore(t *testing.T) {
	s := startSite(t, nil)
	mode, mtime := fs.FileMode(0o640), time.Date(2025, 5, 4, 3, 2, 1, 0, time.UTC)
	s.put("/d/e/f.txt", "old")
	if err := s.work.SetAttr(t.Context(), "/d/e/f.txt", vfs.AttrSet{Mode: &mode, ModTime: &mtime}, false); err != nil {
		t.Fatal(err)
	}
	snap := s.commit()
	for _, dir := range []string{"/d/e", "/d"} {
		if dir == "/d/e" {
			if err := s.work.Remove(t.Context(), "/d/e/f.txt"); err != nil {
				t.Fatal(err)
			}
		}
		if err := s.work.Rmdir(t.Context(), dir); err != nil {
			t.Fatal(err)
		}
	}
	s.commit()
	b := s.as("alice")
	path := "/restore/.snapshots/" + snap + "/d/e/f.txt"
	state := func() string {
		page := b.want(path)
		_, rest, _ := strings.Cut(page, `name="state" value="`)
		state, _, _ := strings.Cut(rest, `"`)
		return state
	}
	none := state()
	if got := s.content("/d/e/f.txt"); got != "" {
		t.Fatalf("the page alone has restored %q", got)
	}
	if a := b.post(path, "state", none); a.status != http.StatusSeeOther || a.header.Get("Location") != "/view/d/e/f.txt?restored=1" {
		t.Fatalf("restore: %d %s", a.status, a.body)
	}
	contains(t, b.want("/view/d/e/f.txt?restored=1"), "The file was restored.")
	info, err := s.work.Stat(t.Context(), "/d/e/f.txt")
	if err != nil || s.content("/d/e/f.txt") != "old" || info.Mode != mode || !info.ModTime.Equal(mtime) {
		t.Errorf("restored: %+v, %v", info, err)
	}

	// Nothing is overwritten that the form did not say.
	s.put("/d/e/f.txt", "precious")
	b.want(path)
	if a := b.post(path, "state", none); a.status != http.StatusConflict || s.content("/d/e/f.txt") != "precious" {
		t.Errorf("over another file: %d, %q", a.status, s.content("/d/e/f.txt"))
	}
	seen := state()
	if a := b.post(path, "state", seen); a.status != http.StatusConflict || s.content("/d/e/f.txt") != "precious" {
		t.Errorf("without replace: %d, %q", a.status, s.content("/d/e/f.txt"))
	}
	s.put("/d/e/f.txt", "more precious")
	if a := b.post(path, "state", seen, "replace", "yes"); a.status != http.StatusConflict || s.content("/d/e/f.txt") != "more precious" {
		t.Errorf("over a newer file: %d, %q", a.status, s.content("/d/e/f.txt"))
	}
	if a := b.post(path, "state", state(), "replace", "yes"); a.status != http.StatusSeeOther || s.content("/d/e/f.txt") != "old" {
		t.Errorf("with replace: %d %s, %q", a.status, a.body, s.content("/d/e/f.txt"))
	}
	if a := b.post(path, "state", none, "token", "forged"); a.status != http.StatusForbidden {
		t.Errorf("with a forged token: %d", a.status)
	}
	for _, p := range []string{"/restore/d/e/f.txt", "/restore/.snapshots/" + snap, "/restore/.snapshots/" + snap + "/nothing"} {
		if a := b.get(p); a.status != http.StatusNotFound {
			t.Errorf("GET %s: %d, want 404", p, a.status)
		}
	}
	if a := b.get("/restore/.snapshots/" + snap + "/d"); a.status != http.StatusBadRequest {
		t.Errorf("a directory: %d", a.status)
	}
	uploads := 0
	s.told.mu.Lock()
	defer s.told.mu.Unlock()
	for _, e := range s.told.events {
		if e.Op == vfs.EventUpload && e.From.Protocol == "web" && e.User == "alice" && e.Path == "/d/e/f.txt" {
			uploads++
		}
	}
	if uploads != 2 {
		t.Errorf("the audit log was told of %d restores, want 2", uploads)
	}
}

// An unfinished upload of the user's own is dropped only when the form says so.
func TestRestoreOverPartial(t *testing.T) {
	s := startSite(t, nil)
	s.put("/f.txt", "old")
	snap := s.commit()
	if err := s.work.Remove(t.Context(), "/f.txt"); err != nil {
		t.Fatal(err)
	}
	// upload sends more of the file, and is cut off; there was so much before.
	upload := func(before int64, more string) {
		t.Helper()
		f, err := s.work.Open(t.Context(), "/f.txt", vfs.OpenWrite|vfs.OpenCreate, vfs.AttrSet{})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteAt([]byte(more), before); err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(f.Sync(t.Context()), f.Abort()); err != nil {
			t.Fatal(err)
		}
	}
	arrived := func() int64 {
		t.Helper()
		info, err := s.work.Lstat(t.Context(), "/f.txt")
		if err != nil || !info.Partial {
			t.Fatalf("the upload is gone: %+v, %v", info, err)
		}
		return info.Size
	}
	s.user("worker", vfs.PermFull, at("/", "main", "/"))
	b, path := s.as("worker"), "/restore/.snapshots/"+snap+"/f.txt"
	state := func() string {
		t.Helper()
		_, rest, _ := strings.Cut(b.want(path), `name="state" value="`)
		state, _, _ := strings.Cut(rest, `"`)
		return state
	}
	none := state()
	upload(0, strings.Repeat("x", 3000))
	page := b.want(path)
	contains(t, page, "an unfinished upload: 2.9 KiB", "Drop the unfinished upload of that name", `name="replace"`)
	lacks(t, page, "<dd>nothing", "Replace the file")
	seen := state()
	for _, tt := range []struct{ name, state, replace string }{
		{"that came after the page", none, "yes"},
		{"that is not to be dropped", seen, ""},
	} {
		if a := b.post(path, "state", tt.state, "replace", tt.replace); a.status != http.StatusConflict || arrived() != 3000 {
			t.Errorf("an upload %s: %d, %d bytes of it", tt.name, a.status, arrived())
		}
	}
	upload(3000, "y")
	if a := b.post(path, "state", seen, "replace", "yes"); a.status != http.StatusConflict || arrived() != 3001 {
		t.Errorf("an upload that was continued after the page: %d, %d bytes of it", a.status, arrived())
	}
	if a := b.post(path, "state", state(), "replace", "yes"); a.status != http.StatusSeeOther || s.content("/f.txt") != "old" {
		t.Errorf("an upload that is to be dropped: %d, and there is %q", a.status, s.content("/f.txt"))
	}
	lacks(t, s.as("alice").want(path), "unfinished")
}

// What is published while a restore is on its way, after it has looked, is not replaced unseen.
func TestRestoreBesideUpload(t *testing.T) {
	s := startSite(t, nil)
	s.put("/there.txt", "old")
	s.put("/gone.txt", "old")
	snap := s.commit()
	s.put("/there.txt", "new")
	if err := s.work.Remove(t.Context(), "/gone.txt"); err != nil {
		t.Fatal(err)
	}
	b := s.as("alice")
	for _, name := range []string{"/there.txt", "/gone.txt"} {
		path := "/restore/.snapshots/" + snap + name
		_, rest, _ := strings.Cut(b.want(path), `name="state" value="`)
		state, _, _ := strings.Cut(rest, `"`)
		f, err := s.work.Open(t.Context(), name, vfs.OpenWrite|vfs.OpenCreate|vfs.OpenTruncate, vfs.AttrSet{})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteAt([]byte("precious"), 0); err != nil {
			t.Fatal(err)
		}
		// The upload is accepted and not yet to be seen while its record is not flushed.
		began := s.disk.flushes.Load()
		s.disk.held.Lock()
		release := sync.OnceFunc(s.disk.held.Unlock)
		defer release()
		closed, answered := make(chan error, 1), make(chan answer, 1)
		go func() { closed <- f.Close() }()
		await(t, "the flush of the upload", func() bool { return s.disk.flushes.Load() > began })
		go func() { answered <- b.post(path, "state", state, "replace", "yes") }()
		await(t, "the restore", func() bool {
			return slices.ContainsFunc(s.sys.Uploads(), func(u vfs.UploadStatus) bool { return u.User == "alice" })
		})
		release()
		if err := <-closed; err != nil {
			t.Fatal(err)
		}
		a := <-answered
		contains(t, a.body, "has changed in the meantime")
		if got := s.content(name); a.status != http.StatusConflict || got != "precious" {
			t.Errorf("%s: %d, and there is %q", name, a.status, got)
		}
	}
}

func await(t *testing.T, what string, so func() bool) {
	t.Helper()
	if _, err := proctest.Wait(t.Context(), 30*time.Second, so); err != nil {
		t.Fatalf("waiting for %s: %v", what, err)
	}
}

// What is no file is not replaced by one, and a link is not followed.
func TestRestoreOverLink(t *testing.T) {
	s := startSite(t, nil)
	s.put("/f.txt", "old")
	snap := s.commit()
	if err := s.work.Remove(t.Context(), "/f.txt"); err != nil {
		t.Fatal(err)
	}
	s.put("/precious.txt", "precious")
	if err := s.work.Symlink(t.Context(), "precious.txt", "/f.txt"); err != nil {
		t.Fatal(err)
	}
	b := s.as("alice")
	path := "/restore/.snapshots/" + snap + "/f.txt"
	page := b.want(path)
	contains(t, page, "move it away first")
	lacks(t, page, `name="replace"`)
	info, err := s.work.Lstat(t.Context(), "/f.txt")
	if err != nil {
		t.Fatal(err)
	}
	b.get("/")
	state := fmt.Sprintf("%d-%d-%d-%d", info.Type, info.Version, info.Size, info.ModTime.UnixNano())
	if a := b.post(path, "state", state, "replace", "yes"); a.status != http.StatusConflict || s.content("/precious.txt") != "precious" {
		t.Errorf("over a link: %d, the file that it leads to is %q", a.status, s.content("/precious.txt"))
	}
}

// A restore needs the permissions of an upload.
func TestRestorePermissions(t *testing.T) {
	s := startSite(t, nil)
	s.put("/there.txt", "old")
	s.put("/gone.txt", "old")
	snap := s.commit()
	s.put("/there.txt", "new")
	if err := s.work.Remove(t.Context(), "/gone.txt"); err != nil {
		t.Fatal(err)
	}
	s.user("reader", vfs.PermReadOnly, at("/", "main", "/"))
	s.user("appender", vfs.PermAppendOnly, at("/", "main", "/"))
	top := "/restore/.snapshots/" + snap
	b := s.as("reader")
	lacks(t, b.want("/view/.snapshots/"+snap+"/gone.txt"), "/restore/")
	for _, p := range []string{top + "/gone.txt", top + "/there.txt"} {
		if a := b.get(p); a.status != http.StatusForbidden {
			t.Errorf("reader: GET %s: %d", p, a.status)
		}
		b.get("/")
		if a := b.post(p, "state", "none", "replace", "yes"); a.status != http.StatusForbidden {
			t.Errorf("reader: POST %s: %d", p, a.status)
		}
	}
	b = s.as("appender")
	page := b.want(top + "/there.txt")
	contains(t, page, "You may not replace files.")
	_, rest, _ := strings.Cut(b.want(top+"/gone.txt"), `name="state" value="`)
	state, _, _ := strings.Cut(rest, `"`)
	if a := b.post(top+"/gone.txt", "state", state); a.status != http.StatusSeeOther || s.content("/gone.txt") != "old" {
		t.Errorf("appender: %d, %q", a.status, s.content("/gone.txt"))
	}
	info, err := s.work.Stat(t.Context(), "/there.txt")
	if err != nil {
		t.Fatal(err)
	}
	force := fmt.Sprintf("%d-%d-%d-%d", info.Type, info.Version, info.Size, info.ModTime.UnixNano())
	if a := b.post(top+"/there.txt", "state", force, "replace", "yes"); a.status != http.StatusForbidden || s.content("/there.txt") != "new" {
		t.Errorf("appender over a file: %d, %q", a.status, s.content("/there.txt"))
	}
}

// A source is shown like a share, and nothing can be restored into it.
func TestSource(t *testing.T) {
	s := startSite(t, nil)
	ctx := context.Background()
	s.put("/x.txt", "pulled")
	s.commit()
	head, _, err := s.snaps.Latest(ctx, s.sys.GatewayID(), s.sys.Lineage("main").ShareID)
	if err != nil {
		t.Fatal(err)
	}
	l := s.sys.Lineage("pulled")
	_, err = s.snaps.Commit(ctx, snapshotter.ID{}, func(yield func(snapshotter.Change, error) bool) {
		yield(snapshotter.Change{Path: "/", Kind: snapshotter.Dir, Attr: snapshotter.Attr{Mode: 0o755, ModTime: time.Now().UTC()}, Version: 1}, nil)
	}, snapshotter.Meta{Share: "pulled", ShareID: l.ShareID, GatewayID: l.GatewayID, Sequence: 1, Time: head.Time, Reason: "pull"})
	if err != nil {
		t.Fatal(err)
	}
	s.user("reader", vfs.PermFull, at("/", "pulled", "/"))
	b := s.as("reader")
	contains(t, b.want("/"), "source", "1 snapshot<")
	contains(t, b.want("/snapshots/"), "pull")
	b.want("/browse/")
}

func TestActivity(t *testing.T) {
	s := startSite(t, func(c *Config) {
		c.Viewer.Operator = func(user string) bool { return user == "ops" }
		c.Viewer.Jobs = func() []Job {
			now := time.Now()
			return []Job{
				{Name: "main", Kind: "pull", Share: "main", State: "idle", Result: "failed", Error: "dial <10.0.0.1>: refused", Failures: 3, Start: now.Add(-time.Hour), End: now, Schedule: "every night"},
				{Name: "maintenance", Kind: "maintain", State: "running", Summary: "half of it"},
			}
		}
	})
	s.user("ops", vfs.PermReadOnly, at("/", "other", "/"))
	f, err := s.work.Open(t.Context(), "/coming.bin", vfs.OpenWrite|vfs.OpenCreate, vfs.AttrSet{})
	if err != nil {
		t.Fatal(err)
	}
	defer f.Abort()
	if _, err := f.WriteAt(make([]byte, 2048), 0); err != nil {
		t.Fatal(err)
	}
	page := s.as("ops").want("/activity")
	contains(t, page, "maintenance", "half of it", "dial &lt;10.0.0.1&gt;: refused", "3 in a row", "main:/coming.bin", "2.0 KiB", "every night")
	page = s.as("alice").want("/activity")
	contains(t, page, "failed", "The operator of the gateway can see why.")
	lacks(t, page, "maintenance", "10.0.0.1", "coming.bin")
	s.user("worker", vfs.PermFull, at("/home", "main", "/"), at("/else", "other", "/"))
	contains(t, s.as("worker").want("/activity"), "/home/coming.bin")
}
