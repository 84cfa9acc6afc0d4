package pull

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"github.com/dustin/go-humanize"
)

// maxProblems is how many problems a Report keeps with their texts, at about 300 bytes each;
// the others are counted.
const maxProblems = 100_000

// Problem is a path that was not captured as it is on the remote, and why.
type Problem struct {
	Path string // of the entry, or of the directory when the name cannot be shown as a path
	Kind Kind
	Text string
}

// SortProblems sorts problems by path, as a tree is walked.
func SortProblems(list []Problem) {
	slices.SortStableFunc(list, func(a, b Problem) int { return comparePaths(a.Path, b.Path) })
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

// Counts is what a pull has seen and done so far. Bytes are of contents.
type Counts struct {
	Files       int64 `json:"files"` // on the remote, without what is excluded
	Directories int64 `json:"directories"`
	Symlinks    int64 `json:"symlinks"`
	Bytes       int64 `json:"bytes"`

	Excluded int64 `json:"excluded"` // names; what is below them was not looked at
	Special  int64 `json:"special"`  // devices, sockets and pipes, which are left out

	New        int64 `json:"new"`        // names that the base does not have
	Changed    int64 `json:"changed"`    // files with other contents, links with other targets, other types
	Attributes int64 `json:"attributes"` // entries of which only attributes differ
	Unchanged  int64 `json:"unchanged"`
	Removed    int64 `json:"removed"` // names; what was below them is gone too
	Kept       int64 `json:"kept"`    // names of the base that could not be looked at, and stay

	Read      int64 `json:"read"` // files read whole
	ReadBytes int64 `json:"read_bytes"`
	Problems  int64 `json:"problems"`
}

// Report collects what happens in a pull. The zero Report is ready. Safe for concurrent use.
type Report struct {
	files, dirs, symlinks, bytes, excluded, special  atomic.Int64
	added, changed, attributes, unchanged, rem, kept atomic.Int64
	read, readBytes                                  atomic.Int64
	wanted, wantedBytes, moved                       atomic.Int64
	current                                          atomic.Pointer[string]
	listed                                           atomic.Bool // all of the tree
	expected                                         atomic.Int64
	mu                                               sync.Mutex // guards what follows
	began, ended                                     time.Time
	problems                                         []Problem
	total, failed                                    int64
}

// note records a problem.
func (r *Report) note(path string, err error) {
	p := Problem{Path: path, Kind: KindOf(err), Text: err.Error()}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.total++
	if p.Kind != KindSpecial {
		r.failed++
	}
	if len(r.problems) < maxProblems {
		r.problems = append(r.problems, p)
	}
}

// Begin and End note the time of a pull.
func (r *Report) Begin(now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.began = now
}

// End notes when a pull was over.
func (r *Report) End(now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ended = now
}

// Counts returns what there is so far.
func (r *Report) Counts() Counts {
	r.mu.Lock()
	total := r.total
	r.mu.Unlock()
	return Counts{
		Files: r.files.Load(), Directories: r.dirs.Load(), Symlinks: r.symlinks.Load(), Bytes: r.bytes.Load(),
		Excluded: r.excluded.Load(), Special: r.special.Load(),
		New: r.added.Load(), Changed: r.changed.Load(), Attributes: r.attributes.Load(), Unchanged: r.unchanged.Load(),
		Removed: r.rem.Load(), Kept: r.kept.Load(),
		Read: r.read.Load(), ReadBytes: r.readBytes.Load(), Problems: total,
	}
}

// Progress is how far a pull is.
type Progress struct {
	Counts
	Moved int64 // bytes of contents that came so far, those of files under way and of second attempts, too
	// Wanted are the files to be read, as far as that is known: when Listed is set, it is.
	Wanted, WantedBytes int64
	Listed              bool
	Expected            int64  // files of the snapshot before, which may tell how many there are
	Path                string // the file that was opened last
}

// Progress returns how far the pull is.
func (r *Report) Progress() Progress {
	p := Progress{
		Listed:   r.listed.Load(), // first: what is counted then is all
		Expected: r.expected.Load(),
		Moved:    r.moved.Load(), Wanted: r.wanted.Load(), WantedBytes: r.wantedBytes.Load(), Counts: r.Counts(),
	}
	if path := r.current.Load(); path != nil {
		p.Path = *path
	}
	return p
}

// Failed is how many problems there are without those of KindSpecial: 0 means that all that
// can be in a snapshot is in it.
func (r *Report) Failed() int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.failed
}

// Problems returns the problems by path, up to 100,000 of them; omitted is how many more
// there are.
func (r *Report) Problems() (list []Problem, omitted int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	list = slices.Clone(r.problems)
	SortProblems(list)
	return list, r.total - int64(len(list))
}

// MarshalJSON gives all of the report.
func (r *Report) MarshalJSON() ([]byte, error) {
	list, omitted := r.Problems()
	r.mu.Lock()
	began, ended := r.began, r.ended
	r.mu.Unlock()
	out := struct {
		Began   *time.Time `json:"began,omitempty"`
		Seconds float64    `json:"seconds"`
		Counts
		Failed  int64     `json:"failed"`
		List    []Problem `json:"errors"`
		Omitted int64     `json:"errors_omitted,omitempty"`
	}{Counts: r.Counts(), Failed: r.Failed(), List: list, Omitted: omitted}
	if !began.IsZero() {
		out.Began = &began
		if !ended.IsZero() {
			out.Seconds = ended.Sub(began).Seconds()
		}
	}
	if out.List == nil {
		out.List = []Problem{}
	}
	return json.Marshal(out)
}

// WriteText writes a summary for people: counts, then at most most problems, one a line.
func (r *Report) WriteText(w io.Writer, most int) error {
	c := r.Counts()
	size := func(n int64) string { return humanize.IBytes(uint64(max(n, 0))) }
	var b strings.Builder
	fmt.Fprintf(&b, "%d files, %d directories, %d links, %s\n", c.Files, c.Directories, c.Symlinks, size(c.Bytes))
	fmt.Fprintf(&b, "%d new, %d changed, %d with other attributes, %d removed, %d unchanged\n", c.New, c.Changed, c.Attributes, c.Removed, c.Unchanged)
	fmt.Fprintf(&b, "%d files read, %s\n", c.Read, size(c.ReadBytes))
	if c.Excluded > 0 || c.Special > 0 {
		fmt.Fprintf(&b, "left out: %d excluded, %d devices, sockets and pipes\n", c.Excluded, c.Special)
	}
	if c.Kept > 0 {
		fmt.Fprintf(&b, "%d entries stay as they were, because their directories could not be read whole\n", c.Kept)
	}
	list, omitted := r.Problems()
	b.WriteString(ProblemsText(list, omitted, most))
	_, err := io.WriteString(w, b.String())
	return err
}

// ProblemsText names at most most of the problems, one a line, and says how many more there are,
// with those that are not in the list. It is empty without problems.
func ProblemsText(list []Problem, omitted int64, most int) string {
	var b strings.Builder
	if n := int64(len(list)) + omitted; n > 0 {
		fmt.Fprintf(&b, "%d problems:\n", n)
	}
	for i, p := range list {
		if i >= most {
			omitted += int64(len(list) - i)
			break
		}
		fmt.Fprintf(&b, "  %s: %s\n", quotePath(p.Path), p.Text)
	}
	if omitted > 0 {
		fmt.Fprintf(&b, "  and %d more\n", omitted)
	}
	return b.String()
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
