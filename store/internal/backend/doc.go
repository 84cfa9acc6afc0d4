// Package backend keeps the files of kloset stores: on a local disk, in S3, on an SFTP server. It knows names
// and bytes; what they mean is package store's business.
//
// Every Backend passes the suite of storetest.TestBackend, behind faults too. What they
// promise is what a commit relies on:
//
//   - Put is atomic: whoever reads or lists sees the whole file, the one before, or none.
//   - Put is durable: after nil the file survives a power loss of the machine it is on.
//   - No error is swallowed. A listing that breaks off is an error, not a short listing: what
//     is not listed counts as lost, or as never written.
//   - What is not there is fs.ErrNotExist, and nothing else is.
//   - Nothing waits for ever: a call ends when its context does, and on a network when nothing
//     moves for a while.
package backend
