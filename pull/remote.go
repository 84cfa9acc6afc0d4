package pull

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// Type is what a name on a remote stands for.
type Type uint8

// The types of entries.
const (
	TypeUnknown Type = iota
	File
	Dir
	Symlink
	Special // a device, a socket, a pipe
)

// Entry is one name of a listing, or what stands in its place.
type Entry struct {
	Name string // one path element, as bytes; "/" for the root
	Type Type

	Size    int64       // of a File, in bytes
	Mode    fs.FileMode // permission bits, setuid, setgid and sticky
	ModTime time.Time   // UTC
	// Precision says that the time is in [ModTime, ModTime+Precision): a day, a minute, a
	// second or a nanosecond; 0 when no time is known.
	Precision time.Duration
	UID, GID  uint32
	HasMode   bool
	HasOwner  bool
	// Target of a Symlink, "" when it has to be asked for.
	Target string

	// Err is set in place of all the rest when the server has given something that cannot be
	// taken: a *Error of KindName, KindListing, … Name is for a report then, and must not
	// be used as a name.
	Err error
}

// Capabilities says what a remote tells about its files.
type Capabilities struct {
	Mode      bool          // permission bits are shown, by every entry
	Owner     bool          // numeric user and group are shown
	Symlinks  bool          // symbolic links are told from files
	Precision time.Duration // the best Entry.Precision that listings have
	Exact     bool          // Lstat has better times than listings
	Ranges    bool          // one file may be read at several places at once, cheaply
	RawNames  bool          // names are carried byte for byte
	Parallel  int           // how many calls make sense at a time
	// Earliest and Latest bound the times that the protocol carries; both are zero when nothing does. What is set to
	// another time gets the nearest.
	Earliest, Latest time.Time
}

// Remote is a tree on a server, or a local one. Paths are canonical, as in a snapshot: "/" is
// the directory that the location names, "/a/b" is below it; symbolic links are not followed.
//
// Every method tries once; see Retry. Errors are *Error, or ctx's. Safe for concurrent use.
type Remote interface {
	// Lstat describes what is at a path. A protocol that cannot tell a symbolic link by its
	// path describes its target (FTP without MLST).
	Lstat(ctx context.Context, path string) (Entry, error)
	// ReadDir calls each for every entry of a directory, as they arrive, in no order, without
	// "." and "..", and returns the error of each if that is not nil. Nil means that the
	// listing was read to its end.
	ReadDir(ctx context.Context, path string, each func(Entry) error) error
	// Open opens a regular file for reading length bytes at offset; without
	// Capabilities.Ranges they are to reach to the end of the file. Reads end in io.EOF after
	// these; fewer are io.EOF as well, unless the protocol tells an error from an end. The
	// reader may be a Stater. It keeps to ctx, and Close waits for what it has started.
	Open(ctx context.Context, path string, offset, length int64) (io.ReadCloser, error)
	// Readlink reads the target of a symbolic link.
	Readlink(ctx context.Context, path string) (string, error)
	// Capabilities connects when nothing has yet.
	Capabilities(ctx context.Context) (Capabilities, error)
	// Close ends all connections. Calls under way fail.
	Close() error
}

// Stater is a reader that can describe the very file that it reads, after its last byte.
type Stater interface {
	Stat(ctx context.Context) (Entry, error)
}

// Ranger is a Stater that goes on with other ranges of the file that it has open.
type Ranger interface {
	Stater
	// Rest leaves the connection to whoever begins to wait for one, after the last byte of a range,
	// until Again or Close, the only calls that may follow. False when somebody waits already: Close
	// is to follow.
	Rest() bool
	// Again begins another range, after Rest; false when it cannot, when the connection was taken
	// away, or when that has more to do than others.
	Again(offset, length int64) bool
	// AskStat has the next Stat tell what the file is like now, without a round trip of its own.
	AskStat(ctx context.Context) error
}

