package sshclient

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha1" //nolint:gosec // the format's hash of names
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"slices"
	"strings"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"
)

// knownLine is a line of a known_hosts file (SSH_KNOWN_HOSTS FILE FORMAT of sshd(8)).
type knownLine struct {
	file   string
	line   int    // from 1
	marker string // "", "cert-authority" or "revoked"
	hosts  []string
	key    ssh.PublicKey
}

func (l *knownLine) known() KnownKey {
	return KnownKey{File: l.file, Line: l.line, Type: l.key.Type(), Fingerprint: ssh.FingerprintSHA256(l.key)}
}

// matches reports whether the line is for name, which is lower case and as known_hosts has
// it: "host", or "[host]:port" for another port than 22.
func (l *knownLine) matches(name string) bool {
	if len(l.hosts) == 1 && strings.HasPrefix(l.hosts[0], "|") {
		return matchHashed(l.hosts[0], name)
	}
	return matchList(l.hosts, name)
}

// matchHashed compares with a name that was hashed: |1|salt|HMAC-SHA1(salt, name).
func matchHashed(hashed, name string) bool {
	part := strings.Split(hashed, "|")
	if len(part) != 4 || part[1] != "1" {
		return false
	}
	salt, err := base64.StdEncoding.DecodeString(part[2])
	if err != nil || len(salt) != sha1.Size {
		return false
	}
	want, err := base64.StdEncoding.DecodeString(part[3])
	if err != nil {
		return false
	}
	mac := hmac.New(sha1.New, salt)
	mac.Write([]byte(name))
	return hmac.Equal(mac.Sum(nil), want)
}

// parseKnownHosts reads a known_hosts file. Lines that cannot be understood are skipped, as
// ssh does: a key of a new type must not lock the user out of every other host. But a line
// that revokes or has a marker of its own must be understood: skipping it would trust.
func parseKnownHosts(file string, data []byte) ([]knownLine, error) {
	var out []knownLine
	for i, text := range bytes.Split(data, []byte("\n")) {
		text = bytes.Trim(text, " \t\r")
		if len(text) == 0 || text[0] == '#' {
			continue
		}
		marker, hosts, key, _, rest, err := ssh.ParseKnownHosts(text)
		if err != nil || len(rest) > 0 {
			if text[0] == '@' && !bytes.HasPrefix(text, []byte("@cert-authority")) {
				return nil, configError("%s:%d: a line with a marker that cannot be understood", file, i+1)
			}
			continue
		}
		if marker != "" && marker != "cert-authority" && marker != "revoked" {
			continue
		}
		for j := range hosts {
			hosts[j] = strings.TrimSpace(hosts[j])
			if !strings.HasPrefix(hosts[j], "|") {
				hosts[j] = strings.ToLower(hosts[j])
			}
		}
		out = append(out, knownLine{file: file, line: i + 1, marker: marker, hosts: hosts, key: key})
	}
	return out, nil
}

// readKnownHosts reads all files of a hop; a missing one has no lines.
func (h *hop) readKnownHosts() (knownHosts, error) {
	var all knownHosts
	for _, file := range slices.Concat(h.knownHosts, h.knownHostsFixed) {
		data, err := readLimited(file, maxConfigSize)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, configError("known_hosts: %w", err)
		}
		lines, err := parseKnownHosts(file, data)
		if err != nil {
			return nil, err
		}
		all = append(all, lines...)
	}
	return all, nil
}

// knownHosts are the lines of all files.
type knownHosts []knownLine

// knownName is what known_hosts calls a hop: HostKeyAlias as it is, else host and port.
func (h *hop) knownName() string {
	if h.hostKeyAlias != "" {
		return strings.ToLower(h.hostKeyAlias)
	}
	return strings.ToLower(knownhosts.Normalize(h.addr()))
}

// lookup returns the lines for a hop. A host on another port than 22 without lines of its
// own has those of the bare name, as with ssh, but only to accept a key: own is false then.
func (k knownHosts) lookup(h *hop) (lines []knownLine, own bool) {
	find := func(name string) (out []knownLine) {
		for _, l := range k {
			if l.marker != "revoked" && l.matches(name) {
				out = append(out, l)
			}
		}
		return out
	}
	if lines = find(h.knownName()); len(lines) > 0 {
		return lines, true
	}
	if h.hostKeyAlias == "" && h.port != 22 {
		return find(strings.ToLower(h.host)), false
	}
	return nil, true
}

