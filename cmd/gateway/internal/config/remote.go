package config

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/snapgate/gateway/pull"
)

// Remote is a tree on a server, or a local one: a source or a destination. A zero value is the
// default of ssh_config, or of docs/REMOTES.md.
type Remote struct {
	Name string // "" for one that is given on a command line without a name
	// Location has the settings username, port and root in it.
	Location pull.Location

	PasswordFile string // its first line; of SFTP and FTP
	PasswordEnv  string

	// Of SFTP.
	Identities     []string // files of private keys
	PrivateKeyEnv  string   // a variable that holds the text of a private key
	PassphraseFile string   // of encrypted keys
	PassphraseEnv  string
	Agent          string // socket, or none
	KnownHosts     string
	HostKey        string // strict or accept-new
	Insecure       bool   // any host key is good
	SSHConfig      string // file
	Transport      string // native or openssh
	Jump           string // as ProxyJump
	Legacy         bool   // algorithms of about 2010

	// Of FTP.
	TLS         TLSMode // explicit, off or implicit
	CAFile      string  // more authorities whose certificates are good
	TLSInsecure bool    // any certificate is good

	Connections int           // at most
	Bandwidth   int64         // bytes of contents a second
	Timeout     time.Duration // how long the server may keep us waiting
}

const (
	// maxRemoteConnections is how many connections a remote may be given: an OpenSSH server
	// begins to refuse at ten logins at a time (MaxStartups).
	maxRemoteConnections = 64
	// minBandwidth is the least that a limit makes sense with.
	minBandwidth = 1 << 10
)

// remoteReader reads the settings of one remote.
type remoteReader struct {
	l *loader
	r *Remote

	location, username, root string
	port                     int
	used                     map[string]node // the keys that are there
}

// fields are the keys of remotes. Names that plakar has too mean the same.
func (rr *remoteReader) fields() fields {
	l, r := rr.l, rr.r
	hostKeys := []string{hostKeyStrict, hostKeyAcceptNew}
	transports := []string{transportNative, transportOpenSSH}
	known := fields{
		"location": intoText(&rr.location),
		"username": intoText(&rr.username),
		"port":     intoInt(&rr.port, 65535),
		"root":     intoText(&rr.root),

		"password_file": l.intoSecretFile(&r.PasswordFile),
		"password_env":  intoText(&r.PasswordEnv),

		"identity":                 {func(n node) { l.readIdentities(n, &r.Identities) }},
		"ssh_private_key_env":      intoText(&r.PrivateKeyEnv),
		"passphrase_file":          l.intoSecretFile(&r.PassphraseFile),
		"passphrase_env":           intoText(&r.PassphraseEnv),
		"agent":                    {func(n node) { readAgent(n, &r.Agent) }},
		"known_hosts":              intoPath(&r.KnownHosts),
		"host_key":                 intoChoice(&r.HostKey, hostKeys, hostKeys),
		"insecure_ignore_host_key": intoBool(&r.Insecure),
		"ssh_config":               intoPath(&r.SSHConfig),
		"transport":                intoChoice(&r.Transport, transports, transports),
		"jump":                     intoText(&r.Jump),
		"legacy":                   intoBool(&r.Legacy),

		"tls":                    intoChoice(&r.TLS, []string{"explicit", "off", "implicit"}, []TLSMode{TLSExplicit, TLSOff, TLSImplicit}),
		"ca_file":                intoPath(&r.CAFile),
		"tls_insecure_no_verify": intoBool(&r.TLSInsecure),

		"connections": intoInt(&r.Connections, maxRemoteConnections),
		"bandwidth":   intoBytes(&r.Bandwidth, minBandwidth),
		"timeout":     intoDuration(&r.Timeout, remoteMinTimeout),
	}
	rr.used = make(map[string]node, len(known))
	for key, f := range known {
		known[key] = noting(rr.used, key, f)
	}
	known["password"] = noSecret("write password_file: FILE (mode 0600) or password_env: NAME; better, log in with a key: identity")
	known["ssh_private_key"] = noSecret("write identity: FILE (mode 0600), or ssh_private_key_env: NAME")
	known["passphrase"] = noSecret("write passphrase_file: FILE (mode 0600) or passphrase_env: NAME, or load the key into an agent")
	known["identity_file"] = field{func(n node) { n.failHint("write identity", "the files of keys have another key here") }}
	for key, hint := range map[string]string{
		"user": "write username", "key": "write identity: FILE",
		"host": "write location: sftp://host/path", "url": "write location: sftp://host/path", "path": "write location: sftp://host/path, or root: DIRECTORY for one below it",
	} {
		known[key] = field{func(n node) { n.failHint(hint, "unknown key") }}
	}
	return known
}

