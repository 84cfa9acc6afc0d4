package ftpsrv

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/snapgate/gateway/vfs"
)

// The dialogues of the kinds of devices that the server is there for. Each says what such
// devices do that others do not.

// snapshots is the number of snapshots of the share.
func (ts *testServer) snapshots(tb testing.TB) int {
	tb.Helper()
	all, err := ts.local.Repo.Snapshots(tb.Context(), "main")
	if err != nil {
		tb.Fatal(err)
	}
	return len(all)
}

func (ts *testServer) commit(tb testing.TB) {
	tb.Helper()
	if err := ts.local.Commit(); err != nil {
		tb.Fatal(err)
	}
}

// leave ends the connection as devices should.
func (c *client) leave() {
	c.tb.Helper()
	c.do("QUIT", codeGoodbye)
	c.wantEnd()
}

// A camera looks for its directory and makes it level by level with the old commands, asks
// for the size of what it is about to store, and falls back from EPSV to PASV to PORT.
func TestCamera(t *testing.T) {
	ts := startServer(t, hasty)
	image := func(i int) []byte { return bytes.Repeat([]byte{0xff, 0xd8, byte(i), '\r', '\n', 0}, 5000) }
	for i, mode := range []string{"PASV", "PORT", "EPSV"} {
		c := ts.dial(t).login("cam1")
		c.asks(ask{"SYST", codeSystemType, "UNIX"}, ask{"PWD", codePath, `"/" is`}, ask{"TYPE I", codeOK, ""})
		for _, dir := range []string{"cam1", "2026-11-26", "08"} {
			if i == 0 {
				c.asks(ask{"CWD " + dir, codeFailed, dir + ": no such"}, ask{"XMKD " + dir, codePath, ""})
			} else {
				c.asks(ask{"XMKD " + dir, codeFailed, dir + ": file exists"})
			}
			c.asks(ask{"CWD " + dir, codeDone, ""})
		}
		name := fmt.Sprintf("img%d.jpg", i)
		c.asks(ask{"XPWD", codePath, `"/cam1/2026-11-26/08" is`}, ask{"SIZE " + name, codeFailed, name + ": no such"})
		if mode != "EPSV" {
			c.asks(ask{"EPSV 2", codeNoNetProtocol, "(1)"}, ask{"EPSV", codeExtPassive, ""}) // whose port it cannot reach
		}
		c.mode = mode
		c.mustPut(name, image(i))
		c.asks(ask{"SIZE " + name, codeFile, "30000"})
		c.leave()
	}
	ts.commit(t)
	c := ts.dial(t).login("viewer")
	for _, at := range []string{"", "/.snapshots/latest"} {
		c.wantNames(at+"/cam1/2026-11-26/08", "img0.jpg", "img1.jpg", "img2.jpg")
		for i := range 3 {
			c.wantFile(fmt.Sprintf("%s/cam1/2026-11-26/08/img%d.jpg", at, i), string(image(i)))
		}
	}
}

