package metrics

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// stateCollector tells how things stand.
type stateCollector struct {
	state func() State
	descs map[string]*prometheus.Desc
}

// The metrics of the state; counters and gauges by their names' end.
func stateMetrics() []struct {
	name, help string
	labels     []string
} {
	server, protocol, share, job := []string{"server"}, []string{"protocol"}, []string{"share"}, []string{"job", "kind"}
	return []struct {
		name, help string
		labels     []string
	}{
		{"connections", "Open connections of a server (sftp, ftp), those that have not logged in included.", server},
		{"connections_accepted_total", "Connections that a server has accepted.", server},
		{"connections_refused_total", "Connections that a server has refused or dropped because there were too many.", server},
		{"sessions", "Open sessions, by protocol (sftp, ftp, ftps, control).", protocol},
		{"handles", "Open files and directories of all sessions.", nil},
		{"received_bytes_total", "Bytes of files received from clients, by protocol.", protocol},
		{"sent_bytes_total", "Bytes of files sent to clients, by protocol.", protocol},
		{"spool_bytes", "What waits for its commit on the disk and in memory, journals included; counts against limits.spool.", nil},
		{"spool_limit_bytes", "limits.spool: at this size of the spool uploads are refused.", nil},
		{"data_disk_free_bytes", "Free bytes of the file system of data_dir.", nil},
		{"uploads_open", "Uploads under way in a share.", share},
		{"pending_operations", "Operations that were accepted and are in no snapshot yet.", share},
		{"pending_bytes", "Bytes of the files that were accepted and are in no snapshot yet.", share},
		{"share_bytes", "Bytes of the files in the live tree of a share; counts against its quota.", share},
		{"share_quota_bytes", "quota of a share; no series without one.", share},
		{"pending_sets", "Sealed sets of changes that wait for their commit.", share},
		{"oldest_pending_timestamp_seconds", "When the oldest completed change that is in no snapshot was accepted; no series without one.", share},
		{"journal_bytes", "Size of a share's journal.", share},
		{"share_spool_bytes", "Size of a share's spool files.", share},
		{"commit_failures", "Attempts to commit that have failed in a row; 0 when the last one went well.", share},
		{"snapshots", "Snapshots of a share or source in the store.", []string{"share", "kind"}},
		{"last_snapshot_timestamp_seconds", "Time of the newest snapshot of a share or source.", []string{"share", "kind"}},
		{"last_success_timestamp_seconds", "When the last commit of a share went well, or when the last good pull of a source by its schedule has ended.", []string{"share", "kind"}},
		{"last_snapshot_files", "Files in the newest snapshot of a share or source.", []string{"share", "kind"}},
		{"last_snapshot_bytes", "Logical bytes of the newest snapshot of a share or source.", []string{"share", "kind"}},
		{"store_up", "1 when the store could be reached a few seconds ago, else 0.", nil},
		{"store_errors_total", "Operations on the store (read, list, write, remove) that have failed.", []string{"operation"}},
		{"verify_last_run_timestamp_seconds", "When reading back a part of the store by its schedule, or all of it, has ended last.", nil},
		{"verify_oldest_timestamp_seconds", "Since when the packfile or state of the store that waits longest was not read back.", nil},
		{"verify_files", "Packfiles and states of the store.", nil},
		{"verify_fresh_files", "Packfiles and states of the store that were read back within verify.every.", nil},
		{"verify_damaged_packfiles", "Packfiles of the store that are not as they were written.", nil},
		{"verify_damaged_states", "States of the store that are not as they were written.", nil},
		{"verify_damaged_blobs", "Blobs that snapshots use and that are not as they were written.", nil},
		{"verify_read_bytes_total", "Bytes of the store that were read back.", nil},
		{"job_running", "1 while a job runs, else 0.", job},
		{"job_failures", "Runs of a job that have failed in a row.", job},
		{"job_last_success_timestamp_seconds", "When the last good run of a job has ended.", job},
		{"job_next_run_timestamp_seconds", "When a job starts next.", job},
		{"alarm_active", "1 for each alarm that is not over, acknowledged or not.", []string{"kind", "subject"}},
		{"hook_pending", "Events that wait for a hook.", []string{"hook"}},
		{"hook_failures", "Tries to tell a hook that have failed in a row.", []string{"hook"}},
		{"hook_given_up_total", "Events that a hook has not taken for so long that they were given up.", []string{"hook"}},
		{"hook_dropped_total", "Events that the queue of a hook could not take.", []string{"hook"}},
		{"hook_last_success_timestamp_seconds", "When a hook has taken an event last.", []string{"hook"}},
		{"audit_errors_total", "Events that could not be written to the audit log.", nil},
	}
}

func newStateCollector(state func() State) *stateCollector {
	c := &stateCollector{state: state, descs: map[string]*prometheus.Desc{}}
	for _, m := range stateMetrics() {
		c.descs[m.name] = prometheus.NewDesc(Namespace+"_"+m.name, m.help, m.labels, nil)
	}
	return c
}

