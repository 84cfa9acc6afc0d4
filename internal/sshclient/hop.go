package sshclient

import (
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"
)

// minRSABits is the size of RSA keys, in bits, below which ssh takes none (RequiredRSASize).
const minRSABits = 1024

// identity is a private key file that may be offered.
type identity struct {
	path     string
	explicit bool // named by the settings or ssh_config, not one of the default files
}

// hop is a server to connect to with all that is known of how: the target or a jump host.
type hop struct {
	name, host, user string // name as given, host to connect to
	port             int
	network, bind    string // "tcp", "tcp4" or "tcp6"; local address or ""

	identities     []identity
	certificates   []string
	identitiesOnly bool
	agent          string // socket, or "" for none

	hostKeyAlias                string
	knownHosts, knownHostsFixed []string // the first of knownHosts gets new keys
	policy                      HostKeyPolicy
	hashKnownHosts              bool
	rsaBits                     int // smallest RSA key of a server or user that counts

	timeout, keepAlive time.Duration
	keepAliveCount     int

	methods    []string // of authentication, preferred first
	algorithms algorithms
	jump       []jumpHost
}

// jumpHost is an element of ProxyJump.
type jumpHost struct {
	user, host string
	port       int // 0: not given
}

// addr is host:port.
func (h *hop) addr() string { return net.JoinHostPort(h.host, strconv.Itoa(h.port)) }

// String is the hop in messages: the name, and the address when it says more.
func (h *hop) String() string {
	switch {
	case h.name == h.host && h.port == 22:
		return h.name
	case h.name == h.host:
		return h.addr()
	}
	return fmt.Sprintf("%s (%s)", h.name, h.addr())
}

// values interprets options; the first error stays.
type values struct {
	*machine
	o   *options
	err error
}

func (v *values) fail(d *directive, err error) {
	if v.err == nil {
		v.err = configError("%s: %s: %w", d.where(), d.key, err)
	}
}

// one returns the only argument of a keyword, def when it is not set.
func (v *values) one(key, def string) string {
	d := v.o.first[key]
	if d == nil {
		return def
	}
	if len(d.args) != 1 {
		v.fail(d, fmt.Errorf("one value is wanted, not %d", len(d.args)))
		return def
	}
	return d.args[0]
}

// choice looks the argument of a keyword up.
func choice[T any](v *values, key string, def T, table map[string]T) T {
	s := v.one(key, "")
	if s == "" {
		return def
	}
	t, ok := table[strings.ToLower(s)]
	if !ok {
		v.fail(v.o.first[key], fmt.Errorf("%q is none of its values", s))
		return def
	}
	return t
}

func (v *values) yes(key string, def bool) bool {
	return choice(v, key, def, map[string]bool{"yes": true, "true": true, "no": false, "false": false})
}

// number is an integer from low to high.
func (v *values) number(key string, def, low, high int) int {
	s := v.one(key, "")
	if s == "" {
		return def
	}
	n, err := strconv.Atoi(s)
	if err != nil || n < low || n > high {
		v.fail(v.o.first[key], fmt.Errorf("%q is no number from %d to %d", s, low, high))
		return def
	}
	return n
}

// seconds is a time in the formats of sshd_config(5): 30, 1m30s, none.
func (v *values) seconds(key string, def time.Duration) time.Duration {
	s := v.one(key, "")
	if s == "" || s == "none" {
		return def
	}
	d, err := parseTime(s)
	if err != nil {
		v.fail(v.o.first[key], err)
		return def
	}
	return d
}

