//go:build !failpoint

package main

import "time"

// failpoint is what lets crash tests kill the gateway at named moments; only binaries
// built with the tag failpoint have it.
func failpoint() (func(name string), error) { return nil, nil }

// keepEvery is what lets crash tests have pulls keep more often; 0 for the default.
func keepEvery() time.Duration { return 0 }
