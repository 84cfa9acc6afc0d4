package store

import (
	"context"
	"encoding/hex"
	"errors"
	"io/fs"
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
}

// settleTime is how long a directory must have been left alone before its time stamp says
// that nothing has changed since: time stamps are as coarse as a second on some file systems,
// and two on others.
const settleTime = 3 * time.Second

// listing is the packfileList of a local store: it remembers the packfiles by bucket, and
// reads again only the directories whose time stamp has moved.
type listing struct {
	local   *backend.Local
	buckets [backend.Buckets]bucketList
}

type bucketList struct {
	changed time.Time // the directory's time stamp when it was read
	settled bool      // changed was old enough then
	has     map[objects.MAC]struct{}
}

// update reads what has changed. It fails with fs.ErrNotExist when the store has no
// packfiles' directory, or no bucket at all: then it is not the one that it was.
func (l *listing) update(context.Context) error {
	any := false
	for i := range l.buckets {
		dir := backend.Bucket(backend.PackfilesDir, byte(i))
		fi, err := l.local.StatDir(dir)
		if errors.Is(err, fs.ErrNotExist) {
			l.buckets[i] = bucketList{}
			continue
		}
		if err != nil {
			return err
		}
		any = true
		b := &l.buckets[i]
		if b.settled && b.changed.Equal(fi.ModTime()) {
			continue
		}
		age := time.Since(fi.ModTime()) // before it is read
		entries, err := l.local.ReadDir(dir)
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
	if !any {
		return &fs.PathError{Op: "read", Path: backend.PackfilesDir, Err: fs.ErrNotExist}
	}
	return nil
}

func (l *listing) has(mac objects.MAC) bool {
	_, ok := l.buckets[mac[0]].has[mac]
	return ok
}

// found has a packfile's bucket read again.
func (l *listing) found(mac objects.MAC) { l.buckets[mac[0]] = bucketList{} }

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

func (l *remoteListing) has(mac objects.MAC) bool {
	_, ok := l.known[mac]
	return ok
}

func (l *remoteListing) found(mac objects.MAC) { l.known[mac] = struct{}{} }
