package ftpsrv

import (
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/snapgate/gateway/vfs"
)

// listNames takes the names from the long lines of a listing; titles and empty lines stay.
func listNames(body string) string {
	long := regexp.MustCompile(`^[-dl][-rwxsStT]{9} +1 0 +0 +\d+ [A-Z][a-z]{2} [ \d]\d (?:\d\d:\d\d| \d{4}) (.*)$`)
	var names []string
	for line := range strings.SplitSeq(strings.TrimSuffix(body, "\r\n"), "\r\n") {
		if m := long.FindStringSubmatch(line); m != nil {
			line = m[1]
		}
		names = append(names, line)
	}
	return strings.Join(names, "|")
}

// LIST and NLST with the options that clients send, patterns, and names of all kinds.
func TestListings(t *testing.T) {
	c := startServer(t, hasty).login(t, "alice")
	furnish(c)
	const (
		links = "dangling -> nowhere|dirlink -> d|ln -> d/a.txt|"
		long  = " lead|-la|-odd.txt|.hidden|bad\xe9|d|" + links + "q\"uote|trail |with space|ünïcode"
		shown = " lead|-la|-odd.txt|bad\xe9|d|" + links + "q\"uote|trail |with space|ünïcode"
		short = " lead|-la|-odd.txt|.hidden|bad\xe9|d|dangling|dirlink|ln|q\"uote|trail |with space|ünïcode"
		glob  = " lead|-la|-odd.txt|bad\xe9|d|dangling|dirlink|ln|q\"uote|trail |with space|ünïcode"
	)
	for _, row := range []struct{ line, want string }{
		// A file "-la" does not get into the way of what every client sends.
		{"LIST", long}, {"LIST -a", long}, {"LIST -l", long}, {"LIST -la", long}, {"LIST -al", long}, {"LIST -aL", long}, {"LIST -1", long}, {"LIST -l -a", long}, {"LIST --color -a", long}, {"LIST .", long}, {"LIST /", long}, {"LIST -la /", long},
		{"LIST -la --", long}, {"LIST ./-la", "./-la"}, {"LIST -- -la", "-la"}, {"LIST -a -- -odd.txt", "-odd.txt"}, {"LIST -odd.txt", "-odd.txt"},
		{"LIST d", "a.txt|sub"}, {"LIST d/", "a.txt|sub"}, {"LIST -al d", "a.txt|sub"}, {"LIST -al /d", "a.txt|sub"}, {"LIST -l -a d", "a.txt|sub"}, {"LIST dirlink", "a.txt|sub"}, {"LIST /d//sub/", "deep"},
		{"LIST d/a.txt", "d/a.txt"}, {"LIST -l ln", "ln -> d/a.txt"}, {"LIST dangling", "dangling -> nowhere"}, {"LIST with space", "with space"}, {"LIST -l with space", "with space"}, {"LIST  lead", " lead"}, {"LIST bad\xe9", "bad\xe9"}, {"LIST ünïcode", "ünïcode"}, {`LIST q"uote`, `q"uote`},
		{"LIST -d", "."}, {"LIST -d d", "d"}, {"LIST -ld d", "d"}, {"LIST -d /d", "/d"},
		{"LIST *", shown}, {"LIST .*", ".hidden"}, {"LIST d/*.txt", "d/a.txt"}, {"LIST -la d/*", "d/a.txt|d/sub"}, {"LIST /d/*", "/d/a.txt|/d/sub"}, {"LIST d*/a*", "d/a.txt|dirlink/a.txt"}, {"LIST */*/*", "d/sub/deep|dirlink/sub/deep"}, {"LIST ?n", "ln -> d/a.txt"}, {"LIST [q]*", `q"uote`}, {"LIST [^a-z]*txt", "-odd.txt"}, {"LIST *zzz", ""}, {"LIST d/../d/a*", "d/../d/a.txt"}, {"LIST none/*", ""}, {"LIST ../*e*txt", ""}, {"LIST d/a.txt/*", ""},
		{"LIST -R d", "a.txt|sub||d/sub:|deep"}, {"LIST -lR /d", "a.txt|sub||/d/sub:|deep"}, {"LIST -R", long + "||d:|a.txt|sub||d/sub:|deep"}, {"LIST -R /", long + "||/d:|a.txt|sub||/d/sub:|deep"}, {"LIST -aR d/sub", "deep"},
		{"LIST .snapshots", ""},

		{"NLST", short}, {"NLST -a", short}, {"NLST -1", short}, {"NLST -l", long}, {"NLST -la d", "a.txt|sub"}, {"NLST d", "d/a.txt|d/sub"}, {"NLST d/", "d/a.txt|d/sub"}, {"NLST /d", "/d/a.txt|/d/sub"}, {"NLST -1 d", "d/a.txt|d/sub"},
		{"NLST *", glob}, {"NLST d/*", "d/a.txt|d/sub"}, {"NLST /d/*.txt", "/d/a.txt"}, {"NLST d/a.txt", "d/a.txt"}, {"NLST -d d", "d"}, {"NLST -R d", "d/a.txt|d/sub|d/sub/deep"}, {"NLST with space", "with space"}, {"NLST *zzz", ""}, {"NLST -odd.txt", "-odd.txt"},
	} {
		if got := listNames(c.mustGet(row.line)); got != row.want {
			t.Errorf("%s: %q, want %q", row.line, got, row.want)
		}
	}
	for _, row := range []struct {
		line string
		code int
	}{
		{"LIST none", codeFailed}, {"NLST none", codeFailed}, {"MLSD none", codeFailed}, {"LIST d/a.txt/x", codeFailed}, {"LIST [", codeFailed}, {"LIST */*/*/*/*", codeFailed},
		{"MLSD d/a.txt", codeFailed}, {"MLSD dangling", codeFailed}, {"MLSD *", codeFailed}, {"LIST -la none", codeFailed}, {"LIST /.snapshots/none", codeFailed},
	} {
		_, err := c.get(row.line)
		wantRefused(t, row.line, err, row.code)
	}
	// In a directory, and below.
	c.do("CWD d", codeDone)
	for _, row := range []struct{ line, want string }{{"LIST", "a.txt|sub"}, {"LIST -a ..", long}, {"NLST ../d", "../d/a.txt|../d/sub"}, {"NLST *", "a.txt|sub"}, {"LIST -R", "a.txt|sub||sub:|deep"}, {"LIST ../w*", "../with space"}} {
		if got := listNames(c.mustGet(row.line)); got != row.want {
			t.Errorf("in d, %s: %q, want %q", row.line, got, row.want)
		}
	}
}

