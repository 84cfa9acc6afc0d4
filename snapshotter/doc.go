// Package snapshotter makes snapshots out of changes and shows snapshots as read-only
// trees. Its snapshots are ordinary kloset snapshots: stock plakar lists, checks, restores
// and syncs them.
//
// # Commit
//
// A commit declares how the new tree differs from a base snapshot (Change). What stands
// behind Commit today is a rebuild through kloset's own Builder: an importer (see merge)
// plays the whole new tree to it, unchanged entries as the base has them, so that the
// Builder reuses what it finds at the same path with the same attributes. The inode
// number of an entry is its version, fresh for every content, so that "the same
// attributes" is never true for two contents.
//
// kloset's Builder goes on, and publishes, when a file cannot be read or a packfile cannot
// be written. A commit therefore brings a packer of its own, whose first error is kept and
// asked for, watches the readers that it hands out, compares the counts of the summary
// with what it sent and the directories with the index, and writes the state, which is what
// makes a snapshot exist, only after all that. The steps, with the failpoints between them:
//
//	lock the store for others' maintenance, take over others' states, look for the base
//	look for what is missing from the store, and put it back or expect its loss (damage)
//	play the tree to the Builder            packfile-put-before, packfile-put-after
//	put the header                          commit-header-before, commit-header-after
//	wait for the last packfile
//	compare what a listing reads (dirpacks) with the index of paths
//	put the state                           state-put-before, state-put-after
//	take the state over                     commit-done
//
// # Views
//
// Entries come from the snapshot's index (a B-tree) one by one, directories from its
// dirpacks (one object a directory, in byte order of the names), which are read in pages:
// neither loads file objects, neither holds a directory in memory. File contents are read
// by chunk through a cache of decoded chunks that all readers share, with read-ahead for
// sequential readers.
//
// # Concurrency
//
// One commit or refresh runs at a time (Snapshotter.write). Views, readers and lists run
// beside it. Lock order: Snapshotter.write, Snapshotter.mu, then the mutexes of caches,
// which are leaves.
package snapshotter
