package main

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/snapgate/gateway/cmd/gateway/internal/config"
	"github.com/snapgate/gateway/cmd/gateway/internal/remote"
	"github.com/snapgate/gateway/cmd/gateway/internal/snapref"
	"github.com/snapgate/gateway/internal/sshclient"
	"github.com/snapgate/gateway/pull"
	"github.com/snapgate/gateway/pull/restore"
	"github.com/snapgate/gateway/snapshotter"
	"github.com/snapgate/gateway/store"
)

// shownExtras is how many of the names that are to be deleted a question shows.
const shownExtras = 5

// restoreCommand is a call of gateway restore.
type restoreCommand struct {
	p      *program
	c      *cobra.Command
	remote *remoteFlags

	to, overwrite, store   string
	owner, remove, yes     bool
	dryRun, verify         bool
	asJSON, quiet, verbose bool

	login *connecting // nil for none
	line  *liveLine   // nil for none
	ask   func(ctx context.Context, question string) ([]byte, error)
}

func (p *program) restoreCommand() *cobra.Command {
	rc := &restoreCommand{p: p}
	c := &cobra.Command{
		Use:   "restore SNAPSHOT[:PATH] --to NAME|LOCATION",
		Short: "Write a snapshot to a server or a directory",
		Long: `Restores a snapshot, or what lies in a path of it, to an SFTP server, an FTP server or a
local directory: a destination of the configuration, or a location (sftp://[user@]host/path,
ftp://…, ftps://…, fs:///path or a path) with flags that are called like the keys of the
configuration. What lay in PATH comes to lie directly in the destination, which is made when
it is missing. It works beside a running gateway.

SNAPSHOT is an id or its first digits, a share or source for its newest snapshot, or
SHARE@WHAT: a name below .snapshots, or a time, for the newest snapshot that is not younger:
2026-11-21, "2026-11-21 14:00", yesterday, "yesterday 14:00", "3 hours ago". In a store with
one share a time needs no SHARE@.

Files are written beside their place and renamed. What is there with the same size and time
is left alone, so that a restore that was cut off is run again and goes on where it was.
Whatever else is there stays, unless --delete is given and confirmed.

Exit status 3: something could not be restored; it is named on standard error.`,
		Example: `  gateway restore -c /etc/gateway.yaml web1:/etc --to /tmp/etc
  gateway restore -c /etc/gateway.yaml web1@yesterday --to sftp://root@web1.example.com/srv/www --verify
  gateway restore -c /etc/gateway.yaml 3f2a61c0 --to spare --dry-run`,
		Args: arguments(1, 1),
		RunE: func(c *cobra.Command, args []string) error { return rc.run(c.Context(), args[0]) },
	}
	rc.c = c
	f := c.Flags()
	f.StringVar(&rc.to, "to", "", "destination: a `NAME` of the configuration, or a location")
	f.StringVar(&rc.overwrite, "overwrite", string(restore.Always), "files that are there and differ: replace `always`, replace those that are older, or never")
	f.BoolVar(&rc.owner, "owner", false, "set numeric users and groups, and setuid and setgid of files")
	f.BoolVar(&rc.verify, "verify", false, "read back and compare; of a dry run, what is there")
	f.BoolVar(&rc.remove, "delete", false, "remove what the snapshot does not have, after a question")
	f.BoolVarP(&rc.yes, "yes", "y", false, "the answer to the question of --delete")
	f.StringVar(&rc.store, "store", "", "restore from the store of that `NAME`, in place of the gateway's own")
	f.BoolVarP(&rc.dryRun, "dry-run", "n", false, "only say what would be done")
	f.BoolVar(&rc.asJSON, "json", false, "print one JSON object a line: progress, what a dry run would do, and a summary")
	f.BoolVarP(&rc.quiet, "quiet", "q", false, "say nothing unless something is wrong")
	f.BoolVarP(&rc.verbose, "verbose", "v", false, fmt.Sprintf("name all problems, not the first %d", shownProblems))
	rc.remote = addRemoteFlags(c)
	f.SortFlags = false
	return c
}

