package sshsrv

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"sync"
)

const (
	// maxInflight is how many requests of one channel are in work at once; more stay in the
	// channel's window. Replies to requests that overtook a slow one are kept, so without a
	// bound a slow one could be made to pile up memory. At 32 and 64 the throughput is the
	// same.
	maxInflight = 16
	// shimReadBuffer holds the heads of packets; what is longer is read past it.
	shimReadBuffer = 4 << 10
	// maxHandleLen is the longest handle of version 3 (section 6.2).
	maxHandleLen = 256
)

// shim sits between an SSH channel and pkg/sftp's RequestServer, which reads and writes
// it. It takes whole packets apart in both directions, because the server alone cannot
// do what is needed:
//
//   - It hides the request from its handlers: paths are cleaned, the attributes of OPEN
//     and MKDIR are dropped, FSTAT and FSETSTAT become requests for a path. The shim keeps
//     the request itself under a number and puts that number in the place of the path;
//     the handler takes the request back by it (take).
//   - Only CLOSE waits for what came before it. The shim holds a request back while it
//     conflicts with one that is still in work: the order of a client's requests on one
//     file is kept (section 3).
//   - Extensions that it does not know are answered here, or travel as a request that
//     has the same kind of reply.
//   - The number of requests in work is not bounded, nor is their memory: READ and WRITE
//     are worked on here (transfer.go).
//
// Replies leave in the order of the requests, and those of the server come in the order of
// its requests, so a queue of what is in work tells which request a reply belongs to.
type shim struct {
	ch   io.ReadWriteCloser
	in   *bufio.Reader
	ops  shimOps
	mem  *memory
	user string // whose memory it is

	// Used by Read only.
	out  []byte // bytes for the server
	buf  []byte
	init bool

	wbuf []byte // used by Write only: bytes of replies that are not whole yet

	workers  sync.WaitGroup
	mu       sync.Mutex // guards what follows; only memory.mu is taken below it
	changed  *sync.Cond // inflight, held, dead
	inflight []*inflight
	queue    []transfer // READs and WRITEs that wait for a worker
	working  int        // workers
	sending  bool       // somebody sends replies
	held     int64      // bytes of buffers
	pending  map[string]*request
	next     uint64
	handles  map[string]*openFile
	dead     error
	draining bool

	outMu sync.Mutex // guards the order of packets on ch; held while one is written
}

// shimOps is what the shim asks of the handler. Its methods are called one at a time.
type shimOps interface {
	// readDir returns the body of a NAME reply for the next entries of a directory.
	readDir(ctx context.Context, dir *openFile) (func(*encoder), error)
	// userName and groupName give the names of numbers that a listing showed, or "".
	userName(uid uint32) string
	groupName(gid uint32) string
	// user is whose session it is.
	user() string
	// context ends with the connection.
	context() context.Context
}

// request is a client's request as it was sent.
type request struct {
	typ    byte   // its packet type, fxpExtended for an extension
	ext    string // the extension's name
	id     uint32
	path   string // the client's own bytes
	target string // the second path
	pflags uint32 // OPEN
	attrs  wireAttrs
	file   *openFile // the handle it is about, or the open file that an OPEN made
	to     *openFile // copy-data
	off    uint64    // copy-data
	length uint64
	toOff  uint64
}

// inflight is a request in work.
type inflight struct {
	req      *request // nil for READ, WRITE and CLOSE
	typ      byte
	id       uint32
	file     *openFile // READ, WRITE, CLOSE
	off, end uint64

	// Guarded by shim.mu; buf is used by who works on the request.
	buf   *buffer // READ, WRITE; until it is released
	bytes int64   // counted for buf
	reply []byte  // not sent yet
}

func newShim(ch io.ReadWriteCloser, ops shimOps, mem *memory) *shim {
	s := &shim{
		mem:     mem,
		user:    ops.user(),
		ch:      ch,
		in:      bufio.NewReaderSize(ch, shimReadBuffer),
		ops:     ops,
		pending: make(map[string]*request),
		handles: make(map[string]*openFile),
	}
	s.changed = sync.NewCond(&s.mu)
	return s
}

