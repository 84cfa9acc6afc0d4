package snapshotter

import (
	"bufio"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"slices"

	"github.com/PlakarKorp/kloset/objects"
	"github.com/PlakarKorp/kloset/resources"

	"github.com/snapgate/gateway/store"
)

// marks remember, in a file, what the things that snapshots consist of refer to, so that
// maintenance reads each once. What is stored is named by what it holds: it never refers to
// anything else later. Whatever the file has of a thing, it has of all that is below it as well,
// since that is written first; what a crash has cut off at its end is read from the store again.
type marks struct {
	name string
	f    *os.File
	w    *bufio.Writer
	end  int64 // of what is written, or about to be
	at   map[markKey]markRecord

	round uint32
	live  int64 // bytes of what was visited in this round
}

// markKey names a thing: 15 bytes of its MAC, and of what kind it is.
type markKey [16]byte

// markRecord says where the file has a thing, and in which round it was visited last.
type markRecord struct {
	at    int64
	round uint32
}

// markBlob names a blob for the question whether somebody needs it. That two have one such name
// can only keep one of them for longer.
type markBlob uint64

// markTypeStep tells types apart in a markBlob; odd, so that none is lost.
const markTypeStep = 0x9e3779b97f4a7c15

func blobMark(typ resources.Type, mac objects.MAC) markBlob {
	return markBlob(binary.LittleEndian.Uint64(mac[:]) + uint64(typ)*markTypeStep)
}

// The kinds of things, by which their contents are read.
const (
	markSnapshot byte = iota + 1
	markState
	markPaths // roots and nodes of indexes
	markPathNode
	markErrors
	markErrorNode
	markXattrs
	markXattrNode
	markTypes
	markTypeNode
	markDirs
	markDirNode
	markSummaries
	markSummaryNode
	markValues // what leaves hold, whatever leaf comes next
	markEntry
	markXattr
	markObject
)

func keyOf(kind byte, mac objects.MAC) (k markKey) {
	copy(k[:15], mac[:])
	k[15] = kind
	return k
}

// marked is what a thing refers to.
type marked struct {
	things []markKey
	blobs  []markBlob
	facts  store.StateFacts // of a state
}

const (
	// marksMagic begins the file; the store's identifier follows.
	marksMagic = "snapgate marks 3\n"
	// markHeader is a record's key and the length of the rest, which a checksum ends.
	markHeader = 16 + 4
	markSum    = 4
	// markMax bounds a record: an object of a file of many TiB has some 100 MiB of chunks.
	markMax = 1 << 30
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// errMarks says that the file cannot be used.
var errMarks = errors.New("not a file of marks of this store")

// openMarks opens the file, or makes it. One that is another store's, or that is damaged at its
// beginning, is made anew: it is a cache.
func openMarks(dir, storeID string) (m *marks, err error) {
	m = &marks{name: filepath.Join(dir, storeID+".marks"), at: make(map[markKey]markRecord)}
	if m.f, err = os.OpenFile(m.name, os.O_RDWR|os.O_CREATE, 0o600); err != nil {
		return nil, fmt.Errorf("marks: %w", err)
	}
	err = m.load(storeID)
	if errors.Is(err, errMarks) {
		err = m.reset(storeID)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("marks: %w", err), m.f.Close())
	}
	m.w = bufio.NewWriterSize(m.f, 1<<20)
	return m, nil
}

func marksHead(storeID string) []byte { return []byte(marksMagic + storeID + "\n") }

func (m *marks) reset(storeID string) error {
	if err := m.f.Truncate(0); err != nil {
		return err
	}
	head := marksHead(storeID)
	if _, err := m.f.WriteAt(head, 0); err != nil {
		return err
	}
	clear(m.at)
	m.end = int64(len(head))
	_, err := m.f.Seek(m.end, io.SeekStart)
	return err
}

