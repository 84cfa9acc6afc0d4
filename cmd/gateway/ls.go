package main

import (
	"context"
	"fmt"
	"path"
	"strings"

	"github.com/spf13/cobra"

	"github.com/snapgate/gateway/snapshotter"
)

// lsCommand is a call of gateway ls.
type lsCommand struct {
	viewFlags
	long, recursive bool
}

func (p *program) lsCommand() *cobra.Command {
	l := &lsCommand{}
	c := &cobra.Command{
		Use:   "ls SNAP[:PATH]",
		Short: "List a directory of a snapshot",
		Long: `Lists what a snapshot has in a directory, or the one file that PATH is, in byte order of the
names. The running gateway does it, if there is one; else the store is read. It changes nothing.

` + snapWords + `

Names with characters that would upset a terminal are quoted as in Go and C. With --json every
line is an object with path (in the snapshot), kind (file, directory, link), size, mode (octal),
mtime (UTC), uid, gid, owner, group, content_type, and target (of a link); a path that is not
UTF-8 has its bytes in path_base64 as well.`,
		Example: `  gateway ls -c /etc/gateway.yaml main
  gateway ls -l "main@yesterday 14:00:/etc"
  gateway ls -R --json 3f2a61c0 | jq -r 'select(.size > 1e9) | .path'`,
		Args: arguments(1, 1),
		RunE: func(c *cobra.Command, args []string) error {
			return p.look(c, args, &l.viewFlags, func(ctx context.Context, v *viewing) error { return l.run(ctx, v, args[0]) })
		},
	}
	c.Flags().BoolVarP(&l.long, "long", "l", false, "with modes, owners, sizes and times")
	c.Flags().BoolVarP(&l.recursive, "recursive", "R", false, "all that is below, too")
	l.add(c)
	return c
}

func (l *lsCommand) run(ctx context.Context, v *viewing, ref string) error {
	view, top, e, err := v.entry(ctx, ref)
	if err != nil {
		return err
	}
	if e.Kind != snapshotter.Dir {
		return l.print(v, top, path.Base(top), e)
	}
	each := func(p string, e snapshotter.Entry) error {
		return l.print(v, p, strings.TrimPrefix(strings.TrimPrefix(p, top), "/"), e)
	}
	if l.recursive {
		return walk(ctx, view, top, each)
	}
	for e, err := range entries(ctx, view, top) {
		if err != nil {
			return err
		}
		if err := each(below(top, e.Name), e); err != nil {
			return err
		}
	}
	return nil
}

func (l *lsCommand) print(v *viewing, path, name string, e snapshotter.Entry) error {
	switch {
	case l.asJSON:
		return v.asJSON.Encode(newEntryLine(path, e))
	case l.long:
		return v.long(v.out, name, e)
	case e.Kind == snapshotter.Symlink: // its target is for -l
		e.Kind = snapshotter.File
	}
	_, err := fmt.Fprintln(v.out, shownName(name, e))
	return err
}