// parseTime reads numbers with units s, m, h, d, w, seconds without one (TIME FORMATS of
// sshd_config(5)).
func parseTime(s string) (time.Duration, error) {
	units := map[byte]time.Duration{'s': time.Second, 'm': time.Minute, 'h': time.Hour, 'd': 24 * time.Hour, 'w': 7 * 24 * time.Hour}
	const most = 100 * 365 * 24 * time.Hour
	var total time.Duration
	for rest := s; rest != "" || total == 0 && s == ""; {
		digits := rest[:len(rest)-len(strings.TrimLeft(rest, "0123456789"))]
		n, err := strconv.Atoi(digits)
		if err != nil {
			return 0, fmt.Errorf("%q is no time", s)
		}
		unit := time.Second
		if rest = rest[len(digits):]; rest != "" {
			if unit = units[rest[0]|0x20]; unit == 0 {
				return 0, fmt.Errorf("%q is no time", s)
			}
			rest = rest[1:]
		}
		if time.Duration(n) > (most-total)/unit {
			return 0, fmt.Errorf("%q is too long", s)
		}
		total += time.Duration(n) * unit
	}
	return total, nil
}

// paths expands the values of a keyword that names files.
func (v *values) paths(d *directive, tokens map[byte]string) []string {
	var out []string
	for _, arg := range d.args {
		path, err := v.expandPath(arg, tokens)
		if err != nil {
			v.fail(d, err)
		}
		out = append(out, path)
	}
	return out
}

// newHop resolves a host of the settings or of ProxyJump.
func (d *Dialer) newHop(name, user string, port int, target bool) (*hop, error) {
	o, err := d.local.resolve(name, d.local.files(d.cfg.Files), d.overrides(user, port, target))
	if err != nil {
		return nil, err
	}
	v := &values{machine: d.local, o: o}
	h := &hop{name: name}
	h.host = name
	if hostName := o.first["hostname"]; hostName != nil {
		if h.host, err = expandHost(v.one("hostname", name), name); err != nil {
			v.fail(hostName, err)
		}
	}
	h.user = v.one("user", d.local.user)
	h.port = v.number("port", 22, 1, 65535)
	h.host = strings.ToLower(h.host) // as ssh connects, and as known_hosts and certificates have it
	v.network(h)
	v.hostKeys(h, &d.cfg)
	v.identities(h, len(d.cfg.PrivateKeys) > 0 && target, d.cfg.Agent)
	v.methods(h)
	v.algorithms(h, d.cfg.Legacy)
	v.jump(h)
	v.refuse()
	h.timeout = pick(d.cfg.Timeout, v.seconds("connecttimeout", DefaultTimeout))
	h.keepAlive = pick(d.cfg.KeepAlive, v.seconds("serveraliveinterval", DefaultKeepAlive))
	h.keepAliveCount = pick(d.cfg.KeepAliveCount, v.number("serveralivecountmax", DefaultKeepAliveCount, 0, 1<<30))
	if v.err != nil {
		return nil, v.err
	}
	if err := checkHost("HostName", h.host); err != nil {
		return nil, err
	}
	if err := checkUser(h.user); err != nil {
		return nil, err
	}
	d.warnUnknown(o)
	return h, nil
}

// pick returns the first value that is not zero.
func pick[T comparable](a, b T) T {
	var zero T
	if a != zero {
		return a
	}
	return b
}

// overrides are the settings that win over ssh_config, as its lines.
func (d *Dialer) overrides(user string, port int, target bool) []directive {
	var out []directive
	add := func(key, value string) {
		out = append(out, directive{file: "settings", key: key, rest: value, args: []string{value}})
	}
	if user != "" {
		add("user", user)
	}
	if port != 0 {
		add("port", strconv.Itoa(port))
	}
	if target && d.cfg.Jump != "" {
		add("proxyjump", d.cfg.Jump)
	}
	for _, file := range d.cfg.IdentityFiles {
		add("identityfile", strings.ReplaceAll(file, "%", "%%"))
	}
	for _, file := range d.cfg.Certificates {
		add("certificatefile", strings.ReplaceAll(file, "%", "%%"))
	}
	return out
}

func (v *values) network(h *hop) {
	h.network = choice(v, "addressfamily", "tcp", map[string]string{"any": "tcp", "inet": "tcp4", "inet6": "tcp6"})
	h.bind = v.one("bindaddress", "")
}

