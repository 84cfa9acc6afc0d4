package main

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/snapgate/gateway/cmd/gateway/internal/snapref"
	"github.com/snapgate/gateway/pull"
	"github.com/snapgate/gateway/pull/restore"
	"github.com/snapgate/gateway/snapshotter"
)

// restoreLine is a line of gateway restore --json.
type restoreLine struct {
	Type        string          `json:"type"` // progress, action or summary
	Snapshot    string          `json:"snapshot,omitempty"`
	Path        string          `json:"path,omitempty"` // in the snapshot, or of an action in the destination
	Destination string          `json:"destination,omitempty"`
	Action      string          `json:"action,omitempty"` // make, restore, replace, keep or delete
	Kind        string          `json:"kind,omitempty"`
	Size        *int64          `json:"size,omitempty"`
	Error       string          `json:"error,omitempty"` // why it was not finished
	Hint        string          `json:"hint,omitempty"`
	Lacks       []string        `json:"snapshot_lacks,omitempty"` // what could not be captured below the path
	Report      *restore.Report `json:"report,omitempty"`

	*restoreProgress
}

// restoreProgress is how far a restore is.
type restoreProgress struct {
	restore.Counts
	Seconds float64 `json:"seconds"`
	Current string  `json:"current,omitempty"`
}

func (rc *restoreCommand) encode(v any) error {
	enc := json.NewEncoder(rc.p.stdout)
	enc.SetEscapeHTML(false)
	return enc.Encode(v)
}

// watch shows how far the restore is until stop is called.
func (rc *restoreCommand) watch(report *restore.Report, found snapref.Found) (stop func()) {
	began := time.Now()
	if rc.asJSON {
		return every(jsonInterval, func(now time.Time) {
			_ = rc.encode(restoreLine{Type: "progress", restoreProgress: &restoreProgress{ // the summary tells when nobody reads
				Counts: report.Counts(), Seconds: now.Sub(began).Seconds(), Current: strings.ToValidUTF8(report.Current(), "\uFFFD"),
			}})
		})
	}
	if rc.line == nil {
		return func() {}
	}
	var bytes rateMeter
	end := every(lineInterval, func(now time.Time) {
		c := report.Counts()
		rc.line.draw(restoreText(c, found, bytes.add(now, c.DoneBytes), report.Current()))
	})
	return func() {
		end()
		rc.line.draw("")
	}
}

// restoreText is a line of progress. How much there is is known of a whole snapshot only.
func restoreText(c restore.Counts, found snapref.Found, rate float64, current string) string {
	done := c.Restored + c.Unchanged + c.Kept
	text := count(done, "file", "files") + ", " + bytesText(c.DoneBytes)
	total := int64(found.Snapshot.Size)
	whole := found.Path == "/" && total > 0
	if whole {
		text = fmt.Sprintf("%d of %s, %s of %s", done, count(found.Snapshot.Files, "file", "files"), bytesText(c.DoneBytes), bytesText(total))
	}
	if c.Problems > 0 {
		text += ", " + count(c.Problems, "problem", "problems")
	}
	if rate >= 1 {
		text += ", " + bytesText(int64(rate)) + "/s"
		if left := float64(total-c.DoneBytes) / rate; whole && left > 0 {
			text += ", " + roughly(time.Duration(left*float64(time.Second))) + " left"
		}
	}
	if current != "" {
		text += ", " + printable(current)
	}
	return text
}

// note prints what a dry run would do; nil when nobody wants to know.
func (rc *restoreCommand) note() func(restore.Action) {
	if !rc.dryRun || rc.quiet && !rc.asJSON {
		return nil
	}
	signs := map[string]string{"make": "+", "restore": "+", "replace": "M", "keep": "=", "delete": "-"}
	kinds := map[pull.Type]string{pull.File: "file", pull.Dir: "directory", pull.Symlink: "link"}
	return func(a restore.Action) {
		if rc.asJSON {
			line := restoreLine{Type: "action", Action: a.Op, Kind: kinds[a.Type], Path: strings.ToValidUTF8(a.Path, "\uFFFD")}
			if a.Type == pull.File && a.Op != "delete" {
				line.Size = &a.Size
			}
			_ = rc.encode(line)
			return
		}
		path := printable(a.Path)
		if a.Type == pull.Dir && a.Path != "/" {
			path += "/"
		}
		_, _ = fmt.Fprintf(rc.p.stdout, "%s %s\n", signs[a.Op], path)
	}
}

