package store

import (
	"bytes"
	"context"
	"crypto/hkdf"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/PlakarKorp/kloset/connectors/storage"
	"github.com/PlakarKorp/kloset/kcontext"
	"github.com/PlakarKorp/kloset/objects"
	"github.com/PlakarKorp/kloset/repository"
	"github.com/zeebo/blake3"

	"github.com/snapgate/gateway/internal/disk"
	"github.com/snapgate/gateway/store/internal/backend"
)

// Config says which store to open and how.
type Config struct {
	// Location is where the store is: "fs:///abs/path", an absolute path,
	// "s3://host[:port]/bucket[/prefix]" or "sftp://[user@]host[:port]/path".
	Location string
	// S3 says how a store in S3 is reached, SFTP how one on an SFTP server.
	S3   S3
	SFTP SFTP
	// Passphrase yields the passphrase of an encrypted store; it is asked once. Nil only
	// with Plaintext.
	Passphrase func(ctx context.Context) ([]byte, error)
	// Plaintext says that the store is, or is to be created, unencrypted.
	Plaintext bool
	// Create makes a missing store.
	Create bool
	// Disk is what the files of a store on this machine are written through; nil means disk.OS.
	Disk disk.FS
	// CacheDir holds kloset's local state; it belongs to one process. "", or a directory
	// that another process holds, means a temporary one. The copies of metadata in that are read all the same.
	CacheDir string
	// KeepDir is where a copy of the store's configuration is kept, so that keys can be
	// derived while the store is away; "" keeps none.
	KeepDir string
	// MirrorBytes bounds the copies of metadata in CacheDir with which names can be looked
	// up while the store is away; 0: 512 MiB.
	MirrorBytes int64
	Logger      *slog.Logger // nil discards
	// Tolerant opens a store also when states of it are damaged, and takes the copy in KeepDir for
	// a configuration that is: for repairs.
	Tolerant bool
	// NoSweep leaves in the store what writes have left behind that did not end: for who only reads.
	NoSweep bool
	// CheapKDF makes a created store's key derivation fast and weak: for tests.
	CheapKDF bool
}

// Store is an open kloset store; see the package comment for concurrency.
type Store struct {
	at       location
	fsys     disk.FS // what KeepDir is written through
	keepDir  string
	tolerant bool
	log      *slog.Logger
	hostname string

	cache  *cacheDir
	kctx   *kcontext.KContext
	files  backend.Backend
	server *backend.SFTP // that the store is on; or nil
	conn   *conn
	repo   *repository.Repository
	config *storage.Configuration
	key    []byte // nil for a plaintext store
	sound  []byte // the configuration as it was when the store was opened
	codec  *codec
	// encoded has buffers for blobs as they stand in packfiles.
	encoded sync.Pool // of *[]byte

	locator  locator
	sizes    sizes
	ingester ingester

	distrusted atomic.Pointer[map[objects.MAC]struct{}] // packfiles; see Distrust

	ownLocks     ownLocks
	droppedLocks atomic.Int64

	// indexed is what kloset's index was made from, nil when that is not known. It belongs
	// to whoever calls Refresh and Ingest.
	indexed map[objects.MAC]struct{}

	listing    packfileList // the writer's: what Reconcile has seen
	lossSerial uint64       // the writer's: see Loss
	resumed    time.Time    // the writer's: when answers were completed that were begun; see turnTable

	mu      sync.Mutex
	wrapped []byte    // guarded by mu: the configuration as the store has it
	swept   bool      // guarded by mu: leftovers in the store were removed, or are to stay
	spare   []*afresh // guarded by mu: what Afresh has made, and nobody uses
	created bool
}

