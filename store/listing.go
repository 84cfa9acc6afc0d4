package store

import (
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"time"

	"github.com/PlakarKorp/kloset/objects"
)

// settleTime is how long a directory must have kept its time stamp before the stamp says
// that nothing has changed since: time stamps are as coarse as a second on some file systems,
// and two on others.
const settleTime = 3 * time.Second

// Of a file system that counts in less than fineTick, stamps say so after fineSettleTime: it is
// the tick of the kernel that they are taken from, of 10 ms at the most.
const (
	fineTick       = 10 * time.Millisecond
	fineSettleTime = 20 * fineTick
)

// settleTimeOf is settleTime for a stamp. One that is coarse is a multiple of fineTick; of the
// fine ones, few are.
func settleTimeOf(stamp time.Time) time.Duration {
	if time.Duration(stamp.Nanosecond())%fineTick == 0 {
		return settleTime
	}
	return fineSettleTime
}

// listing remembers which files the store has in a directory of buckets, and reads again only
// the buckets whose time stamp has moved, so that it sees what others do as well. It is for
// one user at a time.
type listing struct {
	buckets [buckets]bucketList
	files   map[objects.MAC]struct{} // all of them; nil when something has changed since
}

type bucketList struct {
	changed time.Time // the directory's time stamp when it was read
	seen    time.Time // when it was first read with that stamp
	settled bool      // it has been read its settle time after that
	has     map[objects.MAC]struct{}
}

// update reads what has changed below dir. It fails with fs.ErrNotExist when dir is not there,
// or has no bucket at all: then it is not the one that the store had. now is compared with
// other calls' alone, never with the clock of the disk.
func (l *listing) update(readDir func(string) ([]fs.DirEntry, error), dir string, now time.Time) error {
	found := false
	for i := range l.buckets {
		b := &l.buckets[i]
		path := filepath.Join(dir, fmt.Sprintf("%02x", i))
		fi, err := os.Stat(path)
		if errors.Is(err, fs.ErrNotExist) {
			l.put(b, bucketList{})
			continue
		}
		if err != nil {
			return err
		}
		found = true
		stamp := fi.ModTime() // before it is read
		if b.settled && b.changed.Equal(stamp) {
			continue
		}
		entries, err := readDir(path)
		if err != nil {
			return err
		}
		has := make(map[objects.MAC]struct{}, len(entries))
		for _, e := range entries {
			raw, err := hex.DecodeString(e.Name())
			if err == nil && len(raw) == len(objects.MAC{}) && raw[0] == byte(i) && e.Type().IsRegular() {
				has[objects.MAC(raw)] = struct{}{}
			}
		}
		seen := b.seen
		if seen.IsZero() || !b.changed.Equal(stamp) {
			seen = now
		}
		l.put(b, bucketList{changed: stamp, seen: seen, settled: now.Sub(seen) > settleTimeOf(stamp), has: has})
	}
	if !found {
		return &fs.PathError{Op: "read", Path: dir, Err: fs.ErrNotExist}
	}
	return nil
}

func (l *listing) put(b *bucketList, as bucketList) {
	if !maps.Equal(b.has, as.has) {
		l.files = nil
	}
	*b = as
}

// all returns the names of all files, in the same map until one comes or goes.
func (l *listing) all() map[objects.MAC]struct{} {
	if l.files != nil {
		return l.files
	}
	n := 0
	for i := range l.buckets {
		n += len(l.buckets[i].has)
	}
	l.files = make(map[objects.MAC]struct{}, n)
	for i := range l.buckets {
		maps.Copy(l.files, l.buckets[i].has)
	}
	return l.files
}

func (l *listing) hasPackfile(mac objects.MAC) bool {
	_, ok := l.buckets[mac[0]].has[mac]
	return ok
}

// forget has a packfile's bucket read again.
func (l *listing) forget(mac objects.MAC) { l.put(&l.buckets[mac[0]], bucketList{}) }
