package main

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/snapgate/gateway/snapshotter"
)

func (p *program) catCommand() *cobra.Command {
	f := &viewFlags{noPager: true}
	c := &cobra.Command{
		Use:   "cat SNAP:PATH...",
		Short: "Print files of a snapshot",
		Long: `Prints the bytes of files, one after the other, as they are; on a terminal, control characters and
bytes that are not UTF-8 as escapes. The running gateway does it, if there is one; else the store is
read. It changes nothing. A symbolic link is not followed.

` + snapWords,
		Example: `  gateway cat -c /etc/gateway.yaml main:/etc/hosts
  gateway cat "main@3 hours ago:/db/dump.sql.gz" | gunzip | less`,
		Args: arguments(1, 1000),
		RunE: func(c *cobra.Command, args []string) error {
			return p.look(c, args, f, func(ctx context.Context, v *viewing) error {
				for _, ref := range args {
					if err := v.cat(ctx, ref); err != nil {
						return err
					}
				}
				return nil
			})
		},
	}
	f.addStore(c)
	return c
}

// errNoFile says that the bytes of something are asked for that has none.
var errNoFile = errors.New("not a file")

func (v *viewing) cat(ctx context.Context, ref string) error {
	view, path, e, err := v.entry(ctx, ref)
	if err != nil {
		return err
	}
	switch e.Kind {
	case snapshotter.Dir:
		return &hintedError{err: fmt.Errorf("%s: %w, but a directory", printable(path), errNoFile), hint: "gateway ls lists it; gateway get writes it to a local directory"}
	case snapshotter.Symlink:
		return fmt.Errorf("%s: %w, but a link to %s", printable(path), errNoFile, printable(e.Target))
	}
	return copyFile(ctx, v.out, view, path)
}

// copyFile writes the bytes of a file.
func copyFile(ctx context.Context, w io.Writer, view *snapshotter.View, path string) error {
	r, err := view.Open(ctx, path)
	if err != nil {
		return err
	}
	defer r.Close()
	buf := make([]byte, 1<<20)
	for off := int64(0); off < r.Size(); {
		if err := ctx.Err(); err != nil {
			return err
		}
		n, err := r.ReadAt(buf[:min(int64(len(buf)), r.Size()-off)], off)
		if err != nil && !(errors.Is(err, io.EOF) && off+int64(n) == r.Size()) {
			return fmt.Errorf("%s: %w", printable(path), err)
		}
		if _, err := w.Write(buf[:n]); err != nil {
			return err
		}
		off += int64(n)
	}
	return nil
}
