package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/snapgate/gateway/cmd/gateway/internal/config"
	"github.com/snapgate/gateway/cmd/gateway/internal/control"
	"github.com/snapgate/gateway/internal/disk"
	"github.com/snapgate/gateway/snapshotter"
	"github.com/snapgate/gateway/store"
	"github.com/snapgate/gateway/vfs"
)

// clockNoted is by how much the clock must be ahead to be told of.
const clockNoted = time.Hour

func (p *program) pruneCommand() *cobra.Command {
	var o pruneOptions
	var name string
	var asJSON bool
	c := &cobra.Command{
		Use:   "prune [SHARE…]",
		Short: "Remove the snapshots that retention does not keep",
		Long: `Decides about every snapshot by the keep and lock of its share or source, removes what nothing
keeps, and says of each why. --dry-run removes nothing. The running gateway does it, or, without one,
the command itself. The space comes back with maintenance.

The newest snapshot of a share, those that are pinned (gateway pin) or locked, and what other gateways
and plakar have made are never removed. Without keep, everything is kept. --store decides about the copies in
one of the other stores, by the retention of its entry.

Retention does not believe a clock that jumps: it goes by the time that it has seen pass. After a
long time without the gateway, or a clock that was wrong, it may be behind, and keeps more than it
should; --confirm-clock says that the clock of this machine is right.

With --json every line is an object with id, time, share, name (as below .snapshots), keep, removed
and reasons.`,
		Example: `  gateway prune -c /etc/gateway.yaml --dry-run
  gateway prune --store offsite
  gateway prune --dry-run --json | jq -r 'select(.keep | not) | .id'`,
		RunE: func(c *cobra.Command, args []string) error {
			o.shares = args
			return p.prune(c.Context(), name, o, asJSON)
		},
	}
	addKeptStore(c, &name)
	c.Flags().BoolVarP(&o.dryRun, "dry-run", "n", false, "say what would be removed, and remove nothing")
	c.Flags().BoolVar(&o.confirm, "confirm-clock", false, "the clock of this machine is right, whatever it showed before")
	c.Flags().BoolVar(&asJSON, "json", false, "print one JSON object a line")
	return c
}

// addKeptStore adds the flag of commands about what retention keeps, which may be in another store.
func addKeptStore(c *cobra.Command, name *string) {
	c.Flags().StringVar(name, "store", "", "in the store of that `NAME`, in place of the gateway's own")
}

// keptStore loads the configuration and finds the store that --store names, or the one that is served.
func (p *program) keptStore(name string) (*config.Config, *config.Store, error) {
	if name == "" {
		return p.loadStore(nil)
	}
	return p.loadStore([]string{name})
}

// callOf asks the running gateway about a store, which may be another than the one that it serves.
func callOf(ctx context.Context, cfg *config.Config, named *config.Store, req control.Request, each func(control.Reply) error) (control.Reply, error) {
	if named != &cfg.Store {
		req.Op, req.Store = req.Op+control.OfStore, named.Name
	}
	return control.Call(ctx, cfg.DataDir, req, each)
}

func (p *program) prune(ctx context.Context, name string, o pruneOptions, asJSON bool) error {
	cfg, named, err := p.keptStore(name)
	if err != nil {
		return err
	}
	switch {
	case o.confirm && o.dryRun:
		return errors.New("prune: --confirm-clock changes what is decided by: give it without --dry-run")
	case o.confirm && named != &cfg.Store:
		return &hintedError{
			err:  errors.New("prune: --confirm-clock is said for all stores"),
			hint: "run it without --store: gateway prune --confirm-clock",
		}
	}
	for _, share := range o.shares { // others have no policy
		if err := knownShare(cfg, share); err != nil {
			return err
		}
	}
	var list []control.Retained
	var sum control.Pruned
	err = interruptible(ctx, "prune", "run it again: it decides anew about what is left", func(ctx context.Context) (err error) {
		if list, sum, err = p.runPrune(ctx, cfg, named, o); err != nil {
			return fmt.Errorf("prune: %w", err)
		}
		return nil
	})
	if err != nil {
		return err
	}
	if asJSON {
		err = printJSON(p.stdout, list)
	} else {
		err = p.showVerdicts(list, o.dryRun)
	}
	if err != nil {
		return err
	}
	if ahead := time.Duration(sum.Ahead * float64(time.Second)); ahead > clockNoted {
		p.say(fmt.Sprintf("warning: the clock is %s ahead of the time that retention has seen pass (%s); until that is made up, it keeps more", inDays(ahead), sum.Now),
			"if the clock is right, run once: gateway prune --confirm-clock")
	}
	text := "%d removed, %d kept\n"
	if o.dryRun {
		text = "%d would be removed, %d kept\n"
	}
	_, _ = fmt.Fprintf(p.stderr, text, sum.Removed, sum.Kept)
	return nil
}

