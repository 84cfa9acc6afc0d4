package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/snapgate/gateway/cmd/gateway/internal/config"
	"github.com/snapgate/gateway/cmd/gateway/internal/control"
	"github.com/snapgate/gateway/internal/jobs"
)

// openJobs makes the scheduler, with the jobs of the configuration.
func (s *serving) openJobs() error {
	var err error
	s.maintenance = maintainConfig(s.cfg, &s.cfg.Store)
	s.jobs, err = jobs.New(jobs.Config{
		Dir: jobsDir(s.cfg), Seed: s.system.GatewayID(), Parallel: s.cfg.Limits.Jobs, Logger: s.log, Hint: hintFor,
		Ended: s.events.jobEnded,
	})
	if err != nil {
		return err
	}
	return s.jobs.Set(s.jobsOf(s.cfg))
}

// jobsOf are the jobs of a configuration. They keep to it, also when another one has been taken
// over since.
func (s *serving) jobsOf(cfg *config.Config) []jobs.Job {
	var list []jobs.Job
	for _, plan := range plannedJobs(cfg) {
		j := jobs.Job{Name: plan.name, Kind: plan.kind, Schedule: plan.schedule.Times, Jitter: plan.schedule.Jitter}
		if plan.store != nil {
			j.Run = s.upkeepJob(cfg, plan)
			list = append(list, j)
			continue
		}
		switch plan.kind {
		case jobPull:
			if src, ok := cfg.Source(plan.name); ok {
				j.Run = s.pullJob(cfg.DataDir, src)
			}
		case jobSync:
			j.Run = s.syncJob(cfg, cfg.SyncNamed(plan.name))
		case jobPrune:
			j.Run = s.pruneJob
		case jobMaintain:
			j.Run = s.maintainJob(cfg)
		case jobVerify:
			j.Run = s.verifyJob(cfg)
		}
		list = append(list, j)
	}
	return list
}

// startJobs starts the scheduler.
func (s *serving) startJobs(ctx context.Context, e *servers) {
	ctx, e.stopJobs = context.WithCancel(ctx)
	e.jobsEnded = make(chan struct{})
	go func() {
		defer close(e.jobsEnded)
		s.jobs.Serve(ctx)
	}()
	if n := len(s.jobs.List()); n > 0 {
		s.log.Info("jobs scheduled", "jobs", n)
	}
}

// jobGrace is how long a shutdown waits for jobs at least: those that have been told to stop take
// a moment for it, also where transfers get none.
const jobGrace = 5 * time.Second

// drainJobs tells the jobs that run to stop, and waits for them. They are made up at the next
// start.
func (s *serving) drainJobs(e *servers) {
	e.stopJobs()
	patience := time.NewTimer(max(s.cfg.Limits.Drain, jobGrace))
	defer patience.Stop()
	select {
	case <-e.jobsEnded:
	case <-patience.C:
		s.log.Error("a job does not stop; the gateway ends without waiting for it")
	}
}

// jobProgress knows how far the jobs are that run. The zero value is ready; safe for concurrent
// use.
type jobProgress struct {
	mu sync.Mutex // guards of
	of map[string]func() string
}

// watch makes text tell how far a job is, until done is called.
func (p *jobProgress) watch(name string, text func() string) (done func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.of == nil {
		p.of = map[string]func() string{}
	}
	p.of[name] = text
	return func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		delete(p.of, name)
	}
}

// text tells how far a job is, "" when it is not known.
func (p *jobProgress) text(name string) string {
	p.mu.Lock()
	text := p.of[name]
	p.mu.Unlock()
	if text == nil {
		return ""
	}
	return text()
}

// answerJobs lists the jobs.
func (s *serving) answerJobs(send func(control.Reply) error) control.Reply {
	for _, st := range s.jobs.List() {
		j := describeJob(st)
		if st.Running {
			j.Summary = s.progress.text(st.Name)
		}
		if err := send(control.Reply{Job: &j}); err != nil {
			return refusal(err)
		}
	}
	return control.Reply{}
}

// progressInterval is between two lines of progress of a run.
const progressInterval = time.Second

// sendProgress sends that a run has begun, and how far it is, until stop is called. Errors of
// send are not looked at: with the client goes the context of the request.
func (s *serving) sendProgress(name string, send func(control.Reply) error) (stop func()) {
	tell := func() {
		_ = send(control.Reply{Job: &control.Job{Name: name, State: "running", Summary: s.progress.text(name)}})
	}
	tell()
	done := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		ticker := time.NewTicker(progressInterval)
		defer ticker.Stop()
		for {
			select {
			case <-ticker.C:
				tell()
			case <-done:
				return
			}
		}
	})
	return func() {
		close(done)
		wg.Wait()
	}
}

// answerRunJob runs a job and tells what came of it.
func (s *serving) answerRunJob(ctx context.Context, name string, send func(control.Reply) error) control.Reply {
	stop := func() {}
	st, err := s.jobs.RunNow(ctx, name, func() { stop = s.sendProgress(name, send) })
	stop()
	switch {
	case errors.Is(err, jobs.ErrUnknown):
		var names []string
		for _, st := range s.jobs.List() {
			names = append(names, st.Name)
		}
		err = &hintedError{
			err:  fmt.Errorf("job %q: the running gateway does not have it", name),
			hint: fmt.Sprintf("its jobs are: %s; what has no schedule is no job, and SIGHUP makes the gateway take over a changed configuration", joinOr(names, "none")),
		}
	case errors.Is(err, jobs.ErrRunning):
		err = &hintedError{err: err, hint: "wait for its end; see: gateway jobs"}
	case err != nil && st.Name != "":
		err = &hintedError{err: fmt.Errorf("%s: %w", name, err), hint: strings.TrimPrefix(hintFor(err)+"\nsee: gateway jobs", "\n")}
	}
	rep := refusal(err)
	if st.Name != "" {
		j := describeJob(st)
		rep.Job = &j
	}
	return rep
}
