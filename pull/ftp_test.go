package pull

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

func TestFTP(t *testing.T) {
	server, client := testTLS(t)
	withTLS := func(implicit bool) func(*FTPConfig) {
		return func(c *FTPConfig) { c.TLS, c.Implicit = client, implicit }
	}
	for _, tt := range []struct {
		name   string
		house  *ftpHouse
		change func(*FTPConfig)
	}{
		{"MLSD", &ftpHouse{mlsd: true}, func(*FTPConfig) {}},
		{"LIST", &ftpHouse{noEPSV: true}, func(*FTPConfig) {}},
		{"MLSD without targets", &ftpHouse{mlsd: true, noTarget: true}, func(*FTPConfig) {}},
		{"MLSD of what links point to", &ftpHouse{mlsd: true, follows: true}, func(*FTPConfig) {}},
		{"home", &ftpHouse{mlsd: true}, func(c *FTPConfig) { c.Root, c.Home = "", true }},
		{"explicit TLS", &ftpHouse{tls: server, mlsd: true}, withTLS(false)},
		{"implicit TLS", &ftpHouse{tls: server, implicit: true}, withTLS(true)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tt.house.dir = house(t)
			h := tt.house.start(t)
			r := h.remote(t, tt.change)
			testRemote(t, r, h.dir)
			if h.tls != nil && (h.resumed.Load() == 0 || h.fresh.Load() > 0) {
				t.Errorf("%d data connections resumed a TLS session, %d did not", h.resumed.Load(), h.fresh.Load())
			}
			if n := h.logins.Load(); n > 4+10 { // an early end costs a connection
				t.Errorf("%d logins", n)
			}
		})
	}
}

// A root below where a login arrives is named with one slash.
func TestFTPBelowHome(t *testing.T) {
	for _, home := range []string{"/a", "/a/", "/"} {
		paths := make(chan string, 1)
		h := (&ftpHouse{dir: t.TempDir(), mlsd: true, hook: func(p *ftpPeer, cmd, arg string) bool {
			switch cmd {
			case "PWD":
				p.say("257 %q is it", home)
			case "CWD":
				p.say("250 ok")
			case "MLSD":
				paths <- arg
				p.send(nil)
			default:
				return false
			}
			return true
		}}).start(t)
		list(t, h.remote(t, func(c *FTPConfig) { c.Root, c.Home = "b/c", true }), "/")
		if got, want := <-paths, strings.TrimRight(home, "/")+"/b/c"; got != want {
			t.Errorf("at %q it asks for %q, want %q", home, got, want)
		}
	}
}

// A server that lists like DOS shows names, sizes and times to the minute.
func TestFTPDOS(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "a b.txt"), []byte("xyz"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(filepath.Join(dir, "a b.txt"), then, then); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, "sub"), 0o755); err != nil {
		t.Fatal(err)
	}
	h := (&ftpHouse{dir: dir, dos: true, noDashA: true}).start(t)
	got := list(t, h.remote(t), "/")
	want := Entry{Name: "a b.txt", Type: File, Size: 3, ModTime: then.Truncate(time.Minute), Precision: time.Minute}
	if diff := cmp.Diff(want, got["a b.txt"]); diff != "" || got["sub"].Type != Dir || len(got) != 2 {
		t.Errorf("%+v\n%s", got, diff)
	}
}

// Hidden files are asked for where the server knows the option, and no listing is empty
// because it took the option for a name.
func TestFTPHidden(t *testing.T) {
	h := (&ftpHouse{dir: house(t), noDashA: true}).start(t)
	if got := list(t, h.remote(t), "/"); len(got) < 10 {
		t.Errorf("%d entries", len(got))
	}
}

