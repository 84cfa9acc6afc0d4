package ftpsrv

import (
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/snapgate/gateway/vfs"
)

// What a client may ask before it has logged in, and nothing else.
func TestBeforeLogin(t *testing.T) {
	ts := startServer(t, hasty)
	c := ts.dial(t)
	open := map[string]int{
		"USER": codeSyntax, "PASS": codeSequence, "ACCT": codeSuperfluous, "AUTH": codeSyntax, "PBSZ": codeSequence, "PROT": codeSyntax,
		"QUIT": 0, "NOOP": codeOK, "SYST": codeSystemType, "FEAT": codeSystem, "OPTS": codeSyntax, "HELP": codeHelp,
		"CLNT": codeOK, "HOST": codeParameter, "LANG": codeOK,
	}
	for verb := range commandTable() {
		want, ok := open[verb]
		switch {
		case !ok:
			c.asks(ask{verb, codeNotLoggedIn, "log in"}, ask{verb + " /x", codeNotLoggedIn, "log in"})
		case want != 0:
			c.asks(ask{verb, want, ""})
		}
	}
	c.asks(
		ask{"XYZZY", codeUnknown, "XYZZY: unknown command"},
		ask{"", codeUnknown, "no command"},
		ask{"OPTS UTF8 ON", codeOK, "UTF-8"},
		ask{"HELP", codeHelp, "STOU"},
		ask{"HELP SITE", codeHelp, "SNAPSHOT"},
		ask{"PASS " + password, codeSequence, "USER first"},
		ask{"USER alice", codeNeedPassword, ""},
		ask{"PASS wrong", codeNotLoggedIn, "login incorrect"},
		ask{"PASS " + password, codeSequence, "USER first"},
		ask{"USER bob", codeNeedPassword, ""},
		ask{"USER alice", codeNeedPassword, ""},
		ask{"pass " + password, codeLoggedIn, ""},
		ask{"USER bob", codeNotLoggedIn, "already"},
		ask{"PASS x", codeSequence, "already"},
		ask{"QUIT", codeGoodbye, ""},
	)
	c.wantEnd()
}

// A wrong password is answered after a while, and too many end the connection.
func TestBadLogins(t *testing.T) {
	const delay = 20 * time.Millisecond
	ts := startServer(t, func(c *Config) { c.FailureDelay, c.Limits.LoginTries = delay, 3 })
	c := ts.dial(t)
	for _, code := range []int{codeNotLoggedIn, codeNotLoggedIn, codeUnavailable} {
		c.do("USER alice", codeNeedPassword)
		asked := time.Now()
		c.do("PASS wrong", code)
		if took := time.Since(asked); took < delay {
			t.Errorf("answered after %v, want at least %v", took, delay)
		}
	}
	c.wantEnd()
	ts.log.Wait(t, "login failed", "attempts=3")
}

