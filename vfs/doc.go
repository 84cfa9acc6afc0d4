// Package vfs is the filesystem that the gateway's clients see: live trees of shares, each
// with its journal, spool and snapshot history, and sessions of principals in them.
//
// A Session resolves a client's path (ParseName, resolve.go) in the principal's name
// space, asks the access table (access.go), and reads from an immutable version of a live
// tree or from a view of a snapshot. A change is handed to the share's sequencer, which
// checks it against the tree that it is about to change, journals it, and makes it
// visible when it is durable. Uploads gather their bytes in the spool and become visible,
// as a whole, when their handle is closed; what is cut off is kept as a partial.
//
// # Names
//
// A principal sees one mount at "/", or several below a read-only root. Symbolic links
// are followed within that name space as in a chroot; in a view, within the view. The
// name .snapshots leads, in every directory, to the versions of that directory. All that
// is not a live tree is read-only, which place.refuseWrite decides alone; so is the share of
// a source (source.go), whose tree is the newest snapshot that a pull has made.
//
// # Locks
//
// Readers of a tree take no lock. Locks are taken in this order, and none is held while
// one further left is taken:
//
//	Dir.mu → File.mu → upload.mu → (share.do: the sequencer) → System.mu → claims.mu → share.mu → leaves
//
// Leaves are uploads.mu, creations.mu, upload.meta, content.mu, uploadBase.where, views.mu, Session.mu,
// intakes.mu and ahead.mu, in which aheads.mu and those of a spool file are taken. File.mu, upload.mu,
// uploadBase.mu and Dir.mu are held across I/O, which their comments explain; no other is.
// source.turn is, too, but nobody waits for it who has something to show.
// The sequencer waits for nobody: an operation's check may take uploads.mu and creations.mu
// and nothing else. claims.mu, in which share.mu is taken, is held while a batch becomes visible.
package vfs
