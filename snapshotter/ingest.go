package snapshotter

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"mime"
	"path"
	"runtime"
	"strings"
	"sync"

	chunkers "github.com/PlakarKorp/go-cdc-chunkers"
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
// goroutine; encoding, the expensive part, is done by as many as there are cores. Safe for
// concurrent use until close.
type writer struct {
	rw     *repository.RepositoryWriter
	packer *packer
	exists func(resources.Type, objects.MAC) bool // in the store, or written by this commit
	jobs   chan writeJob
	wg     sync.WaitGroup
}

type writeJob struct {
	typ  resources.Type
	mac  objects.MAC
	data []byte
	hot  bool
}

func newWriter(rw *repository.RepositoryWriter, p *packer, exists func(resources.Type, objects.MAC) bool) *writer {
	n := runtime.GOMAXPROCS(0)
	w := &writer{rw: rw, packer: p, exists: exists, jobs: make(chan writeJob, n)}
	for range n {
		w.wg.Go(func() {
			for j := range w.jobs {
				_ = p.Put(0, j.typ, j.mac, j.data, j.hot) // always nil: packer.failed tells
			}
		})
	}
	return w
}

// close waits for what was put.
func (w *writer) close() {
	close(w.jobs)
	w.wg.Wait()
}

func (w *writer) computeMAC(data []byte) objects.MAC { return w.rw.ComputeMAC(data) }

// put takes a blob of metadata; data must not be changed until close has returned.
func (w *writer) put(typ resources.Type, mac objects.MAC, data []byte) { w.add(typ, mac, data, true) }

// has reports whether a blob is in the store or on its way.
func (w *writer) has(typ resources.Type, mac objects.MAC) bool {
	there, _ := w.packer.Exists(typ, mac) // the error is always nil
	return there || w.exists(typ, mac)
}

func (w *writer) add(typ resources.Type, mac objects.MAC, data []byte, hot bool) {
	// The error is always nil.
	if there, _ := w.packer.InsertIfNotPresent(typ, mac); there || w.exists(typ, mac) {
		return
	}
	w.jobs <- writeJob{typ, mac, data, hot}
}

// ingester makes objects of contents. Each goroutine needs one of its own.
type ingester struct {
	s       *Snapshotter
	w       *writer
	chunker *chunkers.Chunker
}

// ingester makes one; release is to be called when it is not used any more.
func (s *Snapshotter) ingester(w *writer) (in *ingester, release func(), err error) {
	c := s.chunkers.take()
	if c == nil {
		if c, err = s.newChunker(nil); err != nil {
			return nil, nil, fmt.Errorf("chunker: %w", err)
		}
	}
	return &ingester{s: s, w: w, chunker: c}, func() { s.chunkers.give(c) }, nil
}

// chunkerPool keeps chunkers for the next commit, as many as one needs at a time: each has
// a buffer of some megabytes, and making its table takes longer than a small commit. Safe
// for concurrent use.
type chunkerPool chan *chunkers.Chunker

func newChunkerPool() chunkerPool { return make(chunkerPool, runtime.GOMAXPROCS(0)+1) }

// take returns a chunker, nil when there is none.
func (p chunkerPool) take() *chunkers.Chunker {
	select {
	case c := <-p:
		return c
	default:
		return nil
	}
}

func (p chunkerPool) give(c *chunkers.Chunker) {
	c.Reset(strings.NewReader("")) // lets go of what it has read
	select {
	case p <- c:
	default:
	}
}

// file makes the object of a file of a size that was announced, as kloset's Builder does.
func (in *ingester) file(ctx context.Context, name string, rd io.Reader, size int64) (object, error) {
	obj := objects.NewObject()
	total := 0.0
	n, err := in.chunks(ctx, rd, false, func(c *objects.Chunk, data []byte) {
		if len(obj.Chunks) == 0 {
			obj.ContentType = mimetype.Detect(data).String()
		}
		c.Entropy = entropy(data)
		total += c.Entropy * float64(len(data))
		obj.Chunks = append(obj.Chunks, *c)
	}, &obj.ContentMAC)
	switch {
	case err != nil:
		return object{}, err
	case n != size:
		return object{}, fmt.Errorf("%d bytes announced, %d read: %w", size, n, io.ErrUnexpectedEOF)
	}
	if n > 0 {
		obj.Entropy = total / float64(n)
	}
	if obj.ContentType == "" {
		if obj.ContentType = mime.TypeByExtension(path.Ext(name)); obj.ContentType == "" {
			obj.ContentType = "application/octet-stream"
		}
	}
	mac, err := in.put(obj)
	return object{mac, n, uint64(len(obj.Chunks)), obj.Entropy, obj.ContentType}, err
}

// dirpack makes the object of the entries of a directory.
func (in *ingester) dirpack(ctx context.Context, rd io.Reader) (objects.MAC, error) {
	obj := objects.NewObject()
	_, err := in.chunks(ctx, rd, true, func(c *objects.Chunk, _ []byte) {
		obj.Chunks = append(obj.Chunks, *c)
	}, &obj.ContentMAC)
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
	content := in.newSum(nil)
	defer content.release()
	in.chunker.Reset(rd)
	var total int64
	for {
		if err := errors.Join(ctx.Err(), in.w.packer.failed()); err != nil {
			return total, err
		}
		piece, err := in.chunker.Next()
		if err != nil && !errors.Is(err, io.EOF) {
			return total, err
		}
		if piece != nil { // of nothing, one piece without a byte, as kloset has it
			data := append([]byte(nil), piece...) // the chunker uses it again
			content.write(data, total)
			c := objects.NewChunk()
			c.ContentMAC, c.Length = in.w.computeMAC(data), uint32(len(data))
			each(c, data)
			in.w.add(resources.RT_CHUNK, c.ContentMAC, data, hot)
			total += int64(len(data))
		}
		if err != nil {
			if *sum, err = content.finish(total); err == nil && !hot {
				in.s.sums.keep(*sum, content.sums, *sum)
			}
			return total, err
		}
	}
}

// entropy is Shannon's, in bits a byte, added up in the order of kloset's Builder, so that
// the same bytes make the same object.
func entropy(data []byte) float64 {
	var freq [256]int
	for _, b := range data {
		freq[b]++
	}
	e, n := 0.0, float64(len(data))
	for _, f := range freq {
		if f > 0 {
			p := float64(f) / n
			e -= p * math.Log2(p)
		}
	}
	return e
}
