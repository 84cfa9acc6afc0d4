package main

import (
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"strings"
	"sync/atomic"
	"time"

	"github.com/snapgate/gateway/cmd/gateway/internal/config"
	"github.com/snapgate/gateway/cmd/gateway/internal/control"
	"github.com/snapgate/gateway/internal/acceptor"
	"github.com/snapgate/gateway/internal/alarm"
	"github.com/snapgate/gateway/internal/audit"
	"github.com/snapgate/gateway/internal/jobs"
	"github.com/snapgate/gateway/internal/metrics"
	"github.com/snapgate/gateway/vfs"
)

// events is told what happens, and hands it on: to the metrics and the audit log. Safe for
// concurrent use.
type events struct {
	metrics *metrics.Metrics
	audit   *audit.Log // nil without an audit section
	alarms  *alarm.Board
	backups *backups
	hooks   []*hookQueue
	log     *slog.Logger
	made    chan struct{} // pulsed (capacity 1) when there may be a new snapshot
	commits atomic.Uint64 // snapshots made
	stored  chan struct{} // likewise, for another reader
}

func newEvents(cfg *config.Config, log *slog.Logger) (*events, error) {
	version, kloset := versions()
	m, err := metrics.New(metrics.Config{Version: version, Kloset: kloset})
	if err != nil {
		return nil, err
	}
	e := &events{metrics: m, log: log, made: make(chan struct{}, 1), stored: make(chan struct{}, 1)}
	if err := e.openHooks(cfg); err != nil {
		return nil, err
	}
	if cfg.Audit.File != "" {
		if e.audit, err = audit.Open(audit.Config{File: cfg.Audit.File, Logger: log}); err != nil {
			return nil, errors.Join(err, e.closeHooks())
		}
	}
	return e, nil
}

// close closes the audit log and the queues of hooks.
func (e *events) close() error {
	if e == nil {
		return nil
	}
	err := e.closeHooks()
	if e.audit != nil {
		err = errors.Join(err, e.audit.Close())
	}
	return err
}

// pulse says that there may be a new snapshot.
func (e *events) pulse() {
	for _, reader := range []chan struct{}{e.made, e.stored} {
		select {
		case reader <- struct{}{}:
		default: // one is pending
		}
	}
}

// note writes an event to the audit log, if there is one.
func (e *events) note(ev audit.Event) {
	if e.audit != nil {
		e.audit.Write(ev)
	}
}

// auditErrors tells how many events are lost, and why the last one was.
func (e *events) auditErrors() (uint64, error) {
	if e.audit == nil {
		return 0, nil
	}
	return e.audit.Status()
}

// auditNames are what the audit log calls what a session asks for: the operation, but for these.
func auditName(op vfs.EventOp) string {
	switch op {
	case vfs.EventCutOff:
		return "upload_cut_off"
	case vfs.EventSnapshot:
		return "snapshot_request"
	}
	return string(op)
}

// Done implements vfs.Observer.
func (e *events) Done(ev vfs.Event) {
	good := ev.Err == nil
	switch ev.Op {
	case vfs.EventUpload:
		e.metrics.Upload(ev.Share, ev.From.Protocol, good, ev.Dur, ev.Close)
		if good {
			e.backups.note(ev.Share, time.Time{})
			e.uploaded(&ev)
		}
	case vfs.EventCutOff:
		e.metrics.CutOff(ev.Share, ev.From.Protocol)
	case vfs.EventDownload:
		e.metrics.Download(ev.Share, ev.From.Protocol, good)
	default:
		e.metrics.Operation(ev.Share, string(ev.Op), good)
	}
	if e.audit == nil || ev.Op == vfs.EventDownload && vfs.KindOf(ev.Err) == vfs.KindNotExist {
		return // clients look for names that are not there all the time
	}
	a := audit.Event{
		Event: auditName(ev.Op), User: ev.User, Protocol: ev.From.Protocol, Remote: ev.From.Remote, Conn: ev.From.Conn,
		Share: ev.Share, Path: ev.Path, To: ev.To, Snapshot: ev.Snapshot,
	}
	switch ev.Op {
	case vfs.EventUpload, vfs.EventCutOff, vfs.EventDownload:
		ms := ev.Dur.Milliseconds()
		a.Bytes, a.Millis = &ev.Bytes, &ms
	case vfs.EventSetAttr:
		a.Set = attrText(ev.Set)
	}
	if ev.Hash != nil {
		a.Hash = "blake3:" + hex.EncodeToString(ev.Hash[:])
	}
	setOutcome(&a, ev.Err)
	e.audit.Write(a)
}

// setOutcome fills in how it ended.
func setOutcome(a *audit.Event, err error) {
	a.Result = audit.OK
	if err == nil {
		return
	}
	a.Result, a.Error = audit.Failed, err.Error()
	if vfs.KindOf(err) == vfs.KindPermission {
		a.Result = audit.Denied
	}
}

