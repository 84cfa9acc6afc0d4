package pull

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Precisions of the times in listings.
const (
	day    = 24 * time.Hour
	minute = time.Minute
)

// errLine says that a line of a listing is not understood. The line is for the report.
func errLine(dir, line string) error {
	return failf("list", dir, KindListing, "the line %s", quote(line))
}

// listed makes an Entry of what a line gave, or an Entry that says what is wrong with it. It does not keep the line:
// what is read of it is short, as a rule.
func listed(dir string, e Entry) Entry {
	if err := checkName(dir, e.Name); err != nil {
		return Entry{Name: e.Name, Err: err}
	}
	e.Name, e.Target = strings.Clone(e.Name), strings.Clone(e.Target)
	return e
}

// parseMLSD reads a line of MLSD or MLST (RFC 3659 section 7). ok is false for what is no
// entry: the directory itself, and the one above.
func parseMLSD(dir, line string) (e Entry, ok bool) {
	// Targets in facts may have blanks, though facts must not.
	facts, name, found := strings.Cut(line, "; ")
	if !found {
		return Entry{Name: line, Err: errLine(dir, line)}, true
	}
	e.Name = name
	bad := false
	hasSize := false
	for fact := range strings.SplitSeq(facts, ";") {
		key, value, found := strings.Cut(fact, "=")
		if !found {
			bad = true
			break
		}
		var err error
		switch strings.ToLower(key) {
		case "type":
			e.Type, e.Target, ok = factType(value)
			if !ok {
				return Entry{}, false
			}
		case "size":
			e.Size, err = parseSize(value)
			hasSize = true
		case "modify":
			e.ModTime, e.Precision, err = parseFTPTime(value)
		case "unix.mode":
			var m uint64
			octal := strings.TrimPrefix(value, "0o") // pyftpdlib writes it as Python does
			if m, err = strconv.ParseUint(octal, 8, 16); err == nil {
				e.Mode, e.HasMode = unixMode(uint32(m)), true
			}
		case "unix.uid", "unix.owner":
			e.UID, e.HasOwner = parseID(value, e.UID, e.HasOwner)
		case "unix.gid", "unix.group":
			e.GID, _ = parseID(value, e.GID, true)
		}
		bad = bad || err != nil
	}
	switch {
	case bad, e.Type == TypeUnknown:
		return Entry{Name: name, Err: errLine(dir, line)}, true
	case e.Type == File && !hasSize:
		return Entry{Name: name, Err: failf("list", dir, KindListing, "no size in the line %s", quote(line))}, true
	case e.Type != File:
		e.Size = 0
	}
	return listed(dir, e), true
}

// factType reads the fact "type" (section 7.5.1). ok is false for "cdir" and "pdir".
func factType(value string) (t Type, target string, ok bool) {
	switch v := strings.ToLower(value); {
	case v == "file":
		return File, "", true
	case v == "dir":
		return Dir, "", true
	case v == "cdir", v == "pdir":
		return Dir, "", false
	case strings.HasPrefix(v, "os.unix=slink"), strings.HasPrefix(v, "os.unix=symlink"):
		_, target, _ = strings.Cut(value, ":")
		return Symlink, target, true
	case strings.HasPrefix(v, "os.unix="), v == "unknown": // of Pure-FTPd, for devices, sockets and pipes
		return Special, "", true
	}
	return TypeUnknown, "", true
}

func parseSize(s string) (int64, error) {
	n, err := strconv.ParseUint(s, 10, 63)
	return int64(n), err
}

// parseID reads a numeric owner; names are of no use here. Without one it returns what was
// there before.
func parseID(s string, before uint32, has bool) (uint32, bool) {
	if n, err := strconv.ParseUint(s, 10, 32); err == nil {
		return uint32(n), true
	}
	return before, has
}

// parseFTPTime reads "YYYYMMDDHHMMSS" with an optional fraction, in UTC (section 2.3).
func parseFTPTime(s string) (time.Time, time.Duration, error) {
	whole, fraction, frac := strings.Cut(s, ".")
	if len(whole) != 14 {
		return time.Time{}, 0, fmt.Errorf("time %s", quote(s))
	}
	t, err := time.Parse("20060102150405", whole)
	if err != nil {
		return time.Time{}, 0, fmt.Errorf("time %s", quote(s))
	}
	p := time.Second
	if frac {
		n, err := strconv.ParseUint(fraction, 10, 32)
		if err != nil || len(fraction) > 9 {
			return time.Time{}, 0, fmt.Errorf("time %s", quote(s))
		}
		for range len(fraction) {
			p /= 10
		}
		t = t.Add(time.Duration(n) * p)
	}
	return t, p, nil
}

