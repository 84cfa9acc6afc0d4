package ftpsrv

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// cutWay is a way in which an upload ends that is not complete.
type cutWay struct {
	name string
	// end cuts the upload off; codes are the replies to it, none when the control connection
	// has ended, too.
	end   func(c *client, d *data) error
	codes []int

	tlsOnly bool   // in plain text it is how every upload ends
	before  string // a line before STOR
	silent  bool   // nothing happens until the time is over
	scant   bool   // it is in order, and too little: that is said when the grace is over
}

func cutWays() []cutWay {
	return []cutWay{
		{name: "killed", end: func(c *client, d *data) error { return errors.Join(c.raw.Close(), d.raw.Close()) }},
		{name: "killed, data first", end: func(c *client, d *data) error { return errors.Join(d.raw.Close(), c.raw.Close()) }},
		{name: "both reset", end: func(c *client, d *data) error { return errors.Join(c.drop(), d.cut()) }},
		{name: "data reset", end: func(_ *client, d *data) error { return d.cut() }, codes: []int{codeAborted}},
		{name: "ABOR", end: func(c *client, _ *data) error { return c.send("ABOR") }, codes: []int{codeAborted, codeClosingData}},
		{name: "ABOR, data closed", end: func(c *client, d *data) error { return errors.Join(c.send("ABOR"), d.Close()) }, codes: []int{codeAborted, codeClosingData}},
		{name: "Telnet ABOR", end: telnetAbort, codes: []int{codeAborted, codeClosingData}},
		{name: "QUIT and gone", end: func(c *client, d *data) error { return errors.Join(c.send("QUIT"), c.raw.Close(), d.raw.Close()) }},
		{name: "control closed", end: func(c *client, _ *data) error { return c.raw.Close() }},
		{name: "silent", end: func(*client, *data) error { return nil }, codes: []int{codeAborted}, silent: true},
		{name: "no close_notify", end: func(_ *client, d *data) error { return d.raw.Close() }, codes: []int{codeAborted}, tlsOnly: true},
		{name: "half closed, no close_notify", end: func(_ *client, d *data) error { return d.raw.CloseWrite() }, codes: []int{codeAborted}, tlsOnly: true},
		{name: "less than ALLO", end: func(_ *client, d *data) error { return d.Close() }, codes: []int{codeAborted}, before: "ALLO 150001", scant: true},
	}
}

// telnetAbort is ABOR as RFC 959 section 4.1.3 says it, and as BSD's ftp sends it: IAC IP
// IAC as urgent data, of which the last byte does not appear in the stream, and DM ABOR.
func telnetAbort(c *client, _ *data) error {
	if c.conn != c.raw {
		return c.send("\xff\xf4\xff\xf2ABOR")
	}
	sc, err := c.raw.SyscallConn()
	if err != nil {
		return err
	}
	var sent error
	err = sc.Control(func(fd uintptr) { sent = unix.Sendto(int(fd), []byte("\xff\xf4\xff"), unix.MSG_OOB, nil) })
	return errors.Join(err, sent, c.send("\xf2ABOR"))
}

// wantReceived waits until the server has bytes of the upload.
func (c *client) wantReceived(n int) {
	c.tb.Helper()
	deadline := time.Now().Add(patience)
	for time.Now().Before(deadline) {
		r := c.do("STAT", codeSystem)
		if strings.Contains(strings.Join(r.lines, "\n"), fmt.Sprintf(" %d bytes received", n)) {
			return
		}
	}
	c.tb.Fatalf("%d bytes do not arrive", n)
}

