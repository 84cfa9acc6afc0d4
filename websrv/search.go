package websrv

import (
	"context"
	"errors"
	"io/fs"
	"slices"
	"strings"
	"time"

	"github.com/snapgate/gateway/snapshotter"
	"github.com/snapgate/gateway/vfs"
)

const (
	// foundMost is how many names a page of a search has.
	foundMost = 500
	// throughMost is how many a page of a search through many snapshots has, which ends with a snapshot.
	throughMost = 2 * foundMost
	// foundTime is how long is searched through many snapshots before a page shows what there is, and
	// a link to go on.
	foundTime = 800 * time.Millisecond
)

// foundLine is a name that a search has found, or what happened to it.
type foundLine struct {
	entryLine
	Event string // appeared, changed, vanished; "" in a search of one snapshot
	Snap  *snapLine
}

// search finds names below a directory, in one snapshot or in what changed from each to the next.
func (v *viewer) search(x *visit) error {
	defer x.limited()()
	p := x.place(x.name)
	r, err := x.reach(p.mount)
	if err != nil {
		return err
	}
	form := x.r.URL.Query()
	d := struct {
		frame
		tools
		Pattern, Where string
		All            bool
		Action         string
		Snap           *snapLine
		Found          []foundLine
		Wrong          string
		Asked, Most    bool
		Cut            *cutLine
		Next           string
	}{
		frame: v.frame(x.login, "Find names"), tools: x.tools(&p, true), Pattern: form.Get("q"), All: form.Get("all") != "",
		Where: shown(p.live.String()), Action: link("search", p.live.String()),
	}
	d.Here, d.At = "browse", form.Get("at")
	if d.Pattern == "" {
		return x.show("search", d)
	}
	d.Asked = true
	q := snapshotter.Query{Path: r.path(p.inMount()), Entries: true}
	q.Name, err = snapshotter.MatchNames([]string{r.pattern(d.Pattern)}, form.Get("case") == "")
	if err != nil || !cheap(d.Pattern) {
		d.Wrong = "This is no pattern. A pattern is a name, in which * stands for any letters, ? for one, and {a,b} for one of several words."
		return x.show("search", d)
	}
	done, err := x.turn(v.searches)
	if err != nil {
		return err
	}
	defer done()
	s := &searching{r: r, q: q, now: d.Now}
	if d.All {
		d.Found, d.Cut, d.Next, err = s.through(form.Get("from"))
		d.Most = d.Next != ""
		if d.Next != "" {
			d.Next = query(d.Action, "q", d.Pattern, "all", "1", "case", form.Get("case"), "from", d.Next)
		}
		if err != nil {
			return err
		}
		return x.show("search", d)
	}
	snap, err := r.find(d.At)
	if err != nil {
		if vfs.KindOf(err) == vfs.KindNotExist && d.At == "" {
			return x.show("search", d) // no snapshot yet
		}
		return err
	}
	l := r.line(snap, d.Now)
	d.Snap = &l
	if d.Found, d.Most, err = s.in(snap); err != nil {
		return err
	}
	return x.show("search", d)
}

// cheap reports whether a pattern can be matched with a million names: each choice between words, and
// each ** multiplies the ways to try.
func cheap(p string) bool {
	const longest, choices, words, stars = 256, 3, 12, 3
	return len(p) <= longest && strings.Count(p, "{") <= choices && strings.Count(p, ",") <= words && strings.Count(p, "**") <= stars
}

// pattern is a pattern for paths in a view; one without a slash is for names, wherever they are.
func (r *reach) pattern(p string) string {
	if !strings.Contains(p, "/") {
		return p
	}
	if p[0] != '/' {
		p = "/" + p
	}
	if r.whole() {
		return p
	}
	return escapeGlob(r.mount.Root.String()) + p
}

