package vfs

import (
	"container/list"
	"sync"
	"time"
)

// action is something that a principal does to a name.
type action uint8

const (
	actStat action = iota
	actList
	actRead
	actCreate
	actOverwrite
	actMkdir
	actRemove
	actRename
	actReplace
	actSetattr
	actTruncate
	actSymlink
	actLink
	actReadlink
	actHistory
	actSnapshot
)

// rule is a row of the access table.
type rule struct {
	needs Perm
	// own is what suffices instead for a file that the principal uploaded itself a short
	// while ago, 0 when nothing does: clients set times, check sizes and rename after an
	// upload, and an upload-only principal must be able to.
	own Perm
}

// rule is the access table, the only place that says which permissions an action needs.
//
//	stat       list        or create, of an own upload
//	list       list
//	read       read        also hashing and copying from
//	create     create      a free name
//	overwrite  overwrite   truncate, append to or write into a complete file
//	mkdir      mkdir
//	remove     delete      files, links, empty directories
//	rename     rename      to a free name; or create, of an own upload
//	replace    overwrite   what a rename over an existing name needs besides rename
//	setattr    setattr     or create, of an own upload
//	truncate   overwrite   set the size of a complete file
//	symlink    link, create
//	link       link, create, read: the copy can be read
//	readlink   list
//	history    history     enter .snapshots
//	snapshot   snapshot
func (a action) rule() rule {
	switch a {
	case actStat:
		return rule{needs: PermList, own: PermCreate}
	case actList, actReadlink:
		return rule{needs: PermList}
	case actRead:
		return rule{needs: PermRead}
	case actCreate:
		return rule{needs: PermCreate}
	case actOverwrite, actReplace, actTruncate:
		return rule{needs: PermOverwrite}
	case actMkdir:
		return rule{needs: PermMkdir}
	case actRemove:
		return rule{needs: PermDelete}
	case actRename:
		return rule{needs: PermRename, own: PermCreate}
	case actSetattr:
		return rule{needs: PermSetattr, own: PermCreate}
	case actSymlink:
		return rule{needs: PermLink | PermCreate}
	case actLink:
		return rule{needs: PermLink | PermCreate | PermRead}
	case actHistory:
		return rule{needs: PermHistory}
	case actSnapshot:
		return rule{needs: PermSnapshot}
	}
	return rule{needs: ^Perm(0)}
}

// allows reports whether p permits an action on a name; own says that what is there is
// the principal's own recent upload.
func (p Perm) allows(a action, own bool) bool {
	r := a.rule()
	return p.Has(r.needs) || own && r.own != 0 && p.Has(r.own)
}

const (
	// ownWindow is how long an upload stays its principal's own in other sessions.
	ownWindow = 10 * time.Minute
	// ownMax bounds the remembered uploads of a share, about 150 bytes each; the oldest
	// are forgotten first.
	ownMax = 65536
)

// creations remembers who made which version, so that what a principal has just uploaded
// is its own. Safe for concurrent use; its mutex is a leaf.
type creations struct {
	mu    sync.Mutex               // guards all
	byVer map[uint64]*list.Element // of creation
	order *list.List               // oldest first
}

type creation struct {
	version uint64
	user    string
	session uint64
	at      time.Time
	// owed are the bytes when the upload's acknowledgement failed although the version stays.
	owed *fingerprint
}

// fingerprint tells contents apart.
type fingerprint struct {
	size int64
	hash [32]byte
}

func newCreations() *creations {
	return &creations{byVer: map[uint64]*list.Element{}, order: list.New()}
}

// add notes that a session made a version.
func (c *creations) add(version uint64, user string, session uint64, now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e, ok := c.byVer[version]; ok {
		c.order.Remove(e)
	}
	c.byVer[version] = c.order.PushBack(&creation{version: version, user: user, session: session, at: now})
	for c.order.Len() > ownMax {
		c.forget(c.order.Front())
	}
}

// recall is add for an operation found in the journal: what a principal has uploaded
// shortly before a restart is still its own, in any session.
func (c *creations) recall(o *op, now time.Time) {
	if o.version == 0 || o.user == "" || now.Sub(o.time).Abs() >= ownWindow {
		return
	}
	c.add(o.version, o.user, 0, o.time)
}

// since is when the session that made a version was told so; born, when it was accepted, if that is not known.
func (c *creations) since(version uint64, born time.Time) time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e, ok := c.byVer[version]; ok {
		return e.Value.(*creation).at
	}
	return born
}

func (c *creations) forget(e *list.Element) {
	delete(c.byVer, e.Value.(*creation).version)
	c.order.Remove(e)
}

// owe notes the bytes of a version whose upload could not be acknowledged: its client will
// send them again. nil says that it was acknowledged after all.
func (c *creations) owe(version uint64, bytes *fingerprint) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e, ok := c.byVer[version]; ok {
		e.Value.(*creation).owed = bytes
	}
}

// owed returns what owe has noted, nil for nothing.
func (c *creations) owed(version uint64) *fingerprint {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e, ok := c.byVer[version]; ok {
		return e.Value.(*creation).owed
	}
	return nil
}

// own reports whether a version was made by this session, or within ownWindow by another
// one of the same user.
func (c *creations) own(version uint64, user string, session uint64, now time.Time) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	e, ok := c.byVer[version]
	if !ok {
		return false
	}
	m := e.Value.(*creation)
	return m.user == user && (m.session == session || now.Sub(m.at) < ownWindow)
}