// TestAbortMatrix: whatever cuts an upload off, at whatever moment: it is not in the live
// tree and in no snapshot, the old file stays, and what has arrived can be resumed.
func TestAbortMatrix(t *testing.T) {
	for _, transport := range []struct {
		name string
		tls  bool
		dial func(*testServer, testing.TB) *client
	}{
		{"plain", false, (*testServer).dial}, {"explicit TLS", true, (*testServer).dialTLS}, {"implicit TLS", true, (*testServer).dialImplicit},
	} {
		if testing.Short() && transport.name == "implicit TLS" { // after the handshake it is the explicit one
			continue
		}
		t.Run(transport.name, func(t *testing.T) {
			patient := startServer(t, withTLS(t), watchful)
			m := abortMatrix{
				dial: transport.dial, body: bytes.Repeat([]byte("0123456789"), 15_000), patient: patient,
				// Long enough for a handshake, on a machine that is busy.
				hasty: patient.beside(t, withTLS(t), func(c *Config) { c.DataTimeout = 3 * time.Second }),
				usual: patient.beside(t, withTLS(t)),
				judge: transport.dial(patient, t).login("judge"),
			}
			var silent []func()
			for _, way := range cutWays() {
				if way.tlsOnly && !transport.tls {
					continue
				}
				for moment, sent := range map[string]int{"first": 0, "middle": len(m.body) / 2, "last": len(m.body)} {
					for _, over := range []bool{false, true} {
						m.n++
						one := cutUpload{abortMatrix: m, way: way, sent: sent, over: over}
						name := fmt.Sprintf("%s/%s/over=%v", way.name, moment, over)
						if way.silent { // while its time passes, the others are cut off
							one.begin(t)
							silent = append(silent, func() { t.Run(name, one.end) })
							continue
						}
						t.Run(name, func(t *testing.T) {
							one.begin(t)
							one.end(t)
						})
					}
				}
			}
			for _, end := range silent {
				end()
			}
		})
	}
}

type abortMatrix struct {
	dial                  func(*testServer, testing.TB) *client
	patient, hasty, usual *testServer // of one share
	body                  []byte
	judge                 *client // somebody else
	n                     int
}

// cutUpload is an upload that is cut off when the server has so many bytes of it.
type cutUpload struct {
	abortMatrix
	way  cutWay
	sent int
	over bool

	ts        *testServer
	dir, file string
	names     []string // in dir, before the upload and after it
	c         *client
	d         *data
}

// standing is what a file has that an upload would replace.
const standing = "the good old file"

// begin has the server receive a part.
func (u *cutUpload) begin(t *testing.T) {
	t.Helper()
	u.ts = u.patient
	switch {
	case u.way.silent:
		u.ts = u.hasty
	case u.way.scant:
		u.ts = u.usual
	}
	u.dir = fmt.Sprintf("/%d", u.n)
	u.file = u.dir + "/f"
	u.judge.tb = t
	u.judge.do("MKD "+u.dir, codePath)
	if u.over {
		u.judge.mustAnnounce(u.file, []byte(standing))
		u.names = []string{"f"}
	}
	u.c = u.dial(u.ts, t).login("alice")
	lines := []string{"STOR " + u.file}
	if u.way.before != "" {
		lines = []string{u.way.before, lines[0]}
	}
	u.d = u.c.begins(t, lines...)
	if _, err := u.d.Write(u.body[:u.sent]); err != nil {
		t.Fatal(err)
	}
	if !u.way.silent {
		u.c.wantReceived(u.sent)
	}
	u.judge.wantNames(u.dir, u.names...)
}

// end cuts it off, looks at what is there, and goes on with it.
func (u *cutUpload) end(t *testing.T) {
	u.c.tb, u.judge.tb = t, t
	if err := u.way.end(u.c, u.d); err != nil {
		t.Fatal(err)
	}
	for _, code := range u.way.codes {
		u.c.want(code)
	}
	if u.way.codes == nil {
		u.ts.wantSessionEnd(t, u.c)
	}
	_ = u.d.raw.Close()

	u.judge.do("SITE SNAPSHOT", codeOK)
	for _, at := range []string{"", "/.snapshots/latest"} {
		u.judge.wantNames(at+u.dir, u.names...)
		if u.over {
			u.judge.wantFile(at+u.file, standing)
		} else {
			u.judge.do("SIZE "+at+u.file, codeFailed)
		}
	}
	u.resume(t, u.dial(u.patient, t).login("alice"))
	u.judge.wantFile(u.file, string(u.body))
}

