package snapshotter

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/PlakarKorp/kloset/chunking"
	"github.com/PlakarKorp/kloset/objects"
	"github.com/PlakarKorp/kloset/repository"
	"github.com/PlakarKorp/kloset/snapshot/vfs"
	lru "github.com/hashicorp/golang-lru/v2"

	"github.com/snapgate/gateway/store"
)

// Sizes of caches. Chunks are bounded by a setting, the rest is small.
const (
	defaultChunkCacheBytes = 32 << 20
	// entryCacheSize bounds entries that were looked up one by one, of about 0.5 KiB.
	entryCacheSize = 4096
	// nodeCacheSize bounds B-tree nodes, of about 100 KiB each.
	nodeCacheSize = 128
	// treeCacheSize bounds the snapshots whose index roots are kept.
	treeCacheSize = 64
	// dirCacheSize bounds directories whose sparse index is kept, of 1 KiB a thousand names.
	dirCacheSize = 1024
	// refreshInterval is how often lists look for snapshots that others made or removed.
	// Looking costs 256 directory reads.
	refreshInterval = 5 * time.Second
)

// Config configures a Snapshotter.
type Config struct {
	Store *store.Store
	// ChunkCacheBytes bounds the decoded chunks that are kept for readers; 0: 32 MiB.
	ChunkCacheBytes int64
	// IndexBytes bounds the encoded indexes of heads that are kept for the next commit; 0:
	// 192 MiB. What is beyond is read again from the store.
	IndexBytes int64
	Logger     *slog.Logger // nil discards
	// Tolerant is as in store.Config.
	Tolerant bool
	// ReadOnly says that nothing is to be written. Who writes takes stock of packfiles that are missing; who does not
	// lists the snapshots whose headers are there, when some are, and Unreadable has the others.
	ReadOnly bool
	// Failpoint is called with the Failpoint constants at the moments that matter to
	// crash tests; nil outside them.
	Failpoint func(name string)
}

// The names that Config.Failpoint is called with.
const (
	FailPackfilePutBefore = "packfile-put-before"
	FailPackfilePutAfter  = "packfile-put-after"
	FailCommitEntries     = "commit-entries"
	FailCommitIndexes     = "commit-indexes"
	FailHeaderBefore      = "commit-header-before"
	FailHeaderAfter       = "commit-header-after"
	FailStatePutBefore    = "state-put-before"
	FailStatePutAfter     = "state-put-after"
	FailCommitDone        = "commit-done"
	FailEarlyPutBefore    = "early-packfile-put-before"
	FailEarlyPutAfter     = "early-packfile-put-after"
	FailEarlyAdopt        = "early-adopt"
)

// What Config.Failpoint is called with by Remove.
const (
	FailRemoveBefore = "remove-state-put-before"
	FailRemoveAfter  = "remove-state-put-after"
)

// CheckpointDone is what Config.Failpoint is called with after a checkpoint of a Copier, which
// commits do not come by.
const CheckpointDone = "copy-checkpoint"

// Failpoints returns the names that Config.Failpoint is called with by commits.
func Failpoints() []string {
	return []string{
		FailPackfilePutBefore, FailPackfilePutAfter, FailCommitEntries, FailCommitIndexes,
		FailHeaderBefore, FailHeaderAfter, FailStatePutBefore, FailStatePutAfter, FailCommitDone,
		FailEarlyPutBefore, FailEarlyPutAfter, FailEarlyAdopt,
	}
}

// Snapshotter makes and reads the snapshots of one store. Safe for concurrent use: one
// commit runs at a time, readers are never held up by it.
type Snapshotter struct {
	store     *store.Store
	repo      *repository.Repository
	log       *slog.Logger
	failpoint func(string)
	readOnly  bool

	chunks  *chunkCache
	entries *lru.Cache[objects.MAC, *storedEntry]
	nodes   *lru.Cache[objects.MAC, *node]
	trees   *lru.Cache[ID, *snapTree]
	dirs    *lru.Cache[objects.MAC, *dirIndex]
	removed *lru.Cache[ID, *record] // not listed any more, but still to be opened

	early *early
	open  openViews
	// forgotten says that it is not known which packfiles are damaged; see Distrust.
	forgotten atomic.Bool

	missing atomic.Pointer[missingStates] // as Distrust was told last; nil: nothing

	// These are used by commits alone, but for those of chunks.
	heads      *lru.Cache[ID, *head]
	summaries  *lru.Cache[objects.MAC, *vfs.Summary]
	dirDatas   *dirDataCache
	chunking   chunking.Configuration
	buffers    sync.Pool // of *[]byte: of cutters, with room for a chunk
	sums       *sumCache
	oneChunk   int64     // up to which size a content is one chunk for certain
	small      sync.Pool // of *[]byte: contents of one chunk
	indexBytes int64
	shape      indexShape
	editDir    string // where temporary files of edits go
	editRun    int    // edits of an index in memory
	// weaveEntries is how many entries of an index that is being made are in memory.
	weaveEntries int

	packSize    int
	rotateBlobs int64
	failuresMax int // that a snapshot lists

	// write serialises everything that changes kloset's view of the store: commits and
	// refreshes. It is held for as long as they take.
	write sync.Mutex
	// gate is passed on the way to write by those who hold that for long. Maintenance, which
	// otherwise would not get in between, holds it while it waits for write.
	gate sync.Mutex
	// loss is what was missing from the store when that was last looked at, nil for nothing;
	// whole has the snapshots that refer to nothing of it. Guarded by write.
	loss  *store.Loss
	whole map[ID]struct{}

	// uncommitted finds blobs that the commit that is running has written; nil for none.
	// Blobs are named by what they hold, so it does no harm when others find them, too.
	uncommitted atomic.Pointer[uncommitted]

	mu       sync.RWMutex
	standIns map[ID]*record           // guarded by mu: what was made in place of a snapshot, by the id of that
	records  map[ID]*record           // guarded by mu
	byShare  map[string][]*record     // guarded by mu: records by Share, newest first
	states   map[objects.MAC]struct{} // guarded by mu: what records was made from
	loaded   bool                     // guarded by mu: records were read at least once
	looked   time.Time                // guarded by mu: when states was last compared
	lacks    error                    // guarded by mu: why records, not loaded, has no more than some; nil when it has all or none
	mended   time.Time                // guarded by mu: when it was last tried to get the others
	// short is whether there are snapshots that are not listed because they could not be read; recalled is when that
	// was last tried, and recalling how long it took. Guarded by mu.
	short     bool
	recalled  time.Time
	recalling time.Duration
}

