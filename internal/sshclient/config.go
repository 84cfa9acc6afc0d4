package sshclient

import (
	"log/slog"
	"strings"
	"time"

	"github.com/pkg/sftp"
)

// Transport is how a server is reached.
type Transport uint8

// The transports.
const (
	Native  Transport = iota // golang.org/x/crypto/ssh, in this process
	OpenSSH                  // the system's ssh, a process for each session
)

// ParseTransport reads the setting "transport": native (also when empty) or openssh.
func ParseTransport(s string) (Transport, error) {
	switch s {
	case "", "native":
		return Native, nil
	case "openssh":
		return OpenSSH, nil
	}
	return 0, configError("transport %q: it is native or openssh", s)
}

// HostKeyPolicy decides about a server's key that known_hosts does not have. A key that
// differs from the known one is refused by all policies but Insecure.
type HostKeyPolicy uint8

// The policies.
const (
	FromConfig HostKeyPolicy = iota // StrictHostKeyChecking of ssh_config, else Strict
	Strict                          // refuse an unknown key
	AcceptNew                       // add an unknown key to the first known_hosts file
	Insecure                        // take any key; each connection is logged as a warning
)

// ParseHostKeyPolicy reads the setting "host_key": strict, accept-new or insecure; empty is
// FromConfig.
func ParseHostKeyPolicy(s string) (HostKeyPolicy, error) {
	switch s {
	case "":
		return FromConfig, nil
	case "strict":
		return Strict, nil
	case "accept-new":
		return AcceptNew, nil
	case "insecure":
		return Insecure, nil
	}
	return 0, configError("host key policy %q: it is strict, accept-new or insecure", s)
}

const (
	// DefaultTimeout bounds making the TCP connection of one hop. Linux would give up after
	// about two minutes.
	DefaultTimeout = 30 * time.Second
	// DefaultLoginTimeout bounds version, key exchange and authentication of one hop: as
	// long as OpenSSH's server allows (LoginGraceTime, 2 minutes).
	DefaultLoginTimeout = 2 * time.Minute
	// DefaultKeepAlive is well before NAT tables and firewalls forget an idle connection (5
	// minutes and more).
	DefaultKeepAlive = 15 * time.Second
	// DefaultKeepAliveCount finds a dead peer within a minute.
	DefaultKeepAliveCount = 3
	// AgentNone as Config.Agent leaves the agent alone.
	AgentNone = "none"
)

// Config is how to reach one server and log in. What is set here wins over ssh_config, like
// the options of ssh's command line; what is zero is left to ssh_config and then to the
// defaults.
type Config struct {
	// Host is a host name, an address or an alias of ssh_config. Port and User may be zero.
	Host string
	Port int
	User string

	Transport Transport
	// Jump is a list like ProxyJump of ssh_config: [user@]host[:port],…, or "none". With the openssh
	// transport what is "for all hops" below is for these, and not for those of ProxyJump.
	Jump string
	// Files are the ssh_config files, the first value of a setting wins. Nil means
	// ~/.ssh/config and /etc/ssh/ssh_config; an empty list that is not nil means none.
	// The openssh transport takes nil or one file.
	Files []string

	// IdentityFiles and Certificates are files of private keys and certificates; a
	// certificate KEY-cert.pub beside a key is found without being named. PrivateKeys are
	// keys as PEM or OpenSSH text. With any key named here, the default files
	// (~/.ssh/id_ed25519 …) are not read. Jump hosts are offered the files too.
	IdentityFiles []string
	Certificates  []string
	PrivateKeys   []PEM
	// Passphrase opens encrypted keys. It is read when a server has accepted such a key.
	Passphrase Secret
	// Password is for the methods password and keyboard-interactive (with one hidden
	// question), and for the last hop only.
	Password Secret
	// Agent is the socket of an agent, AgentNone, or empty: IdentityAgent of ssh_config,
	// else the environment's SSH_AUTH_SOCK.
	Agent string

	// KnownHosts replaces ssh_config's and the default known_hosts files, for all hops.
	KnownHosts []string
	// HostKeys is the policy for all hops.
	HostKeys HostKeyPolicy

	// Timeout and LoginTimeout bound connecting to and logging in on each hop.
	Timeout, LoginTimeout time.Duration
	// Total bounds all of a Dial or Stream: the hops, the logins and the session, without the time
	// that a person takes to answer. 0 for no bound but the others.
	Total time.Duration
	// KeepAlive is how often an idle or stuck peer is asked whether it lives, and
	// KeepAliveCount how many questions may be open; then the connection is ended with
	// KindTimeout. A negative KeepAlive asks nothing.
	KeepAlive      time.Duration
	KeepAliveCount int

	// Legacy allows what servers of about 2010 need: SHA-1 signatures of RSA keys and in
	// key exchange, NIST curves for key exchange, plain MACs.
	Legacy bool
	// SFTP are options of each session.
	SFTP []sftp.ClientOption
	// Log gets warnings: insecure host keys, new known_hosts lines, settings that are not
	// known. Nil drops them.
	Log *slog.Logger

	local *machine // of tests
}

// check refuses what can never work, and what an attacker could smuggle in by a name.
func (c *Config) check() error {
	if err := checkHost("host", c.Host); err != nil {
		return err
	}
	if err := checkUser(c.User); err != nil {
		return err
	}
	if _, err := parseJumps(c.Jump); err != nil {
		return configError("jump: %w", err)
	}
	switch {
	case c.Port < 0 || c.Port > 65535:
		return configError("port %d: it is 1 to 65535", c.Port)
	case c.Timeout < 0 || c.LoginTimeout < 0 || c.Total < 0 || c.KeepAliveCount < 0:
		return configError("a timeout or count is negative")
	case c.Transport != OpenSSH:
		return nil
	case len(c.Files) > 1 || c.Files != nil && len(c.Files) == 0:
		return configError("transport: openssh takes one ssh_config file, or its own")
	case len(c.PrivateKeys) > 0 || !c.Password.IsZero() || !c.Passphrase.IsZero():
		e := configError("transport: openssh takes no password, passphrase or private key text")
		e.Hint = "use an unencrypted key file, or an agent"
		return e
	}
	return nil
}

// checkHost refuses what is no host name, address or alias. A name that begins with "-"
// would be an option of ssh.
func checkHost(what, host string) error {
	bad := func(r rune) bool { return r <= ' ' || r == 0x7f }
	switch {
	case host == "":
		return configError("no %s", what)
	case host[0] == '-', strings.ContainsFunc(host, bad), strings.ContainsAny(host, "'`\"$\\;&<>|(){}@,"):
		return configError("%s %q: not a host name", what, host)
	}
	return nil
}

// checkUser does the same for a user name, as OpenSSH's valid_ruser; empty is fine.
func checkUser(user string) error {
	bad := func(r rune) bool { return r < ' ' || r == 0x7f }
	if strings.HasPrefix(user, "-") || strings.ContainsFunc(user, bad) || strings.ContainsAny(user, "'`\";&<>|(){}") || strings.HasSuffix(user, `\`) {
		return configError("user %q: not a user name", user)
	}
	return nil
}
