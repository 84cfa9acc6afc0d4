package vfstest

import (
	"context"
	"errors"
	"io/fs"
	"sync"
	"testing"
	"time"

	"github.com/snapgate/gateway/internal/disk"
	"github.com/snapgate/gateway/snapshotter"
	"github.com/snapgate/gateway/vfs"
)

// shareName is the share of a Local, sourceName its source.
const (
	shareName  = "main"
	sourceName = "pulled"
)

// Local is a vfs.System with one share, policy manual, and a source, in this process. It is a System for
// the conformance suite, and a part of one for servers, whose tests call System and
// Principal.
type Local struct {
	Repo   *Repository
	config vfs.Config

	mu     sync.Mutex // guards the rest
	system *vfs.System
	pulls  int
}

// StartLocal opens a System in a new directory that ends with t. share changes the share's
// settings before that; it may be nil. What is written is not synced: a test that ends a
// process needs a System of its own.
func StartLocal(t testing.TB, share func(*vfs.ShareConfig)) *Local {
	t.Helper()
	cfg := vfs.ShareConfig{Name: shareName, When: vfs.WhenManual}
	if share != nil {
		share(&cfg)
	}
	l := &Local{Repo: NewRepository()}
	l.config = vfs.Config{
		DataDir: t.TempDir(), Disk: unsynced{disk.OS{}}, Repository: l.Repo, Shares: []vfs.ShareConfig{cfg, {Name: sourceName, Source: true}},
	}
	if err := l.open(); err != nil {
		t.Fatalf("open: %v", err)
	}
	t.Cleanup(func() {
		if err := l.close(); err != nil {
			t.Errorf("close: %v", err)
		}
		// Views of heads end when the garbage collector finds that nobody uses them.
		if c := l.Repo.Counts(); c.OpenReaders != 0 {
			t.Errorf("%d stored files are open after the end", c.OpenReaders)
		}
	})
	return l
}

// closeTimeout is how long an orderly end may take; only a broken test needs it.
const closeTimeout = time.Minute

func (l *Local) open() error {
	system, err := vfs.Open(context.Background(), l.config)
	if err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.system = system
	return nil
}

func (l *Local) close() error {
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	return l.System().Close(ctx)
}

// System returns the System as it is open now.
func (l *Local) System() *vfs.System {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.system
}

// Principal returns a user who may do everything in the share, or, if it is Reader, in the
// source.
func (l *Local) Principal(user string) *vfs.Principal {
	share := shareName
	if user == Reader {
		share = sourceName
	}
	return &vfs.Principal{
		User:   user,
		Mounts: []vfs.Mount{{At: vfs.Root(), Share: share, Root: vfs.Root()}},
		Perms:  vfs.PermFull,
	}
}

// Client starts a session of a user; it ends with t at the latest.
func (l *Local) Client(t testing.TB, user string) Client {
	t.Helper()
	s, err := l.System().Session(t.Context(), l.Principal(user), vfs.ConnInfo{Protocol: "test", Conn: user})
	if err != nil {
		t.Fatalf("session of %s: %v", user, err)
	}
	return SessionClient(t.Context(), s)
}

// Commit implements System.
func (l *Local) Commit() error {
	_, err := l.System().Commit(context.Background(), shareName)
	return err
}

// Pull implements System.
func (l *Local) Pull() error {
	head, err := l.Head(context.Background())
	if err != nil {
		return err
	}
	lineage, err := vfs.SourceLineage(l.config.DataDir, sourceName)
	if err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.pulls++
	_, err = l.Repo.Copy(head, snapshotter.Meta{
		Share: sourceName, GatewayID: lineage.GatewayID, ShareID: lineage.ShareID, Sequence: uint64(l.pulls),
		Time: time.Date(2026, 11, 26, 8, 0, l.pulls, 0, time.UTC), Reason: "pull",
	})
	return err
}

// Limit implements System.
func (l *Local) Limit(quota int64) error {
	l.config.Shares[0].Quota = quota // also for the next start
	return l.System().Reload(context.Background(), l.config.Shares)
}

// Hold implements Holder.
func (l *Local) Hold() (release func() error) {
	gate := l.Repo.Block()
	done := make(chan error, 1)
	go func() { done <- l.Commit() }()
	var early error
	select {
	case <-gate.Entered():
	case early = <-done:
		done <- early // there was nothing to hold
	}
	return func() error {
		gate.Release()
		return <-done
	}
}

// Head commits and returns the head.
func (l *Local) Head(ctx context.Context) (snapshotter.ID, error) {
	return l.System().Commit(ctx, shareName)
}

// Restart implements Restarter.
func (l *Local) Restart() error { return errors.Join(l.close(), l.open()) }

// unsynced is a disk that is never flushed: much faster, and enough for tests that end
// before the machine does.
type unsynced struct{ disk.FS }

func (d unsynced) SyncDir(string) error { return nil }

func (d unsynced) OpenFile(path string, flag int, perm fs.FileMode) (disk.File, error) {
	f, err := d.FS.OpenFile(path, flag, perm)
	if err != nil {
		return nil, err
	}
	return unsyncedFile{f}, nil
}

type unsyncedFile struct{ disk.File }

func (unsyncedFile) Sync() error { return nil }