// escapeGlob makes a pattern that means the name itself.
func escapeGlob(name string) string {
	var b []byte
	for i := range len(name) {
		if strings.IndexByte(`*?[]{}\`, name[i]) >= 0 {
			b = append(b, '\\')
		}
		b = append(b, name[i])
	}
	return string(b)
}

// searching is a search through the snapshots of a mount.
type searching struct {
	r   *reach
	q   snapshotter.Query
	now time.Time
}

// in searches one snapshot.
func (s *searching) in(snap *snapshotter.Snapshot) (list []foundLine, most bool, err error) {
	view, err := s.r.open(s.r.x.ctx, snap)
	if err != nil {
		return nil, false, err
	}
	err = s.all(s.r.x.ctx, view, func(f snapshotter.Found) bool {
		if most = len(list) == foundMost; !most {
			list = append(list, foundLine{entryLine: s.r.entry(snap, f.Path, &f.Entry)})
		}
		return !most
	})
	slices.SortFunc(list, func(a, b foundLine) int { return strings.Compare(a.Name, b.Name) })
	return list, most, err
}

// all calls each for what a view has. A directory that is not there has nothing.
func (s *searching) all(ctx context.Context, view *snapshotter.View, each func(snapshotter.Found) bool) error {
	for f, err := range view.Search(ctx, s.q) {
		switch {
		case errors.Is(err, fs.ErrNotExist), errors.Is(err, fs.ErrInvalid):
			return nil
		case err != nil:
			return err
		}
		if !each(f) {
			return nil
		}
	}
	return nil
}

// cutLine says that more has happened up to a snapshot than a page has.
type cutLine struct {
	Most    int
	Snap    snapLine
	Compare string // "" for the first snapshot
}

// cutAt is the cutLine of the snapshot i of a line.
func (s *searching) cutAt(line []snapshotter.Snapshot, i int) *cutLine {
	c := &cutLine{Most: throughMost, Snap: s.r.line(&line[i], s.now)}
	if i > 0 {
		where := liveName(s.r.mount, s.r.name(s.q.Path))
		c.Compare = query(link("diff", where), "from", s.r.nameOf(&line[i-1]), "to", s.r.nameOf(&line[i]))
	}
	return c
}

// through compares each snapshot with the one before, from the newest on, or from the one called
// from. A page ends behind a snapshot with which there is much, and tells of it in cut when there is
// more than it has. next is where to go on, "" at the end.
func (s *searching) through(from string) (list []foundLine, cut *cutLine, next string, err error) {
	x := s.r.x
	head, err := s.r.find(from)
	if err != nil {
		if vfs.KindOf(err) == vfs.KindNotExist && from == "" {
			err = nil
		}
		return nil, nil, "", err
	}
	began := time.Now()
	line := snapshotter.Line(s.r.list, *head)
	for i := len(line) - 1; i >= 0; i-- {
		if i < len(line)-1 && (cut != nil || len(list) >= foundMost || time.Since(began) > foundTime) {
			return list, cut, s.r.nameOf(&line[i]), nil
		}
		now, err := s.r.open(x.ctx, &line[i])
		if err != nil {
			return nil, nil, "", err
		}
		shownAs := s.r.line(&line[i], s.now)
		add := func(event, path string, e *snapshotter.Entry) (more bool) {
			if len(list) >= throughMost {
				cut = s.cutAt(line, i)
				return false
			}
			in := &line[i]
			if event == snapshotter.Vanished {
				in = &line[i-1]
			}
			list = append(list, foundLine{entryLine: s.r.entry(in, path, e), Event: event, Snap: &shownAs})
			return true
		}
		if i == 0 {
			err = s.all(x.ctx, now, func(f snapshotter.Found) bool { return add(snapshotter.Appeared, f.Path, &f.Entry) })
			return list, cut, "", err
		}
		was, err := s.r.open(x.ctx, &line[i-1])
		if err != nil {
			return nil, nil, "", err
		}
		if err := s.between(was, now, add); err != nil {
			return nil, nil, "", err
		}
	}
	return list, cut, "", nil
}

// between tells what happened between two snapshots, as long as add wants more.
func (s *searching) between(was, now *snapshotter.View, add func(string, string, *snapshotter.Entry) bool) error {
	x := s.r.x
	for d, err := range snapshotter.Diff(x.ctx, was, now, s.q.Path) {
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return nil // in neither
		case err != nil:
			return err
		}
		event, e, err := x.v.cfg.Snapshots.Event(x.ctx, &s.q, d)
		if err != nil {
			return err
		}
		if event != "" && !add(event, d.Path, e) {
			return nil
		}
	}
	return nil
}

// entry is an entry of a snapshot as a page shows it, with its path in the mount.
func (r *reach) entry(snap *snapshotter.Snapshot, path string, e *snapshotter.Entry) entryLine {
	name := r.name(path)
	inView := viewName(r.mount, r.nameOf(snap), name)
	l := entryLine{
		Name: shown(name), Kind: "file", To: link("view", inView), Time: clock(e.Attr.ModTime), Stamp: stamp(e.Attr.ModTime),
	}
	switch e.Kind {
	case snapshotter.Dir:
		l.Kind, l.To = "folder", link("browse", inView)
	case snapshotter.Symlink:
		l.Kind, l.Target = "link", shown(e.Target)
	default:
		l.Size = size(e.Size)
		if r.x.who.Perms.Has(vfs.PermRead) {
			l.Save = link("file", inView)
		}
	}
	return l
}
