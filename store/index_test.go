package store_test

import (
	"errors"
	"testing"

	"github.com/PlakarKorp/kloset/objects"

	"github.com/snapgate/gateway/store"
	"github.com/snapgate/gateway/store/storetest"
)

// TestRefreshBesideListing: a state that somebody else in this process has seen, while others were read, was not
// read yet.
func TestRefreshBesideListing(t *testing.T) {
	dir := t.TempDir()
	a := storetest.Open(t, storetest.Config(dir))
	cfg := storetest.Config(dir)
	cfg.CacheDir, cfg.KeepDir = "", ""
	b := storetest.Open(t, cfg)
	first, err := store.PutEmptyState(b, objects.NilMac)
	if err != nil {
		t.Fatal(err)
	}
	var second objects.MAC
	store.OnStateRead(a, func() {
		var lerr error
		second, err = store.PutEmptyState(b, first)
		_, lerr = a.States(t.Context())
		err = errors.Join(err, lerr)
	})
	for range 2 {
		if rerr := a.Refresh(t.Context()); rerr != nil || err != nil {
			t.Fatal(rerr, err)
		}
	}
	read, err := store.IndexedStates(a)
	if err != nil {
		t.Fatal(err)
	}
	for name, id := range map[string]objects.MAC{"first": first, "second": second} {
		_, ok := read[id]
		if _, known := a.Indexed()[id]; !ok || !known || id == objects.NilMac {
			t.Errorf("the %s state: read %v, known %v", name, ok, known)
		}
	}
}
