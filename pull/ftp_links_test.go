package pull

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// linksHouse has a file, a link to it and one to nothing, and a directory with a link, on a server that follows links.
func linksHouse(t *testing.T, hook func(p *ftpPeer, cmd, arg string) bool) *ftpHouse {
	t.Helper()
	dir := t.TempDir()
	for _, err := range []error{
		os.WriteFile(filepath.Join(dir, "payroll.db"), []byte("x"), 0o600),
		os.Symlink("payroll.db", filepath.Join(dir, "link")),
		os.Symlink("gone", filepath.Join(dir, "dangling")),
		os.Mkdir(filepath.Join(dir, "d"), 0o700),
		os.Symlink("../payroll.db", filepath.Join(dir, "d/inner")),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	return (&ftpHouse{dir: dir, mlsd: true, follows: true, hook: hook}).start(t)
}

// entries lists a directory; bad are the errors of entries.
func entries(t *testing.T, r Remote, dir string) (good map[string]Entry, bad []error, err error) {
	t.Helper()
	good = map[string]Entry{}
	err = r.ReadDir(t.Context(), dir, func(e Entry) error {
		if e.Err != nil {
			bad = append(bad, e.Err)
		} else {
			good[e.Name] = e
		}
		return nil
	})
	return good, bad, err
}

// A LIST that is refused for a while, or cut, does not create files of links.
func TestFTPLinksNotNow(t *testing.T) {
	for _, tt := range []struct {
		name, cmd, reply string
		before           int // commands of that name before it
		cut              bool
		want             Kind
	}{
		{"425 to the first LIST", "LIST", "425 no data connection", 0, false, KindConnection},
		{"425", "LIST", "425 no data connection", 1, false, KindConnection},
		{"425 to EPSV", "EPSV", "425 no port", 1, false, KindConnection},
		{"450", "LIST", "450 busy", 1, false, KindBusy},
		{"451 after a line", "LIST", "451 disk error", 1, true, KindBusy},
	} {
		t.Run(tt.name, func(t *testing.T) {
			seen := 0
			h := linksHouse(t, func(p *ftpPeer, cmd, _ string) bool {
				if cmd != tt.cmd {
					return false
				}
				if seen++; seen != tt.before+1 {
					return false
				}
				if tt.cut {
					nc, err := p.connectData()
					if err != nil {
						return true
					}
					_, _ = io.WriteString(nc, "-rw-------   1 0        0           1 Feb 29  2024 payroll.db\r\n")
					nc.Close()
				}
				p.dropData()
				p.say("%s", tt.reply)
				return true
			})
			r := h.remote(t, impatient(h))
			if good, _, err := entries(t, r, "/"); err == nil || KindOf(err) != tt.want {
				t.Errorf("%v, and %+v, want %v", err, good, tt.want)
			}
			seen = 0
			items, report, err := scanAll(t, h.remote(t, impatient(h)), ScanConfig{})
			if err != nil || report.Failed() > 0 {
				t.Errorf("scan: %v, %v", err, kinds(report))
			}
			links := 0
			for _, i := range items {
				if i.Entry.Type == Symlink {
					links++
				} else if i.Entry.Type == File && i.Path != "/payroll.db" {
					t.Errorf("scan: %s is a file", i.Path)
				}
			}
			if links != 3 {
				t.Errorf("scan: %d links, want 3", links)
			}
		})
	}
}

// Without LIST, the kinds that MLSD tells are what is known. Where a server lists other directories, they are not.
func TestFTPLinksNever(t *testing.T) {
	for _, tt := range []struct {
		cmd, reply, dir string // the directory that it is refused in, "" for all
		bad             int
	}{
		{"LIST", "502 no", "", 0},
		{"LIST", "550 Permission denied", "", 0},
		{"LIST", "502 no", "/d", 1},
		{"LIST", "550 Permission denied", "/d", 1},
		{"CWD", "550 Permission denied", "/d", 1},
	} {
		t.Run(fmt.Sprint(tt.cmd, " ", tt.reply, " ", tt.dir), func(t *testing.T) {
			h := linksHouse(t, func(p *ftpPeer, cmd, arg string) bool {
				if cmd != tt.cmd || tt.dir != "" && p.cwd != tt.dir && arg != tt.dir {
					return false
				}
				p.dropData()
				p.say("%s", tt.reply)
				return true
			})
			r := h.remote(t, impatient(h))
			good, bad, err := entries(t, r, "/")
			if err != nil || len(bad) > 0 || (good["link"].Type == Symlink) != (tt.dir != "") {
				t.Errorf("/: %+v, %v, %v", good, bad, err)
			}
			good, bad, err = entries(t, r, "/d")
			if err != nil || len(bad) != tt.bad || good["inner"].Type != File {
				t.Errorf("/d: %+v, %v, %v", good, bad, err)
			}
			for _, err := range bad {
				if KindOf(err) != KindListing {
					t.Errorf("/d: %v", err)
				}
			}
			if _, bad, err := entries(t, r, "/nothing"); err == nil || KindOf(err) != KindNotFound || len(bad) > 0 {
				t.Errorf("/nothing: %v, %v", bad, err)
			}
		})
	}
}

// A name with a line break does not tell what another one is, nor where it points to.
func TestFTPLinksForged(t *testing.T) {
	for _, tt := range []struct{ name, victim string }{
		{"x\nlrwxrwxrwx 1 0 0 1 Jan 1 00:00 payroll.db", "payroll.db"},
		{"a\nlrwxrwxrwx 1 0 0 1 Jan 1 00:00 payroll.db", "payroll.db"},
		{"x\nprw------- 1 0 0 0 Jan 1 00:00 payroll.db", "payroll.db"},
		{"x\nlrwxrwxrwx 1 0 0 1 Jan 1 00:00 link", "link"},
	} {
		for _, follows := range []bool{true, false} {
			t.Run(fmt.Sprintf("%.8q %s %v", tt.name, tt.victim, follows), func(t *testing.T) {
				h := linksHouse(t, nil)
				h.follows, h.noTarget = follows, !follows
				create := func(path string) error { return os.Symlink("evil", path) }
				if strings.Contains(tt.name, "prw") {
					create = func(path string) error { return os.WriteFile(path, nil, 0o600) } // LIST appends no target
				}
				if err := create(filepath.Join(h.dir, tt.name)); err != nil {
					t.Fatal(err)
				}
				good, bad, err := entries(t, h.remote(t), "/")
				if err != nil || len(bad) == 0 {
					t.Errorf("%v, %v", bad, err)
				}
				if e, ok := good[tt.victim]; ok && (e.Type != File || e.Name != "payroll.db" || follows) {
					t.Errorf("it is taken for %+v", e)
				}
				items, report, err := scanAll(t, h.remote(t), ScanConfig{})
				if err != nil || report.Failed() == 0 || len(items) == 0 || items[0].Whole {
					t.Errorf("scan: %v, %v, %+v", err, kinds(report), items)
				}
			})
		}
	}
}

// A link that cannot be told is named.
func TestFTPLinksUntold(t *testing.T) {
	h := linksHouse(t, nil)
	if err := os.Symlink("gone", filepath.Join(h.dir, "a -> b")); err != nil {
		t.Fatal(err)
	}
	good, bad, err := entries(t, h.remote(t), "/")
	if err != nil || len(good) != 4 || len(bad) != 1 || KindOf(bad[0]) != KindListing {
		t.Errorf("%+v, %v, %v", good, bad, err)
	}
}

// Links that are too many are a problem, once, and so are those after too many names to compare theirs with.
func TestFTPLinksLimit(t *testing.T) {
	for name, tt := range map[string]struct{ links, others, want int }{
		"links":              {maxLinks + 2, 0, maxLinks},
		"links after others": {2, maxOthers, 0},
		"all":                {maxLinks, maxOthers - 1, maxLinks},
	} {
		var bad []error
		n := &oddNames{dir: "/d", odd: map[string]Entry{}, bad: func(e Entry) error { bad = append(bad, e.Err); return nil }}
		n.others = make([]uint64, tt.others)
		for i := range tt.links {
			if err := n.add(Entry{Name: fmt.Sprint(i), Type: Symlink}); err != nil {
				t.Fatal(err)
			}
		}
		if len(n.odd) != tt.want || len(bad) > 1 || (len(bad) == 1) != (tt.links > tt.want) {
			t.Errorf("%s: %d links, %v", name, len(n.odd), bad)
		}
	}
}