// A firewall looks at what it has put, tries every night with an empty file whether it may
// write, and deletes its oldest backups. The probe is in no snapshot, and makes none.
func TestFirewall(t *testing.T) {
	ts := startShare(t, func(c *vfs.ShareConfig) { c.When, c.SessionGrace = vfs.WhenBatch, time.Millisecond }, hasty)
	probe := func(line string) {
		c := ts.dial(t).login("fw01")
		c.do("TYPE I", codeOK)
		if err := c.put(nil, line); err != nil {
			t.Errorf("%s: %v", line, err)
		}
		c.asks(ask{"SIZE .probe", codeFile, "0"}, ask{"DELE .probe", codeDone, ""}, ask{"SIZE .probe", codeFailed, ""})
		c.leave()
		ts.wantSessionEnd(t, c)
		ts.commit(t)
	}
	probe("STOR .probe")
	probe("APPE .probe")
	if n := ts.snapshots(t); n != 0 {
		t.Errorf("probes left %d snapshots", n)
	}
	for night := range 4 {
		name := fmt.Sprintf("/backup/fw01-%d.cfg", night)
		body := strings.Repeat(fmt.Sprintf("set night %d\n", night), 100)
		c := ts.dial(t).login("fw01")
		c.do("MKD /backup", codePath, codeFailed)
		c.mustPut(name, []byte(body))
		c.asks(ask{"SIZE " + name, codeFile, "1200"}, ask{"STAT " + name, codeFile, " 1200 "}, ask{"MDTM " + name, codeFile, "20"})
		if got := c.mustGet("LIST " + name); !strings.Contains(got, " 1200 ") {
			t.Errorf("LIST after the upload: %q", got)
		}
		if night >= 2 { // keeps two
			old := strings.Split(c.mustGet("NLST /backup/fw01-*.cfg"), "\r\n")[0]
			c.do("DELE "+old, codeDone)
		}
		c.leave()
		ts.wantSessionEnd(t, c)
		ts.commit(t)
	}
	before := ts.snapshots(t)
	probe("STOR .probe")
	if n := ts.snapshots(t); n != before {
		t.Errorf("%d snapshots after a probe, %d before", n, before)
	}
	c := ts.dial(t).login("admin")
	c.wantNames("/backup", "fw01-2.cfg", "fw01-3.cfg")
	found := map[string]bool{}
	for _, snap := range c.names("/.snapshots") {
		for _, name := range c.names("/.snapshots/" + snap + "/backup") {
			found[name] = true
		}
	}
	if len(found) != 4 {
		t.Errorf("in the snapshots are %v, want all four nights", found)
	}
}

// A PBX asks for TLS and goes on without where there is none, and doubles the slashes of
// its paths. What it sends as text arrives as it is.
func TestPBX(t *testing.T) {
	for _, row := range []struct {
		name    string
		changes []func(*Config)
		auth    int
	}{
		{"without TLS", []func(*Config){hasty}, codeNotHere},
		{"with TLS", []func(*Config){hasty, withTLS(t)}, codeAuthAccepted},
	} {
		t.Run(row.name, func(t *testing.T) {
			ts := startServer(t, row.changes...)
			c := ts.dial(t)
			c.do("AUTH TLS", row.auth)
			if row.auth == codeAuthAccepted {
				c.startTLS()
				c.do("PBSZ 0", codeOK)
				c.do("PROT P", codeOK)
				c.protected = true
			}
			c.login("pbx")
			c.asks(
				ask{"CWD //recordings//2026//", codeFailed, "//recordings//2026//: no such"},
				ask{"MKD //recordings", codePath, `"/recordings"`}, ask{"MKD //recordings//2026//", codePath, `"/recordings/2026"`}, ask{"CWD //recordings//2026//", codeDone, `"/recordings/2026"`},
				ask{"TYPE A", codeOK, ""},
			)
			const records = "a,b\r\nc,d\ne\r\r\n\x1a"
			c.mustPut("//recordings//2026//cdr.csv", []byte(records))
			c.do("TYPE I", codeOK)
			c.mustPut("//recordings///2026/./1.wav", []byte("RIFF"))
			c.asks(ask{"SIZE //recordings//2026//cdr.csv", codeFile, fmt.Sprint(len(records))}, ask{"RNFR //recordings//2026//1.wav", codePending, ""}, ask{"RNTO //recordings//2026//call-1.wav", codeDone, ""})
			c.wantNames("//recordings//2026", "call-1.wav", "cdr.csv")
			c.leave()
			ts.commit(t)
			v := ts.dial(t).login("viewer")
			v.wantFile("/recordings/2026/cdr.csv", records)
			v.wantFile("/.snapshots/latest/recordings/2026/cdr.csv", records)
		})
	}
}

