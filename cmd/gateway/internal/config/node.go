package config

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/token"
)

// maxErrors is how many errors are collected before the rest is left out.
const maxErrors = 50

// source is a file that is being read, with what was found wrong in it.
type source struct {
	name string // as the user named it
	dir  string // absolute; its paths are relative to it
	home string // what "~" stands for; may be ""
	errs *Errors
}

// node is a value in a file, with its place and its key.
type node struct {
	src *source
	ast ast.Node
	tok *token.Token
	key string
}

// field says what to do with a key of a mapping.
type field struct {
	// read takes the value over; nil means that the key is not available yet.
	read func(node)
}

// fields are the keys of a mapping.
type fields map[string]field

// later are keys of the design that are not built yet.
func (f fields) later(keys ...string) fields {
	for _, k := range keys {
		f[k] = field{}
	}
	return f
}

// fail notes an error at the value's place.
func (n node) fail(format string, args ...any) { n.failHint("", format, args...) }

func (n node) failHint(hint, format string, args ...any) {
	if len(*n.src.errs) >= maxErrors {
		return
	}
	err := fmt.Errorf(format, args...)
	e := &Error{File: n.src.name, Key: n.key, Msg: err.Error(), Hint: hint, Err: errors.Unwrap(err)}
	if n.tok != nil && n.tok.Position != nil {
		e.Line, e.Column = n.tok.Position.Line, n.tok.Position.Column
	}
	*n.src.errs = append(*n.src.errs, e)
}

// child is the value of a key below n.
func (n node) child(key string, mv *ast.MappingValueNode) node {
	full := key
	if n.key != "" {
		full = n.key + "." + key
	}
	return node{src: n.src, ast: mv.Value, tok: mv.Key.GetToken(), key: full}
}

// entries calls fn for every key of a mapping, in the order of the file.
func (n node) entries(fn func(key string, keyNode, value node)) {
	var values []*ast.MappingValueNode
	switch m := n.ast.(type) {
	case *ast.MappingNode:
		values = m.Values
	case *ast.MappingValueNode:
		values = []*ast.MappingValueNode{m}
	case *ast.NullNode, nil:
		return // "users:" with nothing below it
	default:
		n.isMapping("")
		return
	}
	for _, mv := range values {
		if mv.Key.IsMergeKey() {
			n.fail("merge keys are not supported; use include")
			continue
		}
		key, ok := scalarText(mv.Key)
		if !ok {
			n.fail("a key must be plain text")
			continue
		}
		c := n.child(key, mv)
		k := c
		k.ast = mv.Key
		fn(key, k, c)
	}
}

// isMapping refuses what is no mapping, with a hint; nothing is one without keys.
func (n node) isMapping(hint string) bool {
	switch n.ast.(type) {
	case *ast.MappingNode, *ast.MappingValueNode, *ast.NullNode, nil:
		return true
	}
	n.failHint(hint, "must be a mapping (key: value), not %s", kindOf(n.ast))
	return false
}

// aliasHint is for a text that begins as aliases, anchors and tags of YAML do.
const aliasHint = "put a text that begins with *, & or ! in quotes"

// fields reads a mapping whose keys are known.
func (n node) fields(known fields) {
	n.entries(func(key string, _, value node) {
		f, ok := known[key]
		switch {
		case !ok:
			hint := ""
			if near := nearest(key, known); near != "" {
				hint = fmt.Sprintf("did you mean %q?", near)
			}
			value.failHint(hint, "unknown key")
		case f.read == nil:
			value.failHint("remove it; see CHANGELOG.md for what is built", "not available yet")
		default:
			f.read(value)
		}
	})
}

// list calls fn for every element of a sequence.
func (n node) list(fn func(node)) {
	s, ok := n.ast.(*ast.SequenceNode)
	if !ok {
		hint := ""
		switch n.ast.(type) {
		case *ast.StringNode:
			hint = "put it in brackets: [ … ]"
		case *ast.AliasNode, *ast.AnchorNode, *ast.TagNode:
			hint = aliasHint + ", and a list in brackets"
		}
		n.failHint(hint, "must be a list, not %s", kindOf(n.ast))
		return
	}
	for i, v := range s.Values {
		c := node{src: n.src, ast: v, tok: n.tok, key: n.key + "[" + strconv.Itoa(i) + "]"}
		if v != nil && v.GetToken() != nil {
			c.tok = v.GetToken()
		}
		fn(c)
	}
}

// isList reports whether the value is a sequence.
func (n node) isList() bool {
	_, ok := n.ast.(*ast.SequenceNode)
	return ok
}

// text returns a string; anything else, and an empty one, is refused.
func (n node) text() (string, bool) {
	switch v := n.ast.(type) {
	case *ast.StringNode:
		if v.Value == "" {
			n.fail("must not be empty")
			return "", false
		}
		return v.Value, true
	case *ast.LiteralNode:
		return strings.TrimSuffix(v.Value.Value, "\n"), true
	case *ast.NullNode, nil:
		n.fail("has no value")
	case *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode:
		n.failHint("put it in quotes", "must be text, not %s", kindOf(n.ast))
	case *ast.AliasNode, *ast.AnchorNode, *ast.TagNode:
		n.failHint(aliasHint, "must be text, not %s", kindOf(n.ast))
	default:
		n.fail("must be text, not %s", kindOf(n.ast))
	}
	return "", false
}

// intoText stores a string.
func intoText(dst *string) field {
	return field{func(n node) {
		if s, ok := n.text(); ok {
			*dst = s
		}
	}}
}

