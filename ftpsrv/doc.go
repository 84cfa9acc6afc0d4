// Package ftpsrv serves shares over FTP (RFC 959 and its extensions) and FTPS (RFC 4217).
// docs/PROTOCOL.md says what clients see.
//
// # Layers
//
//	Server    accepts, limits, shuts down                       server.go, internal/acceptor
//	conn      control connection, TLS, login, the loop          conn.go control.go login.go
//	commands  the command table; what the library does not do   commands.go passive.go facts.go
//	          or not well enough                                hash.go site.go status.go
//	engine    ftpserverlib's server of the connection           engine.go
//	driver    its calls as calls of a vfs.Session               driver.go
//	job       a transfer: its data connection, its file         job.go data.go transfers.go listing.go
//	final     what the client is told at the end                final.go reply.go
//
// # What ftpserverlib does, and what is around it
//
// Each connection has a library server of its own, whose only connection is the engine: it
// reads the lines that conn.next gives it and writes replies that conn takes apart. So the
// library never sees the network, a password or a certificate. It keeps the working
// directory, runs each transfer in a goroutine of its own, and copies
// between file and data connection. Read in version 0.32.3, these are its traps, and how
// each is closed:
//
//   - It reads passwords, waits for nothing after a wrong one, and closes the connection:
//     USER and PASS are ours. It is told of a login that has succeeded already.
//   - With TLS of its own, nothing but ciphertext could be seen from outside: AUTH, PBSZ and
//     PROT are ours, and so are the data connections, which have to begin their handshake
//     after the 150 reply. What was sent in plain text behind AUTH ends the connection.
//   - It binds passive ports to all addresses of IPv4, dials active ones without time limit
//     on the transfer, and has no place for either to be wrapped: PASV, EPSV, PORT and EPRT
//     are ours. Before a transfer the library is given an EPSV that the client does not
//     see, with a listener that hands the real data connection over (dataListener).
//   - It handles ABOR while a mutex is held that waiting for a data connection holds, too:
//     ABOR is ours, noticed as soon as it is read, whatever is before it (conn.readAhead).
//   - It converts line ends in type A, of which it is talked out by its settings; TYPE is
//     ours besides.
//   - It wants a whole directory in memory to list it, knows few options and no pattern: to
//     it, a listing is a download (listing.go).
//   - Its STAT of a path has a format verb in each line, its HASH and XCRC look up a relative
//     path, SITE CHMOD without a path panics, SITE RMDIR removes whole trees, MLST cannot
//     tell symbolic links, STOU, STRU, HELP, LANG, ALLO with records and OPTS MLST are not
//     there: all of these are ours.
//   - After an RNFR that failed, its RNTO renames what an earlier RNFR named: both are ours.
//   - Its replies carry its own errors: the driver notes the error, and final makes the
//     reply.
//   - A panic in our code below its Read would end the process: conn.next recovers.
//   - It does not wait for its transfers: conn does, by the reply that each one ends with.
//
// # How an upload ends
//
// An upload is published when its data connection has ended in order and its client is
// still there (upload.whole); everything else makes a partial of it:
//
//   - with TLS, an end in order is the close_notify alert;
//   - the control connection is watched for CloseGrace longer, by reading and, on Linux, by
//     asking the kernel: when a client is killed, that ends as well, and one that gives up
//     sends ABOR there;
//   - ABOR, a data connection that is reset or silent for too long, and the end of the
//     control connection cut the transfer off;
//   - fewer bytes than ALLO announced are no complete file.
//
// A client that vanishes without a FIN, after the last byte and before it would have read
// the reply, cannot be told from one that waits: its file is complete then.
//
// # Locks
//
// conn.mu, control.out, engine.mu, exchange.mu, job.mu and publicIP.mu are leaves: nothing
// is locked below them. control.out is held while a reply is written, publicIP.mu while a
// name is looked up.
package ftpsrv
