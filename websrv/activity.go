package websrv

import (
	"time"

	"github.com/snapgate/gateway/vfs"
)

// uploadsMost is how many uploads a page lists.
const uploadsMost = 100

// activity shows what goes on: jobs and their last runs, uploads under way, alarms.
func (v *viewer) activity(x *visit) error {
	defer x.limited()()
	d := struct {
		frame
		Alarms  []alarmLine
		Jobs    []jobLine
		Uploads []uploadLine
		More    int // uploads that are not listed
	}{frame: v.frame(x.login, "Activity")}
	d.Here = "activity"
	d.Alarms = x.alarms(d.Now)
	if v.cfg.Jobs != nil {
		for _, j := range v.cfg.Jobs() {
			if x.told(j.Share) {
				d.Jobs = append(d.Jobs, newJobLine(j, d.Operator, d.Now))
			}
		}
	}
	if v.cfg.Uploads != nil {
		for _, u := range v.cfg.Uploads() {
			name, ok := x.uploadName(&u)
			if !ok {
				continue
			}
			if len(d.Uploads) == uploadsMost {
				d.More++
				continue
			}
			d.Uploads = append(d.Uploads, uploadLine{
				Name: shown(name), User: shown(u.User), Protocol: u.From.Protocol, Remote: u.From.Remote, Size: size(u.Bytes),
				Label: clock(u.Started), Stamp: stamp(u.Started), Ago: ago(u.Started, d.Now), Active: ago(u.Active, d.Now),
			})
		}
	}
	return x.show("activity", d)
}

// jobLine is a job on a page.
type jobLine struct {
	Job
	Bad          bool
	Word         string // how it is
	Label, Stamp string // of the last run's end
	Ago, Took    string
	NextLabel    string
	NextStamp    string
}

// newJobLine puts a job into words. Errors may name what is the operator's alone.
func newJobLine(j Job, operator bool, now time.Time) jobLine {
	l := jobLine{Job: j, Word: j.Result, Bad: j.Result == "failed" || j.Result == "partial"}
	if j.State != "" && j.State != "idle" {
		l.Word = j.State
	} else if l.Word == "" {
		l.Word = "not run yet"
	}
	if !operator {
		if l.Error != "" {
			l.Error = "The operator of the gateway can see why."
		}
		l.Hint = ""
	}
	if !j.End.IsZero() {
		l.Label, l.Stamp, l.Ago = clock(j.End), stamp(j.End), ago(j.End, now)
		if d := j.End.Sub(j.Start); !j.Start.IsZero() && d > 0 {
			l.Took = span(d)
		}
	}
	l.NextLabel, l.NextStamp = clock(j.Next), stamp(j.Next)
	return l
}

// uploadLine is an upload that is under way.
type uploadLine struct {
	Name, User, Protocol, Remote, Size string
	Label, Stamp, Ago, Active          string
}

// uploadName is the name of an upload for who is told of it: its user, by the name that the user
// has for it, and operators. Others do not learn of it before it is complete.
func (x *visit) uploadName(u *vfs.UploadStatus) (string, bool) {
	if u.User == x.login.user {
		path, err := vfs.ParseName(u.Path, vfs.Limits{})
		for i := range x.who.Mounts {
			if m := &x.who.Mounts[i]; err == nil && m.Share == u.Share && path.HasPrefix(m.Root) {
				return path.Rebase(m.Root, m.At).String(), true
			}
		}
	}
	return u.Share + ":" + u.Path, x.v.operator(x.login.user)
}
