//go:build !linux && !darwin && !freebsd

package store

// bootID identifies the current boot of the machine; it is not known here.
func bootID() string { return "" }
