package restore

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

	"github.com/snapgate/gateway/pull"
)

// Counts is what a restore has seen and done so far. With DryRun it is what would be done.
type Counts struct {
	Files       int64 `json:"files"` // of the snapshot, below the path
	Directories int64 `json:"directories"`
	Symlinks    int64 `json:"symlinks"`
	Bytes       int64 `json:"bytes"` // of the files

	Restored      int64 `json:"restored"` // files and symbolic links that were written
	RestoredBytes int64 `json:"restored_bytes"`
	Replaced      int64 `json:"replaced"`  // of these, in the place of others
	Unchanged     int64 `json:"unchanged"` // were there already
	Kept          int64 `json:"kept"`      // were there, differ, and were kept, as overwrite says
	Resumed       int64 `json:"resumed"`   // files that an earlier run had begun
	Verified      int64 `json:"verified"`  // files and symbolic links that were read back
	Deleted       int64 `json:"deleted"`   // names that the snapshot does not have, those below directories, too

	DoneBytes int64 `json:"done_bytes"` // of files that are there, or as far as they are
	SentBytes int64 `json:"sent_bytes"` // also what was sent twice
	Problems  int64 `json:"problems"`
	Deleting  int64 `json:"problems_deleting"` // of the problems, those that came of Delete, after all was restored
	LeftOut   int64 `json:"left_out"`          // symbolic links that the protocol of the destination has not: no problems
}

// Report collects what happens in a restore. The zero Report is ready. Safe for concurrent use.
type Report struct {
	files, dirs, symlinks, bytes                                                atomic.Int64
	restored, restoredBytes, replaced, unchanged, kept, resumed, verified, gone atomic.Int64
	done, sent                                                                  atomic.Int64
	problems, leftOut                                                           pull.Problems
	deletes                                                                     atomic.Bool // all is restored, see Counts.Deleting
	deleting                                                                    atomic.Int64

	mu           sync.Mutex // guards what follows
	began, ended time.Time
	dry          bool // nothing is written
	made         bool // see Made
	current      string
	cannot       []string
}

func (r *Report) note(path string, err error) {
	if r.deletes.Load() {
		r.deleting.Add(1)
	}
	r.problems.Note(path, err)
}

// leaveOut notes what the destination cannot have.
func (r *Report) leaveOut(path string, err error) { r.leftOut.Note(path, err) }

func (r *Report) at(path string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.current = path
}

// Current is a path that is being worked on.
func (r *Report) Current() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.current
}

// Counts returns what there is so far.
func (r *Report) Counts() Counts {
	return Counts{
		Files: r.files.Load(), Directories: r.dirs.Load(), Symlinks: r.symlinks.Load(), Bytes: r.bytes.Load(),
		Restored: r.restored.Load(), RestoredBytes: r.restoredBytes.Load(), Replaced: r.replaced.Load(),
		Unchanged: r.unchanged.Load(), Kept: r.kept.Load(), Resumed: r.resumed.Load(), Verified: r.verified.Load(),
		Deleted: r.gone.Load(), DoneBytes: r.done.Load(), SentBytes: r.sent.Load(), Problems: r.Failed(), Deleting: r.deleting.Load(),
		LeftOut: r.leftOut.Total(),
	}
}

// Failed is how many problems there are: 0 means that all of the path is in the destination, but
// for what Overwrite has kept and what LeftOut names, and that what Delete was to remove is not.
func (r *Report) Failed() int64 { return r.problems.Total() }

// Problems returns the problems by path, up to 100,000 of them and 64 MB; omitted is how many
// more there are.
func (r *Report) Problems() (list []pull.Problem, omitted int64) { return r.problems.List() }

// LeftOut returns the symbolic links, by path, that the protocol of the destination has not, as many as Problems would;
// omitted is how many more there are. What lies in their places is as it was.
func (r *Report) LeftOut() (list []pull.Problem, omitted int64) { return r.leftOut.List() }

