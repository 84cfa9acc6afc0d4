package main

import (
	"context"
	"errors"
	"sync/atomic"

	"github.com/snapgate/gateway/cmd/gateway/internal/config"
	"github.com/snapgate/gateway/internal/jobs"
	"github.com/snapgate/gateway/snapshotter"
)

// upkeepJob prunes, maintains or verifies a store that is not served. It is opened for each run, beside
// whoever else writes to it.
func (s *serving) upkeepJob(cfg *config.Config, plan jobPlan) func(context.Context) (jobs.Outcome, error) {
	run := s.pruneStore
	switch plan.kind {
	case jobMaintain:
		run = s.maintainStore
	case jobVerify:
		run = s.verifyStore
	}
	return func(ctx context.Context) (jobs.Outcome, error) {
		out, err := run(ctx, cfg, plan)
		if err != nil {
			retry := worthRetrying(err) || errors.Is(err, snapshotter.ErrMaintaining) || errors.Is(err, snapshotter.ErrScrubbing)
			if err = storeError(plan.store, err); retry {
				err = jobs.Retry(err)
			}
		}
		return out, err
	}
}

// pruneStore removes what the store's retention does not keep of the copies of this gateway's snapshots.
func (s *serving) pruneStore(ctx context.Context, cfg *config.Config, plan jobPlan) (out jobs.Outcome, err error) {
	err = s.withFurther(ctx, cfg, plan.store, false, func(k *keeper) (err error) {
		out, err = s.pruneBy(ctx, k)
		return err
	})
	return out, err
}

func (s *serving) maintainStore(ctx context.Context, cfg *config.Config, plan jobPlan) (jobs.Outcome, error) {
	mc := maintainConfig(cfg, plan.store)
	if err := s.trustClock(ctx, mc.Grace); err != nil {
		return jobs.Outcome{}, err
	}
	rep, err := maintainOpened(ctx, cfg, plan.store, mc, s.log.With("store", plan.store.Name))
	s.events.maintained(bySchedule, plan.store.Name, false, rep, err)
	return jobs.Outcome{Summary: summarizeMaintain(describeMaintain(plan.store.Name, false, rep))}, err
}

// verifyStore reads back what is due. Damage is repaired by hand: gateway scrub --repair.
func (s *serving) verifyStore(ctx context.Context, cfg *config.Config, plan jobPlan) (jobs.Outcome, error) {
	var at atomic.Pointer[snapshotter.ScrubReport]
	at.Store(new(snapshotter.ScrubReport))
	defer s.progress.watch(plan.name, func() string {
		rep := at.Load()
		return readBack(rep) + ", " + count(rep.Left, "file is", "files are") + " left"
	})()
	sc := scrubConfig(cfg, plan.store, snapshotter.ScrubDue)
	sc.Progress = func(rep snapshotter.ScrubReport) { at.Store(&rep) }
	rep, err := scrubAlone(ctx, cfg, plan.store, sc, "", s.log.With("store", plan.store.Name))
	if !errors.Is(err, snapshotter.ErrScrubbing) && rep.State.Store != "" {
		s.alarmOfDamage(plan.store.Name, &rep.State)
	}
	summary := readBack(&rep)
	if damage := damageText(&rep.State); damage != "" {
		summary += "; " + damage
	}
	return jobs.Outcome{Partial: !rep.State.Sound(), Summary: summary}, err
}
