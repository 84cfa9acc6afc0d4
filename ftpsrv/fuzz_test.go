package ftpsrv

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"path"
	"strconv"
	"strings"
	"testing"
	"time"
)

// FuzzReadCommand reads arbitrary bytes as command lines: each line is one command, in one
// piece and without its end, and nothing but the end of the bytes ends them.
func FuzzReadCommand(f *testing.F) {
	for _, s := range []string{
		"NOOP\r\n", "noop\n", "RETR  two spaces \r\n", "\r\n", "USER a\r\nPASS b\r\n", "QUI", "\xff\xf4\xff\xf2ABOR\r\n",
		"STOR a\rb\n", "LIST\x00\r\n", strings.Repeat("x", maxLine+100) + "\r\nNOOP\r\n", strings.Repeat("v", 40) + " a\n", "é É\r\n",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		r := bufio.NewReaderSize(bytes.NewReader(data), maxLine)
		for rest := data; ; {
			line, after, whole := bytes.Cut(rest, []byte("\n"))
			cmd := readCommand(r)
			switch {
			case !whole && len(line) == 0:
				if !errors.Is(cmd.err, io.EOF) {
					t.Fatalf("at the end: %+v", cmd)
				}
				return
			case !whole:
				if cmd.err == nil || errors.Is(cmd.err, errLineTooLong) {
					t.Fatalf("half a line %q: %+v", line, cmd)
				}
				return
			case len(line)+1 > maxLine:
				if !errors.Is(cmd.err, errLineTooLong) {
					t.Fatalf("a line of %d bytes: %+v", len(line), cmd)
				}
			case cmd.err != nil:
				t.Fatalf("%q: %v", line, cmd.err)
			default:
				checkCommand(t, line, cmd)
			}
			rest = after
		}
	})
}

func checkCommand(t *testing.T, line []byte, cmd command) {
	t.Helper()
	if strings.Contains(cmd.verb, " ") || len(cmd.verb) > 3*maxVerb || strings.Contains(cmd.verb+cmd.arg, "\n") {
		t.Errorf("%q: verb %q, argument %q", line, cmd.verb, cmd.arg)
	}
	text := strings.TrimRight(string(line), "\r\n")
	if cmd.arg != "" && !strings.HasSuffix(text, " "+cmd.arg) {
		t.Errorf("%q: argument %q", line, cmd.arg)
	}
}

// FuzzPort reads arbitrary arguments of PORT and EPRT: what is taken is what was meant.
func FuzzPort(f *testing.F) {
	for _, s := range []string{
		"127,0,0,1,4,1", "127,0,0,1,256,1", "1,2,3", " 1, 2,3,4,5,6 ", "-1,0,0,1,4,1", "+1,0,0,1,4,1",
		"|1|127.0.0.1|4096|", "|2|::1|4096|", "|2|fe80::1%eth0|4096|", "!1!127.0.0.1!4096!", "|3|x|1|", "|1|::1|80|", "|||", "",
		"|1|127.0.0.1|99999|", "|2|::ffff:1.2.3.4|1|", "1111",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, arg string) {
		if ap, err := parsePort(arg); err == nil {
			ip := ap.Addr().As4()
			again := fmt.Sprintf("%d,%d,%d,%d,%d,%d", ip[0], ip[1], ip[2], ip[3], ap.Port()>>8, ap.Port()&0xff)
			if second, err := parsePort(again); err != nil || second != ap {
				t.Errorf("PORT %q is %v, and %v as %s: %v", arg, ap, second, again, err)
			}
		}
		if ap, err := parseExtPort(arg); err == nil {
			protocol := 2
			if ap.Addr().Is4() && !strings.Contains(arg, "::") {
				protocol = 1
			}
			addr := ap.Addr().String()
			if protocol == 2 && ap.Addr().Is4() {
				addr = "::ffff:" + addr // what it was unmapped from
			}
			again := fmt.Sprintf("|%d|%s|%d|", protocol, addr, ap.Port())
			if second, err := parseExtPort(again); err != nil || second != ap {
				t.Errorf("EPRT %q is %v, and %v as %s: %v", arg, ap, second, again, err)
			}
			if ap.Addr().Zone() != "" {
				t.Errorf("EPRT %q has a zone", arg)
			}
		}
	})
}

