package snapshotter_test

import (
	"cmp"
	"io/fs"
	"slices"
	"sync"
	"time"

	"github.com/snapgate/gateway/internal/disk"
	"github.com/snapgate/gateway/store"
)

// meterFS is the machine's disk, with a meter on what a store writes and waits for.
type meterFS struct {
	disk.OS

	mu    sync.Mutex
	total meter // guarded by mu
}

// meter is what was asked of a disk.
type meter struct {
	flushes int
	flush   time.Duration // spent waiting for flushes
	bytes   int64         // of files that were made durable
}

// use is an option of a store.
func (m *meterFS) use(cfg *store.Config) { cfg.Disk = m }

// take returns what has come together since it was last asked.
func (m *meterFS) take() meter {
	m.mu.Lock()
	defer m.mu.Unlock()
	t := m.total
	m.total = meter{}
	return t
}

func (m *meterFS) timed(bytes int64, flush func() error) error {
	start := time.Now()
	err := flush()
	m.mu.Lock()
	defer m.mu.Unlock()
	m.total.flushes++
	m.total.flush += time.Since(start)
	m.total.bytes += bytes
	return err
}

func (m *meterFS) OpenFile(path string, flag int, perm fs.FileMode) (disk.File, error) {
	f, err := m.OS.OpenFile(path, flag, perm)
	if err != nil {
		return nil, err
	}
	return &meterFile{f, m}, nil
}

func (m *meterFS) SyncDir(path string) error {
	return m.timed(0, func() error { return m.OS.SyncDir(path) })
}

type meterFile struct {
	disk.File
	m *meterFS
}

func (f *meterFile) Sync() error {
	n, err := f.Size()
	if err != nil {
		return err
	}
	return f.m.timed(n, f.File.Sync)
}

// series is a measurement, repeated.
type series[T cmp.Ordered] []T

// median returns the middle one.
func (s series[T]) median() T { return slices.Sorted(slices.Values(s))[len(s)/2] }
