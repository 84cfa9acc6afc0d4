// Package stores tests gateways whose store is not on their own disk: they serve, are killed,
// lose their store and get it back, and stock plakar reads what they have written.
//
// The tests (build tag stores, make stores) run the built gateway with a real S3 server
// (internal/s3server), which keeps objects as files, and with OpenSSH's sshd: plakar opens what
// they hold as a directory, which has the same layout.
package stores
