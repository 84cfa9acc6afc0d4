package pull

import (
	"bufio"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/big"
	"net"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// ftpHouse is a small FTP server that does what a test wants of it, also what it must not.
type ftpHouse struct {
	dir      string
	mlsd     bool // has MLST and MLSD
	noTarget bool // MLSD does not tell where links point
	follows  bool // MLSD describes what links point to, where there is something
	noEPSV   bool
	noREST   bool
	noDashA  bool // takes -a for a name
	dos      bool // lists like DOS
	accepts  bool // takes the data connection before it says 150, as vsftpd and ProFTPD do
	oneByOne bool // loses what comes before the reply to a command
	noAhead  bool // refuses it, and forgets what RNFR has named
	limit    int32
	tls      *tls.Config
	implicit bool
	// listen makes all listeners; nil for those of 127.0.0.1.
	listen func() (net.Listener, error)
	// hook answers a command in place of the server when it returns true.
	hook func(p *ftpPeer, cmd, arg string) bool

	ln      net.Listener
	wg      sync.WaitGroup
	logins  atomic.Int32
	open    atomic.Int32
	resumed atomic.Int32 // data connections that resumed a TLS session
	fresh   atomic.Int32 // data connections that did not
	ahead   atomic.Int32 // commands that came before the reply to the one before

	mu       sync.Mutex // guards what follows
	commands map[string]int
	conns    map[net.Conn]struct{}
}

// ftpPeer is a connection of a client.
type ftpPeer struct {
	h       *ftpHouse
	nc      net.Conn
	cwd     string
	rest    int64
	from    string // of RNFR
	data    net.Listener
	protect bool
	listed  bool // by LIST, which shows targets
}

func (h *ftpHouse) start(tb testing.TB) *ftpHouse {
	tb.Helper()
	if h.listen == nil {
		h.listen = func() (net.Listener, error) { return net.Listen("tcp", "127.0.0.1:0") }
	}
	var err error
	if h.ln, err = h.listen(); err != nil {
		tb.Fatal(err)
	}
	h.commands, h.conns = map[string]int{}, map[net.Conn]struct{}{}
	h.wg.Go(func() {
		for {
			nc, err := h.ln.Accept()
			if err != nil {
				return
			}
			h.mu.Lock()
			h.conns[nc] = struct{}{}
			h.mu.Unlock()
			h.wg.Go(func() { h.serve(nc) })
		}
	})
	tb.Cleanup(func() { h.ln.Close(); h.cut(); h.wg.Wait() })
	return h
}

// cut ends all connections.
func (h *ftpHouse) cut() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for nc := range h.conns {
		_ = nc.Close()
	}
}

func (h *ftpHouse) count(cmd string) int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.commands[cmd]
}

// trips is how many replies a client has waited for, in all.
func (h *ftpHouse) trips() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	n := h.commands["STOR"] - int(h.ahead.Load()) // it has two replies
	for _, times := range h.commands {
		n += times
	}
	return n
}

func (h *ftpHouse) remote(tb testing.TB, change ...func(*FTPConfig)) *FTP {
	tb.Helper()
	cfg := FTPConfig{
		Addr: h.ln.Addr().String(), User: "me", Password: "secret", Root: "/", Connections: 4, Timeout: patience,
	}
	for _, c := range change {
		c(&cfg)
	}
	r, err := NewFTP(cfg)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { r.Close() })
	return r
}

func (p *ftpPeer) say(format string, args ...any) {
	_, _ = fmt.Fprintf(p.nc, format+"\r\n", args...)
}

func (h *ftpHouse) serve(nc net.Conn) {
	defer func() {
		_ = nc.Close()
		h.mu.Lock()
		defer h.mu.Unlock()
		delete(h.conns, nc)
	}()
	p := &ftpPeer{h: h, nc: nc, cwd: "/"}
	if n := h.open.Add(1); h.limit > 0 && n > h.limit {
		h.open.Add(-1)
		p.say("421 Too many connections")
		return
	}
	defer h.open.Add(-1)
	if h.implicit {
		p.nc = tls.Server(nc, h.tls)
	}
	p.say("220-Welcome\r\n 220 is not the end\r\n220 ready")
	in := bufio.NewReader(p.nc)
	for early := false; ; {
		line, err := in.ReadString('\n')
		if err != nil {
			return
		}
		cmd, arg, _ := strings.Cut(strings.TrimRight(line, "\r\n"), " ")
		h.mu.Lock()
		h.commands[cmd]++
		h.mu.Unlock()
		if early && h.noAhead {
			p.say("450 not now")
			p.from, early = "", false
			continue
		}
		if early = in.Buffered() > 0; early {
			h.ahead.Add(1)
			if h.oneByOne {
				_, _ = in.Discard(in.Buffered())
			}
		}
		if h.hook != nil && h.hook(p, cmd, arg) {
			continue
		}
		if cmd == "AUTH" && h.tls != nil {
			p.say("234 go on")
			p.nc = tls.Server(nc, h.tls)
			in = bufio.NewReader(p.nc)
			continue
		}
		if !p.answer(cmd, arg) {
			return
		}
	}
}

