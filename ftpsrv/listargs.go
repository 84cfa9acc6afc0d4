package ftpsrv

import (
	"path"
	"strings"
)

// listArgs is the argument of LIST and NLST: options of ls, as clients send them although
// RFC 959 knows none, and a path or a pattern.
type listArgs struct {
	long      bool // -l
	recursive bool // -R
	dirOnly   bool // -d: the name itself, not what is in it
	path      string
}

// parseListArgs splits options from the path. Options that are not known are taken for
// some that make no difference here: all names are listed, in byte order. "--" ends them;
// exists, which may be asked once, decides whether the whole is a name that begins with "-".
// What clients send by themselves never is one: a file "-la" must not hide all others.
func parseListArgs(arg string, exists func(name string) bool) listArgs {
	if strings.HasPrefix(arg, "-") && !usualOptions(arg) && exists(arg) {
		return listArgs{path: arg}
	}
	var a listArgs
	rest := strings.TrimLeft(arg, " ")
	for strings.HasPrefix(rest, "-") {
		var word string
		word, rest, _ = strings.Cut(rest, " ")
		rest = strings.TrimLeft(rest, " ")
		if word == "--" {
			break
		}
		if strings.HasPrefix(word, "--") {
			continue
		}
		for _, letter := range word[1:] {
			switch letter {
			case 'l', 'n', 'g', 'o':
				a.long = true
			case 'R':
				a.recursive = true
			case 'd':
				a.dirOnly = true
			}
		}
	}
	a.path = rest
	if !strings.HasPrefix(arg, "-") {
		a.path = arg
	}
	return a
}

// usualOptions reports whether a word can be the options that clients send.
func usualOptions(word string) bool {
	return len(word) > 1 && strings.Trim(word[1:], "aAlLnogRd1FtrShC") == ""
}

// isPattern reports whether a path has characters of a pattern.
func isPattern(name string) bool { return strings.ContainsAny(name, "*?[") }

// maxPatternElems bounds how many elements of a path may be patterns: each multiplies the
// directories that are read.
const maxPatternElems = 4

// patternElems splits a pattern into its elements; ok is false for one that is malformed
// or costs too much.
func patternElems(pattern string) (elems []string, ok bool) {
	n := 0
	for e := range strings.SplitSeq(pattern, "/") {
		if e == "" {
			continue
		}
		if isPattern(e) {
			n++
		}
		if _, err := path.Match(e, ""); err != nil {
			return nil, false
		}
		elems = append(elems, e)
	}
	return elems, n <= maxPatternElems
}

// hidden reports whether a pattern does not stand for a name although it matches: those
// that begin with a dot need one in the pattern, as in a shell.
func hidden(pattern, name string) bool {
	return strings.HasPrefix(name, ".") && !strings.HasPrefix(pattern, ".")
}
