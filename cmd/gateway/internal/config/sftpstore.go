package config

import "strings"

// The ways to an SFTP server, and what an unknown host key is, as the configuration has them.
const (
	transportNative  = "native"
	transportOpenSSH = "openssh"

	hostKeyStrict    = "strict"
	hostKeyAcceptNew = "accept-new"
)

// maxSFTPConnections is how many connections a store may be given: an OpenSSH server begins to
// refuse at ten logins at a time (MaxStartups).
const maxSFTPConnections = 64

// sftpFields adds the keys of the store section that are for SFTP alone, and notes in used which
// were there. Names that plakar has too mean the same.
func (l *loader) sftpFields(known fields, s *SFTPStore) (used map[string]node) {
	used = make(map[string]node)
	for key, f := range map[string]field{
		"identity_file":            {func(n node) { l.readIdentities(n, &s.IdentityFiles) }},
		"identity_passphrase_file": l.intoSecretFile(&s.PassphraseFile),
		"identity_passphrase_env":  intoText(&s.PassphraseEnv),
		"password_file":            l.intoSecretFile(&s.PasswordFile),
		"password_env":             intoText(&s.PasswordEnv),
		"known_hosts":              intoPath(&s.KnownHosts),
		"host_key": {func(n node) {
			words := []string{hostKeyStrict, hostKeyAcceptNew}
			intoChoice(&s.HostKey, words, words).read(n)
		}},
		"insecure_ignore_host_key": intoBool(&s.Insecure),
		"ssh_config":               intoPath(&s.ConfigFile),
		"legacy":                   intoBool(&s.Legacy),
		"transport": {func(n node) {
			words := []string{transportNative, transportOpenSSH}
			intoChoice(&s.Transport, words, words).read(n)
		}},
		"connections": intoInt(&s.Connections, maxSFTPConnections),
	} {
		known[key] = noting(used, key, f)
	}
	known["password"] = noSecret("put it into a file of mode 0600 and write password_file: FILE, or password_env: NAME; better, log in with a key: identity_file")
	return used
}

// finishSFTPStore checks what the keys mean together.
func (l *loader) finishSFTPStore(n node, st *Store, s SFTPStore, used map[string]node) {
	if !strings.HasPrefix(st.Location, "sftp://") {
		n.refuse(used, "is for stores on SFTP servers alone")
		return
	}
	st.SFTP = &s
	password := s.PasswordFile != "" || s.PasswordEnv != ""
	passphrase := s.PassphraseFile != "" || s.PassphraseEnv != ""
	switch {
	case !n.clean():
	case s.PasswordFile != "" && s.PasswordEnv != "":
		n.fail("password_file and password_env exclude each other")
	case s.PassphraseFile != "" && s.PassphraseEnv != "":
		n.fail("identity_passphrase_file and identity_passphrase_env exclude each other")
	case s.Transport == transportOpenSSH && (password || passphrase):
		n.failHint("use a key that is not encrypted, or an agent", "transport: openssh takes no password")
	case s.Transport == transportOpenSSH && s.Legacy:
		n.failHint("say in ssh_config which algorithms are allowed", "legacy has no use with transport: openssh")
	case s.Insecure && (s.KnownHosts != "" || s.HostKey != ""):
		n.fail("known_hosts and host_key have no use with insecure_ignore_host_key: true")
	}
	if s.Insecure {
		l.warn("%s: insecure_ignore_host_key: whoever is between here and the server can read and change what is sent, and gets the password", n.key)
	}
}