// order puts the algorithms of the keys that are known in front, so that a server shows one
// of those (order_hostkeyalgs of OpenSSH). Certificates need a line of an authority.
func (k knownHosts) order(h *hop, algos []string) []string {
	lines, _ := k.lookup(h)
	var first, rest []string
	for _, algo := range algos {
		_, plain := certificateOf(algo)
		known := slices.ContainsFunc(lines, func(l knownLine) bool {
			return l.marker == "cert-authority" == plain && (plain || keyTypeOf(algo) == l.key.Type())
		})
		switch {
		case known:
			first = append(first, algo)
		case !plain:
			rest = append(rest, algo)
		}
	}
	return append(first, rest...)
}

// certificateOf reports whether algo is one of certificates, and returns that of their key.
func certificateOf(algo string) (string, bool) {
	return strings.CutSuffix(algo, "-cert-v01@openssh.com")
}

// keyTypeOf is the type of key that an algorithm signs with: the two SHA-2 algorithms of
// RSA have ssh-rsa keys (RFC 8332).
func keyTypeOf(algo string) string {
	if algo == ssh.KeyAlgoRSASHA256 || algo == ssh.KeyAlgoRSASHA512 {
		return ssh.KeyAlgoRSA
	}
	return algo
}

// verify decides whether the key of a hop is the known one. A certificate is good when an
// authority that known_hosts has for the hop signed it for its name; otherwise its key
// counts like any other, and only when that is unknown the error is about the certificate.
func (k knownHosts) verify(h *hop, key ssh.PublicKey) error {
	lines, own := k.lookup(h)
	plain := key
	var bad error // of a certificate
	if cert, ok := key.(*ssh.Certificate); ok {
		plain = cert.Key
		if slices.ContainsFunc(lines, func(l knownLine) bool { return l.marker == "cert-authority" && sameKey(l.key, cert.SignatureKey) }) {
			if bad = k.verifyCertificate(h, cert); bad == nil || KindOf(bad) == KindHostKeyRevoked {
				return bad
			}
		}
	}
	if l := k.revoked(plain); l != nil {
		return revokedError(h, l)
	}
	var others []KnownKey
	for _, l := range lines {
		switch {
		case l.marker != "":
		case sameKey(l.key, plain):
			return nil
		default:
			others = append(others, l.known())
		}
	}
	if len(others) > 0 && own {
		return changedError(h, plain, others)
	}
	if bad != nil {
		return bad
	}
	return unknownError(h, plain)
}

func (k knownHosts) verifyCertificate(h *hop, cert *ssh.Certificate) error {
	for _, key := range []ssh.PublicKey{cert.Key, cert.SignatureKey} {
		if l := k.revoked(key); l != nil {
			return revokedError(h, l)
		}
	}
	principal := strings.ToLower(pick(h.hostKeyAlias, h.host))
	// Host certificates may be for patterns (sshkey_cert_check_host of OpenSSH).
	for _, p := range cert.ValidPrincipals {
		if matchPattern(p, principal) {
			principal = p
			break
		}
	}
	var err error
	if cert.CertType != ssh.HostCert {
		err = errors.New("it is not a host certificate")
	} else {
		err = (&ssh.CertChecker{}).CheckCert(principal, cert)
	}
	if err != nil {
		return &Error{
			Kind: KindHostKeyUnknown, Host: h.String(), Detail: fmt.Sprintf("certificate of the server, for %s", principal), Err: err,
			Fingerprint: ssh.FingerprintSHA256(cert.Key),
			Hint:        "have the authority sign a certificate that is valid now and for this name, or set HostKeyAlias to a name it has",
		}
	}
	return nil
}

// revoked finds the line that revokes a key. It counts whatever host it names.
func (k knownHosts) revoked(key ssh.PublicKey) *knownLine {
	for i := range k {
		if k[i].marker == "revoked" && sameKey(k[i].key, key) {
			return &k[i]
		}
	}
	return nil
}

func sameKey(a, b ssh.PublicKey) bool { return bytes.Equal(a.Marshal(), b.Marshal()) }

