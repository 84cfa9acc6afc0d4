package disktest

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
)

// DataMode says what becomes of contents that were not synced.
type DataMode uint8

// The fates of unsynced contents.
const (
	DataDropped DataMode = iota // gone: contents and sizes are those of the last sync
	DataKept                    // all there, as after the end of the process alone
	DataTorn                    // by chance: gone, whole, cut, or some sectors of 512 bytes of each write
)

// NameMode says what becomes of names that were not synced.
type NameMode uint8

// The fates of creations, renames and removals that were not synced.
const (
	NamesDropped NameMode = iota // none took place
	NamesKept                    // all took place
	NamesMixed                   // by chance, each for itself, in any order of their directories
)

// Variant is one way in which a power loss can end.
type Variant struct {
	Data  DataMode
	Names NameMode
	Seed  uint64 // for DataTorn and NamesMixed: the same seed gives the same image
}

func (v Variant) String() string {
	return fmt.Sprintf("data %s, names %s, seed %d",
		[]string{"dropped", "kept", "torn"}[v.Data], []string{"dropped", "kept", "mixed"}[v.Names], v.Seed)
}

// Variants are the four regular variants and seeds irregular ones.
func Variants(seeds int) []Variant {
	list := []Variant{
		{Data: DataDropped, Names: NamesDropped},
		{Data: DataDropped, Names: NamesKept},
		{Data: DataKept, Names: NamesDropped},
		{Data: DataKept, Names: NamesKept},
	}
	for i := range seeds {
		list = append(list, Variant{Data: DataTorn, Names: NamesMixed, Seed: uint64(i + 1)})
	}
	return list
}

// sector is the unit in which a disk writes, in bytes.
const sector = 512

// Materialize builds in the empty or missing directory dest what the disk holds when the
// power fails at a point and it ends as v says.
func (r *Recorder) Materialize(point int, v Variant, dest string) error {
	r.mu.Lock()
	log, inodes := r.log[:point], r.inodes
	r.mu.Unlock()
	m := &image{
		v: v, rnd: rand.New(rand.NewPCG(v.Seed, uint64(point))),
		files: make(map[*inode]*fileState), dirs: make(map[*inode]*dirState),
	}
	for _, n := range inodes {
		if n.born > point {
			continue
		}
		if n.dir {
			m.dirs[n] = &dirState{durable: make(map[string]*inode)}
		} else {
			m.files[n] = &fileState{durable: n.start}
		}
	}
	for _, e := range log {
		m.apply(e)
	}
	if err := os.MkdirAll(dest, 0o700); err != nil {
		return err
	}
	return m.write(inodes[0], dest)
}

// image is the state of a disk while events are applied to it.
type image struct {
	v     Variant
	rnd   *rand.Rand
	files map[*inode]*fileState
	dirs  map[*inode]*dirState
}

// fileState is a file's durable content and what is not synced of it.
type fileState struct {
	durable []byte
	pending []event
}

// dirState is a directory's durable names and what is not synced of them.
type dirState struct {
	durable map[string]*inode
	pending []event
}

func (m *image) apply(e event) {
	switch e.op {
	case opAdopt:
		m.dirs[e.dir].durable[e.name] = e.node
	case OpWrite, OpTruncate:
		f := m.files[e.node]
		f.pending = append(f.pending, e)
	case OpSync:
		f := m.files[e.node]
		f.durable = changeAll(f.durable, f.pending)
		f.pending = nil
	case OpCreate, OpMkdir, OpRemove, OpRename:
		d := m.dirs[e.dir]
		d.pending = append(d.pending, e)
	case OpSyncDir:
		d := m.dirs[e.node]
		for _, p := range d.pending {
			m.rename(p)
		}
		d.pending = nil
	}
}

// rename makes an event about names take place.
func (m *image) rename(e event) {
	d := m.dirs[e.dir].durable
	switch e.op {
	case OpCreate, OpMkdir:
		d[e.name] = e.node
	case OpRemove:
		if d[e.name] == e.node {
			delete(d, e.name)
		}
	case OpRename:
		from := m.dirs[e.from]
		if from.durable[e.old] == e.node {
			delete(from.durable, e.old)
		}
		d[e.name] = e.node
		// Its creation under the old name is part of the rename: it cannot happen later.
		for i, p := range from.pending {
			if p.op&(OpCreate|OpMkdir) != 0 && p.node == e.node {
				from.pending[i].op = 0
			}
		}
	}
}

