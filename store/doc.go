// Package store opens and creates kloset stores: the repositories in which snapshots
// live. It is the one place that knows where a store is, how its files are made durable,
// how its key comes from a passphrase and who else is using it.
//
// # Durability
//
// A commit counts only when its packfiles and its state survive power loss. kloset's own
// connector for local directories never syncs, so a Store has connectors of its own, with
// the same layout, over package backend: a file that has its final name is whole. On a
// local disk everything is written through a disk.FS, which lets a test drop what was not
// synced.
//
// # Availability
//
// A store can be away: its file system is not mounted, its server is down, permissions
// are wrong. Open still succeeds when it knows the store from an earlier time (KeepDir),
// so that keys can be derived and uploads accepted; Refresh, which every commit starts
// with, keeps failing with ErrUnavailable until the store is back and then goes on
// without a restart. A store that has never been seen is an error instead, and a store
// that is known but gone is never created anew: its directory may be an empty mount
// point.
//
// # Local state
//
// kloset keeps an index of the store in CacheDir, in SQLite files that are never synced.
// After power loss they may say things that are not so; they are thrown away when the
// machine was booted since they were last used, and rebuilt from the store.
//
// # Concurrency
//
// A Store may be used by many readers and one writer at a time; the writer's calls
// (Refresh, and everything done with a RepositoryWriter) must not overlap. Other
// processes, stock plakar among them, may use the same store: Lock holds off their
// maintenance.
package store
