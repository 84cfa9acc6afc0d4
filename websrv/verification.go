package websrv

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/snapgate/gateway/snapshotter"
	"github.com/snapgate/gateway/vfs"
)

// Verification is what is known of reading a store back.
type Verification struct {
	Store   string // its name
	Others  bool   // it is not the store that is served: for operators alone
	State   snapshotter.ScrubState
	Every   time.Duration // all is to be read within it; 0: nothing is but what is new
	Next    time.Time     // zero: by no schedule
	Running string        // what a run under way has done, "" for none
	Err     error         // why what is known could not be read; nil: it was
}

// usesMost is how many damaged names a page lists.
const usesMost = 200

// storeLine is a store on the page of the verification.
type storeLine struct {
	Title, Name string
	Known, Bad  bool   // anything is known; something is damaged, or not to be read
	Unsure      bool   // there is damage of which nobody knows whether it concerns the user, or more of it
	Failed      string // why nothing could be read of it, "" for nothing
	Share       string // of it that was read back in time, in words
	Files       string // the same in files, for operators
	New         string // what has not been read back yet
	Oldest      *moment
	Last, Next  *moment
	Began, End  *moment // of the last round through all of it
	Under       *moment // when the one began that has not ended
	Running     string
	Repaired    *moment
	Mended      string
	Damage      []damageLine
	More        int // damaged names that are not listed
	Others      bool
}

// moment is a time on a page.
type moment struct{ Label, Stamp, Ago string }

func momentOf(t, now time.Time) *moment {
	if t.IsZero() {
		return nil
	}
	return &moment{clock(t), stamp(t), ago(t, now)}
}

// damageLine is a damaged file of a store. File, Text and Repair are for operators alone.
type damageLine struct {
	Kind, File, Text, Repair string
	Found                    *moment
	Uses                     []useLine
	Unused                   bool // nothing needs it
}

// useLine is what needs a damaged file.
type useLine struct {
	Name, To, Versions string
	What, Size         string
	Snapshots          string
	First, Last        *snapLine
}

// verification shows how far the stores were read back, and what is damaged. Users are told of what
// they see; how large the store is, how its files are called and what others have is for operators.
func (v *viewer) verification(x *visit) error {
	defer x.limited()()
	d := struct {
		frame
		Stores []storeLine
	}{frame: v.frame(x.login, "Verification")}
	d.Here = "verification"
	u := uses{x: x, operator: d.Operator, now: d.Now}
	if err := u.findMounts(); err != nil {
		return err
	}
	for _, known := range v.verified(d.Operator) {
		d.Stores = append(d.Stores, u.store(&known))
	}
	return x.show("verification", d)
}

// verified lists the stores that are shown.
func (v *viewer) verified(operator bool) (list []Verification) {
	if v.cfg.Verification == nil {
		return nil
	}
	for _, known := range v.cfg.Verification(operator) {
		if !known.Others || operator {
			list = append(list, known)
		}
	}
	return list
}

// verifiedLine says in a line how far the stores were read back, and whether there is damage that the
// user is told of.
func (x *visit) verifiedLine(now time.Time) (text string, bad bool, err error) {
	u := uses{x: x, operator: x.v.operator(x.login.user), now: now}
	list := x.v.verified(u.operator)
	damage := 0
	for i := range list {
		damage += len(list[i].State.Damage)
	}
	if damage > 0 { // seldom: it needs a look at the lists of snapshots
		if err := u.findMounts(); away(err) {
			return unsureText, true, nil
		} else if err != nil {
			return "", false, err
		}
	}
	for i := range list {
		l := u.store(&list[i])
		switch {
		case l.Failed != "":
			return "what is known of " + strings.ToLower(l.Title[:1]) + l.Title[1:] + " could not be read", true, nil
		case l.Bad && u.operator:
			return "something is damaged in " + strings.ToLower(l.Title[:1]) + l.Title[1:], true, nil
		case l.Bad:
			return "something that concerns your files is damaged", true, nil
		case l.Unsure:
			return unsureText, true, nil
		case text == "" && !l.Known:
			text = "nothing was read back yet"
		case text == "":
			text = l.Share
		}
	}
	return text, false, nil
}

// unsureText is told when nobody knows whom damage concerns.
const unsureText = "there is damage in the store; whether it concerns your files is not known"

// inTime says how much of a store was read back in time.
func inTime(known *Verification) string {
	st := &known.State
	if st.Files == 0 {
		return "nothing is stored yet"
	}
	part := st.Fresh * 100 / st.Files // rounded down: 100 % is all
	if known.Every <= 0 {
		return fmt.Sprintf("%d %%", part)
	}
	return fmt.Sprintf("%d %% in the last %s", part, span(known.Every))
}

// uses finds out what of the damage somebody is told.
type uses struct {
	x        *visit
	operator bool
	now      time.Time
	reaches  []*reach // of the mounts through whose snapshots the user may look
	listed   int
}

func (u *uses) findMounts() error {
	if !u.x.who.Perms.Has(vfs.PermList | vfs.PermHistory) {
		return nil
	}
	for i := range u.x.who.Mounts {
		r, err := u.x.reach(&u.x.who.Mounts[i])
		if err != nil && !u.operator {
			return err // rather than say that nothing concerns somebody
		}
		if err != nil {
			continue // operators are told by the names of the shares
		}
		u.reaches = append(u.reaches, r)
	}
	return nil
}