// hostKeys are the known_hosts files and the policy.
func (v *values) hostKeys(h *hop, cfg *Config) {
	h.hostKeyAlias = v.one("hostkeyalias", "")
	tokens := v.tokens(h)
	files := func(key string, def ...string) []string {
		d := v.o.first[key]
		switch {
		case d == nil:
			return def
		case len(d.args) == 1 && d.args[0] == "none":
			return nil
		}
		return v.paths(d, tokens)
	}
	ssh := v.home + "/.ssh/"
	h.knownHosts = files("userknownhostsfile", ssh+"known_hosts", ssh+"known_hosts2")
	h.knownHostsFixed = files("globalknownhostsfile", v.system+"/ssh_known_hosts", v.system+"/ssh_known_hosts2")
	if len(cfg.KnownHosts) > 0 {
		h.knownHosts, h.knownHostsFixed = nil, nil
		for _, file := range cfg.KnownHosts {
			h.knownHosts = append(h.knownHosts, v.tilde(file))
		}
	}
	h.hashKnownHosts = v.yes("hashknownhosts", false)
	h.rsaBits = max(minRSABits, v.number("requiredrsasize", minRSABits, 0, 1<<30)) // as with ssh, it only raises the limit
	// "no" of ssh takes changed keys too, which nothing of ours does unless the settings say
	// insecure; "ask" has nobody to ask.
	h.policy = choice(v, "stricthostkeychecking", Strict, map[string]HostKeyPolicy{
		"yes": Strict, "true": Strict, "ask": Strict, "accept-new": AcceptNew, "no": AcceptNew, "off": AcceptNew, "false": AcceptNew,
	})
	if cfg.HostKeys != FromConfig {
		h.policy = cfg.HostKeys
	}
}

// identities are keys, certificates and the agent. given says that keys were given as text,
// which leaves the default files out.
func (v *values) identities(h *hop, given bool, agent string) {
	tokens := v.tokens(h)
	for _, d := range v.o.all["identityfile"] {
		for _, path := range v.paths(d, tokens) {
			// "none" only keeps the default files out.
			if !strings.EqualFold(path, "none") {
				h.identities = append(h.identities, identity{path: path, explicit: true})
			}
		}
	}
	if len(v.o.all["identityfile"]) == 0 && !given {
		for _, name := range []string{"id_ed25519", "id_ecdsa", "id_rsa", "id_ed25519_sk", "id_ecdsa_sk"} {
			h.identities = append(h.identities, identity{path: v.home + "/.ssh/" + name})
		}
	}
	for _, d := range v.o.all["certificatefile"] {
		for _, path := range v.paths(d, tokens) {
			if !strings.EqualFold(path, "none") {
				h.certificates = append(h.certificates, path)
			}
		}
	}
	h.identitiesOnly = v.yes("identitiesonly", false)
	h.agent = v.agentSocket(tokens, agent)
}

// agentSocket is the agent's socket: the setting, else IdentityAgent, else SSH_AUTH_SOCK.
func (v *values) agentSocket(tokens map[byte]string, setting string) string {
	const variable = "SSH_AUTH_SOCK"
	switch setting {
	case "":
	case AgentNone:
		return ""
	default:
		return v.tilde(setting)
	}
	d := v.o.first["identityagent"]
	s := v.one("identityagent", variable)
	switch {
	case s == variable:
		return v.getenv(variable)
	case strings.EqualFold(s, "none"):
		return ""
	case strings.HasPrefix(s, "$") && !strings.HasPrefix(s, "${"):
		return v.getenv(s[1:])
	}
	path, err := v.expandPath(s, tokens)
	if err != nil {
		v.fail(d, err)
	}
	return path
}