// A transfer that is cut is never taken for a whole one, whatever the server says after it.
func TestFTPCutTransfers(t *testing.T) {
	data := randomBytes(100_000)
	for name, tt := range map[string]struct {
		end  func(p *ftpPeer, nc net.Conn)
		size int64
		want Kind
	}{
		"426":             {func(p *ftpPeer, nc net.Conn) { nc.Close(); p.say("426 aborted") }, 100_000, KindConnection},
		"426 of a disk":   {func(p *ftpPeer, nc net.Conn) { nc.Close(); p.say("426 Failure reading local file.") }, 100_000, KindOther},
		"451":             {func(p *ftpPeer, nc net.Conn) { nc.Close(); p.say("451 disk error") }, 100_000, KindOther},
		"reset":           {func(p *ftpPeer, nc net.Conn) { _ = nc.(*net.TCPConn).SetLinger(0); nc.Close(); p.say("226 done") }, 100_000, KindConnection},
		"control is gone": {func(p *ftpPeer, nc net.Conn) { p.nc.Close(); nc.Close() }, 100_000, KindConnection},
		"more than it is": {func(p *ftpPeer, nc net.Conn) { nc.Write(data); nc.Close(); p.say("226 done") }, 60_000, KindChanged},
		"a lie":           {func(p *ftpPeer, nc net.Conn) { nc.Close(); p.say("226 done") }, 100_000, KindShort},
	} {
		t.Run(name, func(t *testing.T) {
			h := (&ftpHouse{dir: t.TempDir(), mlsd: true, hook: func(p *ftpPeer, cmd, _ string) bool {
				if cmd != "RETR" {
					return false
				}
				nc, err := p.connectData()
				if err != nil {
					return true
				}
				_, _ = nc.Write(data[:50_000])
				tt.end(p, nc)
				return true
			}}).start(t)
			got, err := readRange(t.Context(), h.remote(t), "/x", 0, tt.size)
			if tt.want == KindShort { // the reader's count is what tells
				if err != nil || len(got) != 50_000 {
					t.Errorf("%d bytes, %v", len(got), err)
				}
				return
			}
			if err == nil || KindOf(err) != tt.want {
				t.Errorf("%d bytes, %v; want %v", len(got), err, tt.want)
			}
		})
	}
}

// A listing that is cut is an error, also when whole lines came before.
func TestFTPCutListing(t *testing.T) {
	for _, mlsd := range []bool{false, true} {
		h := (&ftpHouse{dir: house(t), mlsd: mlsd, hook: func(p *ftpPeer, cmd, _ string) bool {
			if cmd != "LIST" && cmd != "MLSD" {
				return false
			}
			nc, err := p.connectData()
			if err != nil {
				return true
			}
			_, _ = io.WriteString(nc, "type=file;size=1;modify=20240101000000; a\r\n")
			nc.Close()
			p.say("426 aborted")
			return true
		}}).start(t)
		if err := h.remote(t).ReadDir(t.Context(), "/", func(Entry) error { return nil }); err == nil || KindOf(err) != KindConnection {
			t.Errorf("mlsd %v: %v", mlsd, err)
		}
	}
}

// A listing that the server cuts, and says so in a reply of success, is an error: pure-ftpd
// shows 10,000 names. FileZilla names the directory in that reply, which may be called anything.
func TestFTPTruncatedListing(t *testing.T) {
	final := ""
	h := (&ftpHouse{dir: t.TempDir(), mlsd: true, hook: func(p *ftpPeer, cmd, _ string) bool {
		if cmd != "MLSD" {
			return false
		}
		nc, err := p.connectData()
		if err != nil {
			return true
		}
		_, _ = io.WriteString(nc, "type=file;size=1;modify=20240101000000; a\r\n")
		nc.Close()
		p.say("%s", final)
		return true
	}}).start(t)
	r := h.remote(t)
	for reply, cut := range map[string]bool{
		"226-Options: -a -l\r\n226 Output truncated to 1 matches": true,
		`226 Successfully transferred "/a "truncated" one"`:       false,
		`226 "/d" is truncated`:                                   true,
	} {
		final = reply
		if err := r.ReadDir(t.Context(), "/", func(Entry) error { return nil }); (err != nil) != cut || cut && KindOf(err) != KindListing {
			t.Errorf("%s: %v", reply, err)
		}
	}
}

// A directory that the server cannot list is not taken for an empty one: vsftpd calls it a success. An
// empty one is, in whatever way the server says so.
func TestFTPEmptyListing(t *testing.T) {
	const vxWorks = "550 No files found or invalid directory or permission problem"
	for _, tt := range []struct {
		name, dir string
		reply     string // to LIST; "" for a listing that has nothing, and says nothing
		final     string // after a listing of nothing
		want      Kind   // KindOther: it is empty
	}{
		{"failed to open", "/d", "", "226 Transfer done (but failed to open directory).", KindListing},
		{"not even itself", "/d", "", "226 Directory send OK.", KindListing},
		{"empty", "/d", "550 No files found.", "", KindOther},
		{"empty for now", "/d", "450 no files found", "", KindOther},
		{"who knows", "/d", vxWorks, "", KindPermission},
		{"lost in a directory of that name", "/No files found", "425 Cannot connect", "", KindConnection},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h := &ftpHouse{dir: t.TempDir(), hook: func(p *ftpPeer, cmd, _ string) bool {
				if cmd != "LIST" || p.cwd != tt.dir {
					return false
				}
				if tt.reply != "" {
					p.dropData()
					p.say("%s", tt.reply)
					return true
				}
				if nc, err := p.connectData(); err == nil {
					nc.Close()
					p.say("%s", tt.final)
				}
				return true
			}}
			if err := os.Mkdir(filepath.Join(h.dir, tt.dir), 0o700); err != nil {
				t.Fatal(err)
			}
			r := h.start(t).remote(t)
			list(t, r, "/") // which shows that hidden files can be listed
			err := r.ReadDir(t.Context(), tt.dir, func(e Entry) error { t.Errorf("it has %+v", e); return nil })
			if (err == nil) != (tt.want == KindOther) || err != nil && KindOf(err) != tt.want {
				t.Errorf("%v, want %v", err, tt.want)
			}
		})
	}
}

