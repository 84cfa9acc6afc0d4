package config

import (
	"fmt"
	"strings"
)

// Error is one thing wrong with the configuration.
type Error struct {
	File   string // as the user named it
	Line   int    // from 1; 0 when the whole file is meant
	Column int    // from 1; 0 when unknown
	Key    string // as users.alice.permissions; "" when no key is meant
	Msg    string
	Hint   string // what to try; may be ""
	Err    error  // the cause; may be nil
}

// Error returns the text on one line, without the hint.
func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString(e.File)
	if e.Line > 0 {
		fmt.Fprintf(&b, ":%d", e.Line)
		if e.Column > 0 {
			fmt.Fprintf(&b, ":%d", e.Column)
		}
	}
	if e.Key != "" {
		b.WriteString(": " + e.Key)
	}
	b.WriteString(": " + e.Msg)
	return b.String()
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// Errors are all that is wrong with a configuration, in the order of the file. It is
// what Load returns when the file could be read.
type Errors []*Error

// Error returns one line for each error.
func (e Errors) Error() string {
	lines := make([]string, len(e))
	for i := range e {
		lines[i] = e[i].Error()
	}
	return strings.Join(lines, "\n")
}

// Unwrap returns the errors.
func (e Errors) Unwrap() []error {
	out := make([]error, len(e))
	for i := range e {
		out[i] = e[i]
	}
	return out
}
