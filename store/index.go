package store

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/PlakarKorp/kloset/caching"
	"github.com/PlakarKorp/kloset/caching/sqlite"
	"github.com/PlakarKorp/kloset/objects"
	"github.com/PlakarKorp/kloset/repository"
	"github.com/PlakarKorp/kloset/resources"
	"golang.org/x/sync/errgroup"
)

// stateDir is where kloset keeps its index of this store.
func (s *Store) stateDir() string {
	return filepath.Join(s.cache.path, caching.CACHE_VERSION, "store", s.config.RepositoryID.String())
}

// indexName is the file in stateDir, as kloset calls it.
const indexName = "state.db"

// indexPagesKiB bounds what a handle of ours on the index keeps of it in memory.
const indexPagesKiB = 4 << 10

// rebuildIndex brings kloset's index up to the states in the store. kloset only ever adds:
// of a state that is gone it forgets the name and keeps the blobs, and a commit would refer
// to them. Nobody removes states, so this happens when the store was replaced by an older
// copy of itself; then the index is made anew.
func (s *Store) rebuildIndex(ctx context.Context) error {
	if _, err := s.States(ctx); err != nil {
		return err
	}
	if s.indexed != nil && maps.Equal(s.indexed, s.conn.listedStates()) {
		return nil
	}
	s.indexed = nil
	known, err := s.indexedStates()
	if err != nil {
		return err
	}
	if err := s.ingestMissing(ctx, known); err != nil {
		return err
	}
	for again := false; ; again = true {
		if err := s.CacheError(s.repo.RebuildState()); err != nil {
			if IsIO(err) {
				return Unavailable("read states", err)
			}
			return fmt.Errorf("read states: %w: %w", ErrDamaged, err)
		}
		if err := s.bury(); err != nil {
			return err
		}
		if again {
			if err := s.pruneMissed(); err != nil {
				return err
			}
		}
		if again || !lacks(s.conn.listedStates(), known) {
			// Not what was listed: others list as well, and may have seen what came after this was read.
			s.indexed, err = s.indexedStates()
			return err
		}
		s.log.Warn("states are gone from the store, the index is made anew", "store", s.Location())
		if err := s.noteMissed(); err != nil {
			return err
		}
		if err := s.clearIndex(); err != nil {
			return err
		}
	}
}

// Indexed returns the identifiers of the states that Repository knows, as of the last
// Refresh and Ingest. It must not be changed, nor used beside one of them.
func (s *Store) Indexed() map[objects.MAC]struct{} { return s.indexed }

// lacks reports whether something of want is not in have.
func lacks(have, want map[objects.MAC]struct{}) bool {
	for id := range want {
		if _, ok := have[id]; !ok {
			return true
		}
	}
	return false
}

// indexedStates returns the states that the index was made from.
func (s *Store) indexedStates() (states map[objects.MAC]struct{}, err error) {
	db, err := s.openIndex()
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	ids, err := s.macs(db, "SELECT mac FROM states")
	if err != nil {
		return nil, err
	}
	states = make(map[objects.MAC]struct{}, len(ids))
	for _, id := range ids {
		states[id] = struct{}{}
	}
	return states, nil
}

// Snapshots lists the snapshots in the store, as of the last Refresh. In contrast to kloset's
// own list it does not take an error of the index for its end.
func (s *Store) Snapshots() (ids []objects.MAC, err error) {
	db, err := s.openIndex()
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	return s.macs(db, `SELECT DISTINCT mac FROM deltas WHERE type = ?
		AND packfile IN (SELECT mac FROM packfiles) AND mac NOT IN (SELECT mac FROM deleteds WHERE type = ?)`,
		int(resources.RT_SNAPSHOT), int(resources.RT_SNAPSHOT))
}

// LostSnapshots lists the snapshots that Snapshots does not list because the packfiles with their headers are
// missing: as of the last Refresh and Reconcile, without those that somebody has removed.
func (s *Store) LostSnapshots() ([]objects.MAC, error) {
	typ := int(resources.RT_SNAPSHOT)
	return s.lostMACs(`SELECT DISTINCT mac FROM deltas WHERE type = ? AND packfile IN (SELECT mac FROM snapgate_lost)
		AND mac NOT IN (SELECT mac FROM deltas WHERE type = ? AND packfile IN (SELECT mac FROM packfiles))
		AND mac NOT IN (SELECT mac FROM deleteds WHERE type = ?)`, typ, typ, typ)
}

// Removed reports whether it is known why a snapshot is not listed any more: somebody has
// removed it, or its packfile is missing.
func (s *Store) Removed(id objects.MAC) (removed bool, err error) {
	db, err := s.openIndex()
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	if _, err := db.Exec(lostTable); err != nil {
		return false, s.indexError(err)
	}
	name, typ := hex.EncodeToString(id[:]), int(resources.RT_SNAPSHOT)
	err = db.QueryRow(`SELECT EXISTS (SELECT 1 FROM deleteds WHERE mac = ? AND type = ?) OR EXISTS (
		SELECT 1 FROM deltas WHERE mac = ? AND type = ? AND packfile IN (SELECT mac FROM snapgate_lost))`,
		name, typ, name, typ).Scan(&removed)
	return removed, s.indexError(err)
}

