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
		{name: "less than ALLO", end: func(_ *client, d *data) error { return d.Close() }, codes: []int{codeAborted}, before: "ALLO 150001"},
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
			patient := startServer(t, withTLS(t))
			m := abortMatrix{
				dial: transport.dial, body: bytes.Repeat([]byte("0123456789"), 15_000), patient: patient,
				// Of the same share. Long enough for a handshake, on a machine that is busy.
				hasty: startServer(t, withTLS(t), func(c *Config) {
					c.Sessions, c.Auth, c.DataTimeout = patient.cfg.Sessions, patient.cfg.Auth, 500*time.Millisecond
				}),
				judge: transport.dial(patient, t).login("judge"),
			}
			for _, way := range cutWays() {
				if way.tlsOnly && !transport.tls {
					continue
				}
				for moment, sent := range map[string]int{"first": 0, "middle": len(m.body) / 2, "last": len(m.body)} {
					for _, over := range []bool{false, true} {
						m.n++
						one := m
						name := fmt.Sprintf("%s/%s/over=%v", way.name, moment, over)
						t.Run(name, func(t *testing.T) {
							if way.silent { // most of it is waiting
								t.Parallel()
								one.judge = one.dial(patient, t).login("judge")
							}
							one.run(t, way, sent, over)
						})
					}
				}
			}
		})
	}
}

type abortMatrix struct {
	dial           func(*testServer, testing.TB) *client
	patient, hasty *testServer
	body           []byte
	judge          *client // somebody else
	n              int
}

// run cuts one upload off when the server has so many bytes of it.
func (m *abortMatrix) run(t *testing.T, way cutWay, sent int, over bool) {
	ts := m.patient
	if way.silent {
		ts = m.hasty
	}
	const old = "the good old file"
	dir := fmt.Sprintf("/%d", m.n)
	file := dir + "/f"
	judge := m.judge
	judge.tb = t
	judge.do("MKD "+dir, codePath)
	var want []string
	if over {
		judge.mustPut(file, []byte(old))
		want = []string{"f"}
	}

	c := m.dial(ts, t).login("alice")
	lines := []string{"STOR " + file}
	if way.before != "" {
		lines = []string{way.before, lines[0]}
	}
	d := c.begins(t, lines...)
	if _, err := d.Write(m.body[:sent]); err != nil {
		t.Fatal(err)
	}
	if !way.silent {
		c.wantReceived(sent)
	}
	judge.wantNames(dir, want...)
	if err := way.end(c, d); err != nil {
		t.Fatal(err)
	}
	for _, code := range way.codes {
		c.want(code)
	}
	if way.codes == nil {
		ts.wantSessionEnd(t, c)
	}
	_ = d.raw.Close()

	judge.do("SITE SNAPSHOT", codeOK)
	for _, at := range []string{"", "/.snapshots/latest"} {
		judge.wantNames(at+dir, want...)
		if over {
			judge.wantFile(at+file, old)
		} else {
			judge.do("SIZE "+at+file, codeFailed)
		}
	}
	m.resume(t, m.dial(m.patient, t).login("alice"), file, sent, over)
	judge.wantFile(file, string(m.body))
}

// resume goes on with what was cut off, in another session, or begins again where the old
// file is.
func (m *abortMatrix) resume(t *testing.T, c *client, file string, sent int, over bool) {
	t.Helper()
	switch {
	case over:
		// Going by the old file's size would make a file of two halves.
		size := c.do("SIZE "+file, codeFile).text()
		wantRefused(t, "APPE", c.put(m.body[len(size):], "APPE "+file), codeFailed)
		wantRefused(t, "REST", c.put(m.body, "REST "+size, "STOR "+file), codeFailed)
		wantRefused(t, "REST before the end", c.put(m.body, "REST 5", "STOR "+file), codeFailed)
		c.mustPut(file, m.body)
		return
	case sent == 0:
		c.do("SIZE "+file, codeFailed)
		c.mustPut(file, m.body)
		return
	}
	c.asks(ask{"SIZE " + file, codeFile, fmt.Sprint(sent)})
	lines := []string{"APPE " + file}
	if m.n%4 < 2 {
		lines = []string{fmt.Sprintf("REST %d", sent), "STOR " + file}
	}
	if err := c.put(m.body[sent:], lines...); err != nil {
		t.Errorf("%q: %v", lines, err)
	}
}

// An ABOR that was sent right behind the transfer, before the server got to that, counts.
func TestAbortSentAhead(t *testing.T) {
	ts := startServer(t, hasty, withTLS(t))
	c := ts.dial(t).login("alice")
	c.mustPut("old", []byte("old"))
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
