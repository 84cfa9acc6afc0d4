package sftpclient

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
)

const (
	version = 3
	// defaultRead is what every server answers in one packet (section 3: 34,000 bytes).
	defaultRead = 32 << 10
	// maxRead is the most that is asked for, or sent, at once: what OpenSSH allows.
	maxRead = 255 << 10
	// defaultHandles is how many open handles a server is taken to allow: what OpenSSH had
	// before it knew limits.
	defaultHandles = 100
	// queue is how many requests wait for the writer.
	queue = 64
	// freeBuffers is how many buffers of large requests are kept for later ones: as many of the largest as
	// writeAhead has.
	freeBuffers = writeAhead / maxRead
	// freeBodies is how many buffers of large replies are kept for later ones: as many as are asked for ahead of a range.
	freeBodies = readAhead/maxRead + 1
	// dataHead is how much longer the body of a reply is than its data.
	dataHead = 8
	// defaultTimeout is how long a server may be silent while a request waits.
	defaultTimeout = time.Minute
	// patience is for how many timeouts a request may wait while others are answered: on a slow
	// line it waits behind all that was asked for before.
	patience = 10
)

// ErrClosed is the error of calls after Close.
var ErrClosed = errors.New("sftp: client closed")

// ErrLost means that the connection has ended without our doing.
var ErrLost = errors.New("sftp: connection lost")

// ErrTimeout means that the server has not answered in time. The connection has ended.
var ErrTimeout = errors.New("sftp: no answer in time")

// Limits are what the server allows, or what is taken for it.
type Limits struct {
	Read    int // bytes of one READ
	Write   int // bytes of one WRITE
	Handles int // open at a time
}

// Client is a connection. Safe for concurrent use.
type Client struct {
	rw      io.ReadWriteCloser
	timeout time.Duration
	limits  Limits
	exts    map[string]string
	heard   atomic.Int64 // when something came, in nanoseconds since began
	began   time.Time
	trip    time.Duration

	out    chan []byte
	free   chan []byte   // large ones that were sent
	bodies chan []byte   // of large replies, that were read
	done   chan struct{} // closed when the connection has ended
	wg     sync.WaitGroup

	mu      sync.Mutex // guards what follows
	next    uint32
	pending map[uint32]*call
	err     error // why the connection has ended
}

// call is a request under way.
type call struct {
	reply chan reply // of capacity 1
	// abandoned is guarded by Client.mu: nobody waits, and a handle is to be closed.
	abandoned bool
}

// answered reports whether wait would not wait.
func (k *call) answered() bool { return len(k.reply) > 0 }

type reply struct {
	typ  byte
	body []byte // begins with the id
}

// New starts the protocol on a stream, which it owns from then on, also when it fails. Close
// of the stream has to end its Reads and Writes. timeout is how long the server may be silent
// while a request waits, 0 for a minute.
func New(ctx context.Context, rw io.ReadWriteCloser, timeout time.Duration) (*Client, error) {
	if timeout <= 0 {
		timeout = defaultTimeout
	}
	c := &Client{
		rw: rw, timeout: timeout, limits: Limits{Read: defaultRead, Write: defaultRead, Handles: defaultHandles},
		exts: map[string]string{}, pending: map[uint32]*call{},
		out: make(chan []byte, queue), free: make(chan []byte, freeBuffers), bodies: make(chan []byte, freeBodies), done: make(chan struct{}), began: time.Now(),
	}
	if err := c.hello(ctx); err != nil {
		_ = c.Close()
		return nil, err
	}
	c.wg.Go(c.write)
	c.wg.Go(c.read)
	if _, ok := c.exts["limits@openssh.com"]; ok {
		if err := c.askLimits(ctx); err != nil {
			_ = c.Close()
			return nil, err
		}
	}
	return c, nil
}