// Commands that make no difference to files, in every form that is sent in the wild.
func TestSettings(t *testing.T) {
	c := startServer(t, hasty).login(t, "alice")
	c.asks(
		ask{"TYPE A", codeOK, "sent as they are"}, ask{"TYPE a", codeOK, ""}, ask{"TYPE A N", codeOK, ""}, ask{"TYPE A T", codeOK, ""},
		ask{"TYPE I", codeOK, "binary"}, ask{"TYPE i", codeOK, "binary"}, ask{"TYPE I N", codeOK, ""}, ask{"TYPE L 8", codeOK, "binary"},
		ask{"TYPE L8", codeOK, "binary"}, ask{"type l 8", codeOK, "binary"}, ask{"TYPE E", codeParameter, ""}, ask{"TYPE L 36", codeParameter, ""},
		ask{"TYPE", codeSyntax, "an argument is missing"}, ask{"TYPE ", codeSyntax, "missing"},
		ask{"MODE S", codeOK, ""}, ask{"MODE s", codeOK, ""}, ask{"MODE B", codeParameter, ""}, ask{"MODE C", codeParameter, ""}, ask{"MODE Z", codeParameter, ""}, ask{"MODE", codeSyntax, ""},
		ask{"STRU F", codeOK, ""}, ask{"STRU f", codeOK, ""}, ask{"STRU R", codeParameter, ""}, ask{"STRU P", codeParameter, ""}, ask{"STRU", codeSyntax, ""},
		ask{"ALLO 100", codeOK, ""}, ask{"ALLO 100 R 10", codeOK, ""}, ask{"ALLO 0", codeOK, ""}, ask{"ALLO", codeSyntax, ""}, ask{"ALLO x", codeSyntax, ""},
		ask{"ALLO -1", codeSyntax, ""}, ask{"ALLO R 10", codeSyntax, ""}, ask{"ALLO 1 2", codeSyntax, ""}, ask{"ALLO 9000000000000000000", codeNoSpace, ""},
		ask{"REST 0", codePending, "byte 0"}, ask{"REST 9223372036854775807", codePending, ""}, ask{"REST 9223372036854775808", codeSyntax, ""},
		ask{"REST -1", codeSyntax, ""}, ask{"REST x", codeSyntax, ""}, ask{"REST", codeSyntax, ""}, ask{"REST 1 2", codeSyntax, ""},
		ask{"OPTS UTF8 ON", codeOK, ""}, ask{"OPTS UTF8", codeOK, ""}, ask{"opts utf-8 nlst", codeOK, ""}, ask{"OPTS UTF8 OFF", codeParameter, ""}, ask{"OPTS MODE Z", codeSyntax, ""}, ask{"OPTS", codeSyntax, ""},
		ask{"SYST", codeSystemType, "UNIX Type: L8"}, ask{"NOOP", codeOK, ""}, ask{"noop", codeOK, ""}, ask{"CLNT x y", codeOK, ""},
		ask{"LANG", codeOK, ""}, ask{"LANG en-us", codeOK, ""}, ask{"LANG fr", codeParameter, ""}, ask{"HOST x", codeParameter, ""}, ask{"ACCT x", codeSuperfluous, ""},
		ask{"REIN", codeNotHere, ""}, ask{"SMNT /", codeNotHere, ""}, ask{"CCC", codeDenied, ""},
		ask{"HELP", codeHelp, "commands:| ABOR "}, ask{"HELP STOR", codeHelp, "syntax: STOR <sp> path"}, ask{"HELP stou", codeHelp, "STOU"}, ask{"HELP XYZZY", codeSyntax, "unknown"}, ask{"HELP SITE", codeHelp, " CHMOD mode path|"},
		ask{"ABOR", codeClosingData, ""}, ask{"XYZZY", codeUnknown, "XYZZY: unknown"}, ask{"xyzzy", codeUnknown, "XYZZY"}, ask{"%s%n", codeUnknown, "%S%N: unknown"}, ask{"", codeUnknown, ""},
		ask{strings.Repeat("A", 3000), codeUnknown, "unknown"}, ask{"STOR " + strings.Repeat("a", 4030), codeBadName, "too long"},
		ask{"STOR " + strings.Repeat("a", 9000), codeUnknown, "line too long"}, ask{"NOOP", codeOK, ""},
		ask{"AUTH TLS", codeNotHere, "not configured"}, ask{"PBSZ 0", codeSequence, ""}, ask{"PROT P", codeSequence, ""},
		ask{"STOR x", codeNoData, "EPSV"}, ask{"RETR x", codeNoData, ""}, ask{"LIST", codeNoData, ""}, ask{"STOU", codeNoData, ""},
	)
	for verb, s := range commandTable() {
		if s.arg {
			c.asks(ask{verb, codeSyntax, verb + ": an argument is missing"})
		}
	}
}

func TestFeatures(t *testing.T) {
	ts := startServer(t, withTLS(t))
	c := ts.dial(t)
	const hashes = " MD5| XCRC| XMD5| XSHA| XSHA1| XSHA256| XSHA512|end"
	c.asks(
		ask{"FEAT", codeSystem, "extensions:| AUTH TLS| PBSZ| PROT| AVBL| CLNT| EPRT| EPSV| HASH CRC32;MD5;SHA-1;SHA-256*;SHA-512| MDTM| MFMT|" +
			" MLST type*;size*;modify*;UNIX.mode*;UNIX.ownername*;UNIX.groupname*;| REST STREAM| SIZE| TVFS| UTF8|" + hashes},
		ask{"OPTS MLST size;TYPE;bogus;", codeOK, "MLST OPTS type;size;"},
		ask{"OPTS HASH md5", codeOK, "MD5"},
		ask{"FEAT", codeSystem, " HASH CRC32;MD5*;SHA-1;SHA-256;SHA-512| MDTM| MFMT| MLST type*;size*;modify;UNIX.mode;UNIX.ownername;UNIX.groupname;|"},
		ask{"OPTS MLST", codeOK, "MLST OPTS"},
		ask{"OPTS HASH SHA-3", codeSyntax, "MD5 stays"},
		ask{"OPTS HASH", codeOK, "MD5"},
	)
}

// furnish makes a tree with all kinds of names, of old times.
func furnish(c *client) {
	c.tb.Helper()
	c.do("MKD /d", codePath)
	c.do("MKD /d/sub", codePath)
	for name, body := range map[string]string{
		"/d/a.txt": "hello", "/d/sub/deep": "deep", "/with space": "space", "/-la": "dash", "/-odd.txt": "odd", "/ünïcode": "u", `/q"uote`: "q",
		"/bad\xe9": "bad", "/ lead": "lead", "/trail ": "trail", "/.hidden": "h",
	} {
		c.mustPut(name, []byte(body))
		c.do("MFMT 20200102030405 "+name, codeFile)
	}
	c.asks(
		ask{"SITE SYMLINK d/a.txt ln", codeOK, ""}, ask{"SITE SYMLINK nowhere dangling", codeOK, ""}, ask{"SITE SYMLINK d dirlink", codeOK, ""},
		ask{"MFMT 20200102030405 /d", codeFile, ""}, ask{"MFMT 20200102030405 /d/sub", codeFile, ""},
	)
}