// lacks lists what the snapshot says could not be captured below the path: it cannot be
// restored either.
func (rc *restoreCommand) lacks(ctx context.Context, view *snapshotter.View, found snapref.Found) []string {
	var list []string
	if found.Snapshot.Errors == 0 {
		return nil
	}
	for f, err := range view.Errors(ctx) {
		if err != nil {
			return list // the restore itself has more to say about it
		}
		// One above says why nothing was deleted, and nothing of what was restored.
		if at, ok := within(found.Path, f.Path); ok && (rc.remove || at != "/" || f.Path == found.Path) {
			list = append(list, printable(f.Path)+": "+strings.ToValidUTF8(f.Text, "\uFFFD"))
		}
		if len(list) == maxLacks {
			break
		}
	}
	return list
}

// unsure lists the paths of the destination of what could not be captured, for restore.Config.Lacks. They have "/" when
// it may be anything.
func unsure(ctx context.Context, view *snapshotter.View, found snapref.Found) (paths []string, err error) {
	if found.Snapshot.Lost > 0 {
		return []string{"/"}, nil // it does not say what was lost
	}
	for f, err := range view.Errors(ctx) {
		if err != nil {
			return nil, err
		}
		at, ok := within(found.Path, f.Path)
		switch {
		case !ok:
		case at == "/", len(paths) == maxLacks:
			return []string{"/"}, nil
		default:
			paths = append(paths, at)
		}
	}
	return paths, nil
}

// lostHint says what can be done where nothing was deleted because of what the store had lost, "" when it was
// because of something else.
func lostHint(s snapshotter.Snapshot, report *restore.Report) string {
	const other = "restore to an empty directory, or remove by hand what is too much"
	switch {
	case s.Lost == 0 || report.Failed() > 0:
		return ""
	case s.Pulled():
		return "the store had lost files when this snapshot was made: pull the source again, and restore the new snapshot; or " + other
	}
	return "the store had lost files of this share, and no snapshot since then says which: " + other
}

// within returns where a path of the snapshot lies in the destination, to which dir is restored: at "/" also for a
// directory above, which may not have shown all of dir.
func within(dir, path string) (at string, ok bool) {
	below := func(dir, path string) (string, bool) {
		return strings.CutPrefix(path, strings.TrimSuffix(dir, "/")+"/")
	}
	if _, ok := below(path, dir); ok || path == dir {
		return "/", true
	}
	at, ok = below(dir, path)
	return "/" + at, ok
}

// maxLacks is how much of what a snapshot lacks is kept.
const maxLacks = 10_000

// summary says what was done.
func (rc *restoreCommand) summary(dst string, found snapref.Found, report *restore.Report, lacks []string, runErr error) error {
	if rc.asJSON {
		line := restoreLine{
			Type: "summary", Snapshot: found.Snapshot.ID.String(), Path: strings.ToValidUTF8(found.Path, "\uFFFD"),
			Destination: strings.ToValidUTF8(dst, "\uFFFD"), Report: report, Lacks: lacks,
		}
		if runErr != nil {
			line.Error, line.Hint = runErr.Error(), hintFor(runErr)
		}
		return rc.encode(line)
	}
	c := report.Counts()
	if rc.quiet && c.Problems+c.LeftOut == 0 {
		return nil
	}
	most := shownProblems
	if rc.verbose {
		most = max(int(c.Problems), int(c.LeftOut), len(lacks))
	}
	what := "restored"
	switch {
	case runErr != nil && c.Files+c.Directories == 0:
		return nil
	case rc.dryRun:
		what = "this would be restored, nothing was written"
	case runErr != nil:
		what = "not finished"
	}
	name := found.Snapshot.Share
	if found.Path != "/" {
		name += ":" + found.Path
	}
	_, _ = fmt.Fprintf(rc.p.stderr, "%s of %s (%s) to %s: %s\n", printable(name), found.Snapshot.Time.Local().Format("2006-01-02 15:04:05"),
		found.Snapshot.ID.String()[:8], printable(dst), what)
	if report.Made() {
		made := "was not there, and was made"
		if rc.dryRun {
			made = "is not there, and would be made"
		}
		_, _ = fmt.Fprintf(rc.p.stderr, "%s %s\n", printable(dst), made)
	}
	_ = report.WriteText(rc.p.stderr, most)
	if len(lacks) > 0 {
		_, _ = fmt.Fprintf(rc.p.stderr, "the snapshot lacks what could not be captured, or has it as it was before:\n")
	}
	for i, text := range lacks {
		if i == most {
			_, _ = fmt.Fprintf(rc.p.stderr, "  and %d more\n", len(lacks)-i)
			break
		}
		_, _ = fmt.Fprintf(rc.p.stderr, "  %s\n", escaped([]byte(text)))
	}
	if found.Snapshot.Lost > 0 {
		_, _ = fmt.Fprintf(rc.p.stderr, "%s not in the snapshot, as the store had lost them\n", count(found.Snapshot.Lost, "file is", "files are"))
	}
	return nil
}
