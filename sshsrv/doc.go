// Package sshsrv serves shares over SFTP version 3 (draft-ietf-secsh-filexfer-02 with
// OpenSSH's extensions) on SSH. docs/PROTOCOL.md says what clients see.
//
// # Layers
//
//	Server   accepts, limits, shuts down (internal/acceptor)     server.go
//	conn     login, keepalive, channels, end                     conn.go login.go channel.go exec.go
//	front    gliderlabs' server of the connection                frontend.go timedconn.go
//	shim     takes SFTP packets apart, keeps their order,
//	         knows the extensions                                shim.go requests.go packet.go
//	         reads and writes in parallel, in bounded memory     transfer.go memory.go
//	pkg/sftp RequestServer: all other requests and the handles
//	handler  turns requests into calls of a vfs.Session          handler.go file.go readdir.go
//	status   turns kinds of errors into status codes             status.go
//
// # What gliderlabs/ssh does, and where we go below it
//
// Its HandleConn runs each connection that we accepted: the handshake by x/crypto, the
// banner, a goroutine for global requests, all of which it refuses, and one for each
// session channel. It refuses channels of other types by itself, one after the other.
// Read in version 0.3.8, these are its traps, and how each is closed:
//
//   - Its Serve and Shutdown have no limits, and wait for clients for ever: accepting,
//     counting and ending connections are ours. There is a Server for each connection,
//     because the callback for failures is not told which one failed.
//   - Without authentication handlers it sets NoClientAuth; with them, a key that was
//     merely offered is reported as the session's (upstream issue 242) and all attempts
//     share one Permissions value, which is how CVE-2024-45337 comes about. So it has
//     none: our ServerConfig brings the callbacks, each call returns fresh Permissions,
//     NoClientAuthCallback refuses "none", and who somebody is comes from the ServerConn's
//     Permissions alone.
//   - It tells nobody that a login is done. x/crypto's callbacks for a right password and
//     for a verified key do; there the connection is counted for its user, and keepalives
//     start.
//   - It resets the deadlines of its connection on each Read and Write, and has none for
//     the handshake: timedConn ignores deadlines from above and keeps its own.
//   - Its session handler answers shell, exec, env, pty and agent requests before a
//     program can refuse them, and keeps all of a client's environment: channels go to our
//     own, on x/crypto.
//   - It starts a goroutine for a channel before anybody can refuse it, so that a client
//     that takes no answers could have any number of them: enterHandler ends such a
//     connection.
//   - It does not wait for its goroutines. Those of channels count themselves before they
//     do anything, and a connection ends when the count is zero; one that starts later
//     finds the connection ended and returns. That of global requests touches nothing of
//     ours and ends with x/crypto's own goroutines, when the connection is closed.
//   - It has no keepalive: conn.watch sends one through the ServerConn.
//
// # How an upload ends
//
// An upload is published by a CLOSE of its handle and by nothing else. pkg/sftp calls
// TransferError and then Close on each handle that is open when its Serve ends, for
// whatever reason: connection lost, channel closed, malformed packet, shutdown. Our
// handle aborts the upload in TransferError, and its Close is then without effect. A CLOSE
// after a WRITE that failed aborts, too.
//
// # Locks
//
// Below conn.mu: shim.mu, and below both memory.mu. memory.mu, openFile.mu and names.mu are
// leaves. shim.outMu is held while a packet is
// written to the client, and nothing is locked below it.
package sshsrv
