package main

import (
	"fmt"
	"io"
	"strconv"
	"unicode"
	"unicode/utf8"
)

// escaper writes text for a terminal. What would make the terminal do anything but show it, as control
// characters do, marks that turn the direction of the text, and bytes that are no UTF-8, becomes an escape of
// Go; but for tabs and newlines.
type escaper struct {
	w    io.Writer
	rest []byte // the beginning of a character that is not complete
}

// Write implements io.Writer.
func (e *escaper) Write(p []byte) (int, error) {
	text := append(e.rest, p...)
	whole := len(text)
	for i := max(0, len(text)-utf8.UTFMax+1); i < len(text); i++ {
		if utf8.RuneStart(text[i]) && !utf8.FullRune(text[i:]) {
			whole = i
			break
		}
	}
	_, err := e.w.Write(escaped(text[:whole]))
	e.rest = append([]byte(nil), text[whole:]...)
	if err != nil {
		return 0, err
	}
	return len(p), nil
}

// flush writes what is left.
func (e *escaper) flush() error {
	rest := escaped(e.rest)
	e.rest = nil
	_, err := e.w.Write(rest)
	return err
}

// escaped returns text as it may stand on a terminal.
func escaped(text []byte) []byte {
	out := make([]byte, 0, len(text)+len(text)/8)
	for len(text) > 0 {
		r, n := utf8.DecodeRune(text)
		switch {
		case r == utf8.RuneError && n == 1:
			out = fmt.Appendf(out, `\x%02x`, text[0])
		case r != '\t' && r != '\n' && (unicode.IsControl(r) || unicode.Is(unicode.Bidi_Control, r)):
			quoted := strconv.QuoteRuneToASCII(r)
			out = append(out, quoted[1:len(quoted)-1]...)
		default:
			out = append(out, text[:n]...)
		}
		text = text[n:]
	}
	return out
}