// Open opens the store, or creates it when it is missing and cfg.Create is set. A store
// that cannot be reached but is known from cfg.KeepDir is opened too: Available says so. Of those who create a store at the same moment
// one does, and the others open it.
//
// Errors: ErrNotExist, ErrWrongPassphrase, ErrNewerVersion, ErrDamaged, ErrReplaced;
// ErrUnavailable for a store that cannot be reached and has never been seen; ErrMadeTwice; ErrLogin for a server
// that can be reached and not be logged in to, whether its store was seen before or not.
func Open(ctx context.Context, cfg Config) (*Store, error) {
	at, err := parseLocation(cfg.Location)
	if err != nil {
		return nil, err
	}
	if cfg.Passphrase == nil && !cfg.Plaintext {
		return nil, fmt.Errorf("open store: %w: none given", ErrWrongPassphrase)
	}
	s := &Store{at: at, fsys: cfg.Disk, keepDir: cfg.KeepDir, tolerant: cfg.Tolerant, log: cfg.Logger, swept: cfg.NoSweep}
	if s.fsys == nil {
		s.fsys = disk.OS{}
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if s.cache, err = openCacheDir(cfg.CacheDir); err != nil {
		return nil, fmt.Errorf("open store %s: %w", s.Location(), err)
	}
	err = s.connect(ctx, cfg)
	defer s.LeaveWhen(ctx, LeavePatience)()
	if err == nil {
		err = s.unlock(ctx, cfg)
	}
	if err == nil {
		err = s.open(ctx, cfg.MirrorBytes)
	}
	if s.created && errors.Is(err, ErrReplaced) { // there was no other one before
		err = errors.Join(ErrMadeTwice, s.forget())
	}
	if err != nil {
		return nil, fmt.Errorf("open store %s: %w", s.Location(), errors.Join(err, s.Close()))
	}
	return s, nil
}

// connect says how the store is reached. Nothing is read of it yet.
func (s *Store) connect(ctx context.Context, cfg Config) error {
	var err error
	remote := true
	switch s.at.scheme {
	case schemeS3:
		s.files, err = connectS3(ctx, s.at, cfg.S3)
	case schemeSFTP:
		s.files, s.server, err = connectSFTP(s.at, cfg.SFTP, s.cache.token, s.log)
	default:
		remote = false
		local := backend.NewLocal(s.fsys, s.at.path, s.cache.token)
		s.files, s.listing = local, newListing(local, backend.PackfilesDir)
	}
	if err != nil {
		return err
	}
	if remote {
		s.listing = &remoteListing{files: s.files}
	}
	s.conn = newConn(&connector{files: s.files, at: s.at, remote: remote})
	s.conn.mirrorFirst = remote
	return nil
}

// disconnect ends the connections to a store that is elsewhere.
func (s *Store) disconnect() error {
	if s.server == nil {
		return nil
	}
	return s.server.Close()
}

// leaveGrace is how long a server may be silent at least when somebody leaves the store, and how long calls are made that clean up.
const leaveGrace = 2 * time.Second

// LeavePatience is a patience for LeaveWhen: enough for a call that was begun shortly before, or after, and does not get on.
const LeavePatience = 2 * leaveGrace

// LeaveWhen says that this process is about to leave the store when ctx ends: calls are cut off then that wait for an SFTP server from which
// nothing comes for a fourth of the patience, 2 s at least, and repeated where that is possible; after patience all are. Those that clean up, as they remove a lock, have 2 s more; then nothing is asked of it
// any more. Files that were being written are not there then, as after any lost connection. Of other stores nothing is cut off. stop
// must be called.
func (s *Store) LeaveWhen(ctx context.Context, patience time.Duration) (stop func()) {
	if s.server == nil {
		return func() {}
	}
	quit := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		select {
		case <-ctx.Done():
			s.leave(patience, quit)
		case <-quit:
		}
	})
	return func() {
		close(quit)
		wg.Wait()
	}
}

// leave is what LeaveWhen does, until quit is closed.
func (s *Store) leave(patience time.Duration, quit <-chan struct{}) {
	passes := func(d time.Duration) bool {
		select {
		case <-time.After(d):
			return true
		case <-quit:
			return false
		}
	}
	silence := max(leaveGrace, patience/4)
	for ; patience > silence; patience -= silence {
		if !passes(silence) {
			return
		}
		s.server.CutOff(silence)
	}
	if !passes(patience) {
		return
	}
	s.server.CutOff(0)
	if passes(leaveGrace) {
		s.server.Leave()
	}
}

