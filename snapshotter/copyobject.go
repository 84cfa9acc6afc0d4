package snapshotter

import (
	"cmp"
	"context"
	"fmt"
	"time"

	"github.com/PlakarKorp/kloset/objects"
	"github.com/PlakarKorp/kloset/resources"

	"github.com/snapgate/gateway/store"
)

const (
	// copyChunks bounds the chunks that are in memory, of about 1 MiB.
	copyChunks = 16
	// copyWindow is how many chunks of one file are read ahead of its MAC.
	copyWindow = 8
)

// object copies an object with its chunks and returns its MAC in the target.
func (x *copying) object(ctx context.Context, mac objects.MAC) (objects.MAC, error) {
	if there, ok := x.moved.Get(mac); ok {
		return there, nil
	}
	data, err := x.c.readBlob(resources.RT_OBJECT, mac)
	if err != nil {
		return objects.MAC{}, err
	}
	obj, err := objects.NewObjectFromBytes(data)
	if err != nil {
		return objects.MAC{}, &sourceError{fmt.Errorf("decode object: %w", err)}
	}
	if obj.ContentMAC, err = x.content(ctx, obj); err != nil {
		return objects.MAC{}, err
	}
	made, err := x.inc.in.put(obj)
	if err == nil {
		x.moved.Add(mac, made) // another file of this content
	}
	return made, err
}

// copiedChunk is a chunk in memory, or why there is none.
type copiedChunk struct {
	data []byte
	mac  objects.MAC // in the target
	err  error
}

// window is the chunks of one object that are under way, in their order.
type window struct {
	x    *copying
	obj  *objects.Object // becomes that of the target
	sum  *contentSum
	size int64
	n    int // chunks that were taken
	next []chan copiedChunk
}

// content copies the chunks of an object, which it changes to those of the target, and returns
// the MAC of the whole.
func (x *copying) content(ctx context.Context, obj *objects.Object) (objects.MAC, error) {
	w := &window{x: x, obj: obj, sum: x.c.to.newSum(nil)}
	err := w.copy(ctx)
	for len(w.next) > 0 { // also after an error: goroutines hold places
		err = cmp.Or(err, w.take())
	}
	if err != nil {
		return objects.MAC{}, err
	}
	return w.sum.finish(w.size)
}

// copy reads the chunks ahead of take.
func (w *window) copy(ctx context.Context) error {
	for i := range w.obj.Chunks {
		if err := w.place(ctx); err != nil {
			return err
		}
		mac, done := w.obj.Chunks[i].ContentMAC, make(chan copiedChunk, 1)
		w.next = append(w.next, done)
		go func() { done <- w.x.chunk(ctx, mac) }()
	}
	return nil
}

// place waits for a place among the chunks in memory. One who has some gives his own back rather
// than wait for those of others, so that somebody always gets on.
func (w *window) place(ctx context.Context) error {
	for {
		if len(w.next) == 0 {
			select {
			case w.x.chunks <- struct{}{}:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		if len(w.next) < copyWindow {
			select {
			case w.x.chunks <- struct{}{}:
				return nil
			default:
			}
		}
		if err := w.take(); err != nil {
			return err
		}
	}
}

// take hashes the next chunk.
func (w *window) take() error {
	got := <-w.next[0]
	w.next = w.next[1:]
	defer func() { <-w.x.chunks }()
	c := &w.obj.Chunks[w.n]
	w.n++
	if got.err != nil {
		return got.err
	}
	if len(got.data) != int(c.Length) {
		return &sourceError{fmt.Errorf("%w: chunk %x has %d bytes, its object says %d",
			store.ErrDamaged, c.ContentMAC[:4], len(got.data), c.Length)}
	}
	w.sum.write(got.data, w.size)
	w.size += int64(len(got.data))
	c.ContentMAC = got.mac
	return nil
}

// chunk copies a chunk, unless the target has it.
func (x *copying) chunk(ctx context.Context, mac objects.MAC) (got copiedChunk) {
	if got.err = ctx.Err(); got.err != nil {
		return got
	}
	if got.data, got.err = x.c.readBlob(resources.RT_CHUNK, mac); got.err != nil {
		return got
	}
	to := x.c.to
	n := uint64(len(got.data))
	x.c.read.Add(n)
	got.mac = to.repo.ComputeMAC(got.data)
	if to.early.has(resources.RT_CHUNK, got.mac) && !to.store.Doubtful(resources.RT_CHUNK, got.mac) {
		return got
	}
	x.c.sent.Add(n)
	if err := to.early.put(got.mac, got.data); err != nil {
		got.err = fmt.Errorf("target: %w", err)
		return got
	}
	got.err = x.checkpoint(ctx, int64(n))
	return got
}

// checkpoint writes a state when that is due, after n more bytes.
func (x *copying) checkpoint(ctx context.Context, n int64) error {
	p := &x.points
	bytes := p.bytes.Add(n)
	due := func() bool {
		return bytes >= x.c.checkpointBytes || time.Since(time.Unix(0, p.last.Load())) >= x.c.checkpointEvery
	}
	if !due() || !p.turn.TryLock() {
		return nil
	}
	defer p.turn.Unlock()
	if bytes = p.bytes.Load(); !due() {
		return nil
	}
	p.bytes.Store(0)
	err := x.c.to.keep(ctx, x.lock)
	p.last.Store(time.Now().UnixNano())
	if err != nil {
		return fmt.Errorf("target: %w", err)
	}
	x.c.to.failpoint(CheckpointDone)
	return nil
}
