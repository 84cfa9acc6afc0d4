package main

import (
	"context"

	"github.com/snapgate/gateway/internal/metrics"
	"github.com/snapgate/gateway/vfs"
)

// metricsState is how the gateway stands, for the metrics.
func (s *serving) metricsState() metrics.State {
	sys, found := s.system.Status(), s.probe.look(context.Background())
	st := metrics.State{
		Sessions: sys.Sessions, Handles: sys.Handles, Received: sys.Received, Sent: sys.Sent,
		Spool: sys.SpoolBytes, SpoolLimit: sys.SpoolLimit, DiskFree: sys.DiskFree,
		StoreUp: !found.at.IsZero() && found.store == nil, StoreErrors: s.store.Errors(),
	}
	v, _ := s.verifying.get() // nothing, when it could not be read
	st.Verify = metrics.Verify{Files: v.Files, Fresh: v.Fresh, Last: v.Last, Oldest: v.Oldest, Read: s.verifying.read.Load()}
	st.Verify.Packfiles, st.Verify.States, st.Verify.Blobs = v.Damaged()
	st.AuditErrors, _ = s.events.auditErrors()
	st.Hooks = s.events.hookMetrics()
	for _, a := range s.alarms.List() {
		st.Alarms = append(st.Alarms, metrics.Alarm{Kind: string(a.Kind), Subject: a.Subject})
	}
	if s.server != nil {
		n := s.server.Stats()
		st.Servers = append(st.Servers, metrics.Server{Name: "sftp", Open: n.Open, Accepted: n.Accepted, Refused: n.Refused})
	}
	if s.ftp != nil {
		n := s.ftp.server.Stats()
		st.Servers = append(st.Servers, metrics.Server{Name: "ftp", Open: n.Open, Accepted: n.Accepted, Refused: n.Refused})
	}
	index := map[string]int{}
	for i := range sys.Shares {
		index[sys.Shares[i].Name] = i
		st.Shares = append(st.Shares, metricsShare(&sys.Shares[i], found))
	}
	for _, j := range s.jobs.List() {
		st.Jobs = append(st.Jobs, metrics.Job{
			Name: j.Name, Kind: j.Kind, Running: j.Running, Failures: j.State.Failures, Success: j.State.Success, Next: j.Next,
		})
		if i, ok := index[j.Name]; ok && j.Kind == jobPull {
			st.Shares[i].LastSuccess = j.State.Success
		}
	}
	return st
}

// shareKind tells shares and sources apart.
func shareKind(sh *vfs.ShareStatus) string {
	if sh.Source {
		return metrics.KindSource
	}
	return metrics.KindShare
}

func metricsShare(sh *vfs.ShareStatus, found probed) metrics.Share {
	m := metrics.Share{
		Name: sh.Name, Kind: shareKind(sh), Uploads: sh.Uploads,
		Changes: sh.Changes, ChangedBytes: sh.ChangedBytes, Bytes: sh.Bytes, Quota: sh.Quota, Sets: sh.Sets, Oldest: sh.Oldest,
		Journal: sh.Journal, Spool: sh.Spool, Failures: sh.CommitFailures,
		Snapshots: -1, LastSnapshot: sh.HeadTime, LastSuccess: sh.CommitSuccess,
	}
	if found.listed {
		l := found.shares[sh.Name]
		m.Snapshots, m.SnapshotFiles, m.SnapshotBytes = l.count, l.newest.Files, l.newest.Size
		if m.LastSnapshot.Before(l.newest.Time) {
			m.LastSnapshot = l.newest.Time
		}
	}
	return m
}
