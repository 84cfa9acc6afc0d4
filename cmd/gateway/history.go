package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/snapgate/gateway/snapshotter"
)

func (p *program) historyCommand() *cobra.Command {
	f := &viewFlags{}
	c := &cobra.Command{
		Use:   "history SHARE:PATH",
		Short: "List the versions of a file",
		Long: `Lists every version of a file that snapshots of a share or source have, the newest first: the
first snapshot that has it, size, time and hash, and in how many snapshots it is. Other attributes
than the bytes (or the target of a link) make no version. With SHARE@TIME, or with another SNAP
than a share, it ends with that snapshot. The running gateway does it, if there is one; else the
store is read.

With --json every version is a line with snapshot and time (of the first snapshot that has it),
size, hash, share, path, kind, mtime, mode, content_type, target, last and last_time (the last
snapshot that has it), snapshots (how many have it), and gone and gone_time (the first snapshot
that has nothing there any more).

Exit status 3: snapshots could not be read; they are named on standard error.`,
		Example: `  gateway history -c /etc/gateway.yaml main:/etc/hosts
  gateway history --json fw01:/config.xml | jq -r '[.time, .size, .hash] | @tsv'`,
		Args: arguments(1, 1),
		RunE: func(c *cobra.Command, args []string) error {
			return p.look(c, args, f, func(ctx context.Context, v *viewing) error { return v.history(ctx, args[0]) })
		},
	}
	f.add(c)
	return c
}

// versionLine is a version in history --json.
type versionLine struct {
	Snapshot string `json:"snapshot"`
	Time     string `json:"time"`
	Share    string `json:"share"`
	entryLine
	Hash      string `json:"hash,omitempty"`
	Last      string `json:"last"`
	LastTime  string `json:"last_time"`
	Snapshots int    `json:"snapshots"`
	Gone      string `json:"gone,omitempty"`
	GoneTime  string `json:"gone_time,omitempty"`
}

func (v *viewing) history(ctx context.Context, ref string) error {
	found, err := v.find(ref)
	if err != nil {
		return err
	}
	if found.Path == "/" {
		return &hintedError{err: errors.New("which file's?"), hint: "write SHARE:PATH, as in: gateway history " + shellQuote(ref) + ":/path"}
	}
	line := snapshotter.Line(v.list, found.Snapshot)
	versions, unread, err := v.snaps.History(ctx, line, found.Path)
	if err != nil {
		return err
	}
	if len(versions) == 0 && len(unread) == 0 {
		return fmt.Errorf("%s: %w in any of %s of %s", printable(found.Path), errNotThere, count(len(line), "snapshot", "snapshots"), printable(found.Snapshot.Share))
	}
	slices.Reverse(versions)
	if v.flags.asJSON {
		for i := range versions {
			if err := v.asJSON.Encode(newVersionLine(found.Path, &versions[i])); err != nil {
				return err
			}
		}
	} else if err := v.printVersions(versions); err != nil {
		return err
	}
	return v.unread(unread)
}

func newVersionLine(path string, ver *snapshotter.Version) versionLine {
	l := versionLine{
		Snapshot: ver.First.ID.String(), Time: stamp(ver.First.Time), Share: ver.First.Share, entryLine: newEntryLine(path, ver.Entry),
		Hash: ver.Hash, Last: ver.Last.ID.String(), LastTime: stamp(ver.Last.Time), Snapshots: ver.Snapshots,
	}
	if !ver.Gone.ID.IsZero() {
		l.Gone, l.GoneTime = ver.Gone.ID.String(), stamp(ver.Gone.Time)
	}
	return l
}

func (v *viewing) printVersions(versions []snapshotter.Version) error {
	w := tabwriter.NewWriter(v.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "TIME\tSNAPSHOT\tSIZE\tCHANGED\tHASH\tSNAPSHOTS")
	for i := range versions {
		ver := &versions[i]
		if g := ver.Gone; !g.ID.IsZero() {
			fmt.Fprintf(w, "%s\t%s\t-\t-\tgone\t\n", v.when(g.Time), g.ID.String()[:shortID])
		}
		size, hash := bytesText(ver.Entry.Size), ver.Hash
		switch ver.Entry.Kind {
		case snapshotter.Dir:
			size, hash = "-", "directory"
		case snapshotter.Symlink:
			size, hash = "-", "-> "+printable(ver.Entry.Target)
		default:
			hash = hash[:min(shortID, len(hash))]
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%d\n", v.when(ver.First.Time), ver.First.ID.String()[:shortID], size,
			v.when(ver.Entry.Attr.ModTime), hash, ver.Snapshots)
	}
	return w.Flush() // keeps the errors of the lines
}

// unread names snapshots that could not be read.
func (v *viewing) unread(list []snapshotter.Unread) error {
	if len(list) == 0 {
		return nil
	}
	if err := v.out.Flush(); err != nil {
		return err
	}
	for _, u := range list {
		_, _ = fmt.Fprintf(v.p.stderr, "not read: %s of %s, %s: %s\n", u.Snapshot.ID.String()[:shortID], printable(u.Snapshot.Share), v.when(u.Snapshot.Time), printable(u.Err.Error()))
	}
	return &hintedError{
		err:  &incompleteError{count(len(list), "snapshot", "snapshots") + " could not be read"},
		hint: "gateway check tells what is damaged",
	}
}
