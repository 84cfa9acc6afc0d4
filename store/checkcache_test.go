package store

import (
	"testing"

	"github.com/PlakarKorp/kloset/objects"
)

// TestCheckCache puts and gets each kind of verdict as kloset does: what is good stays, and what is not can be forgotten.
func TestCheckCache(t *testing.T) {
	c, forget, err := NewCheckCache()
	if err != nil {
		t.Fatal(err)
	}
	kinds := map[string]struct {
		put func(objects.MAC, []byte) error
		get func(objects.MAC) ([]byte, error)
	}{
		"packfile": {c.PutPackfileStatus, c.GetPackfileStatus},
		"vfs":      {c.PutVFSStatus, c.GetVFSStatus},
		"entry":    {c.PutVFSEntryStatus, c.GetVFSEntryStatus},
		"object":   {c.PutObjectStatus, c.GetObjectStatus},
		"chunk":    {c.PutChunkStatus, c.GetChunkStatus},
	}
	const unseen = "unseen"
	want := func(when string, mac objects.MAC, kind, value string) {
		t.Helper()
		got, err := kinds[kind].get(mac)
		text := string(got)
		if got == nil {
			text = unseen
		}
		if err != nil || text != value {
			t.Errorf("%s: %s %x: got %q, %v, want %q", when, kind, mac[:1], text, err, value)
		}
	}
	put := func(mac objects.MAC, kind, value string) {
		t.Helper()
		if err := kinds[kind].put(mac, []byte(value)); err != nil {
			t.Fatal(err)
		}
	}
	good, bad, worse, better := objects.MAC{1}, objects.MAC{2}, objects.MAC{3}, objects.MAC{4}
	for kind := range kinds {
		want("before", good, kind, unseen)
		put(good, kind, "")
		put(bad, kind, "bad "+kind)
		put(worse, kind, "")
		put(worse, kind, "worse "+kind)
		put(better, kind, "bad "+kind)
		put(better, kind, "")
	}
	for kind := range kinds {
		want("after", good, kind, "")
		want("after", bad, kind, "bad "+kind)
		want("after", worse, kind, "worse "+kind)
		want("after", better, kind, "")
	}
	forget()
	for kind := range kinds {
		want("forgotten", good, kind, "")
		want("forgotten", bad, kind, unseen)
		want("forgotten", worse, kind, unseen)
		want("forgotten", better, kind, "")
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	want("closed", good, "chunk", unseen)
}
