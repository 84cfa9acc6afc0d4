package snapshotter

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"strings"
	"time"

	"github.com/snapgate/gateway/store"
)

// ID names a snapshot: kloset's 256-bit snapshot identifier.
type ID [32]byte

// IsZero reports whether id names no snapshot.
func (id ID) IsZero() bool { return id == ID{} }

// String returns the 64 hexadecimal digits that plakar prints and takes.
func (id ID) String() string { return hex.EncodeToString(id[:]) }

// ParseID parses 64 hexadecimal digits.
func ParseID(s string) (ID, error) {
	var id ID
	if len(s) != 2*len(id) {
		return ID{}, fmt.Errorf("snapshot id %q: want %d hexadecimal digits", s, 2*len(id))
	}
	if _, err := hex.Decode(id[:], []byte(s)); err != nil {
		return ID{}, fmt.Errorf("snapshot id %q: %w", s, err)
	}
	return id, nil
}

// Errors of this package; test with errors.Is.
var (
	// ErrUnavailable means that the store cannot be reached or written right now: the
	// same call may succeed later. The cause is wrapped.
	ErrUnavailable = store.ErrUnavailable
	// ErrBusy means that another process holds the store (plakar maintenance): try later.
	ErrBusy = store.ErrLocked
	// ErrDamaged means that what the store has is not what was written.
	ErrDamaged = store.ErrDamaged
	// ErrNoSnapshot means that no snapshot has the given ID.
	ErrNoSnapshot = errors.New("no such snapshot")
	// ErrLost means that the store lacks a part of a snapshot that nobody has removed, as the last commit has found: it may come back from a
	// copy. With ErrNoSnapshot it is of one that is not listed.
	ErrLost = errors.New("missing from the store")
)

// Attr are the attributes of a file, directory or symlink as a snapshot keeps them.
type Attr struct {
	Mode    fs.FileMode // permission bits, setuid, setgid and sticky; no type bits
	ModTime time.Time   // UTC, one second or better
	UID     uint32
	GID     uint32
}

// ChangeKind says what a Change leaves at its path.
type ChangeKind uint8

const (
	// Removed hides what the base has at Path, and everything below it.
	Removed ChangeKind = iota + 1
	// Dir leaves a directory at Path.
	Dir
	// File leaves a regular file at Path.
	File
	// Symlink leaves a symbolic link at Path.
	Symlink
)

// Change declares what a new snapshot has at Path, in terms of the base snapshot. A
// commit takes the net difference between the base and the new tree, not a history:
// all changes hold at the same time, and every From is a path in the base.
//
// Changes arrive in depth-first path order (a directory before what is below it,
// siblings in byte order), each path once, and every parent of a changed path is either
// itself a Change of kind Dir or an unchanged directory of the base.
type Change struct {
	Path string // canonical: "/" or "/a/b", no "." or "..", no trailing slash
	Kind ChangeKind

	// From is the base path that this entry continues, "" when it is new.
	// Dir: what no Change below Path mentions is taken from the base directory From, so
	// that a renamed directory is one Change. File: when Content and Stored are nil, the
	// bytes are those of the base file From (an attribute change or a rename).
	From string

	Attr Attr

	// Version is the inode number that the entry gets: fresh for every content version,
	// so that equal size and time never make two versions look equal.
	Version uint64

	// Content holds the bytes of a File that the base does not have.
	Content Content

	// Ingested may have put the bytes of Content into the store already, all of them: they
	// are read only when that is of no use any more. Nil for none.
	Ingested *Ingest

	// Stored, of a File, is what Store or Ingest.Seal has returned: the bytes are in the
	// store already. Content may be nil then. Otherwise it is read when they are not there
	// after all; without it the commit fails with a MissingError.
	Stored []byte

	// Target is where a Symlink points.
	Target string
}

// Content is where a commit reads the bytes of a changed file. It may be opened more
// than once; every reader yields exactly Size bytes or an error.
type Content interface {
	Size() int64
	Open(ctx context.Context) (io.ReadCloser, error)
}

// Shared is a Content that several changes may have, as hard links do. Those whose Identity is equal have the same
// bytes: an incremental commit reads them once. An Identity can be a key of a map; nil is of what no other change has.
type Shared interface {
	Content
	Identity() any
}

