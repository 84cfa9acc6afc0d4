package ftpsrv

import (
	"bufio"
	"errors"
	"io"
	"strings"
	"sync/atomic"
)

// maxLine bounds a command line (RFC 959 has no limit). Paths may have 4,096 bytes.
const maxLine = 4096 + 64

// maxVerb is longer than any command's name.
const maxVerb = 16

var errLineTooLong = errors.New("line too long")

// command is a line of the control connection (RFC 959 section 5.3).
type command struct {
	verb string // in upper case
	arg  string // as sent: one space before it is taken away
	err  error  // errLineTooLong, or why the connection has ended
	seq  uint64 // counts the lines after the login; 0 before it
	// more, of a NOOP that was read ahead, is how many came right behind it; noMore once they are answered.
	more *atomic.Int64
}

const noMore = -1

// follow counts another NOOP behind this one. It is false when that has to wait for itself.
func (c command) follow() bool {
	if c.more == nil {
		return false
	}
	for {
		n := c.more.Load()
		if n == noMore || n >= maxNoops {
			return false
		}
		if c.more.CompareAndSwap(n, n+1) {
			return true
		}
	}
}

// readCommand reads a line; one that is too long is skipped to its end.
func readCommand(r *bufio.Reader) command {
	line, err := r.ReadSlice('\n')
	if errors.Is(err, bufio.ErrBufferFull) {
		for errors.Is(err, bufio.ErrBufferFull) {
			_, err = r.ReadSlice('\n')
		}
		if err == nil {
			err = errLineTooLong
		}
	}
	if err != nil {
		if errors.Is(err, io.EOF) && len(line) > 0 {
			err = io.ErrUnexpectedEOF // a command that was cut off is none
		}
		return command{err: err}
	}
	return parseCommand(line)
}

// Telnet's codes (RFC 854). Clients put IAC IP, IAC DM before ABOR (RFC 959 section 4.1.3);
// DM is sent as urgent data and may be missing from the stream.
const (
	telnetDM  = 0xf2
	telnetIP  = 0xf4
	telnetIAC = 0xff
)

func parseCommand(line []byte) command {
	for len(line) > 0 && (line[0] == telnetIAC || line[0] == telnetIP || line[0] == telnetDM) {
		line = line[1:]
	}
	text := strings.TrimRight(string(line), "\r\n")
	verb, arg, _ := strings.Cut(text, " ")
	if len(verb) > maxVerb {
		verb = verb[:maxVerb]
	}
	return command{verb: strings.ToUpper(verb), arg: arg}
}
