//go:build !linux && !darwin && !freebsd

package main

import (
	"errors"
	"time"
)

// bootID names the current boot of the machine; it is not known here.
func bootID() string { return "" }

func uptime() (time.Duration, error) { return 0, errors.ErrUnsupported }
