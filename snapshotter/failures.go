package snapshotter

import (
	"context"
	"fmt"
	"iter"
	"path"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/PlakarKorp/kloset/objects"
	"github.com/PlakarKorp/kloset/resources"
	"github.com/PlakarKorp/kloset/snapshot/vfs"
)

const (
	// failureText bounds the text of a failure, in bytes; texts come from remote servers.
	failureText = 1 << 10
	// failuresMax and failuresBytes bound what a snapshot lists: a commit has all of it in
	// memory. What is beyond is counted.
	failuresMax   = 100_000
	failuresBytes = 64 << 20
)

// failures are what a snapshot says could not be captured, as kloset keeps it: an index of
// paths, with one text each, and in the summary of each directory how many of them are
// directly in it or below. As with kloset's own Builder, a path counts when the snapshot has
// the directory that it is in, so that plakar can copy the snapshot, and the root, which is
// in no directory, never does; the header has the number of all of them.
type failures struct {
	list  []Failure         // in byte order of the paths, each once
	total uint64            // with those that are not listed
	in    map[string]uint64 // how many of list are directly in a directory
}

// newFailures takes over what could not be captured, nil for nothing, and lists so many of it.
func newFailures(all func() iter.Seq[Failure], limit int) *failures {
	f := &failures{in: make(map[string]uint64)}
	if all == nil {
		return f
	}
	at, size := make(map[string]int), 0
	for x := range all() {
		x = cleanFailure(x)
		if i, ok := at[x.Path]; ok {
			f.list[i].Text = joinTexts(f.list[i].Text, x.Text)
			continue
		}
		f.total++
		if size += len(x.Path) + len(x.Text); len(f.list) >= limit || size > failuresBytes {
			continue
		}
		at[x.Path] = len(f.list)
		f.list = append(f.list, x)
	}
	if n := f.total - uint64(len(f.list)); n > 0 {
		f.omitted(at, n)
	}
	slices.SortFunc(f.list, func(a, b Failure) int { return strings.Compare(a.Path, b.Path) })
	for _, x := range f.list {
		if x.Path != "/" {
			f.in[path.Dir(x.Path)]++
		}
	}
	return f
}

// omitted says at the root how many are not listed.
func (f *failures) omitted(at map[string]int, n uint64) {
	text := strconv.FormatUint(n, 10) + " failures are not listed"
	if i, ok := at["/"]; ok {
		f.list[i].Text = joinTexts(text, f.list[i].Text)
		return
	}
	f.list = append(f.list, Failure{Path: "/", Text: text})
}

// cleanFailure makes a failure canonical. What has no path that an entry could have is put
// at the directory above, and its text begins with the path.
func cleanFailure(x Failure) Failure {
	x.Text = cleanText(x.Text)
	if p := canonical(x.Path); p != x.Path {
		x.Text = joinWith(strconv.Quote(shorten(x.Path, failureText/2)), ": ", x.Text)
		x.Path = p
	}
	x.Path = strings.Clone(x.Path)
	return x
}

// canonical returns how much of a path is one that an entry could have.
func canonical(p string) string {
	if p == "/" {
		return p
	}
	end := 0
	for end < len(p) && p[end] == '/' {
		name, _, _ := strings.Cut(p[end+1:], "/")
		if name == "" || name == "." || name == ".." || strings.IndexByte(name, 0) >= 0 {
			break
		}
		end += 1 + len(name)
	}
	if end == 0 {
		return "/"
	}
	return p[:end]
}

// cleanText makes a text one line of printable characters that is not too long.
func cleanText(text string) string {
	text = shorten(text, failureText)
	return shorten(strings.Map(func(r rune) rune {
		switch {
		case unicode.IsSpace(r):
			return ' '
		case !unicode.IsPrint(r):
			return utf8.RuneError
		}
		return r
	}, text), failureText)
}

func joinTexts(a, b string) string {
	if strings.Contains(a, b) {
		return a
	}
	return joinWith(a, "; ", b)
}

func joinWith(a, sep, b string) string { return shorten(a+sep+b, failureText) }

// shorten cuts a text to n bytes, between characters, and shows that by its end.
func shorten(text string, n int) string {
	const more = "…"
	if len(text) <= n {
		return text
	}
	cut := n - len(more)
	for k := 0; k < utf8.UTFMax && cut > 0 && !utf8.RuneStart(text[cut]); k++ {
		cut--
	}
	return text[:cut] + more
}

// index makes the index of failures and what it refers to.
func (f *failures) index(s *Snapshotter, w blobWriter) (objects.MAC, error) {
	x := &leafIndex{root: resources.RT_ERROR_BTREE, node: resources.RT_ERROR_NODE, cmp: strings.Compare, shape: s.shape.fit(len(f.list))}
	all := make([]indexEdit, len(f.list))
	for i, e := range f.list {
		data, err := vfs.NewErrorItem(e.Path, e.Text).ToBytes()
		if err != nil {
			return objects.MAC{}, err
		}
		mac := w.computeMAC(data)
		w.put(resources.RT_ERROR_ENTRY, mac, data)
		all[i] = indexEdit{key: e.Path, value: mac}
	}
	y, err := x.edit(s, inOrder(all), w)
	if err != nil {
		return objects.MAC{}, err
	}
	return y.mac, nil
}

