// Package background runs work that nobody waits for below the rest of the process, so that
// those who wait for an answer get the processor first: an upload is acknowledged as quickly
// while a commit keeps all cores busy as without. The Go scheduler knows no priorities; the
// kernel's are those of threads. Where they are not to be had, nothing is different.
//
// What runs in the background must not hold a lock that others want for longer than a few
// instructions. The runtime's own locks are no worse off than on a machine that is busy
// anyway: a quarter of a core is left when somebody else wants all of it.
package background

// Do runs f in the background and waits for it. f has a thread of its own: handing something
// over to it, or by it, takes 5 to 10 µs, which is long for ordinary goroutines.
func Do(f func()) { do(f) }
