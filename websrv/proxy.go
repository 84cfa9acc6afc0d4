package websrv

import (
	"context"
	"net/http"
	"net/netip"
	"strings"
)

// How a proxy tells for whom it asks. Of several of a name the later are those of the nearer proxy.
const (
	forwardedFor   = "X-Forwarded-For"
	forwardedProto = "X-Forwarded-Proto"
)

// encryptedKey is where the context of a request has that its client's side is encrypted, which a
// trusted proxy says.
type encryptedKey struct{}

// fromProxy has a request of a trusted proxy come from whom the proxy asks for: RemoteAddr is the
// client's. The headers of all others mean nothing, as everybody can send them.
func (s *Server) fromProxy(r *http.Request) *http.Request {
	if len(r.Header[forwardedFor]) == 0 && len(r.Header[forwardedProto]) == 0 {
		return r
	}
	peer, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return r
	}
	if s.cfg.Proxies == nil || !within(s.cfg.Proxies(), peer.Addr()) {
		s.hint.Do(func() {
			s.cfg.Logger.Warn("requests say that they come through a proxy that is not in http.trusted_proxies: for throttling and in the audit log all its clients are one",
				"remote", r.RemoteAddr)
		})
		return r
	}
	if words := r.Header[forwardedProto]; len(words) > 0 {
		list := strings.Split(words[len(words)-1], ",")
		if strings.EqualFold(strings.TrimSpace(list[len(list)-1]), "https") {
			r = r.WithContext(context.WithValue(r.Context(), encryptedKey{}, true))
		}
	}
	client := clientOf(peer, r.Header[forwardedFor], s.cfg.Proxies())
	if client == peer {
		return r
	}
	changed := *r
	changed.RemoteAddr = client.String()
	return &changed
}

// clientOf is the rightmost address of the headers that is no trusted proxy's: what is left of it
// anybody may have made up. An entry that is no address ends the way, since it is not known who
// wrote what is left of it; then it is the last proxy's address that is known.
func clientOf(peer netip.AddrPort, headers []string, trusted []netip.Prefix) netip.AddrPort {
	client := peer
	for i := len(headers) - 1; i >= 0; i-- {
		entries := strings.Split(headers[i], ",")
		for j := len(entries) - 1; j >= 0; j-- {
			text := strings.TrimSpace(entries[j])
			if text == "" {
				continue // lists may have empty elements
			}
			at, ok := forwardedAddr(text)
			if !ok {
				return client
			}
			if client = at; !within(trusted, at.Addr()) {
				return client
			}
		}
	}
	return client
}

// forwardedAddr reads an address as proxies write it: with a port or without, of IPv6 in brackets or
// not. A zone means something on the proxy's machine only, and is left out.
func forwardedAddr(text string) (netip.AddrPort, bool) {
	if len(text) > maxForwarded {
		return netip.AddrPort{}, false
	}
	at, err := netip.ParseAddrPort(text)
	if err != nil {
		if strings.HasPrefix(text, "[") && strings.HasSuffix(text, "]") {
			text = text[1 : len(text)-1]
		}
		a, err := netip.ParseAddr(text)
		if err != nil {
			return netip.AddrPort{}, false
		}
		at = netip.AddrPortFrom(a, 0)
	}
	a := at.Addr().Unmap().WithZone("")
	return netip.AddrPortFrom(a, at.Port()), !a.IsUnspecified()
}

// maxForwarded is the longest address that is looked at: of IPv6, in brackets, with a port and a zone.
const maxForwarded = 128

func within(list []netip.Prefix, a netip.Addr) bool {
	a = a.Unmap().WithZone("")
	for _, p := range list {
		if p.Contains(a) {
			return true
		}
	}
	return false
}

// encrypted reports whether what the browser sends is: by this server, or by a proxy that is trusted.
func (v *viewer) encrypted(r *http.Request) bool {
	told, _ := r.Context().Value(encryptedKey{}).(bool)
	return v.secure || told
}
