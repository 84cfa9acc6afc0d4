package pull

import (
	"context"
	"fmt"
	"io/fs"
	"strings"
	"time"
)

// Attributes says which attributes are to be set, and to what.
type Attributes struct {
	Mode     fs.FileMode // permission bits, setuid, setgid and sticky
	ModTime  time.Time   // zero to leave it
	UID, GID uint32
	HasMode  bool
	HasOwner bool
}

// Writes says what of a tree a remote can take. What it cannot is left out without an error
// when attributes are set.
type Writes struct {
	Mode     bool
	ModTime  bool
	DirMode  bool // modes of directories
	DirTime  bool // times of directories
	Owner    bool
	Symlinks bool // the protocol has symbolic links, whether or not this server lets us make them
	// Durable means that a file which was finished survives a power loss of the server. The
	// names of files and directories do after SyncDir, where there is one.
	Durable bool
}

// Writer writes a file, in order, for one goroutine.
type Writer interface {
	// Write may return before the bytes are on the server.
	Write(ctx context.Context, p []byte) error
	// Sync has the server bring to its disk what it has, where it can, and need not wait for it.
	// durable is how many bytes of the file an earlier call, or this one, has brought there.
	Sync(ctx context.Context) (durable int64, err error)
	// Finish waits until all that was written is on the server, and on its disk where that is
	// possible, sets attributes, and closes. Whatever it returns, the Writer is closed. An
	// *AttributeError says that all but attributes is as it is to be.
	Finish(ctx context.Context, a Attributes) error
	// Abort closes without more; what was written may stay. After Finish it does nothing.
	Abort()
}

// AttributeError says which attributes a file or a link lacks that is as it is to be otherwise.
type AttributeError struct{ Err error }

func (e *AttributeError) Error() string { return e.Err.Error() }

// Unwrap returns the cause.
func (e *AttributeError) Unwrap() error { return e.Err }

// Target is a Remote that can be written to. Paths are as a Remote's. Every method tries once;
// errors are *Error, or ctx's. Nothing follows a symbolic link that the last element of a path
// is; those in the middle are for the caller to look at, but an FS follows none. Safe for concurrent use.
type Target interface {
	Remote
	// MakeRoot makes the directory that the remote shows, and those above it, where they are
	// missing; made reports whether it was.
	MakeRoot(ctx context.Context) (made bool, err error)
	// Mkdir makes a directory that only this account can use.
	Mkdir(ctx context.Context, path string) error
	// Create opens a file for writing at offset: a new one at 0, which must not be there; else
	// one that is, and is cut there. KindUnsupported means that it has to be begun anew.
	Create(ctx context.Context, path string, offset int64) (Writer, error)
	// Rename gives a file or a symbolic link another name, in place of what has it.
	Rename(ctx context.Context, from, to string) error
	// Symlink makes a symbolic link that must not be there.
	Symlink(ctx context.Context, target, path string) error
	// SetAttributes sets attributes of what is there and is a t: those that it can when one is refused, but no setuid and
	// setgid without the owner.
	SetAttributes(ctx context.Context, path string, t Type, a Attributes) error
	// Remove removes a file, a symbolic link or an empty directory.
	Remove(ctx context.Context, path string, t Type) error
	// Writes says what is possible, as far as it is known.
	Writes(ctx context.Context) (Writes, error)
}

// DirSyncer is a Target on which names are durable only after SyncDir of their directory.
type DirSyncer interface {
	SyncDir(ctx context.Context, path string) error
}

// Hasher is a Target whose server can hash its files. hash is "sha256", "sha512", "sha1" or
// "md5"; KindUnsupported means that it cannot.
type Hasher interface {
	Hash(ctx context.Context, path string) (hash string, sum []byte, err error)
}

var (
	_ Target    = (*FS)(nil)
	_ Target    = (*SFTP)(nil)
	_ Target    = (*FTP)(nil)
	_ DirSyncer = (*FS)(nil)
	_ Hasher    = (*FTP)(nil)
)

// AsideName is what a file is called while the one with a temporary name takes its place: see makeRoom.
func AsideName(temp string) string { return strings.TrimSuffix(temp, ".part") + ".old" }

// makeRoom gives the file from the name of another one, which is there, where the server has refused to replace that:
// the old one is moved aside, and removed when the new one has its name. A server that refuses renames
// refuses the first of them, and when a later step is refused all is as before. Unless the connection
// is lost, one of the files has the name in the end.
func makeRoom(conn interface{ Err() error }, from, to string, refused error, move func(from, to string) error, remove func(string) error) error {
	aside := AsideName(from)
	if err := move(to, aside); err != nil {
		// One that was cut off has left it.
		if conn.Err() == nil && remove(aside) == nil {
			err = move(to, aside)
		}
		if conn.Err() != nil {
			return err
		}
		if err != nil {
			return refused
		}
	}
	err := move(from, to)
	if err == nil {
		if err = remove(aside); err == nil || conn.Err() != nil {
			return err
		}
		if move(to, from) != nil {
			return fmt.Errorf("%w; the old file is %s", err, quotePath(aside))
		}
	}
	if back := move(aside, to); back != nil && conn.Err() == nil {
		return fmt.Errorf("%w; the old file is %s", err, quotePath(aside))
	}
	return err
}

// modeNumber is the mode as Unix has it.
func modeNumber(m fs.FileMode) uint32 {
	n := uint32(m.Perm())
	for bit, is := range map[uint32]fs.FileMode{0o4000: fs.ModeSetuid, 0o2000: fs.ModeSetgid, 0o1000: fs.ModeSticky} {
		if m&is != 0 {
			n |= bit
		}
	}
	return n
}

// Modes of what is being made: nobody else is to see it before it has its own.
const (
	newDirMode  = 0o700
	newFileMode = 0o600
)
