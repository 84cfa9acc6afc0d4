package store

import (
	"context"
	"sync"

	"github.com/PlakarKorp/kloset/objects"
)

// sizes remembers how large packfiles are: they never change. Safe for concurrent use.
type sizes struct {
	mu sync.Mutex // guards of; held while the store is asked
	of map[objects.MAC]int64
}

// Size adds up the packfiles of the store, which is nearly all that there is in it. It looks at those that
// it has not seen before, several at a time.
func (s *Store) Size(ctx context.Context) (bytes int64, err error) {
	all, err := s.ListPackfiles(ctx)
	if err != nil {
		return 0, err
	}
	s.sizes.mu.Lock()
	defer s.sizes.mu.Unlock()
	var unknown []objects.MAC
	known := make(map[objects.MAC]int64, len(all))
	for mac := range all {
		if n, ok := s.sizes.of[mac]; ok {
			known[mac] = n
			bytes += n
		} else {
			unknown = append(unknown, mac)
		}
	}
	infos, err := s.StatPackfiles(ctx, unknown)
	for mac, info := range infos {
		known[mac] = info.Size
		bytes += info.Size
	}
	s.sizes.of = known
	return bytes, err
}
