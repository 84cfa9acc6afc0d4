package main

import (
	"context"
	"fmt"
	"strings"
	"text/tabwriter"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"github.com/snapgate/gateway/snapshotter"
)

func (p *program) infoCommand() *cobra.Command {
	f := &viewFlags{}
	verbose := false
	c := &cobra.Command{
		Use:   "info SNAP[:PATH]",
		Short: "Describe a snapshot, or a file in it",
		Long: `Describes a snapshot: what it is of, what it holds, what made it, and what could not be captured.
With PATH it describes one file or directory; hash is the store's own, which is the same for the
same bytes and for no others. The running gateway does it, if there is one; else the store is read.

` + snapWords + `

With --json it prints one object: of a snapshot id, time, share, name, files, directories, links,
size, tags, gateway, share_id, sequence, parent, source, root, lost, errors (how many paths could
not be captured) and problems (path and text of each, the first 10,000); with PATH what gateway ls
prints, and snapshot, hash, files, directories and total (bytes) below a directory.`,
		Example: `  gateway info -c /etc/gateway.yaml main
  gateway info web1@yesterday --json | jq '.problems[].path'
  gateway info main:/etc/hosts`,
		Args: arguments(1, 1),
		RunE: func(c *cobra.Command, args []string) error {
			return p.look(c, args, f, func(ctx context.Context, v *viewing) error { return v.info(ctx, args[0], verbose) })
		},
	}
	c.Flags().BoolVarP(&verbose, "verbose", "v", false, fmt.Sprintf("name all that could not be captured, not the first %d", shownProblems))
	f.add(c)
	return c
}

func (v *viewing) info(ctx context.Context, ref string, verbose bool) error {
	found, err := v.find(ref)
	if err != nil {
		return err
	}
	if found.Path != "/" {
		return v.infoPath(ctx, ref)
	}
	return v.infoSnapshot(ctx, found.Snapshot, verbose)
}

// snapshotLine is a snapshot in info --json.
type snapshotLine struct {
	ID          string    `json:"id"`
	Time        string    `json:"time"`
	Share       string    `json:"share"`
	Name        string    `json:"name"` // below .snapshots
	Files       uint64    `json:"files"`
	Directories uint64    `json:"directories"`
	Links       uint64    `json:"links"`
	Size        uint64    `json:"size"`
	Tags        []string  `json:"tags"`
	Gateway     string    `json:"gateway,omitempty"`
	ShareID     string    `json:"share_id,omitempty"`
	Sequence    uint64    `json:"sequence,omitempty"`
	Parent      string    `json:"parent,omitempty"`
	Source      string    `json:"source"`
	Root        string    `json:"root"`
	Lost        uint64    `json:"lost"`
	Errors      uint64    `json:"errors"`
	Problems    []problem `json:"problems"`
}

// problem is a path that could not be captured as it was.
type problem struct {
	Path       text   `json:"path"`
	PathBase64 string `json:"path_base64,omitempty"`
	Text       string `json:"text"`
}

func (v *viewing) infoSnapshot(ctx context.Context, s snapshotter.Snapshot, verbose bool) error {
	view, err := v.snaps.View(ctx, s.ID)
	if err != nil {
		return err
	}
	totals, _, err := view.Totals(ctx, "/")
	if err != nil {
		return err
	}
	own := lineages(v.cfg)(s.Share)
	l := snapshotLine{
		ID: s.ID.String(), Time: stamp(s.Time), Share: s.Share, Name: s.ViewName(own), Files: s.Files, Directories: totals.Directories,
		Links: totals.Symlinks, Size: s.Size, Tags: append([]string{}, s.Tags...), Gateway: s.GatewayID, ShareID: s.ShareID,
		Sequence: s.Sequence, Source: s.Source, Root: s.Root, Lost: s.Lost, Errors: s.Errors, Problems: []problem{},
	}
	if !s.Parent.IsZero() {
		l.Parent = s.Parent.String()
	}
	most := shownProblems
	if verbose || v.flags.asJSON {
		most = maxLacks
	}
	for f, err := range view.Errors(ctx) {
		if err != nil {
			return err
		}
		if len(l.Problems) == most {
			break
		}
		l.Problems = append(l.Problems, problem{Path: text{f.Path}, PathBase64: bytesOf(f.Path), Text: strings.ToValidUTF8(f.Text, "\uFFFD")})
	}
	if v.flags.asJSON {
		return v.asJSON.Encode(&l)
	}
	return v.printSnapshot(s, &l)
}