func (p *ftpPeer) abs(arg string) string {
	if arg == "" {
		return p.cwd
	}
	if !strings.HasPrefix(arg, "/") {
		arg = p.cwd + "/" + arg
	}
	return path.Clean(arg)
}

// answer answers a command; false ends the connection.
func (p *ftpPeer) answer(cmd, arg string) bool {
	local := filepath.Join(p.h.dir, p.abs(arg))
	fi, err := os.Stat(local)
	missing := func() bool {
		if err != nil {
			p.say("550 No such file or directory.")
		}
		return err != nil
	}
	switch cmd {
	case "USER":
		p.say("331 password?")
	case "PASS":
		if arg != "secret" {
			p.say("530 Login incorrect.")
			return true
		}
		p.h.logins.Add(1)
		p.say("230 in")
	case "PBSZ", "TYPE", "OPTS":
		p.say("200 ok")
	case "PROT":
		p.protect = arg == "P"
		p.say("200 ok")
	case "FEAT":
		feats := " SIZE\r\n MDTM\r\n MFMT\r\n UTF8\r\n"
		if p.h.mlsd && p.h.follows {
			feats += " MLST type*;perm*;size*;modify*;UNIX.mode;UNIX.uid;UNIX.gid;\r\n"
		} else if p.h.mlsd {
			feats += " MLST type*;size*;modify*;UNIX.mode;UNIX.uid;UNIX.gid;\r\n"
		}
		p.say("211-Features:\r\n%s211 End", feats)
	case "PWD":
		p.say(`257 "%s" is it`, strings.ReplaceAll(p.cwd, `"`, `""`))
	case "CWD":
		if !missing() {
			p.cwd = p.abs(arg)
			p.say("250 ok")
		}
	case "SIZE":
		switch {
		case missing():
		case !fi.Mode().IsRegular():
			p.say("550 not a plain file")
		default:
			p.say("213 %d", fi.Size())
		}
	case "MDTM":
		if !missing() {
			p.say("213 %s", fi.ModTime().UTC().Format("20060102150405"))
		}
	case "EPSV", "PASV":
		if cmd == "EPSV" && p.h.noEPSV {
			p.say("500 what")
			return true
		}
		ln, err := p.h.listen()
		if err != nil {
			p.say("425 no port")
			return true
		}
		p.data = ln
		if port := ln.Addr().(*net.TCPAddr).Port; cmd == "EPSV" {
			p.say("229 here (|||%d|)", port)
		} else {
			p.say("227 here (10,9,8,7,%d,%d)", port>>8, port&255)
		}
	case "REST":
		if p.h.noREST {
			p.say("502 no")
			return true
		}
		p.rest, _ = strconv.ParseInt(arg, 10, 64)
		p.say("350 ok")
	case "RETR":
		if missing() {
			p.dropData()
			return true
		}
		data, err := os.ReadFile(local)
		if err != nil {
			p.dropData()
			p.say("550 Permission denied")
			return true
		}
		p.send(data[min(p.rest, int64(len(data))):])
		p.rest = 0
	case "MLST":
		if fi, err = os.Lstat(local); !missing() {
			p.say("250-here\r\n %s%s\r\n250 end", p.facts(local, fi), p.abs(arg))
		}
	case "MLSD":
		if missing() {
			p.dropData()
			return true
		}
		p.send([]byte("type=cdir;modify=20240101000000; .\r\ntype=pdir; ..\r\n" + p.listing(local, p.facts)))
	case "LIST":
		if strings.HasPrefix(arg, "-") && p.h.noDashA {
			p.send(nil)
			return true
		}
		out := "total 12\r\n"
		if arg == "-a" {
			out += "drwxr-xr-x   2 0        0            4096 Feb 29  2024 .\r\ndrwxr-xr-x   2 0        0            4096 Feb 29  2024 ..\r\n"
		}
		p.listed = true
		p.send([]byte(out + p.listing(filepath.Join(p.h.dir, p.cwd), p.line)))
		p.listed = false
	case "STOR":
		p.receive(local)
	case "SITE":
		mode, name, _ := strings.Cut(strings.TrimPrefix(arg, "CHMOD "), " ")
		n, err := strconv.ParseUint(mode, 8, 12)
		p.done(200, errors.Join(err, os.Chmod(filepath.Join(p.h.dir, p.abs(name)), fs.FileMode(n))))
	case "MFMT":
		stamp, name, _ := strings.Cut(arg, " ")
		at, err := time.Parse("20060102150405", stamp)
		p.done(213, errors.Join(err, os.Chtimes(filepath.Join(p.h.dir, p.abs(name)), at, at)))
	case "DELE":
		p.done(250, os.Remove(local))
	case "RNFR":
		if p.from = local; !missing() {
			p.say("350 to what")
		}
	case "RNTO":
		p.done(250, os.Rename(p.from, local))
		p.from = ""
	case "QUIT":
		p.say("221 bye")
		return false
	default:
		p.say("502 unknown")
	}
	return true
}

