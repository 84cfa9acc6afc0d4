package store

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"sync"
	"time"

	"github.com/PlakarKorp/kloset/caching"
	"github.com/PlakarKorp/kloset/objects"
	"github.com/PlakarKorp/kloset/repository/state"
	"github.com/PlakarKorp/kloset/resources"
	"golang.org/x/sync/errgroup"
)

// What states say of a packfile in turn - it is missing, it is back, it is missing again, it was removed - has to be
// learned in that order, and a reader of the store takes states in any order in which none comes before its parent.
// A state has one parent. So a state that says something else than earlier ones is written once for each
// of those that nobody has answered yet, as its child: whichever of them a reader takes last, the answer comes
// after it. What is said last is what stays, since of two states of which the later one is not said to be
// the answer to the other, both say the same:
//
//   - a colour is taken away after each state that has coloured (uncolour);
//   - a packfile is coloured (colour, PutRemoval) and buried (PutRemoval) after each state that has taken a colour away.
//
// Nothing has to come after a mere colour but what takes it away: a second colour changes nothing, and burying takes the
// earlier one away and puts its own in the same state, which later ones of any time do not replace.

// turnTable holds, in kloset's index, the packfiles of which states are being written that answer others. All of those
// are to be answered, and from the first answer on the index says what it says.
const turnTable = `CREATE TABLE IF NOT EXISTS snapgate_turn (mac TEXT NOT NULL PRIMARY KEY)`

const (
	// unreadMost is how many states may be unreadable of a store that can be reached.
	unreadMost = 16
	// resumeAfter is after what time answers are begun again that could not be completed.
	resumeAfter = 24 * time.Hour
)

// turn is what a state says of packfiles.
type turn struct {
	id, parent objects.MAC
	coloured   []objects.MAC
	freed      []objects.MAC // it takes their colour away
	buried     []objects.MAC // of those coloured
}

