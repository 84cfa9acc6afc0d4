package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path"
	"path/filepath"
	"time"

	"github.com/snapgate/gateway/cmd/gateway/internal/config"
	"github.com/snapgate/gateway/cmd/gateway/internal/remote"
	"github.com/snapgate/gateway/internal/sshclient"
	"github.com/snapgate/gateway/pull"
	"github.com/snapgate/gateway/snapshotter"
	"github.com/snapgate/gateway/store"
	"github.com/snapgate/gateway/vfs"
)

// pullOptions are what a run of a source may be told besides its settings.
type pullOptions struct {
	reason string       // of the snapshot; "" for "pull"
	report *pull.Report // where progress and problems go; nil for one of its own
	log    *slog.Logger // gets warnings; nil drops them
	bound  *bounded     // of the store; nil when nothing is written
	dryRun func(pull.Planned) error
	login  *connecting                                                // to the source, which the caller closes; nil to make one
	ask    func(ctx context.Context, question string) ([]byte, error) // nil: nobody is there
}

// runPull pulls a source into the store, beside whatever else uses it. Errors have a hint of
// what to try with the source. What could not be captured is in the report.
func runPull(ctx context.Context, snaps *snapshotter.Snapshotter, dataDir string, src *config.Source, opt pullOptions) (res pull.Result, err error) {
	if opt.bound == nil || opt.dryRun != nil {
		return pullInto(ctx, snaps, dataDir, src, opt)
	}
	within, finish, err := opt.bound.guard(ctx)
	if err != nil {
		return res, err
	}
	res, err = pullInto(within, snaps, dataDir, src, opt)
	return res, finish(err)
}

// pullInto is runPull into a store that has room.
func pullInto(ctx context.Context, snaps *snapshotter.Snapshotter, dataDir string, src *config.Source, opt pullOptions) (res pull.Result, err error) {
	if opt.report == nil {
		opt.report = &pull.Report{}
	}
	cfg := pull.RunConfig{
		Snapshots: snaps, Name: src.Name, Dir: filepath.Join(dataDir, "sources", src.Name),
		Source: sourceOf(&src.Remote), Reason: opt.reason, Exclude: src.Exclude, Checksum: src.Checksum, Partial: src.Partial,
		Unchanged: src.Unchanged, Bandwidth: src.Bandwidth, DryRun: opt.dryRun, Report: opt.report, Log: opt.log,
		Entries: int64(src.MaxEntries), Limit: src.MaxTime,
	}
	if cfg.Lineage, err = lineageOf(dataDir, src.Name, opt.dryRun != nil); err != nil {
		return res, err
	}
	if cfg.Failpoint, err = failpoint(); err != nil {
		return res, err
	}
	cfg.KeepEvery = keepEvery()
	began := time.Now()
	r, err := opt.open(ctx, src)
	if err != nil {
		return res, pullError(ctx, &src.Remote, err)
	}
	if opt.login == nil {
		defer func() { err = errors.Join(err, r.Close()) }()
	}
	cfg.Spent = time.Since(began)
	res, err = pull.Run(ctx, r, cfg)
	return res, pullError(ctx, &src.Remote, err)
}

// open opens the source's remote, or takes the one that is being connected to.
func (opt *pullOptions) open(ctx context.Context, src *config.Source) (pull.Remote, error) {
	if opt.login != nil {
		return opt.login.remote(src.MaxTime)
	}
	return remote.Open(ctx, &src.Remote, remote.Options{Ask: opt.ask, Log: opt.log})
}

// lineageOf names the snapshots of a source. A run that stores nothing makes nothing, either.
func lineageOf(dataDir, source string, dry bool) (snapshotter.Lineage, error) {
	if dry {
		return vfs.StoredSourceLineage(dataDir, source), nil
	}
	return vfs.SourceLineage(dataDir, source)
}

// sourceOf is what the snapshots say of where they come from.
func sourceOf(r *config.Remote) snapshotter.Source {
	origin := r.Location.Host
	if r.Location.Scheme == pull.SchemeFS {
		origin = "localhost"
		if name, err := os.Hostname(); err == nil {
			origin = name
		}
	}
	return snapshotter.Source{Type: string(r.Location.Scheme), Origin: origin, Location: r.Location.String()}
}

// hintPullInterrupted is what a pull has left that somebody has ended.
const hintPullInterrupted = "there is no new snapshot; the next run takes over what was stored already"

// hintOfFile says how a single file is pulled, with patterns as a shell and YAML take them.
func hintOfFile(r *config.Remote) string {
	above := r.Location
	above.Path = path.Dir(above.Path)
	return fmt.Sprintf("a source is a directory: name %s, and for this file alone exclude %s and %s",
		above, shellQuote("/*"), shellQuote("!/"+pull.EscapePattern(path.Base(r.Location.Path))))
}

// elsewhere asks the server where a path may be that is not there, and says it as a hint; "" when it does not know.
func elsewhere(ctx context.Context, r *config.Remote) string {
	switch there, ok := remote.Elsewhere(ctx, r); {
	case !ok:
		return ""
	case there.Home:
		return "the path is taken from the root of the server; from where the login arrives it is there: write " + there.String()
	default:
		return "the account sees other paths, as one does that is confined to a directory: there is " + printable(there.Path)
	}
}

// pullError gives an error its hint, and says what the operator is to know of it. It asks the server where a
// path may be that is not there.
func pullError(ctx context.Context, r *config.Remote, err error) error {
	if err == nil {
		return nil
	}
	hint := remote.Hint(r, err)
	var ssh *sshclient.Error
	var server *pull.Error
	if errors.Is(err, pull.ErrNotDirectory) {
		hint = hintOfFile(r)
	}
	switch {
	case errors.Is(err, context.Canceled):
		return &hintedError{err: errInterrupted, hint: hintPullInterrupted}
	case errors.Is(err, store.ErrUnavailable), errors.Is(err, store.ErrLogin): // also of one on an SFTP server
		hint = hintFor(err)
	case errors.Is(err, pull.ErrRunning):
		hint = "wait for its end, or look for a scheduled one in the gateway's log"
	case errors.Is(err, pull.ErrEndless):
		hint = "does the server show the same directories again and again, as links that lead up do? exclude them, or set max_entries higher"
	case errors.Is(err, pull.ErrTooLong):
		hint = "the next run takes over what was stored already; max_time sets how long one may take"
	case errors.Is(err, snapshotter.ErrNoSnapshot):
		hint = "somebody has removed the snapshot that the run was based on: run it again"
	case errors.As(err, &ssh):
		err = ssh // it says all, and the rest is how we came to it
	case r.Location.Scheme == pull.SchemeFS && !(errors.As(err, &server) && server.Path == "/"): // the path is in it
	case pull.KindOf(err) == pull.KindNotFound:
		err = fmt.Errorf("%s: %w", r.Location, err)
		hint = cmp.Or(elsewhere(ctx, r), hint)
	case errors.As(err, &server):
		err = fmt.Errorf("%s: %w", r.Location, err)
	}
	if hint == "" {
		return err
	}
	return &hintedError{err: err, hint: hint}
}
