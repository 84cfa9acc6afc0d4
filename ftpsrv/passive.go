package ftpsrv

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"time"
)

// lowestActivePort keeps PORT from reaching the services of a host (RFC 2577 section 3).
const lowestActivePort = 1024

// preparedFor is how long a prepared data connection is kept without a transfer, in times of what one may
// take to be made: clients prepare it right before. It must end by itself, since passive ports are few, and a
// client that sends NOOPs could hold one for ever in each of its connections.
const preparedFor = 4

// prepare replaces the prepared data connection.
func (c *conn) prepare(p dataPort) {
	c.closeData()
	c.data = p
	c.unused = time.AfterFunc(preparedFor*c.server.cfg.ConnectTimeout, func() {
		p.close()
		c.log.Debug("no transfer follows, its data connection was given up")
	})
}

// listen opens a passive port and returns its number; 0 when the client has been told that
// it cannot.
func (c *conn) listen() uint16 {
	c.closeData() // its port may be the one that is free
	ln, err := listenPassive(c.ctx, c.local, c.server.cfg.PassivePorts)
	if err != nil {
		c.log.Warn("no passive port", "err", err)
		c.ctl.reply(codeNoData, errNoPort.Error()+", try again later")
		return 0
	}
	p := &passivePort{ln: ln, peer: c.addr, timeout: c.server.cfg.ConnectTimeout, log: c.log}
	if c.server.cfg.ForeignData {
		p.peer = netip.Addr{}
	}
	c.prepare(p)
	return uint16(ln.Addr().(*net.TCPAddr).Port)
}

// cmdPasv is RFC 959's.
func (c *conn) cmdPasv(command) {
	switch {
	case c.epsvAll:
		c.ctl.reply(codeSequence, "EPSV ALL was sent before")
		return
	case c.local.Is6():
		c.ctl.reply(codeNoData, "PASV knows IPv4 only, use EPSV")
		return
	}
	ip := c.local
	if ip.Is4() {
		ip = c.server.public.lookup(c.ctx, c.addr, c.local)
	}
	if !ip.Is4() {
		c.ctl.reply(codeNoData, "PASV knows IPv4 only, use EPSV")
		return
	}
	port := c.listen()
	if port == 0 {
		return
	}
	h := ip.As4()
	c.ctl.reply(codePassive, fmt.Sprintf("entering passive mode (%d,%d,%d,%d,%d,%d)", h[0], h[1], h[2], h[3], port>>8, port&0xff))
}

// cmdEpsv is RFC 2428's.
func (c *conn) cmdEpsv(cmd command) {
	want := "1"
	if c.local.Is6() {
		want = "2"
	}
	switch arg := strings.ToUpper(strings.TrimSpace(cmd.arg)); arg {
	case "ALL":
		c.epsvAll = true
		c.ctl.reply(codeOK, "EPSV it is")
		return
	case "", want:
	default:
		c.ctl.reply(codeNoNetProtocol, "network protocol not supported, use ("+want+")")
		return
	}
	if port := c.listen(); port != 0 {
		c.ctl.reply(codeExtPassive, "entering extended passive mode (|||"+strconv.Itoa(int(port))+"|)")
	}
}

// cmdPort is PORT (RFC 959) and EPRT (RFC 2428).
func (c *conn) cmdPort(cmd command) {
	switch {
	case c.server.cfg.DisableActive:
		c.ctl.reply(codeNotHere, "active mode is disabled, use EPSV or PASV")
		return
	case c.epsvAll:
		c.ctl.reply(codeSequence, "EPSV ALL was sent before")
		return
	}
	parse := parsePort
	if cmd.verb == "EPRT" {
		parse = parseExtPort
	}
	addr, err := parse(cmd.arg)
	switch {
	case errors.Is(err, errNetProtocol):
		c.ctl.reply(codeNoNetProtocol, "network protocol not supported, use (1,2)")
	case err != nil:
		c.ctl.reply(codeSyntax, cmd.verb+": "+err.Error())
	case !c.server.cfg.ForeignData && addr.Addr() != c.addr:
		c.log.Warn("data connection to another address refused", "to", addr.String())
		c.ctl.reply(codeSyntax, cmd.verb+": data connections go to your own address only")
	case addr.Port() < lowestActivePort:
		c.ctl.reply(codeSyntax, cmd.verb+": ports below 1024 are refused")
	default:
		c.prepare(&activePort{addr: addr, local: c.local, timeout: c.server.cfg.ConnectTimeout})
		c.ctl.reply(codeOK, cmd.verb+" is noted")
	}
}

// cmdRest is where the next transfer begins (RFC 3659 section 5).
func (c *conn) cmdRest(cmd command) {
	n, err := strconv.ParseUint(strings.TrimSpace(cmd.arg), 10, 63)
	if err != nil {
		c.offset = 0 // rather than that of an earlier REST
		c.ctl.reply(codeSyntax, "REST: want a number of bytes")
		return
	}
	c.offset = int64(n)
	c.ctl.reply(codePending, fmt.Sprintf("the next transfer begins at byte %d", n))
}

// cmdAllo announces the size of an upload (RFC 959 section 4.1.3). One that ends before it
// was cut off.
func (c *conn) cmdAllo(cmd command) {
	fields := strings.Fields(cmd.arg)
	n, err := strconv.ParseUint(fields0(fields), 10, 63)
	records := len(fields) == 3 && strings.EqualFold(fields[1], "R")
	if err != nil || len(fields) != 1 && !records {
		c.ctl.reply(codeSyntax, "ALLO: want a number of bytes")
		return
	}
	st, err := c.sess.StatFS(c.ctx, c.engine.path())
	// What of the file is beyond the quota turns out when its bytes come: it may replace one, or append.
	if err == nil && n/max(st.BlockSize, 1) > st.SpoolAvail {
		c.ctl.reply(codeNoSpace, "no space left for so much")
		return
	}
	c.announced = -1
	if !records {
		c.announced = int64(n)
	}
	c.ctl.reply(codeOK, "noted")
}

func fields0(fields []string) string {
	if len(fields) == 0 {
		return ""
	}
	return fields[0]
}
