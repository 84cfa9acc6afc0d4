package snapshotter

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"hash"
	"io"
	"math/bits"
	"slices"
	"sync"
	"time"

	"github.com/PlakarKorp/kloset/objects"
	"github.com/PlakarKorp/kloset/packfile"
	"github.com/PlakarKorp/kloset/resources"
	"github.com/PlakarKorp/kloset/versioning"

	"github.com/snapgate/gateway/store"
)

const (
	// packSize is when a packfile is written out. Two of them may be in memory: one being
	// filled, one being written. kloset's own limit is 64 MiB.
	packSize = 16 << 20
	// packMerge is up to which size the file contents of a commit go into the packfile of
	// its metadata: a small commit writes, and syncs, one packfile instead of two.
	packMerge = 1 << 20
)

// packer is a kloset packer manager that does not lose errors. After the first one it
// takes blobs and drops them, because kloset's Builder hangs on some errors and ignores
// others; finish says what happened. Safe for concurrent use.
type packer struct {
	run       func(func()) // what it does, in the background or not: background.Do or run
	encode    func(plain []byte) (*store.Encoding, error)
	hash      packfile.HashFactory
	put       func(packfile.Packfile) error
	failpoint func(string)
	size      int // when a packfile is full
	room      int // memory to begin a packfile with, when it is known to become full

	free chan []byte    // memory of packfiles that were written
	full chan *pack     // to the writers
	quit chan struct{}  // tells the writers to end
	done sync.WaitGroup // of the writers
	stop sync.Once      // closes quit

	// order is held while a blob is added and while the packfile that it has made full waits
	// for its turn: the others wait with their blobs, not with packfiles of their own.
	order sync.Mutex

	mu       sync.Mutex
	err      error                // guarded by mu: the first one
	packs    [2]*pack             // guarded by mu: being filled: contents, metadata
	inflight map[blobKey]struct{} // guarded by mu: inserted, not yet written
}

type blobKey struct {
	typ resources.Type
	mac objects.MAC
}

func newPacker(run func(func()), encode func(plain []byte) (*store.Encoding, error), hf packfile.HashFactory, put func(packfile.Packfile) error, failpoint func(string)) *packer {
	p := &packer{
		run: run, encode: encode, hash: hf, put: put, failpoint: failpoint,
		size: packSize,
		full: make(chan *pack), quit: make(chan struct{}),
		free:     make(chan []byte, 2),
		inflight: make(map[blobKey]struct{}),
	}
	p.writer()
	return p
}

// Run is part of kloset's interface; the packer runs from the beginning.
func (p *packer) Run() error { return nil }

// Wait is called by kloset when it gives up: what is not written is dropped.
func (p *packer) Wait() {
	p.fail(context.Canceled)
	p.end()
}

// finish writes what is left and returns the first error of all.
func (p *packer) finish() error {
	p.mu.Lock()
	contents, metadata := p.packs[0], p.packs[1]
	p.packs = [2]*pack{}
	p.mu.Unlock()
	for _, pk := range []*pack{contents, metadata} {
		if pk != nil {
			pk.filling.Wait()
		}
	}
	if contents != nil && metadata != nil && len(contents.blobs) <= packMerge {
		metadata.merge(contents)
		contents = nil
	}
	for _, pk := range []*pack{contents, metadata} {
		if pk != nil {
			p.send(pk)
		}
	}
	p.end()
	return p.failed()
}

