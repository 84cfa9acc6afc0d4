package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/snapgate/gateway/cmd/gateway/internal/control"
	"github.com/snapgate/gateway/cmd/gateway/internal/snapref"
	"github.com/snapgate/gateway/internal/disk"
	"github.com/snapgate/gateway/internal/jobs"
	"github.com/snapgate/gateway/internal/retention"
	"github.com/snapgate/gateway/snapshotter"
)

// observeInterval is how often serve looks at the clocks and at which snapshots there are: it is how
// precisely retention knows when a snapshot was made that a wrong clock has stamped.
const observeInterval = 5 * time.Minute

// openKeeper makes what retention needs of an open gateway.
func (g *gateway) openKeeper(p *program) *keeper {
	k := &keeper{
		dir: filepath.Join(g.cfg.DataDir, retentionDir), disk: disk.OS{}, clocks: p.clocksOrMachine(),
		snapshots: g.snapshots, gatewayID: g.system.GatewayID(), lineage: g.system.Lineage, needed: g.system.Needed, log: g.log, alarms: g.alarms,
		events: g.events,
	}
	k.policies.Store(&g.cfg.Retention)
	return k
}

// clocksOrMachine are the clocks that retention reads.
func (p *program) clocksOrMachine() func() retention.Reading {
	if p.clocks != nil {
		return p.clocks
	}
	return machineClocks()
}

// observing observes until ctx ends.
func (s *serving) observing(ctx context.Context) {
	tick := time.NewTicker(observeInterval)
	defer tick.Stop()
	for {
		if s.timeMatters() {
			s.observe(ctx)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// timeMatters reports whether what has passed decides of anything: not while everything is kept, in all stores,
// and no backup is expected at times.
func (s *serving) timeMatters() bool {
	stores := s.inForce.Load().Stores
	for i := range stores {
		if stores[i].Upkeep.Retention.Removes() {
			return true
		}
	}
	return s.keeper.policies.Load().Removes() || s.expect.Load().HasTimes()
}

// observe has retention look at the time and at the snapshots.
func (s *serving) observe(ctx context.Context) {
	if err := s.keeper.observe(ctx); err != nil && ctx.Err() == nil && !errors.Is(err, snapshotter.ErrUnavailable) {
		s.log.Warn("retention could not look at the time and at the snapshots", "err", err)
	}
}

// pruneJob removes what retention does not keep.
func (s *serving) pruneJob(ctx context.Context) (jobs.Outcome, error) {
	return s.pruneBy(ctx, s.keeper)
}

// pruneBy is pruneJob of the store that k knows.
func (s *serving) pruneBy(ctx context.Context, k *keeper) (jobs.Outcome, error) {
	r, err := k.prune(ctx, pruneOptions{by: bySchedule})
	if err != nil {
		if worthRetrying(err) {
			err = jobs.Retry(err)
		}
		return jobs.Outcome{}, err
	}
	if r.ahead > clockNoted {
		s.log.Warn("the clock is ahead of the time that retention has seen pass; it keeps more until somebody runs: gateway prune --confirm-clock",
			"ahead", r.ahead.Round(time.Minute), "retention", r.now)
	}
	return jobs.Outcome{Summary: r.summary()}, nil
}

// answerPrune prunes, or tells what would become of snapshots.
func (s *serving) answerPrune(ctx context.Context, req control.Request, send func(control.Reply) error) control.Reply {
	o := pruneOptions{shares: req.Shares, by: byOperator, dryRun: req.DryRun, confirm: req.Confirm}
	r, err := s.keeper.prune(ctx, o)
	for i := range r.verdicts {
		if err == nil {
			v := s.keeper.describe(&r.verdicts[i], o.dryRun)
			err = send(control.Reply{Retained: &v})
		}
	}
	rep := refusal(err)
	rep.Pruned = &control.Pruned{Removed: r.removed, Kept: r.kept, Now: stamp(r.now), Ahead: r.ahead.Seconds()}
	return rep
}

// answerPins lists pins.
func (s *serving) answerPins(ctx context.Context, send func(control.Reply) error) control.Reply {
	list, err := s.keeper.pins(ctx)
	for i := range list {
		if err == nil {
			err = send(control.Reply{Pin: &list[i]})
		}
	}
	return refusal(err)
}

// answerPin pins a snapshot, or takes the pin away.
func (s *serving) answerPin(ctx context.Context, req control.Request) control.Reply {
	id, err := s.keeper.setPin(ctx, req.Ref, req.Reason, req.Op == control.OpPin)
	if err != nil {
		return refusal(err)
	}
	return control.Reply{ID: id.String()}
}

// setPin pins the snapshot that a reference names, or takes its pin away.
func (k *keeper) setPin(ctx context.Context, ref, reason string, pinned bool) (snapshotter.ID, error) {
	if err := k.snapshots.Refresh(ctx); err != nil {
		return snapshotter.ID{}, err
	}
	list, err := k.snapshots.Snapshots(ctx, "")
	if err != nil {
		return snapshotter.ID{}, err
	}
	found, err := snapref.Find(ref, list, snapref.Options{Now: time.Now(), Lineage: k.lineage})
	if err != nil {
		return snapshotter.ID{}, err
	}
	if found.Path != "/" {
		return snapshotter.ID{}, &hintedError{err: fmt.Errorf("%q names a path", ref), hint: "a whole snapshot is pinned: leave the path out"}
	}
	id := found.Snapshot.ID
	if pinned {
		return id, k.pin(ctx, id, reason)
	}
	return id, k.unpin(ctx, id)
}