// unlock finds the configuration, in the store or kept, creates a missing store, and
// derives the key.
func (s *Store) unlock(ctx context.Context, cfg Config) error {
	kept, err := s.kept()
	if err != nil {
		return err
	}
	wrapped, err := s.conn.Open(ctx)
	switch {
	case err == nil:
	case ctx.Err() != nil:
		return err // it is not the store that is away
	case errors.Is(err, ErrLogin):
		// It does not get better by waiting, and whoever starts the gateway is there to see it.
		return err
	case kept != nil && (errors.Is(err, ErrNotExist) || errors.Is(err, ErrUnavailable)):
		// It was here before, so it is away, however that looks from here: a file system
		// that is not mounted looks like a missing directory. Never create it anew.
		s.log.Warn("store is away", "store", s.Location(), "err", err)
		wrapped = kept
	case errors.Is(err, ErrNotExist) && cfg.Create:
		if err := s.create(ctx, cfg); err == nil || ctx.Err() != nil {
			return err
		} else if wrapped, _ = s.conn.Open(ctx); wrapped == nil {
			return err
		}
		s.log.Info("somebody else has made the store meanwhile, and it is opened", "store", s.Location())
	default:
		return err
	}
	config, err := parseConfig(wrapped)
	if s.tolerant && kept != nil && (err != nil || alike(wrapped, kept)) {
		wrapped = kept
		config, err = parseConfig(kept)
	}
	if err != nil {
		return s.withCopy(err, kept)
	}
	if (config.Encryption == nil) != cfg.Plaintext {
		if cfg.Plaintext {
			return fmt.Errorf("%w: the store is encrypted", ErrWrongPassphrase)
		}
		return fmt.Errorf("%w: the store is not encrypted", ErrWrongPassphrase)
	}
	if err := sameStore(config, kept); err != nil {
		return err
	}
	var passphrase []byte
	if config.Encryption != nil {
		if passphrase, err = cfg.Passphrase(ctx); err != nil {
			return fmt.Errorf("passphrase: %w", err)
		}
	}
	key, err := unlock(config, wrapped, passphrase)
	if err != nil {
		return s.withCopy(err, kept)
	}
	s.config, s.key, s.wrapped, s.sound = config, key, wrapped, wrapped
	return s.keep(kept)
}

// withCopy says of a damaged configuration where a copy of it is.
func (s *Store) withCopy(err error, kept []byte) error {
	if !errors.Is(err, ErrDamaged) || kept == nil {
		return err
	}
	if _, kerr := parseConfig(kept); kerr != nil {
		return err
	}
	return fmt.Errorf("%w (%s is a copy of its file %s)", err, keptName(s.keepDir, s.at), backend.ConfigName)
}

func (s *Store) create(ctx context.Context, cfg Config) error {
	var passphrase []byte
	if !cfg.Plaintext {
		var err error
		if passphrase, err = cfg.Passphrase(ctx); err != nil {
			return fmt.Errorf("passphrase: %w", err)
		}
	}
	config, wrapped, key, err := newConfig(passphrase, cfg.Plaintext, cfg.CheapKDF)
	if err != nil {
		return err
	}
	if err := s.conn.Create(ctx, wrapped); err != nil {
		return err
	}
	s.config, s.key, s.wrapped, s.sound, s.created = config, key, wrapped, wrapped, true
	return s.keep(nil)
}

// kept reads the kept configuration, nil when there is none.
func (s *Store) kept() ([]byte, error) {
	if s.keepDir == "" {
		return nil, nil
	}
	kept, err := os.ReadFile(keptName(s.keepDir, s.at))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read kept configuration: %w", err)
	}
	return kept, nil
}

// keep writes the configuration to KeepDir unless it is there.
func (s *Store) keep(kept []byte) error {
	if s.keepDir == "" || bytes.Equal(kept, s.wrapped) {
		return nil
	}
	if err := disk.MkdirDurable(s.fsys, s.keepDir, 0o700); err != nil {
		return fmt.Errorf("keep configuration: %w", err)
	}
	if err := writeDurably(s.fsys, keptName(s.keepDir, s.at), s.wrapped); err != nil {
		return fmt.Errorf("keep configuration: %w", err)
	}
	return nil
}

// forget removes the kept configuration.
func (s *Store) forget() error {
	if s.keepDir == "" {
		return nil
	}
	if err := s.fsys.Remove(keptName(s.keepDir, s.at)); err != nil {
		return fmt.Errorf("forget configuration: %w", err)
	}
	return nil
}

