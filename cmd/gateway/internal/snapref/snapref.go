// Package snapref finds the snapshot, and the path in it, that an operator means.
//
// A reference is SNAPSHOT[:PATH], where SNAPSHOT is one of
//
//	3f2a61c0…              the identifier of a snapshot, or four or more of its first digits
//	latest                 the newest snapshot, in a store with one share
//	TIME                   there, the newest that is not younger than a time; see ParseTime
//	SHARE, SHARE@latest    the newest snapshot of a share or source
//	SHARE@2026-11-21T19-04-29Z    its name below .snapshots
//	SHARE@3f2a61c0         its identifier, as above
//	SHARE@TIME             its newest snapshot that is not younger than a time
//
// Shares and identifiers that look like a time are taken for what they are.
//
// The first ":" after SNAPSHOT begins the path, which may have others. A time is as long as it
// can be, so that "14:00" is one, and never has a "/".
package snapref

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/snapgate/gateway/snapshotter"
)

// leastDigits is how many digits of an identifier name a snapshot.
const leastDigits = 4

// shownCandidates is how many snapshots an error names.
const shownCandidates = 5

// The kinds of errors; test with errors.Is.
var (
	// ErrSyntax means that no snapshot can have such a reference.
	ErrSyntax = errors.New("not a reference to a snapshot")
	// ErrNotFound means that there is no such snapshot.
	ErrNotFound = errors.New("no such snapshot")
	// ErrAmbiguous means that there are several.
	ErrAmbiguous = errors.New("ambiguous")
)

// Error is what Find returns.
type Error struct {
	Ref  string
	Kind error  // ErrSyntax, ErrNotFound or ErrAmbiguous
	Text string // what is wrong, one line
	Hint string // what to write instead; may be empty
}

func (e *Error) Error() string { return fmt.Sprintf("snapshot %q: %s", e.Ref, e.Text) }

// Unwrap returns Kind.
func (e *Error) Unwrap() error { return e.Kind }

// Found is what a reference names.
type Found struct {
	Snapshot snapshotter.Snapshot
	Path     string // canonical; "/" when the reference has none
	// Newest says that it was taken for the newest of several, as of a share or up to a time: one that the list lacks may be meant.
	Newest bool
}

// Options are what a reference is understood by.
type Options struct {
	// Now is the time of "ago", "today" and "yesterday"; its location is the zone of times
	// that name none.
	Now time.Time
	// Lineage gives a share's own line of snapshots, which "latest" and times keep to when it
	// has any; nil, or a zero Lineage, for none.
	Lineage func(share string) snapshotter.Lineage
}

// Find returns what ref names among the snapshots of a list. Errors are *Error.
func Find(ref string, list []snapshotter.Snapshot, o Options) (Found, error) {
	f := finder{ref: ref, list: list, o: o}
	snap, rest, err := f.find()
	if err != nil {
		return Found{}, err
	}
	path := "/"
	if after, ok := strings.CutPrefix(rest, ":"); ok {
		if path, err = f.path(after); err != nil {
			return Found{}, err
		}
	}
	return Found{Snapshot: snap, Path: path, Newest: f.tookNewest}, nil
}

type finder struct {
	ref  string
	list []snapshotter.Snapshot
	o    Options

	tookNewest bool // by newest
}

func (f *finder) fail(kind error, hint, format string, args ...any) error {
	return &Error{Ref: f.ref, Kind: kind, Hint: hint, Text: fmt.Sprintf(format, args...)}
}

// path makes the path of a reference canonical.
func (f *finder) path(p string) (string, error) {
	if strings.IndexByte(p, 0) >= 0 {
		return "", f.fail(ErrSyntax, "", "a NUL in the path")
	}
	var b strings.Builder
	for elem := range strings.SplitSeq(p, "/") {
		switch elem {
		case "", ".":
		case "..":
			return "", f.fail(ErrSyntax, "", "the path has a .. in it")
		default:
			b.WriteString("/" + elem)
		}
	}
	if b.Len() == 0 {
		return "/", nil
	}
	return b.String(), nil
}

