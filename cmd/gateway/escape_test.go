package main

import (
	"strings"
	"testing"
)

// TestEscaper writes texts whole, and byte by byte.
func TestEscaper(t *testing.T) {
	for _, tt := range []struct{ name, text, want string }{
		{"text", "a\tb c\nГород 東京 👨‍👩‍👧 a\u00a0b\n", "a\tb c\nГород 東京 👨‍👩‍👧 a\u00a0b\n"},
		{"colours", "\x1b[31mred\x1b[0m", `\x1b[31mred\x1b[0m`},
		{"a title", "\x1b]0;gone\a", `\x1b]0;gone\a`},
		{"of eight bits", "\u009b31m \x9b31m", `\u009b31m \x9b31m`},
		{"the line anew", "evil\rgood\b\x7f\x00", `evil\rgood\b\x7f\x00`},
		{"from right to left", "a\u202eb\u2066c", `a\u202eb\u2066c`},
		{"no UTF-8", "caf\xe9 \xff\n", `caf\xe9 \xff` + "\n"},
		{"an end within a character", "東\xe6\x9d", `東\xe6\x9d`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for step := range len(tt.text) {
				var b strings.Builder
				e := &escaper{w: &b}
				for text := tt.text; text != ""; {
					n := min(step+1, len(text))
					if k, err := e.Write([]byte(text[:n])); err != nil || k != n {
						t.Fatalf("%d bytes of %d, %v", k, n, err)
					}
					text = text[n:]
				}
				if err := e.flush(); err != nil {
					t.Fatal(err)
				}
				if got := b.String(); got != tt.want {
					t.Errorf("%d bytes at a time: got %q, want %q", step+1, got, tt.want)
				}
			}
		})
	}
}