// Meta is what a commit writes into the snapshot's header besides the tree.
type Meta struct {
	Share     string // the kloset dataset and name
	ShareID   string // stable across renames of the share in the configuration
	GatewayID string
	Sequence  uint64 // 1 for the first snapshot of the share's lineage, then one more each
	Parent    ID     // the head that this snapshot follows; zero for the first
	Journal   uint64 // the last journal record that is part of this snapshot
	Time      time.Time
	Suffix    int // the n of the view name "<time>-n"; 0 for none
	Users     []string
	Protocols []string
	Reason    string // "close", "batch", "session", "schedule", "manual", "seal", "shutdown", "import", …
	LeftOut   uint64 // files that were accepted and that the snapshot lacks, as their bytes were lost
	// Urgent runs the commit beside others instead of behind them. It is not in the snapshot.
	Urgent bool

	Source Source   // where a tree was pulled from; zero for uploads
	Tags   []string // further ones, "key=value"

	// Errors lists what could not be captured, all of it: nothing is taken over from the
	// base. The order does not matter; texts of one path are joined. It is called once, when
	// the commit begins; nil for none.
	Errors func() iter.Seq[Failure]
}

// Source says where a tree was pulled from. What lay in the directory that was pulled lies at
// the root of the snapshot.
type Source struct {
	Type     string // of the remote: "sftp", "ftp", "ftps" or "fs"
	Origin   string // the host
	Location string // the whole, without a password
}

// LocationTag begins the tag of a snapshot that has its Source.Location.
const LocationTag = "location="

// Failure is something that could not be captured, or not as it is.
type Failure struct {
	Path string // as in Change; what the snapshot has there, if anything, is older
	Text string // why; a snapshot has one line of it, of 1 KiB at most
}

// Snapshot describes a stored snapshot.
type Snapshot struct {
	ID        ID
	Time      time.Time // UTC
	Share     string    // kloset dataset, or the importer's origin when there is none
	Suffix    int
	ShareID   string // empty for foreign snapshots
	GatewayID string // empty for foreign snapshots
	Sequence  uint64
	Parent    ID
	Journal   uint64
	Lost      uint64 // files and directories that this snapshot, or of a share one before it, has left out because they were lost
	Files     uint64
	Errors    uint64   // paths that could not be captured as they were
	Size      uint64   // logical bytes
	Tags      []string // "key=value"
	Root      string   // where a view is rooted: "/" for our own, the source directory else
	Source    string   // "type://origin/directory" of the importer: what a foreign snapshot was made of
	// Replaces are the snapshots that this one was made in place of, as they could not be repaired. Whoever
	// asks for one of them, and it is not there, gets this one.
	Replaces []ID
}

// IDs are the ids that the snapshot is known by: its own, and those of what it was made in place of.
func (s *Snapshot) IDs() []ID { return append([]ID{s.ID}, s.Replaces...) }

// Foreign reports whether the snapshot was made by something else than a gateway.
func (s Snapshot) Foreign() bool { return s.GatewayID == "" }

// Pulled reports whether the snapshot is of a source that was pulled.
func (s Snapshot) Pulled() bool {
	return !s.Foreign() && !strings.HasPrefix(s.Source, importerType+"://")
}

// Lineage names the line of snapshots of one share of one gateway.
type Lineage struct{ GatewayID, ShareID string }

// Of reports whether the snapshot belongs to a lineage. A foreign one belongs to none.
func (s Snapshot) Of(l Lineage) bool {
	return !s.Foreign() && s.GatewayID == l.GatewayID && s.ShareID == l.ShareID
}

// ViewName is the name of the snapshot below the .snapshots of the share whose lineage is
// own: "2026-11-21T19-04-29Z", with "-n" when several snapshots of the share have the same
// second, and with "-" and eight hexadecimal digits of the ID when the snapshot is of another
// lineage, as nobody knows what others do in the same second. It depends on nothing else, so
// it stays the same when other snapshots come and go.
func (s Snapshot) ViewName(own Lineage) string {
	name := s.Time.UTC().Format("2006-01-02T15-04-05Z")
	switch {
	case !s.Of(own):
		return name + "-" + s.ID.String()[:8]
	case s.Suffix > 0:
		return fmt.Sprintf("%s-%d", name, s.Suffix)
	}
	return name
}

// Entry is one name in a snapshot.
type Entry struct {
	Name    string     // the last path element; "/" for the root
	Kind    ChangeKind // Dir, File or Symlink; devices and the like appear as File of size 0
	Attr    Attr
	Size    int64
	Version uint64
	Target  string // of a Symlink
	Owner   string // user and group names when the snapshot has them
	Group   string

	ContentType string   // of a File: what its bytes look like, "text/plain; charset=utf-8"
	Object      ObjectID // of a File: its bytes; zero for what has none
	Entropy     float64  // of a File: of its bytes, in bits each: 8 for what is compressed or encrypted
}

// ObjectID names the bytes of a stored file. Two files of one store with the same one have the
// same bytes; the reverse need not be so, see Hash.
type ObjectID [32]byte