// change applies bytes [lo, hi) of a write, or a truncation, to a content.
func change(content []byte, e event, lo, hi int) []byte {
	if e.op == OpTruncate {
		return resize(content, int(e.off))
	}
	if hi <= lo {
		return content
	}
	if end := int(e.off) + hi; end > len(content) {
		content = resize(content, end)
	} else {
		content = append([]byte(nil), content...)
	}
	copy(content[int(e.off)+lo:], e.data[lo:hi])
	return content
}

// changeAll applies events as a whole.
func changeAll(content []byte, events []event) []byte {
	size := len(content)
	for _, e := range events {
		if e.op == OpTruncate {
			size = max(size, int(e.off))
		} else {
			size = max(size, int(e.off)+len(e.data))
		}
	}
	out := append(make([]byte, 0, size), content...)
	for _, e := range events {
		n := len(out)
		if e.op == OpTruncate {
			out = out[:e.off]
		} else {
			out = out[:max(n, int(e.off)+len(e.data))]
		}
		if n < len(out) {
			clear(out[n:])
		}
		copy(out[min(int(e.off), len(out)):], e.data)
	}
	return out
}

// resize returns a copy of the given size.
func resize(content []byte, size int) []byte {
	out := make([]byte, size)
	copy(out, content)
	return out
}

// final is a file's content after the power loss.
func (m *image) final(f *fileState) []byte {
	content := f.durable
	switch m.v.Data {
	case DataDropped:
	case DataKept:
		content = changeAll(content, f.pending)
	case DataTorn:
		for _, e := range f.pending {
			content = m.tear(content, e)
		}
	}
	return content
}

// tear applies a part of an unsynced event.
func (m *image) tear(content []byte, e event) []byte {
	if e.op == OpTruncate {
		if m.rnd.IntN(2) == 0 {
			return content
		}
		return change(content, e, 0, 0)
	}
	switch m.rnd.IntN(4) {
	case 0: // nothing but, perhaps, the size
		if end := int(e.off) + len(e.data); end > len(content) && m.rnd.IntN(2) == 0 {
			return resize(content, end)
		}
		return content
	case 1:
		return change(content, e, 0, len(e.data))
	case 2:
		return change(content, e, 0, m.rnd.IntN(len(e.data)+1))
	default:
		for lo := 0; lo < len(e.data); {
			hi := min(len(e.data), lo+sector-(int(e.off)+lo)%sector)
			if m.rnd.IntN(2) == 0 {
				content = change(content, e, lo, hi)
			}
			lo = hi
		}
		return content
	}
}

// settle decides about the names that were not synced. What happened to a name after a
// change of it that did not take place did not take place either.
func (m *image) settle(d *dirState) {
	type place struct {
		dir  *inode
		name string
	}
	lost := make(map[place]bool)
	for i := range d.pending {
		e := d.pending[i] // rename may have changed it
		places := []place{{e.dir, e.name}}
		if e.op == OpRename {
			places = append(places, place{e.from, e.old})
		}
		drop := e.op == 0 || m.v.Names == NamesDropped || m.v.Names == NamesMixed && m.rnd.IntN(2) == 0
		for _, p := range places {
			drop = drop || lost[p]
		}
		if !drop {
			m.rename(e)
		} else if e.op != 0 {
			for _, p := range places {
				lost[p] = true
			}
		}
	}
	d.pending = nil
}

// write builds a directory.
func (m *image) write(dir *inode, dest string) error {
	// All directories first, in an order that depends on nothing but the events.
	m.settleBelow(dir, make(map[*inode]bool))
	return m.writeDir(dir, dest)
}

func (m *image) settleBelow(dir *inode, seen map[*inode]bool) {
	if seen[dir] {
		return
	}
	seen[dir] = true
	d := m.dirs[dir]
	m.settle(d)
	for _, name := range sortedKeys(d.durable) {
		if n := d.durable[name]; n != nil && n.dir { // gone: a rename into a directory below
			m.settleBelow(n, seen)
		}
	}
}

func (m *image) writeDir(dir *inode, dest string) error {
	d := m.dirs[dir]
	for _, name := range sortedKeys(d.durable) {
		n, path := d.durable[name], filepath.Join(dest, name)
		if n.dir {
			if err := os.Mkdir(path, 0o700); err != nil {
				return err
			}
			if err := m.writeDir(n, path); err != nil {
				return err
			}
			continue
		}
		if err := os.WriteFile(path, m.final(m.files[n]), 0o600); err != nil {
			return err
		}
	}
	return nil
}

func sortedKeys(names map[string]*inode) []string { return slices.Sorted(maps.Keys(names)) }
