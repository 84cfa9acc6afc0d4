package snapshotter

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"math"
	"mime"
	"path"
	"sync"

	"github.com/PlakarKorp/kloset/objects"
	"github.com/PlakarKorp/kloset/repository"
	"github.com/PlakarKorp/kloset/resources"
	"github.com/gabriel-vasile/mimetype"
)

// object is what an entry says of the content of a file.
type object struct {
	mac         objects.MAC
	size        int64
	chunks      uint64
	entropy     float64
	contentType string
}

// writer puts the blobs of a commit. Whether a blob is new is decided by the caller's
// goroutine; encoding, the expensive part of a large one, is done by as many as there are cores. Safe for
// concurrent use until close.
type writer struct {
	rw     *repository.RepositoryWriter
	packer *packer
	exists func(resources.Type, objects.MAC) bool // in the store, or written by this commit
	// doubtful is of a blob that exists: it may be damaged, and is put once more.
	doubtful func(resources.Type, objects.MAC) bool
	jobs     chan writeJob
	wg       sync.WaitGroup
	copies   sync.Pool // of *[]byte: chunks on their way that no cutter has
}

type writeJob struct {
	typ  resources.Type
	mac  objects.MAC
	data []byte
	hot  bool
	buf  *[]byte    // what data is in, to be used again; nil for none
	pool *sync.Pool // where that goes
}

func (s *Snapshotter) newWriter(rw *repository.RepositoryWriter, p *packer, exists func(resources.Type, objects.MAC) bool) *writer {
	n := cores()
	w := &writer{rw: rw, packer: p, exists: exists, doubtful: s.store.Doubtful, jobs: make(chan writeJob, n)}
	w.copies.New = func() any { return new([]byte) }
	for range n {
		w.wg.Go(func() { p.run(w.work) })
	}
	return w
}

func (w *writer) work() {
	for j := range w.jobs {
		w.encode(j)
	}
}

// close waits for what was put.
func (w *writer) close() {
	close(w.jobs)
	w.wg.Wait()
}

func (w *writer) computeMAC(data []byte) objects.MAC { return w.rw.ComputeMAC(data) }

// put takes a blob of metadata; data must not be changed until close has returned.
func (w *writer) put(typ resources.Type, mac objects.MAC, data []byte) {
	if w.isNew(typ, mac) {
		w.send(writeJob{typ: typ, mac: mac, data: data, hot: true})
	}
}

// atOnce is up to which size a blob is encoded by the goroutine that has it: that takes no
// longer than to hand it over to one that has to be woken.
const atOnce = 16 << 10

// send has a blob encoded.
func (w *writer) send(j writeJob) {
	if len(j.data) > atOnce {
		w.jobs <- j
		return
	}
	w.encode(j)
}

// encode encodes a blob and adds it to a packfile.
func (w *writer) encode(j writeJob) {
	_ = w.packer.Put(0, j.typ, j.mac, j.data, j.hot) // always nil: packer.failed tells
	if j.buf != nil {
		j.pool.Put(j.buf)
	}
}

// has reports whether a blob is in the store or on its way.
func (w *writer) has(typ resources.Type, mac objects.MAC) bool {
	there, _ := w.packer.Exists(typ, mac) // the error is always nil
	return there || w.exists(typ, mac)
}

// putChunk takes a chunk; data is the caller's again when it returns, unless it is what by has cut
// last: then it is nobody's. by may be nil.
func (w *writer) putChunk(mac objects.MAC, data []byte, hot bool, by *cutter) {
	if !w.isNew(resources.RT_CHUNK, mac) {
		return
	}
	if len(data) <= atOnce {
		w.send(writeJob{typ: resources.RT_CHUNK, mac: mac, data: data, hot: hot})
		return
	}
	j := writeJob{typ: resources.RT_CHUNK, mac: mac, data: data, hot: hot}
	if by != nil {
		j.buf, j.pool = by.take(), by.buffers
	}
	if j.buf == nil {
		j.buf, j.pool = w.copies.Get().(*[]byte), &w.copies
		*j.buf = append((*j.buf)[:0], data...)
		j.data = *j.buf
	}
	w.jobs <- j
}

