package sshclient

import (
	"io"
	"sync/atomic"
	"time"
)

// hearing knows when something was read last. Safe for concurrent use.
type hearing struct{ at atomic.Pointer[time.Time] }

// last is the zero time when nothing was read.
func (h *hearing) last() time.Time {
	if at := h.at.Load(); at != nil {
		return *at
	}
	return time.Time{}
}

// from is rd, with notes of when something was read.
func (h *hearing) from(rd io.Reader) io.Reader { return &heardReader{rd, h} }

type heardReader struct {
	rd io.Reader
	h  *hearing
}

func (r *heardReader) Read(p []byte) (int, error) {
	n, err := r.rd.Read(p)
	if n > 0 {
		now := time.Now()
		r.h.at.Store(&now)
	}
	return n, err
}
