package control

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// SocketName is the socket's name in data_dir.
const SocketName = "control.sock"

// maxSocketPath is the longest path that every system's sockaddr_un takes: 104 bytes on
// the BSDs and macOS with the byte that ends it, 108 on Linux.
const maxSocketPath = 103

// maxLine bounds a line of the protocol.
const maxLine = 1 << 20

// The operations.
const (
	OpPing      = "ping"      // is anybody there
	OpSnapshot  = "snapshot"  // commit Share now
	OpSnapshots = "snapshots" // list the snapshots of Share, of all shares without one
	OpImport    = "import"    // store the directory Dir in Share
	OpScrub     = "scrub"     // read the store back
	OpMaintain  = "maintain"  // maintain the store
	OpJobs      = "jobs"      // list the jobs
	OpRunJob    = "run-job"   // run Job now
	OpPrune     = "prune"     // remove what retention does not keep of Shares, of all without any
	OpPin       = "pin"       // pin the snapshot Ref
	OpUnpin     = "unpin"     // take its pin away
	OpPins      = "pins"      // list the pinned snapshots
	OpStatus    = "status"    // how the gateway is doing
	OpHooks     = "hooks"     // list the hooks
	OpAlarms    = "alarms"    // list the alarms
	OpAckAlarm  = "ack-alarm" // acknowledge the alarm Kind of Subject
	OpView      = "view"      // run View, a command that looks into snapshots
)

// OfStore ends the name of OpPrune, OpPin, OpUnpin or OpPins in Store, which is another store than the
// one that is served. A gateway that does not know of Store refuses that, rather than do it in the
// store that it serves.
const OfStore = "-of-store"

// ErrNoServer means that no gateway answers on the socket.
var ErrNoServer = errors.New("no gateway is running")

// Request is what a client asks.
type Request struct {
	Op    string `json:"op"`
	Share string `json:"share,omitempty"`
	Dir   string `json:"dir,omitempty"` // absolute, on the gateway's machine
	Job   string `json:"job,omitempty"`

	Store   string   `json:"store,omitempty"` // with OfStore: its name
	Shares  []string `json:"shares,omitempty"`
	DryRun  bool     `json:"dry_run,omitempty"` // of OpPrune and OpMaintain: tell, remove nothing
	Confirm bool     `json:"confirm,omitempty"` // the clock is right
	Ref     string   `json:"ref,omitempty"`     // as package snapref has it
	Reason  string   `json:"reason,omitempty"`
	Grace   string   `json:"grace,omitempty"`   // of OpMaintain: the grace period
	Scope   string   `json:"scope,omitempty"`   // of OpScrub: due, all or damaged
	Repair  bool     `json:"repair,omitempty"`  // of OpScrub
	From    string   `json:"from,omitempty"`    // of OpScrub: the store to repair from
	Accept  bool     `json:"accept,omitempty"`  // of OpScrub: states that are missing were removed
	GiveUp  []string `json:"give_up,omitempty"` // of OpScrub: snapshots that cannot be read and are to be removed
	Kind    string   `json:"kind,omitempty"`
	Subject string   `json:"subject,omitempty"`
	View    *View    `json:"view,omitempty"`
}

// Reply is one line of an answer. The last line has Done set; Error is set in it when the
// request was refused or went wrong.
type Reply struct {
	Done     bool      `json:"done,omitempty"`
	Error    string    `json:"error,omitempty"`
	Hint     string    `json:"hint,omitempty"`
	ID       string    `json:"id,omitempty"`       // of the snapshot
	Snapshot *Snapshot `json:"snapshot,omitempty"` // one of a list
	// Unreadable are ids of snapshots, in the last line of a list, that cannot be read.
	Unreadable []string `json:"unreadable,omitempty"`

	Import   *Import   `json:"import,omitempty"` // progress, and in the last line the sum
	Status   *Status   `json:"status,omitempty"` // in the last line; its lists come before
	Share    *Share    `json:"share,omitempty"`  // one of a status
	Upload   *Upload   `json:"upload,omitempty"` // one of a status
	Maintain *Maintain `json:"maintain,omitempty"`
	Damage   *Damage   `json:"damage,omitempty"`   // one of a scrub
	Scrub    *Scrub    `json:"scrub,omitempty"`    // the sum, in the last line
	Job      *Job      `json:"job,omitempty"`      // one of a list; of a run: that it has begun, and how it has ended
	Retained *Retained `json:"retained,omitempty"` // one of a list
	Pruned   *Pruned   `json:"pruned,omitempty"`   // the sum, in the last line
	Pin      *Pin      `json:"pin,omitempty"`      // one of a list
	Alarm    *Alarm    `json:"alarm,omitempty"`    // one of a list or status
	Hook     *Hook     `json:"hook,omitempty"`     // one of a list
	Output   *Output   `json:"output,omitempty"`   // of OpView, as it comes
	Exit     *int      `json:"exit,omitempty"`     // of OpView, in the last line: the exit status of a command that was run
}

// Retained is what retention says of a snapshot, as `gateway prune --json` prints it.
type Retained struct {
	ID      string   `json:"id"`
	Time    string   `json:"time"`
	Share   string   `json:"share"`
	Name    string   `json:"name"`
	Keep    bool     `json:"keep"`
	Removed bool     `json:"removed"` // by this run
	Reasons []string `json:"reasons"`
}

// Pruned sums up a run of prune.
type Pruned struct {
	Removed int     `json:"removed"` // or would be
	Kept    int     `json:"kept"`
	Now     string  `json:"now"`   // the time that was decided by
	Ahead   float64 `json:"ahead"` // seconds that the clock is ahead of what retention has seen pass
}