func TestFileCommands(t *testing.T) {
	c := startServer(t, hasty).login(t, "alice")
	furnish(c)
	c.asks(
		ask{"SIZE d/a.txt", codeFile, "5"}, ask{"SIZE /d//a.txt", codeFile, "5"}, ask{"SIZE d/../d/./a.txt", codeFile, "5"}, ask{"SIZE ln", codeFile, "5"},
		ask{"SIZE  lead", codeFile, "4"}, ask{"SIZE trail ", codeFile, "5"}, ask{"SIZE with space", codeFile, "5"}, ask{"SIZE -la", codeFile, "4"},
		ask{"SIZE bad\xe9", codeFile, "3"}, ask{"SIZE ünïcode", codeFile, "1"}, ask{`SIZE q"uote`, codeFile, "1"},
		ask{"SIZE d", codeFailed, "d: is a directory"}, ask{"SIZE none", codeFailed, "none: no such file"}, ask{"SIZE dangling", codeFailed, "dangling: no such file"},

		ask{"MDTM /d/a.txt", codeFile, "20200102030405"}, ask{"MDTM none", codeFailed, "none: no such"}, ask{"MDTM d", codeFile, "20200102030405"},
		ask{"MDTM 20210102030405 d/a.txt", codeFile, "20210102030405"}, ask{"MDTM d/a.txt", codeFile, "20210102030405"},
		ask{"MDTM 20210102030405 none", codeFailed, "none: no such"}, ask{"MDTM 20219902030405 d/a.txt", codeFailed, "20219902030405 d/a.txt: no such"},
		ask{"MFMT 20220102030405 d/a.txt", codeFile, "Modify=20220102030405; d/a.txt"}, ask{"MDTM ln", codeFile, "20220102030405"},
		ask{"MFMT 20220102030405.678 d/a.txt", codeFile, "Modify=20220102030405.678; d/a.txt"}, ask{"MFMT 20220102030405 with space", codeFile, "; with space"},
		ask{"MFMT 20220102030405 none", codeFailed, "none: no such"}, ask{"MFMT x d", codeSyntax, ""}, ask{"MFMT 20220102030405", codeSyntax, ""}, ask{"MFMT 20220230000000 d", codeSyntax, ""},

		ask{"SITE CHMOD 640 d/a.txt", codeOK, ""}, ask{"SITE CHMOD 0640 with space", codeOK, ""}, ask{"MLST with space", codeDone, "UNIX.mode=0640;"},
		ask{"SITE CHMOD", codeSyntax, ""}, ask{"SITE CHMOD 640", codeSyntax, ""}, ask{"SITE CHMOD 999 d", codeSyntax, ""}, ask{"SITE CHMOD 77777 d", codeSyntax, ""}, ask{"SITE CHMOD 640 none", codeFailed, "none: no such"},
		ask{"SITE CHMOD 4755 d/a.txt", codeOK, ""}, ask{"MLST d/a.txt", codeDone, "UNIX.mode=04755;"},
		ask{"SITE UTIME 202301020304 d/a.txt", codeOK, ""}, ask{"MDTM d/a.txt", codeFile, "20230102030400"},
		ask{"SITE UTIME 20230102030406 with space", codeOK, ""}, ask{"MDTM with space", codeFile, "20230102030406"},
		ask{"SITE UTIME with space 20180101000000 20190101000000 20170101000000 UTC", codeOK, ""}, ask{"MDTM with space", codeFile, "20190101000000"},
		ask{"SITE UTIME with space 20160101000000", codeOK, ""}, ask{"MDTM with space", codeFile, "20160101000000"},
		ask{"site utime d/a.txt 20160101000000", codeOK, ""}, ask{"SITE UTIME", codeSyntax, ""}, ask{"SITE UTIME x", codeSyntax, ""}, ask{"SITE UTIME x y", codeSyntax, ""}, ask{"SITE UTIME 20160101000000 none", codeFailed, "none: no such"},
		ask{"SITE SYMLINK x", codeSyntax, ""}, ask{"SITE SYMLINK d d/a.txt", codeFailed, "d/a.txt: file exists"}, ask{"SITE SYMLINK x a b", codeOK, ""}, ask{"MLST a b", codeDone, "slink:x;"},
		ask{"SITE HELP", codeHelp, "SNAPSHOT"}, ask{"SITE", codeSyntax, ""}, ask{"SITE XYZZY x", codeParameter, "SITE XYZZY: unknown"}, ask{"SITE RMDIR d", codeParameter, ""},
		ask{"SITE SNAPSHOT none", codeFailed, "none: no such"},

		ask{"AVBL", codeFile, ""}, ask{"AVBL d", codeFile, ""}, ask{"AVBL none", codeFailed, "none: no such"}, ask{"AVBL d/a.txt", codeFailed, "d/a.txt: not a directory"},
	)
	if r := c.do("SITE SNAPSHOT", codeOK); len(r.text()) != 64 {
		t.Errorf("SITE SNAPSHOT: %q is no id", r.text())
	}
}

