package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/snapgate/gateway/cmd/gateway/internal/control"
	"github.com/snapgate/gateway/internal/acceptor"
	"github.com/snapgate/gateway/internal/jobs"
	"github.com/snapgate/gateway/store"
	"github.com/snapgate/gateway/vfs"
)

// answerStatus tells how the gateway is doing: lists first, the rest last.
func (s *serving) answerStatus(ctx context.Context, send func(control.Reply) error) control.Reply {
	sys, found, list := s.system.Status(), s.probe.look(ctx), s.jobs.List()
	st := s.status(sys, found)
	for i := range sys.Shares {
		sh := describeShare(&sys.Shares[i], found)
		st.Problems = append(st.Problems, shareProblems(&sys.Shares[i])...)
		if err := send(control.Reply{Share: &sh}); err != nil {
			return refusal(err)
		}
	}
	for _, j := range list {
		d := describeJob(j)
		if j.Running {
			d.Summary = s.progress.text(j.Name)
		}
		st.Jobs = append(st.Jobs, d)
		st.Problems = append(st.Problems, jobProblems(&d)...)
		if err := send(control.Reply{Job: &d}); err != nil {
			return refusal(err)
		}
	}
	for _, a := range s.alarms.List() {
		d := describeAlarm(&a)
		st.Alarms = append(st.Alarms, d)
		if err := send(control.Reply{Alarm: &d}); err != nil {
			return refusal(err)
		}
	}
	st.Problems = append(st.Problems, alarmProblems(st.Alarms, st.Jobs)...)
	st.Jobs, st.Alarms, st.Hooks = nil, nil, s.events.hookStates() // jobs and alarms were sent
	st.Problems = append(st.Problems, hookProblems(st.Hooks)...)
	uploads := s.system.Uploads()
	st.UploadsOpen = len(uploads)
	for i := range uploads[:min(len(uploads), control.MaxUploads)] {
		u := describeUpload(&uploads[i])
		if err := send(control.Reply{Upload: &u}); err != nil {
			return refusal(err)
		}
	}
	st.Healthy = len(st.Problems) == 0
	return control.Reply{Status: st}
}

// status is what is told of the gateway itself.
func (s *serving) status(sys vfs.Status, found probed) *control.Status {
	version, _ := versions()
	cfg := s.inForce.Load()
	st := &control.Status{
		Running: true, Problems: []string{}, Version: version, DataDir: cfg.DataDir,
		Started: stamp(s.started), Uptime: int64(time.Since(s.started).Seconds()),
		Sessions: sys.Sessions,
		Spool: control.Spool{
			Bytes: sys.SpoolBytes, Limit: sys.SpoolLimit, Holes: sys.Holes, DiskFree: sys.DiskFree,
			Partials: int64(sys.Partials), PartialBytes: sys.PartialBytes,
		},
		Store: control.StoreStatus{
			Location: s.store.Location(), Encrypted: s.store.Encrypted(), Reachable: found.store == nil && !found.at.IsZero(),
		},
	}
	s.statusOfServers(st)
	problem := func(format string, args ...any) { st.Problems = append(st.Problems, fmt.Sprintf(format, args...)) }
	if s.draining.Load() {
		problem("the gateway is shutting down")
	}
	if found.store != nil {
		st.Store.Error, st.Store.Since = found.store.Error(), stamp(found.since)
		problem("store: %s; uploads are kept in the spool", st.Store.Error)
	} else if found.at.IsZero() {
		problem("store: it has not answered yet")
	} else if found.list != nil && !errors.Is(found.list, context.DeadlineExceeded) {
		problem("store: not all snapshots can be read, and commits may wait for them: %v; %s", found.list, hintOfUnlisted(found.list))
	}
	if err := s.system.Accepting(); err != nil {
		problem("uploads are refused: %v", err)
	} else if sys.SpoolBytes > nearlyFull(sys.SpoolLimit) {
		problem("the spool is nearly full: %s of %s", bytesText(sys.SpoolBytes), bytesText(sys.SpoolLimit))
	}
	verified, err := s.verifying.get()
	if err != nil {
		problem("%v", err)
	}
	st.Verify = describeVerify(&verified)
	if s.events.audit != nil {
		lost, err := s.events.auditErrors()
		st.Audit = &control.AuditStatus{File: cfg.Audit.File, Lost: lost}
		if err != nil {
			st.Audit.Error = err.Error()
			problem("audit log: %s lost: %v", count(lost, "event is", "events are"), err)
		}
	}
	return st
}

