package store

import (
	"context"
	"errors"
	"io"

	"github.com/PlakarKorp/kloset/objects"
	"github.com/PlakarKorp/kloset/repository"
)

// ForgetHolder lets go of what tells others that the holder of an exclusive lock is alive, and
// leaves the rest as it is, as when its process is killed.
func ForgetHolder(l *Lock) error {
	h := l.holder
	l.holder = nil
	return h.lock.Unlock()
}

// ReadStates reads states as a cold start does, with room to keep so many bytes of them, and returns
// them in their order.
func ReadStates(ctx context.Context, s *Store, ids []objects.MAC, room int) (ordered []objects.MAC, data [][]byte, err error) {
	r := &stateReader{s: s, kept: make(map[objects.MAC]keptState), room: room}
	parents, err := r.parents(ctx, ids)
	if err != nil {
		return nil, nil, err
	}
	ordered, err = repository.TopoSort(ids, func(id objects.MAC) (objects.MAC, error) { return parents[id], nil })
	for i := range ordered {
		rd, _, terr := r.take(ctx, ordered[i:])
		if terr != nil {
			return nil, nil, errors.Join(err, terr)
		}
		one, terr := io.ReadAll(rd)
		data, err = append(data, one), errors.Join(err, terr)
	}
	if len(r.kept) > 0 || r.room != room {
		err = errors.Join(err, errors.New("states are kept that were taken"))
	}
	return ordered, data, err
}