// resume goes on with what was cut off, in another session, or begins again where the old
// file is.
func (u *cutUpload) resume(t *testing.T, c *client) {
	t.Helper()
	file := u.file
	switch {
	case u.over:
		// Going by the old file's size would make a file of two halves.
		size := c.do("SIZE "+file, codeFile).text()
		wantRefused(t, "APPE", c.put(u.body[len(size):], "APPE "+file), codeFailed)
		wantRefused(t, "REST", c.put(u.body, "REST "+size, "STOR "+file), codeFailed)
		wantRefused(t, "REST before the end", c.put(u.body, "REST 5", "STOR "+file), codeFailed)
		c.mustAnnounce(file, u.body)
		return
	case u.sent == 0:
		c.do("SIZE "+file, codeFailed)
		c.mustAnnounce(file, u.body)
		return
	}
	c.asks(ask{"SIZE " + file, codeFile, fmt.Sprint(u.sent)})
	lines := []string{"APPE " + file}
	if u.n%4 < 2 {
		lines = []string{fmt.Sprintf("REST %d", u.sent), "STOR " + file}
	}
	if err := c.announce(len(u.body), u.body[u.sent:], lines...); err != nil {
		t.Errorf("%q: %v", lines, err)
	}
}

// An ABOR that was sent right behind the transfer, before the server got to that, counts.
func TestAbortSentAhead(t *testing.T) {
	ts := startServer(t, watchful, withTLS(t))
	c := ts.dial(t).login("alice")
	c.mustAnnounce("old", []byte("old"))
	for _, file := range []string{"old", "new"} {
		for between, codes := range map[string][]int{"": {codeClosingData}, "NOOP\r\n": {codeOK, codeClosingData}, "STAT\r\nNOOP\r\n": {0, codeOK, codeClosingData}} {
			s, err := c.socket()
			if err != nil {
				t.Fatal(err)
			}
			if _, err := c.conn.Write([]byte("STOR " + file + "\r\n" + between + "ABOR\r\n")); err != nil {
				t.Fatal(err)
			}
			s.close()
			var got []int
			for len(got) < len(codes)+1 {
				if r, err := c.receive(); err != nil {
					t.Fatalf("%q: %v after %v", between, err, got)
				} else if r.code != codeOpening && r.code != codeSystem {
					got = append(got, r.code)
				} else if r.code == codeSystem {
					got = append(got, 0)
				}
			}
			want := append([]int{codeAborted}, codes...)
			if between != "" && strings.HasPrefix(between, "STAT") && got[0] == 0 {
				got[0], got[1] = got[1], got[0] // of the transfer while it ends
			}
			if fmt.Sprint(got) != fmt.Sprint(want) {
				t.Errorf("STOR, %q, ABOR: %v, want %v", between, got, want)
			}
			c.do("NOOP", codeOK)
		}
	}
	c.wantNames("/", "old")
	c.wantFile("old", "old")
}

// An APPE that is cut off leaves the file as it was, and can be sent again.
func TestAppendCutOff(t *testing.T) {
	ts := startServer(t, hasty)
	c := ts.login(t, "logger")
	c.mustPut("log", []byte("one\n"))
	for _, line := range []string{"two\n", "three\n"} {
		d := c.begins(t, "APPE log")
		if _, err := d.Write([]byte(line[:2])); err != nil {
			t.Fatal(err)
		}
		if err := d.cut(); err != nil {
			t.Fatal(err)
		}
		c.want(codeAborted)
		c.asks(ask{"SIZE log", codeFile, ""})
		if err := c.put([]byte(line), "APPE log"); err != nil {
			t.Error(err)
		}
	}
	c.wantFile("log", "one\ntwo\nthree\n")
}
