package vfs

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/snapgate/gateway/internal/disk/disktest"
	"github.com/snapgate/gateway/internal/logtest"
)

// Reloads at the same time open a new share once, and none opens one after the end.
func TestReloadNewShare(t *testing.T) {
	sys, _ := fullTestSystem(t)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			if err := sys.Reload(t.Context(), []ShareConfig{{Name: "s", When: WhenManual}, {Name: "new", When: WhenManual}}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	want(t, "recovered", len(sys.recovered), 2)
	closeSystem(t, sys)
	for i := range 2 {
		err := sys.Reload(t.Context(), []ShareConfig{{Name: fmt.Sprint("late", i)}})
		wantKind(t, "after the end", err, KindClosed)
	}
}

// When one share cannot be opened, those opened before it are closed as they are: nobody waits for a commit.
func TestOpenAllOrNone(t *testing.T) {
	dir, repo := t.TempDir(), newMemRepository()
	sys := openTestSystem(t, dir, repo)
	visit(t, sys, "u", PermFull, "/").put("/f", "waits")
	crash(t, sys)
	bad := filepath.Join(dir, sharesDir, "bad")
	wantNil(t, "a file where a share is to be", os.WriteFile(bad, nil, 0o600))
	_, err := Open(t.Context(), Config{
		DataDir: dir, Repository: repo, SpoolKey: bytes.Repeat([]byte{7}, 32),
		Shares: []ShareConfig{{Name: "s", When: WhenManual}, {Name: "bad"}},
	})
	if err == nil || !strings.Contains(err.Error(), "share bad") {
		t.Errorf("open: %v, want what is wrong with the share", err)
	}
	sys = openTestSystem(t, dir, repo)
	defer closeSystem(t, sys)
	want(t, "changes that wait", sys.recovered[0].Changes, 1)
	want(t, "content", visit(t, sys, "u", PermFull, "/").get("/f"), "waits")
}

// What was acknowledged in a share that the configuration has not any more is committed all the same, and what cannot be
// is told; a share that has nothing left is not opened.
func TestShareNotConfiguredAnyMore(t *testing.T) {
	dir, repo := t.TempDir(), newMemRepository()
	sys := openTestSystem(t, dir, repo)
	visit(t, sys, "u", PermFull, "/").put("/f", "acknowledged")
	crash(t, sys)

	var log logtest.Buffer
	other := func(shares ...ShareConfig) *System {
		return openTestSystem(t, dir, repo, func(c *Config) {
			c.Shares, c.Logger = shares, slog.New(slog.NewTextHandler(&log, nil))
		})
	}
	sys = other(ShareConfig{Name: "s", Source: true})
	closeSystem(t, sys)
	if text := log.String(); !strings.Contains(text, "level=ERROR") || !strings.Contains(text, "changes=1") {
		t.Errorf("a source has the name: %s", text)
	}
	sys = other(ShareConfig{Name: "new"})
	if text := log.String(); !strings.Contains(text, "level=WARN") || !strings.Contains(text, "share=s") {
		t.Errorf("the share is not told of: %s", text)
	}
	closeSystem(t, sys)
	list, err := repo.Snapshots(t.Context(), "s")
	if err != nil || len(list) != 1 {
		t.Fatalf("snapshots of the share: %v, %v", list, err)
	}
	want(t, "committed", viewContents(t, repo, list[0].ID)["/f"], "acknowledged")
	sys = other(ShareConfig{Name: "new"})
	defer closeSystem(t, sys)
	if _, ok := sys.share("s"); ok {
		t.Error("the share is open with nothing left to commit")
	}
}

// A start without the share keeps its partials, however old they are: how long the share keeps them is not known then.
func TestPartialsOfAShareNotConfigured(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir, repo := t.TempDir(), newMemRepository()
		long := func(c *Config) { c.Shares[0].PartialMaxAge = 90 * 24 * time.Hour }
		sys := openTestSystem(t, dir, repo, long)
		v := visit(t, sys, "u", PermFull, "/")
		f := v.open("/f", OpenWrite|OpenCreate)
		v.write(f, 0, big("x"))
		wantNil(t, "abort", f.Abort())
		closeSystem(t, sys)
		<-time.After(8 * 24 * time.Hour)
		closeSystem(t, openTestSystem(t, dir, repo, func(c *Config) { c.Shares = []ShareConfig{{Name: "new"}} }))
		sys = openTestSystem(t, dir, repo, long)
		defer closeSystem(t, sys)
		v = visit(t, sys, "u", PermFull, "/")
		want(t, "size of the partial", v.size("/f"), 100_000)
		v.close(v.open("/f", OpenResume))
		want(t, "resumed", v.get("/f") == big("x"), true)
	})
}

// An id that a killed process has made and not made durable must not be lost when this one
// uses it: its snapshots would belong to nobody.
func TestIDIsDurableAfterAKill(t *testing.T) {
	root := t.TempDir()
	rec, err := disktest.NewRecorder(root)
	wantNil(t, "recorder", err)
	rec.IgnoreSyncs(func(op disktest.Op, _ string) bool { return op == disktest.OpSyncDir })
	made, err := loadID(rec, root, "share-id")
	wantNil(t, "make", err)
	rec.IgnoreSyncs(nil)
	found, err := loadID(rec, root, "share-id")
	wantNil(t, "load", err)
	want(t, "id", found, made)
	dest := t.TempDir()
	wantNil(t, "power loss", rec.Materialize(rec.Point(), disktest.Variant{Data: disktest.DataDropped, Names: disktest.NamesDropped}, dest))
	data, err := os.ReadFile(filepath.Join(dest, "share-id"))
	wantNil(t, "read", err)
	want(t, "id after a power loss", string(data), made+"\n")
}

// TestCloseAtOnce: with a context that has ended nothing is committed, and that is told if there is something to commit.
func TestCloseAtOnce(t *testing.T) {
	dir, repo := t.TempDir(), newMemRepository()
	ended, end := context.WithCancel(t.Context())
	end()
	var log logtest.Buffer
	logged := func(c *Config) { c.Logger = slog.New(slog.NewTextHandler(&log, nil)) }
	sys := openTestSystem(t, dir, repo, logged)
	wantNil(t, "close", sys.Close(ended))
	if text := log.String(); strings.Contains(text, "level=WARN") {
		t.Errorf("of nothing it says: %s", text)
	}
	sys = openTestSystem(t, dir, repo, logged)
	visit(t, sys, "u", PermFull, "/").put("/f", "acknowledged")
	wantNil(t, "close", sys.Close(ended))
	if text := log.String(); !strings.Contains(text, "not everything is committed") {
		t.Errorf("of what waits it says: %s", text)
	}
	if list, err := repo.Snapshots(t.Context(), "s"); err != nil || len(list) > 0 {
		t.Errorf("committed: %v, %v", list, err)
	}
	closeSystem(t, openTestSystem(t, dir, repo))
	list, err := repo.Snapshots(t.Context(), "s")
	if err != nil || len(list) != 1 {
		t.Fatalf("the next end commits %v, %v", list, err)
	}
	want(t, "committed", viewContents(t, repo, list[0].ID)["/f"], "acknowledged")
}
