package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
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
	var asJSON bool
	c := &cobra.Command{
		Use:   "prune [SHARE…]",
		Short: "Remove the snapshots that retention does not keep",
		Long: `Decides about every snapshot by the keep and lock of its share or source, removes what nothing
keeps, and says of each why. --dry-run removes nothing. The running gateway does it, or, without one,
the command itself. The space comes back with maintenance.

The newest snapshot of a share, those that are pinned (gateway pin) or locked, and what other gateways
and plakar have made are never removed. Without keep, everything is kept.

Retention does not believe a clock that jumps: it goes by the time that it has seen pass. After a
long time without the gateway, or a clock that was wrong, it may be behind, and keeps more than it
should; --confirm-clock says that the clock of this machine is right.

With --json every line is an object with id, time, share, name (as below .snapshots), keep, removed
and reasons.`,
		Example: `  gateway prune -c /etc/gateway.yaml --dry-run
  gateway prune --dry-run --json | jq -r 'select(.keep | not) | .id'`,
		RunE: func(c *cobra.Command, args []string) error {
			o.shares = args
			return p.prune(c.Context(), o, asJSON)
		},
	}
	c.Flags().BoolVarP(&o.dryRun, "dry-run", "n", false, "say what would be removed, and remove nothing")
	c.Flags().BoolVar(&o.confirm, "confirm-clock", false, "the clock of this machine is right, whatever it showed before")
	c.Flags().BoolVar(&asJSON, "json", false, "print one JSON object a line")
	return c
}

func (p *program) prune(ctx context.Context, o pruneOptions, asJSON bool) error {
	cfg, err := p.load()
	if err != nil {
		return err
	}
	if o.confirm && o.dryRun {
		return errors.New("prune: --confirm-clock changes what is decided by: give it without --dry-run")
	}
	for _, share := range o.shares { // others have no policy
		if err := knownShare(cfg, share); err != nil {
			return err
		}
	}
	list, sum, err := p.runPrune(ctx, cfg, o)
	if err != nil {
		return fmt.Errorf("prune: %w", err)
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
func (p *program) runPrune(ctx context.Context, cfg *config.Config, o pruneOptions) (list []control.Retained, sum control.Pruned, err error) {
	req := control.Request{Op: control.OpPrune, Shares: o.shares, DryRun: o.dryRun, Confirm: o.confirm}
	rep, err := control.Call(ctx, cfg.DataDir, req, func(r control.Reply) error {
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
		return list, sum, p.withStoredKeeper(ctx, cfg, do)
	}
	return list, sum, p.withKeeper(ctx, cfg, do)
}

// withKeeper opens the gateway, as serve would, for what writes.
func (p *program) withKeeper(ctx context.Context, cfg *config.Config, do func(*keeper) error) error {
	var level slog.LevelVar
	log := p.logger(cfg, &level)
	level.Set(max(cfg.Log.Level, slog.LevelWarn))
	g, err := p.openGateway(ctx, cfg, log)
	if err != nil {
		return err
	}
	return errors.Join(do(g.openKeeper(p)), g.close(context.WithoutCancel(ctx)))
}

// withStoredKeeper reads the store beside whatever else uses it, and changes nothing.
func (p *program) withStoredKeeper(ctx context.Context, cfg *config.Config, do func(*keeper) error) error {
	return readConfigured(ctx, cfg, &cfg.Store, func(_ context.Context, _ *store.Store, snaps *snapshotter.Snapshotter) error {
		k := &keeper{
			dir: filepath.Join(cfg.DataDir, retentionDir), disk: disk.OS{}, clocks: p.clocksOrMachine(), readOnly: true,
			snapshots: snaps, gatewayID: vfs.StoredGatewayID(cfg.DataDir), log: slog.New(slog.DiscardHandler),
			lineage: func(share string) snapshotter.Lineage { return storedLineage(cfg, share) },
		}
		k.policies.Store(&cfg.Retention)
		return do(k)
	})
}

func (p *program) pinCommand() *cobra.Command {
	var reason string
	c := &cobra.Command{
		Use:   "pin SNAPSHOT",
		Short: "Keep a snapshot whatever retention says",
		Long: `Pins a snapshot: no gateway on this store removes it before it is unpinned. SNAPSHOT is an id, the
first digits of one, SHARE, SHARE@TIME, TIME or "latest". The id is printed. (Stock plakar does not know of
pins: plakar rm removes it.)`,
		Example: `  gateway pin --reason "before the migration" main@yesterday`,
		Args:    arguments(1, 1),
		RunE: func(c *cobra.Command, args []string) error {
			return p.setPin(c.Context(), "pin", control.Request{Op: control.OpPin, Ref: args[0], Reason: reason})
		},
	}
	c.Flags().StringVar(&reason, "reason", "", "why; gateway pins shows it, on this gateway")
	return c
}

func (p *program) unpinCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "unpin SNAPSHOT",
		Short:   "Take a pin away",
		Long:    `Takes the pin of a snapshot away: retention decides about it again. SNAPSHOT is as for gateway pin.`,
		Example: "  gateway unpin 3f2a61c0",
		Args:    arguments(1, 1),
		RunE: func(c *cobra.Command, args []string) error {
			return p.setPin(c.Context(), "unpin", control.Request{Op: control.OpUnpin, Ref: args[0]})
		},
	}
}

// setPin has the running gateway do it, or does it here.
func (p *program) setPin(ctx context.Context, what string, req control.Request) error {
	cfg, err := p.load()
	if err != nil {
		return err
	}
	rep, err := control.Call(ctx, cfg.DataDir, req, nil)
	if errors.Is(err, control.ErrNoServer) {
		err = p.withKeeper(ctx, cfg, func(k *keeper) error {
			id, err := k.setPin(ctx, req.Ref, req.Reason, req.Op == control.OpPin)
			rep.ID = id.String()
			k.events.ofItself("operator_"+req.Op, byCommand, req.Ref, err)
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
	var asJSON bool
	c := &cobra.Command{
		Use:   "pins",
		Short: "List the pinned snapshots",
		Long: `Lists the snapshots that are pinned in the store, whoever has done it, with the reason where this
gateway knows it. With --json every line is an object with id, time, share, name, pinned (since
when) and reason.`,
		Example: "  gateway pins --json | jq -r .id",
		Args:    arguments(0, 0),
		RunE:    func(c *cobra.Command, _ []string) error { return p.listPins(c.Context(), asJSON) },
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print one JSON object a line")
	return c
}

func (p *program) listPins(ctx context.Context, asJSON bool) error {
	cfg, err := p.load()
	if err != nil {
		return err
	}
	var list []control.Pin
	_, err = control.Call(ctx, cfg.DataDir, control.Request{Op: control.OpPins}, func(r control.Reply) error {
		if r.Pin != nil {
			list = append(list, *r.Pin)
		}
		return nil
	})
	if errors.Is(err, control.ErrNoServer) {
		err = p.withStoredKeeper(ctx, cfg, func(k *keeper) (err error) {
			list, err = k.pins(ctx)
			return err
		})
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