// end stops the writers and waits for them. What a packer that has ended keeps is little: that of
// a batch lives until its commit is over.
func (p *packer) end() {
	p.stop.Do(func() { close(p.quit) })
	p.done.Wait()
	for more := true; more; {
		select {
		case <-p.free:
		default:
			more = false
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.inflight = make(map[blobKey]struct{}) // all was written, or dropped
}

func (p *packer) fail(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.err == nil {
		p.err = err
		p.packs = [2]*pack{}
	}
}

// failed returns the first error.
func (p *packer) failed() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.err
}

// writer starts another writer: each writes packfiles one after the other.
func (p *packer) writer() { p.done.Go(func() { p.run(p.write) }) }

func (p *packer) write() {
	for {
		select {
		case <-p.quit:
			return
		case pk := <-p.full:
			p.writePack(pk)
		}
	}
}

func (p *packer) writePack(pk *pack) {
	pk.filling.Wait()
	if p.failed() != nil {
		return
	}
	pk.pad()
	p.failpoint(FailPackfilePutBefore)
	if err := p.put(pk); err != nil {
		p.fail(err)
		return
	}
	p.failpoint(FailPackfilePutAfter)
	select {
	case p.free <- pk.blobs[:0]:
	default:
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, b := range pk.index {
		delete(p.inflight, blobKey{b.Type, b.MAC})
	}
}

// InsertIfNotPresent reports whether a blob is on its way already, and notes that it is.
func (p *packer) InsertIfNotPresent(typ resources.Type, mac objects.MAC) (bool, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	key := blobKey{typ, mac}
	_, ok := p.inflight[key]
	p.inflight[key] = struct{}{}
	return ok, nil
}

// forget says that a blob is not on its way after all.
func (p *packer) forget(typ resources.Type, mac objects.MAC) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.inflight, blobKey{typ, mac})
}

// Exists reports whether a blob is on its way.
func (p *packer) Exists(typ resources.Type, mac objects.MAC) (bool, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	_, ok := p.inflight[blobKey{typ, mac}]
	return ok, nil
}

// Put adds a blob. Encoding, the expensive part, happens in the caller's goroutine, of
// which there are as many as the Builder runs, and the encrypted bytes are written where they
// belong in the packfile, beside those of others.
func (p *packer) Put(_ int, typ resources.Type, mac objects.MAC, data []byte, hot bool) error {
	if p.failed() != nil {
		return nil // see packer
	}
	e, err := p.encode(data)
	if err != nil {
		p.fail(err)
		return nil
	}
	pk, place := p.place(typ, mac, e.Size(), hot)
	if pk == nil {
		e.Drop()
		return nil
	}
	defer pk.filling.Done()
	e.Write(place)
	return nil
}

// place takes a place for a blob of a size, which is to be filled; no packfile when there is none. A packfile
// that is full is given to its writer, who waits for those who fill their places.
func (p *packer) place(typ resources.Type, mac objects.MAC, size int, hot bool) (*pack, []byte) {
	p.order.Lock()
	defer p.order.Unlock()
	pk, place, full := p.add(typ, mac, size, hot)
	if full {
		p.send(pk)
	}
	return pk, place
}

// send hands a packfile to the writer, unless that has ended.
func (p *packer) send(pk *pack) {
	select {
	case p.full <- pk:
	case <-p.quit:
	}
}

// add takes a place for a blob in its packfile, and reports whether that is full.
func (p *packer) add(typ resources.Type, mac objects.MAC, size int, hot bool) (pk *pack, place []byte, full bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.err != nil {
		return nil, nil, false
	}
	i := 0
	if hot {
		i = 1
	}
	if p.packs[i] == nil {
		p.packs[i] = &pack{hf: p.hash, hot: hot, time: time.Now()}
		select {
		case p.packs[i].blobs = <-p.free:
		default:
			p.packs[i].blobs = make([]byte, 0, p.room)
		}
	}
	pk = p.packs[i]
	place = pk.place(packfile.Blob{Type: typ, Version: versioning.GetCurrentVersion(typ), MAC: mac}, size)
	pk.filling.Add(1)
	if full = len(pk.blobs) >= p.size; full {
		p.packs[i] = nil
	}
	return pk, place, full
}

// pack is a packfile in memory: encoded blobs, then an index of them, then a footer. In
// contrast to kloset's own it has little random padding, and it is not copied to be
// written.
type pack struct {
	hf    packfile.HashFactory
	blobs []byte
	index []packfile.Blob
	time  time.Time
	hot   bool

	filling sync.WaitGroup // of those who have a place in blobs that they have not filled yet
}

// place makes room for a blob of a size.
func (p *pack) place(b packfile.Blob, size int) []byte {
	at := len(p.blobs)
	b.Offset, b.Length = uint64(at), uint32(size)
	p.index = append(p.index, b)
	if cap(p.blobs)-at < size {
		p.filling.Wait() // places are in the memory that is given up
		p.blobs = slices.Grow(p.blobs, size)
	}
	p.blobs = p.blobs[:at+size]
	return p.blobs[at : at+size : at+size]
}

