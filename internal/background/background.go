// Package background runs work that nobody waits for below the rest of the process, so that
// those who wait for an answer get the processor first: an upload is acknowledged as quickly
// while a commit keeps all cores busy as without. The Go scheduler knows no priorities; the
// kernel's are those of threads. Where they are not to be had, nothing is different.
//
// What runs in the background must not hold a lock that others want for longer than a few
// instructions. The runtime's own locks are no worse off than on a machine that is busy
// anyway: a quarter of a core is left when somebody else wants all of it.
package background

import "context"

// Do runs f in the background and waits for it. f has a thread of its own: handing something
// over to it, or by it, takes 5 to 10 µs, which is long for ordinary goroutines.
func Do(f func()) { do(f) }

// within is the key of a context in which work is done in the background.
type within struct{}

// With returns a context in which Within does work in the background.
func With(ctx context.Context) context.Context { return context.WithValue(ctx, within{}, true) }

// Within runs f and waits for it: in the background if ctx is one of With. It is for goroutines that
// work for somebody who may be there himself: what a goroutine starts is not in the background with it.
func Within(ctx context.Context, f func()) {
	if Is(ctx) {
		Do(f)
		return
	}
	f()
}

// Is reports whether ctx is one of With.
func Is(ctx context.Context) bool { return ctx.Value(within{}) != nil }
