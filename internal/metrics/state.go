package metrics

import "time"

// State is how a gateway stands. A time that is not known is zero, and has no series.
type State struct {
	Servers  []Server
	Sessions map[string]int // by protocol
	Handles  int

	Received, Sent map[string]int64 // bytes since the start, by protocol

	Spool      int64
	SpoolLimit int64
	DiskFree   int64 // -1: not known

	Shares []Share
	Jobs   []Job
	Alarms []Alarm
	Hooks  []Hook

	Verify Verify

	StoreUp     bool
	StoreErrors map[string]uint64 // since the start, by operation
	AuditErrors uint64            // events that the audit log has lost, since the start
}

// Verify is how far reading the store back is.
type Verify struct {
	Files, Fresh int
	Last, Oldest time.Time
	Packfiles    int // damaged
	States       int // damaged
	Blobs        int // damaged, that snapshots use
	Read         int64
}

// Server is a server with its connections.
type Server struct {
	Name     string // sftp or ftp
	Open     int
	Accepted uint64
	Refused  uint64
}

// Share is a share or a source.
type Share struct {
	Name          string
	Kind          string // share or source
	Uploads       int    // open
	Changes       int    // accepted, and in no snapshot yet
	ChangedBytes  int64
	Bytes         int64 // of the files in the live tree
	Quota         int64 // 0 for none
	Sets          int
	Oldest        time.Time // change
	Journal       int64
	Spool         int64
	Failures      int // of commits, in a row
	Snapshots     int // -1: not known
	LastSnapshot  time.Time
	LastSuccess   time.Time // a share: of a commit; a source: of a pull that serve has run
	SnapshotFiles uint64    // of the newest
	SnapshotBytes uint64    // of the newest
}

// Job is a job with its state.
type Job struct {
	Name, Kind string
	Running    bool
	Failures   int // in a row
	Success    time.Time
	Next       time.Time
}

// Hook is somebody who is told of events; what is lost is counted since the start.
type Hook struct {
	Name     string
	Pending  int
	Failures int // in a row
	GivenUp  uint64
	Dropped  uint64
	Success  time.Time
}

// Alarm is an alarm that is not over.
type Alarm struct{ Kind, Subject string }

// The kinds of shares.
const (
	KindShare  = "share"
	KindSource = "source"
)
