// Package snapshotter makes snapshots out of changes and shows snapshots as read-only
// trees. Its snapshots are ordinary kloset snapshots: stock plakar lists, checks, restores
// and syncs them.
//
// # Commit
//
// A commit declares how the new tree differs from a base snapshot (Change). Two ways stand
// behind it; a test proves that they make the same snapshots, to the last MAC.
//
// The incremental one (increment) costs what has changed. It reads the directories of the
// base in which something changes and those above them, ingests the contents of changed
// files on all cores (of those that continue a stored file, what is new; see reuse), makes
// entries, directories and summaries anew where they differ, and edits the four indexes of
// the base: paths, content types, directories and summaries. The leaves of kloset's indexes
// are linked by the MACs of what they hold, so that a change rewrites all leaves before it,
// about 40 bytes an entry; nothing else is proportional to the tree. The encoded leaves of
// heads are kept in memory, so that this takes a copy and a MAC (weaver.relink). What
// becomes of many entries is in temporary files (edits), and an index is made from its last
// leaf to its first, so that little of it is in memory (weaver). What the indexes have grown
// by is compared with what the directories have.
//
// The rebuild through kloset's own Builder is for foreign bases, for commits of more than
// maxEdits entries, and for bases in which anything is found that should not be:
// an importer (see merge) plays the whole new tree to it, unchanged entries as the base has
// them, so that the Builder reuses what it finds at the same path with the same attributes.
// The inode number of an entry is its version, fresh for every content, so that "the same
// attributes" is never true for two contents. An incremental commit converts the indexes of
// a base that the Builder has made.
//
// kloset's Builder goes on, and publishes, when a file cannot be read or a packfile cannot
// be written. A commit therefore brings a packer of its own, whose first error is kept and
// asked for; a rebuild watches the readers that it hands out, compares the counts of the
// summary with what it sent, and every new directory with the index of paths. The state,
// which is what makes a snapshot exist, is written only after all that. A commit that writes much
// puts states before it that tell of blobs alone, so that the places of all need not be held in
// memory (see rotate). The steps, with the failpoints between them:
//
//	lock the store for others' maintenance, take over others' states, look for the base
//	look for what is missing from the store, and put it back or expect its loss (damage)
//	take over what was put ahead of it                    early-adopt
//	take the changes one by one, ingest
//	contents ahead of them, make entries    packfile-put-before, packfile-put-after
//	edit the indexes                        commit-entries, commit-indexes
//	put the header                          commit-header-before, commit-header-after
//	wait for the last packfile
//	put the state                           state-put-before, state-put-after
//	take the state over                     commit-done
//
// # Ahead of a commit
//
// An Ingest puts the chunks of a file into the store while it arrives, and Store those of a
// whole file; see early. What a commit needs to know of such a file can be kept elsewhere (Seal),
// and costs some 70 bytes for a small one. No state tells of the chunks until a commit does,
// which fails with a MissingError rather than refer to what is not there. The failpoints around
// their packfiles are early-packfile-put-before and early-packfile-put-after.
//
// # Copies
//
// A Copier copies snapshots to another store; see copying. Its failpoint is copy-checkpoint,
// beside those of a commit.
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
// beside it, and so do Ingests. Contents that a commit reads may open snapshots, with the context that it gives
// them, and come to nothing else here that takes write. Lock order: Snapshotter.write, checkpoints.turn, early.turn, early.use,
// Snapshotter.mu, then early.mu and the mutexes of packers and caches, which are leaves.
package snapshotter