// hello exchanges versions (section 4), before the goroutines are there.
func (c *Client) hello(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { _ = c.fail(ctx.Err()) })
	defer stop()
	late := time.AfterFunc(c.timeout, func() { _ = c.fail(ErrTimeout) })
	defer late.Stop()
	b := binary.BigEndian.AppendUint32(nil, 5)
	b = append(b, typeInit)
	b = binary.BigEndian.AppendUint32(b, version)
	began := time.Now()
	if _, err := c.rw.Write(b); err != nil {
		return c.fail(fmt.Errorf("sftp: hello: %w", err))
	}
	typ, body, err := c.packet(c.rw)
	if err != nil {
		return c.fail(fmt.Errorf("sftp: hello: %w", err))
	}
	c.trip = time.Since(began)
	d := decoder{b: body}
	if v := d.uint32(); typ != typeVersion || d.err != nil || v != version {
		return c.fail(fmt.Errorf("%w: no version %d in the hello", ErrProtocol, version))
	}
	for len(d.b) > 0 && d.err == nil {
		name := d.string()
		c.exts[name] = d.string()
	}
	if d.err != nil {
		return c.fail(d.err)
	}
	return nil
}

func (c *Client) askLimits(ctx context.Context) error {
	began := time.Now()
	d, err := c.ask(ctx, typeExtended, typeExtendedReply, appendString(nil, "limits@openssh.com"))
	c.trip = min(c.trip, time.Since(began)) // the first answer waits for a process to start
	if err != nil {
		var st *StatusError
		if errors.As(err, &st) {
			return nil
		}
		return err
	}
	d.uint64() // of packets
	read := d.uint64()
	write := d.uint64()
	handles := d.uint64()
	if d.err != nil {
		return c.fail(d.err)
	}
	// 0 is no limit.
	if c.limits.Read = maxRead; read > 0 {
		c.limits.Read = int(min(read, maxRead))
	}
	if c.limits.Write = maxRead; write > 0 {
		c.limits.Write = int(min(write, maxRead))
	}
	if handles > 0 {
		c.limits.Handles = int(min(handles, 1<<16))
	}
	return nil
}

// Limits are what the server allows.
func (c *Client) Limits() Limits { return c.limits }

// RoundTrip is how long the server takes to answer, as it was when the connection was made.
func (c *Client) RoundTrip() time.Duration { return c.trip }

// Err is why the connection has ended, nil while it has not.
func (c *Client) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// Close ends the connection and all calls, and waits for the goroutines.
func (c *Client) Close() error {
	_ = c.fail(ErrClosed)
	c.wg.Wait()
	return nil
}

// fail ends the connection; the first reason stays. It returns that.
func (c *Client) fail(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		err = fmt.Errorf("%w: %v", ErrLost, err) //nolint:errorlint // never the io.EOF of a file or a listing
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err == nil {
		c.err = err
		close(c.done)
		_ = c.rw.Close()
	}
	return c.err
}

// write sends requests, those that wait together in one Write.
func (c *Client) write() {
	w := bufio.NewWriterSize(c.rw, defaultRead)
	for {
		select {
		case b := <-c.out:
			_, err := w.Write(b)
			if len(c.out) == 0 {
				// Those who have just got their replies ask for more, which goes along.
				runtime.Gosched()
			}
			if cap(b) > defaultRead {
				select {
				case c.free <- b[:0]:
				default:
				}
			}
			if err == nil && len(c.out) == 0 {
				err = w.Flush()
			}
			if err != nil {
				_ = c.fail(fmt.Errorf("sftp: %w", err))
				return
			}
		case <-c.done:
			return
		}
	}
}

// read hands replies to those who wait for them.
func (c *Client) read() {
	in := bufio.NewReaderSize(c.rw, defaultRead)
	for {
		typ, body, err := c.packet(in)
		if err != nil {
			_ = c.fail(fmt.Errorf("sftp: %w", err))
			return
		}
		c.heard.Store(int64(time.Since(c.began)))
		d := decoder{b: body}
		id := d.uint32()
		c.mu.Lock()
		call := c.pending[id]
		delete(c.pending, id)
		abandoned := call != nil && call.abandoned
		if call != nil && !abandoned {
			call.reply <- reply{typ, body} // there is room for the only one
		}
		c.mu.Unlock()
		if d.err != nil || call == nil {
			_ = c.fail(fmt.Errorf("%w: a reply to no request", ErrProtocol))
			return
		}
		if abandoned && typ == typeHandle {
			handle := d.string()
			// Beside: the writer may wait for the server, and the server for this goroutine.
			c.wg.Go(func() { c.close(handle) })
		}
	}
}

