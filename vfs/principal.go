package vfs

// Perm is a set of permissions.
type Perm uint16

// The permissions; their configuration names are those of String.
const (
	PermList      Perm = 1 << iota // list directories and stat names
	PermRead                       // read files, hash them, copy their data
	PermCreate                     // make files and links under free names
	PermOverwrite                  // replace, truncate or append to complete files
	PermRename                     // rename
	PermDelete                     // remove files, links and empty directories
	PermMkdir                      // make directories
	PermSetattr                    // set mode, owner and times
	PermLink                       // make symbolic and hard links
	PermHistory                    // enter .snapshots
	PermSnapshot                   // ask for a snapshot now

	// PermFull is every permission.
	PermFull Perm = 1<<iota - 1
)

// The named permission sets of the configuration.
const (
	PermReadOnly   = PermList | PermRead | PermHistory
	PermAppendOnly = PermCreate | PermMkdir | PermList | PermRead | PermHistory
	PermUploadOnly = PermCreate | PermMkdir | PermList
)

// Has reports whether p contains all of q.
func (p Perm) Has(q Perm) bool { return p&q == q }

// Mount places a directory of a share into a principal's name space.
type Mount struct {
	At    Name // where the client sees it: "/" or one level below
	Share string
	Root  Name // the directory of the share that is shown; made on first use when missing
}

// Principal is an authenticated user and what it may do. It is immutable; a reload of
// the configuration makes new ones.
type Principal struct {
	User   string
	Mounts []Mount // one at "/", or several below a read-only root
	Perms  Perm
}

// ConnInfo says where a session comes from.
type ConnInfo struct {
	Protocol string // "sftp", "ftp", "ftps", "control", "web"
	Remote   string // host:port of the peer
	Conn     string // the connection's name in the log
	// Bulk says that what the session does belongs together: while it lasts, batch and
	// close commit when MaxDelay is over, at the latest, or when they are asked to.
	Bulk bool
	// Onlooker says that whether the session is there means nothing for when to commit: it comes and
	// goes with each page that somebody looks at.
	Onlooker bool
}
