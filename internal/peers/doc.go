// Package peers tests a gateway with the clients that people use: each client of a table
// does each operation of the table as a real process on a real gateway, and another
// connection looks at what came of it. The test (build tag peers, make peers) fails when
// docs/PEERS.md is not the table of its results; make peers-update writes it.
//
// A client that cannot do an operation has "n/a" there, with the reason.
package peers