// FuzzListArgs reads arbitrary arguments of LIST: what is listed is part of what was sent,
// the name of a file is not taken for an option unless clients send that all the time, and a pattern that is taken can be used.
func FuzzListArgs(f *testing.F) {
	for _, s := range []string{
		"", "-la", "-l -a /dir", "-R", "-d x", "-- -x", "--color=auto a", "-rf", " lead", "-1 *.txt", "a b", "-", "--", "-l  two",
		"*/*/*/*", "*/*/*/*/*", "[", "[a-]", "a[!b]*", "\\", "//x//*",
	} {
		f.Add(s, false)
		f.Add(s, true)
	}
	f.Fuzz(func(t *testing.T, arg string, exists bool) {
		a := parseListArgs(arg, func(name string) bool {
			if name != arg {
				t.Errorf("%q: asked for %q", arg, name)
			}
			return exists
		})
		if !strings.HasSuffix(arg, a.path) {
			t.Errorf("%q: path %q", arg, a.path)
		}
		if option := strings.HasPrefix(arg, "-"); a.path != arg && (!option || exists && !usualOptions(arg)) {
			t.Errorf("%q (exists: %v): path %q", arg, exists, a.path)
		}
		elems, ok := patternElems(a.path)
		if !ok {
			return
		}
		patterns := 0
		for _, e := range elems {
			if e == "" || strings.Contains(e, "/") {
				t.Errorf("%q: element %q", a.path, e)
			}
			if _, err := path.Match(e, "name"); err != nil {
				t.Errorf("%q: element %q: %v", a.path, e, err)
			}
			if isPattern(e) {
				patterns++
			}
		}
		if patterns > maxPatternElems {
			t.Errorf("%q: %d patterns", a.path, patterns)
		}
	})
}

// FuzzUtime reads arbitrary arguments of SITE UTIME: the time is one that was sent, and so
// is the name.
func FuzzUtime(f *testing.F) {
	for _, s := range []string{
		"20200102030405 file", "202001020304 file", "file 20200102030405 20200102030405 20200102030405 UTC", "file 20200102030405",
		"a b c 20200102030405 20210102030405 20220102030405 utc", "", " ", "20200102030405", "20201332030405 x", "UTC UTC UTC UTC UTC",
		"20200102030405  x", "x  20200102030405 20210102030405  20220102030405 UTC",
		"a\tb 20200102030405 c UTC", // once five words by one count and four by another: a panic
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, arg string) {
		name, at, ok := utimeArgs(strings.TrimRight(arg, " "))
		if !ok {
			return
		}
		if name == "" || !strings.Contains(arg, name) {
			t.Errorf("%q: name %q", arg, name)
		}
		digits := at.Format(timeVal)
		if !strings.Contains(arg, digits) && !strings.Contains(arg, digits[:len(digits)-2]) {
			t.Errorf("%q: time %v", arg, at)
		}
	})
}

// FuzzHashArgs reads arbitrary arguments of XCRC and its like.
func FuzzHashArgs(f *testing.F) {
	for _, s := range []string{
		"file", "file 0 100", "file 100", `"file" 0 100`, `"a ""quoted"" name" 5`, "file 5 1", "2024 report 1 2", `"open`, `""`, `"x" a`,
		"file 99999999999999999999", "file 1 2 3", `"x" 1 2 3`, " ", "1 2 3", "file -1",
	} {
		f.Add(s, "file")
		f.Add(s, s)
	}
	f.Fuzz(func(t *testing.T, arg, there string) {
		name, start, end, err := hashArgs(arg, func(name string) bool { return name == there })
		if arg == there && (err != nil || name != arg || start != 0 || end != -1) {
			t.Errorf("%q is there: %q %d %d %v", arg, name, start, end, err)
		}
		if err != nil {
			return
		}
		if start < 0 || end < -1 || end >= 0 && end < start {
			t.Errorf("%q: from %d to %d", arg, start, end)
		}
		if !strings.HasPrefix(arg, `"`) && !strings.HasPrefix(arg, name) {
			t.Errorf("%q: name %q", arg, name)
		}
	})
}

// maxFuzzLines bounds what one round sends.
const maxFuzzLines = 20

