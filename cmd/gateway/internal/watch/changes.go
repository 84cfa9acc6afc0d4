package watch

import (
	"iter"
	"path"
	"strings"

	"github.com/snapgate/gateway/snapshotter"
)

// Changes sums up what differs between two snapshots.
type Changes struct {
	// Removed are files that are gone, with their bytes: what was renamed, and what has a successor
	// (see Compare), is not among them.
	Removed int
	// Overwritten are files that have other bytes, or a successor with other bytes.
	Overwritten int
	// Scrambled are those of Overwritten that look encrypted now and did not before.
	Scrambled int
	// Extension is what most of Scrambled have been given behind their names, "" for nothing.
	Extension string
	// Cut says that there was more than was looked at.
	Cut bool
}

// maxCompared is how many files that are new or gone are looked at: some 30 MB of memory.
const maxCompared = 100_000

// lost is a file that is gone from its place.
type lost struct {
	path string
	scan
	used bool // it was renamed, or has a successor
}

// scan is what is known of the bytes of a file without reading them.
type scan struct {
	object  snapshotter.ObjectID
	size    int64
	entropy float64
	generic bool // its type is not known
}

func scanOf(e *snapshotter.Entry) scan {
	return scan{e.Object, e.Size, e.Entropy, e.ContentType == "" || e.ContentType == "application/octet-stream"}
}

// Compare sums up differences. A file that is gone has a successor in one that is new and has its name
// with something behind it (report.doc.locked), its name but for digits (backup-25.tar and
// backup-26.tar), or its name but for the extension: that is how backups are rotated and files are
// encrypted. It reads no contents.
func Compare(diff iter.Seq2[snapshotter.Difference, error]) (Changes, error) {
	c := comparison{extensions: map[string]int{}}
	for d, err := range diff {
		if err != nil {
			return Changes{}, err
		}
		if len(c.gone)+len(c.fresh) >= maxCompared {
			c.Cut = true
			break
		}
		was, now := file(d.Was), file(d.Now)
		switch {
		case was != nil && now != nil:
			c.overwritten(scanOf(was), scanOf(now))
		case was != nil:
			c.gone = append(c.gone, lost{path: d.Path, scan: scanOf(was)})
		case now != nil:
			c.fresh = append(c.fresh, lost{path: d.Path, scan: scanOf(now)})
		}
	}
	c.renamed()
	c.succeeded(func(p string) string { return p }, func(p string) string { return strings.TrimSuffix(p, path.Ext(p)) })
	c.succeeded(withoutDigits, withoutDigits)
	stem := func(p string) string { return strings.TrimSuffix(p, path.Ext(p)) }
	c.succeeded(stem, stem)
	for i := range c.gone {
		if !c.gone[i].used {
			c.Removed++
		}
	}
	most := 0
	for ext, n := range c.extensions {
		if n > most || n == most && ext < c.Extension {
			most, c.Extension = n, ext
		}
	}
	if 2*most < c.Scrambled {
		c.Extension = ""
	}
	return c.Changes, nil
}

// file is an entry that is a file, else nil.
func file(e *snapshotter.Entry) *snapshotter.Entry {
	if e == nil || e.Kind != snapshotter.File {
		return nil
	}
	return e
}

// comparison is a Compare that is under way.
type comparison struct {
	Changes
	gone, fresh []lost
	extensions  map[string]int
}

// overwritten counts bytes in the place of others, and reports whether they are scrambled.
func (c *comparison) overwritten(was, now scan) bool {
	if was.object == now.object {
		return false
	}
	c.Overwritten++
	if !scrambled(was, now) {
		return false
	}
	c.Scrambled++
	return true
}

// renamed takes out what has only got another name.
func (c *comparison) renamed() {
	by := map[snapshotter.ObjectID][]int{}
	for i := range c.gone {
		by[c.gone[i].object] = append(by[c.gone[i].object], i)
	}
	for i := range c.fresh {
		f := &c.fresh[i]
		if list := by[f.object]; len(list) > 0 {
			c.gone[list[0]].used, f.used = true, true
			by[f.object] = list[1:]
		}
	}
}

// succeeded takes out what has a successor: a new file whose key by now is the key by was of one that is gone.
func (c *comparison) succeeded(was, now func(path string) string) {
	by := map[string][]int{}
	for i := range c.gone {
		if g := &c.gone[i]; !g.used {
			by[was(g.path)] = append(by[was(g.path)], i)
		}
	}
	for i := range c.fresh {
		f := &c.fresh[i]
		if f.used {
			continue
		}
		list := by[now(f.path)]
		if len(list) == 0 {
			continue
		}
		g := &c.gone[list[0]]
		by[now(f.path)] = list[1:]
		g.used, f.used = true, true
		if c.overwritten(g.scan, f.scan) && path.Ext(g.path) != path.Ext(f.path) {
			c.extensions[path.Ext(f.path)]++
		}
	}
}

// withoutDigits is a path with # for each row of digits.
func withoutDigits(p string) string {
	var b strings.Builder
	in := false
	for i := range len(p) {
		digit := p[i] >= '0' && p[i] <= '9'
		switch {
		case !digit:
			_ = b.WriteByte(p[i]) // never fails
		case !in:
			_ = b.WriteByte('#')
		}
		in = digit
	}
	return b.String()
}

// What tells bytes that are encrypted from others. Of files below minScanned little can be said; jump is
// how many bits a byte must hold more than before.
const (
	minScanned = 1024
	jump       = 0.5
)

// scrambled reports whether bytes look encrypted, and those before did not: as random as can be,
// without the beginning of a known type, and before either more orderly or of a known type. Compressed
// and recoded files have types.
func scrambled(was, now scan) bool {
	return was.size >= minScanned && now.size >= minScanned && now.generic &&
		now.entropy >= randomEntropy(now.size) && (!was.generic || was.entropy+jump <= now.entropy)
}

// randomEntropy is what so many random bytes have at least: Shannon's measure of n of them is about
// 8 - 255/(2n ln 2), with a spread that tolerance covers.
func randomEntropy(n int64) float64 {
	const bias, tolerance = 184, 0.1
	return 8 - bias/float64(n) - tolerance
}