// listing reads the lines of a LIST, as those of ls begin: with a total of blocks.
type listing struct {
	dir        string
	now        time.Time // see parseList
	lines      int       // so far, but for empty ones
	total      string    // the first, when it may be the total
	understood bool      // any of the others
}

// parse is parseList for the next line. What may be the total is no entry, until end tells.
func (l *listing) parse(line string) (Entry, bool) {
	if strings.TrimSpace(line) == "" {
		return Entry{}, false
	}
	if l.lines++; l.lines == 1 {
		if _, _, may := total(line); may {
			l.total = line
			return Entry{}, false
		}
	}
	e, ok := parseList(l.dir, line, l.now)
	l.understood = l.understood || !ok || e.Err == nil || KindOf(e.Err) == KindName
	return e, ok
}

// end returns an Entry with Err, after the last line, when the first may have been a name with a size as well as the
// total: nothing else says that this server lists as ls does. An empty directory has the total alone, which is 0 then in
// any language; some servers count its own blocks, in English.
func (l *listing) end() (Entry, bool) {
	word, n, _ := total(l.total)
	if l.total == "" || l.understood || strings.EqualFold(word, "total") || n == 0 && l.lines == 1 {
		return Entry{}, false
	}
	return Entry{Name: l.total, Err: errLine(l.dir, l.total)}, true
}

// parseList reads a line of LIST, as Unix or DOS servers write it; RFC 959 says nothing of
// its form. Times are taken for UTC, though servers write them in a zone of their own; now is
// what tells the year of those that have none. ok is false for what is no entry: ".", ".."
// and empty lines. The total is for listing.
func parseList(dir, line string, now time.Time) (e Entry, ok bool) {
	if strings.TrimSpace(line) == "" {
		return Entry{}, false
	}
	switch line[0] {
	case '-', 'd', 'l', 'b', 'c', 'p', 's':
		e, ok = parseUnix(line, now)
	default:
		e, ok = parseDOS(line)
	}
	switch {
	case !ok:
		return Entry{Name: line, Err: errLine(dir, line)}, true
	case e.Name == ".", e.Name == "..":
		return Entry{}, false
	}
	return listed(dir, e), true
}

// total reads what may be "total 12", in any language: a word and a number.
func total(line string) (word string, blocks int64, ok bool) {
	word, n, found := strings.Cut(strings.TrimSpace(line), " ")
	if !found || strings.ContainsAny(word, "0123456789-") {
		return "", 0, false
	}
	blocks, err := parseSize(strings.TrimSpace(n))
	return word, blocks, err == nil
}

// fields takes blank-separated fields from the left of a line, whose rest stays as it is.
type fields struct{ rest string }

func (f *fields) next() string {
	f.rest = strings.TrimLeft(f.rest, " \t")
	i := strings.IndexAny(f.rest, " \t")
	if i < 0 {
		i = len(f.rest)
	}
	field := f.rest[:i]
	f.rest = f.rest[i:]
	return field
}

// parseUnix reads "-rw-r--r-- 1 owner group 1234 Nov 20 10:22 name". There may be fewer or
// more fields before the size, so the date is what is looked for: the first place where a
// size, a month, a day, and a time or a year follow each other, or a size and an ISO date.
func parseUnix(line string, now time.Time) (e Entry, ok bool) {
	f := fields{line}
	mode := f.next()
	if !e.mode(mode) {
		return e, false
	}
	var before []string // the fields so far
	for range 8 {
		field := f.next()
		if field == "" {
			return e, false
		}
		before = append(before, field)
		n := len(before) - 1
		if n == 0 {
			continue
		}
		at := f
		when, precision, found := unixDate(before[n], &at, now)
		if !found {
			continue
		}
		size, err := parseSize(before[n-1])
		device := e.Type == Special
		if err != nil && !device {
			continue
		}
		if e.Name, found = strings.CutPrefix(at.rest, " "); !found {
			return e, false
		}
		e.ModTime, e.Precision = when, precision
		if e.Type == File {
			e.Size = size
		}
		if n >= 4 { // links, owner, group, size
			e.UID, e.HasOwner = parseID(before[1], 0, false)
			if gid, has := parseID(before[2], 0, false); has {
				e.GID = gid
			} else {
				e.UID, e.HasOwner = 0, false
			}
		}
		return e, e.link()
	}
	return e, false
}

