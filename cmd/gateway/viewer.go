package main

import (
	"context"
	"net/netip"
	"slices"

	"github.com/snapgate/gateway/cmd/gateway/internal/auth"
	"github.com/snapgate/gateway/internal/alarm"
	"github.com/snapgate/gateway/websrv"
)

// viewer is what the pages of the web server show, nil when there are none.
func (s *serving) viewer(h *httpServing) *websrv.Viewer {
	if !s.cfg.HTTP.Viewer {
		return nil
	}
	return &websrv.Viewer{
		Auth: webAuthenticator{s.users}, Sessions: s.system.Session, Snapshots: s.snapshots, Lineage: s.system.Lineage,
		Status: s.system.Status, Uploads: s.system.Uploads, Jobs: s.webJobs, Alarms: s.webAlarms, Verification: s.webVerification,
		Operator: func(user string) bool { return slices.Contains(*h.operators.Load(), user) },
		Observer: s.events,
	}
}

// webAuthenticator adapts a Directory to what the pages ask.
type webAuthenticator struct{ users *auth.Directory }

// Login checks a password.
func (a webAuthenticator) Login(ctx context.Context, user string, password []byte, from netip.Addr) (websrv.Grant, error) {
	g, err := a.users.Login(ctx, user, password, from)
	if err != nil {
		return nil, err
	}
	return g, nil
}

// webJobs lists the jobs. A pull concerns the users of its source, everything else operators.
func (s *serving) webJobs() []websrv.Job {
	var list []websrv.Job
	for _, st := range s.jobs.List() {
		d := describeJob(st)
		j := websrv.Job{
			Name: d.Name, Kind: d.Kind, Schedule: d.Words, State: d.State, Result: d.Result, Summary: d.Summary, Error: d.Error, Hint: d.Hint,
			Start: st.State.Start, End: st.State.End, Next: st.Next, Failures: d.Failures,
		}
		if st.Kind == jobPull {
			j.Share = st.Name
		}
		if st.Running {
			j.Summary = s.progress.text(st.Name)
		}
		list = append(list, j)
	}
	return list
}

// webAlarms lists the alarms. Those about a share concern its users; why something fails may name
// what is the operators' alone.
func (s *serving) webAlarms() []websrv.Alarm {
	var list []websrv.Alarm
	for _, a := range s.alarms.List() {
		w := websrv.Alarm{Kind: string(a.Kind), Subject: a.Subject, Text: a.Text, Hint: a.Hint, Since: a.Since}
		switch a.Kind {
		case alarm.MissedBackup, alarm.TooSmall, alarm.Shrink, alarm.MassDeletion, alarm.MassOverwrite, alarm.QuotaNearlyFull:
			w.Share = a.Subject
		case alarm.CommitFailed, alarm.PullFailed:
			w.Share, w.Text, w.Why = a.Subject, "", a.Text
		}
		list = append(list, w)
	}
	return list
}
