//go:build darwin || freebsd

package sshclient

import "golang.org/x/sys/unix"

// Requests of ioctl that read and set a terminal's attributes.
const (
	getTerminal = unix.TIOCGETA
	setTerminal = unix.TIOCSETA
	// setTerminalAfresh drops what was typed and not read, too.
	setTerminalAfresh = unix.TIOCSETAF
)
