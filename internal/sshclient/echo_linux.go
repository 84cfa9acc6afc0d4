package sshclient

import "golang.org/x/sys/unix"

// Requests of ioctl that read and set a terminal's attributes.
const (
	getTerminal = unix.TCGETS
	setTerminal = unix.TCSETS
)
