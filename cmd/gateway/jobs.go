package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/snapgate/gateway/cmd/gateway/internal/config"
	"github.com/snapgate/gateway/cmd/gateway/internal/control"
	"github.com/snapgate/gateway/internal/disk"
	"github.com/snapgate/gateway/internal/jobs"
)

func (p *program) jobsCommand() *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use:   "jobs",
		Short: "List what is scheduled, and how it went",
		Long: `Lists the jobs that the configuration schedules, with their last and next runs; what is wrong
with one is said below the list. The running gateway is asked. Without one, the list is what the
last one has left, and nothing runs until a gateway is started. Times are UTC.

With --json every line is an object with name, kind, schedule (cron), words (the same in
words), state (idle, waiting, running), result (of the last run: ok, partial, failed, stopped,
interrupted; empty before the first), start, end, success (end of the last good run), failures
(in a row), error, hint, snapshot, summary, next (when it starts), and retry (the next run repeats
a failed one).`,
		Example: `  gateway jobs -c /etc/gateway.yaml
  gateway jobs --json | jq -r 'select(.result == "failed") | .name'`,
		Args: arguments(0, 0),
		RunE: func(c *cobra.Command, _ []string) error { return p.listJobs(c.Context(), asJSON) },
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print one JSON object a line")
	c.AddCommand(p.jobsRunCommand())
	return c
}

func (p *program) jobsRunCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "run NAME",
		Short: "Run a job now",
		Long: `Asks the running gateway to run a job now, and waits for its end. The id of the snapshot stands
alone on the last line, when there is one. Ending this command stops the run. When the job was due,
or was to be repeated, this run takes its place; else its schedule goes on as if nothing had been.

The exit status is 3 when something was left out.`,
		Example: "  gateway jobs run -c /etc/gateway.yaml web1",
		Args:    arguments(1, 1),
		RunE:    func(c *cobra.Command, args []string) error { return p.runJob(c.Context(), args[0]) },
	}
}

// jobPlan is a job of the configuration, without what it does.
type jobPlan struct {
	name, kind string
	schedule   config.Schedule
	store      *config.Store // of the stores section; nil for the one that is served
}

// The kinds of jobs: pulling a source, copying snapshots to another store, and maintaining a store.
const (
	jobPull     = "pull"
	jobSync     = "sync"
	jobMaintain = "maintain"
	// jobVerify reads a part of a store back; there is one for each.
	jobVerify = "verify"
	// jobPrune removes what retention does not keep; there is one for each store.
	jobPrune = "prune"
)

// plannedJobs lists what the configuration schedules.
func plannedJobs(cfg *config.Config) []jobPlan {
	var list []jobPlan
	for i := range cfg.Sources {
		if s := &cfg.Sources[i]; s.Schedule.Times != nil {
			list = append(list, jobPlan{s.Name, jobPull, s.Schedule, nil})
		}
	}
	for i := range cfg.Syncs {
		if s := &cfg.Syncs[i]; s.Schedule.Times != nil {
			list = append(list, jobPlan{s.Name, jobSync, s.Schedule, nil})
		}
	}
	if cfg.Retention.Prune.Times != nil {
		list = append(list, jobPlan{config.PruneJob, jobPrune, cfg.Retention.Prune, nil})
	}
	if m := &cfg.Maintenance; m.Schedule.Times != nil {
		list = append(list, jobPlan{config.MaintenanceJob, jobMaintain, m.Schedule, nil})
	}
	if v := &cfg.Verify; v.Schedule.Times != nil {
		list = append(list, jobPlan{config.VerifyJob, jobVerify, v.Schedule, nil})
	}
	for i := range cfg.Stores {
		st := &cfg.Stores[i]
		for _, j := range []jobPlan{
			{config.PruneJob, jobPrune, st.Upkeep.Retention.Prune, st},
			{config.MaintenanceJob, jobMaintain, st.Upkeep.Maintenance.Schedule, st},
			{config.VerifyJob, jobVerify, st.Upkeep.Verify.Schedule, st},
		} {
			if j.schedule.Times != nil {
				j.name = config.JobOf(j.name, st.Name)
				list = append(list, j)
			}
		}
	}
	slices.SortFunc(list, func(a, b jobPlan) int { return strings.Compare(a.name, b.name) })
	return list
}

