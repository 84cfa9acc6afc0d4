package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"github.com/snapgate/gateway/cmd/gateway/internal/snapref"
	"github.com/snapgate/gateway/snapshotter"
)

// findCommand is a call of gateway find.
type findCommand struct {
	viewFlags
	size, newer, time, contentType string
	ignoreCase, long, all          bool
}

func (p *program) findCommand() *cobra.Command {
	f := &findCommand{}
	c := &cobra.Command{
		Use:   "find SNAP[:PATH] [GLOB]...",
		Short: "Find files in a snapshot, or when they came and went",
		Long: `Finds what is below PATH and has a name that one of the GLOBs matches, or all. A GLOB with a slash
is matched with the whole path, another with the name alone; *, ?, [abc], {one,other} are as in a
shell, and ** stands for any directories. Names and content types are looked up in the snapshot's
indexes. The running gateway does it, if there is one; else the store is read.

` + snapWords + `

--size is a size, +SIZE for at least, -SIZE for at most, or SIZE..SIZE; --time is FROM..TO, where
either may be left out, and a time as in SNAP. They and --type find no directories.

With --all, all snapshots of the share are compared, from the first one to SNAP, and what
appeared, changed or vanished is named with the snapshot that shows it.

With --json every line is an object as of gateway ls, with event (appeared, changed, vanished),
snapshot and time in front with --all.`,
		Example: `  gateway find -c /etc/gateway.yaml main '*.conf'
  gateway find -l main:/var --size +1GiB --newer "3 days ago"
  gateway find --all main '/docs/**/report*.pdf'`,
		Args: arguments(1, 1000),
		RunE: func(c *cobra.Command, args []string) error {
			q, err := f.query(args[1:], p.now())
			if err != nil {
				return usageError(c, err)
			}
			return p.look(c, args, &f.viewFlags, func(ctx context.Context, v *viewing) error { return f.run(ctx, v, args[0], q) })
		},
	}
	fl := c.Flags()
	fl.StringVar(&f.size, "size", "", "files of that `SIZE`: +10MiB, -1kB, 1MB..2MB")
	fl.StringVar(&f.time, "time", "", "last changed `FROM..TO`")
	fl.StringVar(&f.newer, "newer", "", "last changed since a `TIME`")
	fl.StringVar(&f.contentType, "type", "", "files of a content `TYPE`: image/png, image/*")
	fl.BoolVarP(&f.ignoreCase, "ignore-case", "i", false, "upper and lower case are the same in a GLOB")
	fl.BoolVarP(&f.long, "long", "l", false, "with modes, owners, sizes and times")
	fl.BoolVarP(&f.all, "all", "a", false, "when it appeared, changed and vanished, in all snapshots")
	f.add(c)
	fl.SortFlags = false
	return c
}

// query puts flags and patterns into the form of a search.
func (f *findCommand) query(globs []string, now time.Time) (q snapshotter.Query, err error) {
	if q.MinSize, q.MaxSize, err = sizeRange(f.size); err != nil {
		return q, err
	}
	if f.newer != "" {
		if q.After, err = timeFrom(f.newer, now); err != nil {
			return q, fmt.Errorf("--newer: %w", err)
		}
	}
	if f.time != "" {
		from, to, ok := strings.Cut(f.time, "..")
		if !ok {
			return q, fmt.Errorf("--time %q: it is FROM..TO, where either may be left out", f.time)
		}
		if from != "" {
			if q.After, err = timeFrom(from, now); err != nil {
				return q, fmt.Errorf("--time: %w", err)
			}
		}
		if to != "" {
			if q.Before, err = snapref.ParseTime(to, now); err != nil {
				return q, fmt.Errorf("--time: %w", err)
			}
		}
	}
	if q.ContentType = strings.ToLower(f.contentType); q.ContentType != "" && !strings.Contains(q.ContentType, "/") {
		return q, fmt.Errorf("--type %q: it is a content type, as image/png, or image/* for all of a kind", f.contentType)
	}
	q.Name, err = snapshotter.MatchNames(globs, f.ignoreCase)
	return q, err
}

// timeFrom reads a time from which on something is meant: a date stands for its beginning.
func timeFrom(s string, now time.Time) (time.Time, error) {
	if t, err := snapref.ParseTime(s+" 00:00", now); err == nil {
		return t, nil
	}
	return snapref.ParseTime(s, now)
}

// sizeRange reads --size, as limits of a query.
func sizeRange(s string) (least, most int64, err error) {
	parse := func(s string) (n int64) {
		if s == "" || err != nil {
			return 0
		}
		u, perr := humanize.ParseBytes(s)
		if perr != nil || u > 1<<62 {
			err = fmt.Errorf("--size %q: it is no size: write 10MiB, +10MiB, -1kB or 1MB..2MB", s)
		}
		return int64(u)
	}
	upTo := func(n int64) int64 {
		if n == 0 {
			return -1
		}
		return n
	}
	switch from, to, isRange := strings.Cut(s, ".."); {
	case s == "":
	case isRange && from == "" && to == "":
		err = errors.New("--size: a range without an end")
	case isRange:
		if least = parse(from); to != "" {
			most = upTo(parse(to))
		}
	case s[0] == '+':
		least = parse(s[1:])
	case s[0] == '-':
		most = upTo(parse(s[1:]))
	default:
		least = parse(s)
		most = upTo(least)
	}
	if err == nil && most > 0 && most < least {
		err = fmt.Errorf("--size %q: it ends before it begins", s)
	}
	return least, most, err
}

