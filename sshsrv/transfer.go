package sshsrv

import (
	"encoding/binary"
	"fmt"
	"io"
)

// READ and WRITE do not go through pkg/sftp: it allocates two buffers of 256 KiB for each
// request in work and keeps them until the session ends, or makes new ones for each
// request, which costs a third of the speed. Here a request has one buffer, of the server's
// memory, and only while it is in work.

const (
	// transferWorkers is how many READs and WRITEs of a channel are worked on at once. The
	// spool hashes what arrives so little out of order.
	transferWorkers = 8
	// channelMemory bounds the buffers of a channel: eight of the longest requests.
	channelMemory = 2 << 20
	// dataHead is the length of a DATA packet before its data.
	dataHead = 4 + 1 + 4 + 4
)

// read has a READ worked on.
func (s *shim) read(id uint32, f *openFile, off uint64, n uint32) error {
	n = min(n, maxTransfer)
	in := &inflight{typ: fxpRead, id: id, file: f, off: off, end: off + uint64(n)}
	if err := s.admitTransfer(in, dataHead+int(n)); err != nil {
		return err
	}
	s.start(in, func() []byte {
		b := in.buf.b[:dataHead+int(n)]
		got, err := f.ReadAt(b[dataHead:], int64(off))
		if err != nil {
			s.release(in)
			return statusPacket(id, err)
		}
		b = b[:dataHead+got]
		binary.BigEndian.PutUint32(b, uint32(len(b)-4))
		b[4] = fxpData
		binary.BigEndian.PutUint32(b[5:], id)
		binary.BigEndian.PutUint32(b[9:], uint32(got))
		return b
	})
	return nil
}

// write reads a WRITE and has it worked on.
func (s *shim) write(length int) error {
	head, err := s.in.Peek(min(4+length, 4+1+4+4+maxHandleLen+8+4))
	if err != nil {
		return unexpected(err)
	}
	d := &decoder{b: head[5:]}
	id, handle, off, size := d.uint32(), d.string(), d.uint64(), d.uint32()
	headLen := len(head) - len(d.b)
	if d.bad || int(size) > 4+length-headLen {
		return fmt.Errorf("%w: type %d", errMalformed, fxpWrite)
	}
	n := int(size)
	f := s.lookup(handle)
	refuse := error(nil)
	switch {
	case f == nil || f.dir != nil:
		refuse = kindError(vfsOther)
	case !f.write:
		refuse = &statusError{statusNoSuchFile, "not open for writing"} // EBADF
	}
	if refuse != nil {
		if _, err := s.in.Discard(4 + length); err != nil {
			return unexpected(err)
		}
		return s.reply(statusPacket(id, refuse))
	}
	in := &inflight{typ: fxpWrite, id: id, file: f, off: off, end: off + uint64(n)}
	if err := s.admitTransfer(in, n); err != nil {
		return err
	}
	if err := s.readData(in.buf.b[:n], headLen, 4+length-headLen-n); err != nil {
		s.unadmit(in) // nobody will work on it
		return unexpected(err)
	}
	s.start(in, func() []byte {
		_, err := f.WriteAt(in.buf.b[:n], int64(off))
		s.release(in)
		return statusPacket(id, err)
	})
	return nil
}

// readData reads the data of a WRITE, between its head and what follows them.
func (s *shim) readData(p []byte, before, after int) error {
	if _, err := s.in.Discard(before); err != nil {
		return err
	}
	if _, err := io.ReadFull(s.in, p); err != nil {
		return err
	}
	_, err := s.in.Discard(after)
	return err
}

// admitTransfer is admit for a request with a buffer of at least n bytes.
func (s *shim) admitTransfer(in *inflight, n int) error {
	kind, size := bufferKind(n)
	in.bytes = int64(size)
	if err := s.admit(in); err != nil {
		return err
	}
	in.buf = s.mem.get(kind)
	return nil
}

// reserve counts a request's buffer. A channel that has none is given one always, so that
// it can go on; one that has some waits until they are free, when there are no more. mu is held.
func (s *shim) reserve(in *inflight) bool {
	if in.bytes == 0 {
		return true
	}
	if s.held > 0 && s.held+in.bytes > channelMemory || !s.mem.reserve(s.user, in.bytes, s.held == 0) {
		return false
	}
	s.held += in.bytes
	return true
}

// release gives a request's buffer back, once.
func (s *shim) release(in *inflight) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.releaseLocked(in)
}

func (s *shim) releaseLocked(in *inflight) {
	if in.buf != nil {
		s.mem.put(in.buf)
		in.buf = nil
	}
	if in.bytes > 0 {
		s.held -= in.bytes
		s.mem.release(s.user, in.bytes)
		in.bytes = 0
		s.changed.Broadcast()
	}
}

// start queues the work on an admitted request. There are workers only as long as there
// is work, and they take it in its order.
func (s *shim) start(in *inflight, work func() []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.queue = append(s.queue, transfer{in, work})
	if s.working < transferWorkers {
		s.working++
		s.workers.Go(s.work)
	}
}

// transfer is a READ or WRITE that waits for a worker; run returns the reply.
type transfer struct {
	in  *inflight
	run func() []byte
}

func (s *shim) work() {
	for {
		s.mu.Lock()
		if len(s.queue) == 0 {
			s.working--
			s.queue = nil
			s.mu.Unlock()
			return
		}
		t := s.queue[0]
		s.queue[0] = transfer{}
		s.queue = s.queue[1:]
		s.mu.Unlock()
		s.settle(t.in, t.run())
	}
}

// settle notes the reply to a request and sends what is ready at the head of the queue:
// replies leave in the order of the requests, as clients of OpenSSH's server are used to.
// One goroutine sends at a time, and the others go on with their work.
func (s *shim) settle(in *inflight, reply []byte) {
	s.mu.Lock()
	in.reply = reply
	if s.sending {
		s.mu.Unlock()
		return
	}
	s.sending = true
	for len(s.inflight) > 0 && s.inflight[0].reply != nil {
		head := s.inflight[0]
		s.mu.Unlock()
		err := s.reply(head.reply)
		s.mu.Lock()
		if err != nil && s.dead == nil {
			s.dead = err
		}
		s.inflight[0] = nil
		s.inflight = s.inflight[1:]
		head.reply = nil
		s.releaseLocked(head)
		s.changed.Broadcast()
	}
	s.sending = false
	idle := s.draining && len(s.inflight) == 0 && len(s.handles) == 0
	s.mu.Unlock()
	if idle {
		_ = s.ch.Close() // nothing is lost, and the peer may be gone already
	}
}

// endTransfers waits for the work on READs and WRITEs, when the session is over, and gives
// back what they hold.
func (s *shim) endTransfers() {
	s.workers.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, in := range s.inflight {
		s.releaseLocked(in)
	}
}
