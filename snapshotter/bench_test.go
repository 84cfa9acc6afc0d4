package snapshotter_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	mathrand "math/rand/v2"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/snapgate/gateway/snapshotter"
)

// benchTree yields a tree of n files of 100 bytes in directories of perDir.
func benchTree(n, perDir int) iter.Seq2[snapshotter.Change, error] {
	return func(yield func(snapshotter.Change, error) bool) {
		if !yield(put("/", dir(0)), nil) {
			return
		}
		for i := range n {
			d := i / perDir
			if i%perDir == 0 {
				if !yield(put(fmt.Sprintf("/directory-%05d", d), dir(d%3600)), nil) {
					return
				}
			}
			if !yield(put(benchName(i, perDir), file(uint64(i+10_000_000), fmt.Sprintf("content of file %d", i))), nil) {
				return
			}
		}
	}
}

func benchName(i, perDir int) string {
	return fmt.Sprintf("/directory-%05d/file-%07d.dat", i/perDir, i)
}

// benchCommits is a share of n files on the machine's disk, to which single files of 4 KiB
// are committed.
type benchCommits struct {
	*rig
	b       testing.TB
	disk    *meterFS
	n       int
	perDir  int
	version uint64
}

func newBenchCommits(b testing.TB, n, perDir int) (*benchCommits, snapshotter.ID) {
	b.Helper()
	c := &benchCommits{b: b, disk: new(meterFS), n: n, perDir: perDir, version: 90_000_000}
	c.rig = newRig(b, c.disk.use)
	id := c.commitSeq(b, snapshotter.ID{}, benchTree(n, perDir))
	return c, c.commit(id, c.change(n/2)) // what is read once
}

// change overwrites the file in a place in the order of the keys.
func (c *benchCommits) change(i int) snapshotter.Change {
	c.version++
	return put(benchName(i, c.perDir), file(c.version, strings.Repeat(fmt.Sprintf("%08d", c.version), 512)))
}

// places are where a change is made: what is before it in an index is written again.
func (c *benchCommits) places() map[string]int {
	return map[string]int{"first": 0, "middle": c.n / 2, "last": c.n - 1}
}

// costs are the commits of one kind.
type costs struct {
	wall, own, cpu series[float64] // ms: in all, without the flushes, of processors
	flushes        series[float64]
	kib            series[float64] // growth of the store
}