func TestHashes(t *testing.T) {
	c := startServer(t, hasty).login(t, "alice")
	furnish(c)
	const (
		sha256Hello = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"
		md5Hello    = "5d41402abc4b2a76b9719d911017c592"
	)
	c.asks(
		ask{"HASH d/a.txt", codeFile, "SHA-256 0-5 " + sha256Hello + " d/a.txt"},
		ask{"XCRC d/a.txt", codeDone, "3610A686"}, ask{"XMD5 d/a.txt", codeDone, strings.ToUpper(md5Hello)}, ask{"MD5 d/a.txt", codeDone, strings.ToUpper(md5Hello)},
		ask{"XSHA1 d/a.txt", codeDone, "AAF4C61DDCC5E8A2DABEDE0F3B482CD9AEA9434D"}, ask{"XSHA d/a.txt", codeDone, "AAF4C61D"},
		ask{"XSHA256 d/a.txt", codeDone, strings.ToUpper(sha256Hello)}, ask{"XSHA512 d/a.txt", codeDone, "9B71D224BD62F378"},
		ask{`XMD5 "d/a.txt"`, codeDone, strings.ToUpper(md5Hello)}, ask{`XMD5 "d/a.txt" 0 5`, codeDone, strings.ToUpper(md5Hello)}, ask{"XMD5 d/a.txt 0 99", codeDone, strings.ToUpper(md5Hello)},
		ask{`XMD5 d/a.txt 1 3`, codeDone, "65C10911D8B8591219A21EBACF46DA01"}, ask{`XMD5 "d/a.txt" 1 3`, codeDone, "65C10911D8B8591219A21EBACF46DA01"}, // "el"
		ask{"XCRC d/a.txt 5", codeDone, "00000000"}, ask{"XCRC with space", codeDone, ""}, ask{`XCRC "q""uote"`, codeDone, ""}, ask{`XCRC q"uote`, codeDone, ""}, ask{"XCRC -la", codeDone, ""}, ask{"XCRC bad\xe9", codeDone, ""},
		ask{"XCRC d/a.txt 6", codeSyntax, "has 5 bytes"}, ask{"XCRC d/a.txt 3 1", codeSyntax, "the end is before the start"}, ask{`XCRC "d/a.txt" x`, codeSyntax, ""}, ask{`XCRC "d/a.txt" 1 2 3`, codeSyntax, "too many"},
		ask{"XCRC d", codeFailed, "d: is a directory"}, ask{"HASH none", codeFailed, "none: no such"}, ask{"XMD5 none 1 2", codeFailed, "none: no such"}, ask{`XCRC "none`, codeFailed, "no such"},
		ask{"OPTS HASH MD5", codeOK, ""}, ask{"HASH d/a.txt", codeFile, "MD5 0-5 " + md5Hello + " d/a.txt"},
		ask{"OPTS HASH crc32", codeOK, ""}, ask{"HASH d/a.txt", codeFile, "CRC32 0-5 3610a686 d/a.txt"},
	)
	// Of a stored file, in a view, and of a large one.
	big := strings.Repeat("0123456789abcdef", 40_000)
	c.mustPut("/big", []byte(big))
	want := c.do("XSHA256 /big", codeDone).text()
	c.do("SITE SNAPSHOT", codeOK)
	c.asks(ask{"XSHA256 /big", codeDone, want}, ask{"XSHA256 /.snapshots/latest/big", codeDone, want})
}

