package vfs

import (
	"errors"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"github.com/snapgate/gateway/internal/disk"
)

// usageAge is how long an answer of the file system about its free space is believed:
// asking costs a system call and is done for every WRITE. What was admitted since is
// subtracted from the answer.
const usageAge = 250 * time.Millisecond

// reserveFiles is how many inodes are left for one commit: its lock, packfiles, state and
// index, a segment of the journal, and the empty files that the spool keeps ready make
// about thirty.
const reserveFiles = 128

// spaceGate decides whether more bytes may be spooled. Safe for concurrent use.
type spaceGate struct {
	mu       sync.Mutex // guards all; held across the system call so that one is made at a time
	asked    time.Time
	avail    int64 // free bytes when asked
	admitted int64 // since then
	unknown  bool  // the file system does not tell
	files    int64 // free inodes when asked, -1 when they are not counted
	writes   int64 // admitted since then; each may have made a file
}

// storeRoom is what the store still takes.
type storeRoom struct {
	left atomic.Int64 // bytes, with what is pending
	why  error        // no more
}

// SetStoreRoom says how many bytes the store takes beside what it has, and why no more; a negative
// number is no bound. What does not fit, with all that waits for its commit, is refused with
// KindNoSpace and why, which clients see. Commits are counted until it is called again.
func (s *System) SetStoreRoom(bytes int64, why string) {
	if bytes < 0 {
		s.room.Store(nil)
		return
	}
	room := &storeRoom{why: errors.New(why)}
	room.left.Store(bytes)
	s.room.Store(room)
}

// StoreRoom is how much of it is left; -1 for no bound.
func (s *System) StoreRoom() int64 {
	if room := s.room.Load(); room != nil {
		return max(0, room.left.Load())
	}
	return -1
}

// stored counts bytes that were pending and are in the store now.
func (s *System) stored(bytes int64) {
	if room := s.room.Load(); room != nil {
		room.left.Add(-bytes)
	}
}

// storeLeft is how many bytes may be uploaded until the store takes no more; all that there are
// when it has no bound.
func (s *System) storeLeft() int64 {
	room := s.room.Load()
	if room == nil {
		return math.MaxInt64
	}
	return max(0, room.left.Load()-s.pending())
}

// admit asks whether n more bytes may be spooled or journalled. It refuses with
// KindNoSpace at the spool limit, when the store takes no more, and while the disk has less free than what is pending
// plus the reserve, or hardly an inode: a full spool can then still drain into a store on
// the same disk.
func (s *share) admit(n int64) error {
	limits := s.system.cfg.Limits
	pending := s.system.pending()
	if n > limits.SpoolBytes-pending {
		return errCause("write", Name{}, KindNoSpace, errors.New("the spool limit is reached"))
	}
	if room := s.system.room.Load(); room != nil && n > room.left.Load()-pending {
		return errCause("write", Name{}, KindNoSpace, room.why)
	}
	avail, fewFiles, err := s.system.space.available(s.system.cfg.DataDir, n)
	if err != nil {
		return errCause("write", Name{}, KindOther, err)
	}
	if avail >= 0 && n > avail-pending-limits.ReserveBytes {
		s.system.space.giveBack(n)
		return errCause("write", Name{}, KindNoSpace, errors.New("the disk of the data directory is nearly full"))
	}
	if fewFiles {
		s.system.space.giveBack(n)
		return errCause("write", Name{}, KindNoSpace, errors.New("the disk of the data directory has hardly any inodes left"))
	}
	return nil
}

// admitNode asks whether an operation may be accepted that makes a name without that bytes
// were admitted for it. What removes, renames or sets attributes is never refused for want
// of space: it may be what makes room.
func (s *share) admitNode(o *op) error {
	switch o.kind {
	case opMkdir, opSymlink, opLink:
	case opPut:
		if c := o.content; c.size > 0 && (c.inRecord || c.spool != 0) {
			return nil
		}
	default:
		return nil
	}
	return s.admit(nodeCost)
}

// pending is what all shares hold against the spool limit, in bytes.
func (s *System) pending() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	var sum int64
	for _, sh := range s.shares {
		sum += sh.pending()
	}
	return sum
}

// available returns the free bytes of the disk, without n, or -1 when it does not tell, and
// whether there are less than reserveFiles inodes.
func (g *spaceGate) available(dir string, n int64) (avail int64, fewFiles bool, err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if now := time.Now(); g.asked.IsZero() || now.Sub(g.asked) > usageAge || g.lowFiles() {
		u, err := disk.Usage(dir)
		g.unknown = errors.Is(err, disk.ErrUnsupported)
		if err != nil && !g.unknown {
			return 0, false, err
		}
		g.asked, g.avail, g.admitted = now, int64(min(u.Avail, 1<<62)), 0
		g.files, g.writes = -1, 0
		if u.Files > 0 {
			g.files = int64(min(u.FilesFree, 1<<62))
		}
	}
	if g.unknown {
		return -1, false, nil
	}
	avail, fewFiles = g.avail-g.admitted, g.lowFiles()
	g.admitted += n
	g.writes++
	return avail, fewFiles, nil
}

// lowFiles reports whether there may be less than reserveFiles inodes: when that is only
// feared, because of the writes since, the file system is asked again. mu is held.
func (g *spaceGate) lowFiles() bool { return g.files >= 0 && g.files-g.writes < reserveFiles }

func (g *spaceGate) giveBack(n int64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.admitted = max(g.admitted-n, 0)
}