func (p *pack) add(b packfile.Blob, encoded []byte) { copy(p.place(b, len(encoded)), encoded) }

// merge adds the blobs of q.
func (p *pack) merge(q *pack) {
	for _, b := range q.index {
		p.add(b, q.blobs[b.Offset:b.Offset+uint64(b.Length)])
	}
}

// pad adds random bytes behind the last blob. kloset reads more than it wants of a
// packfile, so that a store cannot tell what is wanted: for a range whose length has n bits
// up to 2^(n/2) bytes behind it, which must be there, or the range cannot be read. A range
// may be several blobs, at most all of them.
func (p *pack) pad() {
	padding := make([]byte, 1<<(bits.Len64(p.Size())/2))
	_, _ = rand.Read(padding) // never fails
	p.add(packfile.Blob{
		Type:    resources.RT_RANDOM,
		Version: versioning.GetCurrentVersion(resources.RT_RANDOM),
		MAC:     objects.RandomMAC(),
	}, padding)
}

// AddBlob implements packfile.Packfile.
func (p *pack) AddBlob(typ resources.Type, v versioning.Version, mac objects.MAC, data []byte, flags uint32) error {
	p.add(packfile.Blob{Type: typ, Version: v, MAC: mac, Flags: flags}, data)
	return nil
}

// Size implements packfile.Packfile.
func (p *pack) Size() uint64 { return uint64(len(p.blobs)) }

// Entries implements packfile.Packfile.
func (p *pack) Entries() []packfile.Blob { return p.index }

// SetHot implements packfile.Packfile; hot packfiles hold metadata.
func (p *pack) SetHot() { p.hot = true }

// Hot implements packfile.Packfile.
func (p *pack) Hot() bool { return p.hot }

// Cleanup implements packfile.Packfile.
func (p *pack) Cleanup() error { return nil }

// Serialize implements packfile.Packfile: the bytes of the file and their MAC, which is
// its name.
func (p *pack) Serialize(encode packfile.EncodingFn) (io.Reader, objects.MAC, error) {
	h := p.hf()
	index := p.appendIndex()
	h.Write(index)
	indexMAC := h.Sum(nil)
	encIndex, err := encodeAll(encode, index)
	if err != nil {
		return nil, objects.MAC{}, err
	}

	le := binary.LittleEndian
	footer := le.AppendUint64(nil, uint64(p.time.UnixNano()))
	footer = le.AppendUint32(footer, uint32(len(p.index)))
	footer = le.AppendUint64(footer, uint64(len(p.blobs)))
	footer = append(footer, indexMAC...)
	footer = le.AppendUint32(footer, 0) // flags
	encFooter, err := encodeAll(encode, footer)
	if err != nil {
		return nil, objects.MAC{}, err
	}

	parts := [][]byte{p.blobs, encIndex, encFooter, le.AppendUint32(nil, uint32(len(encFooter)))}
	return concat(p.hf(), parts)
}

func concat(h hash.Hash, parts [][]byte) (io.Reader, objects.MAC, error) {
	var readers []io.Reader
	for _, part := range parts {
		h.Write(part)
		readers = append(readers, bytes.NewReader(part))
	}
	return io.MultiReader(readers...), objects.MAC(h.Sum(nil)), nil
}

// appendIndex returns the index records, of packfile.BLOB_RECORD_SIZE bytes each.
func (p *pack) appendIndex() []byte {
	le := binary.LittleEndian
	index := make([]byte, 0, len(p.index)*packfile.BLOB_RECORD_SIZE)
	for _, b := range p.index {
		index = le.AppendUint32(index, uint32(b.Type))
		index = le.AppendUint32(index, uint32(b.Version))
		index = append(index, b.MAC[:]...)
		index = le.AppendUint64(index, b.Offset)
		index = le.AppendUint32(index, b.Length)
		index = le.AppendUint32(index, b.Flags)
	}
	return index
}

func encodeAll(encode packfile.EncodingFn, data []byte) ([]byte, error) {
	rd, err := encode(bytes.NewReader(data))
	if err != nil {
		return nil, err
	}
	return io.ReadAll(rd)
}