// methods are the authentication methods that we can do, preferred first.
func (v *values) methods(h *hop) {
	enabled := map[string]bool{
		methodKey:      choice(v, "pubkeyauthentication", true, map[string]bool{"yes": true, "true": true, "unbound": true, "host-bound": true, "no": false, "false": false}),
		methodPrompt:   v.yes("kbdinteractiveauthentication", v.yes("challengeresponseauthentication", true)),
		methodPassword: v.yes("passwordauthentication", true),
	}
	list := v.one("preferredauthentications", methodKey+","+methodPrompt+","+methodPassword)
	for _, m := range strings.Split(list, ",") {
		if enabled[m] && !slices.Contains(h.methods, m) {
			h.methods = append(h.methods, m)
		}
	}
	if len(h.methods) == 0 && v.err == nil {
		d := v.o.first["preferredauthentications"]
		if d == nil {
			d = &directive{file: "ssh_config"}
		}
		v.err = unsupported(d, "no authentication method but "+list)
	}
}

// jump parses ProxyJump.
func (v *values) jump(h *hop) {
	d := v.o.first["proxyjump"]
	if d == nil {
		return
	}
	tokens := v.tokens(h)
	list, err := expandTokens(v.one("proxyjump", "none"), map[byte]string{'h': tokens['h'], 'n': tokens['n'], 'p': tokens['p'], 'r': tokens['r']})
	if err == nil {
		h.jump, err = parseJumps(list)
	}
	if err != nil {
		v.fail(d, err)
	}
}

// parseJumps reads a list of jump hosts, or "none".
func parseJumps(list string) ([]jumpHost, error) {
	if list == "" || strings.EqualFold(list, "none") {
		return nil, nil
	}
	var out []jumpHost
	for _, s := range strings.Split(list, ",") {
		j, err := parseJump(strings.TrimSpace(s))
		if err != nil {
			return nil, err
		}
		out = append(out, j)
	}
	return out, nil
}

// parseJump reads [user@]host[:port] or ssh://[user@]host[:port].
func parseJump(s string) (jumpHost, error) {
	var j jumpHost
	rest := strings.TrimSuffix(strings.TrimPrefix(s, "ssh://"), "/")
	if i := strings.LastIndexByte(rest, '@'); i >= 0 {
		j.user, rest = rest[:i], rest[i+1:]
		if j.user == "" {
			return j, fmt.Errorf("%q: no user before the @", s)
		}
	}
	j.host = rest
	if host, port, err := net.SplitHostPort(rest); err == nil {
		if j.port, err = strconv.Atoi(port); err != nil || j.port < 1 || j.port > 65535 {
			return j, fmt.Errorf("%q: not a port", s)
		}
		j.host = host
	} else if strings.HasPrefix(rest, "[") {
		j.host = strings.TrimSuffix(rest[1:], "]")
	}
	if err := checkHost("jump host", j.host); err != nil {
		return j, err
	}
	return j, checkUser(j.user)
}

// refuse finds what decides how or whether to connect and that only the real ssh can do.
func (v *values) refuse() {
	harmless := map[string]string{ // value that asks for nothing; "" when only "none" does
		"proxycommand": "", "pkcs11provider": "", "smartcarddevice": "", "knownhostscommand": "", "revokedhostkeys": "",
		"securitykeyprovider": "internal", "canonicalizehostname": "no", "proxyusefdpass": "no",
	}
	keys := make([]string, 0, len(harmless))
	for key := range harmless {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	for _, key := range keys {
		d := v.o.first[key]
		if d == nil || v.err != nil || len(d.args) == 0 {
			continue
		}
		if s := strings.ToLower(d.args[0]); s != "none" && s != harmless[key] && (s != "false" || harmless[key] != "no") {
			v.err = unsupported(d, key)
		}
	}
}

// warnUnknown logs keywords that no version of ssh has, once for each line.
func (d *Dialer) warnUnknown(o *options) {
	for key, line := range o.first {
		if _, again := d.warned.LoadOrStore(line.where(), true); !again && !knownKeyword(key) {
			d.log.Warn("ssh_config keyword is not known", "file", line.where(), "keyword", key)
		}
	}
}
