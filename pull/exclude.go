package pull

import (
	"fmt"
	"strings"

	"github.com/bmatcuk/doublestar/v4"
)

// Exclude says what of a tree is left out, by patterns as in a .gitignore file at its root:
// the last one that matches decides, "!" takes back, a pattern with a slash that is not its
// last byte is of the root, one that ends in a slash is of directories. What is below an
// excluded directory is not listed, so nothing there can be taken back. Safe for concurrent
// use; nil excludes nothing.
type Exclude struct{ rules []rule }

type rule struct {
	pattern string // of the path without its first slash
	dirs    bool
	include bool
}

// ParseExclude reads patterns. Empty ones and those that begin with "#" are comments.
func ParseExclude(patterns []string) (*Exclude, error) {
	var x Exclude
	for _, p := range patterns {
		line := strings.TrimSuffix(p, "\n")
		if cut := strings.TrimRight(line, " \t\r"); !strings.HasSuffix(cut, `\`) {
			line = cut
		}
		if line == "" || line[0] == '#' {
			continue
		}
		var r rule
		line, r.include = strings.CutPrefix(line, "!")
		line, r.dirs = strings.CutSuffix(line, "/")
		valid := strings.Trim(line, "/") != ""
		anchored := strings.Contains(line, "/")
		line = plainBraces(strings.TrimPrefix(line, "/"))
		if !anchored {
			line = "**/" + line
		}
		if strings.HasSuffix(line, "/**") {
			line += "/*" // what is in it, not the directory
		}
		if r.pattern = line; !valid || !doublestar.ValidatePattern(line) {
			return nil, fmt.Errorf("the pattern %q is not valid", p)
		}
		x.rules = append(x.rules, r)
	}
	return &x, nil
}

// EscapePattern returns what stands for a name, of one element and without line breaks, in a pattern of ParseExclude that has a
// slash in front of it.
func EscapePattern(name string) string {
	name = strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`).Replace(name)
	if bare := strings.TrimRight(name, " \t\r"); bare != name { // which ParseExclude cuts off
		name = bare + `\` + name[len(bare):]
	}
	return name
}

// plainBraces escapes braces, which mean nothing in a .gitignore file.
func plainBraces(s string) string {
	var b strings.Builder
	class, escaped := false, false
	for _, c := range []byte(s) {
		switch {
		case escaped:
			escaped = false
		case c == '\\':
			escaped = true
		case c == '[':
			class = true
		case c == ']':
			class = false
		case (c == '{' || c == '}') && !class:
			b.WriteByte('\\')
		}
		b.WriteByte(c)
	}
	return b.String()
}

// Match reports whether what is at a path, whose parents are not excluded, is excluded.
func (x *Exclude) Match(path string, dir bool) bool {
	if x == nil {
		return false
	}
	for i := len(x.rules) - 1; i >= 0; i-- {
		r := &x.rules[i]
		if r.dirs && !dir {
			continue
		}
		if ok, err := doublestar.Match(r.pattern, path[1:]); ok && err == nil {
			return !r.include
		}
	}
	return false
}
