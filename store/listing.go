package store

import (
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/PlakarKorp/kloset/objects"
)

// settleTime is how long a directory must have been left alone before its time stamp says
// that nothing has changed since: time stamps are as coarse as a second on some file systems,
// and two on others.
const settleTime = 3 * time.Second

// listing remembers which packfiles the store has, by bucket, and reads again only the
// directories whose time stamp has moved. It is for one user at a time.
type listing struct {
	buckets [buckets]bucketList
}

type bucketList struct {
	changed time.Time // the directory's time stamp when it was read
	settled bool      // changed was old enough then
	has     map[objects.MAC]struct{}
}

// update reads what has changed below dir. It fails with fs.ErrNotExist when dir is not
// there, or has no bucket at all: then it is not the one that the store had.
func (l *listing) update(readDir func(string) ([]fs.DirEntry, error), dir string) error {
	found := false
	for i := range l.buckets {
		path := filepath.Join(dir, fmt.Sprintf("%02x", i))
		fi, err := os.Stat(path)
		if errors.Is(err, fs.ErrNotExist) {
			l.buckets[i] = bucketList{}
			continue
		}
		if err != nil {
			return err
		}
		found = true
		b := &l.buckets[i]
		if b.settled && b.changed.Equal(fi.ModTime()) {
			continue
		}
		age := time.Since(fi.ModTime()) // before it is read
		entries, err := readDir(path)
		if err != nil {
			return err
		}
		*b = bucketList{changed: fi.ModTime(), settled: age > settleTime, has: make(map[objects.MAC]struct{}, len(entries))}
		for _, e := range entries {
			raw, err := hex.DecodeString(e.Name())
			if err == nil && len(raw) == len(objects.MAC{}) && raw[0] == byte(i) {
				b.has[objects.MAC(raw)] = struct{}{}
			}
		}
	}
	if !found {
		return &fs.PathError{Op: "read", Path: dir, Err: fs.ErrNotExist}
	}
	return nil
}

func (l *listing) hasPackfile(mac objects.MAC) bool {
	_, ok := l.buckets[mac[0]].has[mac]
	return ok
}

// forget has a packfile's bucket read again.
func (l *listing) forget(mac objects.MAC) { l.buckets[mac[0]] = bucketList{} }
