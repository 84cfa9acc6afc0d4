package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"path/filepath"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"github.com/snapgate/gateway/cmd/gateway/internal/config"
	"github.com/snapgate/gateway/cmd/gateway/internal/control"
	"github.com/snapgate/gateway/internal/audit"
	"github.com/snapgate/gateway/internal/disk"
	"github.com/snapgate/gateway/internal/jobs"
	"github.com/snapgate/gateway/internal/retention"
	"github.com/snapgate/gateway/snapshotter"
	"github.com/snapgate/gateway/store"
)

func (p *program) maintainCommand() *cobra.Command {
	var f maintainFlags
	c := &cobra.Command{
		Use:   "maintain [STORE]",
		Short: "Give back the space of what no snapshot needs",
		Long: `Looks what the snapshots of the store need, of whoever made them, and gives back the space of the
rest, as plakar's maintenance does: packfiles without anything that is needed are marked once they are
older than the grace period (maintenance.grace in the configuration, 7 days by default), and removed
when they have been marked for as long. So space comes back one grace period after the snapshots are gone.
The running gateway does it, if there is one and it is its store; uploads go on, and a commit waits for a few seconds
at most. A packfile of which a part is needed stays as it is.

With --json the answer is one object. Without STORE the store that is served is maintained.`,
		Example: `  gateway maintain -c /etc/gateway.yaml --dry-run
  gateway maintain offsite
  gateway maintain --json | jq .removed_bytes`,
		Args: arguments(0, 1),
		RunE: func(c *cobra.Command, args []string) error {
			f.graceSet = c.Flags().Changed("grace")
			return p.maintain(c.Context(), args, f)
		},
	}
	c.Flags().BoolVar(&f.dryRun, "dry-run", false, "only tell what would be done")
	c.Flags().DurationVar(&f.grace, "grace", 0, "use another grace period than the configured one, as 48h; below a day it is a risk for backups by plakar")
	c.Flags().BoolVar(&f.asJSON, "json", false, "print a JSON object")
	return c
}

type maintainFlags struct {
	dryRun, asJSON bool
	grace          time.Duration
	graceSet       bool
}

func (p *program) maintain(ctx context.Context, args []string, f maintainFlags) error {
	if f.grace < 0 {
		return &hintedError{err: errors.New("maintain: the grace period is negative"), hint: "give it as 48h or 168h"}
	}
	cfg, named, err := p.loadStore(args)
	if err != nil {
		return err
	}
	var m *control.Maintain
	err = interruptible(ctx, "maintain", "run it again", func(ctx context.Context) (err error) {
		m, err = p.maintainSomehow(ctx, cfg, named, f)
		return storeError(named, err)
	})
	if err != nil {
		return err
	}
	if f.asJSON {
		return printJSON(p.stdout, []control.Maintain{*m})
	}
	return writeMaintain(p.stdout, m)
}

// maintainSomehow has the running gateway do it, which has the store's index at hand, and whose commits
// wait instead of failing; or does it itself.
func (p *program) maintainSomehow(ctx context.Context, cfg *config.Config, named *config.Store, f maintainFlags) (*control.Maintain, error) {
	if named == &cfg.Store {
		grace := cfg.Maintenance.Grace
		if f.graceSet {
			grace = f.grace
		}
		req := control.Request{Op: control.OpMaintain, DryRun: f.dryRun, Grace: grace.String()}
		rep, err := control.Call(ctx, cfg.DataDir, req, func(control.Reply) error { return nil })
		if !errors.Is(err, control.ErrNoServer) {
			if err == nil && rep.Maintain == nil {
				err = errors.New("maintain: the running gateway says nothing")
			}
			return rep.Maintain, err
		}
	}
	mc := maintainConfig(cfg, named)
	mc.DryRun = f.dryRun
	if f.graceSet {
		mc.Grace = f.grace
	}
	if err := p.trustClock(cfg, mc.Grace); err != nil {
		return nil, err
	}
	var level slog.LevelVar
	log := p.logger(cfg, &level)
	level.Set(max(cfg.Log.Level, slog.LevelWarn))
	return maintainAlone(ctx, cfg, named, mc, log)
}