// A scanner sets all that can be set, and has the server choose the names.
func TestScanner(t *testing.T) {
	ts := startServer(t, hasty)
	c := ts.dial(t).login("scanner")
	c.mode = "PORT"
	c.asks(
		ask{"TYPE A N", codeOK, ""}, ask{"TYPE L 8", codeOK, ""}, ask{"MODE S", codeOK, ""}, ask{"STRU F", codeOK, ""}, ask{"ALLO 6 R 6", codeOK, ""}, ask{"NOOP", codeOK, ""},
		ask{"XMKD scans", codePath, ""}, ask{"XCWD scans", codeDone, ""},
	)
	names := map[string]string{}
	for page, line := range []string{"STOU", "STOU scan.pdf", "STOU scan.pdf", "STOU scan.pdf", "STOU /scans/scan.pdf"} {
		body := fmt.Sprintf("page %d", page)
		c.do("TYPE I", codeOK)
		s, err := c.socket()
		if err != nil {
			t.Fatal(err)
		}
		_, name, ok := strings.Cut(c.do(line, codeOpening).text(), "FILE: ")
		d, err := c.open(s)
		if err != nil || !ok || names[name] != "" {
			t.Fatalf("%s: %q, %v", line, name, err)
		}
		if _, err := d.Write([]byte(body)); err != nil {
			t.Fatal(err)
		}
		d.Close()
		c.want(codeClosingData)
		names[name] = body
	}
	c.leave()
	ts.commit(t)
	v := ts.dial(t).login("viewer")
	for name, body := range names {
		if !strings.HasPrefix(name, "/") {
			name = "/scans/" + name
		}
		v.wantFile(name, body)
		v.wantFile("/.snapshots/latest"+name, body)
	}
	if n := len(v.names("/scans")); n != 5 {
		t.Errorf("%d files, want 5", n)
	}
}

// WinSCP uploads under a temporary name, sets its time, deletes the target and renames. The
// temporary name is in no snapshot, and the version that was deleted is in one.
func TestWinSCP(t *testing.T) {
	ts := startServer(t, hasty, withTLS(t))
	var bodies []string
	for i := range 3 {
		body := strings.Repeat(fmt.Sprintf("version %d\n", i), 10_000)
		bodies = append(bodies, body)
		c := ts.dialTLS(t).login("office")
		c.asks(ask{"SYST", codeSystemType, ""}, ask{"FEAT", codeSystem, " MFMT|"}, ask{"OPTS UTF8 ON", codeOK, ""}, ask{"PWD", codePath, `"/"`}, ask{"TYPE I", codeOK, ""}, ask{"MKD /docs", map[bool]int{true: codePath, false: codeFailed}[i == 0], ""}, ask{"CWD /docs", codeDone, ""})
		_ = c.names("")
		c.mustPut("Bericht ä.pdf.filepart", []byte(body))
		ts.commit(t) // as batch may do now
		c.asks(ask{"MFMT 2024050607080" + fmt.Sprint(i) + " Bericht ä.pdf.filepart", codeFile, "Modify="})
		c.do("DELE Bericht ä.pdf", map[bool]int{true: codeFailed, false: codeDone}[i == 0])
		c.asks(ask{"RNFR Bericht ä.pdf.filepart", codePending, ""}, ask{"RNTO Bericht ä.pdf", codeDone, ""}, ask{"MDTM Bericht ä.pdf", codeFile, "2024050607080" + fmt.Sprint(i)})
		c.wantNames("", "Bericht ä.pdf")
		c.leave()
	}
	ts.commit(t)
	v := ts.login(t, "viewer")
	v.wantFile("/.snapshots/latest/docs/Bericht ä.pdf", bodies[2])
	v.asks(ask{"MDTM /.snapshots/latest/docs/Bericht ä.pdf", codeFile, "20240506070802"})
	found := map[string]bool{}
	for _, snap := range v.names("/.snapshots") {
		for _, name := range v.names("/.snapshots/" + snap + "/docs") {
			if name != "Bericht ä.pdf" {
				t.Errorf("snapshot %s has %q", snap, name)
			}
			found[v.mustGet("RETR /.snapshots/"+snap+"/docs/"+name)] = true
		}
	}
	for i, body := range bodies {
		if !found[body] {
			t.Errorf("version %d is in no snapshot", i)
		}
	}
}