// noSecret refuses a key whose value would be a secret.
func noSecret(hint string) field {
	return field{func(n node) { n.failHint(hint, "a secret does not belong into the configuration") }}
}

// readIdentities reads a file of a private key, or a list of them.
func (l *loader) readIdentities(n node, dst *[]string) {
	read := func(n node) {
		if s, ok := n.text(); ok {
			*dst = append(*dst, n.path(s))
			l.checkSecretMode(n, n.path(s))
		}
	}
	if n.isList() {
		n.list(read)
	} else {
		read(n)
	}
}

// readAgent reads a socket, or the word none.
func readAgent(n node, dst *string) {
	if s, ok := n.text(); ok {
		if *dst = s; s != "none" {
			*dst = n.path(s)
		}
	}
}

// readRemote reads the settings of a remote and, with them, those of more.
func (l *loader) readRemote(n node, r *Remote, more fields) {
	if !n.isMapping("write { location: … }") {
		return
	}
	rr := &remoteReader{l: l, r: r}
	known := rr.fields()
	maps.Copy(known, more)
	n.fields(known)
	if rr.location == "" {
		if n.clean() {
			n.failHint("add location: sftp://host/path, ftp://host/path, ftps://host/path or fs:///path", "no location")
		}
		return
	}
	at := rr.used["location"]
	if strings.TrimSpace(rr.location) == "" {
		at.fail("must not be empty")
		return
	}
	if hint := asForSCP(rr.location); hint != "" {
		at.failHint(hint, "a colon before the first slash: on a server, or on this machine?")
		return
	}
	loc, err := pull.ParseLocation(localLocation(at, rr.location))
	if err != nil {
		hint := ""
		var le *pull.LocationError
		if errors.As(err, &le) {
			hint = le.Hint
			err = le.Err // the place is known
		}
		at.failHint(hint, "%w", err)
		return
	}
	r.Location = loc
	rr.refuseForeign(n)
	if n.clean() {
		rr.place(n)
		rr.checkSSH(n)
		rr.checkFTP(n)
	}
	if n.clean() {
		rr.warn(n)
	}
}

// asForSCP says what to write in place of host:path, which scp and rsync take for a path on a server, "" for
// anything else. What may be a password is not repeated.
func asForSCP(s string) (hint string) {
	first, rest, _ := strings.Cut(s, "/")
	host, below, colon := strings.Cut(first, ":")
	if !colon || strings.Contains(s, "://") || pull.IsWindowsPath(s) {
		return ""
	}
	scheme := slices.Contains([]string{"sftp", "ftp", "ftps", "fs", "file", "s3", "ssh"}, strings.ToLower(host))
	if scheme || host == "" || strings.Contains(below, "@") || strings.HasPrefix(s, "[") {
		return "write sftp://host/path, ftp://host/path, ftps://host/path or fs:///path"
	}
	path := "/" + rest
	switch {
	case below != "" && strings.Trim(below, "0123456789") == "" && rest != "": // host:port/path
		path = ":" + below + path
	case below != "" || rest == "": // where a login arrives
		path = "/~/" + strings.TrimPrefix(strings.TrimPrefix(s[len(host)+1:], "~"), "/")
	}
	return fmt.Sprintf("write sftp://%s%s for a server, ./%s for a directory of this machine", host, path, s)
}

// localLocation makes the path of a local directory absolute, as other paths are.
func localLocation(n node, s string) string {
	scheme, rest, ok := strings.Cut(s, "://")
	switch {
	case ok && !strings.EqualFold(scheme, string(pull.SchemeFS)), pull.IsWindowsPath(s):
		return s
	case !ok:
		rest = s
	}
	return "fs://" + filepath.ToSlash(n.path(rest))
}

// refuseForeign refuses keys that are of other schemes than the location's.
func (rr *remoteReader) refuseForeign(n node) {
	ssh := []string{
		"identity", "ssh_private_key_env", "passphrase_file", "passphrase_env", "agent", "known_hosts", "host_key",
		"insecure_ignore_host_key", "ssh_config", "transport", "jump", "legacy",
	}
	ftp := []string{"tls", "ca_file", "tls_insecure_no_verify"}
	remote := []string{"username", "port", "password_file", "password_env", "connections", "timeout"}
	for _, group := range []struct {
		keys    []string
		schemes []pull.Scheme
		why     string
	}{
		{ssh, []pull.Scheme{pull.SchemeSFTP}, "is for sftp:// alone"},
		{ftp, []pull.Scheme{pull.SchemeFTP, pull.SchemeFTPS}, "is for ftp:// and ftps:// alone"},
		{remote, []pull.Scheme{pull.SchemeSFTP, pull.SchemeFTP, pull.SchemeFTPS}, "has no meaning for a local directory"},
	} {
		if slices.Contains(group.schemes, rr.r.Location.Scheme) {
			continue
		}
		foreign := map[string]node{}
		for _, key := range group.keys {
			if at, ok := rr.used[key]; ok {
				foreign[key] = at
			}
		}
		n.refuse(foreign, group.why)
	}
}

