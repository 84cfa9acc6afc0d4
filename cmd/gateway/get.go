package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/snapgate/gateway/cmd/gateway/internal/snapref"
	"github.com/snapgate/gateway/pull"
	"github.com/snapgate/gateway/pull/restore"
	"github.com/snapgate/gateway/snapshotter"
)

// getCommand is a call of gateway get.
type getCommand struct {
	viewFlags
	overwrite, tar, zip, quiet, verbose bool
}

func (p *program) getCommand() *cobra.Command {
	g := &getCommand{viewFlags: viewFlags{noPager: true}}
	c := &cobra.Command{
		Use:   "get SNAP[:PATH] [DEST]",
		Short: "Write a file or a directory of a snapshot to this machine",
		Long: `Writes a file, or a directory with all that is in it, to this machine, with modes and times. It
reads the store itself, with and without a running gateway, but for --tar, which that does.

What lies in a directory comes to lie directly in DEST, which is made when it is missing; without
DEST in a directory of its own name, here. A file is written to DEST, or into it when DEST is a
directory or ends in a slash. What is there with the same size and time is left alone; what is
there and differs is kept and named, unless --overwrite is given. Files are written beside their
place and renamed, so one that was cut off is never seen, and is gone on with by the next call.

Nothing is written outside of DEST: names that lead out of it, and symbolic links that are in
the way, are left out and named. gateway restore does the same to servers, and has more flags.

--tar and --zip write an archive to standard output.

` + snapWords + `

Exit status 3: something was left out or kept; it is named on standard error. With --json there
are lines with type "kept" and path, and one with type "summary", report and snapshot_lacks.`,
		Example: `  gateway get -c /etc/gateway.yaml main:/etc/hosts
  gateway get web1@yesterday:/srv/www ./www
  gateway get --tar "main@3 hours ago" | zstd >main.tar.zst`,
		Args: arguments(1, 2),
		RunE: func(c *cobra.Command, args []string) error {
			if err := g.check(p, args); err != nil {
				return usageError(c, err)
			}
			// Files are written by whoever calls it; a zip archive has the names of all in memory.
			g.alone = !g.tar
			return p.look(c, args, &g.viewFlags, func(ctx context.Context, v *viewing) error { return g.run(ctx, v, args) })
		},
	}
	f := c.Flags()
	f.BoolVar(&g.overwrite, "overwrite", false, "replace what is there and differs")
	f.BoolVar(&g.tar, "tar", false, "write a tar archive to standard output")
	f.BoolVar(&g.zip, "zip", false, "write a zip archive to standard output")
	f.BoolVarP(&g.quiet, "quiet", "q", false, "say nothing unless something is wrong")
	f.BoolVarP(&g.verbose, "verbose", "v", false, fmt.Sprintf("name all problems, not the first %d", shownProblems))
	f.BoolVar(&g.asJSON, "json", false, "print one JSON object a line: what was kept, progress, and a summary")
	g.addStore(c)
	return c
}

// check refuses calls that make no sense, before anything is done.
func (g *getCommand) check(p *program, args []string) error {
	archive := g.tar || g.zip
	out, isFile := p.stdout.(*os.File)
	switch {
	case g.tar && g.zip:
		return errors.New("either --tar or --zip")
	case archive && len(args) > 1:
		return errors.New("an archive goes to standard output: leave DEST out")
	case archive && (g.overwrite || g.asJSON):
		return errors.New("--overwrite and --json are not for an archive")
	case archive && isFile && term.IsTerminal(int(out.Fd())):
		return errors.New("an archive is nothing for a terminal: send standard output to a file or a command")
	case len(args) > 1 && args[1] == "":
		return errors.New("DEST is empty")
	}
	return nil
}

func (g *getCommand) run(ctx context.Context, v *viewing, args []string) error {
	found, err := v.find(args[0])
	if err != nil {
		return err
	}
	view, _, e, err := v.entry(ctx, args[0])
	if err != nil {
		return err
	}
	if g.tar || g.zip {
		return g.archive(ctx, v, view, found, e)
	}
	to, err := getTarget(found, e, args[1:])
	if err != nil {
		return err
	}
	return g.write(ctx, v, view, found, to)
}

// getPlace is where something is written to: a directory, and the name in it of what is none.
type getPlace struct{ dir, name string }