// MLSD of a directory that may be read and not searched can be a listing of nothing.
func TestFTPUnsearchable(t *testing.T) {
	h := &ftpHouse{dir: t.TempDir(), mlsd: true, hook: func(p *ftpPeer, cmd, arg string) bool {
		switch {
		case cmd == "MLSD" && arg != "/":
			p.send(nil)
		case cmd == "CWD" && arg == "/closed":
			p.say("550 Permission denied")
		default:
			return false
		}
		return true
	}}
	for _, sub := range []string{"closed", "empty"} {
		if err := os.Mkdir(filepath.Join(h.dir, sub), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	items, report, err := scanAll(t, h.start(t).remote(t), ScanConfig{})
	if list, _ := report.Problems(); err != nil || len(items) != 3 || len(list) != 1 || list[0].Path != "/closed" || list[0].Kind != KindPermission {
		t.Errorf("%+v, %v, %v", items, list, err)
	}
}

// A directory that is refused for now is asked for again, a few times; one that is refused for good, by whatever
// code, is not.
func TestFTPBusy(t *testing.T) {
	for _, tt := range []struct {
		reply string
		times int // how often
		asked int
		want  Kind // of the problem, unless whole
		whole bool // it is listed
	}{
		{"450 busy", 2, 3, KindOther, true},
		{"451 Local error in processing", busyAttempts - 1, busyAttempts, KindOther, true},
		{"450 busy", 99, busyAttempts, KindBusy, false},
		{"450 /d: No such file or directory", 99, 1, KindNotFound, false},
		{"450 Permission denied", 99, 1, KindPermission, false},
		{"450 No files found.", 99, 1, KindOther, true},
		{"450 No files found, or no way to them", 99, 1, KindOther, false},
		{"550 something", 99, 1, KindOther, false},
	} {
		for _, mlsd := range []bool{false, true} {
			t.Run(fmt.Sprint(tt.reply, " ", tt.times, " ", mlsd), func(t *testing.T) {
				asked := 0
				h := &ftpHouse{dir: t.TempDir(), mlsd: mlsd, hook: func(p *ftpPeer, cmd, arg string) bool {
					if cmd != "MLSD" && cmd != "LIST" || arg != "/d" && p.cwd != "/d" {
						return false
					}
					if asked++; asked > tt.times {
						return false
					}
					p.dropData()
					p.say("%s", tt.reply)
					return true
				}}
				if err := os.Mkdir(filepath.Join(h.dir, "d"), 0o700); err != nil {
					t.Fatal(err)
				}
				items, report, err := scanAll(t, h.start(t).remote(t, impatient(h)), ScanConfig{})
				if err != nil || len(items) != 2 || items[1].Whole != tt.whole || asked != tt.asked {
					t.Errorf("asked %d times, want %d: %+v, %v", asked, tt.asked, items, err)
				}
				if list, _ := report.Problems(); (len(list) == 0) != tt.whole || len(list) > 0 && list[0].Kind != tt.want {
					t.Errorf("%v, want %v", list, tt.want)
				}
			})
		}
	}
}

// A first directory that cannot be listed, or not at once, does not make hidden files invisible in it or in
// others: they are when the server refuses to be asked for them, and lists what else there is.
func TestFTPHiddenAfterRefused(t *testing.T) {
	const unopened = "226 Transfer done (but failed to open directory)."
	for _, tt := range []struct {
		reply   string // to LIST of /d
		times   int    // how often
		ever    bool   // to "LIST -a" only, and ever
		fails   bool   // /d is not listed
		visible bool
		lists   int
	}{
		{unopened, 9, false, true, true, 4},
		{"550 Permission denied.", 9, false, true, true, 4},
		{"450 busy", 1, false, false, true, 5},
		{"550 something", 1, false, false, true, 5},
		{"550 -a: no such file", 9, true, false, false, 5},
		{"501 no options", 9, true, false, false, 3},
	} {
		t.Run(tt.reply, func(t *testing.T) {
			left := tt.times
			h := (&ftpHouse{dir: t.TempDir(), hook: func(p *ftpPeer, cmd, arg string) bool {
				if cmd != "LIST" || p.cwd != "/d" && !tt.ever || tt.ever && arg != "-a" || left == 0 {
					return false
				}
				if left--; tt.reply != unopened {
					p.dropData()
					p.say("%s", tt.reply)
				} else if nc, err := p.connectData(); err == nil {
					nc.Close()
					p.say("%s", unopened)
				}
				return true
			}}).start(t)
			if err := os.Mkdir(filepath.Join(h.dir, "d"), 0o700); err != nil {
				t.Fatal(err)
			}
			r := h.remote(t, impatient(h))
			if err := r.ReadDir(t.Context(), "/d", func(Entry) error { return nil }); (err != nil) != tt.fails {
				t.Errorf("%v", err)
			}
			list(t, r, "/")
			if r.all == nil || *r.all != tt.visible {
				t.Errorf("hidden files are asked for: %v", r.all)
			}
			if n := h.count("LIST"); n != tt.lists {
				t.Errorf("%d listings, want %d", n, tt.lists)
			}
		})
	}
}

// A listing without an end, of lines or of a line, is given up, whatever it is for.
func TestFTPEndlessListing(t *testing.T) {
	const most = 50
	for name, text := range map[string]string{
		"lines": strings.Repeat("-rw-------   1 0        0           1 Feb 29  2024 same\r\n", 4*most),
		"blank": strings.Repeat("\r\n", 4*most),
		"line":  strings.Repeat("x", 4*most*maxListLine),
	} {
		for _, command := range []string{"the first LIST", "LIST", "MLSD"} {
			t.Run(name+" "+command, func(t *testing.T) {
				armed := command != "LIST"
				h := linksHouse(t, func(p *ftpPeer, cmd, _ string) bool {
					if !armed || !strings.HasSuffix(command, cmd) {
						return false
					}
					p.send([]byte(text))
					return true
				})
				r := h.remote(t, func(c *FTPConfig) { c.lines = most })
				if !armed { // by what it lists it is known what it has
					list(t, r, "/")
					armed = true
				}
				if err := r.ReadDir(t.Context(), "/", func(Entry) error { return nil }); err == nil || KindOf(err) != KindLimit {
					t.Errorf("%v", err)
				}
			})
		}
	}
	h := linksHouse(t, nil) // LIST has 7 lines with the total, itself and the one above
	list(t, h.remote(t, func(c *FTPConfig) { c.lines = 7 }), "/")
}

// What is hostile in a listing is an entry with an error, and the rest is there.
func TestFTPHostileListing(t *testing.T) {
	h := (&ftpHouse{dir: t.TempDir(), mlsd: true, hook: func(p *ftpPeer, cmd, _ string) bool {
		if cmd == "MLSD" {
			p.send([]byte("type=file;size=1;modify=20240101000000; ../etc/passwd\r\ntype=file;size=1; ..\r\ntype=dir; a/b\r\n" +
				"type=file;size=-1; neg\r\ntype=file; nosize\r\nwhat is this\r\ntype=file;size=9;modify=2024; bad time\r\n" +
				strings.Repeat("x", 3*maxListLine) + "\r\ntype=file;size=3; good\r\ntype=file;size=99999999999999999999; huge"))
		}
		return cmd == "MLSD"
	}}).start(t)
	good, bad := 0, map[Kind]int{}
	err := h.remote(t).ReadDir(t.Context(), "/", func(e Entry) error {
		if e.Err != nil {
			bad[KindOf(e.Err)]++
		} else if e.Name == "good" {
			good++
		} else {
			t.Errorf("entry %q", e.Name)
		}
		return nil
	})
	if want := map[Kind]int{KindName: 3, KindListing: 5, KindLimit: 1}; err != nil || good != 1 || !cmp.Equal(bad, want) {
		t.Errorf("%d good, bad %v, %v", good, bad, err)
	}
}

// Replies that are none, and dialogues that do not end, do not keep a call for ever.
func TestFTPHostileReplies(t *testing.T) {
	for name, tt := range map[string]struct {
		reply string
		want  Kind
	}{
		"no code":     {"hello\r\n", KindProtocol},
		"endless":     {"250-" + strings.Repeat("again\r\n", maxReplyLines+1), KindProtocol},
		"long line":   {"250 " + strings.Repeat("x", 2*maxReplyLine), KindProtocol},
		"closes":      {"421 going down\r\n", KindConnection},
		"slow drip":   {"250 slo", KindConnection},
		"unsupported": {"502 no\r\n", KindUnsupported},
		"forbidden":   {"550 Permission denied\r\n", KindPermission},
		"no facts":    {"250 ok\r\n", KindListing},
	} {
		t.Run(name, func(t *testing.T) {
			h := (&ftpHouse{dir: t.TempDir(), mlsd: true, hook: func(p *ftpPeer, cmd, _ string) bool {
				if cmd == "MLST" {
					_, _ = io.WriteString(p.nc, tt.reply)
				}
				return cmd == "MLST"
			}}).start(t)
			r := h.remote(t, func(c *FTPConfig) {
				if name == "slow drip" { // what others say is not to come late on a machine that is busy
					c.Timeout = 200 * time.Millisecond
				}
			})
			if _, err := r.Lstat(t.Context(), "/x"); err == nil || KindOf(err) != tt.want {
				t.Errorf("%v, want %v", err, tt.want)
			}
		})
	}
}

func TestFTPLogin(t *testing.T) {
	server, _ := testTLS(t)
	h := (&ftpHouse{dir: t.TempDir(), tls: server}).start(t)
	_, err := h.remote(t, func(c *FTPConfig) { c.Password = "wrong" }).Lstat(t.Context(), "/")
	if err == nil || KindOf(err) != KindPermission || strings.Contains(err.Error(), "wrong") {
		t.Errorf("a wrong password: %v", err)
	}
	_, other := testTLS(t)
	if _, err := h.remote(t, func(c *FTPConfig) { c.TLS = other }).Lstat(t.Context(), "/"); err == nil || KindOf(err) != KindPermission {
		t.Errorf("an unknown certificate: %v", err)
	}
	for _, cfg := range []FTPConfig{{Addr: "host", Root: "/"}, {Addr: "h:21"}, {Addr: "h:21", Root: "/a\r\nDELE b"}, {Addr: "h:21", Root: "/", User: "a\nb"}} {
		if _, err := NewFTP(cfg); err == nil {
			t.Errorf("%+v was taken", cfg)
		}
	}
	r := h.remote(t)
	if _, err := r.Lstat(t.Context(), "/a\r\nDELE b"); err == nil || KindOf(err) != KindName || h.count("DELE") > 0 {
		t.Errorf("a line break in a path: %v", err)
	}
}

// A server that refuses more connections gets all transfers over those that it allows.
func TestFTPFewerConnections(t *testing.T) {
	h := (&ftpHouse{dir: house(t), mlsd: true, limit: 2}).start(t)
	r := h.remote(t)
	var wg sync.WaitGroup
	for i := range 24 {
		wg.Go(func() {
			name := fmt.Sprintf("/many/f%03d", i)
			if got, err := readRange(t.Context(), r, name, 0, 1); err != nil || got[0] != byte(i) {
				t.Errorf("%s: %x, %v", name, got, err)
			}
		})
	}
	wg.Wait()
	if n := h.logins.Load(); n != 2 {
		t.Errorf("%d logins, want 2", n)
	}
}

// What was read is not read again, where the server can resume, and is dropped where not.
func TestFTPResume(t *testing.T) {
	for _, noREST := range []bool{false, true} {
		h := (&ftpHouse{dir: house(t), mlsd: true, noREST: noREST}).start(t)
		want := randomBytes(3<<20 + 17)[1<<20:]
		got, err := readRange(t.Context(), h.remote(t), "/large", 1<<20, int64(len(want)))
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("noREST %v: %d bytes, %v", noREST, len(got), err)
		}
	}
}

func TestParseList(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	at := func(y int, m time.Month, d, h, mi int) time.Time { return time.Date(y, m, d, h, mi, 0, 0, time.UTC) }
	for line, want := range map[string]Entry{
		"-rw-r--r--   1 1000     100      1234 Nov 20 10:22  two  blanks ": {Name: " two  blanks ", Type: File, Size: 1234, Mode: 0o644, HasMode: true, ModTime: at(2025, 11, 20, 10, 22), Precision: time.Minute, UID: 1000, GID: 100, HasOwner: true},
		"-rw-r--r-- 1 user group 5 Mar 02 11:00 tomorrow":                  {Name: "tomorrow", Type: File, Size: 5, Mode: 0o644, HasMode: true, ModTime: at(2026, 3, 2, 11, 0), Precision: time.Minute},
		"-rw-r--r-- 1 user group 5 Mar 03 11:00 last year":                 {Name: "last year", Type: File, Size: 5, Mode: 0o644, HasMode: true, ModTime: at(2025, 3, 3, 11, 0), Precision: time.Minute},
		"-rw-r--r-- 1 user group 5 Feb 29 11:00 leap":                      {Name: "leap", Type: File, Size: 5, Mode: 0o644, HasMode: true, ModTime: at(2024, 2, 29, 11, 0), Precision: time.Minute},
		"drwxrwsr-t+  9 u g 4096 Feb 29  2024 d":                           {Name: "d", Type: Dir, Mode: 0o775 | fs.ModeSetgid | fs.ModeSticky, HasMode: true, ModTime: at(2024, 2, 29, 0, 0), Precision: day},
		"lrwxrwxrwx 1 0 0 7 Jan  1  2020 a b -> ../c d":                    {Name: "a b", Type: Symlink, Target: "../c d", Mode: 0o777, HasMode: true, ModTime: at(2020, 1, 1, 0, 0), Precision: day, HasOwner: true},
		"-rwsr-xr-x 1 owner 77 2024-02-29 13:14 iso":                       {Name: "iso", Type: File, Size: 77, Mode: 0o755 | fs.ModeSetuid, HasMode: true, ModTime: at(2024, 2, 29, 13, 14), Precision: time.Minute},
		"-rw-r--r-- 1 u g 12 20 Nov 2020 day first":                        {Name: "day first", Type: File, Size: 12, Mode: 0o644, HasMode: true, ModTime: at(2020, 11, 20, 0, 0), Precision: day},
		"crw-rw---- 1 root tty 4, 64 Nov 20 10:22 ttyS0":                   {Name: "ttyS0", Type: Special, Mode: 0o660, HasMode: true, ModTime: at(2025, 11, 20, 10, 22), Precision: time.Minute},
		"-rw-r--r-- 1 u g 1 Nov 20 10:22 \xff\xfe":                         {Err: fs.ErrInvalid},
		"11-20-25  10:22AM       <DIR>          My Dir":                    {Name: "My Dir", Type: Dir, ModTime: at(2025, 11, 20, 10, 22), Precision: time.Minute},
		"11-20-2025  10:22PM                 1234 a b.txt":                 {Name: "a b.txt", Type: File, Size: 1234, ModTime: at(2025, 11, 20, 22, 22), Precision: time.Minute},
		"11-20-25  10:22AM       <JUNCTION>     J [C:\\x]":                 {Name: "J", Type: Symlink, Target: `C:\x`, ModTime: at(2025, 11, 20, 10, 22), Precision: time.Minute},
		"-rw-r--r-- 1 u g 1 Nov 20 10:22 ../x":                             {Err: fs.ErrInvalid},
		"lrwxrwxrwx 1 u g 1 Nov 20 10:22 a -> b -> c":                      {Err: fs.ErrInvalid},
		"-rw-r--r-- 1 u g 1 Brumaire 20 10:22 x":                           {Err: fs.ErrInvalid},
		"-rw-r--r-- 1 u g 1 Feb 30 2024 x":                                 {Err: fs.ErrInvalid},
		"-rw-r--r-- 1 u g -1 Feb 20 2024 x":                                {Err: fs.ErrInvalid},
		"?????????? ? ? ? ? ? x":                                           {Err: fs.ErrInvalid},
		"Nov 20 10:22 x":                                                   {Err: fs.ErrInvalid},
	} {
		got, ok := parseList("/", line, now)
		if !ok || (got.Err != nil) != (want.Err != nil) {
			t.Errorf("%q: %+v, %v", line, got, ok)
			continue
		}
		if diff := cmp.Diff(want, got); got.Err == nil && diff != "" {
			t.Errorf("%q (-want +got)\n%s", line, diff)
		}
	}
	for _, line := range []string{"", "  ", "drwxr-xr-x 1 u g 1 Nov 20 10:22 .", "drwxr-xr-x 1 u g 1 Nov 20 10:22 .."} {
		if e, ok := parseList("/", line, now); ok {
			t.Errorf("%q is the entry %+v", line, e)
		}
	}
}

// The first line of a listing is the total of ls when the rest says that it may be; any other line of a word and a number
// may be a name with its size.
func TestListingTotal(t *testing.T) {
	const entry, self = "-rw-r--r-- 1 u g 1 Nov 20 10:22 name", "drwxr-xr-x 1 u g 1 Nov 20 10:22 ."
	for name, tt := range map[string]struct {
		lines []string
		names []string // of entries
		bad   []string // lines
	}{
		"before an entry":                 {lines: []string{"total 4", entry}, names: []string{"name"}},
		"in another language":             {lines: []string{"insgesamt 12", entry}, names: []string{"name"}},
		"before the directory itself":     {lines: []string{"", "合計 8", self}},
		"before a name that cannot be":    {lines: []string{"totale 8", entry + "/x"}, bad: []string{"name/x"}},
		"of nothing":                      {lines: []string{"total 0"}},
		"of nothing, in another language": {lines: []string{"celkem 0"}},
		"of the directory's own blocks":   {lines: []string{"total 4"}},
		"of blocks of nothing":            {lines: []string{"insgesamt 4"}, bad: []string{"insgesamt 4"}},
		"not the first line": {
			lines: []string{"total 4", entry, "backup 12", "total 8"}, names: []string{"name"}, bad: []string{"backup 12", "total 8"},
		},
		"names with sizes":             {lines: []string{"backup 12", "mail 0"}, bad: []string{"mail 0", "backup 12"}},
		"names with sizes, none first": {lines: []string{"mail 0", "backup 12"}, bad: []string{"backup 12", "mail 0"}},
		"names, sizes and words":       {lines: []string{"backup 12", "what is this"}, bad: []string{"what is this", "backup 12"}},
		"nothing":                      {},
	} {
		t.Run(name, func(t *testing.T) {
			h := (&ftpHouse{dir: t.TempDir(), noDashA: true, hook: func(p *ftpPeer, cmd, arg string) bool {
				if cmd == "LIST" && arg == "" {
					p.send([]byte(strings.Join(tt.lines, "\r\n")))
				}
				return cmd == "LIST" && arg == ""
			}}).start(t)
			var names, bad []string
			err := h.remote(t).ReadDir(t.Context(), "/", func(e Entry) error {
				if e.Err != nil {
					bad = append(bad, e.Name)
				} else {
					names = append(names, e.Name)
				}
				return nil
			})
			if err != nil || !slices.Equal(names, tt.names) || !slices.Equal(bad, tt.bad) {
				t.Errorf("names %q, want %q; bad %q, want %q; %v", names, tt.names, bad, tt.bad, err)
			}
		})
	}
}

func TestParseMLSD(t *testing.T) {
	when := time.Date(2024, 2, 29, 13, 14, 15, 0, time.UTC)
	for line, want := range map[string]Entry{
		"Type=file;Size=12;Modify=20240229131415;  lead; x=y ":                             {Name: " lead; x=y ", Type: File, Size: 12, ModTime: when, Precision: time.Second},
		"modify=20240229131415;size=7;type=file;unix.gid=0;unix.mode=0o640;unix.uid=0; py": {Name: "py", Type: File, Size: 7, ModTime: when, Precision: time.Second, Mode: 0o640, HasMode: true, HasOwner: true},
		"type=dir;size=4096;modify=20240229131415.25;UNIX.mode=02750; d":                   {Name: "d", Type: Dir, ModTime: when.Add(250 * time.Millisecond), Precision: 10 * time.Millisecond, Mode: 0o750 | fs.ModeSetgid, HasMode: true},
		"type=OS.unix=symlink;size=3; l":                                                   {Name: "l", Type: Symlink},
		"type=OS.unix=slink:/a b;unix.uid=5;unix.gid=6; l":                                 {Name: "l", Type: Symlink, Target: "/a b", UID: 5, GID: 6, HasOwner: true},
		"type=unknown;size=0;modify=20240229131415;unix.mode=0644; pipe":                   {Name: "pipe", Type: Special, ModTime: when, Precision: time.Second, Mode: 0o644, HasMode: true},
		"type=OS.unix=chr-1/3; null":                                                       {Name: "null", Type: Special},
		"type=file;size=1;modify=20241329131415; x":                                        {Err: fs.ErrInvalid},
		"size=1; x":          {Err: fs.ErrInvalid},
		"type=file;size=1;x": {Err: fs.ErrInvalid},
		"type=file;size=1; ": {Err: fs.ErrInvalid},
		"type=file;size; x":  {Err: fs.ErrInvalid},
		"":                   {Err: fs.ErrInvalid},
	} {
		got, ok := parseMLSD("/", line)
		if !ok || (got.Err != nil) != (want.Err != nil) {
			t.Errorf("%q: %+v, %v", line, got, ok)
			continue
		}
		if diff := cmp.Diff(want, got, cmpopts.EquateEmpty()); got.Err == nil && diff != "" {
			t.Errorf("%q (-want +got)\n%s", line, diff)
		}
	}
}

// FuzzParseListing gives lines of a server to everything that reads them: an entry is one
// that a path can be made of, or it has an error.
func FuzzParseListing(f *testing.F) {
	for _, s := range []string{
		"-rw-r--r--   1 1000     100      1234 Nov 20 10:22 name", "drwxr-xr-x 2 u g 4096 Feb 29  2024 .", "lrwxrwxrwx 1 0 0 7 Jan  1  2020 a -> b",
		"11-20-25  10:22AM       <DIR>          My Dir", "11-20-2025  10:22PM                 1234 a", "type=file;size=1;modify=20240229131415.123;UNIX.mode=0644; x",
		"type=OS.unix=slink:../x; y", "insgesamt 4", "229 (|||1|)", "227 1,2,3,4,5,6", `257 "/a""b"`,
	} {
		f.Add(s)
	}
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	f.Fuzz(func(t *testing.T, s string) {
		mlsd, ok := parseMLSD("/d", s)
		l := listing{dir: "/d", now: now}
		unix, uok := l.parse(s)
		total, tok := l.end()
		for _, e := range []Entry{mlsd, unix, total} {
			if (!ok && !uok && !tok) || e == (Entry{}) {
				continue
			}
			if e.Err != nil {
				if KindOf(e.Err) == KindOther {
					t.Fatalf("%q: %v", s, e.Err)
				}
				continue
			}
			if checkName("/d", e.Name) != nil || e.Size < 0 || e.Type == TypeUnknown || !strings.Contains(s, e.Name) || e.Type != File && e.Size != 0 {
				t.Fatalf("%q is %+v", s, e)
			}
			if !e.ModTime.IsZero() && e.Precision <= 0 {
				t.Fatalf("%q has the time %v within nothing", s, e.ModTime)
			}
		}
		if p := epsvPort(s); p < 0 || p > 65535 {
			t.Fatalf("%q: port %d", s, p)
		}
		if p := pasvPort(s); p < 0 || p > 65535 {
			t.Fatalf("%q: port %d", s, p)
		}
		quotedPath(s)
	})
}

// When the data connection cannot be made, it is the reply that says whether the connection is
// lost, or there is no such file and the server did not wait.
func TestFTPDataRefused(t *testing.T) {
	h := (&ftpHouse{dir: house(t), mlsd: true, hook: func(p *ftpPeer, cmd, arg string) bool {
		if cmd == "RETR" && arg == "/small" {
			p.dropData()
			p.say("425 nobody has connected")
			return true
		}
		return false
	}}).start(t)
	addr := h.ln.Addr().String()
	r := h.remote(t, func(c *FTPConfig) {
		c.Dial = func(ctx context.Context, network, to string) (net.Conn, error) {
			if to != addr {
				return nil, errors.New("refused")
			}
			return (&net.Dialer{}).DialContext(ctx, network, to)
		}
	})
	for range 2 {
		if _, err := r.Open(t.Context(), "/missing", 0, 1); KindOf(err) != KindNotFound {
			t.Errorf("a missing file: %v", err)
		}
	}
	if n := h.logins.Load(); n != 1 {
		t.Errorf("%d logins, want 1", n)
	}
	if _, err := r.Open(t.Context(), "/small", 0, 6); KindOf(err) != KindConnection || !strings.Contains(err.Error(), "refused") {
		t.Errorf("a file that is there: %v", err)
	}
}

// What the server says of a command is what counts, whatever has become of the data connection, on which TLS is under
// way by then.
func TestFTPRefusedDuringTLS(t *testing.T) {
	server, client := testTLS(t)
	type state string
	const (
		waits  state = "it is not accepted"
		open   state = "it is accepted"
		closed state = "it is closed"
		plain  state = "it answers without TLS"
	)
	for _, tt := range []struct {
		data  state
		reply string
		kind  Kind
		says  string
		lost  bool // the connection is not used again
	}{
		{waits, "550 No such file", KindNotFound, "550 No such file", false},
		{open, "550 No such file", KindNotFound, "550 No such file", false},
		{closed, "550 No such file", KindNotFound, "550 No such file", false},
		{plain, "550 No such file", KindNotFound, "550 No such file", false},
		{waits, "425 No way", KindConnection, "425 No way", false},
		{closed, "426 Gone", KindConnection, "426 Gone", false},
		{open, "530 Not you", KindPermission, "530 Not you", false},
		{closed, "150 Here", KindConnection, "data connection: ", true},
		{plain, "150 Here", KindConnection, "data connection: tls: ", true},
	} {
		t.Run(string(tt.data)+", "+tt.reply, func(t *testing.T) {
			var data []io.Closer // of the server's goroutine
			t.Cleanup(func() {   // when that has ended
				for _, c := range data {
					_ = c.Close()
				}
			})
			h := &ftpHouse{dir: house(t), mlsd: true, tls: server, hook: func(p *ftpPeer, cmd, arg string) bool {
				if cmd != "RETR" || arg != "/exact" {
					return false
				}
				data = append(data, p.data)
				if tt.data != waits {
					nc, err := p.data.Accept()
					if err != nil {
						t.Error(err)
						return true
					}
					switch data = append(data, nc); tt.data {
					case closed:
						_ = nc.Close()
					case plain:
						_, _ = io.WriteString(nc, "hello, hello\n")
					}
				}
				p.data = nil
				p.say("%s", tt.reply)
				return true
			}}
			r := h.start(t).remote(t, func(c *FTPConfig) { c.TLS, c.Connections = client, 1 })
			_, err := r.Open(t.Context(), "/exact", 0, 1)
			if err == nil || KindOf(err) != tt.kind || !strings.Contains(err.Error(), tt.says) {
				t.Errorf("%v, want %v, %s", err, tt.kind, tt.says)
			}
			got, err := readRange(t.Context(), r, "/small", 0, 6)
			if err != nil || string(got) != "hello\n" {
				t.Errorf("the next file: %q, %v", got, err)
			}
			if n := h.logins.Load(); n > 1 != tt.lost {
				t.Errorf("%d logins", n)
			}
			if h.resumed.Load() != 1 || h.fresh.Load() != 0 {
				t.Errorf("%d data connections resumed a TLS session, %d did not", h.resumed.Load(), h.fresh.Load())
			}
		})
	}
}