// maintainConfig says how a store is maintained.
func maintainConfig(cfg *config.Config, named *config.Store) snapshotter.MaintainConfig {
	grace := cfg.Maintenance.Grace
	if named.Name != config.DefaultStore {
		grace = named.Upkeep.Maintenance.Grace
	}
	return snapshotter.MaintainConfig{Dir: filepath.Join(cfg.DataDir, "maintenance", named.Name), Grace: grace}
}

// maintainAlone opens a store, beside whatever else uses it.
func maintainAlone(ctx context.Context, cfg *config.Config, named *config.Store, mc snapshotter.MaintainConfig, log *slog.Logger) (*control.Maintain, error) {
	e := new(events)
	if cfg.Audit.File != "" && !mc.DryRun {
		var err error
		if e.audit, err = audit.Open(audit.Config{File: cfg.Audit.File, Logger: log}); err != nil {
			return nil, err
		}
	}
	rep, err := maintainOpened(ctx, cfg, named, mc, log)
	e.maintained(byCommand, named.Name, mc.DryRun, rep, err)
	return describeMaintain(named.Name, mc.DryRun, rep), errors.Join(err, e.close())
}

// maintainOpened opens a store and maintains it.
func maintainOpened(ctx context.Context, cfg *config.Config, named *config.Store, mc snapshotter.MaintainConfig, log *slog.Logger) (rep snapshotter.MaintainReport, err error) {
	// The gateway that may be started meanwhile has its own cache.
	err = withOpened(ctx, cfg, named, filepath.Join(mc.Dir, "cache"), mc.DryRun, log, func(snaps *snapshotter.Snapshotter) (err error) {
		verified, err := snapshotter.ReadScrubState(scrubDir(cfg, named))
		if err != nil {
			log.Error("what is known of the store's files cannot be read", "store", named.Name, "err", err)
			verified.Forgotten = time.Now()
		}
		snaps.Distrust(&verified)
		rep, err = snaps.Maintain(ctx, mc)
		return err
	})
	return rep, err
}

// cacheOf returns the cache directory of who has its own at dir, or another one beside it for who only looks at the store: that
// notes as lost there what whoever writes would put back, or tell others of.
func cacheOf(dir string, look bool) string {
	if look {
		return dir + "-read"
	}
	return dir
}

// withOpened opens a store, beside whatever else uses it: for writing, unless dry, when nothing in it is changed.
func withOpened(ctx context.Context, cfg *config.Config, named *config.Store, cache string, dry bool, log *slog.Logger, do func(*snapshotter.Snapshotter) error) (err error) {
	point, err := failpoint()
	if err != nil {
		return err
	}
	sc := cfg.StoreConfigOf(named, log, false)
	sc.CacheDir, sc.NoSweep = cacheOf(cache, dry), dry
	st, err := store.Open(ctx, sc)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, st.Close()) }()
	defer st.LeaveWhen(ctx, store.LeavePatience)()
	snaps, err := snapshotter.New(ctx, snapshotter.Config{Store: st, Logger: log, Failpoint: point, ReadOnly: dry})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, snaps.Close()) }()
	return do(snaps)
}

// answerMaintain maintains the store of the gateway, and waits for the end.
func (s *serving) answerMaintain(ctx context.Context, req control.Request) (*control.Maintain, error) {
	mc := s.maintenance
	mc.DryRun = req.DryRun
	var err error
	if mc.Grace, err = time.ParseDuration(req.Grace); err != nil {
		return nil, fmt.Errorf("maintain: grace period: %w", err)
	}
	var rep snapshotter.MaintainReport
	if err = s.trustClock(ctx, mc.Grace); err == nil {
		rep, err = s.snapshots.Maintain(ctx, mc)
	}
	s.logMaintain(rep, req.DryRun, err)
	s.events.maintained(byOperator, config.DefaultStore, req.DryRun, rep, err)
	return describeMaintain(config.DefaultStore, req.DryRun, rep), err
}

