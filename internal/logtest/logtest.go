// Package logtest gives tests a log that they can read and wait for.
package logtest

import (
	"bytes"
	"strings"
	"sync"
	"testing"
	"time"
)

// patience bounds the wait for a line.
const patience = time.Minute

// Buffer is what a logger has written. The zero value is empty; safe for concurrent use.
type Buffer struct {
	mu      sync.Mutex // guards what follows
	b       bytes.Buffer
	written chan struct{} // closed by the next Write
}

// Write implements io.Writer.
func (b *Buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.written != nil {
		close(b.written)
		b.written = nil
	}
	return b.b.Write(p)
}

// String is everything written so far.
func (b *Buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// Wait returns when the log has a line with all texts; without one the test fails.
func (b *Buffer) Wait(tb testing.TB, texts ...string) {
	tb.Helper()
	timeout := time.After(patience)
	for from := 0; ; {
		fresh, written := b.since(from)
		for line := range strings.Lines(fresh) {
			if hasAll(line, texts) {
				return
			}
		}
		from += strings.LastIndexByte(fresh, '\n') + 1
		select {
		case <-written:
		case <-timeout:
			tb.Errorf("log has no line with %q:\n%s", texts, b.String())
			return
		}
	}
}

// since returns what was written behind the first from bytes, and what the next Write closes.
func (b *Buffer) since(from int) (string, <-chan struct{}) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.written == nil {
		b.written = make(chan struct{})
	}
	return string(b.b.Bytes()[from:]), b.written
}

func hasAll(line string, texts []string) bool {
	for _, text := range texts {
		if !strings.Contains(line, text) {
			return false
		}
	}
	return true
}
