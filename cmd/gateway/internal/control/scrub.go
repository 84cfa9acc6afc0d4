package control

// Scrub is what reading a store back has come to, as `gateway scrub --json` prints it last. Times are
// RFC 3339, UTC, "" for none.
type Scrub struct {
	Store        string     `json:"store"`
	Scope        string     `json:"scope"`
	Packfiles    int        `json:"packfiles"` // read back by this run
	States       int        `json:"states"`
	Blobs        int        `json:"blobs"`              // compared with their MACs
	Bytes        int64      `json:"bytes"`              // read
	Left         int        `json:"left"`               // files that this run is still to read
	Unread       int        `json:"unread"`             // files that could not be read
	Mended       int        `json:"mended"`             // that were damaged when they were read before
	Repaired     int        `json:"repaired"`           // of these, by this run
	Damaged      int        `json:"damaged"`            // files, with those of earlier runs
	DamagedBlobs int        `json:"damaged_blobs"`      // in them, that snapshots use
	Unused       int        `json:"unused"`             // damaged blobs that no snapshot uses
	Replaced     []Replaced `json:"replaced,omitempty"` // snapshots that were made anew from their copies
	GivenUp      []string   `json:"given_up,omitempty"` // snapshots that could not be read and are removed
	Files        int        `json:"files"`              // packfiles and states that there are
	Fresh        int        `json:"fresh"`              // of those, read back within the time
	Oldest       string     `json:"oldest"`             // since when that is not so of the one that waits longest
	// Forgotten is when it came to be unknown what was damaged before; "" when all was read back since.
	Forgotten string  `json:"forgotten,omitempty"`
	Seconds   float64 `json:"seconds"`
}

// Replaced is a damaged snapshot that was made anew, under another id.
type Replaced struct {
	Old   string `json:"old"`
	New   string `json:"new"`
	Share string `json:"share"`
	Time  string `json:"time"`
}

// Damage is a file of a store that is not as it was written, as `gateway scrub --json` prints it.
type Damage struct {
	Damage string `json:"damage"` // packfile, state or configuration
	File   string `json:"file"`
	Text   string `json:"text"`
	Found  string `json:"found"`
	Blobs  int    `json:"blobs"` // that snapshots use
	Uses   []Use  `json:"uses"`
	More   int    `json:"more_uses,omitempty"`
	Repair string `json:"repair,omitempty"` // why it was not repaired
}

// Use is what snapshots have in a damaged file.
type Use struct {
	Share     string `json:"share"`
	Path      string `json:"path,omitempty"` // "" for the snapshot itself
	What      string `json:"what"`
	Size      int64  `json:"size,omitempty"`
	ModTime   string `json:"mtime,omitempty"`
	Snapshots int    `json:"snapshots"` // how many have it
	First     string `json:"first"`     // the id of the oldest
	FirstTime string `json:"first_time"`
	Last      string `json:"last"` // the id of the newest
	LastTime  string `json:"last_time"`
}

// Verify is what is known of reading the store back.
type Verify struct {
	Last         string `json:"last"`   // when a run by schedule has ended
	Files        int    `json:"files"`  // packfiles and states
	Fresh        int    `json:"fresh"`  // of those, read back within verify.every
	Oldest       string `json:"oldest"` // since when the one that waits longest was not read back
	Damaged      int    `json:"damaged"`
	DamagedBlobs int    `json:"damaged_blobs"` // that snapshots use
}
