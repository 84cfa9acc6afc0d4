package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/snapgate/gateway/cmd/gateway/internal/config"
	"github.com/snapgate/gateway/cmd/gateway/internal/control"
	"github.com/snapgate/gateway/internal/alarm"
	"github.com/snapgate/gateway/internal/disk"
)

func (p *program) alarmsCommand() *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use:   "alarms",
		Short: "List what is wrong",
		Long: `Lists the alarms that are not over: of the running gateway, or, without one, those that the last
one has left. Times are UTC. What to do about one stands below it.

With --json every line is an object with kind, subject (a share, a source, a job, a store), text, hint,
since, last (when it was found last), times (that it was found), finding (it stays until it is
acknowledged), acknowledged (when somebody did, and it goes on), snapshot (that it is about) and pins
(snapshots that are pinned until it is acknowledged).`,
		Example: `  gateway alarms -c /etc/gateway.yaml
  gateway alarms --json | jq -r 'select(.acknowledged == null) | .text'`,
		Args: arguments(0, 0),
		RunE: func(c *cobra.Command, _ []string) error { return p.listAlarms(c.Context(), asJSON) },
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print one JSON object a line")
	c.AddCommand(p.ackAlarmCommand())
	return c
}

func (p *program) ackAlarmCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "ack KIND SUBJECT",
		Short: "Say that somebody has looked",
		Long: `Acknowledges an alarm. One that tells of what has happened, as a mass deletion, is over then, and
snapshots that were pinned because of it are unpinned. One of a state that goes on, as a store that
is nearly full, is marked, and is over when the state is.`,
		Example: "  gateway alarms ack -c /etc/gateway.yaml mass-deletion backups",
		Args:    arguments(2, 2),
		RunE:    func(c *cobra.Command, args []string) error { return p.ackAlarm(c.Context(), args[0], args[1]) },
	}
}

func (p *program) listAlarms(ctx context.Context, asJSON bool) error {
	cfg, err := p.load()
	if err != nil {
		return err
	}
	var list []control.Alarm
	_, err = control.Call(ctx, cfg.DataDir, control.Request{Op: control.OpAlarms}, func(r control.Reply) error {
		if r.Alarm != nil {
			list = append(list, *r.Alarm)
		}
		return nil
	})
	if errors.Is(err, control.ErrNoServer) {
		list, err = storedAlarms(cfg)
	}
	switch {
	case err != nil:
		return fmt.Errorf("alarms: %w", err)
	case asJSON:
		return printJSON(p.stdout, list)
	case len(list) == 0:
		_, _ = fmt.Fprintln(p.stderr, "there are no alarms")
		return nil
	}
	w := tabwriter.NewWriter(p.stdout, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(w, "KIND\tSUBJECT\tSINCE\tLAST\tTIMES\tSTATE\tWHAT")
	for i := range list {
		a := &list[i]
		_, _ = fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%d\t%s\t%s\n", printable(a.Kind), printable(a.Subject), a.Since, a.Last, a.Times, alarmState(a), printable(a.Text))
	}
	if err := w.Flush(); err != nil { // keeps the errors of the lines
		return err
	}
	for i := range list {
		if a := &list[i]; a.Hint != "" {
			if _, err := fmt.Fprintf(p.stdout, "%s %s: %s\n", printable(a.Kind), printable(a.Subject), printable(a.Hint)); err != nil {
				return err
			}
		}
	}
	return nil
}

// alarmState says in a word what becomes of an alarm.
func alarmState(a *control.Alarm) string {
	switch {
	case a.Acknowledged != "":
		return "acknowledged"
	case a.Finding:
		return "to be looked at"
	}
	return "goes on"
}

// storedAlarms are those that a gateway has left.
func storedAlarms(cfg *config.Config) ([]control.Alarm, error) {
	list, err := alarm.Read(disk.OS{}, cfg.DataDir)
	out := make([]control.Alarm, len(list))
	for i := range list {
		out[i] = describeAlarm(&list[i])
	}
	return out, err
}

// ackAlarm has the running gateway do it, or does it here.
func (p *program) ackAlarm(ctx context.Context, kind, subject string) error {
	cfg, err := p.load()
	if err != nil {
		return err
	}
	req := control.Request{Op: control.OpAckAlarm, Kind: kind, Subject: subject}
	_, err = control.Call(ctx, cfg.DataDir, req, nil)
	if errors.Is(err, control.ErrNoServer) {
		err = p.withKeeper(ctx, cfg, func(k *keeper) error {
			err := k.acknowledge(ctx, kind, subject)
			k.events.ofItself("operator_ack_alarm", byCommand, kind+" "+subject, err)
			return err
		})
	}
	if err != nil {
		return fmt.Errorf("alarms: %w", err)
	}
	return nil
}

// describeAlarm puts an alarm into the form of the control socket.
func describeAlarm(a *alarm.Alarm) control.Alarm {
	return control.Alarm{
		Kind: string(a.Kind), Subject: a.Subject, Text: a.Text, Hint: a.Hint, Since: stamp(a.Since), Last: stamp(a.Last),
		Times: a.Times, Finding: a.Finding, Acknowledged: stamp(a.Acknowledged), Snapshot: a.Snapshot, Pins: a.Pins,
	}
}

// alarmProblems are the alarms as a status has them, but for those whose state it finds itself: jobs whose last run has
// failed are among its problems already.
func alarmProblems(list []control.Alarm, jobs []control.Job) (problems []string) {
	for i := range list {
		a := &list[i]
		switch alarm.Kind(a.Kind) {
		case alarm.CommitFailed:
			continue
		case alarm.PullFailed, alarm.JobFailed:
			if slices.ContainsFunc(jobs, func(j control.Job) bool { return j.Name == a.Subject && len(jobProblems(&j)) > 0 }) {
				continue
			}
		}
		text := fmt.Sprintf("%s %s: %s", a.Kind, a.Subject, a.Text)
		if a.Acknowledged != "" {
			text += " (acknowledged)"
		}
		problems = append(problems, text)
	}
	return problems
}
