package config

import (
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/snapgate/gateway/ftpsrv"
)

// FTP are the settings of the FTP server; a zero value is the server's default.
type FTP struct {
	Listen         string // host:port
	ImplicitListen string // with tls.mode both
	PassivePorts   ftpsrv.PortRange
	PublicIP       string
	NoActive       bool
	ForeignData    bool
	Greeting       string
	IdleTimeout    time.Duration
	DataTimeout    time.Duration
	CloseGrace     time.Duration
	TLS            TLS
}

// TLSMode says how an FTP connection becomes encrypted.
type TLSMode uint8

// The modes.
const (
	TLSExplicit TLSMode = iota // by AUTH TLS (RFC 4217)
	TLSOff                     // never
	TLSImplicit                // from the first byte
	TLSBoth                    // explicit on listen, implicit on implicit_listen
)

// TLS are the settings of encryption.
type TLS struct {
	Mode        TLSMode
	Required    bool
	Certificate string // file, PEM, with the chain
	Key         string // file, PEM
	ClientCA    string // file, PEM: clients must have a certificate of one of these
}

// Usable reports whether there is a certificate to encrypt with.
func (t *TLS) Usable() bool { return t.Mode != TLSOff && t.Certificate != "" }

// WithoutNames says of each file only whether there is one: names can change while a gateway
// runs.
func (t TLS) WithoutNames() TLS {
	for _, name := range []*string{&t.Certificate, &t.Key, &t.ClientCA} {
		if *name != "" {
			*name = "set"
		}
	}
	return t
}

// readFTP reads the ftp section.
func (l *loader) readFTP(n node) {
	f := &FTP{}
	active := true
	var required *bool // as it is written
	tlsAt := n
	n.fields(fields{
		"listen":          {func(n node) { readListen(n, &f.Listen, "127.0.0.1:2121", ":21") }},
		"implicit_listen": {func(n node) { readListen(n, &f.ImplicitListen, "127.0.0.1:2990", ":990") }},
		"passive_ports":   {func(n node) { readPortRange(n, &f.PassivePorts) }},
		"public_ip":       {func(n node) { readPublicIP(n, &f.PublicIP) }},
		"active":          intoBool(&active),
		"foreign_data":    intoBool(&f.ForeignData),
		"greeting":        intoText(&f.Greeting),
		"idle_timeout":    intoDuration(&f.IdleTimeout, time.Second),
		"data_timeout":    intoDuration(&f.DataTimeout, time.Second),
		"close_grace":     intoDuration(&f.CloseGrace, time.Millisecond),
		"tls": {func(n node) {
			tlsAt = n
			l.readTLS(n, &f.TLS, &required)
		}},
	}.later("proxy_protocol"))
	f.NoActive = !active
	f.TLS.Required = f.TLS.Mode != TLSOff && (required == nil || *required)
	if n.clean() {
		l.checkFTP(n, f)
		l.checkTLS(tlsAt, &f.TLS, required)
	}
	l.cfg.FTP = f
}

// readTLS reads the tls section.
func (l *loader) readTLS(n node, t *TLS, required **bool) {
	f := l.certificateFields(t)
	f["mode"] = intoChoice(&t.Mode, []string{"off", "explicit", "implicit", "both"},
		[]TLSMode{TLSOff, TLSExplicit, TLSImplicit, TLSBoth})
	f["required"] = field{func(n node) {
		*required = new(bool)
		intoBool(*required).read(n)
	}}
	n.fields(f)
}

// certificateFields read the names of the files of TLS.
func (l *loader) certificateFields(t *TLS) fields {
	return fields{
		"certificate": {func(n node) { readPath(n, &t.Certificate) }},
		"key": {func(n node) {
			readPath(n, &t.Key)
			l.checkSecretMode(n, t.Key)
		}},
		"client_ca": {func(n node) { readPath(n, &t.ClientCA) }},
	}
}