// Read gives the server the client's requests. It implements io.Reader; one caller.
func (s *shim) Read(p []byte) (int, error) {
	for {
		if len(s.out) > 0 {
			n := copy(p, s.out)
			s.out = s.out[n:]
			return n, nil
		}
		if err := s.nextPacket(); err != nil {
			return 0, s.end(err)
		}
	}
}

// end tells the server that there are no more requests, when all replies are sent: Serve
// waits for its workers but not for what sends their replies, and drops what is unsent.
// After it the server aborts what is open, so nothing may work on it any more.
func (s *shim) end(err error) error {
	_ = s.quiesce() // fails when the client is gone, and then there is nobody to answer
	s.fail(err)
	s.endTransfers()
	return err
}

// nextPacket reads a packet and answers it, or leaves what the server gets in out.
func (s *shim) nextPacket() error {
	head, err := s.in.Peek(5)
	if err != nil {
		if errors.Is(err, io.EOF) && len(head) > 0 {
			return io.ErrUnexpectedEOF
		}
		return err
	}
	length, typ := binary.BigEndian.Uint32(head), head[4]
	if length < 1 || length > maxPacket {
		return fmt.Errorf("%w: %d bytes", errMalformed, length)
	}
	if !s.init && typ != fxpInit {
		return fmt.Errorf("%w: type %d before INIT", errMalformed, typ)
	}
	if typ == fxpWrite {
		return s.write(int(length))
	}
	if cap(s.buf) < int(length)+4 || cap(s.buf) > maxPath {
		s.buf = make([]byte, int(length)+4)
	}
	pkt := s.buf[:length+4]
	if _, err := io.ReadFull(s.in, pkt); err != nil {
		return unexpected(err)
	}
	return s.packet(typ, pkt)
}

func unexpected(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// forward gives the server a request under a number in the place of its path.
func (s *shim) forward(req *request, carrier byte, ext string) error {
	if err := s.admit(&inflight{req: req, typ: carrier, id: req.id}); err != nil {
		return err
	}
	s.mu.Lock()
	s.next++
	token := "/" + strconv.FormatUint(s.next, 10)
	s.pending[token] = req
	s.mu.Unlock()

	e := newPacket(carrier).uint32(req.id)
	if carrier == fxpExtended {
		e.string(ext)
	}
	e.string(token)
	switch carrier {
	case fxpOpen:
		// pkg/sftp chooses the handler by these: reading alone, or both.
		pflags := fxfRead
		if req.file.write {
			pflags |= fxfWrite
		}
		e.uint32(pflags).uint32(0)
	case fxpSetstat, fxpMkdir:
		e.uint32(0)
	case fxpRename, fxpSymlink:
		e.string("/")
	case fxpExtended:
		if ext == extPosixRename || ext == extHardlink {
			e.string("/")
		}
	}
	s.out = e.packet()
	return nil
}

// pass gives the server a packet that names a handle as it is.
func (s *shim) pass(in *inflight, pkt []byte) error {
	if err := s.admit(in); err != nil {
		return err
	}
	s.out = pkt
	return nil
}

// take returns the request behind the path that the server hands to its handler, once.
func (s *shim) take(token string) (*request, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	req := s.pending[token]
	if req == nil {
		return nil, errors.New("no such request")
	}
	delete(s.pending, token)
	return req, nil
}

// admit waits until a request may be worked on, and notes it.
func (s *shim) admit(in *inflight) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.dead == nil {
		if len(s.inflight) < maxInflight && !s.conflicts(in) && s.reserve(in) {
			s.inflight = append(s.inflight, in)
			return nil
		}
		s.changed.Wait()
	}
	return s.dead
}

// unadmit forgets the request that was admitted last.
func (s *shim) unadmit(in *inflight) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.inflight = s.inflight[:len(s.inflight)-1]
	s.releaseLocked(in)
	s.changed.Broadcast()
}