// maintainJob maintains the store of the gateway beside what else it does.
func (s *serving) maintainJob(cfg *config.Config) func(context.Context) (jobs.Outcome, error) {
	return func(ctx context.Context) (jobs.Outcome, error) {
		mc := maintainConfig(cfg, &cfg.Store)
		if err := s.trustClock(ctx, mc.Grace); err != nil {
			return jobs.Outcome{}, err
		}
		rep, err := s.snapshots.Maintain(ctx, mc)
		s.logMaintain(rep, false, nil) // an error is logged with the job
		s.events.maintained(bySchedule, cfg.Store.Name, false, rep, err)
		if err != nil && (worthRetrying(err) || errors.Is(err, snapshotter.ErrMaintaining)) {
			err = jobs.Retry(err)
		}
		return jobs.Outcome{Summary: summarizeMaintain(describeMaintain(cfg.Store.Name, false, rep))}, err
	}
}

// trustClock is an error while the clock is ahead of the time that has passed by as much as maintenance leaves alone
// what is of no use: to it, everything would have waited for long enough. Where time is not observed nothing says so.
func (s *serving) trustClock(ctx context.Context, grace time.Duration) error {
	if !timeMatters(s.inForce.Load()) {
		return nil
	}
	c, err := s.keeper.observed(ctx)
	if err != nil {
		err = fmt.Errorf("maintain: the time that has passed: %w", err)
		if worthRetrying(err) {
			err = jobs.Retry(err)
		}
		return err
	}
	return aheadError(&retention.Evidence{Clock: *c}, grace)
}

// trustClock is that of the running gateway for a command that maintains a store itself. It goes by what was observed until
// now, which it does not write: that is for who holds data_dir.
func (p *program) trustClock(cfg *config.Config, grace time.Duration) error {
	if !timeMatters(cfg) {
		return nil
	}
	var e retention.Evidence
	k := &keeper{dir: retentionDirOf(cfg, &cfg.Store), disk: disk.OS{}}
	switch err := k.readFile(clockName, &e.Clock); {
	case errors.Is(err, fs.ErrNotExist) || err == nil && !e.Started():
		return nil // it was never observed
	case err != nil:
		return fmt.Errorf("maintain: the time that has passed: %w", err)
	}
	e.Observe(p.clocksOrMachine()())
	return aheadError(&e, grace)
}

// aheadError is an error when the clock is ahead by the grace period.
func aheadError(e *retention.Evidence, grace time.Duration) error {
	ahead := e.Ahead()
	if ahead < max(grace, clockNoted) {
		return nil
	}
	return &hintedError{
		err: fmt.Errorf("maintain: the clock is %s ahead of the time that retention has seen pass (%s), and what is of no use is left alone for %s",
			inDays(ahead), stamp(e.Now()), grace),
		hint: "if the clock is right, run once: gateway prune --confirm-clock",
	}
}

// maintained notes what was reclaimed.
func (e *events) maintained(by, store string, dryRun bool, rep snapshotter.MaintainReport, err error) {
	if !dryRun {
		e.ofItself("maintain", by, store+": "+summarizeMaintain(describeMaintain(store, false, rep)), err)
	}
}

func (s *serving) logMaintain(rep snapshotter.MaintainReport, dryRun bool, err error) {
	if dryRun || err != nil {
		return // whoever has asked is told
	}
	s.log.Info("store maintained", "bytes_before", rep.Before.Bytes, "bytes_after", rep.After.Bytes,
		"removed", rep.Removed.Packfiles, "marked", rep.Marked.Packfiles, "grace", rep.Grace.Packfiles, "locked", rep.Locked)
}

