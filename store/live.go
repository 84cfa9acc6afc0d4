package store

import (
	"encoding/hex"
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/PlakarKorp/kloset/objects"
	"github.com/PlakarKorp/kloset/resources"
)

// Live returns those of some packfiles that the store has and that no state in it, as of the
// last Refresh, calls unusable. It is for packfiles that no state tells of yet: maintenance
// marks and removes such ones when they are old. Under a lock on the store the answer stays
// right. Errors: ErrUnavailable.
func (s *Store) Live(packfiles []objects.MAC) (live map[objects.MAC]struct{}, err error) {
	db, err := s.openIndex()
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	coloured, err := s.macs(db, "SELECT mac FROM deleteds WHERE type = ?", int(resources.RT_PACKFILE))
	if err != nil {
		return nil, err
	}
	live = make(map[objects.MAC]struct{}, len(packfiles))
	for _, mac := range packfiles {
		name := hex.EncodeToString(mac[:])
		switch _, err := os.Stat(filepath.Join(s.root, packfilesDir, name[:2], name)); {
		case err == nil:
			live[mac] = struct{}{}
		case !errors.Is(err, fs.ErrNotExist):
			return nil, Unavailable("look for packfile", err)
		}
	}
	for _, mac := range coloured {
		delete(live, mac)
	}
	return live, nil
}