func (rc *restoreCommand) run(ctx context.Context, ref string) error {
	mode, err := rc.check()
	if err != nil {
		return err
	}
	cfg, err := rc.p.load()
	if err != nil {
		return err
	}
	dst, err := rc.target(cfg)
	if err != nil {
		return err
	}
	rc.attach()
	return interruptible(ctx, "restore", "", func(ctx context.Context) error { // before anything was written
		return rc.open(ctx, cfg, ref, dst, mode)
	})
}

// open opens the store beside the destination, and restores.
func (rc *restoreCommand) open(ctx context.Context, cfg *config.Config, ref string, dst *config.Remote, mode restore.Overwrite) error {
	var stores []string
	if rc.store != "" {
		stores = []string{rc.store}
	}
	if rc.ask == nil { // a question would be between others
		target, err := remote.OpenTarget(ctx, dst, remote.Options{})
		rc.login = connect(ctx, target, err)
		defer func() { _ = rc.login.close() }() // a target has nothing to say then
	}
	err := rc.p.readStore(ctx, stores, func(ctx context.Context, _ *store.Store, snaps *snapshotter.Snapshotter) error {
		return rc.restore(ctx, cfg, ref, dst, mode, snaps)
	})
	if err != nil {
		return fmt.Errorf("restore: %w", err)
	}
	return nil
}

// check refuses calls that make no sense, before anything is done.
func (rc *restoreCommand) check() (restore.Overwrite, error) {
	bad := func(err error) (restore.Overwrite, error) { return "", usageError(rc.c, err) }
	if strings.TrimSpace(rc.to) == "" {
		return bad(errors.New("missing --to; usage: gateway restore SNAPSHOT[:PATH] --to NAME|LOCATION"))
	}
	mode, err := restore.ParseOverwrite(rc.overwrite)
	if err != nil {
		return bad(err)
	}
	person := rc.p.person() && !rc.asJSON
	switch {
	case rc.yes && !rc.remove:
		return bad(errors.New("--yes is for --delete"))
	case rc.remove && !rc.yes && !rc.dryRun && !person:
		return bad(errors.New("--delete asks before it deletes, and nobody is there to be asked: give --yes, too"))
	case !isLocation(rc.to):
		return mode, rc.remote.onlyForLocations(rc.c)
	}
	return mode, nil
}

// target finds the destination.
func (rc *restoreCommand) target(cfg *config.Config) (*config.Remote, error) {
	if name, _, colon := strings.Cut(rc.to, ":"); colon && !strings.Contains(rc.to, "://") {
		if dst, ok := cfg.Destination(name); ok {
			return nil, &hintedError{
				err:  fmt.Errorf("restore: destination %q: it has its path in %s", name, cfg.File),
				hint: fmt.Sprintf("write --to %s, or the location with the other path and its settings as flags: %s", name, dst.Location),
			}
		}
	}
	if isLocation(rc.to) {
		src, warnings, err := rc.remote.source(rc.to)
		for _, w := range warnings {
			_, _ = fmt.Fprintf(rc.p.stderr, "gateway: warning: %s\n", w)
		}
		return &src.Remote, err
	}
	dst, ok := cfg.Destination(rc.to)
	if !ok {
		names := make([]string, len(cfg.Destinations))
		for i := range cfg.Destinations {
			names[i] = cfg.Destinations[i].Name
		}
		return nil, &hintedError{
			err: fmt.Errorf("restore: destination %q: not in %s", rc.to, cfg.File),
			hint: fmt.Sprintf("%sits destinations are: %s; or give a location, as sftp://host/path, or ./%s for a local directory",
				otherKind(cfg, rc.to, aDestination), joinOr(names, "none"), rc.to),
		}
	}
	return &dst, nil
}