// attrText writes attributes down.
func attrText(set vfs.AttrSet) string {
	var parts []string
	if set.Size != nil {
		parts = append(parts, fmt.Sprintf("size=%d", *set.Size))
	}
	if set.Mode != nil {
		parts = append(parts, fmt.Sprintf("mode=%04o", chmodMode(*set.Mode)))
	}
	if set.UID != nil {
		parts = append(parts, fmt.Sprintf("uid=%d", *set.UID))
	}
	if set.GID != nil {
		parts = append(parts, fmt.Sprintf("gid=%d", *set.GID))
	}
	if set.ModTime != nil {
		parts = append(parts, "mtime="+set.ModTime.UTC().Format(time.RFC3339))
	}
	return strings.Join(parts, " ")
}

// chmodMode is a mode as chmod(1) has it in numbers.
func chmodMode(m fs.FileMode) uint32 {
	mode := uint32(m.Perm())
	for bit, unix := range map[fs.FileMode]uint32{fs.ModeSetuid: 0o4000, fs.ModeSetgid: 0o2000, fs.ModeSticky: 0o1000} {
		if m&bit != 0 {
			mode |= unix
		}
	}
	return mode
}

// Committed implements vfs.Observer.
func (e *events) Committed(c vfs.Commit) {
	e.metrics.Commit(c.Share, c.Err == nil, c.Dur)
	if c.New {
		e.commits.Add(1)
		e.pulse()
	}
	if e.audit == nil || c.Err == nil && !c.New {
		return // the changes were undone: there is no snapshot of them
	}
	ms := c.Dur.Milliseconds()
	a := audit.Event{Event: "snapshot", Share: c.Share, Changes: c.Changes, Reason: c.Reason, Users: c.Users, Millis: &ms}
	if c.Err == nil {
		a.Snapshot = c.Snapshot.String()
	}
	setOutcome(&a, c.Err)
	e.audit.Write(a)
}

// LoggedIn implements acceptor.Observer.
func (e *events) LoggedIn(l acceptor.Login) {
	e.metrics.Login(l.Protocol, l.Method, l.Err == nil)
	a := peerEvent("login", l.Peer)
	a.Method, a.Key, a.Client, a.Result = l.Method, l.Key, l.Client, audit.OK
	if l.Err != nil {
		a.Result, a.Error = audit.Denied, l.Err.Error()
	}
	e.note(a)
}

// LoggedOut implements acceptor.Observer.
func (e *events) LoggedOut(l acceptor.Logout) {
	a := peerEvent("logout", l.Peer)
	ms := l.Dur.Milliseconds()
	a.Result, a.Millis = audit.OK, &ms
	a.Detail = fmt.Sprintf("%d bytes received, %d sent, %d uploads", l.Written, l.Read, l.Uploads)
	e.note(a)
}

func peerEvent(name string, p acceptor.Peer) audit.Event {
	return audit.Event{Event: name, User: p.User, Protocol: p.Protocol, Remote: p.Remote, Conn: p.Conn}
}

// happened notes what the gateway or its operator did.
func (e *events) happened(name, share, job, detail string, err error) {
	a := audit.Event{Event: name, Share: share, Job: job, Detail: detail}
	setOutcome(&a, err)
	e.note(a)
}

// ofItself notes what the gateway has done by its schedule, or a command in its place (by).
func (e *events) ofItself(name, by, detail string, err error) {
	a := audit.Event{Event: name, Reason: by, Detail: detail}
	setOutcome(&a, err)
	e.note(a)
}

// By whom snapshots are removed and the store is maintained, in the audit log.
const (
	bySchedule = "schedule"
	byOperator = "operator" // by the running gateway, which a command has asked
	byCommand  = "command"  // without a running gateway
)

// answered notes what the gateway has answered to a command.
func (e *events) answered(name, about string, rep *control.Reply) {
	var err error
	if rep.Error != "" {
		err = errors.New(rep.Error)
	}
	e.happened(name, "", "", about, err)
}

// jobEnded is told of the runs of jobs.
func (e *events) jobEnded(st jobs.Status, took time.Duration, err error) {
	e.metrics.JobRun(st.Name, st.Kind, string(st.State.Result), took)
	e.alarmOfJob(&st, err)
	e.pulse()
	ms := took.Milliseconds()
	a := audit.Event{
		Event: "job", Job: st.Name, Reason: st.Kind, Snapshot: st.State.Snapshot, Detail: st.State.Summary,
		Error: st.State.Error, Result: audit.Failed, Millis: &ms,
	}
	if r := st.State.Result; r == jobs.OK || r == jobs.Partial {
		a.Result = audit.OK
	}
	e.note(a)
}
