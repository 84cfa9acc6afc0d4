package store

import (
	"context"
	"encoding/hex"
	"errors"
	"io/fs"
	"maps"
	"time"

	"github.com/PlakarKorp/kloset/objects"

	"github.com/snapgate/gateway/store/internal/backend"
)

// packfileList knows which packfiles the store has. It is for one user at a time.
type packfileList interface {
	// update looks what has changed.
	update(ctx context.Context) error
	// has reports whether the store had a packfile then.
	has(mac objects.MAC) bool
	// found says that a packfile which it does not have is there.
	found(mac objects.MAC)
	// doubt says that a packfile which it has may be gone: it has it no more, until somebody has looked for it.
	doubt(mac objects.MAC)
}

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

// listing is the packfileList of a local store: it remembers which files the store has in a
// directory of buckets, and reads again only the buckets whose time stamp has moved, so that
// it sees what others do as well. It is for one user at a time.
type listing struct {
	disk    directories
	dir     string // in the store: packfiles, states
	buckets [backend.Buckets]bucketList
	files   map[objects.MAC]struct{} // all of them; nil when something has changed since
}

// directories are those of a local store, by their names in it; backend.Local has them.
type directories interface {
	ReadDir(dir string) ([]fs.DirEntry, error)
	StatDir(dir string) (fs.FileInfo, error)
}

type bucketList struct {
	changed time.Time // the directory's time stamp when it was read
	seen    time.Time // when it was first read with that stamp
	settled bool      // it has been read its settle time after that
	has     map[objects.MAC]struct{}
}

func newListing(disk directories, dir string) *listing { return &listing{disk: disk, dir: dir} }

// update reads what has changed. It fails with fs.ErrNotExist when the directory is not there,
// or has no bucket at all: then it is not the one that the store had.
func (l *listing) update(context.Context) error { return l.updateAt(time.Now()) }

// updateAt is update at a time, which is compared with other calls' alone, never with the
// clock of the disk.
func (l *listing) updateAt(now time.Time) error {
	found := false
	for i := range l.buckets {
		b := &l.buckets[i]
		dir := backend.Bucket(l.dir, byte(i))
		fi, err := l.disk.StatDir(dir)
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
		entries, err := l.disk.ReadDir(dir)
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
		return &fs.PathError{Op: "read", Path: l.dir, Err: fs.ErrNotExist}
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

func (l *listing) has(mac objects.MAC) bool {
	_, ok := l.buckets[mac[0]].has[mac]
	return ok
}

// found has a packfile's bucket read again.
func (l *listing) found(mac objects.MAC) { l.put(&l.buckets[mac[0]], bucketList{}) }

func (l *listing) doubt(mac objects.MAC) { l.found(mac) }

// listShare is for which share of the time, at most, a store that is elsewhere lists its
// packfiles: 1/listShare.
const listShare = 10

// remoteListing is the packfileList of a store that is elsewhere, where there is no telling
// what has changed: all are listed again. With many packfiles this takes its time, and is done
// less often then.
type remoteListing struct {
	files backend.Files
	known map[objects.MAC]struct{}
	next  time.Time // before it, what is known will do
}

func (l *remoteListing) update(ctx context.Context) error {
	start := time.Now()
	if start.Before(l.next) {
		return nil
	}
	known := make(map[objects.MAC]struct{}, len(l.known))
	err := l.files.List(ctx, backend.PackfilesDir, func(name string) error {
		if mac, ok := macOf(name); ok {
			known[mac] = struct{}{}
		}
		return nil
	})
	if err != nil {
		return err
	}
	l.known, l.next = known, time.Now().Add(listShare*time.Since(start))
	return nil
}

func (l *remoteListing) doubt(mac objects.MAC) { delete(l.known, mac) }

func (l *remoteListing) has(mac objects.MAC) bool {
	_, ok := l.known[mac]
	return ok
}

func (l *remoteListing) found(mac objects.MAC) {
	if l.known != nil { // or else update lists them
		l.known[mac] = struct{}{}
	}
}