// load reads where the file has what, and cuts off what is not whole.
func (m *marks) load(storeID string) error {
	rd := bufio.NewReaderSize(m.f, 1<<20)
	head := make([]byte, len(marksHead(storeID)))
	if _, err := io.ReadFull(rd, head); err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		return err
	}
	if string(head) != string(marksHead(storeID)) {
		return errMarks
	}
	m.end = int64(len(head))
	var buf []byte
	for {
		var h [markHeader]byte
		if _, err := io.ReadFull(rd, h[:]); err != nil {
			break
		}
		n := binary.LittleEndian.Uint32(h[16:])
		if n > markMax {
			break
		}
		if int(n)+markSum > cap(buf) {
			buf = make([]byte, n+markSum)
		}
		buf = buf[:n+markSum]
		if _, err := io.ReadFull(rd, buf); err != nil {
			break
		}
		sum := crc32.Update(crc32.Checksum(h[:], castagnoli), castagnoli, buf[:n])
		if sum != binary.LittleEndian.Uint32(buf[n:]) {
			break
		}
		m.at[markKey(h[:16])] = markRecord{at: m.end}
		m.end += markHeader + int64(n) + markSum
	}
	if err := m.f.Truncate(m.end); err != nil {
		return err
	}
	_, err := m.f.Seek(m.end, io.SeekStart)
	return err
}

func (m *marks) has(k markKey) bool {
	_, ok := m.at[k]
	return ok
}

// put writes what a thing refers to. What is below it is there already.
func (m *marks) put(k markKey, v *marked) error {
	var body []byte
	le := binary.LittleEndian
	body = le.AppendUint32(body, uint32(len(v.things)))
	for i := range v.things {
		body = append(body, v.things[i][:]...)
	}
	body = le.AppendUint32(body, uint32(len(v.blobs)))
	for _, b := range v.blobs {
		body = le.AppendUint64(body, uint64(b))
	}
	for _, list := range [][]objects.MAC{v.facts.Snapshots, v.facts.Removed, v.facts.Restored, v.facts.Freed} {
		body = le.AppendUint32(body, uint32(len(list)))
		for i := range list {
			body = append(body, list[i][:]...)
		}
	}
	if len(v.facts.Buried) > 0 { // of few states
		body = le.AppendUint32(body, uint32(len(v.facts.Buried)))
		for i := range v.facts.Buried {
			body = append(body, v.facts.Buried[i][:]...)
		}
		body = append(body, v.facts.Parent[:]...)
	}
	if len(body) > markMax {
		return fmt.Errorf("marks: %d bytes of one thing", len(body))
	}
	rec := append(make([]byte, 0, markHeader+len(body)+markSum), k[:]...)
	rec = le.AppendUint32(rec, uint32(len(body)))
	rec = append(rec, body...)
	rec = le.AppendUint32(rec, crc32.Checksum(rec, castagnoli))
	return m.append(k, rec)
}

func (m *marks) append(k markKey, rec []byte) error {
	if _, err := m.w.Write(rec); err != nil {
		return fmt.Errorf("marks: %w", err)
	}
	m.at[k] = markRecord{at: m.end}
	m.end += int64(len(rec))
	return nil
}

// get reads what a thing refers to.
func (m *marks) get(k markKey) (*marked, error) {
	rec, err := m.read(k)
	if err != nil {
		return nil, err
	}
	v := new(marked)
	d := sealed(rec[markHeader : len(rec)-markSum])
	count := func(size int) int {
		raw := d.take(4)
		if len(raw) < 4 {
			return 0
		}
		n := int(binary.LittleEndian.Uint32(raw))
		if n*size > len(d) {
			d = nil
			return 0
		}
		return n
	}
	v.things = make([]markKey, count(16))
	for i := range v.things {
		copy(v.things[i][:], d.take(16))
	}
	v.blobs = make([]markBlob, count(8))
	for i := range v.blobs {
		v.blobs[i] = markBlob(binary.LittleEndian.Uint64(d.take(8)))
	}
	macs := func() []objects.MAC {
		list := make([]objects.MAC, count(len(objects.MAC{})))
		for i := range list {
			list[i] = d.mac()
		}
		return list
	}
	for _, list := range []*[]objects.MAC{&v.facts.Snapshots, &v.facts.Removed, &v.facts.Restored, &v.facts.Freed} {
		*list = macs()
	}
	if len(d) > 0 {
		v.facts.Buried, v.facts.Parent = macs(), d.mac()
	}
	if d == nil || len(d) != 0 {
		return nil, fmt.Errorf("marks: %w: a record of %d bytes", errMarks, len(rec))
	}
	return v, nil
}

