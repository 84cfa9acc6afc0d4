package snapshotter_test

import (
	"errors"
	"io/fs"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/snapgate/gateway/snapshotter"
)

func TestHolds(t *testing.T) {
	r := newRig(t)
	large := strings.Repeat("0123456789", 500_000)
	id := r.commit(snapshotter.ID{}, tree{"/": dir(0), "/small": file(1, "text"), "/empty": file(2, ""), "/large": file(3, large), "/d": dir(4)}.all()...)
	v, err := r.View(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	defer v.Close()
	for _, tt := range []struct {
		path, content string
		want          bool
	}{
		{"/small", "text", true},
		{"/small", "test", false},
		{"/small", "text ", false},
		{"/empty", "", true},
		{"/empty", "x", false},
		{"/large", large, true},
		{"/large", large[:len(large)-1] + "x", false},
		{"/d", "", false},
	} {
		stored := r.store1(put("/x", file(9, tt.content))).Stored
		if got, err := v.Holds(t.Context(), tt.path, stored); err != nil || got != tt.want {
			t.Errorf("%s holds %d bytes: %v, %v; want %v", tt.path, len(tt.content), got, err, tt.want)
		}
	}
	stored := r.store1(put("/x", file(9, "text"))).Stored
	if _, err := v.Holds(t.Context(), "/none", stored); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a missing path: %v", err)
	}
	if _, err := v.Holds(t.Context(), "/small", stored[1:]); err == nil {
		t.Error("what was not stored is held")
	}
}

func TestFollow(t *testing.T) {
	now := time.Date(2026, 7, 1, 12, 0, 0, 500, time.UTC)
	id := snapshotter.ID{7}
	for name, tt := range map[string]struct {
		last snapshotter.Snapshot
		want snapshotter.Meta
	}{
		"first":       {snapshotter.Snapshot{}, snapshotter.Meta{Sequence: 1, Time: now}},
		"later":       {snapshotter.Snapshot{ID: id, Sequence: 4, Time: now.Add(-time.Second), Suffix: 3}, snapshotter.Meta{Sequence: 5, Parent: id, Time: now}},
		"same second": {snapshotter.Snapshot{ID: id, Sequence: 4, Time: now.Add(-1), Suffix: 3}, snapshotter.Meta{Sequence: 5, Parent: id, Time: now, Suffix: 4}},
		"clock went back": {
			snapshotter.Snapshot{ID: id, Sequence: 4, Time: now.Add(time.Hour)},
			snapshotter.Meta{Sequence: 5, Parent: id, Time: now.Add(time.Hour + 1), Suffix: 1},
		},
	} {
		m := snapshotter.Meta{Time: now}
		m.Follow(tt.last)
		if diff := cmp.Diff(tt.want, m); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}