// attach finds out whether somebody is there to see progress and to be asked.
func (rc *restoreCommand) attach() {
	line := terminal(rc.p.stderr)
	if line == nil {
		return
	}
	if in, ok := rc.p.stdin.(*os.File); ok {
		rc.ask = line.asking(sshclient.AskOn(in, rc.p.stderr))
	}
	if !rc.quiet && !rc.asJSON {
		on := *rc.p
		on.stderr = line
		rc.line, rc.p = line, &on
	}
}

// restore finds the snapshot, restores, and says what came of it.
func (rc *restoreCommand) restore(ctx context.Context, cfg *config.Config, ref string, dst *config.Remote, mode restore.Overwrite, snaps *snapshotter.Snapshotter) (err error) {
	found, lineage, err := rc.find(ctx, cfg, ref, snaps)
	if err != nil {
		return err
	}
	view, err := snaps.View(ctx, found.Snapshot.ID)
	if err != nil {
		return err
	}
	defer view.Close()
	if _, err := view.Lstat(ctx, found.Path); errors.Is(err, fs.ErrNotExist) {
		return &hintedError{err: err, hint: "gateway ls " + found.Snapshot.ID.String()[:shortID] + " lists what the snapshot has"}
	}
	target, err := rc.openTarget(ctx, dst)
	if err != nil {
		return rc.hinted(ctx, dst, err, false)
	}
	if rc.login == nil {
		defer target.Close()
	}
	point, err := failpoint()
	if err != nil {
		return err
	}
	var lacks []string
	if rc.remove {
		if lacks, err = unsure(ctx, view, found); err != nil {
			return err
		}
	}
	report := &restore.Report{}
	stop := rc.watch(report, found)
	runErr := restore.Run(ctx, restore.Config{
		Source: restore.FromView(view), Path: found.Path, Target: target, Report: report, Lineage: lineage,
		Overwrite: mode, Owner: rc.owner, DryRun: rc.dryRun, Verify: rc.verify, Delete: rc.remove, Lacks: lacks,
		Confirm: rc.confirm, Note: rc.note(), Bandwidth: dst.Bandwidth,
		Failpoint: point,
	})
	stop()
	switch {
	case errors.Is(runErr, restore.ErrNotDeleted):
		runErr = &hintedError{err: runErr, hint: lostHint(found.Snapshot, report)}
	case runErr != nil:
		if ctx.Err() != nil {
			runErr = errInterrupted
		}
		c := report.Counts()
		runErr = rc.hinted(ctx, dst, runErr, c.Files+c.Directories+c.Symlinks > 0)
	}
	if err := rc.summary(dst.Location.String(), found, report, rc.lacks(ctx, view, found), runErr); err != nil {
		return err
	}
	c := report.Counts()
	if c.Problems+c.LeftOut > 0 && runErr == nil || c.Problems > 0 && errors.Is(runErr, restore.ErrNotDeleted) {
		return incompleteRestore(c, runErr)
	}
	return runErr
}

// incompleteRestore says what a restore with problems, or without some links, has come to; err is nil, or of problems an ErrNotDeleted.
func incompleteRestore(c restore.Counts, err error) *incompleteError {
	text := count(c.Problems, "path could not be restored as it is", "paths could not be restored as they are")
	switch {
	case c.Problems == 0:
		text = count(c.LeftOut, "symbolic link is", "symbolic links are") + " left out, as the destination cannot have any"
	case c.Deleting > 0 && err != nil: // somebody has said no
		text = err.Error()
	case c.Deleting > 0:
		text = count(c.Deleting, "problem", "problems") + " with what is to be deleted"
	case err != nil:
		text += "; therefore nothing was deleted"
	}
	return &incompleteError{text}
}

