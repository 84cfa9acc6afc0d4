package ftpsrv

import (
	"net"

	"golang.org/x/sys/unix"
)

// tcpEstablished is TCP_ESTABLISHED of <netinet/tcp.h>.
const tcpEstablished = 1

// peerGone reports whether the peer of a TCP connection has ended or reset it, as the
// kernel knows it: before anybody has read so far.
func peerGone(nc net.Conn) bool {
	t := tcpConn(nc)
	if t == nil {
		return false
	}
	raw, err := t.SyscallConn()
	if err != nil {
		return true // closed
	}
	gone := false
	err = raw.Control(func(fd uintptr) {
		info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
		gone = err == nil && info.State != tcpEstablished
	})
	return gone || err != nil
}
