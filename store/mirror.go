package store

import (
	"cmp"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/PlakarKorp/kloset/connectors/storage"
	"github.com/PlakarKorp/kloset/objects"
	"github.com/PlakarKorp/kloset/reading"
	"github.com/PlakarKorp/kloset/resources"
)

const (
	mirrorName = "metadata"
	// defaultMirrorBytes holds the metadata of some hundred commits, or of a tree of about
	// a million files.
	defaultMirrorBytes = 512 << 20
)

// mirror keeps copies of the packfiles with metadata (names, attributes, indexes, headers)
// that this process writes, as they stand in the store, so encrypted. While the store is
// away, names can still be looked up. Copies are a cache: they are not synced, but compared
// with their MAC before they are used. Safe for concurrent use.
type mirror struct {
	dir    string
	limit  int64 // of bytes
	log    *slog.Logger
	hasher func() hash.Hash // kloset's, of the store
	// others says that it is the one of another process, which adds copies, each whole, and removes them: here they are only
	// read.
	others bool

	mu    sync.Mutex
	files map[objects.MAC]*mirrorFile // guarded by mu
	size  int64                       // guarded by mu: of all files
}

type mirrorFile struct {
	size  int64
	used  time.Time
	sound bool // it was compared with its MAC since this process began
	// useless says that it was, in vain: one of another process, which is not removed here.
	useless bool
}

// openMirror opens the mirror below a cache directory.
func openMirror(cachePath string, limit int64, log *slog.Logger) (*mirror, error) {
	m := &mirror{
		dir: filepath.Join(cachePath, mirrorName), limit: limit, log: log,
		files: make(map[objects.MAC]*mirrorFile),
	}
	if err := os.MkdirAll(m.dir, 0o700); err != nil {
		return nil, fmt.Errorf("metadata mirror: %w", err)
	}
	entries, err := os.ReadDir(m.dir)
	if err != nil {
		return nil, fmt.Errorf("metadata mirror: %w", err)
	}
	for _, e := range entries {
		mac, ok := macOf(e.Name())
		if !ok {
			if err := ignoreNotExist(os.Remove(filepath.Join(m.dir, e.Name()))); err != nil {
				return nil, fmt.Errorf("metadata mirror: %w", err)
			}
			continue
		}
		file := &mirrorFile{used: time.Now()}
		if fi, err := e.Info(); err == nil { // else it is there, and not the first to go
			file.size, file.used = fi.Size(), fi.ModTime()
		}
		m.files[mac] = file
		m.size += file.size
	}
	m.trim()
	return m, nil
}

// mirrorOfOthers is the mirror below the cache directory of another process.
func mirrorOfOthers(cachePath string, log *slog.Logger) *mirror {
	return &mirror{dir: filepath.Join(cachePath, mirrorName), log: log, others: true, files: make(map[objects.MAC]*mirrorFile)}
}

func (m *mirror) path(mac objects.MAC) string {
	return filepath.Join(m.dir, hex.EncodeToString(mac[:]))
}

// trim removes the files that were used longest ago when there are too many: a tenth more
// than it must, so that not every commit has to find them. It needs mu, or to be alone.
func (m *mirror) trim() {
	if m.size <= m.limit {
		return
	}
	limit := m.limit - m.limit/10
	macs := make([]objects.MAC, 0, len(m.files))
	for mac := range m.files {
		macs = append(macs, mac)
	}
	slices.SortFunc(macs, func(a, b objects.MAC) int {
		return cmp.Or(m.files[a].used.Compare(m.files[b].used), slices.Compare(a[:], b[:]))
	})
	for _, mac := range macs {
		if m.size <= limit {
			return
		}
		m.drop(mac)
	}
}

// drop forgets a file; it needs mu, or to be alone.
func (m *mirror) drop(mac objects.MAC) {
	f := m.files[mac]
	if f == nil {
		return
	}
	if m.others {
		delete(m.files, mac)
		return
	}
	if err := ignoreNotExist(os.Remove(m.path(mac))); err != nil {
		m.log.Warn("metadata mirror", "err", err)
	}
	m.size -= f.size
	delete(m.files, mac)
}