func revokedError(h *hop, l *knownLine) *Error {
	known := l.known()
	return &Error{
		Kind: KindHostKeyRevoked, Host: h.String(), Detail: known.String(), Fingerprint: known.Fingerprint, Known: []KnownKey{known},
		Hint: "the key was withdrawn: whoever shows it must not be trusted; ask the server's operator for its new key",
	}
}

func changedError(h *hop, key ssh.PublicKey, others []KnownKey) *Error {
	e := &Error{
		Kind: KindHostKeyChanged, Host: h.String(), Fingerprint: ssh.FingerprintSHA256(key), Known: others,
		Detail: fmt.Sprintf("the server shows %s %s, known is %s", key.Type(), ssh.FingerprintSHA256(key), others[0]),
		Hint: "somebody may be in between, or the server was set up anew: ask its operator for the fingerprint, and only when it is the one shown, remove the old line with\n" +
			"ssh-keygen -R " + quoteArg(h.knownName()) + " -f " + quoteArg(others[0].File),
	}
	if !slices.ContainsFunc(others, func(o KnownKey) bool { return o.Type == key.Type() }) {
		e.Detail += " (of another type: the server may have lost that key)"
	}
	return e
}

func unknownError(h *hop, key ssh.PublicKey) *Error {
	line := knownhosts.Line([]string{h.knownName()}, key)
	if h.hostKeyAlias != "" {
		line = h.knownName() + " " + strings.TrimSpace(string(ssh.MarshalAuthorizedKey(key)))
	}
	file := "known_hosts"
	if len(h.knownHosts) > 0 {
		file = h.knownHosts[0]
	}
	return &Error{
		Kind: KindHostKeyUnknown, Host: h.String(), Fingerprint: ssh.FingerprintSHA256(key), Line: line,
		Detail: fmt.Sprintf("%s %s is not in known_hosts", key.Type(), ssh.FingerprintSHA256(key)),
		Hint: fmt.Sprintf("compare the fingerprint with the server's (ssh-keygen -lf /etc/ssh/ssh_host_%s_key.pub there), then add this line to %s:\n%s\nor accept new keys with host_key: accept-new",
			shortType(key.Type()), file, line),
	}
}

// shortType is the type of a key as ssh-keyscan -t and the server's file names have it.
func shortType(typ string) string {
	switch {
	case typ == ssh.KeyAlgoRSA:
		return "rsa"
	case strings.HasPrefix(typ, "ecdsa"):
		return "ecdsa"
	default:
		return "ed25519"
	}
}

// quoteArg quotes for a shell what is not plain.
func quoteArg(s string) string {
	plain := func(r rune) bool {
		return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("-_./:@", r)
	}
	if s != "" && strings.IndexFunc(s, func(r rune) bool { return !plain(r) }) < 0 {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

// hostKeyCallback is the decision during the handshake. The files are read again, since
// another connection may have added a line.
func (d *Dialer) hostKeyCallback(h *hop) ssh.HostKeyCallback {
	// The exchange is repeated every gigabyte or so; the decision about a key is not.
	var accepted ssh.PublicKey
	return func(_ string, _ net.Addr, key ssh.PublicKey) error {
		if accepted != nil && sameKey(accepted, key) {
			return nil
		}
		err := d.decide(h, key)
		if err == nil {
			accepted = key
		}
		return err
	}
}

// decide applies the policy to the key of a hop.
func (d *Dialer) decide(h *hop, key ssh.PublicKey) error {
	if err := h.checkRSASize(key); err != nil {
		return &Error{
			Kind: KindAlgorithm, Host: h.String(), Detail: "host key", Err: err, Fingerprint: ssh.FingerprintSHA256(key),
			Hint: "have the server's operator make a larger key (ssh-keygen -t ed25519), or lower RequiredRSASize for this host in ssh_config",
		}
	}
	if h.policy == Insecure {
		d.log.Warn("host key is not checked: anybody in between can read and change everything",
			"host", h.String(), "fingerprint", ssh.FingerprintSHA256(key))
		return nil
	}
	known, err := h.readKnownHosts()
	if err != nil {
		return err
	}
	err = known.verify(h, key)
	if h.policy != AcceptNew || KindOf(err) != KindHostKeyUnknown || err == nil {
		return err
	}
	var e *Error
	if errors.As(err, &e) && e.Line == "" { // a certificate that is not good
		return err
	}
	return d.acceptNew(h, key)
}