func (w *writer) isNew(typ resources.Type, mac objects.MAC) bool {
	if there, _ := w.packer.InsertIfNotPresent(typ, mac); there { // the error is always nil
		return false
	}
	if w.exists(typ, mac) && !w.doubtful(typ, mac) {
		w.packer.forget(typ, mac)
		return false
	}
	return true
}

// ingester makes objects of contents. Each goroutine needs one of its own.
type ingester struct {
	s      *Snapshotter
	w      *writer
	cutter *cutter // nil before ready
}

// ingester makes one; release is to be called when it is not used any more.
func (s *Snapshotter) ingester(w *writer) *ingester { return &ingester{s: s, w: w} }

// ready makes a cutter, of which not every ingester has need.
func (in *ingester) ready() (err error) {
	if in.cutter == nil {
		in.cutter, err = newCutter(&in.s.chunking, &in.s.buffers)
	}
	return err
}

func (in *ingester) release() {
	if in.cutter != nil {
		in.cutter.release()
		in.cutter = nil
	}
}

// file makes the object of a file of a size that was announced, as kloset's Builder does.
func (in *ingester) file(ctx context.Context, name string, rd io.Reader, size int64) (object, error) {
	f := newFileObject()
	if size <= in.s.oneChunk {
		err := in.s.readSmall(rd, size, func(data []byte) error {
			return in.one(ctx, data, false, f.add, &f.obj.ContentMAC)
		})
		if err != nil {
			return object{}, err
		}
		return in.putFile(name, f)
	}
	n, err := in.chunks(ctx, rd, false, f.add, &f.obj.ContentMAC)
	switch {
	case err != nil:
		return object{}, err
	case n != size:
		return object{}, sizeError(size, n)
	}
	return in.putFile(name, f)
}

// putFile puts the object of a file whose chunks are known.
func (in *ingester) putFile(name string, f *fileObject) (object, error) {
	obj := *f.obj // of an Ingest, several files of one content have it
	if f.size > 0 {
		obj.Entropy = f.entropy / float64(f.size)
	}
	if obj.ContentType == "" {
		if obj.ContentType = mime.TypeByExtension(path.Ext(name)); obj.ContentType == "" {
			obj.ContentType = "application/octet-stream"
		}
	}
	mac, err := in.put(&obj)
	return object{mac, f.size, uint64(len(obj.Chunks)), obj.Entropy, obj.ContentType}, err
}

// fileObject is the object of a file while its chunks are being made.
type fileObject struct {
	obj     *objects.Object
	size    int64   // of the chunks
	entropy float64 // of them all, each times its length
}

func newFileObject() *fileObject { return &fileObject{obj: objects.NewObject()} }

// add adds the next chunk.
func (f *fileObject) add(c *objects.Chunk, data []byte) {
	if len(f.obj.Chunks) == 0 {
		f.obj.ContentType = mimetype.Detect(data).String()
	}
	c.Entropy = entropy(data)
	f.entropy += c.Entropy * float64(len(data))
	f.size += int64(len(data))
	f.obj.Chunks = append(f.obj.Chunks, *c)
}

// dirpack makes the object of the entries of a directory.
func (in *ingester) dirpack(ctx context.Context, data []byte) (objects.MAC, error) {
	obj := objects.NewObject()
	add := func(c *objects.Chunk, _ []byte) { obj.Chunks = append(obj.Chunks, *c) }
	var err error
	if int64(len(data)) <= in.s.oneChunk {
		err = in.one(ctx, data, true, add, &obj.ContentMAC)
	} else {
		_, err = in.chunks(ctx, bytes.NewReader(data), true, add, &obj.ContentMAC)
	}
	if err != nil {
		return objects.MAC{}, err
	}
	obj.ContentType = "application/octet-stream"
	return in.put(obj)
}

