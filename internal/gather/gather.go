// Package gather joins small writes to a connection.
//
// The SSH library writes each packet in two pieces, a page and the rest, and has no setting for it. Each piece is a
// system call, a TCP segment and a wake-up of the peer. Here whoever writes goes on while a piece is on its way, and what
// comes meanwhile follows in one piece.
package gather

import (
	"io"
	"sync"
)

// most is how many bytes wait, at least, before a Write waits for them: some packets of SSH, which has 32 KiB in each.
const most = 128 << 10

// Writer is an io.Writer that returns before what it was given is written. Safe for concurrent use.
type Writer struct {
	to io.Writer

	mu      sync.Mutex
	changed sync.Cond // of what follows; its lock is mu
	waiting []byte    // guarded by mu
	spare   []byte    // guarded by mu: memory for waiting, while that is being written
	running bool      // guarded by mu: a goroutine writes
	err     error     // guarded by mu: the first error of to
}

// NewWriter makes a Writer that writes to another one.
func NewWriter(to io.Writer) *Writer {
	w := &Writer{to: to}
	w.changed.L = &w.mu
	return w
}

// Write implements io.Writer. An error is of what was written before; there is nothing after one.
func (w *Writer) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for len(w.waiting) >= most && w.err == nil {
		w.changed.Wait()
	}
	if w.err != nil {
		return 0, w.err
	}
	w.waiting = append(w.waiting, p...)
	if !w.running {
		w.running = true
		go w.run()
	}
	return len(p), nil
}

// run writes what waits until nothing does.
func (w *Writer) run() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for len(w.waiting) > 0 && w.err == nil {
		data := w.waiting
		w.waiting = w.spare[:0]
		w.mu.Unlock()
		_, err := w.to.Write(data)
		w.mu.Lock()
		w.spare, w.err = data, err
		w.changed.Broadcast()
	}
	w.running = false
	w.changed.Broadcast()
}

// Wait returns when all that was given is written, or nothing more will be, after an error: the Writer does nothing
// then. It returns that error.
func (w *Writer) Wait() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	for w.running {
		w.changed.Wait()
	}
	return w.err
}