// copy begins a copy of what is read from the reader that it returns. done ends it, and
// keeps the copy when the original was written.
func (m *mirror) copy(mac objects.MAC, rd io.Reader) (tee io.Reader, done func(written bool)) {
	f, err := os.CreateTemp(m.dir, "tmp.")
	if err != nil {
		m.log.Warn("metadata mirror", "err", err)
		return rd, func(bool) {}
	}
	w := &mirrorWriter{f: f}
	return io.TeeReader(rd, w), func(written bool) {
		err := errors.Join(w.err, f.Close())
		if err == nil && written {
			err = os.Rename(f.Name(), m.path(mac))
		}
		if err != nil || !written {
			err = errors.Join(err, ignoreNotExist(os.Remove(f.Name())))
			if err != nil {
				m.log.Warn("metadata mirror", "err", err)
			}
			return
		}
		m.mu.Lock()
		defer m.mu.Unlock()
		m.files[mac] = &mirrorFile{size: w.n, used: time.Now(), sound: true}
		m.size += w.n
		m.trim()
	}
}

// mirrorWriter notes an error instead of returning it: a full cache disk must not make a
// commit fail.
type mirrorWriter struct {
	f   *os.File
	n   int64
	err error
}

func (w *mirrorWriter) Write(p []byte) (int, error) {
	if w.err == nil {
		_, w.err = w.f.Write(p)
		w.n += int64(len(p))
	}
	return len(p), nil
}

// open opens the copy of a packfile; fs.ErrNotExist when there is no sound one. Another error says that it cannot be read now.
func (m *mirror) open(mac objects.MAC, rg *storage.Range) (io.ReadCloser, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	file := m.files[mac]
	switch {
	case file == nil && m.others: // it may have come since
		file = new(mirrorFile)
		m.files[mac] = file
	case file == nil, file.useless:
		return nil, fs.ErrNotExist
	}
	if !file.sound {
		// Under mu: it happens once a file, and only while the store is away.
		err := m.verify(mac)
		if errors.Is(err, fs.ErrNotExist) && m.others {
			m.drop(mac)
			return nil, err
		}
		if err != nil {
			if _, ok := errors.AsType[*fs.PathError](err); ok && !errors.Is(err, fs.ErrNotExist) { // it may be sound
				return nil, err
			}
			m.log.Warn("metadata mirror: copy is of no use", "err", err)
			if file.useless = m.others; !file.useless {
				m.drop(mac)
			}
			return nil, fs.ErrNotExist
		}
		file.sound = true
		file.used = time.Now()
		if !m.others {
			_ = os.Chtimes(m.path(mac), file.used, file.used) // a later process drops it earlier than it should
		}
	}
	f, err := os.Open(m.path(mac))
	if err != nil {
		return nil, err
	}
	if rg == nil {
		return f, nil
	}
	return reading.NewSectionReadCloser(f, int64(rg.Offset), int64(rg.Length)), nil
}

// has reports whether there is a copy of a packfile that is not known to be of no use.
func (m *mirror) has(mac objects.MAC) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	file := m.files[mac]
	if m.others && file == nil { // what was not opened yet is not listed
		_, err := os.Lstat(m.path(mac))
		return err == nil
	}
	return file != nil && !file.useless
}

// reopen is open for a copy that is to be the original: it is verified whatever is known.
func (m *mirror) reopen(mac objects.MAC) (io.ReadCloser, error) {
	m.mu.Lock()
	if file := m.files[mac]; file != nil {
		file.sound, file.useless = false, false
	}
	m.mu.Unlock()
	return m.open(mac, nil)
}

// verify compares a copy with the MAC at its end.
func (m *mirror) verify(mac objects.MAC) (err error) {
	f, err := os.Open(m.path(mac))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	_, rd, err := storage.Deserialize(m.hasher(), resources.RT_PACKFILE, io.NopCloser(f))
	if err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, rd)
	return err
}
