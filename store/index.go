package store

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"path/filepath"

	"github.com/PlakarKorp/kloset/caching"
	"github.com/PlakarKorp/kloset/caching/sqlite"
	"github.com/PlakarKorp/kloset/objects"
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
		if again || !lacks(s.conn.listedStates(), known) {
			s.indexed = maps.Clone(s.conn.listedStates())
			return nil
		}
		s.log.Warn("states are gone from the store, the index is made anew", "store", s.Location())
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
	rows, err := db.Query("SELECT mac FROM states")
	if err != nil {
		return nil, s.indexError(err)
	}
	defer rows.Close()
	states = make(map[objects.MAC]struct{})
	for rows.Next() {
		var name string
		if err := rows.Scan(&name); err != nil {
			return nil, s.indexError(err)
		}
		var id objects.MAC
		if n, err := hex.Decode(id[:], []byte(name)); err != nil || n != len(id) {
			return nil, s.indexError(fmt.Errorf("state %q", name))
		}
		states[id] = struct{}{}
	}
	if err := rows.Err(); err != nil {
		return nil, s.indexError(err)
	}
	return states, nil
}

// clearIndex empties kloset's index, so that all states are read again.
func (s *Store) clearIndex() (err error) {
	s.indexed = nil
	db, err := s.openIndex()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	tx, err := db.Begin()
	if err != nil {
		return s.indexError(err)
	}
	for _, table := range []string{"states", "packfiles", "deltas", "deleteds", "configurations"} {
		if _, err := tx.Exec("DELETE FROM " + table); err != nil {
			return errors.Join(s.indexError(err), tx.Rollback())
		}
	}
	return s.indexError(tx.Commit())
}

// openIndex opens the index beside kloset, which has no way to close its own handle.
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

func (s *Store) indexError(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("store index: %w", s.CacheError(err))
}