// jobsDir is where the states of jobs are.
func jobsDir(cfg *config.Config) string { return filepath.Join(cfg.DataDir, "jobs") }

// describeJob puts a job into the form of the control socket.
func describeJob(st jobs.Status) control.Job {
	s := &st.State
	j := control.Job{
		Name: st.Name, Kind: st.Kind, Schedule: st.Schedule.String(), Words: st.Schedule.Words(), State: "idle",
		Result: string(s.Result), Start: stamp(s.Start), End: stamp(s.End), Success: stamp(s.Success), Failures: s.Failures,
		Error: s.Error, Hint: s.Hint, Snapshot: s.Snapshot, Summary: s.Summary,
		Next: stamp(st.Next), Retry: !s.Retry.IsZero() && st.Next.Equal(s.Retry),
	}
	switch {
	case st.Running:
		j.State = "running"
	case st.Waiting:
		j.State = "waiting"
	}
	return j
}

// stamp is a time as machines and people read it, "" for none.
func stamp(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339)
}

func (p *program) listJobs(ctx context.Context, asJSON bool) error {
	cfg, err := p.load()
	if err != nil {
		return err
	}
	list, running, err := findJobs(ctx, cfg)
	if err != nil {
		return fmt.Errorf("jobs: %w", err)
	}
	if asJSON {
		return printJSON(p.stdout, list)
	}
	if differ := differentJobs(cfg, list); running && len(differ) > 0 {
		defer func() {
			_, _ = fmt.Fprintf(p.stderr, "not as in %s: %s; SIGHUP makes the running gateway take the configuration over\n", p.configFile, strings.Join(differ, ", "))
		}()
	}
	if len(list) == 0 {
		_, _ = fmt.Fprintln(p.stderr, "nothing is scheduled: add schedule to a source, to an entry of sync, or to maintenance")
		return nil
	}
	if err := writeJobs(p.stdout, list); err != nil {
		return err
	}
	if !running {
		_, _ = fmt.Fprintf(p.stderr, "no gateway is running: nothing runs before one is started, with: gateway serve -c %s\n", shellQuote(p.configFile))
	}
	return nil
}

// differentJobs names what the configuration schedules otherwise than a gateway that runs.
func differentJobs(cfg *config.Config, running []control.Job) []string {
	has := map[string]string{}
	for i := range running {
		has[running[i].Name] = running[i].Schedule
	}
	var names []string
	for _, plan := range plannedJobs(cfg) {
		schedule, ok := has[plan.name]
		switch {
		case !ok:
			names = append(names, plan.name+" (new)")
		case schedule != plan.schedule.Times.String():
			names = append(names, plan.name+" (other times)")
		}
		delete(has, plan.name)
	}
	for name := range has {
		names = append(names, name+" (gone)")
	}
	slices.Sort(names)
	return names
}

// findJobs asks the running gateway, or reads what the last one has left.
func findJobs(ctx context.Context, cfg *config.Config) (list []control.Job, running bool, err error) {
	_, err = control.Call(ctx, cfg.DataDir, control.Request{Op: control.OpJobs}, func(r control.Reply) error {
		if r.Job != nil {
			list = append(list, *r.Job)
		}
		return nil
	})
	if !errors.Is(err, control.ErrNoServer) {
		return list, true, err
	}
	for _, plan := range plannedJobs(cfg) {
		state, err := jobs.ReadState(disk.OS{}, jobsDir(cfg), plan.name)
		if err != nil {
			return nil, false, err
		}
		if state.Result == jobs.Running {
			state.Result = jobs.Interrupted
		}
		list = append(list, describeJob(jobs.Status{
			Name: plan.name, Kind: plan.kind, Schedule: plan.schedule.Times, State: state,
		}))
	}
	return list, false, nil
}

