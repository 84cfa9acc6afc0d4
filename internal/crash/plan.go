package crash

import (
	"fmt"
	"math/rand/v2"
	"path"
)

// Bounds of what a client makes, so that a round stays a matter of seconds.
const (
	maxFiles  = 12
	maxDirs   = 4
	maxLayers = 4
	smallFile = 64 << 10 // rides in the journal
	midFile   = 1 << 20
	largeFile = 6 << 20
	aheadFile = 8 << 20 // from here on it is put into the store before its commit
	hugeFile  = 24 << 20
)

// Planner thinks up operations for one client. It is for one goroutine.
type Planner struct {
	dir  string // the client's own directory
	rng  *rand.Rand
	seq  int
	tree Tree
	part string // a temporary name that waits for its rename, and where it goes
	dest string
	// Whole restricts the planner to what a client without random access can do.
	Whole bool
}

// NewPlanner returns a planner for the client that owns dir, where tree is.
func NewPlanner(dir string, tree Tree, rng *rand.Rand) *Planner {
	return &Planner{dir: dir, rng: rng, tree: tree}
}

// Next returns an operation that can be done on the tree as it is, and takes it as done.
func (p *Planner) Next() (Op, error) {
	op := p.choose()
	p.seq++
	op.Seq = p.seq
	tree, err := p.tree.Apply(op)
	if err != nil {
		return Op{}, err
	}
	p.tree = tree
	return op, nil
}

func (p *Planner) choose() Op {
	files, dirs := p.tree.files(), p.tree.dirs()
	if p.part != "" { // what uploaders do that write to a temporary name first
		op := Op{Kind: Replace, Path: p.part, To: p.dest}
		if _, exists := p.tree[p.dest]; !exists {
			op.Kind = Rename
		}
		p.part = ""
		return op
	}
	if len(files) >= maxFiles {
		return Op{Kind: Remove, Path: p.pick(files)}
	}
	if len(files) < 3 {
		return p.put(p.fresh("f"))
	}
	switch n := p.rng.IntN(100); {
	case n < 25:
		return p.put(p.fresh("f"))
	case n < 50:
		return p.put(p.pick(files))
	case n < 60:
		p.dest = p.fresh("f")
		if p.rng.IntN(2) == 0 {
			p.dest = p.pick(files)
		}
		p.part = p.dest + ".part"
		return p.put(p.part)
	case n < 68:
		return p.patch(p.pick(files))
	case n < 72:
		return p.truncate(p.pick(files))
	case n < 78:
		return Op{Kind: Rename, Path: p.pick(files), To: p.fresh("r")}
	case n < 84:
		from, to := p.pick(files), p.pick(files)
		if from == to {
			return Op{Kind: Remove, Path: from}
		}
		return Op{Kind: Replace, Path: from, To: to}
	case n < 90:
		return Op{Kind: Remove, Path: p.pick(files)}
	case n < 94 && len(dirs) < maxDirs:
		return Op{Kind: Mkdir, Path: path.Join(p.dir, p.name("d"))}
	case n < 97 && len(dirs) > 0:
		return Op{Kind: Rename, Path: p.pick(dirs), To: path.Join(p.dir, p.name("d"))}
	}
	if empty := p.tree.emptyDirs(); len(empty) > 0 {
		return Op{Kind: Rmdir, Path: p.pick(empty)}
	}
	return p.put(p.pick(files))
}

func (p *Planner) put(name string) Op {
	return Op{Kind: Put, Path: name, Seed: p.seed(), Size: p.size()}
}

func (p *Planner) patch(name string) Op {
	n := p.tree[name]
	if p.Whole || len(n.Layers) >= maxLayers {
		return p.put(name)
	}
	return Op{Kind: Patch, Path: name, Seed: p.seed(), Off: p.rng.Int64N(n.Size + 1), Size: 1 + p.rng.Int64N(smallFile*2)}
}

func (p *Planner) truncate(name string) Op {
	n := p.tree[name]
	if p.Whole || len(n.Layers) >= maxLayers {
		return p.put(name)
	}
	return Op{Kind: Truncate, Path: name, Size: p.rng.Int64N(n.Size + smallFile)}
}

// seed is never 0, which would stand for a new size.
func (p *Planner) seed() uint64 { return p.rng.Uint64() | 1 }

func (p *Planner) size() int64 {
	switch n := p.rng.IntN(20); {
	case n < 8:
		return p.rng.Int64N(smallFile)
	case n < 16:
		return smallFile + p.rng.Int64N(midFile-smallFile)
	case n < 19:
		return midFile + p.rng.Int64N(largeFile-midFile)
	default:
		return aheadFile + p.rng.Int64N(hugeFile-aheadFile)
	}
}

// name makes a name that was not used before in this run.
func (p *Planner) name(prefix string) string {
	return fmt.Sprintf("%s%08x", prefix, p.rng.Uint32())
}

// fresh is a free name in the client's directory or in one below it.
func (p *Planner) fresh(prefix string) string {
	dir := p.dir
	if dirs := p.tree.dirs(); len(dirs) > 0 && p.rng.IntN(2) == 0 {
		dir = p.pick(dirs)
	}
	return path.Join(dir, p.name(prefix))
}

func (p *Planner) pick(names []string) string { return names[p.rng.IntN(len(names))] }