func TestDirectoryCommands(t *testing.T) {
	c := startServer(t, hasty).login(t, "alice")
	furnish(c)
	c.asks(
		ask{"PWD", codePath, `"/" is`}, ask{"XPWD", codePath, `"/" is`},
		ask{`MKD d/q"d`, codePath, `"/d/q""d" is made`}, ask{`CWD d/q"d`, codeDone, `"/d/q""d" is the working directory`}, ask{"PWD", codePath, `"/d/q""d" is`},
		ask{"CDUP", codeDone, `"/d"`}, ask{"XCUP", codeDone, `"/"`}, ask{"CDUP", codeDone, `"/"`}, ask{"CWD ..", codeDone, `"/"`}, ask{"CWD ../../d", codeDone, `"/d"`},
		ask{"CWD ~", codeDone, `"/"`}, ask{"CWD ~/d", codeDone, `"/d"`}, ask{"CWD ~bob", codeFailed, "~bob: no such"}, ask{"CWD /", codeDone, ""},
		ask{"XMKD x", codePath, `"/x" is made`}, ask{"XCWD x", codeDone, `"/x"`}, ask{"CWD /", codeDone, ""}, ask{"XRMD x", codeDone, "x is removed"},
		ask{"MKD d", codeFailed, "d: file exists"}, ask{"MKD d/", codeFailed, "d/: file exists"}, ask{"MKD d/a.txt", codeFailed, "d/a.txt: file exists"}, ask{"MKD none/x", codeFailed, "none/x: no such"}, ask{"MKD with space/x", codeFailed, "with space/x: not a directory"},
		ask{"MKD y/", codePath, `"/y"`}, ask{"RMD y/", codeDone, ""}, ask{"RMD d", codeFailed, "d: directory not empty"}, ask{"RMD d/a.txt", codeFailed, "d/a.txt: not a directory"}, ask{"RMD none", codeFailed, "none: no such"}, ask{"RMD /", codeFailed, "/: permission denied"},
		ask{"DELE d", codeFailed, "d: is a directory"}, ask{"DELE none", codeFailed, "none: no such"}, ask{"DELE dirlink", codeDone, "dirlink is removed"}, ask{"SIZE d/a.txt", codeFile, "5"}, ask{"DELE -la", codeDone, ""}, ask{"DELE bad\xe9", codeDone, "bad\xe9 is removed"},
		ask{"CWD d/a.txt", codeFailed, "d/a.txt: not a directory"}, ask{"CWD none", codeFailed, "none: no such"}, ask{"PWD", codePath, `"/" is`},

		ask{"RNTO x", codeSequence, "RNFR"}, ask{"RNFR none", codeFailed, "none: no such"}, ask{"RNTO x", codeSequence, "RNFR"},
		ask{"RNFR d/a.txt", codePending, "RNTO"}, ask{"RNTO with space", codeDone, "renamed to with space"}, ask{"SIZE d/a.txt", codeFailed, ""}, ask{"SIZE with space", codeFile, "5"},
		// An RNFR that fails takes back the one before; an RNTO counts once.
		ask{"RNFR with space", codePending, ""}, ask{"RNFR none", codeFailed, ""}, ask{"RNTO lost", codeSequence, ""}, ask{"SIZE with space", codeFile, "5"}, ask{"RNFR with space", codePending, ""},
		ask{"RNTO none/x", codeFailed, "none/x: no such"}, ask{"RNTO lost", codeSequence, ""},
		ask{"RNFR with space", codePending, ""}, ask{"NOOP", codeOK, ""}, ask{"CWD d", codeDone, ""}, ask{"RNTO ../b", codeDone, ""}, ask{"SIZE /b", codeFile, "5"}, ask{"CWD /", codeDone, ""},
		ask{"RNFR d", codePending, ""}, ask{"RNTO d/sub/x", codeFailed, "d/sub/x: invalid argument"}, ask{"RNFR b", codePending, ""}, ask{"RNTO d", codeFailed, "d: "}, ask{"RNFR d", codePending, ""}, ask{"RNTO b", codeFailed, "b: "},
		ask{"RNFR d", codePending, ""}, ask{"RNTO e", codeDone, ""}, ask{"SIZE e/sub/deep", codeFile, "4"}, ask{"RNFR ln", codePending, ""}, ask{"RNTO ln2", codeDone, ""}, ask{"MLST ln2", codeDone, "slink:d/a.txt"},
	)
}

// Names that are refused, by whatever command they come.
func TestRefusedNames(t *testing.T) {
	c := startServer(t, hasty).login(t, "alice")
	c.mustPut("/f", []byte("x"))
	long := strings.Repeat("n", 256)
	for _, name := range []string{"\xffx", "a\x00b", long, "/" + strings.Repeat("d/", 10) + long} {
		for _, verb := range []string{"MKD", "RMD", "DELE", "CWD", "SIZE", "MDTM", "MLST", "STAT", "RNFR", "AVBL", "MFMT 20200102030405", "SITE CHMOD 644", "SITE SYMLINK x", "HASH", "XCRC", "SITE SNAPSHOT"} {
			c.asks(ask{verb + " " + name, codeBadName, "name not allowed"})
		}
		c.asks(ask{"RNFR f", codePending, ""}, ask{"RNTO " + name, codeBadName, "name not allowed"})
		for _, verb := range []string{"STOR", "APPE", "STOU", "RETR", "LIST", "NLST", "MLSD"} {
			c.do("EPSV", codeExtPassive)
			c.asks(ask{verb + " " + name, codeBadName, "name not allowed"})
		}
	}
	c.wantNames("/", "f")
}

