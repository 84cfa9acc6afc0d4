package vfs

import "errors"

// errHoles says why a file is refused of which parts were never sent.
var errHoles = errors.New("the files that wait for their commit have too many bytes that nobody has sent (limits.spool)")

// hole is how many of the content's bytes nobody has sent: zeros between, or behind, what was written. They take no
// space in the spool, but a commit reads and hashes them like others.
func (c *content) hole() int64 {
	if c.inRecord {
		return 0
	}
	n := c.size - c.base.size
	for _, x := range c.extents {
		n -= max(0, x.End()-max(x.Off, c.base.size))
	}
	return max(0, n)
}

// holes are those of the pending changes of a share, each counted once, however many operations have it: what a
// seal carries over is the same version. By version, as records have that. Used by the sequencer only.
type holes map[uint64]heldHole

type heldHole struct {
	ops   int
	bytes int64
}

// hold counts an operation, and returns by how many bytes there are more.
func (h holes) hold(o *op) int64 {
	if o.content == nil {
		return 0
	}
	n := o.content.hole()
	if n == 0 {
		return 0
	}
	held := h[o.version]
	h[o.version] = heldHole{held.ops + 1, n}
	return n - held.bytes
}

// release is the opposite of hold.
func (h holes) release(o *op) int64 {
	held, ok := h[o.version]
	if o.content == nil || !ok {
		return 0
	}
	if held.ops--; held.ops > 0 {
		h[o.version] = held
		return 0
	}
	delete(h, o.version)
	return held.bytes
}

// holes is how many bytes that nobody has sent the files have that wait for their commit in all shares.
func (s *System) holes() (sum int64) {
	for _, sh := range s.allShares() {
		sh.mu.Lock()
		sum += sh.ledger.holes
		sh.mu.Unlock()
	}
	return sum
}

// fitsHole refuses a file whose hole is too much beside those that pend and those of the batch: what is sent is
// bounded by the spool, which holes are no part of, and the time of a commit by both. It is decided here, one after
// the other, as handles that are open at the same time know nothing of each other. Called by the sequencer only.
func (s *share) fitsHole(st *stage, o *op) error {
	if o.kind != opPut {
		return nil
	}
	n := o.content.hole()
	if n > 0 && n > s.system.cfg.Limits.SpoolBytes-s.system.holes()-st.holes {
		return errCause(o.kind.String(), o.name, KindNoSpace, errHoles)
	}
	return nil
}
