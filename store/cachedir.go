package store

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/PlakarKorp/kloset/caching"

	"github.com/snapgate/gateway/internal/disk"
)

// cacheDir is the directory of kloset's local state. It belongs to one process, which
// holds its lock.
type cacheDir struct {
	path string
	lock *disk.DirLock // nil when temp
	temp bool          // removed by close
	busy string        // temp in place of this directory, which another process uses; "" when it is not
	// token marks this installation's temporary files in the store; see conn.sweep.
	token string
	// suspect says that the machine was booted since the directory was last used: it may
	// have lost power, and kloset does not sync what is in here.
	suspect bool
}

const (
	bootName  = "boot"  // what bootID was when the directory was last used
	tokenName = "token" // see cacheDir.token
)

// openCacheDir takes the directory at path and clears it of what an earlier process left
// behind. When there is none, or another process uses it (a command beside the running
// server), the cache is a temporary one, which costs reading all states of the store.
func openCacheDir(path string) (*cacheDir, error) {
	if path == "" {
		return tempCacheDir()
	}
	if err := os.MkdirAll(path, 0o700); err != nil {
		return nil, fmt.Errorf("cache directory: %w", err)
	}
	lock, err := disk.Lock(path)
	if errors.Is(err, disk.ErrLocked) {
		c, err := tempCacheDir()
		if err == nil {
			c.busy = path
		}
		return c, err
	}
	if err != nil {
		return nil, fmt.Errorf("cache directory: %w", err)
	}
	c := &cacheDir{path: path, lock: lock}
	if err := c.prepare(); err != nil {
		return nil, errors.Join(fmt.Errorf("cache directory: %w", err), c.close())
	}
	return c, nil
}

func tempCacheDir() (*cacheDir, error) {
	path, err := os.MkdirTemp("", "snapgate-cache-")
	if err != nil {
		return nil, fmt.Errorf("cache directory: %w", err)
	}
	return &cacheDir{path: path, temp: true, token: rand.Text()}, nil
}

func (c *cacheDir) prepare() error {
	boot := bootID()
	last, err := os.ReadFile(filepath.Join(c.path, bootName))
	if err := ignoreNotExist(err); err != nil {
		return err
	}
	c.suspect = boot == "" || boot != string(last)
	if err := c.sweep(); err != nil {
		return err
	}
	return c.loadToken()
}

// settle notes that what is in the directory was made, or made sure of, since the boot.
func (c *cacheDir) settle() error {
	c.suspect = false
	if c.temp {
		return nil
	}
	return os.WriteFile(filepath.Join(c.path, bootName), []byte(bootID()), 0o600)
}

// loadToken reads or makes the token. Losing it costs nothing but an hour of patience
// with an old temporary file.
func (c *cacheDir) loadToken() error {
	path := filepath.Join(c.path, tokenName)
	token, err := os.ReadFile(path)
	if err == nil && len(token) == len(rand.Text()) && !strings.ContainsAny(string(token), "/\x00") {
		c.token = string(token)
		return nil
	}
	if err := ignoreNotExist(err); err != nil {
		return err
	}
	c.token = rand.Text()
	return os.WriteFile(path, []byte(c.token), 0o600)
}

// wipe forgets kloset's local state.
func (c *cacheDir) wipe() error {
	return os.RemoveAll(filepath.Join(c.path, caching.CACHE_VERSION))
}

// sweep removes what kloset leaves behind when the process ends in the middle of a
// commit: working databases and copies of states that were not ingested.
func (c *cacheDir) sweep() error {
	dir := filepath.Join(c.path, caching.CACHE_VERSION)
	for _, pattern := range []string{"dbstorer-*", "scan", "check", "packing", "store/*/*.state"} {
		paths, err := filepath.Glob(filepath.Join(dir, filepath.FromSlash(pattern)))
		if err != nil {
			return err
		}
		for _, path := range paths {
			if err := os.RemoveAll(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		}
	}
	return nil
}

func (c *cacheDir) close() error {
	if c.temp {
		return removeTemp(c.path, os.RemoveAll)
	}
	return c.lock.Unlock()
}

// removeTries is how often a temporary directory is removed in which something is made meanwhile.
const removeTries = 100

// removeTemp removes a temporary directory with remove. What kloset has begun and was not waited for, as of a check that has failed, may
// make a file there while it is emptied: it ends by itself.
func removeTemp(path string, remove func(string) error) (err error) {
	for range removeTries {
		if err = remove(path); !errors.Is(err, syscall.ENOTEMPTY) {
			return err
		}
	}
	return err
}