func (t getPlace) String() string { return filepath.Join(t.dir, t.name) }

// getTarget finds where an entry comes to lie.
func getTarget(found snapref.Found, e snapshotter.Entry, dest []string) (getPlace, error) {
	name := path.Base(found.Path)
	if found.Path == "/" {
		name = found.Snapshot.Share
	}
	own := name != "" && name != "." && name != ".." && !strings.ContainsAny(name, "/\x00")
	if !own && (len(dest) == 0 || e.Kind != snapshotter.Dir) {
		return getPlace{}, &hintedError{
			err:  fmt.Errorf("%s: no directory can have the name of the share", printable(name)),
			hint: "name one: gateway get SNAP DEST",
		}
	}
	if e.Kind == snapshotter.Dir {
		if len(dest) == 0 {
			return getPlace{dir: name}, nil
		}
		return getPlace{dir: dest[0]}, nil
	}
	if len(dest) == 0 {
		return getPlace{dir: ".", name: name}, nil
	}
	to := dest[0]
	if fi, err := os.Stat(to); strings.HasSuffix(to, "/") || err == nil && fi.IsDir() {
		return getPlace{dir: to, name: name}, nil
	}
	return getPlace{dir: filepath.Dir(to), name: filepath.Base(to)}, nil
}

// renamed is a view in which the entry at a path, which is no directory, has another name.
type renamed struct {
	restore.Source
	path, name string
}

func (r renamed) Lstat(ctx context.Context, p string) (snapshotter.Entry, error) {
	e, err := r.Source.Lstat(ctx, p)
	if p == r.path {
		e.Name = r.name
	}
	return e, err
}

func (r renamed) Open(ctx context.Context, _ string) (restore.Content, error) {
	return r.Source.Open(ctx, r.path)
}

// write restores to a local directory, and says what came of it.
func (g *getCommand) write(ctx context.Context, v *viewing, view *snapshotter.View, found snapref.Found, to getPlace) error {
	target, err := pull.NewFSTarget(to.dir)
	if err != nil {
		return err
	}
	defer target.Close()
	source := restore.FromView(view)
	if to.name != "" {
		source = renamed{source, found.Path, to.name}
	}
	mode := restore.Never
	if g.overwrite {
		mode = restore.Always
	}
	var kept []string
	note := func(a restore.Action) {
		if a.Op == "keep" && len(kept) < maxLacks {
			kept = append(kept, a.Path)
		}
	}
	rc := &restoreCommand{p: v.p, asJSON: g.asJSON, quiet: g.quiet, verbose: g.verbose}
	rc.attach()
	report := &restore.Report{}
	stop := rc.watch(report, found)
	runErr := restore.Run(ctx, restore.Config{
		Source: source, Path: found.Path, Target: target, Report: report, Overwrite: mode, Note: note,
		Lineage: snapshotter.Lineage{GatewayID: found.Snapshot.GatewayID, ShareID: found.Snapshot.ShareID},
	})
	stop()
	if err := g.keptNames(v, rc.p, to, kept, report.Counts().Kept); err != nil {
		return err
	}
	if err := rc.summary(to.String(), found, report, rc.lacks(ctx, view, found), runErr); err != nil {
		return err
	}
	switch failed := report.Failed(); {
	case runErr != nil:
		return runErr
	case failed > 0:
		return &incompleteError{count(failed, "path could not be written as it is", "paths could not be written as they are")}
	case report.Counts().Kept > 0:
		return &hintedError{
			err:  &incompleteError{fmt.Sprintf("%d were there and differ, and were kept", report.Counts().Kept)},
			hint: "--overwrite replaces them",
		}
	}
	return nil
}

// keptNames names what was there and was not replaced.
func (g *getCommand) keptNames(v *viewing, p *program, to getPlace, kept []string, n int64) error {
	for i, name := range kept {
		if g.asJSON {
			if err := v.asJSON.Encode(map[string]any{"type": "kept", "path": text{name}}); err != nil {
				return err
			}
			continue
		}
		if i == shownProblems && !g.verbose {
			_, _ = fmt.Fprintf(p.stderr, "  and %d more\n", n-int64(i))
			break
		}
		_, _ = fmt.Fprintf(p.stderr, "kept: %s\n", printable(filepath.Join(to.dir, filepath.FromSlash(name))))
	}
	return v.out.Flush() // what follows goes to standard output by itself
}
