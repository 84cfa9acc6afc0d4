package auth

import (
	"crypto/rsa"
	"errors"
	"fmt"
	"net/netip"
	"path"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"
)

// minRSABits is the shortest RSA key that may log in (NIST SP 800-131A).
const minRSABits = 2048

// Key is a line of authorized_keys: a public key and the conditions on its use.
type Key struct {
	Public  ssh.PublicKey
	Comment string
	Expires time.Time // from then on it is refused; zero means never
	from    []addrPattern
}

// ParseKey parses one line in the format of sshd(8), AUTHORIZED_KEYS. The options from,
// expiry-time and restrict are honoured (restrict takes away nothing: no channel but the
// file transfer exists). Every other option is refused, as ignoring it could give more
// than its author meant to. loc is the time zone of expiry-time values without a "Z".
func ParseKey(line string, loc *time.Location) (Key, error) {
	line = strings.TrimSpace(line)
	if strings.ContainsAny(line, "\r\n") {
		return Key{}, errors.New("more than one line; give one key an entry")
	}
	if line == "" || strings.HasPrefix(line, "#") {
		return Key{}, errors.New("no key in it")
	}
	if strings.Contains(line, "PRIVATE KEY") {
		return Key{}, errors.New("a private key; give the public one, the line of the .pub file")
	}
	pub, comment, options, rest, err := ssh.ParseAuthorizedKey([]byte(line))
	if err != nil {
		return Key{}, errors.New("not a public key; want the line of a .pub file, as ssh-ed25519 AAAA…")
	}
	if len(rest) > 0 {
		return Key{}, errors.New("more than one line; give one key an entry")
	}
	if err := checkKeyType(pub); err != nil {
		return Key{}, err
	}
	k := Key{Public: pub, Comment: comment}
	for _, o := range options {
		if err := k.option(o, loc); err != nil {
			return Key{}, err
		}
	}
	return k, nil
}

func checkKeyType(pub ssh.PublicKey) error {
	switch pub.Type() {
	case ssh.KeyAlgoED25519, ssh.KeyAlgoECDSA256, ssh.KeyAlgoECDSA384, ssh.KeyAlgoECDSA521,
		ssh.KeyAlgoSKED25519, ssh.KeyAlgoSKECDSA256:
		return nil
	case ssh.KeyAlgoRSA:
		ck, ok := pub.(ssh.CryptoPublicKey)
		if !ok {
			return errors.New("an RSA key that cannot be checked")
		}
		if rk, ok := ck.CryptoPublicKey().(*rsa.PublicKey); !ok || rk.N.BitLen() < minRSABits {
			return fmt.Errorf("an RSA key below %d bits", minRSABits)
		}
		return nil
	}
	return fmt.Errorf("keys of type %q are not accepted", pub.Type())
}

// option applies one option of the line.
func (k *Key) option(o string, loc *time.Location) error {
	name, value, hasValue := strings.Cut(o, "=")
	if hasValue {
		value = strings.TrimSuffix(strings.TrimPrefix(value, `"`), `"`)
	}
	switch strings.ToLower(name) {
	case "restrict":
		if hasValue {
			return errors.New(`option "restrict" takes no value`)
		}
		return nil
	case "from":
		if k.from != nil {
			return errors.New(`option "from" given twice`)
		}
		from, err := parseFrom(value)
		if err != nil {
			return err
		}
		k.from = from
		return nil
	case "expiry-time":
		t, err := parseExpiry(value, loc)
		if err != nil {
			return err
		}
		// As with sshd, the earliest of several counts.
		if k.Expires.IsZero() || t.Before(k.Expires) {
			k.Expires = t
		}
		return nil
	}
	return fmt.Errorf("option %q is not supported; only from, expiry-time and restrict are", name)
}

// parseExpiry parses YYYYMMDD[HHMM[SS]] with an optional Z for UTC.
func parseExpiry(s string, loc *time.Location) (time.Time, error) {
	digits, utc := strings.CutSuffix(s, "Z")
	if utc {
		loc = time.UTC
	}
	layout, ok := map[int]string{8: "20060102", 12: "200601021504", 14: "20060102150405"}[len(digits)]
	if !ok {
		return time.Time{}, fmt.Errorf("expiry-time %q; want YYYYMMDD[HHMM[SS]][Z]", s)
	}
	t, err := time.ParseInLocation(layout, digits, loc)
	if err != nil {
		return time.Time{}, fmt.Errorf("expiry-time %q; want YYYYMMDD[HHMM[SS]][Z]", s)
	}
	return t, nil
}

// allowed reports why the key may not be used from addr at now, nil when it may.
func (k *Key) allowed(addr netip.Addr, now time.Time) error {
	if !k.Expires.IsZero() && !now.Before(k.Expires) {
		return errKeyExpired
	}
	if k.from != nil && !matchFrom(k.from, addr) {
		return errKeyFrom
	}
	return nil
}

// addrPattern is an element of a from option: an address, a CIDR network or an address
// with the wildcards * and ?, possibly negated.
type addrPattern struct {
	negated bool
	prefix  netip.Prefix
	glob    string // used when prefix is not valid
}

func parseFrom(list string) ([]addrPattern, error) {
	var out []addrPattern
	for _, e := range strings.Split(list, ",") {
		e = strings.TrimSpace(e)
		var p addrPattern
		e, p.negated = strings.CutPrefix(e, "!")
		if pre, err := ParsePrefix(e); err == nil {
			p.prefix = pre
		} else if e != "" && strings.Trim(e, "0123456789abcdefABCDEF.:*?") == "" {
			p.glob = strings.ToLower(e)
		} else {
			return nil, fmt.Errorf("from pattern %q; want addresses or networks (host names are not looked up)", e)
		}
		out = append(out, p)
	}
	return out, nil
}

// matchFrom is true when some element matches and no negated one does (ssh_config(5),
// PATTERNS).
func matchFrom(list []addrPattern, addr netip.Addr) bool {
	found := false
	for _, p := range list {
		var hit bool
		if p.prefix.IsValid() {
			hit = p.prefix.Contains(addr.WithZone(""))
		} else {
			hit, _ = path.Match(p.glob, addr.WithZone("").String())
		}
		if hit && p.negated {
			return false
		}
		found = found || hit
	}
	return found
}

// mappedBits is the length of the prefix of IPv4-mapped addresses (RFC 4291 section 2.5.5.2).
const mappedBits = 96

// ParsePrefix parses a network in CIDR notation or a single address. What is written as an
// IPv4-mapped one of IPv6 is the IPv4 one.
func ParsePrefix(s string) (netip.Prefix, error) {
	if a, err := netip.ParseAddr(s); err == nil && a.Zone() == "" {
		a = a.Unmap()
		return netip.PrefixFrom(a, a.BitLen()), nil
	}
	p, err := netip.ParsePrefix(s)
	if err != nil {
		return netip.Prefix{}, fmt.Errorf("%q is not a network; want an address or CIDR notation, as 192.0.2.0/24", s)
	}
	if p.Addr() != p.Masked().Addr() {
		return netip.Prefix{}, fmt.Errorf("network %q has host bits set; did you mean %q", s, p.Masked())
	}
	if p.Addr().Is4In6() {
		// A peer's mapped address is taken as IPv4, which no such network contains: "!" before
		// one would let in what it should keep out. Shorter prefixes have host bits set.
		p = netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-mappedBits)
	}
	return p, nil
}
