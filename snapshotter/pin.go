package snapshotter

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/PlakarKorp/kloset/objects"
	"github.com/PlakarKorp/kloset/repository"
	"github.com/PlakarKorp/kloset/resources"
)

// A pin is a coloured resource of the type "lock" in a state: stock plakar keeps such entries and
// asks for the colours of snapshots and packfiles alone, so all gateways on a store see it, and
// nothing else changes. (Entries of kloset's own configuration cannot be used: kloset 1.1.4 does not
// open a store whose states have one.) Entries are never taken back, since kloset does not say in
// which order it reads states: the resource is named by the first bytes of the snapshot's id and a
// number, of which the highest counts. Odd ones pin, even ones unpin.

// pinBytes is how much of a snapshot's id names a pin; the rest is the number.
const pinBytes = len(ID{}) - 4

// pin is the last word about a snapshot.
type pin struct {
	number uint32
	when   time.Time
}

func (p pin) pinned() bool { return p.number%2 == 1 }

// resource is what is coloured for a number.
func (p pin) resource(id ID) objects.MAC {
	binary.BigEndian.PutUint32(id[pinBytes:], p.number)
	return objects.MAC(id)
}

// allPins reads what the store says about snapshots, by the first bytes of their ids.
func (s *Snapshotter) allPins() (map[[pinBytes]byte]pin, error) {
	coloured, err := s.store.ColouredAs(resources.RT_LOCK)
	if err != nil {
		return nil, err
	}
	pins := make(map[[pinBytes]byte]pin, len(coloured))
	for mac, when := range coloured {
		key, number := [pinBytes]byte(mac[:pinBytes]), binary.BigEndian.Uint32(mac[pinBytes:])
		if number > pins[key].number {
			pins[key] = pin{number, when.UTC()}
		}
	}
	return pins, nil
}

// Pins returns the pinned snapshots and when each was pinned, as they are in the store now.
// Errors: ErrUnavailable.
func (s *Snapshotter) Pins(ctx context.Context) (map[ID]time.Time, error) {
	if err := s.Refresh(ctx); err != nil {
		return nil, err
	}
	all, err := s.allPins()
	if err != nil {
		return nil, err
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	pins := make(map[ID]time.Time)
	for id := range s.records {
		if p := all[[pinBytes]byte(id[:pinBytes])]; p.pinned() {
			pins[id] = p.when
		}
	}
	return pins, nil
}

// Pin keeps a snapshot from being removed, by any gateway on this store, until Unpin. It is durable
// when it returns nil. Errors: ErrNoSnapshot, ErrBusy, ErrUnavailable.
func (s *Snapshotter) Pin(ctx context.Context, id ID) error {
	err := s.setPin(ctx, id, func(p pin) (pin, error) {
		if s.known(id) == nil {
			return p, ErrNoSnapshot
		}
		if p.pinned() {
			p.number++ // somebody else may be unpinning it
		}
		p.number++
		return p, nil
	})
	if err == nil {
		err = s.stillThere(ctx, id)
	}
	if err != nil {
		return fmt.Errorf("pin snapshot %s: %w", id, err)
	}
	return nil
}

// stillThere makes sure that nobody has removed a snapshot while it was pinned.
func (s *Snapshotter) stillThere(ctx context.Context, id ID) error {
	if err := s.Refresh(ctx); err != nil {
		return err
	}
	if s.known(id) == nil {
		return fmt.Errorf("%w: it was removed at the same time", ErrNoSnapshot)
	}
	return nil
}

// ErrNotPinned means that there is nothing to unpin.
var ErrNotPinned = errors.New("the snapshot is not pinned")

// Unpin takes a pin away. Errors: ErrNotPinned, ErrBusy, ErrUnavailable.
func (s *Snapshotter) Unpin(ctx context.Context, id ID) error {
	err := s.setPin(ctx, id, func(p pin) (pin, error) {
		if !p.pinned() {
			return p, ErrNotPinned
		}
		p.number++
		return p, nil
	})
	if err != nil {
		return fmt.Errorf("unpin snapshot %s: %w", id, err)
	}
	return nil
}

// setPin writes the next word about a snapshot.
func (s *Snapshotter) setPin(ctx context.Context, id ID, next func(pin) (pin, error)) error {
	return s.alter(ctx, s.lockStore, func(rw *repository.RepositoryWriter) (bool, error) {
		id := s.is(id)
		all, err := s.allPins()
		if err != nil {
			return false, err
		}
		p, err := next(all[[pinBytes]byte(id[:pinBytes])])
		if err != nil {
			return false, err
		}
		if err := rw.DeleteStateResource(resources.RT_LOCK, p.resource(id)); err != nil {
			return false, fmt.Errorf("state delta: %w", err)
		}
		return true, nil
	}, func() {})
}
