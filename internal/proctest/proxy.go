package proctest

import (
	"bytes"
	"errors"
	"io"
	"net"
	"sync"
	"testing"
	"time"
)

// Trouble is what goes wrong with the connections through a Proxy. The zero value is none.
type Trouble struct {
	Reset  bool          // connections are reset at once
	Hang   bool          // connections are taken, and nothing moves
	Answer string        // every connection gets this and is closed
	Up     int64         // bytes to the server after which a connection ends; 0: never
	Down   int64         // bytes to the client after which a connection ends; 0: never
	Total  int64         // bytes to clients, on all connections, after which it is Reset; 0: never
	Delay  time.Duration // before each piece that is passed on
}

// Proxy passes TCP connections on to a server, and makes trouble on demand.
type Proxy struct {
	Addr string // where it listens

	target string

	mu      sync.Mutex
	trouble Trouble
	gets    int                       // guarded by mu
	sent    int64                     // guarded by mu: to clients, since Set
	conns   map[*net.TCPConn]struct{} // guarded by mu: of both sides
}

// StartProxy starts a proxy for a server, which ends with the test.
func StartProxy(tb testing.TB, target string) *Proxy {
	tb.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	p := &Proxy{Addr: ln.Addr().String(), target: target, conns: make(map[*net.TCPConn]struct{})}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { p.serve(conn.(*net.TCPConn)) })
		}
	})
	tb.Cleanup(func() {
		_ = ln.Close()
		p.Set(Trouble{Reset: true})
		wg.Wait()
	})
	return p
}

// Set makes trouble from now on; connections that are there are reset.
func (p *Proxy) Set(trouble Trouble) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.trouble, p.sent = trouble, 0
	for conn := range p.conns {
		reset(conn)
	}
}

// Gets is how many requests of HTTP to get something have passed so far, that were not encrypted.
func (p *Proxy) Gets() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.gets
}

// count counts requests in what a client has sent.
func (p *Proxy) count(data []byte) {
	if n := bytes.Count(data, []byte("GET /")); n > 0 {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.gets += n
	}
}

// spend counts what goes to a client, and makes trouble when it is enough.
func (p *Proxy) spend(data []byte) {
	p.mu.Lock()
	p.sent += int64(len(data))
	enough := p.trouble.Total > 0 && p.sent > p.trouble.Total
	p.mu.Unlock()
	if enough {
		p.Set(Trouble{Reset: true})
	}
}

func reset(conn *net.TCPConn) {
	_ = conn.SetLinger(0)
	_ = conn.Close()
}

// track makes a connection known to Set; it says what trouble there is.
func (p *Proxy) track(conn *net.TCPConn) Trouble {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.conns[conn] = struct{}{}
	return p.trouble
}

func (p *Proxy) forget(conn *net.TCPConn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.conns, conn)
	_ = conn.Close()
}

func (p *Proxy) serve(client *net.TCPConn) {
	trouble := p.track(client)
	defer p.forget(client)
	switch {
	case trouble.Reset:
		reset(client)
		return
	case trouble.Hang:
		p.hang(client)
		return
	case trouble.Answer != "":
		// The request first: an answer that comes before it is not taken for one.
		_, _ = client.Read(make([]byte, 64<<10))
		_, _ = io.WriteString(client, trouble.Answer)
		_ = client.CloseWrite()
		_, _ = io.Copy(io.Discard, client)
		return
	}
	conn, err := net.Dial("tcp", p.target)
	if err != nil {
		reset(client)
		return
	}
	server := conn.(*net.TCPConn)
	if p.track(server) != trouble {
		reset(client) // it has changed meanwhile
	}
	defer p.forget(server)
	var wg sync.WaitGroup
	wg.Go(func() { pass(server, client, trouble.Up, trouble.Delay, p.count) })
	wg.Go(func() { pass(client, server, trouble.Down, trouble.Delay, p.spend) })
	wg.Wait()
}

// hang waits until the connection is closed from here, or by a client that has lost patience:
// it is not told that what it sends arrives.
func (p *Proxy) hang(client *net.TCPConn) {
	_ = client.SetReadBuffer(1)
	buf := make([]byte, 1)
	for {
		tick := time.NewTimer(pollEvery)
		<-tick.C
		_ = client.SetReadDeadline(time.Now())
		_, err := client.Read(buf)
		var timeout net.Error
		if err != nil && !(errors.As(err, &timeout) && timeout.Timeout()) {
			return
		}
	}
}

// pass copies from one side to the other until one ends, or the limit is reached. see is
// shown what there is.
func pass(to, from *net.TCPConn, limit int64, delay time.Duration, see func([]byte)) {
	defer func() { _ = to.CloseWrite() }()
	buf := make([]byte, 32<<10)
	for n := int64(0); ; {
		k, err := from.Read(buf)
		see(buf[:k])
		if delay > 0 {
			<-time.After(delay)
		}
		if n += int64(k); limit > 0 && n > limit {
			// What was passed on arrives: a reset could take it away again.
			_ = to.Close()
			reset(from)
			return
		}
		if _, werr := to.Write(buf[:k]); werr != nil || err != nil {
			return
		}
	}
}