// place puts username, port and root into the location.
func (rr *remoteReader) place(n node) {
	loc := &rr.r.Location
	if rr.username != "" {
		if loc.User != "" && loc.User != rr.username {
			rr.used["username"].fail("%q here, and %q in the location", rr.username, loc.User)
		}
		if strings.ContainsAny(rr.username, "\x00\r\n") {
			rr.used["username"].fail("no user has such a name")
		}
		loc.User = rr.username
	}
	if rr.port != 0 {
		if loc.Port != 0 && loc.Port != rr.port {
			rr.used["port"].fail("%d here, and %d in the location", rr.port, loc.Port)
		}
		loc.Port = rr.port
	}
	if rr.root != "" {
		below, err := loc.Below(rr.root)
		if err != nil {
			rr.used["root"].failHint("write a path below the location's", "%w", err)
			return
		}
		*loc = below
	}
	if _, ok := rr.used["tls"]; loc.Scheme == pull.SchemeFTPS {
		if ok && rr.r.TLS != TLSImplicit {
			rr.used["tls"].failHint("write ftp:// for explicit TLS", "ftps:// is implicit TLS")
		}
		rr.r.TLS = TLSImplicit
	} else if rr.r.TLS == TLSImplicit && loc.Scheme == pull.SchemeFTP {
		loc.Scheme = pull.SchemeFTPS // one thing with two names
	}
	if rr.r.PasswordFile != "" && rr.r.PasswordEnv != "" {
		n.fail("password_file and password_env exclude each other")
	}
}

func (rr *remoteReader) checkSSH(n node) {
	r := rr.r
	if r.Location.Scheme != pull.SchemeSFTP {
		return
	}
	passphrase := r.PassphraseFile != "" || r.PassphraseEnv != ""
	password := r.PasswordFile != "" || r.PasswordEnv != ""
	switch {
	case r.PassphraseFile != "" && r.PassphraseEnv != "":
		n.fail("passphrase_file and passphrase_env exclude each other")
	case r.Transport == transportOpenSSH && (password || passphrase || r.PrivateKeyEnv != ""):
		n.failHint("use a key file that is not encrypted, or an agent", "transport: openssh takes no password, passphrase or private key text")
	case r.Insecure && (r.KnownHosts != "" || r.HostKey != ""):
		n.fail("known_hosts and host_key have no use with insecure_ignore_host_key: true")
	case r.Legacy && r.Transport == transportOpenSSH:
		n.failHint("allow the algorithms in ssh_config", "legacy has no effect with transport: openssh")
	}
}

func (rr *remoteReader) checkFTP(n node) {
	r := rr.r
	if s := r.Location.Scheme; s != pull.SchemeFTP && s != pull.SchemeFTPS {
		return
	}
	switch password := r.PasswordFile != "" || r.PasswordEnv != ""; {
	case r.TLS == TLSOff && (r.CAFile != "" || r.TLSInsecure):
		n.fail("ca_file and tls_insecure_no_verify have no use with tls: off")
	case r.TLSInsecure && r.CAFile != "":
		n.fail("ca_file has no use with tls_insecure_no_verify: true")
	case password && r.Location.User == "":
		n.failHint("add username", "a password without a user: FTP logs in anonymously then")
	}
}

// warn notes what is allowed and unwise.
func (rr *remoteReader) warn(n node) {
	const inBetween = "whoever is between here and the server can read and change what is sent"
	ftp := rr.r.Location.Scheme == pull.SchemeFTP || rr.r.Location.Scheme == pull.SchemeFTPS
	switch {
	case rr.r.Insecure:
		rr.l.warn("%s: insecure_ignore_host_key: %s, and gets the password", n.label(), inBetween)
	case rr.r.TLSInsecure:
		rr.l.warn("%s: tls_insecure_no_verify: %s, and gets the password", n.label(), inBetween)
	case ftp && rr.r.TLS == TLSOff:
		rr.l.warn("%s: tls: off: password and files cross the network in plain text", n.label())
	}
}

// label is the key of n, or what stands for it where there is none.
func (n node) label() string {
	if n.key == "" {
		return n.src.name
	}
	return n.key
}

// PrivateKey returns the text of PrivateKeyEnv's variable, nil without one.
func (r *Remote) PrivateKey() ([]byte, error) {
	if r.PrivateKeyEnv == "" {
		return nil, nil
	}
	value := os.Getenv(r.PrivateKeyEnv)
	if value == "" {
		return nil, errors.New("environment variable " + r.PrivateKeyEnv + " is empty")
	}
	return []byte(value), nil
}
