package main

import "testing"

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
