package backend_test

import (
	"bufio"
	"encoding/binary"
	"io"
	"math"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/snapgate/gateway/store/internal/backend"
	"github.com/snapgate/gateway/store/storetest"
)

// Packets of SFTP version 3, and answers (draft-ietf-secsh-filexfer-02, sections 3 and 7).
const (
	fxpInit     = 1
	fxpVersion  = 2
	fxpClose    = 4
	fxpWrite    = 6
	fxpSetstat  = 9
	fxpFsetstat = 10
	fxpReaddir  = 12
	fxpStatus   = 101
	fxpExtended = 200

	fxOK               = 0
	fxPermissionDenied = 3
	fxFailure          = 4
	fxOpUnsupported    = 8
)

// always is more often than anything is asked for.
const always = math.MaxInt32 / 2

// extFsync is fsync@openssh.com, which the server of pkg/sftp does not have.
const extFsync = "fsync@openssh.com"

// sftpAnswers are given in the place of a server, to the requests of all connections.
type sftpAnswers struct {
	// refuse returns what a request is answered with, which then reaches no server, and fxOK for all others; nil: those
	// are all.
	refuse atomic.Pointer[func(kind byte) (status uint32)]
	slow   atomic.Bool // every 16th answer comes a millisecond late
}

// set has requests of some kinds refused, after some and no more than so many.
func (a *sftpAnswers) set(status uint32, after, times int32, kinds ...byte) {
	var seen atomic.Int32
	refuse := func(kind byte) uint32 {
		if !slices.Contains(kinds, kind) {
			return fxOK
		}
		if n := seen.Add(1) - after; n <= 0 || n > times {
			return fxOK
		}
		return status
	}
	a.refuse.Store(&refuse)
}

func (a *sftpAnswers) of(kind byte) (status uint32) {
	if refuse := a.refuse.Load(); refuse != nil {
		return (*refuse)(kind)
	}
	return fxOK
}

// answeredConn is the server's side of a connection, some of whose requests are answered by others. It announces
// fsync@openssh.com, and does nothing for it.
type answeredConn struct {
	io.ReadWriteCloser
	answers *sftpAnswers
	in      *bufio.Reader
	request []byte // what is left of one for the server

	mu   sync.Mutex // guards what follows, and writing
	out  []byte     // of the server, until it is a packet
	sent int        // packets
}

func newAnsweredConn(conn io.ReadWriteCloser, answers *sftpAnswers) *answeredConn {
	return &answeredConn{ReadWriteCloser: conn, answers: answers, in: bufio.NewReader(conn)}
}

// Read implements io.Reader: it returns requests for the server.
func (c *answeredConn) Read(p []byte) (int, error) {
	for len(c.request) == 0 {
		if err := c.next(); err != nil {
			return 0, err
		}
	}
	n := copy(p, c.request)
	c.request = c.request[n:]
	return n, nil
}

// next reads a request, and answers it or leaves it to the server.
func (c *answeredConn) next() error {
	head := make([]byte, 4)
	if _, err := io.ReadFull(c.in, head); err != nil {
		return err
	}
	packet := append(head, make([]byte, binary.BigEndian.Uint32(head))...)
	if _, err := io.ReadFull(c.in, packet[4:]); err != nil {
		return err
	}
	const body = 9 // after the length, the kind and the request's id
	kind, status := packet[4], uint32(fxOK)
	if kind != fxpInit {
		status = c.answers.of(kind)
	}
	sync := kind == fxpExtended && strings.HasPrefix(string(packet[body+4:]), extFsync)
	if status == fxOK && !sync {
		c.request = packet
		return nil
	}
	answer := []byte{0, 0, 0, 17, fxpStatus}
	answer = append(answer, packet[5:body]...)
	answer = binary.BigEndian.AppendUint32(answer, status)
	answer = append(answer, make([]byte, 8)...) // no text, in no language
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.send(answer)
}

// Write implements io.Writer: it takes what the server answers.
func (c *answeredConn) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.out = append(c.out, p...)
	for len(c.out) >= 4 {
		n := 4 + int(binary.BigEndian.Uint32(c.out))
		if len(c.out) < n {
			break
		}
		packet := c.out[:n:n]
		if packet[4] == fxpVersion {
			packet = append(packet, 0, 0, 0, byte(len(extFsync)))
			packet = append(packet, extFsync+"\x00\x00\x00\x011"...)
			binary.BigEndian.PutUint32(packet, uint32(len(packet)-4))
		}
		if err := c.send(packet); err != nil {
			return 0, err
		}
		c.out = c.out[n:]
	}
	return len(p), nil
}

// send sends an answer. c.mu is held.
func (c *answeredConn) send(packet []byte) error {
	if c.sent++; c.answers.slow.Load() && c.sent%16 == 0 {
		<-time.After(time.Millisecond)
	}
	_, err := c.ReadWriteCloser.Write(packet)
	return err
}

// TestSFTPRefusals has a server that answers, with an error: its disk is full or fails, at once and in the middle of
// files and listings. And one that is slow.
func TestSFTPRefusals(t *testing.T) {
	const size = 3 << 19 // 48 requests
	storetest.TestBackendFaults(t, func(t *testing.T) (backend.Backend, []storetest.Fault) {
		d := newPipeDialer(t)
		d.answers = &sftpAnswers{}
		faults := []storetest.Fault{{Name: "slow", Size: size, Start: func() func() {
			d.answers.slow.Store(true)
			return func() { d.answers.slow.Store(false) }
		}}}
		for _, tt := range []struct {
			name         string
			kind         byte
			after, times int32
		}{
			{"write", fxpWrite, 0, always},
			{"write, in the middle", fxpWrite, 30, always},
			{"sync", fxpExtended, 0, 1},
			{"sync, after renaming", fxpExtended, 2, always}, // that is such a request, too
			{"close, when it is written", fxpClose, 1, 1},    // the first is that of making it
			{"list, after the first names", fxpReaddir, 1, always},
			{"list, in the middle", fxpReaddir, 300, always},
		} {
			faults = append(faults, storetest.Fault{Name: tt.name, Size: size, Refuses: tt.kind != fxpReaddir, Start: func() func() {
				d.answers.set(fxFailure, tt.after, tt.times, tt.kind)
				return func() { d.answers.refuse.Store(nil) }
			}})
		}
		return newSFTP(t, d), faults
	})
}
