package vfs

import (
	"bytes"
	"path"
	"slices"
	"strings"
	"testing"
)

func TestParseName(t *testing.T) {
	for _, tt := range []struct{ raw, want string }{
		{"", "/"},
		{".", "/"},
		{"/", "/"},
		{"//", "/"},
		{"..", "/"},
		{"/..", "/"},
		{"../../etc/passwd", "/etc/passwd"},
		{"/../../etc/passwd", "/etc/passwd"},
		{"a", "/a"},
		{"a/", "/a"},
		{"/a//b/./c/", "/a/b/c"},
		{"/a/b/../c", "/a/c"},
		{"a/../..", "/"},
		{"a/../../b", "/b"},
		{"./.././/..//.", "/"},
		{"...", "/..."},
		{"/..a/a..", "/..a/a.."},
		{". ", "/. "},
		{" ", "/ "},
		{"a\\..\\b", "/a\\..\\b"},
		{"\xfe\xff", "/\xfe\xff"},
		{"/tab\tnewline\n", "/tab\tnewline\n"},
		{"C:/x", "/C:/x"},
		{"%2e%2e/x", "/%2e%2e/x"},
		{"~/x", "/~/x"},
		{"/.snapshots/latest/..", "/.snapshots"},
	} {
		got, err := ParseName(tt.raw, Limits{})
		if err != nil || got.String() != tt.want {
			t.Errorf("ParseName(%q) = %q, %v, want %q", tt.raw, got, err, tt.want)
		}
	}
}

func TestParseNameRefuses(t *testing.T) {
	small := Limits{NameBytes: 4, PathBytes: 10}
	for _, tt := range []struct {
		name, raw string
		limits    Limits
		bad       bool
	}{
		{"NUL", "/a\x00b", Limits{}, true},
		{"NUL in an element taken back", "a\x00/../b", Limits{}, true},
		{"first byte 0xff", "a/\xffb", Limits{}, true},
		{"first byte 0xff in a canonical path", "/a/\xffb", Limits{}, true},
		{"first byte 0xff, taken back", "/\xff/../b", Limits{}, true},
		{"later byte 0xff", "/a\xff", Limits{}, false},
		{"name at the default limit", strings.Repeat("n", 255), Limits{}, false},
		{"name over the default limit", strings.Repeat("n", 256), Limits{}, true},
		{"path at the default limit", strings.Repeat("/abcdefg", 512), Limits{}, false},
		{"path over the default limit", strings.Repeat("/abcdefg", 512) + "/x", Limits{}, true},
		{"long spelling of a short path", strings.Repeat("abcdefg/../", 1000) + "x", Limits{}, false},
		{"name at the limit", "/abcd", small, false},
		{"name over the limit", "/abcde", small, true},
		{"name over the limit, taken back", "abcde/../x", small, true},
		{"path at the limit", "/abcd/efgh", small, false},
		{"path over the limit", "/abcd/ef/h", Limits{NameBytes: 4, PathBytes: 9}, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			n, err := ParseName(tt.raw, tt.limits)
			if tt.bad {
				if err == nil || KindOf(err) != KindBadName || !n.IsZero() {
					t.Errorf("got %q, %v, want KindBadName", n, err)
				}
			} else if err != nil {
				t.Errorf("got %v", err)
			}
		})
	}
}

func mustName(t testing.TB, s string) Name {
	t.Helper()
	n, err := ParseName(s, Limits{})
	if err != nil {
		t.Fatalf("ParseName(%q): %v", s, err)
	}
	return n
}

func TestNameMethods(t *testing.T) {
	for _, tt := range []struct {
		name, parent, base string
		elems              []string
	}{
		{"/", "/", "/", nil},
		{"/a", "/", "a", []string{"a"}},
		{"/a/b.c", "/a", "b.c", []string{"a", "b.c"}},
	} {
		n := mustName(t, tt.name)
		if got := n.Parent().String(); got != tt.parent {
			t.Errorf("%s: Parent = %s, want %s", n, got, tt.parent)
		}
		if got := n.Base(); got != tt.base {
			t.Errorf("%s: Base = %s, want %s", n, got, tt.base)
		}
		if got := n.Elems(); !slices.Equal(got, tt.elems) {
			t.Errorf("%s: Elems = %q, want %q", n, got, tt.elems)
		}
	}
	if got := (Name{}).Parent(); !got.IsZero() {
		t.Errorf("Parent of no name = %q", got)
	}
}