// Deleted reports whether somebody has removed a snapshot, as far as the store remembers it.
func (s *Store) Deleted(id objects.MAC) (deleted bool, err error) {
	db, err := s.openIndex()
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	err = db.QueryRow("SELECT EXISTS (SELECT 1 FROM deleteds WHERE mac = ? AND type = ?)",
		hex.EncodeToString(id[:]), int(resources.RT_SNAPSHOT)).Scan(&deleted)
	return deleted, s.indexError(err)
}

// RemovalTold is Deleted by what the states in the store say: the index is a cache, and what it says proves nothing. They are read
// from the store until one says so. It may overlap with all other calls. Errors: ErrUnavailable when none says so and some could not be read.
func (s *Store) RemovalTold(ctx context.Context, id objects.MAC) (bool, error) {
	states, err := s.StatesBeside(ctx)
	if err != nil {
		return false, err
	}
	var told atomic.Bool
	var mu sync.Mutex // guards unread and cause
	unread, cause := 0, error(nil)
	enough := func() bool {
		mu.Lock()
		defer mu.Unlock()
		return told.Load() || unread >= unreadMost
	}
	var group errgroup.Group
	group.SetLimit(stateReads)
	for _, name := range states {
		if enough() || ctx.Err() != nil {
			break
		}
		group.Go(func() error {
			switch facts, err := s.ReadState(ctx, name); {
			case err != nil:
				mu.Lock()
				defer mu.Unlock()
				unread, cause = unread+1, err
			case slices.Contains(facts.Removed, id):
				told.Store(true)
			}
			return nil
		})
	}
	_ = group.Wait() // what could not be read is noted
	switch {
	case told.Load():
		return true, nil
	case ctx.Err() != nil:
		return false, ctx.Err()
	}
	if cause == nil {
		return false, nil
	}
	return false, fmt.Errorf("read states: %w: %w", ErrUnavailable, cause) // a damaged one, too, may be the one that says so
}

// Reindex makes kloset's index anew from the states in the store. It must not overlap with a
// commit.
func (s *Store) Reindex(ctx context.Context) error {
	if err := s.clearIndex(); err != nil {
		return err
	}
	return s.rebuildIndex(ctx)
}

// checkIndex looks for damage of the index of an earlier process, and forgets it when there is
// some: kloset takes errors of reading it for the end of what it holds.
func (s *Store) checkIndex() error {
	if _, err := os.Stat(filepath.Join(s.stateDir(), indexName)); err != nil {
		return ignoreNotExist(err)
	}
	err := s.quickCheck()
	if err == nil || errors.Is(err, ErrUnavailable) {
		return err
	}
	s.log.Warn("store index is damaged and made anew", "store", s.Location(), "err", err)
	return s.cache.wipe()
}

func (s *Store) quickCheck() (err error) {
	db, err := s.openIndex()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	var result string
	if err := db.QueryRow("PRAGMA quick_check(1)").Scan(&result); err != nil {
		return s.indexError(err)
	}
	if result != "ok" {
		return s.indexError(fmt.Errorf("%w: %s", errIndex, result))
	}
	return nil
}

// clearIndex empties kloset's index, so that all states are read again.
func (s *Store) clearIndex() (err error) {
	s.indexed = nil
	db, err := s.openIndex()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	if _, err := db.Exec(lostTable); err != nil {
		return s.indexError(err)
	}
	tx, err := db.Begin()
	if err != nil {
		return s.indexError(err)
	}
	for _, table := range []string{"states", "packfiles", "deltas", "deleteds", "configurations", "snapgate_lost"} {
		if _, err := tx.Exec("DELETE FROM " + table); err != nil {
			return errors.Join(s.indexError(err), tx.Rollback())
		}
	}
	return s.indexError(tx.Commit())
}

// errIndex says that the index holds what kloset does not write.
var errIndex = errors.New("index is damaged")

// openIndex opens the index beside kloset, which keeps its own handle to itself.
func (s *Store) openIndex() (*sqlite.SQLiteCache, error) {
	db, err := sqlite.New(s.stateDir(), indexName, &sqlite.Options{Shared: true})
	if err != nil {
		return nil, s.indexError(err)
	}
	// kloset's 20 MB of pages for each handle are much for what is done here.
	if _, err := db.Exec(fmt.Sprintf("PRAGMA cache_size = -%d", indexPagesKiB)); err != nil {
		return nil, errors.Join(s.indexError(err), db.Close())
	}
	return db, nil
}

// closeIndex closes all handles on the index that last.
func (s *Store) closeIndex() error {
	err := errors.Join(s.locator.close(), s.ingester.close(), closeRepository(s.repo))
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, a := range s.spare {
		err = errors.Join(err, closeRepository(a.repo))
	}
	s.spare = nil
	return err
}

// closeRepository closes kloset's handle on the index. kloset has no call for that: its own Close does nothing,
// and whoever opens stores again and again runs out of descriptors. So it is looked for behind fields that
// are not exported. Where they are not as in the version of kloset that is used now, nothing is closed.
func closeRepository(repo *repository.Repository) error {
	v := reflect.ValueOf(repo)
	for _, name := range []string{"state", "cache", "db"} {
		for v.Kind() == reflect.Pointer || v.Kind() == reflect.Interface {
			v = v.Elem()
		}
		if v.Kind() != reflect.Struct {
			return nil
		}
		v = v.FieldByName(name)
	}
	if !v.IsValid() || v.Type() != reflect.TypeFor[*sqlite.SQLiteCache]() || v.IsNil() {
		return nil
	}
	return (*sqlite.SQLiteCache)(v.UnsafePointer()).Close()
}

func (s *Store) indexError(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("store index: %w", s.CacheError(err))
}