// hintOfUnlisted is what to do when not all snapshots can be listed although the store can be reached.
func hintOfUnlisted(err error) string {
	if _, ok := errors.AsType[*store.UnreadCopiesError](err); ok {
		return hintFor(err)
	}
	return hintOfUnreadable
}

// statusOfServers fills in ports and connections.
func (s *serving) statusOfServers(st *control.Status) {
	add := func(name string, n acceptor.Stats) {
		st.Connections = append(st.Connections, control.Connections{
			Server: name, Open: n.Open, LoggedIn: n.LoggedIn, Accepted: n.Accepted, Refused: n.Refused,
		})
	}
	if s.server != nil {
		st.Listeners = append(st.Listeners, control.Listener{Server: "sftp", Addr: s.listener.Addr().String()})
		add("sftp", s.server.Stats())
	}
	if f := s.ftp; f != nil {
		st.Listeners = append(st.Listeners, f.listeners()...)
		add("ftp", f.server.Stats())
	}
	if h := s.http; h != nil {
		word := "off"
		if h.tls != nil {
			word = "implicit"
		}
		st.Listeners = append(st.Listeners, control.Listener{Server: "http", Addr: h.listener.Addr().String(), TLS: word})
	}
}

// describeShare puts a share into a status.
func describeShare(sh *vfs.ShareStatus, found probed) control.Share {
	d := control.Share{
		Name: sh.Name, Kind: shareKind(sh), Sessions: sh.Sessions, Uploads: sh.Uploads, Snapshots: -1,
		LastSnapshot: stamp(sh.HeadTime), Pending: sh.Changes, PendingBytes: sh.ChangedBytes, UsedBytes: sh.Bytes, QuotaBytes: sh.Quota,
		OldestPending: stamp(sh.Oldest), Failures: sh.CommitFailures, FailingSince: stamp(sh.FailingSince),
	}
	if !sh.Head.IsZero() {
		d.Snapshot = sh.Head.String()
	}
	if !sh.Oldest.IsZero() {
		d.Backlog = max(int64(time.Since(sh.Oldest).Seconds()), 0)
	}
	if found.listed {
		l := found.shares[sh.Name]
		d.Snapshots = l.count
		if l.count > 0 && (sh.HeadTime.IsZero() || sh.HeadTime.Before(l.newest.Time)) {
			d.LastSnapshot, d.Snapshot = stamp(l.newest.Time), l.newest.ID.String()
		}
	}
	for _, err := range []error{sh.JournalError, sh.CommitError, sh.SourceError} {
		if err != nil {
			d.Error, d.Hint = err.Error(), hintFor(err)
			break
		}
	}
	return d
}

// shareProblems says what is wrong with a share.
func shareProblems(sh *vfs.ShareStatus) (problems []string) {
	if sh.JournalError != nil {
		problems = append(problems, fmt.Sprintf("share %s: its journal cannot be written, changes are refused: %v", sh.Name, sh.JournalError))
	}
	if sh.CommitError != nil {
		problems = append(problems, fmt.Sprintf("share %s: commits fail since %s, %d in a row; the changes are kept: %v",
			sh.Name, stamp(sh.FailingSince), sh.CommitFailures, sh.CommitError))
	}
	switch {
	case sh.Refusing:
		problems = append(problems, fmt.Sprintf("share %s: changes are refused: %d wait for their commit, and commits fail (limits.changes)", sh.Name, sh.Changes))
	case sh.Slowed:
		problems = append(problems, fmt.Sprintf("share %s: uploads are slowed down to the rate of commits: %d changes wait for theirs (limits.changes)", sh.Name, sh.Changes))
	}
	if sh.SourceError != nil {
		problems = append(problems, fmt.Sprintf("source %s: its newest snapshot cannot be shown: %v", sh.Name, sh.SourceError))
	}
	return problems
}

// jobProblems says what is wrong with a job.
func jobProblems(j *control.Job) []string {
	if j.Result != string(jobs.Failed) {
		return nil
	}
	return []string{fmt.Sprintf("job %s: failed, %d in a row: %s", j.Name, j.Failures, j.Error)}
}

func describeUpload(u *vfs.UploadStatus) control.Upload {
	return control.Upload{
		Share: u.Share, Path: u.Path, User: u.User, Protocol: u.From.Protocol, Remote: u.From.Remote, Bytes: u.Bytes,
		Started: stamp(u.Started), Active: stamp(u.Active),
	}
}