// measure runs a commit.
func (c *benchCommits) measure(into *costs, commit func() snapshotter.ID) snapshotter.ID {
	c.disk.take()
	start, cpu := time.Now(), cpuTime(c.b)
	id := commit()
	wall, m := time.Since(start), c.disk.take()
	into.cpu = append(into.cpu, ms(cpuTime(c.b)-cpu))
	into.wall = append(into.wall, ms(wall))
	into.own = append(into.own, ms(wall-m.flush))
	into.flushes = append(into.flushes, float64(m.flushes))
	into.kib = append(into.kib, float64(m.bytes)/1024)
	return id
}

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// cpuTime is what this process has had of the processors: a loaded machine changes it less
// than the time of day.
func cpuTime(tb testing.TB) time.Duration {
	tb.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		tb.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func (c *costs) report(b *testing.B, name string) {
	b.ReportMetric(c.wall.median(), name+"-ms")
	b.ReportMetric(c.own.median(), name+"-own-ms")
	b.ReportMetric(c.cpu.median(), name+"-cpu-ms")
	b.ReportMetric(c.kib.median(), name+"-KiB")
}

// BenchmarkCommitOneFile commits one changed file of 4 KiB on top of trees of several
// sizes, at the first, a middle and the last place in the order of the keys, and beside it,
// in the same rounds, through kloset's Builder with its cache. "own" is the time without
// waiting for the disk's flushes.
func BenchmarkCommitOneFile(b *testing.B) {
	for _, t := range []struct {
		name      string
		n, perDir int
		builder   bool
	}{
		{"files=1000", 1_000, 100, true},
		{"files=10000", 10_000, 100, true},
		{"files=100000", 100_000, 100, full()},
		{"flat=100000", 100_000, 100_000, false},
	} {
		b.Run(t.name, func(b *testing.B) { benchCommit(b, t.n, t.perDir, t.builder) })
	}
}

func benchCommit(b *testing.B, n, perDir int, builder bool) {
	c, id := newBenchCommits(b, n, perDir)
	other := id // the head of the Builder's commits
	all := map[string]*costs{}
	for b.Loop() {
		for name, i := range c.places() {
			if all[name] == nil {
				all[name] = new(costs)
			}
			change := c.change(i)
			id = c.measure(all[name], func() snapshotter.ID { return c.commit(id, change) })
		}
		if builder {
			if all["builder"] == nil {
				all["builder"] = new(costs)
			}
			change := c.change(n / 2)
			other = c.measure(all["builder"], func() snapshotter.ID { return c.rebuild(b, other, seq([]snapshotter.Change{change})) })
		}
	}
	for name, costs := range all {
		costs.report(b, name)
	}
	b.ReportMetric(all["middle"].flushes.median(), "flushes")
	if builder {
		b.ReportMetric(all["builder"].wall.median()/all["middle"].wall.median(), "times-faster")
		b.ReportMetric(all["middle"].kib.median()/all["builder"].kib.median(), "middle-growth-ratio")
		b.ReportMetric(all["last"].kib.median()/all["builder"].kib.median(), "last-growth-ratio")
	}
}

func (r *rig) commitSeq(b testing.TB, base snapshotter.ID, changes iter.Seq2[snapshotter.Change, error]) snapshotter.ID {
	b.Helper()
	r.n++
	id, err := r.Commit(b.Context(), base, changes, meta(r.n))
	if err != nil {
		b.Fatalf("commit: %v", err)
	}
	return id
}

func (r *rig) rebuild(b testing.TB, base snapshotter.ID, changes iter.Seq2[snapshotter.Change, error]) snapshotter.ID {
	b.Helper()
	r.n++
	m := meta(r.n)
	m.Parent = base
	id, err := r.Rebuild(b.Context(), base, changes, m)
	if err != nil {
		b.Fatalf("rebuild: %v", err)
	}
	return id
}

// benchBytes is the size of large files.
func benchBytes() int64 {
	if full() {
		return 1 << 30
	}
	return 128 << 20
}

// full reports whether the sizes of docs/BENCHMARKS.md are asked for, which take long.
func full() bool { return os.Getenv("FULL") != "" }

// stream is content that is made while it is read: random bytes, or text.
type stream struct {
	size int64
	seed uint64
	text bool
}

func (s stream) Size() int64 { return s.size }

func (s stream) Open(context.Context) (io.ReadCloser, error) {
	var seed [32]byte
	seed[0], seed[1] = byte(s.seed), byte(s.seed>>8)
	rnd := mathrand.NewChaCha8(seed)
	var rd io.Reader = rnd
	if s.text {
		rd = &lines{rnd: mathrand.New(rnd)}
	}
	return io.NopCloser(io.LimitReader(rd, s.size)), nil
}

// lines is a text like a log: 4 MiB of it, again and again with other numbers.
type lines struct {
	rnd  *mathrand.Rand
	page []byte
	at   int
}

func (l *lines) Read(p []byte) (int, error) {
	if l.page == nil {
		words := strings.Fields("the server has accepted a connection from client and closed it after transfer of bytes in time with error none request path status")
		for len(l.page) < 4<<20 {
			l.page = strconv.AppendUint(l.page, l.rnd.Uint64(), 36)
			for range 12 {
				l.page = append(append(l.page, ' '), words[l.rnd.IntN(len(words))]...)
			}
			l.page = append(l.page, '\n')
		}
	}
	if l.at == len(l.page) {
		l.at = 0
		for i := 0; i < len(l.page); i += 100 {
			l.page[i] = byte('a' + l.rnd.IntN(26))
		}
	}
	n := copy(p, l.page[l.at:])
	l.at += n
	return n, nil
}

// BenchmarkIngest commits one large file, and in the same rounds the like through kloset's
// Builder: with our packer and encryption, and with its own.
func BenchmarkIngest(b *testing.B) {
	for _, t := range []struct {
		name string
		text bool
	}{{"random", false}, {"text", true}} {
		b.Run(t.name, func(b *testing.B) { benchIngest(b, t.text) })
	}
}

func benchIngest(b *testing.B, text bool) {
	size := benchBytes()
	d := new(meterFS)
	r := newRig(b, d.use)
	base := r.commit(snapshotter.ID{}, put("/", dir(0)))
	var seed uint64
	change := func(first ...snapshotter.Change) iter.Seq2[snapshotter.Change, error] {
		seed++
		c := put("/large", file(1000+seed, ""))
		c.Content = stream{size, seed, text}
		return seq(append(first, c))
	}
	sides := []struct {
		name   string
		commit func()
	}{
		{"", func() { r.commitSeq(b, base, change()) }},
		{"builder-", func() { r.rebuild(b, base, change()) }},
		{"stock-", func() {
			if err := r.Stock(b.Context(), change(put("/", dir(0))), meta(seed)); err != nil {
				b.Fatal(err)
			}
		}},
		{"source-", func() {
			rd, _ := stream{size, 1, text}.Open(b.Context())
			_, _ = io.Copy(io.Discard, rd)
		}},
	}
	wall, cpu := make([]series[float64], len(sides)), make([]series[float64], len(sides))
	for b.Loop() {
		for i, side := range sides {
			start, used := time.Now(), cpuTime(b)
			side.commit()
			wall[i] = append(wall[i], time.Since(start).Seconds())
			cpu[i] = append(cpu[i], (cpuTime(b) - used).Seconds())
		}
	}
	for i, side := range sides {
		b.ReportMetric(float64(size)/1e6/wall[i].median(), side.name+"MB/s")
		b.ReportMetric(cpu[i].median(), side.name+"cpu-s")
	}
	b.ReportMetric(wall[1].median()/wall[0].median(), "times-builder")
	b.ReportMetric(wall[2].median()/wall[0].median(), "times-stock")
}

// BenchmarkReadAt reads 32 KiB at random places of a large stored file: cold when no chunk
// is in memory, warm when its chunk is.
func BenchmarkReadAt(b *testing.B) {
	const piece, cache, reads = 32 << 10, 64 << 20, 500
	size := benchBytes()
	d := new(meterFS)
	r := newRig(b, d.use)
	c := put("/large", file(1000, ""))
	c.Content = stream{size: size}
	id := r.commit(snapshotter.ID{}, put("/", dir(0)), c)
	rnd := mathrand.New(mathrand.NewPCG(1, 2))
	p := make([]byte, piece)
	var cold, warm series[float64]
	for b.Loop() {
		// Another snapshotter, so that its cache is empty.
		s := newSnapshotter(b, r.store, func(cfg *snapshotter.Config) { cfg.ChunkCacheBytes = cache })
		v, err := s.View(b.Context(), id)
		if err != nil {
			b.Fatal(err)
		}
		f, err := v.Open(b.Context(), "/large")
		if err != nil {
			b.Fatal(err)
		}
		read := func(into *series[float64], off int64) {
			start := time.Now()
			if _, err := f.ReadAt(p, off); err != nil {
				b.Fatal(err)
			}
			*into = append(*into, ms(time.Since(start)))
		}
		for range reads {
			off := rnd.Int64N(size - piece)
			read(&cold, off)
			read(&warm, off)
		}
		if err := f.Close(); err != nil {
			b.Fatal(err)
		}
		v.Close()
	}
	b.ReportMetric(cold.median(), "cold-p50-ms")
	b.ReportMetric(warm.median(), "warm-p50-ms")
}

// BenchmarkPatch changes 4 KiB of a large stored file, at its end and in its middle, and
// commits that: by taking over what is unchanged and, in the same rounds, by reading and
// chunking the whole. "known" is of a file whose hashes are in memory, "reading" of one whose
// are not. "read-MiB" is what comes from the store.
func BenchmarkPatch(b *testing.B) {
	b.Run("append", func(b *testing.B) { benchPatch(b, true) })
	b.Run("middle", func(b *testing.B) { benchPatch(b, false) })
}

func benchPatch(b *testing.B, atEnd bool) {
	size := benchBytes()
	r := newRig(b, new(meterFS).use)
	watch := r.watch()
	c := put("/large", file(1000, ""))
	c.Content = stream{size: size}
	base := r.commit(snapshotter.ID{}, put("/", dir(0)), c)
	var known, reading, whole patchCosts
	last := &overwritten{r: r, base: base, size: size} // a file that changes from round to round
	for n := uint64(0); b.Loop(); n++ {
		p := fmt.Appendf(nil, "%04096d", n)
		measure := func(into *patchCosts, base snapshotter.ID, c snapshotter.Content) snapshotter.ID {
			change := put("/large", file(2000+n, ""))
			change.Content = c
			r.ForgetChunks()
			read, start := watch.bytes.Load(), time.Now()
			id := r.commit(base, change)
			into.wall = append(into.wall, ms(time.Since(start)))
			into.read = append(into.read, float64(watch.bytes.Load()-read)/(1<<20))
			return id
		}
		at := func(size int64) int64 {
			if atEnd {
				return size
			}
			return size / 2
		}
		// The hashes of what it continues go with a commit, so those of base are not known
		// after the first.
		next := last.over(last.base, p, at(last.size))
		next.base, next.size = measure(&known, last.base, next), next.Size()
		last = next
		over := last.over(base, p, at(size))
		over.size = size
		measure(&reading, base, over)
		measure(&whole, base, unpatched{over})
	}
	known.report(b, "known")
	reading.report(b, "reading")
	whole.report(b, "whole")
}

// patchCosts are the commits of one kind.
type patchCosts struct{ wall, read series[float64] } // ms, MiB from the store

func (c *patchCosts) report(b *testing.B, name string) {
	b.ReportMetric(c.wall.median(), name+"-ms")
	b.ReportMetric(c.read.median(), name+"-read-MiB")
}

// overwritten is /large of a snapshot with some bytes written over it.
type overwritten struct {
	r    *rig
	base snapshotter.ID
	size int64 // in base
	at   int64
	p    []byte
}

func (o *overwritten) over(base snapshotter.ID, p []byte, at int64) *overwritten {
	return &overwritten{r: o.r, base: base, size: o.size, at: at, p: p}
}

func (o *overwritten) Size() int64 { return max(o.size, o.at+int64(len(o.p))) }

func (o *overwritten) Patch() (snapshotter.Patch, bool) {
	return snapshotter.Patch{
		Base: o.base, Path: "/large", Size: o.size, Written: []snapshotter.Range{{Off: o.at, Len: int64(len(o.p))}},
	}, true
}

func (o *overwritten) Open(ctx context.Context) (io.ReadCloser, error) {
	rd, err := o.OpenAt(ctx)
	if err != nil {
		return nil, err
	}
	return struct {
		io.Reader
		io.Closer
	}{io.NewSectionReader(rd, 0, o.Size()), rd}, nil
}

func (o *overwritten) OpenAt(ctx context.Context) (snapshotter.ReaderAt, error) {
	v, err := o.r.View(ctx, o.base)
	if err != nil {
		return nil, err
	}
	f, err := v.Open(ctx, "/large")
	return overwrittenReader{f, o}, err
}

type overwrittenReader struct {
	*snapshotter.Reader
	o *overwritten
}

func (r overwrittenReader) ReadAt(p []byte, off int64) (int, error) {
	n, err := r.Reader.ReadAt(p, off)
	if errors.Is(err, io.EOF) && r.o.at == r.o.size {
		err = nil
	}
	if begin, end := max(off, r.o.at), min(off+int64(len(p)), r.o.at+int64(len(r.o.p))); begin < end {
		copy(p[begin-off:], r.o.p[begin-r.o.at:end-r.o.at])
		n = max(n, int(end-off))
	}
	if n < len(p) {
		err = io.EOF
	}
	return n, err
}

// unpatched hides that a content continues a stored file.
type unpatched struct{ snapshotter.Content }
