package pull

import (
	"bytes"
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// The texts of servers tell what is missing from what is forbidden.
func TestFTPRefusals(t *testing.T) {
	c := &ftpConn{}
	for _, tt := range []struct {
		code int
		text string
		want Kind
	}{
		{550, "No such file or directory", KindNotFound},
		{550, "'/data/x' cannot be listed", KindNotFound},     // ProFTPD's MLST
		{550, "Can't check for file existence", KindNotFound}, // Pure-FTPd's
		{550, "Permission denied.", KindPermission},
		{530, "Please log in", KindPermission},
		{502, "SITE CHMOD not implemented", KindUnsupported},
		{426, "Failure writing network stream.", KindConnection},
		{552, "Disk full", KindOther},
	} {
		if got := KindOf(c.refused("stat", "/x", ftpReply{code: tt.code, lines: []string{tt.text}})); got != tt.want {
			t.Errorf("%d %s: %v, want %v", tt.code, tt.text, got, tt.want)
		}
	}
}

// The reason may be in any line of a reply.
func TestReplyOfLines(t *testing.T) {
	c := &ftpConn{}
	err := c.refused("write", "/x", ftpReply{code: 451, lines: []string{
		"Error during write to file", "451-permission denied by policy", " ", "0.066 seconds (measured here), 25.45 Mbytes per second",
	}})
	want := "the server says 451 Error during write to file; permission denied by policy; 0.066 seconds (measured here), 25.45 Mbytes per second"
	if KindOf(err) != KindPermission || !strings.HasSuffix(err.Error(), want) {
		t.Errorf("%v, want %s", err, want)
	}
}

func TestTimeCommand(t *testing.T) {
	at := time.Date(2024, 2, 29, 14, 14, 15, 0, time.FixedZone("", 3600))
	for command, want := range map[string]string{
		"MFMT":       "MFMT 20240229131415 /a b",
		"MDTM":       "MDTM 20240229131415 /a b",
		"SITE UTIME": "SITE UTIME /a b 20240229131415 20240229131415 20240229131415 UTC",
	} {
		if got := timeCommand(command, "/a b", at); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

func TestHashIn(t *testing.T) {
	sum := bytes.Repeat([]byte{0xab, 0x01}, 8)
	const text = "ab01ab01ab01ab01ab01ab01ab01ab01"
	for _, tt := range []struct {
		code  int
		lines []string
		size  int
		want  []byte
	}{
		{213, []string{"MD5 0-49 " + text + " name"}, 16, sum},
		{250, []string{text}, 16, sum},
		{250, []string{"computing", "AB01AB01AB01AB01AB01AB01AB01AB01"}, 16, sum},
		{250, []string{text}, 20, nil},
		{250, []string{text + "zz"}, 16, nil},
		{550, []string{text}, 16, nil},
	} {
		if got := hashIn(ftpReply{tt.code, tt.lines}, tt.size); !bytes.Equal(got, tt.want) {
			t.Errorf("%d %q: %x, want %x", tt.code, tt.lines, got, tt.want)
		}
	}
}

// Why the root cannot be made is what the server says of the topmost directory that is missing, not that the path is not there.
func TestFTPMakeRoot(t *testing.T) {
	const silent, exists = "550 Create directory operation failed.", "550 File exists."
	mkd := func(p *ftpPeer, cmd, arg string) bool {
		local := filepath.Join(p.h.dir, arg)
		fi, err := os.Stat(local)
		switch {
		case cmd == "CWD" && err == nil && !fi.IsDir():
			p.say("550 Not a directory.")
		case cmd != "MKD":
			return false
		case err == nil:
			p.say(exists)
		case strings.HasPrefix(arg, "/home"):
			p.done(257, os.Mkdir(local, 0o700))
		case filepath.Dir(arg) == "/":
			p.say("550 Permission denied.")
		default:
			p.say("550 No such file or directory.")
		}
		return true
	}
	vsftpd := func(p *ftpPeer, cmd, _ string) bool {
		if cmd == "MKD" {
			p.say(silent)
		}
		return cmd == "MKD"
	}
	for name, tt := range map[string]struct {
		root string
		hook func(p *ftpPeer, cmd, arg string) bool
		want string // the error; "" for none
		made bool
	}{
		"there":                    {"/home", mkd, "", false},
		"made":                     {"/home/me/www", mkd, "", true},
		"another root":             {"/srv/jail/up", mkd, "make /srv: permission denied: the server says 550 Permission denied.", false},
		"below what is there":      {"/up/a/b", vsftpd, "make /up/a: failure: the server says " + silent, false},
		"of which nothing is told": {"/srv/up", vsftpd, "make /srv: failure: the server says " + silent, false},
		"a file":                   {"/file", mkd, "make /: failure: the server says 550 Not a directory.", false},
		"below a file":             {"/file/a", mkd, "make /file: failure: the server says 550 Not a directory.", false},
	} {
		t.Run(name, func(t *testing.T) {
			h := (&ftpHouse{dir: t.TempDir(), hook: tt.hook}).start(t)
			for _, dir := range []string{"home", "up"} {
				if err := os.Mkdir(filepath.Join(h.dir, dir), 0o700); err != nil {
					t.Fatal(err)
				}
			}
			if err := os.WriteFile(filepath.Join(h.dir, "file"), nil, 0o600); err != nil {
				t.Fatal(err)
			}
			got := ""
			made, err := h.remote(t, func(c *FTPConfig) { c.Root = tt.root }).MakeRoot(t.Context())
			if err != nil {
				got = err.Error()
			}
			if got != tt.want || made != tt.made {
				t.Errorf("made %v, %q, want %q", made, got, tt.want)
			}
		})
	}
}

// A server that refuses commands that come early, and forgets what RNFR has named, loses neither the
// file nor the one that it replaces. One that does not replace files has the old one moved aside and
// removed, no other. What is refused leaves both as they were.
func TestFTPRename(t *testing.T) {
	refuses := func(p *ftpPeer, cmd, arg string) bool { // to replace
		_, err := os.Lstat(filepath.Join(p.h.dir, arg))
		if cmd == "RNTO" && err == nil {
			p.say("553 It is there.")
			p.from = ""
			return true
		}
		return false
	}
	forbids := func(words ...string) func(p *ftpPeer, cmd, arg string) bool { // the commands, else it does not replace
		return func(p *ftpPeer, cmd, arg string) bool {
			for _, word := range words {
				if strings.HasPrefix(cmd+" "+arg, word) {
					p.say("550 Permission denied.")
					return true
				}
			}
			return refuses(p, cmd, arg)
		}
	}
	for name, tt := range map[string]struct {
		house   *ftpHouse
		left    string // "", or what else is there
		none    bool   // nothing is replaced
		removed int    // by commands that were not refused
		fails   bool
	}{
		"replaces":                    {house: &ftpHouse{}},
		"refuses what is early":       {house: &ftpHouse{noAhead: true}},
		"does not replace":            {house: &ftpHouse{hook: refuses}, removed: 1},
		"does not, and refuses early": {house: &ftpHouse{noAhead: true, hook: refuses}, removed: 1},
		"does not, after a cut":       {house: &ftpHouse{hook: refuses}, left: "temp.old", removed: 2},
		"does not let go":             {house: &ftpHouse{hook: forbids("RNFR")}, fails: true},
		"does not rename":             {house: &ftpHouse{hook: forbids("RNTO")}, fails: true},
		"does not rename to that":     {house: &ftpHouse{hook: forbids("RNTO /x")}, fails: true},
		"does not remove":             {house: &ftpHouse{hook: forbids("DELE")}, fails: true},
		"does not, with an old one":   {house: &ftpHouse{hook: forbids("RNTO /x")}, left: "temp.old", none: true, fails: true},
	} {
		t.Run(name, func(t *testing.T) {
			h := tt.house
			h.dir = t.TempDir()
			h.start(t)
			r := h.remote(t, impatient(h))
			r.proven.Store(true)
			want := map[string]string{"temp.part": "new", "x": "old"}
			if tt.left != "" {
				want[tt.left] = "older"
			}
			if tt.none {
				delete(want, "x")
			}
			for file, text := range want {
				if err := os.WriteFile(filepath.Join(h.dir, file), []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			switch {
			case !tt.fails:
				want = map[string]string{"x": "new"}
			case name == "does not rename to that":
				want = map[string]string{"temp.part": "new", "temp.old": "old"}
			}
			if err := r.Rename(t.Context(), "/temp.part", "/x"); (err != nil) != tt.fails || tt.fails && KindOf(err) != KindPermission {
				t.Errorf("%v", err)
			}
			if diff := cmp.Diff(want, contents(t, h.dir)); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
			if n := h.count("DELE"); n != tt.removed && !tt.fails {
				t.Errorf("%d files were removed, want %d", n, tt.removed)
			}
		})
	}
}

// A server that gives a file another name than it was told, as Pure-FTPd does, is noticed.
func TestFTPRenameChanged(t *testing.T) {
	for _, mlsd := range []bool{true, false} {
		dir := t.TempDir()
		h := (&ftpHouse{dir: dir, mlsd: mlsd, hook: func(p *ftpPeer, cmd, arg string) bool {
			if cmd != "RNTO" || !strings.HasSuffix(arg, " ") {
				return false
			}
			p.done(250, os.Rename(p.from, filepath.Join(dir, p.abs(strings.TrimSuffix(arg, " ")+"_"))))
			return true
		}}).start(t)
		r := h.remote(t)
		for name, want := range map[string]Kind{"/trail ": KindName, "/ lead": 0, "/\xe4": 0} {
			if err := os.WriteFile(filepath.Join(dir, "new"), nil, 0o600); err != nil {
				t.Fatal(err)
			}
			err := r.Rename(t.Context(), "/new", name)
			if (err == nil) != (want == 0) || KindOf(err) != want {
				t.Errorf("mlsd %v: %q: %v", mlsd, name, err)
			}
		}
	}
}

// Attributes of a symbolic link are not given to what it leads to.
func TestFTPLinkAttributes(t *testing.T) {
	h := (&ftpHouse{dir: t.TempDir(), mlsd: true}).start(t)
	target := filepath.Join(h.dir, "target")
	if err := errors.Join(os.WriteFile(target, nil, 0o600), os.Chtimes(target, then, then), os.Symlink("target", filepath.Join(h.dir, "link"))); err != nil {
		t.Fatal(err)
	}
	a := Attributes{Mode: 0o777, HasMode: true, ModTime: then.Add(time.Hour)}
	if err := h.remote(t).SetAttributes(t.Context(), "/link", Symlink, a); err != nil {
		t.Error(err)
	}
	if fi, err := os.Stat(target); err != nil || fi.Mode() != 0o600 || !fi.ModTime().Equal(then) {
		t.Errorf("the target is %v, %v", fi, err)
	}
}

// A restore that ends while the old file is aside does not leave it there.
func TestFTPRenameCanceled(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	h := &ftpHouse{dir: t.TempDir()}
	h.hook = func(p *ftpPeer, cmd, arg string) bool {
		_, err := os.Lstat(filepath.Join(h.dir, arg))
		switch {
		case cmd != "RNTO":
			return false
		case strings.HasSuffix(arg, ".old"):
			cancel()
			return false
		case err == nil:
			p.say("553 It is there.")
		}
		return err == nil
	}
	r := h.start(t).remote(t, impatient(h))
	for file, text := range map[string]string{"temp.part": "new", "x": "old"} {
		if err := os.WriteFile(filepath.Join(h.dir, file), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := r.Rename(ctx, "/temp.part", "/x"); err != nil {
		t.Errorf("%v", err)
	}
	if diff := cmp.Diff(map[string]string{"x": "new"}, contents(t, h.dir)); diff != "" || ctx.Err() == nil {
		t.Errorf("%v (-want +got)\n%s", ctx.Err(), diff)
	}
}

// A file whose time or mode is refused is there all the same; one that is cut is not.
func TestFTPAttributesRefused(t *testing.T) {
	for name, refuses := range map[string]string{"a time": "MFMT", "a mode": "SITE", "bytes": "SIZE"} {
		for _, noAhead := range []bool{false, true} {
			h := (&ftpHouse{dir: t.TempDir(), noAhead: noAhead, hook: func(p *ftpPeer, cmd, arg string) bool {
				if cmd != refuses || !strings.HasSuffix(arg, "/b") {
					return false
				}
				if cmd == "SIZE" {
					p.say("213 1")
				} else {
					p.say("550 Permission denied.")
				}
				return true
			}}).start(t)
			r := h.remote(t, impatient(h))
			store := func(file string) error {
				w, err := r.Create(t.Context(), file, 0)
				if err != nil {
					return err
				}
				if err := w.Write(t.Context(), []byte("of a file")); err != nil {
					return err
				}
				return w.Finish(t.Context(), Attributes{Mode: 0o640, HasMode: true, ModTime: then})
			}
			if err := store("/a"); err != nil {
				t.Errorf("%s: %v", name, err)
			}
			var lacks *AttributeError
			if err := store("/b"); err == nil || errors.As(err, &lacks) != (refuses != "SIZE") {
				t.Errorf("%s: %v", name, err)
			}
			if n := h.logins.Load(); n != 1 {
				t.Errorf("%s: %d logins", name, n)
			}
		}
	}
}

// contents are the files of a directory.
func contents(tb testing.TB, dir string) map[string]string {
	tb.Helper()
	des, err := os.ReadDir(dir)
	if err != nil {
		tb.Fatal(err)
	}
	files := map[string]string{}
	for _, de := range des {
		data, err := os.ReadFile(filepath.Join(dir, de.Name()))
		if err != nil {
			tb.Fatal(err)
		}
		files[de.Name()] = string(data)
	}
	return files
}

// A server that keeps what RNFR has named after a refused RNTO, as ftpserverlib does, does not take it
// for the file of the next rename, whose RNFR it refuses.
func TestFTPRenameAfterRefused(t *testing.T) {
	h := (&ftpHouse{dir: t.TempDir(), hook: func(p *ftpPeer, cmd, arg string) bool {
		switch {
		case cmd == "RNFR" && arg == "/missing":
			p.say("550 No such file.")
		case cmd == "RNTO" && arg == "/refused":
			p.say("553 Permission denied.")
		default:
			return false
		}
		return true
	}}).start(t)
	r := h.remote(t, impatient(h))
	r.proven.Store(true)
	want := map[string]string{"a": "of a", "b": "of b"}
	for file, text := range want {
		if err := os.WriteFile(filepath.Join(h.dir, file), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := r.Rename(t.Context(), "/a", "/refused"); KindOf(err) != KindPermission {
		t.Errorf("a refused rename: %v", err)
	}
	if err := r.Rename(t.Context(), "/missing", "/b"); KindOf(err) != KindNotFound {
		t.Errorf("a rename of a file that is missing: %v", err)
	}
	if diff := cmp.Diff(want, contents(t, h.dir)); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

// A rename may take long, whether or not the server is known to take commands ahead: a server of
// backups answers when the file is safe. The patience for a lost command is not for it.
func TestFTPRenamePatience(t *testing.T) {
	h := (&ftpHouse{dir: t.TempDir()}).start(t)
	r := h.remote(t, impatient(h), func(c *FTPConfig) { c.patience = 1 })
	const times = 20 // a reply may come sooner than the patience ends
	for i := range times {
		if err := os.WriteFile(filepath.Join(h.dir, "temp"), []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
		r.proven.Store(i > 0)
		if err := r.Rename(t.Context(), "/temp", "/x"); err != nil {
			t.Error(err)
		}
	}
	if n := h.ahead.Load(); n != times-1 || r.serial.Load() || h.logins.Load() != 1 {
		t.Errorf("%d renames were sent ahead, want %d; serial is %v after %d logins", n, times-1, r.serial.Load(), h.logins.Load())
	}
}

// What one connection has found out stays so when another one, which began to try before, is refused,
// and that refusal is an error. Only directories show what is so of directories.
func TestFTPLateRefusals(t *testing.T) {
	for name, tt := range map[string]struct {
		refused string // of the one that began before
		want    Kind
		able    Writes
	}{
		"nothing": {"", KindOther, Writes{Mode: true, ModTime: true, DirMode: true}},
		"a mode":  {"SITE CHMOD 640 /late", KindPermission, Writes{Mode: true, ModTime: true, DirMode: true}},
		"a time":  {"MFMT 20240229131415 /late", KindPermission, Writes{Mode: true, ModTime: true, DirMode: true}},
	} {
		t.Run(name, func(t *testing.T) {
			a := Attributes{Mode: 0o640, HasMode: true, ModTime: time.Date(2024, 2, 29, 13, 14, 15, 0, time.UTC)}
			var r *FTP
			h := &ftpHouse{dir: t.TempDir()}
			h.hook = func(p *ftpPeer, cmd, arg string) bool {
				line := cmd + " " + arg
				if line == "SITE CHMOD 640 /late" {
					if err := r.SetAttributes(t.Context(), "/first", File, a); err != nil {
						t.Error(err)
					}
				}
				if line == tt.refused || cmd == "MFMT" && strings.HasSuffix(arg, "/dir") {
					p.say("550 Permission denied.")
					return true
				}
				return false
			}
			for _, file := range []string{"late", "first"} {
				if err := os.WriteFile(filepath.Join(h.dir, file), nil, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			if err := os.Mkdir(filepath.Join(h.dir, "dir"), 0o700); err != nil {
				t.Fatal(err)
			}
			r = h.start(t).remote(t)
			if err := r.SetAttributes(t.Context(), "/late", File, a); (err == nil) != (tt.refused == "") || KindOf(err) != tt.want {
				t.Errorf("the late one: %v", err)
			}
			if err := r.SetAttributes(t.Context(), "/dir", Dir, a); err != nil {
				t.Errorf("a directory: %v", err)
			}
			if got, err := r.Writes(t.Context()); err != nil || got != tt.able {
				t.Errorf("%+v, %v, want %+v", got, err, tt.able)
			}
		})
	}
}

// slowConn is on a line that carries 64 KiB until a deadline for writing is over.
type slowConn struct {
	net.Conn
	left int
}

func (c *slowConn) SetDeadline(t time.Time) error {
	c.left = 64 << 10
	return c.Conn.SetDeadline(t)
}

func (c *slowConn) SetWriteDeadline(t time.Time) error {
	c.left = 64 << 10
	return c.Conn.SetWriteDeadline(t)
}

func (c *slowConn) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p[:min(len(p), c.left)])
	c.left -= n
	if err == nil && n < len(p) {
		err = os.ErrDeadlineExceeded
	}
	return n, err
}

// A server on a slow line takes what it is sent in time, however much that is.
func TestFTPSlowUpload(t *testing.T) {
	h := (&ftpHouse{dir: t.TempDir()}).start(t)
	r := h.remote(t, func(c *FTPConfig) {
		c.Dial = func(ctx context.Context, network, addr string) (net.Conn, error) {
			nc, err := new(net.Dialer).DialContext(ctx, network, addr)
			return &slowConn{Conn: nc}, err
		}
	})
	w, err := r.Create(t.Context(), "/f", 0)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Abort()
	data := bytes.Repeat([]byte("abcdefg"), 1<<20/7)
	if err := w.Write(t.Context(), data); err != nil {
		t.Fatal(err)
	}
	if err := w.Finish(t.Context(), Attributes{}); err != nil {
		t.Fatal(err)
	}
	if got := contents(t, h.dir)["f"]; got != string(data) {
		t.Errorf("%d bytes arrived, of %d", len(got), len(data))
	}
}
