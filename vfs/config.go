package vfs

import (
	"context"
	"io"
	"iter"
	"log/slog"
	"time"

	"github.com/snapgate/gateway/internal/disk"
	"github.com/snapgate/gateway/snapshotter"
)

// Repository is what the live trees need of a kloset store; FromSnapshotter adapts
// *snapshotter.Snapshotter, vfstest.Repository is a double in memory.
type Repository interface {
	// Commit makes a snapshot that differs from base (zero: the empty tree) by changes.
	// When it returns nil, the snapshot is durable. Calls do not overlap.
	Commit(ctx context.Context, base snapshotter.ID, changes iter.Seq2[snapshotter.Change, error], meta snapshotter.Meta) (snapshotter.ID, error)
	// NewIngest makes what puts a file into the store ahead of its commit (Change.Ingested),
	// nil where that is not possible. The bytes that it has put are written to seen.
	NewIngest(seen io.Writer) *snapshotter.Ingest
	// View opens a snapshot for reading.
	View(ctx context.Context, id snapshotter.ID) (View, error)
	// Snapshots lists the snapshots of a share or dataset, newest first. It is cheap:
	// answered from memory, refreshed by Commit and when the store changed.
	Snapshots(ctx context.Context, share string) ([]snapshotter.Snapshot, error)
	// AllSnapshots is Snapshots that fails, with snapshotter.ErrUnavailable, while it is not known that all are in the list: for
	// whoever looks for a head. With now it asks the store, not memory, as for a snapshot of a commit that has failed,
	// and takes stock of what the store lacks, as Commit does.
	AllSnapshots(ctx context.Context, share string, now bool) ([]snapshotter.Snapshot, error)
	// Gone reports whether a snapshot was removed, is lost, or is none that the store knows of: whoever had it as a head has to do
	// without. One that is there and cannot be read is not gone. Error: snapshotter.ErrUnavailable while that cannot be told.
	Gone(ctx context.Context, id snapshotter.ID) (bool, error)
}

// View is a snapshot as a read-only tree. Paths are canonical ("/", "/a/b"); symbolic
// links are not followed. Safe for concurrent use. A missing name is fs.ErrNotExist, an
// unreachable store snapshotter.ErrUnavailable.
type View interface {
	Lstat(ctx context.Context, path string) (snapshotter.Entry, error)
	// ReadDir returns up to n entries of a directory, in byte order of their names,
	// that come after the name after ("" starts). Fewer than n mean the end.
	ReadDir(ctx context.Context, path, after string, n int) ([]snapshotter.Entry, error)
	// Open opens a regular file.
	Open(ctx context.Context, path string) (Reader, error)
	// Lossy reports whether the snapshot, or one that it continues, lacks what the store had
	// lost when it was made.
	Lossy() bool
	// Bytes is the sum of the sizes of the files in it, 0 while that is not known. It waits for
	// nothing.
	Bytes() int64
	Close() error
}

// Reader reads a file's bytes at any offset; safe for concurrent use.
type Reader interface {
	io.ReaderAt
	io.Closer
	Size() int64
}

// Versions says which completed versions must get a snapshot of their own.
type Versions uint8

// The settings of versions.
const (
	VersionsAll  Versions = iota // a version is never destroyed before a snapshot holds it
	VersionsLast                 // only what is there at commit time
)

// When says what makes a share commit.
type When uint8

// The settings of snapshot.when.
const (
	WhenBatch When = iota
	WhenClose
	WhenSession
	WhenSchedule
	WhenManual
)

// ShareConfig are the settings of one share. The zero value of each field is its default
// where the comment names one.
type ShareConfig struct {
	Name string
	// Source makes it the read-only share of a pulled source: it shows the newest snapshot
	// that a pull has made with SourceLineage, and has no journal. Of the other settings,
	// VisibleHistory and Aliases mean something then.
	Source       bool
	When         When
	SessionGrace time.Duration // batch, session: after the last session ended; 5 s
	Quiet        time.Duration // batch: without a change; 60 s. close: before a commit of other changes; 2 s
	MaxDelay     time.Duration // batch: after the oldest change; 15 min
	// Next gives the next time of a schedule after a time; nil unless When is WhenSchedule.
	Next           func(after time.Time) time.Time
	Versions       Versions
	TempNames      []string      // patterns (path.Match on the last element) that wait for their rename; nil means DefaultTempNames
	TempMaxAge     time.Duration // after that they are committed as they stand; 1 h
	PartialMaxAge  time.Duration // a partial expires; 7 days
	AckStored      bool          // acknowledge: stored
	AckTimeout     time.Duration // acknowledge: stored gives up waiting; 5 min
	VisibleHistory bool          // list .snapshots at the root
	Aliases        []string      // ".zfs/snapshot", ".snapshot", "~snapshot", "@GMT"
	Quota          int64         // bytes that the files of the live tree may have; 0 for no bound
	MaxPending     int           // sealed sets that wait for a commit before destructive operations slow down; 1000
}

// DefaultTempNames are the names that wait for their rename.
func DefaultTempNames() []string {
	return []string{"*.filepart", "*.partial", "*.part", "*.tmp", "*.ocTransferId*"}
}

// DefaultReserve is how much free disk space is kept for one commit, in bytes.
const DefaultReserve = 256 << 20

// Limits bound what clients can make the system hold.
type Limits struct {
	SpoolBytes   int64 // spool, journal and pending nodes together; 0: 64 GiB
	ReserveBytes int64 // free disk space kept for one commit; 0: DefaultReserve
	Changes      int   // that wait for their commit, of all shares; 0: 150,000
	InlineBytes  int   // files up to this ride in the journal; 0: 64 KiB
	OpenHandles  int   // in all, of which one user may have two thirds of what the others leave; 0: 10,000
	SessionFiles int   // open handles of one session; 0: 1,000
	NameBytes    int   // of one path element; 0: 255
	PathBytes    int   // of a path; 0: 4,096
	SymlinkDepth int   // followed in one path; 0: 40
}

// Config configures a System.
type Config struct {
	DataDir    string // shares live in DataDir/shares/NAME/{journal,spool}, sources in DataDir/sources/NAME
	Disk       disk.FS
	Repository Repository
	SpoolKey   []byte // 32 bytes from which spool and journal keys are derived; nil leaves them plain
	Shares     []ShareConfig
	Limits     Limits
	Logger     *slog.Logger
	Observer   Observer // nil: nobody
	// LeaveOutDamaged has uploads whose spooled bytes are missing or damaged left out of
	// snapshots, and those that take bytes from a snapshot that is gone from the store, or that the store has lost or gives
	// damaged. Without it their share does not open, or commits nothing more, until the bytes are there again.
	LeaveOutDamaged bool
	// Failpoint is called by name at the moments that matter to crash tests; nil outside them.
	Failpoint func(name string)
}
