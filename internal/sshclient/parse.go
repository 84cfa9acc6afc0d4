package sshclient

import (
	"errors"
	"fmt"
	"strings"
)

// directive is a line of an ssh_config file: a keyword and its arguments.
type directive struct {
	file string
	line int    // from 1
	key  string // lower case
	rest string // what follows the keyword, for Match
	args []string
}

// where is the directive's place, for messages. Line 0 is a setting that no file has.
func (d *directive) where() string {
	if d.line == 0 {
		return d.file
	}
	return fmt.Sprintf("%s:%d", d.file, d.line)
}

const (
	// maxConfigSize is the size of a configuration or known_hosts file that is read, in
	// bytes. Both are lines of at most a few hundred; a fleet's known_hosts has megabytes.
	maxConfigSize = 16 << 20
	blank         = " \t\r\n\f"
)

var (
	errQuotes   = errors.New("quotes that are not closed")
	errNoValue  = errors.New("no value after the keyword")
	errTooLarge = errors.New("larger than 16 MiB")
)

// parseConfig reads the lines of an ssh_config file as OpenSSH's readconf.c does: a keyword,
// white space or one "=", arguments with quotes and backslashes, a comment at the start of an
// argument. Nothing is resolved or matched here.
func parseConfig(file, text string) ([]directive, error) {
	var out []directive
	for i, line := range strings.Split(text, "\n") {
		line = strings.Trim(line, blank)
		if line == "" || line[0] == '#' {
			continue
		}
		d := directive{file: file, line: i + 1}
		key, rest := cutKeyword(line)
		d.key, d.rest = strings.ToLower(key), strings.TrimLeft(rest, blank)
		if d.rest == "" {
			return nil, configError("%s: %s: %w", d.where(), key, errNoValue)
		}
		var err error
		if d.args, err = splitArgs(d.rest); err != nil {
			return nil, configError("%s: %s: %w", d.where(), key, err)
		}
		out = append(out, d)
	}
	return out, nil
}

// cutKeyword cuts the first word of a line off: it ends at white space or one "=", or is
// quoted (strdelim of OpenSSH).
func cutKeyword(s string) (word, rest string) {
	if s != "" && s[0] == '"' {
		if end := strings.IndexByte(s[1:], '"'); end >= 0 {
			return s[1 : 1+end], strings.TrimLeft(s[end+2:], blank)
		}
		return "", ""
	}
	i := strings.IndexAny(s, blank+`"=`)
	if i < 0 {
		return s, ""
	}
	word, rest = s[:i], s[i:]
	if rest[0] == '"' {
		return word, rest
	}
	equals := rest[0] == '='
	rest = strings.TrimLeft(rest[1:], blank)
	if !equals && rest != "" && rest[0] == '=' {
		rest = strings.TrimLeft(rest[1:], blank)
	}
	return word, rest
}

// splitArgs splits what follows a keyword (argv_split of OpenSSH): both kinds of quotes,
// backslash before a quote, a backslash or, outside quotes, a space.
func splitArgs(s string) ([]string, error) {
	var args []string
	for i := 0; i < len(s); i++ {
		if s[i] == ' ' || s[i] == '\t' {
			continue
		}
		if s[i] == '#' {
			break
		}
		arg, n, closed := cutArg(s[i:])
		if !closed {
			return nil, errQuotes
		}
		args = append(args, arg)
		i += n
	}
	return args, nil
}

// cutArg returns the first argument of s and how many bytes of s it takes.
func cutArg(s string) (arg string, n int, closed bool) {
	var b strings.Builder
	var quote byte
	for n < len(s) {
		c := s[n]
		switch {
		case c == '\\' && n+1 < len(s) && (strings.IndexByte(`'"\`, s[n+1]) >= 0 || quote == 0 && s[n+1] == ' '):
			n++
			b.WriteByte(s[n])
		case quote == 0 && (c == ' ' || c == '\t'):
			return b.String(), n, true
		case quote == 0 && (c == '"' || c == '\''):
			quote = c
		case quote != 0 && c == quote:
			quote = 0
		default:
			b.WriteByte(c)
		}
		n++
	}
	return b.String(), n, quote == 0
}

// matchPattern reports whether s matches a pattern of OpenSSH: "*" is any run of bytes, "?"
// exactly one.
func matchPattern(pattern, s string) bool {
	// The classic walk with one point to come back to: linear in practice, never exponential.
	star, mark := -1, 0
	p, i := 0, 0
	for i < len(s) {
		switch {
		case p < len(pattern) && pattern[p] == '*':
			star, mark = p, i
			p++
		case p < len(pattern) && (pattern[p] == '?' || pattern[p] == s[i]):
			p++
			i++
		case star >= 0:
			mark++
			p, i = star+1, mark
		default:
			return false
		}
	}
	return strings.Trim(pattern[p:], "*") == ""
}

// matchList matches s against patterns that may be negated by "!": a negated match decides,
// whatever else matches (match_pattern_list of OpenSSH).
func matchList(patterns []string, s string) bool {
	found := false
	for _, p := range patterns {
		if rest, negated := strings.CutPrefix(p, "!"); negated {
			if matchPattern(rest, s) {
				return false
			}
		} else if matchPattern(p, s) {
			found = true
		}
	}
	return found
}
