package snapshotter_test

import (
	"errors"
	"io/fs"
	"testing"

	"github.com/snapgate/gateway/snapshotter"
)

func TestTotals(t *testing.T) {
	r := newRig(t)
	id := r.commit(snapshotter.ID{}, tree{
		"/": dir(0), "/a": dir(1), "/a/one": file(1, "12345"), "/a/sub": dir(2), "/a/sub/two": file(2, "123"),
		"/a/sub/link": link(3, "two"), "/b": dir(3), "/c": file(4, "1"),
	}.all()...)
	v, err := r.View(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	for p, want := range map[string]snapshotter.Totals{
		"/":      {Files: 3, Directories: 3, Symlinks: 1, Size: 9},
		"/a":     {Files: 2, Directories: 1, Symlinks: 1, Size: 8},
		"/a/sub": {Files: 1, Symlinks: 1, Size: 3},
		"/b":     {},
	} {
		got, ok, err := v.Totals(t.Context(), p)
		if err != nil || !ok || got != want {
			t.Errorf("%s: %+v, %v, %v, want %+v", p, got, ok, err, want)
		}
	}
	if _, _, err := v.Totals(t.Context(), "/c"); !errors.Is(err, fs.ErrInvalid) {
		t.Errorf("of a file: %v", err)
	}
	if _, _, err := v.Totals(t.Context(), "/nope"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("of nothing: %v", err)
	}
}

func TestHash(t *testing.T) {
	r := newRig(t)
	id := r.commit(snapshotter.ID{}, tree{
		"/": dir(0), "/a": file(1, "same"), "/b": file(2, "same"), "/c": file(3, "else"), "/d": dir(1),
	}.all()...)
	v, err := r.View(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	hash := func(p string) string {
		t.Helper()
		e, err := v.Lstat(t.Context(), p)
		if err != nil {
			t.Fatal(err)
		}
		h, err := r.Hash(t.Context(), e.Object)
		if err != nil {
			t.Fatal(err)
		}
		return h
	}
	if a, b, c := hash("/a"), hash("/b"), hash("/c"); a != b || a == c || len(a) != 64 {
		t.Errorf("hashes %q, %q, %q", a, b, c)
	}
	if h := hash("/d"); h != "" {
		t.Errorf("a directory has the hash %q", h)
	}
	if _, err := r.Hash(t.Context(), snapshotter.ObjectID{1}); err == nil {
		t.Error("an object that is not there has a hash")
	}
}