func (c *Client) packet(r io.Reader) (typ byte, body []byte, err error) {
	var head [5]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return 0, nil, err
	}
	n := binary.BigEndian.Uint32(head[:])
	if n < 5 || n > maxPacket {
		return 0, nil, fmt.Errorf("%w: a packet of %d bytes", ErrProtocol, n)
	}
	body = c.body(int(n - 1))
	if _, err := io.ReadFull(r, body); err != nil {
		return 0, nil, err
	}
	return head[4], body, nil
}

// body returns a buffer of so many bytes for a reply.
func (c *Client) body(n int) []byte {
	if n > defaultRead+dataHead {
		select {
		case b := <-c.bodies:
			if cap(b) >= n {
				return b[:n]
			}
		default:
		}
	}
	return make([]byte, n)
}

// reuse takes the body of a reply that nobody needs any more.
func (c *Client) reuse(body []byte) {
	if n := cap(body); n <= defaultRead+dataHead || n > maxRead+dataHead {
		return
	}
	select {
	case c.bodies <- body:
	default:
	}
}

// buffer returns an empty buffer for so many bytes.
func (c *Client) buffer(n int) []byte {
	if n > defaultRead {
		select {
		case b := <-c.free:
			if cap(b) >= n {
				return b
			}
		default:
		}
	}
	return make([]byte, 0, n)
}

// start sends a request without waiting for its reply. The payload is what parts are together.
func (c *Client) start(ctx context.Context, typ byte, parts ...[]byte) (*call, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	k := &call{reply: make(chan reply, 1)}
	c.mu.Lock()
	if c.err != nil {
		c.mu.Unlock()
		return nil, c.err
	}
	for c.pending[c.next] != nil {
		c.next++
	}
	id := c.next
	c.next++
	c.pending[id] = k
	c.mu.Unlock()
	n := 5
	for _, p := range parts {
		n += len(p)
	}
	b := binary.BigEndian.AppendUint32(c.buffer(4+n), uint32(n))
	b = append(b, typ)
	b = binary.BigEndian.AppendUint32(b, id)
	for _, p := range parts {
		b = append(b, p...)
	}
	from := time.Now()
	late := time.NewTimer(c.timeout)
	defer late.Stop()
	for {
		select {
		case c.out <- b:
			return k, nil
		case <-c.done:
			return nil, c.Err()
		case <-late.C:
			if err := c.bear(from, late); err != nil {
				return nil, err
			}
		case <-ctx.Done():
			c.mu.Lock()
			delete(c.pending, id)
			c.mu.Unlock()
			return nil, ctx.Err()
		}
	}
}

// bear sets the timer of somebody who waits since from anew, as long as the server says something, or
// ends the connection.
func (c *Client) bear(from time.Time, late *time.Timer) error {
	silent := time.Since(c.began) - time.Duration(c.heard.Load())
	if silent >= c.timeout || time.Since(from) >= patience*c.timeout {
		return c.fail(ErrTimeout)
	}
	late.Reset(c.timeout - silent)
	return nil
}

// wait waits for the reply of a request, which is to be of a type.
func (c *Client) wait(ctx context.Context, k *call, want byte) (*decoder, error) {
	r, err := c.receive(ctx, k)
	if err != nil {
		return nil, err
	}
	d := &decoder{b: r.body, body: r.body}
	d.uint32() // the id
	switch r.typ {
	case want:
		return d, nil
	case typeStatus:
		err := d.status()
		if d.err != nil || err == nil && want != typeStatus {
			return nil, c.fail(fmt.Errorf("%w: a status in place of a reply of type %d", ErrProtocol, want))
		}
		return d, err
	}
	return nil, c.fail(fmt.Errorf("%w: a reply of type %d in place of %d", ErrProtocol, r.typ, want))
}