// inDays writes a long time in days.
func inDays(d time.Duration) string {
	if d >= 48*time.Hour {
		return fmt.Sprintf("%d days", d/(24*time.Hour))
	}
	return d.Round(time.Minute).String()
}

// showVerdicts prints a table.
func (p *program) showVerdicts(list []control.Retained, dryRun bool) error {
	if len(list) == 0 {
		return nil
	}
	w := tabwriter.NewWriter(p.stdout, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(w, "SHARE\tNAME\tID\tDECISION\tWHY")
	for i := range list {
		v := &list[i]
		what := "keep"
		switch {
		case !v.Keep && dryRun:
			what = "remove"
		case !v.Keep:
			what = "removed"
		}
		_, _ = fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", printable(v.Share), v.Name, v.ID[:shortID], what, strings.Join(v.Reasons, "; "))
	}
	return w.Flush() // keeps the errors of the lines
}

// runPrune has the running gateway do it, or does it here.
func (p *program) runPrune(ctx context.Context, cfg *config.Config, named *config.Store, o pruneOptions) (list []control.Retained, sum control.Pruned, err error) {
	req := control.Request{Op: control.OpPrune, Shares: o.shares, DryRun: o.dryRun, Confirm: o.confirm}
	rep, err := callOf(ctx, cfg, named, req, func(r control.Reply) error {
		if r.Retained != nil {
			list = append(list, *r.Retained)
		}
		return nil
	})
	if !errors.Is(err, control.ErrNoServer) {
		if rep.Pruned != nil {
			sum = *rep.Pruned
		}
		return list, sum, err
	}
	o.by = byCommand
	do := func(k *keeper) error {
		r, err := k.prune(ctx, o)
		for i := range r.verdicts {
			list = append(list, k.describe(&r.verdicts[i], o.dryRun))
		}
		sum = control.Pruned{Removed: r.removed, Kept: r.kept, Now: stamp(r.now), Ahead: r.ahead.Seconds()}
		return err
	}
	if o.dryRun {
		return list, sum, p.withStoredKeeper(ctx, cfg, named, do)
	}
	return list, sum, p.withKeeperOf(ctx, cfg, named, do)
}

// withKeeper opens the gateway, as serve would, for what writes. At the end it commits what waits, unless ctx has ended:
// it is in the journal, and whoever has interrupted a command does not wait for it.
func (p *program) withKeeper(ctx context.Context, cfg *config.Config, do func(*keeper) error) error {
	var level slog.LevelVar
	log := p.logger(cfg, &level)
	level.Set(max(cfg.Log.Level, slog.LevelWarn))
	g, err := p.openGateway(ctx, cfg, log)
	if err != nil {
		return err
	}
	stop := g.store.LeaveWhen(ctx, store.LeavePatience)
	err = do(g.openKeeper(p))
	stop()
	return errors.Join(err, g.close(ctx))
}

// withKeeperOf does so, and opens the store that is meant, if it is another than the one that is served.
func (p *program) withKeeperOf(ctx context.Context, cfg *config.Config, named *config.Store, do func(*keeper) error) error {
	return p.withKeeper(ctx, cfg, func(k *keeper) error {
		if named == &cfg.Store {
			return do(k)
		}
		return storeError(named, k.further(ctx, cfg, named, false, do))
	})
}

// withStoredKeeper reads the store that is meant, and the one that is served, beside whatever else uses them, and
// changes nothing.
func (p *program) withStoredKeeper(ctx context.Context, cfg *config.Config, named *config.Store, do func(*keeper) error) error {
	if named == &cfg.Store {
		return p.readKeeper(ctx, cfg, named, nil, do)
	}
	return p.readKeeper(ctx, cfg, &cfg.Store, nil, func(served *keeper) error {
		return storeError(named, p.readKeeper(ctx, cfg, named, served, do))
	})
}

// readKeeper reads one store. served is needed to prune another than the one that is served: the keeper of that.
func (p *program) readKeeper(ctx context.Context, cfg *config.Config, named *config.Store, served *keeper, do func(*keeper) error) error {
	return readConfigured(ctx, cfg, named, func(_ context.Context, _ *store.Store, snaps *snapshotter.Snapshotter) error {
		k := &keeper{
			dir: retentionDirOf(cfg, named), disk: disk.OS{}, clocks: p.clocksOrMachine(), served: served, readOnly: true,
			snapshots: snaps, gatewayID: vfs.StoredGatewayID(cfg.DataDir), log: slog.New(slog.DiscardHandler),
			lineage: func(share string) snapshotter.Lineage { return storedLineage(cfg, share) },
		}
		k.policies.Store(&cfg.Retention)
		if named != &cfg.Store {
			k.policies.Store(&named.Upkeep.Retention)
		}
		return do(k)
	})
}

func (p *program) pinCommand() *cobra.Command {
	var reason, name string
	c := &cobra.Command{
		Use:   "pin SNAPSHOT",
		Short: "Keep a snapshot whatever retention says",
		Long: `Pins a snapshot: no gateway on this store removes it before it is unpinned. A copy of it in another
store has a pin of its own: see --store. SNAPSHOT is an id, the first digits of one, SHARE, SHARE@TIME,
TIME or "latest". The id is printed. (Stock plakar does not know of pins: plakar rm removes it.)`,
		Example: `  gateway pin --reason "before the migration" main@yesterday
  gateway pin --store offsite main@2026-11-21`,
		Args: arguments(1, 1),
		RunE: func(c *cobra.Command, args []string) error {
			return interruptible(c.Context(), "pin", "", func(ctx context.Context) error { return p.setPin(ctx, name, args[0], reason, true) })
		},
	}
	addKeptStore(c, &name)
	c.Flags().StringVar(&reason, "reason", "", "why; gateway pins shows it, on this gateway")
	return c
}

func (p *program) unpinCommand() *cobra.Command {
	var name string
	c := &cobra.Command{
		Use:     "unpin SNAPSHOT",
		Short:   "Take a pin away",
		Long:    `Takes the pin of a snapshot away: retention decides about it again. SNAPSHOT is as for gateway pin.`,
		Example: "  gateway unpin 3f2a61c0\n  gateway unpin --store offsite 3f2a61c0",
		Args:    arguments(1, 1),
		RunE: func(c *cobra.Command, args []string) error {
			return interruptible(c.Context(), "unpin", "", func(ctx context.Context) error { return p.setPin(ctx, name, args[0], "", false) })
		},
	}
	addKeptStore(c, &name)
	return c
}

// setPin has the running gateway do it, or does it here.
func (p *program) setPin(ctx context.Context, name, ref, reason string, pinned bool) error {
	cfg, named, err := p.keptStore(name)
	if err != nil {
		return err
	}
	what := control.OpUnpin
	if pinned {
		what = control.OpPin
	}
	rep, err := callOf(ctx, cfg, named, control.Request{Op: what, Ref: ref, Reason: reason}, nil)
	if errors.Is(err, control.ErrNoServer) {
		err = p.withKeeperOf(ctx, cfg, named, func(k *keeper) error {
			id, err := k.setPin(ctx, ref, reason, pinned)
			rep.ID = id.String()
			k.events.ofItself("operator_"+what, byCommand, k.ofStore(ref), err)
			return err
		})
	}
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	_, err = fmt.Fprintln(p.stdout, rep.ID)
	return err
}

func (p *program) pinsCommand() *cobra.Command {
	var name string
	var asJSON bool
	c := &cobra.Command{
		Use:   "pins",
		Short: "List the pinned snapshots",
		Long: `Lists the snapshots that are pinned in the store, whoever has done it, with the reason where this
gateway knows it. With --json every line is an object with id, time, share, name, pinned (since
when) and reason.`,
		Example: "  gateway pins --json | jq -r .id",
		Args:    arguments(0, 0),
		RunE: func(c *cobra.Command, _ []string) error {
			return interruptible(c.Context(), "pins", "", func(ctx context.Context) error { return p.listPins(ctx, name, asJSON) })
		},
	}
	addKeptStore(c, &name)
	c.Flags().BoolVar(&asJSON, "json", false, "print one JSON object a line")
	return c
}

func (p *program) listPins(ctx context.Context, name string, asJSON bool) error {
	cfg, named, err := p.keptStore(name)
	if err != nil {
		return err
	}
	var list []control.Pin
	_, err = callOf(ctx, cfg, named, control.Request{Op: control.OpPins}, func(r control.Reply) error {
		if r.Pin != nil {
			list = append(list, *r.Pin)
		}
		return nil
	})
	if errors.Is(err, control.ErrNoServer) {
		err = storeError(named, p.readKeeper(ctx, cfg, named, nil, func(k *keeper) (err error) {
			list, err = k.pins(ctx)
			return err
		}))
	}
	switch {
	case err != nil:
		return fmt.Errorf("pins: %w", err)
	case asJSON:
		return printJSON(p.stdout, list)
	case len(list) == 0:
		_, _ = fmt.Fprintln(p.stderr, "nothing is pinned")
		return nil
	}
	w := tabwriter.NewWriter(p.stdout, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(w, "SHARE\tNAME\tPINNED\tREASON\tID")
	for i := range list {
		n := &list[i]
		reason := printable(n.Reason)
		if reason == "" {
			reason = "-"
		}
		_, _ = fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", printable(n.Share), n.Name, n.Pinned, reason, n.ID)
	}
	return w.Flush() // keeps the errors of the lines
}