func TestNameJoin(t *testing.T) {
	for _, tt := range []struct{ dir, elem, want string }{
		{"/", "a", "/a"},
		{"/a", "b", "/a/b"},
		{"/a", "...", "/a/..."},
		{"/a", "", ""},
		{"/a", ".", ""},
		{"/a", "..", ""},
		{"/a", "b/c", ""},
		{"/a", "b\x00", ""},
	} {
		if got := mustName(t, tt.dir).Join(tt.elem).String(); got != tt.want {
			t.Errorf("%s Join %q = %q, want %q", tt.dir, tt.elem, got, tt.want)
		}
	}
	if got := (Name{}).Join("a"); !got.IsZero() {
		t.Errorf("Join on no name = %q", got)
	}
}

func TestNamePrefixAndRebase(t *testing.T) {
	for _, tt := range []struct {
		name, from string
		under      bool
		to, want   string
	}{
		{"/a/b", "/a", true, "/x/y", "/x/y/b"},
		{"/a", "/a", true, "/x", "/x"},
		{"/ab", "/a", false, "/x", "/ab"},
		{"/", "/a", false, "/x", "/"},
		{"/a/b", "/", true, "/x", "/x/a/b"},
		{"/a/b", "/a", true, "/", "/b"},
		{"/a", "/a", true, "/", "/"},
		{"/", "/", true, "/x", "/x"},
		{"/", "/", true, "/", "/"},
	} {
		n, from, to := mustName(t, tt.name), mustName(t, tt.from), mustName(t, tt.to)
		if got := n.HasPrefix(from); got != tt.under {
			t.Errorf("%s HasPrefix %s = %v", n, from, got)
		}
		if got := n.Rebase(from, to).String(); got != tt.want {
			t.Errorf("%s Rebase(%s, %s) = %s, want %s", n, from, to, got, tt.want)
		}
	}
	if Root().HasPrefix(Name{}) || (Name{}).HasPrefix(Root()) {
		t.Error("the zero Name is at or above something")
	}
}

func TestNameCompareIsDepthFirst(t *testing.T) {
	// " ", "!" and "." sort before "/" as bytes; as names they come after all of /a.
	want := []string{"/", "/a", "/a/b", "/a/b/c", "/a/c", "/a b", "/a!", "/a.b", "/a.b/c", "/ab", "/b", "/\xfe"}
	var names []Name
	for _, s := range want {
		names = append(names, mustName(t, s))
	}
	for i, a := range names {
		for j, b := range names {
			if got := a.Compare(b); got != cmpInt(i, j) {
				t.Errorf("%q Compare %q = %d, want %d", a, b, got, cmpInt(i, j))
			}
		}
		if (Name{}).Compare(a) != -1 || a.Compare(Name{}) != 1 {
			t.Errorf("the zero Name does not come before %q", a)
		}
	}
}

func cmpInt(i, j int) int {
	switch {
	case i < j:
		return -1
	case i > j:
		return 1
	}
	return 0
}

func FuzzParseName(f *testing.F) {
	for _, s := range []string{
		"", "/", "..", "/../a", "a//b/./../c/", "\xff/\xfe", "a\x00", strings.Repeat("x", 300),
		"/.snapshots/latest/../..", ".../....", strings.Repeat("../", 50) + "etc", "a/b/c/../../d",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		n, err := ParseName(string(raw), Limits{})
		if err != nil {
			if KindOf(err) != KindBadName || !n.IsZero() {
				t.Fatalf("got %q, %v", n, err)
			}
			return
		}
		if bytes.IndexByte(raw, 0) >= 0 {
			t.Fatalf("NUL accepted in %q", raw)
		}
		// path.Clean of a rooted path is the definition; it knows no limits.
		if want := path.Clean("/" + string(raw)); n.String() != want {
			t.Fatalf("ParseName(%q) = %q, want %q", raw, n, want)
		}
		if again, err := ParseName(n.String(), Limits{}); err != nil || again != n {
			t.Fatalf("not idempotent: %q then %q, %v", n, again, err)
		}
		if len(n.String()) > defaultPathBytes {
			t.Fatalf("%d bytes", len(n.String()))
		}
		joined := Root()
		for _, elem := range n.Elems() {
			if len(elem) > defaultNameBytes || !validElem(elem) || elem[0] == 0xff {
				t.Fatalf("element %q", elem)
			}
			below := joined.Join(elem)
			if below.Parent() != joined || below.Base() != elem || joined.Compare(below) != -1 || !below.HasPrefix(joined) {
				t.Fatalf("%q and %q disagree", joined, below)
			}
			if there := n.Rebase(below, mustName(t, "/moved")); there.Rebase(mustName(t, "/moved"), below) != n {
				t.Fatalf("%q moved to %q and not back", n, there)
			}
			joined = below
		}
		if joined != n {
			t.Fatalf("elements of %q make %q", n, joined)
		}
	})
}