// Describe implements prometheus.Collector.
func (c *stateCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range c.descs {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (c *stateCollector) Collect(ch chan<- prometheus.Metric) {
	s := c.state()
	e := emitter{c, ch}
	for _, srv := range s.Servers {
		e.gauge("connections", float64(srv.Open), srv.Name)
		e.counter("connections_accepted_total", float64(srv.Accepted), srv.Name)
		e.counter("connections_refused_total", float64(srv.Refused), srv.Name)
	}
	for protocol, n := range s.Sessions {
		e.gauge("sessions", float64(n), protocol)
	}
	for protocol, n := range s.Received {
		e.counter("received_bytes_total", float64(n), protocol)
	}
	for protocol, n := range s.Sent {
		e.counter("sent_bytes_total", float64(n), protocol)
	}
	e.gauge("handles", float64(s.Handles))
	e.gauge("spool_bytes", float64(s.Spool))
	e.gauge("spool_limit_bytes", float64(s.SpoolLimit))
	if s.DiskFree >= 0 {
		e.gauge("data_disk_free_bytes", float64(s.DiskFree))
	}
	up := 0.0
	if s.StoreUp {
		up = 1
	}
	e.gauge("store_up", up)
	for op, n := range s.StoreErrors {
		e.counter("store_errors_total", float64(n), op)
	}
	e.counter("audit_errors_total", float64(s.AuditErrors))
	e.verify(&s.Verify)
	for i := range s.Shares {
		e.share(&s.Shares[i])
	}
	for i := range s.Jobs {
		e.job(&s.Jobs[i])
	}
	for i := range s.Hooks {
		h := &s.Hooks[i]
		e.gauge("hook_pending", float64(h.Pending), h.Name)
		e.gauge("hook_failures", float64(h.Failures), h.Name)
		e.counter("hook_given_up_total", float64(h.GivenUp), h.Name)
		e.counter("hook_dropped_total", float64(h.Dropped), h.Name)
		e.time("hook_last_success_timestamp_seconds", h.Success, h.Name)
	}
	for _, a := range s.Alarms {
		e.gauge("alarm_active", 1, a.Kind, a.Subject)
	}
}

// emitter sends metrics.
type emitter struct {
	c  *stateCollector
	ch chan<- prometheus.Metric
}

func (e emitter) gauge(name string, v float64, labels ...string) {
	e.ch <- prometheus.MustNewConstMetric(e.c.descs[name], prometheus.GaugeValue, v, labels...)
}

func (e emitter) counter(name string, v float64, labels ...string) {
	e.ch <- prometheus.MustNewConstMetric(e.c.descs[name], prometheus.CounterValue, v, labels...)
}

func (e emitter) time(name string, at time.Time, labels ...string) {
	if !at.IsZero() {
		e.gauge(name, float64(at.UnixMilli())/1000, labels...)
	}
}

func (e emitter) share(s *Share) {
	if s.Snapshots >= 0 {
		e.gauge("snapshots", float64(s.Snapshots), s.Name, s.Kind)
	}
	e.time("last_snapshot_timestamp_seconds", s.LastSnapshot, s.Name, s.Kind)
	e.time("last_success_timestamp_seconds", s.LastSuccess, s.Name, s.Kind)
	if !s.LastSnapshot.IsZero() {
		e.gauge("last_snapshot_files", float64(s.SnapshotFiles), s.Name, s.Kind)
		e.gauge("last_snapshot_bytes", float64(s.SnapshotBytes), s.Name, s.Kind)
	}
	if s.Kind == KindSource {
		return
	}
	e.gauge("uploads_open", float64(s.Uploads), s.Name)
	e.gauge("pending_operations", float64(s.Changes), s.Name)
	e.gauge("pending_bytes", float64(s.ChangedBytes), s.Name)
	e.gauge("share_bytes", float64(s.Bytes), s.Name)
	if s.Quota > 0 {
		e.gauge("share_quota_bytes", float64(s.Quota), s.Name)
	}
	e.gauge("pending_sets", float64(s.Sets), s.Name)
	e.time("oldest_pending_timestamp_seconds", s.Oldest, s.Name)
	e.gauge("journal_bytes", float64(s.Journal), s.Name)
	e.gauge("share_spool_bytes", float64(s.Spool), s.Name)
	e.gauge("commit_failures", float64(s.Failures), s.Name)
}

func (e emitter) verify(v *Verify) {
	e.time("verify_last_run_timestamp_seconds", v.Last)
	e.time("verify_oldest_timestamp_seconds", v.Oldest)
	e.gauge("verify_files", float64(v.Files))
	e.gauge("verify_fresh_files", float64(v.Fresh))
	e.gauge("verify_damaged_packfiles", float64(v.Packfiles))
	e.gauge("verify_damaged_states", float64(v.States))
	e.gauge("verify_damaged_blobs", float64(v.Blobs))
	e.counter("verify_read_bytes_total", float64(v.Read))
}

func (e emitter) job(j *Job) {
	running := 0.0
	if j.Running {
		running = 1
	}
	e.gauge("job_running", running, j.Name, j.Kind)
	e.gauge("job_failures", float64(j.Failures), j.Name, j.Kind)
	e.time("job_last_success_timestamp_seconds", j.Success, j.Name, j.Kind)
	e.time("job_next_run_timestamp_seconds", j.Next, j.Name, j.Kind)
}
