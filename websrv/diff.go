package websrv

import (
	"bytes"
	"errors"
	"io/fs"
	"strings"

	"github.com/rogpeppe/go-internal/diff"

	"github.com/snapgate/gateway/snapshotter"
	"github.com/snapgate/gateway/vfs"
)

const (
	diffMost  = 500     // differences on a page
	diffLines = 20_000  // of both versions: each becomes a line of the page
	diffText  = 1 << 20 // bytes of a file of which the lines are compared: both versions are in memory
)

// diffLine is a difference between two snapshots.
type diffLine struct {
	entryLine
	Change string // added, removed, changed, attributes
	Was    string // the size before
	Lines  string // where its lines are compared
}

// textLine is a line of a text that differs.
type textLine struct{ Class, Text string }

// diff shows what differs between two snapshots at a name, and below it.
func (v *viewer) diff(x *visit) error {
	defer x.limited()()
	p := x.place(x.name)
	r, err := x.reach(p.mount)
	if err != nil {
		return err
	}
	d := struct {
		frame
		tools
		Action   string
		Where    string
		Names    []snapLine
		From, To string
		FromSnap *snapLine
		ToSnap   *snapLine
		Changes  []diffLine
		Text     []textLine
		NoText   string
		Most     bool
	}{frame: v.frame(x.login, "Compare snapshots"), tools: x.tools(&p, true), Action: link("diff", p.live.String()), Where: shown(p.live.String())}
	d.Here = "browse"
	form := x.r.URL.Query()
	d.From, d.To = form.Get("from"), form.Get("to")
	if d.Names, err = r.choices(d.From, d.To, d.frame); err != nil {
		return err
	}
	if d.To == "" || d.From == "" {
		return x.show("diff", d)
	}
	done, err := x.turn(v.searches)
	if err != nil {
		return err
	}
	defer done()
	var snaps [2]*snapshotter.Snapshot
	var views [2]*snapshotter.View
	for i, name := range []string{d.From, d.To} {
		if snaps[i], err = r.find(name); err != nil {
			return err
		}
		if views[i], err = r.open(x.ctx, snaps[i]); err != nil {
			return err
		}
	}
	from, to := r.line(snaps[0], d.Now), r.line(snaps[1], d.Now)
	d.FromSnap, d.ToSnap = &from, &to
	isFile := false
	for diff, err := range snapshotter.Diff(x.ctx, views[0], views[1], r.path(p.inMount())) {
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return &vfs.Error{Op: "compare", Name: x.name, Kind: vfs.KindNotExist}
		case err != nil:
			return err
		}
		if d.Most = len(d.Changes) == diffMost; d.Most {
			break
		}
		l, err := r.difference(diff, snaps)
		if err != nil {
			return err
		}
		if l.Change == "" {
			continue
		}
		isFile = isFile || diff.Path == r.path(p.inMount()) && l.Kind == "file"
		l.Lines = query(link("diff", liveName(r.mount, r.name(diff.Path))), "from", r.nameOf(snaps[0]), "to", r.nameOf(snaps[1]))
		d.Changes = append(d.Changes, l)
	}
	switch {
	case isFile && !x.who.Perms.Has(vfs.PermRead):
		d.NoText = "You may not read files."
	case isFile:
		if d.Text, d.NoText, err = r.lines(p.inMount(), snaps); err != nil {
			return err
		}
	}
	return x.show("diff", d)
}

// choices are the snapshots to choose from: the newest, and those that are chosen.
func (r *reach) choices(from, to string, f frame) ([]snapLine, error) {
	var list []snapLine
	for i := range r.list {
		name := r.nameOf(&r.list[i])
		if len(list) >= linePage && name != from && name != to {
			continue
		}
		has, err := r.has(r.x.ctx, &r.list[i])
		if err != nil {
			return nil, err
		}
		if has {
			list = append(list, r.line(&r.list[i], f.Now))
		}
	}
	return list, nil
}

// difference is a difference as a page shows it.
func (r *reach) difference(d snapshotter.Difference, snaps [2]*snapshotter.Snapshot) (l diffLine, err error) {
	if l.Change, err = r.x.v.cfg.Snapshots.Amounts(r.x.ctx, d); err != nil || l.Change == "" {
		return l, err
	}
	e, snap := d.Now, snaps[1]
	if e == nil {
		e, snap = d.Was, snaps[0]
	}
	l.entryLine = r.entry(snap, d.Path, e)
	if l.Change == snapshotter.Changed && d.Was.Kind == snapshotter.File {
		l.Was = size(d.Was.Size)
	}
	return l, nil
}

// lines compares the lines of a text, in the contents that the session gives; or says why not.
func (r *reach) lines(name string, snaps [2]*snapshotter.Snapshot) (list []textLine, why string, err error) {
	var texts [2][]byte
	for i, s := range snaps {
		file := viewName(r.mount, r.nameOf(s), name)
		info, err := r.x.sess.Lstat(r.x.ctx, file)
		switch {
		case err != nil && vfs.KindOf(err) == vfs.KindNotExist:
			continue
		case err != nil:
			return nil, "", err
		case info.Type != vfs.TypeFile:
			continue
		case info.Size > diffText:
			return nil, "It is too large to compare its lines.", nil
		}
		if texts[i], err = r.x.head(file, diffText); err != nil {
			return nil, "", err
		}
		if !isText(texts[i]) {
			return nil, "It is not a text.", nil
		}
	}
	if bytes.Equal(texts[0], texts[1]) {
		return nil, "", nil
	}
	if bytes.Count(texts[0], []byte("\n"))+bytes.Count(texts[1], []byte("\n")) > diffLines {
		return nil, "It has too many lines to compare.", nil
	}
	out := string(diff.Diff("was", texts[0], "now", texts[1]))
	for i, line := range strings.Split(strings.TrimSuffix(out, "\n"), "\n") {
		if i < 3 { // the command, and the two names
			continue
		}
		class := ""
		switch {
		case strings.HasPrefix(line, "+"):
			class = "plus"
		case strings.HasPrefix(line, "-"):
			class = "minus"
		case strings.HasPrefix(line, "@"):
			class = "at"
		}
		list = append(list, textLine{class, shownText(line)})
	}
	return list, "", nil
}