// read reads a record as it stands in the file.
func (m *marks) read(k markKey) ([]byte, error) {
	r, ok := m.at[k]
	if !ok {
		return nil, fmt.Errorf("marks: %w: %x is missing", errMarks, k)
	}
	if m.w.Buffered() > 0 {
		if err := m.flush(); err != nil {
			return nil, err
		}
	}
	rec := make([]byte, 4096)
	n, err := m.f.ReadAt(rec, r.at)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("marks: %w", err)
	}
	if n < markHeader {
		return nil, fmt.Errorf("marks: %w: cut off", errMarks)
	}
	size := markHeader + int(binary.LittleEndian.Uint32(rec[16:])) + markSum
	if size > n {
		rec = make([]byte, size)
		if _, err := m.f.ReadAt(rec, r.at); err != nil {
			return nil, fmt.Errorf("marks: %w", err)
		}
	}
	rec = rec[:size]
	if markKey(rec[:16]) != k || crc32.Checksum(rec[:size-markSum], castagnoli) != binary.LittleEndian.Uint32(rec[size-markSum:]) {
		return nil, fmt.Errorf("marks: %w: a record has changed", errMarks)
	}
	return rec, nil
}

// begin begins a round of visits.
func (m *marks) begin() {
	m.round++
	m.live = 0
}

// visit calls blob with all that a thing refers to, directly or not, and was not visited in this
// round.
func (m *marks) visit(k markKey, blob func(markBlob)) error {
	todo := []markKey{k}
	for len(todo) > 0 {
		k := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		r, ok := m.at[k]
		if !ok {
			return fmt.Errorf("marks: %w: %x is missing", errMarks, k)
		}
		if r.round == m.round {
			continue
		}
		v, err := m.get(k)
		if err != nil {
			return err
		}
		r.round = m.round
		m.at[k] = r
		m.live += markHeader + 20 + int64(16*len(v.things)+8*len(v.blobs)) + markSum
		for _, b := range v.blobs {
			blob(b)
		}
		todo = append(todo, v.things...)
	}
	return nil
}

// compactAbove is from which size on a file is made smaller, when half of it was not visited.
const compactAbove = 8 << 20

// compact drops what was not visited in this round, and keep does not want.
func (m *marks) compact(storeID string, keep func(markKey) bool) error {
	if m.end < compactAbove || m.end < 2*m.live {
		return nil
	}
	f, err := os.CreateTemp(filepath.Dir(m.name), storeID+"-*.tmp")
	if err != nil {
		return fmt.Errorf("marks: %w", err)
	}
	n := &marks{name: m.name, f: f, at: make(map[markKey]markRecord)}
	err = n.reset(storeID)
	n.w = bufio.NewWriterSize(f, 1<<20)
	if err == nil {
		err = m.copyTo(n, keep)
	}
	if err == nil {
		err = os.Rename(f.Name(), m.name)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("marks: %w", err), f.Close(), os.Remove(f.Name()))
	}
	err = m.f.Close()
	m.f, m.w, m.end, m.at = n.f, n.w, n.end, n.at
	return err
}

// copyTo copies records in the order of the file: what is below a thing comes before it.
func (m *marks) copyTo(n *marks, keep func(markKey) bool) error {
	keys := make([]markKey, 0, len(m.at))
	for k, r := range m.at {
		if r.round == m.round || keep(k) {
			keys = append(keys, k)
		}
	}
	slices.SortFunc(keys, func(a, b markKey) int { return cmp.Compare(m.at[a].at, m.at[b].at) })
	for _, k := range keys {
		rec, err := m.read(k)
		if err != nil {
			return err
		}
		if err := n.append(k, rec); err != nil {
			return err
		}
	}
	return n.w.Flush()
}

func (m *marks) flush() error {
	if err := m.w.Flush(); err != nil {
		return fmt.Errorf("marks: %w", err)
	}
	return nil
}

func (m *marks) close() error { return errors.Join(m.flush(), m.f.Close()) }
