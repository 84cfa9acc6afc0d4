package config

import (
	"net"
	"net/netip"
	"strings"
)

// HTTP are the settings of the web server.
type HTTP struct {
	Listen  string // host:port
	Metrics bool   // answer /metrics
	Hosts   []string
	TLS     TLS
	NoTLS   bool // open to other machines without encryption
	Viewer  bool // show pages to users
	// Operators are users who are told of everything on the pages.
	Operators []string
	// TrustedProxies are believed when they say whom they ask for.
	TrustedProxies []netip.Prefix
}

// readHTTP reads the http section.
func (l *loader) readHTTP(n node) {
	h := &HTTP{TLS: TLS{Mode: TLSImplicit}, Viewer: true}
	tlsAt, listenAt := n, n
	var viewerAt node
	n.fields(fields{
		"listen": {func(n node) {
			listenAt = n
			readListen(n, &h.Listen, "127.0.0.1:8022", ":8022")
		}},
		"metrics": intoBool(&h.Metrics),
		"hosts":   intoTexts(&h.Hosts),
		"tls": {func(n node) {
			tlsAt = n
			n.fields(l.certificateFields(&h.TLS))
		}},
		"insecure_no_tls": intoBool(&h.NoTLS),
		"viewer": {func(n node) {
			viewerAt = n
			intoBool(&h.Viewer).read(n)
		}},
		"operators": {func(n node) {
			intoTexts(&h.Operators).read(n)
			l.operatorsAt = n
		}},
		"trusted_proxies": {func(n node) { h.TrustedProxies = readProxies(n) }},
	})
	for _, host := range h.Hosts {
		if strings.ContainsAny(host, ":/ ") {
			n.failHint("want as gateway.example.com, without a port", "hosts: %q is not the name of a host", host)
		}
	}
	if n.clean() {
		if h.Listen == "" {
			n.failHint(`add listen: "127.0.0.1:8022"`, "listen is missing")
		}
		checkCertificates(tlsAt, &h.TLS)
		l.checkPlain(listenAt, h)
		l.suspectProxy(h)
		switch {
		case !h.NoTLS || h.TLS.Usable() || !h.Viewer:
		case viewerAt.src == nil:
			h.Viewer = false
		default:
			viewerAt.failHint("set http.tls.certificate and key, or listen on 127.0.0.1 behind what encrypts; or set viewer: false",
				"with insecure_no_tls, users' passwords would go over the network as they are")
		}
	}
	l.cfg.HTTP = h
}

// readProxies reads the addresses of proxies. Whoever is among them may say to be anybody, so all of
// the world is refused.
func readProxies(n node) []netip.Prefix {
	list := readPrefixes(n)
	for _, p := range list {
		if p.Bits() == 0 {
			n.failHint("name the addresses of the proxies, as in [127.0.0.1, 10.0.0.5]", "%s is everybody: anybody could say to come from anywhere", p)
		}
	}
	return list
}

// suspectProxy warns when a server that only this machine reaches has names: then there is a proxy
// in front, and all its clients would be one address.
func (l *loader) suspectProxy(h *HTTP) {
	if !h.Viewer || len(h.TrustedProxies) > 0 || !localOnly(h.Listen) {
		return
	}
	for _, host := range h.Hosts {
		if !localOnly(net.JoinHostPort(host, "0")) {
			l.warn("http: %s suggests a proxy in front of %s, and trusted_proxies is empty: all its clients count as one address, so strangers who guess passwords lock everybody out of the viewer; set trusted_proxies: [127.0.0.1] when the proxy sets X-Forwarded-For", host, h.Listen)
			return
		}
	}
}

// checkPlain refuses to serve other machines without encryption, unless that is asked for.
func (l *loader) checkPlain(n node, h *HTTP) {
	switch {
	case h.TLS.Usable() && h.NoTLS:
		n.failHint("remove it", "insecure_no_tls has no effect with a certificate")
	case h.TLS.Usable() || h.Listen == "" || localOnly(h.Listen):
	case h.NoTLS:
		l.warn("http: %s is open to other machines without encryption: anybody on the way can read the names of shares, sources and jobs, and change what is told; the viewer is off", h.Listen)
	default:
		n.failHint("set http.tls.certificate and key, or listen on 127.0.0.1; where something in front encrypts, set http.insecure_no_tls: true",
			"%q is open to other machines, and there is no certificate", h.Listen)
	}
}

// checkOperators refuses operators that are no users.
func (l *loader) checkOperators() {
	if l.cfg.HTTP == nil {
		return
	}
	for _, name := range l.cfg.HTTP.Operators {
		if _, ok := l.userAt[name]; ok {
			continue
		}
		known := fields{}
		for u := range l.userAt {
			known[u] = field{}
		}
		hint := "add it to users"
		if near := nearest(name, known); near != "" {
			hint = `did you mean "` + near + `"?`
		}
		l.operatorsAt.failHint(hint, "no user %q", name)
	}
}

// localOnly reports whether only this machine reaches an address of the form host:port.
func localOnly(listen string) bool {
	host, _, err := net.SplitHostPort(listen)
	if err != nil {
		return false
	}
	if host == "localhost" {
		return true
	}
	a, err := netip.ParseAddr(host)
	return err == nil && a.Unmap().IsLoopback()
}
