package storetest

import (
	"bytes"
	"encoding/hex"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/PlakarKorp/kloset/connectors/storage"
	"github.com/PlakarKorp/kloset/objects"
	"github.com/PlakarKorp/kloset/repository"
	"github.com/PlakarKorp/kloset/resources"
	"github.com/PlakarKorp/kloset/versioning"

	"github.com/snapgate/gateway/store"
)

// LockExclusively locks a store as plakar's maintenance on a host would, and returns what
// releases the lock.
func LockExclusively(tb testing.TB, s *store.Store, host string) (release func()) {
	tb.Helper()
	return PutLock(tb, s, repository.NewExclusiveLock(host))
}

// PutLock puts somebody's lock into a store, and returns what removes it.
func PutLock(tb testing.TB, s *store.Store, lock *repository.Lock) (remove func()) {
	tb.Helper()
	var plain bytes.Buffer
	if err := lock.SerializeToStream(&plain); err != nil {
		tb.Fatal(err)
	}
	encoded, err := s.AppendEncoded(nil, plain.Bytes())
	if err != nil {
		tb.Fatal(err)
	}
	rd, err := storage.Serialize(s.Repository().GetMACHasher(), resources.RT_LOCK,
		versioning.GetCurrentVersion(resources.RT_LOCK), bytes.NewReader(encoded))
	if err != nil {
		tb.Fatal(err)
	}
	data, err := io.ReadAll(rd)
	if err != nil {
		tb.Fatal(err)
	}
	id := objects.RandomMAC()
	path := filepath.Join(strings.TrimPrefix(s.Location(), "fs://"), "locks", hex.EncodeToString(id[:]))
	if err := os.WriteFile(path, data, 0o600); err != nil {
		tb.Fatal(err)
	}
	return func() {
		if err := os.Remove(path); err != nil {
			tb.Error(err)
		}
	}
}