// FuzzDialogue sends arbitrary lines, in plain text, after a login. Every line gets exactly
// one final reply, or the end of the connection; the server goes on.
func FuzzDialogue(f *testing.F) {
	for _, s := range []string{
		"PWD\nCWD /d\nPWD\nCDUP", "MKD a\nMKD a\nRMD a\nRMD a", "RNFR f\nRNTO g\nRNTO h", "SIZE f\nMDTM f\nMLST f\nSTAT f\nHASH f",
		"XCRC f 0 2\nXMD5 \"f\"\nXSHA256 f 3 1", "OPTS UTF8 ON\nOPTS MLST type;\nOPTS HASH MD5\nOPTS", "SITE CHMOD 644 f\nSITE CHMOD\nSITE",
		"SITE UTIME 20200101000000 f\nSITE SYMLINK a b\nSITE SNAPSHOT\nSITE HELP", "PASV\nEPSV\nEPSV ALL\nPASV", "EPSV\nSTOR f\nPASV\nRETR f\nEPSV\nLIST", "PORT 127,0,0,1,0,80\nEPRT |1|127.0.0.1|9|",
		"STOR f\nRETR f\nLIST\nNLST\nMLSD\nAPPE f\nSTOU", "REST 5\nREST x\nALLO 5\nALLO 5 R 3\nALLO", "TYPE A N\nTYPE L 8\nTYPE X\nMODE B\nSTRU R",
		"FEAT\nHELP\nHELP SITE\nHELP STOR\nSYST\nNOOP\nABOR", "USER x\nPASS y\nAUTH TLS\nPBSZ 0\nPROT P\nACCT z\nREIN", "QUIT\nNOOP",
		"STAT *\nSTAT -la\nSTAT [\nSTAT -R /", "MFMT 20200101000000 f\nMDTM 20200101000000 f\nAVBL\nAVBL /d", "\x00\n \n  x\n\xff\xf4ABOR", "CWD ~\nCWD ..\nCWD\nSIZE",
		"SITE UTIME a\tb 20200102030405 c UTC",
	} {
		f.Add(s)
	}
	ts := startServer(f, func(c *Config) {
		c.ConnectTimeout = 10 * time.Millisecond // no data connection is ever made
		c.Logger = slog.New(slog.DiscardHandler) // it would fill the memory
	})
	setup := ts.login(f, "alice")
	f.Fuzz(func(t *testing.T, script string) {
		lines := strings.Split(strings.ReplaceAll(script, "\r", ""), "\n")
		lines = lines[:min(len(lines), maxFuzzLines)]
		_ = setup.put([]byte("data"), "STOR /f") // it may be a directory by now
		c := ts.login(t, "alice")
		for i, line := range lines {
			if len(line) > 2*maxLine {
				continue
			}
			if done := exchangeOne(t, c, line, i); done {
				c.wantEnd()
				return
			}
		}
		c.do("QUIT", codeGoodbye)
		c.wantEnd()
	})
}

// exchangeOne sends a line and a mark behind it, and reads the replies of both: between
// them, nothing may come. done is true when the server has ended the connection.
func exchangeOne(t *testing.T, c *client, line string, i int) (done bool) {
	t.Helper()
	mark := "mark-" + strconv.Itoa(i)
	if err := c.send(line + "\r\nOPTS " + mark); err != nil {
		return true
	}
	finals := 0
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); {
		r, err := c.receive()
		switch {
		case err != nil && (finals == 1 || isOver(err)):
			return true
		case err != nil:
			t.Fatalf("%q: %v", line, err)
		case r.code == codeSyntax && strings.Contains(r.text(), mark):
			if finals != 1 {
				t.Fatalf("%q got %d final replies", line, finals)
			}
			return false
		case r.code >= 200:
			finals++
		}
		if r.code < 100 || r.code > 599 {
			t.Fatalf("%q: reply %v", line, r)
		}
		if finals > 1 {
			t.Fatalf("%q: a second final reply: %v", line, r)
		}
	}
	t.Fatalf("%q: no answer", line)
	return true
}

// isOver reports whether err is the end of a connection.
func isOver(err error) bool {
	var op interface{ Timeout() bool }
	return errors.Is(err, io.EOF) || errors.As(err, &op) && !op.Timeout()
}