// Times are in UTC, and those of long ago have their year.
func TestListingLines(t *testing.T) {
	c := startServer(t, hasty).login(t, "alice")
	c.mustPut("f", []byte("hello"))
	recent := time.Now().UTC().Add(-24 * time.Hour).Truncate(time.Second)
	for _, row := range []struct {
		time time.Time
		mode string
		want string
	}{
		{recent, "644", "-rw-r--r--   1 0        0                   5 " + recent.Format("Jan _2 15:04") + " f"},
		{time.Date(2020, 1, 2, 3, 4, 5, 0, time.UTC), "6751", "-rwsr-s--x   1 0        0                   5 Jan  2  2020 f"},
		{time.Date(2096, 12, 31, 3, 4, 5, 0, time.UTC), "1640", "-rw-r----T   1 0        0                   5 Dec 31  2096 f"},
	} {
		c.do("MFMT "+row.time.Format(timeVal)+" f", codeFile)
		c.do("SITE CHMOD "+row.mode+" f", codeOK)
		if got := c.mustGet("LIST"); got != row.want+"\r\n" {
			t.Errorf("LIST: %q, want %q", got, row.want)
		}
		facts := "type=file;size=5;modify=" + row.time.Format(timeVal) + ";UNIX.mode=0" + row.mode + ";UNIX.ownername=0;UNIX.groupname=0; f"
		if got := c.mustGet("MLSD"); got != facts+"\r\n" {
			t.Errorf("MLSD: %q, want %q", got, facts)
		}
		c.asks(ask{"MDTM f", codeFile, row.time.Format(timeVal)}, ask{"STAT f", codeFile, "status of f:| " + row.want + "|end"})
	}
}

// MLST and MLSD tell the facts that were chosen.
func TestFacts(t *testing.T) {
	c := startServer(t, hasty).login(t, "alice")
	furnish(c)
	const old = "modify=20200102030405;"
	const dirOwner = "UNIX.mode=0755;UNIX.ownername=0;UNIX.groupname=0; "
	c.asks(
		ask{"MLST d/a.txt", codeDone, "facts:| type=file;size=5;" + old + "UNIX.mode=0644;UNIX.ownername=0;UNIX.groupname=0; /d/a.txt|end"},
		ask{"MLST d", codeDone, "facts:| type=dir;" + old + dirOwner + "/d|end"},
		ask{"MLST", codeDone, dirOwner + "/|end"}, ask{"MLST /", codeDone, "type=dir;"}, ask{"MLST with space", codeDone, " /with space|"}, ask{"MLST bad\xe9", codeDone, "; /bad\xe9|"},
		ask{"MLST ln", codeDone, "type=OS.unix=slink:d/a.txt;"}, ask{"MLST dangling", codeDone, "type=OS.unix=slink:nowhere;"}, ask{"MLST dirlink/a.txt", codeDone, "type=file;size=5;"},
		ask{"MLST none", codeFailed, "none: no such"}, ask{"MLST -la", codeDone, " /-la|"},
		ask{"OPTS MLST type;size;", codeOK, ""}, ask{"MLST d/a.txt", codeDone, "| type=file;size=5; /d/a.txt|"},
	)
	if got, want := c.mustGet("MLSD d"), "type=file;size=5; a.txt\r\ntype=dir; sub\r\n"; got != want {
		t.Errorf("MLSD of chosen facts: %q, want %q", got, want)
	}
	c.asks(ask{"OPTS MLST UNIX.mode;Modify;", codeOK, "MLST OPTS modify;UNIX.mode;"}, ask{"MLST d/a.txt", codeDone, "| " + old + "UNIX.mode=0644; /d/a.txt|"})
	c.asks(ask{"OPTS MLST ", codeOK, "MLST OPTS"}, ask{"MLST d/a.txt", codeDone, "|  /d/a.txt|"})
	if got, want := c.mustGet("MLSD d"), " a.txt\r\n sub\r\n"; got != want {
		t.Errorf("MLSD without facts: %q, want %q", got, want)
	}
}