func describeMaintain(store string, dryRun bool, r snapshotter.MaintainReport) *control.Maintain {
	return &control.Maintain{
		Store: store, DryRun: dryRun, Snapshots: r.Snapshots,
		BytesBefore: r.Before.Bytes, Before: r.Before.Packfiles, BytesAfter: r.After.Bytes, After: r.After.Packfiles,
		Used: r.Used.Packfiles, UsedBytes: r.Used.Bytes, NeededBytes: r.UsedBytes,
		Young: r.Young.Packfiles, YoungBytes: r.Young.Bytes, Marked: r.Marked.Packfiles, MarkedBytes: r.Marked.Bytes,
		Grace: r.Grace.Packfiles, GraceBytes: r.Grace.Bytes, GraceUntil: stamp(r.Until),
		Removed: r.Removed.Packfiles, RemovedBytes: r.Removed.Bytes, Kept: r.Kept.Packfiles,
		Spared: r.Spared.Packfiles, SparedBytes: r.Spared.Bytes,
		Orphans: r.Orphans, Rescued: r.Rescued, Lost: r.Lost, Locks: r.Locks, LockedMillis: r.Locked.Milliseconds(),
	}
}

// summarizeMaintain says in one line what was done.
func summarizeMaintain(m *control.Maintain) string {
	parts := []string{fmt.Sprintf("%s removed, %s marked", size(m.RemovedBytes), size(m.MarkedBytes))}
	if m.Grace > 0 {
		parts = append(parts, fmt.Sprintf("%s wait", size(m.GraceBytes)))
	}
	if m.Spared > 0 {
		parts = append(parts, fmt.Sprintf("%s left alone as states are missing", size(m.SparedBytes)))
	}
	return strings.Join(append(parts, size(m.BytesAfter)+" are stored"), "; ")
}

func size(bytes int64) string { return humanize.IBytes(uint64(max(bytes, 0))) }

func writeMaintain(out io.Writer, m *control.Maintain) error {
	would := ""
	if m.DryRun {
		would = " (would be)"
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	line := func(what string, packfiles int, bytes int64, more string) {
		_, _ = fmt.Fprintf(w, "%s\t%s\t%s%s\n", what, count(packfiles, "packfile", "packfiles"), size(bytes), more)
	}
	line("before", m.Before, m.BytesBefore, "")
	line("needed", m.Used, m.UsedBytes, fmt.Sprintf(", of which snapshots need %s", size(m.NeededBytes)))
	line("removed"+would, m.Removed, m.RemovedBytes, "")
	line("marked"+would, m.Marked, m.MarkedBytes, "")
	until := ""
	if m.GraceUntil != "" {
		until = ", the next until " + m.GraceUntil
	}
	line("in grace", m.Grace, m.GraceBytes, until)
	line("too young", m.Young, m.YoungBytes, "")
	line("after"+would, m.After, m.BytesAfter, "")
	for _, x := range []struct {
		n         int
		one, many string
		text      string
	}{
		{m.Kept, "marked packfile stays", "marked packfiles stay", ": something in them is needed after all"},
		{m.Spared, "packfile is", "packfiles are",
			" left alone, as states are missing from the store and their snapshots may need them: bring them back with gateway scrub --repair, or say that they are rightly gone with gateway scrub --accept"},
		{m.Rescued, "blob was", "blobs were", " stored again: only marked packfiles had them"},
		{m.Lost, "blob that snapshots need is", "blobs that snapshots need are", " missing from the store: gateway store check names the snapshots"},
		{m.Locks, "lock was", "locks were", " removed that others had left behind"},
	} {
		if x.n > 0 {
			_, _ = fmt.Fprintf(w, "%s%s\n", count(x.n, x.one, x.many), x.text)
		}
	}
	return w.Flush() // keeps the errors of the lines
}
