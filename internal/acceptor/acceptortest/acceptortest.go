// Package acceptortest gives tests of servers a listener that fails.
package acceptortest

import (
	"net"
	"os"
	"sync/atomic"
	"syscall"
)

// Failing is a listener of which two calls of Accept fail: as they do when the process has no descriptor
// left, and when the kernel has no buffer.
type Failing struct {
	net.Listener
	calls atomic.Int64
}

// Accept implements net.Listener.
func (f *Failing) Accept() (net.Conn, error) {
	var errno syscall.Errno
	switch f.calls.Add(1) {
	case 1:
		errno = syscall.EMFILE
	case 2:
		errno = syscall.ENOBUFS // which Go does not call temporary
	default:
		return f.Listener.Accept()
	}
	return nil, &net.OpError{Op: "accept", Net: "tcp", Addr: f.Addr(), Err: os.NewSyscallError("accept4", errno)}
}