func (u *uses) store(known *Verification) storeLine {
	st := &known.State
	l := storeLine{
		Title: "The store", Name: shown(known.Store), Others: known.Others, Known: st.Store != "", Share: inTime(known),
		Oldest: momentOf(st.Oldest, u.now), Last: momentOf(st.Last, u.now), Next: momentOf(known.Next, u.now),
		Began: momentOf(st.Began, u.now), End: momentOf(st.Whole, u.now), Under: momentOf(st.All, u.now),
	}
	if known.Others {
		l.Title = "Store " + shown(known.Store)
	}
	switch {
	case st.Unread > 0 && u.operator:
		l.New = count(uint64(st.Unread), "file is", "files are") + " new"
	case st.Unread > 0:
		l.New = "some of it is new"
	}
	if u.operator {
		l.Files = fmt.Sprintf("%d of %s", st.Fresh, count(uint64(st.Files), "file", "files"))
		l.Running = known.Running
		if l.Repaired = momentOf(st.Repaired, u.now); l.Repaired != nil {
			l.Mended = count(uint64(st.RepairedFiles), "file", "files")
		}
	}
	for i := range st.Damage {
		if line, told := u.damage(&st.Damage[i], &l); told {
			l.Damage = append(l.Damage, line)
		}
	}
	if u.operator {
		l.More += st.More
		if known.Err != nil {
			l.Failed = shown(known.Err.Error())
		}
	} else {
		l.Unsure = u.unsure(st)
	}
	l.Bad = len(l.Damage) > 0 || l.More > 0 || l.Failed != ""
	return l
}

// unsure reports whether there is damage that may concern the user and that it is told nothing of: of
// some it is not known what needs it, or not all is listed, or the user may not look through snapshots.
func (u *uses) unsure(st *snapshotter.ScrubState) bool {
	for i := range st.Damage {
		d := &st.Damage[i]
		unknown := len(d.Uses) == 0 && !unused(d) || slices.ContainsFunc(d.Uses, func(use snapshotter.Use) bool { return use.Share == "" })
		if unknown || d.More > 0 || len(u.reaches) == 0 {
			return true
		}
	}
	return st.More > 0
}

// unused reports whether nothing needs what is damaged.
func unused(d *snapshotter.Damage) bool {
	return d.Blobs == 0 && len(d.Uses) == 0 && d.Kind == snapshotter.DamagedPackfile
}

// damage tells of a damaged file; false when the user is told nothing of it.
func (u *uses) damage(d *snapshotter.Damage, l *storeLine) (line damageLine, told bool) {
	line = damageLine{Found: momentOf(d.Found, u.now), Unused: unused(d)}
	if u.operator {
		line.Kind, line.File, line.Text, line.Repair = d.Kind, shown(d.File), shown(d.Text), shown(d.Repair)
		l.More += d.More
	}
	for i := range d.Uses {
		use, ok := u.use(&d.Uses[i])
		switch {
		case !ok, use.What == "" && slices.ContainsFunc(line.Uses, func(o useLine) bool { return o.What == "" }): // once is enough
		case u.listed == usesMost:
			l.More++
		default:
			u.listed++
			line.Uses = append(line.Uses, use)
		}
	}
	return line, u.operator || len(line.Uses) > 0
}

// use tells what needs a damaged file, by the name that the user has for it.
func (u *uses) use(d *snapshotter.Use) (useLine, bool) {
	l := useLine{What: d.What, Snapshots: count(uint64(d.Snapshots), "snapshot", "snapshots")}
	for _, r := range u.reaches {
		if r.mount.Share == d.Share && r.concerns(d, &l, u.now) {
			return l, true
		}
	}
	l.Name = shown(d.Share)
	if d.Path != "" {
		l.Name += ":" + shown(d.Path)
	}
	l.First, l.Last = plainLine(d.FirstTime), plainLine(d.LastTime)
	if d.Last == d.First {
		l.Last = nil
	}
	return l, u.operator
}

func plainLine(t time.Time) *snapLine { return &snapLine{Label: clock(t), Stamp: stamp(t)} }

// concerns says what damage means to the user of a mount; false when it is none of its business. Of
// what is above the root of the mount it is told that it leads to its files, and nothing else.
func (r *reach) concerns(d *snapshotter.Use, l *useLine, now time.Time) bool {
	path, err := vfs.ParseName("/"+strings.TrimPrefix(d.Path, "/"), vfs.Limits{})
	switch {
	case err != nil:
		return false
	case !r.whole() && (d.Path == "" || r.mount.Root != path && r.mount.Root.HasPrefix(path)):
		l.Name, l.What, l.Snapshots = "what leads to your files", "", "some snapshots"
		return true
	case !path.HasPrefix(r.mount.Root):
		return false
	}
	name := r.name(path.String())
	l.Name = shown(liveName(r.mount, name))
	if d.Path == "" {
		l.Name = "snapshots of " + shown(r.mount.Share)
	} else if d.What == "content" {
		l.Size, l.Versions = size(d.Size), link("history", liveName(r.mount, name))
	}
	for i := range r.list {
		s := &r.list[i]
		line := r.line(s, now)
		if s.ID == d.First {
			l.First = &line
		}
		if s.ID == d.Last {
			if l.First == nil || s.ID != d.First {
				l.Last = &line
			}
			if d.Path != "" {
				l.To = link("browse", viewName(r.mount, r.nameOf(s), strings.TrimSuffix(name[:strings.LastIndexByte(name, '/')+1], "/")))
			}
		}
	}
	return true
}