// turns reads what the states in the store say of packfiles. It reads all of them, from the store and not from the
// index, which does not remember who has said what; it is for when a packfile is lost, or back, which
// is seldom. A state that is damaged says nothing: nobody can read it. One that cannot be read, of a store that can be
// reached, must not keep everybody from writing: it says nothing for now, and whole is false.
func (s *Store) turns(ctx context.Context) (all []turn, whole bool, err error) {
	ids, err := s.States(ctx)
	if err != nil {
		return nil, false, err
	}
	began := time.Now()
	var mu sync.Mutex // guards all, unread and cause
	unread, cause := 0, error(nil)
	group, gctx := errgroup.WithContext(ctx)
	group.SetLimit(stateReads)
	for _, id := range ids {
		group.Go(func() error {
			t, err := s.turnOf(gctx, id)
			if gctx.Err() != nil {
				return gctx.Err()
			}
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				unread, cause = unread+1, err
				if unread > unreadMost || unread == len(ids) {
					return err
				}
			}
			if len(t.coloured)+len(t.freed) > 0 {
				all = append(all, t)
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return nil, false, err
	}
	if unread > 0 {
		if err := s.Available(ctx); err != nil {
			return nil, false, err
		}
		s.log.Warn("states of the store cannot be read: if they tell of packfiles that were missing, they are not answered until they can be",
			"store", s.Location(), "states", unread, "err", cause)
	}
	s.log.Info("the states of the store were read for what they say of missing packfiles",
		"store", s.Location(), "states", len(ids), "took", time.Since(began).Round(time.Millisecond))
	return all, unread == 0, nil
}

// turnOf reads what a state says; nothing when it is damaged or gone.
func (s *Store) turnOf(ctx context.Context, id objects.MAC) (turn, error) {
	c, parent, err := s.readFacts(ctx, id)
	if err == nil {
		return turn{id, parent, c.coloured, c.Freed, c.Buried}, nil
	}
	if ctx.Err() != nil {
		return turn{}, ctx.Err()
	}
	_, verr := s.VerifyState(ctx, id, nil)
	switch {
	case verr == nil:
		return turn{}, err
	case errors.Is(verr, ErrDamaged), errors.Is(verr, fs.ErrNotExist):
		return turn{}, nil
	}
	return turn{}, verr
}

// unanswered returns, by state, those of some packfiles of which it says what was, and no child of it what is.
func unanswered(all []turn, macs []objects.MAC, of func(*turn) (was, is []objects.MAC)) map[objects.MAC][]objects.MAC {
	type said struct{ mac, in objects.MAC }
	answered := make(map[said]bool)
	for i := range all {
		_, is := of(&all[i])
		for _, mac := range is {
			answered[said{mac, all[i].parent}] = true
		}
	}
	asked := make(map[objects.MAC]bool, len(macs))
	for _, mac := range macs {
		asked[mac] = true
	}
	left := make(map[objects.MAC][]objects.MAC)
	for i := range all {
		was, _ := of(&all[i])
		for _, mac := range was {
			if asked[mac] && !answered[said{mac, all[i].id}] {
				left[all[i].id] = append(left[all[i].id], mac)
			}
		}
	}
	return left
}

// uncolour writes states that take the colour of packfiles away that are back. One that was removed does not
// come back. What one state says, which is damaged, does not count.
func (s *Store) uncolour(ctx context.Context, macs []objects.MAC, not objects.MAC) error {
	return s.answer(ctx, macs, func(all []turn) map[objects.MAC][]objects.MAC {
		all = slices.DeleteFunc(all, func(t turn) bool { return t.id == not })
		buried := make(map[objects.MAC]bool)
		for i := range all {
			for _, mac := range all[i].buried {
				buried[mac] = true
			}
		}
		macs := slices.DeleteFunc(slices.Clone(macs), func(mac objects.MAC) bool { return buried[mac] })
		return unanswered(all, macs, func(t *turn) (was, is []objects.MAC) { return t.coloured, t.freed })
	}, func(st *state.LocalState, _ *caching.ScanCache, mac objects.MAC) error {
		return st.DelColouredResource(resources.RT_PACKFILE, mac)
	})
}

// colour writes states that colour packfiles that are missing: some that are not coloured, and some of which that was
// begun.
func (s *Store) colour(ctx context.Context, plain, begun []objects.MAC) error {
	macs, when := union(slices.Clone(plain), begun), lostAt(time.Now())
	return s.answer(ctx, macs, func(all []turn) map[objects.MAC][]objects.MAC {
		left := unanswered(all, macs, func(t *turn) (was, is []objects.MAC) { return t.freed, t.coloured })
		return withRoot(left, plain)
	}, func(_ *state.LocalState, cache *caching.ScanCache, mac objects.MAC) error {
		return putColour(cache, mac, when)
	})
}

// answer writes the states that left makes of what all states say. Until all are written it is noted that they are to be.
func (s *Store) answer(ctx context.Context, macs []objects.MAC, left func([]turn) map[objects.MAC][]objects.MAC,
	one func(*state.LocalState, *caching.ScanCache, objects.MAC) error) error {
	if len(macs) == 0 {
		return nil
	}
	if err := s.noteTurn(noteTurns, macs); err != nil {
		return err
	}
	all, whole, err := s.turns(ctx)
	if err == nil {
		err = s.say(left(all), one)
	}
	if err != nil || !whole {
		return err
	}
	return s.noteTurn("DELETE FROM snapgate_turn WHERE mac = ?", macs)
}

// noteTurns notes packfiles in turnTable.
const noteTurns = "INSERT OR IGNORE INTO snapgate_turn (mac) VALUES (?)"

// noteTurn runs a statement of turnTable for packfiles.
func (s *Store) noteTurn(stmt string, macs []objects.MAC) (err error) {
	if len(macs) == 0 {
		return nil
	}
	db, err := s.openIndex()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	tx, err := db.Begin()
	if err != nil {
		return s.indexError(err)
	}
	_, err = tx.Exec(turnTable)
	for _, mac := range macs {
		if err == nil {
			_, err = tx.Exec(stmt, hex.EncodeToString(mac[:]))
		}
	}
	if err != nil {
		return errors.Join(s.indexError(err), tx.Rollback())
	}
	return s.indexError(tx.Commit())
}

// withRoot adds those of some packfiles that no state is named for: they go into one that comes after none.
func withRoot(by map[objects.MAC][]objects.MAC, macs []objects.MAC) map[objects.MAC][]objects.MAC {
	named := make(map[objects.MAC]bool)
	for _, list := range by {
		for _, mac := range list {
			named[mac] = true
		}
	}
	for _, mac := range macs {
		if !named[mac] {
			by[objects.NilMac] = append(by[objects.NilMac], mac)
		}
	}
	return by
}

func putColour(cache *caching.ScanCache, mac objects.MAC, when time.Time) error {
	e := state.ColouredEntry{Type: resources.RT_PACKFILE, Blob: mac, When: when}
	return cache.PutColoured(e.Type, mac, e.ToBytes())
}

// say writes, for each parent, a state with what one says of its packfiles, and takes them over.
func (s *Store) say(by map[objects.MAC][]objects.MAC, one func(*state.LocalState, *caching.ScanCache, objects.MAC) error) error {
	for parent, macs := range by {
		id, err := s.putState(objects.RandomMAC(), parent, func(st *state.LocalState, cache *caching.ScanCache) (err error) {
			for _, mac := range macs {
				err = errors.Join(err, one(st, cache, mac))
			}
			return err
		})
		if err == nil {
			err = s.Ingest(id)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// putState writes a state that fill fills in, and leaves it to be taken over. It may change the parent.
func (s *Store) putState(id, parent objects.MAC, fill func(*state.LocalState, *caching.ScanCache) error) (_ objects.MAC, err error) {
	cache, err := s.kctx.GetCache().Scan(objects.RandomMAC())
	if err != nil {
		return id, fmt.Errorf("state delta: %w", err)
	}
	defer func() { err = errors.Join(err, cache.Close()) }()
	st := (&state.LocalState{}).Derive(cache)
	st.Metadata.Serial, st.Metadata.Parent = s.config.RepositoryID, parent
	if err := fill(st, cache); err != nil {
		return id, fmt.Errorf("state delta: %w", err)
	}
	var buf bytes.Buffer
	if err := st.SerializeToStream(&buf); err != nil {
		return id, fmt.Errorf("state delta: %w", err)
	}
	if err := s.repo.PutState(id, &buf); err != nil {
		return id, errors.Join(Unavailable("state", err), s.DropState(id))
	}
	return id, nil
}