// find takes the snapshot off the reference; the rest is empty or begins with ":".
func (f *finder) find() (snapshotter.Snapshot, string, error) {
	none := snapshotter.Snapshot{}
	if len(f.list) == 0 {
		return none, "", f.fail(ErrNotFound, "", "there are no snapshots")
	}
	// What the list knows is taken before what looks like it: foreign snapshots have shares
	// of any name.
	share, rest := f.share()
	switch {
	case share == "" && rest == "" || strings.HasPrefix(rest, ":") && share == "":
		return none, "", f.fail(ErrSyntax, "write SHARE, SHARE@TIME or the id of a snapshot; gateway snapshots lists them", "it names no snapshot")
	case strings.HasPrefix(rest, "@"):
		own := f.of(share)
		if len(own) == 0 {
			return none, "", f.noShare(share)
		}
		return f.at(share, own, rest[1:])
	}
	own, byID := f.of(share), f.byID(f.list, share)
	switch {
	case len(own) > 0 && len(byID) > 0:
		return none, "", f.fail(ErrAmbiguous, fmt.Sprintf("write %s@latest for the share, or more digits of the id", share),
			"it is a share and begins the id of %s", describe(byID))
	case len(own) > 0:
		return f.newest(share, own), rest, nil
	case share == "latest":
		return f.latest(rest)
	}
	if len(byID) == 0 {
		if what, path, t, ok := f.cutTime(f.ref); ok {
			return f.atTime(what, path, t)
		}
	}
	s, err := f.oneID(byID, share)
	return s, rest, err
}

// share takes the name of the share off the reference: the longest that there is, or what
// comes before the first "@" or ":".
func (f *finder) share() (name, rest string) {
	for _, s := range f.list {
		if after, ok := strings.CutPrefix(f.ref, s.Share); ok && len(s.Share) > len(name) && (after == "" || after[0] == '@' || after[0] == ':') {
			name, rest = s.Share, after
		}
	}
	if name != "" {
		return name, rest
	}
	if i := strings.IndexAny(f.ref, "@:"); i >= 0 {
		return f.ref[:i], f.ref[i:]
	}
	return f.ref, ""
}

func (f *finder) of(share string) []snapshotter.Snapshot {
	var own []snapshotter.Snapshot
	for _, s := range f.list {
		if s.Share == share {
			own = append(own, s)
		}
	}
	return own
}

func (f *finder) noShare(share string) error {
	names := f.shares()
	hint := "there are snapshots of: " + strings.Join(names, ", ")
	word, path, slash := strings.Cut(share, "/")
	for _, name := range names {
		switch {
		case strings.EqualFold(strings.TrimSpace(share), name):
			hint = fmt.Sprintf("did you mean %q?", name)
		case slash && word == name:
			hint = fmt.Sprintf("a path follows a colon: %s:/%s", name, path)
		}
	}
	switch {
	case strings.Contains(f.ref, "://"):
		hint = "a snapshot is named here, not a location; " + hint
	case slash && strings.Trim(word, ".~") == "":
		hint = "a path follows the snapshot and a colon, as SHARE:/etc; " + hint
	}
	return f.fail(ErrNotFound, hint, "no snapshot of a share or source %q", share)
}

