package restore_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"net"
	"sync"
	"testing"

	"github.com/snapgate/gateway/internal/proctest"
	"github.com/snapgate/gateway/internal/sftptest"
	"github.com/snapgate/gateway/pull"
)

// besideServer is OpenSSH's server that notes what comes over which connection, answers an fsync of a file
// that is open for reading with a status of its own, or hides the file from those who want to read it.
type besideServer struct {
	dial   func(context.Context) (io.ReadWriteCloser, error)
	fsync  uint32 // the answer; 0 for the server's
	hidden bool

	wg     sync.WaitGroup
	mu     sync.Mutex
	conns  int
	writes map[int]int // guarded by mu: by the connection
	fsyncs map[int]int // guarded by mu
}

func (b *besideServer) connect(ctx context.Context) (io.ReadWriteCloser, error) {
	server, err := b.dial(ctx)
	if err != nil {
		return nil, err
	}
	b.mu.Lock()
	conn := b.conns
	b.conns++
	b.mu.Unlock()
	near, far := net.Pipe()
	answers := make(map[uint32]uint32) // by the request
	b.wg.Go(func() {
		relay(server, far, func(typ byte, body []byte) []byte {
			b.mu.Lock()
			defer b.mu.Unlock()
			id := binary.BigEndian.Uint32(body)
			reader := b.writes[conn] == 0
			switch {
			case typ == 6: // WRITE
				b.writes[conn]++
			case typ == 3 && b.hidden && binary.BigEndian.Uint32(body[8+binary.BigEndian.Uint32(body[4:]):]) == 1: // OPEN for reading
				body[8] = 'x' // of the path
			case typ == 200 && bytes.Contains(body, []byte("fsync@openssh.com")):
				b.fsyncs[conn]++
				if reader {
					answers[id] = b.fsync
				}
			}
			return body
		})
	})
	b.wg.Go(func() {
		relay(far, server, func(typ byte, body []byte) []byte {
			b.mu.Lock()
			defer b.mu.Unlock()
			if code := answers[binary.BigEndian.Uint32(body)]; code != 0 && typ != 2 {
				binary.BigEndian.PutUint32(body[4:], code)
			}
			return body
		})
	})
	return near, nil
}

// TestSyncBeside: a file that is being written is brought to the server's disk over another connection.
func TestSyncBeside(t *testing.T) {
	for name, c := range map[string]struct {
		fsync        uint32
		hidden       bool
		beside, lost bool
	}{
		"as OpenSSH does":                {beside: true},
		"the disk fails":                 {fsync: 4, beside: true, lost: true},
		"not of a file open for reading": {fsync: 2, beside: true},
		"not there before it is closed":  {hidden: true},
	} {
		t.Run(name, func(t *testing.T) {
			b := &besideServer{dial: sftptest.Dialer(t), fsync: c.fsync, hidden: c.hidden, writes: make(map[int]int), fsyncs: make(map[int]int)}
			t.Cleanup(b.wg.Wait)
			target := openSFTP(t, t.TempDir(), b.connect)
			w, err := target.Create(t.Context(), "/f", 0)
			if err != nil {
				t.Fatal(err)
			}
			defer w.Abort()
			const size = 1 << 20
			if err := w.Write(t.Context(), make([]byte, size)); err != nil {
				t.Fatal(err)
			}
			durable := int64(0)
			synced := func() bool {
				durable, err = w.Sync(t.Context())
				return durable == size || err != nil
			}
			if _, werr := proctest.Wait(t.Context(), patience, synced); werr != nil {
				t.Fatalf("%d bytes are durable: %v", durable, werr)
			}
			ferr := w.Finish(t.Context(), pull.Attributes{})
			if (err != nil) != c.lost || (ferr != nil) != c.lost {
				t.Errorf("sync %v, finish %v; want errors: %t", err, ferr, c.lost)
			}
			b.mu.Lock()
			defer b.mu.Unlock()
			writer, reader := 0, 0
			for conn, n := range b.fsyncs {
				if b.writes[conn] > 0 {
					writer += n
				} else {
					reader += n
				}
			}
			if (reader > 0) != c.beside || writer == 0 {
				t.Errorf("%d fsyncs over the writer's connection, %d over the other", writer, reader)
			}
		})
	}
}
