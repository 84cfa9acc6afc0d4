// Package pull backs up remote servers: it lists a tree over SFTP or FTP, or a local one,
// compares it with the head snapshot and yields what has changed as the changes of a commit.
//
// # Steps
//
// ParseLocation reads what an operator writes. A Remote is the server: NewSFTP, NewFTP, NewFS.
// Scan lists the whole tree, many directories at a time, in the order of a commit. Plan
// compares it with a Base and yields changes whose contents are read from the remote. Fetch
// reads contents ahead, many at a time, and takes the changes out whose file cannot be read.
// A Report says what happened to every path that was not captured.
//
// # Nothing is left out without a word
//
// Whatever is on the remote is either in the changes, or excluded by the operator, or a
// Problem in the Report: a directory that cannot be listed, a line of a listing that cannot be
// understood, a name that no path can have, a file that is gone, that changes while it is read
// or that ends early. What had a problem stays in the next snapshot as the last one has it.
// Nothing is taken for removed unless the listing of its directory is whole (Item.Whole):
// it was read to its end, and every line of it was understood.
//
// # What a server may not do
//
// A listing gives names, never paths: a name that is empty, ".", "..", or that has a "/" or a
// NUL, is a Problem and is never sent back. Listings are bounded in memory (they go to a
// temporary file when they are long), in names of a directory and in depth. A reply, a
// packet and a line have a limit each. A server that says nothing for Timeout has gone.
//
// # Retries
//
// A Remote tries once: it says KindConnection when the connection was lost, and dials again at
// the next call. Retry decides how often, in one place, for listings, attributes and reads;
// a read goes on where it was cut off. A path at which each connection is lost, while the server
// answers elsewhere, is a Problem of its own.
//
// # Concurrency
//
// Remotes, Reports and Retries are safe for concurrent use. The iterators of Scan, Plan and
// Fetch end what they have started before they return, also when the loop over them is left
// early.
package pull