// intoBool stores true or false.
func intoBool(dst *bool) field {
	return field{func(n node) {
		b, ok := n.ast.(*ast.BoolNode)
		if !ok {
			n.fail("must be true or false, not %s", kindOf(n.ast))
			return
		}
		*dst = b.Value
	}}
}

// intoInt stores a whole number from 1 to most.
func intoInt(dst *int, most int) field {
	return field{func(n node) {
		if i, ok := n.integer(); !ok || i < 1 || i > int64(most) {
			hint := ""
			if s, isText := n.ast.(*ast.StringNode); isText && s.Value != "" && strings.Trim(s.Value, "0123456789") == "" {
				hint = "write it without quotes"
			}
			n.failHint(hint, "must be a whole number from 1 to %d", most)
		} else {
			*dst = int(i)
		}
	}}
}

func (n node) integer() (int64, bool) {
	in, ok := n.ast.(*ast.IntegerNode)
	if !ok {
		return 0, false
	}
	switch v := in.Value.(type) {
	case int64:
		return v, true
	case uint64:
		return int64(min(v, math.MaxInt64)), true
	}
	return 0, false
}

// intoBytes stores a size as 64GiB, 500MB or a number of bytes.
func intoBytes(dst *int64, low int64) field {
	return field{func(n node) {
		size, ok := n.integer()
		if !ok {
			s, isText := n.text()
			if !isText {
				return
			}
			u, err := humanize.ParseBytes(s)
			if err != nil || u > math.MaxInt64 {
				n.fail("%q is not a size; want as 64GiB, 500MB or a number of bytes", s)
				return
			}
			size = int64(u)
		}
		if size < low {
			n.fail("must be at least %s", humanize.IBytes(uint64(low)))
			return
		}
		*dst = size
	}}
}

// intoDuration stores a time span of at least low.
func intoDuration(dst *time.Duration, low time.Duration) field {
	return field{func(n node) {
		if _, ok := n.integer(); ok {
			n.failHint("write 30s, 5m, 12h or 7d", "needs a unit")
			return
		}
		s, ok := n.text()
		if !ok {
			return
		}
		d, err := parseDuration(s)
		switch {
		case err != nil:
			n.fail("%q is not a time span; want as 500ms, 30s, 5m, 12h or 7d", s)
		case d < low:
			n.fail("must be at least %v", low)
		default:
			*dst = d
		}
	}}
}

// parseDuration is time.ParseDuration with whole days (of 24 hours) and weeks.
func parseDuration(s string) (time.Duration, error) {
	day := 24 * time.Hour
	for suffix, unit := range map[string]time.Duration{"d": day, "w": 7 * day} {
		if digits, ok := strings.CutSuffix(s, suffix); ok {
			n, err := strconv.ParseUint(digits, 10, 15)
			if err != nil {
				return 0, fmt.Errorf("time span %q: %w", s, err)
			}
			return time.Duration(n) * unit, nil
		}
	}
	return time.ParseDuration(s)
}

// intoTexts stores a list of strings.
func intoTexts(dst *[]string) field {
	return field{func(n node) {
		out := []string{}
		n.list(func(e node) {
			if s, ok := e.text(); ok {
				out = append(out, s)
			}
		})
		*dst = out
	}}
}

// intoChoice stores the value that a word stands for.
func intoChoice[T any](dst *T, words []string, values []T) field {
	return field{func(n node) {
		s, ok := n.text()
		if !ok {
			return
		}
		known := fields{}
		for i, w := range words {
			if w == s {
				*dst = values[i]
				return
			}
			known[w] = field{}
		}
		hint := ""
		if near := nearest(s, known); near != "" {
			hint = fmt.Sprintf("did you mean %q?", near)
		}
		n.failHint(hint, "unknown value %q; want one of %s", s, strings.Join(words, ", "))
	}}
}

// scalarText is a key's text: users may be called 1234.
func scalarText(n ast.Node) (string, bool) {
	switch v := n.(type) {
	case *ast.StringNode:
		return v.Value, true
	case *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode:
		return v.GetToken().Value, true
	}
	return "", false
}

func kindOf(n ast.Node) string {
	switch n.(type) {
	case *ast.StringNode, *ast.LiteralNode:
		return "text"
	case *ast.IntegerNode, *ast.FloatNode, *ast.InfinityNode, *ast.NanNode:
		return "a number"
	case *ast.BoolNode:
		return "true or false"
	case *ast.MappingNode, *ast.MappingValueNode:
		return "a mapping"
	case *ast.SequenceNode:
		return "a list"
	case *ast.NullNode, nil:
		return "nothing"
	case *ast.AnchorNode, *ast.AliasNode:
		return "an anchor or alias"
	case *ast.TagNode:
		return "a tag"
	}
	return "something else"
}

// nearest returns the known key that key is most likely a typing error of, "" when none
// is near.
func nearest(key string, known fields) string {
	best, bestAt := "", 3 // at most two wrong letters
	for k := range known {
		d := distance(strings.ToLower(key), k)
		if d < bestAt && d < (len(k)+1)/2+1 || d == bestAt && d < 3 && k < best {
			best, bestAt = k, d
		}
	}
	return best
}

// distance is the Levenshtein distance.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diag := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diag
			if a[i] != b[j] {
				cost = 1 + min(diag, row[j], row[j+1])
			}
			diag, row[j+1] = row[j+1], cost
		}
	}
	return row[len(b)]
}
