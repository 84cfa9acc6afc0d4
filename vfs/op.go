package vfs

import (
	"time"

	"github.com/snapgate/gateway/snapshotter"
	"github.com/snapgate/gateway/vfs/internal/spool"
)

// opKind is the kind of an accepted operation, as the journal records it.
type opKind uint8

const (
	opPut         opKind = iota + 1 // a complete file under name
	opMkdir                         // a directory
	opSymlink                       // a symbolic link to target
	opRemove                        // whatever is at name (a directory must be empty)
	opRename                        // name to to; what was at to is replaced
	opSetattr                       // mode, mtime, uid, gid of name as in mask
	opLink                          // a file at to that shares the content of the file at name
	opSeal                          // closes the current change set
	opCommitted                     // a set became a snapshot
	opPartial                       // an upload in progress or cut off, with what is durable of it
	opPartialGone                   // a partial expired, was resumed to its end or discarded
	opTorn                          // user's overwrite of the file at name is under way, or was cut off
	opWhole                         // user has sent the whole file at name, which has it already
	opLenient                       // opCommitted with commit.lenient; in records only
)

// attrMask says which fields of op.attr an opSetattr sets.
type attrMask uint8

const (
	setMode attrMask = 1 << iota
	setMtime
	setUID
	setGID
	// keepDirTime, on an opPut, leaves the directory's time alone: the file is not new
	// there, a seal carries it over.
	keepDirTime
)

// op is one operation on a live tree: the request that a session submits to its share,
// and, once accepted, the result that the journal holds.
type op struct {
	kind     opKind
	name     Name
	to       Name // opRename, opLink
	attr     snapshotter.Attr
	mask     attrMask
	target   string
	content  *content  // opPut
	version  uint64    // given by the sequencer
	time     time.Time // when it was accepted; becomes the parent directory's mtime
	user     string
	protocol string
	session  uint64 // the session that asked, 0 after recovery

	// The rest is not recorded.

	// check is evaluated by the sequencer against the tree that the operation is about to
	// change, before anything else; its error refuses the operation. Permission decisions
	// that depend on what is there (create or overwrite) belong here.
	check func(t *tree) error
	// upload, on opPut, gives the name at the moment of publication (a directory above
	// may have been renamed since the open).
	upload *upload
	// onto, on opTorn, says that the upload goes with the file when that is renamed.
	onto bool
	// noReplace refuses opRename, opLink and opPut when the target exists.
	noReplace bool
	// parents makes missing parent directories (a mount's root, import).
	parents bool
	// flush makes an opPartial, opPartialGone, opTorn or opSetattr durable before it is acknowledged.
	flush bool
	// doubtful, once it has failed, says that the journal may hold its record all the same,
	// until another record is written.
	doubtful bool
	// room says how the operation came by the room that its change takes.
	room roomState

	// Few operations have these.
	partial *partial         // opPartial, opPartialGone (user and name)
	commit  *committedRecord // opCommitted
	reason  string           // opSeal
}

// roomState says whether an operation's change is counted.
type roomState uint8

const (
	roomUnasked roomState = iota // it is asked for before the operation is submitted
	roomTaken                    // it was let in
	roomKept                     // it was let in, and is a pending change now
	roomIgnored                  // it does not wait
)

// committedRecord notes that every record up to pos is in snapshot id.
type committedRecord struct {
	upTo     uint64
	id       snapshotter.ID
	sequence uint64
	time     time.Time // of the snapshot, for unique view names
	suffix   int
	version  uint64 // the highest version number given so far
	lenient  bool   // as of rebase: what pends was accepted over another head
}

// partial is an upload that has not been completed: of a live handle (a checkpoint, in
// case the process dies) or of one that ended without a proper close.
type partial struct {
	name    Name
	user    string
	spool   spool.ID
	size    int64
	extents []spool.Extent
	base    baseRef // what lies outside the extents, when it continues a stored file
	time    time.Time
	// doubtful says that the journal may hold a record that publishes the spool file,
	// although that has failed; not recorded.
	doubtful bool
}
