package snapshotter

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"sort"
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

// objectPair is one object in both stores; the zero value is none.
type objectPair struct{ from, to objects.MAC }

// object copies an object with its chunks and returns its MAC in the target. was is the object of
// the same name in the base: what it has in common with it is not read again.
func (x *copying) object(ctx context.Context, mac objects.MAC, was objectPair) (objects.MAC, error) {
	if there, ok := x.moved.Get(mac); ok {
		return there, nil
	}
	if there, ok := x.takeAlike(mac); ok {
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
	if obj.ContentMAC, err = x.content(ctx, obj, x.earlier(was, obj)); err != nil {
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

// earlier is what a content has in common with that of an object which was copied before.
type earlier struct {
	content objects.MAC                 // in the target
	chunks  map[objects.MAC]objects.MAC // those of the object, and what they are in the target
	same    []Range                     // parts of the new content that are where they were
}

// earlier compares an object that is to be copied with one that was. Whatever is wrong with that,
// reading all of the content needs it not.
func (x *copying) earlier(was objectPair, obj *objects.Object) (e earlier) {
	if was == (objectPair{}) || len(obj.Chunks) < 2 {
		return e
	}
	to, err := x.c.to.soundObject(was.to)
	if err != nil || len(x.c.to.sums.get(to.ContentMAC)) == 0 {
		return e // for the hash of it, all is needed
	}
	from, err := x.from.soundObject(was.from)
	if err != nil || !slices.EqualFunc(from.Chunks, to.Chunks, func(a, b objects.Chunk) bool { return a.Length == b.Length }) {
		return e
	}
	e.content, e.chunks = to.ContentMAC, make(map[objects.MAC]objects.MAC, len(from.Chunks))
	places := make(map[int64]objects.MAC, len(from.Chunks))
	at := int64(0)
	for i := range from.Chunks {
		c := &from.Chunks[i]
		e.chunks[c.ContentMAC], places[at] = to.Chunks[i].ContentMAC, c.ContentMAC
		at += int64(c.Length)
	}
	at = 0
	for i := range obj.Chunks {
		c := &obj.Chunks[i]
		if mac, ok := places[at]; ok && mac == c.ContentMAC {
			e.add(Range{at, int64(c.Length)})
		}
		at += int64(c.Length)
	}
	return e
}

// add adds what is behind all that was added.
func (e *earlier) add(r Range) {
	if n := len(e.same); n > 0 && e.same[n-1].Off+e.same[n-1].Len == r.Off {
		e.same[n-1].Len += r.Len
		return
	}
	e.same = append(e.same, r)
}

// has reports whether the bytes from begin to end are where they were.
func (e *earlier) has(begin, end int64) bool {
	i := sort.Search(len(e.same), func(i int) bool { return e.same[i].Off+e.same[i].Len >= end })
	return i < len(e.same) && e.same[i].Off <= begin
}

// known returns what newSum wants to know: the sums of the groups that are where they were.
func (e *earlier) known(sums *sumCache) func(i int64) (groupSum, bool) {
	if len(e.same) == 0 {
		return nil
	}
	list, group := sums.get(e.content), sums.group
	return func(i int64) (sum groupSum, ok bool) {
		if i >= int64(len(list)) || !e.has(i*group, (i+1)*group) {
			return sum, false
		}
		return list[i], true
	}
}

// window is the chunks of one object that are under way, in their order.
type window struct {
	x    *copying
	old  earlier
	obj  *objects.Object // becomes that of the target
	sum  *contentSum
	size int64
	n    int // chunks that were taken
	held int // chunks in next that are, or will be, in memory
	next []pendingChunk
}

// pendingChunk is a chunk that is being read, or one that the target has.
type pendingChunk struct {
	done chan copiedChunk // nil: nothing is read
	mac  objects.MAC      // in the target, without done
}

// content copies the chunks of an object, which it changes to those of the target, and returns
// the MAC of the whole.
func (x *copying) content(ctx context.Context, obj *objects.Object, old earlier) (objects.MAC, error) {
	sums := x.c.to.sums
	w := &window{x: x, obj: obj, old: old, sum: x.c.to.newSum(old.known(sums))}
	err := w.copy(ctx)
	for len(w.next) > 0 { // also after an error: goroutines hold places
		err = cmp.Or(err, w.take())
	}
	if err != nil {
		return objects.MAC{}, err
	}
	mac, err := w.sum.finish(w.size)
	if err == nil {
		sums.keep(mac, w.sum.sums, cmp.Or(old.content, mac))
	}
	return mac, err
}

// copy reads the chunks ahead of take.
func (w *window) copy(ctx context.Context) error {
	at := int64(0)
	for i := range w.obj.Chunks {
		c := &w.obj.Chunks[i]
		begin := at
		at += int64(c.Length)
		if mac, ok := w.old.chunks[c.ContentMAC]; ok && !w.sum.wants(begin, at) && w.x.there(mac) {
			w.next = append(w.next, pendingChunk{mac: mac})
			continue
		}
		if err := w.place(ctx); err != nil {
			return err
		}
		mac, done := c.ContentMAC, make(chan copiedChunk, 1)
		w.next = append(w.next, pendingChunk{done: done})
		w.held++
		go func() { done <- w.x.chunk(ctx, mac) }()
	}
	return ctx.Err()
}

// place waits for a place among the chunks in memory. One who has some gives his own back rather
// than wait for those of others, so that somebody always gets on.
func (w *window) place(ctx context.Context) error {
	for {
		if w.held == 0 {
			select {
			case w.x.chunks <- struct{}{}:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		if w.held < copyWindow {
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
	next := w.next[0]
	w.next = w.next[1:]
	c := &w.obj.Chunks[w.n]
	w.n++
	if next.done == nil {
		w.size += int64(c.Length)
		c.ContentMAC = next.mac
		return nil
	}
	got := <-next.done
	defer func() { <-w.x.chunks; w.held-- }()
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

// there reports whether the target has a chunk.
func (x *copying) there(mac objects.MAC) bool {
	to := x.c.to
	return to.early.has(resources.RT_CHUNK, mac) && !to.store.Doubtful(resources.RT_CHUNK, mac)
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
	if x.there(got.mac) {
		return got
	}
	x.c.sent.Add(n)
	if err := to.early.put(got.mac, got.data, nil); err != nil {
		got.err = &TargetError{err}
		return got
	}
	if got.err = x.lost(); got.err == nil {
		got.err = x.checkpoint(ctx, int64(n))
	}
	return got
}

// lost returns why chunks that the copy counts on may not be in the target. What is put is written later, and
// by others as well, so that no call that has put one fails.
func (x *copying) lost() error {
	n, cause := x.c.to.early.lost()
	if n == x.losses {
		return nil
	}
	return &TargetError{store.Unavailable("write contents", cause)}
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
		return &TargetError{err}
	}
	x.c.to.failpoint(CheckpointDone)
	return nil
}