// conflicts reports whether in must wait for a request in work. READs and WRITEs are
// worked on in parallel and all others one after the other.
func (s *shim) conflicts(in *inflight) bool {
	for _, w := range s.inflight {
		switch in.typ {
		case fxpWrite:
			if w.typ == fxpRead && w.file == in.file ||
				w.typ == fxpWrite && w.file == in.file && w.off < in.end && in.off < w.end ||
				w.concerns(in.file) {
				return true
			}
		case fxpRead:
			if w.typ == fxpWrite && w.file == in.file || w.concerns(in.file) {
				return true
			}
		case fxpClose:
			if w.file == in.file && (w.typ == fxpRead || w.typ == fxpWrite) {
				return true
			}
		default:
			// What goes as a SETSTAT may change the bytes that a READ is to see.
			if w.typ == fxpWrite || w.typ == fxpRead && in.typ == fxpSetstat {
				return true
			}
		}
	}
	return false
}

// concerns reports whether a request other than READ and WRITE has to do with f's bytes:
// it names the handle, or it sets attributes of a path, which may be f's.
func (w *inflight) concerns(f *openFile) bool {
	if w.req == nil {
		return false
	}
	return w.req.file == f || w.req.to == f || w.req.typ == fxpSetstat || w.req.ext == extLsetstat
}

// quiesce waits until nothing is in work, for a request that the shim answers itself.
func (s *shim) quiesce() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.dead == nil && len(s.inflight) > 0 {
		s.changed.Wait()
	}
	return s.dead
}

// Write takes the server's replies. It implements io.Writer; one caller at a time. A
// reply that comes in pieces is put together, so that no other gets between them.
func (s *shim) Write(p []byte) (int, error) {
	s.wbuf = append(s.wbuf, p...)
	rest := s.wbuf
	for len(rest) >= 5 {
		length := binary.BigEndian.Uint32(rest)
		if length < 1 || length > maxReply {
			err := fmt.Errorf("reply of %d bytes", length)
			s.fail(err)
			return 0, err
		}
		n := 4 + int(length)
		if len(rest) < n {
			break
		}
		if err := s.response(rest[:n]); err != nil {
			s.fail(err)
			return 0, err
		}
		rest = rest[n:]
	}
	s.wbuf = append(s.wbuf[:0], rest...)
	return len(p), nil
}

// maxReply bounds what the server sends: a DATA packet of maxTransfer, with room.
const maxReply = maxPacket

// response takes a reply of the server.
func (s *shim) response(pkt []byte) error {
	d := &decoder{b: pkt[5:]}
	id := d.uint32()

	s.mu.Lock()
	i := slices.IndexFunc(s.inflight, func(in *inflight) bool {
		return in.typ != fxpRead && in.typ != fxpWrite && in.reply == nil
	})
	if i < 0 || s.inflight[i].id != id {
		s.mu.Unlock()
		return fmt.Errorf("reply to %d out of order", id)
	}
	done := s.inflight[i]
	if pkt[4] == fxpHandle && done.req != nil && done.req.file != nil {
		s.handles[d.string()] = done.req.file
	}
	s.mu.Unlock()
	s.settle(done, bytes.Clone(pkt))
	return nil
}

// reply sends one whole packet.
func (s *shim) reply(pkt []byte) error {
	s.outMu.Lock()
	defer s.outMu.Unlock()
	_, err := s.ch.Write(pkt)
	return err
}

// lookup returns the open file of a handle, nil when there is none.
func (s *shim) lookup(handle string) *openFile {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.handles[handle]
}

// forget takes a handle out of use.
func (s *shim) forget(handle string) *openFile {
	s.mu.Lock()
	defer s.mu.Unlock()
	f := s.handles[handle]
	delete(s.handles, handle)
	return f
}

// fail wakes whoever waits: the session is over.
func (s *shim) fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.dead == nil {
		s.dead = err
	}
	s.changed.Broadcast()
}

// drain ends the session when its last handle is closed, at once when there is none.
// Until then nothing new can be opened.
func (s *shim) drain() {
	s.mu.Lock()
	s.draining = true
	idle := len(s.inflight) == 0 && len(s.handles) == 0
	s.mu.Unlock()
	if idle {
		_ = s.ch.Close() // nothing is lost, and the peer may be gone already
	}
}

func (s *shim) isDraining() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.draining
}

// Close ends the session. It implements io.Closer; the server calls it where it calls Read.
func (s *shim) Close() error {
	s.fail(io.ErrClosedPipe)
	err := s.ch.Close()
	s.endTransfers()
	return err
}
