package vfs

import (
	"sync/atomic"
	"time"

	"github.com/snapgate/gateway/snapshotter"
)

// Observer is told what happens in a System, for metrics and an audit log. Its methods are
// called from many goroutines at once, by those that did it, and must return soon.
type Observer interface {
	// Done tells that something that a session asked for has ended, or was refused.
	Done(Event)
	// Committed tells that an attempt to make a snapshot of a share has ended.
	Committed(Commit)
}

// EventOp is what a session asked for.
type EventOp string

// What an Observer is told of: everything that changes a share or asks for a snapshot, and
// transfers. An upload that its client has closed is EventUpload, whether it was published
// or not; one that was cut off is EventCutOff.
const (
	EventUpload   EventOp = "upload"
	EventCutOff   EventOp = "upload cut off"
	EventDownload EventOp = "download"
	EventRemove   EventOp = "remove"
	EventRmdir    EventOp = "rmdir"
	EventRename   EventOp = "rename"
	EventMkdir    EventOp = "mkdir"
	EventSymlink  EventOp = "symlink"
	EventLink     EventOp = "link"
	EventSetAttr  EventOp = "setattr"
	EventSnapshot EventOp = "snapshot"
)

// Event is something that a session asked for.
type Event struct {
	Op    EventOp
	User  string
	From  ConnInfo
	Share string // "" when the name leads to none
	// Path is the name in the share, with symbolic links resolved, as far as it could be; To
	// is the other name of a rename or link, and the target of a symbolic link.
	Path, To string
	Snapshot string    // whose view a download is from, or that was made; 64 hexadecimal digits
	Bytes    int64     // of a published version, of a download as it was sent, of a cut off upload as it was received
	Hash     *[32]byte // BLAKE3 of a published version, nil when it is not known
	Set      AttrSet   // EventSetAttr
	Dur      time.Duration
	Close    time.Duration // of an upload: its last part, from the close to the acknowledgement
	Err      error         // an *Error, or nil
}

// Commit is an attempt to make a snapshot of a share.
type Commit struct {
	Share    string
	Snapshot snapshotter.ID // the head, with Err nil
	New      bool           // it was made now: the changes were not undone by others
	Reason   string
	Changes  int
	Users    []string
	Dur      time.Duration
	Err      error
}

// event is an Event in the making; nil when nobody observes.
type event struct {
	Event
	session *Session
	began   time.Time
}

// event begins an event about a client's path.
func (s *Session) event(op EventOp, path string) *event {
	if s.system.cfg.Observer == nil {
		return nil
	}
	e := &event{session: s, began: time.Now()}
	e.Op, e.User, e.From = op, s.principal.User, s.from
	e.Share, e.Path = s.inShare(path)
	return e
}

// inShare is the share and the name in it of a client's path, without looking at the tree.
func (s *Session) inShare(path string) (share, name string) {
	n, err := ParseName(path, s.limits)
	if err != nil {
		return "", path
	}
	for i := range s.mounts {
		if m := &s.mounts[i]; n.HasPrefix(m.At) {
			return m.Share, n.Rebase(m.At, m.Root).String()
		}
	}
	return "", n.String()
}

// at says where a path has led.
func (e *event) at(p *place) {
	if e != nil && p != nil && p.mount != nil {
		e.Share, e.Path = p.mount.Share, p.inShare()
		if p.kind == placeView {
			e.Snapshot = p.snap.ID.String()
		}
	}
}

// to says where the second path of a rename or link has led.
func (e *event) to(path string, p *place) {
	switch {
	case e == nil:
	case p != nil && p.mount != nil:
		e.To = p.inShare()
	default:
		_, e.To = e.session.inShare(path)
	}
}

// sets says which attributes are set.
func (e *event) sets(set AttrSet) {
	if e != nil {
		e.Set = set
	}
}

// done tells of the event.
func (e *event) done(err error) {
	if e != nil {
		e.Dur, e.Err = time.Since(e.began), err
		e.session.system.cfg.Observer.Done(e.Event)
	}
}

// inShare is the name of a place in its share: of what a view shows, the name in the snapshot.
func (p *place) inShare() string {
	if p.kind == placeView {
		return p.path
	}
	return p.dir.String()
}

// tellEnd tells of the end of a file.
func (f *File) tellEnd(op EventOp, began time.Time, err error) {
	e := f.event
	if e == nil || f.up != nil && !f.writer {
		return // what a session has read of its own upload is no download
	}
	e.Op, e.Bytes = op, f.moved.Load()
	if f.writer {
		if op == EventUpload && err == nil && f.version == 0 {
			return // it was opened and closed, no more
		}
		e.Path, e.Close = f.up.name().String(), time.Since(began)
		switch {
		case f.bytes != nil:
			e.Bytes, e.Hash = f.bytes.size, &f.bytes.hash
		case op == EventUpload && f.version != 0:
			e.Bytes = f.size
		}
	}
	e.done(err)
}

// traffic counts bytes of files.
type traffic struct{ in, out atomic.Int64 }

// trafficOf returns the counter of a protocol; mu is held.
func (s *System) trafficOf(protocol string) *traffic {
	t := s.traffic[protocol]
	if t == nil {
		t = &traffic{}
		s.traffic[protocol] = t
	}
	return t
}

// tell tells of an attempt to commit.
func (s *share) tell(c Commit) {
	if o := s.system.cfg.Observer; o != nil {
		c.Share = s.name
		o.Committed(c)
	}
}
