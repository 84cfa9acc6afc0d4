package store

import (
	"encoding/hex"
	"errors"
	"time"

	"github.com/PlakarKorp/kloset/caching/sqlite"
	"github.com/PlakarKorp/kloset/objects"
	"github.com/PlakarKorp/kloset/resources"
)

// missedTable holds, in kloset's index, the snapshots that were in it when states were found to be gone, or that somebody else knows of from
// such states. It stays when the index is made anew: from then on nothing in the store says that there were such snapshots.
// Nobody removes states, so that one is gone is damage, or an older copy of the store. at is 0, or when somebody has said
// that the snapshot is rightly gone, in nanoseconds; the row without a name has when that was said last.
const missedTable = `CREATE TABLE IF NOT EXISTS snapgate_missed (mac TEXT NOT NULL PRIMARY KEY, at INTEGER NOT NULL)`

// forgetThere forgets what states tell of.
const forgetThere = "DELETE FROM snapgate_missed WHERE mac IN (SELECT mac FROM deltas WHERE type = ?)"

// withMissed calls f with the index, which has the missedTable.
func (s *Store) withMissed(f func(*sqlite.SQLiteCache) error) (err error) {
	db, err := s.openIndex()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	if _, err := db.Exec(lostTable + ";" + missedTable); err != nil {
		return s.indexError(err)
	}
	return f(db)
}

// noteMissed notes all snapshots that the index has, and that nobody has removed, before it is made anew.
func (s *Store) noteMissed() error {
	typ := int(resources.RT_SNAPSHOT)
	return s.withMissed(func(db *sqlite.SQLiteCache) error {
		_, err := db.Exec(`INSERT OR REPLACE INTO snapgate_missed (mac, at) SELECT DISTINCT mac, 0 FROM deltas WHERE type = ?
			AND packfile IN (SELECT mac FROM packfiles UNION SELECT mac FROM snapgate_lost)
			AND mac NOT IN (SELECT mac FROM deleteds WHERE type = ?)`, typ, typ)
		return s.indexError(err)
	})
}

// pruneMissed forgets those of them that states still tell of.
func (s *Store) pruneMissed() error {
	return s.withMissed(func(db *sqlite.SQLiteCache) error {
		_, err := db.Exec(forgetThere, int(resources.RT_SNAPSHOT))
		return s.indexError(err)
	})
}

// NoteMissed notes snapshots that states told of which are gone, and that nobody has removed. See MissedSnapshots.
func (s *Store) NoteMissed(ids []objects.MAC) error {
	if len(ids) == 0 {
		return nil
	}
	return s.withMissed(func(db *sqlite.SQLiteCache) error {
		tx, err := db.Begin()
		if err != nil {
			return s.indexError(err)
		}
		for _, id := range ids {
			if _, err := tx.Exec("INSERT OR IGNORE INTO snapgate_missed (mac, at) VALUES (?, 0)", hex.EncodeToString(id[:])); err != nil {
				return errors.Join(s.indexError(err), tx.Rollback())
			}
		}
		return s.indexError(tx.Commit())
	})
}

// MissedSnapshots lists the snapshots of NoteMissed, and those that the index had when states were found to be gone,
// of which no state says anything now, not that they were removed either: as of the last Refresh. accepted is when somebody has said
// last that states are rightly gone, zero for never: what is missed when it is first given is not listed any more, unless it comes back and
// is gone again.
func (s *Store) MissedSnapshots(accepted time.Time) (ids []objects.MAC, err error) {
	typ := int(resources.RT_SNAPSHOT)
	err = s.withMissed(func(db *sqlite.SQLiteCache) (err error) {
		if !accepted.IsZero() {
			if err := acceptMissed(db, accepted.UnixNano()); err != nil {
				return s.indexError(err)
			}
		}
		ids, err = s.macs(db, `SELECT mac FROM snapgate_missed WHERE mac <> '' AND at = 0
			AND mac NOT IN (SELECT mac FROM deltas WHERE type = ?) AND mac NOT IN (SELECT mac FROM deleteds WHERE type = ?)`, typ, typ)
		return err
	})
	return ids, err
}

func acceptMissed(db *sqlite.SQLiteCache, at int64) error {
	var known bool
	if err := db.QueryRow("SELECT EXISTS (SELECT 1 FROM snapgate_missed WHERE mac = '' AND at >= ?)", at).Scan(&known); err != nil || known {
		return err
	}
	tx, err := db.Begin()
	if err != nil {
		return err
	}
	if _, err := tx.Exec(forgetThere, int(resources.RT_SNAPSHOT)); err != nil { // of those that are there nothing is accepted
		return errors.Join(err, tx.Rollback())
	}
	for _, text := range []string{"UPDATE snapgate_missed SET at = ? WHERE at = 0", "INSERT OR REPLACE INTO snapgate_missed (mac, at) VALUES ('', ?)"} {
		if _, err := tx.Exec(text, at); err != nil {
			return errors.Join(err, tx.Rollback())
		}
	}
	return tx.Commit()
}
