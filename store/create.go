package store

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"

	"github.com/snapgate/gateway/internal/disk"
)

// The directories of a store, as kloset's connector for local directories lays them out.
const (
	packfilesDir = "packfiles"
	statesDir    = "states"
	locksDir     = "locks"
	buckets      = 256 // below packfiles and states, named by the first byte of the MAC
)

// create lays out an empty store in root and makes it durable. The configuration comes
// last: a store that has one is complete.
func create(fsys disk.FS, root string, wrapped []byte) error {
	if err := checkVacant(fsys, root); err != nil {
		return err
	}
	if err := disk.MkdirDurable(fsys, root, 0o700); err != nil {
		return Unavailable("create store", err)
	}
	for _, dir := range []string{packfilesDir, statesDir} {
		for i := range buckets {
			if err := fsys.MkdirAll(filepath.Join(root, dir, fmt.Sprintf("%02x", i)), 0o700); err != nil {
				return Unavailable("create store", err)
			}
		}
		if err := fsys.SyncDir(filepath.Join(root, dir)); err != nil {
			return Unavailable("create store", err)
		}
	}
	if err := fsys.MkdirAll(filepath.Join(root, locksDir), 0o700); err != nil {
		return Unavailable("create store", err)
	}
	if err := fsys.SyncDir(root); err != nil {
		return Unavailable("create store", err)
	}
	return Unavailable("create store", writeDurably(fsys, filepath.Join(root, configName), wrapped))
}

// checkVacant refuses a directory that holds anything but the empty beginnings of a store
// whose creation was cut off.
func checkVacant(fsys disk.FS, root string) error {
	entries, err := fsys.ReadDir(root)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return Unavailable("create store", err)
	}
	for _, e := range entries {
		switch name := e.Name(); {
		case name == packfilesDir, name == statesDir:
			if err := checkEmptyBuckets(fsys, filepath.Join(root, name)); err != nil {
				return err
			}
		case name == locksDir, name == configName+".tmp", strings.HasPrefix(name, tmpPrefix):
		default:
			return fmt.Errorf("create store: %s: %w: the directory is not empty (%q)", root, ErrNotExist, name)
		}
	}
	return nil
}

func checkEmptyBuckets(fsys disk.FS, dir string) error {
	entries, err := fsys.ReadDir(dir)
	if err != nil {
		return Unavailable("create store", err)
	}
	for _, e := range entries {
		files, err := fsys.ReadDir(filepath.Join(dir, e.Name()))
		if err != nil {
			return Unavailable("create store", err)
		}
		if len(files) > 0 {
			// Somebody's packfiles without their configuration: not ours to write over.
			return fmt.Errorf("create store: %w: %s holds files but the store has no %s", ErrDamaged, dir, configName)
		}
	}
	return nil
}