// New makes a Snapshotter. A store that cannot be reached is no error: Commit and the
// rest report ErrUnavailable until it is back.
func New(ctx context.Context, cfg Config) (*Snapshotter, error) {
	if cfg.Store == nil {
		return nil, errors.New("snapshotter: no store")
	}
	if cfg.ChunkCacheBytes < 0 || cfg.IndexBytes < 0 {
		return nil, fmt.Errorf("snapshotter: chunk cache of %d bytes, indexes of %d bytes", cfg.ChunkCacheBytes, cfg.IndexBytes)
	}
	s := &Snapshotter{
		store:     cfg.Store,
		repo:      cfg.Store.Repository(),
		log:       cfg.Logger,
		failpoint: cfg.Failpoint,
		readOnly:  cfg.ReadOnly,
		records:   make(map[ID]*record),
		shape:     defaultShape(),

		editDir:      cfg.Store.Repository().AppContext().CacheDir,
		editRun:      editRun,
		weaveEntries: weaveEntries,

		packSize:    packSize,
		rotateBlobs: rotateBlobs,
		failuresMax: failuresMax,
		chunking:    cfg.Store.Repository().Configuration().Chunking,
	}
	s.early = &early{s: s}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if s.failpoint == nil {
		s.failpoint = func(string) {}
	}
	limit := cfg.ChunkCacheBytes
	if limit == 0 {
		limit = defaultChunkCacheBytes
	}
	s.chunks = newChunkCache(limit, s.loadChunk)
	if s.indexBytes = cfg.IndexBytes; s.indexBytes == 0 {
		s.indexBytes = defaultIndexBytes
	}
	s.buffers.New = func() any { return new([]byte) }
	s.small.New = func() any { return new([]byte) }
	if s.fastCDC() {
		s.oneChunk = int64(s.chunking.MinSize)
	}
	if err := s.makeCaches(); err != nil {
		return nil, err
	}
	err := s.Refresh(ctx)
	if cfg.Tolerant && (errors.Is(err, store.ErrDamaged) || errors.Is(err, store.ErrReplaced)) {
		return s, nil
	}
	if err != nil && !errors.Is(err, ErrUnavailable) {
		return nil, err
	}
	err = s.mend(ctx)
	if isUnreadCopy(err) {
		s.log.Error("a packfile is missing from the store, and its local copy cannot be read: nothing is committed, and snapshots that are in it are not listed, "+
			"until one of them is back; if the disk of the copy is bad for good, repair the store from elsewhere, or remove the copy: then it counts as lost",
			"store", s.store.Location(), "err", err)
	}
	if err != nil && !errors.Is(err, ErrUnavailable) && !errors.Is(err, ErrBusy) {
		return nil, err
	}
	return s, nil
}

func (s *Snapshotter) makeCaches() (err error) {
	if s.entries, err = lru.New[objects.MAC, *storedEntry](entryCacheSize); err != nil {
		return fmt.Errorf("entry cache: %w", err)
	}
	if s.nodes, err = lru.New[objects.MAC, *node](nodeCacheSize); err != nil {
		return fmt.Errorf("node cache: %w", err)
	}
	if s.trees, err = lru.New[ID, *snapTree](treeCacheSize); err != nil {
		return fmt.Errorf("tree cache: %w", err)
	}
	if s.dirs, err = lru.New[objects.MAC, *dirIndex](dirCacheSize); err != nil {
		return fmt.Errorf("directory cache: %w", err)
	}
	if s.removed, err = lru.New[ID, *record](removedCacheSize); err != nil {
		return fmt.Errorf("cache of removed snapshots: %w", err)
	}
	if s.heads, err = lru.New[ID, *head](headCacheSize); err != nil {
		return fmt.Errorf("head cache: %w", err)
	}
	if s.summaries, err = lru.New[objects.MAC, *vfs.Summary](summaryCacheSize); err != nil {
		return fmt.Errorf("summary cache: %w", err)
	}
	if s.dirDatas, err = newDirDataCache(dirDataBytes); err != nil {
		return err
	}
	s.sums, err = newSumCache(s.store.MACKey())
	return err
}

// enter locks write, for whoever writes states beside maintenance, which may be waiting at the gate.
func (s *Snapshotter) enter() {
	s.gate.Lock()
	s.gate.Unlock() //nolint:staticcheck // it is a gate
	s.write.Lock()
}

// Close waits for a commit that is running and for read-ahead, and ends what Ingests do. The
// store stays open.
func (s *Snapshotter) Close() error {
	s.write.Lock()
	defer s.write.Unlock()
	s.early.close()
	s.chunks.close()
	return nil
}
