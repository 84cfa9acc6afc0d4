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

	"github.com/dustin/go-humanize"
)

// Counts is what a pull has seen and done so far. Bytes are of contents.
type Counts struct {
	Files       int64 `json:"files"` // on the remote, without what is excluded
	Directories int64 `json:"directories"`
	Symlinks    int64 `json:"symlinks"`
	Bytes       int64 `json:"bytes"`

	Excluded int64 `json:"excluded"` // names; what is below them was not looked at
	Special  int64 `json:"special"`  // devices, sockets and pipes, which are left out

	New        int64 `json:"new"`        // names that the base does not have, without files that could not be read
	Changed    int64 `json:"changed"`    // files with other contents, links with other targets, other types; likewise
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
	problems                                         Problems
	mu                                               sync.Mutex // guards what follows
	began, ended                                     time.Time
	stays                                            []string // the paths that kept counts, up to maxUnsettled and maxProblemBytes
	stayBytes                                        int      // of these
}

// note records a problem.
func (r *Report) note(path string, err error) { r.problems.Note(path, err) }

// noteLine records a problem with a line of a listing, or with a name in it. It is for the scan alone: what the line
// may mean is kept.
func (r *Report) noteLine(path string, err error) {
	r.problems.add(Problem{Path: path, Kind: KindOf(err), Text: err.Error(), line: true})
}

// keep notes a path of the base that could not be looked at, and stays.
func (r *Report) keep(path string) {
	r.kept.Add(1)
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.stays) < maxUnsettled && r.stayBytes < maxProblemBytes {
		r.stays = append(r.stays, path)
		r.stayBytes += len(path)
	}
}

// keptPaths are the paths that stay; all says that there are no others.
func (r *Report) keptPaths() (paths []string, all bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.stays), int64(len(r.stays)) == r.kept.Load()
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
	return Counts{
		Files: r.files.Load(), Directories: r.dirs.Load(), Symlinks: r.symlinks.Load(), Bytes: r.bytes.Load(),
		Excluded: r.excluded.Load(), Special: r.special.Load(),
		New: r.added.Load(), Changed: r.changed.Load(), Attributes: r.attributes.Load(), Unchanged: r.unchanged.Load(),
		Removed: r.rem.Load(), Kept: r.kept.Load(),
		Read: r.read.Load(), ReadBytes: r.readBytes.Load(), Problems: r.problems.Total(),
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
func (r *Report) Failed() int64 { return r.problems.Failed() }

// Problems returns the problems by path, up to 100,000 of them and 64 MB; omitted is how
// many more there are.
func (r *Report) Problems() (list []Problem, omitted int64) { return r.problems.List() }

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
	fmt.Fprintf(&b, "%s, %s, %s, %s\n", Count(c.Files, "file", "files"), Count(c.Directories, "directory", "directories"),
		Count(c.Symlinks, "link", "links"), size(c.Bytes))
	fmt.Fprintf(&b, "%d new, %d changed, %d with other attributes, %d removed, %d unchanged\n", c.New, c.Changed, c.Attributes, c.Removed, c.Unchanged)
	fmt.Fprintf(&b, "%s read, %s\n", Count(c.Read, "file", "files"), size(c.ReadBytes))
	if c.Excluded > 0 || c.Special > 0 {
		fmt.Fprintf(&b, "left out: %d excluded, %d devices, sockets and pipes\n", c.Excluded, c.Special)
	}
	if c.Kept > 0 {
		fmt.Fprintf(&b, "%s could not be read whole\n", Count(c.Kept,
			"entry stays as it was, because its directory", "entries stay as they were, because their directories"))
	}
	b.WriteString(r.problems.Text(most))
	_, err := io.WriteString(w, b.String())
	return err
}
