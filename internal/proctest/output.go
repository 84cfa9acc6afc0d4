package proctest

import (
	"bytes"
	"io"
	"strings"
	"sync"
)

// output collects what a process writes.
type output struct {
	mu  sync.Mutex // guards the buffers: two copying goroutines write
	out bytes.Buffer
	all bytes.Buffer
}

type writerFunc func(p []byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

func (o *output) stdout() io.Writer {
	return writerFunc(func(p []byte) (int, error) {
		o.mu.Lock()
		defer o.mu.Unlock()
		o.out.Write(p)
		return o.all.Write(p)
	})
}

func (o *output) both() io.Writer {
	return writerFunc(func(p []byte) (int, error) {
		o.mu.Lock()
		defer o.mu.Unlock()
		return o.all.Write(p)
	})
}

// String is everything written so far.
func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.all.String()
}

func (o *output) stdoutString() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.out.String()
}

func stringReader(s string) io.Reader { return strings.NewReader(s) }
