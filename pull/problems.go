package pull

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
	"unicode/utf8"
)

// maxProblems is how many problems are kept with their texts, at about 300 bytes each, and maxProblemBytes is how
// much of paths and texts, which come from servers; the others are counted.
const (
	maxProblems     = 100_000
	maxProblemBytes = 64 << 20
)

// Problem is a path that was not captured as it is on the remote, and why.
type Problem struct {
	Path string // of the entry, or of the directory when the name cannot be shown as a path
	Kind Kind
	Text string

	line bool // of a listing, or a name in it: what else the listing has was looked at
}

// problem is a Problem in JSON, where strings are UTF-8.
type problem struct {
	Path  string `json:"path"`
	Bytes []byte `json:"path_bytes,omitempty"` // the path, when it is not UTF-8
	Kind  Kind   `json:"kind"`
	Text  string `json:"text"`
}

// MarshalJSON shows a path that is not UTF-8 twice: as far as it can be read, and in base64.
func (p Problem) MarshalJSON() ([]byte, error) {
	out := problem{Path: strings.ToValidUTF8(p.Path, "\uFFFD"), Kind: p.Kind, Text: p.Text}
	if !utf8.ValidString(p.Path) {
		out.Bytes = []byte(p.Path)
	}
	return json.Marshal(out)
}

// Problems collects problems. The zero value has none. Safe for concurrent use.
type Problems struct {
	mu             sync.Mutex // guards what follows
	list           []Problem
	bytes          int // of their paths and texts
	total, special int64
	lost           bool // one was of KindConnection
}

// Note adds a problem.
func (p *Problems) Note(path string, err error) {
	p.add(Problem{Path: path, Kind: KindOf(err), Text: err.Error()})
}

func (p *Problems) add(one Problem) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.total++
	if one.Kind == KindSpecial {
		p.special++
	}
	p.lost = p.lost || one.Kind == KindConnection
	if len(p.list) < maxProblems && p.bytes < maxProblemBytes {
		p.list = append(p.list, one)
		p.bytes += len(one.Path) + len(one.Text)
	}
}

// Total is how many there are.
func (p *Problems) Total() int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.total
}

// Failed is how many there are without those of KindSpecial.
func (p *Problems) Failed() int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.total - p.special
}

// lostConnection reports whether one was of KindConnection, whether or not the list has it.
func (p *Problems) lostConnection() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.lost
}

// List returns the problems by path, as a tree is walked, up to 100,000 of them and 64 MB; omitted is
// how many more there are.
func (p *Problems) List() (list []Problem, omitted int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	list = slices.Clone(p.list)
	slices.SortStableFunc(list, func(a, b Problem) int { return comparePaths(a.Path, b.Path) })
	return list, p.total - int64(len(list))
}

// Text names at most most of the problems, one a line, and says how many more there are. It is empty
// without problems.
func (p *Problems) Text(most int) string { return p.TextOf(most, "problem", "problems") }

// TextOf is Text of what has other words than "1 problem" and "2 problems".
func (p *Problems) TextOf(most int, one, many string) string {
	list, omitted := p.List()
	var b strings.Builder
	if n := int64(len(list)) + omitted; n > 0 {
		b.WriteString(Count(n, one, many) + ":\n")
	}
	for i, one := range list {
		if i >= most {
			omitted += int64(len(list) - i)
			break
		}
		fmt.Fprintf(&b, "  %s: %s\n", quotePath(one.Path), shown(one.Text))
	}
	if omitted > 0 {
		fmt.Fprintf(&b, "  and %d more\n", omitted)
	}
	return b.String()
}

// Count is a number with its word, as texts for people have it: "1 file", "2 files".
func Count(n int64, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}

// comparePaths orders paths as a commit takes them: depth first, siblings by the bytes of
// their names.
func comparePaths(a, b string) int {
	n := min(len(a), len(b))
	for i := range n {
		if a[i] == b[i] {
			continue
		}
		switch {
		case a == "/":
			return -1
		case b == "/":
			return 1
		case a[i] == '/':
			return -1
		case b[i] == '/':
			return 1
		}
		return int(a[i]) - int(b[i])
	}
	return len(a) - len(b)
}
