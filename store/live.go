package store

import (
	"context"
	"errors"
	"io/fs"
	"sync"

	"github.com/PlakarKorp/kloset/objects"
	"github.com/PlakarKorp/kloset/resources"
	"golang.org/x/sync/errgroup"
)

// liveLooks is how many packfiles are looked for at a time: a store that is elsewhere takes
// tens of milliseconds for each, and there is one for 16 MiB.
const liveLooks = 16

// Live returns those of some packfiles that the store has and that no state in it, as of the
// last Refresh, calls unusable. It is for packfiles that no state tells of yet: maintenance
// marks and removes such ones when they are old. Under a lock on the store the answer stays
// right. Errors: ErrUnavailable.
func (s *Store) Live(ctx context.Context, packfiles []objects.MAC) (live map[objects.MAC]struct{}, err error) {
	db, err := s.openIndex()
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	coloured, err := s.macs(db, "SELECT mac FROM deleteds WHERE type = ?", int(resources.RT_PACKFILE))
	if err != nil {
		return nil, err
	}
	var mu sync.Mutex // guards live
	live = make(map[objects.MAC]struct{}, len(packfiles))
	looks, ctx := errgroup.WithContext(ctx)
	looks.SetLimit(liveLooks)
	for _, mac := range packfiles {
		looks.Go(func() error {
			_, err := s.files.Stat(ctx, packfileName(mac))
			switch {
			case err == nil:
				mu.Lock()
				live[mac] = struct{}{}
				mu.Unlock()
			case !errors.Is(err, fs.ErrNotExist):
				return s.conn.unavailable("look for packfile", err)
			}
			return nil
		})
	}
	if err := looks.Wait(); err != nil {
		return nil, err
	}
	for _, mac := range coloured {
		delete(live, mac)
	}
	return live, nil
}