func (in *ingester) put(obj *objects.Object) (objects.MAC, error) {
	data, err := obj.Serialize()
	if err != nil {
		return objects.MAC{}, err
	}
	mac := in.w.computeMAC(data)
	in.w.put(resources.RT_OBJECT, mac, data)
	return mac, nil
}

// chunks puts the chunks of what rd gives and tells each one, in order; sum gets the MAC
// of the whole.
func (in *ingester) chunks(ctx context.Context, rd io.Reader, hot bool, each func(c *objects.Chunk, data []byte), sum *objects.MAC) (int64, error) {
	if err := in.ready(); err != nil {
		return 0, err
	}
	content := in.s.newSum(nil)
	in.cutter.reset(rd)
	var total int64
	for {
		if err := errors.Join(ctx.Err(), in.w.packer.failed()); err != nil {
			return total, err
		}
		piece, err := in.cutter.next()
		if err != nil && !errors.Is(err, io.EOF) {
			return total, err
		}
		if piece != nil { // of nothing, one piece without a byte, as kloset has it
			n := int64(len(piece))
			in.chunk(content, total, piece, hot, in.cutter, each)
			total += n
		}
		if err != nil {
			return total, in.finish(content, total, hot, sum)
		}
	}
}

// one is chunks for a content that is a single chunk: it needs no cutter, which has megabytes.
func (in *ingester) one(ctx context.Context, data []byte, hot bool, each func(c *objects.Chunk, data []byte), sum *objects.MAC) error {
	if err := errors.Join(ctx.Err(), in.w.packer.failed()); err != nil {
		return err
	}
	content := in.s.newSum(nil)
	in.chunk(content, 0, data, hot, nil, each)
	return in.finish(content, int64(len(data)), hot, sum)
}

// chunk puts the chunk at an offset of a content; for by see putChunk.
func (in *ingester) chunk(content *contentSum, at int64, data []byte, hot bool, by *cutter, each func(c *objects.Chunk, data []byte)) {
	content.write(data, at)
	c := objects.NewChunk()
	c.ContentMAC, c.Length = in.w.computeMAC(data), uint32(len(data))
	each(c, data)
	in.w.putChunk(c.ContentMAC, data, hot, by)
}

// finish makes the MAC of a content.
func (in *ingester) finish(content *contentSum, size int64, hot bool, sum *objects.MAC) (err error) {
	if *sum, err = content.finish(size); err == nil && !hot {
		in.s.sums.keep(*sum, content.sums, *sum)
	}
	return err
}

// readSmall reads a content of a size that was announced as a whole, for as long as use.
func (s *Snapshotter) readSmall(rd io.Reader, size int64, use func(data []byte) error) error {
	buf := s.small.Get().(*[]byte)
	defer s.small.Put(buf)
	if int64(cap(*buf)) <= size {
		*buf = make([]byte, size+1) // a byte more would show that there are more
	}
	n, err := io.ReadFull(rd, (*buf)[:size+1])
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		return err
	}
	if int64(n) != size {
		return sizeError(size, int64(n))
	}
	return use((*buf)[:n])
}

// entropy is Shannon's, in bits a byte, added up in the order of kloset's Builder, so that
// the same bytes make the same object.
func entropy(data []byte) float64 {
	// Four tables: a byte that follows one of its kind need not wait for its count.
	var a, b, c, d [256]uint32
	rest := data
	for ; len(rest) >= 8; rest = rest[8:] {
		x := binary.LittleEndian.Uint64(rest)
		a[byte(x)]++
		b[byte(x>>8)]++
		c[byte(x>>16)]++
		d[byte(x>>24)]++
		a[byte(x>>32)]++
		b[byte(x>>40)]++
		c[byte(x>>48)]++
		d[byte(x>>56)]++
	}
	for _, x := range rest {
		a[x]++
	}
	e, n := 0.0, float64(len(data))
	for i := range a {
		if f := a[i] + b[i] + c[i] + d[i]; f > 0 {
			p := float64(f) / n
			e -= p * math.Log2(p)
		}
	}
	return e
}