// Cannot names the attributes that the destination cannot have.
func (r *Report) Cannot() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.cannot)
}

// cannotHave notes what the destination cannot have.
func (r *Report) cannotHave(name string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !slices.Contains(r.cannot, name) {
		r.cannot = append(r.cannot, name)
	}
}

// Made reports whether the destination was not there, and was made, or would be.
func (r *Report) Made() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.made
}

func (r *Report) makes() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.made = true
}

func (r *Report) begin(dry bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.began, r.dry = time.Now(), dry
}

func (r *Report) end(w pull.Writes) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ended = time.Now()
	for _, a := range []struct {
		name string
		can  bool
	}{{"modes", w.Mode}, {"times", w.ModTime}, {"modes of directories", w.DirMode || !w.Mode}, {"times of directories", w.DirTime || !w.ModTime}} {
		if !a.can {
			r.cannot = append(r.cannot, a.name)
		}
	}
}

// MarshalJSON gives all of the report.
func (r *Report) MarshalJSON() ([]byte, error) {
	list, omitted := r.Problems()
	if list == nil {
		list = []pull.Problem{}
	}
	leftOut, _ := r.LeftOut() // Counts has how many there are
	r.mu.Lock()
	began, seconds := r.began, r.ended.Sub(r.began).Seconds()
	r.mu.Unlock()
	return json.Marshal(struct {
		Began   time.Time `json:"began"`
		Seconds float64   `json:"seconds"`
		Made    bool      `json:"destination_made,omitempty"` // it was not there
		Counts
		Cannot  []string       `json:"cannot_set,omitempty"`
		List    []pull.Problem `json:"errors"`
		Omitted int64          `json:"errors_omitted,omitempty"`
		LeftOut []pull.Problem `json:"left_out_paths,omitempty"`
	}{began, max(seconds, 0), r.Made(), r.Counts(), r.Cannot(), list, omitted, leftOut})
}

// WriteText writes a summary for people: counts, then at most most of what was left out, and as many problems, one a line.
// Of a dry run it says what would be.
func (r *Report) WriteText(w io.Writer, most int) error {
	r.mu.Lock()
	would := ""
	if r.dry {
		would = "would be "
	}
	r.mu.Unlock()
	c := r.Counts()
	size := func(n int64) string { return humanize.IBytes(uint64(max(n, 0))) }
	var b strings.Builder
	fmt.Fprintf(&b, "%s, %s, %s, %s\n", pull.Count(c.Files, "file", "files"), pull.Count(c.Directories, "directory", "directories"),
		pull.Count(c.Symlinks, "link", "links"), size(c.Bytes))
	fmt.Fprintf(&b, "%d %srestored (%s), %d of them replaced, %d there already\n", c.Restored, would, size(c.RestoredBytes), c.Replaced, c.Unchanged)
	kept := pull.Count(c.Kept, "other was there and was kept", "others were there and were kept")
	if would != "" {
		kept = pull.Count(c.Kept, "other is there and would be kept", "others are there and would be kept")
	}
	if c.Kept > 0 {
		b.WriteString(kept + "\n")
	}
	for _, line := range []struct {
		n    int64
		text string
	}{
		{c.Resumed, "gone on with where an earlier run was cut off"},
		{c.Verified, "read back and found equal"},
		{c.Deleted, would + "deleted that the snapshot does not have"},
	} {
		if line.n > 0 {
			fmt.Fprintf(&b, "%d %s\n", line.n, line.text)
		}
	}
	if cannot := r.Cannot(); len(cannot) > 0 {
		fmt.Fprintf(&b, "not set, as the server cannot: %s\n", strings.Join(cannot, ", "))
	}
	b.WriteString(r.leftOut.TextOf(most, "link "+would+"left out", "links "+would+"left out"))
	b.WriteString(r.problems.Text(most))
	_, err := io.WriteString(w, b.String())
	return err
}