// mode reads "-rwxr-xr-x", with a letter for access lists or attributes after it.
func (e *Entry) mode(s string) bool {
	if len(s) < 10 {
		return false
	}
	e.Type = longType(s)
	var m uint32
	for i, c := range []byte(s[1:10]) {
		bit := uint32(1) << (8 - i)
		special := uint32(0o4000) >> (i / 3)
		switch {
		case c == '-':
		case i%3 == 0 && c == 'r', i%3 == 1 && c == 'w', i%3 == 2 && c == 'x':
			m |= bit
		case i%3 == 2 && (c == 's' && i < 8 || c == 't' && i == 8):
			m |= bit | special
		case i%3 == 2 && (c == 'S' && i < 8 || c == 'T' && i == 8):
			m |= special
		case i%3 == 2 && (c == 'l' || c == 'L') && i == 5: // mandatory locking on Solaris
			m |= special
		default:
			return false
		}
	}
	e.Mode, e.HasMode = unixMode(m), true
	return e.Type != TypeUnknown
}

// link takes "name -> target" apart. A name or target with the arrow in it cannot be told.
func (e *Entry) link() bool {
	if e.Type != Symlink {
		return true
	}
	const arrow = " -> "
	name, target, found := strings.Cut(e.Name, arrow)
	if !found || target == "" || strings.Contains(target, arrow) {
		return false
	}
	e.Name, e.Target = name, target
	return true
}

// unixDate reads a date whose first field is taken, in the forms of ls: "Nov 20 10:22",
// "Nov 20 2024", "20 Nov 10:22" and "2024-11-20 10:22".
func unixDate(first string, f *fields, now time.Time) (time.Time, time.Duration, bool) {
	if len(first) == 10 && first[4] == '-' {
		if t, err := time.Parse("2006-01-02 15:04", first+" "+f.next()); err == nil {
			return t, minute, true
		}
		return time.Time{}, 0, false
	}
	m := month(first)
	d := f.next()
	if m == 0 {
		first, d = d, first
		m = month(first)
	}
	dom, err := strconv.ParseUint(d, 10, 8)
	if m == 0 || err != nil || dom < 1 || dom > 31 {
		return time.Time{}, 0, false
	}
	last := f.next()
	if hour, min, clock := strings.Cut(last, ":"); clock {
		h, herr := strconv.ParseUint(hour, 10, 8)
		mi, merr := strconv.ParseUint(min, 10, 8)
		if herr != nil || merr != nil || h > 23 || mi > 59 || len(min) != 2 {
			return time.Time{}, 0, false
		}
		// The last such day that is not in the future, a day ahead for zones. Eight years
		// have a 29 February.
		for year := now.UTC().Year() + 1; year > now.UTC().Year()-9; year-- {
			t := time.Date(year, m, int(dom), int(h), int(mi), 0, 0, time.UTC)
			if t.Month() == m && !t.After(now.Add(day)) {
				return t, minute, true
			}
		}
		return time.Time{}, 0, false
	}
	year, err := strconv.ParseUint(last, 10, 16)
	if err != nil || len(last) != 4 {
		return time.Time{}, 0, false
	}
	t := time.Date(int(year), m, int(dom), 0, 0, 0, 0, time.UTC)
	return t, day, t.Month() == m
}

func month(s string) time.Month {
	if len(s) != 3 {
		return 0
	}
	const names = "janfebmaraprmayjunjulaugsepoctnovdec"
	if i := strings.Index(names, strings.ToLower(s)); i >= 0 && i%3 == 0 {
		return time.Month(i/3 + 1)
	}
	return 0
}

// parseDOS reads "11-20-26  10:22AM       <DIR>          name" and
// "11-20-2026  10:22AM                 1234 name", as IIS writes them.
func parseDOS(line string) (e Entry, ok bool) {
	f := fields{line}
	date, clock, what := f.next(), f.next(), f.next()
	for _, layout := range []string{"01-02-06 03:04PM", "01-02-2006 03:04PM", "01-02-06 15:04", "01-02-2006 15:04", "2006-01-02 15:04"} {
		if t, err := time.Parse(layout, date+" "+clock); err == nil {
			e.ModTime, e.Precision = t, minute
			break
		}
	}
	if e.Precision == 0 {
		return e, false
	}
	switch what {
	case "<DIR>":
		e.Type = Dir
	case "<JUNCTION>", "<SYMLINK>", "<SYMLINKD>":
		e.Type = Symlink
	default:
		size, err := parseSize(what)
		if err != nil {
			return e, false
		}
		e.Type, e.Size = File, size
		e.Name, ok = strings.CutPrefix(f.rest, " ")
		return e, ok
	}
	e.Name = strings.TrimLeft(f.rest, " ")
	if e.Type == Symlink {
		name, target, found := strings.Cut(strings.TrimSuffix(e.Name, "]"), " [")
		if !found || target == "" {
			return e, false
		}
		e.Name, e.Target = name, target
	}
	return e, e.Name != ""
}