// receive waits for the reply of a request, as long as the server says something.
func (c *Client) receive(ctx context.Context, k *call) (r reply, err error) {
	from := time.Now()
	late := time.NewTimer(c.timeout)
	defer late.Stop()
	for {
		select {
		case r = <-k.reply:
			return r, nil
		case <-c.done:
			select {
			case r = <-k.reply: // it came before the end
				return r, nil
			default:
				return r, c.Err()
			}
		case <-late.C:
			if err := c.bear(from, late); err != nil {
				return r, err
			}
		case <-ctx.Done():
			c.abandon(k)
			return r, ctx.Err()
		}
	}
}

// abandon gives up waiting: a handle that still comes is closed.
func (c *Client) abandon(k *call) {
	c.mu.Lock()
	k.abandoned = true
	c.mu.Unlock()
	select {
	case r := <-k.reply: // it has come meanwhile
		d := decoder{b: r.body}
		if d.uint32(); r.typ == typeHandle { // behind the id
			c.close(d.string())
		}
	default:
	}
}

// ask is start and wait.
func (c *Client) ask(ctx context.Context, typ, want byte, payload []byte) (*decoder, error) {
	k, err := c.start(ctx, typ, payload)
	if err != nil {
		return nil, err
	}
	return c.wait(ctx, k, want)
}

// close closes a handle, without waiting: the server does it before what is asked later, and
// nothing was written.
func (c *Client) close(handle string) {
	c.mu.Lock()
	if c.err != nil {
		c.mu.Unlock()
		return
	}
	for c.pending[c.next] != nil {
		c.next++
	}
	id := c.next
	c.next++
	c.pending[id] = &call{abandoned: true}
	c.mu.Unlock()
	b := binary.BigEndian.AppendUint32(nil, uint32(9+len(handle)))
	b = append(b, typeClose)
	b = binary.BigEndian.AppendUint32(b, id)
	b = appendString(b, handle)
	select {
	case c.out <- b:
	case <-c.done:
	}
}

// RealPath asks the server for the canonical form of a path.
func (c *Client) RealPath(ctx context.Context, path string) (string, error) {
	return c.oneName(ctx, typeRealpath, path)
}

// ReadLink asks for the target of a symbolic link.
func (c *Client) ReadLink(ctx context.Context, path string) (string, error) {
	return c.oneName(ctx, typeReadlink, path)
}

func (c *Client) oneName(ctx context.Context, typ byte, path string) (string, error) {
	d, err := c.ask(ctx, typ, typeName, appendString(nil, path))
	if err != nil {
		return "", err
	}
	// Some servers leave out the attributes of the one name.
	if n := d.uint32(); n != 1 {
		return "", c.fail(fmt.Errorf("%w: %d names in place of one", ErrProtocol, n))
	}
	name := d.string()
	if d.err != nil {
		return "", c.fail(d.err)
	}
	return name, nil
}

// Lstat asks for the attributes of a path, and of a symbolic link itself.
func (c *Client) Lstat(ctx context.Context, path string) (Attrs, error) {
	return c.attrs(ctx, typeLstat, path)
}

// Stat asks for the attributes of a path, and follows a symbolic link.
func (c *Client) Stat(ctx context.Context, path string) (Attrs, error) {
	return c.attrs(ctx, typeStat, path)
}

func (c *Client) attrs(ctx context.Context, typ byte, what string) (Attrs, error) {
	d, err := c.ask(ctx, typ, typeAttrs, appendString(nil, what))
	if err != nil {
		return Attrs{}, err
	}
	a := d.attrs()
	if d.err != nil {
		return Attrs{}, c.fail(d.err)
	}
	return a, nil
}