// sameStore refuses a store that is another one than the kept configuration's. A kept
// configuration that cannot be read is no reason to refuse anything.
func sameStore(config *storage.Configuration, kept []byte) error {
	if kept == nil {
		return nil
	}
	was, err := parseConfig(kept)
	if err == nil && was.RepositoryID != config.RepositoryID {
		return fmt.Errorf("%w: it is %s, and was %s", ErrReplaced, config.RepositoryID, was.RepositoryID)
	}
	return nil
}

// open connects kloset to the store and reads its states.
func (s *Store) open(ctx context.Context, mirrorBytes int64) (err error) {
	s.kctx = newKContext(s.log, s.cache.path)
	s.hostname = s.kctx.Hostname
	switch {
	case s.cache.busy != "":
		s.conn.mirror = mirrorOfOthers(s.cache.busy, s.log)
	case !s.cache.temp:
		if mirrorBytes == 0 {
			mirrorBytes = defaultMirrorBytes
		}
		if s.conn.mirror, err = openMirror(s.cache.path, mirrorBytes, s.log); err != nil {
			return err
		}
	}
	if s.cache.suspect && s.Available(ctx) == nil {
		if err := errors.Join(s.cache.wipe(), s.cache.settle()); err != nil {
			return fmt.Errorf("cache directory: %w", err)
		}
	}
	if err := s.checkIndex(); err != nil {
		return fmt.Errorf("cache directory: %w", err)
	}
	if err := s.openRepository(); err != nil {
		return err
	}
	// Here rather than when it is first needed, so that it does not have to be found
	// descriptors for in the middle of something else.
	defer func() { _ = s.locator.open(s) }() // Blob does without it, too
	err = s.Refresh(ctx)
	if err == nil || errors.Is(err, ErrUnavailable) || s.tolerant && s.reachable(ctx) == nil {
		return nil
	}
	if ctx.Err() != nil {
		return err
	}
	// The states are fine as far as the disk says, so it may be the cache that is not.
	s.log.Warn("store index is rebuilt", "store", s.Location(), "err", err)
	if err := errors.Join(s.closeIndex(), s.cache.wipe()); err != nil {
		return fmt.Errorf("cache directory: %w", err)
	}
	if err := s.openRepository(); err != nil {
		return err
	}
	if err = s.Refresh(ctx); errors.Is(err, ErrUnavailable) {
		return nil
	}
	return err
}

// openRepository opens kloset's repository without looking at the store. It keeps the index open until
// closeIndex.
func (s *Store) openRepository() error {
	var err error
	s.encoded.New = func() any { return new([]byte) }
	if s.codec, err = newCodec(s.key, s.config.Encryption, s.config.Compression); err != nil {
		return err
	}
	repo, err := repository.NewNoRebuild(s.kctx, s.key, s.conn, s.wrapped, false)
	if err != nil {
		return fmt.Errorf("open repository: %w", s.CacheError(err))
	}
	s.repo = repo
	if s.conn.mirror != nil {
		s.conn.mirror.hasher = repo.GetMACHasher
	}
	return nil
}

// Refresh takes over what other processes did in the store since the last time. It must
// not overlap with a commit. Errors: ErrUnavailable, ErrReplaced, ErrDamaged.
func (s *Store) Refresh(ctx context.Context) error {
	if err := s.Available(ctx); err != nil {
		return err
	}
	s.mu.Lock()
	sweep := !s.swept
	s.swept = true
	s.mu.Unlock()
	if sweep {
		if err := s.files.Sweep(ctx, time.Now()); err != nil {
			s.log.Warn("leftovers in the store stay", "store", s.Location(), "err", err)
		}
	}
	if s.cache.suspect {
		if err := s.clearIndex(); err != nil {
			return err
		}
	}
	if err := s.rebuildIndex(ctx); err != nil {
		return err
	}
	if s.cache.suspect {
		if err := s.cache.settle(); err != nil {
			return fmt.Errorf("cache directory: %w", err)
		}
	}
	return nil
}