func (f *finder) shares() []string {
	var names []string
	for _, s := range f.list {
		names = append(names, s.Share)
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// latest is "latest" without a share.
func (f *finder) latest(rest string) (snapshotter.Snapshot, string, error) {
	names := f.shares()
	if len(names) > 1 {
		return snapshotter.Snapshot{}, "", f.fail(ErrAmbiguous, fmt.Sprintf("write SHARE@latest, for example %s@latest", names[0]),
			"which one's? there are snapshots of %s", strings.Join(names, ", "))
	}
	return f.newest(names[0], f.list), rest, nil
}

// atTime is a time without a share.
func (f *finder) atTime(what, rest string, t time.Time) (snapshotter.Snapshot, string, error) {
	names := f.shares()
	if len(names) > 1 {
		return snapshotter.Snapshot{}, "", f.fail(ErrAmbiguous, fmt.Sprintf("write SHARE@TIME, for example %q", names[0]+"@"+what),
			"which one's? there are snapshots of %s", strings.Join(names, ", "))
	}
	s, err := f.notAfter(names[0], f.list, what, t)
	return s, rest, err
}

// newest is the head of the share's own line, or else the youngest. list is not empty.
func (f *finder) newest(share string, list []snapshotter.Snapshot) snapshotter.Snapshot {
	f.tookNewest = true
	if own := f.own(share, list); len(own) > 0 {
		return slices.MaxFunc(own, func(a, b snapshotter.Snapshot) int { return cmp.Compare(a.Sequence, b.Sequence) })
	}
	return slices.MaxFunc(list, func(a, b snapshotter.Snapshot) int {
		return cmp.Or(a.Time.Compare(b.Time), cmp.Compare(a.Sequence, b.Sequence), strings.Compare(a.ID.String(), b.ID.String()))
	})
}

// own are those of a list that belong to the share's own lineage.
func (f *finder) own(share string, list []snapshotter.Snapshot) []snapshotter.Snapshot {
	lineage := f.lineage(share)
	var own []snapshotter.Snapshot
	for _, s := range list {
		if s.Of(lineage) {
			own = append(own, s)
		}
	}
	return own
}

func (f *finder) lineage(share string) snapshotter.Lineage {
	if f.o.Lineage == nil {
		return snapshotter.Lineage{}
	}
	return f.o.Lineage(share)
}

// at finds what comes after "SHARE@".
func (f *finder) at(share string, list []snapshotter.Snapshot, what string) (snapshotter.Snapshot, string, error) {
	none := snapshotter.Snapshot{}
	if quoted, ok := strings.CutPrefix(what, `"`); ok { // by a shell that leaves them
		inside, rest, closed := strings.Cut(quoted, `"`)
		if !closed || rest != "" && rest[0] != ':' {
			return none, "", f.fail(ErrSyntax, "", `a " without its other`)
		}
		s, err := f.one(share, list, inside)
		return s, rest, err
	}
	word, rest := what, ""
	if i := strings.IndexByte(what, ':'); i >= 0 {
		word, rest = what[:i], what[i:]
	}
	if s, ok, err := f.named(share, list, word); ok || err != nil {
		return s, rest, err
	}
	if text, rest, t, ok := f.cutTime(what); ok {
		s, err := f.notAfter(share, list, text, t)
		return s, rest, err
	}
	s, err := f.one(share, list, word) // for its error
	return s, rest, err
}

// cutTime takes the longest time off the beginning of s; the rest is empty or begins with ":".
func (f *finder) cutTime(s string) (what, rest string, t time.Time, ok bool) {
	for _, i := range timeCuts(s) {
		if t, err := ParseTime(s[:i], f.o.Now); err == nil {
			return s[:i], s[i:], t, true
		}
	}
	return "", "", time.Time{}, false
}

// timeCuts are where a time may end, the longest first.
func timeCuts(s string) []int {
	if i := strings.Index(s, ":/"); i >= 0 {
		s = s[:i]
	}
	cuts := []int{len(s)}
	for i := len(s) - 1; i >= 0; i-- {
		if s[i] == ':' {
			cuts = append(cuts, i)
		}
	}
	return cuts
}

// one finds what stands after "@", without a path.
func (f *finder) one(share string, list []snapshotter.Snapshot, what string) (snapshotter.Snapshot, error) {
	s, ok, err := f.named(share, list, what)
	if ok || err != nil {
		return s, err
	}
	if t, err := ParseTime(what, f.o.Now); err == nil {
		return f.notAfter(share, list, what, t)
	}
	hint := fmt.Sprintf("gateway snapshots %s lists them; times are written 2026-11-21, %q, yesterday, %q or %q", share, "2026-11-21 14:00", "yesterday 14:00", "3 hours ago")
	if digits(what) {
		return snapshotter.Snapshot{}, f.fail(ErrNotFound, hint, "%s has no snapshot %s", share, what)
	}
	if _, _, ok := viewTime(what); ok {
		return snapshotter.Snapshot{}, f.fail(ErrNotFound, hint, "%s has no snapshot %s", share, what)
	}
	return snapshotter.Snapshot{}, f.fail(ErrSyntax, hint, "%q is neither a time nor the name of a snapshot of %s", what, share)
}

// named finds "latest", a name below .snapshots and an identifier.
func (f *finder) named(share string, list []snapshotter.Snapshot, what string) (_ snapshotter.Snapshot, ok bool, err error) {
	if what == "latest" {
		return f.newest(share, list), true, nil
	}
	lineage := f.lineage(share)
	for _, s := range list {
		if s.ViewName(lineage) == what {
			return s, true, nil
		}
	}
	if t, suffix, isName := viewTime(what); isName {
		// Without the data directory nobody knows which line is the share's own.
		var same []snapshotter.Snapshot
		for _, s := range list {
			if s.Time.Truncate(time.Second).Equal(t) && s.Suffix == suffix {
				same = append(same, s)
			}
		}
		if len(same) == 1 {
			return same[0], true, nil
		}
		if len(same) > 1 {
			return snapshotter.Snapshot{}, false, f.fail(ErrAmbiguous, "write more digits of the id", "it names %s", describe(same))
		}
		return snapshotter.Snapshot{}, false, nil
	}
	byID := f.byID(list, what)
	if len(byID) == 0 {
		return snapshotter.Snapshot{}, false, nil
	}
	s, err := f.oneID(byID, what)
	return s, err == nil, err
}

// viewTime reads a name as Snapshot.ViewName makes it.
func viewTime(name string) (t time.Time, suffix int, ok bool) {
	stamp, n, hasSuffix := strings.Cut(name, "Z-")
	stamp = strings.TrimSuffix(stamp, "Z") + "Z"
	t, err := time.Parse("2006-01-02T15-04-05Z", stamp)
	if err != nil {
		return time.Time{}, 0, false
	}
	if hasSuffix {
		if len(n) == 0 || len(n) > 6 || strings.Trim(n, "0123456789") != "" {
			return t, -1, true // another lineage's
		}
		for _, c := range n {
			suffix = 10*suffix + int(c-'0')
		}
	}
	return t, suffix, true
}

// notAfter finds the newest snapshot that is not younger than t.
func (f *finder) notAfter(share string, list []snapshotter.Snapshot, what string, t time.Time) (snapshotter.Snapshot, error) {
	if own := f.own(share, list); len(own) > 0 {
		list = own
	}
	var before []snapshotter.Snapshot
	oldest := list[0].Time
	for _, s := range list {
		if s.Time.Before(oldest) {
			oldest = s.Time
		}
		if !s.Time.Truncate(time.Second).After(t) { // as listings show it
			before = append(before, s)
		}
	}
	if len(before) == 0 {
		return snapshotter.Snapshot{}, f.fail(ErrNotFound, "", "%s has no snapshot as old as %s (%s); the oldest is of %s",
			share, what, t.Format(time.RFC3339), oldest.In(f.o.Now.Location()).Format(time.RFC3339))
	}
	return f.newest(share, before), nil
}

// digits reports whether s may begin an identifier.
func digits(s string) bool {
	return len(s) >= leastDigits && len(s) <= 2*len(snapshotter.ID{}) && strings.Trim(s, "0123456789abcdefABCDEF") == ""
}

func (f *finder) byID(list []snapshotter.Snapshot, prefix string) []snapshotter.Snapshot {
	if !digits(prefix) {
		return nil
	}
	var found []snapshotter.Snapshot
	for _, s := range list {
		if strings.HasPrefix(s.ID.String(), strings.ToLower(prefix)) {
			found = append(found, s)
		}
	}
	return found
}

func (f *finder) oneID(found []snapshotter.Snapshot, prefix string) (snapshotter.Snapshot, error) {
	switch {
	case len(found) == 1:
		return found[0], nil
	case len(found) > 1:
		return snapshotter.Snapshot{}, f.fail(ErrAmbiguous, "write more digits", "it begins the ids of %s", describe(found))
	case digits(prefix):
		return snapshotter.Snapshot{}, f.fail(ErrNotFound, "gateway snapshots lists them", "no snapshot, share or source %q", prefix)
	}
	return snapshotter.Snapshot{}, f.noShare(prefix)
}

// describe names snapshots.
func describe(list []snapshotter.Snapshot) string {
	var names []string
	for i, s := range list {
		if i == shownCandidates {
			names = append(names, fmt.Sprintf("%d more", len(list)-i))
			break
		}
		names = append(names, fmt.Sprintf("%s (%s, %s)", s.ID.String()[:16], s.Share, s.Time.UTC().Format(time.RFC3339)))
	}
	return strings.Join(names, ", ")
}