// checkFTP refuses settings that make no sense together, and warns of what is unwise.
func (l *loader) checkFTP(n node, f *FTP) {
	if f.Listen == "" {
		n.failHint(`add listen: "127.0.0.1:2121"`, "listen is missing")
	}
	if (f.TLS.Mode == TLSBoth) != (f.ImplicitListen != "") {
		n.failHint(`for both, add implicit_listen: ":990" and tls: { mode: both }`, "implicit_listen and tls.mode both go together")
	}
	switch {
	case f.TLS.Mode == TLSOff:
		l.warn("ftp: encryption is off: passwords and files cross the network in plain text, and anybody on the way can read and change them")
	case !f.TLS.Required:
		l.warn("ftp: encryption is not required: a client that does not ask for it sends its password and files in plain text")
	}
}

// makeCertificate is a hint.
const makeCertificate = "make them with: openssl req -x509 -newkey rsa:3072 -nodes -days 3650 -subj /CN=HOST " +
	"-addext subjectAltName=DNS:HOST -keyout ftp.key -out ftp.crt"

// checkTLS refuses a mode that lacks what it needs; required is what is written, if it is.
func (l *loader) checkTLS(n node, t *TLS, required *bool) {
	switch {
	case t.Mode == TLSOff && (t.Certificate != "" || t.Key != "" || t.ClientCA != ""):
		n.failHint("remove them, or choose another mode", "certificate, key and client_ca have no effect with mode: off")
	case t.Mode == TLSOff && required != nil && *required:
		n.failHint("choose mode: explicit", "required: true and mode: off exclude each other")
	case !checkCertificates(n, t):
	case t.Required && t.Certificate == "":
		n.failHint("set tls.certificate and tls.key ("+makeCertificate+"); or allow plain text: tls: { mode: off }",
			"encryption is required, and there is no certificate")
	case (t.Mode == TLSImplicit || t.Mode == TLSBoth) && t.Certificate == "":
		n.failHint(makeCertificate, "this mode needs certificate and key")
	}
}

// checkCertificates refuses files that lack others.
func checkCertificates(n node, t *TLS) bool {
	switch {
	case (t.Certificate == "") != (t.Key == ""):
		n.fail("certificate and key go together")
	case t.ClientCA != "" && t.Certificate == "":
		n.failHint(makeCertificate, "client_ca needs certificate and key")
	default:
		return true
	}
	return false
}

// readListen reads host:port.
func readListen(n node, dst *string, example, all string) {
	a, ok := n.text()
	if !ok {
		return
	}
	if err := checkListen(a); err != nil {
		n.failHint(fmt.Sprintf("want as %q or %q", example, all), "%w", err)
	}
	*dst = a
}

// readPath reads the name of a file, relative to the configuration's.
func readPath(n node, dst *string) {
	if s, ok := n.text(); ok {
		*dst = n.path(s)
	}
}

// readPortRange reads 50000-50099.
func readPortRange(n node, dst *ftpsrv.PortRange) {
	s, ok := n.text()
	if !ok {
		return
	}
	first, last, two := strings.Cut(s, "-")
	if !two {
		last = first
	}
	lo, err1 := strconv.ParseUint(strings.TrimSpace(first), 10, 16)
	hi, err2 := strconv.ParseUint(strings.TrimSpace(last), 10, 16)
	if err1 != nil || err2 != nil || lo == 0 || lo > hi {
		n.fail("%q is not a range of ports; want as \"50000-50099\"", s)
		return
	}
	*dst = ftpsrv.PortRange{First: uint16(lo), Last: uint16(hi)}
}

// readPublicIP reads an IPv4 address or a host name.
func readPublicIP(n node, dst *string) {
	s, ok := n.text()
	if !ok {
		return
	}
	if a, err := netip.ParseAddr(s); err == nil && !a.Unmap().Is4() {
		n.failHint("clients use IPv6 without it", "must be an IPv4 address or a host name")
		return
	} else if err != nil && (strings.ContainsAny(s, " /:") || net.ParseIP(s) != nil) {
		n.fail("%q is neither an IPv4 address nor a host name", s)
		return
	}
	*dst = s
}
