package websrv

import (
	"github.com/snapgate/gateway/vfs"
)

// linePage is how many snapshots a page of a time line has.
const linePage = 50

// timeline shows the snapshots of a share, the newest first.
func (v *viewer) timeline(x *visit) error {
	defer x.limited()()
	p := x.place(x.name)
	if p.mount == nil || p.name != p.mount.At {
		return &vfs.Error{Op: "snapshots", Name: x.name, Kind: vfs.KindNotExist}
	}
	r, err := x.reach(p.mount)
	if err != nil {
		return err
	}
	d := struct {
		frame
		tools
		Share string
		Days  []dayLine
		Names []snapLine // all of the page, for the form
		Count string
		First string
		Next  string
	}{frame: v.frame(x.login, "Snapshots of "+shown(p.mount.Share)), tools: x.tools(&p, true), Share: shown(p.mount.Share)}
	d.Here = "snapshots"
	if r.whole() && len(r.list) > 0 {
		d.Count = count(uint64(len(r.list)), "snapshot", "snapshots")
	}
	here := link("snapshots", p.mount.At.String())
	list := r.list
	if from := x.r.URL.Query().Get("from"); from != "" {
		d.First = here
		for i := range list {
			if r.nameOf(&list[i]) == from {
				list = list[i:]
				break
			}
		}
	}
	latest, err := r.find("")
	if err != nil && vfs.KindOf(err) != vfs.KindNotExist {
		return err
	}
	for i := range list {
		has, err := r.has(x.ctx, &list[i])
		if err != nil {
			return err
		}
		if !has {
			continue
		}
		if len(d.Names) == linePage {
			d.Next = query(here, "from", r.nameOf(&list[i]))
			break
		}
		l := r.line(&list[i], d.Now)
		l.Latest = list[i].ID == latest.ID
		d.Names = append(d.Names, l)
		day := list[i].Time.Local().Format("Monday, 2 January 2006")
		if n := len(d.Days); n == 0 || d.Days[n-1].Day != day {
			d.Days = append(d.Days, dayLine{Day: day})
		}
		n := len(d.Days) - 1
		d.Days[n].Snapshots = append(d.Days[n].Snapshots, l)
	}
	return x.show("snapshots", d)
}

// dayLine is a day of a time line.
type dayLine struct {
	Day       string
	Snapshots []snapLine
}
