package main

import (
	"errors"
	"fmt"
	"log/slog"

	"github.com/spf13/cobra"

	"github.com/snapgate/gateway/cmd/gateway/internal/config"
)

// syncFlags are what sync is called with.
type syncFlags struct {
	from, to, job          string
	dryRun, asJSON, verify bool
}

func (p *program) syncCommand() *cobra.Command {
	var f syncFlags
	c := &cobra.Command{
		Use:   "sync [SHARE|SOURCE|SNAPSHOT…]",
		Short: "Copy snapshots to another store",
		Long: `Copies the snapshots that a store lacks from another one: all, or those of some shares and
sources, or single ones by id or by name (as main@2026-11-21T19-04-29Z). The stores are those of
the configuration; default is the one that is served. A copy keeps the id, the time and all that
the snapshot holds, and stock plakar reads it. Contents that the store has already are not sent
again, also after a run that was cut off, but for those of its last minute or GiB. A snapshot that
was removed from the store is not copied to it again.

With --verify, or verify in the configuration, each copy is read back. One that cannot be read, or that
was not read since the run ended before, is read again by each later run with --verify.

With --json every line is an object: event is copied, read (back, a copy of a run before), failed, removed
(from the store, so left out), missing (with --dry-run) or done, which has the totals and comes last.

A store that is full (limits.store, limit of one of stores, or its disk) takes no copies: exit status 1. What
was copied before stays, and the same call goes on there.

Exit status 3: some snapshots could not be copied, as the store that they are in is damaged, or some
copies cannot be read back (each is named on standard error); the others are copied. Of one whose header
cannot be read only the id is known.`,
		Example: `  gateway sync -c /etc/gateway.yaml --to offsite
  gateway sync --from offsite --to default main
  gateway sync --job nightly`,
		RunE: func(c *cobra.Command, args []string) error { return p.sync(c, f, args) },
	}
	c.Flags().StringVar(&f.from, "from", config.DefaultStore, "the `STORE` that has the snapshots")
	c.Flags().StringVar(&f.to, "to", "", "the `STORE` that they are copied to")
	c.Flags().StringVar(&f.job, "job", "", "do what the configuration says of the `JOB` of its sync section")
	c.Flags().BoolVar(&f.dryRun, "dry-run", false, "list what would be copied")
	c.Flags().BoolVar(&f.verify, "verify", false, "read back what was copied")
	c.Flags().BoolVar(&f.asJSON, "json", false, "print one JSON object a line")
	return c
}

func (p *program) sync(c *cobra.Command, f syncFlags, args []string) error {
	switch {
	case f.job == "" && f.to == "":
		return usageError(c, errors.New("missing --to STORE, or --job JOB"))
	case f.job != "" && (c.Flags().Changed("from") || f.to != "" || len(args) > 0):
		return usageError(c, errors.New("--job says what is copied, and where to"))
	}
	cfg, err := p.load()
	if err != nil {
		return err
	}
	job := config.Sync{From: f.from, To: f.to, Verify: f.verify}
	if f.job != "" {
		named := cfg.SyncNamed(f.job)
		if named == nil {
			return &hintedError{
				err:  fmt.Errorf("sync: job %q: not in %s", f.job, cfg.File),
				hint: "the jobs are: " + joinOr(jobNames(cfg), "none"),
			}
		}
		job = *named
		job.Verify = job.Verify || f.verify
		args = job.Shares
	}
	if job.From == job.To && cfg.StoreNamed(job.To) != nil { // of a job the configuration is refused
		return &hintedError{
			err:  fmt.Errorf("sync from %s to %s: both are the same store", job.From, job.To),
			hint: "--from names the store that has the snapshots, which is " + config.DefaultStore + " unless it is given; --to another one",
		}
	}
	ctx, stop := untilSignal(c.Context())
	defer stop()
	var level slog.LevelVar
	log := p.logger(cfg, &level)
	level.Set(max(cfg.Log.Level, slog.LevelWarn)) // progress is what is of interest here
	s := &syncRun{cfg: cfg, job: job, refs: args, dryRun: f.dryRun, cheapKDF: p.cheapKDF, log: log}
	out := newSyncOutput(p, f.asJSON)
	err = s.run(ctx, out)
	out.close()
	if err == nil {
		err = out.incomplete(job)
	}
	if ctx.Err() != nil {
		return interrupted("sync", "the same call goes on where it was")
	}
	return err
}

func jobNames(cfg *config.Config) []string {
	var names []string
	for i := range cfg.Syncs {
		names = append(names, cfg.Syncs[i].Name)
	}
	return names
}
