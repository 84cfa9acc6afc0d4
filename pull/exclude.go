package pull

import (
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

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
		line, err := translate(strings.TrimPrefix(line, "/"))
		if err != nil {
			return nil, fmt.Errorf("the pattern %q: %w", p, err)
		}
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

// translate makes a pattern of doublestar of one of a .gitignore file: there braces mean nothing, and classes of
// characters have more in them.
func translate(s string) (string, error) {
	var b strings.Builder
	for s != "" {
		c := s[0]
		switch {
		case c == '[':
			class, rest, err := parseClass(s)
			if err != nil {
				return "", err
			}
			class.write(&b)
			s = rest
			continue
		case c == '\\' && len(s) > 1:
			b.WriteByte(c)
			s = s[1:]
		case c == '{', c == '}':
			b.WriteByte('\\')
		}
		b.WriteByte(s[0])
		s = s[1:]
	}
	return b.String(), nil
}

// class is a class of characters, as "[a-z_]".
type class struct {
	negated bool
	ranges  [][2]rune // the first and the last of each
}

var errClass = errors.New("a class of characters has no end")

// parseClass reads a class as git does, from its "[" on, and returns what follows it.
func parseClass(s string) (c class, rest string, err error) {
	rest = s[1:]
	if rest != "" && (rest[0] == '!' || rest[0] == '^') {
		c.negated, rest = true, rest[1:]
	}
	ranged := false // what was last may begin a range
	for first := true; ; first = false {
		switch {
		case rest == "":
			return c, "", errClass
		case rest[0] == ']' && !first:
			return c, rest[1:], nil
		case rest[0] == '-' && ranged && len(rest) > 1 && rest[1] != ']':
			r, n := char(rest[1:])
			if n == 0 {
				return c, "", errClass
			}
			if last := &c.ranges[len(c.ranges)-1]; r > last[0] {
				last[1] = r
			}
			rest, ranged = rest[1+n:], false
			continue
		}
		if name, after, ok := posixName(rest); ok {
			ranges := posixClass(name)
			if ranges == nil {
				return c, "", fmt.Errorf("there is no class [:%s:]", name)
			}
			c.ranges = append(c.ranges, ranges...)
			rest, ranged = after, false
			continue
		}
		r, n := char(rest)
		if n == 0 {
			return c, "", errClass
		}
		c.ranges = append(c.ranges, [2]rune{r, r})
		rest, ranged = rest[n:], true
	}
}

// char reads a character, which a backslash may stand before, and says how many bytes that takes; 0 when there is none.
func char(s string) (rune, int) {
	escape := 0
	if s[0] == '\\' {
		escape = 1
	}
	r, n := utf8.DecodeRuneInString(s[escape:])
	if n == 0 {
		return 0, 0
	}
	return r, escape + n
}

// posixName reads the name of "[:name:]".
func posixName(s string) (name, after string, ok bool) {
	s, ok = strings.CutPrefix(s, "[:")
	end := strings.IndexByte(s, ']')
	if !ok || end < 1 || s[end-1] != ':' {
		return "", "", false
	}
	return s[:end-1], s[end+1:], true
}

// posixClass is what a class of POSIX has for git, which knows ASCII alone; nil when there is none of that name.
func posixClass(name string) [][2]rune {
	digit, upper, lower := [2]rune{'0', '9'}, [2]rune{'A', 'Z'}, [2]rune{'a', 'z'}
	switch name {
	case "alnum":
		return [][2]rune{digit, upper, lower}
	case "alpha":
		return [][2]rune{upper, lower}
	case "blank":
		return [][2]rune{{'\t', '\t'}, {' ', ' '}}
	case "cntrl":
		return [][2]rune{{0, 0x1f}, {0x7f, 0x7f}}
	case "digit":
		return [][2]rune{digit}
	case "graph":
		return [][2]rune{{'!', '~'}}
	case "lower":
		return [][2]rune{lower}
	case "print":
		return [][2]rune{{' ', '~'}}
	case "punct":
		return [][2]rune{{'!', '/'}, {':', '@'}, {'[', '`'}, {'{', '~'}}
	case "space": // without \v and \f
		return [][2]rune{{'\t', '\n'}, {'\r', '\r'}, {' ', ' '}}
	case "upper":
		return [][2]rune{upper}
	case "xdigit":
		return [][2]rune{digit, {'A', 'F'}, {'a', 'f'}}
	}
	return nil
}

// write writes the class as doublestar has it. No class has a slash.
func (c class) write(b *strings.Builder) {
	b.WriteByte('[')
	if c.negated {
		b.WriteString("^/")
	} else {
		b.WriteByte(0) // no name has it, and a class has something
	}
	for _, r := range c.ranges {
		if c.negated || r[1] < '/' || r[0] > '/' {
			writeRange(b, r)
			continue
		}
		writeRange(b, [2]rune{r[0], '/' - 1})
		writeRange(b, [2]rune{'/' + 1, r[1]})
	}
	b.WriteByte(']')
}

// writeRange writes a range, unless nothing is in it.
func writeRange(b *strings.Builder, r [2]rune) {
	if r[0] > r[1] {
		return
	}
	escaped := func(c rune) {
		if strings.ContainsRune(`\]-[!^`, c) {
			b.WriteByte('\\')
		}
		b.WriteRune(c)
	}
	if escaped(r[0]); r[0] != r[1] {
		b.WriteByte('-')
		escaped(r[1])
	}
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
