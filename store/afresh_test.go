package store

import (
	"context"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/PlakarKorp/kloset/connectors/storage"
	"github.com/PlakarKorp/kloset/objects"
	"github.com/PlakarKorp/kloset/repository"
)

// TestAfresh: who is to prove what is in the store reads that, and not the local copies of metadata.
func TestAfresh(t *testing.T) {
	dir := t.TempDir()
	s, err := Open(t.Context(), Config{Location: "fs://" + dir + "/store", Plaintext: true, Create: true, CacheDir: dir + "/cache"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	s.conn.mirrorFirst = true // as of a store that is elsewhere
	mac := objects.RandomMAC()
	tee, done := s.conn.mirror.copy(mac, strings.NewReader("a copy"))
	if _, err := io.Copy(io.Discard, tee); err != nil {
		t.Fatal(err)
	}
	done(true)
	copied, err := s.conn.Get(t.Context(), storage.StorageResourcePackfile, mac, nil)
	if err != nil {
		t.Fatalf("the local copy: %v", err)
	}
	_ = copied.Close()

	ctx, cancel := context.WithCancel(t.Context())
	repo, free, err := s.Afresh(ctx, 1, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := repo.GetPackfile(mac); !errors.Is(err, repository.ErrPackfileNotFound) {
		t.Errorf("what is not in the store: got %v, want %v", err, repository.ErrPackfileNotFound)
	}
	if again, free, err := s.Afresh(ctx, 3, nil); err != nil || again == repo {
		t.Errorf("two at a time have one view, %v", err)
	} else {
		if n := again.AppContext().MaxConcurrency; n != 3 {
			t.Errorf("%d things at a time, want 3", n)
		}
		_ = free()
	}
	cancel()
	if _, err := repo.GetPackfile(mac); repo.AppContext().Err() == nil || !errors.Is(err, context.Canceled) {
		t.Errorf("when its context has ended: got %v, want %v", err, context.Canceled)
	}
	if err := free(); err != nil {
		t.Errorf("what is missing, and a context that has ended, is no error of reading: %v", err)
	}
	for range 3 { // each has a handle on the index, so they are used again
		again, free, err := s.Afresh(t.Context(), 1, nil)
		if err != nil || again.AppContext().Err() != nil {
			t.Errorf("again: %v, %v", err, again.AppContext().Err())
		}
		_ = free()
	}
	if n := len(s.spare); n != 2 {
		t.Errorf("%d views, want 2", n)
	}
}
