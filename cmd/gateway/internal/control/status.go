package control

// Status describes a gateway as `gateway status --json` prints it. Times are RFC 3339, UTC, and
// empty when there is none. On the socket its lists come in lines of their own.
type Status struct {
	Running  bool     `json:"running"`
	Healthy  bool     `json:"healthy"`
	Problems []string `json:"problems"` // what is not as it should be

	Version string `json:"version,omitempty"`
	Started string `json:"started,omitempty"`
	Uptime  int64  `json:"uptime_seconds"`
	DataDir string `json:"data_dir"`

	Listeners   []Listener     `json:"listeners"`
	Connections []Connections  `json:"connections"`
	Sessions    map[string]int `json:"sessions"` // by protocol
	Store       StoreStatus    `json:"store"`
	Spool       Spool          `json:"spool"`
	Verify      *Verify        `json:"verify,omitempty"` // nil: nothing was read back yet
	Audit       *AuditStatus   `json:"audit,omitempty"`  // nil: there is none
	Shares      []Share        `json:"shares"`           // and sources
	Jobs        []Job          `json:"jobs"`
	Alarms      []Alarm        `json:"alarms"`
	Hooks       []Hook         `json:"hooks"`
	UploadsOpen int            `json:"uploads_open"`
	Uploads     []Upload       `json:"uploads"` // the oldest MaxUploads
}

// MaxUploads is how many uploads a status lists.
const MaxUploads = 100

// Listener is an open port.
type Listener struct {
	Server string `json:"server"` // sftp, ftp, http
	Addr   string `json:"addr"`
	TLS    string `json:"tls,omitempty"` // off, explicit, implicit; empty for sftp
}

// Connections counts those of a server.
type Connections struct {
	Server   string `json:"server"`
	Open     int    `json:"open"`
	LoggedIn int    `json:"logged_in"`
	Accepted uint64 `json:"accepted"` // since the start
	Refused  uint64 `json:"refused"`  // since the start
}

// StoreStatus is how the store is.
type StoreStatus struct {
	Location  string `json:"location"`
	Encrypted bool   `json:"encrypted"`
	Reachable bool   `json:"reachable"`
	Error     string `json:"error,omitempty"`
	Since     string `json:"since,omitempty"` // when Error was noticed
}

// Spool is what waits for its commit.
type Spool struct {
	Bytes        int64 `json:"bytes"`
	Limit        int64 `json:"limit,omitempty"`
	Holes        int64 `json:"holes,omitempty"`         // bytes of its files that nobody has sent, besides; Limit bounds them likewise
	Partials     int64 `json:"partials,omitempty"`      // uploads that were cut off
	PartialBytes int64 `json:"partial_bytes,omitempty"` // of Bytes, what is left of them
	DiskFree     int64 `json:"disk_free"`               // -1: not known
}

// AuditStatus is how the audit log is.
type AuditStatus struct {
	File  string `json:"file"`
	Lost  uint64 `json:"lost"` // events, since the start
	Error string `json:"error,omitempty"`
}

// Share is how a share or source is.
type Share struct {
	Name          string `json:"name"`
	Kind          string `json:"kind"` // share or source
	Sessions      int    `json:"sessions"`
	Uploads       int    `json:"uploads"`
	Snapshots     int    `json:"snapshots"` // in the store, -1: not known
	LastSnapshot  string `json:"last_snapshot,omitempty"`
	Snapshot      string `json:"snapshot,omitempty"` // its id
	Pending       int    `json:"pending"`            // changes in no snapshot
	PendingBytes  int64  `json:"pending_bytes"`
	UsedBytes     int64  `json:"used_bytes,omitempty"`  // of the files in the live tree
	QuotaBytes    int64  `json:"quota_bytes,omitempty"` // of them, that there may be
	OldestPending string `json:"oldest_pending,omitempty"`
	Backlog       int64  `json:"backlog_seconds"` // age of that
	Failures      int    `json:"failures"`        // of commits, in a row
	FailingSince  string `json:"failing_since,omitempty"`
	Error         string `json:"error,omitempty"`
	Hint          string `json:"hint,omitempty"`
}

// Upload is an upload that is under way.
type Upload struct {
	Share    string `json:"share"`
	Path     string `json:"path"`
	User     string `json:"user"`
	Protocol string `json:"protocol"`
	Remote   string `json:"remote"`
	Bytes    int64  `json:"bytes"`
	Started  string `json:"started"`
	Active   string `json:"active"` // when bytes came last
}
