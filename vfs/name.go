package vfs

import "strings"

// Defaults of Limits.NameBytes and Limits.PathBytes: NAME_MAX and PATH_MAX of the systems
// whose files arrive here, so that everything can be restored there.
const (
	defaultNameBytes = 255
	defaultPathBytes = 4096
)

// Name is a canonical, absolute path: "/" or "/a/b", without empty, "." or ".."
// elements, NUL bytes or a trailing slash. Names are made by ParseName and by methods
// of Name only. The zero Name is no name. Names are values: they compare with == and can
// be map keys.
//
// Elements are bytes, not text: they need not be UTF-8, and two spellings of one
// accented letter are two names, as on a Unix filesystem.
type Name struct{ s string }

// Root is the name "/".
func Root() Name { return Name{"/"} }

// ParseName makes a Name of a client's bytes. It is the only place where that happens.
//
// raw is taken relative to "/", whether or not it starts with a slash; the empty string
// and "." are "/". Repeated slashes and "." elements disappear, ".." takes back the
// element before it without looking at the tree (a symbolic link there is not followed)
// and stays at "/" when there is none, as in a chroot. A trailing slash is dropped: what
// the name must be is decided by the operation, and clients write "mkdir a/".
//
// Every byte but NUL is allowed in an element, as in OpenSSH's server, except that it
// cannot begin with 0xff, which no text in UTF-8 contains: kloset's Builder loses such
// names at the root of a snapshot. These, NUL, an element longer than limits.NameBytes
// (both even when a later ".." takes it back) and a result longer than limits.PathBytes
// are refused with KindBadName.
func ParseName(raw string, limits Limits) (Name, error) {
	if strings.IndexByte(raw, 0) >= 0 {
		return Name{}, errKind("parse name", Name{}, KindBadName)
	}
	nameBytes, pathBytes := limits.NameBytes, limits.PathBytes
	if nameBytes <= 0 {
		nameBytes = defaultNameBytes
	}
	if pathBytes <= 0 {
		pathBytes = defaultPathBytes
	}
	if len(raw) <= pathBytes && canonical(raw, nameBytes) {
		return Name{raw}, nil
	}
	// out only ever holds "" or a canonical path without its bytes after the last element,
	// so ".." is a cut at the last slash.
	out := make([]byte, 0, min(len(raw)+1, pathBytes+nameBytes+1))
	for elem := range strings.SplitSeq(raw, "/") {
		switch elem {
		case "", ".":
		case "..":
			out = out[:max(lastSlash(out), 0)]
		default:
			if refusedElem(elem, nameBytes) {
				return Name{}, errKind("parse name", Name{}, KindBadName)
			}
			out = append(append(out, '/'), elem...)
		}
	}
	switch {
	case len(out) == 0:
		return Root(), nil
	case len(out) > pathBytes:
		return Name{}, errKind("parse name", Name{}, KindBadName)
	}
	return Name{string(out)}, nil
}

// canonical reports whether raw is a Name's string already; nearly all are, and they cost
// no allocation. NUL bytes have been ruled out.
func canonical(raw string, nameBytes int) bool {
	if raw == "/" {
		return true
	}
	if raw == "" || raw[0] != '/' {
		return false
	}
	for elem := range strings.SplitSeq(raw[1:], "/") {
		if elem == "" || elem == "." || elem == ".." || refusedElem(elem, nameBytes) {
			return false
		}
	}
	return true
}

// refusedElem reports whether clients may not use elem, which is not empty, as an element.
func refusedElem(elem string, nameBytes int) bool { return len(elem) > nameBytes || elem[0] == 0xff }

func lastSlash(b []byte) int {
	for i := len(b) - 1; i >= 0; i-- {
		if b[i] == '/' {
			return i
		}
	}
	return -1
}

// IsZero reports whether n is the zero Name.
func (n Name) IsZero() bool { return n.s == "" }

// IsRoot reports whether n is "/".
func (n Name) IsRoot() bool { return n.s == "/" }

// String returns the path.
func (n Name) String() string { return n.s }

// Parent is the directory that n is in; "/" is its own parent.
func (n Name) Parent() Name {
	switch i := strings.LastIndexByte(n.s, '/'); {
	case i > 0:
		return Name{n.s[:i]}
	case i == 0:
		return Root()
	}
	return Name{}
}

// Base is the last element, "/" for the root and "" for the zero Name.
func (n Name) Base() string {
	if n.s == "/" {
		return n.s
	}
	return n.s[strings.LastIndexByte(n.s, '/')+1:]
}

// Elems lists the elements from the root down; the root has none.
func (n Name) Elems() []string {
	if len(n.s) <= 1 {
		return nil
	}
	return strings.Split(n.s[1:], "/")
}

// Join is the name of the entry elem in the directory n. It is the zero Name when n is,
// or when elem cannot be an element: empty, ".", "..", with a slash or NUL (a foreign
// snapshot may hold such an entry). Lengths are not looked at.
func (n Name) Join(elem string) Name {
	if n.s == "" || !validElem(elem) {
		return Name{}
	}
	if n.s == "/" {
		return Name{"/" + elem}
	}
	return Name{n.s + "/" + elem}
}

func validElem(elem string) bool {
	return elem != "" && elem != "." && elem != ".." && strings.IndexByte(elem, '/') < 0 && strings.IndexByte(elem, 0) < 0
}

// HasPrefix reports whether n is dir or below it. Nothing is at or below the zero Name.
func (n Name) HasPrefix(dir Name) bool {
	if dir.s == "" || n.s == "" {
		return false
	}
	if dir.s == "/" || n.s == dir.s {
		return true
	}
	return len(n.s) > len(dir.s) && n.s[len(dir.s)] == '/' && n.s[:len(dir.s)] == dir.s
}

// Rebase is what n becomes when from moves to to. A name that is neither from nor below
// it stays as it is.
func (n Name) Rebase(from, to Name) Name {
	if !n.HasPrefix(from) || to.s == "" {
		return n
	}
	rest := strings.TrimPrefix(n.s[len(from.s):], "/")
	switch {
	case rest == "" || n.s == from.s:
		return to
	case to.s == "/":
		return Name{"/" + rest}
	}
	return Name{to.s + "/" + rest}
}

// Compare orders names depth first: a directory before what is below it, siblings in
// byte order. It is -1, 0 or +1. The zero Name comes first.
func (n Name) Compare(m Name) int {
	a, b := n.s, m.s
	if a == "/" || b == "/" { // else "/" would sort as the prefix of an element
		a, b = strings.TrimSuffix(a, "/"), strings.TrimSuffix(b, "/")
		if a == b { // the zero Name and the root, or twice the root
			return strings.Compare(n.s, m.s)
		}
	}
	for i := 0; i < len(a) && i < len(b); i++ {
		switch {
		case a[i] == b[i]:
		case a[i] == '/':
			return -1
		case b[i] == '/':
			return 1
		case a[i] < b[i]:
			return -1
		default:
			return 1
		}
	}
	switch {
	case len(a) < len(b):
		return -1
	case len(a) > len(b):
		return 1
	}
	return 0
}