// STOU makes a name of its own, APPE goes on with what is there, REST begins in the middle.
func TestUploadCommands(t *testing.T) {
	ts := startServer(t, hasty)
	c := ts.login(t, "alice")
	c.do("MKD d", codePath)
	var names []string
	for _, line := range []string{"STOU", "STOU", "STOU d/scan.pdf", "STOU d/scan.pdf", "STOU d/scan.pdf"} {
		c.do("EPSV", codeExtPassive)
		s, err := c.socket()
		if err != nil {
			t.Fatal(err)
		}
		name, ok := strings.CutPrefix(c.do(line, codeOpening).text(), "FILE: ")
		if !ok {
			t.Fatalf("%s: no name in the reply", line)
		}
		if _, err := s.nc.Write([]byte(name)); err != nil {
			t.Fatal(err)
		}
		s.close()
		c.want(codeClosingData)
		c.wantFile(name, name)
		names = append(names, name)
	}
	if names[2] != "d/scan.pdf" || names[0] == names[1] || names[3] == names[4] || !strings.HasPrefix(names[3], "d/scan-") || !strings.HasSuffix(names[3], ".pdf") {
		t.Errorf("names %q", names)
	}

	put := func(want int, body string, lines ...string) {
		t.Helper()
		err := c.put([]byte(body), lines...)
		if want == codeClosingData {
			if err != nil {
				t.Errorf("%q: %v", lines, err)
			}
			return
		}
		wantRefused(t, strings.Join(lines, ", "), err, want)
	}
	put(codeClosingData, "hello", "APPE a")
	put(codeClosingData, " world", "APPE a")
	c.wantFile("a", "hello world")
	put(codeClosingData, "W", "REST 6", "STOR a") // from there on, everything is new
	c.wantFile("a", "hello W")
	put(codeClosingData, "!", "REST 3", "APPE a") // the end is where APPE says
	c.wantFile("a", "hello W!")
	put(codeClosingData, "x", "REST 3", "NOOP", "STOR a")
	c.wantFile("a", "helx")
	put(codeClosingData, "new", "REST 0", "STOR a")
	c.wantFile("a", "new")
	c.asks(ask{"REST 2", codePending, ""}, ask{"PWD", codePath, ""})
	put(codeClosingData, "whole", "STOR a") // another command took the offset back
	c.wantFile("a", "whole")
	put(codeBadRestart, "x", "REST 6", "STOR a")
	put(codeBadRestart, "x", "REST 6", "STOR fresh")
	c.asks(ask{"SIZE fresh", codeFailed, "no such"})
	put(codeFailed, "x", "STOR d")
	put(codeFailed, "x", "STOR none/x")
	put(codeFailed, "x", "APPE a/x")
	c.wantFile("a", "whole")

	// ALLO is the size of the file, whatever is there already.
	put(codeAborted, "four", "ALLO 5", "STOR b")
	c.asks(ask{"SIZE b", codeFile, "4"})
	c.wantNames("/", append([]string{"a", "d"}, slices.Sorted(slices.Values(names[:2]))...)...)
	put(codeClosingData, "5", "ALLO 5", "REST 4", "STOR b")
	c.wantFile("b", "four5")
	put(codeAborted, "four", "ALLO 5", "STOR c")
	put(codeClosingData, "5", "ALLO 1", "REST 4", "STOR c")
	put(codeClosingData, "67", "ALLO 7", "APPE c")
	c.wantFile("c", "four567")
	put(codeClosingData, "longer", "ALLO 1", "STOR c")
	put(codeClosingData, "x", "STOR c") // it counts once
	put(codeClosingData, "x", "ALLO 100 R 10", "STOR c")
	put(codeAborted, "x", "ALLO 2", "STOR c")
	c.wantFile("c", "x")

	// RETR from the middle, of all kinds of files.
	for _, at := range []struct {
		line, want string
		code       int
	}{{"REST 2", "ole", 0}, {"REST 5", "", 0}, {"REST 6", "", codeBadRestart}} {
		body, err := c.get(at.line, "RETR a")
		if at.code != 0 {
			wantRefused(t, at.line, err, at.code)
		} else if err != nil || string(body) != at.want {
			t.Errorf("%s, RETR: %q, %v, want %q", at.line, body, err, at.want)
		}
	}
	for _, name := range []string{"none", "d", "a/x"} {
		_, err := c.get("RETR " + name)
		wantRefused(t, "RETR "+name, err, codeFailed)
	}
}

// A snapshot can be read and not be changed, by no command.
func TestHistory(t *testing.T) {
	ts := startServer(t, hasty)
	c := ts.login(t, "alice")
	c.mustPut("/f", []byte("first"))
	c.do("SITE SNAPSHOT", codeOK)
	c.mustPut("/f", []byte("second"))
	c.wantFile("/.snapshots/latest/f", "first")
	c.wantNames("/.snapshots/latest", "f")
	if n := len(c.names("/.snapshots")); n != 2 {
		t.Errorf("%d names in .snapshots, want 2", n)
	}
	c.asks(
		ask{"SIZE /.snapshots/latest/f", codeFile, "5"}, ask{"CWD .snapshots/latest", codeDone, ""}, ask{"MLST f", codeDone, "UNIX.mode=0444;"},
		ask{"DELE f", codeFailed, "f: permission denied"}, ask{"MKD x", codeFailed, "x: permission denied"}, ask{"RMD /.snapshots/latest", codeFailed, "permission denied"},
		ask{"SITE CHMOD 777 f", codeFailed, "permission denied"}, ask{"SITE UTIME 202001010000 f", codeFailed, "permission denied"}, ask{"MFMT 20200101000000 f", codeFailed, "permission denied"},
		ask{"MDTM 20200101000000 f", codeFailed, "permission denied"}, ask{"SITE SYMLINK x y", codeFailed, "permission denied"},
		ask{"RNFR f", codePending, ""}, ask{"RNTO /g", codeFailed, "permission denied"}, ask{"RNFR /f", codePending, ""}, ask{"RNTO f2", codeFailed, "permission denied"},
		ask{"RNFR /f", codePending, ""}, ask{"RNTO /.snapshots", codeFailed, "permission denied"}, ask{"MKD /.snapshots", codeFailed, "permission denied"}, ask{"DELE /.snapshots", codeFailed, ""},
		ask{"SIZE /.snapshots/none/f", codeFailed, "no such"},
	)
	for _, line := range []string{"STOR f", "APPE f", "STOR new", "APPE new", "STOU f", "STOU", "STOR /.snapshots", "STOR /.snapshots/x"} {
		wantRefused(t, line, c.put([]byte("x"), line), codeFailed)
	}
	c.wantFile("/.snapshots/latest/f", "first")
	c.wantFile("/f", "second")
}