// A router uses each connection for one file, by paths of every form.
func TestMikroTik(t *testing.T) {
	ts := startServer(t, hasty)
	admin := ts.dial(t).login("admin")
	admin.asks(ask{"MKD /router1", codePath, ""}, ask{"MKD /router1/daily", codePath, ""})
	paths := []string{"router1/auto.backup", "/router1/auto.rsc", "./router1/daily/a.backup", "/router1//daily/../daily/b.backup", "top.backup", "/router1/auto.backup"}
	for i, path := range paths {
		c := ts.dial(t).login("router1")
		c.mode = []string{"EPSV", "PASV"}[i%2]
		c.do("TYPE I", codeOK)
		c.mustPut(path, []byte("by "+path))
		c.leave()
		c = ts.dial(t).login("router1") // and gets it back
		c.asks(ask{"TYPE I", codeOK, ""}, ask{"SIZE " + path, codeFile, fmt.Sprint(len("by " + path))})
		c.wantFile(path, "by "+path)
		c.leave()
	}
	c := ts.dial(t).login("router1")
	wantRefused(t, "STOR into nowhere", c.put(nil, "STOR /router2/auto.backup"), codeFailed)
	ts.commit(t)
	for _, at := range []string{"", "/.snapshots/latest"} {
		admin.wantNames(at+"/router1", "auto.backup", "auto.rsc", "daily")
		admin.wantNames(at+"/router1/daily", "a.backup", "b.backup")
		admin.wantFile(at+"/router1/auto.backup", "by /router1/auto.backup")
		admin.wantFile(at+"/top.backup", "by top.backup")
	}
}

// A hypervisor or NAS sends many small files over several connections at once, and a large
// one that it resumes on another connection when one breaks.
func TestHypervisor(t *testing.T) {
	const workers, files = 4, 15
	ts := startServer(t, hasty, withTLS(t))
	setup := ts.login(t, "nas")
	setup.do("MKD /job", codePath)
	disk := bytes.Repeat([]byte("block of a disk "), 40_000)
	clients := make([]*client, workers)
	for i := range clients {
		clients[i] = ts.login(t, "nas")
	}
	var work sync.WaitGroup
	for i, c := range clients {
		work.Go(func() {
			for n := range files {
				dir := fmt.Sprintf("/job/vm%d", n%3)
				if r, err := c.exchange("MKD " + dir); err != nil || r.code != codePath && r.code != codeFailed {
					t.Errorf("MKD: %v, %v", r, err)
				}
				name := fmt.Sprintf("%s/%d-%d.vmx", dir, i, n)
				if err := c.put([]byte(name), "STOR "+name); err != nil {
					t.Errorf("%s: %v", name, err)
				}
			}
		})
	}
	work.Wait()

	// The large file: each connection gets a quarter further, and breaks.
	quarter := len(disk) / workers
	for i := range workers - 1 {
		c := ts.login(t, "nas")
		lines := []string{"STOR /job/disk.img"}
		if i > 0 {
			lines = []string{"REST " + c.do("SIZE /job/disk.img", codeFile).text(), lines[0]}
		}
		d := c.begins(t, lines...)
		if _, err := d.Write(disk[i*quarter : (i+1)*quarter]); err != nil {
			t.Fatal(err)
		}
		c.wantReceived(quarter)
		if err := errors.Join(d.cut(), c.drop()); err != nil {
			t.Fatal(err)
		}
		ts.wantSessionEnd(t, c)
		setup.wantNames("/job", "vm0", "vm1", "vm2")
	}
	last := clients[workers-1]
	if size := last.do("SIZE /job/disk.img", codeFile).text(); size != fmt.Sprint(3*quarter) {
		t.Errorf("size of what has arrived: %s, want %d", size, 3*quarter)
	}
	if err := last.put(disk[3*quarter:], "ALLO "+fmt.Sprint(len(disk)), "REST "+fmt.Sprint(3*quarter), "STOR /job/disk.img"); err != nil {
		t.Error(err)
	}
	setup.do("SITE SNAPSHOT", codeOK)
	for _, at := range []string{"", "/.snapshots/latest"} {
		setup.wantFile(at+"/job/disk.img", string(disk))
		for vm := range 3 {
			if n := len(setup.names(fmt.Sprintf("%s/job/vm%d", at, vm))); n != workers*files/3 {
				t.Errorf("%s/job/vm%d has %d files, want %d", at, vm, n, workers*files/3)
			}
		}
		setup.wantFile(at+"/job/vm1/2-13.vmx", "/job/vm1/2-13.vmx")
	}
}