func (v *viewing) printSnapshot(s snapshotter.Snapshot, l *snapshotLine) error {
	w := tabwriter.NewWriter(v.out, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "snapshot\t%s\n", l.ID)
	fmt.Fprintf(w, "share\t%s\n", printable(l.Share))
	fmt.Fprintf(w, "name\t%s\n", l.Name)
	fmt.Fprintf(w, "time\t%s (%s)\n", v.when(s.Time), humanize.RelTime(s.Time, v.now, "ago", "ahead"))
	fmt.Fprintf(w, "holds\t%s, %s, %s, %s\n", count(l.Files, "file", "files"), count(l.Directories, "directory", "directories"),
		count(l.Links, "link", "links"), humanize.IBytes(l.Size))
	if l.Gateway != "" {
		fmt.Fprintf(w, "gateway\t%s, number %d of its share\n", l.Gateway, l.Sequence)
	}
	if l.Parent != "" {
		fmt.Fprintf(w, "parent\t%s\n", l.Parent)
	}
	fmt.Fprintf(w, "source\t%s\n", printable(l.Source))
	if l.Root != "/" {
		fmt.Fprintf(w, "root\t%s\n", printable(l.Root))
	}
	for _, tag := range l.Tags {
		fmt.Fprintf(w, "tag\t%s\n", printable(tag))
	}
	if l.Lost > 0 {
		fmt.Fprintf(w, "lost\t%s not in it, as the store had lost them\n", count(l.Lost, "file is", "files are"))
	}
	if err := w.Flush(); err != nil { // keeps the errors of the lines
		return err
	}
	if l.Errors == 0 && len(l.Problems) == 0 {
		return nil
	}
	fmt.Fprintf(v.out, "\n%s not be captured, or not as it is:\n", count(max(l.Errors, uint64(len(l.Problems))), "path could", "paths could"))
	for _, f := range l.Problems {
		fmt.Fprintf(v.out, "  %s: %s\n", printable(f.Path.s), printable(f.Text))
	}
	if n := uint64(len(l.Problems)); l.Errors > n {
		fmt.Fprintf(v.out, "  and %d more\n", l.Errors-n)
	}
	return nil
}

// pathLine is an entry in info --json.
type pathLine struct {
	Snapshot string `json:"snapshot"`
	entryLine
	Hash        string  `json:"hash,omitempty"`
	Files       *uint64 `json:"files,omitempty"`
	Directories *uint64 `json:"directories,omitempty"`
	Total       *uint64 `json:"total,omitempty"`
}

func (v *viewing) infoPath(ctx context.Context, ref string) error {
	view, path, e, err := v.entry(ctx, ref)
	if err != nil {
		return err
	}
	l := pathLine{Snapshot: view.Snapshot().ID.String(), entryLine: newEntryLine(path, e)}
	if l.Hash, err = v.snaps.Hash(ctx, e.Object); err != nil {
		return err
	}
	if e.Kind == snapshotter.Dir {
		totals, ok, err := view.Totals(ctx, path)
		if err != nil {
			return err
		}
		if ok {
			l.Files, l.Directories, l.Total = &totals.Files, &totals.Directories, &totals.Size
		}
	}
	if v.flags.asJSON {
		return v.asJSON.Encode(&l)
	}
	w := tabwriter.NewWriter(v.out, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "path\t%s\n", printable(path))
	fmt.Fprintf(w, "snapshot\t%s (%s, %s)\n", l.Snapshot, printable(view.Snapshot().Share), v.when(view.Snapshot().Time))
	fmt.Fprintf(w, "kind\t%s\n", l.Kind)
	fmt.Fprintf(w, "mode\t%s\n", l.Mode)
	fmt.Fprintf(w, "owner\t%s:%s\n", owner(e.Owner, e.Attr.UID), owner(e.Group, e.Attr.GID))
	fmt.Fprintf(w, "changed\t%s (%s)\n", v.when(e.Attr.ModTime), humanize.RelTime(e.Attr.ModTime, v.now, "ago", "ahead"))
	switch e.Kind {
	case snapshotter.Symlink:
		fmt.Fprintf(w, "target\t%s\n", printable(e.Target))
	case snapshotter.Dir:
		if l.Files != nil {
			fmt.Fprintf(w, "holds\t%s, %s, %s\n", count(*l.Files, "file", "files"), count(*l.Directories, "directory", "directories"), humanize.IBytes(*l.Total))
		}
	default:
		fmt.Fprintf(w, "size\t%s (%d bytes)\n", bytesText(e.Size), e.Size)
		fmt.Fprintf(w, "content type\t%s\n", printable(e.ContentType))
		fmt.Fprintf(w, "hash\t%s\n", l.Hash)
	}
	return w.Flush()
}
