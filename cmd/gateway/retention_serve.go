package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/snapgate/gateway/cmd/gateway/internal/config"
	"github.com/snapgate/gateway/cmd/gateway/internal/control"
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

// retentionDirOf is where what retention knows of a store is.
func retentionDirOf(cfg *config.Config, named *config.Store) string {
	if named == &cfg.Store {
		return filepath.Join(cfg.DataDir, retentionDir)
	}
	return filepath.Join(cfg.DataDir, "stores", named.Name, retentionDir)
}

// further opens a store that is not served, beside whoever else writes to it, for what retention does there.
// Which snapshots there are since when is known for each store by itself; what time has passed is observed
// once, by k: a further store is opened for moments, and a restart between two of them would not be seen. With dry
// nothing is changed in it, nor what is known of it. One call at a time may be under way for a store.
func (k *keeper) further(ctx context.Context, cfg *config.Config, named *config.Store, dry bool, do func(*keeper) error) error {
	dir := retentionDirOf(cfg, named)
	log := k.log.With("store", named.Name)
	return withOpened(ctx, cfg, named, filepath.Join(filepath.Dir(dir), "retention-cache"), dry, log, func(snaps *snapshotter.Snapshotter) error {
		f := &keeper{
			dir: dir, disk: k.disk, served: k, snapshots: snaps, gatewayID: k.gatewayID, lineage: k.lineage, log: log,
			store: named.Name, readOnly: dry,
		}
		if !dry {
			f.events = k.events
		}
		f.policies.Store(&named.Upkeep.Retention)
		return do(f)
	})
}

// turns lets one at a time work on each of several things, by their names. The zero value is ready; safe for
// concurrent use.
type turns struct {
	of sync.Map // name to a chan struct{} of 1, which is full while somebody works
}

// take waits for its turn, or for the end of ctx, whose error it returns then. done gives the turn away.
func (t *turns) take(ctx context.Context, name string) (done func(), err error) {
	made, _ := t.of.LoadOrStore(name, make(chan struct{}, 1))
	turn := made.(chan struct{})
	select {
	case turn <- struct{}{}:
		return func() { <-turn }, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// withFurther is keeper.further, for one caller at a time for each store.
func (s *serving) withFurther(ctx context.Context, cfg *config.Config, named *config.Store, dry bool, do func(*keeper) error) error {
	done, err := s.turns.take(ctx, named.Name)
	if err != nil {
		return err
	}
	defer done()
	return s.keeper.further(ctx, cfg, named, dry, do)
}

// withKeeperOf calls do with what knows what retention keeps in a store: that of the store that is served for "". dry is
// that of keeper.further.
func (s *serving) withKeeperOf(ctx context.Context, name string, dry bool, do func(*keeper) error) error {
	if name == "" {
		return do(s.keeper)
	}
	cfg := s.inForce.Load()
	named := cfg.StoreNamed(name)
	if named == nil || named == &cfg.Store {
		return &hintedError{
			err:  fmt.Errorf("store %q: the running gateway does not have it", name),
			hint: "SIGHUP makes the gateway take over a changed configuration",
		}
	}
	return storeError(named, s.withFurther(ctx, cfg, named, dry, do))
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
		if timeMatters(s.inForce.Load()) {
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
// none is maintained at times, and no backup is expected at times. Only then is it observed.
func timeMatters(cfg *config.Config) bool {
	if cfg.Maintenance.Schedule.Times != nil {
		return true
	}
	for i := range cfg.Stores {
		if u := &cfg.Stores[i].Upkeep; u.Retention.Removes() || u.Maintenance.Schedule.Times != nil {
			return true
		}
	}
	return cfg.Retention.Removes() || cfg.Expect.HasTimes()
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
	var r pruned
	var list []control.Retained
	err := s.withKeeperOf(ctx, req.Store, o.dryRun, func(k *keeper) (err error) {
		r, err = k.prune(ctx, o)
		for i := range r.verdicts {
			list = append(list, k.describe(&r.verdicts[i], o.dryRun))
		}
		return err
	})
	for i := range list {
		if err == nil {
			err = send(control.Reply{Retained: &list[i]})
		}
	}
	rep := refusal(err)
	rep.Pruned = &control.Pruned{Removed: r.removed, Kept: r.kept, Now: stamp(r.now), Ahead: r.ahead.Seconds()}
	return rep
}

// answerPins lists pins.
func (s *serving) answerPins(ctx context.Context, req control.Request, send func(control.Reply) error) control.Reply {
	var list []control.Pin
	err := s.withKeeperOf(ctx, req.Store, true, func(k *keeper) (err error) {
		list, err = k.pins(ctx)
		return err
	})
	for i := range list {
		if err == nil {
			err = send(control.Reply{Pin: &list[i]})
		}
	}
	return refusal(err)
}

// answerPin pins a snapshot, or takes the pin away.
func (s *serving) answerPin(ctx context.Context, req control.Request) control.Reply {
	var id snapshotter.ID
	what, about := strings.TrimSuffix(req.Op, control.OfStore), req.Ref
	if req.Store != "" {
		about = req.Store + ": " + about
	}
	err := s.withKeeperOf(ctx, req.Store, false, func(k *keeper) (err error) {
		id, err = k.setPin(ctx, req.Ref, req.Reason, what == control.OpPin)
		return err
	})
	rep := refusal(err)
	if err == nil {
		rep.ID = id.String()
	}
	s.events.answered("operator_"+what, about, &rep)
	return rep
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
	found, err := findCertain(ctx, ref, list, k.lineage, k.snapshots)
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
