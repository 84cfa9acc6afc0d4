package main

import (
	"errors"
	"testing"

	"github.com/snapgate/gateway/pull/restore"
)

// What the snapshot lacks above what is restored may be in it.
func TestWithin(t *testing.T) {
	for _, c := range []struct {
		dir, path, want string
		ok              bool
	}{
		{"/", "/", "/", true},
		{"/", "/a/b", "/a/b", true},
		{"/a", "/", "/", true},
		{"/a", "/a", "/", true},
		{"/a/b", "/a", "/", true},
		{"/a/b", "/a/b/c/d", "/c/d", true},
		{"/a", "/a.b", "", false},
		{"/a.b", "/a", "", false},
		{"/a", "/b/a", "", false},
	} {
		got, ok := within(c.dir, c.path)
		if ok != c.ok || ok && got != c.want {
			t.Errorf("%s in %s: %q, %v", c.path, c.dir, got, ok)
		}
	}
}

// Of what was restored nothing is said to be missing because something is spared that was to be deleted.
func TestIncompleteRestore(t *testing.T) {
	for want, c := range map[string]struct {
		restore.Counts
		err error
	}{
		"1 path could not be restored as it is":                                    {restore.Counts{Problems: 1, LeftOut: 1}, nil},
		"2 symbolic links are left out, as the destination cannot have any":        {restore.Counts{LeftOut: 2}, nil},
		"2 paths could not be restored as they are; therefore nothing was deleted": {restore.Counts{Problems: 2}, restore.ErrNotDeleted},
		"1 problem with what is to be deleted":                                     {restore.Counts{Problems: 1, Deleting: 1}, nil},
		"nothing was deleted":                                                      {restore.Counts{Problems: 1, Deleting: 1}, restore.ErrNotDeleted},
	} {
		if err := incompleteRestore(c.Counts, c.err); err.Error() != want || !errors.Is(err, errPartial) {
			t.Errorf("%+v, %v: %q, want %q", c.Counts, c.err, err, want)
		}
	}
}
