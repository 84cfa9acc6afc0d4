package websrv

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/snapgate/gateway/snapshotter"
	"github.com/snapgate/gateway/vfs"
)

// shareLine is a mount of a user, or for an operator a share that it has not mounted.
type shareLine struct {
	Name      string // as the user sees it
	Share     string
	Kind      string // share or source
	Browse    string
	Timeline  string
	Last      *snapLine // nil: none, or not to be told
	Count     string
	NoneYet   bool
	Waiting   string // what is in no snapshot yet
	Trouble   []string
	Operators bool // it is not mounted
}

// overview shows the shares of the user, and how they are.
func (v *viewer) overview(x *visit) error {
	defer x.limited()()
	d := struct {
		frame
		Shares  []shareLine
		Alarms  []alarmLine
		Trouble []string
		// Verified says how much of the store was read back, Damaged that it concerns the user; "": nothing is told.
		Verified string
		Damaged  bool
	}{frame: v.frame(x.login, "Overview")}
	d.Here = "overview"
	st := v.cfg.Status()
	byName := map[string]*vfs.ShareStatus{}
	for i := range st.Shares {
		byName[st.Shares[i].Name] = &st.Shares[i]
	}
	mounted := map[string]bool{}
	for i := range x.who.Mounts {
		m := &x.who.Mounts[i]
		mounted[m.Share] = true
		l, err := x.mountLine(m, byName[m.Share], d.Now)
		if err != nil {
			return err
		}
		d.Shares = append(d.Shares, l)
	}
	if d.Operator {
		for i := range st.Shares {
			if s := &st.Shares[i]; !mounted[s.Name] {
				d.Shares = append(d.Shares, v.operatorLine(s, d.Now))
			}
		}
	}
	d.Alarms = x.alarms(d.Now)
	var err error
	if d.Verified, d.Damaged, err = x.verifiedLine(d.Now); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(x.ctx, HealthTimeout)
	defer cancel()
	_, d.Trouble = v.ready(ctx)
	return x.show("overview", d)
}

// mountLine tells how a mount is. Of a part of a share, what is about all of it is left out.
func (x *visit) mountLine(m *vfs.Mount, st *vfs.ShareStatus, now time.Time) (shareLine, error) {
	l := shareLine{Name: shown(m.At.Base()), Share: shown(m.Share), Kind: "share", Browse: link("browse", m.At.String())}
	if m.At.IsRoot() {
		l.Name = shown(m.Share)
	}
	if st != nil {
		if st.Source {
			l.Kind = "source"
		}
		l.Trouble = x.v.trouble(st, x.v.operator(x.login.user), now)
		if m.Root.IsRoot() && x.who.Perms.Has(vfs.PermList) {
			l.Waiting = waiting(st, now)
		}
	}
	if !x.who.Perms.Has(vfs.PermList | vfs.PermHistory) {
		return l, nil
	}
	l.Timeline = link("snapshots", m.At.String())
	err := x.lastLine(m, &l, now)
	if away(err) { // what else is known is told
		l.Trouble = append(l.Trouble, "the store cannot be reached; which snapshots there are is not known")
		err = nil
	}
	return l, err
}

// away reports whether an error is that the store cannot be asked.
func away(err error) bool {
	return errors.Is(err, snapshotter.ErrUnavailable) || vfs.KindOf(err) == vfs.KindUnavailable
}

// lastLine tells of the newest snapshot of a mount.
func (x *visit) lastLine(m *vfs.Mount, l *shareLine, now time.Time) error {
	r, err := x.reach(m)
	if err != nil {
		return err
	}
	// Snapshots that do not have the mount's root are not its user's.
	for i := range r.list[:min(len(r.list), lookBack)] {
		has, err := r.has(x.ctx, &r.list[i])
		if err != nil {
			return err
		}
		if has {
			s := r.line(&r.list[i], now)
			l.Last = &s
			break
		}
	}
	l.NoneYet = l.Last == nil
	if r.whole() && !l.NoneYet {
		l.Count = count(uint64(len(r.list)), "snapshot", "snapshots")
	}
	return nil
}

// lookBack is how many snapshots are looked at to find one with a directory.
const lookBack = 50

// operatorLine tells how a share is that the operator has not mounted.
func (v *viewer) operatorLine(st *vfs.ShareStatus, now time.Time) shareLine {
	l := shareLine{Name: shown(st.Name), Share: shown(st.Name), Kind: "share", Operators: true, Trouble: v.trouble(st, true, now), Waiting: waiting(st, now)}
	if st.Source {
		l.Kind = "source"
	}
	if l.NoneYet = st.HeadTime.IsZero(); !l.NoneYet {
		l.Last = &snapLine{Label: clock(st.HeadTime), Stamp: stamp(st.HeadTime), Ago: ago(st.HeadTime, now)}
	}
	return l
}

// trouble says what is wrong with a share. Why, is for operators: it may name what users do not see.
func (v *viewer) trouble(st *vfs.ShareStatus, operator bool, now time.Time) (list []string) {
	add := func(err error, format string, args ...any) {
		if err == nil {
			return
		}
		text := fmt.Sprintf(format, args...)
		if operator {
			text += ": " + err.Error()
		}
		list = append(list, text)
	}
	add(st.JournalError, "changes are refused, as the journal cannot be written")
	add(st.CommitError, "no snapshot could be made since %s; what was uploaded is kept", ago(st.FailingSince, now))
	add(st.SourceError, "the newest snapshot cannot be shown")
	return list
}

func waiting(st *vfs.ShareStatus, now time.Time) string {
	if st.Changes == 0 {
		return ""
	}
	text := count(uint64(st.Changes), "change", "changes") + " in no snapshot yet"
	if !st.Oldest.IsZero() {
		text += ", since " + ago(st.Oldest, now)
	}
	return text
}

// alarmLine is an alarm on a page.
type alarmLine struct {
	Alarm
	Label, Stamp, Ago string
}

// alarms lists the alarms that the user is told of.
func (x *visit) alarms(now time.Time) (list []alarmLine) {
	if x.v.cfg.Alarms == nil {
		return nil
	}
	for _, a := range x.v.cfg.Alarms() {
		if x.told(a.Share) {
			if !x.v.operator(x.login.user) {
				a.Why, a.Hint = "", ""
			}
			list = append(list, alarmLine{Alarm: a, Label: clock(a.Since), Stamp: stamp(a.Since), Ago: ago(a.Since, now)})
		}
	}
	return list
}

// told reports whether the user is told what goes on in a share: an operator of all, others of what
// they see all of. "" is no share.
func (x *visit) told(share string) bool {
	if x.v.operator(x.login.user) {
		return true
	}
	if share == "" || !x.who.Perms.Has(vfs.PermList|vfs.PermHistory) {
		return false
	}
	for i := range x.who.Mounts {
		if m := &x.who.Mounts[i]; m.Share == share && m.Root.IsRoot() {
			return true
		}
	}
	return false
}