// Connecter is a Remote on a server. Connect makes a connection, unless there is one, ahead of the
// first call.
type Connecter interface {
	Connect(ctx context.Context) error
}

// Limits of names, as snapshots and the systems that they are restored to have them.
const (
	maxName = 255  // NAME_MAX
	maxPath = 4096 // PATH_MAX
)

// maxQuoted is how many bytes of a name or a text of a server a message shows.
const maxQuoted = 300

// checkName returns nil when a name from a listing of dir can be a path element there.
func checkName(dir, name string) error {
	switch {
	case name == "", name == ".", name == "..":
		return failf("list", dir, KindName, "%q", name)
	case strings.IndexByte(name, '/') >= 0:
		return failf("list", dir, KindName, "%s has a slash in it", quote(name))
	case strings.IndexByte(name, 0) >= 0:
		return failf("list", dir, KindName, "%s has a NUL in it", quote(name))
	case len(name) > maxName:
		return failf("list", dir, KindName, "%s is longer than %d bytes", quote(name), maxName)
	case dir == "/" && name[0] == 0xff:
		// kloset's Builder loses such names at the root of a snapshot.
		return failf("list", dir, KindName, "%s begins with the byte 0xff", quote(name))
	case len(dir)+1+len(name) > maxPath:
		return failf("list", dir, KindLimit, "%s: the path is longer than %d bytes", quote(name), maxPath)
	}
	return nil
}

// checkTarget returns nil when a symbolic link at path can have a target.
func checkTarget(op, path, target string) error {
	if len(target) > maxPath {
		return failf(op, path, KindLimit, "a target of %d bytes", len(target))
	}
	return nil
}

// checkPath returns nil when path is canonical.
func checkPath(op, path string) error {
	if path == "/" {
		return nil
	}
	bad := !strings.HasPrefix(path, "/") || strings.IndexByte(path, 0) >= 0
	if !bad {
		for elem := range strings.SplitSeq(path[1:], "/") {
			bad = bad || elem == "" || elem == "." || elem == ".."
		}
	}
	if bad {
		return fail(op, path, KindName, fs.ErrInvalid)
	}
	return nil
}

// child is the path of a name in a directory.
func child(dir, name string) string {
	if dir == "/" {
		return "/" + name
	}
	return dir + "/" + name
}

// base is the last element of a path.
func base(path string) string { return path[strings.LastIndexByte(path, '/')+1:] }

// quote makes bytes of a server fit for a message.
func quote(s string) string {
	if len(s) > maxQuoted {
		return strconv.Quote(s[:maxQuoted]) + "…"
	}
	return strconv.Quote(s)
}

// shown is the text of an error with what a terminal could take for something else escaped: a certificate's names,
// for one, come from the server as they are.
func shown(text string) string {
	odd := func(r rune) bool { return !strconv.IsPrint(r) }
	if utf8.ValidString(text) && strings.IndexFunc(text, odd) < 0 {
		return text
	}
	quoted := strconv.Quote(text)
	return quoted[1 : len(quoted)-1]
}

// Printable is a path as it is, or in quotes when a terminal could take it for something else.
func Printable(path string) string { return quotePath(path) }

// quotePath is quote, for paths, which are shown as they are when that is safe.
func quotePath(p string) string {
	if !utf8.ValidString(p) || len(p) > maxPath {
		return quote(p)
	}
	for _, r := range p {
		if r == '"' || !strconv.IsPrint(r) {
			return quote(p)
		}
	}
	return p
}

// errStop ends a listing early, on purpose.
var errStop = errors.New("stop")

// unixMode makes an fs.FileMode of the low bits of a Unix mode.
func unixMode(m uint32) fs.FileMode {
	mode := fs.FileMode(m) & fs.ModePerm
	if m&0o4000 != 0 {
		mode |= fs.ModeSetuid
	}
	if m&0o2000 != 0 {
		mode |= fs.ModeSetgid
	}
	if m&0o1000 != 0 {
		mode |= fs.ModeSticky
	}
	return mode
}
