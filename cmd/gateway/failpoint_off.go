//go:build !failpoint

package main

// failpoint is what lets crash tests kill the gateway at named moments; only binaries
// built with the tag failpoint have it.
func failpoint() (func(name string), error) { return nil, nil }
