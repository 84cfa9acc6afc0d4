// Package sftpclient is an SFTP version 3 client (draft-ietf-secsh-filexfer-02), for backups
// of servers that are not trusted, and for restoring to them.
//
// It is not github.com/pkg/sftp's client because a backup needs what that one hides: names
// as the server sends them (it keeps what comes after the last slash of "../etc"), which
// attributes were sent at all (a missing mode makes a directory a file), and listings packet
// by packet (it collects a listing without end until memory ends). It also asks for the
// server's limits (limits@openssh.com), reads exactly what is announced, and gives every
// request a context and a time limit.
//
// One goroutine writes requests, one takes replies; requests of any number of goroutines are
// under way together. What breaks the protocol ends the connection, for everybody.
package sftpclient
