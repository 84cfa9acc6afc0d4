// Package sshclient is the dialling side of SFTP: it connects to servers that the gateway
// pulls from, restores to or keeps a store on.
//
// A Dialer knows one server: how ssh_config(5) names it, which keys, certificates, agent or
// password to log in with, and which host keys to trust. Each Dial makes one connection, and
// a Client gives sessions of SFTP on it. Everything works unattended: nothing is ever asked
// unless the caller has set Secret.Ask, and every wait ends with a time limit or the context.
//
// # Two transports
//
// The native transport is golang.org/x/crypto/ssh. It understands the part of ssh_config that
// decides how to reach a server and log in; what it cannot do (Match exec,
// ProxyCommand, PKCS#11, …) is an error that names file and line and says
// "transport: openssh". That transport runs the system's ssh for each session, so it has
// all that the user's ssh has; passwords and passphrases cannot be given to it.
//
// # Traps, and how they are closed
//
//   - github.com/kevinburke/ssh_config 1.6.0 takes "?" of a pattern for none or one, does not
//     match a quoted Host, cuts a value at any "#", looks for Include files in the process'
//     home only, and does not say which file a line is from; so parse.go reads the file as
//     readconf.c does, and a test compares the outcome with "ssh -G".
//   - golang.org/x/crypto/ssh/knownhosts (and skeema/knownhosts above it) refuses a whole
//     file for one line that it cannot parse, such as a key of a type it does not know, which
//     locks the user out of every server; so knownhosts.go matches lines itself, skips what
//     ssh skips, and tests compare it with that library and with "ssh-keygen -F".
//   - Without the types of the known keys in front of the negotiation, a server with several
//     host keys shows another than the known one, which looks like an attack.
//   - A server counts every key that is offered against MaxAuthTries (6 with OpenSSH), so keys
//     are offered one at a time, those that were asked for first, and maxKeyTries at most.
//   - A jump host must never learn the password of the server behind it: passwords are for the
//     last hop only.
//   - Deadlines do not work on connections through a jump host (x/crypto has none there), so a
//     context closes the outermost TCP connection, which ends all that runs over it.
//
// # Concurrency
//
// A Dialer and a Client are safe for concurrent use. Locks: Dialer.secrets guards the secrets
// and keys that were read and is held while somebody is asked for a passphrase, so that several
// connections ask once; appendMu serialises appending to known_hosts within the process and is
// held while a file lock, which does so between processes, is waited for. Neither is taken
// while the other is held. Client.mu is never held while something is waited for.
package sshclient
