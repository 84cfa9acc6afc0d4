// Package peers tests a gateway with the clients that people use: each client of a table
// does each operation of the table as a real process on a real gateway, and another
// connection looks at what came of it. The test (build tag peers, make peers) fails when
// docs/PEERS.md is not the table of its results; make peers-update writes it.
//
// A client that cannot do an operation has "n/a" there, with the reason.
//
// TestSSHClient is about the other direction: internal/sshclient as a client of OpenSSH's
// server, which runs as root in a mount namespace with accounts of its own.
package peers
