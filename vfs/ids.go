package vfs

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/snapgate/gateway/internal/disk"
	"github.com/snapgate/gateway/snapshotter"
)

// The names of files and directories in a data directory that others need to know.
const (
	gatewayIDName = "gateway-id"
	shareIDName   = "share-id"
	sharesDir     = "shares"
	sourceIDName  = "id"
	sourcesDir    = "sources"
)

// StoredLineage is what Lineage would return for a share if a System were open on a data
// directory. It makes nothing there.
func StoredLineage(dataDir, share string) snapshotter.Lineage {
	return storedLineage(dataDir, filepath.Join(sharesDir, share, shareIDName), share)
}

// StoredGatewayID is what System.GatewayID would return, "" when there is none yet.
func StoredGatewayID(dataDir string) string {
	id, err := os.ReadFile(filepath.Join(dataDir, gatewayIDName))
	if err != nil {
		return ""
	}
	return string(bytes.TrimSpace(id))
}

// StoredSourceLineage is StoredLineage for a source.
func StoredSourceLineage(dataDir, source string) snapshotter.Lineage {
	return storedLineage(dataDir, filepath.Join(sourcesDir, source, sourceIDName), source)
}

func storedLineage(dataDir, idPath, name string) snapshotter.Lineage {
	gateway, err := os.ReadFile(filepath.Join(dataDir, gatewayIDName))
	if err != nil || !isDirName(name) {
		return snapshotter.Lineage{}
	}
	id, err := os.ReadFile(filepath.Join(dataDir, idPath))
	if err != nil {
		return snapshotter.Lineage{}
	}
	// As loadID has them: a newline follows.
	return snapshotter.Lineage{GatewayID: string(bytes.TrimSpace(gateway)), ShareID: string(bytes.TrimSpace(id))}
}

// SourceLineage names the snapshots of a source below a data directory, and makes durably
// what is missing of it there. Several processes may call it at once, also beside a System.
// A pull makes its snapshots with it; the share of the source shows the newest of them.
func SourceLineage(dataDir, source string) (snapshotter.Lineage, error) {
	gateway, err := loadID(disk.OS{}, dataDir, gatewayIDName)
	if err != nil {
		return snapshotter.Lineage{}, fmt.Errorf("gateway id: %w", err)
	}
	id, err := loadSourceID(disk.OS{}, dataDir, source)
	return snapshotter.Lineage{GatewayID: gateway, ShareID: id}, err
}

// loadSourceID reads a source's id, and makes it when it is missing.
func loadSourceID(d disk.FS, dataDir, source string) (string, error) {
	if !isDirName(source) {
		return "", fmt.Errorf("source %q: not a name", source)
	}
	id, err := loadID(d, filepath.Join(dataDir, sourcesDir, source), sourceIDName)
	if err != nil {
		return "", fmt.Errorf("source %s: id: %w", source, err)
	}
	return id, nil
}

// isDirName reports whether a share's or source's name stands for one directory.
func isDirName(name string) bool {
	return filepath.IsLocal(name) && name != "." && name == filepath.Base(name)
}

// idBytes is the length of gateway and share ids: random, so they never meet by chance.
const idBytes = 16

// loadID reads an id from a file of dir, and makes both durably when they are missing.
func loadID(d disk.FS, dir, name string) (string, error) {
	if err := disk.MkdirDurable(d, dir, 0o700); err != nil {
		return "", err
	}
	path := filepath.Join(dir, name)
	id, err := readID(d, path)
	if errors.Is(err, fs.ErrNotExist) {
		err = disk.Alone(path+".lock", func() error {
			if id, err = readID(d, path); !errors.Is(err, fs.ErrNotExist) {
				return err // another process has made it meanwhile
			}
			id, err = makeID(d, path)
			return err
		})
	}
	if err != nil {
		return "", err
	}
	// The process that made it may have been killed before its name was durable.
	return id, d.SyncDir(dir)
}

func readID(d disk.FS, path string) (string, error) {
	f, err := d.OpenFile(path, os.O_RDONLY, 0)
	if err != nil {
		return "", err
	}
	id := make([]byte, 2*idBytes)
	_, err = f.ReadAt(id, 0)
	if err = errors.Join(err, f.Close()); err != nil {
		return "", fmt.Errorf("%s: %w", path, err)
	}
	if _, err := hex.DecodeString(string(id)); err != nil {
		return "", fmt.Errorf("%s: %w", path, err)
	}
	return string(id), nil
}

// makeID writes a new id durably; a crash leaves either none or a whole one.
func makeID(d disk.FS, path string) (string, error) {
	raw := make([]byte, idBytes)
	if _, err := rand.Read(raw); err != nil {
		return "", err
	}
	id := hex.EncodeToString(raw)
	return id, disk.WriteFile(d, path, []byte(id+"\n"), 0o600)
}