// Available returns nil when the store is there and is the one that was opened;
// ErrUnavailable, shortly after somebody has found it out of reach with ErrNotTried, or ErrReplaced otherwise. It reads one small file.
func (s *Store) Available(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	wrapped, err := s.conn.Open(ctx)
	if err != nil {
		// Not there any more is away: it was there once.
		if errors.Is(err, ErrNotExist) {
			return fmt.Errorf("%w: %w", ErrUnavailable, err)
		}
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if bytes.Equal(wrapped, s.wrapped) {
		return nil
	}
	config, err := parseConfig(wrapped)
	if err != nil {
		return err
	}
	if config.RepositoryID != s.config.RepositoryID {
		return fmt.Errorf("%w: it is %s, and was %s", ErrReplaced, config.RepositoryID, s.config.RepositoryID)
	}
	s.wrapped = wrapped
	return nil
}

// AvailableNow is Available that asks in any case: for whoever has to tell a store that is away from one that does not give
// one of its files.
func (s *Store) AvailableNow(ctx context.Context) error { return s.Available(backend.Insist(ctx)) }

// States lists the identifiers of the states in the store, which change whenever
// somebody has written to it.
func (s *Store) States(ctx context.Context) ([]objects.MAC, error) {
	ids, err := s.conn.List(ctx, storage.StorageResourceState)
	if err != nil {
		return nil, Unavailable("list states", err)
	}
	return ids, nil
}

// StatesBeside is States for whoever is not the writer, whose calls it may overlap.
func (s *Store) StatesBeside(ctx context.Context) ([]objects.MAC, error) {
	ids, err := s.conn.connector.List(ctx, storage.StorageResourceState)
	if err != nil {
		return nil, Unavailable("list states", err)
	}
	return ids, nil
}

// Packfiles counts the packfiles in the store.
func (s *Store) Packfiles(ctx context.Context) (int, error) {
	ids, err := s.conn.List(ctx, storage.StorageResourcePackfile)
	if err != nil {
		return 0, Unavailable("list packfiles", err)
	}
	return len(ids), nil
}

// Repository returns kloset's view of the store, as of the last Refresh.
func (s *Store) Repository() *repository.Repository { return s.repo }

// DropState removes the local copy that kloset makes of a state while it writes it. It is
// for commits that failed; Ingest removes it otherwise.
func (s *Store) DropState(id objects.MAC) error {
	return ignoreNotExist(os.Remove(s.stateFile(id)))
}

// Encode begins to encode a blob as it stands in a packfile; see AppendEncoded. Safe for concurrent use.
func (s *Store) Encode(plain []byte) (*Encoding, error) { return s.codec.begin(plain) }

// AppendEncoded appends a blob to dst as it stands in a packfile: compressed and encrypted
// as the store wants it. Safe for concurrent use.
func (s *Store) AppendEncoded(dst, plain []byte) ([]byte, error) { return s.codec.encode(dst, plain) }

// DeriveKey derives a key of 32 bytes for a purpose from the repository key; nil when the
// store is plaintext. The same store and purpose always give the same key.
func (s *Store) DeriveKey(purpose string) ([]byte, error) {
	if s.key == nil {
		return nil, nil
	}
	id := s.config.RepositoryID
	key, err := hkdf.Key(sha256.New, s.key, id[:], "snapgate "+purpose, keySize)
	if err != nil {
		return nil, fmt.Errorf("derive key: %w", err)
	}
	return key, nil
}

// MACKey is the key of kloset's MACs in this store, of 32 bytes; nil when they are not keyed
// BLAKE3. The caller must not change it.
func (s *Store) MACKey() []byte {
	switch {
	case s.repo.Configuration().Hashing.Algorithm != "BLAKE3":
		return nil
	case s.key != nil:
		return s.key
	}
	id := s.config.RepositoryID // as kloset has it, so that every store's MACs have a key
	sum := blake3.Sum256(id[:])
	return sum[:]
}

// Encrypted reports whether the store is encrypted.
func (s *Store) Encrypted() bool { return s.key != nil }

// Created reports whether Open has created the store.
func (s *Store) Created() bool { return s.created }

// ID is the store's identifier, a UUID.
func (s *Store) ID() string { return s.config.RepositoryID.String() }

// Location returns where the store is, as plakar takes it.
func (s *Store) Location() string { return s.at.String() }

// Close releases the cache directory and ends the connections to the store. Nothing may use the
// store after that.
func (s *Store) Close() error {
	err := s.closeIndex()
	if s.kctx != nil { // Open has come as far as that
		err = errors.Join(err, s.kctx.GetCache().Close())
	}
	return errors.Join(err, s.disconnect(), s.cache.close())
}
