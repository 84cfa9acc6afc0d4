package pull

import (
	"context"
	"errors"
	"hash/maphash"
	"strings"
)

const (
	// maxLinks is for how many links of a directory targets are looked up together, by their weight.
	maxLinks = 100_000
	// maxOthers is how many names of a directory that are no links are compared with those that are: their hashes
	// take 16 MB.
	maxOthers = 2_000_000
)

// followsLinks reports whether MLSD describes what links point to, and leaves out those that point to nothing which
// the login sees: so do ProFTPD and pyftpdlib. What servers that show links do not have is the fact "perm".
func (c *ftpConn) followsLinks() bool {
	for fact := range strings.SplitSeq(c.feats["MLST"], ";") {
		if strings.EqualFold(strings.TrimSuffix(fact, "*"), "perm") {
			return true
		}
	}
	return false
}

// odd has the links of a directory, and what is neither file nor directory, as LIST shows them; up to maxLinks. A name
// that LIST shows more than once has an Entry with Err. It calls bad for what may be a link and is not among them.
//
// What the server refuses to list so for good is not known, and refused says why. It is nil when the server has not
// listed anything so: without LIST, the kinds that MLSD tells are all there are.
func (f *FTP) odd(ctx context.Context, c *ftpConn, path, full string, bad func(Entry) error) (odd map[string]Entry, refused, err error) {
	names := &oddNames{dir: path, odd: map[string]Entry{}, seed: maphash.MakeSeed(), bad: bad}
	err = f.list(ctx, c, path, full, names.add)
	var r *replyError
	switch {
	case err == nil:
	case !errors.As(err, &r) || r.code < 500:
		return nil, nil, err
	case f.hasListed(err):
		refused = failf("list", path, KindListing, "its links are not known: %w", r)
	}
	return names.once(), refused, nil
}

// hasListed reports whether the server has shown before a refusal of LIST that it has that command.
func (f *FTP) hasListed(refusal error) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.all != nil && (*f.all || !noOption(refusal))
}

// oddNames collects what odd returns. A name may have line breaks in it, and what comes after one looks like
// another entry: what is told of a name is believed only where nothing else is.
type oddNames struct {
	dir    string
	odd    map[string]Entry
	held   int      // weight of odd
	others []uint64 // hashes of the names of files and directories
	seed   maphash.Seed
	bad    func(Entry) error
	over   bool // there were too many
}

func (n *oddNames) add(e Entry) error {
	isOdd := e.Type == Symlink || e.Type == Special
	_, twice := n.odd[e.Name]
	switch {
	case e.Err != nil:
		if strings.HasPrefix(e.Name, "l") && KindOf(e.Err) != KindName { // it is the line, of a link
			return n.bad(e)
		}
	case twice:
		n.twice(e.Name)
	case !isOdd && len(n.others) < maxOthers:
		n.others = append(n.others, maphash.String(n.seed, e.Name))
	case isOdd && n.held < maxLinks && len(n.others) < maxOthers:
		if err := checkTarget("list", child(n.dir, e.Name), e.Target); err != nil {
			e = Entry{Name: e.Name, Err: err}
		}
		n.held += e.weight()
		n.odd[e.Name] = e
	case isOdd && !n.over:
		n.over = true
		return n.bad(Entry{Err: failf("list", n.dir, KindListing, "more than %d links, or links after %d other names", maxLinks, maxOthers)})
	}
	return nil
}

func (n *oddNames) twice(name string) {
	n.odd[name] = Entry{Name: name, Err: failf("list", child(n.dir, name), KindListing, "LIST shows more than one of that name")}
}

// once returns what was collected, when all is.
func (n *oddNames) once() map[string]Entry {
	if len(n.odd) == 0 {
		return n.odd
	}
	hashes := make(map[uint64]string, len(n.odd))
	for name := range n.odd {
		hashes[maphash.String(n.seed, name)] = name
	}
	for _, hash := range n.others {
		if name, ok := hashes[hash]; ok {
			n.twice(name)
		}
	}
	return n.odd
}