// What is not permitted is refused, and says so.
func TestAccess(t *testing.T) {
	var h house
	ts := startServer(t, hasty, withHouse(t, &h, vfs.Config{}, map[string]resident{
		"full": {perms: vfs.PermFull}, "upload": {perms: vfs.PermUploadOnly}, "append": {perms: vfs.PermAppendOnly}, "read": {perms: vfs.PermReadOnly},
	}))
	full := ts.dial(t).login("full")
	full.do("MKD /d", codePath)
	full.mustPut("/d/f", []byte("old"))
	full.do("SITE SNAPSHOT", codeOK)
	const denied = codeFailed
	for _, row := range []struct {
		line                   string
		upload, appends, reads int
	}{
		{"STOR /d/f", denied, denied, denied}, {"APPE /d/f", denied, denied, denied}, {"STOU /d/f", 0, 0, denied},
		{"STOR /d/%s", 0, 0, denied}, {"RETR /d/f", denied, 0, 0}, {"LIST /d", 0, 0, 0}, {"MLSD /.snapshots", denied, 0, 0},
		{"DELE /d/f", denied, denied, denied}, {"RMD /d", denied, denied, denied}, {"MKD /d/%s.d", codePath, codePath, denied},
		{"SIZE /d/f", codeFile, codeFile, codeFile}, {"MDTM /d/f", codeFile, codeFile, codeFile}, {"MFMT 20200101000000 /d/f", denied, denied, denied},
		{"SITE CHMOD 600 /d/f", denied, denied, denied}, {"XMD5 /d/f", denied, codeDone, codeDone}, {"SITE SNAPSHOT", denied, denied, denied}, {"SITE SYMLINK x /y", denied, denied, denied},
		{"MFMT 20200101000000 /d/%s", codeFile, codeFile, denied}, {"SITE UTIME 202001010000 /d/%s", codeOK, codeOK, denied}, // one's own
		{"CWD /.snapshots/latest", denied, codeDone, codeDone},
	} {
		for user, want := range map[string]int{"upload": row.upload, "append": row.appends, "read": row.reads} {
			c := ts.dial(t).login(user)
			line := strings.ReplaceAll(row.line, "%s", user)
			verb, _, _ := strings.Cut(line, " ")
			var err error
			switch verb {
			case "STOR", "APPE", "STOU":
				err = c.put([]byte("new"), line)
			case "RETR", "LIST", "MLSD":
				_, err = c.get(line)
			default:
				if want == denied && strings.HasSuffix(line, "/read") {
					c.do(line, codeFailed) // there is none
				} else {
					c.do(line, want)
				}
				continue
			}
			if want != 0 {
				wantRefused(t, user+": "+line, err, want)
			} else if err != nil {
				t.Errorf("%s: %s: %v", user, line, err)
			}
		}
	}
	for user, from := range map[string]string{"upload": "/d/f", "append": "/d/f", "read": "/d/f"} {
		ts.dial(t).login(user).asks(ask{"RNFR " + from, codePending, ""}, ask{"RNTO /d/g", codeFailed, "/d/g: permission denied"})
	}
	own := ts.dial(t).login("upload")
	own.mustPut("/d/x.tmp", []byte("own"))
	own.asks(ask{"RNFR /d/x.tmp", codePending, ""}, ask{"RNTO /d/x", codeDone, ""}, ask{"RNFR /d/x", codePending, ""}, ask{"RNTO /d/f", codeFailed, "permission denied"})
	full.wantFile("/d/f", "old")
	full.wantFile("/d/x", "own")
}