// Pin describes a pinned snapshot as `gateway pins --json` prints it.
type Pin struct {
	ID     string `json:"id"`
	Time   string `json:"time"`
	Share  string `json:"share"`
	Name   string `json:"name"`
	Pinned string `json:"pinned"` // since when; RFC 3339, UTC
	Reason string `json:"reason"` // "" where it was pinned elsewhere, or without one
}

// Snapshot describes a snapshot as `gateway snapshots --json` prints it.
type Snapshot struct {
	ID    string   `json:"id"`    // 64 hexadecimal digits
	Time  string   `json:"time"`  // RFC 3339, UTC
	Share string   `json:"share"` // or the dataset or source of a foreign snapshot
	Name  string   `json:"name"`  // as below .snapshots
	Files uint64   `json:"files"`
	Size  uint64   `json:"size"` // logical bytes
	Tags  []string `json:"tags"` // key=value
}

// Job describes a job as `gateway jobs --json` prints it. Times are RFC 3339, UTC.
type Job struct {
	Name     string `json:"name"`
	Kind     string `json:"kind"`
	Schedule string `json:"schedule"` // cron, with its time zone
	Words    string `json:"words"`    // the same for people
	State    string `json:"state"`    // idle, waiting (others run) or running
	Result   string `json:"result"`   // of the last run, "" before the first
	Start    string `json:"start,omitempty"`
	End      string `json:"end,omitempty"`
	Success  string `json:"success,omitempty"` // end of the last good run
	Failures int    `json:"failures"`          // in a row
	Error    string `json:"error,omitempty"`
	Hint     string `json:"hint,omitempty"`
	Snapshot string `json:"snapshot,omitempty"` // 64 hexadecimal digits
	Summary  string `json:"summary,omitempty"`
	Next     string `json:"next,omitempty"`
	Retry    bool   `json:"retry,omitempty"` // Next repeats a failed run
}

// Maintain is what maintenance has done, or would do, as `gateway maintain --json` prints it.
type Maintain struct {
	Store        string `json:"store"`
	DryRun       bool   `json:"dry_run"`
	Snapshots    int    `json:"snapshots"`
	BytesBefore  int64  `json:"bytes_before"`
	BytesAfter   int64  `json:"bytes_after"`
	Before       int    `json:"packfiles_before"`
	After        int    `json:"packfiles_after"`
	Used         int    `json:"used"`          // packfiles that snapshots need, at least in part
	UsedBytes    int64  `json:"used_bytes"`    // of these packfiles
	NeededBytes  int64  `json:"needed_bytes"`  // of what the snapshots need in them
	Young        int    `json:"young"`         // of no use, and not for long enough to be marked
	YoungBytes   int64  `json:"young_bytes"`   //
	Marked       int    `json:"marked"`        // by this run
	MarkedBytes  int64  `json:"marked_bytes"`  //
	Grace        int    `json:"grace"`         // marked, and waiting, with those of this run
	GraceBytes   int64  `json:"grace_bytes"`   //
	GraceUntil   string `json:"grace_until"`   // when the next of them may be removed, RFC 3339, UTC; "" for none
	Removed      int    `json:"removed"`       //
	RemovedBytes int64  `json:"removed_bytes"` //
	Kept         int    `json:"kept"`          // marked, and needed after all
	Spared       int    `json:"spared"`        // of no use, left alone as states are missing whose snapshots may need them
	SparedBytes  int64  `json:"spared_bytes"`  //
	Orphans      int    `json:"orphans"`       // of those marked, what no state of the store tells of
	Rescued      int    `json:"rescued"`       // blobs stored again because only marked packfiles had them
	Lost         int    `json:"lost"`          // blobs that snapshots need and that are missing
	Locks        int    `json:"locks"`         // of others, left behind, that were removed
	LockedMillis int64  `json:"locked_ms"`     // the longest time that the store was locked
}

// Import counts what an import has done so far.
type Import struct {
	Files   int    `json:"files"`
	Dirs    int    `json:"dirs"`
	Links   int    `json:"links"`
	Bytes   int64  `json:"bytes"`
	Same    int    `json:"same"`              // were there already
	Failed  int    `json:"failed"`            // could not be stored
	Path    string `json:"path,omitempty"`    // what Problem is about
	Problem string `json:"problem,omitempty"` // one file that could not be stored
}

// reach calls fn with a path to the socket in dataDir that fits into a socket address. A
// path that is too long is reached through a symbolic link in a temporary directory,
// which is gone when reach returns; the socket then works without it.
func reach(dataDir string, fn func(dir string) error) error {
	const longestName = 32 // of a temporary directory and a socket in it
	if len(dataDir)+longestName <= maxSocketPath {
		return fn(dataDir)
	}
	parent := os.TempDir()
	if len(parent)+len("/gw1234567890/d")+longestName > maxSocketPath {
		parent = "/tmp" // TMPDIR is no short way either
	}
	tmp, err := os.MkdirTemp(parent, "gw")
	if err != nil {
		return fmt.Errorf("short way to %s: %w", dataDir, err)
	}
	defer func() { _ = os.RemoveAll(tmp) }() // what is left of it is an empty directory
	link := filepath.Join(tmp, "d")
	abs, err := filepath.Abs(dataDir)
	if err != nil {
		return fmt.Errorf("short way to %s: %w", dataDir, err)
	}
	if err := os.Symlink(abs, link); err != nil {
		return fmt.Errorf("short way to %s: %w", dataDir, err)
	}
	return fn(link)
}

// requestTimeout is how long a client may take to send its request, and to take a line.
const requestTimeout = 30 * time.Second

// shutdownPatience is how long a shutdown waits for a client to take the line that says so.
const shutdownPatience = time.Second
