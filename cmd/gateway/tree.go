package main

import (
	"context"
	"errors"
	"fmt"
	"iter"

	"github.com/spf13/cobra"

	"github.com/snapgate/gateway/pull"
	"github.com/snapgate/gateway/snapshotter"
)

// treeCommand is a call of gateway tree.
type treeCommand struct {
	viewFlags
	depth          int
	dirs           bool
	files, folders uint64
}

func (p *program) treeCommand() *cobra.Command {
	t := &treeCommand{}
	c := &cobra.Command{
		Use:   "tree SNAP[:PATH]",
		Short: "Draw a directory of a snapshot as a tree",
		Long: `Draws what a snapshot has in a directory and below it. The running gateway does it, if there is
one; else the store is read. It changes nothing.

` + snapWords + `

With --json every line is an object as of gateway ls -R.`,
		Example: `  gateway tree -c /etc/gateway.yaml main
  gateway tree -L 2 --directories web1@yesterday:/srv`,
		Args: arguments(1, 1),
		RunE: func(c *cobra.Command, args []string) error {
			if c.Flags().Changed("level") && t.depth < 1 {
				return usageError(c, errors.New("--level is 1 at least"))
			}
			return p.look(c, args, &t.viewFlags, func(ctx context.Context, v *viewing) error { return t.run(ctx, v, args[0]) })
		},
	}
	c.Flags().IntVarP(&t.depth, "level", "L", 0, "show so many levels")
	c.Flags().BoolVarP(&t.dirs, "directories", "d", false, "show directories alone")
	t.add(c)
	return c
}

func (t *treeCommand) run(ctx context.Context, v *viewing, ref string) error {
	view, top, e, err := v.entry(ctx, ref)
	if err != nil {
		return err
	}
	s := view.Snapshot()
	if !t.asJSON {
		name := shownName(top, e)
		if _, err := fmt.Fprintf(v.out, "%s  (%s, %s, %s)\n", name, printable(s.Share), v.when(s.Time), s.ID.String()[:shortID]); err != nil {
			return err
		}
	}
	if e.Kind == snapshotter.Dir {
		if err := t.draw(ctx, v, view, top, "", 1); err != nil {
			return err
		}
	}
	if t.asJSON {
		return nil
	}
	if t.dirs {
		_, err = fmt.Fprintf(v.out, "\n%s\n", count(t.folders, "directory", "directories"))
		return err
	}
	_, err = fmt.Fprintf(v.out, "\n%s, %s\n", count(t.folders, "directory", "directories"), count(t.files, "file", "files"))
	return err
}

// draw draws what is in a directory; before is what stands before each line.
func (t *treeCommand) draw(ctx context.Context, v *viewing, view *snapshotter.View, dir, before string, level int) error {
	next, stop := iter.Pull2(t.shown(ctx, view, dir))
	defer stop()
	e, err, ok := next()
	for ok {
		if err != nil {
			return err
		}
		after, aerr, more := next()
		path := below(dir, e.Name)
		if err := t.line(v, path, before, more, e); err != nil {
			return err
		}
		if e.Kind == snapshotter.Dir {
			t.folders++
			if t.depth == 0 || level < t.depth {
				indent := "│   "
				if !more {
					indent = "    "
				}
				if err := t.draw(ctx, v, view, path, before+indent, level+1); err != nil {
					return err
				}
			}
		} else {
			t.files++
		}
		e, err, ok = after, aerr, more
	}
	return nil
}

// shown lists what of a directory is drawn.
func (t *treeCommand) shown(ctx context.Context, view *snapshotter.View, dir string) iter.Seq2[snapshotter.Entry, error] {
	return func(yield func(snapshotter.Entry, error) bool) {
		for e, err := range entries(ctx, view, dir) {
			if t.dirs && err == nil && e.Kind != snapshotter.Dir {
				continue
			}
			if !yield(e, err) {
				return
			}
		}
	}
}

func (t *treeCommand) line(v *viewing, path, before string, more bool, e snapshotter.Entry) error {
	if t.asJSON {
		return v.asJSON.Encode(newEntryLine(path, e))
	}
	branch := "├── "
	if !more {
		branch = "└── "
	}
	_, err := fmt.Fprintf(v.out, "%s%s%s\n", before, branch, shownName(e.Name, e))
	return err
}

// count is a number with its word.
func count[N int | int64 | uint64](n N, one, many string) string {
	return pull.Count(int64(n), one, many)
}
