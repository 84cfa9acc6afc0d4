// Package crash tests that a gateway loses nothing that it acknowledged and shows nothing
// that was cut off, however it dies.
//
// Real clients work on a real gateway process, over SFTP, FTP and FTPS, until that is
// killed: at a random moment, or by itself at a named failpoint. Every client logs, outside
// the gateway, what it is about to do and what was acknowledged. After a restart the tree must be what the log says: all
// acknowledged operations, and the one that was in flight either wholly or not at all. The
// same must hold in the snapshot that is made then, and kloset's own check, run by stock
// plakar, must find nothing.
//
// Commands are killed, too: syncs, pulls (also those that serve makes) and restores. The store is good
// after each kill, no snapshot and no restored file is half of what it should be, and the next run
// finishes the work with what is there.
//
// This file's neighbours hold what the harness (crash_test.go, build tag crash) and the
// client program (crashclient) share: the operations, their log, and the model of a tree.
package crash
