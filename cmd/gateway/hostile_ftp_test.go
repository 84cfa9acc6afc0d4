package main

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"path"
	"strconv"
	"strings"
	"sync"
	"testing"
)

// hostileFTP is an FTP server, in plain text, that does what no good one does.
type hostileFTP struct {
	tree hostileTree
	mlsd bool // MLSD, MLST and facts; else LIST alone
	// lines are added to the listing of /dir, as they are.
	lines []string
	// answer takes a command over when it returns true; nil takes none.
	answer func(p *hostilePeer, cmd, arg string) bool

	addr string

	mu    sync.Mutex // guards what follows
	asked []string
	conns map[net.Conn]bool
}

// hostilePeer is a control connection.
type hostilePeer struct {
	h    *hostileFTP
	c    net.Conn
	cwd  string
	rest int
	data net.Listener
}

func (h *hostileFTP) start(t *testing.T) *hostileFTP {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	h.addr, h.conns = ln.Addr().String(), map[net.Conn]bool{}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			h.hold(c)
			wg.Go(func() { h.serve(c) })
		}
	})
	t.Cleanup(func() {
		_ = ln.Close()
		h.mu.Lock()
		for c := range h.conns {
			_ = c.Close()
		}
		h.mu.Unlock()
		wg.Wait()
	})
	return h
}

// hold has a connection closed at the end.
func (h *hostileFTP) hold(c net.Conn) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.conns[c] = true
}

func (h *hostileFTP) serve(c net.Conn) {
	p := &hostilePeer{h: h, c: c, cwd: "/"}
	defer func() {
		_ = c.Close()
		p.drop()
	}()
	p.say("220 come in")
	in := bufio.NewReader(c)
	for {
		line, err := in.ReadString('\n')
		if err != nil {
			return
		}
		line = strings.TrimRight(line, "\r\n")
		h.mu.Lock()
		h.asked = append(h.asked, line)
		h.mu.Unlock()
		cmd, arg, _ := strings.Cut(line, " ")
		if h.answer != nil && h.answer(p, cmd, arg) {
			continue
		}
		if !p.reply(cmd, arg) {
			return
		}
	}
}

func (p *hostilePeer) say(format string, args ...any) {
	_, _ = fmt.Fprintf(p.c, format+"\r\n", args...)
}

// resolve returns the path that an argument names.
func (p *hostilePeer) resolve(arg string) string {
	if path.IsAbs(arg) {
		return path.Clean(arg)
	}
	return path.Join("/", p.cwd, arg)
}

// reply answers a command as a good server does; false ends the connection.
func (p *hostilePeer) reply(cmd, arg string) bool {
	name := p.resolve(arg)
	f, isFile := p.h.tree[name]
	isDir := p.h.tree.isDir(name)
	switch cmd {
	case "USER":
		p.say("331 password")
	case "PASS":
		p.say("230 in")
	case "TYPE", "OPTS", "NOOP":
		p.say("200 ok")
	case "FEAT":
		if p.h.mlsd {
			p.say("211-Features:\r\n MLST type*;size*;modify*;\r\n SIZE\r\n MDTM\r\n REST STREAM\r\n211 End")
		} else {
			p.say("211-Features:\r\n SIZE\r\n MDTM\r\n REST STREAM\r\n211 End")
		}
	case "PWD":
		p.say(`257 "%s"`, p.cwd)
	case "CWD":
		if !isDir {
			p.say("550 no such directory")
			return true
		}
		p.cwd = name
		p.say("250 ok")
	case "SIZE":
		p.fileOr550(isFile, "213 %d", f.said())
	case "MDTM":
		p.fileOr550(isFile || isDir, "213 %s", hostileTime().Format("20060102150405"))
	case "MLST":
		p.fileOr550(isFile || isDir, "250-here\r\n %s%s\r\n250 end", p.facts(name), name)
	case "EPSV":
		p.passive()
	case "REST":
		p.rest, _ = strconv.Atoi(arg)
		p.say("350 ok")
	case "RETR":
		if !isFile {
			p.drop()
			p.say("550 no such file")
			return true
		}
		p.send(f.data[min(p.rest, len(f.data)):])
		p.rest = 0
	case "MLSD", "LIST":
		if cmd == "MLSD" && !p.h.mlsd || cmd == "LIST" && strings.HasPrefix(arg, "-") {
			p.drop()
			p.say("501 no")
			return true
		}
		p.send(p.listing(name, cmd == "MLSD"))
	case "QUIT":
		p.say("221 bye")
		return false
	default:
		p.say("502 no")
	}
	return true
}

func (p *hostilePeer) fileOr550(there bool, format string, args ...any) {
	if !there {
		p.say("550 not there")
		return
	}
	p.say(format, args...)
}

func (p *hostilePeer) facts(name string) string {
	info, _ := p.h.tree.info(name)
	typ := "file"
	if info.IsDir() {
		typ = "dir"
	}
	return fmt.Sprintf("type=%s;size=%d;modify=%s; ", typ, info.size, hostileTime().Format("20060102150405"))
}

func (p *hostilePeer) listing(dir string, mlsd bool) string {
	var b strings.Builder
	for _, name := range p.h.tree.names(dir) {
		info, _ := p.h.tree.info(path.Join(dir, name))
		switch {
		case mlsd:
			b.WriteString(p.facts(path.Join(dir, name)))
		case info.IsDir():
			b.WriteString("drwxr-xr-x 1 0 0 0 " + hostileTime().Format("Jan _2 15:04") + " ")
		default:
			fmt.Fprintf(&b, "-rw-r--r-- 1 0 0 %d %s ", info.size, hostileTime().Format("Jan _2 15:04"))
		}
		b.WriteString(name + "\r\n")
	}
	if dir == "/dir" {
		for _, l := range p.h.lines {
			b.WriteString(l + "\r\n")
		}
	}
	return b.String()
}

func (p *hostilePeer) passive() {
	p.drop()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		p.say("425 no port")
		return
	}
	p.data = ln
	p.say("229 here (|||%d|)", ln.Addr().(*net.TCPAddr).Port)
}

func (p *hostilePeer) drop() {
	if p.data != nil {
		_ = p.data.Close()
		p.data = nil
	}
}

// open takes the client's data connection.
func (p *hostilePeer) open() (net.Conn, bool) {
	if p.data == nil {
		p.say("425 no data connection")
		return nil, false
	}
	p.say("150 here it comes")
	c, err := p.data.Accept()
	p.drop()
	if err != nil {
		return nil, false
	}
	p.h.hold(c)
	return c, true
}

// send sends data, and says that this was all.
func (p *hostilePeer) send(data string) {
	c, ok := p.open()
	if !ok {
		return
	}
	_, err := io.WriteString(c, data)
	_ = c.Close()
	if err != nil {
		p.say("426 cut")
		return
	}
	p.say("226 done")
}