// recount is what a commit has to do with the summaries of directories that it would leave
// as they are: in which ones, and below which ones, other failures are than in the base.
// Nothing of a directory but those numbers is read or written for it.
type recount struct {
	dirs  []string            // in byte order: those whose own numbers differ
	delta map[string]int64    // by how much
	above map[string]struct{} // dirs and all directories above them
}

// newRecount compares failures with those of a base, which may be nil.
func (s *Snapshotter) newRecount(base *record, f *failures) (*recount, error) {
	c := &recount{delta: make(map[string]int64), above: make(map[string]struct{})}
	for dir, n := range f.in {
		c.delta[dir] = int64(n)
	}
	if base != nil && base.snap.Errors > 0 {
		x, err := s.openIndex(base.vfs.Errors, resources.RT_ERROR_BTREE, resources.RT_ERROR_NODE, strings.Compare)
		if err != nil {
			return nil, err
		}
		it, err := x.ScanAll()
		if err != nil {
			return nil, readError("index", err)
		}
		for it.Next() {
			if p, _ := it.Current(); p != "/" {
				c.delta[path.Dir(p)]--
			}
		}
		if err := it.Err(); err != nil {
			return nil, readError("index", err)
		}
	}
	for dir, n := range c.delta {
		if n == 0 {
			delete(c.delta, dir)
			continue
		}
		c.dirs = append(c.dirs, dir)
		for p := dir; ; p = path.Dir(p) {
			if _, ok := c.above[p]; ok {
				break
			}
			c.above[p] = struct{}{}
			if p == "/" {
				break
			}
		}
	}
	slices.Sort(c.dirs)
	return c, nil
}

// recounted is the summary of the directory at p, in which and below which nothing but
// failures may have changed, with the numbers of these.
func (c *increment) recounted(p string) (*vfs.Summary, error) {
	sum, err := c.old.summary(c.s, p)
	if err != nil {
		return nil, err
	}
	if _, ok := c.recount.above[p]; !ok {
		return sum, nil
	}
	add := make(map[string]int64) // to the directories from p down
	from, _ := slices.BinarySearch(c.recount.dirs, p)
	for _, dir := range c.recount.dirs[from:] {
		if !strings.HasPrefix(dir, p) {
			break
		}
		if dir != p && !strings.HasPrefix(dir, below(p)) {
			continue // "/a.b" is between "/a" and "/a/b"
		}
		_, ok, err := c.old.summaries.find(c.s, dir)
		if err != nil {
			return nil, err
		}
		if !ok {
			continue
		}
		for d := dir; ; d = path.Dir(d) {
			add[d] += c.recount.delta[dir]
			if d == p {
				break
			}
		}
	}
	for dir, n := range add {
		if n == 0 {
			continue
		}
		old, err := c.old.summary(c.s, dir)
		if err != nil {
			return nil, err
		}
		made := *old // which others have
		made.Below.Errors = uint64(int64(made.Below.Errors) + n)
		if int64(made.Below.Errors) < 0 {
			return nil, fmt.Errorf("%w: %q has %d failures less than none", errInconsistent, dir, -int64(made.Below.Errors))
		}
		if err := c.putSummary(dir, &made); err != nil {
			return nil, err
		}
		if dir == p {
			sum = &made
		}
	}
	return sum, nil
}

// Errors lists what the snapshot says could not be captured, in byte order of the paths. It
// ends with the first error: ErrUnavailable when the store cannot be read.
func (v *View) Errors(ctx context.Context) iter.Seq2[Failure, error] {
	return func(yield func(Failure, error) bool) {
		if err := v.failures(ctx, func(f Failure) bool { return yield(f, nil) }); err != nil {
			yield(Failure{}, v.fail("list errors", "/", err))
		}
	}
}

func (v *View) failures(ctx context.Context, yield func(Failure) bool) error {
	if v.errors == (objects.MAC{}) || v.snap.Errors == 0 && !v.snap.Foreign() {
		return nil
	}
	s := v.tree.s
	x, err := s.openIndex(v.errors, resources.RT_ERROR_BTREE, resources.RT_ERROR_NODE, strings.Compare)
	if err != nil {
		return err
	}
	it, err := x.ScanAll()
	if err != nil {
		return readError("index", err)
	}
	for it.Next() {
		if err := ctx.Err(); err != nil {
			return err
		}
		p, mac := it.Current()
		data, err := s.blob(resources.RT_ERROR_ENTRY, mac)
		if err != nil {
			return readError("error", err)
		}
		item, err := vfs.ErrorItemFromBytes(data)
		if err != nil {
			return readError("error", err)
		}
		if !yield(cleanFailure(Failure{Path: v.rel(p), Text: item.Error})) {
			return nil
		}
	}
	if err := it.Err(); err != nil {
		return readError("index", err)
	}
	return nil
}

// rel returns the path in the view of a path in the snapshot; of one that is outside of the
// view, the path in the snapshot.
func (v *View) rel(p string) string {
	if v.snap.Root == "/" {
		return p
	}
	rest, ok := strings.CutPrefix(p, v.snap.Root)
	switch {
	case ok && rest == "":
		return "/"
	case ok && rest[0] == '/':
		return rest
	}
	return p
}
