// Package faults tests what a gateway does when the machine below it fails: a disk that is
// full, file systems that become read-only, files that its user may not touch, a store
// that goes away, a store that is not what it should be.
//
// The tests (build tag faults, make faults) run the built gateway on real file systems of
// their own. Each causes a fault under a running gateway and looks at it as users do: the
// clients get an error that says what is wrong, what was acknowledged is there, and
// everything goes on by itself, without a restart, when the cause is gone.
//
// Mounting needs root. The tests run in a mount namespace of their own, so that nothing
// stays mounted whatever happens to them; without root they are skipped, but not in CI.
package faults