// shortID is how many digits of a snapshot's id a table shows: enough to name it by.
const shortID = 12

// writeJobs writes a table, and below it what is wrong.
func writeJobs(out io.Writer, list []control.Job) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(w, "JOB\tKIND\tSCHEDULE\tLAST RUN\tRESULT\tSNAPSHOT\tNEXT RUN")
	for i := range list {
		j := &list[i]
		result := j.Result
		if j.Failures > 1 {
			result = fmt.Sprintf("%s, %d in a row", result, j.Failures)
		}
		next := j.Next
		switch {
		case j.State == "waiting":
			next = "when another has ended"
		case j.Retry:
			next += " (again)"
		}
		cells := []string{j.Name, j.Kind, j.Words, j.Start, result, j.Snapshot[:min(shortID, len(j.Snapshot))], next}
		for i, c := range cells {
			if c == "" {
				cells[i] = "-"
			}
		}
		_, _ = fmt.Fprintln(w, strings.Join(cells, "\t"))
	}
	if err := w.Flush(); err != nil { // keeps the errors of the lines
		return err
	}
	for i := range list {
		j := &list[i]
		text := j.Error
		if text == "" && (j.Result == string(jobs.Partial) || j.State == "running") {
			text = j.Summary
		}
		if text == "" {
			continue
		}
		if _, err := fmt.Fprintf(out, "%s: %s\n", j.Name, printable(text)); err != nil {
			return err
		}
		for line := range strings.Lines(j.Hint) {
			if _, err := fmt.Fprintf(out, "  hint: %s\n", printable(strings.TrimSuffix(line, "\n"))); err != nil {
				return err
			}
		}
	}
	return nil
}

func (p *program) runJob(ctx context.Context, name string) error {
	cfg, err := p.load()
	if err != nil {
		return err
	}
	ctx, stop := untilSignal(ctx)
	defer stop()
	line, began := terminal(p.stderr), false
	rep, err := control.Call(ctx, cfg.DataDir, control.Request{Op: control.OpRunJob, Job: name}, func(r control.Reply) error {
		switch {
		case line != nil && r.Job != nil:
			line.draw(name + ": " + printable(r.Job.Summary))
		case !began:
			_, _ = fmt.Fprintf(p.stderr, "%s: started\n", name)
		}
		began = true
		return nil
	})
	if line != nil {
		line.draw("")
	}
	switch {
	case errors.Is(err, control.ErrNoServer):
		return &hintedError{
			err:  fmt.Errorf("jobs run: %w", err),
			hint: fmt.Sprintf("start it with: gateway serve -c %s\nor do it without one: gateway pull -c %[1]s NAME, or gateway sync -c %[1]s --job NAME", shellQuote(p.configFile)),
		}
	case err != nil && ctx.Err() != nil:
		return fmt.Errorf("jobs run: %w; the gateway stops the run", errInterrupted)
	case err != nil:
		return fmt.Errorf("jobs run: %w", err)
	case rep.Job == nil:
		return errors.New("jobs run: the gateway does not say what came of it")
	}
	if rep.Job.Summary != "" {
		_, _ = fmt.Fprintf(p.stderr, "%s: %s\n", name, printable(rep.Job.Summary))
	}
	if rep.Job.Snapshot != "" {
		if _, err := fmt.Fprintln(p.stdout, rep.Job.Snapshot); err != nil {
			return err
		}
	}
	if rep.Job.Result == string(jobs.Partial) {
		if rep.Job.Kind == jobVerify {
			return &incompleteError{"jobs run: " + name + ": files of the store are damaged"}
		}
		return fmt.Errorf("jobs run: %s: %w", name, errPartial)
	}
	return nil
}