// done answers with a code, or says why not.
func (p *ftpPeer) done(code int, err error) {
	if err != nil {
		p.say("550 %v", err)
		return
	}
	p.say("%d done", code)
}

// receive takes a file.
func (p *ftpPeer) receive(local string) {
	nc, err := p.connectData()
	if err != nil {
		return
	}
	defer nc.Close()
	data, err := io.ReadAll(nc)
	p.done(226, errors.Join(err, os.WriteFile(local, data, 0o600)))
}

func (p *ftpPeer) dropData() {
	if p.data != nil {
		_ = p.data.Close()
		p.data = nil
	}
}

// connectData takes the client's data connection, and says 150 before it begins TLS.
func (p *ftpPeer) connectData() (net.Conn, error) {
	ln := p.data
	p.data = nil
	if ln == nil {
		p.say("425 no EPSV")
		return nil, io.EOF
	}
	defer ln.Close()
	if !p.h.accepts {
		p.say("150 here it comes")
	}
	nc, err := ln.Accept()
	if err != nil {
		return nil, err
	}
	if p.h.accepts {
		p.say("150 here it comes")
	}
	if !p.protect && !p.h.implicit {
		return nc, nil
	}
	t := tls.Server(nc, p.h.tls)
	if err := t.Handshake(); err != nil {
		_ = nc.Close()
		return nil, err
	}
	if t.ConnectionState().DidResume {
		p.h.resumed.Add(1)
	} else {
		p.h.fresh.Add(1)
	}
	return t, nil
}

func (p *ftpPeer) send(data []byte) {
	nc, err := p.connectData()
	if err != nil {
		return
	}
	_, err = nc.Write(data)
	_ = nc.Close()
	if err != nil {
		p.say("426 you went away")
		return
	}
	p.say("226 done")
}

func (p *ftpPeer) listing(dir string, line func(string, fs.FileInfo) string) string {
	des, err := os.ReadDir(dir)
	if err != nil {
		return ""
	}
	var b strings.Builder
	for _, de := range des {
		fi, err := de.Info()
		if p.h.follows && !p.listed {
			fi, err = os.Stat(filepath.Join(dir, de.Name()))
		}
		if err == nil {
			b.WriteString(line(filepath.Join(dir, de.Name()), fi) + de.Name())
			if fi.Mode()&fs.ModeSymlink != 0 && p.listed {
				target, _ := os.Readlink(filepath.Join(dir, de.Name()))
				b.WriteString(" -> " + target)
			}
			b.WriteString("\r\n")
		}
	}
	return b.String()
}

func (p *ftpPeer) facts(local string, fi fs.FileInfo) string {
	e := fsEntry("", fi)
	typ := "file"
	switch e.Type {
	case Dir:
		typ = "dir"
	case Symlink:
		target, _ := os.Readlink(local)
		typ = "OS.unix=slink:" + target
		if p.h.noTarget {
			typ = "OS.unix=slink"
		}
	}
	return fmt.Sprintf("type=%s;size=%d;modify=%s;UNIX.mode=0%o;UNIX.uid=%d;UNIX.gid=%d; ",
		typ, fi.Size(), fi.ModTime().UTC().Format("20060102150405"), modeNumber(e.Mode), e.UID, e.GID)
}

// line is a line of LIST without the name.
func (p *ftpPeer) line(_ string, fi fs.FileInfo) string {
	t := fi.ModTime().UTC()
	if p.h.dos {
		if fi.IsDir() {
			return t.Format("01-02-06  03:04PM") + "       <DIR>          "
		}
		return fmt.Sprintf("%s %20d ", t.Format("01-02-06  03:04PM"), fi.Size())
	}
	mode := []byte(fi.Mode().Perm().String())
	switch {
	case fi.IsDir():
		mode[0] = 'd'
	case fi.Mode()&fs.ModeSymlink != 0:
		mode[0] = 'l'
	case fi.Mode()&fs.ModeSetuid != 0:
		mode[3] = 's'
	}
	e := fsEntry("", fi)
	when := t.Format("Jan _2  2006")
	if !t.Equal(then) { // made by the test, now
		when = t.Format("Jan _2 15:04")
	}
	return fmt.Sprintf("%s   1 %-8d %-8d %8d %s ", mode, e.UID, e.GID, fi.Size(), when)
}

// testTLS makes a certificate for 127.0.0.1, ::1 and fe80::1, and what trusts it.
func testTLS(tb testing.TB) (server, client *tls.Config) {
	tb.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		tb.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback, net.ParseIP("fe80::1")},
		NotBefore:   time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		tb.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		tb.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(cert)
	return &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}, &tls.Config{RootCAs: pool}
}