// Several shares lie below a root that cannot be changed.
func TestSeveralShares(t *testing.T) {
	name := func(s string) vfs.Name { return mustName(t, s) }
	var h house
	ts := startServer(t, hasty, withHouse(t, &h,
		vfs.Config{Shares: []vfs.ShareConfig{{Name: "one", When: vfs.WhenManual}, {Name: "two", When: vfs.WhenManual}}},
		map[string]resident{"alice": {vfs.PermFull, []vfs.Mount{{At: name("/one"), Share: "one", Root: name("/")}, {At: name("/deux"), Share: "two", Root: name("/sub")}}}},
	))
	c := ts.dial(t).login("alice")
	c.wantNames("/", "deux", "one")
	c.mustPut("/one/f", []byte("1"))
	c.mustPut("/deux/f", []byte("22"))
	c.asks(
		ask{"MKD /x", codeFailed, "/x: permission denied"}, ask{"RMD /one", codeFailed, "/one: permission denied"}, ask{"DELE /one", codeFailed, ""}, ask{"RNFR /one", codePending, ""}, ask{"RNTO /x", codeFailed, "permission denied"},
		ask{"RNFR /one/f", codePending, ""}, ask{"RNTO /deux/g", codeParameter, "/deux/g: operation not supported"}, ask{"SITE SNAPSHOT /none", codeFailed, ""}, ask{"AVBL", codeFile, ""}, ask{"ALLO 10", codeOK, ""},
		ask{"SITE SNAPSHOT one", codeOK, ""}, ask{"CWD deux", codeDone, ""}, ask{"SIZE f", codeFile, "2"}, ask{"CDUP", codeDone, `"/"`},
	)
	wantRefused(t, "STOR /f", c.put([]byte("x"), "STOR /f"), codeFailed)
	c.wantFile("/one/.snapshots/latest/f", "1")
	if one, two := len(h.history(t, "one")), len(h.history(t, "two")); one != 1 || two != 0 {
		t.Errorf("snapshots: %d and %d, want 1 and 0", one, two)
	}
}

func mustName(tb testing.TB, s string) vfs.Name {
	tb.Helper()
	n, err := vfs.ParseName(s, vfs.Limits{})
	if err != nil {
		tb.Fatal(err)
	}
	return n
}

// The size that ALLO announces is that of the whole file: whether it is beyond the quota only its bytes
// tell, for it may replace a file or add to it.
func TestAnnouncedWithQuota(t *testing.T) {
	ts := startShare(t, func(c *vfs.ShareConfig) { c.Quota = 200_000 })
	c := ts.dial(t).login("alice")
	c.mustPut("/f", make([]byte, 150_000))
	c.asks(ask{"ALLO 160000", codeOK, ""})
	c.mustPut("/f", make([]byte, 160_000))
	c.asks(ask{"ALLO 180000", codeOK, ""})
	if err := c.put(make([]byte, 20_000), "APPE /f"); err != nil {
		t.Errorf("append: %v", err)
	}
	c.asks(ask{"ALLO 300000", codeOK, ""})
	wantRefused(t, "beyond the quota", c.put(make([]byte, 300_000), "STOR /f"), codeQuota)
	c.asks(ask{"SIZE /f", codeFile, "180000"})
}

// A full spool is 452, before and in the middle of a transfer; then there is room again.
func TestNoSpace(t *testing.T) {
	const limit = 400_000
	var h house
	ts := startServer(t, hasty, withHouse(t, &h, vfs.Config{Limits: vfs.Limits{SpoolBytes: limit, ReserveBytes: 1}}, map[string]resident{"alice": {perms: vfs.PermFull}}))
	c := ts.dial(t).login("alice")
	c.mustPut("/old", make([]byte, 100_000))
	c.asks(ask{"ALLO 400000", codeNoSpace, "no space"})
	for _, line := range []string{"STOR /new", "STOR /old"} {
		d := c.begins(t, line)
		_, _ = d.Write(make([]byte, 2*limit)) // the server stops reading in the middle
		d.Close()
		c.wantNoSpace(t, line)
	}
	c.wantNames("/", "old")
	c.asks(ask{"SIZE /old", codeFile, "100000"}, ask{"DELE /new", codeDone, ""}, ask{"SIZE /new", codeFailed, "no such"}) // the partial
	c.mustPut("/more", make([]byte, 150_000))
	for _, size := range []int{60_000, 6_000, 0} { // to the brim
		var err error
		for i := 0; err == nil; i++ {
			err = c.put(make([]byte, size), "STOR /"+strconv.Itoa(size)+"-"+strconv.Itoa(i))
		}
		wantRefused(t, "STOR", err, codeNoSpace)
	}
	c.asks(ask{"MKD /d", codeNoSpace, "/d: no space left"}, ask{"SITE SYMLINK x /l", codeNoSpace, "/l: no space left"}, ask{"DELE /0-0", codeDone, ""})
	c.do("SITE SNAPSHOT", codeOK) // drains it
	c.mustPut("/again", make([]byte, 150_000))
	c.wantFile("/again", string(make([]byte, 150_000)))
	c.asks(ask{"SIZE /.snapshots/latest/more", codeFile, "150000"}, ask{"SIZE /.snapshots/latest/again", codeFailed, ""}, ask{"SIZE /.snapshots/latest/new", codeFailed, ""})
}

// wantNoSpace reads the final reply of a transfer.
func (c *client) wantNoSpace(t *testing.T, line string) {
	t.Helper()
	if r := c.want(codeNoSpace); !strings.Contains(r.text(), "no space left") {
		t.Errorf("%s: %v", line, r)
	}
}
