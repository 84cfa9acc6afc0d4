package websrv

import (
	"fmt"
	"io/fs"
	"net/url"
	"path"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/dustin/go-humanize"

	"github.com/snapgate/gateway/vfs"
)

// shown is a name as people see it. What cannot be printed, or would turn the direction of text, is
// there as an escape sequence: two names never look the same because of it.
func shown(name string) string {
	plain := utf8.ValidString(name)
	for _, r := range name {
		plain = plain && (unicode.IsPrint(r))
	}
	if plain {
		return name
	}
	var b strings.Builder
	for i := 0; i < len(name); {
		r, n := utf8.DecodeRuneInString(name[i:])
		switch {
		case r == utf8.RuneError && n == 1:
			fmt.Fprintf(&b, `\x%02x`, name[i])
		case r == '\\':
			b.WriteString(`\\`)
		case unicode.IsPrint(r):
			b.WriteRune(r)
		case r < 0x80:
			fmt.Fprintf(&b, `\x%02x`, r)
		case r < 0x10000:
			fmt.Fprintf(&b, `\u%04x`, r)
		default:
			fmt.Fprintf(&b, `\U%08x`, r)
		}
		i += n
	}
	return b.String()
}

// shownText is text as people see it, line by line: what would do something invisible is visible.
func shownText(text string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\n' || r == '\t':
			return r
		case r == '\r':
			return -1
		case r < 0x20:
			return 0x2400 + r // its picture
		case r == 0x7f:
			return 0x2421
		case unicode.Is(unicode.Cf, r) || unicode.Is(unicode.Cc, r):
			return '\u2426' // SYMBOL FOR SUBSTITUTE FORM TWO
		}
		return r
	}, strings.ToValidUTF8(text, "\uFFFD"))
}

// link is the URL of a name on a page: every byte that is not plain is escaped, so that it comes
// back as it was.
func link(page, name string) string {
	const plain = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~/"
	var b strings.Builder
	b.WriteString("/" + page)
	if !strings.HasPrefix(name, "/") {
		b.WriteByte('/')
	}
	for i := range len(name) {
		if c := name[i]; strings.IndexByte(plain, c) >= 0 {
			b.WriteByte(c)
		} else {
			fmt.Fprintf(&b, "%%%02X", c)
		}
	}
	return b.String()
}

// query adds parameters to a URL, in pairs of a key and a value; empty ones are left out.
func query(to string, pairs ...string) string {
	q := url.Values{}
	for i := 0; i+1 < len(pairs); i += 2 {
		if pairs[i+1] != "" {
			q.Set(pairs[i], pairs[i+1])
		}
	}
	if len(q) == 0 {
		return to
	}
	return to + "?" + q.Encode()
}

// size is a number of bytes as people read it.
func size(n int64) string { return humanize.IBytes(uint64(max(n, 0))) }

// count is a number of things.
func count(n uint64, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return humanize.Comma(int64(n)) + " " + many
}

// clock is a time as people read it, in the zone of the gateway.
func clock(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.Local().Format("2006-01-02 15:04:05")
}

// stamp is a time as programs read it.
func stamp(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339)
}

// ago is the time between two moments, roughly.
func ago(t, now time.Time) string {
	if t.IsZero() {
		return "never"
	}
	d := now.Sub(t)
	if d < 0 {
		return "in " + span(-d)
	}
	return span(d) + " ago"
}

func span(d time.Duration) string {
	const day = 24 * time.Hour
	switch {
	case d < time.Minute:
		return count(uint64(d/time.Second), "second", "seconds")
	case d < time.Hour:
		return count(uint64(d/time.Minute), "minute", "minutes")
	case d < 2*day:
		return count(uint64(d/time.Hour), "hour", "hours")
	case d < 90*day:
		return count(uint64(d/day), "day", "days")
	case d < 730*day:
		return count(uint64(d/(30*day)), "month", "months")
	}
	return count(uint64(d/(365*day)), "year", "years")
}

// modeText is a mode as ls shows it.
func modeText(typ vfs.FileType, m fs.FileMode) string {
	switch typ {
	case vfs.TypeDir:
		m |= fs.ModeDir
	case vfs.TypeSymlink:
		m |= fs.ModeSymlink
	}
	letter := "-"
	switch {
	case m.IsDir():
		letter = "d"
	case m&fs.ModeSymlink != 0:
		letter = "l"
	}
	return letter + m.Perm().String()[1:]
}

// disposition is the Content-Disposition of a file that is to be saved under a name (RFC 6266, and
// RFC 8187 for names that are not plain).
func disposition(name string) string {
	name = strings.Map(func(r rune) rune {
		if r == utf8.RuneError || r == '/' || r == '\\' || !unicode.IsPrint(r) {
			return '_'
		}
		return r
	}, strings.ToValidUTF8(path.Base(name), "_"))
	plain := strings.Map(func(r rune) rune {
		if r >= 0x7f || r == '"' || r == '%' || r == ';' {
			return '_'
		}
		return r
	}, name)
	value := `attachment; filename="` + plain + `"`
	if plain == name {
		return value
	}
	const attr = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789!#$&+-.^_`|~"
	var b strings.Builder
	for i := range len(name) {
		if c := name[i]; strings.IndexByte(attr, c) >= 0 {
			b.WriteByte(c)
		} else {
			fmt.Fprintf(&b, "%%%02X", c)
		}
	}
	return value + "; filename*=UTF-8''" + b.String()
}
