package sshclient

import "golang.org/x/sys/unix"

// Requests of ioctl that read and set a terminal's attributes.
const (
	getTerminal = unix.TCGETS
	setTerminal = unix.TCSETS
	// setTerminalAfresh drops what was typed and not read, too.
	setTerminalAfresh = unix.TCSETSF
)