// Names with line breaks cannot be sent; they do not forge lines either.
func TestLineBreaksInNames(t *testing.T) {
	ts := startServer(t, hasty)
	local := ts.local.Client(t, "bob")
	if err := local.Mkdir("/a\r\n250 forged"); err != nil {
		t.Fatal(err)
	}
	if err := local.Symlink("x\r\ny;z", "/l"); err != nil {
		t.Fatal(err)
	}
	c := ts.login(t, "alice")
	if got := listNames(c.mustGet("LIST")); got != "a??250 forged|l -> x??y;z" {
		t.Errorf("LIST: %q", got)
	}
	c.wantNames("/", "a??250 forged", "l")
	c.asks(ask{"STAT", codeSystem, ""}, ask{"STAT /", codeFile, "a??250 forged|"}, ask{"MLST l", codeDone, "slink:x??y?z;"}, ask{"NOOP", codeOK, "ok"})
}

// STAT tells of the connection, of a transfer while it is under way, and of files.
func TestStat(t *testing.T) {
	ts := startServer(t, hasty, withTLS(t))
	for _, c := range []*client{ts.dial(t), ts.dialTLS(t)} {
		c.login("alice")
		c.do("MKD d", codePath, codeFailed)
		c.mustPut("d/f", []byte("hello"))
		c.do("CWD d", codeDone)
		encrypted := ""
		if c.protected {
			encrypted = "| the control connection is encrypted"
		}
		c.asks(
			ask{"STAT", codeSystem, encrypted + `| logged in as alice| working directory "/d"|end`},
			ask{"STAT f", codeFile, " f|end"}, ask{"STAT .", codeFile, " f|end"}, ask{"STAT -la /d", codeFile, " f|end"}, ask{"STAT /", codeFile, " d|end"}, ask{"STAT *", codeFile, " f|end"}, ask{"STAT -d /d", codeFile, " /d|end"},
			ask{"STAT none", codeFailed, "none: no such"}, ask{"STAT *zz", codeFile, "status of *zz:|end"},
		)
		d := c.begins(t, "STOR up")
		if _, err := d.Write([]byte("12345")); err != nil {
			t.Fatal(err)
		}
		for { // until they have arrived
			r := c.do("STAT", codeSystem)
			if text := strings.Join(r.lines, "|"); strings.Contains(text, "STOR up under way; 10 bytes received and 0 sent") {
				break
			} else if !strings.Contains(text, "STOR up under way; 5 bytes received") {
				t.Fatalf("STAT: %q", text)
			}
		}
		d.Close()
		c.want(codeClosingData)
		c.asks(ask{"STAT", codeSystem, `"/d"|end`}, ask{"DELE up", codeDone, ""})
	}
}

// A listing that fails in the middle ends its reply, whatever the way.
func TestListingCutShort(t *testing.T) {
	var h house
	ts := startServer(t, hasty, withHouse(t, &h, vfs.Config{Limits: vfs.Limits{SessionFiles: 1}}, map[string]resident{"alice": {perms: vfs.PermFull}}))
	c := ts.dial(t).login("alice")
	c.asks(
		ask{"MKD d", codePath, ""}, ask{"MKD d/e", codePath, ""}, ask{"STAT *", codeFile, " d|end"},
		ask{"STAT */*", codeFile, "status of */*:|cut short: */*: too many open files"}, // two directories are open at once
		ask{"NOOP", codeOK, "ok"},
	)
	d := c.begins(t, "LIST */*")
	d.Close()
	c.want(codeTransient)
	c.asks(ask{"NOOP", codeOK, "ok"})
}
