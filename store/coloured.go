package store

import (
	"errors"
	"time"

	"github.com/PlakarKorp/kloset/objects"
	"github.com/PlakarKorp/kloset/repository/state"
	"github.com/PlakarKorp/kloset/resources"
)

// ColouredAs lists the coloured resources of a type and when each was coloured, as of the last
// Refresh. In contrast to kloset's own list it does not take an error of the index for its end.
func (s *Store) ColouredAs(typ resources.Type) (found map[objects.MAC]time.Time, err error) {
	db, err := s.openIndex()
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	rows, err := db.Query("SELECT payload FROM deleteds WHERE type = ?", int(typ))
	if err != nil {
		return nil, s.indexError(err)
	}
	defer rows.Close()
	found = make(map[objects.MAC]time.Time)
	for rows.Next() {
		var payload []byte
		if err := rows.Scan(&payload); err != nil {
			return nil, s.indexError(err)
		}
		entry, err := state.ColouredEntryFromBytes(payload)
		if err != nil {
			return nil, s.indexError(errors.Join(errIndex, err))
		}
		found[entry.Blob] = entry.When
	}
	return found, s.indexError(rows.Err())
}