// openTarget opens the destination, or takes the one that is being connected to.
func (rc *restoreCommand) openTarget(ctx context.Context, dst *config.Remote) (pull.Target, error) {
	if rc.login == nil {
		return remote.OpenTarget(ctx, dst, remote.Options{Ask: rc.ask})
	}
	r, err := rc.login.remote(0)
	if err != nil {
		return nil, err
	}
	return r.(pull.Target), nil //nolint:forcetypeassert // it was opened as one
}

// hinted gives an error of a destination what to try about it; begun says that it came in the middle.
func (rc *restoreCommand) hinted(ctx context.Context, dst *config.Remote, err error, begun bool) error {
	hint := cmp.Or(remote.Hint(dst, err), hintFor(err))
	if !begun && misplaced(err) {
		switch there := elsewhere(ctx, dst); {
		case there == "":
		case pull.KindOf(err) == pull.KindNotFound: // it says the same, and more
			hint = there
		default:
			hint = strings.TrimSuffix(there+"\n"+hint, "\n")
		}
	}
	if begun {
		hint = strings.TrimPrefix(hint+"\nrun it again: it goes on where it was", "\n")
	}
	return &hintedError{err: err, hint: hint}
}

// misplaced reports whether a destination may be meant to lie elsewhere: it is not there, and cannot be made. Some FTP servers say
// of that no more than that they do not.
func misplaced(err error) bool {
	var e *pull.Error
	var ssh *sshclient.Error
	if !errors.As(err, &e) || errors.As(err, &ssh) || e.Op == "connect" || e.Op == "log in" {
		return false
	}
	return e.Kind == pull.KindNotFound || e.Kind == pull.KindPermission || e.Kind == pull.KindOther && e.Op == "make"
}

// find finds the snapshot that is meant. Nobody may take an older one for the newest, and what is newer on the target for what is to be deleted.
func (rc *restoreCommand) find(ctx context.Context, cfg *config.Config, ref string, snaps *snapshotter.Snapshotter) (snapref.Found, snapshotter.Lineage, error) {
	list, err := snaps.Snapshots(ctx, "")
	if err != nil {
		return snapref.Found{}, snapshotter.Lineage{}, err
	}
	found, err := findCertain(ctx, ref, list, lineages(cfg), snaps)
	return found, snapshotter.Lineage{GatewayID: found.Snapshot.GatewayID, ShareID: found.Snapshot.ShareID}, err
}

// confirm asks whether to delete. Without a person, --yes was given.
func (rc *restoreCommand) confirm(ctx context.Context, e restore.Extras) (bool, error) {
	if rc.yes {
		return true, nil
	}
	if rc.line != nil {
		rc.line.hold()
		defer rc.line.release()
	}
	for i, path := range e.Paths {
		if i == shownExtras {
			_, _ = fmt.Fprintf(rc.p.stderr, "  and %d more\n", len(e.Paths)-i)
			break
		}
		_, _ = fmt.Fprintf(rc.p.stderr, "  %s\n", printable(path))
	}
	return rc.p.askYes(ctx, fmt.Sprintf("delete %s, with all that is below? [y/N] ", count(len(e.Paths), "name, which the snapshot does not have", "names, which the snapshot does not have")))
}

// person reports whether somebody is there to be asked.
func (p *program) person() bool {
	in, isFile := p.stdin.(*os.File)
	return isFile && term.IsTerminal(int(in.Fd()))
}

// askYes asks a question that is answered by y or yes.
func (p *program) askYes(ctx context.Context, question string) (bool, error) {
	_, _ = fmt.Fprint(p.stderr, question)
	// A read from a terminal cannot be ended: it ends with the process.
	answer := make(chan string, 1)
	go func() {
		line, _ := bufio.NewReader(p.stdin).ReadString('\n')
		answer <- strings.ToLower(strings.TrimSpace(line))
	}()
	select {
	case a := <-answer:
		return a == "y" || a == "yes", nil
	case <-ctx.Done():
		return false, ctx.Err()
	}
}