func (f *findCommand) run(ctx context.Context, v *viewing, ref string, q snapshotter.Query) error {
	found, err := v.find(ref)
	if err != nil {
		return f.noSnap(v, ref, err)
	}
	q.Path, q.Entries = found.Path, f.long || f.asJSON
	if f.all {
		return f.through(ctx, v, found, q)
	}
	view, _, e, err := v.entry(ctx, ref)
	if err != nil {
		return err
	}
	if e.Kind != snapshotter.Dir {
		return fmt.Errorf("%s: not a directory", printable(found.Path))
	}
	for hit, err := range view.Search(ctx, q) {
		if err != nil {
			return err
		}
		if err := f.print(v, hit); err != nil {
			return err
		}
	}
	return nil
}

// noSnap says of a first argument that is a pattern that SNAP is missing.
func (f *findCommand) noSnap(v *viewing, ref string, err error) error {
	if len(v.list) == 0 || !strings.ContainsAny(ref, "*?[{") {
		return err
	}
	return &hintedError{
		err: fmt.Errorf("%q is a pattern, and no snapshot is called so: in which one is to be looked?", ref),
		hint: fmt.Sprintf("write the share or snapshot first: gateway find %s %s; gateway snapshots lists them",
			shellQuote(v.list[0].Share), shellQuote(ref)),
	}
}

func (f *findCommand) print(v *viewing, hit snapshotter.Found) error {
	switch {
	case f.asJSON:
		return v.asJSON.Encode(newEntryLine(hit.Path, hit.Entry))
	case f.long:
		return v.long(v.out, hit.Path, hit.Entry)
	}
	_, err := fmt.Fprintln(v.out, printable(hit.Path))
	return err
}

// eventLine is what has become of a path, in find --all --json.
type eventLine struct {
	Event    string `json:"event"` // appeared, changed or vanished
	Snapshot string `json:"snapshot"`
	Time     string `json:"time"`
	entryLine
}

// through compares all snapshots that a share has had, one after the other.
func (f *findCommand) through(ctx context.Context, v *viewing, found snapref.Found, q snapshotter.Query) error {
	q.Entries = true
	line := snapshotter.Line(v.list, found.Snapshot)
	var was *snapshotter.View
	var unread []snapshotter.Unread
	for _, s := range line {
		view, err := v.snaps.View(ctx, s.ID)
		if err == nil {
			err = f.step(ctx, v, was, view, q)
		}
		switch {
		case errors.Is(err, errPrint), errors.Is(err, snapshotter.ErrUnavailable), ctx.Err() != nil:
			return err
		case err != nil:
			unread = append(unread, snapshotter.Unread{Snapshot: s, Err: err})
			continue
		}
		was = view
	}
	return v.unread(unread)
}

// errPrint is an error of what is printed to.
var errPrint = errors.New("print")

// step says what has become of paths from one snapshot to the next.
func (f *findCommand) step(ctx context.Context, v *viewing, was, now *snapshotter.View, q snapshotter.Query) error {
	if was == nil {
		for hit, err := range now.Search(ctx, q) {
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			if err != nil {
				return err
			}
			if err := f.event(v, "appeared", now.Snapshot(), hit.Path, hit.Entry); err != nil {
				return err
			}
		}
		return nil
	}
	for d, err := range snapshotter.Diff(ctx, was, now, q.Path) {
		if errors.Is(err, fs.ErrNotExist) { // in neither
			return nil
		}
		if err != nil {
			return err
		}
		event, e, err := v.snaps.Event(ctx, &q, d)
		if err != nil {
			return err
		}
		if event == "" {
			continue
		}
		if err := f.event(v, event, now.Snapshot(), d.Path, *e); err != nil {
			return err
		}
	}
	return nil
}

func (f *findCommand) event(v *viewing, event string, s snapshotter.Snapshot, path string, e snapshotter.Entry) error {
	var err error
	if f.asJSON {
		err = v.asJSON.Encode(eventLine{Event: event, Snapshot: s.ID.String(), Time: stamp(s.Time), entryLine: newEntryLine(path, e)})
	} else {
		if _, err = fmt.Fprintf(v.out, "%s  %s  %-8s  ", v.when(s.Time), s.ID.String()[:shortID], event); err == nil {
			if f.long {
				err = v.long(v.out, path, e)
			} else {
				_, err = fmt.Fprintln(v.out, shownName(path, e))
			}
		}
	}
	if err != nil {
		return fmt.Errorf("%w: %w", errPrint, err)
	}
	return nil
}
