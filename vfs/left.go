package vfs

import (
	"context"
	"errors"
	"io/fs"
	"math"
	"path/filepath"
	"slices"
)

// openLeft opens the shares that the data directory has and the configuration has not any more, as far as changes
// of them are in no snapshot: what clients were told is stored. They are committed, and nobody has such a share. What cannot be
// opened is told, and keeps nobody from the others.
func (s *System) openLeft(ctx context.Context) (list []opened) {
	entries, err := s.cfg.Disk.ReadDir(filepath.Join(s.cfg.DataDir, sharesDir))
	if err != nil {
		if !errors.Is(err, fs.ErrNotExist) {
			s.log.Error("cannot look for shares that are not configured any more", "err", err)
		}
		return nil
	}
	for _, e := range entries {
		name := e.Name()
		if slices.ContainsFunc(s.cfg.Shares, func(cfg ShareConfig) bool { return cfg.Name == name && !cfg.Source }) ||
			StoredLineage(s.cfg.DataDir, name).ShareID == "" { // nothing was ever uploaded there
			continue
		}
		// How long it keeps partials is not known any more, and it may be configured again.
		cfg := ShareConfig{Name: name, When: WhenClose, PartialMaxAge: math.MaxInt64}
		_, taken := s.share(name) // by a source
		if taken {
			cfg.When = WhenManual // it is only looked at
		}
		sh, rec, err := openShare(ctx, s, cfg)
		if err != nil {
			s.log.Error("a share that is not configured any more cannot be opened; changes of it that are in no snapshot stay where they are",
				"share", name, "dir", filepath.Join(s.cfg.DataDir, sharesDir, name), "err", err)
			continue
		}
		o := opened{sh, rec}
		if rec.Changes > 0 && !taken {
			s.log.Warn("a share is not configured any more, and changes of it are in no snapshot: they are committed; nobody can use it",
				"share", name, "changes", rec.Changes)
			list = append(list, o)
			continue
		}
		if rec.Changes > 0 {
			s.log.Error("a source has the name of a share of which changes are in no snapshot: give the source another name until a start has committed them",
				"share", name, "changes", rec.Changes)
		}
		if err := s.closeNew([]opened{o}); err != nil {
			s.log.Error("a share that is not configured any more cannot be closed", "share", name, "err", err)
		}
	}
	return list
}
